//! Losses, by the formula.

use burn::tensor::{Int, Tensor, activation::log_softmax};

/// Mean cross-entropy of rows of logits, in nats.
///
/// ```text
/// −(1/rows) Σ_i log softmax(logits_i)[target_i]
/// ```
///
/// # Shapes
/// - `logits`: `[rows, v]`; `targets`: `[rows]`; returned: `[1]`
///
/// # Panics
/// If there is no row, or not one target a row.
pub fn cross_entropy_by_definition(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [rows, _] = logits.dims();
    assert_targets(&logits, &targets);
    log_softmax(logits, 1).gather(1, targets.reshape([rows, 1])).mean().neg()
}

pub(super) fn assert_targets(logits: &Tensor<2>, targets: &Tensor<1, Int>) {
    let [rows, _] = logits.dims();
    assert!(rows > 0, "cross_entropy: no rows");
    assert!(targets.dims() == [rows], "cross_entropy: {:?} targets for {rows} rows", targets.dims());
}
