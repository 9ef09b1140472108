//! What is asked of Slurm's own programs: `sbatch` and `squeue`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use super::SlurmError;

/// A task of an array job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskId {
    /// Number of the job.
    pub(super) job: u64,
    /// Number of the task in it.
    pub(super) task: u64,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It waits, also for being started again.
    Waiting,
    /// It runs, or is about to begin or end.
    Running,
    /// Someone took it out of the queue.
    Cancelled,
    /// It ended, well or not: what it left tells.
    Ended,
}

/// Hands a script to Slurm; the job's number.
///
/// # Errors
/// If Slurm is not there or refuses.
pub(super) fn submit(script: &Path) -> Result<u64, SlurmError> {
    let answer = ask("sbatch", &["--parsable"], Some(script))?;
    // On a federation the cluster's name follows, after a semicolon.
    let number = answer.trim().split(';').next().and_then(|number| number.parse().ok());
    number.ok_or(SlurmError::Answer { program: "sbatch", answer })
}

/// Where the tasks of these jobs stand. A task that ended a while ago is not listed.
///
/// # Errors
/// If Slurm is not there or does not answer.
pub(super) fn states(jobs: &[u64]) -> Result<BTreeMap<TaskId, State>, SlurmError> {
    let mut states = BTreeMap::new();
    // One by one: of several jobs, one that Slurm has forgotten makes it refuse all.
    for job in jobs {
        match ask(
            "squeue",
            &["--noheader", "--array", "--states=all", "--format=%F %K %T", "--jobs", &job.to_string()],
            None,
        ) {
            Ok(answer) => states.extend(answer.lines().filter_map(parse)),
            Err(SlurmError::Refused { words, .. }) if words.contains("Invalid job id") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(states)
}

/// A line of `squeue`: job, task, state.
fn parse(line: &str) -> Option<(TaskId, State)> {
    let mut words = line.split_whitespace();
    let id = TaskId { job: words.next()?.parse().ok()?, task: words.next()?.parse().ok()? };
    let state = match words.next()? {
        "PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => State::Waiting,
        "RUNNING" | "CONFIGURING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "STAGE_OUT" | "RESIZING" => {
            State::Running
        }
        "CANCELLED" => State::Cancelled,
        _ => State::Ended,
    };
    Some((id, state))
}

fn ask(program: &'static str, arguments: &[&str], script: Option<&Path>) -> Result<String, SlurmError> {
    let output = Command::new(program).args(arguments).args(script).output().map_err(|cause| match cause.kind() {
        ErrorKind::NotFound => SlurmError::NoSlurm(program),
        _ => SlurmError::Start { program, cause },
    })?;
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false if words.is_empty() => Err(SlurmError::Refused { program, words: output.status.to_string() }),
        false => Err(SlurmError::Refused { program, words }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_queue_are_read_and_other_lines_passed_over() {
        let id = TaskId { job: 17, task: 3 };
        for (line, state) in [
            ("17 3 PENDING", State::Waiting),
            ("17 3 RUNNING", State::Running),
            ("17 3 CANCELLED", State::Cancelled),
            ("17 3 PREEMPTED", State::Ended),
            ("17 3 NODE_FAIL", State::Ended),
            ("17 3 COMPLETED", State::Ended),
        ] {
            assert_eq!(parse(line), Some((id, state)), "{line}");
        }
        assert_eq!(parse("17 N/A RUNNING"), None);
        assert_eq!(parse(""), None);
    }
}
