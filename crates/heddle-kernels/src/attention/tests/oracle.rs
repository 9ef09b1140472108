//! Attention and its gradients in plain loops of `f64`.

use super::{AttentionRule, Case};

/// What an attention computes, and the gradients of its inputs.
pub(super) struct Truth {
    /// `o` and `lse`, with 0 for a query that sees no key.
    pub(super) outputs: Vec<Vec<f64>>,
    /// Of `q, k, v, slopes`; an empty array if there are no slopes.
    pub(super) gradients: Vec<Vec<f64>>,
}

impl Truth {
    /// With zeros for a gradient of an output that is not there.
    pub(super) fn of(case: &Case, inputs: &[Vec<f64>], upstream: &[Vec<f64>]) -> Self {
        let [b, h, _, l, _, p] = case.sizes;
        let zeros = |array: &Vec<f64>| vec![0.0; array.len()];
        let mut truth = Self {
            outputs: vec![vec![0.0; b * h * l * p], vec![0.0; b * h * l]],
            gradients: inputs.iter().map(zeros).collect(),
        };
        for row in 0..b * h * l {
            truth.add_row(case, inputs, upstream, row);
        }
        if !case.sloped {
            truth.gradients[3].clear();
        }
        truth
    }

    fn add_row(&mut self, case: &Case, inputs: &[Vec<f64>], upstream: &[Vec<f64>], row: usize) {
        let [_, h, g, l, m, p] = case.sizes;
        let rule = &case.rule;
        let (head, i) = (row / l, row % l);
        let keys = (head / h * g + head % h / (h / g)) * m;
        let slope = if case.sloped { inputs[3][head % h] } else { 0.0 };
        let q = &inputs[0][row * p..][..p];
        let key = |j: usize| (keys + j) * p..(keys + j + 1) * p;
        let distance = |j: usize| (rule.offset + i).abs_diff(j) as f64;
        let seen: Vec<usize> = (0..m).filter(|&j| rule.sees(rule.offset + i, j)).collect();
        let scored = |&j: &usize| score(rule, dot(q, &inputs[1][key(j)]), slope * distance(j));
        let scores: Vec<(f64, f64)> = seen.iter().map(scored).collect();
        let top = scores.iter().fold(f64::MIN, |top, (score, _)| top.max(*score));
        let sum: f64 = scores.iter().map(|(score, _)| (score - top).exp()).sum();
        let g_o = upstream.first().filter(|g| !g.is_empty()).map(|g| &g[row * p..][..p]);
        let g_lse = upstream.get(1).filter(|g| !g.is_empty()).map_or(0.0, |g| g[row]);
        let weights: Vec<f64> = scores.iter().map(|(score, _)| (score - top).exp() / sum).collect();
        let factor = |j: usize| match rule.dropout {
            Some(dropout) if !dropout.keeps(head, rule.offset + i, j) => 0.0,
            dropout => 1.0 / (1.0 - dropout.map_or(0.0, |dropout| dropout.chance)),
        };
        let g_weight = |j: usize| factor(j) * g_o.map_or(0.0, |g_o| dot(g_o, &inputs[2][key(j)]));
        let g_weights: Vec<f64> = seen.iter().map(|&j| g_weight(j)).collect();
        let mean = dot(&weights, &g_weights);
        if !seen.is_empty() {
            self.outputs[1][row] = top + sum.ln();
        }
        for (((&j, weight), g_weight), (_, slack)) in seen.iter().zip(&weights).zip(&g_weights).zip(&scores) {
            let g_score = weight * (g_weight - mean + g_lse);
            self.gradients[3][head % h] -= g_score * distance(j);
            for x in 0..p {
                self.outputs[0][row * p + x] += factor(j) * weight * inputs[2][key(j)][x];
                self.gradients[0][row * p + x] += g_score * slack * rule.scale * inputs[1][key(j)][x];
                self.gradients[1][key(j)][x] += g_score * slack * rule.scale * q[x];
                self.gradients[2][key(j)][x] += factor(j) * weight * g_o.map_or(0.0, |g_o| g_o[x]);
            }
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A score, and the derivative of the soft-cap.
fn score(rule: &AttentionRule, product: f64, penalty: f64) -> (f64, f64) {
    let score = rule.scale * product;
    match rule.softcap {
        Some(cap) => (cap * (score / cap).tanh() - penalty, 1.0 - (score / cap).tanh().powi(2)),
        None => (score - penalty, 1.0),
    }
}
