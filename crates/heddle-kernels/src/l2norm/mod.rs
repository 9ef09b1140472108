//! Normalisation of each row to unit length.

mod cpu;
mod definition;
#[cfg(test)]
mod tests;

use burn::tensor::Tensor;

pub use definition::l2_normalize_by_definition;

use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};

/// Division of each row by its length (arXiv:2412.06464, section 3.4): [`l2_normalize_by_definition`] as one kernel.
///
/// ```text
/// y_i = x_i / √(Σ_j x_j² + ε)
/// ```
///
/// # Shapes
/// - `x`, and the returned tensor: `[b, l, g, n]`; a row is of `n`
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// let x = Tensor::<4>::from_data([[[[3.0, 4.0]]]], &Device::flex());
/// let y = heddle_kernels::l2_normalize(x, 0.0);
/// assert_eq!(y.into_data().to_vec::<f32>()?, [0.6, 0.8]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn l2_normalize(x: Tensor<4>, eps: f64) -> Tensor<4> {
    let shape = x.dims();
    if !native::has_kernels(&x) || shape.contains(&0) {
        return l2_normalize_by_definition(x, eps);
    }
    let [y] = native::apply(L2Norm { shape, eps: eps as f32 }, [x.into_dispatch()], vec![]);
    Tensor::from_dispatch(y)
}

/// The normalisation as an operation of `x`. It keeps each row's factor `1 / √(Σ x² + ε)`.
#[derive(Clone, Debug)]
struct L2Norm {
    shape: [usize; 4],
    eps: f32,
}

impl Operation<1> for L2Norm {
    fn forward(&self, inputs: Views<'_, 1>, _training: bool) -> Forward {
        let [_, _, _, n] = self.shape;
        let (y, factors) = cpu::forward(inputs.floats[0], n, self.eps, Level::current());
        let rows = factors.len();
        Forward { outputs: vec![Array::new(y, self.shape)], kept: vec![Array::new(factors, [rows])] }
    }

    fn backward(
        &self,
        inputs: Views<'_, 1>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 1],
    ) -> [Option<Array>; 1] {
        let g = gradients[0].expect("the only output has a gradient");
        [Some(Array::new(cpu::backward(inputs.floats[0], kept[0], g, Level::current()), self.shape))]
    }
}
