//! Normalisation, by the formulas.

use burn::tensor::{Tensor, activation, assert_shape};

use super::{GateOrder, GatedNorm};

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

/// Root-mean-square normalisation of groups of channels, with a gate before it or behind it.
///
/// ```text
/// y = γ ⊙ RMS(x ⊙ SiLU(z))      gate before (arXiv:2405.21060, section 7.2)
/// y = γ ⊙ RMS(x) ⊙ SiLU(z)      gate behind (arXiv:2412.06464, section 3.4)
/// ```
///
/// `RMS` divides each group of neighbouring channels by its root mean square.
///
/// # Shapes
/// - `x`, `gate`, and the returned tensor: `[b, l, d]`; `gamma`: `[d]`
///
/// # Panics
/// If shapes disagree or the groups do not divide the width.
pub fn gated_rms_norm_by_definition(x: Tensor<3>, gate: Tensor<3>, gamma: Tensor<1>, norm: GatedNorm) -> Tensor<3> {
    norm.assert_fits(&x, &gate, &gamma);
    let [b, l, d] = x.dims();
    let gate = activation::silu(gate);
    let x = if norm.order == GateOrder::Before { x * gate.clone() } else { x };
    let groups: Tensor<4> = x.reshape([b, l, norm.groups, d / norm.groups]);
    let mean_square = groups.clone().square().mean_dim(3);
    let y = (groups / mean_square.add_scalar(norm.eps).sqrt()).reshape([b, l, d]) * gamma.reshape([1, 1, d]);
    if norm.order == GateOrder::After { y * gate } else { y }
}

/// Normalisation to mean zero and variance one, with a learned scale and shift.
///
/// ```text
/// y_i = γ_i (x_i − mean_j x_j) / √(var_j x_j + ε) + β_i     (arXiv:1607.06450, eq. 4)
/// ```
///
/// # Shapes
/// - `x`, and the returned tensor: `[b, l, d]`; `gamma`, `beta`: `[d]`
///
/// # Panics
/// If `gamma` or `beta` is not as wide as `x`.
pub fn layer_norm_by_definition(x: Tensor<3>, gamma: Tensor<1>, beta: Option<Tensor<1>>, eps: f64) -> Tensor<3> {
    assert_widths(&x, &gamma, beta.as_ref());
    let [_, _, d] = x.dims();
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    let y = centred / variance.add_scalar(eps).sqrt() * gamma.reshape([1, 1, d]);
    match beta {
        Some(beta) => y + beta.reshape([1, 1, d]),
        None => y,
    }
}

pub(super) fn assert_width(x: &Tensor<3>, gamma: &Tensor<1>) {
    let [_, _, d] = x.dims();
    assert!(gamma.dims() == [d], "rms_norm: gamma {:?} does not fit a width of {d}", gamma.dims());
}

pub(super) fn assert_widths(x: &Tensor<3>, gamma: &Tensor<1>, beta: Option<&Tensor<1>>) {
    let [_, _, d] = x.dims();
    assert_shape!(gamma, [d]);
    if let Some(beta) = beta {
        assert_shape!(beta, [d]);
    }
}

impl GatedNorm {
    pub(super) fn assert_fits(&self, x: &Tensor<3>, gate: &Tensor<3>, gamma: &Tensor<1>) {
        let [b, l, d] = x.dims();
        assert_shape!(gate, [b, l, d]);
        assert_shape!(gamma, [d]);
        let groups = self.groups;
        assert!(groups > 0 && d.is_multiple_of(groups), "gated_rms_norm: {groups} groups do not divide {d} channels");
    }
}
