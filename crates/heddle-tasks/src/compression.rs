//! Compression: how much of a sequence does one hidden state hold?
//!
//! A random sequence ends with a compression token. From the hidden state there, and a number, the model is to say which
//! token stood at the position of that number. Nothing else of the sequence may be looked at, so that all of it must have
//! been gathered in that one state.
//!
//! Source: Poli, Thomas et al., "Mechanistic Design and Scaling of Hybrid Architectures", arXiv:2403.17844, section 3.1,
//! and their code (mad-lab, `compression` and its auto-encoder).
//!
//! # Layout
//! With vocabulary V and length L; `vocab` 8, `length` 6:
//!
//! ```text
//! position   0   1   2   3   4   5
//! token      5   4   0   6   6   7
//! labels                         5 4 0 6 6
//! evidence                       0 1 2 3 4
//! ```
//!
//! - L − 1 tokens, uniform over V − 1; then the compression token, V − 1.
//! - One label for each of the L − 1 tokens, all at the position of the compression token. The target of a label is the
//!   token, its evidence the token's position.
//!
//! # Readout
//! [`Readout::Item`]: the evidence is part of the question, logits = head(f(h, i)) with h the hidden state at the
//! compression token and i the position asked for. The authors' f, which models here take too, is a multi-layer perceptron
//! of h + p(i): twice a norm, a map and a GELU, with p the fixed sinusoidal encoding of positions and h the state before the
//! model's last norm. Its parameters are trained and counted with the model's.
//!
//! # Chance
//! 1/(V − 1).
//!
//! # Differences from the authors' data
//! They score the compression token too, which any model names: their accuracy a' and ours a are related by
//! L·a' = 1 + (L − 1)·a, but for the weights of the classes (see [`mad`](crate::mad#score)).

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::stream::Stream;
use crate::{Alphabet, Example, Label, Readout, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of compression; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Readout, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("compression", &serde_json::Value::Null)?;
/// assert_eq!(task.readout(), Readout::Item);
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// assert_eq!(example.labels.len(), 31);
/// assert!(example.labels.iter().all(|label| label.position == 31));
/// assert!(example.labels.iter().all(|label| example.tokens[label.evidence as usize] == label.target));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compression {
    /// The vocabulary's size, V, the compression token included.
    pub vocab: usize,
}

/// What sets one slice apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
}

impl Default for Compression {
    fn default() -> Self {
        Self { vocab: 16 }
    }
}

impl Recipe for Compression {
    const INFO: TaskInfo = TaskInfo {
        kind: "compression",
        title: "Compression",
        doc: "A random sequence ends with a compression token. From the hidden state at that token alone and a position, the \
              model is to name the token that stood there, for every position: the state must hold the whole sequence.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "16",
                meaning: "number of tokens V, the compression token included",
                range: "3 to 16777216",
            },
            train_setting("[{\"length\": 32, \"weight\": 1.0}]", "{length}: 2 ≤ length ≤ 16777216"),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (V − 1): an even guess among the ordinary tokens",
        source: "Poli, Thomas et al. 2024, arXiv:2403.17844, section 3.1; the compression token itself is not scored",
    };
    type Knobs = Knobs;
    type Plan = u32;
    type Scratch = ();

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 32 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("token", self.vocab as u32 - 1), ("compression", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require((3..=LARGEST).contains(&self.vocab), "vocab", format!("3 ≤ vocab ≤ {LARGEST}"), || {
            (format!("vocab {}", self.vocab), "use 16 as published".to_owned())
        })
    }

    fn plan(&self, _: Split, knobs: &Knobs) -> Result<(Shape, u32), TaskError> {
        let Knobs { length } = *knobs;
        require((2..=LARGEST).contains(&length), "length", format!("2 ≤ length ≤ {LARGEST}"), || {
            (format!("length {length}"), "use 32 as published".to_owned())
        })?;
        let (tokens, ordinary) = (length - 1, self.vocab as f64 - 1.0);
        let shape = Shape { length, labels: tokens, chance: 1.0 / ordinary, bits: tokens as f64 * ordinary.log2() };
        Ok((shape, tokens as u32))
    }

    fn readout(&self) -> Readout {
        Readout::Item
    }

    fn write(&self, tokens: &u32, stream: &mut Stream, (): &mut (), out: &mut Example) {
        let compression = self.vocab as u32 - 1;
        out.tokens.extend((0..*tokens).map(|_| stream.below(compression)));
        let label = |(evidence, target): (u32, &u32)| Label { position: *tokens, target: *target, evidence };
        out.labels.extend((0..).zip(&out.tokens).map(label));
        out.tokens.push(compression);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, build, examine, message};

    #[test]
    fn it_is_what_it_says() {
        examine::<Compression>(&Examined {
            settings: json!({"vocab": 8, "train": [{"length": 32}, {"length": 6}]}),
            at_length: |length| json!({"train": [{"length": length}]}),
            golden: "e7b9139cbbb91ad9",
            oracle: |_, tokens| tokens[tokens.len() - 1],
            guess: |_, stream| stream.below(7),
        });
    }

    #[test]
    fn every_token_but_the_last_is_asked_for_once_at_the_last() {
        let task = build("compression", json!({"train": [{"length": 8}]}));
        let (mut example, mut counts) = (Example::default(), vec![0; 15]);
        for index in 0..2000 {
            task.example(Split::Test, 0, 1, index, &mut example);
            let (last, tokens) = example.tokens.split_last().unwrap();
            assert_eq!(*last, 15);
            let label = |(evidence, target): (u32, &u32)| Label { position: 7, target: *target, evidence };
            assert_eq!(example.labels, (0..).zip(tokens).map(label).collect::<Vec<_>>());
            tokens.iter().for_each(|token| counts[*token as usize] += 1);
        }
        // Few sequences are shared out by their hash, which is blind to their tokens.
        assert!(chi_square_p_value(&counts, &[1.0 / 15.0; 15]) > 1e-6, "{counts:?}");
    }

    #[test]
    fn a_drawing_names_the_tokens_where_they_stand() {
        let task = build("compression", json!({"train": [{"length": 8}]}));
        let mut example = Example::default();
        task.example(Split::Test, 0, 1, 0, &mut example);
        let drawn = crate::draw(task.as_ref(), &example);
        assert!(drawn.lines().nth(1).unwrap().ends_with("◂ the answer at 7"), "{drawn}");
        assert!(drawn.ends_with("compression  ▸ 7 tokens, each to be found where it is the answer\n"), "{drawn}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        assert_eq!(
            message("compression", json!({"train": [{"length": 1}]})),
            "setting 'train[0].length': 2 ≤ length ≤ 16777216 fails (length 1): use 32 as published"
        );
        assert_eq!(
            message("compression", json!({"vocab": usize::MAX})),
            "setting 'vocab': 3 ≤ vocab ≤ 16777216 fails (vocab 18446744073709551615): use 16 as published"
        );
    }
}
