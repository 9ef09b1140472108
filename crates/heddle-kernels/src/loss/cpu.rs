//! Softmax cross-entropy, row by row.

use rayon::prelude::*;

use crate::cpu::math::exp;
use crate::cpu::simd::{Isa, Kernel, LANES, Level};

/// Logits that a task takes, about: 64 KiB.
const PIECE: usize = 1 << 14;

/// The mean loss and each row's `log Σ exp`.
pub(super) fn forward(logits: &[f32], v: usize, targets: &[usize], level: Level) -> (f32, Vec<f32>) {
    if let Some((row, target)) = targets.iter().enumerate().find(|(_, target)| **target >= v) {
        panic!("cross_entropy: row {row} has the target {target}, but there are {v} logits");
    }
    let rows = PIECE.div_ceil(v);
    let mut normalisers = vec![0.0; targets.len()];
    let tasks = logits.par_chunks(rows * v).zip(normalisers.par_chunks_mut(rows));
    tasks.for_each(|(logits, normalisers)| level.run(Normalisers { logits, v, normalisers }));
    let losses = normalisers.iter().zip(targets).enumerate();
    let sum: f64 = losses.map(|(row, (normaliser, target))| f64::from(normaliser - logits[row * v + target])).sum();
    ((sum / targets.len() as f64) as f32, normalisers)
}

/// The gradient of the logits, `g (softmax − onehot) / rows`.
pub(super) fn backward(
    logits: &[f32],
    v: usize,
    targets: &[usize],
    normalisers: &[f32],
    g: f32,
    level: Level,
) -> Vec<f32> {
    let rows = PIECE.div_ceil(v);
    let factor = g / targets.len() as f32;
    let mut g_logits = vec![0.0; logits.len()];
    let inputs = logits.par_chunks(rows * v).zip(targets.par_chunks(rows)).zip(normalisers.par_chunks(rows));
    inputs.zip(g_logits.par_chunks_mut(rows * v)).for_each(|(((logits, targets), normalisers), g_logits)| {
        level.run(Softmax { logits, v, normalisers, factor, g_logits });
        for (row, target) in g_logits.chunks_exact_mut(v).zip(targets) {
            row[*target] -= factor;
        }
    });
    g_logits
}

struct Normalisers<'a> {
    logits: &'a [f32],
    v: usize,
    normalisers: &'a mut [f32],
}

impl Kernel for Normalisers<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (row, normaliser) in self.logits.chunks_exact(self.v).zip(self.normalisers) {
            let whole = row.chunks_exact(LANES);
            let rest = whole.remainder();
            let mut largest = isa.splat(f32::NEG_INFINITY);
            for x in whole.clone() {
                largest = isa.load(x).max(largest);
            }
            let largest = rest.iter().fold(largest.largest(), |a, &b| if b > a { b } else { a });
            let mut sum = isa.zero();
            for x in whole {
                sum += exp(isa.load(x) - largest);
            }
            let rest: f32 = exp(isa.load(rest) - largest).to_array()[..rest.len()].iter().sum();
            *normaliser = largest + (sum.sum() + rest).ln();
        }
    }
}

struct Softmax<'a> {
    logits: &'a [f32],
    v: usize,
    normalisers: &'a [f32],
    factor: f32,
    g_logits: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let rows = self.logits.chunks_exact(self.v).zip(self.g_logits.chunks_exact_mut(self.v));
        for ((row, g_row), &normaliser) in rows.zip(self.normalisers) {
            for (x, g) in row.chunks(LANES).zip(g_row.chunks_mut(LANES)) {
                (exp(isa.load(x) - normaliser) * self.factor).store(g);
            }
        }
    }
}
