//! One run: its directory, its lock, its result.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::module::Module;
use heddle_hybrid::{Init, Model, ModelError};
use heddle_tasks::{Readout, Split, Task, TaskError, content_hash};
use serde_json::Value;

use crate::Registry;
use crate::config::{ConfigError, PlannedRun, RunConfig};
use crate::device::{DeviceError, device};
use crate::evaluate::evaluate;
use crate::files::{FileError, create_dir, remove_if_there, sweep_leftovers, write_atomic};
use crate::gradients::first_without_chunks;
use crate::interrupt::Interrupt;
use crate::memory::peak_bytes;
use crate::progress;
use crate::result::{RunResult, Timing};
use crate::train::{Clock, Subject, TrainError, Trained, Trainer, record_scores};

/// Why a run did not finish.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The config asks for something impossible.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The task cannot be built.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The device cannot be used.
    #[error("`device`: {0}")]
    Device(#[from] DeviceError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Training stopped short.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Another process works on the same run.
    #[error("another process is working on {}; wait for it, or stop it", .0.display())]
    Locked(PathBuf),
}

impl RunError {
    /// Whether the fault lies in what was asked for, not in what happened.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Task(_) | Self::Device(_))
    }

    /// Whether the run was asked to stop, and did.
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Train(TrainError::Interrupted { .. }))
    }
}

/// A finished run.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Its directory.
    pub directory: PathBuf,
    /// What it found.
    pub result: RunResult,
    /// Whether it had been finished before, and nothing was done now.
    pub skipped: bool,
    /// Damaged checkpoints that were passed over.
    pub warnings: Vec<String>,
}

/// How a run is executed; none of it changes what it finds.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The directory that runs go to, as `out/NAME/HASH`.
    pub out: PathBuf,
    /// Whether progress may be drawn.
    pub progress: bool,
    /// Asks for a stop behind the step that is being taken.
    pub interrupt: Interrupt,
}

/// The directory of a run below `out`.
pub fn directory(out: &Path, planned: &PlannedRun) -> PathBuf {
    out.join(&planned.config.name).join(&planned.hash)
}

/// Checks everything that can be known to fail before a run begins: task, device and model.
///
/// # Errors
/// With the first thing that is impossible, drawn on the line that asked for it.
pub fn check(planned: &PlannedRun, registry: &Registry) -> Result<(), RunError> {
    // A model of shapes without numbers is refused for the same reasons, and is built at once.
    prepare(planned, registry, |device, _| Init::outline(device)).map(drop)
}

struct Prepared {
    task: Box<dyn Task>,
    monitor: Option<Box<dyn Task>>,
    device: burn::tensor::Device,
    model: Model,
}

fn prepare(
    planned: &PlannedRun,
    registry: &Registry,
    init: impl Fn(&burn::tensor::Device, u64) -> Init,
) -> Result<Prepared, RunError> {
    let config = &planned.config;
    let device = device(&config.device)?.autodiff();
    let task = build_task(config, registry)?;
    let monitor = monitor(planned, registry)?;
    let slices = task.slices(Split::Train).len();
    if let Some(stage) = config.train.curriculum.iter().find(|stage| stage.weights.len() != slices) {
        let weights = stage.weights.len();
        let text = format!("a stage has {weights} weights, the task {slices} train slices; give one weight a slice");
        return Err(planned.blame("train.curriculum", &text).into());
    }
    if config.train.chunk > 0
        && let Some(name) = first_without_chunks(&config.model, &registry.mixers, &device.clone().inner())
    {
        let text = format!(
            "`{name}` is not causal: in chunks it computes something else than at once; use 0, or another mixer"
        );
        return Err(planned.blame("train.chunk", &text).into());
    }
    let model = build_model(planned, (task.vocab(), task.readout()), registry, &mut init(&device, config.seed))?;
    Ok(Prepared { task, monitor, device, model })
}

/// The task whose validation slices are those of `eval.monitor`.
fn monitor(planned: &PlannedRun, registry: &Registry) -> Result<Option<Box<dyn Task>>, RunError> {
    let config = &planned.config;
    if config.eval.monitor.is_empty() {
        return Ok(None);
    }
    let mut watched = config.clone();
    let slices = config.eval.monitor.iter().cloned().map(Value::Object).collect();
    watched.task.insert("validation".into(), Value::Array(slices));
    let task = build_task(&watched, registry)
        .map_err(|error| planned.blame("eval.monitor", &format!("as the task's `validation`: {error}")))?;
    Ok(Some(task))
}

/// The model that a config describes, for a task of `vocab` tokens whose answers are read in one way or the other.
///
/// # Errors
/// If its settings are impossible.
pub(crate) fn build_model(
    planned: &PlannedRun,
    (vocab, readout): (usize, Readout),
    registry: &Registry,
    init: &mut Init,
) -> Result<Model, ConfigError> {
    let config = &planned.config.model;
    let model = Model::new(config, vocab, &registry.mixers, init);
    let model = model.map_err(|error: ModelError| planned.blame(&error.key(), &error.to_string()))?;
    Ok(match readout {
        Readout::Token => model,
        Readout::Item => model.with_item_readout(config, init),
    })
}

/// The task that a config describes.
///
/// # Errors
/// If its settings are impossible.
pub fn build_task(config: &RunConfig, registry: &Registry) -> Result<Box<dyn Task>, TaskError> {
    let mut settings = config.task.clone();
    let kind = settings.remove("kind");
    registry.tasks.build(kind.as_ref().and_then(Value::as_str).unwrap_or_default(), &Value::Object(settings))
}

/// Executes a run, or takes it up where it was interrupted, or returns its result if it was finished before.
///
/// # Errors
/// If the config is impossible, the run fails, or its directory cannot be used.
pub fn run(planned: &PlannedRun, registry: &Registry, options: &RunOptions) -> Result<Finished, RunError> {
    let directory = directory(&options.out, planned);
    if let Some(result) = finished(&directory)? {
        return Ok(Finished { directory, result, skipped: true, warnings: vec![] });
    }
    let Prepared { task, monitor, device, model } = prepare(planned, registry, |device, seed| Init::new(seed, device))?;
    create_dir(&directory)?;
    let _lock = lock(&directory)?;
    sweep_leftovers(&directory)?;
    remove_if_there(&directory.join(FAILURE))?;
    write_atomic(&directory.join("config.toml"), planned.config.to_toml().as_bytes())?;

    let parameters = model.num_params() as u64;
    let bar = progress::bar(planned.config.train.steps, options.progress);
    let subject = Subject { config: &planned.config, task: &*task, monitor: monitor.as_deref() };
    let (trainer, warnings) = Trainer::open(subject, model, &device, &directory, bar)?;
    let trained = trainer.with_interrupt(options.interrupt.clone()).train().inspect_err(|error| {
        // Whatever else stops a run, such as a full disk, may have passed when it is taken up again.
        if let TrainError::Diverged { .. } = error {
            note_failure(&directory, &error.to_string());
        }
    })?;
    let result = conclude(planned, &*task, trained, parameters, &directory)?;
    Ok(Finished { directory, result, skipped: false, warnings })
}

/// Makes the directory of a run that is to be executed, and puts its config there; returns the config's path.
///
/// # Errors
/// If the system refuses.
pub(crate) fn set_up(planned: &PlannedRun, directory: &Path) -> Result<PathBuf, FileError> {
    create_dir(directory)?;
    let config = directory.join("config.toml");
    write_atomic(&config, planned.config.to_toml().as_bytes())?;
    Ok(config)
}

/// The result of a run if it is finished.
///
/// # Errors
/// If there is a result that cannot be read.
pub fn finished(directory: &Path) -> Result<Option<RunResult>, FileError> {
    let path = directory.join("result.json");
    let text = match fs::read(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        read => read.map_err(FileError::of("read", &path))?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| FileError::of("read", &path)(error.into()))
}

fn conclude(
    planned: &PlannedRun,
    task: &dyn Task,
    trained: Trained,
    parameters: u64,
    directory: &Path,
) -> Result<RunResult, RunError> {
    let PlannedRun { config, axes, hash, .. } = planned;
    let Trained { state, best: model, mut recorder, clock } = trained;
    let best = state.best.expect("training ends with an evaluation");
    let device = model.devices().remove(0);
    let test = evaluate(&model, task, Split::Test, config.seed, &config.eval, &device);
    record_scores(&mut recorder, best.step, &Split::Test.to_string(), &test)?;
    recorder.finish()?;
    let length = task.slices(Split::Test).iter().map(|slice| slice.length).max().unwrap_or(0);
    let result = RunResult {
        version: env!("CARGO_PKG_VERSION").into(),
        commit: option_env!("HEDDLE_COMMIT").map(str::to_owned),
        burn: option_env!("HEDDLE_BURN").map(str::to_owned),
        name: config.name.clone(),
        case: config.case.clone(),
        seed: config.seed,
        axes: axes.clone(),
        config_hash: hash.clone(),
        data_hash: content_hash(task, 0),
        device: config.device.clone(),
        parameters,
        state_bytes: model.state_bytes(length),
        state_length: length as u64,
        steps: state.step,
        best_step: best.step,
        steps_to_target: state.steps_to_target,
        tokens_to_target: state.tokens_to_target,
        stop: state.stop.expect("training has ended"),
        tokens: state.tokens,
        validation: best.validation,
        test,
        timing: timing(clock),
    };
    let mut text = serde_json::to_string_pretty(&result).expect("a result serialises");
    text.push('\n');
    write_atomic(&directory.join("result.json"), text.as_bytes())?;
    Ok(result)
}

/// Holds the run directory for this process; the system lets go of it however the process ends.
///
/// # Errors
/// If another process holds it, or the system refuses.
pub(crate) fn lock(directory: &Path) -> Result<File, RunError> {
    let path = directory.join("lock");
    let file = File::create(&path).map_err(FileError::of("create", &path))?;
    let mut tries = LOCK_TRIES;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // Whoever looks whether a run is running holds it for a moment.
            Err(TryLockError::WouldBlock) if tries > 1 => tries -= 1,
            Err(TryLockError::WouldBlock) => return Err(RunError::Locked(directory.to_owned())),
            Err(TryLockError::Error(error)) => return Err(FileError::of("lock", &path)(error).into()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How often a lock is tried.
const LOCK_TRIES: u32 = 5;

/// File with the reason why a run failed.
pub(crate) const FAILURE: &str = "failure.txt";

/// Why a run failed, if it did: it diverged, or the program broke down. To run it again would end the same way, so a sweep does
/// that only on request.
pub fn failure(directory: &Path) -> Option<String> {
    fs::read_to_string(directory.join(FAILURE)).ok().map(|reason| reason.trim().to_owned())
}

/// Leaves the reason of a failure beside the run; a disk too full to take it has been reported already.
pub(crate) fn note_failure(directory: &Path, reason: &str) {
    let _ = write_atomic(&directory.join(FAILURE), format!("{reason}\n").as_bytes());
}

fn timing(clock: Clock) -> Timing {
    let training = clock.training.max(f64::MIN_POSITIVE);
    Timing {
        train_seconds: clock.training,
        total_seconds: clock.total,
        tokens_per_second: clock.tokens as f64 / training,
        overhead: 1.0 - clock.computing / training,
        seconds_to_target: clock.to_target,
        threads: Some(rayon::current_num_threads()),
        peak_bytes: peak_bytes(),
    }
}

/// The axes of a planned run, as a JSON object on one line.
pub fn axes_to_json(axes: &BTreeMap<String, Value>) -> String {
    serde_json::to_string(axes).expect("plain values serialise")
}
