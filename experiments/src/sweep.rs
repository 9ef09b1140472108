//! Many runs: a queue of local processes, one a run.
//!
//! Each run is the program itself, started on the run's resolved config. A run that crashes, diverges or is killed
//! takes nothing else with it, and the next sweep takes it up at its last checkpoint.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use indicatif::ProgressBar;

use crate::config::PlannedRun;
use crate::files::{FileError, create_dir, write_atomic};
use crate::progress;
use crate::result::Metric;
use crate::run::{axes_to_json, directory, finished};

/// How a sweep is executed.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// The directory that runs go to, as `out/NAME/HASH`.
    pub out: PathBuf,
    /// Runs at a time; the cores are shared out evenly among them.
    pub jobs: usize,
    /// Whether progress may be drawn.
    pub progress: bool,
}

/// What became of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// Directories of the finished runs, in the order planned.
    pub finished: Vec<PathBuf>,
    /// How many of them had been finished before.
    pub skipped: usize,
    /// Directories of the runs that failed, and why.
    pub failed: Vec<(PathBuf, String)>,
}

/// How often the queue looks after its processes.
const POLL: Duration = Duration::from_millis(50);

/// Executes every planned run that is not finished yet.
///
/// # Errors
/// If a directory cannot be used or no process can be started. A run that fails is no error but in [`Swept::failed`].
pub fn sweep(planned: &[PlannedRun], options: &SweepOptions) -> Result<Swept, FileError> {
    let mut waiting = VecDeque::new();
    let mut swept = Swept::default();
    for run in planned {
        let directory = directory(&options.out, run);
        match finished(&directory)? {
            Some(_) => swept.skipped += 1,
            None => waiting.push_back((run, directory)),
        }
    }
    let steps = planned.iter().map(|run| run.config.train.steps).sum();
    let bar = progress::bar(steps, options.progress);
    let mut running: Vec<Job> = vec![];
    let mut done_steps: u64 = planned.iter().map(|run| run.config.train.steps).sum::<u64>()
        - waiting.iter().map(|(run, _)| run.config.train.steps).sum::<u64>();
    while !(waiting.is_empty() && running.is_empty()) {
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
                    done_steps += job.steps;
                    if let Err(reason) = outcome {
                        bar.println(format!("failed: {}: {reason}", job.directory.display()));
                        swept.failed.push((job.directory, reason));
                    }
                }
            }
        }
        draw(&bar, done_steps, &running, waiting.len());
        sleep(POLL);
    }
    bar.finish_and_clear();
    swept.finished =
        planned.iter().map(|run| directory(&options.out, run)).filter(|run| run.join("result.json").exists()).collect();
    Ok(swept)
}

fn draw(bar: &ProgressBar, done_steps: u64, running: &[Job], waiting: usize) {
    if bar.is_hidden() {
        return;
    }
    let steps = running.iter().map(Job::steps_taken).sum::<u64>();
    bar.set_position(done_steps + steps);
    let names: Vec<&str> = running.iter().map(|job| job.label.as_str()).collect();
    bar.set_message(format!("{} · {waiting} waiting", names.join(", ")));
}

/// A run in a process of its own.
struct Job {
    child: Child,
    directory: PathBuf,
    label: String,
    steps: u64,
    complaint: Option<JoinHandle<String>>,
}

impl Job {
    fn start(run: &PlannedRun, directory: PathBuf, options: &SweepOptions) -> Result<Self, FileError> {
        create_dir(&directory)?;
        let config = directory.join("config.toml");
        write_atomic(&config, run.config.to_toml().as_bytes())?;
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
        Ok(Self { child, directory, label, steps: config.train.steps, complaint })
    }

    /// `None` while it runs; then whether it finished, with its last words if not.
    fn poll(&mut self) -> Result<Option<Result<(), String>>, FileError> {
        let Some(status) = self.child.try_wait().map_err(FileError::of("watch", &self.directory))? else {
            return Ok(None);
        };
        let words = self.complaint.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        Ok(Some(match status.success() {
            true => Ok(()),
            false if words.trim().is_empty() => Err(format!("it ended with {status}")),
            false => Err(words.trim().trim_start_matches("error: ").to_owned()),
        }))
    }

    /// Steps that its records show.
    fn steps_taken(&self) -> u64 {
        let last = last_line(&self.directory.join("metrics.jsonl"));
        last.and_then(|line| serde_json::from_str(&line).ok()).map_or(0, |metric: Metric| metric.step())
    }
}

fn last_line(path: &Path) -> Option<String> {
    BufReader::new(fs::File::open(path).ok()?).lines().map_while(Result::ok).last()
}
