//! Modular counting: a running sum modulo m.
//!
//! Each token is a step of 0 … s − 1, and the model is to name the sum of all steps so far modulo m: the position on a
//! ring of m places. With m = 2 it is [parity](crate::parity); with s = 2, counting ones; with s = m, addition modulo m.
//! The state turns by m-th roots of unity, which takes a complex or non-diagonal recurrence.
//!
//! Source: Delétang et al., "Neural Networks and the Chomsky Hierarchy", arXiv:2207.02098, task "cycle navigation" (five
//! places, steps −1, 0 and 1, which are m = 5 and three steps renamed); Grazzi et al., arXiv:2411.12537, section 5.1.
//! The brackets and operators of their "modular arithmetic" are not covered.
//!
//! # Layout
//! With `modulus` 5, `steps` 3 and length 8:
//!
//! ```text
//! position     0   1   2   3   4   5   6   7
//! token        2   2   2   1   1   0   0   1
//! label        2   4   1   2   3   3   3   4
//! evidence     0   1   2   3   4   5   6   7
//! ```
//!
//! - The steps are independent, 0 … s − 1 being equally likely.
//! - The label of a position is (x₀ + … + x_t) mod m, its evidence the position itself, the last of the tokens that it
//!   hangs on.
//!
//! # Loss
//! Training carries the loss at every position, or with `loss` "last" at the last alone. Evaluation scores the last.
//!
//! # Chance
//! 1/m. Sums over few steps are not spread evenly over the ring; an even guess scores 1/m all the same.

use serde::{Deserialize, Serialize};

use crate::error::{require, require_published};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::state_tracking::{Knobs, LOSS_SETTING, Loss, Plan, RANGE, plan};
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the modular counting task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("modular_counting", &serde_json::Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// assert_eq!(example.labels[0].target, example.tokens.iter().sum::<u32>() % 5);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModularCounting {
    /// The number of states, m.
    pub modulus: usize,
    /// The number of different steps, s; if absent, m.
    pub steps: Option<usize>,
    /// Which positions of a training sequence carry the loss.
    pub loss: Loss,
}

impl Default for ModularCounting {
    fn default() -> Self {
        Self { modulus: 5, steps: None, loss: Loss::default() }
    }
}

impl ModularCounting {
    fn number_of_steps(&self) -> usize {
        self.steps.unwrap_or(self.modulus)
    }
}

impl Recipe for ModularCounting {
    const INFO: TaskInfo = TaskInfo {
        kind: "modular_counting",
        title: "Modular counting",
        doc: "Each token is a step on a ring of m places; the model is to name the place that all steps so far lead \
              to, their sum modulo m. The state must be tracked token by token, and the rule is tested at lengths \
              beyond those of training.",
        settings: &[
            SettingInfo { key: "modulus", default: "5", meaning: "number of states m", range: "2 to 16777216" },
            SettingInfo {
                key: "steps",
                default: "null",
                meaning: "number of different steps s, of 0 … s − 1; null: m",
                range: "2 to modulus",
            },
            LOSS_SETTING,
            train_setting("[{\"length\": 64, \"weight\": 1.0}]", RANGE),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / modulus",
        source: "Delétang et al. 2022, arXiv:2207.02098; labels at every position are ours",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = ();

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 64 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("number", self.modulus as u32)])
    }

    fn check(&self) -> Result<(), TaskError> {
        let (modulus, steps) = (self.modulus, self.number_of_steps());
        require_published(modulus, "modulus", (2, LARGEST), 5)?;
        require((2..=modulus).contains(&steps), "steps", "2 ≤ steps ≤ modulus", || {
            (format!("steps {steps}, modulus {modulus}"), format!("use from 2 to {modulus} steps"))
        })
    }

    fn plan(&self, split: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        plan(split, knobs, self.loss, self.number_of_steps(), self.modulus)
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, (): &mut (), out: &mut Example) {
        let (modulus, steps) = (self.modulus as u32, self.number_of_steps() as u32);
        let add = |sum, step| {
            let sum = sum + step;
            if sum < modulus { sum } else { sum - modulus }
        };
        plan.write(out, || stream.below(steps), add);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Task;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, build, examine, message};

    fn oracle(task: &dyn Task, tokens: &[u32]) -> u32 {
        (tokens.iter().map(|token| u64::from(*token)).sum::<u64>() % task.vocab() as u64) as u32
    }

    #[test]
    fn it_is_what_it_says() {
        examine::<ModularCounting>(&Examined {
            settings: json!({"modulus": 7, "steps": 3, "train": [{"length": 9}, {"length": 90}]}),
            at_length: |length| json!({"train": [{"length": length}]}),
            golden: "34ffb13e36fc84c3",
            oracle,
            guess: |_, stream| stream.below(7),
        });
    }

    #[test]
    fn every_position_of_training_asks_for_its_sum() {
        for modulus in [2, 5, 97] {
            let task = build("modular_counting", json!({"modulus": modulus, "train": [{"length": 33}]}));
            let mut example = Example::default();
            task.example(Split::Train, 0, 0, 0, &mut example);
            assert_eq!(example.labels.len(), 33);
            for label in &example.labels {
                assert_eq!(label.target, oracle(task.as_ref(), &example.tokens[..=label.position as usize]));
            }
        }
    }

    #[test]
    fn steps_are_even_over_their_own_range() {
        let task = build("modular_counting", json!({"modulus": 5, "steps": 3, "train": [{"length": 30_000}]}));
        let mut example = Example::default();
        task.example(Split::Train, 0, 0, 0, &mut example);
        let mut counts = [0; 3];
        example.tokens.iter().for_each(|step| counts[*step as usize] += 1);
        assert!(chi_square_p_value(&counts, &[1.0 / 3.0; 3]) > 1e-6, "{counts:?}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        assert_eq!(
            message("modular_counting", json!({"modulus": 1})),
            "setting 'modulus': 2 ≤ modulus ≤ 16777216 fails (modulus 1): use 5 as published"
        );
        assert_eq!(
            message("modular_counting", json!({"steps": 6})),
            "setting 'steps': 2 ≤ steps ≤ modulus fails (steps 6, modulus 5): use from 2 to 5 steps"
        );
        for hostile in [json!({"modulus": u64::MAX}), json!({"steps": u64::MAX}), json!({"steps": 0})] {
            assert!(message("modular_counting", hostile).contains("fails"));
        }
    }
}
