//! Elementary functions of vectors.
//!
//! Each is a polynomial on a reduced range (coefficients of the Cephes library) with a relative error of a few units in
//! the last place, which the tests measure against `f64`. Numbers that are not numbers stay so.

use super::simd::{Isa, Lanes};

/// `c[0] x^(k−1) + … + c[k−1]`
#[inline(always)]
fn polynomial<I: Isa, const K: usize>(x: Lanes<I>, c: [f32; K]) -> Lanes<I> {
    let isa = x.isa();
    let mut sum = isa.splat(c[0]);
    let mut i = 1;
    while i < K {
        sum = sum.mul_add(x, isa.splat(c[i]));
        i += 1;
    }
    sum
}

/// `2^x`; results below the smallest normal number are 0, those beyond the largest are infinite or nearly the largest.
#[inline(always)]
pub(crate) fn exp2<I: Isa>(x: Lanes<I>) -> Lanes<I> {
    let x = x.at_least(-127.0).at_most(128.0);
    let k = x.round().at_most(127.0);
    let r = x - k;
    let p = polynomial(
        r,
        [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 0.240_226_48, std::f32::consts::LN_2],
    );
    p.mul_add(r, r.isa().splat(1.0)).scale(k)
}

/// `e^x`; results below the smallest normal number are 0, those beyond the largest are infinite or nearly the largest.
#[inline(always)]
pub(crate) fn exp<I: Isa>(x: Lanes<I>) -> Lanes<I> {
    let isa = x.isa();
    // ln 2 in two parts, the first of few bits, so that k·LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.at_least(-88.0).at_most(89.0);
    let k = (x * std::f32::consts::LOG2_E).round().at_most(127.0);
    let r = k.mul_add(isa.splat(-LN2_HIGH), x);
    let r = k.mul_add(isa.splat(-LN2_LOW), r);
    let p = polynomial(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5]);
    let p = p.mul_add(r * r, r) + 1.0;
    p.scale(k)
}

/// The natural logarithm of positive normal numbers.
#[inline(always)]
pub(crate) fn log<I: Isa>(x: Lanes<I>) -> Lanes<I> {
    let isa = x.isa();
    let (m, k) = x.split();
    let root = isa.splat(std::f32::consts::SQRT_2);
    let k = m.if_less(root, k, k + 1.0);
    let r = m.if_less(root, m, m * 0.5) - 1.0;
    let p = polynomial(
        r,
        [
            7.037_683_6e-2,
            -0.115_146_1,
            0.116_769_99,
            -0.124_201_41,
            0.142_493_23,
            -0.166_680_58,
            0.200_007_15,
            -0.249_999_94,
            0.333_333_3,
        ],
    );
    let square = r * r;
    let tail = (p * r).mul_add(square, k * -2.121_944_4e-4);
    let tail = square.mul_add(isa.splat(-0.5), tail);
    k.mul_add(isa.splat(0.693_359_4), r + tail)
}

/// `log(1 + x)` for `x` in [0, 1], also where `1 + x` rounds to 1.
#[inline(always)]
fn log_one_plus<I: Isa>(x: Lanes<I>) -> Lanes<I> {
    // log(1 + x) = 2 artanh(s) with s = x / (2 + x) ≤ 1/3; the first term left out is s^15/15.
    let s = x / (x + 2.0);
    let p = polynomial(s * s, [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0]);
    (s + s) * p
}

/// `1 / (1 + e^−x)`
#[inline(always)]
pub(crate) fn sigmoid<I: Isa>(x: Lanes<I>) -> Lanes<I> {
    x.isa().splat(1.0) / (exp(-x) + 1.0)
}

/// `(e^x − e^−x) / (e^x + e^−x)`
#[inline(always)]
pub(crate) fn tanh<I: Isa>(x: Lanes<I>) -> Lanes<I> {
    let isa = x.isa();
    let size = x.abs();
    // Near 0 the quotient below would cancel.
    let square = x * x;
    let p = polynomial(square, [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8]);
    let near = (square * x).mul_add(p, x);
    let far = isa.splat(1.0) - isa.splat(2.0) / (exp(size + size) + 1.0);
    let far = x.if_less(isa.zero(), -far, far);
    size.if_less(isa.splat(0.625), near, far)
}

/// `1 − Φ(x)` for `x ≥ 0`, with the standard normal distribution `Φ`.
#[inline(always)]
fn normal_tail<I: Isa>(x: Lanes<I>) -> Lanes<I> {
    // erfc(z) = t exp(−z² + P(t)) with t = 1 / (1 + z/2): Numerical Recipes in C, 2nd edition, p. 221.
    let isa = x.isa();
    let z = x * std::f32::consts::FRAC_1_SQRT_2;
    let t = isa.splat(1.0) / z.mul_add(isa.splat(0.5), isa.splat(1.0));
    let p = polynomial(
        t,
        [
            0.170_872_77,
            -0.822_152_23,
            1.488_515_9,
            -1.135_204,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_7,
            -1.265_512_2,
        ],
    );
    t * exp((-z).mul_add(z, p)) * 0.5
}

/// The standard normal distribution and its density.
#[inline(always)]
pub(crate) fn normal<I: Isa>(x: Lanes<I>) -> (Lanes<I>, Lanes<I>) {
    let isa = x.isa();
    let tail = normal_tail(x.abs());
    let below = x.if_less(isa.zero(), tail, isa.splat(1.0) - tail);
    let density = exp(x * x * -0.5) * 0.398_942_3;
    (below, density)
}

/// `log(1 + e^x)`
#[inline(always)]
pub(crate) fn softplus<I: Isa>(x: Lanes<I>) -> Lanes<I> {
    x.at_least(0.0) + log_one_plus(exp(-x.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Kernel, LANES, Level};

    /// A few units in the last place of f32 (6e-8 each), the accuracy that single-precision polynomials give.
    const RELATIVE: f64 = 4e-7;

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Exp2,
        Log,
        Sigmoid,
        Softplus,
        Tanh,
        Normal,
    }

    struct Apply<'a>(Function, &'a [f32]);

    impl Kernel for Apply<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Vec<f32> {
            let mut result = vec![0.0; self.1.len()];
            for (x, y) in self.1.chunks(LANES).zip(result.chunks_mut(LANES)) {
                let x = isa.load(x);
                let value = match self.0 {
                    Function::Exp => exp(x),
                    Function::Exp2 => exp2(x),
                    Function::Log => log(x),
                    Function::Sigmoid => sigmoid(x),
                    Function::Softplus => softplus(x),
                    Function::Tanh => tanh(x),
                    Function::Normal => normal(x).0,
                };
                value.store(y);
            }
            result
        }
    }

    fn assert_close(function: Function, points: &[f32], truth: impl Fn(f64) -> f64) {
        for level in Level::supported() {
            for (&x, y) in points.iter().zip(level.run(Apply(function, points))) {
                let truth = truth(f64::from(x));
                let error = (f64::from(y) - truth).abs();
                assert!(
                    error <= RELATIVE * truth.abs() + f64::from(f32::MIN_POSITIVE),
                    "{function:?}({x}) = {y}, not {truth}, with {level:?}"
                );
            }
        }
    }

    fn grid(low: f32, high: f32) -> Vec<f32> {
        const POINTS: usize = 100_001;
        (0..POINTS).map(|i| low + (high - low) * i as f32 / (POINTS - 1) as f32).collect()
    }

    #[test]
    fn exp_is_accurate_to_a_few_units_in_the_last_place() {
        assert_close(Function::Exp, &grid(-100.0, 88.7), f64::exp);
        assert_close(Function::Exp, &grid(-1e-3, 1e-3), f64::exp);
    }

    #[test]
    fn exp2_is_accurate_to_a_few_units_in_the_last_place() {
        assert_close(Function::Exp2, &grid(-140.0, 127.5), f64::exp2);
        assert_close(Function::Exp2, &grid(-1e-3, 1e-3), f64::exp2);
    }

    #[test]
    fn log_is_accurate_to_a_few_units_in_the_last_place() {
        let points: Vec<f32> = grid(-87.0, 88.0).into_iter().map(f32::exp).collect();
        assert_close(Function::Log, &points, f64::ln);
        assert_close(Function::Log, &grid(0.5, 2.0), f64::ln);
    }

    #[test]
    fn sigmoid_and_softplus_are_accurate_also_in_their_tails() {
        assert_close(Function::Sigmoid, &grid(-87.0, 87.0), |x| 1.0 / (1.0 + (-x).exp()));
        assert_close(Function::Softplus, &grid(-87.0, 87.0), |x| x.max(0.0) + (-x.abs()).exp().ln_1p());
    }

    #[test]
    fn tanh_is_accurate_to_a_few_units_in_the_last_place_also_near_zero() {
        assert_close(Function::Tanh, &grid(-20.0, 20.0), f64::tanh);
        assert_close(Function::Tanh, &grid(-0.7, 0.7), f64::tanh);
        assert_close(Function::Tanh, &grid(-1e-6, 1e-6), f64::tanh);
        assert_close(Function::Tanh, &[1e-30, -1e-37, 1e-42, 0.0], f64::tanh);
    }

    #[test]
    fn the_normal_distribution_is_accurate_to_single_precision() {
        // By the trapezoid rule from far below, which is exact to all of f64 for a function that ends so flat.
        let truth = |x: f64| {
            const STEP: f64 = 0.05;
            let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            // The points below x carry the left tail; STEP/2 of the last is left to the end correction.
            let sum: f64 = (0..1000).map(|i| density(x - STEP * f64::from(i))).sum();
            let slope = -x * density(x);
            let third = (3.0 * x - x.powi(3)) * density(x);
            let fifth = (-x.powi(5) + 10.0 * x.powi(3) - 15.0 * x) * density(x);
            let corrections =
                STEP.powi(2) / 12.0 * slope - STEP.powi(4) / 720.0 * third + STEP.powi(6) / 30_240.0 * fifth;
            STEP * (sum - density(x) / 2.0) - corrections
        };
        assert!((truth(0.0) - 0.5).abs() < 1e-12 && (truth(1.0) - 0.841_344_746_068_542_9).abs() < 1e-12);
        for level in Level::supported() {
            let points = grid(-6.0, 6.0);
            for (&x, y) in points.iter().zip(level.run(Apply(Function::Normal, &points))) {
                let error = (f64::from(y) - truth(f64::from(x))).abs();
                assert!(error <= RELATIVE, "{x}: {y}, off by {error}, with {level:?}");
            }
        }
    }

    #[test]
    fn extreme_arguments_saturate_and_what_is_no_number_stays_so() {
        let points = [f32::NEG_INFINITY, -1e30, -1e4, 1e4, 1e30, f32::INFINITY, f32::NAN];
        for level in Level::supported() {
            for function in [Function::Exp, Function::Exp2] {
                let y = level.run(Apply(function, &points));
                assert_eq!(y[..3], [0.0; 3], "{function:?} with {level:?}");
                assert!(y[3..6].iter().all(|&y| y > 3.4e38), "{function:?} with {level:?}: {y:?}");
                assert!(y[6].is_nan(), "{function:?} with {level:?}");
            }
            let y = level.run(Apply(Function::Sigmoid, &points));
            assert!(y[..3].iter().all(|&y| (0.0..1e-37).contains(&y)) && y[3..6] == [1.0; 3] && y[6].is_nan());
            let y = level.run(Apply(Function::Tanh, &points));
            assert!(y[..3] == [-1.0; 3] && y[3..6] == [1.0; 3] && y[6].is_nan());
            let y = level.run(Apply(Function::Softplus, &points));
            assert!(y[..3].iter().all(|&y| y == 0.0) && y[3] == 1e4 && y[5].is_infinite() && y[6].is_nan());
        }
    }
}
