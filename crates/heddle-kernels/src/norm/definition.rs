//! Normalisation, by the formula.

use burn::tensor::Tensor;

/// Root-mean-square normalisation with a learned scale.
///
/// ```text
/// y_i = γ_i x_i / √(mean_j x_j² + ε)     (arXiv:1910.07467, eq. 4)
/// ```
///
/// # Shapes
/// - `x`, and the returned tensor: `[b, l, d]`; `gamma`: `[d]`
///
/// # Panics
/// If `gamma` is not as wide as `x`.
pub fn rms_norm_by_definition(x: Tensor<3>, gamma: Tensor<1>, eps: f64) -> Tensor<3> {
    assert_width(&x, &gamma);
    let [_, _, d] = x.dims();
    let mean_square = x.clone().square().mean_dim(2);
    x / mean_square.add_scalar(eps).sqrt() * gamma.reshape([1, 1, d])
}

pub(super) fn assert_width(x: &Tensor<3>, gamma: &Tensor<1>) {
    let [_, _, d] = x.dims();
    assert!(gamma.dims() == [d], "rms_norm: gamma {:?} does not fit a width of {d}", gamma.dims());
}
