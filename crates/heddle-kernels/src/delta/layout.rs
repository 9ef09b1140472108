//! The sizes of a delta rule, how it is cut into tasks, and how arrays are read and written sixteen rows at a time.

use std::ops::Range;

use crate::cpu::product::{Factors, Left, Right, product};
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes};
use crate::cpu::transpose::transpose;

/// Tokens that the backward pass computes together. As many as a vector has lanes, so that a matrix of tokens by tokens is sixteen
/// vectors and turns over in registers.
pub(super) const CHUNK: usize = LANES;

/// Chunks between two states that the forward pass keeps.
pub(super) const SPAN: usize = 4;

/// Floats of a matrix of sixteen by sixteen.
pub(super) const SQUARE: usize = CHUNK * LANES;

/// Tasks that a delta rule is cut into if its heads allow: enough to keep many threads busy, and always as many, because
/// the cut decides the order in which gradients are summed.
const TASKS: usize = 32;

/// Below this many state updates, starting threads takes longer than the work.
const WORTH_THREADS: usize = 1 << 17;

/// The sizes of a delta rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    pub(super) b: usize,
    pub(super) l: usize,
    pub(super) h: usize,
    pub(super) g: usize,
    pub(super) p: usize,
    pub(super) n: usize,
}

impl Dims {
    /// Value heads to a key head.
    pub(super) fn shared(&self) -> usize {
        self.h / self.g
    }

    /// Value heads that a task owns, all of one key head.
    pub(super) fn heads_a_task(&self) -> usize {
        let mut divisors = (1..=self.shared()).rev().filter(|heads| self.shared().is_multiple_of(*heads));
        divisors.find(|heads| self.b * self.h / heads >= TASKS).unwrap_or(1)
    }

    /// Tasks that share a key head.
    pub(super) fn parts(&self) -> usize {
        self.shared() / self.heads_a_task()
    }

    /// The tasks, in the order of the heads of all sequences.
    pub(super) fn tasks(&self) -> impl Iterator<Item = Place> + use<> {
        let (dims, heads) = (*self, self.heads_a_task());
        let of_sequence = move |sequence| {
            let starts = (0..dims.h).step_by(heads);
            starts.map(move |start| Place { sequence, group: start / dims.shared(), heads: start..start + heads })
        };
        (0..self.b).flat_map(of_sequence)
    }

    /// Panels of sixteen channels of a head.
    pub(super) fn panels(&self) -> usize {
        self.p.div_ceil(LANES)
    }

    /// The channels of a panel.
    pub(super) fn panel(&self, index: usize) -> Range<usize> {
        index * LANES..self.p.min((index + 1) * LANES)
    }

    /// Floats of a head's state as kernels hold it: panel after panel, `[n, 16]` in each.
    pub(super) fn head_state(&self) -> usize {
        self.panels() * self.n * LANES
    }

    pub(super) fn chunks(&self) -> usize {
        self.l.div_ceil(CHUNK)
    }

    pub(super) fn spans(&self) -> usize {
        self.chunks().div_ceil(SPAN)
    }

    /// The tokens of a chunk.
    pub(super) fn chunk(&self, index: usize) -> Range<usize> {
        index * CHUNK..self.l.min((index + 1) * CHUNK)
    }

    /// Whether threads pay.
    pub(super) fn parallel(&self) -> bool {
        self.b * self.l * self.h * self.p * self.n >= WORTH_THREADS
    }
}

/// Some value heads of one key head of one sequence.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) sequence: usize,
    pub(super) group: usize,
    pub(super) heads: Range<usize>,
}

/// The inputs of a delta rule.
#[derive(Clone, Copy)]
pub(super) struct Delta<'a> {
    pub(super) dims: Dims,
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) beta: &'a [f32],
    pub(super) state: &'a [f32],
    pub(super) log_decay: Option<&'a [f32]>,
}

impl Delta<'_> {
    /// A key head's row of a token of `q` or `k`.
    #[inline(always)]
    pub(super) fn key_row<'b>(&self, of: &'b [f32], place: &Place, t: usize) -> &'b [f32] {
        let Dims { l, g, n, .. } = self.dims;
        &of[((place.sequence * l + t) * g + place.group) * n..][..n]
    }

    /// A panel of a token of a head of an array like `v`.
    #[inline(always)]
    pub(super) fn values<I: Isa>(
        &self,
        isa: I,
        of: &[f32],
        (sequence, t): (usize, usize),
        head: usize,
        panel: usize,
    ) -> Lanes<I> {
        let Dims { l, h, p, .. } = self.dims;
        isa.load(&of[((sequence * l + t) * h + head) * p..][self.dims.panel(panel)])
    }

    /// A token of a head of an array like `beta`.
    #[inline(always)]
    pub(super) fn scalar(&self, of: &[f32], (sequence, t): (usize, usize), head: usize) -> f32 {
        let Dims { l, h, .. } = self.dims;
        of[(sequence * l + t) * h + head]
    }

    /// The part of an array like `state` that belongs to a task.
    pub(super) fn states<'b>(&self, of: &'b [f32], place: &Place) -> &'b [f32] {
        let Dims { h, p, n, .. } = self.dims;
        let first = place.sequence * h;
        &of[(first + place.heads.start) * p * n..(first + place.heads.end) * p * n]
    }
}

/// At most sixteen rows of `n` as `n` vectors; lanes without a row are 0.
#[inline(always)]
pub(super) fn turn_in<I: Isa>(isa: I, rows: &[f32], n: usize, to: &mut [f32]) {
    let count = rows.len() / n;
    if count < LANES {
        to.fill(0.0);
    }
    transpose(isa, (rows, n), (to, LANES), [count, n]);
}

/// `n` vectors as at most sixteen rows of `n`.
#[inline(always)]
pub(super) fn turn_out<I: Isa>(isa: I, from: &[f32], n: usize, rows: &mut [f32]) {
    let count = rows.len() / n;
    transpose(isa, (from, LANES), (rows, n), [n, count]);
}

/// Turns the states of some heads into the panels that kernels hold.
#[inline(always)]
pub(super) fn states_in<I: Isa>(isa: I, dims: &Dims, states: &[f32], to: &mut [f32]) {
    let Dims { p, n, .. } = *dims;
    for (state, to) in states.chunks_exact(p * n).zip(to.chunks_exact_mut(dims.head_state())) {
        for (rows, to) in state.chunks(LANES * n).zip(to.chunks_exact_mut(n * LANES)) {
            turn_in(isa, rows, n, to);
        }
    }
}

/// The reverse of [`states_in`].
#[inline(always)]
pub(super) fn states_out<I: Isa>(isa: I, dims: &Dims, from: &[f32], states: &mut [f32]) {
    let Dims { p, n, .. } = *dims;
    for (from, state) in from.chunks_exact(dims.head_state()).zip(states.chunks_exact_mut(p * n)) {
        for (from, rows) in from.chunks_exact(n * LANES).zip(state.chunks_mut(LANES * n)) {
            turn_out(isa, from, n, rows);
        }
    }
}

/// `out = keep · out + left · right`, where the right factor is `[inner, 16]` and the result `[rows, 16]`, both without
/// gaps. Compiled once, not where it is used: a product is many strips of code.
pub(super) struct Multiply<'a> {
    pub(super) left: Left<'a>,
    pub(super) right: &'a [f32],
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) out: &'a mut [f32],
    /// None: what stood in `out` does not matter.
    pub(super) keep: Option<f32>,
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let right = Right { data: self.right, stride: LANES };
        let factors = Factors { left: self.left, right, rows: self.rows, inner: self.inner };
        match self.keep {
            None => product(isa, factors, self.out, LANES, |_| isa.zero()),
            Some(keep) => product(isa, factors, self.out, LANES, |old| old * keep),
        }
    }
}
