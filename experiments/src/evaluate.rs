//! Scores of a model on a split, slice by slice.

use burn::tensor::{Device, Tensor};
use heddle_hybrid::{LayerRouting, Model};
use heddle_kernels::cross_entropy_at;
use heddle_tasks::{Split, Task};

use crate::data::{Batches, LabelledBatch};
use crate::result::SliceScore;

/// Scores of the labelled positions of a batch, `[labels, v]`, from an empty state.
pub fn answers(model: &Model, batch: &LabelledBatch) -> Tensor<2> {
    routed_answers(model, batch).0
}

/// [`answers`], and where the tokens of mixtures of experts were sent.
pub fn routed_answers(model: &Model, batch: &LabelledBatch) -> (Tensor<2>, Vec<LayerRouting>) {
    let state = model.state(batch.tokens.dims()[0], &batch.tokens.device());
    let (hidden, _state, routed) = model.forward_routed(batch.tokens.clone(), state);
    (answers_from(model, hidden, batch), routed)
}

/// [`answers`] from the hidden state of every token, `[b, l, d]`.
pub(crate) fn answers_from(model: &Model, hidden: Tensor<3>, batch: &LabelledBatch) -> Tensor<2> {
    let [b, l, d] = hidden.dims();
    model.logits(hidden.reshape([b * l, d]).select(0, batch.positions.clone()))
}

/// Evaluates every slice of a split. `model` holds plain tensors, without gradients.
pub fn evaluate(
    model: &Model,
    task: &dyn Task,
    split: Split,
    seed: u64,
    batch: usize,
    device: &Device,
) -> Vec<SliceScore> {
    let mut batches = Batches::new(task, seed, device);
    (0..task.slices(split).len()).map(|slice| score_slice(model, task, (split, slice), &mut batches, batch)).collect()
}

fn score_slice(
    model: &Model,
    task: &dyn Task,
    (split, slice): (Split, usize),
    batches: &mut Batches<'_>,
    size: usize,
) -> SliceScore {
    let about = &task.slices(split)[slice];
    let (mut correct, mut whole, mut loss) = (0, 0, 0.0);
    let mut first = 0;
    while first < about.examples {
        let count = size.min(about.examples - first);
        let batch = batches.batch(split, slice, first as u64, count);
        let logits = answers(model, &batch);
        let rows = (count * about.labels) as f64;
        loss += rows * f64::from(cross_entropy_at(logits.clone(), batch.targets.clone()).into_scalar::<f32>());
        let right =
            logits.argmax(1).reshape([-1]).equal(batch.targets).int().into_data().iter::<i64>().collect::<Vec<_>>();
        correct += right.iter().sum::<i64>() as u64;
        whole += right.chunks(about.labels).filter(|answers| answers.iter().all(|right| *right == 1)).count() as u64;
        first += count;
    }
    let labels = (about.examples * about.labels) as u64;
    SliceScore {
        slice: about.name.clone(),
        keys: about.keys.clone(),
        examples: about.examples as u64,
        labels,
        correct,
        whole,
        accuracy: correct as f64 / labels as f64,
        loss: loss / labels as f64,
        chance: task.chance(split, slice),
    }
}

/// The accuracy that decides: the lowest over the slices.
pub fn lowest_accuracy(scores: &[SliceScore]) -> f64 {
    scores.iter().map(|score| score.accuracy).fold(f64::INFINITY, f64::min)
}
