//! The statistics of a report: means and intervals over seeds, within one run, and of paired differences.
//!
//! Every interval is at the 95 % level. What has no defined value (the mean of nothing, the interval of one seed) is `None`.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Probability that lies below the upper end of a two-sided 95 % interval.
const UPPER: f64 = 0.975;

/// The standard normal's 97.5 % quantile.
const NORMAL_UPPER: f64 = 1.959_963_984_540_054;

/// Resamples of a bootstrap interval.
const RESAMPLES: usize = 10_000;

/// A closed interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The interval `[centre - half_width, centre + half_width]`.
    #[must_use]
    pub fn around(centre: f64, half_width: f64) -> Self {
        Self { low: centre - half_width, high: centre + half_width }
    }

    /// Half the distance between the ends.
    #[must_use]
    pub fn half_width(self) -> f64 {
        (self.high - self.low) / 2.0
    }

    /// Whether `value` lies between the ends, the ends included.
    #[must_use]
    pub fn contains(self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// The part inside `[0, 1]`: for drawing a proportion only, since clamping an interval hides how wide it is.
    #[must_use]
    pub fn clamped_to_unit(self) -> Self {
        Self { low: self.low.clamp(0.0, 1.0), high: self.high.clamp(0.0, 1.0) }
    }
}

/// The arithmetic mean, `None` of nothing.
#[must_use]
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The median, `None` of nothing or of anything that is not a number.
///
/// Infinity is allowed and stands for "never": the median of `[1, ∞, ∞]` is `∞`.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted[sorted.len() / 2];
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(if lower == upper { upper } else { f64::midpoint(lower, upper) })
}

/// The sample standard deviation (divisor `n - 1`), `None` below two values.
#[must_use]
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let centre = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// Student's 95 % interval of the mean, `x̄ ± t₀.₉₇₅(n-1) s / √n`; `None` below two values.
///
/// This is the interval of the tables: runs are repeated on few seeds, where the percentile bootstrap is far too narrow
/// (of three values it can never leave their range).
///
/// ```
/// # use experiments::report::stats::t_interval;
/// let interval = t_interval(&[0.97, 0.98, 0.99]).unwrap();
/// assert!((interval.half_width() - 0.02484).abs() < 1e-5);
/// assert_eq!(t_interval(&[0.97]), None);
/// ```
#[must_use]
pub fn t_interval(values: &[f64]) -> Option<Interval> {
    let deviation = standard_deviation(values)?;
    let n = values.len() as f64;
    let quantile = StudentsT::new(0.0, 1.0, n - 1.0).ok()?.inverse_cdf(UPPER);
    Some(Interval::around(mean(values)?, quantile * deviation / n.sqrt()))
}

/// The percentile bootstrap's 95 % interval of the mean over 10 000 resamples; `None` below two values.
///
/// It assumes no distribution but needs many values; `seed` fixes the resamples, so the same input gives the same interval.
#[must_use]
pub fn bootstrap_interval(values: &[f64], seed: u64) -> Option<Interval> {
    if values.len() < 2 {
        return None;
    }
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let n = values.len();
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| (0..n).map(|_| values[generator.random_range(0..n)]).sum::<f64>() / n as f64).collect();
    means.sort_by(f64::total_cmp);
    Some(Interval { low: quantile(&means, 1.0 - UPPER), high: quantile(&means, UPPER) })
}

/// The quantile of sorted values, linear between neighbours.
fn quantile(sorted: &[f64], probability: f64) -> f64 {
    let place = probability * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - place.floor()) * (sorted[above] - sorted[below])
}

/// Wilson's 95 % score interval of a proportion (J. Am. Stat. Assoc. 22, 1927); `None` of no trials.
///
/// ```text
/// (p̂ + z²/2n ± z √(p̂(1-p̂)/n + z²/4n²)) / (1 + z²/n)
/// ```
///
/// It describes one run's test sample, not what another seed would give, and takes the labels as independent: where one
/// sequence carries several labels it is too narrow.
#[must_use]
pub fn wilson_interval(successes: u64, trials: u64) -> Option<Interval> {
    if trials == 0 {
        return None;
    }
    let n = trials as f64;
    let share = successes as f64 / n;
    let z2 = NORMAL_UPPER * NORMAL_UPPER;
    let centre = share + z2 / (2.0 * n);
    let spread = NORMAL_UPPER * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    Some(Interval { low: (centre - spread) / scale, high: (centre + spread) / scale })
}

/// The difference of two cases over the seeds that both were run on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairedDifference {
    /// Seeds in common.
    pub seeds: usize,
    /// Mean over them of first minus second.
    pub mean: f64,
    /// Student's 95 % interval of that mean; `None` on one seed.
    pub interval: Option<Interval>,
    /// The effect's size, [`effect_size`]; `None` on one seed or where all differences are equal.
    pub effect: Option<f64>,
    /// Two-sided p value of the paired t test that the mean is zero; `None` on one seed.
    pub p: Option<f64>,
}

/// What a paired difference allows one to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval lies above zero.
    FirstHigher,
    /// The whole interval lies below zero.
    SecondHigher,
    /// The interval contains zero: no difference is shown, in either direction.
    NoneShown,
    /// One common seed: there is no interval, so nothing can be said.
    OneSeed,
}

impl PairedDifference {
    /// What the difference allows one to say; it names a winner only where the interval excludes zero.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.interval {
            None => Verdict::OneSeed,
            Some(interval) if interval.low > 0.0 => Verdict::FirstHigher,
            Some(interval) if interval.high < 0.0 => Verdict::SecondHigher,
            Some(_) => Verdict::NoneShown,
        }
    }
}

/// The mean of `first - second` over their common seeds, with its interval; `None` without a common seed.
#[must_use]
pub fn paired_difference(first: &BTreeMap<u64, f64>, second: &BTreeMap<u64, f64>) -> Option<PairedDifference> {
    let differences: Vec<f64> =
        first.iter().filter_map(|(seed, value)| second.get(seed).map(|other| value - other)).collect();
    Some(PairedDifference {
        seeds: differences.len(),
        mean: mean(&differences)?,
        interval: t_interval(&differences),
        effect: effect_size(&differences),
        p: t_test(&differences),
    })
}

/// The size of a paired effect: Cohen's `d_z` with Hedges' correction for few values,
/// `x̄ / s · (1 − 3 / (4 (n − 1) − 1))` (Lakens, Front. Psychol. 4:863, 2013, eqs 4 and 7).
///
/// `None` below two values, and where all values are equal. Of two values the correction is exactly zero, so the size is
/// `None` there, too: two differences say nothing of their spread.
#[must_use]
pub fn effect_size(differences: &[f64]) -> Option<f64> {
    let deviation = standard_deviation(differences).filter(|deviation| *deviation > 0.0)?;
    let freedom = (differences.len() - 1) as f64;
    (differences.len() > 2).then_some(mean(differences)? / deviation * (1.0 - 3.0 / (4.0 * freedom - 1.0)))
}

/// Two-sided p value of Student's t test that the mean is zero; `None` below two values.
///
/// Where all values are equal, the mean is zero or certain: p is 1 or 0.
#[must_use]
pub fn t_test(values: &[f64]) -> Option<f64> {
    let (centre, deviation) = (mean(values)?, standard_deviation(values)?);
    if deviation == 0.0 {
        return Some(if centre == 0.0 { 1.0 } else { 0.0 });
    }
    let n = values.len() as f64;
    let t = centre / deviation * n.sqrt();
    Some(2.0 * StudentsT::new(0.0, 1.0, n - 1.0).ok()?.cdf(-t.abs()))
}

/// Holm's adjustment of p values for their number (Scand. J. Stat. 6, 1979): the k-th smallest of `m` times `m − k + 1`, no
/// smaller than those before it and at most 1.
///
/// Rejecting where the adjusted value is below 0.05 keeps the chance of any false rejection below 0.05.
///
/// ```
/// # use experiments::report::stats::holm;
/// let adjusted = holm(&[0.04, 0.01, 0.03]);
/// assert_eq!(adjusted, [0.06, 0.03, 0.06]);
/// ```
#[must_use]
pub fn holm(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut adjusted = vec![1.0; values.len()];
    let mut least = 0.0_f64;
    for (rank, place) in order.into_iter().enumerate() {
        least = least.max((values[place] * (values.len() - rank) as f64).min(1.0));
        adjusted[place] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published quantiles are quoted to this many digits.
    const QUOTED: f64 = 1e-6;

    fn close(value: f64, expected: f64) {
        assert!((value - expected).abs() < QUOTED, "{value} is not {expected}");
    }

    fn seeds(values: &[(u64, f64)]) -> BTreeMap<u64, f64> {
        values.iter().copied().collect()
    }

    #[test]
    fn the_t_interval_of_three_values_uses_the_quantile_of_two_degrees_of_freedom() {
        let interval = t_interval(&[1.0, 2.0, 3.0]).unwrap();
        close(interval.half_width(), 4.302_652_73 / 3.0_f64.sqrt());
        close(f64::midpoint(interval.low, interval.high), 2.0);
    }

    #[test]
    fn the_t_interval_of_two_values_uses_the_quantile_of_one_degree_of_freedom() {
        close(t_interval(&[0.0, 2.0]).unwrap().half_width(), 12.706_204_736);
    }

    #[test]
    fn the_t_interval_of_equal_values_has_no_width() {
        let interval = t_interval(&[1.0, 1.0, 1.0]).unwrap();
        assert_eq!((interval.low, interval.high), (1.0, 1.0));
    }

    #[test]
    fn the_t_interval_covers_the_true_mean_in_about_95_of_100_samples() {
        const SAMPLES: usize = 4000;
        let mut generator = ChaCha8Rng::seed_from_u64(7);
        // Twelve uniforms minus six: mean 0, variance 1, near enough to a normal for the t interval's promise to hold.
        let mut normal = || (0..12).map(|_| generator.random_range(0.0..1.0)).sum::<f64>() - 6.0;
        let covered =
            (0..SAMPLES).filter(|_| t_interval(&[normal(), normal(), normal()]).unwrap().contains(0.0)).count();
        let share = covered as f64 / SAMPLES as f64;
        // Four standard errors of a share of .95 among 4000.
        assert!((share - 0.95).abs() < 4.0 * (0.95 * 0.05 / SAMPLES as f64).sqrt(), "{share}");
    }

    #[test]
    fn one_value_has_a_mean_and_no_interval() {
        assert_eq!(mean(&[0.5]), Some(0.5));
        assert_eq!(standard_deviation(&[0.5]), None);
        assert_eq!(t_interval(&[0.5]), None);
        assert_eq!(bootstrap_interval(&[0.5], 0), None);
    }

    #[test]
    fn nothing_has_no_mean_and_no_median() {
        assert_eq!(mean(&[]), None);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_sample_deviation_divides_by_one_less_than_the_count() {
        close(standard_deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap(), (32.0_f64 / 7.0).sqrt());
    }

    #[test]
    fn a_median_takes_never_for_infinity() {
        assert_eq!(median(&[3.0, 1.0, f64::INFINITY]), Some(3.0));
        assert_eq!(median(&[1.0, f64::INFINITY, f64::INFINITY]), Some(f64::INFINITY));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(median(&[f64::NAN]), None);
    }

    #[test]
    fn the_wilson_interval_is_the_published_one() {
        // Newcombe, Stat. Med. 17 (1998), table I, method 3: 81 of 263 and 0 of 20.
        let interval = wilson_interval(81, 263).unwrap();
        assert!((interval.low - 0.2553).abs() < 5e-5 && (interval.high - 0.3662).abs() < 5e-5, "{interval:?}");
        let none = wilson_interval(0, 20).unwrap();
        assert!(none.low.abs() < 1e-12 && (none.high - 0.1611).abs() < 5e-5, "{none:?}");
        assert_eq!(wilson_interval(0, 0), None);
    }

    #[test]
    fn a_wilson_interval_stays_inside_the_unit_interval() {
        for trials in [1, 2, 10, 1000] {
            for successes in [0, trials / 2, trials] {
                let interval = wilson_interval(successes, trials).unwrap();
                assert!(interval.low > -1e-12 && interval.high < 1.0 + 1e-12, "{successes}/{trials}: {interval:?}");
            }
        }
    }

    #[test]
    fn the_bootstrap_repeats_bit_for_bit_and_stays_in_the_range_of_the_values() {
        let values = [0.90, 0.92, 0.97, 0.99, 0.95, 0.93];
        let interval = bootstrap_interval(&values, 3).unwrap();
        assert_eq!(bootstrap_interval(&values, 3), Some(interval));
        assert!(interval.low >= 0.90 && interval.high <= 0.99 && interval.low < interval.high);
    }

    #[test]
    fn the_bootstrap_of_many_values_agrees_with_the_t_interval() {
        let values: Vec<f64> = (0..200).map(|i| f64::from(i % 20) / 20.0).collect();
        let (bootstrap, student) = (bootstrap_interval(&values, 1).unwrap(), t_interval(&values).unwrap());
        // A tenth of the half-width: 10 000 resamples put the ends within about 2 %.
        let allowed = 0.1 * student.half_width();
        assert!((bootstrap.low - student.low).abs() < allowed && (bootstrap.high - student.high).abs() < allowed);
    }

    #[test]
    fn a_paired_difference_uses_common_seeds_only() {
        let difference = paired_difference(
            &seeds(&[(0, 0.9), (1, 0.8), (2, 0.7), (9, 0.0)]),
            &seeds(&[(0, 0.5), (1, 0.5), (2, 0.5)]),
        )
        .unwrap();
        assert_eq!(difference.seeds, 3);
        close(difference.mean, 0.3);
        close(difference.interval.unwrap().half_width(), 4.302_652_73 * 0.1 / 3.0_f64.sqrt());
        assert_eq!(difference.verdict(), Verdict::FirstHigher);
        assert_eq!(paired_difference(&seeds(&[(0, 1.0)]), &seeds(&[(1, 1.0)])), None);
    }

    #[test]
    fn the_effect_size_is_the_corrected_mean_in_units_of_its_spread() {
        // Mean 2, deviation 1, two degrees of freedom: 2 · (1 − 3/7).
        close(effect_size(&[1.0, 2.0, 3.0]).unwrap(), 8.0 / 7.0);
        assert_eq!(effect_size(&[1.0, 1.0, 1.0]), None);
        assert_eq!(effect_size(&[1.0, 2.0]), None);
    }

    #[test]
    fn the_t_test_is_the_published_one() {
        // One degree of freedom is a Cauchy distribution: t = 1 at [0, 2], hence p = 1/2.
        close(t_test(&[0.0, 2.0]).unwrap(), 0.5);
        // t = 2√3 at two degrees of freedom: p = 1 − t/√(t² + 2).
        close(t_test(&[1.0, 2.0, 3.0]).unwrap(), 1.0 - (12.0_f64 / 14.0).sqrt());
        assert_eq!((t_test(&[0.5, 0.5]), t_test(&[0.0, 0.0]), t_test(&[0.5])), (Some(0.0), Some(1.0), None));
    }

    #[test]
    fn the_t_test_and_the_t_interval_agree() {
        for values in [[0.1, 0.2, 0.35], [-0.1, 0.2, 0.35], [0.01, 0.02, 0.8], [-0.3, -0.2, -0.28]] {
            let excluded = !t_interval(&values).unwrap().contains(0.0);
            assert_eq!(excluded, t_test(&values).unwrap() < 0.05, "{values:?}");
        }
    }

    #[test]
    fn holm_steps_down_and_never_falls() {
        assert_eq!(holm(&[0.01, 0.02, 0.03, 0.5]), [0.04, 0.06, 0.06, 0.5]);
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert_eq!(holm(&[0.04]), [0.04]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn pairing_shows_a_difference_that_the_spread_over_seeds_would_hide() {
        let low = seeds(&[(0, 0.10), (1, 0.50), (2, 0.90)]);
        let high = seeds(&[(0, 0.15), (1, 0.56), (2, 0.95)]);
        assert_eq!(paired_difference(&high, &low).unwrap().verdict(), Verdict::FirstHigher);
        assert_eq!(paired_difference(&low, &high).unwrap().verdict(), Verdict::SecondHigher);
    }

    #[test]
    fn no_winner_is_named_where_the_interval_contains_zero_or_is_missing() {
        let mixed = paired_difference(&seeds(&[(0, 0.9), (1, 0.5)]), &seeds(&[(0, 0.5), (1, 0.6)])).unwrap();
        assert_eq!(mixed.verdict(), Verdict::NoneShown);
        let equal = paired_difference(&seeds(&[(0, 1.0), (1, 1.0)]), &seeds(&[(0, 1.0), (1, 1.0)])).unwrap();
        assert_eq!(equal.verdict(), Verdict::NoneShown);
        let single = paired_difference(&seeds(&[(0, 1.0)]), &seeds(&[(0, 0.0)])).unwrap();
        assert_eq!(single.verdict(), Verdict::OneSeed);
    }

    #[test]
    fn clamping_keeps_the_part_inside_the_unit_interval() {
        let clamped = Interval { low: -0.2, high: 1.3 }.clamped_to_unit();
        assert_eq!((clamped.low, clamped.high), (0.0, 1.0));
    }
}
