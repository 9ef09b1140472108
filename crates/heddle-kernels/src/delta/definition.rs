use burn::tensor::Tensor;

use super::DeltaInput;

/// The gated delta rule, one token at a time: the definition that every faster form must equal.
///
/// ```text
/// P_t = α_t S_{t-1}     e_t = v_t − P_t k_t     S_t = P_t + β_t e_t k_tᵀ     o_t = S_t q_t
/// ```
///
/// This is eq. 10 of arXiv:2412.06464 with the error `e` written out: a token first fades the state, then moves what the
/// state answers to its key towards its value. Without decay it is DeltaNet (arXiv:2406.06484, section 2.2). Value head
/// `i` goes with the query/key head `i / (h/g)`.
///
/// # Shapes
/// - `state`, and the returned state: `[b, h, p, n]`
/// - returned `o`: `[b, l, h, p]`
///
/// # Panics
/// If the shapes disagree, an axis is empty, or `h` is no multiple of `g`.
pub fn delta_rule_by_definition(input: DeltaInput, state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let dims = input.dims(&state);
    let [b, l, h, g, p, n] = [dims.b, dims.l, dims.h, dims.g, dims.p, dims.n];
    let DeltaInput { q, k, v, beta, log_decay } = input;
    let decay = log_decay.map(Tensor::exp);
    let mut s = state;
    let mut outputs = Vec::with_capacity(l);
    for t in 0..l {
        let keys = |x: &Tensor<4>| {
            let heads = x.clone().slice([0..b, t..t + 1, 0..g, 0..n]).reshape([b, g, 1, n]);
            heads.expand([b, g, h / g, n]).reshape([b, h, 1, n])
        };
        let scalars = |x: &Tensor<3>| x.clone().slice([0..b, t..t + 1, 0..h]).reshape([b, h, 1, 1]);
        let v_t = v.clone().slice([0..b, t..t + 1, 0..h, 0..p]).reshape([b, h, p, 1]);
        let (q_t, k_t) = (keys(&q), keys(&k));
        if let Some(decay) = &decay {
            s = s * scalars(decay);
        }
        let error = v_t - (s.clone() * k_t.clone()).sum_dim(3);
        s = s + scalars(&beta) * error * k_t;
        outputs.push((s.clone() * q_t).sum_dim(3).reshape([b, 1, h, p]));
    }
    (Tensor::cat(outputs, 1), s)
}
