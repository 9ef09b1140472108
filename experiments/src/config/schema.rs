//! What a run is asked to do: the shape of a config file, with every default stated once.

use std::collections::BTreeMap;

use heddle_hybrid::ModelConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One run, as asked for: a config file laid over these defaults.
///
/// The serialised form is canonical: it is stored beside the results as `config.toml` and its hash names the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Name of the experiment: the folder below the output directory that its runs share.
    pub name: String,
    /// Name of the case that this run is of in a comparison, for example `hybrid`.
    pub case: String,
    /// Seed of the parameters and of the data.
    pub seed: u64,
    /// Where it runs: `cpu` (Burn's Flex) or `ndarray`.
    pub device: String,
    /// The task: its `kind` and that task's settings.
    pub task: Map<String, Value>,
    /// The model.
    pub model: ModelConfig,
    /// How it is trained.
    pub train: TrainConfig,
    /// How it is evaluated.
    pub eval: EvalConfig,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            name: "run".into(),
            case: String::new(),
            seed: 0,
            device: "cpu".into(),
            task: Map::from_iter([("kind".to_owned(), Value::from("mqar"))]),
            model: ModelConfig::default(),
            train: TrainConfig::default(),
            eval: EvalConfig::default(),
        }
    }
}

/// The optimiser, its schedule and the budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps at most; 0 where another budget alone ends the run.
    pub steps: u64,
    /// Training ends with the step that reaches this number of tokens; 0 never.
    pub tokens: u64,
    /// Training ends with the step that reaches this many minutes of training, over all starts of the run, evaluations and
    /// checkpoints left out; 0 never. The clock is not part of the config: such a run cannot be repeated bit for bit.
    pub minutes: f64,
    /// Sequences in a batch: of one optimiser step.
    pub batch: usize,
    /// Micro-batches that a batch is computed in, one after the other: less memory for the same gradient within rounding.
    pub accumulate: usize,
    /// Tokens after which back-propagation through time is cut off (arXiv:1512.02410, §2.2): the state goes on, the
    /// gradient does not, and the memory is that of a chunk; 0 never.
    pub chunk: usize,
    /// What turns gradients into steps.
    pub optimizer: Rule,
    /// Peak learning rate.
    pub lr: f64,
    /// Learning rate at the end of the schedule, as a fraction of the peak.
    pub lr_floor: f64,
    /// Steps of linear warm-up from zero.
    pub warmup: u64,
    /// What follows the warm-up.
    pub schedule: Schedule,
    /// How long the learning rate of `wsd` falls at the end: below 1 a share of all steps, else a number of steps.
    pub decay: f64,
    /// How the learning rate of `wsd` falls.
    pub decay_form: DecayForm,
    /// Decoupled weight decay (arXiv:1711.05101), applied to matrices only.
    pub weight_decay: f64,
    /// Decay of AdamW's first moment; Lion's weight of the momentum in a step.
    pub beta1: f64,
    /// Decay of AdamW's second moment; decay of Lion's momentum.
    pub beta2: f64,
    /// Decay of the momentum of Muon and SGD.
    pub momentum: f64,
    /// AdamW's ε.
    pub epsilon: f64,
    /// The gradient's global 2-norm is clipped to this; 0 turns clipping off.
    pub clip: f64,
    /// Decay of the exponential moving average of the parameters, which is evaluated and kept in place of them; 0 keeps none.
    pub ema: f64,
    /// Whether the backward pass computes each layer again instead of keeping its numbers: the memory of one layer, for
    /// one more forward pass (arXiv:1604.06174).
    pub gradient_checkpointing: bool,
    /// Stages, one after the other, in which training batches are of the task's train slices by other weights; the last
    /// stage goes on. Empty: the task's weights throughout.
    pub curriculum: Vec<Stage>,
    /// Steps between two records of loss and learning rate.
    pub log_every: u64,
    /// Steps between two histograms of each parameter and its gradient; 0 records none.
    pub histograms: u64,
    /// Steps between two checkpoints; 0 saves only when evaluating and at the end.
    pub checkpoint_every: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            tokens: 0,
            minutes: 0.0,
            batch: 64,
            accumulate: 1,
            chunk: 0,
            optimizer: Rule::Adamw,
            lr: 3e-3,
            lr_floor: 0.0,
            warmup: 100,
            schedule: Schedule::Cosine,
            decay: 0.1,
            decay_form: DecayForm::Linear,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            momentum: 0.95,
            epsilon: 1e-8,
            clip: 1.0,
            ema: 0.0,
            gradient_checkpointing: false,
            curriculum: Vec::new(),
            log_every: 10,
            histograms: 0,
            checkpoint_every: 0,
        }
    }
}

/// A stage of a curriculum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its optimiser steps.
    pub steps: u64,
    /// How often a batch is of each train slice of the task, relative to the others, in their order.
    pub weights: Vec<f64>,
}

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays at the peak.
    Constant,
    /// Half a cosine from the peak to the floor at the last step (arXiv:1608.03983, eq. 5, one cycle).
    Cosine,
    /// A line from the peak to the floor at the last step.
    Linear,
    /// Warm-up, stable, decay (arXiv:2404.06395, §4.2): it stays at the peak until the last steps, and falls to the floor
    /// in those.
    Wsd,
}

/// How the learning rate falls at the end of `wsd`, as a share of what is between peak and floor; `x` runs from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayForm {
    /// `1 − x`.
    Linear,
    /// `1 − √x` (arXiv:2405.18392, eq. 1).
    OneMinusSqrt,
}

/// What turns gradients into steps. Weight decay is decoupled and the gradient clipped first, whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// AdamW (arXiv:1711.05101, algorithm 2).
    Adamw,
    /// Lion (arXiv:2302.06675, algorithm 2): the sign of an interpolated momentum.
    Lion,
    /// Muon for the matrices of the layers, at the scale that lets it use AdamW's learning rate and weight decay
    /// (arXiv:2502.16982, eq. 4); AdamW for the embedding, the head, convolutions and all else.
    Muon,
    /// Stochastic gradient descent with Polyak's momentum.
    Sgd,
}

/// Evaluation while training and at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Steps between two evaluations on the validation stream.
    pub every: u64,
    /// Sequences in an evaluation batch; of long sequences fewer.
    pub batch: usize,
    /// Tokens of a sequence that are evaluated at a time, with the state carried: the values do not change, and the memory is
    /// that of a chunk; 0 reads short sequences at once and long ones in chunks.
    pub chunk: usize,
    /// Training stops when validation accuracy (the lowest over slices) reaches this; above 1 never.
    pub stop_at: f64,
    /// Training stops after this many evaluations without a better validation accuracy; 0 never.
    pub patience: u64,
    /// Slices of the task, each as in its `validation`, that are evaluated and recorded while training, such as longer
    /// sequences; nothing is chosen by them.
    pub monitor: Vec<Map<String, Value>>,
    /// Steps between two evaluations of them; 0 with every evaluation on the validation stream.
    pub monitor_every: u64,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every: 100, batch: 64, chunk: 0, stop_at: 2.0, patience: 0, monitor: Vec::new(), monitor_every: 0 }
    }
}

/// A comparison, the table `[sweep]`: every case at every point (list × zip × grid) on every seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SweepConfig {
    /// Seeds that every combination is run on; empty means the run's own.
    pub seeds: Vec<u64>,
    /// Dotted key → values, combined as a grid.
    pub axes: BTreeMap<String, Vec<Value>>,
    /// Dotted key → values, as many for each key, which move together.
    pub zip: BTreeMap<String, Vec<Value>>,
    /// Points written out, each a table of settings.
    pub list: Vec<Value>,
    /// What validation chooses for each case: keys of `axes`, `zip` or `list`, with the keys that move with them.
    pub select: Vec<String>,
    /// Name → overriding tables, one named case each, in the file's order.
    pub case: Map<String, Value>,
}

/// Whether a name can be one part of a path on any system, and be typed in a shell without quotes.
pub(super) fn is_path_component(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain) && name.len() <= 100
}
