//! Dyck languages of bounded depth: which bracket must close?
//!
//! A sequence of brackets of k types, nested as brackets are and never deeper than m; wherever a bracket closes, the
//! model is to name its type, which is that of the innermost open one. That takes a stack of m symbols of log₂ k bits,
//! and attention that finds the innermost open bracket at any distance.
//!
//! Source: Hewitt, Hahn, Ganguli, Liang and Manning, "RNNs can generate bounded hierarchical languages with optimal
//! memory", arXiv:2010.07515, sections 2 and 6: Dyck-(k, m), scored by the type of a closing bracket, given that one
//! closes.
//!
//! # Layout
//! With `types` 3, `depth` 2 and length 12; tokens 0 … k − 1 open, k … 2k − 1 close the same types:
//!
//! ```text
//! position     0   1   2   3   4   5   6   7   8   9  10  11
//! token        0   2   5   3   0   1   4   0   3   3   2   5
//! label            5   3           4       3   3       5
//! evidence         1   0           5       7   4      10
//! ```
//!
//! - At depth 0 a bracket opens, at depth m one closes, in between either happens with probability 1/2. The type of an
//!   opening bracket is uniform.
//! - One label in front of each closing bracket, at the position before it: its target is that bracket, its evidence
//!   the position of the bracket that it closes.
//!
//! Therefore m < length: at the latest after m brackets one closes, so there is a label.
//!
//! # Differences from the source
//! Hewitt et al. draw whole words, which end at depth 0 with an end token, and report the share of closing brackets that
//! get a probability of 0.8 among the closing ones, over distances. Here all sequences have one length, so the last
//! brackets may stay open, and an answer is right if it is the most probable token. As a bracket closes with
//! probability 1/2 or 1, a model of the language gives the right one more than any other token.
//!
//! # Loss
//! Training carries the loss in front of closing brackets ("closing"), or with `loss` "all" at every position that has a
//! next token, as a language model does (as published). Evaluation scores closing brackets.
//!
//! # Chance
//! 1/k: an even guess among the closing brackets.

use serde::{Deserialize, Serialize};

use crate::error::{require, require_between};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::stream::Stream;
use crate::{Alphabet, Example, Label, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the Dyck task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("dyck", &serde_json::json!({"types": 4}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// for label in &example.labels {
///     assert_eq!(label.target, example.tokens[label.evidence as usize] + 4);
///     assert_eq!(label.target, example.tokens[label.position as usize + 1]);
/// }
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dyck {
    /// The number of types of brackets, k.
    pub types: usize,
    /// Which positions of a training sequence carry the loss.
    pub loss: Loss,
}

/// Which positions of a training sequence carry the loss.
///
/// ```
/// use heddle_tasks::{Split, TaskRegistry};
/// use serde_json::json;
///
/// let labels = |loss: &str| {
///     let settings = json!({"loss": loss, "train": [{"length": 128, "depth": 4}]});
///     let task = TaskRegistry::builtin().build("dyck", &settings)?;
///     Ok::<[usize; 2], heddle_tasks::TaskError>([Split::Train, Split::Test].map(|split| task.slices(split)[0].labels))
/// };
/// // At most half of the brackets close; all but the last have a next one.
/// assert_eq!((labels("closing")?, labels("all")?), ([64, 64], [127, 64]));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Those in front of a closing bracket.
    #[default]
    Closing,
    /// All that have a next token.
    All,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("dyck", &json!({"types": 4, "train": [{"length": 256, "depth": 3}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let mut open = 0_i32;
/// let depths = example.tokens.iter().map(|token| {
///     open += if *token < 4 { 1 } else { -1 };
///     open
/// });
/// assert_eq!(depths.max(), Some(3));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example.
    pub length: usize,
    /// The most brackets open at once, m.
    pub depth: usize,
}

impl Default for Dyck {
    fn default() -> Self {
        Self { types: 8, loss: Loss::default() }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    length: u32,
    depth: usize,
    loss: Loss,
}

impl Recipe for Dyck {
    const INFO: TaskInfo = TaskInfo {
        kind: "dyck",
        title: "Dyck language of bounded depth",
        doc: "Brackets of k types, nested no deeper than m; wherever one closes, the model is to name its type, that of \
              the innermost bracket still open. Depth sets how much must be kept, length how far apart partners may \
              stand.",
        settings: &[
            SettingInfo {
                key: "types",
                default: "8",
                meaning: "number of types of brackets k; the vocabulary is 2k",
                range: "2 to 16777216",
            },
            SettingInfo {
                key: "loss",
                default: "\"closing\"",
                meaning: "which positions of a training sequence carry the loss; evaluation scores closing brackets",
                range: "closing, all",
            },
            train_setting(
                "[{\"length\": 128, \"depth\": 4, \"weight\": 1.0}]",
                "{length, depth}: 1 ≤ depth < length ≤ 16777216",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / types: an even guess among the closing brackets",
        source: "Hewitt et al. 2020, arXiv:2010.07515; sequences of one length, scored by the most probable token",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    /// The open brackets: token and position.
    type Scratch = Vec<(u32, u32)>;

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 128, depth: 4 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("open", self.types as u32), ("close", self.types as u32)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require((2..=LARGEST).contains(&self.types), "types", format!("2 ≤ types ≤ {LARGEST}"), || {
            (format!("types {}", self.types), "use 8; of a single type nothing is left to name".to_owned())
        })
    }

    fn plan(&self, split: Split, &Knobs { length, depth }: &Knobs) -> Result<(Shape, Plan), TaskError> {
        require_between(length, "length", 2, LARGEST)?;
        require((1..length).contains(&depth), "depth", "1 ≤ depth < length", || {
            let longer =
                if (1..LARGEST).contains(&depth) { format!(", or a length above {depth}") } else { String::new() };
            (format!("depth {depth}, length {length}"), format!("use a depth from 1 to {}{longer}", length - 1))
        })?;
        let loss = if split == Split::Train { self.loss } else { Loss::Closing };
        let labels = if loss == Loss::All { length - 1 } else { length / 2 };
        // At least half of the brackets open, each of any type.
        let bits = length.div_ceil(2) as f64 * (self.types as f64).log2();
        let shape = Shape { length, labels, chance: 1.0 / self.types as f64, bits };
        Ok((shape, Plan { length: length as u32, depth, loss }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, open: &mut Vec<(u32, u32)>, out: &mut Example) {
        let types = self.types as u32;
        open.clear();
        for position in 0..plan.length {
            // One draw tells both whether a bracket opens and its type.
            let drawn = stream.below(2 * types);
            let opens = open.is_empty() || (open.len() < plan.depth && drawn < types);
            let next = match open.last() {
                Some((partner, evidence)) if !opens => {
                    let label = Label { position: position - 1, target: partner + types, evidence: *evidence };
                    out.labels.push(label);
                    open.pop();
                    label.target
                }
                _ => {
                    let opening = if drawn < types { drawn } else { drawn - types };
                    if plan.loss == Loss::All && position > 0 {
                        out.labels.push(Label { position: position - 1, target: opening, evidence: position - 1 });
                    }
                    open.push((opening, position));
                    opening
                }
            };
            out.tokens.push(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Task;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, build, examine, message};

    /// Walks back to the innermost bracket that is still open.
    fn oracle(task: &dyn Task, tokens: &[u32]) -> u32 {
        let types = task.vocab() as u32 / 2;
        let mut closed = 0;
        for token in tokens.iter().rev() {
            match (*token >= types, closed) {
                (true, _) => closed += 1,
                (false, 0) => return token + types,
                (false, _) => closed -= 1,
            }
        }
        0
    }

    #[test]
    fn it_is_what_it_says() {
        examine::<Dyck>(&Examined {
            settings: json!({"types": 3, "train": [{"length": 30, "depth": 2}, {"length": 150, "depth": 100}]}),
            at_length: |length| json!({"train": [{"length": length, "depth": 8}]}),
            golden: "e50bb42551085629",
            oracle,
            guess: |_, stream| 3 + stream.below(3),
        });
    }

    #[test]
    fn brackets_nest_within_the_depth_and_open_as_often_as_they_may() {
        let task = build("dyck", json!({"types": 2, "train": [{"length": 100_000, "depth": 3}]}));
        let mut example = Example::default();
        task.example(Split::Train, 0, 0, 0, &mut example);
        let mut depth = 0;
        let (mut opened, mut types) = ([[0; 2]; 4], [0; 2]);
        for token in &example.tokens {
            let opens = *token < 2;
            opened[depth][usize::from(opens)] += 1;
            if opens {
                types[*token as usize] += 1;
                depth += 1;
            } else {
                depth -= 1;
            }
        }
        assert!(opened[0][0] == 0 && opened[3][1] == 0, "{opened:?}");
        for counts in [opened[1], opened[2], types] {
            assert!(chi_square_p_value(&counts, &[0.5, 0.5]) > 1e-6, "{opened:?} {types:?}");
        }
    }

    #[test]
    fn a_language_model_is_asked_at_every_position_that_has_a_next_token() {
        let task = build("dyck", json!({"loss": "all", "train": [{"length": 40, "depth": 4}]}));
        let (mut train, mut test) = (Example::default(), Example::default());
        task.example(Split::Train, 0, 0, 0, &mut train);
        assert!(train.labels.iter().map(|label| label.position).eq(0..39));
        assert!(train.labels.iter().all(|label| label.target == train.tokens[label.position as usize + 1]));
        task.example(Split::Test, 0, 0, 0, &mut test);
        assert_eq!(test.labels.len(), test.tokens.iter().filter(|token| **token >= 8).count());
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let of = |length: u64, depth: u64| message("dyck", json!({"train": [{"length": length, "depth": depth}]}));
        assert_eq!(
            of(8, 8),
            "setting 'train[0].depth': 1 ≤ depth < length fails (depth 8, length 8): use a depth from 1 to 7, or a \
             length above 8"
        );
        assert_eq!(
            of(8, u64::MAX),
            "setting 'train[0].depth': 1 ≤ depth < length fails (depth 18446744073709551615, length 8): use a depth \
             from 1 to 7"
        );
        assert!(of(1, 1).contains("use at least 2") && of(u64::MAX, 1).contains("fails (length"));
        assert_eq!(
            message("dyck", json!({"types": 1})),
            "setting 'types': 2 ≤ types ≤ 16777216 fails (types 1): use 8; of a single type nothing is left to name"
        );
    }
}
