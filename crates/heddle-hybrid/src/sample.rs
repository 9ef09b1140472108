//! Choosing the next token.

use heddle_kernels::SettingsError;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the next token is chosen among the scores of all.
///
/// ```text
/// P(i) ∝ exp(z_i / T) for the tokens that are kept
/// ```
///
/// Of all tokens the `top_k` likeliest are kept (arXiv:1805.04833, §5.4), and of these the fewest that together have a
/// probability of `top_p` (the nucleus, arXiv:1904.09751, §3.1). Temperature 0 means the likeliest.
///
/// ```
/// use heddle_hybrid::Sampling;
///
/// let logits = [0.0, 2.0, 1.0, -1.0];
/// assert_eq!(Sampling::default().pick(&logits, 0), 1); // the likeliest
///
/// let sampling = Sampling { temperature: 1.0, top_k: Some(2), seed: 7, ..Sampling::default() };
/// let drawn: Vec<usize> = (0..20).map(|step| sampling.pick(&logits, step)).collect();
/// assert!(drawn.contains(&1) && drawn.contains(&2) && drawn.iter().all(|token| [1, 2].contains(token)));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// What the scores are divided by: below 1 the likely become likelier; 0 takes the likeliest.
    pub temperature: f64,
    /// How many of the likeliest tokens are kept; none means all.
    pub top_k: Option<usize>,
    /// Probability of those that are kept; 1 means all.
    pub top_p: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Checks the settings.
    ///
    /// # Errors
    /// If one of them means nothing; the error's key is the field's name.
    pub fn check(&self) -> Result<(), SettingsError> {
        let Self { temperature, top_k, top_p, .. } = *self;
        let refuse = |key, value: &dyn core::fmt::Display, remedy: &str| {
            Err(SettingsError::new(key, format!("it is {value}"), remedy))
        };
        if !(temperature.is_finite() && temperature >= 0.0) {
            return refuse("temperature", &temperature, "use 0, which takes the likeliest token, or a positive number");
        }
        if top_k == Some(0) {
            return refuse("top_k", &0, "use 1 or more, or leave it out");
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return refuse("top_p", &top_p, "use a number above 0 and up to 1; 1 keeps every token");
        }
        Ok(())
    }

    /// The token chosen at `step`: a function of the logits, these settings and the step, and of nothing else.
    ///
    /// # Shapes
    /// - `logits`: `[v]`, finite
    ///
    /// # Panics
    /// If there are no logits.
    pub fn pick(&self, logits: &[f32], step: u64) -> usize {
        let best = best(logits);
        if self.temperature == 0.0 {
            return best;
        }
        let weight = |token: usize| (f64::from(logits[token] - logits[best]) / self.temperature).exp();
        let kept = self.kept(logits, weight);
        let total: f64 = kept.iter().map(|token| weight(*token)).sum();
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed);
        generator.set_stream(step);
        let mut left = total * generator.random::<f64>();
        let drawn = kept.into_iter().find(|token| {
            left -= weight(*token);
            left < 0.0
        });
        // Rounding may leave a trace of the sum.
        drawn.unwrap_or(best)
    }

    /// The tokens that may be drawn.
    fn kept(&self, logits: &[f32], weight: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut kept: Vec<usize> = (0..logits.len()).collect();
        let likelier = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        if let Some(k) = self.top_k.filter(|k| *k < kept.len()) {
            kept.select_nth_unstable_by(k.max(1) - 1, likelier);
            kept.truncate(k.max(1));
        }
        if self.top_p < 1.0 {
            kept.sort_unstable_by(likelier);
            let enough = self.top_p * kept.iter().map(|token| weight(*token)).sum::<f64>();
            let mut mass = 0.0;
            let below = kept.iter().take_while(|token| {
                let fits = mass < enough;
                mass += weight(**token);
                fits
            });
            let count = below.count().max(1);
            kept.truncate(count);
        }
        kept
    }
}

/// The likeliest token; the first, if several are.
fn best(logits: &[f32]) -> usize {
    assert!(!logits.is_empty(), "sampling: there are no logits");
    // Two passes, each of which takes many numbers at a time.
    let largest =
        logits.iter().fold(f32::NEG_INFINITY, |largest, logit| if *logit > largest { *logit } else { largest });
    logits.iter().position(|logit| *logit == largest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Draws of a test of frequencies: their standard error is below 0.004.
    const DRAWS: u64 = 20_000;

    /// Five standard errors.
    const DEVIATION: f64 = 0.02;

    /// How often each token is drawn.
    fn frequencies(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        (0..DRAWS).for_each(|step| counts[sampling.pick(logits, step)] += 1.0);
        counts.into_iter().map(|count: f64| count / DRAWS as f64).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        let far = found.iter().zip(expected).any(|(a, b)| (a - b).abs() > DEVIATION || (*b == 0.0 && *a > 0.0));
        assert!(!far, "{found:?} for {expected:?}");
    }

    /// Logits of the probabilities 0.1, 0.4, 0.2 and 0.3.
    fn logits() -> [f32; 4] {
        [0.1_f32, 0.4, 0.2, 0.3].map(f32::ln)
    }

    #[test]
    fn tokens_come_as_often_as_the_softmax_says() {
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        close(&frequencies(&sampling, &logits()), &[0.1, 0.4, 0.2, 0.3]);
        // Squares of the probabilities over their sum 0.3.
        let sharper = Sampling { temperature: 0.5, ..sampling };
        close(&frequencies(&sharper, &logits()), &[0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3]);
    }

    #[test]
    fn the_kept_share_the_probability_of_all() {
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let top_k = Sampling { top_k: Some(2), ..sampling.clone() };
        close(&frequencies(&top_k, &logits()), &[0.0, 0.4 / 0.7, 0.0, 0.3 / 0.7]);
        // 0.4 and 0.3 are not enough for 0.8.
        let top_p = Sampling { top_p: 0.8, ..sampling.clone() };
        close(&frequencies(&top_p, &logits()), &[0.0, 0.4 / 0.9, 0.2 / 0.9, 0.3 / 0.9]);
        // Of the two that top-k leaves, the first has 0.57.
        let both = Sampling { top_k: Some(2), top_p: 0.5, ..sampling };
        close(&frequencies(&both, &logits()), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn another_seed_draws_others() {
        let sampling = |seed| Sampling { temperature: 1.0, seed, ..Sampling::default() };
        let draws = |seed| (0..50).map(|step| sampling(seed).pick(&logits(), step)).collect::<Vec<_>>();
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn settings_that_mean_nothing_are_refused_by_name() {
        let refused = |sampling: Sampling, key: &str| assert_eq!(sampling.check().unwrap_err().key, key);
        let default = Sampling::default;
        for temperature in [-1.0, f64::NAN, f64::INFINITY] {
            refused(Sampling { temperature, ..default() }, "temperature");
        }
        for top_p in [0.0, -0.1, 1.1, f64::NAN] {
            refused(Sampling { top_p, ..default() }, "top_p");
        }
        refused(Sampling { top_k: Some(0), ..default() }, "top_k");
        assert_eq!(default().check(), Ok(()));
    }

    proptest! {
        #[test]
        fn what_keeps_one_token_is_greedy(logits in prop::collection::vec(-30.0_f32..30.0, 1..50), step in 0_u64..1000) {
            let greedy = Sampling::default().pick(&logits, step);
            prop_assert!(logits.iter().all(|logit| *logit <= logits[greedy]));
            let sampling = Sampling { temperature: 1.0, seed: step, ..Sampling::default() };
            prop_assert_eq!(Sampling { top_k: Some(1), ..sampling.clone() }.pick(&logits, step), greedy);
            prop_assert_eq!(Sampling { top_p: 1e-9, ..sampling.clone() }.pick(&logits, step), greedy);
            let cold = Sampling { temperature: 1e-300, ..sampling.clone() }.pick(&logits, step);
            prop_assert_eq!(logits[cold], logits[greedy]);
            // Settings that keep all change nothing.
            let all = Sampling { top_k: Some(logits.len()), ..sampling.clone() };
            prop_assert_eq!(all.pick(&logits, step), sampling.pick(&logits, step));
        }
    }
}
