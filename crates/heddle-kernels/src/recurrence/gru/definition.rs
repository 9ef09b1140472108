use burn::tensor::{Tensor, activation};

use super::GruInput;

/// Gated recurrent unit, one step at a time: the definition that the kernel must equal.
///
/// ```text
/// r, z = σ(·), σ(·)  of the first two parts of  x_t + h_{t−1} W
/// n = tanh(x_n + r ⊙ (h_{t−1} W_n + b_n))        h_t = (1 − z) ⊙ n + z ⊙ h_{t−1}        (arXiv:1406.1078, eq. 5–8)
/// ```
///
/// The paper resets the state before its product with `W_n`; as in PyTorch, `r` resets the product, so that one product
/// serves all gates.
///
/// # Shapes
/// - `state`, and the returned state: `[b, d]`
/// - returned `h` of all tokens: `[b, l, d]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
pub fn gru_by_definition(input: GruInput, state: Tensor<2>) -> (Tensor<3>, Tensor<2>) {
    let [b, l, d] = input.dims(&state);
    let GruInput { gates, weight, bias } = input;
    let bias = bias.reshape([1, d]);
    let mut h = state;
    let mut all = Vec::with_capacity(l);
    for t in 0..l {
        let x = gates.clone().slice([0..b, t..t + 1, 0..3 * d]).reshape([b, 3 * d]);
        let product = h.clone().matmul(weight.clone());
        let part = |of: &Tensor<2>, i: usize| of.clone().slice([0..b, i * d..(i + 1) * d]);
        let [r, z] = [0, 1].map(|i| activation::sigmoid(part(&x, i) + part(&product, i)));
        let n = (part(&x, 2) + r * (part(&product, 2) + bias.clone())).tanh();
        h = (z.ones_like() - z.clone()) * n + z * h;
        all.push(h.clone().reshape([b, 1, d]));
    }
    (Tensor::cat(all, 1), h)
}
