//! `heddle inspect`: whom the tokens of a sequence look at, and what heads and layers do.

mod ask;
mod measure;
mod page;
mod pairs;
mod pictures;
mod sheets;
mod view;

use std::path::PathBuf;

use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::Args;
use heddle_hybrid::Model;
use heddle_tasks::Task;

use crate::Registry;
use crate::cli::{Out, positive};
use crate::config::{RunConfig, load};
use crate::device::device;
use crate::eval_verb::{self, TaskArgs, with_task};
use crate::files::{create_dir, write_atomic};
use crate::generate::TokenList;
use crate::pretrained::load_described;
use crate::run::{RunError, build_task};
use crate::text::{TextError, Texts};

use ask::{Choice, Rows};
use measure::Bench;
use view::{Asked, Sentence, View};

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Directory of the model
    dir: PathBuf,
    /// Show these tokens, such as 1,2,3
    #[arg(long, value_name = "IDS", conflicts_with_all = ["text", "task", "lengths", "examples", "seed", "overrides"])]
    tokens: Option<TokenList>,
    /// Show this text, with the tokenizer.json of the model
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["task", "lengths", "examples", "seed", "overrides"])]
    text: Option<String>,
    #[command(flatten)]
    asked: TaskArgs,
    /// Number of the example to show
    #[arg(long, value_name = "N", default_value_t = 0)]
    example: u64,
    /// Layers to show, such as 0,3 [default: all]
    #[arg(long, value_delimiter = ',', value_name = "LAYERS")]
    layers: Vec<usize>,
    /// Heads to show of layers that have heads [default: all]
    #[arg(long, value_delimiter = ',', value_name = "HEADS")]
    heads: Vec<usize>,
    /// Positions of the tokens that look, such as 3,8-11 [default: all, up to 256 tokens]
    #[arg(long, value_name = "ROWS")]
    rows: Option<Rows>,
    /// Take out each layer's mixer and each head in turn, and tell the accuracy on the task
    #[arg(long)]
    ablate: bool,
    /// Carry each token's residual stream from one sentence of a pair to the other, layer by layer
    #[arg(long)]
    patch: bool,
    /// Count, over all pairs of sentences, how often the weights turn from one noun to the other
    #[arg(long)]
    pairs: bool,
    /// Print JSON: all numbers
    #[arg(long)]
    json: bool,
    /// Write a page to look at, in one file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a picture of each layer's maps as PNG into this directory
    #[arg(long, value_name = "DIR")]
    png: Option<PathBuf>,
    /// Write a picture of each layer's maps as SVG into this directory
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Sequences in a batch
    #[arg(long, default_value_t = 32, hide = true, value_parser = positive)]
    batch: usize,
    /// Where to run: `cpu` (Burn's Flex backend) or `ndarray`
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// What cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    /// A layer that is not there.
    #[error("`--layers`: there is no layer {layer}; the model has layers 0 to {last}")]
    Layer { layer: usize, last: usize },
    /// A head that no layer shown has.
    #[error("`--heads`: no layer shown has a head {head}; {has}")]
    Head { head: usize, has: String },
    /// A layer that has no map and was asked for, or no layer with a map.
    #[error(
        "layer {layer} ({name}) has no map: its mixer is missing, is not linear in its values, as an LSTM, or is several side \
         by side; {remedy}"
    )]
    NoMap { layer: usize, name: String, remedy: &'static str },
    /// A row beyond the tokens.
    #[error("`--rows`: there is no token {row}; the sequence has tokens 0 to {last}")]
    Row { row: usize, last: usize },
    /// A sequence too long for all of its rows.
    #[error(
        "the sequence is {length} tokens long, and all tokens' weights are shown of {most} at most; choose the tokens that look \
         with `--rows {example}`, or a shorter sequence, of a task with `--lengths`"
    )]
    TooLong { length: usize, most: usize, example: String },
    /// A sequence beyond what the model reads.
    #[error("the sequence is {length} tokens long, and the model reads {longest} at most; give a shorter one")]
    Length { length: usize, longest: usize },
    /// No tokens.
    #[error("there are no tokens to show; give some with `--tokens 1,2,3`")]
    Empty,
    /// A token that the model does not know.
    #[error("`--tokens`: token {token} is not one of the model's {vocab}; use numbers below it")]
    Token { token: u32, vocab: usize },
    /// A model without a task of its own.
    #[error("{} is no run, so it has no task of its own; name one with `--task`, or give `--tokens` or `--text`", .0.display())]
    NoTask(PathBuf),
    /// A text for a model that reads none.
    #[error("`--text`: {} holds no tokenizer.json; give token ids with `--tokens 1,2,3`, or put it there", .0.display())]
    NoTokenizer(PathBuf),
    /// The tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// What takes a task.
    #[error("`{0}` is measured on a task; leave out `--tokens` and `--text`, and name one with `--task`")]
    TakesTask(&'static str),
    /// What takes pairs of sentences.
    #[error(
        "`{flag}` takes a task whose examples come in pairs that differ in one token, with the marks 'right noun' and 'wrong noun', \
         such as coreference; '{task}' has none"
    )]
    NoPairs { flag: &'static str, task: String },
}

/// The longest sequence of which all tokens' weights are shown.
const MOST_ROWS: usize = 256;

pub(crate) fn execute(args: &InspectArgs, registry: &Registry, out: &mut Out) -> anyhow::Result<()> {
    let device = device(&args.device).map_err(RunError::from)?;
    let (model, config) = load_described(&args.dir, registry, &device)?;
    let names = config.layer_names().map_err(anyhow::Error::msg)?.iter().map(ToString::to_string).collect();
    let task = task(args, registry)?;
    let texts = if task.is_none() { Texts::of(&args.dir).map_err(InspectError::from)? } else { None };
    let (sentences, asked) = match &task {
        Some((task, seed)) => {
            eval_verb::check(&model, &**task, args.asked.split)?;
            let asked = Asked::new(&**task, &args.asked, *seed, args.example);
            (asked.sentences(&**task), Some(asked))
        }
        None => (vec![given(args, &model, texts.as_ref())?], None),
    };
    let choice = Choice::new(args, &model, names, sentences[0].tokens.len(), &device)?;
    let said = |token: u32| texts.as_ref()?.behind(&[]).ok()?.push(token).ok();
    let word = |token: u32| match &task {
        Some((task, _)) => task.describe_token(token),
        None => said(token).unwrap_or_else(|| token.to_string()),
    };
    let mut view = View::new((&model, &args.dir), &choice, sentences, &word, &device);
    let bench = Bench { model: &model, choice: &choice, batch: args.batch, device: &device };
    match (&task, asked) {
        (Some((task, _)), Some(asked)) => {
            view.scores = bench.scores(&**task, &asked);
            measure_pairs(args, &bench, &**task, &asked, &mut view)?;
            if args.ablate {
                view.ablation = Some(bench.ablation(&**task, &asked));
            }
            view.task = Some(asked);
        }
        _ => view.scores = bench.scores_of(&view.sentences[0]),
    }
    write(args, &view)?;
    if args.json {
        return out.line(&serde_json::to_string(&view)?);
    }
    sheets::all(&view).iter().try_for_each(|(title, sheet)| out.line(&format!("{title}\n{}", sheet.terminal(None))))
}

/// What is measured on pairs of sentences.
fn measure_pairs(
    args: &InspectArgs,
    bench: &Bench<'_>,
    task: &dyn Task,
    asked: &Asked,
    view: &mut View,
) -> Result<(), InspectError> {
    let wanted = [("--patch", args.patch), ("--pairs", args.pairs)].into_iter().find(|(_, wanted)| *wanted);
    let Some((flag, _)) = wanted else { return Ok(()) };
    if view.sentences.len() < 2 {
        return Err(InspectError::NoPairs { flag, task: task.kind().to_owned() });
    }
    if args.patch {
        view.patching = Some(bench.patching(&view.sentences));
        view.patching_by_mark = Some(bench.patching_by_mark(task, asked));
    }
    if args.pairs {
        view.pairs = Some(bench.pairs(task, asked));
    }
    Ok(())
}

fn write(args: &InspectArgs, view: &View) -> anyhow::Result<()> {
    if let Some(path) = &args.html {
        write_atomic(path, page::page(view)?.as_bytes())?;
    }
    let folders = [(&args.png, "png"), (&args.svg, "svg")];
    for (folder, ending) in folders.into_iter().filter_map(|(folder, ending)| Some((folder.as_ref()?, ending))) {
        create_dir(folder)?;
        for figure in pictures::of(view) {
            let bytes = match ending {
                "png" => figure.png()?,
                _ => figure.svg(crate::report::Theme::Standalone, crate::report::Layout::Wide)?.into_bytes(),
            };
            write_atomic(&folder.join(format!("{}.{ending}", figure.id)), &bytes)?;
        }
    }
    Ok(())
}

/// The task that is asked for and the seed of its streams; none where tokens or a text are given.
fn task(args: &InspectArgs, registry: &Registry) -> anyhow::Result<Option<(Box<dyn Task>, u64)>> {
    if args.tokens.is_some() || args.text.is_some() {
        let measured = [("--ablate", args.ablate), ("--patch", args.patch), ("--pairs", args.pairs)];
        return match measured.into_iter().find(|(_, wanted)| *wanted) {
            Some((flag, _)) => Err(InspectError::TakesTask(flag).into()),
            None => Ok(None),
        };
    }
    let path = args.dir.join("config.toml");
    let run = match path.is_file() {
        true => load(&path, &[], &registry.kinds())?.runs()[0].config.clone(),
        false if args.asked.task.is_some() => RunConfig::default(),
        false => return Err(InspectError::NoTask(args.dir.clone()).into()),
    };
    let config = with_task(&run, &args.asked, registry)?;
    Ok(Some((build_task(&config, registry)?, args.asked.seed.unwrap_or(config.seed))))
}

/// The tokens or the text that the command line gives.
fn given(args: &InspectArgs, model: &Model, texts: Option<&Texts>) -> Result<Sentence, InspectError> {
    let tokens = match (&args.text, &args.tokens) {
        (Some(text), _) => {
            let texts = texts.ok_or_else(|| InspectError::NoTokenizer(args.dir.clone()))?;
            texts.tokens(text)?
        }
        (None, Some(tokens)) => tokens.0.clone(),
        (None, None) => unreachable!("without tokens and text there is a task"),
    };
    if let Some(&token) = tokens.iter().find(|token| **token as usize >= model.vocab()) {
        return Err(InspectError::Token { token, vocab: model.vocab() });
    }
    let words = match texts {
        Some(texts) => {
            let mut behind = texts.behind(&[])?;
            tokens.iter().map(|token| behind.push(*token)).collect::<Result<_, _>>()?
        }
        None => tokens.iter().map(ToString::to_string).collect(),
    };
    match (tokens.len(), model.max_length()) {
        (0, _) => Err(InspectError::Empty),
        (length, Some(longest)) if length > longest => Err(InspectError::Length { length, longest }),
        _ => Ok(Sentence { tokens, words, ..Sentence::default() }),
    }
}

/// Sequences of one length as a tensor.
fn tensor(sequences: &[&[u32]], device: &Device) -> Tensor<2, Int> {
    let [b, l] = [sequences.len(), sequences[0].len()];
    let tokens: Vec<i32> = sequences.iter().flat_map(|tokens| tokens.iter().map(|token| *token as i32)).collect();
    Tensor::from_data(TensorData::new(tokens, [b, l]), device)
}
