//! `heddle eval`: a finished run on other lengths and tasks.

use std::path::{Path, PathBuf};

use clap::Args;
use heddle_hybrid::Model;
use heddle_tasks::score::Count;
use heddle_tasks::{Readout, Split, Task, TaskError, content_hash};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Registry;
use crate::cli::{Out, positive};
use crate::config::{RunConfig, load, load_text};
use crate::device::device;
use crate::eval_cost::{SliceCost, score};
use crate::eval_error::{EvalError, size};
use crate::evaluate::Evaluator;
use crate::files::{create_dir, write_atomic};
use crate::gradients::first_without_chunks;
use crate::pretrained::load_model;
use crate::report::format::{or_none, whole};
use crate::report::{Column, Sheet};
use crate::result::SliceScore;
use crate::run::{RunError, build_task, finished};
use crate::sizes::{Lengths, bytes, length, lengths};

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Directory of a finished run
    run: PathBuf,
    #[command(flatten)]
    asked: TaskArgs,
    /// Tokens of a sequence that go through the model at a time [default: all of 2048, of longer ones as many as run well]
    #[arg(long, value_name = "TOKENS", value_parser = length)]
    chunk: Option<usize>,
    /// Refuse what would hold more memory, such as 4GiB [default: what the machine has left]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_memory: Option<u64>,
    /// Where to run: `cpu` (Burn's Flex backend) or `ndarray` [default: the run's]
    #[arg(long)]
    device: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What of a task is asked for, where not all of what a run was trained on.
#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    /// Take this task, at its defaults [default: the run's own, as it was set]
    #[arg(long, value_name = "KIND")]
    pub(crate) task: Option<String>,
    /// Override a setting of the task; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Lengths of the sequences, in place of the slices' own: 1000, 64K (of 1024), 1M (of 1024²), and 64..1M for powers of two
    #[arg(long, value_delimiter = ',', value_parser = lengths)]
    lengths: Vec<Lengths>,
    /// Stream to draw from: validation or test
    #[arg(long, default_value_t = Split::Test, value_parser = evaluated)]
    pub(crate) split: Split,
    /// Sequences of each slice [default: as the task says]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) examples: Option<usize>,
    /// Seed of the stream [default: the run's]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

fn evaluated(name: &str) -> Result<Split, String> {
    match name.parse() {
        Ok(Split::Train) => Err("training slices have no end: use validation or test".into()),
        parsed => parsed.map_err(|error: heddle_tasks::ParseSplitError| error.to_string()),
    }
}

/// The content of `eval/HASH.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Evaluation {
    /// Version of Heddle that made it.
    version: String,
    /// Hash of the run's config.
    config_hash: String,
    /// The task as it was set, in full.
    task: Map<String, Value>,
    /// Hash of the task's data.
    data_hash: String,
    /// `validation` or `test`.
    split: Split,
    /// Seed of the stream.
    seed: u64,
    /// Scores by slice.
    scores: Vec<SliceScore>,
    /// What each slice took.
    costs: Vec<SliceCost>,
}

pub(crate) fn execute(args: &EvalArgs, registry: &Registry, out: &mut Out) -> anyhow::Result<()> {
    if finished(&args.run)?.is_none() {
        return Err(EvalError::NotFinished(args.run.clone()).into());
    }
    let loaded = load(&args.run.join("config.toml"), &[], &registry.kinds())?;
    let run = loaded.runs()[0].clone();
    let mut config = with_task(&run.config, &args.asked, registry)?;
    config.eval.chunk = args.chunk.unwrap_or(config.eval.chunk);
    let task = build_task(&config, registry).map_err(|error| of_lengths(&args.asked, &config, error))?;
    let device = device(args.device.as_ref().unwrap_or(&config.device)).map_err(RunError::from)?;
    let model = load_model(&args.run, registry, &device)?;
    check(&model, &*task, args.asked.split)?;
    if args.chunk.is_some()
        && let Some(name) = first_without_chunks(&config.model, &registry.mixers, &device)
    {
        return Err(EvalError::NotCausal(name.to_owned()).into());
    }
    let seed = args.asked.seed.unwrap_or(config.seed);
    let mut evaluator = Evaluator::new(&model, &*task, seed, &config.eval, &device);
    let (scores, costs) =
        score(&mut evaluator, &*task, args.asked.split, &config.model, args.max_memory)?.into_iter().unzip();
    let evaluation = Evaluation {
        version: env!("CARGO_PKG_VERSION").into(),
        config_hash: run.hash,
        task: config.task.clone(),
        data_hash: content_hash(&*task, seed),
        split: args.asked.split,
        seed,
        scores,
        costs,
    };
    let path = store(&evaluation, &args.run)?;
    if args.json {
        return out.line(&serde_json::to_string_pretty(&evaluation)?);
    }
    out.line(&table(&evaluation).terminal(None))?;
    out.line(&format!("Written to {}", path.display()))
}

/// What is wrong with the task, told of the lengths if they were asked for.
fn of_lengths(args: &TaskArgs, config: &RunConfig, error: TaskError) -> anyhow::Error {
    if args.lengths.is_empty() {
        return error.into();
    }
    let kind = config.task.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    EvalError::Scale { kind, source: Box::new(error) }.into()
}

/// The run's config with the task that is asked for.
pub(crate) fn with_task(run: &RunConfig, args: &TaskArgs, registry: &Registry) -> anyhow::Result<RunConfig> {
    let mut overrides: Vec<String> = match &args.task {
        Some(kind) => vec![format!("task.kind={}", Value::from(kind.as_str()))],
        None => vec![],
    };
    overrides.extend(args.overrides.iter().map(|setting| format!("task.{setting}")));
    // Another kind starts from its defaults, the run's own from what the run made of it.
    let text = if args.task.is_some() { String::new() } else { run.to_toml() };
    let set = |overrides: &[String]| -> anyhow::Result<Map<String, Value>> {
        let loaded = load_text(Path::new("the run's config"), &text, overrides, &registry.kinds())?;
        Ok(loaded.runs()[0].config.task.clone())
    };
    let mut task = set(&overrides)?;
    if !args.lengths.is_empty() || args.examples.is_some() {
        let slices = slices(&task, args)?;
        let (split, slices) = (args.split, Value::Array(slices));
        task.insert(split.to_string(), slices);
    }
    // Filled in anew, so that two ways to ask for the same have one name.
    let kind = task.remove("kind").unwrap_or_default();
    let name = kind.as_str().unwrap_or_default();
    let mut complete = Map::from_iter([("kind".to_owned(), kind.clone())]);
    match registry.tasks.complete(name, &Value::Object(task))? {
        Value::Object(settings) => complete.extend(settings),
        other => unreachable!("settings are a table, not {other}"),
    }
    Ok(RunConfig { task: complete, ..run.clone() })
}

/// The slices of the split, or those of training where it has none, at the lengths and sizes asked for.
fn slices(task: &Map<String, Value>, args: &TaskArgs) -> Result<Vec<Value>, EvalError> {
    let of = |key: &str| task.get(key).and_then(Value::as_array).cloned();
    let (own, trained) = (of(&args.split.to_string()), of("train").unwrap_or_default());
    let mut slices: Vec<Map<String, Value>> =
        own.unwrap_or(trained).iter().filter_map(Value::as_object).cloned().collect();
    for slice in &mut slices {
        slice.remove("weight");
        match args.examples {
            Some(examples) => slice.insert("examples".into(), examples.into()),
            // In a training slice it says how many come again and again.
            None if task.get(&args.split.to_string()).is_none_or(Value::is_null) => slice.remove("examples"),
            None => None,
        };
    }
    if !args.lengths.is_empty() {
        let kind = || task.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        if slices.iter().any(|slice| !slice.contains_key("length")) {
            return Err(EvalError::NoLength(kind()));
        }
        let at = |length: &usize| {
            let length = Value::from(*length);
            slices.clone().into_iter().map(move |mut slice| {
                slice.insert("length".into(), length.clone());
                slice
            })
        };
        slices = args.lengths.iter().flat_map(|Lengths(lengths)| lengths).flat_map(at).collect();
    }
    // What differed in length alone is one slice now, of as many sequences as the first had.
    let mut different: Vec<Map<String, Value>> = vec![];
    let knobs = |slice: &Map<String, Value>| {
        let mut slice = slice.clone();
        slice.remove("examples");
        slice
    };
    for slice in slices {
        if !different.iter().any(|other| knobs(other) == knobs(&slice)) {
            different.push(slice);
        }
    }
    Ok(different.into_iter().map(Value::Object).collect())
}

pub(crate) fn check(model: &Model, task: &dyn Task, split: Split) -> Result<(), EvalError> {
    if (task.readout() == Readout::Item) != model.reads_items() {
        return Err(EvalError::Readout(task.kind().to_owned()));
    }
    if task.vocab() > model.vocab() {
        return Err(EvalError::Vocabulary { task: task.vocab(), model: model.vocab() });
    }
    let longest = model.max_length().unwrap_or(usize::MAX);
    match task.slices(split).iter().find(|slice| slice.length > longest) {
        Some(slice) => Err(EvalError::Length { slice: slice.name.clone(), length: slice.length, longest }),
        None => Ok(()),
    }
}

/// Writes an evaluation beside the run, under the hash of what was asked.
fn store(evaluation: &Evaluation, run: &Path) -> anyhow::Result<PathBuf> {
    let Evaluation { task, split, seed, .. } = evaluation;
    let asked = serde_json::to_string(&(task, split, seed))?;
    let name = format!("{}.json", &blake3::hash(asked.as_bytes()).to_hex()[..12]);
    let directory = run.join("eval");
    create_dir(&directory)?;
    let path = directory.join(name);
    write_atomic(&path, format!("{}\n", serde_json::to_string_pretty(evaluation)?).as_bytes())?;
    Ok(path)
}

fn table(Evaluation { scores, costs, .. }: &Evaluation) -> Sheet {
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let row = |(score, cost): (&SliceScore, &SliceCost)| {
        let (low, high) = Count { right: score.correct, of: score.labels }.interval();
        vec![
            score.slice.clone(),
            score.examples.to_string(),
            format!("{} of {}", score.correct, score.labels),
            percent(score.accuracy),
            format!("{}–{}", percent(low), percent(high)),
            percent(score.chance),
            percent(score.whole as f64 / score.examples as f64),
            format!("{:.4}", score.loss),
            whole(cost.tokens_per_second as u64),
            or_none(cost.peak_bytes, size),
        ]
    };
    let numbers = [
        "sequences",
        "answers right",
        "accuracy, %",
        "95 % interval",
        "chance, %",
        "whole, %",
        "loss, nats",
        "tokens/s",
        "peak memory",
    ];
    let columns = std::iter::once(Column::text("slice")).chain(numbers.map(Column::number)).collect();
    Sheet { columns, rows: scores.iter().zip(costs).map(row).collect() }
}
