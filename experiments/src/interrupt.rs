//! The wish to stop: Ctrl-C, or whoever holds the leash.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a process that was asked to stop and did: 128 + SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// A wish to stop, shared by those who may utter it and those who heed it.
///
/// ```
/// use experiments::interrupt::Interrupt;
///
/// let interrupt = Interrupt::default();
/// let heeded = interrupt.clone();
/// assert!(!heeded.requested());
/// interrupt.request();
/// assert!(heeded.requested());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Asks for a stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop is asked for.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes the first SIGINT or SIGTERM of this process as the wish to stop, and calls `told`; the second ends the process
    /// at once.
    ///
    /// # Errors
    /// If the system lets no signal be handled.
    #[cfg(unix)]
    pub fn on_signals(&self, told: impl FnOnce() + Send + 'static) -> io::Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let interrupt = self.clone();
        std::thread::spawn(move || {
            let mut signals = signals.forever();
            if signals.next().is_some() {
                interrupt.request();
                told();
            }
            if signals.next().is_some() {
                std::process::exit(INTERRUPTED.into());
            }
        });
        Ok(())
    }

    /// Without signals there is nothing to hear: Ctrl-C ends the process, and the last checkpoint stands.
    ///
    /// # Errors
    /// None.
    #[cfg(not(unix))]
    pub fn on_signals(&self, _told: impl FnOnce() + Send + 'static) -> io::Result<()> {
        Ok(())
    }

    /// Takes the end of standard input as the wish to stop: it closes when the process that holds its other end lets go of
    /// it, or ends.
    pub fn on_closed_input(&self) {
        let interrupt = self.clone();
        std::thread::spawn(move || {
            let _ = io::stdin().read_to_end(&mut vec![]);
            interrupt.request();
        });
    }
}
