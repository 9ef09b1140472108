//! Run files: TOML laid over the full defaults, every key and value checked, every error drawn on its line.
//!
//! ```text
//! defaults ← preset ← file ← [sweep.case.NAME] ← point of [sweep.axes] ← one of sweep.seeds ← --set
//! ```
//!
//! A later layer wins. Tables merge key by key; anything else is replaced. The tables `task`, `model.mixer.NAME` and
//! `model.channel.NAME` have a `kind`, which decides their keys and defaults; a layer that names another kind starts
//! from that kind's defaults. A new `model.mixer.NAME` without a `kind` is of the kind that is called `NAME`.
//!
//! `model.preset` names a published model ([`heddle_hybrid::PRESETS`]) that everything else is laid over, wherever it is
//! written; of several the last counts. It stands for the keys that it sets, so the resolved config holds those instead.

mod draft;
mod error;
mod identity;
mod kinds;
mod overlay;
mod preset;
mod range;
mod schema;
mod source;
mod sweep;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use error::{ConfigError, Problem};
pub use kinds::{Complaint, KindDefaults, Kinds, KnownKey, known_keys};
pub use range::OutOfRange;
pub use schema::{DecayForm, EvalConfig, Rule, RunConfig, Schedule, Stage, SweepConfig, TrainConfig};
pub use sweep::{Loaded, PlannedRun};

/// Reads a run file and lays it, and then each override (`key=value`, as given to `--set`), over the defaults.
///
/// # Errors
/// If the file cannot be read, and for the first setting that is unknown, of the wrong type or out of its range.
pub fn load(path: &Path, overrides: &[String], kinds: &Kinds<'_>) -> Result<Loaded, ConfigError> {
    if path.is_dir() {
        return Err(ConfigError::Directory { path: path.to_owned() });
    }
    let bytes = std::fs::read(path).map_err(|cause| ConfigError::Unreadable { path: path.to_owned(), cause })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::NotUtf8 { path: path.to_owned(), line }
    })?;
    load_text(path, &text, overrides, kinds)
}

/// As [`load`], for the text of a file that is at hand; `path` only names it in messages.
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
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut file = source::parse_file(path.display().to_string(), text)?;
    let mut above = Vec::new();
    for argument in overrides {
        source::merge(&mut above, source::parse_override(argument)?);
    }
    // The sweep is not a part of any run: it is taken out here, and what overrides say of it is laid over it alone.
    let mut sweep: Vec<_> = source::take(&mut file, "sweep").into_iter().collect();
    source::merge(&mut sweep, source::take(&mut above, "sweep").into_iter().collect());
    let plan = sweep::Plan::parse(sweep.pop())?;
    let runs = plan.expand(kinds, &file, &above)?;
    Ok(Loaded::new(path.to_owned(), &plan, runs))
}
