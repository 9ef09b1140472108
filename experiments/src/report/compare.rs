//! Paired comparisons of cases on common seeds, and the words for what they show.

use std::collections::BTreeMap;

use serde::Serialize;

use super::format;
use super::gather::CaseSummary;
use super::sheet::{Column, Sheet};
use super::stats::{Interval, PairedDifference, Verdict, holm, paired_difference};

/// Up to this many cases of an experiment, each is compared with each.
const ALL_PAIRS: usize = 6;

/// Below this, Holm's adjusted p value shows a difference.
const SIGNIFICANT: f64 = 0.05;

/// Two cases of an experiment compared by test accuracy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Label of the first case.
    pub first: String,
    /// Label of the second case.
    pub second: String,
    /// First minus second over common seeds; `None` without a common seed.
    pub difference: Option<PairedDifference>,
    /// The p value, adjusted by Holm for the comparisons of the experiment.
    pub adjusted_p: Option<f64>,
    /// How many comparisons it is adjusted for.
    pub of: usize,
    /// Whether a difference is shown: the interval excludes 0, and still does after the adjustment.
    pub shown: bool,
    /// What the difference allows one to say, as a sentence.
    pub verdict: String,
}

/// Compares the cases of each experiment.
///
/// A few cases are compared each with each. In a larger sweep the first case is compared with the others at the same values
/// of the axes, or, where only axes vary, with the other values. The p values of an experiment are adjusted together
/// ([`holm`]).
pub(crate) fn compare(summaries: &[CaseSummary]) -> Vec<Comparison> {
    let mut experiments: BTreeMap<&str, Vec<&CaseSummary>> = BTreeMap::new();
    for summary in summaries {
        experiments.entry(&summary.name).or_default().push(summary);
    }
    experiments.values().flat_map(|cases| compare_pairs(&pairs(cases))).collect()
}

fn compare_pairs(pairs: &[(&CaseSummary, &CaseSummary)]) -> Vec<Comparison> {
    let difference = |(first, second): &(&CaseSummary, &CaseSummary)| {
        paired_difference(&first.accuracy.by_seed, &second.accuracy.by_seed)
    };
    let differences: Vec<Option<PairedDifference>> = pairs.iter().map(difference).collect();
    let p: Vec<f64> = differences.iter().flatten().filter_map(|difference| difference.p).collect();
    let mut adjusted = holm(&p).into_iter();
    let compare = |((first, second), difference): (&(&CaseSummary, &CaseSummary), Option<PairedDifference>)| {
        let adjusted_p = difference.and_then(|difference| difference.p).and_then(|_| adjusted.next());
        compare_two((first, second), difference, (adjusted_p, p.len()))
    };
    pairs.iter().zip(differences).map(compare).collect()
}

/// The comparisons as numbers in full precision, a row each.
pub(crate) fn sheet(comparisons: &[Comparison]) -> Sheet {
    let numbers = ["seeds", "difference", "low", "high", "effect_size", "p", "p_holm", "comparisons"];
    let columns = ["first", "second"].map(Column::text).into_iter().chain(numbers.map(Column::number));
    let row = |pair: &Comparison| {
        let difference = pair.difference;
        let interval = difference.and_then(|difference| difference.interval);
        let numbers = [
            difference.map(|difference| difference.mean),
            interval.map(|interval| interval.low),
            interval.map(|interval| interval.high),
            difference.and_then(|difference| difference.effect),
            difference.and_then(|difference| difference.p),
            pair.adjusted_p,
        ];
        let seeds = difference.map_or(0, |difference| difference.seeds).to_string();
        let mut cells = vec![pair.first.clone(), pair.second.clone(), seeds];
        cells.extend(numbers.map(format::raw));
        cells.push(pair.of.to_string());
        cells
    };
    Sheet { columns: columns.collect(), rows: comparisons.iter().map(row).collect() }
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

fn compare_two(
    (first, second): (&CaseSummary, &CaseSummary),
    difference: Option<PairedDifference>,
    (adjusted_p, of): (Option<f64>, usize),
) -> Comparison {
    let named =
        |difference: &PairedDifference| matches!(difference.verdict(), Verdict::FirstHigher | Verdict::SecondHigher);
    let shown = difference.as_ref().is_some_and(named) && adjusted_p.is_some_and(|p| p < SIGNIFICANT);
    let verdict = match &difference {
        None => format!("{} and {} have no seed in common: not compared.", first.label, second.label),
        Some(difference) => {
            let mut verdict = words((&first.label, &second.label), difference, shown);
            if named(difference) && !shown {
                let p = format::p_value(adjusted_p.unwrap_or(1.0));
                verdict +=
                    &format!(" The interval excludes 0, but not after Holm's correction for {of} comparisons (p {p}).");
            }
            if shown && overlap(first, second) {
                verdict += " Their own intervals overlap; the difference shows only seed by seed.";
            }
            verdict
        }
    };
    let (first, second) = (first.label.clone(), second.label.clone());
    Comparison { first, second, difference, adjusted_p, of, shown, verdict }
}

/// Whether the intervals of both means share a value.
fn overlap(first: &CaseSummary, second: &CaseSummary) -> bool {
    match (first.accuracy.interval, second.accuracy.interval) {
        (Some(first), Some(second)) => first.low <= second.high && second.low <= first.high,
        _ => false,
    }
}

fn words((first, second): (&str, &str), difference: &PairedDifference, shown: bool) -> String {
    let points = format::points(difference.mean);
    let seeds = difference.seeds;
    let Some(interval) = difference.interval else {
        return format!(
            "{first} minus {second} is {points} points on one seed; one seed gives no interval and shows nothing."
        );
    };
    let effect = difference.effect.map(|effect| format!(", effect size {}", format::short(effect).replace('-', "−")));
    let range = format!(
        "95 % interval {} to {}{}, {seeds} seeds",
        format::points(interval.low),
        format::points(interval.high),
        effect.unwrap_or_default()
    );
    match difference.verdict() {
        Verdict::FirstHigher if shown => {
            let size = points.trim_start_matches('+');
            format!("{first} is higher than {second} by {size} points ({range}).")
        }
        Verdict::SecondHigher if shown => words((second, first), &reversed(difference), shown),
        _ => format!("No difference shown between {first} and {second}: {points} points ({range})."),
    }
}

/// The same difference, second minus first.
fn reversed(difference: &PairedDifference) -> PairedDifference {
    PairedDifference {
        mean: -difference.mean,
        interval: difference.interval.map(|interval| Interval { low: -interval.high, high: -interval.low }),
        effect: difference.effect.map(|effect| -effect),
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

    /// Runs of two cases with these accuracies on seeds 0, 1, …
    fn two(a: &[f64], b: &[f64]) -> Vec<RunSpec> {
        let case = |case: &'static str, values: &[f64]| {
            let spec = |(seed, &accuracy): (usize, &f64)| RunSpec {
                accuracy,
                noise: 0.0,
                ..RunSpec::new("recall", case, seed as u64)
            };
            values.iter().enumerate().map(spec).collect::<Vec<_>>()
        };
        [case("a", a), case("b", b)].concat()
    }

    #[test]
    fn a_winner_whose_interval_overlaps_the_loser_s_is_said_to() {
        let verdict = compare(&summaries(&two(&[0.10, 0.50, 0.90], &[0.15, 0.56, 0.95]))).remove(0).verdict;
        assert!(verdict.starts_with("b is higher than a") && verdict.contains("intervals overlap"), "{verdict}");
        let apart = compare(&summaries(&two(&[0.10, 0.11, 0.12], &[0.90, 0.92, 0.91]))).remove(0).verdict;
        assert!(!apart.contains("overlap"), "{apart}");
    }

    #[test]
    fn many_comparisons_need_more_to_show_a_difference() {
        // Alone p is about 0.03; it does not stand among three comparisons, of which the others show nothing.
        let pair = two(&[0.50, 0.50, 0.50], &[0.55, 0.57, 0.54]);
        let alone = compare(&summaries(&pair)).remove(0);
        assert!(alone.shown && alone.of == 1, "{alone:?}");
        let third = [0.2, 0.9, 0.5].into_iter().enumerate().map(|(seed, accuracy)| RunSpec {
            accuracy,
            noise: 0.0,
            ..RunSpec::new("recall", "c", seed as u64)
        });
        let among = compare(&summaries(&[pair, third.collect()].concat())).remove(0);
        assert!(!among.shown && among.of == 3, "{among:?}");
        assert!(among.verdict.contains("not after Holm's correction for 3 comparisons"), "{}", among.verdict);
    }

    #[test]
    fn numbers_of_comparisons_are_in_full_precision() {
        let comparisons = compare(&summaries(&two(&[0.10, 0.50, 0.90], &[0.15, 0.56, 0.95])));
        let sheet = sheet(&comparisons);
        let difference = comparisons[0].difference.unwrap();
        assert_eq!(sheet.rows[0][3].parse::<f64>().unwrap(), difference.mean);
        assert_eq!(sheet.rows[0].len(), sheet.columns.len());
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
