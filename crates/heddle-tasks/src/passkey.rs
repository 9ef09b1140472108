//! Passkey retrieval: does a model find one number in noise, wherever it stands?
//!
//! Somewhere in noise a marker stands, followed by the digits of a key. The sequence ends with the marker again, and the
//! model is to say the digits, one after the other. Nothing else in the sequence matters, so the task measures how far
//! back, and at which depths, a model can still read.
//!
//! Source: Mohtashami and Jaggi, "Landmark Attention: Random-Access Infinite Context Length for Transformers",
//! arXiv:2305.16300, section 4.2, where the task is English text for a pretrained model. Here it is tokens, for a model
//! trained on it.
//!
//! # Layout
//! With length L, D digits; `noise_vocab` 16, `digit_vocab` 10, `length` 14, `digits` 3:
//!
//! ```text
//! position   0   1   2 │ 3   4   5   6 │ 7   8   9  10 │11  12  13
//! token      7   9   1 │26  25  21  19 │ 7  11   6  13 │26  25  21
//! label                │               │               │25  21  19
//! evidence             │               │               │ 4   5   6
//! ```
//!
//! - The haystack, positions 0 … L − D − 1: the marker and the digits, at any place with the same probability, or, where
//!   `depth` is given, behind the share `depth` of the noise, rounded to whole tokens. All other tokens are uniform
//!   noise.
//! - The question: the marker at L − D, then all digits but the last, which has been asked for by then. Each digit is
//!   asked at the token before it; its evidence is the same digit in the haystack.
//!
//! Therefore 2·digits + 1 ≤ L.
//!
//! # Vocabulary
//! Noise is 0 … `noise_vocab` − 1, digits follow, the marker is last.
//!
//! # Chance
//! 1/`digit_vocab` for each digit, the digits being independent and uniform.

use serde::{Deserialize, Serialize};

use crate::alphabet::check_parts;
use crate::error::require;
use crate::haystack::{Source, check_depth, fewer_or_longer, start_at};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the passkey task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let settings = json!({"train": [{"length": 64}], "test": [{"length": 1024, "depth": 0.5}]});
/// let task = TaskRegistry::builtin().build("passkey", &settings)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// assert_eq!(example.labels.len(), 5);
/// assert_eq!(example.labels[0].evidence, 508);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Passkey {
    /// The number of noise tokens.
    pub noise_vocab: usize,
    /// The number of digits to choose from.
    pub digit_vocab: usize,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("passkey", &json!({"train": [{"length": 64, "digits": 3, "depth": 0.0}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// // The marker stands first, and then the key.
/// assert_eq!(example.labels.iter().map(|label| label.evidence).collect::<Vec<_>>(), [1, 2, 3]);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Digits of the key, D.
    #[serde(default = "five")]
    pub digits: usize,
    /// The share of the noise that stands before the key; if absent, any.
    #[serde(default)]
    pub depth: Option<f64>,
}

fn five() -> usize {
    5
}

impl Default for Passkey {
    fn default() -> Self {
        Self { noise_vocab: 53, digit_vocab: 10 }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    length: u32,
    digits: u32,
    depth: Option<f64>,
}

impl Recipe for Passkey {
    const INFO: TaskInfo = TaskInfo {
        kind: "passkey",
        title: "Passkey retrieval",
        doc: "A marker and the digits of a key stand somewhere in noise, and the marker again at the end; the model is to \
              say the digits. It measures how far back, and at which depths of the sequence, a model can still read.",
        settings: &[
            SettingInfo {
                key: "noise_vocab",
                default: "53",
                meaning: "number of noise tokens; they come first in the vocabulary",
                range: "1 to 16777216",
            },
            SettingInfo {
                key: "digit_vocab",
                default: "10",
                meaning: "number of digits to choose from; they follow the noise, and the marker follows them",
                range: "2 to 16777216",
            },
            train_setting(
                "[{\"length\": 256, \"digits\": 5, \"depth\": null, \"weight\": 1.0}]",
                "{length, digits (default 5), depth (default null: any)}: 2·digits + 1 ≤ length ≤ 16777216, 0 ≤ depth ≤ 1",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / digit_vocab for each digit",
        source: "Mohtashami & Jaggi 2023, arXiv:2305.16300, section 4.2, with tokens in place of English text",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = ();

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 256, digits: five(), depth: None }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("noise", self.noise_vocab as u32), ("digit", self.digit_vocab as u32), ("marker", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        check_parts([("noise_vocab", self.noise_vocab, 1), ("digit_vocab", self.digit_vocab, 2)], 1)
    }

    fn plan(&self, _: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let Knobs { length, digits, depth } = *knobs;
        require(length <= LARGEST, "length", format!("length ≤ {LARGEST}"), || {
            (format!("length {length}"), format!("use a length of at most {LARGEST}"))
        })?;
        require(digits >= 1, "digits", "1 ≤ digits", || ("digits 0".to_owned(), "use at least 1 digit".to_owned()))?;
        require(digits < length.div_ceil(2), "digits", "2·digits + 1 ≤ length", || {
            let fewer = (length >= 3).then(|| format!("at most {} digits", (length - 1) / 2));
            (format!("digits {digits}, length {length}"), fewer_or_longer(fewer, 2 * digits as u128 + 1))
        })?;
        check_depth(depth)?;
        let noise = (length - 2 * digits - 1) as f64 * Source::noise(self.noise_vocab as u32).bits();
        let base = self.digit_vocab as f64;
        let shape = Shape { length, labels: digits, chance: 1.0 / base, bits: noise + digits as f64 * base.log2() };
        Ok((shape, Plan { length: length as u32, digits: digits as u32, depth }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, (): &mut (), out: &mut Example) {
        let Plan { length, digits, depth } = *plan;
        let (first_digit, base) = (self.noise_vocab as u32, self.digit_vocab as u32);
        let marker = first_digit + base;
        let haystack = length - digits;
        let start = match depth {
            None => stream.below(haystack - digits),
            Some(depth) => start_at(depth, digits + 1, haystack),
        };
        let mut noise = Source::noise(first_digit);
        noise.fill(start, stream, &mut out.tokens);
        out.tokens.push(marker);
        out.tokens.extend((0..digits).map(|_| first_digit + stream.below(base)));
        noise.fill(haystack, stream, &mut out.tokens);
        out.tokens.push(marker);
        for evidence in start + 1..=start + digits {
            let digit = out.tokens[evidence as usize];
            out.ask(digit, evidence);
            out.tokens.push(digit);
        }
        out.tokens.pop();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, build, examine, message};

    /// The digit that follows the first marker as far behind as the question's tokens are behind the last.
    fn oracle(tokens: &[u32], marker: u32) -> u32 {
        let at = |found: Option<usize>| found.unwrap_or_default();
        let first = at(tokens.iter().position(|token| *token == marker));
        let last = at(tokens.iter().rposition(|token| *token == marker));
        tokens.get(first + tokens.len() - last).copied().unwrap_or_default()
    }

    #[test]
    fn it_is_what_it_says() {
        examine::<Passkey>(&Examined {
            settings: json!({"train": [{"length": 32}, {"length": 11}, {"length": 40, "digits": 2, "depth": 0.25}]}),
            at_length: |length| json!({"train": [{"length": length}]}),
            golden: "aa73bd36b6235de9",
            oracle: |task, tokens| oracle(tokens, task.vocab() as u32 - 1),
            guess: |_, stream| 53 + stream.below(10),
        });
    }

    #[test]
    fn the_example_of_the_documentation_is_the_programs() {
        let train = json!([{"length": 14, "digits": 3}]);
        let task = build("passkey", json!({"noise_vocab": 16, "train": train}));
        let mut example = Example::default();
        task.example(Split::Train, 0, 0, 0, &mut example);
        assert_eq!(example.tokens, [7, 9, 1, 26, 25, 21, 19, 7, 11, 6, 13, 26, 25, 21]);
        let label = |(position, target, evidence)| crate::Label { position, target, evidence };
        assert_eq!(example.labels, [(11, 25, 4), (12, 21, 5), (13, 19, 6)].map(label));
        assert_eq!([15, 25, 26].map(|token| task.describe_token(token)), ["noise 15", "digit 9", "marker"]);
    }

    #[test]
    fn the_key_stands_at_its_depth_or_anywhere() {
        let first = |task: &dyn crate::Task, slice, index| {
            let mut example = Example::default();
            task.example(Split::Test, slice, 0, index, &mut example);
            example.tokens.iter().position(|token| *token == 63).unwrap()
        };
        // A haystack of 30 tokens holds a key of 3, so 27 of noise.
        let at = |depth| json!({"length": 32, "digits": 2, "depth": depth});
        let task = build("passkey", json!({"train": [at(json!(0)), at(json!(0.5)), at(json!(1.0)), at(json!(null))]}));
        for index in 0..20 {
            assert_eq!([0, 1, 2].map(|slice| first(task.as_ref(), slice, index)), [0, 14, 27]);
        }
        let mut counts = [0; 28];
        (0..20_000).for_each(|index| counts[first(task.as_ref(), 3, index)] += 1);
        assert!(chi_square_p_value(&counts, &[1.0 / 28.0; 28]) > 1e-6, "{counts:?}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let train = |knobs| message("passkey", json!({"train": [knobs]}));
        assert_eq!(
            train(json!({"length": 10})),
            "setting 'train[0].digits': 2·digits + 1 ≤ length fails (digits 5, length 10): use at most 4 digits or a \
             length of at least 11"
        );
        assert_eq!(
            train(json!({"length": 0, "digits": usize::MAX})),
            format!(
                "setting 'train[0].digits': 2·digits + 1 ≤ length fails (digits {}, length 0): use smaller numbers and a \
                 longer sequence",
                usize::MAX
            )
        );
        assert_eq!(
            train(json!({"length": 64, "depth": 1.5})),
            "setting 'train[0].depth': 0 ≤ depth ≤ 1 fails (depth 1.5): use 0 for the beginning, 1 for the end, or null \
             for any place"
        );
        assert_eq!(
            message("passkey", json!({"digit_vocab": 1})),
            "setting 'digit_vocab': 2 ≤ digit_vocab ≤ 16777216 fails (digit_vocab 1): use at least 2"
        );
        assert_eq!(
            message("passkey", json!({"noise_vocab": 1 << 24, "digit_vocab": 16})),
            "setting 'noise_vocab': all tokens together ≤ 16777216 fails (16777233 tokens): use a noise_vocab smaller by \
             at least 17"
        );
    }
}
