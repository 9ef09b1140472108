//! The training loop: step, log, evaluate, save, stop.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Device;
use heddle_hybrid::{LayerGradients, LayerRouting, Model};
use heddle_kernels::cross_entropy_at;
use heddle_tasks::{Split, Task};
use indicatif::ProgressBar;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Best, Checkpoint, CheckpointError, Tensors, TrainState, parameters, with_parameters};
use crate::config::{EvalConfig, RunConfig};
use crate::data::{Batches, LabelledBatch};
use crate::evaluate::{answers_from, evaluate, lowest_accuracy, routed_answers};
use crate::files::{FileError, write_atomic};
use crate::interrupt::Interrupt;
use crate::metrics::Recorder;
use crate::optimizer::{Adam, StepReport};
use crate::result::{Metric, SliceScore, Stop};

/// Why training stopped short.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The loss or the gradient left the finite numbers.
    #[error(
        "diverged at step {step} (seed {seed}): {what}; the last good checkpoint is kept. \
         Lower `train.lr`, lengthen `train.warmup`, or set `train.clip`"
    )]
    Diverged {
        /// The step that could not be taken.
        step: u64,
        /// The run's seed.
        seed: u64,
        /// What was not finite.
        what: String,
    },
    /// It was asked to stop.
    #[error("interrupted behind step {step}, whose checkpoint is saved; the same command goes on from there")]
    Interrupted {
        /// The last step taken.
        step: u64,
    },
    /// A checkpoint could not be saved or restored.
    #[error(transparent)]
    Checkpoint(CheckpointError),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What a finished training leaves: the state, the best model, its open records, and where the time went.
#[derive(Debug)]
pub struct Trained {
    /// The numbers.
    pub state: TrainState,
    /// The model of the best evaluation, without gradients.
    pub best: Model,
    /// The records, up to the end of training.
    pub recorder: Recorder,
    /// Where the time went.
    pub clock: Clock,
}

/// Where the time went, over all starts of a run; work that an interruption undid is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// Seconds of training steps, from the data to the record, without evaluation and checkpoints.
    pub training: f64,
    /// Of that, seconds of forward, backward and optimiser.
    pub computing: f64,
    /// Seconds in all.
    pub total: f64,
    /// Tokens trained on.
    pub tokens: u64,
}

impl Clock {
    /// Adds the seconds since `since` and starts anew from there.
    fn lap(&mut self, since: &mut Instant) {
        self.total += since.elapsed().as_secs_f64();
        *since = Instant::now();
    }
}

/// A seed for what chance decides in a step.
fn chance(seed: u64, step: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(step);
    rng.next_u64()
}

/// Name of the file that keeps a run's [`Clock`] between two starts.
const CLOCK: &str = "clock.json";

/// One run in training.
pub struct Trainer<'a> {
    config: &'a RunConfig,
    task: &'a dyn Task,
    device: Device,
    directory: PathBuf,
    model: Model,
    optimizer: Adam,
    batches: Batches<'a>,
    state: TrainState,
    best: Tensors,
    recorder: Recorder,
    clock: Clock,
    lap: Instant,
    logged: Clock,
    bar: ProgressBar,
    interrupt: Interrupt,
}

impl std::fmt::Debug for Trainer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("directory", &self.directory)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl<'a> Trainer<'a> {
    /// Takes up the run in `directory` where its last checkpoint stands, or begins it with `model`.
    ///
    /// Returns a warning for each checkpoint that is damaged and was passed over.
    ///
    /// # Errors
    /// If the checkpoints cannot be used or the records cannot be opened.
    pub fn open(
        config: &'a RunConfig,
        task: &'a dyn Task,
        model: Model,
        device: &Device,
        directory: &Path,
        bar: ProgressBar,
    ) -> Result<(Self, Vec<String>), TrainError> {
        let mut optimizer = Adam::new(&config.train);
        let (saved, warnings) = checkpoint::restore(&directory.join("checkpoint"))?.unzip();
        let (model, state, best) = match saved {
            None => (model, TrainState::default(), Tensors::new()),
            Some(Checkpoint { state, model: tensors, moments, best }) => {
                optimizer.restore(state.step, moments, &device.clone().inner());
                (with_parameters(model, &tensors)?, state, best)
            }
        };
        bar.set_position(state.step);
        // A lost clock costs a figure in the report, not the run.
        let clock = fs::read(directory.join(CLOCK)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let clock: Clock = clock.filter(|_| state.step > 0).unwrap_or_default();
        let trainer = Self {
            config,
            task,
            device: device.clone(),
            directory: directory.to_owned(),
            model,
            optimizer,
            batches: Batches::new(task, config.seed, device).with_curriculum(&config.train.curriculum),
            recorder: Recorder::open(directory, state.metrics_rows)?,
            state,
            best,
            clock,
            lap: Instant::now(),
            logged: clock,
            bar,
            interrupt: Interrupt::default(),
        };
        Ok((trainer, warnings.unwrap_or_default()))
    }

    /// Stops behind a step, with a checkpoint, once `interrupt` asks for it.
    pub fn with_interrupt(self, interrupt: Interrupt) -> Self {
        Self { interrupt, ..self }
    }

    /// Trains until the steps are taken, the target is reached or patience runs out.
    ///
    /// # Errors
    /// If training diverges, is interrupted or a file cannot be written; the last checkpoint then stands.
    pub fn train(mut self) -> Result<Trained, TrainError> {
        while self.state.stop.is_none() {
            self.step()?;
            let interrupted = self.interrupt.requested();
            let step = self.state.step;
            let last = step >= self.config.train.steps;
            if step.is_multiple_of(self.config.eval.every) || last {
                self.evaluate(last)?;
                self.save()?;
            } else if interrupted
                || (self.config.train.checkpoint_every > 0 && step.is_multiple_of(self.config.train.checkpoint_every))
            {
                self.save()?;
            }
            if interrupted && self.state.stop.is_none() {
                self.bar.finish_and_clear();
                return Err(TrainError::Interrupted { step });
            }
        }
        self.bar.finish_and_clear();
        self.clock.lap(&mut self.lap);
        let best = with_parameters(self.model.valid(), &self.best)?;
        Ok(Trained { best, state: self.state, recorder: self.recorder, clock: self.clock })
    }

    fn step(&mut self) -> Result<(), TrainError> {
        let start = Instant::now();
        let step = self.state.step + 1;
        let diverged = |what: &str| TrainError::Diverged { step, seed: self.config.seed, what: what.into() };
        let batch = self.batches.train(self.state.step, self.config.train.batch);
        let computing = Instant::now();
        // What chance decides within a step (dropout) is a function of the seed and the step, so that it can be resumed.
        self.device.seed(chance(self.config.seed, step));
        let LayerGradients { loss, gradients, routed } = self.differentiate(&batch);
        let value = f64::from(loss.into_scalar::<f32>());
        if !value.is_finite() {
            return Err(diverged(&format!("the loss is {value}")));
        }
        let (model, report) =
            self.optimizer.step(self.model.clone(), gradients).map_err(|error| diverged(&error.to_string()))?;
        self.model = model;
        self.clock.computing += computing.elapsed().as_secs_f64();
        let [b, l] = batch.tokens.dims();
        let tokens = (b * l) as u64;
        self.state.step = step;
        self.state.tokens += tokens;
        self.clock.tokens += tokens;
        if step.is_multiple_of(self.config.train.log_every) || step == 1 {
            self.log(value, report, self.clock.training + start.elapsed().as_secs_f64())?;
            self.log_routing(&routed)?;
        }
        self.clock.training += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// The loss of a batch and its gradients.
    fn differentiate(&self, batch: &LabelledBatch) -> LayerGradients {
        if self.config.train.gradient_checkpointing {
            let loss = |hidden| cross_entropy_at(answers_from(&self.model, hidden, batch), batch.targets.clone());
            return self.model.gradients_by_layer(batch.tokens.clone(), loss);
        }
        let (logits, routed) = routed_answers(&self.model, batch);
        let loss = cross_entropy_at(logits, batch.targets.clone());
        let objective = routed.iter().fold(loss.clone(), |sum, layer| sum + layer.routing.loss.clone());
        let gradients = GradientsParams::from_grads(objective.backward(), &self.model);
        LayerGradients { loss, gradients, routed }
    }

    fn log(&mut self, loss: f64, report: StepReport, now: f64) -> Result<(), TrainError> {
        let seconds = now - self.logged.training;
        let tokens_per_second = (self.clock.tokens - self.logged.tokens) as f64 / seconds;
        self.logged = Clock { training: now, ..self.clock };
        self.bar.set_position(self.state.step);
        self.bar.set_message(format!("loss {loss:.3}"));
        let StepReport { lr, grad_norm } = report;
        let (step, tokens) = (self.state.step, self.state.tokens);
        Ok(self.recorder.record(&Metric::Train { step, loss, lr, grad_norm, tokens, tokens_per_second })?)
    }

    fn log_routing(&mut self, routed: &[LayerRouting]) -> Result<(), TrainError> {
        for LayerRouting { layer, routing } in routed {
            let row = Metric::Routing { step: self.state.step, layer: *layer, shares: routing.shares() };
            self.recorder.record(&row)?;
        }
        Ok(())
    }

    fn evaluate(&mut self, last: bool) -> Result<(), TrainError> {
        let EvalConfig { stop_at, patience, batch, .. } = self.config.eval;
        let device = self.device.clone().inner();
        let scores = evaluate(&self.model.valid(), self.task, Split::Validation, self.config.seed, batch, &device);
        record_scores(&mut self.recorder, self.state.step, Split::Validation, &scores)?;
        let accuracy = lowest_accuracy(&scores);
        let reached = accuracy >= stop_at;
        let better = self.state.best.as_ref().is_none_or(|best| rank(&scores) > rank(&best.validation));
        if better {
            self.best = parameters(&self.model.valid());
            self.state.best = Some(Best { step: self.state.step, validation: scores });
            self.state.since_best = 0;
        } else {
            self.state.since_best += 1;
        }
        if reached {
            self.state.steps_to_target.get_or_insert(self.state.step);
        }
        self.state.stop = match (reached, patience > 0 && self.state.since_best >= patience, last) {
            (true, _, _) => Some(Stop::Target),
            (_, true, _) => Some(Stop::Patience),
            (_, _, true) => Some(Stop::Steps),
            _ => None,
        };
        Ok(())
    }

    fn save(&mut self) -> Result<(), TrainError> {
        self.state.metrics_rows = self.recorder.sync()?;
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            model: parameters(&self.model.valid()),
            moments: self.optimizer.moments().collect(),
            best: self.best.clone(),
        };
        match checkpoint::save(&self.directory.join("checkpoint"), &checkpoint) {
            Err(CheckpointError::NotFinite(name)) => {
                let what = format!("parameter `{name}` is not finite");
                Err(TrainError::Diverged { step: self.state.step, seed: self.config.seed, what })
            }
            Err(error) => Err(error.into()),
            Ok(_) => {
                self.clock.lap(&mut self.lap);
                let clock = serde_json::to_vec(&self.clock).expect("plain numbers serialise");
                Ok(write_atomic(&self.directory.join(CLOCK), &clock)?)
            }
        }
    }
}

impl From<CheckpointError> for TrainError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(error)
    }
}

/// Appends the scores of an evaluation to the records.
///
/// # Errors
/// If a row cannot be written.
pub fn record_scores(recorder: &mut Recorder, step: u64, split: Split, scores: &[SliceScore]) -> Result<(), FileError> {
    let rows = scores.iter().map(|score| Metric::Eval { step, split: split.to_string(), score: score.clone() });
    rows.into_iter().try_for_each(|row| recorder.record(&row))
}

/// Better accuracy first; at equal accuracy, lower loss.
fn rank(scores: &[SliceScore]) -> (f64, f64) {
    let loss: f64 = scores.iter().map(|score| score.loss).sum();
    (lowest_accuracy(scores), -loss)
}
