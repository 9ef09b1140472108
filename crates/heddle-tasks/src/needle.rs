//! Needles in a haystack: does a model find the few facts it is asked for in a long sequence of other things?
//!
//! Needles, each a key and a value of several tokens, lie scattered in a haystack that means nothing or that consists of
//! further needles. The sequence ends with questions: for each, a key, behind which the model is to say the values that
//! the haystack gives it.
//!
//! Source: Hsieh et al., "RULER: What's the Real Context Size of Your Long-Context Language Models?", arXiv:2404.06654,
//! section 3 and appendix B, after Kamradt's needle in a haystack (2023). Theirs is English text for pretrained models;
//! this is the same in tokens, for a model trained on it.
//!
//! # Layout
//! With length L; `noise_vocab` 8, `key_vocab` 4, `value_vocab` 4, `length` 23, `keys` 2 and all else the default:
//!
//! ```text
//! position   0   1   2   3   4 │ 5   6   7   8 │ 9  10  11  12  13 │14 … 18 │19  20  21  22
//! token     16   8  10  15  15 │ 6   4   1   4 │16  10   8  14  12 │ 5 …  6 │17   8  10  15
//!           needle k₁ v₁       │ noise         │needle k₂ v₂       │ noise  │query k₁ v₁
//! label                        │               │                   │        │        15  15
//! evidence                     │               │                   │        │         3   4
//! ```
//!
//! - A needle is 1 + `key_digits` + `value_digits` tokens: the token "needle", a key and a value, digit by digit. There
//!   are `keys`·`values` of them: `values` for each of `keys` keys. All keys differ; all value digits are independent
//!   and uniform.
//! - The haystack: the needles in random order, at random places that do not overlap, all such choices being equally
//!   likely, and between them noise, or text, or further needles with one value and a key of their own each. What is left
//!   beside those, less than a needle, is noise.
//! - With a `depth`, the needles that are asked for stand side by side, in random order, behind the share `depth` of the
//!   rest of the haystack, or up to a needle earlier where another one would be cut.
//! - The questions: for each of `queries` keys, the token "query", the key, and then its values in the order in which the
//!   haystack gives them. Each digit is asked at the token before it; its evidence is the same digit in the haystack. The
//!   last digit is asked for and not written.
//!
//! Therefore keys·values·(1 + key_digits + value_digits) + queries·(1 + key_digits + values·value_digits) − 1 ≤ L.
//!
//! # Haystack
//! - `noise`: uniform over the noise tokens.
//! - `text`: a fixed Markov chain over the noise tokens, in which few tokens are frequent and each is mostly followed by
//!   one of eight: a model can predict much of it, and a needle is what it cannot.
//! - `needles`: needles only.
//!
//! # Probes of RULER
//! | probe | haystack | keys | values | queries | digits |
//! |---|---|---|---|---|---|
//! | single 1 | noise | 1 | 1 | 1 | few |
//! | single 2 | text | 1 | 1 | 1 | few |
//! | single 3 | text | 1 | 1 | 1 | many to a value |
//! | multi-key 1 | text | 4 | 1 | 1 | few |
//! | multi-key 2 | needles | 1 | 1 | 1 | few |
//! | multi-key 3 | needles | 1 | 1 | 1 | many to a key and to a value |
//! | multi-value | text | 1 | 4 | 1 | few |
//! | multi-query | text | 4 | 1 | 4 | few |
//!
//! Many are 32 there, of 16 symbols each. A sequence counts as right there if all answers are: the score of whole
//! sequences.
//!
//! # Vocabulary
//! Noise is 0 … `noise_vocab` − 1; the digits of keys, those of values, "needle" and "query" follow.
//!
//! # Chance
//! 1/`value_vocab` for each digit.

mod knobs;
#[cfg(test)]
mod tests;

pub(crate) use knobs::key_space;
pub use knobs::{Haystack, Knobs};
use serde::{Deserialize, Serialize};

use crate::alphabet::check_parts;
use crate::haystack::{Source, scatter, start_at};
use crate::recipe::{Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::sampling::{Distinct, SparseDistinct};
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the needle task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let multi_query = json!({"train": [{"length": 256, "haystack": "text", "keys": 4, "queries": 4}]});
/// let task = TaskRegistry::builtin().build("needle", &multi_query)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// assert_eq!(example.labels.len(), 4 * 2);
/// for label in &example.labels {
///     assert_eq!(example.tokens[label.evidence as usize], label.target);
/// }
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Needle {
    /// The number of tokens of noise and text.
    pub noise_vocab: usize,
    /// The number of digits that keys are made of.
    pub key_vocab: usize,
    /// The number of digits that values are made of.
    pub value_vocab: usize,
}

impl Default for Needle {
    fn default() -> Self {
        Self { noise_vocab: 30, key_vocab: 16, value_vocab: 16 }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    source: Source,
    /// Tokens before the questions.
    haystack: u32,
    /// Keys and needles, those of the haystack included.
    keys: u32,
    needles: u32,
    /// Keys with `values` values; the others have one.
    planted: u32,
    values: u32,
    queries: u32,
    key_digits: u32,
    value_digits: u32,
    /// The number of keys that there are.
    key_space: u64,
    depth: Option<f64>,
}

/// Memory that a thread reuses.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Scratch {
    sparse: SparseDistinct,
    distinct: Distinct,
    /// The number of each key, its digits being those of the number.
    keys: Vec<u64>,
    /// At each needle, by rising position, its key and where it starts.
    owners: Vec<u32>,
    starts: Vec<u32>,
    /// For each key asked for, `values` places: where its values start.
    found: Vec<u32>,
    /// For each key asked for, how many of those are known.
    known: Vec<u32>,
}

impl Recipe for Needle {
    const INFO: TaskInfo = TaskInfo {
        kind: "needle",
        title: "Needles in a haystack",
        doc: "Needles, each a key and a value of several tokens, lie scattered in a haystack of noise, of text-like tokens \
              or of further needles; the sequence ends with keys, behind which the model is to say their values. Numbers \
              of keys, of values for a key and of questions make it any of RULER's eight needle probes.",
        settings: &[
            SettingInfo {
                key: "noise_vocab",
                default: "30",
                meaning: "number of tokens of noise and text; they come first in the vocabulary",
                range: "1 to 16777216",
            },
            SettingInfo {
                key: "key_vocab",
                default: "16",
                meaning: "number of digits that keys are made of; they follow the noise",
                range: "2 to 16777216",
            },
            SettingInfo {
                key: "value_vocab",
                default: "16",
                meaning: "number of digits that values are made of; they follow those of keys, then come the two markers",
                range: "2 to 16777216",
            },
            train_setting(
                "[{\"length\": 256, \"haystack\": \"noise\", \"keys\": 1, \"values\": 1, \"queries\": 1, \
                 \"key_digits\": 2, \"value_digits\": 2, \"depth\": null, \"weight\": 1.0}]",
                "{length, haystack (noise, text or needles), keys, values of each, queries, key_digits, value_digits, depth \
                 (0 to 1, or null: any)}: keys·values·(1 + key_digits + value_digits) + queries·(1 + key_digits + \
                 values·value_digits) − 1 ≤ length ≤ 16777216, queries ≤ keys, and enough keys of so many digits",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / value_vocab for each digit of a value",
        source: "Hsieh et al. 2024, arXiv:2404.06654 (RULER), with tokens in place of English text",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = Scratch;

    fn default_train() -> Vec<Knobs> {
        let haystack = Haystack::default();
        vec![Knobs {
            length: 256,
            haystack,
            keys: 1,
            values: 1,
            queries: 1,
            key_digits: 2,
            value_digits: 2,
            depth: None,
        }]
    }

    fn alphabet(&self) -> Alphabet {
        let [noise, key, value] = [self.noise_vocab, self.key_vocab, self.value_vocab].map(|size| size as u32);
        Alphabet::of([("noise", noise), ("key digit", key), ("value digit", value), ("needle", 1), ("query", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        let parts = [("noise_vocab", self.noise_vocab, 1), ("key_vocab", self.key_vocab, 2)];
        check_parts([parts[0], parts[1], ("value_vocab", self.value_vocab, 2)], 2)
    }

    fn plan(&self, _: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        knobs.check()?;
        let Knobs { length, keys: planted, values, queries, key_digits, value_digits, depth, .. } = *knobs;
        let width = 1 + key_digits + value_digits;
        let haystack = length - knobs.questions() as usize;
        let needles = if knobs.haystack == Haystack::Needles { haystack / width } else { planted * values };
        let keys = planted + needles - planted * values;
        let key_space = key_space(("key_vocab", self.key_vocab), ("key_digits", key_digits), ("keys", keys))?;
        let size = self.noise_vocab as u32;
        let source = if knobs.haystack == Haystack::Text { Source::text(size) } else { Source::noise(size) };
        let base = self.value_vocab as f64;
        // Keys in the order of the haystack, values and noise; where the needles stand adds more.
        let bits = (haystack - needles * width) as f64 * source.bits()
            + keys as f64 * ((key_space - keys as u64 + 1) as f64).log2()
            + (needles * value_digits) as f64 * base.log2();
        let shape = Shape { length, labels: queries * values * value_digits, chance: 1.0 / base, bits };
        let [haystack, keys, needles, planted] = [haystack, keys, needles, planted].map(|n| n as u32);
        let [values, queries, key_digits, value_digits] = [values, queries, key_digits, value_digits].map(|n| n as u32);
        let plan = Plan {
            source,
            haystack,
            keys,
            needles,
            planted,
            values,
            queries,
            key_digits,
            value_digits,
            key_space,
            depth,
        };
        Ok((shape, plan))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, scratch: &mut Scratch, out: &mut Example) {
        let first_value = (self.noise_vocab + self.key_vocab) as u32;
        let value_vocab = self.value_vocab as u32;
        let needle = first_value + value_vocab;
        let query = needle + 1;
        scratch.sparse.draw(plan.key_space, plan.keys, stream, &mut scratch.keys);
        plan.place(stream, scratch);

        let Scratch { keys, owners, starts, found, known, .. } = scratch;
        known.clear();
        known.resize(plan.queries as usize, 0);
        found.clear();
        found.resize((plan.queries * plan.values) as usize, 0);
        let mut source = plan.source.clone();
        for (start, owner) in starts.iter().zip(owners.iter()) {
            source.fill(*start, stream, &mut out.tokens);
            out.tokens.push(needle);
            self.write_key(keys[*owner as usize], plan.key_digits, out);
            if let Some(known) = known.get_mut(*owner as usize) {
                found[(owner * plan.values + *known) as usize] = out.tokens.len() as u32;
                *known += 1;
            }
            out.tokens.extend((0..plan.value_digits).map(|_| first_value + stream.below(value_vocab)));
        }
        source.fill(plan.haystack, stream, &mut out.tokens);

        for (key, found) in keys.iter().zip(found.chunks(plan.values as usize)) {
            out.tokens.push(query);
            self.write_key(*key, plan.key_digits, out);
            for evidence in found.iter().flat_map(|start| *start..*start + plan.value_digits) {
                let digit = out.tokens[evidence as usize];
                out.ask(digit, evidence);
                out.tokens.push(digit);
            }
        }
        out.tokens.pop();
    }
}

impl Needle {
    /// Appends the digits of a key, the highest first.
    fn write_key(&self, key: u64, digits: u32, out: &mut Example) {
        let (first, base) = (self.noise_vocab as u32, self.key_vocab as u64);
        let start = out.tokens.len();
        out.tokens.resize(start + digits as usize, first);
        let mut rest = key;
        for token in out.tokens[start..].iter_mut().rev() {
            *token += (rest % base) as u32;
            rest /= base;
        }
    }
}

impl Plan {
    /// Draws where each needle starts and whose it is: the keys asked for are 0 … queries − 1, the keys that were planted
    /// come next and those of the haystack last.
    fn place(&self, stream: &mut Stream, scratch: &mut Scratch) {
        let Scratch { distinct, owners, starts, .. } = scratch;
        let width = 1 + self.key_digits + self.value_digits;
        owners.clear();
        owners.extend((0..self.planted).flat_map(|key| (0..self.values).map(move |_| key)));
        owners.extend(self.planted..self.keys);
        let Some(depth) = self.depth else {
            shuffle(owners, stream);
            return scatter((self.needles, width), self.haystack, stream, distinct, starts);
        };
        // The others are scattered over what the block of those asked for leaves; then the block is pushed in.
        let asked = self.queries * self.values;
        let block = asked * width;
        let (of_block, others) = owners.split_at_mut(asked as usize);
        shuffle(of_block, stream);
        shuffle(others, stream);
        scatter((self.needles - asked, width), self.haystack - block, stream, distinct, starts);
        let wanted = start_at(depth, block, self.haystack);
        let before = starts.partition_point(|start| start + width <= wanted);
        let start = starts.get(before).map_or(wanted, |next| wanted.min(*next));
        starts[before..].iter_mut().for_each(|start| *start += block);
        starts.extend((0..asked).map(|i| start + i * width));
        starts[before..].rotate_right(asked as usize);
        owners[..before + asked as usize].rotate_left(asked as usize);
    }
}

/// Puts the items in random order (Fisher–Yates).
fn shuffle(items: &mut [u32], stream: &mut Stream) {
    for last in (1..items.len()).rev() {
        items.swap(last, stream.below(last as u32 + 1) as usize);
    }
}
