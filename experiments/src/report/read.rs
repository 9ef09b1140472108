//! Finding runs and reading what they left: `result.json`, `metrics.jsonl` and the text of `config.toml`, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::result::{Metric, RunResult, SliceScore};

/// File that makes a directory a finished run.
const RESULT: &str = "result.json";

/// File that holds a run's curves, written while it trains.
const METRICS: &str = "metrics.jsonl";

/// File that holds a run's resolved config.
const CONFIG: &str = "config.toml";

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its directory, as found below the directories given.
    pub dir: PathBuf,
    /// The content of its `result.json`; a `null` where a number belongs (JSON has no NaN) is read as NaN.
    pub result: RunResult,
    /// The text of its `config.toml`, if there is one.
    pub config: Option<String>,
    /// The task's kind, according to `config.toml`.
    pub task: Option<String>,
    /// Step → mean training loss of the step's batch, in nats.
    pub loss: Vec<(u64, f64)>,
    /// Step → validation accuracy over all labelled positions of all slices, 0 to 1.
    pub validation: Vec<(u64, f64)>,
}

/// Reads every run below `dirs`, in order of their paths; a run reached twice counts once.
///
/// What could not be read becomes a line of the second value, and the rest is read all the same.
pub(crate) fn read_runs(dirs: &[PathBuf]) -> (Vec<Run>, Vec<String>) {
    let mut walk = Walk::default();
    for dir in dirs {
        walk.descend(dir);
    }
    walk.found.sort();
    let read: Vec<Result<(Run, Vec<String>), String>> = walk.found.par_iter().map(|dir| read_run(dir)).collect();
    let mut warnings = walk.warnings;
    let mut runs = Vec::with_capacity(read.len());
    for outcome in read {
        match outcome {
            Ok((run, notes)) => {
                runs.push(run);
                warnings.extend(notes);
            }
            Err(warning) => warnings.push(warning),
        }
    }
    (runs, warnings)
}

/// A search for run directories.
#[derive(Default)]
struct Walk {
    /// Resolved paths of the directories entered, so that links cannot lead in a circle.
    entered: BTreeSet<PathBuf>,
    found: Vec<PathBuf>,
    warnings: Vec<String>,
}

impl Walk {
    /// Looks at `dir`, and below it unless it is itself a run.
    fn descend(&mut self, dir: &Path) {
        let entries = match sorted_entries(dir) {
            Ok(entries) => entries,
            Err(cause) => {
                self.warnings.push(format!("{}: this directory cannot be read: {cause}", dir.display()));
                return;
            }
        };
        if !self.entered.insert(fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned())) {
            return;
        }
        if dir.join(RESULT).is_file() {
            self.found.push(dir.to_owned());
            return;
        }
        if dir.join(METRICS).is_file() {
            self.warnings.push(format!("{}: left out, since the run is not finished (no {RESULT})", dir.display()));
        }
        for entry in entries {
            let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if !hidden && entry.is_dir() {
                self.descend(&entry);
            }
        }
    }
}

fn sorted_entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries =
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

fn read_run(dir: &Path) -> Result<(Run, Vec<String>), String> {
    let path = dir.join(RESULT);
    let text = fs::read_to_string(&path).map_err(|cause| format!("{}: left out: {cause}", path.display()))?;
    let (mut result, nulls): (RunResult, _) =
        parse(&text).map_err(|cause| format!("{}: left out, since it is malformed: {cause}", path.display()))?;
    for pointer in &nulls {
        restore_nan(&mut result, pointer);
    }
    let mut warnings = Vec::new();
    if !nulls.is_empty() {
        let places = nulls.join(", ");
        warnings.push(format!("{}: not a number at {places}", path.display()));
    }
    let (loss, validation) = read_metrics(&dir.join(METRICS), &mut warnings);
    let config = read_config(&dir.join(CONFIG), &mut warnings);
    let task = config.as_deref().and_then(task_kind);
    Ok((Run { dir: dir.to_owned(), result, config, task, loss, validation }, warnings))
}

fn read_config(path: &Path, warnings: &mut Vec<String>) -> Option<String> {
    match fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
        Err(cause) => {
            warnings.push(format!("{}: not shown: {cause}", path.display()));
            None
        }
    }
}

fn task_kind(config: &str) -> Option<String> {
    let table: toml::Table = config.parse().ok()?;
    Some(table.get("task")?.get("kind")?.as_str()?.to_owned())
}

/// Values against steps, in order of the steps.
type Points = Vec<(u64, f64)>;

/// The training loss and the pooled validation accuracy; of rows for the same step (a resumed run) the last counts.
fn read_metrics(path: &Path, warnings: &mut Vec<String>) -> (Points, Points) {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) => {
            warnings.push(format!("{}: no curves for this run: {cause}", path.display()));
            return (Vec::new(), Vec::new());
        }
    };
    let mut loss = BTreeMap::new();
    let mut validation: BTreeMap<u64, BTreeMap<String, (u64, u64)>> = BTreeMap::new();
    let mut unread: Vec<(usize, serde_json::Error)> = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match parse::<Metric>(line) {
            Ok((Metric::Train { step, loss: value, .. }, nulls)) => {
                let value = if nulls.iter().any(|pointer| pointer == "/loss") { f64::NAN } else { value };
                loss.insert(step, value);
            }
            Ok((Metric::Eval { step, split, score }, _)) if split == "validation" => {
                validation.entry(step).or_default().insert(score.slice, (score.correct, score.labels));
            }
            Ok((Metric::Eval { .. } | Metric::Routing { .. } | Metric::Histogram { .. }, _)) => {}
            Err(cause) => unread.push((index + 1, cause)),
        }
    }
    if let Some((line, cause)) = unread.first() {
        let count = unread.len();
        warnings
            .push(format!("{}: {count} malformed line(s) left out, the first is line {line}: {cause}", path.display()));
    }
    let validation =
        validation.into_iter().filter_map(|(step, slices)| Some((step, pooled(slices.into_values())?))).collect();
    (loss.into_iter().collect(), validation)
}

/// Right answers over answers, `None` where nothing was asked.
pub(crate) fn pooled(counts: impl IntoIterator<Item = (u64, u64)>) -> Option<f64> {
    let (correct, labels) = counts.into_iter().fold((0, 0), |sum, slice| (sum.0 + slice.0, sum.1 + slice.1));
    (labels > 0).then(|| correct as f64 / labels as f64)
}

/// Parses JSON in which a number that is not finite was written as `null`.
///
/// Such numbers come back as zero, with their JSON pointers (RFC 6901) in the second value.
fn parse<T: DeserializeOwned>(text: &str) -> Result<(T, Vec<String>), serde_json::Error> {
    let cause = match serde_json::from_str(text) {
        Ok(value) => return Ok((value, Vec::new())),
        Err(cause) => cause,
    };
    let mut value: Value = serde_json::from_str(text)?;
    let mut nulls = Vec::new();
    replace_nulls(&mut value, "", &mut nulls);
    if nulls.is_empty() {
        return Err(cause);
    }
    // A null where no fraction belongs is a fault like any other: the first message names its line.
    serde_json::from_value(value).map(|value| (value, nulls)).map_err(|_| cause)
}

/// Puts zero for every `null`, except where `null` says something of its own.
fn replace_nulls(value: &mut Value, pointer: &str, nulls: &mut Vec<String>) {
    match value {
        Value::Null => {
            *value = Value::from(0.0);
            nulls.push(pointer.to_owned());
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                replace_nulls(item, &format!("{pointer}/{index}"), nulls);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields.iter_mut().filter(|(key, _)| !matches!(key.as_str(), "axes" | "steps_to_target"))
            {
                replace_nulls(field, &format!("{pointer}/{key}"), nulls);
            }
        }
        _ => {}
    }
}

/// Puts NaN at one of the places that [`parse`] names.
fn restore_nan(result: &mut RunResult, pointer: &str) {
    let parts: Vec<&str> = pointer.split('/').skip(1).collect();
    let slot = match parts[..] {
        ["test", index, key] => slice_slot(&mut result.test, index, key),
        ["validation", index, key] => slice_slot(&mut result.validation, index, key),
        ["timing", "train_seconds"] => Some(&mut result.timing.train_seconds),
        ["timing", "total_seconds"] => Some(&mut result.timing.total_seconds),
        ["timing", "tokens_per_second"] => Some(&mut result.timing.tokens_per_second),
        ["timing", "overhead"] => Some(&mut result.timing.overhead),
        _ => None,
    };
    if let Some(number) = slot {
        *number = f64::NAN;
    }
}

fn slice_slot<'a>(slices: &'a mut [SliceScore], index: &str, key: &str) -> Option<&'a mut f64> {
    let score = slices.get_mut(index.parse::<usize>().ok()?)?;
    match key {
        "accuracy" => Some(&mut score.accuracy),
        "loss" => Some(&mut score.loss),
        "chance" => Some(&mut score.chance),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::synthetic::{self, RunSpec};

    #[test]
    fn a_run_reached_by_two_of_the_directories_counts_once() {
        let home = tempfile::tempdir().unwrap();
        let dir = synthetic::write(home.path(), &RunSpec::new("recall", "hybrid", 0));
        let (runs, warnings) = read_runs(&[home.path().to_owned(), dir.clone(), home.path().join("recall")]);
        assert_eq!(runs.len(), 1);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_malformed_result_is_a_warning_that_names_the_file() {
        let home = tempfile::tempdir().unwrap();
        synthetic::write(home.path(), &RunSpec::new("recall", "hybrid", 0));
        let broken = synthetic::write(home.path(), &RunSpec::new("recall", "hybrid", 1));
        fs::write(broken.join(RESULT), "{\"version\": ").unwrap();
        let (runs, warnings) = read_runs(&[home.path().to_owned()]);
        assert_eq!(runs.len(), 1);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("malformed") && warnings[0].contains(&*broken.to_string_lossy()), "{warnings:?}");
    }

    #[test]
    fn an_unfinished_run_is_a_warning() {
        let home = tempfile::tempdir().unwrap();
        let dir = synthetic::write(home.path(), &RunSpec::new("recall", "hybrid", 0));
        fs::remove_file(dir.join(RESULT)).unwrap();
        let (runs, warnings) = read_runs(&[home.path().to_owned()]);
        assert!(runs.is_empty());
        assert!(warnings[0].contains("not finished"), "{warnings:?}");
    }

    #[test]
    fn a_metrics_file_cut_off_in_a_line_keeps_its_whole_lines() {
        let home = tempfile::tempdir().unwrap();
        let dir = synthetic::write(home.path(), &RunSpec::new("recall", "hybrid", 0));
        let text = fs::read_to_string(dir.join(METRICS)).unwrap();
        fs::write(dir.join(METRICS), &text[..text.len() - 10]).unwrap();
        let (runs, warnings) = read_runs(&[home.path().to_owned()]);
        assert!(!runs[0].loss.is_empty());
        assert!(warnings[0].contains("1 malformed line(s)"), "{warnings:?}");
    }

    #[test]
    fn a_null_where_a_number_belongs_is_read_as_not_a_number() {
        let home = tempfile::tempdir().unwrap();
        let dir = synthetic::write(home.path(), &RunSpec::new("recall", "hybrid", 0));
        let mut result: Value = serde_json::from_str(&fs::read_to_string(dir.join(RESULT)).unwrap()).unwrap();
        result["test"][0]["loss"] = Value::Null;
        result["timing"]["overhead"] = Value::Null;
        fs::write(dir.join(RESULT), result.to_string()).unwrap();
        let (runs, warnings) = read_runs(&[home.path().to_owned()]);
        assert!(runs[0].result.test[0].loss.is_nan() && runs[0].result.timing.overhead.is_nan());
        assert!(!runs[0].result.test[0].accuracy.is_nan());
        assert!(warnings[0].contains("/test/0/loss"), "{warnings:?}");
    }

    #[test]
    fn a_null_seed_is_malformed() {
        let home = tempfile::tempdir().unwrap();
        let dir = synthetic::write(home.path(), &RunSpec::new("recall", "hybrid", 0));
        let text = fs::read_to_string(dir.join(RESULT)).unwrap().replace("\"seed\":0", "\"seed\":null");
        fs::write(dir.join(RESULT), text).unwrap();
        let (runs, warnings) = read_runs(&[home.path().to_owned()]);
        assert!(runs.is_empty() && warnings[0].contains("malformed"), "{warnings:?}");
    }

    #[test]
    fn of_two_rows_for_a_step_the_later_one_counts() {
        let home = tempfile::tempdir().unwrap();
        let dir = synthetic::write(home.path(), &RunSpec::new("recall", "hybrid", 0));
        let row = |loss: f64| {
            let metric = Metric::Train { step: 1, loss, lr: 0.1, grad_norm: 1.0, tokens: 64, tokens_per_second: 1.0 };
            serde_json::to_string(&metric).unwrap()
        };
        fs::write(dir.join(METRICS), format!("{}\n{}\n", row(3.0), row(2.0))).unwrap();
        let (runs, _) = read_runs(&[home.path().to_owned()]);
        assert_eq!(runs[0].loss, [(1, 2.0)]);
    }

    #[test]
    fn accuracy_is_pooled_over_labels_not_over_slices() {
        assert_eq!(pooled([(1, 1), (0, 3)]), Some(0.25));
        assert_eq!(pooled([(0, 0)]), None);
    }

    #[test]
    fn a_missing_directory_is_a_warning_that_names_it() {
        let (runs, warnings) = read_runs(&[PathBuf::from("no/such/place")]);
        assert!(runs.is_empty() && warnings[0].contains("no/such/place"), "{warnings:?}");
    }
}
