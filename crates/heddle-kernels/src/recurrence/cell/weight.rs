//! The gradient of the weight: one product over all tokens of all sequences, `∂W = Σ_t h_{t−1}ᵀ ∂sums_t`.
//!
//! A task owns some columns and takes the tokens in spans, whose products it adds up in the order of the sequences. So no
//! number of threads changes the order, and sums over many tokens lose little.

use super::Dims;

use crate::cpu::product::{Factors, Left, Right, product};
use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::split::{Columns, columns};
use crate::cpu::tasks::run_all;

/// Tasks that the columns are cut into if there are enough.
const TASKS: usize = 8;

/// Tokens of a span: their states stay in the second cache while all columns of a task are multiplied with them.
const SPAN: usize = 128;

/// Sums over all tokens.
pub(super) struct Summed {
    /// `[d, G·d]`
    pub(super) weight: Vec<f32>,
    /// `[G·d]`
    pub(super) bias: Vec<f32>,
}

/// Sums over all tokens, given `h` after each, `[b, l, d]`, `h` before the first, `[b, d]`, and the gradients of the
/// products of so many gates, `[b, l, G·d]`.
pub(super) fn gradients(
    (dims, gates): (Dims, usize),
    (all, h): (&[f32], &[f32]),
    g_sums: &[f32],
    level: Level,
) -> Summed {
    let width = gates * dims.d;
    let spans = &spans(dims, all, h)[..];
    let mut weight = vec![0.0; dims.d * width];
    let mut bias = vec![0.0; width];
    let panels = width.div_ceil(LANES);
    let columns_a_task = panels.div_ceil(TASKS) * LANES;
    let outputs = columns(&mut weight, width, columns_a_task).into_iter().zip(bias.chunks_mut(columns_a_task));
    let tasks = outputs.enumerate().map(|(i, (weight, bias))| {
        let first = i * columns_a_task;
        Task { d: dims.d, width, spans, g_sums, first, weight, bias }
    });
    run_all(tasks.collect(), dims.parallel(gates), |task| level.run(task));
    Summed { weight, bias }
}

/// Some tokens, and the states before them.
struct Span<'a> {
    /// `[token, d]`
    states: &'a [f32],
    /// The first token, how many there are, and how far each is from the one before.
    first: usize,
    count: usize,
    step: usize,
}

/// All tokens: first the first of every sequence, which follow the initial states, then the others of each sequence.
fn spans<'a>(dims: Dims, all: &'a [f32], h: &'a [f32]) -> Vec<Span<'a>> {
    let Dims { b, l, d } = dims;
    let span = |states: &'a [f32], first, step| Span { states, first, count: states.len() / d, step };
    let mut spans: Vec<_> = h.chunks(SPAN * d).enumerate().map(|(i, states)| span(states, i * SPAN * l, l)).collect();
    for sequence in 0..b {
        // The last state is before no token.
        let states = &all[sequence * l * d..((sequence + 1) * l - 1) * d];
        let of_sequence = states.chunks(SPAN * d).enumerate();
        spans.extend(of_sequence.map(|(i, states)| span(states, sequence * l + 1 + i * SPAN, 1)));
    }
    spans
}

/// The sums of some columns.
struct Task<'a> {
    d: usize,
    width: usize,
    spans: &'a [Span<'a>],
    g_sums: &'a [f32],
    first: usize,
    weight: Columns<'a>,
    bias: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let d = self.d;
        let panels = self.bias.len().div_ceil(LANES);
        // `[panel, token, 16]`, and zeros behind the last column.
        let mut packed = vec![0.0; panels * SPAN * LANES];
        let mut tile = vec![0.0; d * LANES];
        let mut sums = vec![0.0; panels * d * LANES];
        for span in self.spans {
            for token in 0..span.count {
                let row = (span.first + token * span.step) * self.width + self.first;
                for (panel, g_sums) in self.g_sums[row..][..self.bias.len()].chunks(LANES).enumerate() {
                    isa.load(g_sums).store(&mut packed[(panel * SPAN + token) * LANES..][..LANES]);
                }
            }
            let panels = packed.chunks_exact(SPAN * LANES).zip(sums.chunks_exact_mut(d * LANES));
            for ((packed, sums), bias) in panels.zip(self.bias.chunks_mut(LANES)) {
                let mut sum = isa.zero();
                for g_sums in packed.chunks_exact(LANES).take(span.count) {
                    sum += isa.load(g_sums);
                }
                (isa.load(bias) + sum).store(bias);
                let left = Left { data: span.states, across: 1, along: d };
                let right = Right { data: packed, stride: LANES };
                product(isa, Factors { left, right, rows: d, inner: span.count }, &mut tile, LANES, |_| isa.zero());
                for (sum, term) in sums.chunks_exact_mut(LANES).zip(tile.chunks_exact(LANES)) {
                    (isa.load(sum) + isa.load(term)).store(sum);
                }
            }
        }
        for (panel, sums) in sums.chunks_exact(d * LANES).enumerate() {
            let within = panel * LANES..self.bias.len().min((panel + 1) * LANES);
            for (row, sum) in sums.chunks_exact(LANES).enumerate() {
                isa.load(sum).store(self.weight.row(row, within.clone()));
            }
        }
    }
}
