//! Root-mean-square normalisation, group by group of each token.

use rayon::prelude::*;

use super::rms::GateOrder;
use super::{tokens_backward, tokens_forward};
use crate::activation::silu_slope;
use crate::cpu::math::sigmoid;
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::tasks::{for_each, sum_rows};

/// What is normalised.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// Tokens of the width of `gamma`.
    pub(super) x: &'a [f32],
    /// What the tokens go through, if anything.
    pub(super) gate: Option<(&'a [f32], GateOrder)>,
    pub(super) gamma: &'a [f32],
    /// Groups of a token.
    pub(super) groups: usize,
}

impl<'a> Rows<'a> {
    /// Some of the tokens.
    fn tokens(self, first: usize, count: usize) -> Self {
        let d = self.gamma.len();
        let some = |x: &'a [f32]| &x[first * d..(first + count) * d];
        Self { x: some(self.x), gate: self.gate.map(|(gate, order)| (some(gate), order)), ..self }
    }

    /// One group of one token.
    #[inline(always)]
    fn group(&self, index: usize) -> Self {
        let width = self.gamma.len() / self.groups;
        let gate = self.gate.map(|(gate, order)| (&gate[index * width..][..width], order));
        let gamma = &self.gamma[index % self.groups * width..][..width];
        Self { x: &self.x[index * width..][..width], gate, gamma, groups: 1 }
    }
}

/// The gradients of what is normalised.
pub(super) struct Gradients {
    pub(super) x: Vec<f32>,
    /// Empty if there is no gate.
    pub(super) gate: Vec<f32>,
    pub(super) gamma: Vec<f32>,
}

/// The normalised tokens and the factors of their groups, `1 / √(mean x² + ε)`.
pub(super) fn forward(rows: Rows<'_>, eps: f32, level: Level) -> (Vec<f32>, Vec<f32>) {
    let d = rows.gamma.len();
    let tokens = tokens_forward(d);
    let mut y = vec![0.0; rows.x.len()];
    let mut factors = vec![0.0; rows.x.len() / d * rows.groups];
    let outputs = y.par_chunks_mut(tokens * d).zip(factors.par_chunks_mut(tokens * rows.groups)).enumerate();
    for_each(outputs, |(i, (y, factors))| {
        level.run(Forward { rows: rows.tokens(i * tokens, y.len() / d), eps, y, factors });
    });
    (y, factors)
}

/// The gradients of the tokens, of the gate and of gamma.
pub(super) fn backward(rows: Rows<'_>, factors: &[f32], g: &[f32], level: Level) -> Gradients {
    let d = rows.gamma.len();
    let count = rows.x.len() / d;
    let tokens = tokens_backward(d, count);
    let mut g_x = vec![0.0; rows.x.len()];
    let mut g_gate = vec![0.0; if rows.gate.is_some() { rows.x.len() } else { 0 }];
    let mut partials = vec![0.0; count.div_ceil(tokens) * d];
    let mut gates = g_gate.chunks_mut(tokens * d);
    let outputs = g_x.chunks_mut(tokens * d).zip(partials.chunks_mut(d));
    let tasks: Vec<_> = (0..).zip(outputs).map(|(i, outputs)| (i, outputs, gates.next())).collect();
    tasks.into_par_iter().for_each(|(i, (g_x, g_gamma), g_gate)| {
        let some = g_x.len() / d;
        level.run(Backward {
            rows: rows.tokens(i * tokens, some),
            factors: &factors[i * tokens * rows.groups..][..some * rows.groups],
            g: &g[i * tokens * d..][..some * d],
            g_x,
            g_gate: g_gate.unwrap_or(&mut []),
            g_gamma,
        });
    });
    Gradients { x: g_x, gate: g_gate, gamma: sum_rows(&partials, d) }
}

struct Forward<'a> {
    rows: Rows<'a>,
    eps: f32,
    y: &'a mut [f32],
    factors: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let width = self.rows.gamma.len() / self.rows.groups;
        for (i, (y, factor)) in self.y.chunks_exact_mut(width).zip(self.factors).enumerate() {
            let row = self.rows.group(i);
            let mut squares = isa.zero();
            for (start, y) in (0..width).step_by(LANES).zip(y.chunks_mut(LANES)) {
                let mut x = isa.load(&row.x[start..][..y.len()]);
                if let Some((gate, GateOrder::Before)) = row.gate {
                    let gate = isa.load(&gate[start..][..y.len()]);
                    x = x * gate * sigmoid(gate);
                }
                squares = x.mul_add(x, squares);
                x.store(y);
            }
            *factor = (squares.sum() / width as f32 + self.eps).sqrt().recip();
            for (start, y) in (0..width).step_by(LANES).zip(y.chunks_mut(LANES)) {
                let mut x = isa.load(y) * *factor * isa.load(&row.gamma[start..][..y.len()]);
                if let Some((gate, GateOrder::After)) = row.gate {
                    let gate = isa.load(&gate[start..][..y.len()]);
                    x = x * gate * sigmoid(gate);
                }
                x.store(y);
            }
        }
    }
}

struct Backward<'a> {
    rows: Rows<'a>,
    factors: &'a [f32],
    g: &'a [f32],
    g_x: &'a mut [f32],
    g_gate: &'a mut [f32],
    g_gamma: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let width = self.rows.gamma.len() / self.rows.groups;
        for (i, (g, &factor)) in self.g.chunks_exact(width).zip(self.factors).enumerate() {
            let row = self.rows.group(i);
            let at = i % self.rows.groups * width..(i % self.rows.groups + 1) * width;
            let (g_x, g_gamma) = (&mut self.g_x[i * width..][..width], &mut self.g_gamma[at]);
            let row = Row { row, factor, g, g_x, g_gamma };
            match row.row.gate {
                None => row.plain(isa),
                Some((gate, order)) => row.gated(isa, (gate, order), &mut self.g_gate[i * width..][..width]),
            }
        }
    }
}

/// One group of one token and where its gradients go.
struct Row<'a> {
    row: Rows<'a>,
    factor: f32,
    g: &'a [f32],
    g_x: &'a mut [f32],
    g_gamma: &'a mut [f32],
}

impl Row<'_> {
    /// With `z = γ g` and the factor `r`: `∂x = r (z − x r² mean(z x))`, `∂γ = Σ g x r`.
    #[inline(always)]
    fn plain<I: Isa>(self, isa: I) {
        let Rows { x, gamma, .. } = self.row;
        let mut product = isa.zero();
        for ((x, g), gamma) in x.chunks(LANES).zip(self.g.chunks(LANES)).zip(gamma.chunks(LANES)) {
            product = (isa.load(g) * isa.load(gamma)).mul_add(isa.load(x), product);
        }
        let pull = self.pull(isa, product);
        let outputs = self.g_x.chunks_mut(LANES).zip(self.g_gamma.chunks_mut(LANES));
        let inputs = x.chunks(LANES).zip(self.g.chunks(LANES)).zip(gamma.chunks(LANES));
        for (((x, g), gamma), (g_x, g_gamma)) in inputs.zip(outputs) {
            let (x, g) = (isa.load(x), isa.load(g));
            (x.mul_add(pull, g * isa.load(gamma)) * self.factor).store(g_x);
            (g * x).mul_add(isa.splat(self.factor), isa.load(g_gamma)).store(g_gamma);
        }
    }

    /// `−r² mean(z x)`, from the sum inside.
    #[inline(always)]
    fn pull<I: Isa>(&self, isa: I, product: Lanes<I>) -> Lanes<I> {
        isa.splat(-product.sum() / self.g.len() as f32 * self.factor * self.factor)
    }

    /// The same around the gate `s = SiLU(z)`. Before: what is normalised is `x s`. After: the gradient that arrives at the
    /// normalised is `g s`. The openings `σ(z)` wait between the two passes where the gate's gradient will stand.
    #[inline(always)]
    fn gated<I: Isa>(self, isa: I, (gate, order): (&[f32], GateOrder), g_gate: &mut [f32]) {
        let Rows { x, gamma, .. } = self.row;
        let mut product = isa.zero();
        for (start, open) in (0..x.len()).step_by(LANES).zip(g_gate.chunks_mut(LANES)) {
            let at = start..start + open.len();
            let z = isa.load(&gate[at.clone()]);
            let opening = sigmoid(z);
            // In either order one factor is gated.
            let g = isa.load(&self.g[at.clone()]) * isa.load(&gamma[at.clone()]) * (z * opening);
            product = g.mul_add(isa.load(&x[at]), product);
            opening.store(open);
        }
        let pull = self.pull(isa, product);
        for (start, g_gate) in (0..x.len()).step_by(LANES).zip(g_gate.chunks_mut(LANES)) {
            let at = start..start + g_gate.len();
            let (x, z, opening) = (isa.load(&x[at.clone()]), isa.load(&gate[at.clone()]), isa.load(g_gate));
            let (g, gamma) = (isa.load(&self.g[at.clone()]), isa.load(&gamma[at.clone()]));
            let (silu, slope) = (z * opening, silu_slope(z, opening));
            let (inside, arriving) = if order == GateOrder::Before { (x * silu, g) } else { (x, g * silu) };
            let g_inside = inside.mul_add(pull, arriving * gamma) * self.factor;
            let (g_x, g_silu) = match order {
                GateOrder::Before => (g_inside * silu, g_inside * x),
                GateOrder::After => (g_inside, g * x * gamma * self.factor),
            };
            g_x.store(&mut self.g_x[at.clone()]);
            (g_silu * slope).store(g_gate);
            let g_gamma = &mut self.g_gamma[at];
            (arriving * inside).mul_add(isa.splat(self.factor), isa.load(g_gamma)).store(g_gamma);
        }
    }
}
