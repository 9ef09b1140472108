//! The word problem: the running product in a group of permutations.
//!
//! Each token is an element of a finite group, and the model is to name the product of all elements so far. In S₅ and A₅,
//! which are not solvable, the problem is complete for NC¹ (Barrington, 1989), beyond what attention of fixed depth and
//! linear recurrences with diagonal transitions can compute at all lengths, unless TC⁰ = NC¹. A₄ × Z₅ (solvable, not
//! abelian) and Z₆₀ (abelian), of the same order as A₅, are its controls.
//!
//! Source: Merrill, Petty and Sabharwal, "The Illusion of State in State-Space Models", arXiv:2404.08819, section 5.
//!
//! # Layout
//! With `group` "s3" and length 8; the elements are numbered in lexicographic order of their images, 0 the identity:
//! 012, 021, 102, 120, 201, 210.
//!
//! ```text
//! position     0   1   2   3   4   5   6   7
//! token        2   3   3   3   5   2   1   1
//! label        2   5   1   2   3   1   0   1
//! evidence     0   1   2   3   4   5   6   7
//! ```
//!
//! - The elements are independent, all being equally likely.
//! - The label of a position is the product g₀ g₁ … g_t, of which g₀ acts first: (gh)(i) = h(g(i)). Its evidence is the
//!   position itself, the last of the tokens that it hangs on.
//!
//! # Groups
//! | `group` | order | acts on |
//! |---|---|---|
//! | `s3`, `s4`, `s5` | 6, 24, 120 | 3, 4, 5 points |
//! | `a4`, `a5` | 12, 60 | 4, 5 points |
//! | `a4_z5` | 60 | 4 + 5 points |
//! | `z60` | 60 | 3 + 4 + 5 points |
//!
//! # Loss
//! Training carries the loss at every position, as published, or with `loss` "last" at the last alone. Evaluation scores
//! the last position. The paper reports all of them, for the depth that a length takes.
//!
//! # Chance
//! 1 / order: the product is uniform.

use serde::{Deserialize, Serialize};

use crate::recipe::{Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::state_tracking::{Knobs, LOSS_SETTING, Loss, RANGE, plan};
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo, state_tracking};

/// The settings of the word problem; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("word_problem", &serde_json::json!({"group": "z60"}))?;
/// assert_eq!((task.vocab(), task.chance(Split::Test, 0)), (60, 1.0 / 60.0));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WordProblem {
    /// The group.
    pub group: Group,
    /// Which positions of a training sequence carry the loss.
    pub loss: Loss,
}

/// A group of permutations.
///
/// A₅ and its controls are of one order, so that chance does not tell them apart:
///
/// ```
/// use heddle_tasks::{TaskRegistry, word_problem::Group};
/// use serde_json::json;
///
/// for group in [Group::A5, Group::A4Z5, Group::Z60] {
///     assert_eq!(TaskRegistry::builtin().build("word_problem", &json!({"group": group}))?.vocab(), 60);
/// }
/// assert_eq!(json!(Group::A4Z5), "a4_z5");
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// All permutations of 3 points: the smallest group that is not abelian.
    S3,
    /// All permutations of 4 points: solvable.
    S4,
    /// All permutations of 5 points: not solvable.
    #[default]
    S5,
    /// The even permutations of 4 points: solvable.
    A4,
    /// The even permutations of 5 points: the smallest group that is not solvable.
    A5,
    /// A₄ × Z₅: solvable, not abelian, as large as A₅.
    #[serde(rename = "a4_z5")]
    A4Z5,
    /// The cyclic group: abelian, as large as A₅.
    Z60,
}

/// Points that the largest of the groups acts on.
const POINTS: usize = 12;

/// The image of each point.
type Permutation = [u8; POINTS];

/// The product of which `g` acts first.
fn product(g: &Permutation, h: &Permutation) -> Permutation {
    g.map(|image| h[image as usize])
}

impl Group {
    /// The number of elements.
    fn order(self) -> usize {
        match self {
            Group::S3 => 6,
            Group::S4 => 24,
            Group::S5 => 120,
            Group::A4 => 12,
            Group::A5 | Group::A4Z5 | Group::Z60 => 60,
        }
    }

    /// Cycles that generate the group, each as the points that it moves in turn.
    fn generators(self) -> &'static [&'static [u8]] {
        match self {
            Group::S3 => &[&[0, 1], &[1, 2]],
            Group::S4 => &[&[0, 1], &[1, 2], &[2, 3]],
            Group::S5 => &[&[0, 1], &[1, 2], &[2, 3], &[3, 4]],
            Group::A4 => &[&[0, 1, 2], &[1, 2, 3]],
            Group::A5 => &[&[0, 1, 2], &[1, 2, 3], &[2, 3, 4]],
            Group::A4Z5 => &[&[0, 1, 2], &[1, 2, 3], &[4, 5, 6, 7, 8]],
            Group::Z60 => &[&[0, 1, 2], &[3, 4, 5, 6], &[7, 8, 9, 10, 11]],
        }
    }

    /// The elements in lexicographic order.
    fn elements(self) -> Vec<Permutation> {
        let identity: Permutation = std::array::from_fn(|point| point as u8);
        let permutation = |cycle: &&[u8]| {
            let mut images = identity;
            cycle.iter().zip(cycle.iter().cycle().skip(1)).for_each(|(from, to)| images[*from as usize] = *to);
            images
        };
        let generators: Vec<Permutation> = self.generators().iter().map(permutation).collect();
        let mut elements = vec![identity];
        let mut next = 0;
        while next < elements.len() {
            for generator in &generators {
                let reached = product(&elements[next], generator);
                if !elements.contains(&reached) {
                    elements.push(reached);
                }
            }
            next += 1;
        }
        elements.sort_unstable();
        elements
    }

    /// The number of the product g h at g · order + h.
    fn table(self) -> Vec<u8> {
        let elements = self.elements();
        let number = |element: &Permutation| elements.binary_search(element).expect("a group is closed") as u8;
        elements.iter().flat_map(|g| elements.iter().map(move |h| number(&product(g, h)))).collect()
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    states: state_tracking::Plan,
    table: Vec<u8>,
}

impl Recipe for WordProblem {
    const INFO: TaskInfo = TaskInfo {
        kind: "word_problem",
        title: "Word problem of a group",
        doc: "Each token is a permutation of a finite group; the model is to name the product of all permutations so \
              far. In S5 and A5 this takes a state that neither attention of fixed depth nor a linear recurrence with \
              diagonal transitions can follow at all lengths; A4 × Z5 and Z60 are easier groups of the same size.",
        settings: &[
            SettingInfo {
                key: "group",
                default: "\"s5\"",
                meaning: "the group of permutations",
                range: "s3, s4, s5, a4, a5, a4_z5, z60",
            },
            LOSS_SETTING,
            train_setting("[{\"length\": 32, \"weight\": 1.0}]", RANGE),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / order of the group",
        source: "Merrill, Petty & Sabharwal 2024, arXiv:2404.08819; scored at the last position",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = ();

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 32 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("element", self.group.order() as u32)])
    }

    fn check(&self) -> Result<(), TaskError> {
        Ok(())
    }

    fn plan(&self, split: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let order = self.group.order();
        let (shape, states) = plan(split, knobs, self.loss, order, order)?;
        Ok((shape, Plan { states, table: self.group.table() }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, (): &mut (), out: &mut Example) {
        let order = self.group.order() as u32;
        let step = |product: u32, element: u32| u32::from(plan.table[(product * order + element) as usize]);
        plan.states.write(out, || stream.below(order), step);
    }
}

#[cfg(test)]
mod tests;
