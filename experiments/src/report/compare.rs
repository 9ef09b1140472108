//! Paired comparisons of cases on common seeds, and the words for what they show.

use std::collections::BTreeMap;

use serde::Serialize;

use super::format;
use super::gather::CaseSummary;
use super::stats::{Interval, PairedDifference, Verdict, paired_difference};

/// Up to this many cases of an experiment, each is compared with each.
const ALL_PAIRS: usize = 6;

/// Two cases of an experiment compared by test accuracy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Label of the first case.
    pub first: String,
    /// Label of the second case.
    pub second: String,
    /// First minus second over common seeds; `None` without a common seed.
    pub difference: Option<PairedDifference>,
    /// What the difference allows one to say, as a sentence.
    pub verdict: String,
}

/// Compares the cases of each experiment.
///
/// A few cases are compared each with each. In a larger sweep the first case is compared with the others at the same values
/// of the axes, or, where only axes vary, with the other values.
pub(crate) fn compare(summaries: &[CaseSummary]) -> Vec<Comparison> {
    let mut experiments: BTreeMap<&str, Vec<&CaseSummary>> = BTreeMap::new();
    for summary in summaries {
        experiments.entry(&summary.name).or_default().push(summary);
    }
    experiments.values().flat_map(|cases| pairs(cases)).map(|(first, second)| compare_two(first, second)).collect()
}

fn pairs<'a>(cases: &[&'a CaseSummary]) -> Vec<(&'a CaseSummary, &'a CaseSummary)> {
    if cases.len() <= ALL_PAIRS {
        let with_later = |(index, first): (usize, &&'a CaseSummary)| {
            let first = *first;
            cases[index + 1..].iter().map(move |second| (first, *second)).collect::<Vec<_>>()
        };
        return cases.iter().enumerate().flat_map(with_later).collect();
    }
    let mut groups: Vec<Vec<&CaseSummary>> = Vec::new();
    for case in cases {
        match groups.iter_mut().find(|group| group[0].axes == case.axes) {
            Some(group) => group.push(case),
            None => groups.push(vec![case]),
        }
    }
    if groups.iter().all(|group| group.len() == 1) {
        groups = vec![cases.to_vec()];
    }
    groups.iter().flat_map(|group| group[1..].iter().map(|second| (group[0], *second))).collect()
}

fn compare_two(first: &CaseSummary, second: &CaseSummary) -> Comparison {
    let difference = paired_difference(&first.accuracy.by_seed, &second.accuracy.by_seed);
    let verdict = match &difference {
        None => format!("{} and {} have no seed in common: not compared.", first.label, second.label),
        Some(difference) => words(&first.label, &second.label, difference),
    };
    Comparison { first: first.label.clone(), second: second.label.clone(), difference, verdict }
}

fn words(first: &str, second: &str, difference: &PairedDifference) -> String {
    let points = format::points(difference.mean);
    let seeds = difference.seeds;
    let Some(interval) = difference.interval else {
        return format!(
            "{first} minus {second} is {points} points on one seed; one seed gives no interval and shows nothing."
        );
    };
    let range = format!("{} to {}", format::points(interval.low), format::points(interval.high));
    match difference.verdict() {
        Verdict::FirstHigher => {
            let size = points.trim_start_matches('+');
            format!("{first} is higher than {second} by {size} points (95 % interval {range}, {seeds} seeds).")
        }
        Verdict::SecondHigher => words(second, first, &reversed(difference)),
        Verdict::NoneShown | Verdict::OneSeed => format!(
            "No difference shown between {first} and {second}: {points} points (95 % interval {range}, {seeds} seeds)."
        ),
    }
}

/// The same difference, second minus first.
fn reversed(difference: &PairedDifference) -> PairedDifference {
    PairedDifference {
        mean: -difference.mean,
        interval: difference.interval.map(|interval| Interval { low: -interval.high, high: -interval.low }),
        ..*difference
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::gather::gather;
    use crate::report::synthetic::{self, RunSpec};

    fn summaries(specs: &[RunSpec]) -> Vec<CaseSummary> {
        gather(&synthetic::read(specs), &[]).0
    }

    #[test]
    fn a_clear_difference_names_the_higher_case_whichever_comes_first() {
        let comparisons = compare(&summaries(&synthetic::comparison(3)));
        let of = |first: &str, second: &str| {
            comparisons.iter().find(|pair| pair.first == first && pair.second == second).unwrap().verdict.clone()
        };
        assert!(of("hybrid", "mamba").starts_with("hybrid is higher than mamba by 97."), "{}", of("hybrid", "mamba"));
        assert_eq!(comparisons.len(), 3);
        let cases = [("a", 0.1), ("b", 0.99)];
        let exact = |case, seed, accuracy| RunSpec { accuracy, noise: 0.0, ..RunSpec::new("recall", case, seed) };
        let seeds = |seed| cases.iter().map(move |&(case, accuracy)| exact(case, seed, accuracy));
        let reversed = compare(&summaries(&(0..3).flat_map(seeds).collect::<Vec<_>>()));
        assert!(reversed[0].verdict.starts_with("b is higher than a by 89.0 points (95 % interval +89.0 to +89.0"));
    }

    #[test]
    fn an_interval_that_contains_zero_names_no_winner() {
        let specs: Vec<RunSpec> = [("a", 0, 0.9), ("b", 0, 0.8), ("a", 1, 0.7), ("b", 1, 0.8)]
            .map(|(case, seed, accuracy)| RunSpec { accuracy, noise: 0.0, ..RunSpec::new("recall", case, seed) })
            .to_vec();
        let verdict = compare(&summaries(&specs)).remove(0).verdict;
        assert!(verdict.starts_with("No difference shown between a and b"), "{verdict}");
        assert!(!verdict.contains("higher"), "{verdict}");
    }

    #[test]
    fn one_seed_names_no_winner() {
        let verdict = compare(&summaries(&synthetic::comparison(1))).remove(0).verdict;
        assert!(verdict.contains("shows nothing") && !verdict.contains("higher"), "{verdict}");
    }

    #[test]
    fn cases_without_a_common_seed_are_not_compared() {
        let verdict =
            compare(&summaries(&[RunSpec::new("recall", "a", 0), RunSpec::new("recall", "b", 1)])).remove(0).verdict;
        assert!(verdict.contains("no seed in common"), "{verdict}");
    }

    #[test]
    fn cases_of_different_experiments_are_not_compared() {
        assert!(compare(&summaries(&[RunSpec::new("recall", "a", 0), RunSpec::new("copy", "b", 0)])).is_empty());
    }

    #[test]
    fn in_a_sweep_cases_are_compared_at_the_same_values_of_the_axes() {
        let spec = |case: &str, width: u64| RunSpec {
            axes: [("width".to_owned(), serde_json::Value::from(width))].into(),
            ..RunSpec::new("recall", case, 0)
        };
        let widths = [64, 128, 256, 512];
        let comparisons = compare(&summaries(&widths.map(|width| [spec("a", width), spec("b", width)]).concat()));
        assert_eq!(comparisons.len(), widths.len());
        for (pair, width) in comparisons.iter().zip(widths) {
            assert_eq!((&*pair.first, &*pair.second), (&*format!("a width={width}"), &*format!("b width={width}")));
        }
    }

    #[test]
    fn many_cases_are_compared_with_the_first() {
        let cases: Vec<RunSpec> = (0..9).map(|case| RunSpec::new("recall", &format!("case{case}"), 0)).collect();
        let comparisons = compare(&summaries(&cases));
        assert_eq!(comparisons.len(), 8);
        assert!(comparisons.iter().all(|pair| pair.first == "case0"));
    }
}
