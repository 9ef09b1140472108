//! `heddle task sample`: examples as lines of JSON, or as NumPy arrays.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use heddle_tasks::batch::{Batch, Stretch, fill_batch};
use heddle_tasks::{Example, Label, Mark, Split, Task};
use npyz::{NpyWriter, WriteOptions, WriterBuilder};
use rayon::prelude::*;
use serde::Serialize;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::Registry;
use crate::cli::Out;
use crate::files::FileError;
use crate::task_verbs::load;

#[derive(Debug, Args)]
pub(crate) struct SampleArgs {
    /// Name of the task
    task: String,
    /// Override a setting of the task; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// How many examples
    #[arg(long, default_value_t = 1)]
    n: u64,
    /// Stream to draw from: train, validation or test
    #[arg(long, default_value_t = Split::Train)]
    split: Split,
    /// Number of the one slice to draw from, from 0 [default: all in turn]
    #[arg(long, value_name = "I")]
    slice: Option<usize>,
    /// Seed of the stream
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How to write them
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// File to write to [default: the standard output]
    #[arg(long, value_name = "FILE", required_if_eq("format", "npz"))]
    out: Option<PathBuf>,
}

/// How examples are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A JSON object a line
    Jsonl,
    /// NumPy arrays: tokens `[n, l]`, and of each label its row, position, target and evidence
    Npz,
}

/// What cannot be sampled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SampleError {
    /// A slice that is not there.
    #[error("`--slice {slice}`: the task has {slices} {split} slices, numbered from 0")]
    Slice { slice: usize, slices: usize, split: Split },
    /// Rows of several lengths for one array.
    #[error("`--format npz`: the {split} slices differ in length; choose one with `--slice`")]
    Lengths { split: Split },
}

/// Examples generated at a time: enough for all threads, few enough to start writing at once.
const CHUNK: u64 = 4096;

pub(crate) fn sample(args: &SampleArgs, registry: &Registry, out: &mut Out) -> anyhow::Result<()> {
    let task = load(&args.task, &args.overrides, registry)?;
    let slices = chosen(task.as_ref(), args)?;
    match (args.format, &args.out) {
        (Format::Npz, Some(path)) => {
            let file = File::create(path).map_err(FileError::of("create", path))?;
            Ok(npz(task.as_ref(), args, &slices, file).map_err(FileError::of("write", path))?)
        }
        (_, Some(path)) => {
            let mut file = BufWriter::new(File::create(path).map_err(FileError::of("create", path))?);
            let mut write = |text: &str| Ok(file.write_all(text.as_bytes()).map_err(FileError::of("write", path))?);
            lines(task.as_ref(), args, &slices, &mut write)?;
            Ok(file.flush().map_err(FileError::of("write", path))?)
        }
        (_, None) => lines(task.as_ref(), args, &slices, &mut |text| out.text(text)),
    }
}

/// The slices to draw from in turn.
fn chosen(task: &dyn Task, args: &SampleArgs) -> Result<Vec<usize>, SampleError> {
    let (split, about) = (args.split, task.slices(args.split));
    let slices = match args.slice {
        Some(slice) if slice >= about.len() => {
            return Err(SampleError::Slice { slice, slices: about.len(), split });
        }
        Some(slice) => vec![slice],
        None => (0..about.len()).collect(),
    };
    let one_length = slices.iter().all(|slice| about[*slice].length == about[slices[0]].length);
    if args.format == Format::Npz && !one_length {
        return Err(SampleError::Lengths { split });
    }
    Ok(slices)
}

/// Slice and index of example `number`, the slices in turn.
fn place(slices: &[usize], number: u64) -> (usize, u64) {
    let turns = slices.len() as u64;
    (slices[(number % turns) as usize], number / turns)
}

fn lines(
    task: &dyn Task,
    args: &SampleArgs,
    slices: &[usize],
    write: &mut dyn FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut first = 0;
    while first < args.n {
        let last = (first + CHUNK).min(args.n);
        let lines: Vec<String> = (first..last)
            .into_par_iter()
            .map_init(Example::default, |example, number| {
                let (slice, index) = place(slices, number);
                task.example(args.split, slice, args.seed, index, example);
                line(task, (args.split, slice), index, example)
            })
            .collect();
        write(&lines.concat())?;
        first = last;
    }
    Ok(())
}

/// An example as a line of JSON.
#[derive(Serialize)]
struct Row<'a> {
    split: Split,
    slice: &'a str,
    index: u64,
    tokens: &'a [u32],
    labels: &'a [Label],
    #[serde(skip_serializing_if = "<[Mark]>::is_empty")]
    marks: &'a [Mark],
}

fn line(task: &dyn Task, (split, slice): (Split, usize), index: u64, example: &Example) -> String {
    let slice = &task.slices(split)[slice].name;
    let Example { tokens, labels, marks } = example;
    serde_json::to_string(&Row { split, slice, index, tokens, labels, marks }).expect("plain numbers serialise") + "\n"
}

/// All examples as arrays, the slices in turn as in [`lines`].
fn npz(task: &dyn Task, args: &SampleArgs, slices: &[usize], file: File) -> io::Result<()> {
    let length = task.slices(args.split)[slices[0]].length;
    let mut archive = ZipWriter::new(BufWriter::new(file));
    let mut labels: Vec<(u64, Label)> = Vec::new();
    array(&mut archive, "tokens", &[args.n, length as u64], |tokens| {
        let (mut batch, mut first) = (Batch::default(), 0);
        while first < args.n {
            // A stretch is of one slice: of slices in turn, one row.
            let count = if slices.len() == 1 { CHUNK.min(args.n - first) } else { 1 };
            let (slice, index) = place(slices, first);
            let stretch = Stretch { split: args.split, slice, seed: args.seed, first: index, count: count as usize };
            fill_batch(task, stretch, &mut batch);
            tokens.extend(batch.tokens.iter().copied())?;
            labels.extend(batch.labels.iter().map(|label| (first + u64::from(label.row), label.label)));
            first += count;
        }
        Ok(())
    })?;
    let mut column = |name: &str, values: Vec<i32>| {
        array(&mut archive, name, &[values.len() as u64], |column| column.extend(values.iter().copied()))
    };
    column("label_row", labels.iter().map(|(row, _)| *row as i32).collect())?;
    column("label_position", labels.iter().map(|(_, label)| label.position as i32).collect())?;
    column("label_target", labels.iter().map(|(_, label)| label.target as i32).collect())?;
    column("label_evidence", labels.iter().map(|(_, label)| label.evidence as i32).collect())?;
    column("slice", (0..args.n).map(|number| place(slices, number).0 as i32).collect())?;
    archive.finish()?.flush()
}

type Archive = ZipWriter<BufWriter<File>>;

/// Writes an array of 32-bit integers into the archive; its length is checked when it is finished.
fn array<'a>(
    archive: &'a mut Archive,
    name: &str,
    shape: &[u64],
    fill: impl FnOnce(&mut NpyWriter<i32, &mut BufWriter<&'a mut Archive>>) -> io::Result<()>,
) -> io::Result<()> {
    // Beyond 4 GiB an entry needs the wide form of the format, which NumPy reads too.
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    archive.start_file(format!("{name}.npy"), options)?;
    // The archive checks sums over each piece it is given, and the array hands out four bytes at a time.
    let mut pieces = BufWriter::with_capacity(1 << 16, archive);
    let mut array = WriteOptions::<i32>::new().default_dtype().shape(shape).writer(&mut pieces).begin_nd()?;
    fill(&mut array)?;
    array.finish()?;
    pieces.flush()
}
