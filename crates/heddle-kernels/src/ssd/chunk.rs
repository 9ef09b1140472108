//! Chunks of tokens: what the forward and the backward pass share.
//!
//! A task owns some heads of one group of one sequence and walks over time in chunks. The decay between two tokens is the
//! product of the decays from one to the other, taken step by step down a column of the mask: no exponent is ever positive,
//! no large sums are subtracted, and the rounding is that of the recurrence itself.

use std::ops::Range;

use crate::cpu::aligned::Aligned;
use crate::cpu::math::{exp, softplus};
use crate::cpu::product::{Factors, Left, Right, product};
use crate::cpu::simd::{Isa, LANES, Lanes};
use crate::cpu::transpose::transpose;

/// The shortest and the longest chunk, in tokens; whole vectors. A token's work within its chunk grows with the chunk's
/// length, its work with the states with their width, and its share of the chunk's own state shrinks: chunks as long as
/// states are wide balance them. Measured at n = 16 and 128 with chunks of 16 to 128 tokens: 128 were slower in all cases, 16
/// no slower forward but slower in training on long sequences, where they keep more states.
pub(super) const SHORTEST: usize = 32;
pub(super) const LONGEST: usize = 64;

/// Tasks that a call is cut into if its shape allows: enough to keep many threads busy, and always as many, because the
/// cut decides the order in which gradients are summed. More would compute the products of a group more often.
const TASKS: usize = 16;

/// Below this many state updates, starting threads takes longer than the work.
const WORTH_THREADS: usize = 1 << 18;

/// The sizes of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    pub(super) b: usize,
    pub(super) l: usize,
    pub(super) h: usize,
    pub(super) p: usize,
    pub(super) g: usize,
    pub(super) n: usize,
}

impl Dims {
    /// Tokens of a chunk; the last may have fewer.
    pub(super) fn chunk_length(&self) -> usize {
        let longest = self.n.next_multiple_of(LANES).clamp(SHORTEST, LONGEST);
        longest.min(self.l.next_multiple_of(LANES))
    }

    /// Chunks of tokens.
    pub(super) fn chunks(&self) -> usize {
        self.l.div_ceil(self.chunk_length())
    }

    /// The tokens of a chunk.
    pub(super) fn chunk(&self, index: usize) -> Range<usize> {
        let length = self.chunk_length();
        index * length..self.l.min((index + 1) * length)
    }

    /// The head width, rounded up to whole vectors.
    pub(super) fn wide_p(&self) -> usize {
        self.p.next_multiple_of(LANES)
    }

    /// The state width, rounded up to whole vectors.
    pub(super) fn wide_n(&self) -> usize {
        self.n.next_multiple_of(LANES)
    }

    /// Floats of a head's state as it is kept at a chunk's boundary, transposed and padded: `[n, wide_p]`.
    pub(super) fn boundary(&self) -> usize {
        self.n * self.wide_p()
    }

    /// Heads that a task owns; the last of a group may own fewer.
    fn heads_a_task(&self) -> usize {
        let heads = self.h / self.g;
        heads.div_ceil(TASKS.div_ceil(self.b * self.g).min(heads))
    }

    /// Tasks of one group of one sequence.
    pub(super) fn tasks_a_group(&self) -> usize {
        (self.h / self.g).div_ceil(self.heads_a_task())
    }

    /// All tasks, in the order of their heads.
    pub(super) fn tasks(&self) -> impl Iterator<Item = Place> + use<> {
        let (dims, heads, width) = (*self, self.h / self.g, self.heads_a_task());
        let of_group = move |sequence, group| {
            let runs = (0..heads).step_by(width).map(move |start| start..heads.min(start + width));
            runs.map(move |run| Place { sequence, group, heads: group * heads + run.start..group * heads + run.end })
        };
        (0..dims.b * dims.g).flat_map(move |i| of_group(i / dims.g, i % dims.g))
    }

    /// Whether threads pay.
    pub(super) fn parallel(&self) -> bool {
        self.b * self.l * self.h * self.p * self.n >= WORTH_THREADS
    }
}

/// The heads of a task.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) sequence: usize,
    pub(super) group: usize,
    pub(super) heads: Range<usize>,
}

/// The inputs of a call.
#[derive(Clone, Copy)]
pub(super) struct Ssd<'a> {
    pub(super) dims: Dims,
    /// Whether `delta` goes through a softplus.
    pub(super) softplus: bool,
    pub(super) x: &'a [f32],
    pub(super) delta: &'a [f32],
    pub(super) a: &'a [f32],
    pub(super) write: &'a [f32],
    pub(super) read: &'a [f32],
    pub(super) state: &'a [f32],
    pub(super) delta_bias: Option<&'a [f32]>,
    pub(super) skip: Option<&'a [f32]>,
}

impl<'a> Ssd<'a> {
    /// A head's row of a token in an array like `x`.
    #[inline(always)]
    pub(super) fn channels<'b>(&self, of: &'b [f32], (sequence, head): (usize, usize), t: usize) -> &'b [f32] {
        let Dims { l, h, p, .. } = self.dims;
        &of[((sequence * l + t) * h + head) * p..][..p]
    }

    /// A group's row of a token of `write` or `read`.
    #[inline(always)]
    pub(super) fn states(&self, of: &'a [f32], place: &Place, t: usize) -> &'a [f32] {
        let Dims { l, g, n, .. } = self.dims;
        &of[((place.sequence * l + t) * g + place.group) * n..][..n]
    }

    /// A head's `delta` of a token with its bias, before the softplus.
    #[inline(always)]
    pub(super) fn raw_delta(&self, (sequence, head): (usize, usize), t: usize) -> f32 {
        let Dims { l, h, .. } = self.dims;
        self.delta[(sequence * l + t) * h + head] + self.delta_bias.map_or(0.0, |bias| bias[head])
    }

    /// Step sizes and what a state keeps of itself over each step.
    #[inline(always)]
    pub(super) fn steps_of<I: Isa>(&self, raw: Lanes<I>, head: usize) -> (Lanes<I>, Lanes<I>) {
        let delta = if self.softplus { softplus(raw) } else { raw };
        (delta, exp(delta * self.a[head]))
    }

    /// A head's part of an array like `state`.
    #[inline(always)]
    pub(super) fn head_state<'b>(&self, of: &'b [f32], (sequence, head): (usize, usize)) -> &'b [f32] {
        let Dims { h, p, n, .. } = self.dims;
        &of[(sequence * h + head) * p * n..][..p * n]
    }

    /// The weight of a head's skip connection.
    pub(super) fn skip_of(&self, head: usize) -> f32 {
        self.skip.map_or(0.0, |skip| skip[head])
    }
}

/// What a head's tokens of a chunk do to its state.
pub(super) struct Steps {
    /// Before the softplus.
    pub(super) raw: Aligned,
    pub(super) delta: Aligned,
    /// What a state keeps of itself over each step, and over all steps so far.
    pub(super) decay: Aligned,
    pub(super) carry: Aligned,
}

impl Steps {
    pub(super) fn new(dims: &Dims) -> Self {
        let zeros = || Aligned::zeros(dims.chunk_length());
        Self { raw: zeros(), delta: zeros(), decay: zeros(), carry: zeros() }
    }

    #[inline(always)]
    pub(super) fn fill<I: Isa>(&mut self, isa: I, ssd: &Ssd<'_>, at: (usize, usize), tokens: &Range<usize>) {
        for (raw, t) in self.raw.iter_mut().zip(tokens.clone()) {
            *raw = ssd.raw_delta(at, t);
        }
        let steps = self.delta.chunks_exact_mut(LANES).zip(self.decay.chunks_exact_mut(LANES));
        for (raw, (delta, decay)) in self.raw.chunks_exact(LANES).zip(steps) {
            let (step, keep) = ssd.steps_of(isa.load(raw), at.1);
            step.store(delta);
            keep.store(decay);
        }
        let mut product = 1.0;
        for (carry, decay) in self.carry.iter_mut().zip(self.decay.iter()).take(tokens.len()) {
            product *= decay;
            *carry = product;
        }
    }
}

/// What the heads of a task share of a chunk.
pub(super) struct Shared {
    /// Rows of `write`, and their transpose: `[token, wide_n]`, `[n, token]`.
    pub(super) write: Aligned,
    pub(super) write_across: Aligned,
    /// Rows of `read`: `[token, wide_n]`.
    pub(super) read: Aligned,
    /// `C_t · B_j`, for `j` up to the end of the block of sixteen that `t` is in: `[t, j]`.
    pub(super) scores: Aligned,
}

impl Shared {
    pub(super) fn new(dims: &Dims) -> Self {
        let length = dims.chunk_length();
        Self {
            write: Aligned::zeros(length * dims.wide_n()),
            write_across: Aligned::zeros(dims.n * length),
            read: Aligned::zeros(length * dims.wide_n()),
            scores: Aligned::zeros(length * length),
        }
    }

    #[inline(always)]
    pub(super) fn fill<I: Isa>(&mut self, isa: I, ssd: &Ssd<'_>, place: &Place, tokens: &Range<usize>) {
        let (length, n, wide_n) = (ssd.dims.chunk_length(), ssd.dims.n, ssd.dims.wide_n());
        for (i, t) in tokens.clone().enumerate() {
            let row = i * wide_n..i * wide_n + n;
            copy_row(isa, ssd.states(ssd.write, place, t), &mut self.write[row.clone()]);
            copy_row(isa, ssd.states(ssd.read, place, t), &mut self.read[row]);
        }
        transpose(isa, (&self.write, wide_n), (&mut self.write_across, length), [tokens.len(), n]);
        let write = Right { data: &self.write_across, stride: length };
        dots_before(isa, (&self.read, wide_n), write, (tokens.len(), n), &mut self.scores);
    }
}

// Loops over rows count vectors, because iterators over pairs of chunks are made by calls and divisions here, which take
// longer than short rows do.

/// Copies a row, whose end may not fill a vector.
#[inline(always)]
pub(super) fn copy_row<I: Isa>(isa: I, from: &[f32], to: &mut [f32]) {
    let width = from.len();
    for at in (0..width).step_by(LANES) {
        let end = width.min(at + LANES);
        isa.load(&from[at..end]).store(&mut to[at..end]);
    }
}

/// Multiplies whole vectors.
#[inline(always)]
pub(super) fn scale<I: Isa>(isa: I, x: &mut [f32], factor: f32) {
    for x in x.chunks_exact_mut(LANES) {
        (isa.load(x) * factor).store(x);
    }
}

/// Writes rows of whole vectors, each times its factor.
#[inline(always)]
pub(super) fn scale_rows<I: Isa>(isa: I, from: &[f32], factors: &[f32], to: &mut [f32], width: usize) {
    for (row, &factor) in factors.iter().enumerate() {
        for at in (row * width..(row + 1) * width).step_by(LANES) {
            (isa.load(&from[at..at + LANES]) * factor).store(&mut to[at..at + LANES]);
        }
    }
}

/// Writes rows of whole vectors, each column times its factor.
#[inline(always)]
pub(super) fn scale_columns<I: Isa>(isa: I, from: &[f32], factors: &[f32], to: &mut [f32], rows: usize) {
    let width = factors.len();
    for column in (0..width).step_by(LANES) {
        let factor = isa.load(&factors[column..column + LANES]);
        for row in 0..rows {
            let at = row * width + column;
            (isa.load(&from[at..at + LANES]) * factor).store(&mut to[at..at + LANES]);
        }
    }
}

/// A product of which factors and result have as many columns as the rows of the right factor are long.
#[inline(always)]
pub(super) fn product_wide<I: Isa>(
    isa: I,
    factors: Factors<'_>,
    out: &mut [f32],
    start: impl Fn(Lanes<I>) -> Lanes<I> + Copy,
) {
    let stride = factors.right.stride;
    for column in (0..stride).step_by(LANES) {
        let right = Right { data: &factors.right.data[column..], stride };
        product(isa, Factors { right, ..factors }, &mut out[column..], stride, start);
    }
}

/// `out[t, j] = left[t] · right[.., j]` for `j` up to the end of the block of sixteen that `t` is in.
#[inline(always)]
pub(super) fn dots_before<I: Isa>(
    isa: I,
    (left, across): (&[f32], usize),
    right: Right<'_>,
    (tokens, inner): (usize, usize),
    out: &mut [f32],
) {
    let length = right.stride;
    for block in (0..tokens).step_by(LANES) {
        let left = Left { data: &left[block * across..], across, along: 1 };
        let right = Right { data: &right.data[block..], stride: length };
        let factors = Factors { left, right, rows: tokens - block, inner };
        product(isa, factors, &mut out[block * length + block..], length, |_| isa.zero());
    }
}

/// `out[t] += Σ_{j ≤ t} square[t, j] · right[j]`; the square must be 0 where `j > t` in the block of sixteen that `t` is in.
#[inline(always)]
pub(super) fn add_before<I: Isa>(
    isa: I,
    (square, length): (&[f32], usize),
    right: Right<'_>,
    out: &mut [f32],
    tokens: usize,
) {
    for block in (0..tokens).step_by(LANES) {
        let end = tokens.min(block + LANES);
        let left = Left { data: &square[block * length..], across: length, along: 1 };
        let factors = Factors { left, right, rows: end - block, inner: end };
        product_wide(isa, factors, &mut out[block * right.stride..], |sum| sum);
    }
}

/// `out[j] += Σ_{t ≥ j} square[t, j] · right[t]`; the square must be 0 where `j > t` in the block of sixteen that `t` is in.
#[inline(always)]
pub(super) fn add_after<I: Isa>(
    isa: I,
    (square, length): (&[f32], usize),
    right: Right<'_>,
    out: &mut [f32],
    tokens: usize,
) {
    for block in (0..tokens).step_by(LANES) {
        let left = Left { data: &square[block * length + block..], across: 1, along: length };
        let from = Right { data: &right.data[block * right.stride..], stride: right.stride };
        let factors = Factors { left, right: from, rows: LANES.min(tokens - block), inner: tokens - block };
        product_wide(isa, factors, &mut out[block * right.stride..], |sum| sum);
    }
}

/// The vector with a one in one lane.
#[inline(always)]
pub(super) fn unit<I: Isa>(isa: I, lane: usize) -> Lanes<I> {
    const ONE: [f32; 2 * LANES] = {
        let mut one = [0.0; 2 * LANES];
        one[LANES] = 1.0;
        one
    };
    isa.load(&ONE[LANES - lane..])
}
