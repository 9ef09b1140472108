//! The backward convolution.
//!
//! A task takes some tokens of one sequence, row after row. Of the gradients before the activation it holds the last `k`
//! rows, from which each row of inputs gets its gradient; those of the `k − 1` tokens before its own it computes again.
//! The tasks' gradients of the filters are added in the order of the tokens, whatever thread made them.

use std::ops::Range;

use super::cpu::{Conv, Dims};
use crate::activation::silu_slope;
use crate::cpu::math::sigmoid;
use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::split::parts;
use crate::cpu::tasks::{run_all, sum_rows};

/// Tokens that a task takes, or as many as the filter is wide.
const TOKENS: usize = 256;

/// The gradients of the outputs, where there are any.
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    pub(super) y: Option<&'a [f32]>,
    pub(super) state: Option<&'a [f32]>,
}

/// The gradients of the inputs.
pub(super) struct Gradients {
    pub(super) x: Vec<f32>,
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) state: Vec<f32>,
}

/// The gradients of a convolution.
pub(super) fn backward(conv: Conv<'_>, upstream: Upstream<'_>, level: Level) -> Gradients {
    let Dims { b, l, e, k } = conv.dims;
    let weight = &conv.transposed_weight();
    let mut x = vec![0.0; b * l * e];
    let mut state = vec![0.0; b * (k - 1) * e];

    let step = TOKENS.max(k);
    let chunks = || (0..l).step_by(step).map(move |start| start..l.min(start + step));
    let all: Vec<_> = (0..b).flat_map(|sequence| chunks().map(move |tokens| (sequence, tokens))).collect();
    // Rows of inputs count from the first row of the state; a task writes the row of each of its tokens, which is k − 1
    // inputs back, and the last task the rows that are left.
    let rows = |tokens: &Range<usize>| tokens.start..if tokens.end == l { l + k - 1 } else { tokens.end };
    let of_state = |rows: Range<usize>| rows.end.min(k - 1) - rows.start.min(k - 1);
    let states = parts(&mut state, all.iter().map(|(_, tokens)| of_state(rows(tokens)) * e));
    let xs = parts(&mut x, all.iter().map(|(_, tokens)| (rows(tokens).len() - of_state(rows(tokens))) * e));
    let mut filters = vec![0.0; all.len() * (k + 1) * e];

    let outputs = xs.into_iter().zip(states).zip(filters.chunks_exact_mut((k + 1) * e));
    let tasks = all.into_iter().zip(outputs).map(|((sequence, tokens), ((x, state), filters))| {
        let (g_weight, g_bias) = filters.split_at_mut(k * e);
        let rows = rows(&tokens);
        Task { conv, upstream, weight, sequence, tokens, rows, x, state, g_weight, g_bias }
    });
    run_all(tasks.collect(), conv.dims.parallel(), |task| level.run(task));
    let mut sum = sum_rows(&filters, (k + 1) * e);
    let bias = sum.split_off(k * e);
    let weight = (0..e * k).map(|i| sum[i % k * e + i / k]).collect();
    Gradients { x, weight, bias, state }
}

/// The gradients of some tokens of one sequence.
struct Task<'a> {
    conv: Conv<'a>,
    upstream: Upstream<'a>,
    /// The filters as `[k, e]`.
    weight: &'a [f32],
    sequence: usize,
    tokens: Range<usize>,
    /// The rows of inputs whose gradients it writes, first those of the state, then those of the sequence.
    rows: Range<usize>,
    x: &'a mut [f32],
    state: &'a mut [f32],
    g_weight: &'a mut [f32],
    g_bias: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let Dims { l, e, k, .. } = self.conv.dims;
        // The gradient before the activation, of token t in row t mod k.
        let mut inner = vec![0.0; k * e];
        let mut inputs: Vec<&[f32]> = Vec::with_capacity(k);
        if let Some(g_y) = self.upstream.y {
            for t in self.tokens.start.saturating_sub(k - 1)..self.tokens.start {
                self.gather(t, &mut inputs);
                self.before_activation(
                    isa,
                    &g_y[(self.sequence * l + t) * e..][..e],
                    &inputs,
                    &mut inner[t % k * e..][..e],
                );
            }
        }
        for i in self.rows.clone() {
            if let (Some(g_y), true) = (self.upstream.y, i < self.tokens.end) {
                self.gather(i, &mut inputs);
                let inner = &mut inner[i % k * e..][..e];
                self.before_activation(isa, &g_y[(self.sequence * l + i) * e..][..e], &inputs, inner);
                self.add_filters(isa, &inputs, inner);
            }
            self.write(isa, i, &inner);
        }
    }
}

impl<'a> Task<'a> {
    /// The inputs of token `t`.
    #[inline(always)]
    fn gather(&self, t: usize, inputs: &mut Vec<&'a [f32]>) {
        inputs.clear();
        inputs.extend((0..self.conv.dims.k).map(|j| self.conv.row(self.sequence, t + j)));
    }

    /// The gradient before the activation, from that behind it.
    #[inline(always)]
    fn before_activation<I: Isa>(&self, isa: I, g_y: &[f32], inputs: &[&[f32]], inner: &mut [f32]) {
        if !self.conv.silu {
            inner.copy_from_slice(g_y);
            return;
        }
        let e = self.conv.dims.e;
        for (block, (g, inner)) in g_y.chunks(LANES).zip(inner.chunks_mut(LANES)).enumerate() {
            let channels = block * LANES..block * LANES + g.len();
            let mut sum = match self.conv.bias {
                Some(bias) => isa.load(&bias[channels.clone()]),
                None => isa.zero(),
            };
            for (x, weight) in inputs.iter().zip(self.weight.chunks_exact(e)) {
                sum = isa.load(&x[channels.clone()]).mul_add(isa.load(&weight[channels.clone()]), sum);
            }
            (isa.load(g) * silu_slope(sum, sigmoid(sum))).store(inner);
        }
    }

    /// Adds a token's part to the gradients of filters and bias.
    #[inline(always)]
    fn add_filters<I: Isa>(&mut self, isa: I, inputs: &[&[f32]], inner: &[f32]) {
        let e = self.conv.dims.e;
        for (x, g_weight) in inputs.iter().zip(self.g_weight.chunks_exact_mut(e)) {
            let vectors = x.chunks(LANES).zip(inner.chunks(LANES)).zip(g_weight.chunks_mut(LANES));
            for ((x, inner), g_weight) in vectors {
                isa.load(x).mul_add(isa.load(inner), isa.load(g_weight)).store(g_weight);
            }
        }
        for (inner, g_bias) in inner.chunks(LANES).zip(self.g_bias.chunks_mut(LANES)) {
            (isa.load(inner) + isa.load(g_bias)).store(g_bias);
        }
    }

    /// Writes the gradient of row `i` of the inputs: `Σ_j weight_j inner_{i−j}`, and that of the returned state.
    #[inline(always)]
    fn write<I: Isa>(&mut self, isa: I, i: usize, inner: &[f32]) {
        let Dims { l, e, k, .. } = self.conv.dims;
        let g_state = match (self.upstream.state, i.checked_sub(l)) {
            (Some(g_state), Some(row)) => Some(&g_state[(self.sequence * (k - 1) + row) * e..][..e]),
            _ => None,
        };
        let in_state = self.state.len() / e;
        let row = match (i - self.rows.start).checked_sub(in_state) {
            Some(row) => &mut self.x[row * e..][..e],
            None => &mut self.state[(i - self.rows.start) * e..][..e],
        };
        // Tokens i − j that there are: none before the first, none after the last.
        let taps = (i + 1).saturating_sub(l)..k.min(i + 1);
        for (block, to) in row.chunks_mut(LANES).enumerate() {
            let channels = block * LANES..block * LANES + to.len();
            let mut sum = match g_state {
                Some(g_state) => isa.load(&g_state[channels.clone()]),
                None => isa.zero(),
            };
            for j in taps.clone() {
                let inner = isa.load(&inner[(i - j) % k * e..][channels.clone()]);
                sum = isa.load(&self.weight[j * e..][channels.clone()]).mul_add(inner, sum);
            }
            sum.store(to);
        }
    }
}
