//! Models as directories: published checkpoints, what they are imported to, and finished runs.
//!
//! An imported model is a directory of
//!
//! | file | holds |
//! |---|---|
//! | `model.toml` | the family, the number of tokens and, as in a run file, `[model]` |
//! | `config.json` | the published config, from which the model can be exported again |
//! | `tokenizer.json` | the published tokenizer, if there was one |
//! | `checkpoint/` | the parameters as a run's checkpoint of step 0; the name holds the checksum |

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use heddle_hybrid::pretrained::{
    Architecture, PretrainedError, ShardIndex, TensorFile, TensorFiles, load_parameters, parameters, stop_tokens,
};
use heddle_hybrid::{Init, Model, ModelConfig, ModelError};
use heddle_tasks::Readout;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use crate::Registry;
use crate::checkpoint::{CheckpointError, newest, save_parameters, write_tensors};
use crate::config::load;
use crate::device::{DeviceError, device};
use crate::files::{FileError, write_atomic};
use crate::run::{RunError, build_model, build_task};
use crate::text::TOKENIZER;

/// A directory that is no model, or whose model cannot be computed with.
#[derive(Debug, thiserror::Error)]
pub enum ModelDirError {
    /// A file that was asked for cannot be read.
    #[error(transparent)]
    Unreadable(FileError),
    /// A file cannot be written.
    #[error(transparent)]
    Unwritable(#[from] FileError),
    /// There is no model.
    #[error("{} holds no {missing}; {remedy}", directory.display())]
    NoModel {
        /// The directory.
        directory: PathBuf,
        /// What it lacks.
        missing: &'static str,
        /// What helps.
        remedy: &'static str,
    },
    /// A run's model that answers for each position what stood there, and for none what comes next.
    #[error(
        "{}: a model of '{task}' says what its state holds, and predicts no next token; give a run of another task",
        directory.display()
    )]
    NoNextToken {
        /// The run.
        directory: PathBuf,
        /// Its task.
        task: &'static str,
    },
    /// A published checkpoint is not what it should be.
    #[error("{}: {source}", directory.display())]
    Published {
        /// The directory.
        directory: PathBuf,
        /// What is wrong.
        source: Box<PretrainedError>,
    },
    /// The description of an imported model is not what it should be.
    #[error("{}: {problem}; import the model again", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The directory to write to holds something else.
    #[error("{} holds a run; choose another directory", .0.display())]
    Taken(PathBuf),
    /// The tokens are not what they should be.
    #[error("{}: {problem}", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A checkpoint of this program cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device cannot be used.
    #[error("`--device`: {0}")]
    Device(#[from] DeviceError),
    /// The run's config cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl ModelDirError {
    /// Whether the fault lies in what was given, not in what happened.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Published { source, .. } => !source.is_failure(),
            Self::Unwritable(_) | Self::Checkpoint(_) => false,
            Self::Run(error) => error.is_usage(),
            _ => true,
        }
    }
}

const DESCRIPTION: &str = "model.toml";
const PUBLISHED: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The content of `model.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    family: String,
    vocab: usize,
    model: ModelConfig,
}

/// Names the directory of an error.
fn published(directory: &Path) -> impl Fn(PretrainedError) -> ModelDirError + '_ {
    |source| ModelDirError::Published { directory: directory.to_owned(), source: Box::new(source) }
}

fn read_text(path: &Path) -> Result<String, ModelDirError> {
    fs::read_to_string(path).map_err(|error| ModelDirError::Unreadable(FileError::of("read", path)(error)))
}

fn open(path: &Path) -> Result<TensorFile<File>, ModelDirError> {
    let file = File::open(path).map_err(|error| ModelDirError::Unreadable(FileError::of("read", path)(error)))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    TensorFile::open(&name, file).map_err(published(path.parent().unwrap_or(path)))
}

/// The tensors of a published checkpoint: of `model.safetensors`, else of the files that the index lists, else of all
/// `model*.safetensors`.
fn open_published(directory: &Path) -> Result<TensorFiles<File>, ModelDirError> {
    let (whole, index) = (directory.join(WEIGHTS), directory.join(INDEX));
    if whole.exists() {
        return TensorFiles::new(vec![open(&whole)?]).map_err(published(directory));
    }
    if index.exists() {
        let index = ShardIndex::parse(&read_text(&index)?).map_err(published(directory))?;
        let files = index.files().map(|name| open_shard(directory, name)).collect::<Result<_, _>>()?;
        return TensorFiles::indexed(&index, files).map_err(published(directory));
    }
    let entries = fs::read_dir(directory).map_err(FileError::of("read the directory", directory));
    let names = entries.map_err(ModelDirError::Unreadable)?.flatten().map(|entry| entry.path());
    let is_shard = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("model") && name.ends_with(".safetensors")
    };
    let mut paths: Vec<PathBuf> = names.filter(is_shard).collect();
    paths.sort();
    if paths.is_empty() {
        let remedy = "a published checkpoint has model.safetensors, or several files and an index of them";
        return Err(ModelDirError::NoModel { directory: directory.to_owned(), missing: "model*.safetensors", remedy });
    }
    let files = paths.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
    TensorFiles::new(files).map_err(published(directory))
}

fn open_shard(directory: &Path, name: &str) -> Result<TensorFile<File>, ModelDirError> {
    let path = directory.join(name);
    if path.is_file() {
        return open(&path);
    }
    let source = PretrainedError::File {
        file: INDEX.into(),
        problem: format!("it names {name}, which is not there"),
        remedy: "fetch the missing file",
    };
    Err(published(directory)(source))
}

fn load_published(
    directory: &Path,
    registry: &Registry,
    device: &Device,
) -> Result<(Architecture, Model, String), ModelDirError> {
    let path = directory.join(PUBLISHED);
    if !path.is_file() {
        let remedy = "a published checkpoint has one beside its tensors";
        return Err(ModelDirError::NoModel { directory: directory.to_owned(), missing: PUBLISHED, remedy });
    }
    let text = read_text(&path)?;
    let architecture = Architecture::parse(&text).map_err(published(directory))?;
    let mut files = open_published(directory)?;
    let model = architecture.load(&mut files, &registry.mixers, device).map_err(published(directory))?;
    Ok((architecture, model, text))
}

/// Reads a published checkpoint and writes it as a model directory.
///
/// # Errors
/// If the checkpoint cannot be read as it should be, or the directory not written; nothing is written in the first case.
pub fn import(directory: &Path, out: &Path, registry: &Registry) -> Result<(Architecture, Model), ModelDirError> {
    if ["config.toml", "metrics.jsonl"].iter().any(|name| out.join(name).exists()) {
        return Err(ModelDirError::Taken(out.to_owned()));
    }
    let (architecture, model, text) = load_published(directory, registry, &device("cpu")?)?;
    let description = Description {
        family: architecture.family().to_owned(),
        vocab: architecture.vocab(),
        model: architecture.model().clone(),
    };
    let toml = toml::to_string(&description).expect("a table of values other than null is TOML");
    save_parameters(&out.join("checkpoint"), parameters(&model))?;
    write_atomic(&out.join(PUBLISHED), text.as_bytes())?;
    copy_tokenizer(directory, out)?;
    write_atomic(&out.join(DESCRIPTION), toml.as_bytes())?;
    Ok((architecture, model))
}

/// Copies the tokenizer; where there is none, one of an earlier model does not stay either.
fn copy_tokenizer(directory: &Path, out: &Path) -> Result<(), ModelDirError> {
    let [from, to] = [directory, out].map(|directory| directory.join(TOKENIZER));
    if from.is_file() {
        let bytes = fs::read(&from).map_err(|error| ModelDirError::Unreadable(FileError::of("read", &from)(error)))?;
        write_atomic(&to, &bytes)?;
    } else if to.is_file() {
        fs::remove_file(&to).map_err(FileError::of("remove", &to))?;
    }
    Ok(())
}

/// The tokens that end a text, as far as the config in a directory states them.
///
/// # Errors
/// If there is a config and it cannot be read.
pub(crate) fn stop_tokens_of(directory: &Path) -> Result<Vec<u32>, ModelDirError> {
    let path = directory.join(PUBLISHED);
    if !path.is_file() {
        return Ok(vec![]);
    }
    stop_tokens(&read_text(&path)?).map_err(published(directory))
}

/// Writes an imported model as a published checkpoint, in f32, and returns the number of its tensors.
///
/// # Errors
/// If the directory holds no imported model, or the checkpoint cannot be written.
pub fn export(directory: &Path, out: &Path, registry: &Registry) -> Result<usize, ModelDirError> {
    let config = directory.join(PUBLISHED);
    if !directory.join(DESCRIPTION).is_file() || !config.is_file() {
        let remedy = "only what was imported can be exported";
        return Err(ModelDirError::NoModel { directory: directory.to_owned(), missing: DESCRIPTION, remedy });
    }
    let text = read_text(&config)?;
    let architecture = Architecture::parse(&text).map_err(published(directory))?;
    let model = load_model(directory, registry, &device("cpu")?)?;
    let tensors = architecture.tensors(&model).map_err(published(directory))?;
    let count = tensors.len();
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let tensors = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor));
    write_tensors(out, tensors, about, |_| Ok(WEIGHTS.to_owned()))?;
    write_atomic(&out.join(PUBLISHED), text.as_bytes())?;
    copy_tokenizer(directory, out)?;
    Ok(count)
}

/// The language model of a directory: an imported one, a finished run's best, or a published checkpoint.
///
/// # Errors
/// If the directory holds none of these, it cannot be read as it should be, or the run's task asks for no next tokens.
pub fn load_model(directory: &Path, registry: &Registry, device: &Device) -> Result<Model, ModelDirError> {
    load_described(directory, registry, device).map(|(model, _)| model)
}

/// As [`load_model`], with what the model is made of.
///
/// # Errors
/// As [`load_model`].
pub(crate) fn load_described(
    directory: &Path,
    registry: &Registry,
    device: &Device,
) -> Result<(Model, ModelConfig), ModelDirError> {
    let (description, run) = (directory.join(DESCRIPTION), directory.join("config.toml"));
    if description.is_file() {
        let wrong = |problem: String| ModelDirError::Description { path: description.clone(), problem };
        let Description { vocab, model: config, .. } =
            toml::from_str(&read_text(&description)?).map_err(|error| wrong(error.to_string()))?;
        let model = Model::new(&config, vocab, &registry.mixers, &mut Init::outline(device));
        let model = with_newest(directory, model.map_err(|error: ModelError| wrong(error.to_string()))?)?;
        return Ok((model, config));
    }
    if run.is_file() {
        let loaded = load(&run, &[], &registry.kinds()).map_err(RunError::from)?;
        let planned = &loaded.runs()[0];
        let task = build_task(&planned.config, registry).map_err(RunError::from)?;
        if task.readout() == Readout::Item {
            return Err(ModelDirError::NoNextToken { directory: directory.to_owned(), task: task.kind() });
        }
        let model = build_model(planned, (task.vocab(), task.readout()), registry, &mut Init::outline(device));
        let model = with_newest(directory, model.map_err(RunError::from)?)?;
        return Ok((model, planned.config.model.clone()));
    }
    if directory.join(PUBLISHED).is_file() {
        let (architecture, model, _) = load_published(directory, registry, device)?;
        return Ok((model, architecture.model().clone()));
    }
    let remedy = "give an imported model, a run or a published checkpoint";
    Err(ModelDirError::NoModel {
        directory: directory.to_owned(),
        missing: "model.toml, config.toml or config.json",
        remedy,
    })
}

/// The model with the parameters of the newest checkpoint: the best on validation, if there are any.
fn with_newest(directory: &Path, model: Model) -> Result<Model, ModelDirError> {
    let Some(path) = newest(&directory.join("checkpoint"))? else {
        let remedy = "import the model again, or finish the run";
        return Err(ModelDirError::NoModel { directory: directory.to_owned(), missing: "checkpoint", remedy });
    };
    let mut files = TensorFiles::new(vec![open(&path)?]).map_err(published(directory))?;
    let group = if files.names().any(|name| name.starts_with("best.")) { "best." } else { "model." };
    load_parameters(model, &mut files, group).map_err(published(directory))
}

/// The pieces in which a sequence goes through a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pieces {
    /// Tokens before decoding, which takes one at a time; none means all.
    pub prefill: Option<usize>,
    /// Tokens at a time before decoding; none means all.
    pub chunk: Option<usize>,
}

impl Pieces {
    /// The lengths of the pieces of a sequence of `length`, which add up to it.
    ///
    /// ```
    /// use experiments::pretrained::Pieces;
    /// let pieces = Pieces { prefill: Some(5), chunk: Some(2) };
    /// assert_eq!(pieces.of(7), [2, 2, 1, 1, 1]);
    /// assert_eq!(Pieces::default().of(7), [7]);
    /// ```
    pub fn of(self, length: usize) -> Vec<usize> {
        let prefill = self.prefill.unwrap_or(length).min(length);
        let chunk = self.chunk.unwrap_or(prefill).max(1);
        let chunks = (0..prefill).step_by(chunk).map(|start| chunk.min(prefill - start));
        chunks.chain(std::iter::repeat_n(1, length - prefill)).collect()
    }
}

/// The scores of the next token behind every token, `[b, l, v]`, computed in `pieces`.
///
/// # Panics
/// If a token is not below the model's number of tokens.
pub fn logits(model: &Model, tokens: Tensor<2, Int>, pieces: Pieces) -> Tensor<3> {
    let ([b, l], device) = (tokens.dims(), tokens.device());
    let (mut state, mut start, mut scores) = (model.state(b, &device), 0, vec![]);
    for length in pieces.of(l) {
        let (hidden, next) = model.forward(tokens.clone().narrow(1, start, length), state);
        let rows = model.logits(hidden.reshape([b * length, model.d_model()]));
        scores.push(rows.reshape([b, length, model.vocab()]));
        (state, start) = (next, start + length);
    }
    Tensor::cat(scores, 1)
}

/// Computes the scores for the tokens of one file and writes them to another; returns their shape.
///
/// # Errors
/// If the model or the tokens are not what they should be, or the file cannot be written.
pub fn logits_of_file(
    directory: &Path,
    [input, output]: [&Path; 2],
    pieces: Pieces,
    on: &str,
    registry: &Registry,
) -> Result<[usize; 3], ModelDirError> {
    let device = device(on)?;
    let tokens = Tokens::read(input)?;
    if let Some(prefill) = pieces.prefill.filter(|prefill| *prefill > tokens.shape[1]) {
        let problem = format!("`--prefill` is {prefill}, and the sequences are {} long", tokens.shape[1]);
        return Err(tokens.wrong(problem));
    }
    let model = load_model(directory, registry, &device)?;
    let tokens = tokens.on(&device, model.vocab())?;
    let scores = logits(&model, tokens, pieces);
    let shape = scores.dims();
    let data = scores.into_data();
    let view = TensorView::new(Dtype::F32, shape.to_vec(), data.as_bytes()).expect("scores are f32");
    let bytes = safetensors::serialize([("logits", view)], None).expect("one named tensor serialises");
    write_atomic(output, &bytes)?;
    Ok(shape)
}

/// Tokens as a file states them.
struct Tokens {
    path: PathBuf,
    ids: Vec<i64>,
    shape: [usize; 2],
}

impl Tokens {
    fn read(path: &Path) -> Result<Self, ModelDirError> {
        let bytes = fs::read(path).map_err(|error| ModelDirError::Unreadable(FileError::of("read", path)(error)))?;
        let mut tokens = Self { path: path.to_owned(), ids: vec![], shape: [0, 0] };
        let file = SafeTensors::deserialize(&bytes).map_err(|error| tokens.wrong(error.to_string()))?;
        let view = file.tensor("input_ids").map_err(|_| tokens.wrong("it holds no tensor `input_ids`".into()))?;
        let &[b, l] = view.shape() else {
            return Err(tokens.wrong(format!("`input_ids` is {:?}; it must be [b, l]", view.shape())));
        };
        if view.dtype() != Dtype::I64 || b * l == 0 {
            return Err(tokens.wrong(format!(
                "`input_ids` is {:?} {:?}; it must be I64 and not empty",
                view.dtype(),
                [b, l]
            )));
        }
        let id = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
        tokens.ids = view.data().chunks_exact(8).map(id).collect();
        tokens.shape = [b, l];
        Ok(tokens)
    }

    fn wrong(&self, problem: String) -> ModelDirError {
        ModelDirError::Tokens { path: self.path.clone(), problem }
    }

    /// The tokens as a tensor, if the model knows them all.
    fn on(self, device: &Device, vocab: usize) -> Result<Tensor<2, Int>, ModelDirError> {
        if let Some(at) = self.ids.iter().position(|id| !(0..vocab as i64).contains(id)) {
            let (row, column) = (at / self.shape[1], at % self.shape[1]);
            let problem = format!("token {} at [{row}, {column}] is not one of the model's {vocab}", self.ids[at]);
            return Err(self.wrong(problem));
        }
        Ok(Tensor::from_data(TensorData::new(self.ids, self.shape), device))
    }
}
