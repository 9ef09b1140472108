//! AdamW, by the formula.

use burn::tensor::Tensor;

use super::{AdamW, Moments};

/// A step of AdamW.
///
/// ```text
/// m ← β₁ m + (1 − β₁) g                      v ← β₂ v + (1 − β₂) g²                (arXiv:1711.05101, algorithm 2)
/// m̂ = m / (1 − β₁ᵗ)                          v̂ = v / (1 − β₂ᵗ)
/// θ ← (1 − lr · decay) θ − lr · m̂ / (√v̂ + ε)
/// ```
///
/// # Shapes
/// - `parameter`, `gradient`, both moments, and what is returned: `[count]`
///
/// # Panics
/// If the lengths disagree.
pub fn adamw_by_definition(
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    moments: Moments,
    rule: &AdamW,
) -> (Tensor<1>, Moments) {
    assert_lengths(&parameter, &gradient, &moments);
    let gradient = gradient * rule.gradient_scale;
    let first = moments.first * rule.beta1 + gradient.clone() * (1.0 - rule.beta1);
    let second = moments.second * rule.beta2 + gradient.square() * (1.0 - rule.beta2);
    let mean = first.clone() / rule.correction(rule.beta1);
    let root = (second.clone() / rule.correction(rule.beta2)).sqrt();
    let parameter = parameter * (1.0 - rule.lr * rule.weight_decay) - mean / (root + rule.epsilon) * rule.lr;
    (parameter, Moments { first, second })
}

impl AdamW {
    /// `1 − βᵗ`: how much of a mean is not yet its initial zero.
    pub(super) fn correction(&self, beta: f64) -> f64 {
        1.0 - beta.powf(self.step as f64)
    }
}

pub(super) fn assert_lengths(parameter: &Tensor<1>, gradient: &Tensor<1>, moments: &Moments) {
    let [parameter, gradient, first, second] =
        [parameter, gradient, &moments.first, &moments.second].map(|tensor| tensor.dims()[0]);
    assert!(
        parameter == gradient && parameter == first && parameter == second,
        "adamw: a gradient of {gradient} and moments of {first} and {second} do not fit {parameter} elements"
    );
}
