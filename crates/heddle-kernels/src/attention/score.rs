//! From products of queries and keys to scores.
//!
//! Scores are counted in units of log 2, because `exp2` is cheaper than `exp`; the unit goes into the factor that queries are
//! multiplied by, together with the scale.

use std::f32::consts::LOG2_E;

use super::AttentionRule;
use super::sight::{Run, Sight};
use crate::cpu::math::exp2;
use crate::cpu::simd::{Isa, Lanes, Sixteen};

/// A score before any key was seen: lower than any real one, and finite, so that the difference of two is a number.
pub(super) const NOTHING: f32 = -1e30;

/// How products become scores.
#[derive(Clone, Copy, Debug)]
pub(super) struct Score {
    /// What queries are multiplied by.
    pub(super) factor: f32,
    /// The soft-cap, in units of log 2.
    cap: Option<f32>,
    sloped: bool,
}

/// Sixteen queries, or one for sixteen keys.
#[derive(Clone, Copy)]
pub(super) struct Queries<I: Isa> {
    /// Positions.
    pub(super) at: Lanes<I>,
    /// Slopes, in units of log 2.
    pub(super) slopes: Lanes<I>,
}

/// Sixteen scores.
#[derive(Clone, Copy)]
pub(super) struct Scored<I: Isa> {
    pub(super) score: Lanes<I>,
    /// How far query and key stand apart.
    pub(super) distance: Lanes<I>,
    /// The derivative of the soft-cap.
    pub(super) slack: Lanes<I>,
}

impl Score {
    pub(super) fn new(rule: &AttentionRule, sloped: bool) -> Self {
        match rule.softcap {
            None => Self { factor: rule.scale as f32 * LOG2_E, cap: None, sloped },
            Some(cap) => Self { factor: (rule.scale / cap) as f32, cap: Some(cap as f32 * LOG2_E), sloped },
        }
    }

    /// Whether scores are the products themselves.
    pub(super) fn is_product(&self) -> bool {
        self.cap.is_none() && !self.sloped
    }

    /// The scores of queries and keys that stand `offset` (query less key) apart.
    #[inline(always)]
    pub(super) fn of<I: Isa>(&self, product: Lanes<I>, offset: Lanes<I>, slopes: Lanes<I>) -> Scored<I> {
        let isa = product.isa();
        let distance = offset.abs();
        let (mut score, mut slack) = (product, isa.splat(1.0));
        if let Some(cap) = self.cap {
            let t = tanh(product);
            slack = (-t).mul_add(t, slack);
            score = t * cap;
        }
        if self.sloped {
            score = (-slopes).mul_add(distance, score);
        }
        Scored { score, distance, slack }
    }
}

/// Which of sixteen queries see the keys of a run.
#[derive(Clone, Copy)]
pub(super) struct Mask<'a> {
    sight: Sight<'a>,
    /// A run that everybody sees whole.
    whole: bool,
    /// For each query 1 if its row of the block mask has the run's column, else 0.
    present: Option<Sixteen>,
}

impl<'a> Mask<'a> {
    /// For a run of keys, and queries whose positions are told by `position`.
    #[inline(always)]
    pub(super) fn new(sight: Sight<'a>, run: &Run, position: impl Fn(usize) -> usize) -> Self {
        let present = run.column.zip(sight.rule.blocks.as_ref()).map(|(column, blocks)| {
            let mut present = Sixteen::default();
            for (lane, present) in present.iter_mut().enumerate() {
                *present = f32::from(blocks.has(position(lane) / blocks.size(), column));
            }
            present
        });
        Self { sight, whole: run.whole, present }
    }

    /// Whether nothing is hidden.
    pub(super) fn is_open(&self) -> bool {
        self.whole
    }

    /// The scores of a key, −∞ where it is not seen.
    #[inline(always)]
    pub(super) fn apply<I: Isa>(&self, score: Lanes<I>, offset: Lanes<I>, key: usize) -> Lanes<I> {
        if self.whole {
            return score;
        }
        let isa = score.isa();
        let hidden = isa.splat(f32::NEG_INFINITY);
        let (low, high) = self.sight.bounds(key);
        let mut score = offset.if_less(isa.splat(high), score, hidden);
        score = isa.splat(low).if_less(offset, score, hidden);
        match &self.present {
            Some(present) => isa.splat(0.5).if_less(isa.load(present), score, hidden),
            None => score,
        }
    }
}

/// `tanh x`
#[inline(always)]
fn tanh<I: Isa>(x: Lanes<I>) -> Lanes<I> {
    let isa = x.isa();
    // Near 0 the quotient loses digits, and an odd polynomial (Cephes) has them.
    const NEAR: f32 = 0.625;
    let square = x * x;
    let mut p = isa.splat(-5.704_988_7e-3);
    for c in [2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8] {
        p = p.mul_add(square, isa.splat(c));
    }
    let near = (p * square).mul_add(x, x);
    let magnitude = x.abs();
    let far = isa.splat(1.0) - isa.splat(2.0) / (exp2(magnitude * (2.0 * LOG2_E)) + 1.0);
    let far = x.if_less(isa.zero(), -far, far);
    magnitude.if_less(isa.splat(NEAR), near, far)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Kernel, LANES, Level};

    /// A few roundings of f32 (6e-8 each).
    const RELATIVE: f64 = 4e-7;

    struct Tanh<'a>(&'a [f32]);

    impl Kernel for Tanh<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Vec<f32> {
            let mut result = vec![0.0; self.0.len()];
            for (x, y) in self.0.chunks(LANES).zip(result.chunks_mut(LANES)) {
                tanh(isa.load(x)).store(y);
            }
            result
        }
    }

    #[test]
    fn tanh_is_accurate_and_saturates() {
        let mut points: Vec<f32> = (-40_000..=40_000).map(|i| i as f32 * 3e-4).collect();
        points.extend([0.0, 1e-20, -1e-20, 100.0, -100.0, 1e30, -1e30, f32::INFINITY]);
        for level in Level::supported() {
            for (&x, y) in points.iter().zip(level.run(Tanh(&points))) {
                let truth = f64::from(x).tanh();
                assert!(
                    (f64::from(y) - truth).abs() <= RELATIVE * truth.abs(),
                    "tanh {x} = {y}, not {truth}, {level:?}"
                );
            }
            assert!(level.run(Tanh(&[f32::NAN]))[0].is_nan());
        }
    }
}
