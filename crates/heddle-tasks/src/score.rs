//! Scores: how many answers are right, in all and by where the question and its evidence stand.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Label;

/// Right answers among those given.
///
/// ```
/// use heddle_tasks::score::Count;
///
/// let count = Count { right: 90, of: 100 };
/// let (low, high) = count.interval();
/// assert_eq!(count.accuracy(), 0.9);
/// assert!((low - 0.825).abs() < 1e-3 && (high - 0.945).abs() < 1e-3);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Right answers.
    pub right: u64,
    /// Answers.
    pub of: u64,
}

/// The quantile of the standard normal distribution that leaves 2.5 % above it.
const Z: f64 = 1.959_963_984_540_054;

impl Count {
    /// The share of right answers; not a number if there are none.
    pub fn accuracy(self) -> f64 {
        self.right as f64 / self.of as f64
    }

    /// The 95 % interval of Wilson (1927), which holds near 0 and 1 too; everything if there are no answers.
    ///
    /// ```text
    /// (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)
    /// ```
    pub fn interval(self) -> (f64, f64) {
        self.interval_of(Z)
    }

    /// As [`interval`](Self::interval), of `z` standard deviations.
    pub(crate) fn interval_of(self, z: f64) -> (f64, f64) {
        if self.of == 0 {
            return (0.0, 1.0);
        }
        let (p, n) = (self.accuracy(), self.of as f64);
        let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        let (middle, scale) = (p + z * z / (2.0 * n), 1.0 + z * z / n);
        (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
    }

    fn add(&mut self, right: bool) {
        self.right += u64::from(right);
        self.of += 1;
    }
}

/// The score of a slice.
///
/// ```
/// use heddle_tasks::{Label, score::Tally};
///
/// let mut tally = Tally::default();
/// let label = |position, evidence| Label { position, target: 7, evidence };
/// tally.add(10, &[label(5, 1), label(9, 2)], |_| 7);
/// tally.add(10, &[label(5, 1), label(9, 2)], |label| if label.position == 5 { 7 } else { 3 });
/// assert_eq!((tally.labels.right, tally.labels.of), (3, 4));
/// assert_eq!((tally.whole.right, tally.whole.of), (1, 2));
/// assert_eq!(tally.by_distance[&4].accuracy(), 0.75);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers one by one.
    pub labels: Count,
    /// Sequences, right where every answer is.
    pub whole: Count,
    /// Answers by the distance from the question back to its evidence: the largest power of two that it reaches, 0 where
    /// they are the same position.
    pub by_distance: BTreeMap<u32, Count>,
    /// Answers by the depth of the evidence in the sequence, in tenths of its length: 0 … 9.
    pub by_depth: BTreeMap<u32, Count>,
}

impl Tally {
    /// Counts the answers to one sequence; `answer` gives the token predicted for a label.
    pub fn add(&mut self, length: usize, labels: &[Label], mut answer: impl FnMut(&Label) -> u32) {
        let mut all = true;
        for label in labels {
            let right = answer(label) == label.target;
            all &= right;
            self.labels.add(right);
            let distance = label.position.saturating_sub(label.evidence);
            self.by_distance.entry(distance.checked_ilog2().map_or(0, |octave| 1 << octave)).or_default().add(right);
            let tenth = (10 * u64::from(label.evidence) / length as u64) as u32;
            self.by_depth.entry(tenth).or_default().add(right);
        }
        self.whole.add(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_intervals_are_those_of_the_textbook() {
        // Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
        for (right, of, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let (a, b) = Count { right, of }.interval();
            assert!((a - low).abs() < 5e-5 && (b - high).abs() < 5e-5, "{right}/{of}: {a} {b}");
        }
        assert_eq!(Count::default().interval(), (0.0, 1.0));
    }

    #[test]
    fn answers_are_sorted_by_distance_and_depth() {
        let mut tally = Tally::default();
        let label = |position, evidence| Label { position, target: 1, evidence };
        tally.add(100, &[label(3, 3), label(4, 3), label(40, 33), label(99, 0)], |label| u32::from(label.evidence > 0));
        let keys = |map: &BTreeMap<u32, Count>| map.iter().map(|(k, c)| (*k, c.right, c.of)).collect::<Vec<_>>();
        assert_eq!(keys(&tally.by_distance), [(0, 1, 1), (1, 1, 1), (4, 1, 1), (64, 0, 1)]);
        assert_eq!(keys(&tally.by_depth), [(0, 2, 3), (3, 1, 1)]);
    }
}
