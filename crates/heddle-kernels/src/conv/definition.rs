use burn::tensor::{Tensor, activation};

use super::ConvInput;

/// Causal depthwise convolution as a sum of shifted sequences: the definition that the kernel must equal.
///
/// ```text
/// y_t = act(bias + Σ_j weight_j x_{t−k+1+j})        j = 0 … k−1, act = SiLU or nothing
/// ```
///
/// # Shapes
/// - `state`, and the returned state: `[b, k − 1, e]`
/// - returned `y`: `[b, l, e]`
///
/// # Panics
/// If the shapes disagree, an axis is empty or the filter has fewer than two weights.
pub fn causal_conv_by_definition(input: ConvInput, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let [b, l, e, k] = input.dims(&state);
    let ConvInput { x, weight, bias, silu } = input;
    let x = Tensor::cat(vec![state, x], 1);
    let term = |j: usize| {
        let weight = weight.clone().slice([0..e, j..j + 1]).reshape([1, 1, e]);
        x.clone().slice([0..b, j..j + l, 0..e]) * weight
    };
    let mut y = (1..k).fold(term(0), |y, j| y + term(j));
    if let Some(bias) = bias {
        y = y + bias.reshape([1, 1, e]);
    }
    if silu {
        y = activation::silu(y);
    }
    (y, x.slice([0..b, l..l + k - 1, 0..e]))
}
