//! Scores of a model on a split, slice by slice.

use burn::tensor::{Device, Tensor};
use heddle_hybrid::Model;
use heddle_kernels::cross_entropy_at;
use heddle_tasks::score::Tally;
use heddle_tasks::{Label, Split, Task};

use crate::data::{Batches, LabelledBatch};
use crate::result::{Bin, SliceScore};

/// Scores of the labelled positions of a batch, `[labels, v]`, from an empty state.
pub fn answers(model: &Model, batch: &LabelledBatch) -> Tensor<2> {
    let state = model.state(batch.tokens.dims()[0], &batch.tokens.device());
    let (hidden, _state) = model.forward(batch.tokens.clone(), state);
    answers_from(model, hidden, batch)
}

/// [`answers`] from the hidden state of every token, `[b, l, d]`.
pub(crate) fn answers_from(model: &Model, hidden: Tensor<3>, batch: &LabelledBatch) -> Tensor<2> {
    let [b, l, d] = hidden.dims();
    let hidden = hidden.reshape([b * l, d]).select(0, batch.positions.clone());
    match &batch.items {
        Some(items) => model.item_logits(hidden, items.clone()),
        None => model.logits(hidden),
    }
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
    let (mut tally, mut loss) = (Tally::default(), 0.0);
    let mut first = 0;
    while first < about.examples {
        let count = size.min(about.examples - first);
        let batch = batches.batch(split, slice, first as u64, count);
        let logits = answers(model, &batch);
        let labels = batches.labels();
        let mean = f64::from(cross_entropy_at(logits.clone(), batch.targets.clone()).into_scalar::<f32>());
        loss += labels.len() as f64 * mean;
        let predicted = logits.argmax(1).reshape([-1]).into_data().iter::<i64>().collect::<Vec<_>>();
        let mut answered = labels.iter().zip(predicted).peekable();
        for row in 0..count as u32 {
            let of_row = std::iter::from_fn(|| answered.next_if(|(label, _)| label.row == row));
            let of_row = of_row.map(|(label, predicted)| (Label::from(*label), predicted as u32));
            let (labels, predicted): (Vec<_>, Vec<_>) = of_row.unzip();
            let mut predicted = predicted.into_iter();
            tally.add(about.length, &labels, |_| predicted.next().expect("one prediction a label"));
        }
        first += count;
    }
    let labels = tally.labels.of;
    SliceScore {
        slice: about.name.clone(),
        keys: about.keys.clone(),
        examples: tally.whole.of,
        labels,
        correct: tally.labels.right,
        whole: tally.whole.right,
        accuracy: tally.labels.accuracy(),
        loss: loss / labels as f64,
        chance: task.chance(split, slice),
        by_distance: Bin::all(&tally.by_distance),
        by_depth: Bin::all(&tally.by_depth),
    }
}

/// The accuracy that decides: the lowest over the slices.
pub fn lowest_accuracy(scores: &[SliceScore]) -> f64 {
    scores.iter().map(|score| score.accuracy).fold(f64::INFINITY, f64::min)
}
