//! What TensorBoard's HParams page compares the runs of a sweep by.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::PlannedRun;
use crate::events::Events;
use crate::files::FileError;
use crate::report::Report;
use crate::run::finished;

/// Writes the events of a sweep into `folder/events`: its cases, seeds and axes as settings, the scores on the slices of the
/// test stream as metrics, and the report's figures as images.
///
/// The page shows the runs of one directory: `tensorboard --logdir runs/NAME`.
///
/// # Errors
/// If a result or a figure cannot be read or the events cannot be written.
pub(crate) fn describe(
    folder: &Path,
    planned: &[PlannedRun],
    done: &[PathBuf],
    report: &Report,
) -> Result<(), FileError> {
    let Some(first) = planned.first() else { return Ok(()) };
    let mut slices = BTreeSet::new();
    for directory in done {
        slices.extend(finished(directory)?.into_iter().flat_map(|result| result.test).map(|score| score.slice));
    }
    let metrics: Vec<String> =
        slices.iter().flat_map(|slice| [format!("test/accuracy/{slice}"), format!("test/loss/{slice}")]).collect();
    let own = |key: &str, of: &dyn Fn(&PlannedRun) -> Value| (key.to_owned(), different(planned.iter().map(of)));
    let mut settings =
        vec![own("case", &|run| run.config.case.clone().into()), own("seed", &|run| run.config.seed.into())];
    settings.extend(first.axes.keys().map(|key| own(key, &|run| run.axes.get(key).cloned().unwrap_or_default())));
    let mut events = Events::create(&folder.join("events"))?;
    events.experiment(&first.config.name, &settings, &metrics)?;
    for figure in &report.figures {
        let path = figure.with_extension("png");
        let png = std::fs::read(&path).map_err(FileError::of("read", &path))?;
        let name = figure.file_stem().unwrap_or_default().to_string_lossy();
        events.image(&format!("report/{name}"), &png)?;
    }
    events.flush()
}

/// The values without repetition, in the order in which they first come.
fn different(values: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut found = vec![];
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}
