use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::stream::Stream;

/// What examples are used for. The splits draw from disjoint families of random streams.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("mqar", &serde_json::Value::Null)?;
/// let first = Split::ALL.map(|split| {
///     let mut example = Example::default();
///     task.example(split, 0, 42, 0, &mut example);
///     example.tokens
/// });
/// assert!(first[0] != first[1] && first[1] != first[2]);
/// assert_eq!("test".parse(), Ok(Split::Test));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Fitting the parameters.
    Train = 0,
    /// Choosing: early stopping, checkpoints, learning rates.
    Validation = 1,
    /// Reporting, and nothing else.
    Test = 2,
}

impl Split {
    /// All splits.
    pub const ALL: [Split; 3] = [Split::Train, Split::Validation, Split::Test];
}

impl Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        })
    }
}

/// A name that is not a split's.
///
/// ```
/// use heddle_tasks::Split;
///
/// let error = "dev".parse::<Split>().unwrap_err();
/// assert_eq!(error.to_string(), "no split is called 'dev': use train, validation or test");
/// ```
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("no split is called '{0}': use train, validation or test")]
pub struct ParseSplitError(String);

impl FromStr for Split {
    type Err = ParseSplitError;

    fn from_str(name: &str) -> Result<Self, ParseSplitError> {
        let found = Split::ALL.into_iter().find(|split| split.to_string() == name);
        found.ok_or_else(|| ParseSplitError(name.to_owned()))
    }
}

/// One prediction that is asked for: at `position`, the token `target`.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("passkey", &serde_json::Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// for label in &example.labels {
///     // The answer stands at the evidence, and what it is asked at comes later.
///     assert_eq!(example.tokens[label.evidence as usize], label.target);
///     assert!(label.evidence < label.position);
/// }
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Label {
    /// The position whose output is scored.
    pub position: u32,
    /// The token to predict there.
    pub target: u32,
    /// The position of the token that determines the target; no attention map that ignores it can be right. Where the
    /// target hangs on several tokens it is the last of them.
    pub evidence: u32,
}

/// A position of a sequence that an inspection may ask about, such as a pronoun or the noun it stands for.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("coreference", &serde_json::Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let pronoun = example.marks.iter().find(|mark| mark.name == "pronoun").unwrap();
/// assert_eq!(task.describe_token(example.tokens[pronoun.position as usize]), "it");
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// What stands there.
    pub name: Cow<'static, str>,
    /// Where.
    pub position: u32,
}

/// One sequence and the predictions asked for in it.
///
/// ```
/// use heddle_tasks::{Example, Label};
///
/// let mut example = Example::default();
/// example.tokens.extend([3, 7, 5, 3]);
/// example.ask(7, 1);
/// assert_eq!(example.labels, [Label { position: 3, target: 7, evidence: 1 }]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Example {
    /// The token at each position.
    pub tokens: Vec<u32>,
    /// The labels, by rising position.
    pub labels: Vec<Label>,
    /// Positions with a name, if the task gives any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<Mark>,
}

impl Example {
    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.labels.clear();
        self.marks.clear();
    }

    /// Asks for `target` behind the last token, which `evidence` determines.
    ///
    /// # Panics
    /// If there is no token yet.
    pub fn ask(&mut self, target: u32, evidence: u32) {
        let position = self.tokens.len().checked_sub(1).expect("a token stands before the answer") as u32;
        self.labels.push(Label { position, target, evidence });
    }
}

/// The examples of a split that share every knob, and therefore length and number of labels.
///
/// ```
/// use heddle_tasks::{Split, TaskRegistry};
/// use serde_json::json;
///
/// let settings = json!({"train": [{"length": 64, "pairs": 16, "weight": 5}], "test": [{"length": 128, "pairs": 32}]});
/// let task = TaskRegistry::builtin().build("mqar", &settings)?;
/// let [train, test] = [Split::Train, Split::Test].map(|split| &task.slices(split)[0]);
/// assert_eq!((train.weight, train.examples), (5.0, 0), "no end of examples");
/// assert_eq!((test.name.as_str(), test.keys["pairs"]), ("length=128,pairs=32", 32.0));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The knobs in words, such as `length=64,pairs=16`; unique within the split.
    pub name: String,
    /// Tokens per example.
    pub length: usize,
    /// Labels per example, at most.
    pub labels: usize,
    /// How often a training batch is of this slice, relative to the others; 1 outside the train split.
    pub weight: f64,
    /// The knobs by name, such as `{"length": 64, "pairs": 16}`.
    pub keys: BTreeMap<String, f64>,
    /// The number of examples to evaluate; in the train split the number that training repeats, or 0 for no end of them.
    pub examples: usize,
}

/// What the answer to a [`Label`] is read from: the hidden state at the label's position, and perhaps a number.
///
/// ```
/// use heddle_tasks::{Example, Readout, Split, TaskRegistry};
///
/// let asked = |kind| {
///     let task = TaskRegistry::builtin().build(kind, &serde_json::Value::Null)?;
///     let mut example = Example::default();
///     task.example(Split::Test, 0, 42, 0, &mut example);
///     let same_position = example.labels.windows(2).any(|pair| pair[0].position == pair[1].position);
///     Ok::<_, heddle_tasks::TaskError>((task.readout(), same_position))
/// };
/// assert_eq!((asked("mqar")?, asked("compression")?), ((Readout::Token, false), (Readout::Item, true)));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readout {
    /// The hidden state h alone: logits = head(h), as in a language model. A position carries one label at most.
    #[default]
    Token,
    /// The hidden state h and the item asked for, i = [`Label::evidence`]: logits = head(f(h, i)), f being the model's to
    /// learn. Many labels stand at one position and differ in their item, and the target of each is the token at position
    /// i, so that h must hold all of them.
    ///
    /// In the auto-encoder of arXiv:2403.17844 f is a multi-layer perceptron of the sum of h and an encoding of i; such is
    /// the read-out that `heddle-hybrid`'s `Model` takes for these tasks.
    Item,
}

/// A generator of labelled token sequences.
///
/// Every example of a slice has the slice's length, and at least one label but no more than the slice's. Training
/// examples may carry more labels than those of the other splits: what helps to learn is not all worth a score.
///
/// Most tasks are a [`Recipe`](crate::Recipe). One that is not, whose examples are numbered and never drawn:
///
/// ```
/// use heddle_tasks::{Example, Slice, Split, Task, content_hash};
///
/// #[derive(Debug)]
/// struct Counting {
///     slices: [Slice; 1],
/// }
///
/// impl Task for Counting {
///     fn kind(&self) -> &'static str {
///         "counting"
///     }
///     fn vocab(&self) -> usize {
///         10
///     }
///     fn slices(&self, _: Split) -> &[Slice] {
///         &self.slices
///     }
///     fn example(&self, _: Split, _: usize, _seed: u64, index: u64, out: &mut Example) {
///         out.clear();
///         out.tokens.extend((0..4).map(|step| ((index + step) % 10) as u32));
///         out.ask(((index + 4) % 10) as u32, 3);
///     }
///     fn chance(&self, _: Split, _: usize) -> f64 {
///         0.1
///     }
///     fn describe_token(&self, token: u32) -> String {
///         token.to_string()
///     }
/// }
///
/// let keys = [("length".to_owned(), 4.0)].into();
/// let slice = Slice { name: "length=4".into(), length: 4, labels: 1, weight: 1.0, keys, examples: 10 };
/// let task = Counting { slices: [slice] };
/// let mut example = Example::default();
/// task.example(Split::Train, 0, 42, 8, &mut example);
/// assert_eq!((example.tokens.as_slice(), example.labels[0].target), (&[8, 9, 0, 1][..], 2));
/// assert_eq!(content_hash(&task, 0).len(), 16);
/// ```
pub trait Task: Send + Sync + Debug {
    /// The name under which the task is registered.
    fn kind(&self) -> &'static str;

    /// Raised by whoever changes what a seed generates, so that [`content_hash`] changes too.
    fn version(&self) -> u32 {
        1
    }

    /// The number of tokens: every token is below it.
    fn vocab(&self) -> usize;

    /// The slices of a split.
    fn slices(&self, split: Split) -> &[Slice];

    /// Writes example `index` of a slice to `out`, replacing what was there: a pure function of its arguments.
    ///
    /// # Panics
    /// If the split has no such slice.
    fn example(&self, split: Split, slice: usize, seed: u64, index: u64, out: &mut Example);

    /// The accuracy of a guesser who knows the task's rules but looks at no sequence.
    ///
    /// # Panics
    /// If the split has no such slice.
    fn chance(&self, split: Split, slice: usize) -> f64;

    /// The slice of training batch number `batch`, of `size` examples, and the index of its first example: a function of the
    /// arguments. Unless a task knows better, the slice is that of [`slice_of_batch`], and no two batches share an index.
    fn training_batch(&self, seed: u64, batch: u64, size: usize) -> (usize, u64) {
        (slice_of_batch(self, seed, batch), batch.wrapping_mul(size as u64))
    }

    /// What the answers are read from.
    fn readout(&self) -> Readout {
        Readout::default()
    }

    /// What a token stands for, such as `key 17`.
    fn describe_token(&self, token: u32) -> String;
}

/// The slice of training batch number `batch`, chosen by the slices' weights from (seed, batch) alone.
///
/// # Panics
/// If the task has no train slices.
pub fn slice_of_batch<T: Task + ?Sized>(task: &T, seed: u64, batch: u64) -> usize {
    let weights: Vec<f64> = task.slices(Split::Train).iter().map(|slice| slice.weight).collect();
    slice_by_weight(task, &weights, seed, batch)
}

/// As [`slice_of_batch`], by other weights: one a train slice, 0 for a slice that is never chosen.
///
/// # Panics
/// If no weight is above 0.
pub fn slice_by_weight<T: Task + ?Sized>(task: &T, weights: &[f64], seed: u64, batch: u64) -> usize {
    let last = weights.iter().rposition(|weight| *weight > 0.0);
    let last = last.unwrap_or_else(|| panic!("task '{}': no train slice has a weight", task.kind()));
    let mut point = Stream::of_batch(task.kind(), seed, batch).unit() * weights.iter().sum::<f64>();
    let chosen = weights.iter().position(|weight| {
        point -= weight;
        point < 0.0
    });
    // Rounding may leave a sliver beyond the last slice.
    chosen.unwrap_or(last)
}

/// Names the data that `seed` generates: 16 hexadecimal digits of a hash over the kind, the task's version, every
/// slice's description and its first examples.
///
/// Equal hashes mean the same data, short of a change that only later examples show.
pub fn content_hash(task: &dyn Task, seed: u64) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut words = |words: &[u64]| {
        for word in words {
            hasher.update(&word.to_le_bytes());
        }
    };
    let text = |text: &str| -> Vec<u64> {
        let bytes = text.bytes().map(u64::from);
        std::iter::once(text.len() as u64).chain(bytes).collect()
    };
    words(&text(task.kind()));
    words(&[u64::from(task.version()), seed, task.vocab() as u64]);
    let mut example = Example::default();
    for split in Split::ALL {
        words(&[task.slices(split).len() as u64]);
        for (index, slice) in task.slices(split).iter().enumerate() {
            words(&text(&slice.name));
            words(&[slice.weight.to_bits(), slice.examples as u64]);
            for number in 0..EXAMPLES_HASHED {
                task.example(split, index, seed, number, &mut example);
                words(&[example.tokens.len() as u64, example.labels.len() as u64]);
                example.tokens.iter().for_each(|token| words(&[u64::from(*token)]));
                for Label { position, target, evidence } in &example.labels {
                    words(&[position, target, evidence].map(|field| u64::from(*field)));
                }
                for Mark { name, position } in &example.marks {
                    words(&text(name));
                    words(&[u64::from(*position)]);
                }
            }
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

const EXAMPLES_HASHED: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqar::{Mqar, MqarSettings, TrainSegment};
    use crate::sampling::chi_square_p_value;

    fn weighted(weights: &[f64]) -> Mqar {
        let segment =
            |(i, weight): (usize, &f64)| TrainSegment { length: 64, pairs: i + 1, weight: *weight, examples: None };
        let train = weights.iter().enumerate().map(segment).collect();
        Mqar::new(MqarSettings { train, ..MqarSettings::default() }).unwrap()
    }

    #[test]
    fn a_split_is_read_as_it_is_written() {
        for split in Split::ALL {
            assert_eq!(split.to_string().parse(), Ok(split));
            assert_eq!(serde_json::to_value(split).unwrap(), split.to_string());
        }
        let error = "dev".parse::<Split>().unwrap_err();
        assert_eq!(error.to_string(), "no split is called 'dev': use train, validation or test");
    }

    #[test]
    fn batches_are_shared_out_by_weight_from_seed_and_number_alone() {
        let task = weighted(&[5.0, 1.0, 2.0]);
        let mut counts = [0; 3];
        for batch in 0..40_000 {
            let slice = slice_of_batch(&task, 7, batch);
            assert_eq!(slice, slice_of_batch(&task, 7, batch));
            counts[slice] += 1;
        }
        assert!(chi_square_p_value(&counts, &[5.0 / 8.0, 1.0 / 8.0, 2.0 / 8.0]) > 1e-6, "{counts:?}");
        let differs = |batch: &u64| slice_of_batch(&task, 7, *batch) != slice_of_batch(&task, 8, *batch);
        assert!((0..100).filter(differs).count() > 10);
    }

    #[test]
    fn a_slice_without_weight_is_never_chosen() {
        let task = weighted(&[5.0, 1.0, 2.0]);
        let mut counts = [0; 2];
        for batch in 0..10_000 {
            counts[slice_by_weight(&task, &[1.0, 3.0, 0.0], 7, batch)] += 1;
        }
        assert!(chi_square_p_value(&counts, &[0.25, 0.75]) > 1e-6, "{counts:?}");
    }

    #[test]
    fn the_content_hash_changes_with_seed_settings_and_weights() {
        let plain = weighted(&[1.0]);
        let hashes = [
            content_hash(&plain, 0),
            content_hash(&plain, 1),
            content_hash(&weighted(&[2.0]), 0),
            content_hash(&weighted(&[1.0, 1.0]), 0),
            content_hash(&Mqar::new(MqarSettings { power_a: 1.0, ..MqarSettings::default() }).unwrap(), 0),
        ];
        for (i, hash) in hashes.iter().enumerate() {
            assert_eq!(hash.len(), 16);
            assert!(!hashes[..i].contains(hash), "{hashes:?}");
        }
        assert_eq!(hashes[0], content_hash(&weighted(&[1.0]), 0));
    }
}
