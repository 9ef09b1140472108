//! The forward convolution.
//!
//! A vector holds sixteen neighbouring channels of a token, and a task computes some tokens of one sequence.

use rayon::prelude::*;

use crate::cpu::math::sigmoid;
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};

/// Tokens that a task computes.
const TOKENS: usize = 64;

/// Below this many products, starting threads takes longer than the convolution.
const WORTH_THREADS: usize = 1 << 17;

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    pub(super) b: usize,
    pub(super) l: usize,
    pub(super) e: usize,
    pub(super) k: usize,
}

impl Dims {
    /// Whether threads pay.
    pub(super) fn parallel(&self) -> bool {
        self.b * self.l * self.e * self.k >= WORTH_THREADS
    }
}

/// The inputs of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Conv<'a> {
    pub(super) dims: Dims,
    pub(super) silu: bool,
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) state: &'a [f32],
}

impl<'a> Conv<'a> {
    /// Row `i` of a sequence's inputs, counted from the first row of its state.
    #[inline(always)]
    pub(super) fn row(&self, sequence: usize, i: usize) -> &'a [f32] {
        let Dims { l, e, k, .. } = self.dims;
        match i.checked_sub(k - 1) {
            Some(t) => &self.x[(sequence * l + t) * e..][..e],
            None => &self.state[(sequence * (k - 1) + i) * e..][..e],
        }
    }

    /// The filters as `[k, e]`.
    pub(super) fn transposed_weight(&self) -> Vec<f32> {
        let Dims { e, k, .. } = self.dims;
        (0..k * e).map(|i| self.weight[i % e * k + i / e]).collect()
    }
}

/// The outputs and the last `k − 1` inputs.
pub(super) fn forward(conv: Conv<'_>, level: Level) -> (Vec<f32>, Vec<f32>) {
    let Dims { b, l, e, k } = conv.dims;
    let weight = &conv.transposed_weight();
    let mut y = vec![0.0; b * l * e];
    let rows = |(sequence, y): (usize, &mut [f32])| {
        let tasks = y.par_chunks_mut(TOKENS * e).enumerate();
        tasks.for_each(|(i, y)| level.run(Task { conv, weight, sequence, first: i * TOKENS, y }));
    };
    if conv.dims.parallel() {
        y.par_chunks_exact_mut(l * e).enumerate().for_each(rows);
    } else {
        for (sequence, y) in y.chunks_exact_mut(l * e).enumerate() {
            level.run(Task { conv, weight, sequence, first: 0, y });
        }
    }
    let last = (0..b).flat_map(|sequence| (l..l + k - 1).flat_map(move |i| conv.row(sequence, i)));
    (y, last.copied().collect())
}

/// Some tokens of one sequence.
struct Task<'a> {
    conv: Conv<'a>,
    weight: &'a [f32],
    sequence: usize,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Dims { e, k, .. } = self.conv.dims;
        for (i, y) in self.y.chunks_exact_mut(e).enumerate() {
            for (block, y) in y.chunks_mut(LANES).enumerate() {
                let channels = block * LANES..block * LANES + y.len();
                let mut sum = match self.conv.bias {
                    Some(bias) => isa.load(&bias[channels.clone()]),
                    None => isa.zero(),
                };
                for (j, weight) in self.weight.chunks_exact(e).enumerate().take(k) {
                    let x = isa.load(&self.conv.row(self.sequence, self.first + i + j)[channels.clone()]);
                    sum = x.mul_add(isa.load(&weight[channels.clone()]), sum);
                }
                activate(sum, self.conv.silu).store(y);
            }
        }
    }
}

#[inline(always)]
fn activate<I: Isa>(x: Lanes<I>, silu: bool) -> Lanes<I> {
    if silu { x * sigmoid(x) } else { x }
}
