//! What a run leaves behind, as data: the rows of `metrics.jsonl` and the content of `result.json`.

use std::collections::BTreeMap;

use heddle_tasks::score::Count;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Scores of one slice of a split: all of its labelled positions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SliceScore {
    /// Name of the slice, for example `length=64,pairs=16`.
    pub slice: String,
    /// What sets the slice apart: `length`, `pairs`, …
    pub keys: BTreeMap<String, f64>,
    /// Sequences evaluated.
    pub examples: u64,
    /// Labelled positions evaluated.
    pub labels: u64,
    /// Labelled positions answered right.
    pub correct: u64,
    /// Sequences with every answer right.
    pub whole: u64,
    /// `correct / labels`.
    pub accuracy: f64,
    /// Mean cross-entropy over the labelled positions, in nats.
    pub loss: f64,
    /// Accuracy of a uniform guesser.
    pub chance: f64,
    /// Answers by the distance back to their evidence, in powers of two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_distance: Vec<Bin>,
    /// Answers by the depth of their evidence, in tenths of the sequence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_depth: Vec<Bin>,
}

/// Answers that have something in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bin {
    /// The least value of what they have in common.
    pub from: u32,
    /// Right answers.
    pub right: u64,
    /// Answers.
    pub of: u64,
}

impl Bin {
    pub(crate) fn all(counts: &BTreeMap<u32, Count>) -> Vec<Self> {
        counts.iter().map(|(from, Count { right, of })| Self { from: *from, right: *right, of: *of }).collect()
    }
}

/// One row of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Metric {
    /// A training step.
    Train {
        /// Optimiser steps taken, this one included.
        step: u64,
        /// Mean cross-entropy of the step's batch over labelled positions, in nats.
        loss: f64,
        /// Learning rate of the step.
        lr: f64,
        /// Global 2-norm of the gradient before clipping.
        grad_norm: f64,
        /// Tokens seen so far.
        tokens: u64,
        /// Training throughput since the last record, in tokens a second.
        tokens_per_second: f64,
    },
    /// Where a mixture of experts sent the tokens of a training step.
    Routing {
        /// Optimiser steps taken, this one included.
        step: u64,
        /// The layer, from 0.
        layer: usize,
        /// Share of each expert in what was sent.
        shares: Vec<f64>,
    },
    /// How the numbers of a parameter, or of its gradient, are distributed in a training step, before its update.
    Histogram {
        /// Optimiser steps taken, this one included.
        step: u64,
        /// `parameters/PATH` or `gradients/PATH`.
        name: String,
        /// The distribution.
        #[serde(flatten)]
        of: Histogram,
    },
    /// One slice of an evaluation.
    Eval {
        /// Optimiser steps taken before it.
        step: u64,
        /// `validation`, `test`, or `monitor` for the slices of `eval.monitor`.
        split: String,
        /// The scores.
        #[serde(flatten)]
        score: SliceScore,
    },
}

impl Metric {
    /// Optimiser steps taken when it was recorded.
    pub fn step(&self) -> u64 {
        match self {
            Self::Train { step, .. }
            | Self::Routing { step, .. }
            | Self::Histogram { step, .. }
            | Self::Eval { step, .. } => *step,
        }
    }
}

/// Numbers counted in buckets of equal width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// The smallest number.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Their sum.
    pub sum: f64,
    /// The sum of their squares.
    pub sum_squares: f64,
    /// How many are in each bucket, from the smallest to the largest.
    pub counts: Vec<u64>,
}

/// Why training ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// All steps were taken.
    #[default]
    Steps,
    /// `train.tokens` were trained on.
    Tokens,
    /// `train.minutes` were over.
    Time,
    /// Validation accuracy reached `eval.stop_at`.
    Target,
    /// `eval.patience` evaluations brought nothing better.
    Patience,
}

/// The content of `result.json`: everything that a report reads of a run.
///
/// All of it but `timing` is a pure function of the config on a CPU, unless `train.minutes` ends the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Version of Heddle that made it.
    pub version: String,
    /// Commit that the program was built from, with `-dirty` behind it if it had changes; none outside of a checkout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Version of Burn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burn: Option<String>,
    /// Name of the experiment.
    pub name: String,
    /// Name of the case (empty for a run outside a sweep).
    pub case: String,
    /// Seed.
    pub seed: u64,
    /// Sweep axes: dotted key → value.
    pub axes: BTreeMap<String, Value>,
    /// Hash of the resolved config.
    pub config_hash: String,
    /// Hash of the task's data (kind, settings and version).
    pub data_hash: String,
    /// Device, as asked for.
    pub device: String,
    /// Trained numbers.
    pub parameters: u64,
    /// Bytes of state one sequence needs while decoding at the longest test length, in f32.
    pub state_bytes: u64,
    /// Length that `state_bytes` is for.
    pub state_length: u64,
    /// Optimiser steps taken.
    pub steps: u64,
    /// Step of the checkpoint that was best on validation, whose scores follow.
    pub best_step: u64,
    /// Step at which validation accuracy first reached `eval.stop_at`.
    pub steps_to_target: Option<u64>,
    /// Tokens trained on up to there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_to_target: Option<u64>,
    /// Why training ended.
    pub stop: Stop,
    /// Tokens trained on.
    pub tokens: u64,
    /// Scores on the validation stream at `best_step`.
    pub validation: Vec<SliceScore>,
    /// Scores on the test stream at `best_step`.
    pub test: Vec<SliceScore>,
    /// What the clock said; the only part that differs between two executions.
    pub timing: Timing,
}

/// What the clock said of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Seconds spent training, evaluation and interruptions left out.
    pub train_seconds: f64,
    /// Seconds in all, over every start of the run.
    pub total_seconds: f64,
    /// Training throughput, in tokens a second.
    pub tokens_per_second: f64,
    /// Share of training time outside forward, backward and optimiser, 0 to 1.
    pub overhead: f64,
    /// Seconds spent training until validation accuracy first reached `eval.stop_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_to_target: Option<f64>,
    /// Threads of the start that finished the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The most bytes that the process of that start held, if the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
}
