//! Losses at chosen positions.

mod cpu;
mod definition;
#[cfg(test)]
mod tests;

use burn::tensor::{Int, Tensor};

pub use definition::cross_entropy_by_definition;

use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};

/// Mean cross-entropy of rows of logits, in nats: [`cross_entropy_by_definition`] as one kernel.
///
/// The forward pass keeps one number a row, the logarithm of the sum of the exponentials; the backward pass forms the
/// softmax from it on the fly.
///
/// # Shapes
/// - `logits`: `[rows, v]`; `targets`: `[rows]`; returned: `[1]`
///
/// # Panics
/// If there is no row, not one target a row, or a target that is no column.
///
/// # Examples
/// Logits that favour nothing cost the logarithm of their number:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// let device = Device::flex();
/// let targets = Tensor::from_data([0, 7], &device);
/// let loss = heddle_kernels::cross_entropy_at(Tensor::zeros([2, 8], &device), targets);
/// assert_eq!(loss.into_scalar::<f32>(), 8f32.ln());
/// ```
pub fn cross_entropy_at(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    definition::assert_targets(&logits, &targets);
    if !native::has_kernels(&logits) {
        return cross_entropy_by_definition(logits, targets);
    }
    let operation = CrossEntropy { shape: logits.dims() };
    let [loss] = native::apply(operation, [logits.into_dispatch()], vec![targets.into_dispatch()]);
    Tensor::from_dispatch(loss)
}

/// The loss as an operation; its input are the logits, its integers the targets.
#[derive(Clone, Debug)]
struct CrossEntropy {
    shape: [usize; 2],
}

impl Operation<1> for CrossEntropy {
    fn forward(&self, inputs: Views<'_, 1>, _training: bool) -> Forward {
        let [rows, v] = self.shape;
        let (loss, normalisers) = cpu::forward(inputs.floats[0], v, &inputs.ints[0], Level::current());
        Forward { outputs: vec![Array::new(vec![loss], [1])], kept: vec![Array::new(normalisers, [rows])] }
    }

    fn backward(
        &self,
        inputs: Views<'_, 1>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 1],
    ) -> [Option<Array>; 1] {
        let [_, v] = self.shape;
        let g = gradients[0].expect("the only output has a gradient")[0];
        let g_logits = cpu::backward(inputs.floats[0], v, &inputs.ints[0], kept[0], g, Level::current());
        [Some(Array::new(g_logits, self.shape))]
    }
}
