//! The training loop: step, log, evaluate, save, stop.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use heddle_hybrid::Model;
use heddle_tasks::{Split, Task};
use indicatif::ProgressBar;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::average::Average;
use crate::checkpoint::{self, Best, Checkpoint, CheckpointError, Tensors, TrainState, parameters, with_parameters};
use crate::config::{EvalConfig, RunConfig};
use crate::data::Batches;
use crate::evaluate::{evaluate, lowest_accuracy};
use crate::files::{FileError, write_atomic};
use crate::gradients::{BatchGradients, differentiate};
use crate::histograms::histograms;
use crate::interrupt::Interrupt;
use crate::metrics::Recorder;
use crate::optimizer::{Optimizer, StepReport};
use crate::result::{Metric, SliceScore, Stop};
use crate::schedule::{Spent, learning_rate};

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
    /// Of the seconds of training, those until validation first reached the target.
    #[serde(default)]
    pub to_target: Option<f64>,
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

/// What the slices of `eval.monitor` are recorded as.
const MONITOR: &str = "monitor";

/// Name of the file that keeps a run's [`Clock`] between two starts.
const CLOCK: &str = "clock.json";

/// What is trained on, and how.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The run's config.
    pub config: &'a RunConfig,
    /// Its task.
    pub task: &'a dyn Task,
    /// The task whose validation slices are the config's `eval.monitor`, if it has any.
    pub monitor: Option<&'a dyn Task>,
}

/// One run in training.
pub struct Trainer<'a> {
    config: &'a RunConfig,
    subject: Subject<'a>,
    device: Device,
    directory: PathBuf,
    model: Model,
    /// What is evaluated and kept in place of the model, if the config asks for it.
    average: Option<Average>,
    optimizer: Optimizer,
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
        subject: Subject<'a>,
        mut model: Model,
        device: &Device,
        directory: &Path,
        bar: ProgressBar,
    ) -> Result<(Self, Vec<String>), TrainError> {
        let Subject { config, task, .. } = subject;
        let mut optimizer = Optimizer::new(&config.train);
        let (saved, warnings) = checkpoint::restore(&directory.join("checkpoint"))?.unzip();
        let (mut state, mut best, mut averaged) = (TrainState::default(), Tensors::new(), None);
        if let Some(saved) = saved {
            optimizer.restore(saved.state.step, saved.moments, &device.clone().inner());
            model = with_parameters(model, &saved.model)?;
            (state, best, averaged) = (saved.state, saved.best, Some(saved.average));
        }
        let average = (config.train.ema > 0.0).then(|| match &averaged {
            None => Ok(model.valid()),
            Some(tensors) => with_parameters(model.valid(), tensors),
        });
        let average = average.transpose()?.map(|start| Average::new(config.train.ema, start));
        bar.set_position(state.step);
        // A lost clock costs a figure in the report, not the run.
        let clock = fs::read(directory.join(CLOCK)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let clock: Clock = clock.filter(|_| state.step > 0).unwrap_or_default();
        let trainer = Self {
            config,
            subject,
            device: device.clone(),
            directory: directory.to_owned(),
            model,
            average,
            optimizer,
            batches: Batches::new(task, config.seed, device).with_curriculum(&config.train.curriculum),
            recorder: Recorder::open(directory, state.metrics_rows, &config.to_value())?,
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

    /// Trains until a budget is used up, the target is reached or patience runs out.
    ///
    /// # Errors
    /// If training diverges, is interrupted or a file cannot be written; the last checkpoint then stands.
    pub fn train(mut self) -> Result<Trained, TrainError> {
        while self.state.stop.is_none() {
            self.step()?;
            let interrupted = self.interrupt.requested();
            let step = self.state.step;
            let spent = self.spent().exhausted(&self.config.train);
            let due = |every: u64| every > 0 && step.is_multiple_of(every);
            let evaluates = due(self.config.eval.every) || spent.is_some();
            if due(self.config.eval.monitor_every) || (evaluates && self.config.eval.monitor_every == 0) {
                self.monitor()?;
            }
            if evaluates {
                self.evaluate(spent)?;
                self.save()?;
            } else if interrupted || due(self.config.train.checkpoint_every) {
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

    fn spent(&self) -> Spent {
        Spent { steps: self.state.step, tokens: self.state.tokens, minutes: self.clock.training / 60.0 }
    }

    fn step(&mut self) -> Result<(), TrainError> {
        let start = Instant::now();
        let (step, config) = (self.state.step + 1, &self.config.train);
        let diverged = |what: &str| TrainError::Diverged { step, seed: self.config.seed, what: what.into() };
        let before = self.spent();
        self.batches.draw_train(self.state.step, config.batch);
        let tokens = self.batches.dims().iter().product::<usize>() as u64;
        let computing = Instant::now();
        // What chance decides within a step (dropout) is a function of the seed and the step, so that it can be resumed.
        self.device.seed(chance(self.config.seed, step));
        let BatchGradients { loss, gradients, shares } = differentiate(&self.model, &self.batches, config);
        if !loss.is_finite() {
            return Err(diverged(&format!("the loss is {loss}")));
        }
        if config.histograms > 0 && step.is_multiple_of(config.histograms) {
            for (name, of) in histograms(&self.model, &gradients) {
                self.recorder.record(&Metric::Histogram { step, name, of })?;
            }
        }
        let lr = learning_rate(config, step, before.horizon_behind(tokens, config));
        let (model, report) =
            self.optimizer.step(self.model.clone(), gradients, lr).map_err(|error| diverged(&error.to_string()))?;
        self.model = model;
        if let Some(average) = &mut self.average {
            average.update(&self.model, step);
        }
        self.clock.computing += computing.elapsed().as_secs_f64();
        self.state.step = step;
        self.state.tokens += tokens;
        self.clock.tokens += tokens;
        if step.is_multiple_of(config.log_every) || step == 1 {
            self.log(loss, report, self.clock.training + start.elapsed().as_secs_f64())?;
            for (layer, shares) in shares {
                self.recorder.record(&Metric::Routing { step, layer, shares })?;
            }
        }
        self.clock.training += start.elapsed().as_secs_f64();
        Ok(())
    }

    fn log(&mut self, loss: f64, report: StepReport, now: f64) -> Result<(), TrainError> {
        let seconds = now - self.logged.training;
        let tokens_per_second = (self.clock.tokens - self.logged.tokens) as f64 / seconds;
        self.logged = Clock { training: now, ..self.clock };
        let horizon = self.spent().horizon(&self.config.train);
        if horizon.is_finite() {
            self.bar.set_length(horizon.ceil() as u64);
        }
        self.bar.set_position(self.state.step);
        self.bar.set_message(format!("loss {loss:.3}"));
        let StepReport { lr, grad_norm } = report;
        let (step, tokens) = (self.state.step, self.state.tokens);
        Ok(self.recorder.record(&Metric::Train { step, loss, lr, grad_norm, tokens, tokens_per_second })?)
    }

    /// The model that counts, without gradients.
    fn current(&self) -> Model {
        self.average.as_ref().map_or_else(|| self.model.valid(), |average| average.model().clone())
    }

    /// Scores of the validation slices of `task`.
    fn scores(&self, task: &dyn Task) -> Vec<SliceScore> {
        let device = self.device.clone().inner();
        evaluate(&self.current(), task, Split::Validation, self.config.seed, &self.config.eval, &device)
    }

    fn monitor(&mut self) -> Result<(), TrainError> {
        let Some(task) = self.subject.monitor else { return Ok(()) };
        let scores = self.scores(task);
        Ok(record_scores(&mut self.recorder, self.state.step, MONITOR, &scores)?)
    }

    fn evaluate(&mut self, spent: Option<Stop>) -> Result<(), TrainError> {
        let EvalConfig { stop_at, patience, .. } = self.config.eval;
        let scores = self.scores(self.subject.task);
        record_scores(&mut self.recorder, self.state.step, &Split::Validation.to_string(), &scores)?;
        let accuracy = lowest_accuracy(&scores);
        let reached = accuracy >= stop_at;
        let better = self.state.best.as_ref().is_none_or(|best| rank(&scores) > rank(&best.validation));
        if better {
            self.best = parameters(&self.current());
            self.state.best = Some(Best { step: self.state.step, validation: scores });
            self.state.since_best = 0;
        } else {
            self.state.since_best += 1;
        }
        if reached {
            self.state.steps_to_target.get_or_insert(self.state.step);
            self.state.tokens_to_target.get_or_insert(self.state.tokens);
            self.clock.to_target.get_or_insert(self.clock.training);
        }
        self.state.stop = match (reached, patience > 0 && self.state.since_best >= patience) {
            (true, _) => Some(Stop::Target),
            (_, true) => Some(Stop::Patience),
            _ => spent,
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
            average: self.average.as_ref().map(|average| parameters(average.model())).unwrap_or_default(),
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
pub fn record_scores(recorder: &mut Recorder, step: u64, split: &str, scores: &[SliceScore]) -> Result<(), FileError> {
    let rows = scores.iter().map(|score| Metric::Eval { step, split: split.to_owned(), score: score.clone() });
    rows.into_iter().try_for_each(|row| recorder.record(&row))
}

/// Better accuracy first; at equal accuracy, lower loss.
fn rank(scores: &[SliceScore]) -> (f64, f64) {
    let loss: f64 = scores.iter().map(|score| score.loss).sum();
    (lowest_accuracy(scores), -loss)
}
