//! Selective copying: does a model keep what matters and forget what does not, however much of that there is?
//!
//! Data tokens stand scattered among blanks; at the end the model is to repeat them in their order. A convolution learns to
//! copy from fixed distances, but here the distances vary from sequence to sequence: what is kept must depend on what is
//! read. That is what the selection of Mamba is for.
//!
//! Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752, section 4.1.1
//! and appendix E.1, without published code; Poli, Thomas et al., "Mechanistic Design and Scaling of Hybrid
//! Architectures", arXiv:2403.17844, section 3.1, and their code (mad-lab, `selective-copying`).
//!
//! # Layout
//! With C = `tokens` and length L; `vocab` 8, `length` 12, `tokens` 3, `layout` "mad":
//!
//! ```text
//! position   0   1   2   3   4   5   6   7 │  8 │  9  10  11
//! token      6   4   6   6   4   6   6   3 │  7 │  6   6   6
//! label                                            4   4   3
//! evidence                                         1   4   7
//! ```
//!
//! and `layout` "mamba":
//!
//! ```text
//! position   0   1   2   3   4   5   6   7   8 │  9  10  11
//! token      6   1   6   6   5   6   6   6   4 │  7   7   7
//! label                                           1   5   4
//! evidence                                        1   4   8
//! ```
//!
//! - The data: C tokens, uniform over V − 2.
//! - "mad": L − 2C − 1 blanks, each put before a data token that is drawn evenly, then the copy token, then C blanks, at
//!   which the data are asked for in their order. So the last of the data always stands before the copy token.
//! - "mamba": the data stand at C of the first L − C places, all choices being equally likely; the other places hold
//!   blanks. Then come C copy tokens, at which the data are asked for in their order.
//! - The evidence of each answer is the data token.
//!
//! Therefore 2C + 1 ≤ L for "mad", 2C ≤ L for "mamba". Training has the loss on the answers alone, as published.
//!
//! # Vocabulary
//! | token | role |
//! |---|---|
//! | 0 … V − 3 | data |
//! | V − 2 | blank |
//! | V − 1 | copy |
//!
//! # Chance
//! 1/(V − 2).
//!
//! # Published settings
//! Mamba's authors: V 16 with the blank, 16 data tokens, length 4096. They state neither how answers are asked for nor
//! whether the length counts them; the layout here is that of the copying task of their earlier work (S4's code), and the
//! length counts everything. The authors of MAD: V 16, length 256, 16 data tokens, and harder.
//!
//! # Differences from the authors' data
//! MAD's blanks come from a generator without a seed; ours are a function of the index as all else.

use serde::{Deserialize, Serialize};

use crate::error::{require, require_published};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::sampling::Distinct;
use crate::stream::Stream;
use crate::{Alphabet, Example, Label, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of selective copying; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let settings = json!({"layout": "mamba", "train": [{"length": 4096, "tokens": 16}]});
/// let task = TaskRegistry::builtin().build("selective_copying", &settings)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// for (label, position) in example.labels.iter().zip(4080..) {
///     assert_eq!((label.position, example.tokens[position]), (position as u32, 15));
///     assert_eq!(example.tokens[label.evidence as usize], label.target);
/// }
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectiveCopying {
    /// The vocabulary's size, V, the blank and the copy token included.
    pub vocab: usize,
    /// Where the data stand and how they are asked for.
    pub layout: Layout,
}

/// Where the data stand and how they are asked for; see the [module](self#layout).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let asked_at = |layout: &str| {
///     let task = TaskRegistry::builtin().build("selective_copying", &json!({"layout": layout}))?;
///     let mut example = Example::default();
///     task.example(Split::Test, 0, 42, 0, &mut example);
///     Ok::<String, heddle_tasks::TaskError>(task.describe_token(example.tokens[example.labels[0].position as usize]))
/// };
/// assert_eq!((asked_at("mad")?, asked_at("mamba")?), ("blank".to_owned(), "copy".to_owned()));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Blanks before the data, one copy token, answers at blanks.
    #[default]
    Mad,
    /// Data at any places, answers at copy tokens.
    Mamba,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::TaskRegistry;
/// use serde_json::json;
///
/// // The sixteen published tokens, a copy token and sixteen answers.
/// let error = TaskRegistry::builtin().build("selective_copying", &json!({"train": [{"length": 32}]})).unwrap_err();
/// assert!(error.to_string().ends_with("use at most 15 tokens or a length of at least 33"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Data tokens, C.
    #[serde(default = "published_tokens")]
    pub tokens: usize,
}

fn published_tokens() -> usize {
    16
}

impl Default for SelectiveCopying {
    fn default() -> Self {
        Self { vocab: 16, layout: Layout::default() }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    /// Positions before the copy tokens.
    body: u32,
    tokens: u32,
}

impl Recipe for SelectiveCopying {
    const INFO: TaskInfo = TaskInfo {
        kind: "selective_copying",
        title: "Selective copying",
        doc: "Data tokens stand scattered among blanks; at the end of the sequence the model is to repeat them in their \
              order. Their distances vary, so that a model must select what it keeps by what it reads.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "16",
                meaning: "number of tokens V: V − 2 data tokens, the blank and the copy token",
                range: "4 to 16777216",
            },
            SettingInfo {
                key: "layout",
                default: "\"mad\"",
                meaning: "blanks before each data token, one copy token and answers at blanks, or data at any places and \
                          answers at copy tokens",
                range: "mad, mamba",
            },
            train_setting(
                "[{\"length\": 256, \"tokens\": 16, \"weight\": 1.0}]",
                "{length, tokens (default 16)}: 1 ≤ tokens, 2·tokens + 1 (mad) or 2·tokens (mamba) ≤ length ≤ 16777216",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (V − 2): an even guess among the data tokens",
        source: "Gu & Dao 2023, arXiv:2312.00752, section 4.1.1; Poli, Thomas et al. 2024, arXiv:2403.17844, section 3.1",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = (Distinct, Vec<u32>);

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 256, tokens: published_tokens() }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("data", self.vocab as u32 - 2), ("blank", 1), ("copy", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require_published(self.vocab, "vocab", (4, LARGEST), 16)
    }

    fn plan(&self, _: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let Knobs { length, tokens } = *knobs;
        require(length <= LARGEST, "length", format!("length ≤ {LARGEST}"), || {
            (format!("length {length}"), format!("use a length of at most {LARGEST}"))
        })?;
        require(tokens >= 1, "tokens", "1 ≤ tokens", || ("tokens 0".to_owned(), "use 16 as published".to_owned()))?;
        let (rule, copies) = match self.layout {
            Layout::Mad => ("2·tokens + 1 ≤ length", 1),
            Layout::Mamba => ("2·tokens ≤ length", 0),
        };
        let most = length.saturating_sub(copies) / 2;
        require(tokens <= most, "tokens", rule, || {
            let fewer = (most >= 1).then(|| format!("at most {most} tokens"));
            let least =
                tokens.checked_mul(2).map(|twice| twice.saturating_add(copies)).filter(|least| *least <= LARGEST);
            let longer = least.map(|least| format!("a length of at least {least}"));
            let ways: Vec<_> = fewer.into_iter().chain(longer).collect();
            (format!("tokens {tokens}, length {length}"), format!("use {}", ways.join(" or ")))
        })?;
        let (data, body) = (self.vocab as f64 - 2.0, length - tokens - copies);
        // C of n places can be chosen in at least (n/C)^C ways.
        let places = match self.layout {
            Layout::Mad => 0.0,
            Layout::Mamba => (body as f64 / tokens as f64).log2(),
        };
        let bits = tokens as f64 * (data.log2() + places);
        let shape = Shape { length, labels: tokens, chance: 1.0 / data, bits };
        Ok((shape, Plan { body: body as u32, tokens: tokens as u32 }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, (distinct, places): &mut Self::Scratch, out: &mut Example) {
        let Plan { body, tokens } = *plan;
        let data = self.vocab as u32 - 2;
        let (blank, copy) = (data, data + 1);
        match self.layout {
            Layout::Mad => {
                places.clear();
                places.resize(tokens as usize, 0);
                (0..body - tokens).for_each(|_| places[stream.below(tokens) as usize] += 1);
                // From the blanks before each to where it stands.
                let mut next = 0;
                for place in places.iter_mut() {
                    *place += next;
                    next = *place + 1;
                }
            }
            Layout::Mamba => {
                distinct.draw(body, tokens, stream, places);
                places.sort_unstable();
            }
        }
        out.tokens.resize(body as usize, blank);
        for place in places.iter() {
            out.tokens[*place as usize] = stream.below(data);
        }
        let asked = match self.layout {
            Layout::Mad => {
                out.tokens.push(copy);
                blank
            }
            Layout::Mamba => copy,
        };
        let first = out.tokens.len();
        out.tokens.resize(first + tokens as usize, asked);
        let label = |(evidence, position): (&u32, u32)| Label {
            position,
            target: out.tokens[*evidence as usize],
            evidence: *evidence,
        };
        out.labels.extend(places.iter().zip(first as u32..).map(label));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, build, examine, message};

    /// Sound data fall below this once in a million seeds; the seeds here are fixed.
    const IMPLAUSIBLE: f64 = 1e-6;

    /// The data token whose number is that of the tokens behind the first copy token, the last token included.
    fn oracle(vocab: u32, tokens: &[u32], layout: Layout) -> u32 {
        let Some(end) = tokens.iter().position(|token| *token == vocab - 1) else { return 0 };
        let number = tokens.len() - end - 1;
        let number = if layout == Layout::Mad { number.wrapping_sub(1) } else { number };
        tokens[..end].iter().copied().filter(|token| *token < vocab - 2).nth(number).unwrap_or(0)
    }

    #[test]
    fn mads_layout_is_what_it_says() {
        examine::<SelectiveCopying>(&Examined {
            settings: json!({"vocab": 12, "train": [{"length": 64, "tokens": 4}, {"length": 21, "tokens": 10}]}),
            at_length: |length| json!({"train": [{"length": length, "tokens": length / 4}]}),
            golden: "4d1071974f706508",
            oracle: |task, tokens| oracle(task.vocab() as u32, tokens, Layout::Mad),
            guess: |_, stream| stream.below(10),
        });
    }

    #[test]
    fn mambas_layout_is_what_it_says() {
        let train = json!([{"length": 64, "tokens": 4}, {"length": 20, "tokens": 10}]);
        examine::<SelectiveCopying>(&Examined {
            settings: json!({"vocab": 12, "layout": "mamba", "train": train}),
            at_length: |length| json!({"layout": "mamba", "train": [{"length": length, "tokens": length / 4}]}),
            golden: "55e1edb10a295369",
            oracle: |task, tokens| oracle(task.vocab() as u32, tokens, Layout::Mamba),
            guess: |_, stream| stream.below(10),
        });
    }

    /// How often the data of a sequence stand at each pair of places.
    fn places(layout: &str, length: usize, count: usize) -> Vec<u64> {
        // So many data tokens that the splits, which share the sequences out, all have the places of the law.
        let settings = json!({"vocab": 1 << 20, "layout": layout, "train": [{"length": length, "tokens": 2}]});
        let task = build("selective_copying", settings);
        let (mut counts, mut example) = (vec![0; count * count], Example::default());
        for index in 0..30_000 {
            task.example(Split::Test, 0, 1, index, &mut example);
            counts[example.labels[0].evidence as usize * count + example.labels[1].evidence as usize] += 1;
        }
        counts
    }

    #[test]
    fn mads_blanks_fall_before_either_token_and_mambas_tokens_anywhere() {
        // 4 blanks fall before the first token b times as coins fall; the last token stands before the copy token.
        let counts = places("mad", 9, 6);
        let stands = |blanks: usize| blanks * 6 + 5;
        let found: Vec<u64> = (0..5).map(|blanks| counts[stands(blanks)]).collect();
        assert_eq!(found.iter().sum::<u64>(), 30_000);
        assert!(
            chi_square_p_value(&found, &[1.0, 4.0, 6.0, 4.0, 1.0].map(|ways| ways / 16.0)) > IMPLAUSIBLE,
            "{found:?}"
        );

        let counts = places("mamba", 7, 5);
        let pairs = (0..25).filter(|pair| pair / 5 < pair % 5);
        let found: Vec<u64> = pairs.map(|pair| counts[pair]).collect();
        assert_eq!(found.iter().sum::<u64>(), 30_000);
        assert!(chi_square_p_value(&found, &[0.1; 10]) > IMPLAUSIBLE, "{found:?}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let refused = |layout: &str, length: usize, tokens: usize| {
            message("selective_copying", json!({"layout": layout, "train": [{"length": length, "tokens": tokens}]}))
        };
        assert_eq!(
            refused("mad", 32, 16),
            "setting 'train[0].tokens': 2·tokens + 1 ≤ length fails (tokens 16, length 32): use at most 15 tokens or a \
             length of at least 33"
        );
        assert_eq!(
            refused("mamba", 1, 1),
            "setting 'train[0].tokens': 2·tokens ≤ length fails (tokens 1, length 1): use a length of at least 2"
        );
        assert_eq!(
            refused("mamba", 64, usize::MAX),
            "setting 'train[0].tokens': 2·tokens ≤ length fails (tokens 18446744073709551615, length 64): use at most 32 \
             tokens"
        );
        assert_eq!(
            refused("mad", 64, 0),
            "setting 'train[0].tokens': 1 ≤ tokens fails (tokens 0): use 16 as published"
        );
        assert_eq!(
            message("selective_copying", json!({"vocab": 3})),
            "setting 'vocab': 4 ≤ vocab ≤ 16777216 fails (vocab 3): use 16 as published"
        );
    }
}
