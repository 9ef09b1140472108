//! Checkpoints: everything that the next step depends on, in one file whose name holds its own checksum.
//!
//! `checkpoint/step-00000100.0123456789abcdef.safetensors` holds the parameters (`model.…`), the optimiser's moments
//! (`adamw.first.…`, `muon.momentum.…`, …), the best parameters on validation so far (`best.…`), their moving average if
//! there is one (`ema.…`), and a [`TrainState`] in its header. Data and schedule are functions of the step, so the step is their whole state. The last two are kept.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor, TensorData};
use heddle_hybrid::pretrained::NamedTensor;
use heddle_hybrid::{EachParameter, for_each_parameter};
use safetensors::tensor::TensorView;
use safetensors::{SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::files::{FileError, TEMPORARY, create_dir, sweep_leftovers, sync, write_atomic};
use crate::result::{SliceScore, Stop};

/// Named tensors on the host.
pub type Tensors = BTreeMap<String, TensorData>;

/// The numbers of a training run that are not tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Optimiser steps taken.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Rows of `metrics.jsonl` at this step.
    pub metrics_rows: u64,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Evaluations since the best one.
    pub since_best: u64,
    /// First step at which validation reached the target.
    pub steps_to_target: Option<u64>,
    /// Tokens trained on up to there.
    #[serde(default)]
    pub tokens_to_target: Option<u64>,
    /// Set once training has ended.
    pub stop: Option<Stop>,
}

/// The best evaluation of a run so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step it was made at.
    pub step: u64,
    /// Its scores on the validation stream.
    pub validation: Vec<SliceScore>,
}

/// The content of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The numbers.
    pub state: TrainState,
    /// Parameters by path.
    pub model: Tensors,
    /// What the optimiser remembers, by name: `adamw.first.…`.
    pub moments: Tensors,
    /// Parameters of the best evaluation; empty before the first.
    pub best: Tensors,
    /// The moving average of the parameters; empty without one.
    pub average: Tensors,
}

/// A checkpoint that could not be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// There are checkpoints, but none of them is whole.
    #[error("no checkpoint in {} can be used:\n{reasons}\nRemove that directory to train from the start", directory.display())]
    NoneUsable {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with each.
        reasons: String,
    },
    /// A checkpoint is of another model.
    #[error("the checkpoint does not fit the model: {0}; remove the run's directory to start anew")]
    Mismatch(String),
    /// A number is not finite.
    #[error("parameter `{0}` is not finite")]
    NotFinite(String),
}

/// Checkpoints kept beside the newest, in case that is damaged.
const KEPT: usize = 2;

/// Saves a checkpoint into `directory` and removes all but the last two.
///
/// # Errors
/// If a parameter is not finite or the file cannot be written; earlier checkpoints are then untouched.
pub fn save(directory: &Path, checkpoint: &Checkpoint) -> Result<PathBuf, CheckpointError> {
    if let Some((name, _)) = checkpoint.model.iter().find(|(_, data)| !data.iter::<f32>().all(f32::is_finite)) {
        return Err(CheckpointError::NotFinite(name.clone()));
    }
    create_dir(directory)?;
    let bytes = encode(checkpoint);
    let path = directory.join(format!("step-{:08}.{}.safetensors", checkpoint.state.step, checksum(&bytes)));
    write_atomic(&path, &bytes)?;
    // Whatever is of this step or a later one is damaged, or of a life of this run that its checkpoints do not tell of.
    let (earlier, void): (Vec<_>, Vec<_>) = list(directory)?
        .into_iter()
        .filter(|(_, old)| *old != path)
        .partition(|(step, _)| *step < checkpoint.state.step);
    let outdated = earlier.iter().rev().skip(KEPT - 1);
    for (_, old) in void.iter().chain(outdated) {
        fs::remove_file(old).map_err(FileError::of("remove the old checkpoint", old))?;
    }
    Ok(path)
}

/// Restores the newest whole checkpoint of `directory`, with a warning for each newer one that is damaged; `None` if
/// there is none at all.
///
/// # Errors
/// If there are checkpoints but none is whole.
pub fn restore(directory: &Path) -> Result<Option<(Checkpoint, Vec<String>)>, CheckpointError> {
    if !directory.is_dir() {
        return Ok(None);
    }
    sweep_leftovers(directory)?;
    let mut damaged = vec![];
    for (_, path) in list(directory)?.iter().rev() {
        match read(path) {
            Ok(checkpoint) => return Ok(Some((checkpoint, damaged))),
            Err(reason) => damaged.push(format!("{}: {reason}", path.display())),
        }
    }
    match damaged.is_empty() {
        true => Ok(None),
        false => Err(CheckpointError::NoneUsable { directory: directory.to_owned(), reasons: damaged.join("\n") }),
    }
}

/// Checkpoint files by step, oldest first.
fn list(directory: &Path) -> Result<Vec<(u64, PathBuf)>, FileError> {
    let entries = fs::read_dir(directory).map_err(FileError::of("read the directory", directory))?;
    let step_of = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step-")?.split('.').next()?.parse().ok();
    let mut files: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|entry| Some((step_of(&entry.path())?, entry.path()))).collect();
    files.sort();
    Ok(files)
}

fn checksum(bytes: &[u8]) -> String {
    short(blake3::hash(bytes))
}

fn short(hash: blake3::Hash) -> String {
    hash.to_hex()[..16].to_owned()
}

/// The checksum of a file's content, which is never held as a whole.
fn checksum_of(path: &Path) -> Result<String, FileError> {
    let hash = || blake3::Hasher::new().update_reader(File::open(path)?).map(|hasher| short(hasher.finalize()));
    hash().map_err(FileError::of("read", path))
}

/// Saves parameters that no training led to as the checkpoint of step 0, tensor by tensor, in place of all that `directory`
/// holds.
///
/// # Errors
/// If the file cannot be written; earlier checkpoints are then untouched.
pub fn save_parameters(directory: &Path, tensors: Vec<NamedTensor>) -> Result<PathBuf, FileError> {
    let state = serde_json::to_string(&TrainState::default()).expect("a state of plain numbers serialises");
    let about = HashMap::from([(STATE.to_owned(), state)]);
    let tensors = tensors.into_iter().map(|tensor| (format!("model.{}", tensor.name), tensor));
    let path = write_tensors(directory, tensors, about, |path| {
        Ok(format!("step-{:08}.{}.safetensors", 0, checksum_of(path)?))
    })?;
    for (_, old) in list(directory)?.into_iter().filter(|(_, old)| *old != path) {
        fs::remove_file(&old).map_err(FileError::of("remove the old checkpoint", &old))?;
    }
    Ok(path)
}

/// Writes a safetensors file into `directory` tensor by tensor, so that no more than one is held beside the model, and
/// publishes it whole under the name that `name` gives the finished file.
///
/// # Errors
/// If the system refuses; what stood under the name before is then untouched.
pub fn write_tensors(
    directory: &Path,
    tensors: impl Iterator<Item = (String, NamedTensor)>,
    about: HashMap<String, String>,
    name: impl FnOnce(&Path) -> Result<String, FileError>,
) -> Result<PathBuf, FileError> {
    let staging = directory.join(format!("{TEMPORARY}tensors"));
    create_dir(&staging)?;
    let unnamed = staging.join("unnamed.safetensors");
    let io = |error| match error {
        SafeTensorError::IoError(error) => error,
        other => std::io::Error::other(other.to_string()),
    };
    let write = || {
        safetensors::serialize_to_file(tensors, Some(about), &unnamed).map_err(io)?;
        File::open(&unnamed)?.sync_all()
    };
    write().map_err(FileError::of("write", &unnamed))?;
    let path = directory.join(name(&unnamed)?);
    fs::rename(&unnamed, &path).map_err(FileError::of("write", &path))?;
    sync(directory)?;
    fs::remove_dir_all(&staging).map_err(FileError::of("remove", &staging))?;
    Ok(path)
}

/// The newest whole checkpoint of `directory`, by its name's checksum, without its content.
///
/// # Errors
/// If there are checkpoints but none is whole, or they cannot be read.
pub fn newest(directory: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    if !directory.is_dir() {
        return Ok(None);
    }
    let mut damaged = vec![];
    for (_, path) in list(directory)?.into_iter().rev() {
        if path.file_name().and_then(|name| name.to_str()?.split('.').nth(1)) == Some(&checksum_of(&path)?) {
            return Ok(Some(path));
        }
        damaged.push(format!("{}: {DAMAGED}", path.display()));
    }
    match damaged.is_empty() {
        true => Ok(None),
        false => Err(CheckpointError::NoneUsable { directory: directory.to_owned(), reasons: damaged.join("\n") }),
    }
}

/// What is wrong with a file whose name and content disagree.
const DAMAGED: &str = "its content does not have the checksum that stands in its name (damaged or cut short)";

fn read(path: &Path) -> Result<Checkpoint, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.split('.').nth(1) != Some(&checksum(&bytes)) {
        return Err(DAMAGED.into());
    }
    decode(&bytes)
}

const STATE: &str = "heddle";

fn encode(checkpoint: &Checkpoint) -> Vec<u8> {
    let state = serde_json::to_string(&checkpoint.state).expect("a state of plain numbers serialises");
    let Checkpoint { model, moments, best, average, .. } = checkpoint;
    let groups = [("model.", model), ("", moments), ("best.", best), ("ema.", average)];
    let views = groups.into_iter().flat_map(|(group, tensors)| {
        tensors.iter().map(move |(name, data)| {
            let view = TensorView::new(safetensors::Dtype::F32, data.shape().to_vec(), data.as_bytes());
            (format!("{group}{name}"), view.expect("parameters are f32 and as long as their shape says"))
        })
    });
    safetensors::serialize(views, Some(HashMap::from([(STATE.to_owned(), state)]))).expect("named tensors serialise")
}

fn decode(bytes: &[u8]) -> Result<Checkpoint, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let state =
        header.metadata().as_ref().and_then(|metadata| metadata.get(STATE)).ok_or("it holds no training state")?;
    let state = serde_json::from_str(state).map_err(|error| format!("its training state cannot be read: {error}"))?;
    let [mut model, mut moments, mut best, mut average] = [const { Tensors::new() }; 4];
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    for (name, view) in tensors.tensors() {
        let (group, rest) = name.split_once('.').ok_or_else(|| format!("a tensor called `{name}`"))?;
        let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), DType::F32);
        match group {
            "model" => model.insert(rest.to_owned(), data),
            "best" => best.insert(rest.to_owned(), data),
            "ema" => average.insert(rest.to_owned(), data),
            _ => moments.insert(name, data),
        };
    }
    Ok(Checkpoint { state, model, moments, best, average })
}

/// The parameters of a module by path.
pub fn parameters<M: Module>(module: &M) -> Tensors {
    struct Collect(Tensors);
    impl EachParameter for Collect {
        fn parameter<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
            self.0.insert(path.to_owned(), param.val().into_data());
        }
    }
    let mut collect = Collect(Tensors::new());
    for_each_parameter(module, &mut collect);
    collect.0
}

/// Puts saved parameters into a module of the same shape.
///
/// # Errors
/// If a parameter is missing, left over, or of another shape.
pub fn with_parameters<M: Module>(module: M, tensors: &Tensors) -> Result<M, CheckpointError> {
    struct Put<'a> {
        path: Vec<String>,
        tensors: &'a Tensors,
        used: usize,
        problem: Option<String>,
    }
    impl ModuleMapper for Put<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let path = self.path.join(".");
            let problem = match self.tensors.get(&path) {
                None => format!("it has no `{path}`"),
                Some(data) if *data.shape() != param.shape() => {
                    format!("`{path}` is {:?} there and {:?} here", data.shape(), param.shape())
                }
                Some(data) => {
                    self.used += 1;
                    return param.map(|old| {
                        let new = Tensor::from_data(data.clone(), &old.device());
                        if old.is_require_grad() { new.require_grad() } else { new }
                    });
                }
            };
            self.problem.get_or_insert(problem);
            param
        }
    }
    let mut put = Put { path: vec![], tensors, used: 0, problem: None };
    let module = module.map(&mut put);
    match put.problem {
        Some(problem) => Err(CheckpointError::Mismatch(problem)),
        None if put.used < tensors.len() => {
            Err(CheckpointError::Mismatch("it has parameters that the model lacks".into()))
        }
        None => Ok(module),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64) -> Checkpoint {
        let tensors = |value: f32| Tensors::from([("a.weight".to_owned(), TensorData::new(vec![value, 2.0], [1, 2]))]);
        Checkpoint {
            state: TrainState { step, tokens: 7 * step, ..Default::default() },
            model: tensors(step as f32),
            moments: Tensors::from([("adamw.first.a.weight".to_owned(), TensorData::new(vec![0.5f32], [1]))]),
            best: Tensors::new(),
            average: tensors(0.25),
        }
    }

    fn restored(directory: &Path) -> (u64, usize) {
        let (checkpoint, warnings) = restore(directory).unwrap().unwrap();
        (checkpoint.state.step, warnings.len())
    }

    #[test]
    fn what_is_saved_is_restored_and_two_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        assert!(restore(directory.path()).unwrap().is_none());
        for step in 1..=4 {
            save(directory.path(), &checkpoint(step)).unwrap();
        }
        assert_eq!(list(directory.path()).unwrap().len(), 2);
        assert_eq!(restore(directory.path()).unwrap().unwrap().0, checkpoint(4));
    }

    #[test]
    fn any_flipped_byte_is_noticed_and_the_previous_checkpoint_used() {
        let directory = tempfile::tempdir().unwrap();
        save(directory.path(), &checkpoint(1)).unwrap();
        let path = save(directory.path(), &checkpoint(2)).unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert_eq!(restored(directory.path()), (1, 1), "byte {at}");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(restored(directory.path()), (2, 0));
    }

    #[test]
    fn when_none_is_whole_each_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = save(directory.path(), &checkpoint(3)).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = restore(directory.path()).unwrap_err().to_string();
        assert!(error.contains("step-00000003") && error.contains("damaged or cut short"), "{error}");
    }

    #[test]
    fn a_parameter_that_is_not_finite_is_not_saved() {
        let directory = tempfile::tempdir().unwrap();
        save(directory.path(), &checkpoint(1)).unwrap();
        let mut bad = checkpoint(2);
        bad.model.insert("b".into(), TensorData::new(vec![f32::NAN], [1]));
        assert_eq!(save(directory.path(), &bad).unwrap_err().to_string(), "parameter `b` is not finite");
        assert_eq!(restored(directory.path()), (1, 0));
    }
}
