use burn::tensor::Tensor;

use super::ComplexInput;

/// Complex diagonal recurrence, one step at a time: the definition that the kernel must equal.
///
/// ```text
/// h_t = λ ⊙ h_{t−1} + u_t        y_t = 2 Re(Σ_n c_n h_{n,t}) + D u_t        (arXiv:2206.11893, sec. 3)
/// ```
///
/// Each state stands for itself and its complex conjugate, hence the 2. The paper's `B̄` is folded into `c`: only their
/// product matters.
///
/// # Shapes
/// - `state`, and the returned state, each as its real and its imaginary part: `[b, e, n]`
/// - returned `y`: `[b, l, e]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
pub fn complex_recurrence_by_definition(input: ComplexInput, state: [Tensor<3>; 2]) -> (Tensor<3>, [Tensor<3>; 2]) {
    let [b, l, e, _] = input.dims(&state);
    let ComplexInput { decay, u, read, skip } = input;
    let [decay, read] = [decay, read].map(|part| part.map(|x| x.unsqueeze::<3>()));
    let [mut re, mut im] = state;
    let mut ys = Vec::with_capacity(l);
    for t in 0..l {
        let u_t = u.clone().slice([0..b, t..t + 1, 0..e]).swap_dims(1, 2);
        (re, im) = (
            decay[0].clone() * re.clone() - decay[1].clone() * im.clone() + u_t,
            decay[0].clone() * im + decay[1].clone() * re,
        );
        let products = read[0].clone() * re.clone() - read[1].clone() * im.clone();
        ys.push(products.sum_dim(2).mul_scalar(2.0).swap_dims(1, 2));
    }
    (Tensor::cat(ys, 1) + u * skip.unsqueeze(), [re, im])
}
