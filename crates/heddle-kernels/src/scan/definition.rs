use burn::tensor::Tensor;

use super::{GatedScanInput, ScanInput};
use crate::activation::{silu_mul_by_definition, softplus_by_definition};

/// Selective scan, one step at a time: the definition that every faster scan must equal.
///
/// ```text
/// h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t        y_t = C_t h_t + D u_t     (arXiv:2312.00752, eq. 2, alg. 2)
/// ```
///
/// `B` takes the Euler step, as the authors' code does; the paper's eq. 4 is the exact zero-order hold.
///
/// # Shapes
/// - `state`, and the returned state: `[b, e, n]`
/// - returned `y`: `[b, l, e]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
pub fn scan_by_definition(input: ScanInput, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let [b, l, e, n] = input.dims(&state);
    let ScanInput { u, delta, a, write, read, skip } = input;
    let a = a.unsqueeze::<3>();
    let mut h = state;
    let mut ys = Vec::with_capacity(l);
    for t in 0..l {
        let channels = |x: &Tensor<3>| x.clone().slice([0..b, t..t + 1, 0..e]).swap_dims(1, 2);
        let states = |x: &Tensor<3>| x.clone().slice([0..b, t..t + 1, 0..n]);
        let (u_t, delta_t) = (channels(&u), channels(&delta));
        h = (delta_t.clone() * a.clone()).exp() * h + delta_t * u_t * states(&write);
        ys.push((h.clone() * states(&read)).sum_dim(2).swap_dims(1, 2));
    }
    (Tensor::cat(ys, 1) + u * skip.unsqueeze(), h)
}

/// Selective scan with the softplus of its step size and the gate of its output, one after the other: the definition that
/// [`gated_scan`](crate::gated_scan) must equal.
///
/// ```text
/// Δ ← softplus(Δ + bias)        y ← SiLU(gate) · y        (arXiv:2312.00752, alg. 2 and fig. 3)
/// ```
///
/// # Shapes
/// - `state`, and the returned state: `[b, e, n]`
/// - returned `y`: `[b, l, e]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
pub fn gated_scan_by_definition(input: GatedScanInput, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    input.dims(&state);
    let GatedScanInput { mut scan, delta_bias, softplus, gate } = input;
    if let Some(bias) = delta_bias {
        scan.delta = scan.delta + bias.unsqueeze();
    }
    if softplus {
        scan.delta = softplus_by_definition(scan.delta);
    }
    let (y, state) = scan_by_definition(scan, state);
    match gate {
        Some(gate) => (silu_mul_by_definition(gate, y), state),
        None => (y, state),
    }
}
