//! What a head's map says of the head, in numbers.

use serde::Serialize;

/// Rows of one head's map, and what stands in the sequence.
///
/// ```
/// use heddle_hybrid::{HeadTally, Seen};
///
/// // Three tokens, of which each looks at the one before it.
/// let map = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
/// let mut tally = HeadTally::default();
/// tally.add(&Seen { map: &map, rows: &[0, 1, 2], tokens: &[7, 8, 9], asked: &[] });
/// assert_eq!(tally.scores().previous, Some(1.0));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The weights, row after row: `[rows, l]`.
    pub map: &'a [f32],
    /// The tokens that look, by rising position.
    pub rows: &'a [usize],
    /// The tokens: `[l]`.
    pub tokens: &'a [u32],
    /// Positions at which something is asked, and of the evidence that tells the answer.
    pub asked: &'a [(usize, usize)],
}

/// Scores of a head, each a mean over tokens that look, of all sequences; none where no token counts.
///
/// All are computed from shares of what a token takes up, since a hidden attention may be of either sign and need not add up
/// to one; the weights of a softmax are their own shares.
///
/// ```text
/// α_ij = |M_ij| / Σ_j |M_ij|
/// ```
///
/// ```
/// use heddle_hybrid::{HeadTally, Seen};
///
/// // The last token looks at the first in equal parts with itself; it is asked there, and the first token is the evidence.
/// let mut tally = HeadTally::default();
/// tally.add(&Seen { map: &[0.5, 0.0, 0.5], rows: &[2], tokens: &[7, 8, 9], asked: &[(2, 0)] });
/// let scores = tally.scores();
/// assert_eq!((scores.retrieval, scores.distance), (Some(0.5), Some(1.0)));
/// assert!((scores.entropy.unwrap() - 2f64.ln()).abs() < 1e-12);
/// assert_eq!(scores.profile, [0.5, 0.0, 0.5]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeadScores {
    /// Share on the token before: mean of `α_{i,i−1}` over i ≥ 1. A *previous-token head* (arXiv:2209.11895, §“Induction heads”;
    /// positional heads: arXiv:1905.09418, §5.1) scores near 1.
    pub previous: Option<f64>,
    /// Share on tokens that follow an earlier occurrence of the present one: mean of `Σ_{j ≤ i, x_{j−1} = x_i, j − 1 < i} α_ij`
    /// over the i that have such j. This is the prefix matching score of *induction heads* (arXiv:2209.11895, appendix).
    pub induction: Option<f64>,
    /// Share on the evidence where something is asked: mean of `α_{q,e}` over questions. After *retrieval heads*
    /// (arXiv:2404.15574, §2), which are counted there by whether the evidence has the largest weight; see `retrieved`.
    pub retrieval: Option<f64>,
    /// How often the evidence has the largest weight where something is asked.
    pub retrieved: Option<f64>,
    /// How far a token looks back: mean of `Σ_j α_ij |i − j|` (arXiv:1906.04284, eq. 2), in tokens.
    pub distance: Option<f64>,
    /// How spread the shares are: mean of `−Σ_j α_ij ln α_ij` (arXiv:1906.04284, eq. 3), in nats.
    pub entropy: Option<f64>,
    /// Shares by distance `|i − j|`: 0, 1, 2–3, 4–7, 8–15, …, up to the last that counts.
    pub profile: Vec<f64>,
}

/// A mean in the making.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    of: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.of += 1;
    }

    fn value(self) -> Option<f64> {
        (self.of > 0).then(|| self.sum / self.of as f64)
    }
}

/// [`HeadScores`] in the making: maps of one head, sequence by sequence.
///
/// ```
/// use heddle_hybrid::{HeadScores, HeadTally};
///
/// assert_eq!(HeadTally::default().scores(), HeadScores::default());
/// ```
#[derive(Clone, Debug, Default)]
pub struct HeadTally {
    previous: Mean,
    induction: Mean,
    retrieval: Mean,
    retrieved: Mean,
    distance: Mean,
    entropy: Mean,
    profile: Vec<f64>,
}

/// The place of a distance among 0, 1, 2–3, 4–7, ….
fn bin(distance: usize) -> usize {
    distance.checked_ilog2().map_or(0, |log| log as usize + 1)
}

impl HeadTally {
    /// Counts the rows of one sequence. A row without any weight is passed over.
    ///
    /// # Panics
    /// If the sizes disagree.
    pub fn add(&mut self, seen: &Seen<'_>) {
        let Seen { map, rows, tokens, asked } = *seen;
        let l = tokens.len();
        assert!(map.len() == rows.len() * l, "scores: {} weights for {} rows of {l} tokens", map.len(), rows.len());
        for (&i, row) in rows.iter().zip(map.chunks_exact(l)) {
            let total: f64 = row.iter().map(|weight| f64::from(weight.abs())).sum();
            if total > 0.0 {
                let shares: Vec<f64> = row.iter().map(|weight| f64::from(weight.abs()) / total).collect();
                self.add_row(i, &shares, tokens, asked);
            }
        }
    }

    fn add_row(&mut self, i: usize, shares: &[f64], tokens: &[u32], asked: &[(usize, usize)]) {
        if i > 0 {
            self.previous.add(shares[i - 1]);
        }
        let mut followers = (1..=i).filter(|j| tokens[j - 1] == tokens[i]).peekable();
        if followers.peek().is_some() {
            self.induction.add(followers.map(|j| shares[j]).sum());
        }
        for &(_, evidence) in asked.iter().filter(|(position, _)| *position == i) {
            self.retrieval.add(shares[evidence]);
            let most = shares.iter().copied().fold(0.0, f64::max);
            self.retrieved.add(f64::from(u8::from(shares[evidence] == most)));
        }
        let away = |j: usize| i.abs_diff(j);
        self.distance.add(shares.iter().enumerate().map(|(j, share)| share * away(j) as f64).sum());
        self.entropy.add(shares.iter().filter(|share| **share > 0.0).map(|share| -share * share.ln()).sum());
        for (j, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            let place = bin(away(j));
            self.profile.resize(self.profile.len().max(place + 1), 0.0);
            self.profile[place] += share;
        }
    }

    /// The means so far.
    pub fn scores(&self) -> HeadScores {
        let rows = self.entropy.of.max(1) as f64;
        HeadScores {
            previous: self.previous.value(),
            induction: self.induction.value(),
            retrieval: self.retrieval.value(),
            retrieved: self.retrieved.value(),
            distance: self.distance.value(),
            entropy: self.entropy.value(),
            profile: self.profile.iter().map(|sum| sum / rows).collect(),
        }
    }
}
