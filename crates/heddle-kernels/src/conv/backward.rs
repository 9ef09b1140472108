//! The backward convolution.
//!
//! A task owns some blocks of sixteen channels of one sequence. A block slides a window of `k` tokens over the sequence
//! and holds, for each token in it, the input and the part of its gradient that is known; the oldest is complete when it
//! leaves. Within a chunk of tokens, block follows block, which keeps the rows in the cache.

use std::ops::Range;

use rayon::prelude::*;

use super::cpu::{Conv, Dims};
use crate::activation::silu_slope;
use crate::cpu::math::sigmoid;
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::split::{Columns, columns, parts};

/// Tokens that a block takes before the next block does.
const CHUNK: usize = 32;

/// Tasks that the pass is cut into if its shape allows.
const TASKS: usize = 32;

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
    let blocks = e.div_ceil(LANES);
    let width = blocks.div_ceil(TASKS.div_ceil(b).min(blocks)) * LANES;
    let transposed = &conv.transposed_weight();
    let mut x = vec![0.0; b * l * e];
    let mut state = vec![0.0; b * (k - 1) * e];
    let mut weight = vec![0.0; b * e * k];
    let mut bias = vec![0.0; b * e];

    let all =
        || (0..b).flat_map(|sequence| (0..e).step_by(width).map(move |start| (sequence, start..e.min(start + width))));
    let xs = x.chunks_exact_mut(l * e).flat_map(|x| columns(x, e, width));
    let states = state.chunks_exact_mut((k - 1) * e).flat_map(|state| columns(state, e, width));
    let weights = parts(&mut weight, all().map(|(_, channels)| channels.len() * k));
    let biases = parts(&mut bias, all().map(|(_, channels)| channels.len()));
    let tasks: Vec<_> = all()
        .zip(xs.zip(states))
        .zip(weights.into_iter().zip(biases))
        .map(|(((sequence, channels), (x, state)), (weight, bias))| Task {
            conv,
            transposed,
            upstream,
            sequence,
            channels,
            x,
            state,
            weight,
            bias,
        })
        .collect();
    if conv.dims.parallel() {
        tasks.into_par_iter().for_each(|task| level.run(task));
    } else {
        tasks.into_iter().for_each(|task| level.run(task));
    }
    Gradients { x, state, weight: sum(&weight, e * k), bias: sum(&bias, e) }
}

/// The sum of the rows, in order.
fn sum(x: &[f32], width: usize) -> Vec<f32> {
    let mut result = vec![0.0; width];
    for row in x.chunks_exact(width) {
        result.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    result
}

/// The gradients of some channels of one sequence.
struct Task<'a> {
    conv: Conv<'a>,
    transposed: &'a [f32],
    upstream: Upstream<'a>,
    sequence: usize,
    channels: Range<usize>,
    x: Columns<'a>,
    state: Columns<'a>,
    weight: &'a mut [f32],
    bias: &'a mut [f32],
}

/// What a block remembers from token to token.
#[derive(Clone)]
struct Window<I: Isa> {
    weight: Vec<Lanes<I>>,
    bias: Lanes<I>,
    /// The last `k` inputs, and their gradients so far.
    x: Vec<Lanes<I>>,
    g_x: Vec<Lanes<I>>,
    g_weight: Vec<Lanes<I>>,
    g_bias: Lanes<I>,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let Dims { l, k, .. } = self.conv.dims;
        let blocks = self.channels.len().div_ceil(LANES);
        let mut windows: Vec<_> = (0..blocks).map(|block| self.open(isa, block)).collect();
        for start in (0..l).step_by(CHUNK) {
            for (block, window) in windows.iter_mut().enumerate() {
                self.steps(isa, block, window, start..l.min(start + CHUNK));
            }
        }
        for (block, window) in windows.iter().enumerate() {
            let lanes = block * LANES..self.channels.len().min((block + 1) * LANES);
            for (j, &g_x) in window.g_x.iter().enumerate().skip(1) {
                self.leave(isa, l + j - 1, block, g_x);
            }
            for (j, g_weight) in window.g_weight.iter().enumerate() {
                let of_channel = self.weight[lanes.start * k..lanes.end * k].chunks_exact_mut(k);
                of_channel.zip(g_weight.to_array()).for_each(|(row, g)| row[j] = g);
            }
            window.g_bias.store(&mut self.bias[lanes]);
        }
    }
}

impl Task<'_> {
    /// A block's channels, within the task and within the row.
    #[inline(always)]
    fn lanes(&self, block: usize) -> (Range<usize>, Range<usize>) {
        let window = block * LANES..self.channels.len().min((block + 1) * LANES);
        let channels = self.channels.start + window.start..self.channels.start + window.end;
        (window, channels)
    }

    /// The window before the first token: it holds the state.
    #[inline(always)]
    fn open<I: Isa>(&self, isa: I, block: usize) -> Window<I> {
        let Dims { e, k, .. } = self.conv.dims;
        let (_, channels) = self.lanes(block);
        let mut x = vec![isa.zero(); k];
        for (j, x) in x.iter_mut().enumerate().skip(1) {
            *x = isa.load(&self.conv.row(self.sequence, j - 1)[channels.clone()]);
        }
        Window {
            weight: self.transposed.chunks_exact(e).map(|row| isa.load(&row[channels.clone()])).collect(),
            bias: self.conv.bias.map_or(isa.zero(), |bias| isa.load(&bias[channels.clone()])),
            x,
            g_x: vec![isa.zero(); k],
            g_weight: vec![isa.zero(); k],
            g_bias: isa.zero(),
        }
    }

    /// Slides a block's window over some tokens.
    #[inline(always)]
    fn steps<I: Isa>(&mut self, isa: I, block: usize, window: &mut Window<I>, tokens: Range<usize>) {
        let Dims { l, e, k, .. } = self.conv.dims;
        let (_, channels) = self.lanes(block);
        let Window { weight, bias, x, g_x, g_weight, g_bias } = window;
        let (x, g_x, weight, g_weight) = (&mut x[..k], &mut g_x[..k], &weight[..k], &mut g_weight[..k]);
        for t in tokens {
            for j in 1..k {
                x[j - 1] = x[j];
                g_x[j - 1] = g_x[j];
            }
            x[k - 1] = isa.load(&self.conv.row(self.sequence, t + k - 1)[channels.clone()]);
            g_x[k - 1] = isa.zero();
            if let Some(g_y) = self.upstream.y {
                let mut g = isa.load(&g_y[(self.sequence * l + t) * e..][channels.clone()]);
                if self.conv.silu {
                    let mut sum = *bias;
                    for j in 0..k {
                        sum = x[j].mul_add(weight[j], sum);
                    }
                    g = g * silu_slope(sum, sigmoid(sum));
                }
                for j in 0..k {
                    g_x[j] = g.mul_add(weight[j], g_x[j]);
                    g_weight[j] = g.mul_add(x[j], g_weight[j]);
                }
                *g_bias += g;
            }
            self.leave(isa, t, block, g_x[0]);
        }
    }

    /// Writes the gradient of row `i` of the inputs, counted from the first row of the state.
    #[inline(always)]
    fn leave<I: Isa>(&mut self, isa: I, i: usize, block: usize, mut g_x: Lanes<I>) {
        let Dims { l, e, k, .. } = self.conv.dims;
        let (window, channels) = self.lanes(block);
        // The last k − 1 rows are also the returned state.
        if let (Some(g_state), Some(row)) = (self.upstream.state, i.checked_sub(l)) {
            g_x += isa.load(&g_state[(self.sequence * (k - 1) + row) * e..][channels]);
        }
        match i.checked_sub(k - 1) {
            Some(t) => g_x.store(self.x.row(t, window)),
            None => g_x.store(self.state.row(i, window)),
        }
    }
}
