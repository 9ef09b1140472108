//! One file, many runs: what is planned, and one of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::draft::blame;
use super::error::ConfigError;
use super::plan::Plan;
use super::schema::{RunConfig, SweepConfig};
use super::slurm::SlurmConfig;
use super::source::{Places, brief};

/// A run file, read and checked: every run that it plans.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file.
    pub path: PathBuf,
    /// Its sweep, as written; empty if it has none.
    pub sweep: SweepConfig,
    /// What it asks of Slurm.
    pub slurm: SlurmConfig,
    runs: Vec<PlannedRun>,
}

/// One run of a sweep, fully resolved.
#[derive(Clone, Debug)]
pub struct PlannedRun {
    /// What to run.
    pub config: RunConfig,
    /// What the sweep varies (grid, zip and list): dotted key → value in `config`.
    pub axes: BTreeMap<String, Value>,
    /// `config.hash()`.
    pub hash: String,
    pub(super) places: Places,
}

impl Loaded {
    pub(super) fn new(path: PathBuf, plan: &Plan, slurm: SlurmConfig, runs: Vec<PlannedRun>) -> Self {
        Self { path, sweep: plan.as_written(), slurm, runs }
    }

    /// The planned runs: cases in the file's order, within a case the points of the list, within these those of the zipped
    /// axes, within these the grid of axes (the last key fastest), within a point the seeds. Runs that come out equal are
    /// one run.
    pub fn runs(&self) -> &[PlannedRun] {
        &self.runs
    }

    /// As [`runs`](Self::runs), by value.
    pub fn expand(self) -> Vec<PlannedRun> {
        self.runs
    }

    /// The one run of that case, on that seed (which the sweep need not list).
    ///
    /// # Errors
    /// [`ConfigError::Selection`] if there is no such case, or several runs are left; the message lists the choices.
    pub fn select(&self, case: Option<&str>, seed: Option<u64>) -> Result<PlannedRun, ConfigError> {
        let fits = |run: &&PlannedRun| case.is_none_or(|case| run.config.case == case);
        let mut runs: Vec<PlannedRun> = self.runs.iter().filter(fits).cloned().collect();
        if let Some(seed) = seed {
            for run in &mut runs {
                run.config.seed = seed;
                run.hash = run.config.hash();
            }
            merge_equal(&mut runs);
        }
        if runs.len() == 1 {
            return Ok(runs.remove(0));
        }
        let path = self.path.display();
        Err(ConfigError::Selection(match case {
            Some(case) if runs.is_empty() => {
                let cases = choice("--case ", &self.runs, |run| run.config.case.clone());
                format!("{path} has no case `{case}`{cases}")
            }
            _ => {
                let left = runs.len();
                let choices = choices(&runs);
                format!("{path} plans {left} runs; choose one, or run them all with `heddle sweep`{choices}")
            }
        }))
    }
}

/// The options that tell runs apart, a line each.
fn choices(runs: &[PlannedRun]) -> String {
    let mut choices = choice("--case ", runs, |run| run.config.case.clone());
    choices += &choice("--seed ", runs, |run| run.config.seed.to_string());
    for key in runs.first().into_iter().flat_map(|run| run.axes.keys()) {
        choices += &choice(&format!("--set {key}="), runs, |run| run.axes.get(key).map(brief).unwrap_or_default());
    }
    choices
}

/// An option and its values among the runs; nothing if they all have the same.
fn choice(option: &str, runs: &[PlannedRun], of: impl Fn(&PlannedRun) -> String) -> String {
    let mut values: Vec<String> = Vec::new();
    for value in runs.iter().map(of) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    if values.len() > 1 { format!("\n = {option}{}", values.join("|")) } else { String::new() }
}

impl PlannedRun {
    /// An error about a setting found after loading, drawn where it was written: `key` is dotted, with `[i]` for an
    /// element, as in `model.layers[1]`.
    pub fn blame(&self, key: &str, problem: &str) -> ConfigError {
        blame(&self.places, key, problem)
    }
}

pub(super) fn merge_equal(runs: &mut Vec<PlannedRun>) {
    let mut seen = std::collections::BTreeSet::new();
    runs.retain(|run| seen.insert(run.hash.clone()));
}
