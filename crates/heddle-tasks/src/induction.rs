//! Induction heads: does a model continue as it has seen a token continued before?
//!
//! Somewhere in a random sequence a special token stands, followed by a random token; the sequence ends with the special
//! token, and the model is to predict the token that followed it. A model that can must compare the last token with all
//! earlier ones and look one further: what Olsson et al. call an induction head. Learned at one length, the rule should
//! hold at any other.
//!
//! Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752, section
//! 4.1.2 and appendix E.1; Olsson et al., "In-context Learning and Induction Heads", arXiv:2209.11895. The authors'
//! generator was not published; with `repeats` 1 this one follows their text.
//!
//! # Layout
//! With vocabulary V, of which token V − 1 is special, and length L; `vocab` 16, `length` 12, `repeats` 2:
//!
//! ```text
//! position   0   1   2   3   4   5   6   7   8   9  10  11
//! token      3  15   9   0   2  14   6  15   9  11   7  15
//! label                                  9               9
//! evidence                               2               8
//! ```
//!
//! - The special token stands `repeats` + 1 times: at L − 1 and at `repeats` places among 0 … L − 3, no two of them
//!   side by side, all such choices being equally likely. The same answer follows each of them.
//! - All other tokens are uniform over the V − 1 ordinary ones.
//!
//! Therefore 2·repeats + 1 ≤ L.
//!
//! # Loss
//! Which positions carry the loss decides whether a model learns at all, so it is a setting: "last" (the answer alone,
//! as published), "determined" (every special token but the first: the same for `repeats` 1) or "all" (every next token,
//! most of which nothing determines). Evaluation scores the last answer alone.
//!
//! # Chance
//! 1/(V − 1).

use serde::{Deserialize, Serialize};

use crate::error::{require, require_published};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::sampling::Distinct;
use crate::stream::Stream;
use crate::{Alphabet, Example, Label, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the induction heads task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("induction", &serde_json::Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let label = example.labels[0];
/// assert_eq!((label.position, example.tokens[255]), (255, 15));
/// assert_eq!(example.tokens[label.evidence as usize], label.target);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InductionHeads {
    /// The vocabulary's size, V, the special token included.
    pub vocab: usize,
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
///     let settings = json!({"loss": loss, "train": [{"length": 64, "repeats": 3}]});
///     Ok::<usize, heddle_tasks::TaskError>(TaskRegistry::builtin().build("induction", &settings)?.slices(Split::Train)[0].labels)
/// };
/// assert_eq!([labels("last")?, labels("determined")?, labels("all")?], [1, 3, 64]);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The last alone.
    Last,
    /// All whose next token the sequence determines.
    #[default]
    Determined,
    /// All.
    All,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("induction", &json!({"train": [{"length": 64, "repeats": 3}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// assert_eq!(example.tokens.iter().filter(|token| **token == 15).count(), 3 + 1);
/// assert_eq!(example.tokens[63], 15);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Special tokens before the last.
    #[serde(default = "once")]
    pub repeats: usize,
}

fn once() -> usize {
    1
}

impl Default for InductionHeads {
    fn default() -> Self {
        Self { vocab: 16, loss: Loss::default() }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    length: u32,
    repeats: u32,
    loss: Loss,
}

impl Recipe for InductionHeads {
    const INFO: TaskInfo = TaskInfo {
        kind: "induction",
        title: "Induction heads",
        doc: "A special token stands somewhere in a random sequence and again at its end; the model is to predict the \
              token that followed it before. The rule does not depend on length, so a model trained at one length is \
              tested at others.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "16",
                meaning: "number of tokens V, the special one included",
                range: "3 to 16777216",
            },
            SettingInfo {
                key: "loss",
                default: "\"determined\"",
                meaning: "which positions of a training sequence carry the loss; evaluation scores the last answer",
                range: "last, determined, all",
            },
            train_setting(
                "[{\"length\": 256, \"repeats\": 1, \"weight\": 1.0}]",
                "{length, repeats (default 1)}: 2·repeats + 1 ≤ length ≤ 16777216",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (V − 1): an even guess among the ordinary tokens",
        source: "Gu & Dao 2023, arXiv:2312.00752, section 4.1.2; `repeats` above 1 is ours",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = (Distinct, Vec<u32>);

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 256, repeats: 1 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("token", self.vocab as u32 - 1), ("special", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require_published(self.vocab, "vocab", (3, LARGEST), 16)
    }

    fn plan(&self, split: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let Knobs { length, repeats } = *knobs;
        require(length <= LARGEST, "length", format!("length ≤ {LARGEST}"), || {
            (format!("length {length}"), format!("use a length of at most {LARGEST}"))
        })?;
        require(repeats >= 1, "repeats", "1 ≤ repeats", || {
            ("repeats 0".to_owned(), "use 1 as published".to_owned())
        })?;
        require(repeats < length.div_ceil(2), "repeats", "2·repeats + 1 ≤ length", || {
            let fewer = (length >= 3).then(|| format!("at most {} repeats", (length - 1) / 2));
            let longer =
                repeats.checked_mul(2).map(|twice| format!("a length of at least {}", twice.saturating_add(1)));
            let ways: Vec<_> = fewer.into_iter().chain(longer).collect();
            (format!("repeats {repeats}, length {length}"), format!("use {}", ways.join(" or ")))
        })?;
        let loss = if split == Split::Train { self.loss } else { Loss::Last };
        let labels = match loss {
            Loss::Last => 1,
            Loss::Determined => repeats,
            Loss::All => length,
        };
        let ordinary = self.vocab as f64 - 1.0;
        // The answer and every place that is neither special nor an answer.
        let free = 1 + length - 1 - 2 * repeats;
        let shape = Shape { length, labels, chance: 1.0 / ordinary, bits: free as f64 * ordinary.log2() };
        Ok((shape, Plan { length: length as u32, repeats: repeats as u32, loss }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, (distinct, places): &mut Self::Scratch, out: &mut Example) {
        let special = self.vocab as u32 - 1;
        let Plan { length, repeats, loss } = *plan;
        // Places with a gap between them are places without one, spread by one step each.
        distinct.draw(length - 1 - repeats, repeats, stream, places);
        places.sort_unstable();
        places.iter_mut().zip(0..).for_each(|(place, before)| *place += before);
        let answer = stream.below(special);
        out.tokens.extend((0..length).map(|_| stream.below(special)));
        for place in places.iter() {
            out.tokens[*place as usize] = special;
            out.tokens[*place as usize + 1] = answer;
        }
        out.tokens[length as usize - 1] = special;

        places.push(length - 1);
        let label = |pair: &[u32]| Label { position: pair[1], target: answer, evidence: pair[0] + 1 };
        let mut determined = places.windows(2).map(label);
        match loss {
            Loss::Last => out.labels.extend(determined.next_back()),
            Loss::Determined => out.labels.extend(determined),
            Loss::All => {
                let next = out.tokens.iter().skip(1).zip(0..);
                out.labels.extend(next.map(|(next, position)| Label { position, target: *next, evidence: position }));
                out.labels.extend(determined.next_back());
                determined.for_each(|label| out.labels[label.position as usize] = label);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Examined, examine, message};

    /// What followed the last token at its last sight.
    fn oracle(tokens: &[u32]) -> u32 {
        let (last, before) = tokens.split_last().unwrap();
        before.iter().rposition(|token| token == last).map_or(0, |sight| tokens[sight + 1])
    }

    #[test]
    fn it_is_what_it_says() {
        examine::<InductionHeads>(&Examined {
            settings: json!({"train": [{"length": 32}, {"length": 12, "repeats": 4}]}),
            at_length: |length| json!({"train": [{"length": length}]}),
            golden: "c430ce25bf31fefd",
            oracle: |_, tokens| oracle(tokens),
            guess: |_, stream| stream.below(15),
        });
    }

    #[test]
    fn the_loss_may_be_on_the_answer_on_what_is_determined_or_on_everything() {
        for (loss, labels) in [("last", 1), ("determined", 3), ("all", 16)] {
            let task =
                crate::testing::build("induction", json!({"loss": loss, "train": [{"length": 16, "repeats": 3}]}));
            let (mut train, mut test) = (Example::default(), Example::default());
            task.example(Split::Train, 0, 0, 0, &mut train);
            task.example(Split::Test, 0, 0, 0, &mut test);
            assert_eq!((train.labels.len(), test.labels.len()), (labels, 1), "{loss}");
            for label in train.labels.iter().filter(|label| (label.position as usize) < 15) {
                assert_eq!(train.tokens[label.position as usize + 1], label.target);
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        assert_eq!(
            message("induction", json!({"train": [{"length": 8, "repeats": 4}]})),
            "setting 'train[0].repeats': 2·repeats + 1 ≤ length fails (repeats 4, length 8): use at most 3 repeats or a \
             length of at least 9"
        );
        assert_eq!(
            message("induction", json!({"vocab": 2})),
            "setting 'vocab': 3 ≤ vocab ≤ 16777216 fails (vocab 2): use 16 as published"
        );
        assert_eq!(
            message("induction", json!({"vocab": 3, "train": [{"length": 3}]})),
            "setting 'test[0]': every split has sequences of its own fails (none of 4096 sequences of \
             length=3,repeats=1 belongs to test): use a longer sequence or a larger vocabulary"
        );
    }
}
