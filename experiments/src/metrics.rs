//! What a run records while it goes: `metrics.jsonl`, and the same as TensorBoard events.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::events::Events;
use crate::files::FileError;
use crate::result::{Metric, SliceScore};

/// Writes metrics to a run directory.
pub struct Recorder {
    path: PathBuf,
    file: File,
    events: Events,
    rows: u64,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Opens the records of a run and cuts them back to `rows`, which they had when its checkpoint was saved.
    ///
    /// The events are written anew from what remains, so that no step stands in them twice; they begin with the config, as a
    /// text and as hyper-parameters.
    ///
    /// # Errors
    /// If a file cannot be opened, cut, read or written.
    pub fn open(run: &Path, rows: u64, config: &Value) -> Result<Self, FileError> {
        let path = run.join("metrics.jsonl");
        let open = || {
            let file = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
            // A row that was being written when the run was killed comes after these.
            let kept = BufReader::new(&file).split(b'\n').take(rows as usize);
            let bytes: u64 = kept.map(|row| Ok(row?.len() as u64 + 1)).sum::<std::io::Result<u64>>()?;
            file.set_len(bytes)?;
            Ok(file)
        };
        let file = open().map_err(FileError::of("open", &path))?;
        let mut events = Events::create(&run.join("events"))?;
        let text = serde_json::to_string_pretty(config).expect("a tree of plain values serialises");
        events.text("config", &text.lines().map(|line| format!("    {line}\n")).collect::<String>())?;
        events.begin_session(config)?;
        let mut recorder = Self { events, file, path, rows };
        read(&recorder.path)?.iter().try_for_each(|metric| recorder.event(metric))?;
        Ok(recorder)
    }

    /// Appends one row.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn record(&mut self, metric: &Metric) -> Result<(), FileError> {
        let mut line = serde_json::to_string(metric).expect("a metric serialises");
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(FileError::of("write", &self.path))?;
        self.rows += 1;
        self.event(metric)
    }

    /// States that the run is finished.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.events.end_session()?;
        self.sync().map(drop)
    }

    /// Makes all rows durable and returns their number.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn sync(&mut self) -> Result<u64, FileError> {
        self.events.flush()?;
        self.file.sync_data().map_err(FileError::of("write", &self.path))?;
        Ok(self.rows)
    }

    fn event(&mut self, metric: &Metric) -> Result<(), FileError> {
        let step = metric.step();
        let mut scalar = |tag: &str, value: f64| self.events.scalar(tag, value, step);
        match metric {
            Metric::Train { loss, lr, grad_norm, tokens_per_second, .. } => {
                scalar("train/loss", *loss)?;
                scalar("train/learning_rate", *lr)?;
                scalar("train/gradient_norm", *grad_norm)?;
                scalar("train/tokens_per_second", *tokens_per_second)
            }
            Metric::Routing { layer, shares, .. } => shares
                .iter()
                .enumerate()
                .try_for_each(|(expert, share)| scalar(&format!("experts/layer_{layer}/share_{expert}"), *share)),
            Metric::Eval { split, score: SliceScore { slice, accuracy, loss, .. }, .. } => {
                scalar(&format!("{split}/accuracy/{slice}"), *accuracy)?;
                scalar(&format!("{split}/loss/{slice}"), *loss)
            }
            Metric::Histogram { name, of, .. } => self.events.histogram(name, of, step),
        }
    }
}

/// The rows of a `metrics.jsonl`.
///
/// # Errors
/// If the file cannot be read, or a row is malformed.
pub fn read(path: &Path) -> Result<Vec<Metric>, FileError> {
    let parse = || {
        let lines = BufReader::new(File::open(path)?).lines();
        lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<std::io::Result<_>>()
    };
    parse().map_err(FileError::of("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> Metric {
        Metric::Train { step, loss: 1.5, lr: 0.1, grad_norm: 2.0, tokens: 64 * step, tokens_per_second: 1e4 }
    }

    #[test]
    fn rows_after_the_checkpoint_are_cut_off() {
        let run = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::open(run.path(), 0, &Value::Null).unwrap();
        recorder.record(&row(1)).unwrap();
        let rows = recorder.sync().unwrap();
        recorder.record(&row(2)).unwrap();
        drop(recorder);
        let mut recorder = Recorder::open(run.path(), rows, &Value::Null).unwrap();
        recorder.record(&row(2)).unwrap();
        drop(recorder);
        assert_eq!(read(&run.path().join("metrics.jsonl")).unwrap(), [row(1), row(2)]);
        assert_eq!(std::fs::read_dir(run.path().join("events")).unwrap().count(), 1);
    }
}
