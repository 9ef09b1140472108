//! Normalisation of each token.

mod cpu;
mod definition;
#[cfg(test)]
mod tests;

use burn::tensor::Tensor;

pub use definition::rms_norm_by_definition;

use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};

/// Root-mean-square normalisation with a learned scale (arXiv:1910.07467, eq. 4): [`rms_norm_by_definition`] as one kernel.
///
/// # Shapes
/// - `x`, and the returned tensor: `[b, l, d]`; `gamma`: `[d]`
///
/// # Panics
/// If `gamma` is not as wide as `x`.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// let device = Device::flex();
/// let x = Tensor::<3>::from_data([[[3.0, 4.0, 0.0, 0.0]]], &device);
/// let y = heddle_kernels::rms_norm(x, Tensor::ones([4], &device), 0.0);
/// assert_eq!(y.into_data().to_vec::<f32>()?, [1.2, 1.6, 0.0, 0.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn rms_norm(x: Tensor<3>, gamma: Tensor<1>, eps: f64) -> Tensor<3> {
    definition::assert_width(&x, &gamma);
    if !native::has_kernels(&x) {
        return rms_norm_by_definition(x, gamma, eps);
    }
    let operation = RmsNorm { shape: x.dims(), eps: eps as f32 };
    let [y] = native::apply(operation, [x.into_dispatch(), gamma.into_dispatch()], vec![]);
    Tensor::from_dispatch(y)
}

/// The normalisation as an operation; its inputs are `x, gamma`. It keeps each token's factor `1 / √(mean x² + ε)`.
#[derive(Clone, Debug)]
struct RmsNorm {
    shape: [usize; 3],
    eps: f32,
}

impl Operation<2> for RmsNorm {
    fn forward(&self, inputs: Views<'_, 2>, _training: bool) -> Forward {
        let [b, l, _] = self.shape;
        let [x, gamma] = inputs.floats;
        let (y, factors) = cpu::forward(x, gamma, self.eps, Level::current());
        Forward { outputs: vec![Array::new(y, self.shape)], kept: vec![Array::new(factors, [b * l])] }
    }

    fn backward(
        &self,
        inputs: Views<'_, 2>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 2],
    ) -> [Option<Array>; 2] {
        let [x, gamma] = inputs.floats;
        let g = gradients[0].expect("the only output has a gradient");
        let (g_x, g_gamma) = cpu::backward(x, gamma, kept[0], g, Level::current());
        [Some(Array::new(g_x, self.shape)), Some(Array::new(g_gamma, [gamma.len()]))]
    }
}
