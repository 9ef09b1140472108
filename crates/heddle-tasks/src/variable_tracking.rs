//! Variable tracking: can a model follow which names stand for one value?
//!
//! Statements are scattered in noise: a variable is given a value, another is set to that variable, a third to the
//! second, and so on. Asked are all variables that have a given value. Other chains of the same kind may distract.
//!
//! Source: Hsieh et al., "RULER: What's the Real Context Size of Your Long-Context Language Models?", arXiv:2404.06654,
//! section 3, task VT (1 chain, 4 hops).
//!
//! # Layout
//! With length L, C chains and H hops; `variables` 8, `values` 4, `noise` 4, `length` 24, `chains` 2, `hops` 1:
//!
//! ```text
//! position   0   1   2   3   4   5   6   7   8   9  10  11  12  13  14  15  16  17  18  19  20  21  22  23
//! token     14  13  15  15   2  16  10  12  14  13   0  16  11   1  16   2   4  16   0  13  13  17  10   2
//! label                                                                                              2   1
//! evidence                                                                                           4  13
//! ```
//!
//! - A statement is three tokens: a variable, the equals sign, and a value or a variable. A chain is H + 1 of them, in
//!   order: X₁ = value, X₂ = X₁, …, X_{H+1} = X_H.
//! - All C·(H + 1) statements stand before the question, all choices of places being equally likely, and so are all
//!   interleavings of the chains. No two variables are the same, nor two values. The rest is uniform noise.
//! - The question: the query token, the value of one chain, then X₁ … X_{H+1}; the last is only predicted, not given.
//! - The evidence of a name is where it is assigned: the first token of its statement.
//!
//! Therefore 3·C·(H + 1) + H + 2 ≤ L.
//!
//! # Order of the answers
//! The answers are all right in any order where a text is matched; where the next token is scored, an order must be told.
//! It is the order of the chain, which is that of the statements. Each answer is thus one look-up from the one before:
//! what must be done in one pass is the subject of [`multi_hop`](crate::multi_hop).
//!
//! # Vocabulary
//! Variables from 0, then values, then noise, then the equals sign and the query token.
//!
//! # Chance
//! 1/variables: an even guess among all variables of the vocabulary.
//!
//! # Differences from the source
//! There statements, noise and question are English. Chains are interleaved by a random priority queue there, evenly here.

use serde::{Deserialize, Serialize};

use crate::error::{require, require_between};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::sampling::{Distinct, shuffle};
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the variable tracking task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("variable_tracking", &serde_json::Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// assert_eq!(example.labels.len(), 5);
/// for label in &example.labels {
///     // What the name is set to is what stands before the answer: the value, or the name before.
///     let statement = label.evidence as usize;
///     assert_eq!(example.tokens[statement + 2], example.tokens[label.position as usize]);
/// }
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VariableTracking {
    /// Names in the vocabulary.
    pub variables: usize,
    /// Values in the vocabulary.
    pub values: usize,
    /// Noise tokens in the vocabulary.
    pub noise: usize,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("variable_tracking", &json!({"train": [{"length": 64, "chains": 2, "hops": 3}]}))?;
/// // Four names of a chain are asked for, and twice as many are set.
/// assert_eq!(task.slices(Split::Train)[0].labels, 4);
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let set = example.tokens.iter().filter(|token| task.describe_token(**token) == "=").count();
/// assert_eq!(set, 8);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Chains of statements, C.
    #[serde(default = "one")]
    pub chains: usize,
    /// Statements of a chain that set a variable to a variable, H.
    #[serde(default = "four")]
    pub hops: usize,
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

impl Default for VariableTracking {
    fn default() -> Self {
        Self { variables: 64, values: 32, noise: 32 }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    /// Positions before the question.
    context: u32,
    chains: u32,
    /// Statements of a chain.
    links: u32,
}

/// Memory that a thread reuses.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Scratch {
    distinct: Distinct,
    names: Vec<u32>,
    values: Vec<u32>,
    places: Vec<u32>,
    /// The chain of each statement.
    turns: Vec<u32>,
    /// Statements of each chain so far.
    told: Vec<u32>,
    evidence: Vec<u32>,
}

impl Recipe for VariableTracking {
    const INFO: TaskInfo = TaskInfo {
        kind: "variable_tracking",
        title: "Variable tracking",
        doc: "Statements scattered in noise give a variable a value, set a second variable to the first, a third to the \
              second, and so on; the model is to name every variable that has a given value, in the order in which they \
              got it. Other chains of statements distract.",
        settings: &[
            SettingInfo { key: "variables", default: "64", meaning: "names in the vocabulary", range: "1 to 16777216" },
            SettingInfo { key: "values", default: "32", meaning: "values in the vocabulary", range: "1 to 16777216" },
            SettingInfo {
                key: "noise",
                default: "32",
                meaning: "noise tokens in the vocabulary, which is variables + values + noise + 2; 1 repeats one token",
                range: "1 to 16777216",
            },
            train_setting(
                "[{\"length\": 64, \"chains\": 1, \"hops\": 4, \"weight\": 1.0}]",
                "{length, chains (default 1), hops (default 4)}: chains ≤ values, chains·(hops + 1) ≤ variables, \
                 3·chains·(hops + 1) + hops + 2 ≤ length ≤ 16777216",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / variables: an even guess among all names",
        source: "Hsieh et al. 2024, arXiv:2404.06654, task VT, in tokens instead of English; names in the chain's order",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = Scratch;

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 64, chains: 1, hops: 4 }]
    }

    fn alphabet(&self) -> Alphabet {
        let [variables, values, noise] = [self.variables, self.values, self.noise].map(|n| n as u32);
        Alphabet::of([("variable", variables), ("value", values), ("noise", noise), ("=", 1), ("query", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require_between(self.variables, "variables", 1, LARGEST)?;
        require_between(self.values, "values", 1, LARGEST)?;
        require_between(self.noise, "noise", 1, LARGEST)
    }

    fn plan(&self, _: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let Knobs { length, chains, hops } = *knobs;
        require_between(length, "length", 1, LARGEST)?;
        require_between(chains, "chains", 1, self.values)?;
        require_between(hops, "hops", 0, LARGEST)?;
        let links = hops + 1;
        // Both are at most 2²⁴ + 1, and a product of 64 bits holds them.
        let statements = chains as u64 * links as u64;
        require(statements <= self.variables as u64, "hops", "chains·(hops + 1) ≤ variables", || {
            let found = format!("chains {chains}, hops {hops}, variables {}", self.variables);
            (found, format!("use fewer chains or hops, or at least {statements} variables"))
        })?;
        let statements = statements as usize;
        let least = 3 * statements + links + 1;
        require(least <= length, "length", "3·chains·(hops + 1) + hops + 2 ≤ length", || {
            let found = format!("length {length}, chains {chains}, hops {hops}");
            (found, format!("use a length of at least {least}, or fewer chains or hops"))
        })?;
        let names: f64 = (0..statements).map(|taken| ((self.variables - taken) as f64).log2()).sum();
        let noise = (length - least) as f64 * (self.noise as f64).log2();
        let shape = Shape { length, labels: links, chance: 1.0 / self.variables as f64, bits: names + noise };
        let context = (length - links - 1) as u32;
        Ok((shape, Plan { context, chains: chains as u32, links: links as u32 }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, scratch: &mut Scratch, out: &mut Example) {
        let Scratch { distinct, names, values, places, turns, told, evidence } = scratch;
        let Plan { context, chains, links } = *plan;
        let [variables, values_end, noise] =
            [self.variables, self.variables + self.values, self.noise].map(|n| n as u32);
        let (equals, query) = (values_end + noise, values_end + noise + 1);
        let statements = chains * links;
        distinct.draw(variables, statements, stream, names);
        distinct.draw(values_end - variables, chains, stream, values);
        // A statement takes three positions: places without its further two, spread by two each.
        distinct.draw(context - 2 * statements, statements, stream, places);
        places.sort_unstable();
        turns.clear();
        turns.extend((0..statements).map(|statement| statement / links));
        shuffle(turns, stream);
        told.clear();
        told.resize(chains as usize, 0);
        evidence.clear();

        for ((place, before), chain) in places.iter().zip(0..).zip(turns.iter()) {
            let at = (place + 2 * before) as usize;
            out.tokens.extend((out.tokens.len()..at).map(|_| values_end + stream.below(noise)));
            let link = told[*chain as usize];
            told[*chain as usize] += 1;
            let name = (chain * links + link) as usize;
            let right = if link == 0 { variables + values[*chain as usize] } else { names[name - 1] };
            out.tokens.extend([names[name], equals, right]);
            // The first chain is asked for; its place among the others is chance enough.
            if *chain == 0 {
                evidence.push(at as u32);
            }
        }
        out.tokens.extend((out.tokens.len()..context as usize).map(|_| values_end + stream.below(noise)));
        out.tokens.extend([query, variables + values[0]]);
        for (name, evidence) in names.iter().zip(evidence.iter()) {
            out.ask(*name, *evidence);
            out.tokens.push(*name);
        }
        out.tokens.pop();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Task;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, build, examine, message, shows};

    /// The token of this description.
    fn token(task: &dyn Task, name: &str) -> u32 {
        (0..task.vocab() as u32).rev().find(|token| task.describe_token(*token) == name).unwrap()
    }

    /// What is set to the value asked for, what is set to that, … as many times as names were given and once more.
    fn oracle(task: &dyn Task, tokens: &[u32]) -> u32 {
        let (query, equals) = (token(task, "query"), token(task, "="));
        let asked = tokens.iter().rposition(|found| *found == query).unwrap_or(0);
        let set_to = |right: u32| {
            let mut statements = tokens[..asked].windows(3).filter(|window| window[1] == equals);
            statements.find(|window| window[2] == right).map(|window| window[0])
        };
        let value = tokens.get(asked + 1).copied().unwrap_or(0);
        (asked + 1..tokens.len()).try_fold(value, |right, _| set_to(right)).unwrap_or(0)
    }

    #[test]
    fn it_is_what_it_says() {
        examine::<VariableTracking>(&Examined {
            settings: json!({"train": [{"length": 40, "hops": 3}, {"length": 64, "chains": 4, "hops": 2}]}),
            at_length: |length| json!({"train": [{"length": length, "chains": 3}]}),
            golden: "4cd5556c63b0b218",
            oracle,
            guess: |_, stream| stream.below(64),
        });
    }

    #[test]
    fn the_page_shows_an_example() {
        let train = json!([{"length": 24, "chains": 2, "hops": 1}]);
        let settings = json!({"variables": 8, "values": 4, "noise": 4, "train": train});
        shows(include_str!("variable_tracking.rs"), "variable_tracking", settings);
    }

    #[test]
    fn chains_are_interleaved_and_statements_placed_evenly() {
        // Two chains of two statements with room for one token of noise: 6 interleavings, 5 places of the noise.
        let settings = json!({"train": [{"length": 16, "chains": 2, "hops": 1}]});
        let task = build("variable_tracking", settings);
        let (mut orders, mut gaps, mut example) = ([0; 6], [0; 5], Example::default());
        for index in 0..6000 {
            task.example(Split::Train, 0, 0, index, &mut example);
            let gap = example.tokens[..13].iter().position(|token| (96..128).contains(token)).unwrap();
            gaps[gap / 3] += 1;
            let statement = |label: usize| {
                let at = example.labels[label].evidence as usize;
                (at - usize::from(at > gap)) / 3
            };
            let pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
            orders[pairs.iter().position(|pair| *pair == (statement(0), statement(1))).unwrap()] += 1;
        }
        assert!(chi_square_p_value(&orders, &[1.0 / 6.0; 6]) > 1e-6, "{orders:?}");
        assert!(chi_square_p_value(&gaps, &[0.2; 5]) > 1e-6, "{gaps:?}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let train = |knobs| message("variable_tracking", json!({"train": [knobs]}));
        assert_eq!(
            train(json!({"length": 20})),
            "setting 'train[0].length': 3·chains·(hops + 1) + hops + 2 ≤ length fails (length 20, chains 1, hops 4): \
             use a length of at least 21, or fewer chains or hops"
        );
        assert_eq!(
            train(json!({"length": 512, "chains": 13})),
            "setting 'train[0].hops': chains·(hops + 1) ≤ variables fails (chains 13, hops 4, variables 64): use fewer \
             chains or hops, or at least 65 variables"
        );
        assert_eq!(
            train(json!({"length": 512, "chains": 33})),
            "setting 'train[0].chains': 1 ≤ chains ≤ 32 fails (chains 33): use at most 32"
        );
        for key in ["length", "chains", "hops"] {
            let mut knobs = json!({"length": 64});
            knobs[key] = json!(usize::MAX);
            assert!(train(knobs).starts_with(&format!("setting 'train[0].{key}'")), "{key}");
        }
        for key in ["variables", "values", "noise"] {
            for number in [0, usize::MAX] {
                let message = message("variable_tracking", json!({key: number}));
                assert!(message.starts_with(&format!("setting '{key}'")), "{message}");
            }
        }
    }
}
