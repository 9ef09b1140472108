//! Copying: can a model repeat a string that it has just read?
//!
//! A string of random symbols is followed by a copy token and then by the string again, and each symbol of the copy is
//! to be predicted. A model with a state of fixed size can copy no more than the state holds; two layers of attention
//! can copy strings exponentially longer than their width, by finding the last few symbols in the string and reading one
//! on. That algorithm fails where the same few symbols stand in the string twice, so a slice may plant an n-gram twice.
//!
//! Source: Jelassi, Brandfonbrener, Kakade and Malach, "Repeat After Me: Transformers are Better than State Space Models
//! at Copying", arXiv:2402.01032, section 3.
//!
//! # Layout
//! With length L and a string of m symbols; `vocab` 11 (8 symbols), `length` 12, `shortest` 3, `longest` 5:
//!
//! ```text
//! position   0   1   2   3   4   5   6   7   8   9  10  11
//! token      8   3   1   1   6   9   3   1   1  10  10  10
//! label                          3   1   1   6
//! evidence                       1   2   3   4
//! ```
//!
//! - The start token, the string, the copy token, the string without its last symbol (which no position of the input
//!   needs, being only predicted), and blanks up to L.
//! - m is uniform over `shortest` … `longest`, symbols are uniform.
//! - With `duplicate` g, two stretches of g symbols that do not overlap are the same, the later one ending before the
//!   last symbol; all such pairs of places are equally likely, and the later stretch takes the symbols of the earlier.
//!
//! Therefore 2·longest + 1 ≤ L, and 2·duplicate + 1 ≤ shortest.
//!
//! # Strings of many lengths in slices of one
//! A slice has one length, a range of string lengths has many. Blanks fill the difference, and they stand behind the
//! copy: there no causal model sees them before its last answer, so its outputs are those of the bare string, whatever
//! its positions or its state. Blanks in front would shift every position and pass through every state; a slice for
//! each length would let each batch hold one length alone, which the source avoids.
//!
//! # Vocabulary
//! | token | role |
//! |---|---|
//! | 0 … V − 4 | symbols |
//! | V − 3 | start |
//! | V − 2 | copy |
//! | V − 1 | blank |
//!
//! # Chance
//! 1/(V − 3): an even guess among the symbols.
//!
//! # Differences from the authors' data
//! They train on sequences of 220 tokens packed with several examples; here each has one. They also ask for an end
//! token; here the end is not asked. Their duplicate is made by replacing every occurrence of one n-gram by another,
//! wherever these stand; here the two stretches never overlap and both are followed by a symbol.

use serde::{Deserialize, Serialize};

use crate::error::{require, require_between};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::stream::Stream;
use crate::{Alphabet, Example, Label, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the copying task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let settings = json!({"train": [{"length": 41, "shortest": 5, "longest": 20}], "test": [{"length": 201}]});
/// let task = TaskRegistry::builtin().build("copying", &settings)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// assert_eq!(example.labels.len(), 100);
/// assert_eq!(example.tokens[1..100], example.tokens[102..201]);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Copying {
    /// The vocabulary's size, V: the symbols, start, copy and blank.
    pub vocab: usize,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("copying", &json!({"train": [{"length": 41, "longest": 10}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// // Start, ten symbols, copy, nine symbols; the rest is blank.
/// assert_eq!(example.labels.len(), 10);
/// assert_eq!(example.tokens.iter().filter(|token| task.describe_token(**token) == "blank").count(), 41 - 21);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Symbols of the shortest string; if absent, as of the longest.
    #[serde(default)]
    pub shortest: Option<usize>,
    /// Symbols of the longest string; if absent, as many as the length holds, ⌊(L − 1)/2⌋.
    #[serde(default)]
    pub longest: Option<usize>,
    /// Symbols of the n-gram that stands twice in the string, if one does.
    #[serde(default)]
    pub duplicate: Option<usize>,
}

impl Default for Copying {
    fn default() -> Self {
        Self { vocab: 29 }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    length: u32,
    shortest: u32,
    longest: u32,
    duplicate: u32,
}

impl Recipe for Copying {
    const INFO: TaskInfo = TaskInfo {
        kind: "copying",
        title: "Copying",
        doc: "A string of random symbols is followed by a copy token and by the string again, each symbol of which the \
              model is to predict. A state of fixed size bounds how long a string can be copied; attention copies by \
              finding the last few symbols, which fails where those stand in the string twice. Strings of a range of \
              lengths are trained on, longer ones and ones with a planted duplicate are tested.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "29",
                meaning: "number of tokens V: V − 3 symbols, start, copy and blank",
                range: "5 to 16777216",
            },
            train_setting(
                "[{\"length\": 41, \"shortest\": 5, \"longest\": 20, \"duplicate\": null, \"weight\": 1.0}]",
                "{length, shortest (default longest), longest (default what the length holds), duplicate (default none)}: \
                 1 ≤ shortest ≤ longest, 2·longest + 1 ≤ length ≤ 16777216, 2·duplicate + 1 ≤ shortest",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (V − 3): an even guess among the symbols",
        source: "Jelassi et al. 2024, arXiv:2402.01032; one example a sequence, no end token asked",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = ();

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 41, shortest: Some(5), longest: Some(20), duplicate: None }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("symbol", self.vocab as u32 - 3), ("start", 1), ("copy", 1), ("blank", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require_between(self.vocab, "vocab", 5, LARGEST)
    }

    fn plan(&self, _: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let length = knobs.length;
        require_between(length, "length", 3, LARGEST)?;
        let fits = (length - 1) / 2;
        let longest = knobs.longest.unwrap_or(fits);
        require((1..=fits).contains(&longest), "longest", "1 ≤ longest, 2·longest + 1 ≤ length", || {
            (format!("longest {longest}, length {length}"), format!("use a longest string of 1 to {fits} symbols"))
        })?;
        let shortest = knobs.shortest.unwrap_or(longest);
        require((1..=longest).contains(&shortest), "shortest", "1 ≤ shortest ≤ longest", || {
            (
                format!("shortest {shortest}, longest {longest}"),
                format!("use a shortest string of 1 to {longest} symbols"),
            )
        })?;
        if let Some(duplicate) = knobs.duplicate {
            let most = (shortest - 1) / 2;
            require(
                (1..=most).contains(&duplicate),
                "duplicate",
                "1 ≤ duplicate, 2·duplicate + 1 ≤ shortest",
                || {
                    let shorter = (most > 0).then(|| format!("a duplicate of 1 to {most} symbols"));
                    let longer = duplicate.saturating_mul(2).saturating_add(1).max(3);
                    let longer = (longer <= LARGEST).then(|| format!("strings of at least {longer} symbols"));
                    let ways: Vec<_> = shorter.into_iter().chain(longer).collect();
                    (format!("duplicate {duplicate}, shortest {shortest}"), format!("use {}", ways.join(" or ")))
                },
            )?;
        }
        let (symbols, duplicate) = (self.vocab as f64 - 3.0, knobs.duplicate.unwrap_or(0));
        // Of the shortest strings there are fewest.
        let bits = (shortest - duplicate) as f64 * symbols.log2();
        let shape = Shape { length, labels: longest, chance: 1.0 / symbols, bits };
        let [length, shortest, longest, duplicate] = [length, shortest, longest, duplicate].map(|n| n as u32);
        Ok((shape, Plan { length, shortest, longest, duplicate }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, (): &mut (), out: &mut Example) {
        let symbols = self.vocab as u32 - 3;
        let Plan { length, shortest, longest, duplicate } = *plan;
        let string = shortest + stream.below(longest - shortest + 1);
        out.tokens.push(symbols);
        out.tokens.extend((0..string).map(|_| stream.below(symbols)));
        if duplicate > 0 {
            // Two places at least `duplicate` apart are two different ones, the later moved on by what must lie between.
            let places = string - 2 * duplicate + 1;
            let (one, other) = (stream.below(places), stream.below(places - 1));
            let other = other + u32::from(other >= one);
            let (early, late) = (1 + one.min(other), one.max(other) + duplicate);
            out.tokens.copy_within(early as usize..(early + duplicate) as usize, late as usize);
        }
        out.tokens.push(symbols + 1);
        out.tokens.extend_from_within(1..string as usize);
        out.tokens.resize(length as usize, symbols + 2);
        let copied = (1..).zip(&out.tokens[1..=string as usize]);
        out.labels.extend(copied.map(|(place, symbol)| Label {
            position: string + place,
            target: *symbol,
            evidence: place,
        }));
    }

    /// The string alone: copied in a longer sequence it is the same.
    fn identity(&self, example: &Example, bytes: &mut Vec<u8>) {
        bytes.extend(example.labels.iter().flat_map(|label| label.target.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, build, examine, message, shows};

    /// As far behind the start as the last token is behind the copy token.
    fn oracle(tokens: &[u32], copy: u32) -> u32 {
        let read = tokens.iter().rposition(|token| *token == copy).unwrap_or(0);
        tokens.get(tokens.len() - read).copied().unwrap_or(0)
    }

    #[test]
    fn it_is_what_it_says() {
        examine::<Copying>(&Examined {
            settings: json!({"train": [{"length": 24, "shortest": 5, "longest": 10}, {"length": 43, "duplicate": 3}]}),
            at_length: |length| json!({"train": [{"length": length}]}),
            golden: "af656bc8c1e33ea2",
            oracle: |task, tokens| oracle(tokens, task.vocab() as u32 - 2),
            guess: |_, stream| stream.below(26),
        });
    }

    #[test]
    fn the_page_shows_an_example() {
        let settings = json!({"vocab": 11, "train": [{"length": 12, "shortest": 3, "longest": 5}]});
        shows(include_str!("copying.rs"), "copying", settings);
    }

    #[test]
    fn string_lengths_are_even_over_their_range() {
        let task = build("copying", json!({"train": [{"length": 64, "shortest": 20, "longest": 24}]}));
        let (mut counts, mut example) = ([0; 5], Example::default());
        for index in 0..5000 {
            task.example(Split::Train, 0, 0, index, &mut example);
            counts[example.labels.len() - 20] += 1;
            assert!(example.tokens[2 * example.labels.len() + 1..].iter().all(|token| *token == 28));
        }
        assert!(chi_square_p_value(&counts, &[0.2; 5]) > 1e-6, "{counts:?}");
    }

    #[test]
    fn a_duplicate_stands_at_every_pair_of_places_alike() {
        // So many symbols that nothing repeats by itself. A string of 7 holds 3 symbols twice, one behind the other, at
        // places (0, 3) alone; one of 8 at (0, 3), (0, 4) and (1, 4).
        let of_length = |length: usize| {
            let task = build("copying", json!({"vocab": 1 << 24, "train": [{"length": length, "duplicate": 3}]}));
            let (mut counts, mut example) = (std::collections::BTreeMap::new(), Example::default());
            for index in 0..3000 {
                task.example(Split::Train, 0, 0, index, &mut example);
                let string: Vec<u32> = example.labels.iter().map(|label| label.target).collect();
                let same = |a: usize, b: usize| string[a..a + 3] == string[b..b + 3];
                let pairs = (0..string.len() - 2).flat_map(|b| (0..b).map(move |a| (a, b)));
                let found: Vec<_> = pairs.filter(|(a, b)| same(*a, *b)).collect();
                assert_eq!(found.len(), 1, "{string:?}");
                *counts.entry(found[0]).or_insert(0) += 1;
            }
            counts
        };
        assert_eq!(of_length(15).into_iter().collect::<Vec<_>>(), [((0, 3), 3000)]);
        let (places, counts): (Vec<_>, Vec<_>) = of_length(17).into_iter().unzip();
        assert_eq!(places, [(0, 3), (0, 4), (1, 4)]);
        assert!(chi_square_p_value(&counts, &[1.0 / 3.0; 3]) > 1e-6, "{counts:?}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let train = |knobs| message("copying", json!({"train": [knobs]}));
        assert_eq!(
            train(json!({"length": 40, "longest": 20})),
            "setting 'train[0].longest': 1 ≤ longest, 2·longest + 1 ≤ length fails (longest 20, length 40): use a \
             longest string of 1 to 19 symbols"
        );
        assert_eq!(
            train(json!({"length": 41, "shortest": 0})),
            "setting 'train[0].shortest': 1 ≤ shortest ≤ longest fails (shortest 0, longest 20): use a shortest string \
             of 1 to 20 symbols"
        );
        assert_eq!(
            train(json!({"length": 41, "shortest": 5, "duplicate": 3})),
            "setting 'train[0].duplicate': 1 ≤ duplicate, 2·duplicate + 1 ≤ shortest fails (duplicate 3, shortest 5): \
             use a duplicate of 1 to 2 symbols or strings of at least 7 symbols"
        );
        assert_eq!(
            message("copying", json!({"vocab": 4})),
            "setting 'vocab': 5 ≤ vocab ≤ 16777216 fails (vocab 4): use at least 5"
        );
        for knobs in [
            json!({"length": usize::MAX}),
            json!({"length": 0}),
            json!({"length": 64, "longest": usize::MAX}),
            json!({"length": 64, "shortest": usize::MAX}),
            json!({"length": 64, "duplicate": usize::MAX}),
            json!({"length": 64, "duplicate": 0}),
            json!({"length": 3, "duplicate": 1}),
        ] {
            assert!(train(knobs.clone()).starts_with("setting 'train[0]."), "{knobs}");
        }
    }
}
