//! Multi-query associative recall: can a model look up what it has just been told, many times over?
//!
//! A sequence first states K pairs of a key and a value, all keys and all values distinct, then repeats every key once,
//! at scattered positions; at each repeated key the model is to predict its value. Gated convolutions and recurrent
//! models hold the pairs in a state of fixed size and fail as K grows past it; attention looks back and does not. The
//! score against the size of the state is the usual measure of what a sequence mixer can recall.
//!
//! Source: Arora, Eyuboglu et al., "Zoology: Measuring and Improving Recall in Efficient Language Models",
//! arXiv:2312.04927, section 4 and appendix; "Simple linear attention language models balance the recall-throughput
//! tradeoff", arXiv:2402.18668, for recall against state size.
//!
//! # Layout
//! With vocabulary V, length L and K pairs; `vocab` 16, `length` 12, `pairs` 3, `filler` "zero":
//!
//! ```text
//! position   0   1   2   3   4   5 │ 6   7   8   9  10  11
//! token      1  15   6   9   4  14 │ 6   0   1   0   4   0
//!           k₁  v₁  k₂  v₂  k₃  v₃ │k₂      k₁      k₃
//! label                            │ 9      15      14
//! evidence                         │ 3       1       5
//! ```
//!
//! - The context, positions 0 … 2K−1: k₁ v₁ … k_K v_K.
//! - The queries: the rest is (L − 2K)/2 slots of two positions. K distinct slots g₁ … g_K are drawn one after the
//!   other, slot j = 1, 2, … with a probability proportional to j^(a−1) among those left ([`Successive`](crate::sampling::Successive)), and key i
//!   stands at position 2K + 2(g_i − 1). With the default a = 0.01 the queries crowd towards the context, as repeated
//!   word pairs do in text; a = 1 scatters them evenly. The first pair stated takes its slot first, so it is asked
//!   soonest.
//! - One label at each query: its target is the value, its evidence the value's position in the context.
//! - All other positions hold filler.
//!
//! Therefore L is even and 4K ≤ L: the slots suffice for the queries.
//!
//! # Vocabulary
//! | token | role |
//! |---|---|
//! | 0 | blank: the filler "zero" |
//! | 1 … ⌊V/2⌋ − 1 | keys |
//! | ⌊V/2⌋ … V − 1 | values |
//!
//! Therefore K ≤ ⌊V/2⌋ − 1. The authors' code also requires V > L; nothing here depends on it, so that recall can be
//! measured at lengths beyond the vocabulary.
//!
//! # Filler
//! - `zero`: blank, as in the paper's figure 2.
//! - `random`: uniform over the whole vocabulary, as in the recall-against-state experiments. It may repeat a key of
//!   this sequence, so that an unlabelled query stands there: (L − 3K)·K/V of them on average, 0.5 for L 256, K 64 and
//!   V 8192, 8 for L 1024 and K 256.
//! - `disjoint` (default): uniform over the vocabulary without the keys of this sequence, so that a key after the
//!   context is a query and nothing else.
//!
//! # Chance
//! Guessing evenly among the values scores 1/(V − ⌊V/2⌋). A model that has learned to answer with *some* value of the
//! context, but not to bind it to its key, scores about 1/K: a plateau at 1/K is that, and not recall.
//!
//! # Differences from the authors' data
//! The law of a sequence is theirs. The numbers are not: theirs come from NumPy's global generator, in order; ours are
//! a function of the index. Evaluation draws fresh examples from its own streams. Variants with forgetting, composed
//! keys or repeated contexts are kinds of [their own](crate::recall).
//!
//! Training differs: theirs goes through a fixed number of examples a segment, one segment after the other, never shuffled,
//! and through the same batches again in the next epoch; here batches are drawn from the segments by weight, and examples
//! are fresh or come again in another order. With `compat` true training is as theirs: each segment states its number of
//! `examples`, batches go through the segments in their order and through each from its first example to its last, again and
//! again; and V > L is required, as there. Where a number of examples is no multiple of the batch, the last batch of a
//! segment begins it anew, so that all batches are of one size; theirs is shorter. `weight` then has no say, but in a
//! curriculum. The switch is about data alone. It does not cover the filler, which is "random" in their experiments of
//! recall against state and "zero" in their figure 2; nor their choice of learning rate and end of training by the test
//! set, nor the optimiser and its schedule by epochs, which are settings of a run.

mod queries;
mod settings;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use queries::{Queries, Scratch as QueryScratch, slot_law};
pub(crate) use settings::check_power;
pub use settings::{EvaluationSegment, Filler, MqarSettings, TrainSegment};

use crate::sampling::Distinct;
use crate::shuffle::Shuffle;
use crate::stream::Stream;
use crate::{Example, Slice, Split, Task, TaskError, slice_of_batch};

/// The task's name in configs.
const KIND: &str = "mqar";

/// Multi-query associative recall with given settings; see the [module](self).
///
/// ```
/// use heddle_tasks::mqar::{Mqar, MqarSettings, TrainSegment};
/// use heddle_tasks::{Example, Split, Task};
///
/// let train = vec![TrainSegment { length: 256, pairs: 64, weight: 1.0, examples: None }];
/// let task = Mqar::new(MqarSettings { train, ..MqarSettings::default() })?;
/// let mut example = Example::default();
/// task.example(Split::Train, 0, 42, 0, &mut example);
/// assert_eq!((example.tokens.len(), example.labels.len()), (256, 64));
/// assert_eq!(task.chance(Split::Train, 0), 1.0 / 4096.0);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Mqar {
    vocab: u32,
    /// Whether training batches come in the authors' order.
    compat: bool,
    plans: [Plan; 3],
}

/// The slices of a split, and what generating each takes.
#[derive(Clone, Debug, Default)]
struct Plan {
    slices: Vec<Slice>,
    shapes: Vec<Queries>,
}

/// Memory that one thread reuses from example to example.
#[derive(Default)]
struct Scratch {
    distinct: Distinct,
    queries: QueryScratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Mqar {
    /// The task with these settings.
    ///
    /// # Errors
    /// [`TaskError::OutOfRange`] if no sequence satisfies them.
    pub fn new(settings: MqarSettings) -> Result<Self, TaskError> {
        settings.check()?;
        let mut laws = BTreeMap::new();
        let mut plan = |segments: Vec<(usize, usize, f64, usize)>| {
            let mut plan = Plan::default();
            for (length, pairs, weight, examples) in segments {
                let space = (length - 2 * pairs) / 2;
                let slots = laws.entry(space).or_insert_with(|| Arc::new(slot_law(space, settings.power_a)));
                plan.shapes.push(Queries {
                    length: length as u32,
                    width: 1,
                    vocab: settings.vocab as u32,
                    filler: settings.filler,
                    slots: slots.clone(),
                });
                let keys = [("length", length), ("pairs", pairs)].map(|(key, n)| (key.to_owned(), n as f64));
                plan.slices.push(Slice {
                    name: format!("length={length},pairs={pairs}"),
                    length,
                    labels: pairs,
                    weight,
                    keys: BTreeMap::from(keys),
                    examples,
                });
            }
            plan
        };
        let evaluation = |segments: Vec<EvaluationSegment>| {
            segments.into_iter().map(|s| (s.length, s.pairs, 1.0, s.examples)).collect()
        };
        let train =
            plan(settings.train.iter().map(|s| (s.length, s.pairs, s.weight, s.examples.unwrap_or(0))).collect());
        let validation = plan(evaluation(settings.evaluation(Split::Validation)));
        let test = plan(evaluation(settings.evaluation(Split::Test)));
        Ok(Self { vocab: settings.vocab as u32, compat: settings.compat, plans: [train, validation, test] })
    }

    fn slice(&self, split: Split, slice: usize) -> (&Slice, &Queries) {
        let Plan { slices, shapes } = &self.plans[split as usize];
        assert!(slice < shapes.len(), "slice {slice} is out of range: {KIND} has {} {split} slices", shapes.len());
        (&slices[slice], &shapes[slice])
    }

    /// The example that stands at a place of training, where examples repeat.
    fn repeated(&self, slice: usize, seed: u64, place: u64) -> u64 {
        match (self.slices(Split::Train)[slice].examples as u64, self.compat) {
            (0, _) => place,
            (examples, true) => place % examples,
            (examples, false) => Shuffle::of_epoch(KIND, slice, seed, place / examples, examples).at(place % examples),
        }
    }

    /// Generates one example: keys, values and slots first, then the filler from left to right.
    fn write(&self, pairs: u32, queries: &Queries, stream: &mut Stream, scratch: &mut Scratch, out: &mut Example) {
        let QueryScratch { keys, values, evidence, .. } = &mut scratch.queries;
        let first_value = self.vocab / 2;
        scratch.distinct.draw(first_value - 1, pairs, stream, keys);
        keys.iter_mut().for_each(|key| *key += 1);
        scratch.distinct.draw(self.vocab - first_value, pairs, stream, values);
        values.iter_mut().for_each(|value| *value += first_value);
        evidence.clear();
        evidence.extend((0..pairs).map(|pair| 2 * pair + 1));

        out.clear();
        out.tokens.reserve(queries.length as usize);
        out.labels.reserve(pairs as usize);
        for (key, value) in keys.iter().zip(values.iter()) {
            out.tokens.extend([*key, *value]);
        }
        queries.write(stream, &mut scratch.queries, out);
    }
}

impl Task for Mqar {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn vocab(&self) -> usize {
        self.vocab as usize
    }

    fn slices(&self, split: Split) -> &[Slice] {
        &self.plans[split as usize].slices
    }

    fn example(&self, split: Split, slice: usize, seed: u64, index: u64, out: &mut Example) {
        let (Slice { labels: pairs, .. }, queries) = self.slice(split, slice);
        let index = if split == Split::Train { self.repeated(slice, seed, index) } else { index };
        let mut stream = Stream::of_example(KIND, split, slice, seed, index);
        SCRATCH.with_borrow_mut(|scratch| self.write(*pairs as u32, queries, &mut stream, scratch, out));
    }

    fn training_batch(&self, seed: u64, batch: u64, size: usize) -> (usize, u64) {
        if !self.compat {
            return (slice_of_batch(self, seed, batch), batch.wrapping_mul(size as u64));
        }
        let slices = self.slices(Split::Train);
        let batches = |slice: &Slice| slice.examples.div_ceil(size) as u64;
        let mut left = batch % slices.iter().map(batches).fold(0, u64::saturating_add);
        let slice = slices.iter().position(|slice| {
            let here = left < batches(slice);
            if !here {
                left -= batches(slice);
            }
            here
        });
        (slice.expect("an epoch ends with its last slice"), left * size as u64)
    }

    fn chance(&self, split: Split, slice: usize) -> f64 {
        self.slice(split, slice);
        1.0 / f64::from(self.vocab - self.vocab / 2)
    }

    fn describe_token(&self, token: u32) -> String {
        match token {
            0 => "filler".to_owned(),
            key if key < self.vocab / 2 => format!("key {key}"),
            value if value < self.vocab => format!("value {value}"),
            other => format!("{other} is no token of this vocabulary"),
        }
    }
}
