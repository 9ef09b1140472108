//! Looking tokens up.

mod cpu;
mod definition;
#[cfg(test)]
mod tests;

use burn::tensor::{Int, Tensor};

pub use definition::embed_by_definition;

use crate::cpu::Array;
use crate::native::{self, Forward, Operation, Views};

/// The row of `weight` for each token: [`embed_by_definition`], with a gradient that adds each row's tokens in their order.
///
/// # Shapes
/// - `weight`: `[v, d]`; `tokens`: `[b, l]`; returned: `[b, l, d]`
///
/// # Panics
/// If a token has no row.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// let device = Device::flex();
/// let weight = Tensor::<2>::from_data([[0.0, 1.0], [2.0, 3.0]], &device);
/// let x = heddle_kernels::embed(weight, Tensor::from_data([[1, 0]], &device));
/// assert_eq!(x.into_data().to_vec::<f32>()?, [2.0, 3.0, 0.0, 1.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn embed(weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
    if !native::has_kernels(&weight) {
        return embed_by_definition(weight, tokens);
    }
    let ([v, d], [b, l]) = (weight.dims(), tokens.dims());
    let operation = Embed { v, d, tokens: [b, l] };
    let [x] = native::apply(operation, [weight.into_dispatch()], vec![tokens.into_dispatch()]);
    Tensor::from_dispatch(x)
}

/// The lookup as an operation; its input is the weight, its integers the tokens.
#[derive(Clone, Debug)]
struct Embed {
    v: usize,
    d: usize,
    tokens: [usize; 2],
}

impl Operation<1> for Embed {
    fn forward(&self, inputs: Views<'_, 1>, _training: bool) -> Forward {
        let [b, l] = self.tokens;
        let x = cpu::forward(inputs.floats[0], [self.v, self.d], &inputs.ints[0]);
        Forward { outputs: vec![Array::new(x, [b, l, self.d])], kept: vec![] }
    }

    fn backward(
        &self,
        inputs: Views<'_, 1>,
        _kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 1],
    ) -> [Option<Array>; 1] {
        let g = gradients[0].expect("the only output has a gradient");
        let g_weight = cpu::backward(g, [self.v, self.d], &inputs.ints[0]);
        [Some(Array::new(g_weight, [self.v, self.d]))]
    }

    fn keeps_input(&self, _index: usize) -> bool {
        false
    }
}
