use serde::{Deserialize, Serialize};

use super::{KIND, Mqar};
use crate::error::require;
use crate::{SettingInfo, Split, Task, TaskError, TaskInfo, TaskSettings};

/// The settings of [`Mqar`].
///
/// ```
/// use heddle_tasks::{Split, TaskSettings, mqar::MqarSettings};
/// use serde_json::json;
///
/// let table = json!({"vocab": 64, "train": [{"length": 64, "pairs": 4}, {"length": 128, "pairs": 16}]});
/// let task = MqarSettings::read(&table)?.build()?;
/// // Without slices of its own, the test has those of training.
/// assert_eq!(task.slices(Split::Test)[1].name, "length=128,pairs=16");
/// assert_eq!(task.slices(Split::Test)[1].examples, 1000);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqarSettings {
    /// The vocabulary's size, V.
    pub vocab: usize,
    /// The exponent a of the law of the gap between a pair and its query: 1 scatters the queries evenly, towards 0 they
    /// crowd behind the context.
    pub power_a: f64,
    /// What stands where nothing is asked.
    pub filler: Filler,
    /// Whether training goes through its examples as the authors' does; see the
    /// [module](super#differences-from-the-authors-data).
    pub compat: bool,
    /// What training batches hold.
    pub train: Vec<TrainSegment>,
    /// What is evaluated to choose; if absent, every length and number of pairs of `train`, 1000 examples each.
    pub validation: Option<Vec<EvaluationSegment>>,
    /// What is evaluated to report; if absent, likewise.
    pub test: Option<Vec<EvaluationSegment>>,
}

/// What stands where nothing is asked; see the [module](super#filler).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("mqar", &json!({"filler": "zero", "train": [{"length": 64, "pairs": 4}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// // Behind the four pairs stand four questions and nothing else.
/// assert_eq!(example.tokens[8..].iter().filter(|token| **token != 0).count(), 4);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filler {
    /// Token 0.
    Zero,
    /// Any token, keys of the sequence among them.
    Random,
    /// Any token that is not a key of the sequence.
    #[default]
    Disjoint,
}

/// One kind of training batch.
///
/// ```
/// use heddle_tasks::mqar::{Mqar, MqarSettings, TrainSegment};
/// use heddle_tasks::slice_of_batch;
///
/// let segment = |length, weight| TrainSegment { length, pairs: 4, weight, examples: None };
/// let train = vec![segment(64, 3.0), segment(256, 1.0)];
/// let task = Mqar::new(MqarSettings { train, ..MqarSettings::default() })?;
/// let short = (0..1000).filter(|batch| slice_of_batch(&task, 42, *batch) == 0).count();
/// assert!((700..800).contains(&short), "three batches of four: {short}");
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSegment {
    /// Tokens per example, L.
    pub length: usize,
    /// Pairs per example, K.
    pub pairs: usize,
    /// How often a batch is of this segment, relative to the others.
    #[serde(default = "even_weight")]
    pub weight: f64,
    /// The number of examples, which come again and again; without it there is no end of fresh ones.
    #[serde(default)]
    pub examples: Option<usize>,
}

/// One evaluation slice.
///
/// ```
/// use heddle_tasks::mqar::EvaluationSegment;
///
/// let segment: EvaluationSegment = serde_json::from_str(r#"{"length": 512, "pairs": 64}"#)?;
/// assert_eq!(segment, EvaluationSegment { length: 512, pairs: 64, examples: 1000 });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSegment {
    /// Tokens per example, L.
    pub length: usize,
    /// Pairs per example, K.
    pub pairs: usize,
    /// The number of examples.
    #[serde(default = "default_examples")]
    pub examples: usize,
}

/// Lengths and vocabularies end here: far beyond any use, and positions, tokens and scratch memory stay small.
const LARGEST: usize = 1 << 24;
/// A steeper law would give its least likely slots weights too small to represent.
const LARGEST_POWER: f64 = 2.0;
const DEFAULT_EXAMPLES: usize = 1000;

fn even_weight() -> f64 {
    1.0
}

fn default_examples() -> usize {
    DEFAULT_EXAMPLES
}

impl Default for MqarSettings {
    fn default() -> Self {
        Self {
            vocab: 8192,
            power_a: 0.01,
            filler: Filler::default(),
            compat: false,
            train: vec![TrainSegment { length: 64, pairs: 4, weight: 1.0, examples: None }],
            validation: None,
            test: None,
        }
    }
}

impl TaskSettings for MqarSettings {
    const INFO: TaskInfo = TaskInfo {
        kind: KIND,
        title: "Multi-query associative recall",
        doc: "A sequence states K pairs of a key and a value, then repeats every key once at scattered positions; at each \
              repeated key the model is to predict its value. What a model can recall is bounded by the size of its \
              state unless it attends to the pairs, so the score against pairs and state size tells sequence mixers \
              apart.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "8192",
                meaning: "size V of the vocabulary: keys are 1 … V/2−1, values V/2 … V−1, 0 is blank",
                range: "4 … 16777216, with at least pairs keys",
            },
            SettingInfo {
                key: "power_a",
                default: "0.01",
                meaning: "exponent a of the law j^(a−1) of the gap before a query: towards 0 queries crowd behind the \
                          pairs, 1 scatters them evenly",
                range: "above 0, at most 2",
            },
            SettingInfo {
                key: "filler",
                default: "\"disjoint\"",
                meaning: "what stands where nothing is asked: token 0, any token, or any token but the sequence's keys",
                range: "zero, random, disjoint",
            },
            SettingInfo {
                key: "compat",
                default: "false",
                meaning: "whether training goes through a fixed number of examples, segment by segment and never shuffled, \
                          as the authors' does",
                range: "false; true: vocab above every length, and every train segment states its examples",
            },
            SettingInfo {
                key: "train",
                default: "[{\"length\": 64, \"pairs\": 4, \"weight\": 1.0}]",
                meaning: "segments {length, pairs, weight, examples}; each batch is of one segment, chosen by weight \
                          (default 1); examples is a number to repeat (default: no end of fresh ones)",
                range: "length even, 4·pairs ≤ length ≤ 16777216, weight above 0; no segment twice",
            },
            SettingInfo {
                key: "validation",
                default: "null",
                meaning: "slices {length, pairs, examples} to choose by (examples: default 1000); null: the lengths and \
                          pairs of train",
                range: "as train, examples at least 1",
            },
            SettingInfo {
                key: "test",
                default: "null",
                meaning: "slices {length, pairs, examples} to report (examples: default 1000); null: the lengths and \
                          pairs of train",
                range: "as train, examples at least 1",
            },
        ],
        chance: "1 / (V − ⌊V/2⌋): an even guess among the values",
        source: "Arora, Eyuboglu et al. 2023, arXiv:2312.04927; the filler 'disjoint' is ours",
    };

    fn build(self) -> Result<Box<dyn Task>, TaskError> {
        Ok(Box::new(Mqar::new(self)?))
    }
}

impl MqarSettings {
    /// The slices of an evaluation split, those of training standing in for absent ones.
    pub(super) fn evaluation(&self, split: Split) -> Vec<EvaluationSegment> {
        let given = if split == Split::Test { &self.test } else { &self.validation };
        let of_train =
            |s: &TrainSegment| EvaluationSegment { length: s.length, pairs: s.pairs, examples: DEFAULT_EXAMPLES };
        given.clone().unwrap_or_else(|| self.train.iter().map(of_train).collect())
    }

    pub(super) fn check(&self) -> Result<(), TaskError> {
        require((4..=LARGEST).contains(&self.vocab), "vocab", format!("4 ≤ vocab ≤ {LARGEST}"), || {
            (
                format!("vocab {}", self.vocab),
                "a key and two values need 4 tokens; the published setting is 8192".to_owned(),
            )
        })?;
        check_power(self.power_a)?;
        let train: Vec<_> = self.train.iter().map(|s| (s.length, s.pairs)).collect();
        self.check_segments("train", &train)?;
        for (i, TrainSegment { weight, examples, .. }) in self.train.iter().enumerate() {
            require(*examples != Some(0), &format!("train[{i}].examples"), "1 ≤ examples", || {
                ("examples 0".to_owned(), "use at least 1 example, or leave it out for no end of them".to_owned())
            })?;
            require(
                weight.is_finite() && *weight > 0.0,
                &format!("train[{i}]"),
                "0 < weight < ∞".to_owned(),
                || (format!("weight {weight}"), "use a positive weight, or leave the segment out".to_owned()),
            )?;
        }
        let total: f64 = self.train.iter().map(|segment| segment.weight).sum();
        require(total.is_finite(), "train", "sum of the weights < ∞", || {
            (
                format!("the weights add up to {total}"),
                "use smaller weights; they count relative to each other".to_owned(),
            )
        })?;
        for (name, segments) in [("validation", &self.validation), ("test", &self.test)] {
            let Some(segments) = segments else { continue };
            self.check_segments(name, &segments.iter().map(|s| (s.length, s.pairs)).collect::<Vec<_>>())?;
            for (i, EvaluationSegment { examples, .. }) in segments.iter().enumerate() {
                require(*examples >= 1, &format!("{name}[{i}]"), "1 ≤ examples".to_owned(), || {
                    ("examples 0".to_owned(), "use at least 1 example, or leave the slice out".to_owned())
                })?;
            }
        }
        self.check_compat()
    }

    /// Refuses what the authors' training has not.
    fn check_compat(&self) -> Result<(), TaskError> {
        if !self.compat {
            return Ok(());
        }
        for (i, TrainSegment { examples, .. }) in self.train.iter().enumerate() {
            require(examples.is_some(), &format!("train[{i}].examples"), "with compat, 1 ≤ examples", || {
                (
                    "no examples".to_owned(),
                    "state how many there are, 100000 as published, or set compat to false".to_owned(),
                )
            })?;
        }
        for split in Split::ALL {
            let lengths: Vec<_> = match split {
                Split::Train => self.train.iter().map(|segment| segment.length).collect(),
                _ => self.evaluation(split).iter().map(|segment| segment.length).collect(),
            };
            let longest = lengths.into_iter().max().unwrap_or_default();
            require(longest < self.vocab, "vocab", "with compat, length < vocab", || {
                let remedy = format!("use a vocab above {longest}, 8192 as published, or set compat to false");
                (format!("vocab {}, length {longest} in {split}", self.vocab), remedy)
            })?;
        }
        Ok(())
    }

    fn check_segments(&self, name: &str, segments: &[(usize, usize)]) -> Result<(), TaskError> {
        require(!segments.is_empty(), name, "1 ≤ number of segments".to_owned(), || {
            let otherwise =
                if name == "train" { "" } else { ", or leave the setting out to use the segments of train" };
            ("the list is empty".to_owned(), format!("give at least one {{length, pairs}}{otherwise}"))
        })?;
        for (i, &(length, pairs)) in segments.iter().enumerate() {
            let setting = format!("{name}[{i}]");
            let found = || format!("pairs {pairs}, length {length}");
            require(pairs >= 1, &setting, "1 ≤ pairs".to_owned(), || (found(), "use at least 1 pair".to_owned()))?;
            require(length <= LARGEST, &setting, format!("length ≤ {LARGEST}"), || {
                (found(), format!("use a length of at most {LARGEST}"))
            })?;
            require(length % 2 == 0, &setting, "length even".to_owned(), || {
                (found(), format!("use a length of {} or {}", length - 1, length + 1))
            })?;
            require(pairs <= length / 4, &setting, "4·pairs ≤ length".to_owned(), || {
                let fewer = (length >= 4).then(|| format!("at most {} pairs", length / 4));
                let longer = pairs.checked_mul(4).filter(|least| *least <= LARGEST);
                let longer = longer.map(|least| format!("a length of at least {least}"));
                let ways: Vec<_> = fewer.into_iter().chain(longer).collect();
                (found(), format!("use {}", ways.join(" or ")))
            })?;
            let keys = self.vocab / 2 - 1;
            require(pairs <= keys, &setting, "pairs ≤ vocab/2 − 1".to_owned(), || {
                let remedy = format!("use at most {keys} pairs or a vocab of at least {}", 2 * (pairs + 1));
                (format!("pairs {pairs}, vocab {}", self.vocab), remedy)
            })?;
            let twin = segments[..i].iter().position(|earlier| *earlier == (length, pairs));
            require(twin.is_none(), &setting, "no segment twice".to_owned(), || {
                let twin = twin.unwrap_or_default();
                (
                    format!("{}, as in {name}[{twin}]", found()),
                    "leave one out and adapt the numbers of the other".to_owned(),
                )
            })?;
        }
        Ok(())
    }
}

/// Refuses an exponent of the slots' law that it cannot have.
pub(crate) fn check_power(power: f64) -> Result<(), TaskError> {
    require(power > 0.0 && power <= LARGEST_POWER, "power_a", format!("0 < power_a ≤ {LARGEST_POWER}"), || {
        (format!("power_a {power}"), "use 0.01 as published, or 1 to scatter the queries evenly".to_owned())
    })
}
