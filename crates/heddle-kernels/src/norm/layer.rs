//! Layer normalisation.

use burn::tensor::Tensor;

use super::definition::{assert_widths, layer_norm_by_definition};
use super::layer_cpu;
use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};

/// Layer normalisation with a learned scale and, if there is one, shift (arXiv:1607.06450, eq. 4):
/// [`layer_norm_by_definition`] as one kernel.
///
/// # Shapes
/// - `x`, and the returned tensor: `[b, l, d]`; `gamma`, `beta`: `[d]`
///
/// # Panics
/// If `gamma` or `beta` is not as wide as `x`.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// let device = Device::flex();
/// let x = Tensor::<3>::from_data([[[1.0, 3.0, 1.0, 3.0]]], &device);
/// let y = heddle_kernels::layer_norm(x, Tensor::ones([4], &device), None, 0.0);
/// assert_eq!(y.into_data().to_vec::<f32>()?, [-1.0, 1.0, -1.0, 1.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn layer_norm(x: Tensor<3>, gamma: Tensor<1>, beta: Option<Tensor<1>>, eps: f64) -> Tensor<3> {
    assert_widths(&x, &gamma, beta.as_ref());
    if !native::has_kernels(&x) {
        return layer_norm_by_definition(x, gamma, beta, eps);
    }
    let operation = LayerNorm { shape: x.dims(), eps: eps as f32, shifts: beta.is_some() };
    let beta = beta.map_or_else(|| native::absent(&x.device()), Tensor::into_dispatch);
    let [y] = native::apply(operation, [x.into_dispatch(), gamma.into_dispatch(), beta], vec![]);
    Tensor::from_dispatch(y)
}

/// The normalisation as an operation; its inputs are `x, gamma, beta`. It keeps each token's mean and factor
/// `1 / √(var x + ε)`.
#[derive(Clone, Debug)]
struct LayerNorm {
    shape: [usize; 3],
    eps: f32,
    shifts: bool,
}

impl Operation<3> for LayerNorm {
    fn forward(&self, inputs: Views<'_, 3>, _training: bool) -> Forward {
        let [b, l, _] = self.shape;
        let [x, gamma, beta] = inputs.floats;
        let (y, moments) = layer_cpu::forward(x, gamma, self.shifts.then_some(beta), self.eps, Level::current());
        Forward { outputs: vec![Array::new(y, self.shape)], kept: vec![Array::new(moments, [b * l, 2])] }
    }

    fn backward(
        &self,
        inputs: Views<'_, 3>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        let [_, _, d] = self.shape;
        let [x, gamma, _] = inputs.floats;
        let g = gradients[0].expect("the only output has a gradient");
        let (g_x, g_gamma, g_beta) = layer_cpu::backward(x, gamma, kept[0], g, Level::current());
        let g_beta = self.shifts.then(|| Array::new(g_beta, [d]));
        [Some(Array::new(g_x, self.shape)), Some(Array::new(g_gamma, [d])), g_beta]
    }

    fn keeps_input(&self, index: usize) -> bool {
        index < 2
    }
}
