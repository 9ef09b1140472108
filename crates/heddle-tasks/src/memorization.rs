//! Memorization: how many facts does a model keep in its parameters?
//!
//! One map from keys to values holds for the whole run. A sequence is keys, each followed by an insert token, at which the
//! model is to predict the key's value. Nothing in the sequence says it: what is scored is what the parameters have
//! learned.
//!
//! Source: Poli, Thomas et al., "Mechanistic Design and Scaling of Hybrid Architectures", arXiv:2403.17844, section 3.1,
//! and their code (mad-lab, `memorization`).
//!
//! # Layout
//! With vocabulary V and length L; `vocab` 12, `length` 10:
//!
//! ```text
//! position   0   1   2   3   4   5   6   7   8   9
//! token      2  11   0  11   3  11   0  11   2  11
//! label          6       8       7       8       6
//! evidence       0       2       4       6       8
//! ```
//!
//! - L/2 keys, uniform with replacement, each before the insert token V − 1. One label at each insert token: the key's value.
//!   The evidence is the key.
//! - The map gives each key a value of its own, all such maps being equally likely. It is a function of the run's seed and
//!   of V alone: the same in training, validation and test, whatever the slice.
//!
//! Therefore L is even. Training and test hold the same facts, and sequences are not kept apart.
//!
//! # Vocabulary
//! With n = V − 1:
//!
//! | token | role |
//! |---|---|
//! | 0 … ⌊n/2⌋ − 1 | keys |
//! | ⌊n/2⌋ … n − 1 | values |
//! | n | insert |
//!
//! # Chance
//! 1/(n − ⌊n/2⌋): an even guess among the values, which is what an untrained model is worth.
//!
//! # Published settings
//! V 256 … 8192, length 32, 256 training examples that are repeated (`examples` in `train`).

use serde::{Deserialize, Serialize};

use crate::error::{require, require_published};
use crate::recipe::{LARGEST, Recipe, SHARED, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::sampling::Distinct;
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of memorization; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("memorization", &serde_json::Value::Null)?;
/// let value_of = |key, split| {
///     let mut example = Example::default();
///     (0..).find_map(|index| {
///         task.example(split, 0, 42, index, &mut example);
///         example.labels.iter().find(|label| example.tokens[label.evidence as usize] == key).map(|label| label.target)
///     })
/// };
/// assert_eq!(value_of(7, Split::Train), value_of(7, Split::Test));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memorization {
    /// The vocabulary's size, V: keys, values, the insert token.
    pub vocab: usize,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::{Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("memorization", &json!({"train": [{"length": 32}]}))?;
/// // Every second token is the insert token, at which a value is asked for.
/// assert_eq!(task.slices(Split::Train)[0].labels, 16);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
}

impl Default for Memorization {
    fn default() -> Self {
        Self { vocab: 256 }
    }
}

/// The map that a thread used last.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Facts {
    /// The seed and the number of keys that the map is of.
    of: Option<(u64, u32)>,
    /// The value of each key.
    values: Vec<u32>,
}

impl Facts {
    /// The values of so many keys that a seed decides, the values being as many or one more.
    fn learn(&mut self, seed: u64, keys: u32, values: u32) -> &[u32] {
        if self.of != Some((seed, keys)) || values != self.values.len() as u32 {
            let mut stream = Stream::common(Memorization::INFO.kind, seed);
            Distinct::default().draw(values, values, &mut stream, &mut self.values);
            self.values.iter_mut().for_each(|value| *value += keys);
            self.of = Some((seed, keys));
        }
        &self.values
    }
}

impl Memorization {
    /// The numbers of keys and values.
    fn parts(&self) -> [u32; 2] {
        let keys = (self.vocab as u32 - 1) / 2;
        [keys, self.vocab as u32 - 1 - keys]
    }
}

impl Recipe for Memorization {
    const INFO: TaskInfo = TaskInfo {
        kind: "memorization",
        title: "Memorization",
        doc: "One map from keys to values holds for the whole run. A sequence is keys, each followed by an insert token at \
              which the model is to predict the key's value; nothing in the sequence says it, so the model must have \
              learned the map. Training and test hold the same facts.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "256",
                meaning: "number of tokens: but for the last, which is the insert token, the lower half are keys, the \
                          others values",
                range: "5 to 16777216",
            },
            train_setting("[{\"length\": 32, \"weight\": 1.0}]", "{length}: even, 2 ≤ length ≤ 16777216"),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (n − ⌊n/2⌋) with n = vocab − 1: an even guess among the values",
        source: "Poli, Thomas et al. 2024, arXiv:2403.17844, section 3.1",
    };
    type Knobs = Knobs;
    type Plan = u32;
    type Scratch = Facts;

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 32 }]
    }

    fn alphabet(&self) -> Alphabet {
        let [keys, values] = self.parts();
        Alphabet::of([("key", keys), ("value", values), ("insert", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require((5..=LARGEST).contains(&self.vocab), "vocab", format!("5 ≤ vocab ≤ {LARGEST}"), || {
            (format!("vocab {}", self.vocab), "use 256 as published, or up to 8192".to_owned())
        })
    }

    fn plan(&self, _: Split, knobs: &Knobs) -> Result<(Shape, u32), TaskError> {
        let Knobs { length } = *knobs;
        require_published(length, "length", (2, LARGEST), 32)?;
        require(length % 2 == 0, "length", "length even", || {
            (format!("length {length}"), format!("use a length of {} or {}", length - 1, length + 1))
        })?;
        let [_, values] = self.parts();
        let shape = Shape { length, labels: length / 2, chance: 1.0 / f64::from(values), bits: SHARED };
        Ok((shape, length as u32 / 2))
    }

    fn write(&self, pairs: &u32, stream: &mut Stream, facts: &mut Facts, out: &mut Example) {
        let [keys, values] = self.parts();
        let value_of = facts.learn(stream.seed(), keys, values);
        for _ in 0..*pairs {
            let key = stream.below(keys);
            out.tokens.extend([key, keys + values]);
            let at = out.tokens.len() as u32 - 2;
            out.ask(value_of[key as usize], at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::sync::OnceLock;

    use serde_json::json;

    use super::*;
    use crate::Task;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, SEED, build, examine, message};

    /// What training says of every key.
    fn learned(task: &dyn Task, split: Split, seed: u64) -> HashMap<u32, u32> {
        let (mut facts, mut example) = (HashMap::new(), Example::default());
        for index in 0..200 {
            task.example(split, 0, seed, index, &mut example);
            for label in &example.labels {
                let key = example.tokens[label.evidence as usize];
                let before = facts.insert(key, label.target);
                assert!(before.is_none_or(|before| before == label.target), "{key} has two values");
            }
        }
        facts
    }

    #[test]
    fn it_is_what_it_says() {
        examine::<Memorization>(&Examined {
            settings: json!({"vocab": 12, "train": [{"length": 16}, {"length": 10}]}),
            at_length: |length| json!({"vocab": 12, "train": [{"length": length}]}),
            golden: "566ccf5c79fb730f",
            oracle: |_, tokens| {
                static FACTS: OnceLock<HashMap<u32, u32>> = OnceLock::new();
                let facts = FACTS.get_or_init(|| {
                    let task = build("memorization", json!({"vocab": 12, "train": [{"length": 16}]}));
                    learned(task.as_ref(), Split::Train, SEED)
                });
                let key = tokens.len().checked_sub(2).and_then(|at| facts.get(&tokens[at]));
                key.copied().unwrap_or(0)
            },
            guess: |_, stream| 5 + stream.below(6),
        });
    }

    #[test]
    fn the_map_hangs_on_the_seed_and_on_neither_split_nor_slice() {
        let settings = |length| json!({"vocab": 64, "train": [{"length": length}]});
        let task = build("memorization", settings(32));
        let facts = learned(task.as_ref(), Split::Train, 7);
        assert_eq!(facts.len(), 31, "every key was seen");
        assert_eq!(facts.values().collect::<HashSet<_>>().len(), 31, "every key has a value of its own");
        assert!(facts.values().all(|value| (31..63).contains(value)));
        assert_eq!(facts, learned(task.as_ref(), Split::Test, 7));
        assert_eq!(facts, learned(task.as_ref(), Split::Validation, 7));
        assert_eq!(facts, learned(build("memorization", settings(128)).as_ref(), Split::Train, 7));
        assert_ne!(facts, learned(task.as_ref(), Split::Train, 8));
    }

    #[test]
    fn all_maps_are_equally_likely_and_so_are_all_keys() {
        let task = build("memorization", json!({"vocab": 8, "train": [{"length": 32}]}));
        let (mut maps, mut keys, mut example) = (vec![0; 16], vec![0; 3], Example::default());
        for seed in 0..3000 {
            task.example(Split::Train, 0, seed, 0, &mut example);
            example.tokens.iter().step_by(2).for_each(|key| keys[*key as usize] += 1);
            let value = |key: u32| {
                let of_key = |label: &&crate::Label| example.tokens[label.evidence as usize] == key;
                example.labels.iter().find(of_key).map(|label| label.target as usize - 3)
            };
            if let (Some(a), Some(b)) = (value(0), value(1)) {
                maps[4 * a + b] += 1;
            }
        }
        let pairs: Vec<u64> = (0..16).filter(|pair| pair / 4 != pair % 4).map(|pair| maps[pair]).collect();
        assert!(chi_square_p_value(&pairs, &[1.0 / 12.0; 12]) > 1e-6, "{maps:?}");
        assert!(chi_square_p_value(&keys, &[1.0 / 3.0; 3]) > 1e-6, "{keys:?}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        assert_eq!(
            message("memorization", json!({"train": [{"length": 31}]})),
            "setting 'train[0].length': length even fails (length 31): use a length of 30 or 32"
        );
        assert_eq!(
            message("memorization", json!({"train": [{"length": usize::MAX}]})),
            "setting 'train[0].length': 2 ≤ length ≤ 16777216 fails (length 18446744073709551615): use 32 as published"
        );
        assert_eq!(
            message("memorization", json!({"vocab": 4})),
            "setting 'vocab': 5 ≤ vocab ≤ 16777216 fails (vocab 4): use 256 as published, or up to 8192"
        );
    }
}
