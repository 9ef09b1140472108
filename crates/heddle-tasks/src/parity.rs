//! Parity: does a model know whether it has seen an even or an odd number of ones?
//!
//! A sequence of bits; at a position, the model is to name the parity of all bits up to it. Each bit turns the answer
//! over, so nothing may be left out. It is the smallest task that attention of fixed depth, and recurrences with
//! non-negative eigenvalues only, cannot solve at all lengths; a recurrence with an eigenvalue −1 can. It is [modular
//! counting](crate::modular_counting) with m = 2, under a name of its own.
//!
//! Source: Delétang et al., "Neural Networks and the Chomsky Hierarchy", arXiv:2207.02098, task "parity check" (there
//! asked once, behind the sequence); Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative
//! Eigenvalues", arXiv:2411.12537.
//!
//! # Layout
//! With length 8 and `loss` "all":
//!
//! ```text
//! position     0   1   2   3   4   5   6   7
//! token        1   1   0   1   1   1   0   1
//! label        1   0   0   1   0   1   1   0
//! evidence     0   1   2   3   4   5   6   7
//! ```
//!
//! - The bits are independent, 0 and 1 being equally likely.
//! - The label of a position is x₀ ⊕ … ⊕ x_t, its evidence the position itself, the last of the bits that it hangs on.
//!
//! # Loss
//! Training carries the loss at every position, or with `loss` "last" at the last alone, which is harder to learn from.
//! Evaluation scores the last position.
//!
//! # Chance
//! 1/2.

use serde::{Deserialize, Serialize};

use crate::modular_counting::ModularCounting;
use crate::recipe::{Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::state_tracking::{Knobs, LOSS_SETTING, Loss, Plan, RANGE};
use crate::stream::Stream;
use crate::{Alphabet, Example, Split, TaskError, TaskInfo};

/// The settings of the parity task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("parity", &serde_json::Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// assert_eq!(example.labels[0].target, example.tokens.iter().sum::<u32>() % 2);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parity {
    /// Which positions of a training sequence carry the loss.
    pub loss: Loss,
}

impl Parity {
    fn counting(&self) -> ModularCounting {
        ModularCounting { modulus: 2, steps: None, loss: self.loss }
    }
}

impl Recipe for Parity {
    const INFO: TaskInfo = TaskInfo {
        kind: "parity",
        title: "Parity",
        doc: "A sequence of random bits; the model is to name the parity of all bits so far. Each bit turns the answer \
              over, so it must be tracked, not looked up, and the rule is tested at lengths beyond those of training.",
        settings: &[
            LOSS_SETTING,
            train_setting("[{\"length\": 64, \"weight\": 1.0}]", RANGE),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / 2",
        source: "Delétang et al. 2022, arXiv:2207.02098; labels at every position are ours",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = ();

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 64 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("bit", 2)])
    }

    fn check(&self) -> Result<(), TaskError> {
        Ok(())
    }

    fn plan(&self, split: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        self.counting().plan(split, knobs)
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, scratch: &mut (), out: &mut Example) {
        self.counting().write(plan, stream, scratch, out);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Examined, build, examine, message};

    #[test]
    fn it_is_what_it_says() {
        examine::<Parity>(&Examined {
            settings: json!({"train": [{"length": 20}, {"length": 90}]}),
            at_length: |length| json!({"train": [{"length": length}]}),
            golden: "a465da45fcb388c1",
            oracle: |_, tokens| (tokens.iter().filter(|token| **token == 1).count() % 2) as u32,
            guess: |_, stream| stream.below(2),
        });
    }

    #[test]
    fn training_asks_at_every_position_or_at_the_last() {
        for (loss, expected) in [("all", 8), ("last", 1)] {
            let task = build("parity", json!({"loss": loss, "train": [{"length": 8}]}));
            let mut example = Example::default();
            task.example(Split::Train, 0, 0, 0, &mut example);
            assert_eq!(example.labels.len(), expected);
            for label in &example.labels {
                let ones: u32 = example.tokens[..=label.position as usize].iter().sum();
                assert_eq!((label.target, label.evidence), (ones % 2, label.position));
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        assert_eq!(
            message("parity", json!({"train": [{"length": 0}]})),
            "setting 'train[0].length': 1 ≤ length ≤ 16777216 fails (length 0): use at least 1"
        );
        assert!(message("parity", json!({"train": [{"length": u64::MAX}]})).contains("use at most 16777216"));
        assert!(message("parity", json!({"train": [{"length": 1}]})).contains("every split has sequences of its own"));
    }
}
