//! Common words: can a model tell what occurs often in a long list from what occurs rarely?
//!
//! A shuffled list holds ten words often and all others rarely; the ten are to be named. No single position gives the
//! answer: it is a count over the whole list.
//!
//! Source: Hsieh et al., "RULER: What's the Real Context Size of Your Long-Context Language Models?", arXiv:2404.06654,
//! section 3, task CWE (10 words 30 times, all others 3 times).
//!
//! # Layout
//! With length L and W common words; `vocab` 12, `length` 12, `words` 2, `common` 3, `rare` 1:
//!
//! ```text
//! position   0   1   2   3   4   5   6   7   8   9  10  11
//! token      5   5   8   6  10   8   2   1   5   8  11   5
//! label                                              5   8
//! evidence                                           8   9
//! ```
//!
//! - The list: W words `common` times each, and as many others `rare` times each as the length asks for, the last of
//!   them less often where it does not come out even. All words are distinct draws, and all orders of the list are
//!   equally likely.
//! - The query token, and the common words; the last is only predicted, not given.
//!
//! The list has L − W tokens, so W·common ≤ L − W, and W + ⌈(L − W − W·common)/rare⌉ ≤ V − 1.
//!
//! # Order of the answers and their evidence
//! The answers are all right in any order where a text is matched; where the next token is scored, an order must be told.
//! It is that of their first sight in the list, which the list itself tells. The target hangs on every sight of its word;
//! as everywhere, the evidence is the last of them.
//!
//! # Vocabulary
//! Words 0 … V − 2, then the query token.
//!
//! # Chance
//! 1/(V − 1): an even guess among all words.
//!
//! # Differences from the source
//! There the words are English in a numbered list, behind an example that is solved.

use serde::{Deserialize, Serialize};

use crate::error::{require, require_between};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::sampling::{Distinct, shuffle};
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the common words task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("common_words", &serde_json::Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let list = &example.tokens[..example.labels[0].position as usize];
/// assert_eq!(list.iter().filter(|word| **word == example.labels[0].target).count(), 30);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommonWords {
    /// The vocabulary's size, V: the words and the query token.
    pub vocab: usize,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::TaskRegistry;
/// use serde_json::json;
///
/// // Ten words thirty times, and once more as answers.
/// let error = TaskRegistry::builtin().build("common_words", &json!({"train": [{"length": 100}]})).unwrap_err();
/// assert!(error.to_string().ends_with("use a length of at least 310, or fewer or less common words"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Common words, W.
    #[serde(default = "ten")]
    pub words: usize,
    /// How often each of them stands in the list.
    #[serde(default = "thirty")]
    pub common: usize,
    /// How often every other word does.
    #[serde(default = "three")]
    pub rare: usize,
}

fn ten() -> usize {
    10
}

fn thirty() -> usize {
    30
}

fn three() -> usize {
    3
}

impl Default for CommonWords {
    fn default() -> Self {
        Self { vocab: 512 }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    list: u32,
    words: u32,
    common: u32,
    rare: u32,
    others: u32,
}

impl Recipe for CommonWords {
    const INFO: TaskInfo = TaskInfo {
        kind: "common_words",
        title: "Common words",
        doc: "A shuffled list holds a few words often and all others rarely; the model is to name the common ones, in the \
              order in which each was first seen. No single position gives the answer: it is a count over the whole \
              list.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "512",
                meaning: "number of tokens V: V − 1 words and the query token",
                range: "3 to 16777216",
            },
            train_setting(
                "[{\"length\": 1024, \"words\": 10, \"common\": 30, \"rare\": 3, \"weight\": 1.0}]",
                "{length, words (default 10), common (default 30), rare (default 3)}: rare < common, \
                 words·(common + 1) ≤ length ≤ 16777216, words + ⌈(length − words·(common + 1))/rare⌉ ≤ vocab − 1",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (V − 1): an even guess among all words",
        source: "Hsieh et al. 2024, arXiv:2404.06654, task CWE, in tokens; the answers in the order of first sight",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = (Distinct, Vec<u32>, Vec<(u32, u32, u32)>);

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 1024, words: 10, common: 30, rare: 3 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("word", self.vocab as u32 - 1), ("query", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require_between(self.vocab, "vocab", 3, LARGEST)
    }

    fn plan(&self, _: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let Knobs { length, words, common, rare } = *knobs;
        require_between(length, "length", 1, LARGEST)?;
        require_between(words, "words", 1, LARGEST)?;
        require_between(common, "common", 2, LARGEST)?;
        require_between(rare, "rare", 1, common - 1)?;
        let least = words as u64 * (common as u64 + 1);
        require(least <= length as u64, "length", "words·(common + 1) ≤ length", || {
            let found = format!("length {length}, words {words}, common {common}");
            (found, format!("use a length of at least {least}, or fewer or less common words"))
        })?;
        let others = (length - least as usize).div_ceil(rare);
        require(words + others < self.vocab, "length", "words + others ≤ vocab − 1", || {
            let found = format!("length {length}, words {words}, others {others}, vocab {}", self.vocab);
            (found, format!("use a vocab of at least {}, a shorter length or a larger `rare`", words + others + 1))
        })?;
        // Only the choice of the words counts here; the orders of the list come on top.
        let bits = (0..words + others).map(|taken| ((self.vocab - 1 - taken) as f64).log2()).sum::<f64>()
            - (1..=words).chain(1..=others).map(|n| (n as f64).log2()).sum::<f64>();
        let shape = Shape { length, labels: words, chance: 1.0 / (self.vocab as f64 - 1.0), bits };
        let list = (length - words) as u32;
        let [words, common, rare, others] = [words, common, rare, others].map(|n| n as u32);
        Ok((shape, Plan { list, words, common, rare, others }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, scratch: &mut Self::Scratch, out: &mut Example) {
        let (distinct, drawn, sights) = scratch;
        let Plan { list, words, common, rare, others } = *plan;
        let query = self.vocab as u32 - 1;
        distinct.draw(query, words + others, stream, drawn);
        // Sorted by word, so that a sight is counted in a few steps.
        drawn[..words as usize].sort_unstable();
        let (asked, other) = drawn.split_at(words as usize);
        let often = |words: &[u32], times: u32, out: &mut Vec<u32>| {
            words.iter().for_each(|word| out.extend((0..times).map(|_| *word)));
        };
        often(asked, common, &mut out.tokens);
        often(other, rare, &mut out.tokens);
        out.tokens.truncate(list as usize);
        shuffle(&mut out.tokens, stream);

        sights.clear();
        sights.extend(asked.iter().map(|word| (u32::MAX, 0, *word)));
        for (position, token) in (0..).zip(&out.tokens) {
            if let Ok(number) = asked.binary_search(token) {
                let (first, last, _) = &mut sights[number];
                *first = position.min(*first);
                *last = position;
            }
        }
        sights.sort_unstable();
        out.tokens.push(query);
        for (_, last, word) in sights.iter() {
            out.ask(*word, *last);
            out.tokens.push(*word);
        }
        out.tokens.pop();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;
    use crate::Task;
    use crate::testing::{Examined, examine_counting, message, shows};

    /// The next by first sight of the words that stand in the list more than half as often as the most common one.
    fn oracle(task: &dyn Task, tokens: &[u32]) -> u32 {
        let query = task.vocab() as u32 - 1;
        let end = tokens.iter().rposition(|token| *token == query).unwrap_or(0);
        let mut counts = HashMap::new();
        tokens[..end].iter().for_each(|word| *counts.entry(*word).or_insert(0) += 1);
        let half = counts.values().max().unwrap_or(&0) / 2;
        let mut seen = Vec::new();
        for word in &tokens[..end] {
            if counts[word] > half && !seen.contains(word) {
                seen.push(*word);
            }
        }
        seen.get(tokens.len() - end - 1).copied().unwrap_or(0)
    }

    #[test]
    fn it_is_what_it_says() {
        examine_counting::<CommonWords>(&Examined {
            settings: json!({"vocab": 64, "train": [
                {"length": 64, "words": 4, "common": 8, "rare": 2},
                {"length": 90, "words": 10, "common": 4, "rare": 1},
            ]}),
            at_length: |length| {
                let common = length / 8;
                json!({"train": [{"length": length, "words": 4, "common": common, "rare": common / 4}]})
            },
            golden: "78cddc97da026f9b",
            oracle,
            guess: |_, stream| stream.below(63),
        });
    }

    #[test]
    fn the_page_shows_an_example() {
        let train = json!([{"length": 12, "words": 2, "common": 3, "rare": 1}]);
        shows(include_str!("common_words.rs"), "common_words", json!({"vocab": 12, "train": train}));
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let train = |knobs| message("common_words", json!({"train": [knobs]}));
        assert_eq!(
            train(json!({"length": 309})),
            "setting 'train[0].length': words·(common + 1) ≤ length fails (length 309, words 10, common 30): use a \
             length of at least 310, or fewer or less common words"
        );
        assert_eq!(
            train(json!({"length": 2048})),
            "setting 'train[0].length': words + others ≤ vocab − 1 fails (length 2048, words 10, others 580, vocab \
             512): use a vocab of at least 591, a shorter length or a larger `rare`"
        );
        assert_eq!(
            train(json!({"length": 1024, "rare": 30})),
            "setting 'train[0].rare': 1 ≤ rare ≤ 29 fails (rare 30): use at most 29"
        );
        for key in ["length", "words", "common", "rare"] {
            for number in [0, usize::MAX] {
                let mut knobs = json!({"length": 1024});
                knobs[key] = json!(number);
                assert!(train(knobs).starts_with(&format!("setting 'train[0].{key}'")), "{key}");
            }
        }
    }
}
