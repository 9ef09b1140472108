//! Look-up by n-gram: can a model find a given stretch of a string and say what stands beside it?
//!
//! A string of random symbols holds an n-gram once. The n-gram is given, before the string or behind it, and the symbols
//! that follow it in the string (or those that precede it) are to be predicted. Given behind, the n-gram has to be
//! searched in what was read, which a state of fixed size cannot hold; given before, a state need only watch for it.
//! The difference between the two is the point of the task.
//!
//! Source: Jelassi, Brandfonbrener, Kakade and Malach, "Repeat After Me: Transformers are Better than State Space Models
//! at Copying", arXiv:2402.01032, section 3 ("prefix" and "suffix" look-up).
//!
//! # Layout
//! With length L, an n-gram of n symbols and an answer of k; `vocab` 10 (8 symbols), `key` "behind", `answer`
//! "following", `length` 14, `ngram` 2, `symbols` 2:
//!
//! ```text
//! position   0   1   2   3   4   5   6   7   8   9  10  11  12  13
//! token      8   4   5   5   4   6   3   3   4   0   9   4   5   5
//! label                                                      5   4
//! evidence                                                   3   4
//! ```
//!
//! - "behind": start, the string, look-up token, n-gram, answer. "before": start, n-gram, look-up token, string, look-up
//!   token, answer. The last symbol of the answer is only predicted, not given.
//! - The string takes what is left of L: m = L − n − k − 1, less 1 for "before". Strings of several lengths are slices
//!   of several lengths.
//! - The n-gram and the answer stand together at a place of the string; all such places are equally likely.
//! - The first symbol of the n-gram does not recur in it; apart from that its symbols are uniform. Therefore it cannot
//!   overlap itself. The others are uniform, but one that would complete the n-gram a second time is drawn among the
//!   symbols that do not.
//!
//! Therefore m ≥ n + k.
//!
//! # Vocabulary
//! | token | role |
//! |---|---|
//! | 0 … V − 3 | symbols |
//! | V − 2 | start |
//! | V − 1 | look-up |
//!
//! # Chance
//! 1/(V − 2): no symbol is favoured.
//!
//! # Differences from the authors' data
//! Their string is uniform and the n-gram one of its own, which may stand there more than once, the first sight being
//! meant; here it stands once, so that a string of any length determines the answer. They ask for what follows alone,
//! for the rest of the string or a given number of symbols, then for an end token; here the number is a knob and the end
//! is not asked. They pack several examples into a training sequence; here each has one.

use serde::{Deserialize, Serialize};

use crate::error::{require, require_between};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the look-up task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let settings = json!({"key": "before", "train": [{"length": 64, "ngram": 3, "symbols": 1}]});
/// let task = TaskRegistry::builtin().build("ngram_lookup", &settings)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let evidence = example.labels[0].evidence as usize;
/// assert_eq!(example.tokens[evidence - 3..evidence], example.tokens[1..4]);
/// assert_eq!(example.tokens[evidence], example.labels[0].target);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NgramLookup {
    /// The vocabulary's size, V: the symbols, start and look-up.
    pub vocab: usize,
    /// Where the n-gram is given.
    pub key: Key,
    /// What is asked.
    pub answer: Answer,
}

/// Where the n-gram is given.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("ngram_lookup", &json!({"key": "behind", "train": [{"length": 32}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// // The last three tokens are the n-gram, which stands in front of the answer in the string.
/// let evidence = example.labels[0].evidence as usize;
/// assert_eq!(example.tokens[evidence - 3..evidence], example.tokens[29..]);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// Before the string: prefix look-up.
    Before,
    /// Behind the string: suffix look-up.
    #[default]
    Behind,
}

/// Which symbols of the string are asked for.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("ngram_lookup", &json!({"answer": "preceding", "train": [{"length": 32}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let evidence = example.labels[0].evidence as usize;
/// assert_eq!(example.tokens[evidence + 1..evidence + 4], example.tokens[29..]);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Those behind the n-gram.
    #[default]
    Following,
    /// Those before it, from left to right.
    Preceding,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::TaskRegistry;
/// use serde_json::json;
///
/// let error = TaskRegistry::builtin().build("ngram_lookup", &json!({"train": [{"length": 12, "symbols": 4}]})).unwrap_err();
/// assert!(error.to_string().ends_with("use a length of at least 15, or a shorter n-gram or answer"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Symbols of the n-gram, n.
    #[serde(default = "three")]
    pub ngram: usize,
    /// Symbols of the answer, k.
    #[serde(default = "one")]
    pub symbols: usize,
}

fn three() -> usize {
    3
}

fn one() -> usize {
    1
}

impl Default for NgramLookup {
    fn default() -> Self {
        Self { vocab: 28, key: Key::default(), answer: Answer::default() }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    string: u32,
    ngram: u32,
    asked: u32,
}

impl Recipe for NgramLookup {
    const INFO: TaskInfo = TaskInfo {
        kind: "ngram_lookup",
        title: "N-gram look-up",
        doc: "A few consecutive symbols of a random string are given, before the string (prefix look-up) or behind it \
              (suffix look-up), and the model is to predict the symbols that follow them in the string, or those that \
              precede them. Given behind, they must be searched in all that was read, which a state of fixed size \
              cannot hold.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "28",
                meaning: "number of tokens V: V − 2 symbols, start and look-up",
                range: "4 to 16777216",
            },
            SettingInfo {
                key: "key",
                default: "\"behind\"",
                meaning: "where the n-gram is given: before the string (prefix look-up) or behind it (suffix look-up)",
                range: "before, behind",
            },
            SettingInfo {
                key: "answer",
                default: "\"following\"",
                meaning: "which symbols are asked for: those following the n-gram or those preceding it",
                range: "following, preceding",
            },
            train_setting(
                "[{\"length\": 32, \"ngram\": 3, \"symbols\": 1, \"weight\": 1.0}]",
                "{length, ngram (default 3), symbols (default 1)}: 1 ≤ ngram, 1 ≤ symbols, 2·ngram + 2·symbols + 1 ≤ \
                 length ≤ 16777216, 1 more for key \"before\"",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (V − 2): an even guess among the symbols",
        source: "Jelassi et al. 2024, arXiv:2402.01032; an n-gram that stands once, and `answer` \"preceding\", are ours",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = Vec<u32>;

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 32, ngram: 3, symbols: 1 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("symbol", self.vocab as u32 - 2), ("start", 1), ("look-up", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require_between(self.vocab, "vocab", 4, LARGEST)
    }

    fn plan(&self, _: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let Knobs { length, ngram, symbols } = *knobs;
        require_between(length, "length", 1, LARGEST)?;
        require_between(ngram, "ngram", 1, LARGEST)?;
        require_between(symbols, "symbols", 1, LARGEST)?;
        let around = 1 + usize::from(self.key == Key::Before);
        let least = 2 * (ngram + symbols) + around;
        require(least <= length, "length", format!("2·ngram + 2·symbols + {around} ≤ length"), || {
            let remedy = format!("use a length of at least {least}, or a shorter n-gram or answer");
            (format!("length {length}, ngram {ngram}, symbols {symbols}"), remedy)
        })?;
        let string = length - ngram - symbols - around;
        let size = self.vocab as f64 - 2.0;
        // Each symbol that is not the first of the n-gram has at least one symbol less to choose from.
        let bits = string as f64 * (size - 1.0).log2();
        let shape = Shape { length, labels: symbols, chance: 1.0 / size, bits };
        Ok((shape, Plan { string: string as u32, ngram: ngram as u32, asked: symbols as u32 }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, key: &mut Vec<u32>, out: &mut Example) {
        let symbols = self.vocab as u32 - 2;
        let (start, look_up) = (symbols, symbols + 1);
        let Plan { string, ngram, asked } = *plan;
        let head = stream.below(symbols);
        key.clear();
        key.push(head);
        key.extend((1..ngram).map(|_| other_than(head, symbols, stream)));
        let place = stream.below(string - ngram - asked + 1);

        out.tokens.push(start);
        if self.key == Key::Before {
            out.tokens.extend_from_slice(key);
            out.tokens.push(look_up);
        }
        let first = out.tokens.len() as u32;
        let (before, asked_at) = match self.answer {
            Answer::Following => (place, first + place + ngram),
            Answer::Preceding => (place + asked, first + place),
        };
        extend_without(key, before, symbols, stream, &mut out.tokens);
        out.tokens.extend_from_slice(key);
        extend_without(key, string - ngram - before, symbols, stream, &mut out.tokens);
        out.tokens.push(look_up);
        if self.key == Key::Behind {
            out.tokens.extend_from_slice(key);
        }
        for evidence in asked_at..asked_at + asked {
            let target = out.tokens[evidence as usize];
            out.ask(target, evidence);
            out.tokens.push(target);
        }
        out.tokens.pop();
    }
}

/// A uniform symbol other than this one.
fn other_than(symbol: u32, symbols: u32, stream: &mut Stream) -> u32 {
    let drawn = stream.below(symbols - 1);
    drawn + u32::from(drawn >= symbol)
}

/// Appends uniform symbols, none of which completes the key.
fn extend_without(key: &[u32], count: u32, symbols: u32, stream: &mut Stream, tokens: &mut Vec<u32>) {
    let (last, rest) = key.split_last().expect("a key has a symbol");
    for _ in 0..count {
        let drawn = stream.below(symbols);
        let completes = drawn == *last && tokens.ends_with(rest);
        tokens.push(if completes { other_than(drawn, symbols, stream) } else { drawn });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Task;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, build, examine, message, shows};

    /// Finds a key of three symbols, given where the settings of these tests say, and reads what is asked.
    fn oracle(tokens: &[u32], vocab: usize, key: Key, answer: Answer, asked: usize) -> u32 {
        let look_up = vocab as u32 - 1;
        let (string, wanted, given) = match key {
            Key::Behind => {
                let end = tokens.iter().rposition(|token| *token == look_up).unwrap_or(0);
                if tokens.len() < end + 4 {
                    return 0;
                }
                (&tokens[1.min(end)..end], &tokens[end + 1..end + 4], tokens.len() - end - 4)
            }
            Key::Before => {
                let end = tokens.iter().rposition(|token| *token == look_up).unwrap_or(0);
                (&tokens[5.min(end)..end], &tokens[1..4], tokens.len() - end - 1)
            }
        };
        let sight = string.windows(3).position(|window| window == wanted);
        let from = sight.map(|sight| match answer {
            Answer::Following => Some(sight + 3),
            Answer::Preceding => sight.checked_sub(asked),
        });
        from.flatten().and_then(|from| string.get(from + given)).copied().unwrap_or(0)
    }

    fn examined(key: Key, answer: Answer, golden: &'static str, read: fn(&dyn Task, &[u32]) -> u32) {
        let at_length: fn(usize) -> Value = match (key, answer) {
            (Key::Behind, Answer::Following) => |length| json!({"train": [{"length": length, "symbols": 2}]}),
            (Key::Before, Answer::Following) => {
                |length| json!({"key": "before", "train": [{"length": length, "symbols": 2}]})
            }
            _ => |length| json!({"answer": "preceding", "train": [{"length": length, "symbols": 2}]}),
        };
        let slices = json!([{"length": 16, "symbols": 2}, {"length": 40, "symbols": 2}]);
        let settings = json!({"vocab": 10, "key": key, "answer": answer, "train": slices});
        let guess = |_: &dyn Task, stream: &mut Stream| stream.below(8);
        examine::<NgramLookup>(&Examined { settings, at_length, golden, oracle: read, guess });
    }

    #[test]
    fn it_is_what_it_says() {
        examined(Key::Behind, Answer::Following, "719c438832fbe43a", |task, tokens| {
            oracle(tokens, task.vocab(), Key::Behind, Answer::Following, 2)
        });
    }

    #[test]
    fn so_it_is_with_the_key_before_the_string() {
        examined(Key::Before, Answer::Following, "eab2a62c72d948d4", |task, tokens| {
            oracle(tokens, task.vocab(), Key::Before, Answer::Following, 2)
        });
    }

    #[test]
    fn so_it_is_asked_for_what_precedes() {
        examined(Key::Behind, Answer::Preceding, "844c0c4f21f4accc", |task, tokens| {
            oracle(tokens, task.vocab(), Key::Behind, Answer::Preceding, 2)
        });
    }

    #[test]
    fn the_page_shows_an_example() {
        let settings = json!({"vocab": 10, "train": [{"length": 14, "ngram": 2, "symbols": 2}]});
        shows(include_str!("ngram_lookup.rs"), "ngram_lookup", settings);
    }

    #[test]
    fn the_key_stands_once_at_every_place_alike() {
        for (ngram, vocab) in [(1, 5), (2, 4), (4, 4)] {
            let string = 10 + ngram;
            let length = string + ngram + 2;
            // Drawn past the sharing out of the few sequences, which would favour the places of more of them.
            let recipe = NgramLookup { vocab, ..NgramLookup::default() };
            let (_, plan) = recipe.plan(Split::Train, &Knobs { length, ngram, symbols: 1 }).unwrap();
            let (mut counts, mut example, mut key) = (vec![0; 10], Example::default(), Vec::new());
            for index in 0..10_000 {
                example.clear();
                let mut stream = Stream::of_example("lookup", Split::Train, 0, 0, index);
                recipe.write(&plan, &mut stream, &mut key, &mut example);
                let (text, wanted) = (&example.tokens[1..=string], &example.tokens[string + 2..]);
                assert_eq!(text.windows(ngram).filter(|window| *window == wanted).count(), 1, "{:?}", example.tokens);
                counts[example.labels[0].evidence as usize - 1 - ngram] += 1;
            }
            assert!(chi_square_p_value(&counts, &[0.1; 10]) > 1e-6, "{counts:?}");
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let train = |knobs| message("ngram_lookup", json!({"train": [knobs]}));
        assert_eq!(
            train(json!({"length": 8, "ngram": 3})),
            "setting 'train[0].length': 2·ngram + 2·symbols + 1 ≤ length fails (length 8, ngram 3, symbols 1): use a \
             length of at least 9, or a shorter n-gram or answer"
        );
        assert_eq!(
            train(json!({"length": 32, "symbols": 0})),
            "setting 'train[0].symbols': 1 ≤ symbols ≤ 16777216 fails (symbols 0): use at least 1"
        );
        assert_eq!(
            message("ngram_lookup", json!({"vocab": 3})),
            "setting 'vocab': 4 ≤ vocab ≤ 16777216 fails (vocab 3): use at least 4"
        );
        for key in ["length", "ngram", "symbols"] {
            let mut knobs = json!({"length": 32});
            knobs[key] = json!(usize::MAX);
            assert!(train(knobs).starts_with(&format!("setting 'train[0].{key}'")), "{key}");
        }
        build("ngram_lookup", json!({"vocab": 4, "train": [{"length": 64, "ngram": 2}]}));
    }
}
