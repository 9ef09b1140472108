use burn::tensor::{Tensor, activation};

use super::LstmInput;

/// Long short-term memory, one step at a time: the definition that the kernel must equal.
///
/// ```text
/// i, f, g, o = σ(·), σ(·), tanh(·), σ(·)  of the four parts of  x_t + h_{t−1} W
/// c_t = f ⊙ c_{t−1} + i ⊙ g        h_t = o ⊙ tanh(c_t)        (arXiv:1503.04069, sec. II, without peepholes)
/// ```
///
/// The layer of Hochreiter and Schmidhuber (1997) with a forget gate, in the order of gates that PyTorch has.
///
/// # Shapes
/// - `state` (`h` and `c`), and the returned state: `[b, d]` each
/// - returned `h` of all tokens: `[b, l, d]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
pub fn lstm_by_definition(input: LstmInput, state: (Tensor<2>, Tensor<2>)) -> (Tensor<3>, (Tensor<2>, Tensor<2>)) {
    let [b, l, d] = input.dims(&state);
    let LstmInput { gates, weight } = input;
    let (mut h, mut c) = state;
    let mut all = Vec::with_capacity(l);
    for t in 0..l {
        let x = gates.clone().slice([0..b, t..t + 1, 0..4 * d]).reshape([b, 4 * d]);
        let sums = x + h.matmul(weight.clone());
        let part = |i: usize| sums.clone().slice([0..b, i * d..(i + 1) * d]);
        let [i, f, o] = [part(0), part(1), part(3)].map(activation::sigmoid);
        c = f * c + i * part(2).tanh();
        h = o * c.clone().tanh();
        all.push(h.clone().reshape([b, 1, d]));
    }
    (Tensor::cat(all, 1), (h, c))
}
