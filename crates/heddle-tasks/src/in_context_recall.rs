//! In-context recall, plain and among noise: does a model bind keys to values that change with every sequence?
//!
//! A sequence is pairs of a key and a value. A key has one value throughout a sequence and another one in the next;
//! whenever a key is seen again, the model is to predict its value. The kind `noisy_recall` puts
//! pairs of noise between them, from tokens of their own, which a model must learn to ignore. Both are one generator: the
//! plain task is the noisy one without noise.
//!
//! Source: Poli, Thomas et al., "Mechanistic Design and Scaling of Hybrid Architectures", arXiv:2403.17844, section 3.1,
//! and their code (mad-lab, `in-context-recall` and `noisy-in-context-recall`, both with several queries).
//!
//! # Layout
//! With n ordinary tokens and length L; `noisy_recall` with `vocab` 12, `noise_vocab` 4, `length` 16, `noise` 0.3:
//!
//! ```text
//! position   0   1 │  2   3 │  4   5 │  6   7 │  8   9 │ 10  11 │ 12  13 │ 14  15
//! token     10   8 │  1   4 │  8  11 │  0   6 │  0   6 │  1   4 │ 11  10 │  0   6
//!            noise │ k₁  v₁ │  noise │ k₀  v₀ │ k₀  v₀ │ k₁  v₁ │  noise │ k₀  v₀
//! label                                          6        4                 6
//! evidence                                       7        3                 9
//! ```
//!
//! - L/2 slots of two positions. The last one probes: its key is any of those stated before, equally likely.
//! - Every other slot is noise with probability `noise`, both its tokens uniform over the noise, except for one slot,
//!   drawn evenly, that never is.
//! - The other slots are pairs. The key is uniform over all keys. At its first sight its value is uniform over all values;
//!   from then on the value is the same.
//! - One label at each key that was seen before, the probe among them. The evidence is the value at the last sight.
//!
//! Therefore L is even and at least 4.
//!
//! # Vocabulary
//! With n = `vocab` − `noise_vocab`:
//!
//! | token | role |
//! |---|---|
//! | 0 … ⌊n/2⌋ − 1 | keys |
//! | ⌊n/2⌋ … n − 1 | values |
//! | n … `vocab` − 1 | noise, in `noisy_recall` alone |
//!
//! # Loss
//! "all" (default, as published): every next token of a training sequence, most of which nothing determines; "answers":
//! those that are scored alone. Evaluation scores the answers.
//!
//! # Chance
//! 1/(n − ⌊n/2⌋): an even guess among the values. The answers that can be had without binding a value to its key are
//! better than that, so a model that names some value of the sequence scores above chance.
//!
//! # Differences from the authors' data
//! They cut the last value off a sequence of L tokens, so that models see L − 1; here it stands at the end, where nothing
//! is asked. Their slot that is never noise may be the probe's, which is no guarantee at all. Their variant with a single
//! query behind a copy token is not covered.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::error::{require, require_published};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::stream::Stream;
use crate::{Alphabet, Example, Label, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of in-context recall; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("in_context_recall", &serde_json::Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let probe = example.labels.last().unwrap();
/// assert_eq!((probe.position, probe.target), (126, example.tokens[127]));
/// assert_eq!(example.tokens[probe.evidence as usize], probe.target);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InContextRecall {
    /// The vocabulary's size: keys, then values.
    pub vocab: usize,
    /// Which positions of a training sequence carry the loss.
    pub loss: Loss,
}

/// The settings of recall among noise; see the [module](self).
///
/// ```
/// use heddle_tasks::TaskRegistry;
/// use serde_json::json;
///
/// let settings = json!({"vocab": 32, "train": [{"length": 256, "noise": 0.8}]});
/// let task = TaskRegistry::builtin().build("noisy_recall", &settings)?;
/// assert_eq!(task.describe_token(31), "noise 15");
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoisyRecall {
    /// The vocabulary's size, noise included.
    pub vocab: usize,
    /// The number of tokens that are noise.
    pub noise_vocab: usize,
    /// Which positions of a training sequence carry the loss.
    pub loss: Loss,
}

/// Which positions of a training sequence carry the loss.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let labels = |loss: &str| {
///     let settings = json!({"loss": loss, "train": [{"length": 128}]});
///     let task = TaskRegistry::builtin().build("in_context_recall", &settings)?;
///     let mut example = Example::default();
///     task.example(Split::Train, 0, 42, 0, &mut example);
///     Ok::<usize, heddle_tasks::TaskError>(example.labels.len())
/// };
/// // Of 64 pairs of 8 keys, each first sight alone is no answer.
/// assert_eq!([labels("all")?, labels("answers")?], [127, 64 - 8]);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// All but the last, whose next token does not exist.
    #[default]
    All,
    /// Those that evaluation scores.
    Answers,
}

impl Loss {
    /// The loss of a split: what helps to learn is in training alone.
    pub(crate) fn of(self, split: Split) -> Self {
        if split == Split::Train { self } else { Self::Answers }
    }

    /// What the setting means.
    pub(crate) const SETTING: SettingInfo = SettingInfo {
        key: "loss",
        default: "\"all\"",
        meaning: "which positions of a training sequence carry the loss; evaluation scores the answers",
        range: "all, answers",
    };

    /// Adds to the answers of a sequence the labels that this loss has beside them.
    pub(crate) fn complete(self, example: &mut Example) {
        if self == Self::Answers {
            return;
        }
        let next = example.tokens.len() - 1;
        let mut answers = example.labels.len();
        example.labels.resize(next, Label { position: 0, target: 0, evidence: 0 });
        // From the back, so that no answer is overwritten before it has moved to its place.
        for place in (0..next).rev() {
            let position = place as u32;
            example.labels[place] = match answers.checked_sub(1).map(|last| example.labels[last]) {
                Some(answer) if answer.position == position => {
                    answers -= 1;
                    answer
                }
                _ => Label { position, target: example.tokens[place + 1], evidence: position },
            };
        }
    }
}

/// What sets one slice of the plain task apart.
///
/// ```
/// use heddle_tasks::TaskRegistry;
/// use serde_json::json;
///
/// let error = TaskRegistry::builtin().build("in_context_recall", &json!({"train": [{"length": 127}]})).unwrap_err();
/// assert!(error.to_string().ends_with("use a length of 126 or 128"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
}

/// What sets one slice of the noisy task apart.
///
/// ```
/// use heddle_tasks::in_context_recall::NoisyKnobs;
///
/// let published: NoisyKnobs = serde_json::from_str(r#"{"length": 128}"#)?;
/// assert_eq!(published, NoisyKnobs { length: 128, noise: 0.2 });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoisyKnobs {
    /// Tokens per example, L.
    pub length: usize,
    /// How likely a slot is noise.
    #[serde(default = "published_noise")]
    pub noise: f64,
}

fn published_noise() -> f64 {
    0.2
}

impl Default for InContextRecall {
    fn default() -> Self {
        Self { vocab: 16, loss: Loss::default() }
    }
}

impl Default for NoisyRecall {
    fn default() -> Self {
        Self { vocab: 32, noise_vocab: 16, loss: Loss::default() }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    keys: u32,
    values: u32,
    noise_vocab: u32,
    slots: u32,
    /// How likely a slot is noise, of [`CERTAIN`].
    noise: u32,
    loss: Loss,
}

/// The scale of [`Plan::noise`]: a power of two, so that one draw of 32 bits decides.
const CERTAIN: u32 = 1 << 31;

/// Memory that a thread reuses.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Scratch {
    /// Where the value of each key last stood, 0 for a key not seen; all 0 between examples.
    last: Vec<u32>,
    /// The keys seen, by their first sight; empty between examples.
    seen: Vec<u32>,
}

impl Plan {
    fn new(
        ordinary: usize,
        noise_vocab: usize,
        (length, noise): (usize, f64),
        loss: Loss,
    ) -> Result<(Shape, Self), TaskError> {
        require(length <= LARGEST, "length", format!("length ≤ {LARGEST}"), || {
            (format!("length {length}"), format!("use a length of at most {LARGEST}"))
        })?;
        require(length >= 4, "length", "4 ≤ length", || {
            (format!("length {length}"), "a pair and its probe take 4 tokens; the published length is 128".to_owned())
        })?;
        require(length % 2 == 0, "length", "length even", || {
            (format!("length {length}"), format!("use a length of {} or {}", length - 1, length + 1))
        })?;
        let (keys, values, slots) = (ordinary / 2, ordinary - ordinary / 2, length / 2);
        // The most likely way for two sequences to agree in a slot: where one of them is bound to hold a pair, and where
        // neither is.
        let of_pairs = 1.0 / keys as f64;
        let of_noise = if noise_vocab == 0 { 0.0 } else { noise / noise_vocab as f64 };
        let same = of_pairs.max(of_noise.powi(2) + (1.0 - noise).powi(2) * of_pairs);
        let shape = Shape {
            length,
            labels: if loss == Loss::All { length - 1 } else { slots - 1 },
            chance: 1.0 / values as f64,
            bits: (slots - 1) as f64 * -same.log2() + (values as f64).log2(),
        };
        let noise = (noise * f64::from(CERTAIN)).round() as u32;
        let [keys, values, noise_vocab, slots] = [keys, values, noise_vocab, slots].map(|number| number as u32);
        Ok((shape, Self { keys, values, noise_vocab, slots, noise, loss }))
    }

    fn write(&self, stream: &mut Stream, scratch: &mut Scratch, out: &mut Example) {
        let Self { keys, values, noise_vocab, slots, noise, loss } = *self;
        scratch.last.resize(scratch.last.len().max(keys as usize), 0);
        let stated = if noise > 0 { stream.below(slots - 1) } else { 0 };
        for slot in 0..slots - 1 {
            if noise > 0 && slot != stated && stream.below(CERTAIN) < noise {
                out.tokens.extend([(); 2].map(|()| keys + values + stream.below(noise_vocab)));
            } else {
                let key = stream.below(keys);
                scratch.pair(key, || keys + stream.below(values), out);
            }
        }
        let probe = scratch.seen[stream.below(scratch.seen.len() as u32) as usize];
        scratch.pair(probe, || unreachable!("the probe was stated"), out);
        let Scratch { last, seen } = scratch;
        seen.drain(..).for_each(|key| last[key as usize] = 0);
        loss.complete(out);
    }
}

impl Scratch {
    /// Appends a key and its value, a fresh one if the key is new; asks for it if it is not.
    fn pair(&mut self, key: u32, fresh: impl FnOnce() -> u32, out: &mut Example) {
        let place = out.tokens.len() as u32 + 1;
        out.tokens.push(key);
        let value = match std::mem::replace(&mut self.last[key as usize], place) {
            0 => {
                self.seen.push(key);
                fresh()
            }
            before => {
                let value = out.tokens[before as usize];
                out.ask(value, before);
                value
            }
        };
        out.tokens.push(value);
    }
}

impl Recipe for InContextRecall {
    const INFO: TaskInfo = TaskInfo {
        kind: "in_context_recall",
        title: "In-context recall",
        doc: "A sequence is pairs of a key and a value, the value of a key being the same throughout the sequence and \
              another one in the next. Whenever a key is seen again, the model is to predict its value.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "16",
                meaning: "number of tokens: the lower half are keys, the others values",
                range: "4 to 16777216",
            },
            Loss::SETTING,
            train_setting("[{\"length\": 128, \"weight\": 1.0}]", "{length}: even, 4 ≤ length ≤ 16777216"),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (vocab − ⌊vocab/2⌋): an even guess among the values",
        source: "Poli, Thomas et al. 2024, arXiv:2403.17844, section 3.1; the loss 'answers' is ours",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = Scratch;

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 128 }]
    }

    fn alphabet(&self) -> Alphabet {
        let keys = self.vocab as u32 / 2;
        Alphabet::of([("key", keys), ("value", self.vocab as u32 - keys)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require_published(self.vocab, "vocab", (4, LARGEST), 16)
    }

    fn plan(&self, split: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        Plan::new(self.vocab, 0, (knobs.length, 0.0), self.loss.of(split))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, scratch: &mut Scratch, out: &mut Example) {
        plan.write(stream, scratch, out);
    }
}

impl Recipe for NoisyRecall {
    const INFO: TaskInfo = TaskInfo {
        kind: "noisy_recall",
        title: "Noisy in-context recall",
        doc: "A sequence is pairs of a key and a value with pairs of noise between them, from tokens of their own. The value \
              of a key is the same throughout the sequence and another one in the next; whenever a key is seen again, the \
              model is to predict its value, and to ignore the noise.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "32",
                meaning: "number of tokens, noise included: of the others the lower half are keys, the rest values",
                range: "noise_vocab + 4 to 16777216",
            },
            SettingInfo {
                key: "noise_vocab",
                default: "16",
                meaning: "number of tokens that are noise",
                range: "1 to vocab − 4",
            },
            Loss::SETTING,
            train_setting(
                "[{\"length\": 128, \"noise\": 0.2, \"weight\": 1.0}]",
                "{length, noise (default 0.2)}: length even, 4 ≤ length ≤ 16777216, 0 ≤ noise < 1",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (n − ⌊n/2⌋) with n = vocab − noise_vocab: an even guess among the values",
        source: "Poli, Thomas et al. 2024, arXiv:2403.17844, section 3.1; the loss 'answers' is ours",
    };
    type Knobs = NoisyKnobs;
    type Plan = Plan;
    type Scratch = Scratch;

    fn default_train() -> Vec<NoisyKnobs> {
        vec![NoisyKnobs { length: 128, noise: published_noise() }]
    }

    fn alphabet(&self) -> Alphabet {
        let [vocab, noise] = [self.vocab, self.noise_vocab].map(|number| number as u32);
        let keys = (vocab - noise) / 2;
        Alphabet::of([("key", keys), ("value", vocab - noise - keys), ("noise", noise)])
    }

    fn check(&self) -> Result<(), TaskError> {
        let Self { vocab, noise_vocab, .. } = *self;
        require(vocab <= LARGEST, "vocab", format!("vocab ≤ {LARGEST}"), || {
            (format!("vocab {vocab}"), "use 32 as published".to_owned())
        })?;
        require(noise_vocab >= 1, "noise_vocab", "1 ≤ noise_vocab", || {
            ("noise_vocab 0".to_owned(), "use 16 as published; in_context_recall is the task without noise".to_owned())
        })?;
        let ordinary = vocab.saturating_sub(noise_vocab);
        require(ordinary >= 4, "vocab", "noise_vocab + 4 ≤ vocab", || {
            let remedy = "leave two keys and two values; published are 32 and 16".to_owned();
            (format!("vocab {vocab}, noise_vocab {noise_vocab}"), remedy)
        })
    }

    fn plan(&self, split: Split, knobs: &NoisyKnobs) -> Result<(Shape, Plan), TaskError> {
        let NoisyKnobs { length, noise } = *knobs;
        require((0.0..1.0).contains(&noise), "noise", "0 ≤ noise < 1", || {
            (format!("noise {noise}"), "use 0.2 as published, or up to 0.8".to_owned())
        })?;
        Plan::new(self.vocab - self.noise_vocab, self.noise_vocab, (length, noise), self.loss.of(split))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, scratch: &mut Scratch, out: &mut Example) {
        plan.write(stream, scratch, out);
    }
}
