//! Fuzzy in-context recall: does a model take several tokens for one key, and several for one value?
//!
//! As [in-context recall](crate::in_context_recall), but keys and values are tuples of tokens, as names and phrases are in
//! text. In training their lengths vary; in evaluation every key has the greatest length, values still vary.
//!
//! Source: Poli, Thomas et al., "Mechanistic Design and Scaling of Hybrid Architectures", arXiv:2403.17844, section 3.1,
//! and their code (mad-lab, `fuzzy-in-context-recall` with several queries).
//!
//! # Layout
//! With `vocab` 12, `key_tokens` 2, `value_tokens` 2, `length` 20, in evaluation:
//!
//! ```text
//! position   0   1 │  2   3   4   5 │  6   7   8   9 │ 10  11  12 │ 13  14  15 │ 16  17  18  19
//! token     11  11 │  3   2  10   9 │  2   1   9   8 │  1   3   6 │  1   3   6 │  2   1   9   8
//!            blank │ key  a value a │ key  b value b │ key c val. │ key c val. │ key  b value b
//! label                                                                  6            9   8
//! evidence                                                              12            8   9
//! ```
//!
//! - K = `key_tokens` and W = `value_tokens` are the greatest lengths. The length of a key is K in evaluation and uniform
//!   over 1 … K in training, that of a value uniform over 1 … W. A tuple of a given length is uniform over all tuples of
//!   different tokens.
//! - The probe, a key and its value, is drawn first; it ends the sequence. Before it stand pairs, as long as one more of
//!   the greatest lengths would fit, and before them blanks. The probe is stated among the pairs: at the first pair that
//!   starts at or behind a place drawn evenly, unless a pair before it happens to have its key.
//! - A key has one value throughout the sequence. At its first sight the value is drawn, but for the probe's.
//! - One label for each token of a value whose key was seen before: at the token before it. The evidence is the same
//!   token of the value at the last sight of the key.
//!
//! Therefore 2·(K + W) ≤ L, K is at most the number of keys' tokens and W of values'.
//!
//! # Vocabulary
//! With n = `vocab` − 1:
//!
//! | token | role |
//! |---|---|
//! | 0 … ⌊n/2⌋ − 1 | tokens of keys |
//! | ⌊n/2⌋ … n − 1 | tokens of values |
//! | n | blank |
//!
//! # Loss
//! "all" (default, as published): every next token of a training sequence, most of which nothing determines; "answers":
//! those that are scored alone, keys of all lengths among them. Evaluation scores the answers.
//!
//! # Chance
//! 1/(n − ⌊n/2⌋): an even guess among the tokens of values.
//!
//! # Differences from the authors' data
//! - They cut the last token off, and put two blanks more in front. Here the last value stands in full.
//! - Their place of the probe's statement may lie so far back that the pairs end before it; then the sequence asks for what
//!   it never said. Here it is at most so far back that a pair always follows: below L − p − 2(K + W) + 2, for a probe of p
//!   tokens.
//! - Their noise between pairs, which no published setting uses, and their variant with a single query are not covered.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::error::{require, require_published};
use crate::in_context_recall::Loss;
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::sampling::Distinct;
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of fuzzy recall; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("fuzzy_recall", &serde_json::Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let last = example.labels.last().unwrap();
/// assert_eq!((last.position, last.target), (126, example.tokens[127]));
/// assert_eq!(example.tokens[last.evidence as usize], last.target);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FuzzyRecall {
    /// The vocabulary's size: tokens of keys, tokens of values, blank.
    pub vocab: usize,
    /// The greatest number of tokens of a key, K.
    pub key_tokens: usize,
    /// The greatest number of tokens of a value, W.
    pub value_tokens: usize,
    /// Which positions of a training sequence carry the loss.
    pub loss: Loss,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::TaskRegistry;
/// use serde_json::json;
///
/// // A key and a value of three tokens each, stated and asked for.
/// let error = TaskRegistry::builtin().build("fuzzy_recall", &json!({"train": [{"length": 10}]})).unwrap_err();
/// assert!(error.to_string().ends_with("use a length of at least 12 or shorter keys and values"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
}

impl Default for FuzzyRecall {
    fn default() -> Self {
        Self { vocab: 16, key_tokens: 3, value_tokens: 3, loss: Loss::default() }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    length: usize,
    /// The least number of tokens of a key.
    shortest_key: usize,
    loss: Loss,
}

/// Memory that a thread reuses.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Scratch {
    distinct: Distinct,
    probe_key: Vec<u32>,
    probe_value: Vec<u32>,
    key: Vec<u32>,
    value: Vec<u32>,
    sights: Sights,
}

/// Where each key of a sequence stood last: a hash table with open addressing, at most half full.
#[derive(Debug, Default)]
struct Sights {
    /// 1 + the position, or 0 where nothing is.
    table: Vec<u32>,
}

impl Sights {
    /// Forgets all keys and makes room for `keys` of them.
    fn clear(&mut self, keys: usize) {
        self.table.clear();
        self.table.resize((2 * keys).next_power_of_two(), 0);
    }

    /// Says that `key`, whose tokens all lie below `first_value`, stands at `position`; where it stood before.
    fn put(&mut self, key: &[u32], position: usize, tokens: &[u32], first_value: u32) -> Option<usize> {
        let mix =
            |hash: u64, token: &u32| (hash.rotate_left(5) ^ u64::from(*token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut place = (key.iter().fold(0, mix) >> 32) as usize;
        loop {
            place &= self.table.len() - 1;
            let found = (self.table[place] as usize).checked_sub(1);
            // A key ends where its value begins.
            let same = |at: &usize| tokens[*at..].starts_with(key) && tokens[at + key.len()] >= first_value;
            if found.as_ref().is_none_or(same) {
                self.table[place] = position as u32 + 1;
                return found;
            }
            place += 1;
        }
    }
}

impl FuzzyRecall {
    /// The numbers of tokens that keys and values are made of.
    fn parts(&self) -> [u32; 2] {
        let keys = (self.vocab as u32 - 1) / 2;
        [keys, self.vocab as u32 - 1 - keys]
    }

    /// Draws a tuple of `least` … `most` of `count` tokens from `first` on.
    fn tuple(
        (least, most): (u32, u32),
        (first, count): (u32, u32),
        stream: &mut Stream,
        distinct: &mut Distinct,
        tuple: &mut Vec<u32>,
    ) {
        let tokens = least + stream.below(most - least + 1);
        distinct.draw(count, tokens, stream, tuple);
        tuple.iter_mut().for_each(|token| *token += first);
    }
}

impl Recipe for FuzzyRecall {
    const INFO: TaskInfo = TaskInfo {
        kind: "fuzzy_recall",
        title: "Fuzzy in-context recall",
        doc: "A sequence is pairs of a key and a value, each of one or several tokens. The value of a key is the same \
              throughout the sequence and another one in the next; whenever a key is seen again, the model is to predict \
              its value token by token. Keys of all lengths occur in training, the longest alone in evaluation.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "16",
                meaning: "number of tokens: but for the last, which is blank, the lower half are for keys, the others for \
                          values",
                range: "5 to 16777216",
            },
            SettingInfo {
                key: "key_tokens",
                default: "3",
                meaning: "greatest number of tokens K of a key; in evaluation each has so many",
                range: "1 to ⌊(vocab − 1)/2⌋",
            },
            SettingInfo {
                key: "value_tokens",
                default: "3",
                meaning: "greatest number of tokens W of a value",
                range: "1 to ⌈(vocab − 1)/2⌉",
            },
            Loss::SETTING,
            train_setting("[{\"length\": 128, \"weight\": 1.0}]", "{length}: 2·(K + W) ≤ length ≤ 16777216"),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (n − ⌊n/2⌋) with n = vocab − 1: an even guess among the tokens of values",
        source: "Poli, Thomas et al. 2024, arXiv:2403.17844, section 3.1; the loss 'answers' is ours",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = Scratch;

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 128 }]
    }

    fn alphabet(&self) -> Alphabet {
        let [keys, values] = self.parts();
        Alphabet::of([("key", keys), ("value", values), ("blank", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require_published(self.vocab, "vocab", (5, LARGEST), 16)?;
        let [keys, values] = self.parts();
        for (name, tokens, count) in
            [("key_tokens", self.key_tokens, keys), ("value_tokens", self.value_tokens, values)]
        {
            let rule = format!("1 ≤ {name} ≤ {count}, the tokens it is made of");
            require((1..=count as usize).contains(&tokens), name, rule, || {
                let remedy = format!("use at most {count}, or a larger vocabulary; published are 3 and 16");
                (format!("{name} {tokens}, vocab {}", self.vocab), remedy)
            })?;
        }
        Ok(())
    }

    fn plan(&self, split: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let Knobs { length } = *knobs;
        let (most_key, most_value) = (self.key_tokens, self.value_tokens);
        let pair = most_key + most_value;
        require(length <= LARGEST, "length", format!("length ≤ {LARGEST}"), || {
            (format!("length {length}"), format!("use a length of at most {LARGEST}"))
        })?;
        require(2 * pair <= length, "length", "2·(key_tokens + value_tokens) ≤ length", || {
            let found = format!("key_tokens {most_key}, value_tokens {most_value}, length {length}");
            (found, format!("use a length of at least {} or shorter keys and values", 2 * pair))
        })?;
        let loss = self.loss.of(split);
        let shortest_key = if split == Split::Train { 1 } else { most_key };
        let labels = match loss {
            Loss::All => length - 1,
            // Values are the larger part of the sequence the shorter the keys are.
            Loss::Answers => length * most_value / (most_value + shortest_key) + most_value,
        };
        let [keys, values] = self.parts();
        // Two keys agree if their lengths do and then each of their tokens. Of the least number of pairs, two at most state
        // the probe in one of two sequences; it agrees once more.
        let (mut same, mut tuples) = (0.0, 0.0);
        for tokens in 1..=most_key {
            tuples += f64::from(keys - tokens as u32 + 1).log2();
            if tokens >= shortest_key {
                same += libm::exp2(-tuples);
            }
        }
        same /= ((most_key - shortest_key + 1) as f64).powi(2);
        let pairs = (length - pair) / pair - 1;
        let bits = pairs as f64 * -same.max(f64::MIN_POSITIVE).log2();
        let shape = Shape { length, labels: labels.min(length - 1), chance: 1.0 / f64::from(values), bits };
        Ok((shape, Plan { length, shortest_key, loss }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, scratch: &mut Scratch, out: &mut Example) {
        let Scratch { distinct, probe_key, probe_value, key, value, sights } = scratch;
        let [keys, values] = self.parts();
        let key_lengths = (plan.shortest_key as u32, self.key_tokens as u32);
        let value_lengths = (1, self.value_tokens as u32);
        Self::tuple(key_lengths, (0, keys), stream, distinct, probe_key);
        Self::tuple(value_lengths, (keys, values), stream, distinct, probe_value);
        let room = plan.length - probe_key.len() - probe_value.len();
        let longest = self.key_tokens + self.value_tokens;
        // So far from the end that a pair starts there or behind.
        let mut probe_from = Some(stream.below((room - longest).saturating_sub(longest - 1) as u32 + 1) as usize);
        sights.clear(plan.length / (1 + plan.shortest_key) + 1);
        let mut done = false;
        while !done {
            let start = out.tokens.len();
            done = start + longest > room;
            if done || probe_from.is_some_and(|from| start >= from) {
                key.clone_from(probe_key);
            } else {
                Self::tuple(key_lengths, (0, keys), stream, distinct, key);
            }
            if key == probe_key {
                probe_from = None;
            }
            out.tokens.extend_from_slice(key);
            if let Some(before) = sights.put(key, start, &out.tokens, keys) {
                let mut evidence = before + key.len();
                // A value ends where the next key begins.
                while evidence < start && out.tokens[evidence] >= keys {
                    let token = out.tokens[evidence];
                    out.ask(token, evidence as u32);
                    out.tokens.push(token);
                    evidence += 1;
                }
            } else if key == probe_key {
                out.tokens.extend_from_slice(probe_value);
            } else {
                Self::tuple(value_lengths, (keys, values), stream, distinct, value);
                out.tokens.extend_from_slice(value);
            }
        }
        let blanks = plan.length - out.tokens.len();
        out.tokens.resize(plan.length, keys + values);
        out.tokens.rotate_right(blanks);
        for label in &mut out.labels {
            label.position += blanks as u32;
            label.evidence += blanks as u32;
        }
        plan.loss.complete(out);
    }
}
