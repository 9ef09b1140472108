//! A chunk of one head, sixteen of its value channels at a time. The rows of a state do not mix, so a panel of sixteen is
//! taken through a chunk on its own, and stays in the nearest cache.

use super::chunk::{Gates, Keys};
use super::layout::{CHUNK, Delta, Multiply};
use crate::cpu::simd::{Isa, LANES, Lanes, Level, Sixteen};

/// A chunk of one head.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) call: Delta<'a>,
    pub(super) level: Level,
    pub(super) sequence: usize,
    pub(super) head: usize,
    pub(super) keys: &'a Keys,
    pub(super) gates: &'a Gates,
}

/// What the tokens of a chunk write to a panel, `[16, 16]` each.
pub(super) struct Written<'a> {
    /// The errors `e`.
    pub(super) errors: &'a mut [f32],
    /// What is left of `β e` at the end of the chunk.
    pub(super) at_end: &'a mut [f32],
}

/// `rows · factors`, row by row.
#[inline(always)]
pub(super) fn scale_rows<I: Isa>(isa: I, rows: &mut [f32], factors: &Sixteen) {
    for (row, factor) in rows.chunks_exact_mut(LANES).zip(factors) {
        (isa.load(row) * *factor).store(row);
    }
}

impl Step<'_> {
    /// What a panel's state, or its gradient, answers to the chunk's keys.
    #[inline(always)]
    pub(super) fn ask(&self, state: &[f32], answers: &mut [f32]) {
        let Self { keys, call, .. } = self;
        let (left, rows, inner) = (keys.by_token(), keys.count(), call.dims.n);
        self.level.run(Multiply { left, right: state, rows, inner, out: answers, keep: None });
    }

    /// Solves for the errors, given what the state answers to the keys.
    #[inline(always)]
    pub(super) fn solve<I: Isa>(&self, isa: I, panel: usize, answers: &[f32], written: Written<'_>) {
        let Gates { beta, from_start, to_end, overlap, .. } = self.gates;
        let mut e = [isa.zero(); CHUNK];
        for (i, t) in self.keys.tokens.clone().enumerate() {
            let v = self.call.values(isa, self.call.v, (self.sequence, t), self.head, panel);
            e[i] = isa.load(&answers[i * LANES..]).mul_add(isa.splat(-from_start[i]), v);
        }
        for j in 0..CHUNK {
            let now = e[j] * beta[j];
            e[j].store(&mut written.errors[j * LANES..][..LANES]);
            (now * to_end[j]).store(&mut written.at_end[j * LANES..][..LANES]);
            let overlap = &overlap[j * LANES..][..LANES];
            for i in j + 1..CHUNK {
                e[i] = now.mul_add(isa.splat(-overlap[i]), e[i]);
            }
        }
    }

    /// Takes a panel's state to the end of the chunk.
    #[inline(always)]
    pub(super) fn advance(&self, at_end: &[f32], state: &mut [f32]) {
        let (left, keep) = (self.keys.by_channel(), Some(self.gates.whole()));
        let (rows, inner) = (self.call.dims.n, self.keys.count());
        self.level.run(Multiply { left, right: at_end, rows, inner, out: state, keep });
    }
}

/// Adds `Σ a · b` over the rows of two matrices to each lane of `sum`.
#[inline(always)]
pub(super) fn dots<I: Isa>(isa: I, a: &[f32], b: &[f32], sum: Lanes<I>) -> Lanes<I> {
    // Two sums, because each waits for its last addition.
    let (mut even, mut odd) = (sum, isa.zero());
    for (a, b) in a.chunks(2 * LANES).zip(b.chunks(2 * LANES)) {
        even = isa.load(a).mul_add(isa.load(b), even);
        if a.len() > LANES {
            odd = isa.load(&a[LANES..]).mul_add(isa.load(&b[LANES..]), odd);
        }
    }
    even + odd
}
