//! ListOps: what is the value of a nested expression?
//!
//! An expression of digits and the operators MAX, MIN, MED (the median, rounded down) and SM (the sum modulo 10), each
//! over several arguments that may be expressions themselves; at its end the model is to give its value, a digit. The
//! structure is hierarchical and far apart parts must meet, but what is asked is one of ten answers.
//!
//! Source: Nangia and Bowman, "ListOps: A Diagnostic Dataset for Latent Tree Learning", arXiv:1804.06028; Tay et al.,
//! "Long Range Arena", arXiv:2011.04006, section 2.2.1, in whose form it is used for long sequences.
//!
//! # Layout
//! With length 16, `depth` 2 and `arguments` 4:
//!
//! ```text
//!            [MED   2   2[MIN   7   9   6   9   ][MAX   4   6   5   5   ]   ]
//! position     0   1   2   3   4   5   6   7   8   9  10  11  12  13  14  15
//! token       12   2   2  11   7   9   6   9  14  10   4   6   5   5  14  14
//! label                                                                    4
//! evidence                                                                 0
//! ```
//!
//! - The expression stands at the end and fills the sequence but for the few tokens that do not come out even; blanks
//!   stand in front.
//! - The operators are equally likely, and so are the digits. An expression with room for B tokens that may still nest d
//!   deep holds at most C(d) = 2 + a·C(d−1) tokens, C(0) = 1, with a the most arguments; it takes an operator if B ≥ 4
//!   and d ≥ 1, with a number of arguments that is uniform over those from 2 to a that have room and suffice to fill it,
//!   and shares the room out to them, each getting the mean of what is left on average. What an argument leaves over
//!   goes to the next. (The median of 2, 2, 6 and 6 is 4.)
//! - One label, at the last position: its target is the value, its evidence the outermost operator.
//!
//! If the length exceeds C(depth), the largest expression stands behind that many more blanks.
//!
//! # Vocabulary
//! 0 … 9 the digits, 10 … 13 the opening operators, 14 the closing bracket, 15 the blank.
//!
//! # Differences from the source
//! The published set draws trees (each argument an operator with probability 3/4, down to depth 10) and keeps those of
//! 500 to 2000 tokens; that law cannot be given a length, so here the tree is grown to fill one. Depth and the most
//! arguments are 10 as there.
//!
//! # Chance
//! 1/10: an even guess. The answers are not spread evenly: MAX and MIN favour 9 and 0, and a model that answers with the
//! commonest value for the outermost operator scores about 1/3. A plateau
//! there is no evaluation.

use serde::{Deserialize, Serialize};

use crate::error::{require, require_published};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::stream::Stream;
use crate::{Alphabet, Example, Split, TaskError, TaskInfo};

/// The settings of the ListOps task: none of its own; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let settings = serde_json::json!({"train": [{"length": 16, "depth": 2, "arguments": 4}]});
/// let task = TaskRegistry::builtin().build("listops", &settings)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let words: Vec<String> = example.tokens.iter().map(|token| task.describe_token(*token)).collect();
/// assert_eq!(words.join(" "), "blank [MED [SM 6 3 5 8 ] 1 [SM 9 4 0 3 ] ]");
/// assert_eq!(task.describe_token(example.labels[0].target), "2");
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListOps {}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("listops", &json!({"train": [{"length": 12, "depth": 1, "arguments": 3}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// // At depth 1 an operator, three digits and a bracket are all that there is room for.
/// let blanks = example.tokens.iter().filter(|token| task.describe_token(**token) == "blank").count();
/// assert_eq!(blanks, 12 - 5);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example.
    pub length: usize,
    /// The most operators around a digit.
    #[serde(default = "ten")]
    pub depth: usize,
    /// The most arguments of an operator.
    #[serde(default = "ten")]
    pub arguments: usize,
}

fn ten() -> usize {
    10
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    length: u32,
    arguments: u32,
    /// The most tokens of an expression that nests so deep, up to a depth at which it exceeds every length.
    capacity: Vec<u32>,
    depth: usize,
}

impl Plan {
    fn capacity(&self, depth: usize) -> u32 {
        self.capacity[depth.min(self.capacity.len() - 1)]
    }
}

const OPERATORS: [&str; 4] = ["[MAX", "[MIN", "[MED", "[SM"];
const FIRST_OPERATOR: u32 = 10;
const CLOSE: u32 = 14;
const BLANK: u32 = 15;

/// An operator whose arguments are being written.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    operator: u32,
    /// Arguments still to write.
    left: u32,
    /// Tokens that they may take.
    room: u32,
    /// How many arguments had each value.
    counts: [u32; 10],
}

impl Frame {
    fn value(&self) -> u32 {
        let digits = || (0..10).zip(self.counts).filter(|(_, count)| *count > 0);
        match self.operator {
            0 => digits().map(|(digit, _)| digit).max().unwrap_or_default(),
            1 => digits().map(|(digit, _)| digit).min().unwrap_or_default(),
            2 => {
                let all: u32 = self.counts.iter().sum();
                // The values of rank ⌊(n−1)/2⌋ and ⌊n/2⌋ are the same where n is odd.
                let ranked = |rank: u32| {
                    let mut below = 0;
                    let reached = digits().find(|(_, count)| {
                        below += count;
                        below > rank
                    });
                    reached.map_or(0, |(digit, _)| digit)
                };
                (ranked(all.saturating_sub(1) / 2) + ranked(all / 2)) / 2
            }
            _ => (digits().map(|(digit, count)| u64::from(digit) * u64::from(count)).sum::<u64>() % 10) as u32,
        }
    }
}

impl Recipe for ListOps {
    const INFO: TaskInfo = TaskInfo {
        kind: "listops",
        title: "ListOps",
        doc: "An expression of digits and the operators MAX, MIN, MED (median) and SM (sum modulo 10), nested to a given \
              depth and grown to fill the sequence; at its end the model is to give its value, one of ten digits.",
        settings: &[
            train_setting(
                "[{\"length\": 512, \"depth\": 10, \"arguments\": 10, \"weight\": 1.0}]",
                "{length, depth (default 10), arguments (default 10)}: 4 ≤ length ≤ 16777216, 1 ≤ depth, 2 ≤ arguments \
                 ≤ 16777216",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / 10: an even guess; the commonest answer to the outermost operator scores more",
        source: "Nangia & Bowman 2018, arXiv:1804.06028; Tay et al. 2020, arXiv:2011.04006; the tree is grown to a length",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = Vec<Frame>;

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 512, depth: ten(), arguments: ten() }]
    }

    fn alphabet(&self) -> Alphabet {
        let operators = OPERATORS.map(|operator| (operator, 1));
        Alphabet::of([("digit", 10)].into_iter().chain(operators).chain([("]", 1), ("blank", 1)]))
    }

    fn check(&self) -> Result<(), TaskError> {
        Ok(())
    }

    fn plan(&self, _: Split, &Knobs { length, depth, arguments }: &Knobs) -> Result<(Shape, Plan), TaskError> {
        require((4..=LARGEST).contains(&length), "length", format!("4 ≤ length ≤ {LARGEST}"), || {
            (format!("length {length}"), format!("use a length from 4, an operator over two digits, to {LARGEST}"))
        })?;
        require(depth >= 1, "depth", "1 ≤ depth", || ("depth 0".to_owned(), "use 10 as published".to_owned()))?;
        require_published(arguments, "arguments", (2, LARGEST), 10)?;
        let mut capacity = vec![1_u32];
        while capacity.len() <= depth && capacity[capacity.len() - 1] < length as u32 {
            let largest = 2 + u64::from(capacity[capacity.len() - 1]) * arguments as u64;
            capacity.push(largest.min(LARGEST as u64) as u32);
        }
        let room = length.min(capacity[capacity.len() - 1] as usize);
        // Room of up to 3 tokens may hold one digit, and a third of all tokens at least are digits.
        let digits = room.div_ceil(9).max(2);
        let shape = Shape { length, labels: 1, chance: 0.1, bits: digits as f64 * 10_f64.log2() };
        Ok((shape, Plan { length: length as u32, arguments: arguments as u32, capacity, depth }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, frames: &mut Vec<Frame>, out: &mut Example) {
        frames.clear();
        let tokens = &mut out.tokens;
        let mut room = plan.length.min(plan.capacity(plan.depth));
        // Tokens that nobody has taken yet.
        let mut spare = plan.length - room;
        let value = loop {
            let depth = plan.depth - frames.len();
            let mut value = if depth > 0 && room >= 4 {
                let within = room - 2;
                let fewest = within.div_ceil(plan.capacity(depth - 1)).max(2);
                let choices = plan.arguments.min(within) - fewest + 1;
                let operator = stream.below(4);
                let left = fewest + if choices > 1 { stream.below(choices) } else { 0 };
                tokens.push(FIRST_OPERATOR + operator);
                frames.push(Frame { operator, left, room: within, counts: [0; 10] });
                None
            } else {
                spare += room - 1;
                let digit = stream.below(10);
                tokens.push(digit);
                Some(digit)
            };
            // Closes what is complete.
            while let (Some(argument), Some(frame)) = (value, frames.last_mut()) {
                frame.counts[argument as usize] += 1;
                value = None;
                if frame.left == 0 {
                    tokens.push(CLOSE);
                    value = Some(frame.value());
                    frames.pop();
                }
            }
            let depth = plan.depth - frames.len();
            let Some(frame) = frames.last_mut() else { break value.unwrap_or_default() };
            let most = plan.capacity(depth);
            let fewest = (u64::from(frame.left - 1) * u64::from(most)).min(u64::from(frame.room)) as u32;
            let (low, high) = ((frame.room - fewest).max(1), most.min(frame.room - (frame.left - 1)));
            let high = high.min(low.max((2 * frame.room / frame.left).saturating_sub(1)));
            let planned = if high > low { low + stream.below(high - low + 1) } else { low };
            frame.left -= 1;
            frame.room -= planned;
            room = (planned + spare).min(most);
            spare -= room - planned;
        };
        let blanks = plan.length as usize - tokens.len();
        tokens.resize(plan.length as usize, BLANK);
        tokens.rotate_right(blanks);
        out.ask(value, blanks as u32);
    }

    fn describe_token(&self, token: u32) -> String {
        if token < FIRST_OPERATOR { token.to_string() } else { self.alphabet().describe(token) }
    }
}

#[cfg(test)]
mod tests;
