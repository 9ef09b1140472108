//! Batches: many examples of one slice side by side, generated on all threads.

use rayon::prelude::*;

use crate::{Example, Label, Split, Task};

/// Examples of one slice as the rows of one array.
///
/// # Shapes
/// - `tokens`: `[b, l]`, row after row; `labels`: those of one row after those of the other
///
/// ```
/// use heddle_tasks::{Split, TaskRegistry, batch::{Batch, Stretch, fill_batch}};
/// use serde_json::json;
///
/// let settings = json!({"loss": "last", "train": [{"length": 20}]});
/// let task = TaskRegistry::builtin().build("parity", &settings)?;
/// let mut batch = Batch::default();
/// fill_batch(task.as_ref(), Stretch { split: Split::Train, slice: 0, seed: 42, first: 0, count: 3 }, &mut batch);
/// // The last row's bits, and the parity asked for behind them.
/// let (ones, label) = (batch.tokens[2 * 20..].iter().sum::<i32>(), batch.labels[2]);
/// assert_eq!((label.row, label.label.position, label.label.target), (2, 19, ones as u32 % 2));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The number of rows, b.
    pub batch: usize,
    /// Tokens per row, l.
    pub length: usize,
    /// The tokens.
    pub tokens: Vec<i32>,
    /// The labels, by rising row and position.
    pub labels: Vec<BatchLabel>,
}

/// A [`Label`] and the row it belongs to.
///
/// ```
/// use heddle_tasks::{Label, batch::BatchLabel};
///
/// let label = Label { position: 9, target: 17, evidence: 4 };
/// let in_batch = BatchLabel { row: 3, label };
/// // Where the output scored stands in an array of rows of 16.
/// assert_eq!(16 * in_batch.row + in_batch.label.position, 57);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BatchLabel {
    /// The row of the batch.
    pub row: u32,
    /// What is asked for there.
    pub label: Label,
}

/// Rows handed to a thread at a time: below this the hand-over costs more than generating short rows.
const ROWS_PER_JOB: usize = 8;

/// Consecutive examples of a slice.
///
/// An example is a function of its index alone, so stretches may be cut anywhere:
///
/// ```
/// use heddle_tasks::{Split, TaskRegistry, batch::{Batch, Stretch, fill_batch}};
///
/// let task = TaskRegistry::builtin().build("parity", &serde_json::Value::Null)?;
/// let tokens = |first, count| {
///     let mut batch = Batch::default();
///     let stretch = Stretch { split: Split::Test, slice: 0, seed: 42, first, count };
///     fill_batch(task.as_ref(), stretch, &mut batch);
///     batch.tokens
/// };
/// assert_eq!(tokens(0, 8), [tokens(0, 5), tokens(5, 3)].concat());
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The split.
    pub split: Split,
    /// The slice of the split.
    pub slice: usize,
    /// The seed of the streams.
    pub seed: u64,
    /// Index of the first example.
    pub first: u64,
    /// The number of examples.
    pub count: usize,
}

/// Fills `batch` with a stretch of examples, reusing its memory.
///
/// The rows are generated in parallel on the current rayon pool; each is a function of its own index, so the result is
/// the same for any number of threads.
///
/// # Panics
/// If the split has no such slice, or an example departs from the slice's length or has more labels.
///
/// ```
/// use heddle_tasks::{Split, TaskRegistry, batch::{Batch, Stretch, fill_batch}};
///
/// let task = TaskRegistry::builtin().build("mqar", &serde_json::Value::Null)?;
/// let mut batch = Batch::default();
/// let stretch = Stretch { split: Split::Train, slice: 0, seed: 42, first: 0, count: 32 };
/// fill_batch(task.as_ref(), stretch, &mut batch);
/// assert_eq!(batch.tokens.len(), 32 * batch.length);
/// let label = batch.labels[0].label;
/// assert_eq!(batch.tokens[label.evidence as usize], label.target as i32);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
pub fn fill_batch(task: &dyn Task, stretch: Stretch, batch: &mut Batch) {
    let Stretch { split, slice, seed, first, count } = stretch;
    let slices = task.slices(split);
    assert!(slice < slices.len(), "slice {slice} is out of range: {} has {} {split} slices", task.kind(), slices.len());
    let (length, labels) = (slices[slice].length, slices[slice].labels);
    assert!(length > 0 && labels > 0, "slice {slice} of {} has no tokens or no labels", task.kind());
    batch.batch = count;
    batch.length = length;
    let draw = |row: usize, example: &mut Example| {
        task.example(split, slice, seed, first + row as u64, example);
        assert!(
            example.tokens.len() == length && example.labels.len() <= labels,
            "an example of {} has {} tokens and {} labels where its slice has {length} and at most {labels}",
            task.kind(),
            example.tokens.len(),
            example.labels.len()
        );
    };
    if count == 1 {
        return fill_row(batch, |example| draw(0, example));
    }
    // Every entry is overwritten below, so the old ones need no clearing.
    batch.tokens.resize(count * length, 0);
    batch.labels.resize(count * labels, BatchLabel::default());
    let mut labelled = vec![0; count];

    let rows = batch.tokens.par_chunks_exact_mut(length).zip(batch.labels.par_chunks_exact_mut(labels));
    rows.zip(&mut labelled).enumerate().with_min_len(ROWS_PER_JOB).for_each_init(
        Example::default,
        |example, (row, ((tokens, row_labels), labelled))| {
            draw(row, example);
            for (token, drawn) in tokens.iter_mut().zip(&example.tokens) {
                *token = *drawn as i32;
            }
            for (in_batch, label) in row_labels.iter_mut().zip(&example.labels) {
                *in_batch = BatchLabel { row: row as u32, label: *label };
            }
            *labelled = example.labels.len();
        },
    );
    close_gaps(&mut batch.labels, labels, &labelled);
}

/// Fills a batch of one row, whose tokens are written where they stay: a sequence may be so long that a copy counts.
fn fill_row(batch: &mut Batch, draw: impl FnOnce(&mut Example)) {
    let tokens = std::mem::take(&mut batch.tokens).into_iter().map(|token| token as u32).collect();
    let mut example = Example { tokens, ..Example::default() };
    draw(&mut example);
    batch.tokens = example.tokens.into_iter().map(|token| token as i32).collect();
    batch.labels.clear();
    batch.labels.extend(example.labels.iter().map(|label| BatchLabel { row: 0, label: *label }));
}

/// Moves the labels of each row up to those of the row before; row i has `labelled[i]` at `stride`·i.
fn close_gaps(labels: &mut Vec<BatchLabel>, stride: usize, labelled: &[usize]) {
    let mut end = 0;
    for (row, count) in labelled.iter().enumerate() {
        let start = row * stride;
        if start != end {
            labels.copy_within(start..start + count, end);
        }
        end += count;
    }
    labels.truncate(end);
}

#[cfg(test)]
mod tests {
    use rayon::ThreadPoolBuilder;

    use super::*;
    use crate::Slice;
    use crate::mqar::{Filler, Mqar, MqarSettings, TrainSegment};

    fn task(filler: Filler) -> Mqar {
        let train = vec![
            TrainSegment { length: 64, pairs: 4, weight: 1.0, examples: None },
            TrainSegment { length: 256, pairs: 64, weight: 1.0, examples: None },
        ];
        Mqar::new(MqarSettings { filler, train, ..MqarSettings::default() }).unwrap()
    }

    #[test]
    fn a_batch_is_the_same_for_any_number_of_threads() {
        for filler in [Filler::Zero, Filler::Random, Filler::Disjoint] {
            let task = task(filler);
            let of_threads = |threads| {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut batch = Batch::default();
                pool.install(|| {
                    fill_batch(
                        &task,
                        Stretch { split: Split::Train, slice: 1, seed: 3, first: 1000, count: 101 },
                        &mut batch,
                    )
                });
                batch
            };
            let one = of_threads(1);
            assert_eq!(one, of_threads(2));
            assert_eq!(one, of_threads(5));
        }
    }

    #[test]
    fn a_batch_holds_the_examples_of_its_indices_whatever_it_held_before() {
        let task = task(Filler::Disjoint);
        let mut batch = Batch::default();
        fill_batch(&task, Stretch { split: Split::Train, slice: 1, seed: 3, first: 0, count: 40 }, &mut batch);
        fill_batch(&task, Stretch { split: Split::Test, slice: 0, seed: 3, first: 500, count: 9 }, &mut batch);
        assert_eq!((batch.batch, batch.length), (9, 64));
        assert_eq!((batch.tokens.len(), batch.labels.len()), (9 * 64, 9 * 4));
        let mut one = batch.clone();
        fill_batch(&task, Stretch { split: Split::Test, slice: 0, seed: 3, first: 504, count: 1 }, &mut one);
        let labels: Vec<Label> = batch.labels[4 * 4..5 * 4].iter().map(|label| label.label).collect();
        assert_eq!((&one.tokens[..], one.batch, one.length), (&batch.tokens[4 * 64..5 * 64], 1, 64));
        assert!(one.labels.iter().all(|label| label.row == 0));
        assert_eq!(one.labels.iter().map(|label| label.label).collect::<Vec<_>>(), labels);
        let mut example = Example::default();
        for (row, (tokens, labels)) in batch.tokens.chunks(64).zip(batch.labels.chunks(4)).enumerate() {
            task.example(Split::Test, 0, 3, 500 + row as u64, &mut example);
            assert!(tokens.iter().zip(&example.tokens).all(|(a, b)| *a == *b as i32));
            for (found, label) in labels.iter().zip(example.labels.iter().copied()) {
                assert_eq!(*found, BatchLabel { row: row as u32, label });
            }
        }
    }

    #[test]
    #[should_panic(expected = "slice 2 is out of range: mqar has 2 train slices")]
    fn a_slice_out_of_range_is_refused() {
        fill_batch(
            &task(Filler::Zero),
            Stretch { split: Split::Train, slice: 2, seed: 0, first: 0, count: 1 },
            &mut Batch::default(),
        );
    }

    /// Gives one label more than it claims.
    #[derive(Debug)]
    struct Liar(Mqar, Vec<Slice>);

    impl Task for Liar {
        fn kind(&self) -> &'static str {
            "liar"
        }

        fn vocab(&self) -> usize {
            self.0.vocab()
        }

        fn slices(&self, _: Split) -> &[Slice] {
            &self.1
        }

        fn example(&self, split: Split, slice: usize, seed: u64, index: u64, out: &mut Example) {
            self.0.example(split, slice, seed, index, out);
        }

        fn chance(&self, split: Split, slice: usize) -> f64 {
            self.0.chance(split, slice)
        }

        fn describe_token(&self, token: u32) -> String {
            self.0.describe_token(token)
        }
    }

    #[test]
    #[should_panic(expected = "an example of liar has 64 tokens and 4 labels where its slice has 64 and at most 3")]
    fn an_example_unlike_its_slice_is_refused() {
        let honest = task(Filler::Zero);
        let mut slices = honest.slices(Split::Train).to_vec();
        slices[0].labels -= 1;
        // One thread, so that the panic arrives with its own message.
        let pool = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        pool.install(|| {
            fill_batch(
                &Liar(honest, slices),
                Stretch { split: Split::Train, slice: 0, seed: 0, first: 0, count: 1 },
                &mut Batch::default(),
            )
        });
    }
}
