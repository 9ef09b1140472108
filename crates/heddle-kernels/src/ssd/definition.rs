use burn::tensor::Tensor;

use super::SsdInput;
use crate::activation::softplus_by_definition;

/// The recurrence of Mamba-2, one token at a time: the definition that [`ssd`](crate::ssd) must equal.
///
/// ```text
/// Δ_t = softplus(Δ_t + bias)
/// H_t = exp(Δ_t A) H_{t-1} + Δ_t x_t ⊗ B_t        y_t = H_t C_t + D x_t     (arXiv:2405.21060, eq. 2)
/// ```
///
/// As in Mamba's scan, `B` takes the Euler step. `A` is one number a head, the paper's "scalar times identity".
///
/// # Shapes
/// - `state`, and the returned state: `[b, h, p, n]`
/// - returned `y`: `[b, l, h, p]`
///
/// # Panics
/// If the shapes disagree, an axis is empty, or the heads are no multiple of the groups.
pub fn ssd_by_definition(input: SsdInput, state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [b, l, h, p, g, n] = input.dims(&state);
    let SsdInput { x, mut delta, delta_bias, softplus, a, write, read, skip } = input;
    if let Some(bias) = delta_bias {
        delta = delta + bias.unsqueeze();
    }
    if softplus {
        delta = softplus_by_definition(delta);
    }
    // A group's row stands once for each of its heads.
    let of_heads = |x: Tensor<4>| x.reshape([b, l, g, 1, n]).repeat_dim(3, h / g).reshape([b, l, h, n]);
    let (write, read) = (of_heads(write), of_heads(read));
    let a = a.reshape([1, h, 1, 1]);
    let mut last = state;
    let mut ys = Vec::with_capacity(l);
    for t in 0..l {
        let token = |x: &Tensor<4>, width| x.clone().slice([0..b, t..t + 1, 0..h, 0..width]);
        let delta_t = delta.clone().slice([0..b, t..t + 1, 0..h]).reshape([b, h, 1, 1]);
        let x_t = token(&x, p).reshape([b, h, p, 1]);
        let (write_t, read_t) = (token(&write, n).reshape([b, h, 1, n]), token(&read, n).reshape([b, h, 1, n]));
        last = (delta_t.clone() * a.clone()).exp() * last + delta_t * x_t * write_t;
        ys.push((last.clone() * read_t).sum_dim(3).reshape([b, 1, h, p]));
    }
    let y = Tensor::cat(ys, 1);
    match skip {
        Some(skip) => (y + x * skip.reshape([1, 1, h, 1]), last),
        None => (y, last),
    }
}
