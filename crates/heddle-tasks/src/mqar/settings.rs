use serde::{Deserialize, Serialize};

use super::{KIND, Mqar};
use crate::error::require;
use crate::{SettingInfo, Split, Task, TaskError, TaskInfo, TaskSettings};

/// The settings of [`Mqar`].
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
    /// What training batches hold.
    pub train: Vec<TrainSegment>,
    /// What is evaluated to choose; if absent, every length and number of pairs of `train`, 1000 examples each.
    pub validation: Option<Vec<EvaluationSegment>>,
    /// What is evaluated to report; if absent, likewise.
    pub test: Option<Vec<EvaluationSegment>>,
}

/// What stands where nothing is asked; see the [module](super#filler).
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
}

/// One evaluation slice.
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
            train: vec![TrainSegment { length: 64, pairs: 4, weight: 1.0 }],
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
                key: "train",
                default: "[{\"length\": 64, \"pairs\": 4, \"weight\": 1.0}]",
                meaning: "segments {length, pairs, weight}; each batch is of one segment, chosen by weight (default 1)",
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
        for (i, TrainSegment { weight, .. }) in self.train.iter().enumerate() {
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
