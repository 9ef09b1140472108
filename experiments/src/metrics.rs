//! What a run records while it goes: `metrics.jsonl`, and the same as TensorBoard events.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use tensorboard_rs::summary_writer::SummaryWriter;

use crate::files::{FileError, create_dir};
use crate::result::{Metric, SliceScore};

/// Writes metrics to a run directory.
pub struct Recorder {
    path: PathBuf,
    file: File,
    events: SummaryWriter,
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
    /// The events are written anew from what remains, so that no step stands in them twice.
    ///
    /// # Errors
    /// If a file cannot be opened, cut, read or written.
    pub fn open(run: &Path, rows: u64) -> Result<Self, FileError> {
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
        let mut recorder = Self { events: fresh_events(&run.join("events"))?, file, path, rows };
        for metric in read(&recorder.path)? {
            recorder.event(&metric);
        }
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
        self.event(metric);
        Ok(())
    }

    /// Makes all rows durable and returns their number.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn sync(&mut self) -> Result<u64, FileError> {
        self.events.flush();
        self.file.sync_data().map_err(FileError::of("write", &self.path))?;
        Ok(self.rows)
    }

    fn event(&mut self, metric: &Metric) {
        let mut scalar = |tag: &str, value: f64, step: u64| self.events.add_scalar(tag, value as f32, step as usize);
        match metric {
            Metric::Train { step, loss, lr, grad_norm, tokens_per_second, tokens: _ } => {
                scalar("train/loss", *loss, *step);
                scalar("train/learning_rate", *lr, *step);
                scalar("train/gradient_norm", *grad_norm, *step);
                scalar("train/tokens_per_second", *tokens_per_second, *step);
            }
            Metric::Routing { step, layer, shares } => {
                for (expert, share) in shares.iter().enumerate() {
                    scalar(&format!("experts/layer_{layer}/share_{expert}"), *share, *step);
                }
            }
            Metric::Eval { step, split, score: SliceScore { slice, accuracy, loss, .. } } => {
                scalar(&format!("{split}/accuracy/{slice}"), *accuracy, *step);
                scalar(&format!("{split}/loss/{slice}"), *loss, *step);
            }
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

fn fresh_events(directory: &Path) -> Result<SummaryWriter, FileError> {
    create_dir(directory)?;
    for entry in fs::read_dir(directory).map_err(FileError::of("read the directory", directory))?.flatten() {
        fs::remove_file(entry.path()).map_err(FileError::of("remove", &entry.path()))?;
    }
    Ok(SummaryWriter::new(directory))
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
        let mut recorder = Recorder::open(run.path(), 0).unwrap();
        recorder.record(&row(1)).unwrap();
        let rows = recorder.sync().unwrap();
        recorder.record(&row(2)).unwrap();
        drop(recorder);
        let mut recorder = Recorder::open(run.path(), rows).unwrap();
        recorder.record(&row(2)).unwrap();
        drop(recorder);
        assert_eq!(read(&run.path().join("metrics.jsonl")).unwrap(), [row(1), row(2)]);
        assert_eq!(fs::read_dir(run.path().join("events")).unwrap().count(), 1);
    }
}
