//! Many runs: a queue of local processes, one a run.
//!
//! Each run is the program itself, started on the run's resolved config. A run that crashes, diverges or is killed
//! takes nothing else with it. The next sweep passes over what is finished, takes up what was interrupted at its last
//! checkpoint, and leaves what failed (it would fail again) unless it is asked to retry.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::config::PlannedRun;
use crate::files::FileError;
use crate::interrupt::{INTERRUPTED, Interrupt};
use crate::progress;
use crate::result::Metric;
use crate::run::{axes_to_json, directory, failure, finished, note_failure, set_up};

/// How a sweep is executed.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// The directory that runs go to, as `out/NAME/HASH`.
    pub out: PathBuf,
    /// Runs at a time; the cores are shared out evenly among them.
    pub jobs: usize,
    /// Whether progress may be drawn.
    pub progress: bool,
    /// Whether runs that failed before are tried again.
    pub retry: bool,
    /// Asks for a stop: the runs end behind the step that each is taking.
    pub interrupt: Interrupt,
}

/// What became of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// Directories of the finished runs, in the order planned.
    pub finished: Vec<PathBuf>,
    /// How many of them had been finished before.
    pub skipped: usize,
    /// Directories of the runs that failed, and why: first those that had failed before and were left alone.
    pub failed: Vec<(PathBuf, String)>,
    /// How many of them had failed before and were left alone.
    pub left_failed: usize,
    /// Whether it was asked to stop before it was through.
    pub interrupted: bool,
}

/// What is left to do of a plan.
#[derive(Debug, Default)]
pub struct Agenda<'a> {
    /// Runs to execute, new or interrupted, with their directories.
    pub due: VecDeque<(&'a PlannedRun, PathBuf)>,
    /// How many are finished.
    pub finished: usize,
    /// Directories of the runs that failed before and are left alone, and why they failed.
    pub failed: Vec<(PathBuf, String)>,
}

impl<'a> Agenda<'a> {
    /// Sorts planned runs by what stands in their directories below `out`; with `retry`, those that failed are due too.
    ///
    /// # Errors
    /// If there is a result that cannot be read.
    pub fn new(planned: &'a [PlannedRun], out: &Path, retry: bool) -> Result<Self, FileError> {
        let mut agenda = Self::default();
        for run in planned {
            let directory = directory(out, run);
            match (finished(&directory)?, failure(&directory)) {
                (Some(_), _) => agenda.finished += 1,
                (None, Some(reason)) if !retry => agenda.failed.push((directory, reason)),
                (None, _) => agenda.due.push_back((run, directory)),
            }
        }
        Ok(agenda)
    }
}

/// How often the queue looks after its processes.
const POLL: Duration = Duration::from_millis(50);

/// How often it reads how far they are.
const DRAW: Duration = Duration::from_millis(500);

/// Executes every planned run that is due (see [`Agenda`]).
///
/// # Errors
/// If a directory cannot be used or no process can be started. A run that fails is no error but in [`Swept::failed`].
pub fn sweep(planned: &[PlannedRun], options: &SweepOptions) -> Result<Swept, FileError> {
    let Agenda { due: mut waiting, finished: skipped, failed } = Agenda::new(planned, &options.out, options.retry)?;
    let mut swept = Swept { skipped, left_failed: failed.len(), failed, ..Swept::default() };
    let mut display = Display::new(&waiting, options.progress);
    let mut running: Vec<Job> = vec![];
    while !(waiting.is_empty() && running.is_empty()) {
        if options.interrupt.requested() {
            // What ends by itself meanwhile is finished all the same.
            waiting.clear();
            running.iter_mut().for_each(Job::let_go);
        }
        while running.len() < options.jobs.max(1)
            && let Some((run, directory)) = waiting.pop_front()
        {
            running.push(Job::start(run, directory, options)?);
        }
        let mut i = 0;
        while i < running.len() {
            match running[i].poll()? {
                None => i += 1,
                Some(outcome) => {
                    let job = running.swap_remove(i);
                    display.ended(&job);
                    if let Outcome::Failed(reason) = outcome {
                        display.bar.println(format!("failed: {}: {reason}", job.directory.display()));
                        swept.failed.push((job.directory, reason));
                    }
                }
            }
        }
        display.draw(&mut running, waiting.len(), swept.failed.len() - swept.left_failed);
        sleep(POLL);
    }
    display.bar.finish_and_clear();
    swept.finished = finished_runs(planned, &options.out);
    swept.interrupted = options.interrupt.requested() && swept.finished.len() + swept.failed.len() < planned.len();
    Ok(swept)
}

/// Directories of the runs that are finished, in the order planned.
pub(crate) fn finished_runs(planned: &[PlannedRun], out: &Path) -> Vec<PathBuf> {
    planned.iter().map(|run| directory(out, run)).filter(|run| run.join("result.json").exists()).collect()
}

/// So many runs, in words.
pub(crate) fn runs_in_words(count: usize) -> String {
    format!("{count} {}", if count == 1 { "run" } else { "runs" })
}

/// One bar for all runs, over the steps that are left to take.
struct Display {
    bar: ProgressBar,
    runs: usize,
    ended: usize,
    /// Steps of the runs that ended.
    steps: u64,
    drawn: Option<Instant>,
}

impl Display {
    fn new(waiting: &VecDeque<(&PlannedRun, PathBuf)>, visible: bool) -> Self {
        let steps = waiting.iter().map(|(run, _)| run.config.train.steps).sum();
        Self { bar: progress::bar(steps, visible), runs: waiting.len(), ended: 0, steps: 0, drawn: None }
    }

    /// A run that stops early leaves fewer steps to take, it has not taken them: the time left is reckoned by the pace.
    fn ended(&mut self, job: &Job) {
        self.ended += 1;
        let taken = steps_taken(&job.directory).unwrap_or(job.seen).min(job.steps);
        self.steps += taken;
        self.bar.set_length(self.bar.length().unwrap_or(0).saturating_sub(job.steps - taken));
    }

    fn draw(&mut self, running: &mut [Job], waiting: usize, failed: usize) {
        if self.bar.is_hidden() || self.drawn.is_some_and(|drawn| drawn.elapsed() < DRAW) {
            return;
        }
        running.iter_mut().for_each(|job| job.seen = steps_taken(&job.directory).unwrap_or(job.seen).max(job.seen));
        self.bar.set_position(self.steps + running.iter().map(|job| job.seen).sum::<u64>());
        if self.drawn.is_none() {
            // Steps of an earlier sweep were not taken at this one's pace.
            self.bar.reset_eta();
        }
        self.drawn = Some(Instant::now());
        let names: Vec<&str> = running.iter().map(|job| job.label.as_str()).collect();
        let failed = if failed > 0 { format!(" · {failed} failed") } else { String::new() };
        let runs = format!("{} of {} runs ended", self.ended, self.runs);
        self.bar.set_message(format!("steps · {runs} · {} · {waiting} waiting{failed}", names.join(", ")));
    }
}

/// What became of a run.
enum Outcome {
    Finished,
    Interrupted,
    Failed(String),
}

/// A run in a process of its own.
struct Job {
    child: Child,
    directory: PathBuf,
    label: String,
    steps: u64,
    /// Steps that its records were seen to show.
    seen: u64,
    complaint: Option<JoinHandle<String>>,
}

impl Job {
    fn start(run: &PlannedRun, directory: PathBuf, options: &SweepOptions) -> Result<Self, FileError> {
        let config = set_up(run, &directory)?;
        let program = std::env::current_exe().map_err(FileError::of("find", Path::new("this program")))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / options.jobs.max(1)).max(1);
        let mut command = Command::new(&program);
        command.arg("run").arg(&config).arg("--out").arg(&options.out).args([
            "--axes",
            &axes_to_json(&run.axes),
            "--leashed",
        ]);
        // The pool of a process reads this once, at its start; results do not depend on it.
        if std::env::var_os("RAYON_NUM_THREADS").is_none() {
            command.env("RAYON_NUM_THREADS", threads.to_string());
        }
        // The open standard input is the leash: it closes when this process ends, however it ends.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(FileError::of("start", &program))?;
        let complaint = child.stderr.take().map(|mut stderr| {
            spawn(move || {
                let mut text = String::new();
                let _ = stderr.read_to_string(&mut text);
                text
            })
        });
        let config = &run.config;
        let label =
            format!("{} seed {}", if config.case.is_empty() { &config.name } else { &config.case }, config.seed);
        Ok(Self { child, directory, label, steps: config.train.steps, seen: 0, complaint })
    }

    /// Closes the leash: the run ends behind the step that it is taking.
    fn let_go(&mut self) {
        drop(self.child.stdin.take());
    }

    /// `None` while it runs; then what became of it, with its last words if it failed.
    fn poll(&mut self) -> Result<Option<Outcome>, FileError> {
        /// What a program that panics ends with.
        const BROKE_DOWN: i32 = 101;
        let Some(status) = self.child.try_wait().map_err(FileError::of("watch", &self.directory))? else {
            return Ok(None);
        };
        let words = self.complaint.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(Some(Outcome::Finished));
        }
        if status.code() == Some(INTERRUPTED.into()) {
            return Ok(Some(Outcome::Interrupted));
        }
        let reason = match words.trim() {
            "" => format!("it ended with {status}"),
            words => words.trim_start_matches("error: ").to_owned(),
        };
        if status.code() == Some(BROKE_DOWN) {
            note_failure(&self.directory, &reason);
        }
        Ok(Some(Outcome::Failed(reason)))
    }
}

/// Steps that the records of a run show.
pub(crate) fn steps_taken(directory: &Path) -> Option<u64> {
    let last = last_line(&directory.join("metrics.jsonl")).ok()?;
    serde_json::from_str::<Metric>(&last).ok().map(|metric| metric.step())
}

/// The last whole line of a file that others may be writing to.
fn last_line(path: &Path) -> io::Result<String> {
    /// No row is longer.
    const TAIL: u64 = 1 << 16;
    let mut file = File::open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = vec![];
    file.take(TAIL).read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    let whole = tail.rsplit_once('\n').map_or("", |(whole, _)| whole);
    Ok(whole.rsplit('\n').next().unwrap_or_default().to_owned())
}
