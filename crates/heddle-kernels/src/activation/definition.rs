//! Elementwise functions, by their formulas.

use burn::tensor::{Tensor, activation};

/// The sigmoid-weighted linear unit, `x · σ(x)` (arXiv:1702.03118, eq. 1).
pub fn silu_by_definition<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::silu(x)
}

/// `SiLU(gate) · x`: the product inside SwiGLU (arXiv:2002.05202, eq. 6) and at Mamba's output.
///
/// # Panics
/// If the shapes disagree.
pub fn silu_mul_by_definition<const D: usize>(gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    assert_same_shape(&gate, &x);
    activation::silu(gate) * x
}

/// The logistic function, `σ(x) = 1 / (1 + e^−x)`.
pub fn sigmoid_by_definition<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::sigmoid(x)
}

/// `σ(gate) · x`: the gate at the output of gated attention (arXiv:2505.06708) and inside recurrent units.
///
/// # Panics
/// If the shapes disagree.
pub fn sigmoid_mul_by_definition<const D: usize>(gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    assert_same_shape(&gate, &x);
    activation::sigmoid(gate) * x
}

/// The Gaussian error linear unit, `x · Φ(x)` with the standard normal distribution `Φ` (arXiv:1606.08415, eq. 1).
pub fn gelu_by_definition<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    // Not Burn's own, whose gradient on some backends is that of an approximation.
    let below = (x.clone() * core::f64::consts::FRAC_1_SQRT_2).erf().add_scalar(1.0).mul_scalar(0.5);
    x * below
}

/// The squared rectifier, `max(x, 0)²` (arXiv:2109.08668, section 3).
pub fn relu_squared_by_definition<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::relu(x).square()
}

/// `eˣ`.
pub fn exp_by_definition<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.exp()
}

/// `log(1 + eˣ)`, without overflow at large `x`.
pub fn softplus_by_definition<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::softplus(x, 1.0)
}

pub(super) fn assert_same_shape<const D: usize>(gate: &Tensor<D>, x: &Tensor<D>) {
    assert!(gate.dims() == x.dims(), "a gate of {:?} does not fit {:?}", gate.dims(), x.dims());
}
