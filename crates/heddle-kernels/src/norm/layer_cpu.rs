//! Layer normalisation, token by token.

use rayon::prelude::*;

use super::{tokens_backward, tokens_forward};
use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::tasks::{for_each, sum_rows};

/// The normalised tokens, and the mean and the factor `1 / √(var x + ε)` of each.
pub(super) fn forward(x: &[f32], gamma: &[f32], beta: Option<&[f32]>, eps: f32, level: Level) -> (Vec<f32>, Vec<f32>) {
    let d = gamma.len();
    let tokens = tokens_forward(d);
    let mut y = vec![0.0; x.len()];
    let mut moments = vec![0.0; x.len() / d * 2];
    let outputs = y.par_chunks_mut(tokens * d).zip(moments.par_chunks_mut(tokens * 2));
    let tasks = x.par_chunks(tokens * d).zip(outputs);
    for_each(tasks, |(x, (y, moments))| level.run(Forward { x, gamma, beta, eps, y, moments }));
    (y, moments)
}

/// The gradients of the tokens, of gamma and of beta.
pub(super) fn backward(
    x: &[f32],
    gamma: &[f32],
    moments: &[f32],
    g: &[f32],
    level: Level,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let d = gamma.len();
    let count = x.len() / d;
    let tokens = tokens_backward(d, count);
    let mut g_x = vec![0.0; x.len()];
    let (mut gammas, mut betas) = (vec![0.0; count.div_ceil(tokens) * d], vec![0.0; count.div_ceil(tokens) * d]);
    let inputs = x.par_chunks(tokens * d).zip(g.par_chunks(tokens * d)).zip(moments.par_chunks(tokens * 2));
    let sums = gammas.par_chunks_mut(d).zip(betas.par_chunks_mut(d));
    inputs.zip(g_x.par_chunks_mut(tokens * d).zip(sums)).for_each(|(((x, g), moments), (g_x, (g_gamma, g_beta)))| {
        level.run(Backward { x, gamma, moments, g, g_x, g_gamma, g_beta });
    });
    (g_x, sum_rows(&gammas, d), sum_rows(&betas, d))
}

struct Forward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: Option<&'a [f32]>,
    eps: f32,
    y: &'a mut [f32],
    moments: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let d = self.gamma.len();
        let tokens = self.x.chunks_exact(d).zip(self.y.chunks_exact_mut(d)).zip(self.moments.chunks_exact_mut(2));
        for ((x, y), moments) in tokens {
            let mut sum = isa.zero();
            for x in x.chunks(LANES) {
                sum += isa.load(x);
            }
            let mean = sum.sum() / d as f32;
            let mut squares = isa.zero();
            for (x, y) in x.chunks(LANES).zip(y.chunks_mut(LANES)) {
                (isa.load(x) - mean).store(y);
                // What lies beyond the token's end was padded only now, and adds nothing.
                let centred = isa.load(y);
                squares = centred.mul_add(centred, squares);
            }
            let factor = (squares.sum() / d as f32 + self.eps).sqrt().recip();
            moments.copy_from_slice(&[mean, factor]);
            for (start, y) in (0..d).step_by(LANES).zip(y.chunks_mut(LANES)) {
                let shift = match self.beta {
                    Some(beta) => isa.load(&beta[start..][..y.len()]),
                    None => isa.zero(),
                };
                (isa.load(y) * factor).mul_add(isa.load(&self.gamma[start..][..y.len()]), shift).store(y);
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    moments: &'a [f32],
    g: &'a [f32],
    g_x: &'a mut [f32],
    g_gamma: &'a mut [f32],
    g_beta: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    /// With `z = γ g`, the normalised `n` and the factor `r`: `∂x = r (z − mean(z) − n mean(z n))`, `∂γ = Σ g n`,
    /// `∂β = Σ g`.
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let d = self.gamma.len();
        let tokens = self.x.chunks_exact(d).zip(self.g.chunks_exact(d)).zip(self.g_x.chunks_exact_mut(d));
        for (((x, g), g_x), moments) in tokens.zip(self.moments.chunks_exact(2)) {
            let (mean, factor) = (isa.splat(moments[0]), isa.splat(moments[1]));
            let (mut sum, mut product) = (isa.zero(), isa.zero());
            for ((x, g), gamma) in x.chunks(LANES).zip(g.chunks(LANES)).zip(self.gamma.chunks(LANES)) {
                let z = isa.load(g) * isa.load(gamma);
                sum += z;
                product = z.mul_add((isa.load(x) - mean) * factor, product);
            }
            let (shift, pull) = (isa.splat(-sum.sum() / d as f32), isa.splat(-product.sum() / d as f32));
            for (start, g_x) in (0..d).step_by(LANES).zip(g_x.chunks_mut(LANES)) {
                let at = start..start + g_x.len();
                let (x, g, gamma) = (&x[at.clone()], isa.load(&g[at.clone()]), isa.load(&self.gamma[at.clone()]));
                let normalised = (isa.load(x) - mean) * factor;
                (normalised.mul_add(pull, g.mul_add(gamma, shift)) * factor).store(g_x);
                let (g_gamma, g_beta) = (&mut self.g_gamma[at.clone()], &mut self.g_beta[at]);
                g.mul_add(normalised, isa.load(g_gamma)).store(g_gamma);
                (isa.load(g_beta) + g).store(g_beta);
            }
        }
    }
}
