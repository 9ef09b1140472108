//! Frequent words: can a model rank the words of a long list by how often they occur?
//!
//! A shuffled list holds words whose counts fall as a power of their rank. The most frequent token is noise; the words
//! that follow it in rank are to be named. As in [`common_words`](crate::common_words) the answer is a count over the
//! whole list, but here neighbouring counts differ by little and their order matters.
//!
//! Source: Hsieh et al., "RULER: What's the Real Context Size of Your Long-Context Language Models?", arXiv:2404.06654,
//! section 3, task FWE (a zeta law with α 2.0, the three most frequent words).
//!
//! # Layout
//! With length L, W words asked and N = L − W; `vocab` 8, `length` 17, `words` 2, `alpha` 1.5:
//!
//! ```text
//! position   0   1   2   3   4   5   6   7   8   9  10  11  12  13  14  15  16
//! token      0   0   0   0   6   0   0   0   0   6   0   0   5   0   0   7   6
//! label                                                                  6   5
//! evidence                                                               9  12
//! ```
//!
//! - The list: the N tokens of ranks 1, 2, …, of which rank k occurs so often, by the law of Zipf:
//!
//!   ```text
//!   c_k = ⌊N k^−α / ζ(α)⌋        ζ(α) = Σ_{k ≥ 1} k^−α
//!   ```
//!
//!   Rank 1 is noise, which also takes what the rounding leaves over; the others are distinct random words, as many as
//!   occur at all, V − 2 at most. All orders of the list are equally likely.
//! - The query token, and the words of ranks 2 … W + 1 by falling count; the last is only predicted, not given.
//!
//! The answer is unique where the counts fall strictly, from rank 2 to the first that is not asked: c_2 > … > c_{W+2}.
//! The target hangs on every sight of its word; as everywhere, the evidence is the last of them.
//!
//! # Vocabulary
//! Noise 0, words 1 … V − 2, then the query token.
//!
//! # Chance
//! 1/(V − 2): an even guess among all words.
//!
//! # Differences from the source
//! There the list ends where its counts do, so that it is shorter than N; here noise fills it up. The words there are
//! strings of random letters, and the noise is a row of dots that the prompt asks to ignore.

use serde::{Deserialize, Serialize};

use crate::error::{require, require_between};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::sampling::Distinct;
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo};

/// A steeper law leaves nothing but noise at any length.
const LARGEST_ALPHA: f64 = 16.0;

/// The settings of the frequent words task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("frequent_words", &serde_json::Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let list = &example.tokens[..example.labels[0].position as usize];
/// let count = |word: u32| list.iter().filter(|token| **token == word).count();
/// let counts: Vec<usize> = example.labels.iter().map(|label| count(label.target)).collect();
/// assert_eq!(counts, [155, 68, 38]);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FrequentWords {
    /// The vocabulary's size, V: noise, the words and the query token.
    pub vocab: usize,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::frequent_words::Knobs;
///
/// let published: Knobs = serde_json::from_str(r#"{"length": 1024}"#)?;
/// assert_eq!((published.words, published.alpha), (3, 2.0));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Words asked, W.
    #[serde(default = "three")]
    pub words: usize,
    /// The exponent of the law of the counts, α.
    #[serde(default = "two")]
    pub alpha: f64,
}

fn three() -> usize {
    3
}

fn two() -> f64 {
    2.0
}

impl Default for FrequentWords {
    fn default() -> Self {
        Self { vocab: 512 }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    list: u32,
    words: u32,
    /// How often the words of rank 2, 3, … occur.
    counts: Vec<u32>,
}

/// The zeta function of a real number above 1: the sum up to n − 1, and the rest by the formula of Euler and Maclaurin,
///
/// ```text
/// Σ_{k ≥ n} k^−s = n^{1−s}/(s−1) + n^−s/2 + s n^{−s−1}/12 − s(s+1)(s+2) n^{−s−3}/720 + s⋯(s+4) n^{−s−5}/30240 − …
/// ```
///
/// whose next term is below the rounding of the sum for n = 64.
fn zeta(s: f64) -> f64 {
    const N: u32 = 64;
    let n = f64::from(N);
    let first: f64 = (1..N).rev().map(|k| libm::pow(f64::from(k), -s)).sum();
    let of_n = libm::pow(n, -s);
    let [one, three, five] = [s, s * (s + 1.0) * (s + 2.0), s * (s + 1.0) * (s + 2.0) * (s + 3.0) * (s + 4.0)];
    let [n1, n3, n5] = [1, 3, 5].map(|power| n.powi(power));
    first + of_n * (n / (s - 1.0) + 0.5 + one / (12.0 * n1) - three / (720.0 * n3) + five / (30240.0 * n5))
}

/// The share of each rank, from 1.
fn share(rank: usize, alpha: f64, zeta: f64) -> f64 {
    libm::pow(rank as f64, -alpha) / zeta
}

/// Base-2 logarithm of the number of sequences with these counts of words beside noise: the choices of words, of which
/// those that are equally frequent take no order, times the orders of the list.
fn bits(list: u32, counts: &[u32], words: usize) -> f64 {
    let factorial = |n: usize| libm::lgamma(n as f64 + 1.0);
    let noise = list - counts.iter().sum::<u32>();
    let orders = counts.iter().chain([&noise]).fold(factorial(list as usize), |bits, n| bits - factorial(*n as usize));
    let choices = factorial(words) - factorial(words - counts.len());
    let alike: f64 = counts.chunk_by(|a, b| a == b).map(|alike| factorial(alike.len())).sum();
    (orders + choices - alike) / std::f64::consts::LN_2
}

impl Recipe for FrequentWords {
    const INFO: TaskInfo = TaskInfo {
        kind: "frequent_words",
        title: "Frequent words",
        doc: "A shuffled list holds words whose counts fall as a power of their rank; the most frequent token is noise, \
              and the model is to name the words that follow it in rank, the most frequent first. No single position \
              gives the answer: it is a comparison of counts over the whole list.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "512",
                meaning: "number of tokens V: noise, V − 2 words and the query token",
                range: "4 to 16777216",
            },
            train_setting(
                "[{\"length\": 1024, \"words\": 3, \"alpha\": 2.0, \"weight\": 1.0}]",
                "{length, words (default 3), alpha (default 2.0)}: 1 ≤ words ≤ vocab − 2, words < length ≤ 16777216, \
                 1 < alpha ≤ 16; the counts ⌊(length − words)·k^−alpha/ζ(alpha)⌋ fall strictly from rank k = 2 to \
                 words + 2",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (V − 2): an even guess among all words",
        source: "Hsieh et al. 2024, arXiv:2404.06654, task FWE, in tokens; noise fills the list up",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = (Distinct, Vec<u32>, Vec<u32>);

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 1024, words: 3, alpha: 2.0 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("noise", 1), ("word", self.vocab as u32 - 2), ("query", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require_between(self.vocab, "vocab", 4, LARGEST)
    }

    fn plan(&self, _: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let Knobs { length, words, alpha } = *knobs;
        require_between(words, "words", 1, self.vocab - 2)?;
        require_between(length, "length", words + 1, LARGEST)?;
        require(alpha > 1.0 && alpha <= LARGEST_ALPHA, "alpha", format!("1 < alpha ≤ {LARGEST_ALPHA}"), || {
            (format!("alpha {alpha}"), "use 2 as published".to_owned())
        })?;
        let (list, zeta) = (length - words, zeta(alpha));
        let count = |rank: usize| (list as f64 * share(rank, alpha, zeta)) as u32;
        let tie = (2..words + 2).find(|rank| count(*rank) <= count(rank + 1));
        require(tie.is_none(), "length", "counts fall strictly from rank 2 to words + 2", || {
            let rank = tie.unwrap_or_default();
            let (one, next) = (count(rank), count(rank + 1));
            let found = format!(
                "length {length}, words {words}, alpha {alpha}: {one} of rank {rank}, {next} of rank {}",
                rank + 1
            );
            // The shares of neighbours draw closer with their rank; a whole count lies between two that differ by one.
            let closest = share(words + 1, alpha, zeta) - share(words + 2, alpha, zeta);
            let enough = words as f64 + libm::ceil(1.0 / closest);
            let longer = (enough <= LARGEST as f64).then(|| format!("a length of at least {enough}"));
            let ways = longer.into_iter().chain(["fewer words or another alpha".to_owned()]);
            (found, format!("use {}", ways.collect::<Vec<_>>().join(", ")))
        })?;
        let counts: Vec<u32> = (2..self.vocab).map(count).take_while(|count| *count > 0).collect();
        let list = list as u32;
        let shape = Shape {
            length,
            labels: words,
            chance: 1.0 / (self.vocab as f64 - 2.0),
            bits: bits(list, &counts, self.vocab - 2),
        };
        Ok((shape, Plan { list, words: words as u32, counts }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, scratch: &mut Self::Scratch, out: &mut Example) {
        let (distinct, drawn, last) = scratch;
        let Plan { list, words, ref counts } = *plan;
        distinct.draw(self.vocab as u32 - 2, counts.len() as u32, stream, drawn);
        let tokens = &mut out.tokens;
        for (rank, count) in (1..).zip(counts) {
            tokens.extend((0..*count).map(|_| rank));
        }
        let named = tokens.len() as u32;
        tokens.resize(list as usize, 0);
        // The first steps of a shuffle: what is left to the end is noise alone, whose order is nothing.
        for place in 0..named {
            tokens.swap(place as usize, (place + stream.below(list - place)) as usize);
        }
        last.clear();
        last.resize(words as usize, 0);
        for (position, token) in (0..).zip(tokens.iter_mut()) {
            if let Some(rank) = token.checked_sub(1) {
                *token = 1 + drawn[rank as usize];
                if let Some(last) = last.get_mut(rank as usize) {
                    *last = position;
                }
            }
        }
        tokens.push(self.vocab as u32 - 1);
        for (last, word) in last.iter().zip(drawn.iter()) {
            out.ask(1 + word, *last);
            out.tokens.push(1 + word);
        }
        out.tokens.pop();
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use serde_json::json;

    use super::*;
    use crate::Task;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, build, examine_counting, message, shows};

    /// The words of a list with their counts, the most frequent first.
    fn ranked(task: &dyn Task, list: &[u32]) -> Vec<(usize, u32)> {
        let mut counts: Vec<(usize, u32)> = (0..task.vocab() as u32).map(|word| (0, word)).collect();
        list.iter().for_each(|word| counts[*word as usize].0 += 1);
        counts.retain(|(count, word)| *count > 0 && *word > 0);
        counts.sort_by_key(|(count, _)| Reverse(*count));
        counts
    }

    fn oracle(task: &dyn Task, tokens: &[u32]) -> u32 {
        let query = task.vocab() as u32 - 1;
        let end = tokens.iter().rposition(|token| *token == query).unwrap_or(0);
        ranked(task, &tokens[..end]).get(tokens.len() - end - 1).map_or(0, |(_, word)| *word)
    }

    #[test]
    fn it_is_what_it_says() {
        examine_counting::<FrequentWords>(&Examined {
            settings: json!({"vocab": 40, "train": [
                {"length": 100}, {"length": 64, "words": 2}, {"length": 300, "words": 6, "alpha": 1.5}
            ]}),
            at_length: |length| json!({"train": [{"length": length, "words": 2}]}),
            golden: "08e5bfd5de2645cf",
            oracle,
            guess: |_, stream| 1 + stream.below(38),
        });
    }

    #[test]
    fn the_page_shows_an_example() {
        let train = json!([{"length": 17, "words": 2, "alpha": 1.5}]);
        shows(include_str!("frequent_words.rs"), "frequent_words", json!({"vocab": 8, "train": train}));
    }

    #[test]
    fn zeta_is_what_it_is() {
        let pi = std::f64::consts::PI;
        for (s, known) in [(2.0, pi * pi / 6.0), (4.0, pi.powi(4) / 90.0), (1.5, 2.612_375_348_685_488)] {
            assert!((zeta(s) - known).abs() < 4.0 * f64::EPSILON, "{s}: {} is not {known}", zeta(s));
        }
    }

    #[test]
    fn counts_follow_the_law_and_noise_takes_the_rest() {
        let task = build("frequent_words", json!({"train": [{"length": 1003}]}));
        let mut example = Example::default();
        task.example(Split::Train, 0, 0, 0, &mut example);
        let counts: Vec<usize> =
            ranked(task.as_ref(), &example.tokens[..1000]).iter().map(|(count, _)| *count).collect();
        // ⌊1000·6/(π²k²)⌋
        let law = [151, 67, 37, 24, 16, 12, 9, 7, 6, 5, 4, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1];
        assert_eq!(counts, law);
        // A vocabulary with fewer words leaves the rarest out.
        let task = build("frequent_words", json!({"vocab": 7, "train": [{"length": 1003}]}));
        task.example(Split::Train, 0, 0, 0, &mut example);
        let counts: Vec<usize> =
            ranked(task.as_ref(), &example.tokens[..1000]).iter().map(|(count, _)| *count).collect();
        assert_eq!(counts, law[..5]);
    }

    #[test]
    fn every_word_and_every_place_is_as_likely() {
        let task = build("frequent_words", json!({"vocab": 12, "train": [{"length": 17, "words": 2, "alpha": 1.5}]}));
        let (mut words, mut places, mut example) = ([0; 10], [0; 15], Example::default());
        for index in 0..20_000 {
            task.example(Split::Train, 0, 0, index, &mut example);
            words[example.labels[1].target as usize - 1] += 1;
            // The second word stands in the list once.
            places[example.labels[1].evidence as usize] += 1;
        }
        assert!(chi_square_p_value(&words, &[0.1; 10]) > 1e-6, "{words:?}");
        assert!(chi_square_p_value(&places, &[1.0 / 15.0; 15]) > 1e-6, "{places:?}");
    }

    #[test]
    fn the_bits_count_the_sequences() {
        // Noise, two words twice each and a third once: 6!/(1!·2!·2!·1!) orders, 5·4·3/2! choices of words.
        assert!((bits(6, &[2, 2, 1], 5) - (180.0_f64 * 30.0).log2()).abs() < 1e-9);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let train = |knobs| message("frequent_words", json!({"train": [knobs]}));
        assert_eq!(
            train(json!({"length": 53})),
            "setting 'train[0].length': counts fall strictly from rank 2 to words + 2 fails (length 53, words 3, alpha \
             2: 1 of rank 4, 1 of rank 5): use a length of at least 77, fewer words or another alpha"
        );
        assert_eq!(
            train(json!({"length": 64, "words": 600})),
            "setting 'train[0].words': 1 ≤ words ≤ 510 fails (words 600): use at most 510"
        );
        assert_eq!(
            train(json!({"length": 64, "alpha": 1.0})),
            "setting 'train[0].alpha': 1 < alpha ≤ 16 fails (alpha 1): use 2 as published"
        );
        assert!(train(json!({"length": 1 << 24, "alpha": 16})).ends_with("use fewer words or another alpha"));
        for key in ["length", "words"] {
            for number in [0, usize::MAX] {
                let mut knobs = json!({"length": 1024});
                knobs[key] = json!(number);
                assert!(train(knobs).starts_with(&format!("setting 'train[0].{key}'")), "{key}");
            }
        }
    }
}
