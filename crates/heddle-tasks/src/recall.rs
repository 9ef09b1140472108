//! Three harder forms of multi-query associative recall: keys that are bound anew, keys of two tokens, and a context that
//! is stated several times.
//!
//! As in [`mqar`](crate::mqar), a sequence states K pairs of a key and a value and then repeats every key once, at
//! scattered positions; at each repeated key the model is to predict its value. What is stated differs:
//!
//! - `forgetting_recall` ([`Forgetting`]): behind the pairs, U of the keys are stated again with another value, and the
//!   last value counts. A state that only adds up pairs answers with a mixture of both; one that can erase does not.
//! - `compositional_recall` ([`Compositional`]): a key is two tokens. The K = m² keys are all combinations of m first
//!   tokens with m second ones, so neither token alone tells the value: the model has to bind both.
//! - `multi_pass_recall` ([`MultiPass`]): the pairs are stated P times, in the same order. A recurrent model that cannot
//!   know in the first pass what to keep sees it again ("just read twice").
//!
//! Source: the generators published beside Arora, Eyuboglu et al., "Zoology", arXiv:2312.04927; for several passes Arora
//! et al., "Just read twice: closing the recall gap for recurrent language models", arXiv:2407.05483.
//!
//! # Layout
//! `forgetting_recall` with `vocab` 16, `filler` "zero", `length` 14, `pairs` 2, `updates` 1:
//!
//! ```text
//! position   0   1   2   3 │ 4   5 │ 6   7   8   9  10  11  12  13
//! token      2  10   7  12 │ 7  15 │ 7   0   0   0   0   0   2   0
//!           k₁  v₁  k₂  v₂ │k₂  v₂'│k₂                      k₁
//! label                    │       │15                      10
//! evidence                 │       │ 5                       1
//! ```
//!
//! `compositional_recall` with `vocab` 18, `filler` "zero", `length` 25, `pairs` 4:
//!
//! ```text
//! position   0   1   2   3   4   5   6   7   8   9  10  11 │12  13  14  15  16  17  18  19  20  21  22  23  24
//! token      5  11  17   3   9  15   5   9  12   3  11  13 │ 5   9   0   3  11   0   3   9   0   5  11   0   0
//!           a₁  b₁  v₁  a₂  b₂  v₂  a₁  b₂  v₃  a₂  b₁  v₄ │a₁  b₂      a₂  b₁      a₂  b₂      a₁  b₁
//! label                                                    │    12          13          15          17
//! evidence                                                 │     8          11           5           2
//! ```
//!
//! `multi_pass_recall` with `vocab` 16, `filler` "zero", `length` 14, `pairs` 2, `passes` 2:
//!
//! ```text
//! position   0   1   2   3   4   5   6   7 │ 8   9  10  11  12  13
//! token      4  10   7  13   4  10   7  13 │ 4   0   0   0   7   0
//!           k₁  v₁  k₂  v₂  k₁  v₁  k₂  v₂ │k₁              k₂
//! label                                    │10              13
//! evidence                                 │ 5               7
//! ```
//!
//! - With keys of w tokens (2 for compositional recall, else 1) a statement is w + 1 tokens. The context is the P·K
//!   statements of the passes and then the U updates, of distinct keys in random order.
//! - The rest is slots of w + 1 positions, and less than a slot of filler. Keys take slots by the law of
//!   [`mqar`](crate::mqar#layout) with its exponent `power_a`, in the order in which they are stated.
//! - One label at the last token of each query; its evidence is the value that counts, at its last statement.
//!
//! Therefore (w + 1)·(passes·pairs + updates + pairs) ≤ L.
//!
//! # Vocabulary
//! | kind | blank | keys | values |
//! |---|---|---|---|
//! | one token a key | 0 | 1 … ⌊V/2⌋ − 1 | ⌊V/2⌋ … V − 1 |
//! | two tokens a key, t = ⌊V/3⌋ | 0 | first 1 … t − 1, second t … 2t − 1 | 2t … V − 1 |
//!
//! Keys and the values first stated are distinct and otherwise uniform; a new value is uniform among all but the old one
//! of its key.
//!
//! # Filler
//! As in [`mqar`](crate::mqar#filler); "disjoint" leaves out every token of a key of the sequence.
//!
//! # Chance
//! An even guess among the values: 1/(V − ⌊V/2⌋), and 1/(V − 2⌊V/3⌋) for keys of two tokens. Plateaus on the way: about
//! 1/K for some value of the context; 1/m for the value of one of the keys that share a token; with U = K, a half for
//! either value of the right key.
//!
//! # Differences from the authors' data
//! Theirs compare a new value with the old one of another key, so that a key may be bound to its old value again; ours
//! differ always. Theirs ask for V > L and an even L; nothing here depends on either.

#[cfg(test)]
mod tests;
mod variants;

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
pub use variants::{Compositional, Forgetting, MultiPass, PassKnobs, PlainKnobs, UpdateKnobs};

use crate::error::{require, require_between};
use crate::haystack::fewer_or_longer;
use crate::mqar::{Filler, Queries, QueryScratch, check_power, slot_law};
use crate::recipe::{LARGEST, Recipe, Shape};
use crate::sampling::Distinct;
use crate::stream::Stream;
use crate::{Alphabet, Example, Split, TaskError, TaskInfo};

/// One form of the task: what it is called, its knobs, and what they state.
///
/// A form that is not among the three, with a context read twice and then half of it bound anew:
///
/// ```
/// use heddle_tasks::recall::{PlainKnobs, Recall, Stated, Variant};
/// use heddle_tasks::{Segmented, Split, TaskInfo, TaskSettings};
///
/// #[derive(Clone, Debug, Default, PartialEq)]
/// struct TwiceThenAnew;
///
/// impl Variant for TwiceThenAnew {
///     const INFO: TaskInfo = TaskInfo {
///         kind: "twice_then_anew",
///         title: "Recall of bindings that were learned well, then changed",
///         doc: "",
///         settings: &[],
///         chance: "1 / (V − ⌊V/2⌋)",
///         source: "",
///     };
///     const WIDTH: usize = 1;
///     type Knobs = PlainKnobs;
///
///     fn default_knobs() -> PlainKnobs {
///         PlainKnobs { length: 64, pairs: 6 }
///     }
///     fn stated(&PlainKnobs { length, pairs }: &PlainKnobs) -> Stated {
///         Stated { length, pairs, passes: 2, updates: pairs / 2 }
///     }
/// }
///
/// let task = Segmented::<Recall<TwiceThenAnew>>::default().build()?;
/// assert_eq!(task.slices(Split::Train)[0].labels, 6);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
pub trait Variant: Clone + Debug + Default + PartialEq + Send + Sync + 'static {
    /// What the task is.
    const INFO: TaskInfo;
    /// Tokens of a key, 1 or 2; keys of two form a grid.
    const WIDTH: usize;
    /// What sets one slice apart.
    type Knobs: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The slice trained on unless the settings say otherwise.
    fn default_knobs() -> Self::Knobs;

    /// What a slice states.
    fn stated(knobs: &Self::Knobs) -> Stated;
}

/// The measures of a context.
///
/// ```
/// use heddle_tasks::recall::{MultiPass, PassKnobs, Stated, Variant};
///
/// let stated = MultiPass::stated(&PassKnobs { length: 64, pairs: 4, passes: 3 });
/// assert_eq!(stated, Stated { length: 64, pairs: 4, passes: 3, updates: 0 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stated {
    /// Tokens per example, L.
    pub length: usize,
    /// Keys, K.
    pub pairs: usize,
    /// How often every pair is stated, P.
    pub passes: usize,
    /// Keys stated once more with another value, U.
    pub updates: usize,
}

/// The settings of a form of the task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let settings = json!({"vocab": 64, "train": [{"length": 64, "pairs": 8, "updates": 4}]});
/// let task = TaskRegistry::builtin().build("forgetting_recall", &settings)?;
/// let mut example = Example::default();
/// task.example(Split::Train, 0, 42, 0, &mut example);
/// let updated = example.labels.iter().filter(|label| label.evidence >= 2 * 8).count();
/// assert_eq!((example.labels.len(), updated), (8, 4));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
///
/// The segments on which compositional recall is published:
///
/// ```
/// use heddle_tasks::{Split, TaskRegistry};
/// use serde_json::{Value, json};
///
/// let list = |segments: &[(u32, u32)]| -> Vec<Value> {
///     segments.iter().map(|(length, pairs)| json!({"length": length, "pairs": pairs})).collect()
/// };
/// let mut train = list(&[(64, 4), (128, 9), (256, 16), (256, 25), (256, 36)]);
/// train[0]["weight"] = json!(5);
/// let test = list(&[(64, 4), (64, 9), (128, 16), (256, 36), (512, 64), (1024, 144), (2048, 256)]);
/// let settings = json!({"filler": "zero", "train": train, "test": test});
/// let task = TaskRegistry::builtin().build("compositional_recall", &settings)?;
/// assert_eq!(task.slices(Split::Test)[6].labels, 256);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, bound = "")]
pub struct Recall<V: Variant> {
    /// The vocabulary's size, V.
    pub vocab: usize,
    /// The exponent a of the law of the gap between the context and a query.
    pub power_a: f64,
    /// What stands where nothing is asked.
    pub filler: Filler,
    /// Which form it is.
    #[serde(skip)]
    pub variant: PhantomData<V>,
}

impl<V: Variant> Default for Recall<V> {
    fn default() -> Self {
        Self { vocab: 8192, power_a: 0.01, filler: Filler::default(), variant: PhantomData }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    pairs: u32,
    passes: u32,
    updates: u32,
    queries: Queries,
}

/// Memory that a thread reuses.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Scratch {
    distinct: Distinct,
    /// Second tokens, the order of a grid, or the keys to update.
    drawn: Vec<u32>,
    first: Vec<u32>,
    order: Vec<u32>,
    queries: QueryScratch,
}

impl<V: Variant> Recall<V> {
    /// The first value, and with keys of two tokens the first second token.
    fn bounds(&self) -> (u32, u32) {
        let vocab = self.vocab as u32;
        if V::WIDTH == 1 { (vocab / 2, vocab / 2) } else { (vocab / 3 * 2, vocab / 3) }
    }

    /// Draws the tokens of the keys in the order in which they are stated.
    fn draw_keys(&self, pairs: u32, stream: &mut Stream, scratch: &mut Scratch) {
        let Scratch { distinct, drawn, first, order, queries } = scratch;
        let (first_value, second) = self.bounds();
        let keys = &mut queries.keys;
        if V::WIDTH == 1 {
            distinct.draw(first_value - 1, pairs, stream, keys);
            keys.iter_mut().for_each(|key| *key += 1);
            return;
        }
        let side = pairs.isqrt();
        distinct.draw(second - 1, side, stream, first);
        distinct.draw(second, side, stream, drawn);
        distinct.draw(pairs, pairs, stream, order);
        keys.clear();
        for cell in order.iter() {
            keys.extend([1 + first[(cell / side) as usize], second + drawn[(cell % side) as usize]]);
        }
    }

    /// Refuses numbers of keys and values that the vocabulary does not have.
    fn check_pairs(&self, pairs: usize) -> Result<(), TaskError> {
        let found = || format!("pairs {pairs}, vocab {}", self.vocab);
        let (first_value, second) = self.bounds();
        if V::WIDTH == 1 {
            let most = first_value as usize - 1;
            return require(pairs <= most, "pairs", "pairs ≤ vocab/2 − 1", || {
                (found(), format!("use at most {most} pairs or a vocab of at least {}", 2 * (pairs + 1)))
            });
        }
        let side = pairs.isqrt();
        require(side * side == pairs, "pairs", "pairs a square number", || {
            (found(), format!("use {} or {} pairs", side * side, (side + 1) * (side + 1)))
        })?;
        let most = second as usize - 1;
        require(side <= most, "pairs", "√pairs ≤ vocab/3 − 1", || {
            (found(), format!("use at most {} pairs or a vocab of at least {}", most * most, 3 * (side + 1)))
        })?;
        let values = self.vocab - first_value as usize;
        require(pairs <= values, "pairs", "pairs ≤ vocab/3", || {
            (found(), format!("use fewer pairs or a vocab of at least {}", 3 * pairs))
        })
    }

    fn check_context(&self, stated: Stated) -> Result<(), TaskError> {
        let Stated { length, pairs, passes, updates } = stated;
        require(length <= LARGEST, "length", format!("length ≤ {LARGEST}"), || {
            (format!("length {length}"), format!("use a length of at most {LARGEST}"))
        })?;
        for (name, number) in [("pairs", pairs), ("passes", passes)] {
            require_between(number, name, 1, LARGEST)?;
        }
        require(updates <= pairs, "updates", "updates ≤ pairs", || {
            (format!("updates {updates}, pairs {pairs}"), format!("use at most {pairs} updates"))
        })?;
        let width = V::WIDTH as u128 + 1;
        let least = width * (pairs as u128 * (passes as u128 + 1) + updates as u128);
        let rule = format!("{width}·(passes·pairs + updates + pairs) ≤ length");
        require(least <= length as u128, "length", rule, || {
            let found = format!("length {length}, pairs {pairs}, passes {passes}, updates {updates}");
            (found, fewer_or_longer(Some("fewer pairs".to_owned()), least))
        })
    }
}

impl<V: Variant> Recipe for Recall<V> {
    const INFO: TaskInfo = V::INFO;
    type Knobs = V::Knobs;
    type Plan = Plan;
    type Scratch = Scratch;

    fn default_train() -> Vec<V::Knobs> {
        vec![V::default_knobs()]
    }

    fn alphabet(&self) -> Alphabet {
        let (first_value, second) = self.bounds();
        let values = self.vocab as u32 - first_value;
        if V::WIDTH == 1 {
            Alphabet::of([("blank", 1), ("key", first_value - 1), ("value", values)])
        } else {
            Alphabet::of([("blank", 1), ("first key", second - 1), ("second key", second), ("value", values)])
        }
    }

    fn check(&self) -> Result<(), TaskError> {
        let least = 2 * (V::WIDTH + 1);
        require((least..=LARGEST).contains(&self.vocab), "vocab", format!("{least} ≤ vocab ≤ {LARGEST}"), || {
            (format!("vocab {}", self.vocab), "the published setting is 8192".to_owned())
        })?;
        check_power(self.power_a)
    }

    fn plan(&self, _: Split, knobs: &V::Knobs) -> Result<(Shape, Plan), TaskError> {
        let stated = V::stated(knobs);
        self.check_context(stated)?;
        let Stated { length, pairs, passes, updates } = stated;
        self.check_pairs(pairs)?;
        let (first_value, second) = self.bounds();
        let values = f64::from(self.vocab as u32 - first_value);
        // As many bits as the last draw without replacement for all of them; where the queries stand adds more.
        let distinct = |n: usize, of: u32| n as f64 * (f64::from(of) - n as f64 + 1.0).log2();
        let keys = match V::WIDTH {
            1 => distinct(pairs, first_value - 1),
            _ => distinct(pairs.isqrt(), second - 1) + distinct(pairs.isqrt(), second),
        };
        let bits = keys + distinct(pairs, self.vocab as u32 - first_value) + updates as f64 * (values - 1.0).log2();
        let context = (V::WIDTH + 1) * (passes * pairs + updates);
        let space = (length - context) / (V::WIDTH + 1);
        let queries = Queries {
            length: length as u32,
            width: V::WIDTH as u32,
            vocab: self.vocab as u32,
            filler: self.filler,
            slots: Arc::new(slot_law(space, self.power_a)),
        };
        let shape = Shape { length, labels: pairs, chance: 1.0 / values, bits };
        Ok((shape, Plan { pairs: pairs as u32, passes: passes as u32, updates: updates as u32, queries }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, scratch: &mut Scratch, out: &mut Example) {
        let Plan { pairs, passes, updates, .. } = *plan;
        let first_value = self.bounds().0;
        let numbers = self.vocab as u32 - first_value;
        self.draw_keys(pairs, stream, scratch);
        let Scratch { distinct, drawn, queries: QueryScratch { keys, values, evidence, .. }, .. } = scratch;
        distinct.draw(numbers, pairs, stream, values);
        values.iter_mut().for_each(|value| *value += first_value);
        evidence.clear();
        evidence.resize(pairs as usize, 0);
        let mut state = |pair: usize, value: u32| {
            out.tokens.extend_from_slice(&keys[V::WIDTH * pair..][..V::WIDTH]);
            evidence[pair] = out.tokens.len() as u32;
            out.tokens.push(value);
        };
        for _ in 0..passes {
            values.iter().enumerate().for_each(|(pair, value)| state(pair, *value));
        }
        distinct.draw(pairs, updates, stream, drawn);
        for pair in drawn.iter().map(|pair| *pair as usize) {
            let other = first_value + stream.below(numbers - 1);
            values[pair] = other + u32::from(other >= values[pair]);
            state(pair, values[pair]);
        }
        plan.queries.write(stream, &mut scratch.queries, out);
    }

    /// As in [`mqar`](crate::mqar), a token bears its own number, not its number among those of its role.
    fn describe_token(&self, token: u32) -> String {
        let (first_value, second) = self.bounds();
        match token {
            0 => "filler".to_owned(),
            key if V::WIDTH == 1 && key < first_value => format!("key {key}"),
            key if key < second => format!("first key {key}"),
            key if key < first_value => format!("second key {key}"),
            value if (value as usize) < self.vocab => format!("value {value}"),
            other => format!("{other} is no token of this vocabulary"),
        }
    }
}
