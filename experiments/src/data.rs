//! Batches as tensors.

use std::ops::Range;

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
    /// Where each of these labels stands among those of the batch drawn.
    pub places: Vec<usize>,
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

    /// Draws batch number `number` of the training stream, of `size` examples: a function of the seed and the number alone.
    pub fn draw_train(&mut self, number: u64, size: usize) {
        let (slice, first) = match stage_at(self.curriculum, number) {
            None => self.task.training_batch(self.seed, number, size),
            Some(stage) => (slice_by_weight(self.task, &stage.weights, self.seed, number), number * size as u64),
        };
        self.draw(Stretch { split: Split::Train, slice, seed: self.seed, first, count: size });
    }

    /// Rows and columns of the last batch.
    pub fn dims(&self) -> [usize; 2] {
        [self.buffer.batch, self.buffer.length]
    }

    /// The labels of the last batch.
    pub fn labels(&self) -> &[BatchLabel] {
        &self.buffer.labels
    }

    /// Draws examples `first..first + size` of a slice.
    pub fn draw_slice(&mut self, split: Split, slice: usize, first: u64, size: usize) {
        self.draw(Stretch { split, slice, seed: self.seed, first, count: size });
    }

    /// Where the labels of a part of the last batch stand among all of [`labels`](Self::labels).
    fn labels_of(&self, rows: Range<usize>, columns: Range<usize>) -> impl Iterator<Item = usize> {
        let labels = &self.buffer.labels;
        let before = |row: usize, column: usize| {
            labels.partition_point(|label| (label.row as usize, label.label.position as usize) < (row, column))
        };
        rows.flat_map(move |row| before(row, columns.start)..before(row, columns.end))
    }

    /// A part of the last batch, with the labels of its positions.
    ///
    /// # Panics
    /// If it is empty or goes beyond the batch.
    pub fn piece(&self, rows: Range<usize>, columns: Range<usize>) -> LabelledBatch {
        let (b, l) = (rows.len(), columns.len());
        let Batch { length, tokens, labels, .. } = &self.buffer;
        let row_of = |row: usize| &tokens[row * length + columns.start..row * length + columns.end];
        let tokens: Vec<i32> = rows.clone().flat_map(row_of).copied().collect();
        let places: Vec<usize> = self.labels_of(rows.clone(), columns.clone()).collect();
        let labels: Vec<&BatchLabel> = places.iter().map(|place| &labels[*place]).collect();
        let at = |label: &&BatchLabel| {
            ((label.row as usize - rows.start) * l + label.label.position as usize - columns.start) as i32
        };
        let positions: Vec<i32> = labels.iter().map(at).collect();
        let targets: Vec<i32> = labels.iter().map(|label| label.label.target as i32).collect();
        let by_item = self.task.readout() == Readout::Item;
        let items = by_item.then(|| labels.iter().map(|label| label.label.evidence as i32).collect::<Vec<i32>>());
        LabelledBatch {
            tokens: Tensor::from_data(TensorData::new(tokens, [b, l]), &self.device),
            positions: Tensor::from_ints(positions.as_slice(), &self.device),
            items: items.map(|items| Tensor::from_ints(items.as_slice(), &self.device)),
            targets: Tensor::from_ints(targets.as_slice(), &self.device),
            places,
        }
    }

    /// The device that batches go to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn draw(&mut self, stretch: Stretch) {
        fill_batch(self.task, stretch, &mut self.buffer);
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
