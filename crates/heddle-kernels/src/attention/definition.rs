//! Attention as one formula over the whole score matrix.

use burn::tensor::{Bool, Device, Int, Tensor};

use super::{AttentionInput, AttentionRule};

/// Softmax attention over the whole score matrix: the definition that every faster attention must equal.
///
/// ```text
/// s_ij = cap(scale · q_i·k_j) − slope_h |i − j|      o_i = Σ_j softmax_j(s_ij) v_j, over the keys j that i sees
/// ```
///
/// (arXiv:1706.03762, eq. 1.) A query that sees no key gives zero. With [dropout](super::AttentionDropout) the weights are
/// multiplied by its factors.
///
/// # Shapes
/// - returned: `[b, h, l, p]`
///
/// # Panics
/// If the shapes disagree, an axis is empty, the number of query heads is no multiple of the number of key heads, or the
/// rule does not fit: a block mask that does not cover every position, a soft-cap that is not positive, a chance of dropout
/// outside of 0 to below 1, or more than 2^24 positions.
pub fn attention_by_definition(input: AttentionInput, rule: AttentionRule) -> Tensor<4> {
    attention_with_lse_by_definition(input, rule).0
}

/// [`attention_by_definition`] and the logarithm of each softmax's denominator, `log Σ_j exp(s_ij)`, which is −∞ for a
/// query that sees no key.
///
/// # Shapes
/// - returned: `[b, h, l, p]` and `[b, h, l]`
///
/// # Panics
/// As [`attention_by_definition`].
pub fn attention_with_lse_by_definition(input: AttentionInput, rule: AttentionRule) -> (Tensor<4>, Tensor<3>) {
    let [b, h, l, p] = input.check(&rule);
    let AttentionInput { q, k, v, slopes } = input.filled(&rule);
    let [_, g, m, _] = k.dims();
    let device = q.device();
    // One group of h/g query heads after another reads the same key head.
    let q = q.reshape([b, g, (h / g) * l, p]);
    let mut scores = q.matmul(k.transpose()).mul_scalar(rule.scale).reshape([b, h, l, m]);
    if let Some(cap) = rule.softcap {
        scores = scores.div_scalar(cap).tanh().mul_scalar(cap);
    }
    if let Some(slopes) = slopes {
        let distances = distances(&rule, l, m, &device).cast(slopes.dtype());
        scores = scores - distances * slopes.reshape([1, h, 1, 1]);
    }
    let hidden = hidden_keys(&rule, l, m, &device).reshape([1, 1, l, m]).expand([b, h, l, m]);
    let scores = scores.mask_fill(hidden.clone(), LOWEST);
    // Any number may be subtracted from all scores of a row, so the largest needs no gradient.
    let top = scores.clone().max_dim(3).detach();
    let weights = (scores - top.clone()).exp().mask_fill(hidden, 0.0);
    let sum = weights.clone().sum_dim(3);
    let blind = sum.clone().equal_elem(0.0);
    let sum = sum.mask_fill(blind.clone(), 1.0);
    let mut weights = weights / sum.clone();
    if let Some(dropout) = rule.dropout {
        weights = weights.clone() * dropout.factors([b, h, l, m], rule.offset, &device).cast(weights.dtype());
    }
    let weights = weights.reshape([b, g, (h / g) * l, m]);
    let lse = (sum.log() + top).mask_fill(blind, f32::NEG_INFINITY);
    (weights.matmul(v).reshape([b, h, l, p]), lse.reshape([b, h, l]))
}

/// Score of a key that is not seen: finite, so that a row without any key stays free of NaN.
const LOWEST: f32 = -1e30;

fn hidden_keys(rule: &AttentionRule, l: usize, m: usize, device: &Device) -> Tensor<2, Bool> {
    let hidden = (0..l).flat_map(|i| (0..m).map(move |j| !rule.sees(rule.offset + i, j))).collect::<Vec<bool>>();
    Tensor::<1, Bool>::from_data(hidden.as_slice(), device).reshape([l, m])
}

fn distances(rule: &AttentionRule, l: usize, m: usize, device: &Device) -> Tensor<4> {
    let at = rule.offset as i64;
    let queries = Tensor::<1, Int>::arange(at..at + l as i64, device).float().reshape([l, 1]);
    let keys = Tensor::<1, Int>::arange(0..m as i64, device).float().reshape([1, m]);
    (queries - keys).abs().reshape([1, 1, l, m])
}
