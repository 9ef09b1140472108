//! Run files: TOML laid over the full defaults, every key and value checked, every error drawn on its line.
//!
//! ```text
//! defaults ← preset ← files that it extends ← file ← [sweep.case.NAME] ← point of the sweep ← one of sweep.seeds ← --set
//! ```
//!
//! A later layer wins. Tables merge key by key; anything else is replaced. The tables `task`, `model.mixer.NAME` and
//! `model.channel.NAME` have a `kind`, which decides their keys and defaults; a layer that names another kind starts
//! from that kind's defaults. A new `model.mixer.NAME` without a `kind` is of the kind that is called `NAME`.
//!
//! The table `slurm` says what a sweep asks of a cluster ([`SlurmConfig`]); it is a part of no run either.
//! A point of the sweep is one of `[[sweep.list]]`, with one of the zipped axes `[sweep.zip]`, with one of the grid
//! `[sweep.axes]`; whichever of the three there are. No two of them may vary the same setting.
//!
//! `extends = "base.toml"` (a path relative to the file, or a list of them) names run files that this one is laid over, their
//! sweeps included. It stands for what they say, so the resolved config and its hash know nothing of it.
//!
//! `model.preset` names a published model ([`heddle_hybrid::PRESETS`]) that everything else is laid over, wherever it is
//! written; of several the last counts. It stands for the keys that it sets, so the resolved config holds those instead.

mod bases;
mod draft;
mod error;
mod identity;
mod json_schema;
mod kinds;
mod overlay;
mod plan;
mod preset;
mod range;
mod schema;
mod slurm;
mod source;
mod sweep;
#[cfg(test)]
mod tests;
mod texts;

use std::path::Path;

pub use error::{ConfigError, Problem};
pub use json_schema::json_schema;
pub use kinds::{Complaint, KindDefaults, Kinds, KnownKey, known_keys};
pub use range::OutOfRange;
pub use schema::{DecayForm, EvalConfig, Rule, RunConfig, Schedule, Stage, SweepConfig, TrainConfig};
pub use slurm::SlurmConfig;
pub use sweep::{Loaded, PlannedRun};
pub(crate) use texts::Texts;

/// Reads a run file and lays it, and then each override (`key=value`, as given to `--set`), over the defaults.
///
/// # Errors
/// If the file cannot be read, and for the first setting that is unknown, of the wrong type or out of its range.
pub fn load(path: &Path, overrides: &[String], kinds: &Kinds<'_>) -> Result<Loaded, ConfigError> {
    let text = bases::read(path)?;
    load_text(path, &text, overrides, kinds)
}

/// As [`load`], for the text of a file that is at hand; `path` names it in messages, and is where the paths of `extends`
/// start.
///
/// ```
/// use std::{collections::BTreeMap, path::Path};
/// use experiments::config::{Kinds, load_text};
/// use serde_json::json;
///
/// let tasks = BTreeMap::from([("mqar".to_owned(), json!({"pairs": 8, "power": 0.01}))]);
/// let none = BTreeMap::new();
/// let kinds = Kinds { tasks: &tasks, mixers: &none, channels: &none };
/// let text = "train.lr = 0.001\n[task]\npears = 4\n";
///
/// let error = load_text(Path::new("run.toml"), text, &[], &kinds).unwrap_err();
/// assert!(error.to_string().contains("did you mean `task.pairs`?"));
/// ```
///
/// # Errors
/// As [`load`].
pub fn load_text(path: &Path, text: &str, overrides: &[String], kinds: &Kinds<'_>) -> Result<Loaded, ConfigError> {
    let mut files = bases::layers(path, text)?;
    let mut above = Vec::new();
    for argument in overrides {
        source::merge(&mut above, source::parse_override(argument)?);
    }
    // These are not a part of any run: they are taken out here, and what overrides say of them is laid over them alone.
    let mut of_all = |name| {
        let mut found = Vec::new();
        for layer in files.iter_mut().chain([&mut above]) {
            source::merge(&mut found, source::take(layer, name).into_iter().collect());
        }
        found.pop()
    };
    let plan = plan::Plan::parse(of_all("sweep"))?;
    let slurm = SlurmConfig::parse(of_all("slurm"))?;
    let runs = plan.expand(kinds, files, &above)?;
    Ok(Loaded::new(path.to_owned(), &plan, slurm, runs))
}
