//! What the tasks of tracking a state share: every token moves a state, and the model is to name the state.
//!
//! Attention of fixed depth and linear recurrences whose transition matrices are diagonal and positive compute these
//! states at the lengths of training by shortcuts that fail at others; a recurrent network follows its rule at any
//! length. See [`parity`](crate::parity), [`modular_counting`](crate::modular_counting) and
//! [`word_problem`](crate::word_problem).

use serde::{Deserialize, Serialize};

use crate::error::require_between;
use crate::recipe::{LARGEST, Shape};
use crate::{Example, Label, SettingInfo, Split, TaskError};

/// Which positions of a training sequence carry the loss. Evaluation scores the last position alone: the states before
/// it belong to shorter sequences, and would flatter a model that fails with length.
///
/// ```
/// use heddle_tasks::{Split, TaskRegistry};
/// use serde_json::json;
///
/// let labels = |loss: &str, split| {
///     let task = TaskRegistry::builtin().build("parity", &json!({"loss": loss, "train": [{"length": 64}]}))?;
///     Ok::<usize, heddle_tasks::TaskError>(task.slices(split)[0].labels)
/// };
/// assert_eq!([labels("all", Split::Train)?, labels("last", Split::Train)?], [64, 1]);
/// assert_eq!(labels("all", Split::Test)?, 1);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The last alone.
    Last,
    /// All: each asks for the state that it reaches.
    #[default]
    All,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::TaskRegistry;
/// use serde_json::json;
///
/// // A ring of two places and no step is no task.
/// let error = TaskRegistry::builtin().build("parity", &json!({"train": [{"length": 0}]})).unwrap_err();
/// assert!(error.to_string().ends_with("use at least 1"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example.
    pub length: usize,
}

/// A planned slice.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    length: u32,
    loss: Loss,
}

/// The description of the setting `loss`.
pub(crate) const LOSS_SETTING: SettingInfo = SettingInfo {
    key: "loss",
    default: "\"all\"",
    meaning: "which positions of a training sequence carry the loss; evaluation scores the last",
    range: "last, all",
};

/// The range of the knobs, in words.
pub(crate) const RANGE: &str = "{length}: 1 ≤ length ≤ 16777216, and long enough for each split to have sequences";

/// Plans a slice of sequences of `moves` equally likely tokens that reach one of `states` states.
pub(crate) fn plan(
    split: Split,
    &Knobs { length }: &Knobs,
    loss: Loss,
    moves: usize,
    states: usize,
) -> Result<(Shape, Plan), TaskError> {
    require_between(length, "length", 1, LARGEST)?;
    let loss = if split == Split::Train { loss } else { Loss::Last };
    let labels = if loss == Loss::All { length } else { 1 };
    let shape = Shape { length, labels, chance: 1.0 / states as f64, bits: length as f64 * (moves as f64).log2() };
    Ok((shape, Plan { length: length as u32, loss }))
}

impl Plan {
    /// Writes a sequence from state 0: `draw` gives the tokens, `step` the state that a token moves a state to.
    #[inline]
    pub(crate) fn write(self, out: &mut Example, mut draw: impl FnMut() -> u32, step: impl Fn(u32, u32) -> u32) {
        let mut state = 0;
        out.tokens.reserve(self.length as usize);
        match self.loss {
            Loss::Last => out.tokens.extend((0..self.length).map(|_| {
                let token = draw();
                state = step(state, token);
                token
            })),
            Loss::All => {
                out.labels.reserve(self.length as usize);
                for position in 0..self.length {
                    let token = draw();
                    state = step(state, token);
                    out.tokens.push(token);
                    out.labels.push(Label { position, target: state, evidence: position });
                }
            }
        }
        if self.loss == Loss::Last {
            out.ask(state, self.length - 1);
        }
    }
}
