//! Rotary positions.

use burn::tensor::{Device, Int, Tensor};

/// Rotary position embedding (arXiv:2104.09864, eq. 34), with the head split in halves as Llama does.
///
/// ```text
/// (x_i, x_{i+p/2}) ← rotation by t θ^{-2i/p} of (x_i, x_{i+p/2}),   i = 0 … p/2 − 1
/// ```
///
/// The paper pairs neighbours `(x_{2i}, x_{2i+1})`; the halves are the same map under a fixed permutation of the head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the wavelengths; 10 000 in the paper.
    pub theta: f64,
}

impl Rope {
    /// Rotates `x`, whose first row stands at position `offset`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use heddle_attention::Rope;
    ///
    /// let x = Tensor::<4>::ones([1, 1, 1, 4], &Device::flex());
    /// assert_eq!(Rope { theta: 10_000.0 }.apply(x.clone(), 0).into_data(), x.into_data());
    /// ```
    ///
    /// # Shapes
    /// - `x`, and the returned tensor: `[b, h, l, p]`
    ///
    /// # Panics
    /// If `p` is odd.
    pub fn apply(&self, x: Tensor<4>, offset: usize) -> Tensor<4> {
        let [b, h, l, p] = x.dims();
        assert!(p % 2 == 0, "rope: the head width {p} is odd");
        let (cos, sin) = self.rotation(offset, l, p, &x.device());
        let low = x.clone().slice([0..b, 0..h, 0..l, 0..p / 2]);
        let high = x.slice([0..b, 0..h, 0..l, p / 2..p]);
        let rotated_low = low.clone() * cos.clone() - high.clone() * sin.clone();
        let rotated_high = high * cos + low * sin;
        Tensor::cat(vec![rotated_low, rotated_high], 3)
    }

    /// Cosines and sines of every position and frequency, `[1, 1, l, p/2]`.
    fn rotation(&self, offset: usize, l: usize, p: usize, device: &Device) -> (Tensor<4>, Tensor<4>) {
        let position =
            Tensor::<1, Int>::arange(offset as i64..(offset + l) as i64, device).float().reshape([1, 1, l, 1]);
        let frequency: Vec<f32> = (0..p / 2).map(|i| self.theta.powf(-2.0 * i as f64 / p as f64) as f32).collect();
        let angle = position * Tensor::<1>::from_floats(frequency.as_slice(), device).reshape([1, 1, 1, p / 2]);
        (angle.clone().cos(), angle.sin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;
    use burn::tensor::Distribution;

    /// Rounding of f32 products of numbers near one.
    const ROUNDING: f32 = 1e-5;

    fn product(rope: Rope, q: &Tensor<4>, k: &Tensor<4>, at: (usize, usize)) -> f32 {
        (rope.apply(q.clone(), at.0) * rope.apply(k.clone(), at.1)).sum().into_scalar()
    }

    #[test]
    fn a_score_depends_on_the_distance_alone() {
        let device = Device::flex();
        let draw = || Tensor::<4>::random([1, 1, 1, 8], Distribution::Uniform(-1.0, 1.0), &device);
        let (q, k, rope) = (draw(), draw(), Rope { theta: 100.0 });
        assert_relative_eq!(product(rope, &q, &k, (9, 4)), product(rope, &q, &k, (25, 20)), epsilon = ROUNDING);
        assert!((product(rope, &q, &k, (9, 4)) - product(rope, &q, &k, (9, 8))).abs() > ROUNDING);
    }

    #[test]
    fn the_first_pair_turns_by_one_radian_a_token() {
        let device = Device::flex();
        let x = Tensor::<1>::from_floats([1.0, 0.0, 0.0, 0.0], &device).reshape([1, 1, 1, 4]);
        let y = Rope { theta: 10_000.0 }.apply(x, 1).into_data().try_to_vec::<f32>().unwrap();
        assert_relative_eq!(y[0], 1f32.cos(), epsilon = ROUNDING);
        assert_relative_eq!(y[2], 1f32.sin(), epsilon = ROUNDING);
    }
}
