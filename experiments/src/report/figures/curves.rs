//! Learning curves: one line for a case, from runs on several seeds that stop at different steps.

use std::collections::BTreeSet;

use crate::report::read::Run;
use crate::report::stats::{Interval, mean};

/// Points of a drawn curve at most: more than a figure's width can show.
const POINTS: usize = 120;

/// A point of a curve: over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CurvePoint {
    /// Optimiser steps taken.
    pub(crate) step: f64,
    /// Mean over seeds.
    pub(crate) mean: f64,
    /// Lowest and highest over seeds.
    pub(crate) range: Interval,
}

impl CurvePoint {
    fn over(step: f64, values: &[f64]) -> Option<Self> {
        let low = values.iter().copied().reduce(f64::min)?;
        let high = values.iter().copied().reduce(f64::max)?;
        Some(Self { step, mean: mean(values)?, range: Interval { low, high } })
    }
}

/// Validation accuracy against steps.
///
/// A run that ended keeps its last value: leaving it out would make the mean fall whenever the best run stops early.
/// Between two evaluations of a run its value is interpolated.
pub(crate) fn accuracy(runs: &[&Run]) -> Vec<CurvePoint> {
    let curves: Vec<&[(u64, f64)]> =
        runs.iter().map(|run| run.validation.as_slice()).filter(|curve| !curve.is_empty()).collect();
    let steps: BTreeSet<u64> = curves.iter().flat_map(|curve| curve.iter().map(|(step, _)| *step)).collect();
    let first = curves.iter().map(|curve| curve[0].0).max().unwrap_or(0);
    let steps: Vec<u64> = steps.into_iter().filter(|step| *step >= first).collect();
    thinned(&steps)
        .into_iter()
        .filter_map(|step| {
            let values: Vec<f64> = curves.iter().map(|curve| value_at(curve, step)).collect();
            CurvePoint::over(step as f64, &values)
        })
        .collect()
}

/// Training loss against steps: the mean over as many equal stretches of steps as are drawn.
///
/// Losses that are not finite are left out. A run that ended keeps its last value.
pub(crate) fn loss(runs: &[&Run]) -> Vec<CurvePoint> {
    let finite = |run: &&Run| run.loss.iter().copied().filter(|(_, loss)| loss.is_finite()).collect::<Vec<_>>();
    let curves: Vec<Vec<(u64, f64)>> = runs.iter().map(finite).filter(|curve| !curve.is_empty()).collect();
    let steps: BTreeSet<u64> = curves.iter().flatten().map(|(step, _)| *step).collect();
    let Some(&last) = steps.last() else { return Vec::new() };
    let stretches = steps.len().min(POINTS) as u64;
    let stretch = |step: u64| (step.saturating_sub(1) * stretches / last.max(1)) as usize;
    let mut held = vec![None; curves.len()];
    let mut taken = vec![0; curves.len()];
    let mut points = Vec::new();
    for current in 0..stretches as usize {
        let mut inside = BTreeSet::new();
        for (curve, (held, taken)) in curves.iter().zip(held.iter_mut().zip(taken.iter_mut())) {
            let rest = &curve[*taken..];
            let count = rest.iter().take_while(|(step, _)| stretch(*step) <= current).count();
            inside.extend(rest[..count].iter().map(|(step, _)| *step));
            let losses: Vec<f64> = rest[..count].iter().map(|(_, loss)| *loss).collect();
            *held = mean(&losses).or(*held);
            *taken += count;
        }
        let centre = mean(&inside.iter().map(|step| *step as f64).collect::<Vec<_>>());
        let values: Option<Vec<f64>> = held.iter().copied().collect();
        if let (Some(centre), Some(values)) = (centre, values) {
            points.extend(CurvePoint::over(centre, &values));
        }
    }
    points
}

/// The value of a curve at a step no earlier than its first.
fn value_at(curve: &[(u64, f64)], step: u64) -> f64 {
    let after = curve.partition_point(|(known, _)| *known < step);
    match (after.checked_sub(1).map(|before| curve[before]), curve.get(after)) {
        (_, Some(&(known, value))) if known == step => value,
        (Some((start, from)), Some(&(end, to))) => from + (to - from) * (step - start) as f64 / (end - start) as f64,
        (Some((_, last)), None) => last,
        (None, Some(&(_, first))) => first,
        (None, None) => f64::NAN,
    }
}

/// At most [`POINTS`] of the steps, evenly spread, the first and the last among them.
fn thinned(steps: &[u64]) -> Vec<u64> {
    if steps.len() <= POINTS {
        return steps.to_vec();
    }
    (0..POINTS).map(|index| steps[index * (steps.len() - 1) / (POINTS - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::synthetic::{self, RunSpec};

    fn run(loss: &[(u64, f64)], validation: &[(u64, f64)]) -> Run {
        let run = synthetic::read(&[RunSpec::new("recall", "a", 0)]).remove(0);
        Run { loss: loss.to_vec(), validation: validation.to_vec(), ..run }
    }

    #[test]
    fn a_run_that_stopped_keeps_its_last_value() {
        let early = run(&[], &[(10, 0.5), (20, 1.0)]);
        let late = run(&[], &[(10, 0.1), (20, 0.2), (30, 0.4)]);
        let curve = accuracy(&[&early, &late]);
        let last = curve.last().unwrap();
        assert_eq!((last.step, last.mean), (30.0, 0.7));
        assert_eq!(last.range, Interval { low: 0.4, high: 1.0 });
    }

    #[test]
    fn accuracy_between_two_evaluations_is_interpolated() {
        let curve = accuracy(&[&run(&[], &[(10, 0.0), (20, 1.0)]), &run(&[], &[(10, 0.0), (15, 0.0), (20, 0.0)])]);
        assert_eq!(curve[1].mean, 0.25);
    }

    #[test]
    fn long_curves_are_thinned_and_keep_their_ends() {
        let long: Vec<(u64, f64)> = (1..=5000).map(|step| (step, 0.5)).collect();
        let curve = accuracy(&[&run(&[], &long)]);
        assert_eq!((curve.len(), curve[0].step, curve[POINTS - 1].step), (POINTS, 1.0, 5000.0));
    }

    #[test]
    fn a_short_loss_curve_is_drawn_as_it_is() {
        let curve = loss(&[&run(&[(1, 3.0), (2, 2.0), (3, 1.0)], &[])]);
        let points: Vec<(f64, f64)> = curve.iter().map(|point| (point.step, point.mean)).collect();
        assert_eq!(points, [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]);
    }

    #[test]
    fn a_long_loss_curve_is_the_mean_over_stretches_of_steps() {
        let long: Vec<(u64, f64)> = (1..=1200).map(|step| (step, if step % 2 == 0 { 1.0 } else { 3.0 })).collect();
        let curve = loss(&[&run(&long, &[])]);
        assert_eq!(curve.len(), POINTS);
        assert!(curve.iter().all(|point| point.mean == 2.0));
    }

    #[test]
    fn losses_that_are_not_finite_are_left_out() {
        let curve = loss(&[&run(&[(1, 3.0), (2, f64::NAN), (3, f64::INFINITY), (4, 1.0)], &[])]);
        assert!(curve.iter().all(|point| point.mean.is_finite()));
        assert!(loss(&[&run(&[(1, f64::NAN)], &[])]).is_empty());
    }

    #[test]
    fn a_case_without_curves_has_no_points() {
        assert!(accuracy(&[&run(&[], &[])]).is_empty() && loss(&[&run(&[], &[])]).is_empty());
        assert!(accuracy(&[]).is_empty());
    }
}
