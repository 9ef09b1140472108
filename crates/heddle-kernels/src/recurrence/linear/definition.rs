use burn::tensor::Tensor;

use super::dims;

/// Linear recurrence, one step at a time: the definition that the kernel must equal.
///
/// ```text
/// h_t = a_t ⊙ h_{t−1} + x_t        (arXiv:2402.19427, eq. 4, with the gated input as x)
/// ```
///
/// # Shapes
/// - `decay` (`a`), `x`, and the returned `h` of all tokens: `[b, l, d]`
/// - `state`, and the returned `h` of the last token: `[b, d]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
pub fn linear_recurrence_by_definition(decay: Tensor<3>, x: Tensor<3>, state: Tensor<2>) -> (Tensor<3>, Tensor<2>) {
    let [b, l, d] = dims(&decay, &x, &state);
    let mut h = state.reshape([b, 1, d]);
    let mut all = Vec::with_capacity(l);
    for t in 0..l {
        let token = |x: &Tensor<3>| x.clone().slice([0..b, t..t + 1, 0..d]);
        h = token(&decay) * h + token(&x);
        all.push(h.clone());
    }
    (Tensor::cat(all, 1), h.reshape([b, d]))
}
