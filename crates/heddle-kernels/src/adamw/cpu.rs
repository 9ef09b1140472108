//! The update, element by element.

use rayon::prelude::*;

use super::AdamW;
use crate::cpu::simd::{Isa, Kernel, LANES, Level};

/// Elements that a task updates: 64 KiB of each array.
const PIECE: usize = 1 << 14;

/// The parameter and both moments after a step.
pub(super) fn update(inputs: [&[f32]; 4], rule: &AdamW, level: Level) -> [Vec<f32>; 3] {
    let factors = Factors::new(rule);
    let mut outputs = [(); 3].map(|()| vec![0.0; inputs[0].len()]);
    let [parameter, first, second] = &mut outputs;
    let pieces = parameter.par_chunks_mut(PIECE).zip(first.par_chunks_mut(PIECE)).zip(second.par_chunks_mut(PIECE));
    pieces.enumerate().for_each(|(i, ((parameter, first), second))| {
        let inputs = inputs.map(|input| &input[i * PIECE..][..parameter.len()]);
        level.run(Update { inputs, outputs: [parameter, first, second], factors });
    });
    outputs
}

/// `Σ x²`: pieces in f32, sixteen sums each, and the pieces in f64, in order.
pub(super) fn squared_norm(x: &[f32], level: Level) -> f64 {
    /// Few enough that the roundings of a piece stay below those of its elements.
    const SUMMED: usize = 1 << 12;
    let sums: Vec<f64> = x.par_chunks(SUMMED).map(|x| level.run(Squares(x))).collect();
    sums.iter().sum()
}

/// What every element's update multiplies by.
#[derive(Clone, Copy)]
struct Factors {
    scale: f32,
    keep_first: f32,
    take_first: f32,
    keep_second: f32,
    take_second: f32,
    /// `1 / (1 − β₂ᵗ)`
    second: f32,
    epsilon: f32,
    /// `1 − lr · decay`
    keep: f32,
    /// `−lr / (1 − β₁ᵗ)`
    go: f32,
}

impl Factors {
    fn new(rule: &AdamW) -> Self {
        Self {
            scale: rule.gradient_scale as f32,
            keep_first: rule.beta1 as f32,
            take_first: (1.0 - rule.beta1) as f32,
            keep_second: rule.beta2 as f32,
            take_second: (1.0 - rule.beta2) as f32,
            second: (1.0 / rule.correction(rule.beta2)) as f32,
            epsilon: rule.epsilon as f32,
            keep: (1.0 - rule.lr * rule.weight_decay) as f32,
            go: (-rule.lr / rule.correction(rule.beta1)) as f32,
        }
    }
}

struct Update<'a> {
    inputs: [&'a [f32]; 4],
    outputs: [&'a mut [f32]; 3],
    factors: Factors,
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let f = self.factors;
        let [parameter, gradient, first, second] = self.inputs.map(|input| input.chunks(LANES));
        let inputs = parameter.zip(gradient).zip(first.zip(second));
        let [parameter, first, second] = self.outputs.map(|output| output.chunks_mut(LANES));
        let outputs = parameter.zip(first.zip(second));
        for (((parameter, gradient), (first, second)), (to, (to_first, to_second))) in inputs.zip(outputs) {
            let gradient = isa.load(gradient) * f.scale;
            let first = isa.load(first).mul_add(isa.splat(f.keep_first), gradient * f.take_first);
            let second = isa.load(second).mul_add(isa.splat(f.keep_second), gradient * gradient * f.take_second);
            first.store(to_first);
            second.store(to_second);
            let root = (second * f.second).sqrt() + isa.splat(f.epsilon);
            isa.load(parameter).mul_add(isa.splat(f.keep), first * f.go / root).store(to);
        }
    }
}

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f64 {
        let mut sums = isa.zero();
        for x in self.0.chunks(LANES) {
            let x = isa.load(x);
            sums = x.mul_add(x, sums);
        }
        sums.to_array().into_iter().map(f64::from).sum()
    }
}
