//! Batches as tensors.

use burn::tensor::{Device, Int, Tensor, TensorData};
use heddle_tasks::batch::{Batch, Stretch, fill_batch};
use heddle_tasks::{Split, Task, slice_of_batch};

/// A batch on a device, with the positions that the loss is computed at.
#[derive(Clone, Debug)]
pub struct LabelledBatch {
    /// Tokens, `[b, l]`.
    pub tokens: Tensor<2, Int>,
    /// Labelled positions, counted through the whole batch (row · l + position), `[labels]`.
    pub positions: Tensor<1, Int>,
    /// The right answer at each labelled position, `[labels]`.
    pub targets: Tensor<1, Int>,
}

/// Generates batches of one task, reusing its memory.
#[derive(Debug)]
pub struct Batches<'a> {
    task: &'a dyn Task,
    seed: u64,
    device: Device,
    buffer: Batch,
}

impl<'a> Batches<'a> {
    /// Batches of `task`'s streams of `seed`, uploaded to `device`.
    pub fn new(task: &'a dyn Task, seed: u64, device: &Device) -> Self {
        Self { task, seed, device: device.clone(), buffer: Batch::default() }
    }

    /// Batch number `number` of the training stream, of `size` examples: a function of the seed and the number alone.
    pub fn train(&mut self, number: u64, size: usize) -> LabelledBatch {
        let slice = slice_of_batch(self.task, self.seed, number);
        self.batch(Split::Train, slice, number * size as u64, size)
    }

    /// Examples `first..first + size` of a slice.
    pub fn batch(&mut self, split: Split, slice: usize, first: u64, size: usize) -> LabelledBatch {
        let stretch = Stretch { split, slice, seed: self.seed, first, count: size };
        fill_batch(self.task, stretch, &mut self.buffer);
        let Batch { batch, length, tokens, labels } = &self.buffer;
        let at =
            |label: &heddle_tasks::batch::BatchLabel| (label.row as usize * length + label.position as usize) as i32;
        let positions = labels.iter().map(at).collect::<Vec<i32>>();
        let targets = labels.iter().map(|label| label.target as i32).collect::<Vec<i32>>();
        let tokens = TensorData::new(tokens.clone(), [*batch, *length]);
        LabelledBatch {
            tokens: Tensor::from_data(tokens, &self.device),
            positions: Tensor::from_ints(positions.as_slice(), &self.device),
            targets: Tensor::from_ints(targets.as_slice(), &self.device),
        }
    }
}
