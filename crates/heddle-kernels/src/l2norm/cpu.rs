//! Normalisation to unit length, row by row.

use rayon::prelude::*;

use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::tasks::for_each;

/// Floats that a task normalises, about: 64 KiB.
const PIECE: usize = 1 << 14;

/// The normalised rows of `n` and their factors `1 / √(Σ x² + ε)`.
pub(super) fn forward(x: &[f32], n: usize, eps: f32, level: Level) -> (Vec<f32>, Vec<f32>) {
    let rows = PIECE.div_ceil(n);
    let mut y = vec![0.0; x.len()];
    let mut factors = vec![0.0; x.len() / n];
    let outputs = y.par_chunks_mut(rows * n).zip(factors.par_chunks_mut(rows));
    let tasks = x.par_chunks(rows * n).zip(outputs);
    for_each(tasks, |(x, (y, factors))| level.run(Forward { x, n, eps, y, factors }));
    (y, factors)
}

/// The gradients of the rows.
pub(super) fn backward(x: &[f32], factors: &[f32], g: &[f32], level: Level) -> Vec<f32> {
    let n = x.len() / factors.len();
    let rows = PIECE.div_ceil(n);
    let mut g_x = vec![0.0; x.len()];
    let inputs = x.par_chunks(rows * n).zip(g.par_chunks(rows * n)).zip(factors.par_chunks(rows));
    let tasks = inputs.zip(g_x.par_chunks_mut(rows * n));
    tasks.for_each(|(((x, g), factors), g_x)| level.run(Backward { x, n, factors, g, g_x }));
    g_x
}

struct Forward<'a> {
    x: &'a [f32],
    n: usize,
    eps: f32,
    y: &'a mut [f32],
    factors: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let rows = self.x.chunks_exact(self.n).zip(self.y.chunks_exact_mut(self.n)).zip(self.factors);
        for ((x, y), factor) in rows {
            let mut squares = isa.zero();
            for x in x.chunks(LANES) {
                let x = isa.load(x);
                squares = x.mul_add(x, squares);
            }
            *factor = (squares.sum() + self.eps).sqrt().recip();
            for (x, y) in x.chunks(LANES).zip(y.chunks_mut(LANES)) {
                (isa.load(x) * *factor).store(y);
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    n: usize,
    factors: &'a [f32],
    g: &'a [f32],
    g_x: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    /// With the factor `r`: `∂x = r (g − x r² Σ g x)`.
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let rows = self.x.chunks_exact(self.n).zip(self.g.chunks_exact(self.n));
        for (((x, g), g_x), &factor) in rows.zip(self.g_x.chunks_exact_mut(self.n)).zip(self.factors) {
            let mut product = isa.zero();
            for (x, g) in x.chunks(LANES).zip(g.chunks(LANES)) {
                // Of the normalised row: the factor of a short row squared may be infinite.
                product = isa.load(g).mul_add(isa.load(x) * factor, product);
            }
            let pull = isa.splat(-product.sum());
            for ((x, g), g_x) in x.chunks(LANES).zip(g.chunks(LANES)).zip(g_x.chunks_mut(LANES)) {
                ((isa.load(x) * factor).mul_add(pull, isa.load(g)) * factor).store(g_x);
            }
        }
    }
}
