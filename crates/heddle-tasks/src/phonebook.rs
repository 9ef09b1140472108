//! Phonebook look-up: does a model find one entry of a long list?
//!
//! A sequence is a phonebook, entries of a name and a number, and ends with a name, behind which the model is to say the
//! number. Every entry looks alike and any may be asked for, so nothing can be left out: a state of fixed size runs out
//! as the book grows, attention does not. It is the [needle] task with nothing but needles.
//!
//! Source: Jelassi, Brandfonbrener, Kakade and Malach, "Repeat After Me: Transformers are Better than State Space Models
//! at Copying", arXiv:2402.01032; Waleffe et al., "An Empirical Study of Mamba-based Language Models", arXiv:2406.07887.
//! Theirs is English text for pretrained models; here it is tokens, for a model trained on it.
//!
//! # Layout
//! With length L, names of N tokens and numbers of D; `name_vocab` 8, `digit_vocab` 10, `length` 19, `name_tokens` 2,
//! `number_tokens` 2:
//!
//! ```text
//! position   0   1   2   3   4 │ 5   6   7   8   9 │10  11  12  13  14 │15  16  17  18
//! token     19   2   3  16   9 │19   1   3  16  14 │19   2   4  14  16 │20   2   4  14
//!           entry n₁   d₁      │entry n₂   d₂      │entry n₃   d₃      │query n₃   d₃
//! label                        │                   │                   │        14  16
//! evidence                     │                   │                   │        13  14
//! ```
//!
//! - An entry is 1 + N + D tokens: the token "entry", a name and a number. Names differ in at least one token and are
//!   otherwise uniform, so they share tokens; digits are independent and uniform.
//! - The book: as many entries as fit before the questions, ⌊(L − queries·(1 + N + D) + 1) / (1 + N + D)⌋, and blanks at
//!   random places between entries where there is room left.
//! - The questions: for each of `queries` names of the book, all different, the token "query", the name and its number.
//!   Each digit is asked at the token before it; its evidence is the same digit in the book. The last digit is asked for
//!   and not written.
//! - With a `depth`, the entries that are asked for stand side by side, in random order, behind the share `depth` of the
//!   others, rounded down to whole entries.
//!
//! Therefore 2·queries·(1 + N + D) − 1 ≤ L, and there are at least as many names as entries.
//!
//! # Vocabulary
//! Blank is 0; the tokens of names, the digits, "entry" and "query" follow.
//!
//! # Chance
//! 1/`digit_vocab` for each digit.

use serde::{Deserialize, Serialize};

use crate::alphabet::check_parts;
use crate::error::{require, require_between};
use crate::haystack::fewer_or_longer;
use crate::needle::{self, Haystack, Needle, key_space};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the phonebook task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::Value;
///
/// let task = TaskRegistry::builtin().build("phonebook", &Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let number: Vec<String> = example.labels.iter().map(|label| task.describe_token(label.target)).collect();
/// assert_eq!(number.len(), 7);
/// assert!(number.iter().all(|digit| digit.starts_with("digit ")));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Phonebook {
    /// The number of tokens that names are made of.
    pub name_vocab: usize,
    /// The number of digits that numbers are made of.
    pub digit_vocab: usize,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("phonebook", &json!({"train": [{"length": 256, "name_tokens": 2, "number_tokens": 7}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// // An entry is 1 + 2 + 7 tokens, and the question as long but for its last digit.
/// let entries = example.tokens.iter().filter(|token| task.describe_token(**token) == "entry").count();
/// assert_eq!(entries, (256 - 9) / 10);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Names that are asked for.
    #[serde(default = "one")]
    pub queries: usize,
    /// Tokens of a name, N.
    #[serde(default = "two")]
    pub name_tokens: usize,
    /// Digits of a number, D.
    #[serde(default = "seven")]
    pub number_tokens: usize,
    /// The share of the other entries that stands before those asked for; if absent, they stand anywhere.
    #[serde(default)]
    pub depth: Option<f64>,
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

fn seven() -> usize {
    7
}

impl Default for Phonebook {
    fn default() -> Self {
        Self { name_vocab: 512, digit_vocab: 10 }
    }
}

impl Phonebook {
    /// The same in the terms of needles.
    fn needles(&self) -> Needle {
        Needle { noise_vocab: 1, key_vocab: self.name_vocab, value_vocab: self.digit_vocab }
    }
}

impl Knobs {
    /// The number of entries, if there is room for those asked for.
    fn entries(&self) -> Result<usize, TaskError> {
        let Knobs { length, queries, name_tokens, number_tokens, .. } = *self;
        require(length <= LARGEST, "length", format!("length ≤ {LARGEST}"), || {
            (format!("length {length}"), format!("use a length of at most {LARGEST}"))
        })?;
        let numbers = [("queries", queries), ("name_tokens", name_tokens), ("number_tokens", number_tokens)];
        for (name, number) in numbers {
            require_between(number, name, 1, LARGEST)?;
        }
        // None of these is above 2²⁴, so the products stay in range.
        let width = 1 + name_tokens + number_tokens;
        let questions = queries * width - 1;
        let least = questions + queries * width;
        require(least <= length, "length", "2·queries·(1 + name_tokens + number_tokens) − 1 ≤ length", || {
            let numbers = numbers.map(|(name, number)| format!("{name} {number}")).join(", ");
            let fewer = "fewer queries or shorter names or numbers".to_owned();
            (format!("length {length}, {numbers}"), fewer_or_longer(Some(fewer), least as u128))
        })?;
        Ok((length - questions) / width)
    }
}

impl Recipe for Phonebook {
    const INFO: TaskInfo = TaskInfo {
        kind: "phonebook",
        title: "Phonebook look-up",
        doc: "A sequence lists names with their numbers and ends with one or several of the names, behind which the model \
              is to say the numbers, digit by digit. Any entry may be asked for, so a state of fixed size runs out as the \
              book grows, and attention does not.",
        settings: &[
            SettingInfo {
                key: "name_vocab",
                default: "512",
                meaning: "number of tokens that names are made of; they follow the blank, which is 0",
                range: "2 to 16777216",
            },
            SettingInfo {
                key: "digit_vocab",
                default: "10",
                meaning: "number of digits that numbers are made of; they follow the names, then come the two markers",
                range: "2 to 16777216",
            },
            train_setting(
                "[{\"length\": 256, \"queries\": 1, \"name_tokens\": 2, \"number_tokens\": 7, \"depth\": null, \
                 \"weight\": 1.0}]",
                "{length, queries (default 1), name_tokens (default 2), number_tokens (default 7), depth (0 to 1, or null: \
                 any)}: 2·queries·(1 + name_tokens + number_tokens) − 1 ≤ length ≤ 16777216, and as many names as entries",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / digit_vocab for each digit",
        source: "Jelassi et al. 2024, arXiv:2402.01032, and Waleffe et al. 2024, arXiv:2406.07887, with tokens in place of \
                 English text",
    };
    type Knobs = Knobs;
    type Plan = needle::Plan;
    type Scratch = needle::Scratch;

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 256, queries: one(), name_tokens: two(), number_tokens: seven(), depth: None }]
    }

    fn alphabet(&self) -> Alphabet {
        let [name, digit] = [self.name_vocab, self.digit_vocab].map(|size| size as u32);
        Alphabet::of([("blank", 1), ("name", name), ("digit", digit), ("entry", 1), ("query", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        check_parts([("name_vocab", self.name_vocab, 2), ("digit_vocab", self.digit_vocab, 2)], 3)
    }

    fn plan(&self, split: Split, knobs: &Knobs) -> Result<(Shape, needle::Plan), TaskError> {
        let entries = knobs.entries()?;
        let Knobs { length, queries, name_tokens, number_tokens, depth } = *knobs;
        key_space(("name_vocab", self.name_vocab), ("name_tokens", name_tokens), ("entries", entries))?;
        let needles = needle::Knobs {
            length,
            haystack: Haystack::Needles,
            keys: queries,
            values: 1,
            queries,
            key_digits: name_tokens,
            value_digits: number_tokens,
            depth,
        };
        self.needles().plan(split, &needles)
    }

    fn write(&self, plan: &needle::Plan, stream: &mut Stream, scratch: &mut needle::Scratch, out: &mut Example) {
        self.needles().write(plan, stream, scratch, out);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, build, examine, message};
    use crate::{Label, Task};

    /// The next digit for the name asked for last, looked up in a dictionary; names have 2 tokens and numbers D digits.
    fn oracle<const D: usize>(task: &dyn Task, tokens: &[u32]) -> u32 {
        let (entry, query) = (task.vocab() as u32 - 2, task.vocab() as u32 - 1);
        let Some(asked) = tokens.iter().rposition(|token| *token == query) else { return 0 };
        let Some(name) = tokens.get(asked + 1..asked + 3) else { return 0 };
        let entries = tokens.windows(3 + D).filter(|window| window[0] == entry);
        let book: HashMap<&[u32], &[u32]> = entries.map(|window| (&window[1..3], &window[3..])).collect();
        book.get(name).map_or(0, |number| number[(tokens.len() - asked - 3) % D])
    }

    #[test]
    fn it_is_what_it_says() {
        let small = |length, queries| json!({"length": length, "queries": queries, "number_tokens": 3});
        examine::<Phonebook>(&Examined {
            settings: json!({"name_vocab": 8, "train": [small(64, 1), small(45, 2)]}),
            at_length: |length| json!({"train": [{"length": length, "queries": 2, "number_tokens": 3}]}),
            golden: "36698d3098cb6b6e",
            oracle: oracle::<3>,
            guess: |_, stream| 9 + stream.below(10),
        });
    }

    #[test]
    fn the_example_of_the_documentation_is_the_programs() {
        let task = build(
            "phonebook",
            json!({
                "name_vocab": 8, "train": [{"length": 19, "number_tokens": 2}]
            }),
        );
        let mut example = Example::default();
        task.example(Split::Train, 0, 0, 0, &mut example);
        assert_eq!(example.tokens[..10], [19, 2, 3, 16, 9, 19, 1, 3, 16, 14]);
        assert_eq!(example.tokens[10..], [19, 2, 4, 14, 16, 20, 2, 4, 14]);
        let label = |(position, target, evidence)| Label { position, target, evidence };
        assert_eq!(example.labels, [(17, 14, 13), (18, 16, 14)].map(label));
        assert_eq!(
            [0, 1, 9, 19, 20].map(|token| task.describe_token(token)),
            ["blank", "name 0", "digit 0", "entry", "query"]
        );
    }

    #[test]
    fn any_entry_is_asked_for_with_the_same_probability_or_the_one_at_its_depth() {
        // 9 entries of 10 tokens before a question of 9.
        let task = build("phonebook", json!({"train": [{"length": 99}, {"length": 99, "depth": 0.5}]}));
        let (mut counts, mut example) = ([0; 9], Example::default());
        for index in 0..10_000 {
            task.example(Split::Test, 0, 0, index, &mut example);
            counts[example.labels[0].evidence as usize / 10] += 1;
            task.example(Split::Test, 1, 0, index, &mut example);
            assert_eq!(example.labels[0].evidence, 43);
        }
        assert!(chi_square_p_value(&counts, &[1.0 / 9.0; 9]) > 1e-6, "{counts:?}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let train = |knobs| message("phonebook", json!({"name_vocab": 8, "train": [knobs]}));
        assert_eq!(
            train(json!({"length": 38, "queries": 2})),
            "setting 'train[0].length': 2·queries·(1 + name_tokens + number_tokens) − 1 ≤ length fails (length 38, queries \
             2, name_tokens 2, number_tokens 7): use fewer queries or shorter names or numbers or a length of at least 39"
        );
        assert_eq!(
            train(json!({"length": 1024})),
            "setting 'train[0].name_tokens': number of entries ≤ name_vocab^name_tokens fails (101 entries, name_vocab 8, \
             name_tokens 2): use at least 3 name_tokens, a larger name_vocab or fewer entries"
        );
        assert_eq!(
            train(json!({"length": 1024, "name_tokens": 22})),
            "setting 'train[0].name_tokens': name_vocab^name_tokens ≤ 2^63 fails (name_vocab 8, name_tokens 22): use at \
             most 21 name_tokens"
        );
        assert_eq!(
            train(json!({"length": 64, "queries": 0})),
            "setting 'train[0].queries': 1 ≤ queries ≤ 16777216 fails (queries 0): use at least 1"
        );
        assert_eq!(
            train(json!({"length": 64, "depth": 2})),
            "setting 'train[0].depth': 0 ≤ depth ≤ 1 fails (depth 2): use 0 for the beginning, 1 for the end, or null for \
             any place"
        );
        for hostile in [usize::MAX, 1 << 63, 1 << 32, (1 << 24) + 1, 1 << 24] {
            for key in ["length", "queries", "name_tokens", "number_tokens"] {
                let mut knobs = json!({"length": 256});
                knobs[key] = json!(hostile);
                assert!(train(knobs).contains("fails"));
            }
        }
    }
}
