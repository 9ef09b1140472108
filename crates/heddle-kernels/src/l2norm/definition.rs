//! Normalisation to unit length, by the formula.

use burn::tensor::Tensor;

/// Division of each row by its length: what gated delta networks do to queries and keys (arXiv:2412.06464, section 3.4).
///
/// ```text
/// y_i = x_i / √(Σ_j x_j² + ε)
/// ```
///
/// # Shapes
/// - `x`, and the returned tensor: `[b, l, g, n]`; a row is of `n`
pub fn l2_normalize_by_definition(x: Tensor<4>, eps: f64) -> Tensor<4> {
    let square = x.clone().square().sum_dim(3);
    x / square.add_scalar(eps).sqrt()
}
