//! What this process holds, and what the machine has left, as far as the system tells.

use std::fs;
use std::path::Path;

/// Bytes that this process holds now.
pub(crate) fn resident_bytes() -> Option<u64> {
    of_file("/proc/self/status", "VmRSS:")
}

/// The most bytes that this process has held since it began, or since [`restart_peak`].
pub(crate) fn peak_bytes() -> Option<u64> {
    of_file("/proc/self/status", "VmHWM:")
}

/// Measures the peak from here on; where the system does not let us, it stays that of the whole process.
pub(crate) fn restart_peak() {
    // 5 resets the peak alone (Linux, Documentation/filesystems/proc.rst).
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Bytes that this process may still take up before the machine swaps or a limit of its control group is met.
pub(crate) fn available_bytes() -> Option<u64> {
    let machine = of_file("/proc/meminfo", "MemAvailable:");
    machine.into_iter().chain(left_of_group()).min()
}

/// What the control group (version 2) of this process has left, if it has a limit.
fn left_of_group() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new("/sys/fs/cgroup").join(path);
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

/// The number of kibibytes behind a key, as bytes.
fn of_file(path: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_holds_what_is_let_go_of_and_starts_anew() {
        const SIZE: usize = 256 << 20;
        let held = vec![1_u8; SIZE];
        assert!(held.iter().step_by(4096).all(|byte| *byte == 1));
        drop(held);
        assert!(peak_bytes().unwrap() > SIZE as u64);
        assert!(resident_bytes() <= peak_bytes());
        assert!(available_bytes().unwrap() > 0);
    }
}
