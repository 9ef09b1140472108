//! Following a sweep's tasks to their end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use indicatif::ProgressBar;

use super::queue::{self, State, TaskId};
use super::{ARRAY, Place, SlurmError, Submission, Until, Waiting};
use crate::progress;
use crate::run::{failure, finished};
use crate::sweep::{runs_in_words, steps_taken};

/// How often the queue is asked at first, and at last if nothing changes: a controller serves many users.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// Times in a row that the queue may not answer: some ten minutes.
const UNANSWERED: usize = 24;

/// Times that a run may end with nothing to show and no step further than before.
const LOST: usize = 3;

/// Looks at a run's directory after its task is gone: files of another node may take a moment to be seen.
const LOOKS: usize = 3;

/// A run and the task that it is given to.
struct Followed<'a> {
    run: &'a Waiting<'a>,
    task: TaskId,
    log: PathBuf,
    /// Looks since its task was seen last.
    looks: usize,
    /// Ends with nothing to show since it last came further.
    lost: usize,
    /// Steps at its last such end.
    steps: u64,
}

/// Submits what no job of an earlier sweep is working on, and follows all of it.
pub(super) fn follow(
    place: &Place<'_>,
    waiting: &[Waiting<'_>],
    until: Until,
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<(PathBuf, String)>, SlurmError> {
    let (mut open, fresh) = adopt(place, waiting)?;
    for job in jobs(&open) {
        let runs = open.iter().filter(|run| run.task.job == job).count();
        tell(&format!("Job {job} is at work on {}", runs_in_words(runs)));
    }
    open.extend(submit(place, &fresh, tell)?);
    let mut failed = vec![];
    if until == Until::Submitted {
        return Ok(failed);
    }
    let total = open.iter().map(|run| run.run.planned.config.train.steps).sum();
    let bar = progress::bar(total, true);
    let (mut pause, mut unanswered, mut before) = (PAUSES[0], 0, BTreeMap::new());
    while !open.is_empty() {
        sleep(pause);
        let states = match queue::states(&jobs(&open)) {
            Ok(states) => states,
            Err(error) if unanswered >= UNANSWERED => return Err(SlurmError::Lost(Box::new(error))),
            Err(_) => {
                unanswered += 1;
                pause = (2 * pause).min(PAUSES[1]);
                continue;
            }
        };
        unanswered = 0;
        open = look(place, open, &states, &mut |line| bar.suspend(|| tell(line)), &mut failed)?;
        draw(&bar, total, &open, &states);
        pause = if states == before { (2 * pause).min(PAUSES[1]) } else { PAUSES[0] };
        before = states;
    }
    bar.finish_and_clear();
    Ok(failed)
}

/// The runs that tasks of earlier submissions still wait for or work on, and the others.
fn adopt<'a>(
    place: &Place<'_>,
    waiting: &'a [Waiting<'a>],
) -> Result<(Vec<Followed<'a>>, Vec<&'a Waiting<'a>>), SlurmError> {
    let submissions = place.submissions();
    let jobs: Vec<u64> = submissions.iter().map(|(_, submission)| submission.job).collect();
    let states = queue::states(&jobs)?;
    let (mut adopted, mut fresh) = (vec![], vec![]);
    for run in waiting {
        let tasks = submissions.iter().flat_map(|(folder, submission)| {
            let of_run = submission.runs.iter().enumerate().filter(|(_, hash)| **hash == run.planned.hash);
            of_run.map(move |(i, _)| (folder, TaskId { job: submission.job, task: i as u64 }))
        });
        let alive = |id: &TaskId| matches!(states.get(id), Some(State::Waiting | State::Running));
        match { tasks }.find(|(_, id)| alive(id)) {
            Some((folder, task)) => adopted.push(Followed::new(run, task, folder)),
            None => fresh.push(run),
        }
    }
    Ok((adopted, fresh))
}

fn submit<'a>(
    place: &Place<'_>,
    runs: &[&'a Waiting<'a>],
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<Followed<'a>>, SlurmError> {
    let mut followed = vec![];
    for runs in runs.chunks(ARRAY) {
        let (folder, Submission { job, .. }) = place.submit(runs)?;
        tell(&format!(
            "Submitted job {job} of {}; its script and logs: {}",
            runs_in_words(runs.len()),
            folder.display()
        ));
        let tasks = runs.iter().enumerate();
        followed.extend(tasks.map(|(i, run)| Followed::new(run, TaskId { job, task: i as u64 }, &folder)));
    }
    Ok(followed)
}

fn jobs(open: &[Followed<'_>]) -> Vec<u64> {
    let mut jobs: Vec<u64> = open.iter().map(|run| run.task.job).collect();
    jobs.sort_unstable();
    jobs.dedup();
    jobs
}

/// Takes out the runs that have ended, submits again those that ended for nothing, and returns what is left open.
fn look<'a>(
    place: &Place<'_>,
    open: Vec<Followed<'a>>,
    states: &BTreeMap<TaskId, State>,
    tell: &mut dyn FnMut(&str),
    failed: &mut Vec<(PathBuf, String)>,
) -> Result<Vec<Followed<'a>>, SlurmError> {
    let (mut left, mut again) = (vec![], vec![]);
    for mut run in open {
        match run.outcome(states)? {
            Outcome::Open => left.push(run),
            Outcome::Finished => {}
            Outcome::Lost => again.push(run),
            Outcome::Failed(reason) => failed.push((run.run.directory.clone(), reason)),
        }
    }
    let runs: Vec<&Waiting<'_>> = again.iter().map(|run| run.run).collect();
    for run in &runs {
        tell(&format!("It ended with nothing to show and is submitted again: {}", run.directory.display()));
    }
    let fresh = submit(place, &runs, tell)?;
    left.extend(again.iter().zip(fresh).map(|(old, new)| Followed { lost: old.lost, steps: old.steps, ..new }));
    Ok(left)
}

enum Outcome {
    Open,
    Finished,
    Failed(String),
    /// Its task is gone and left neither a result nor a reason.
    Lost,
}

impl<'a> Followed<'a> {
    fn new(run: &'a Waiting<'a>, task: TaskId, folder: &Path) -> Self {
        let log = folder.join(format!("log-{}.txt", task.task));
        Self { run, task, log, looks: 0, lost: 0, steps: 0 }
    }

    fn outcome(&mut self, states: &BTreeMap<TaskId, State>) -> Result<Outcome, SlurmError> {
        // The task's state was asked for before this look: a result that is written between the two is not missed.
        if finished(&self.run.directory)?.is_some() {
            return Ok(Outcome::Finished);
        }
        match states.get(&self.task) {
            Some(State::Waiting | State::Running) => {
                self.looks = 0;
                return Ok(Outcome::Open);
            }
            Some(State::Cancelled) => return Ok(self.cancelled()),
            Some(State::Ended) | None => self.looks += 1,
        }
        if let Some(reason) = failure(&self.run.directory) {
            return Ok(Outcome::Failed(reason));
        }
        if self.looks < LOOKS {
            return Ok(Outcome::Open);
        }
        if !states.contains_key(&self.task) && !self.log.exists() {
            // A task that is cancelled while it waits leaves the queue without a trace.
            return Ok(self.cancelled());
        }
        let steps = steps_taken(&self.run.directory).unwrap_or(0);
        self.lost = if steps > self.steps { 1 } else { self.lost + 1 };
        self.steps = steps;
        Ok(if self.lost < LOST { Outcome::Lost } else { Outcome::Failed(self.last_words()) })
    }

    fn cancelled(&self) -> Outcome {
        let TaskId { job, task } = self.task;
        Outcome::Failed(format!("task {job}_{task} was cancelled; the same command takes it up again"))
    }

    /// What its log ends with.
    fn last_words(&self) -> String {
        let log = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let said = log.rfind("error: ").map(|at| log[at + 7..].trim()).filter(|said| !said.is_empty());
        let said = said.or_else(|| log.lines().rfind(|line| !line.trim().is_empty()));
        let said = said.map(|said| format!(": {said}")).unwrap_or_default();
        format!("it ended {LOST} times without coming further{said} (log: {})", self.log.display())
    }
}

fn draw(bar: &ProgressBar, total: u64, open: &[Followed<'_>], states: &BTreeMap<TaskId, State>) {
    if bar.is_hidden() {
        return;
    }
    let to_do: u64 = open.iter().map(|run| run.run.planned.config.train.steps).sum();
    let done: u64 = open.iter().map(|run| steps_taken(&run.run.directory).unwrap_or(0)).sum();
    bar.set_position((total + done).saturating_sub(to_do));
    let running = open.iter().filter(|run| states.get(&run.task) == Some(&State::Running)).count();
    bar.set_message(format!("{running} running, {} waiting", open.len() - running));
}
