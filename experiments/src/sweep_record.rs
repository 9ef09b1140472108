//! What a sweep set out to do, beside its runs: `sweep.json`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::PlannedRun;
use crate::files::{FileError, create_dir, write_atomic};

/// Name of the file, in the directory that the runs of an experiment share (`out/NAME`).
pub const FILE: &str = "sweep.json";

/// The plan of the last sweep under a name: what a reader of its runs cannot see in each of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SweepRecord {
    /// Version of Heddle that planned it.
    pub version: String,
    /// The run file, as it was given.
    pub config: String,
    /// What the head of the run file asks.
    pub question: Option<String>,
    /// What it expects.
    pub claim: Option<String>,
    /// Cases, in the file's order; one of no name if there are none.
    pub cases: Vec<String>,
    /// Seeds, in the order planned.
    pub seeds: Vec<u64>,
    /// What is varied (grid, zip and list): dotted key → the values tried, in the order planned.
    pub axes: BTreeMap<String, Vec<Value>>,
    /// Keys of `axes` whose value validation chooses for each case (see [`select`](crate::select)).
    pub select: Vec<String>,
    /// Every run planned.
    pub runs: Vec<RecordedRun>,
}

/// A run of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedRun {
    /// Its hash, which names its directory.
    pub hash: String,
    /// Its case.
    pub case: String,
    /// Its seed.
    pub seed: u64,
    /// Its point: dotted key → value.
    pub axes: BTreeMap<String, Value>,
}

impl SweepRecord {
    /// Lists the runs of a plan; of the rest only what follows from them.
    pub fn of(planned: &[PlannedRun]) -> Self {
        let mut record = Self { version: env!("CARGO_PKG_VERSION").into(), ..Self::default() };
        for PlannedRun { config, axes, hash, .. } in planned {
            add(&mut record.cases, &config.case);
            add(&mut record.seeds, &config.seed);
            for (key, value) in axes {
                add(record.axes.entry(key.clone()).or_default(), value);
            }
            let (hash, case) = (hash.clone(), config.case.clone());
            record.runs.push(RecordedRun { hash, case, seed: config.seed, axes: axes.clone() });
        }
        record
    }

    /// Writes the record of each experiment that the plan names, in place of an earlier one.
    ///
    /// `self` gives what the plan itself does not tell: the run file, its header, and what is selected.
    ///
    /// # Errors
    /// If a directory or a file cannot be written.
    pub fn write(&self, planned: &[PlannedRun], out: &Path) -> Result<(), FileError> {
        let mut names = Vec::new();
        planned.iter().for_each(|run| add(&mut names, &run.config.name));
        for name in names {
            let own: Vec<PlannedRun> = planned.iter().filter(|run| run.config.name == name).cloned().collect();
            let Self { config, question, claim, select, .. } = self.clone();
            let record = Self { config, question, claim, select, ..Self::of(&own) };
            let mut text = serde_json::to_string_pretty(&record).expect("plain values serialise");
            text.push('\n');
            create_dir(&out.join(&name))?;
            write_atomic(&out.join(&name).join(FILE), text.as_bytes())?;
        }
        Ok(())
    }

    /// Reads the record of an experiment, if there is one.
    ///
    /// # Errors
    /// If there is one that cannot be read.
    pub fn read(directory: &Path) -> Result<Option<Self>, FileError> {
        let path = directory.join(FILE);
        let text = match std::fs::read(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            read => read.map_err(FileError::of("read", &path))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| FileError::of("read", &path)(error.into()))
    }
}

/// Adds what is not there yet.
fn add<T: Clone + PartialEq>(values: &mut Vec<T>, value: &T) {
    if !values.contains(value) {
        values.push(value.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Registry;
    use crate::config::load_text;

    #[test]
    fn a_record_tells_of_each_experiment_what_was_planned_for_it() {
        let text = "
            [sweep]
            seeds = [2, 1]
            select = ['train.lr']
            [sweep.axes]
            train.lr = [0.2, 0.1]
            [sweep.case.b]
            [sweep.case.a]
            name = 'other'";
        let loaded = load_text(Path::new("run.toml"), text, &[], &Registry::default().kinds()).unwrap();
        let select = loaded.sweep.select.clone();
        let planned = loaded.expand();
        let out = tempfile::tempdir().unwrap();
        assert_eq!(SweepRecord::read(&out.path().join("run")).unwrap(), None);
        let head =
            SweepRecord { config: "run.toml".into(), question: Some("Why?".into()), select, ..Default::default() };
        head.write(&planned, out.path()).unwrap();
        let record = SweepRecord::read(&out.path().join("run")).unwrap().unwrap();
        assert_eq!((&record.cases, &record.seeds), (&vec!["b".to_owned()], &vec![2, 1]));
        assert_eq!(record.axes, BTreeMap::from([("train.lr".into(), vec![json!(0.2), json!(0.1)])]));
        assert_eq!((record.select, record.question.as_deref()), (vec!["train.lr".to_owned()], Some("Why?")));
        let hashes: Vec<&str> = record.runs.iter().map(|run| &*run.hash).collect();
        assert_eq!(hashes, planned[..4].iter().map(|run| &*run.hash).collect::<Vec<_>>());
        assert_eq!(SweepRecord::read(&out.path().join("other")).unwrap().unwrap().cases, ["a"]);
        std::fs::write(out.path().join("run").join(FILE), "{").unwrap();
        assert!(SweepRecord::read(&out.path().join("run")).unwrap_err().to_string().starts_with("cannot read "));
    }
}
