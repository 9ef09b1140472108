//! Looking tokens up, by the formula.

use burn::tensor::{Int, Tensor};

/// The row of `weight` for each token.
///
/// # Shapes
/// - `weight`: `[v, d]`; `tokens`: `[b, l]`; returned: `[b, l, d]`
pub fn embed_by_definition(weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
    let ([b, l], [_, d]) = (tokens.dims(), weight.dims());
    weight.select(0, tokens.reshape([b * l])).reshape([b, l, d])
}
