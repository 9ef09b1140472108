//! Runs to cases: what was run with the same settings on several seeds becomes one summary.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::checks;
use super::read::{Run, pooled};
use super::select;
use super::stats::{Interval, bootstrap_interval, mean, median, t_interval};
use crate::result::SliceScore;

/// Seed of the bootstrap's resamples.
const BOOTSTRAP_SEED: u64 = 0;

/// Fewest seeds for which a bootstrap interval is given: below, it is known to be far too narrow.
pub const BOOTSTRAP_SEEDS: usize = 5;

/// A score over seeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// Seed → value. Seeds without a value are absent.
    pub by_seed: BTreeMap<u64, f64>,
    /// Mean over seeds.
    pub mean: Option<f64>,
    /// Student's 95 % interval of the mean; `None` on one seed.
    pub interval: Option<Interval>,
    /// Bootstrap 95 % interval of the mean; `None` below [`BOOTSTRAP_SEEDS`] seeds.
    pub bootstrap: Option<Interval>,
    /// The lowest over seeds.
    pub min: Option<f64>,
}

impl Score {
    fn of(by_seed: BTreeMap<u64, f64>) -> Self {
        let values: Vec<f64> = by_seed.values().copied().collect();
        Self {
            mean: mean(&values),
            interval: t_interval(&values),
            bootstrap: if values.len() < BOOTSTRAP_SEEDS { None } else { bootstrap_interval(&values, BOOTSTRAP_SEED) },
            min: values.iter().copied().reduce(f64::min),
            by_seed,
        }
    }
}

/// Test accuracy on one slice.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SliceSummary {
    /// Name of the slice.
    pub slice: String,
    /// What sets it apart: `length`, `pairs`, …
    pub keys: BTreeMap<String, f64>,
    /// Accuracy of a uniform guesser.
    pub chance: f64,
    /// Accuracy over seeds.
    pub accuracy: Score,
}

/// How many optimiser steps a case took to its target on validation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepsToTarget {
    /// Runs that reached the target.
    pub reached: usize,
    /// Runs in all.
    pub runs: usize,
    /// Median over all runs, those that never reached it counted as later than any step; `None` if that is "never".
    pub median: Option<f64>,
    /// The earliest.
    pub first: u64,
    /// The latest among those that reached it.
    pub last: u64,
}

/// All runs of one case: the same experiment, case and axes, on different seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseSummary {
    /// Name of the experiment.
    pub name: String,
    /// Name of the case.
    pub case: String,
    /// Values of the sweep's axes, but for those in `selected`.
    pub axes: BTreeMap<String, Value>,
    /// Values of the axes that validation selected for this case.
    pub selected: BTreeMap<String, Value>,
    /// Short text that tells this case from the report's others.
    pub label: String,
    /// Places of its runs among the runs given, in order of their seeds.
    pub runs: Vec<usize>,
    /// Test accuracy, pooled over slices: right answers over labelled positions.
    pub accuracy: Score,
    /// Test accuracy by slice, in order of the slices' keys.
    pub slices: Vec<SliceSummary>,
    /// Accuracy of a uniform guesser, pooled over slices as the accuracy is.
    pub chance: Option<f64>,
    /// Trained numbers.
    pub parameters: u64,
    /// Bytes of state one sequence needs while decoding, in f32.
    pub state_bytes: u64,
    /// Length that `state_bytes` is for.
    pub state_length: u64,
    /// Steps to the target; `None` if no run reached one.
    pub steps_to_target: Option<StepsToTarget>,
    /// Median training throughput, in tokens a second.
    pub tokens_per_second: Option<f64>,
    /// Median training time, in seconds.
    pub train_seconds: Option<f64>,
}

impl CaseSummary {
    /// The seeds it was run on.
    #[must_use]
    pub fn seeds(&self, runs: &[Run]) -> BTreeSet<u64> {
        self.runs.iter().map(|&run| runs[run].result.seed).collect()
    }
}

/// Groups runs by experiment, case and axes, and notes what makes the groups hard to compare.
///
/// Order: by experiment, then by the place of the case in `case_order` (those not named there come after, by name), then by
/// the axes' values, numbers as numbers.
pub(crate) fn gather(runs: &[Run], case_order: &[String]) -> (Vec<CaseSummary>, Vec<String>) {
    let mut groups: BTreeMap<(String, String, String), Vec<usize>> = BTreeMap::new();
    let choices = select::choose(runs);
    let counted: BTreeSet<usize> =
        choices.iter().flat_map(|choice| &choice.tried[choice.chosen].runs).copied().collect();
    let counts = |(index, run): &(usize, &Run)| run.select.is_empty() || counted.contains(index);
    for (index, run) in runs.iter().enumerate().filter(counts) {
        let axes = serde_json::to_string(&run.result.axes).unwrap_or_default();
        groups.entry((run.result.name.clone(), run.result.case.clone(), axes)).or_default().push(index);
    }
    let mut warnings = Vec::new();
    let mut summaries: Vec<CaseSummary> = groups.into_values().map(|members| summarise(runs, members)).collect();
    let place = |case: &str| case_order.iter().position(|named| named == case).unwrap_or(usize::MAX);
    summaries.sort_by(|a, b| {
        (&a.name, place(&a.case), &a.case)
            .cmp(&(&b.name, place(&b.case), &b.case))
            .then_with(|| compare_axes(&a.axes, &b.axes))
    });
    label(&mut summaries);
    for named in case_order.iter().filter(|named| summaries.iter().all(|summary| summary.case != **named)) {
        warnings.push(format!("no run has the case `{named}` that the order of cases names"));
    }
    checks::check(&summaries, runs, &mut warnings);
    (summaries, warnings)
}

fn summarise(runs: &[Run], mut members: Vec<usize>) -> CaseSummary {
    members.sort_by_key(|&index| runs[index].result.seed);
    let first = &runs[members[0]].result;
    let (selected, axes) = first.axes.clone().into_iter().partition(|(key, _)| runs[members[0]].select.contains(key));
    let results = || members.iter().map(|&index| &runs[index].result);
    let accuracy = per_seed(results().filter_map(|result| {
        Some((result.seed, pooled(result.test.iter().map(|slice| (slice.correct, slice.labels)))?))
    }));
    let slices = slice_summaries(runs, &members);
    let finite = |value: f64| value.is_finite().then_some(value);
    let throughput: Vec<f64> = results().filter_map(|result| finite(result.timing.tokens_per_second)).collect();
    let seconds: Vec<f64> = results().filter_map(|result| finite(result.timing.train_seconds)).collect();
    CaseSummary {
        name: first.name.clone(),
        case: first.case.clone(),
        axes,
        selected,
        label: String::new(),
        accuracy: Score::of(accuracy),
        chance: pooled_chance(&first.test),
        slices,
        parameters: first.parameters,
        state_bytes: first.state_bytes,
        state_length: first.state_length,
        steps_to_target: steps_to_target(&results().map(|result| result.steps_to_target).collect::<Vec<_>>()),
        tokens_per_second: median(&throughput),
        train_seconds: median(&seconds),
        runs: members,
    }
}

/// The chance level of the slices, each weighted by its labels.
fn pooled_chance(scores: &[SliceScore]) -> Option<f64> {
    let first = scores.iter().find(|score| score.labels > 0)?.chance;
    if scores.iter().all(|score| score.chance == first || score.labels == 0) {
        // As it is: a weighted mean of equal numbers may differ from them in the last digit.
        return Some(first);
    }
    let labels: u64 = scores.iter().map(|score| score.labels).sum();
    let weighted = |score: &SliceScore| score.chance * score.labels as f64 / labels as f64;
    Some(scores.iter().filter(|score| score.labels > 0).map(weighted).sum())
}

/// Seed → value; of several runs on one seed, their mean, so that no seed weighs more than another.
fn per_seed(values: impl Iterator<Item = (u64, f64)>) -> BTreeMap<u64, f64> {
    let mut all: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (seed, value) in values {
        all.entry(seed).or_default().push(value);
    }
    all.into_iter().filter_map(|(seed, values)| Some((seed, mean(&values)?))).collect()
}

/// A slice, and its accuracy by seed.
type SeedScores<'a> = (&'a SliceScore, Vec<(u64, f64)>);

fn slice_summaries(runs: &[Run], members: &[usize]) -> Vec<SliceSummary> {
    let mut slices: BTreeMap<&str, SeedScores> = BTreeMap::new();
    for result in members.iter().map(|&index| &runs[index].result) {
        for score in &result.test {
            let Some(accuracy) = pooled([(score.correct, score.labels)]) else { continue };
            slices.entry(&score.slice).or_insert_with(|| (score, Vec::new())).1.push((result.seed, accuracy));
        }
    }
    let summary = |(score, values): SeedScores| SliceSummary {
        slice: score.slice.clone(),
        keys: score.keys.clone(),
        chance: score.chance,
        accuracy: Score::of(per_seed(values.into_iter())),
    };
    let mut summaries: Vec<SliceSummary> = slices.into_values().map(summary).collect();
    summaries.sort_by(|a, b| compare_keys(&a.keys, &b.keys).then_with(|| a.slice.cmp(&b.slice)));
    summaries
}

/// Slices in the order of their keys' values, key by key.
pub(crate) fn compare_keys(a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>) -> Ordering {
    a.iter()
        .zip(b)
        .map(|((key_a, value_a), (key_b, value_b))| key_a.cmp(key_b).then(value_a.total_cmp(value_b)))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.len().cmp(&b.len()))
}

pub(crate) fn compare_axes(a: &BTreeMap<String, Value>, b: &BTreeMap<String, Value>) -> Ordering {
    let compare = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => text_of(a).cmp(&text_of(b)),
    };
    a.iter()
        .zip(b)
        .map(|((key_a, value_a), (key_b, value_b))| key_a.cmp(key_b).then_with(|| compare(value_a, value_b)))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.len().cmp(&b.len()))
}

fn steps_to_target(steps: &[Option<u64>]) -> Option<StepsToTarget> {
    let reached: Vec<u64> = steps.iter().flatten().copied().collect();
    let or_never: Vec<f64> = steps.iter().map(|step| step.map_or(f64::INFINITY, |step| step as f64)).collect();
    Some(StepsToTarget {
        reached: reached.len(),
        runs: steps.len(),
        median: median(&or_never).filter(|median| median.is_finite()),
        first: *reached.iter().min()?,
        last: *reached.iter().max()?,
    })
}

/// A value as it reads in a label: strings without their quotes.
pub(crate) fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Gives each summary the shortest text that tells it from the others: the experiment where several are reported, the case,
/// and the axes that differ, by the last part of their dotted key where that is enough.
fn label(summaries: &mut [CaseSummary]) {
    let names: BTreeSet<String> = summaries.iter().map(|summary| summary.name.clone()).collect();
    let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for summary in summaries.iter() {
        for (key, value) in &summary.axes {
            values.entry(key.clone()).or_default().insert(text_of(value));
        }
    }
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    let short = |key: &str| {
        let shared = values.keys().filter(|other| last(other) == last(key)).count();
        if shared > 1 { key.to_owned() } else { last(key) }
    };
    for summary in summaries.iter_mut() {
        let mut parts = Vec::new();
        if names.len() > 1 {
            parts.push(summary.name.clone());
        }
        if !summary.case.is_empty() {
            parts.push(summary.case.clone());
        }
        let differing = summary.axes.iter().filter(|(key, _)| values[*key].len() > 1);
        parts.extend(differing.map(|(key, value)| format!("{}={}", short(key), text_of(value))));
        summary.label = if parts.is_empty() { summary.name.clone() } else { parts.join(" ") };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::synthetic::{self, RunSpec, read};

    fn with_axis(case: &str, seed: u64, key: &str, value: Value) -> RunSpec {
        RunSpec { axes: BTreeMap::from([(key.to_owned(), value)]), ..RunSpec::new("recall", case, seed) }
    }

    #[test]
    fn runs_that_differ_in_the_seed_alone_are_one_case() {
        let runs = read(&synthetic::comparison(3));
        let (summaries, warnings) = gather(&runs, &[]);
        let labels: Vec<&str> = summaries.iter().map(|summary| summary.label.as_str()).collect();
        assert_eq!(labels, ["attention", "hybrid", "mamba"]);
        assert!(summaries.iter().all(|summary| summary.seeds(&runs) == BTreeSet::from([0, 1, 2])));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_given_order_of_cases_is_kept_and_the_others_follow() {
        let runs = read(&synthetic::comparison(1));
        let (summaries, warnings) = gather(&runs, &["mamba".to_owned(), "rnn".to_owned()]);
        let cases: Vec<&str> = summaries.iter().map(|summary| summary.case.as_str()).collect();
        assert_eq!(cases, ["mamba", "attention", "hybrid"]);
        assert!(warnings[0].contains("`rnn`"), "{warnings:?}");
    }

    #[test]
    fn axes_are_ordered_as_numbers_and_named_by_their_last_part() {
        let runs = read(&[
            with_axis("mamba", 0, "model.d_model", Value::from(128)),
            with_axis("mamba", 0, "model.d_model", Value::from(64)),
        ]);
        let labels: Vec<String> = gather(&runs, &[]).0.into_iter().map(|summary| summary.label).collect();
        assert_eq!(labels, ["mamba d_model=64", "mamba d_model=128"]);
    }

    #[test]
    fn an_axis_with_one_value_is_not_part_of_the_label() {
        let runs = read(&[with_axis("", 0, "model.d_model", Value::from(64))]);
        assert_eq!(gather(&runs, &[]).0[0].label, "recall");
    }

    #[test]
    fn accuracy_over_slices_is_weighted_by_their_labels() {
        let mut runs = read(&[RunSpec { slices: vec![(64.0, 4.0), (128.0, 8.0)], ..RunSpec::new("recall", "a", 0) }]);
        (runs[0].result.test[0].labels, runs[0].result.test[0].correct) = (100, 100);
        (runs[0].result.test[1].labels, runs[0].result.test[1].correct) = (300, 0);
        let summary = gather(&runs, &[]).0.remove(0);
        assert_eq!(summary.accuracy.mean, Some(0.25));
        let by_slice: Vec<_> = summary.slices.iter().map(|slice| slice.accuracy.mean).collect();
        assert_eq!(by_slice, [Some(1.0), Some(0.0)]);
    }

    #[test]
    fn chance_is_pooled_as_the_accuracy_is() {
        let mut runs = read(&[RunSpec { slices: vec![(64.0, 4.0), (128.0, 8.0)], ..RunSpec::new("recall", "a", 0) }]);
        assert_eq!(gather(&runs, &[]).0[0].chance, Some(1.0 / 256.0));
        (runs[0].result.test[0].labels, runs[0].result.test[0].chance) = (100, 0.5);
        (runs[0].result.test[1].labels, runs[0].result.test[1].chance) = (300, 0.1);
        assert!((gather(&runs, &[]).0[0].chance.unwrap() - 0.2).abs() < 1e-12);
        runs[0].result.test[1].labels = 0;
        assert_eq!(gather(&runs, &[]).0[0].chance, Some(0.5));
    }

    #[test]
    fn slices_are_ordered_by_their_numbers() {
        let runs = read(&[RunSpec { slices: vec![(1024.0, 4.0), (64.0, 4.0)], ..RunSpec::new("recall", "a", 0) }]);
        let slices: Vec<f64> = gather(&runs, &[]).0[0].slices.iter().map(|slice| slice.keys["length"]).collect();
        assert_eq!(slices, [64.0, 1024.0]);
    }

    #[test]
    fn a_slice_without_labels_has_no_score_and_does_not_spoil_the_others() {
        let mut runs = read(&[RunSpec { slices: vec![(64.0, 4.0), (128.0, 8.0)], ..RunSpec::new("recall", "a", 0) }]);
        let empty = &mut runs[0].result.test[1];
        (empty.labels, empty.correct, empty.accuracy) = (0, 0, f64::NAN);
        let summary = gather(&runs, &[]).0.remove(0);
        assert_eq!(summary.slices.len(), 1);
        assert!(summary.accuracy.mean.unwrap() > 0.9);
    }

    #[test]
    fn a_run_that_never_reaches_the_target_counts_as_later_than_all_others() {
        let steps = steps_to_target(&[Some(130), None, Some(150)]).unwrap();
        assert_eq!((steps.reached, steps.runs, steps.median), (2, 3, Some(150.0)));
        assert_eq!((steps.first, steps.last), (130, 150));
        assert_eq!(steps_to_target(&[Some(130), None, None]).unwrap().median, None);
        assert_eq!(steps_to_target(&[None, None]), None);
    }

    #[test]
    fn the_bootstrap_is_withheld_on_few_seeds() {
        let (few, _) = gather(&read(&synthetic::comparison(4)), &[]);
        let (enough, _) = gather(&read(&synthetic::comparison(5)), &[]);
        assert_eq!(few[0].accuracy.bootstrap, None);
        assert!(enough[0].accuracy.bootstrap.is_some());
    }
}
