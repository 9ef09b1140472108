//! `heddle runs …`: the directories of runs listed, shown and removed.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{BufRead, stdin};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use crate::cli::{Out, complain};
use crate::files::FileError;
use crate::report::{Column, Sheet, pooled};
use crate::result::RunResult;
use crate::run::{failure, finished, lock};
use crate::sweep::runs_in_words;
use crate::sweep::steps_taken;
use crate::sweep_record::SweepRecord;

#[derive(Debug, Subcommand)]
pub(crate) enum RunsVerb {
    /// List runs
    #[command(after_help = "Example: heddle runs list --case hybrid --set train.lr=1e-3 --status finished")]
    List(ListArgs),
    /// Show what became of runs
    #[command(after_help = "Example: heddle runs show 3f2a")]
    Show(ListArgs),
    /// Remove runs, with their checkpoints and results
    #[command(
        after_help = "Example: heddle runs rm --status failed --name quickstart",
        long_about = "Remove runs, with their checkpoints and results.\n\nAsks before it does, unless --yes is given. A run that \
                      is running is refused, and then none is removed."
    )]
    Rm(RmArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    filter: Filter,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Which runs: those that fit all of it.
#[derive(Debug, Args)]
struct Filter {
    /// Runs, by directory or by the beginning of the hash that names it [default: all]
    runs: Vec<String>,
    /// Directory that runs go to
    #[arg(long, default_value = "runs", value_name = "DIR")]
    out: PathBuf,
    /// Name of the experiment
    #[arg(long)]
    name: Option<String>,
    /// Name of the case
    #[arg(long)]
    case: Option<String>,
    /// Value of an axis or any other setting; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// What became of it
    #[arg(long)]
    status: Option<Status>,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// There is a result
    Finished,
    /// It diverged, or the program broke down
    Failed,
    /// It can be taken up at its last checkpoint
    Interrupted,
    /// A process is at work on it
    Running,
}

/// Runs that cannot be had, or may not be removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunsError {
    #[error("no run below {} fits; `heddle runs list` lists them", .0.display())]
    None(PathBuf),
    #[error("say which runs to remove: their hashes, `--name`, `--case`, `--set` or `--status`")]
    Unspecified,
    #[error("`--set {0}`: a setting is written `key=value`")]
    NoSetting(String),
    #[error("{} is running; stop it first. Nothing was removed", .0.display())]
    Running(PathBuf),
}

impl RunsError {
    /// Whether the fault lies in what was asked for.
    pub(crate) fn is_usage(&self) -> bool {
        !matches!(self, Self::Running(_))
    }
}

/// A run as its directory tells of it.
#[derive(Debug, Serialize)]
struct Entry {
    directory: PathBuf,
    hash: String,
    status: Status,
    name: String,
    case: String,
    seed: Option<u64>,
    axes: BTreeMap<String, Value>,
    /// Steps that its records show.
    steps: Option<u64>,
    /// Why it failed.
    failure: Option<String>,
    result: Option<RunResult>,
    #[serde(skip)]
    config: Value,
}

pub(crate) fn execute(verb: &RunsVerb, out: &mut Out) -> anyhow::Result<()> {
    match verb {
        RunsVerb::List(args) => list(args, out),
        RunsVerb::Show(args) => show(args, out),
        RunsVerb::Rm(args) => remove(args, out),
    }
}

fn list(args: &ListArgs, out: &mut Out) -> anyhow::Result<()> {
    let entries = find(&args.filter)?;
    if args.json {
        return out.line(&serde_json::to_string_pretty(&entries)?);
    }
    if entries.is_empty() {
        return out.line(&format!("No run below {} fits.", args.filter.out.display()));
    }
    out.line(&table(&entries).terminal(None))
}

fn table(entries: &[Entry]) -> Sheet {
    let columns = ["run", "status", "case"].map(Column::text).into_iter();
    let columns =
        columns.chain(["seed", "steps", "test accuracy, %"].map(Column::number)).chain([Column::text("axes")]);
    let row = |entry: &Entry| {
        let axes: Vec<String> = entry.axes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let accuracy = entry.result.as_ref().and_then(accuracy).map(|accuracy| format!("{:.1}", 100.0 * accuracy));
        vec![
            format!("{}/{}", entry.name, entry.hash),
            status(entry.status),
            entry.case.clone(),
            entry.seed.map_or_else(String::new, |seed| seed.to_string()),
            entry.steps.map_or_else(String::new, |steps| steps.to_string()),
            accuracy.unwrap_or_default(),
            axes.join(" "),
        ]
    };
    Sheet { columns: columns.collect(), rows: entries.iter().map(row).collect() }
}

fn show(args: &ListArgs, out: &mut Out) -> anyhow::Result<()> {
    let entries = find(&args.filter)?;
    if entries.is_empty() {
        return Err(RunsError::None(args.filter.out.clone()).into());
    }
    if args.json {
        return out.line(&serde_json::to_string_pretty(&entries)?);
    }
    for entry in entries {
        let mut told = vec![("run", entry.directory.display().to_string()), ("status", status(entry.status))];
        told.push(("case", entry.case.clone()));
        told.push(("seed", entry.seed.map_or_else(String::new, |seed| seed.to_string())));
        told.extend(entry.failure.clone().map(|reason| ("failure", reason)));
        told.extend(entry.steps.map(|steps| ("steps", steps.to_string())));
        told.retain(|(_, text)| !text.is_empty());
        let lines: Vec<String> = told.iter().map(|(what, text)| format!("{what:<11} {text}")).collect();
        out.line(&lines.join("\n"))?;
        entry.axes.iter().try_for_each(|(key, value)| out.line(&format!("{:<11} {key} = {value}", "axis")))?;
        let Some(result) = entry.result else { continue };
        out.line(&format!("{:<11} {}, best at {}", "parameters", result.parameters, result.best_step))?;
        for (split, scores) in [("validation", &result.validation), ("test", &result.test)] {
            for score in scores {
                let (right, slice) = (100.0 * score.accuracy, &score.slice);
                out.line(&format!("{split:<11} {right:.2} % of {} answers right: {slice}", score.labels))?;
            }
        }
    }
    Ok(())
}

fn remove(args: &RmArgs, out: &mut Out) -> anyhow::Result<()> {
    let Filter { runs, name, case, settings, status, .. } = &args.filter;
    if runs.is_empty() && name.is_none() && case.is_none() && settings.is_empty() && status.is_none() {
        return Err(RunsError::Unspecified.into());
    }
    let entries = find(&args.filter)?;
    if entries.is_empty() {
        return Err(RunsError::None(args.filter.out.clone()).into());
    }
    // All are held before any is removed, so that nobody takes one up meanwhile.
    let held = entries.iter().map(|entry| lock(&entry.directory)).collect::<Result<Vec<File>, _>>();
    let held = held.map_err(|error| match error {
        crate::run::RunError::Locked(directory) => RunsError::Running(directory).into(),
        error => anyhow::Error::from(error),
    })?;
    if !args.yes {
        out.line(&table(&entries).terminal(None))?;
        out.text(&format!("Remove {}? [y/N] ", runs_in_words(entries.len())))?;
        let mut answer = String::new();
        stdin().lock().read_line(&mut answer)?;
        if !["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            return out.line("Nothing was removed.");
        }
    }
    for entry in &entries {
        fs::remove_dir_all(&entry.directory).map_err(FileError::of("remove", &entry.directory))?;
    }
    drop(held);
    out.line(&format!("Removed {}.", runs_in_words(entries.len())))
}

fn status(status: Status) -> String {
    status.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Right answers over answers, of all test slices.
fn accuracy(result: &RunResult) -> Option<f64> {
    pooled(result.test.iter().map(|score| (score.correct, score.labels)))
}

/// The runs that fit, by name and hash.
fn find(filter: &Filter) -> anyhow::Result<Vec<Entry>> {
    let mut settings = vec![];
    for setting in &filter.settings {
        let (key, value) = setting.split_once('=').ok_or_else(|| RunsError::NoSetting(setting.clone()))?;
        settings.push((key.trim(), parse(value.trim())));
    }
    let mut found: Vec<Entry> = vec![];
    let mut records = BTreeMap::new();
    for run in directories(filter) {
        match read(&run) {
            Ok(mut entry) => {
                if entry.result.is_none() {
                    // A run's axes stand in its result; while it has none, in the record of its sweep.
                    let parent = run.parent().unwrap_or(Path::new("")).to_owned();
                    let record = match records.entry(parent) {
                        Slot::Occupied(record) => record.into_mut(),
                        Slot::Vacant(slot) => {
                            let record = SweepRecord::read(slot.key())?.unwrap_or_default();
                            slot.insert(record)
                        }
                    };
                    let planned = record.runs.iter().find(|run| run.hash == entry.hash);
                    entry.axes = planned.map(|run| run.axes.clone()).unwrap_or_default();
                }
                found.push(entry);
            }
            Err(error) => complain(&format!("warning: passed over {error}")),
        }
    }
    found.retain(|entry| {
        filter.name.as_ref().is_none_or(|name| *name == entry.name)
            && filter.case.as_ref().is_none_or(|case| *case == entry.case)
            && filter.status.is_none_or(|status| status == entry.status)
            && settings.iter().all(|(key, value)| entry.setting(key).is_some_and(|own| same(own, value)))
    });
    Ok(found)
}

impl Entry {
    /// The value of an axis, or of a setting.
    fn setting(&self, key: &str) -> Option<&Value> {
        let setting = || key.split('.').try_fold(&self.config, |table, name| table.get(name));
        self.axes.get(key).or_else(setting)
    }
}

/// The directories of the runs that are named, or of all.
fn directories(filter: &Filter) -> Vec<PathBuf> {
    let is_run = |directory: &PathBuf| directory.join("config.toml").is_file();
    let all: Vec<PathBuf> = folders(&filter.out).iter().flat_map(|name| folders(name)).filter(is_run).collect();
    if filter.runs.is_empty() {
        return all;
    }
    let (paths, hashes): (Vec<&String>, Vec<&String>) =
        filter.runs.iter().partition(|named| is_run(&PathBuf::from(named)));
    let fits = |run: &&PathBuf| {
        let name = run.file_name().unwrap_or_default().to_string_lossy();
        hashes.iter().any(|hash| !hash.is_empty() && name.starts_with(hash.as_str()))
    };
    let mut named: Vec<PathBuf> =
        all.iter().filter(fits).cloned().chain(paths.into_iter().map(PathBuf::from)).collect();
    // One that is named twice, in whatever way, is one.
    let mut seen = BTreeSet::new();
    named.retain(|run| seen.insert(fs::canonicalize(run).unwrap_or_else(|_| run.clone())));
    named
}

fn folders(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn read(directory: &Path) -> Result<Entry, FileError> {
    let path = directory.join("config.toml");
    let text = fs::read_to_string(&path).map_err(FileError::of("read", &path))?;
    let config = toml::from_str::<Value>(&text).map_err(|error| {
        FileError::of("read", &path)(std::io::Error::new(std::io::ErrorKind::InvalidData, error.message().to_owned()))
    })?;
    let result = finished(directory)?;
    let failure = failure(directory);
    let status = match (&result, is_held(directory), &failure) {
        (Some(_), ..) => Status::Finished,
        (None, true, _) => Status::Running,
        (None, false, Some(_)) => Status::Failed,
        (None, false, None) => Status::Interrupted,
    };
    let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
    Ok(Entry {
        hash: directory.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        status,
        name: text("name"),
        case: text("case"),
        seed: config["seed"].as_u64(),
        axes: result.as_ref().map(|result| result.axes.clone()).unwrap_or_default(),
        steps: result.as_ref().map(|result| result.steps).or_else(|| steps_taken(directory)),
        failure: failure.filter(|_| status == Status::Failed),
        result,
        config,
        directory: directory.to_owned(),
    })
}

/// Whether a process is at work on the run.
fn is_held(directory: &Path) -> bool {
    File::open(directory.join("lock")).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// A value as it is written behind `--set`: TOML, or else a string.
fn parse(text: &str) -> Value {
    let parsed = toml::from_str::<BTreeMap<String, Value>>(&format!("value = {text}"));
    parsed.ok().and_then(|mut table| table.remove("value")).unwrap_or_else(|| text.into())
}

/// Equality that tells no integer from a float.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_the_same_however_it_is_written() {
        let equal = |value: Value, text: &str| same(&value, &parse(text));
        assert!(equal(json!(1e-3), "0.001") && equal(json!(1e-3), "1e-3") && equal(json!(2.0), "2"));
        assert!(equal(json!("cpu"), "cpu") && equal(json!("cpu"), "'cpu'") && equal(json!(true), "true"));
        assert!(equal(json!(["mamba", 2.0]), "['mamba', 2]") && equal(json!([{"a": 1}]), "[{a = 1.0}]"));
        assert!(!equal(json!(1), "2") && !equal(json!([1]), "[1, 1]") && !equal(json!({"a": 1}), "{b = 1}"));
    }
}
