//! Batches as tensors.

use burn::tensor::{Device, Int, Tensor, TensorData};
use heddle_tasks::batch::{Batch, BatchLabel, Stretch, fill_batch};
use heddle_tasks::{Readout, Split, Task, slice_by_weight};

use crate::config::Stage;

/// A batch on a device, with the positions that the loss is computed at.
#[derive(Clone, Debug)]
pub struct LabelledBatch {
    /// Tokens, `[b, l]`.
    pub tokens: Tensor<2, Int>,
    /// Labelled positions, counted through the whole batch (row · l + position), `[labels]`.
    pub positions: Tensor<1, Int>,
    /// The item asked for at each labelled position, `[labels]`, if the task's answers are read out by item.
    pub items: Option<Tensor<1, Int>>,
    /// The right answer at each labelled position, `[labels]`.
    pub targets: Tensor<1, Int>,
}

/// Generates batches of one task, reusing its memory.
#[derive(Debug)]
pub struct Batches<'a> {
    task: &'a dyn Task,
    seed: u64,
    curriculum: &'a [Stage],
    device: Device,
    buffer: Batch,
}

impl<'a> Batches<'a> {
    /// Batches of `task`'s streams of `seed`, uploaded to `device`.
    pub fn new(task: &'a dyn Task, seed: u64, device: &Device) -> Self {
        Self { task, seed, curriculum: &[], device: device.clone(), buffer: Batch::default() }
    }

    /// The same with the slices of training batches chosen by the weights of a curriculum's stages.
    pub fn with_curriculum(self, curriculum: &'a [Stage]) -> Self {
        Self { curriculum, ..self }
    }

    /// Batch number `number` of the training stream, of `size` examples: a function of the seed and the number alone.
    pub fn train(&mut self, number: u64, size: usize) -> LabelledBatch {
        let (slice, first) = match stage_at(self.curriculum, number) {
            None => self.task.training_batch(self.seed, number, size),
            Some(stage) => (slice_by_weight(self.task, &stage.weights, self.seed, number), number * size as u64),
        };
        self.batch(Split::Train, slice, first, size)
    }

    /// The labels of the last batch.
    pub fn labels(&self) -> &[BatchLabel] {
        &self.buffer.labels
    }

    /// Examples `first..first + size` of a slice.
    pub fn batch(&mut self, split: Split, slice: usize, first: u64, size: usize) -> LabelledBatch {
        let stretch = Stretch { split, slice, seed: self.seed, first, count: size };
        fill_batch(self.task, stretch, &mut self.buffer);
        let Batch { batch, length, tokens, labels } = &self.buffer;
        let at = |label: &BatchLabel| (label.row as usize * length + label.label.position as usize) as i32;
        let of_labels = |number: &dyn Fn(&BatchLabel) -> i32| {
            let numbers = labels.iter().map(number).collect::<Vec<i32>>();
            Tensor::from_ints(numbers.as_slice(), &self.device)
        };
        let by_item = self.task.readout() == Readout::Item;
        let tokens = TensorData::new(tokens.clone(), [*batch, *length]);
        LabelledBatch {
            tokens: Tensor::from_data(tokens, &self.device),
            positions: of_labels(&at),
            items: by_item.then(|| of_labels(&|label| label.label.evidence as i32)),
            targets: of_labels(&|label| label.label.target as i32),
        }
    }
}

/// The stage that a training batch belongs to: the last one goes on; none without a curriculum.
fn stage_at(curriculum: &[Stage], batch: u64) -> Option<&Stage> {
    let mut end: u64 = 0;
    let current = curriculum.iter().find(|stage| {
        end = stage.steps.saturating_add(end);
        batch < end
    });
    current.or(curriculum.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_each_other_and_the_last_goes_on() {
        let stage = |steps, weight| Stage { steps, weights: vec![weight] };
        let curriculum = [stage(2, 1.0), stage(3, 2.0), stage(1, 3.0)];
        let weights: Vec<f64> = (0..8).map(|batch| stage_at(&curriculum, batch).unwrap().weights[0]).collect();
        assert_eq!(weights, [1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]);
        assert_eq!(stage_at(&[], 0), None);
        let endless = [stage(3, 1.0), stage(u64::MAX, 2.0), stage(5, 3.0)];
        assert_eq!(stage_at(&endless, 7).unwrap().weights, [2.0]);
    }
}
