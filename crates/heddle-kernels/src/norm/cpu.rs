//! Root-mean-square normalisation, token by token.

use rayon::prelude::*;

use crate::cpu::simd::{Isa, Kernel, LANES, Level};

/// Floats that a task normalises, about: 64 KiB.
const PIECE: usize = 1 << 14;

/// Partial gradients of gamma at most, which are summed in the order of the tokens.
const PARTIALS: usize = 64;

/// The normalised tokens and their factors `1 / √(mean x² + ε)`.
pub(super) fn forward(x: &[f32], gamma: &[f32], eps: f32, level: Level) -> (Vec<f32>, Vec<f32>) {
    let d = gamma.len();
    let tokens = PIECE.div_ceil(d);
    let mut y = vec![0.0; x.len()];
    let mut factors = vec![0.0; x.len() / d];
    let outputs = y.par_chunks_mut(tokens * d).zip(factors.par_chunks_mut(tokens));
    let tasks = x.par_chunks(tokens * d).zip(outputs);
    tasks.for_each(|(x, (y, factors))| level.run(Forward { x, gamma, eps, y, factors }));
    (y, factors)
}

/// The gradients of the tokens and of gamma.
pub(super) fn backward(x: &[f32], gamma: &[f32], factors: &[f32], g: &[f32], level: Level) -> (Vec<f32>, Vec<f32>) {
    let d = gamma.len();
    let tokens = PIECE.div_ceil(d).max(factors.len().div_ceil(PARTIALS));
    let mut g_x = vec![0.0; x.len()];
    let mut partials = vec![0.0; factors.len().div_ceil(tokens) * d];
    let inputs = x.par_chunks(tokens * d).zip(g.par_chunks(tokens * d)).zip(factors.par_chunks(tokens));
    let outputs = g_x.par_chunks_mut(tokens * d).zip(partials.par_chunks_mut(d));
    inputs.zip(outputs).for_each(|(((x, g), factors), (g_x, g_gamma))| {
        level.run(Backward { x, gamma, factors, g, g_x, g_gamma });
    });
    let mut g_gamma = vec![0.0; d];
    for partial in partials.chunks_exact(d) {
        g_gamma.iter_mut().zip(partial).for_each(|(sum, term)| *sum += term);
    }
    (g_x, g_gamma)
}

struct Forward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
    factors: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let d = self.gamma.len();
        let tokens = self.x.chunks_exact(d).zip(self.y.chunks_exact_mut(d)).zip(self.factors);
        for ((x, y), factor) in tokens {
            let mut squares = isa.zero();
            for x in x.chunks(LANES) {
                let x = isa.load(x);
                squares = x.mul_add(x, squares);
            }
            *factor = (squares.sum() / d as f32 + self.eps).sqrt().recip();
            for ((x, y), gamma) in x.chunks(LANES).zip(y.chunks_mut(LANES)).zip(self.gamma.chunks(LANES)) {
                (isa.load(x) * *factor * isa.load(gamma)).store(y);
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    factors: &'a [f32],
    g: &'a [f32],
    g_x: &'a mut [f32],
    g_gamma: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    /// With `z = γ g` and the factor `r`: `∂x = r (z − x r² mean(z x))`, `∂γ = Σ g x r`.
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let d = self.gamma.len();
        let tokens = self.x.chunks_exact(d).zip(self.g.chunks_exact(d)).zip(self.g_x.chunks_exact_mut(d));
        for (((x, g), g_x), &factor) in tokens.zip(self.factors) {
            let mut product = isa.zero();
            for ((x, g), gamma) in x.chunks(LANES).zip(g.chunks(LANES)).zip(self.gamma.chunks(LANES)) {
                product = (isa.load(g) * isa.load(gamma)).mul_add(isa.load(x), product);
            }
            let pull = isa.splat(-product.sum() / d as f32 * factor * factor);
            let outputs = g_x.chunks_mut(LANES).zip(self.g_gamma.chunks_mut(LANES));
            let inputs = x.chunks(LANES).zip(g.chunks(LANES)).zip(self.gamma.chunks(LANES));
            for (((x, g), gamma), (g_x, g_gamma)) in inputs.zip(outputs) {
                let (x, g) = (isa.load(x), isa.load(g));
                (x.mul_add(pull, g * isa.load(gamma)) * factor).store(g_x);
                (g * x).mul_add(isa.splat(factor), isa.load(g_gamma)).store(g_gamma);
            }
        }
    }
}
