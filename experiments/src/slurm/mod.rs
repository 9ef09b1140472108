//! Sweeps larger than a machine: array jobs for Slurm, which shares out the nodes.
//!
//! A submission is a script, a table of runs and one log for each of them, in `out/NAME/slurm/N/`. Each task of the array is
//! `heddle run` on one run's config, as it would be started by hand; what it found lies in the run's directory, which all
//! nodes must share. The sweep follows its tasks, submits again those that ended with nothing to show for it (a lost node, a
//! time limit, a kill), and compares the runs at the end. It may be stopped at any time: the jobs go on, and the same
//! command follows them again.

mod follow;
mod queue;
mod script;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{PlannedRun, SlurmConfig};
use crate::files::{FileError, create_dir, remove_if_there, write_atomic};
use crate::run::{FAILURE, set_up};
use crate::sweep::{Agenda, Swept, finished_runs, runs_in_words};
use script::{Array, TABLE};

/// Runs of one array job at most: what Slurm's `MaxArraySize` allows unless it is raised.
const ARRAY: usize = 1000;

/// Why a sweep could not be handed to Slurm, or not be followed.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Slurm's programs are not there.
    #[error(
        "`{0}` is not on this machine, so there is no Slurm to submit to; run on the cluster's login node, write the job \
         files only with `--no-submit`, or run here with `--launcher local`"
    )]
    NoSlurm(&'static str),
    /// One of Slurm's programs could not be started.
    #[error("cannot start `{program}`: {cause}")]
    Start {
        /// The program.
        program: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// Slurm refused.
    #[error("`{program}` refused: {words}; what is asked for stands in the config's table `[slurm]`")]
    Refused {
        /// The program.
        program: &'static str,
        /// What it said.
        words: String,
    },
    /// Slurm's answer makes no sense.
    #[error("`{program}` answered {answer:?}, which is no number of a job")]
    Answer {
        /// The program.
        program: &'static str,
        /// What it printed.
        answer: String,
    },
    /// A path that no script can hold.
    #[error("{} cannot be written in a job script; rename it to a path of printable UTF-8", .0.display())]
    Path(PathBuf),
    /// Slurm stopped answering.
    #[error("lost sight of Slurm: {0}; the jobs go on, and the same command follows them again")]
    Lost(Box<SlurmError>),
}

/// How far a sweep on Slurm is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The job files are written.
    Written,
    /// The jobs are submitted.
    Submitted,
    /// All runs are finished or failed.
    Finished,
}

/// How a sweep on Slurm is executed.
#[derive(Clone, Debug)]
pub struct SlurmOptions {
    /// The directory that runs go to, as `out/NAME/HASH`; all nodes must share it.
    pub out: PathBuf,
    /// Whether runs that failed before are tried again.
    pub retry: bool,
    /// How far it is taken.
    pub until: Until,
}

/// A run that is due.
#[derive(Clone, Debug)]
pub(crate) struct Waiting<'a> {
    planned: &'a PlannedRun,
    directory: PathBuf,
}

/// An array job, as it is kept beside its script.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Submission {
    job: u64,
    /// The runs' hashes, in the order of the tasks.
    runs: Vec<String>,
}

/// Name of the file that keeps a [`Submission`].
const SUBMISSION: &str = "job.json";

/// Name of the script.
const SCRIPT: &str = "job.sbatch";

/// Executes every planned run that is due (see [`Agenda`]) on the nodes of a cluster. `tell` gets a line for all that happens.
///
/// # Errors
/// If a file cannot be written, or Slurm is not there or refuses. A run that fails is no error but in [`Swept::failed`].
pub fn sweep(
    planned: &[PlannedRun],
    asked: &SlurmConfig,
    options: &SlurmOptions,
    tell: &mut dyn FnMut(&str),
) -> Result<Swept, SlurmError> {
    let out = std::path::absolute(&options.out).map_err(FileError::of("find", &options.out))?;
    let Agenda { due, finished, failed } = Agenda::new(planned, &out, options.retry)?;
    let mut swept = Swept { skipped: finished, left_failed: failed.len(), failed, ..Swept::default() };
    let waiting: Vec<Waiting<'_>> =
        due.into_iter().map(|(planned, directory)| Waiting { planned, directory }).collect();
    if let Some(first) = waiting.first() {
        let place = Place { name: &first.planned.config.name, out: &out, asked };
        if options.until == Until::Written {
            for runs in waiting.iter().collect::<Vec<_>>().chunks(ARRAY) {
                let script = place.write(runs)?.join(SCRIPT);
                tell(&format!("Job script of {}: {}", runs_in_words(runs.len()), script.display()));
            }
        } else {
            swept.failed.extend(follow::follow(&place, &waiting, options.until, tell)?);
        }
    }
    swept.finished = finished_runs(planned, &out);
    Ok(swept)
}

/// Where a sweep's jobs are kept, and what they ask for.
struct Place<'a> {
    name: &'a str,
    out: &'a Path,
    asked: &'a SlurmConfig,
}

impl Place<'_> {
    fn folder(&self) -> PathBuf {
        self.out.join(self.name).join("slurm")
    }

    /// Writes the script of an array job over these runs, and returns the directory of the submission.
    fn write(&self, runs: &[&Waiting<'_>]) -> Result<PathBuf, SlurmError> {
        for run in runs {
            set_up(run.planned, &run.directory)?;
            // The reason of an earlier failure is not that of the next.
            remove_if_there(&run.directory.join(FAILURE))?;
        }
        let folder = self.fresh_folder()?;
        let program = std::env::current_exe().map_err(FileError::of("find", Path::new("this program")))?;
        let array = Array {
            name: self.name,
            program: &program,
            out: self.out,
            folder: &folder,
            asked: self.asked,
            runs: runs.len(),
        };
        write_atomic(&folder.join(TABLE), script::table(runs)?.as_bytes())?;
        write_atomic(&folder.join(SCRIPT), script::script(&array)?.as_bytes())?;
        Ok(folder)
    }

    /// A directory for the next submission: `slurm/1`, `slurm/2`, …
    fn fresh_folder(&self) -> Result<PathBuf, FileError> {
        let above = self.folder();
        create_dir(&above)?;
        let mut number = 1;
        loop {
            let folder = above.join(number.to_string());
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                made => return made.map(|()| folder.clone()).map_err(FileError::of("create the directory", &folder)),
            }
        }
    }

    /// Submits an array job over these runs; also its directory.
    fn submit(&self, runs: &[&Waiting<'_>]) -> Result<(PathBuf, Submission), SlurmError> {
        let folder = self.write(runs)?;
        let job = queue::submit(&folder.join(SCRIPT))?;
        let submission = Submission { job, runs: runs.iter().map(|run| run.planned.hash.clone()).collect() };
        let text = serde_json::to_vec(&submission).expect("plain data serialises");
        write_atomic(&folder.join(SUBMISSION), &text)?;
        Ok((folder, submission))
    }

    /// All array jobs that were submitted so far, with their directories. One whose file is damaged counts as never
    /// submitted.
    fn submissions(&self) -> Vec<(PathBuf, Submission)> {
        let folders = fs::read_dir(self.folder()).into_iter().flatten().flatten().map(|entry| entry.path());
        let read = |folder: PathBuf| {
            let submission = serde_json::from_slice(&fs::read(folder.join(SUBMISSION)).ok()?).ok()?;
            Some((folder, submission))
        };
        folders.filter_map(read).collect()
    }
}
