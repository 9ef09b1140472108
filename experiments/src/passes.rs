//! In what pieces the sequences of a slice go through a model.

use burn::tensor::{Device, Int, Tensor, TensorData};
use heddle_hybrid::{Cost, Model, ModelConfig};
use heddle_tasks::Slice;

use crate::config::EvalConfig;
use crate::gradients::SAME;

/// Sequences side by side, and how many tokens of each go through the model at a time, with the state carried.
///
/// ```
/// use experiments::config::EvalConfig;
/// use experiments::passes::Passes;
///
/// let eval = EvalConfig { batch: 256, ..EvalConfig::default() };
/// // Short sequences are read at once, as many as a batch holds.
/// assert_eq!(Passes::new(512, 1000, &eval), Passes { rows: 256, chunk: 512 });
/// // Of long ones few, in chunks, so that what is held of a million tokens is what is held of some thousand.
/// assert_eq!(Passes::new(1 << 20, 4, &eval), Passes { rows: 1, chunk: 2048 });
/// assert_eq!(Passes::new(1 << 20, 4, &EvalConfig { chunk: 100, ..eval }), Passes { rows: 1, chunk: 100 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passes {
    /// Sequences.
    pub rows: usize,
    /// Tokens of each; the whole length if the sequences are read at once.
    pub chunk: usize,
}

/// The longest sequence that is read at once, unless the config says otherwise.
const SHORT: usize = 2048;

/// Tokens of all rows that go through the model at a time: so many that products of matrices run at their full speed, and
/// so few that what lies between two of them is small.
const AT_A_TIME: usize = 2048;

/// The most rows of long sequences: beyond them, chunks would be too short to fill a kernel's blocks.
const MOST_ROWS: usize = 8;

/// Tokens of long sequences that are drawn at a time, all rows together, unless one has more.
const DRAWN: usize = 1 << 18;

impl Passes {
    /// The pieces for `examples` sequences of `length` tokens.
    pub fn new(length: usize, examples: usize, eval: &EvalConfig) -> Self {
        if length <= if eval.chunk == 0 { SHORT } else { eval.chunk } {
            return Self { rows: eval.batch, chunk: length };
        }
        let rows = eval.batch.min(examples).min(MOST_ROWS).min((DRAWN / length).max(1));
        Self { rows, chunk: if eval.chunk == 0 { AT_A_TIME / rows } else { eval.chunk } }
    }

    /// Sequences read at once, as many as a batch holds.
    pub(crate) fn at_once(length: usize, eval: &EvalConfig) -> Self {
        Self { rows: eval.batch, chunk: length }
    }
}

/// Tokens on which it is tried whether a model can be computed in chunks.
const TRIED: usize = 8;

/// Whether a model computes the same in chunks as at once; one with a mixer that is not causal does not. It is tried on a
/// short sequence.
pub fn reads_in_chunks(model: &Model, device: &Device) -> bool {
    let length = model.max_length().unwrap_or(TRIED).min(TRIED);
    let tokens: Vec<i32> = (0..length).map(|i| (i * 5 % model.vocab()) as i32).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, length]), device);
    let (whole, _) = model.forward(tokens.clone(), model.state(1, device));
    let half = length / 2;
    if half == 0 {
        return true;
    }
    let (first, state) = model.forward(tokens.clone().narrow(1, 0, half), model.state(1, device));
    let (second, _) = model.forward(tokens.narrow(1, half, length - half), state);
    let difference = (Tensor::cat(vec![first, second], 1) - whole.clone()).abs().max().into_scalar::<f32>();
    difference <= SAME * whole.abs().max().into_scalar::<f32>()
}

/// What evaluating a slice will hold, beyond what the process holds already; an estimate from above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// States of all rows, by the layers' names with how many there are; a cache has room for more than it holds.
    pub states: Vec<(String, u64)>,
    /// Numbers between the layers while a chunk passes.
    pub working: u64,
    /// Tokens and labels.
    pub data: u64,
}

/// Room that a growing cache has, and what is moved to it, over what it holds: twice as much, and half of it before.
const ROOM: u64 = 5;

/// Half of it, as the above is in halves.
const HALVES: u64 = 2;

/// What threads and kernels keep to work in, whatever passes.
const WORKSPACES: u64 = 24 << 20;

/// Arrays as wide as the stream that a layer holds beside what its matrices make: norms, residuals, copies.
const BESIDE: u64 = 8;

impl Need {
    /// What `passes` over `slice` need of the model that `config` describes.
    pub fn new(config: &ModelConfig, model: &Model, slice: &Slice, passes: Passes) -> Self {
        let Passes { rows, chunk } = passes;
        let rows = rows.min(slice.examples) as u64;
        let cost = Cost::new(config, model, slice.length);
        let (d, v) = (model.d_model() as u64, model.vocab() as u64);
        let state = |layer: &heddle_hybrid::LayerCost| {
            let bytes = rows * (2 * layer.state.fixed + layer.state.growing * ROOM / HALVES);
            (format!("{} × {}", layer.name, layer.count), bytes)
        };
        // What a matrix reads is the stream, so its parameters over the stream's width is the width of what it makes.
        let widest = cost.layers.iter().map(|layer| layer.parameters / layer.count as u64).max().unwrap_or(0);
        let own: u64 = cost.layers.iter().map(|layer| layer.parameters).sum();
        let ends = if config.tied { v * d } else { 2 * v * d };
        let shared = (cost.parameters - own).saturating_sub(ends);
        let width = 2 * (widest + shared) / d + BESIDE * d;
        let labels = slice.labels.min(chunk) as u64;
        Self {
            states: cost.layers.iter().map(state).collect(),
            working: WORKSPACES + 4 * rows * (chunk as u64 * width + 3 * labels * v),
            data: 4 * slice.length as u64 * (rows + if rows > 1 { rayon::current_num_threads() as u64 } else { 0 })
                + 16 * rows * slice.labels as u64,
        }
    }

    /// All of it, in bytes.
    pub fn total(&self) -> u64 {
        self.states.iter().map(|(_, bytes)| bytes).sum::<u64>() + self.working + self.data
    }
}
