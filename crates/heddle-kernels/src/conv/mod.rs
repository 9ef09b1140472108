//! Causal depthwise convolution along the sequence.

mod backward;
mod cpu;
mod definition;
#[cfg(test)]
mod tests;

use burn::tensor::{Tensor, assert_shape};

pub use definition::causal_conv_by_definition;

use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};
use cpu::{Conv, Dims};

/// What a causal depthwise convolution runs over.
///
/// The last weight is that of the current token, so a 1 before it delays the sequence by one:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{ConvInput, causal_conv};
///
/// let device = Device::flex();
/// let input = ConvInput {
///     x: Tensor::from_data([[[1.0], [2.0], [3.0]]], &device),
///     weight: Tensor::from_data([[1.0, 0.0]], &device),
///     bias: Some(Tensor::from_data([10.0], &device)),
///     silu: false,
/// };
/// let (y, _) = causal_conv(input, Tensor::full([1, 1, 1], 7.0, &device));
/// assert_eq!(y.into_data().to_vec::<f32>()?, [17.0, 11.0, 12.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConvInput {
    /// The sequence: `[b, l, e]`.
    pub x: Tensor<3>,
    /// The filter of each channel; its last weight multiplies the current token: `[e, k]`.
    pub weight: Tensor<2>,
    /// What is added to each channel: `[e]`.
    pub bias: Option<Tensor<1>>,
    /// Whether the result goes through a SiLU, `x / (1 + e^−x)`.
    pub silu: bool,
}

impl ConvInput {
    /// `[b, l, e, k]`
    ///
    /// # Panics
    /// If the shapes disagree with each other or with that of `state`, or if an axis is empty.
    fn dims(&self, state: &Tensor<3>) -> [usize; 4] {
        let [b, l, e] = self.x.dims();
        let Self { weight, bias, .. } = self;
        let [_, k] = weight.dims();
        assert_shape!(weight, [e, k]);
        if let Some(bias) = bias {
            assert_shape!(bias, [e]);
        }
        assert!(k >= 2, "a convolution needs a filter of at least two weights, not {k}");
        assert_shape!(state, [b, k - 1, e]);
        assert!(
            b * l * e > 0,
            "a convolution needs at least one sequence, token and channel; [b, l, e] = {:?}",
            [b, l, e]
        );
        [b, l, e, k]
    }
}

/// Causal depthwise convolution: what [`causal_conv_by_definition`] computes, in one pass over the sequence.
///
/// ```text
/// y_t = act(bias + Σ_j weight_j x_{t−k+1+j})        j = 0 … k−1, act = SiLU or nothing
/// ```
///
/// The inputs before the first token are `state`, and the second result is the last `k − 1` inputs, so a sequence may be
/// convolved in pieces. Gradients flow to all inputs, through `y` and through the returned state.
///
/// # Shapes
/// - `state`, and the returned state: `[b, k − 1, e]`
/// - returned `y`: `[b, l, e]`
///
/// # Panics
/// If the shapes disagree, an axis is empty or the filter has fewer than two weights (one weight is a product).
///
/// # Examples
/// A filter of two ones adds each token to the one before it:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{ConvInput, causal_conv};
///
/// let device = Device::flex();
/// let x = Tensor::<3>::from_data([[[1.0], [10.0], [100.0]]], &device);
/// let input = ConvInput { x, weight: Tensor::ones([1, 2], &device), bias: None, silu: false };
/// let (y, state) = causal_conv(input, Tensor::zeros([1, 1, 1], &device));
/// assert_eq!(y.into_data().to_vec::<f32>()?, [1.0, 11.0, 110.0]);
/// assert_eq!(state.into_data().to_vec::<f32>()?, [100.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn causal_conv(input: ConvInput, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let [b, l, e, k] = input.dims(&state);
    if !native::has_kernels(&input.x) {
        return causal_conv_by_definition(input, state);
    }
    let ConvInput { x, weight, bias, silu } = input;
    let operation = CausalConv { dims: Dims { b, l, e, k }, bias: bias.is_some(), silu };
    let bias = bias.map_or_else(|| native::absent(&x.device()), Tensor::into_dispatch);
    let floats = [x.into_dispatch(), weight.into_dispatch(), bias, state.into_dispatch()];
    let [y, state] = native::apply(operation, floats, vec![]);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(state))
}

/// The convolution as an operation; its inputs are `x, weight, bias, state`, its outputs `y, state`.
#[derive(Clone, Debug)]
struct CausalConv {
    dims: Dims,
    bias: bool,
    silu: bool,
}

impl CausalConv {
    fn conv<'a>(&self, inputs: &Views<'a, 4>) -> Conv<'a> {
        let [x, weight, bias, state] = inputs.floats;
        Conv { dims: self.dims, silu: self.silu, x, weight, bias: self.bias.then_some(bias), state }
    }
}

impl Operation<4> for CausalConv {
    fn forward(&self, inputs: Views<'_, 4>, _training: bool) -> Forward {
        let Dims { b, l, e, k } = self.dims;
        let (y, state) = cpu::forward(self.conv(&inputs), Level::current());
        Forward { outputs: vec![Array::new(y, [b, l, e]), Array::new(state, [b, k - 1, e])], kept: vec![] }
    }

    fn backward(
        &self,
        inputs: Views<'_, 4>,
        _kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 4],
    ) -> [Option<Array>; 4] {
        let Dims { b, l, e, k } = self.dims;
        let upstream = backward::Upstream { y: gradients[0], state: gradients[1] };
        let g = backward::backward(self.conv(&inputs), upstream, Level::current());
        [
            Some(Array::new(g.x, [b, l, e])),
            Some(Array::new(g.weight, [e, k])),
            self.bias.then(|| Array::new(g.bias, [e])),
            Some(Array::new(g.state, [b, k - 1, e])),
        ]
    }
}
