//! Figures of test scores against what the slices differ in.

use std::collections::{BTreeMap, BTreeSet};

use super::axis::{Axis, trimmed};
use super::guide::{Guide, Shape};
use super::plot::{Plot, Series};
use super::style::{Look, MAX_SERIES};
use super::{Drawing, Figure, Styled};
use crate::report::format;
use crate::report::gather::{CaseSummary, SliceSummary};
use crate::report::read::{Run, pooled};
use crate::report::sheet::{Column, Sheet};
use crate::report::stats::{Interval, mean, t_interval};
use crate::report::table;

/// Up to this many series, means at a shared place are drawn side by side with their intervals; of more, the intervals would
/// hide each other.
const INTERVALS: usize = 6;

/// Distance between means at a shared place, in pixels.
const APART: f64 = 4.0;

/// Test accuracy against each setting that the slices differ in: length, pairs, …
///
/// Settings that rise together tell the same story; they share one figure.
pub(crate) fn by_setting(cases: &[Styled], runs: &[Run]) -> Vec<Figure> {
    let slices = table::slices(cases.iter().map(|styled| styled.case));
    let mut partitions: Vec<(Vec<String>, BTreeMap<String, usize>)> = Vec::new();
    let keys: BTreeSet<&String> = slices.iter().flat_map(|slice| slice.keys.keys()).collect();
    for key in keys {
        let partition = partition(&slices, key);
        if partition.values().max().is_none_or(|groups| *groups == 0) {
            continue;
        }
        match partitions.iter_mut().find(|(_, known)| *known == partition) {
            Some((keys, _)) => keys.push(key.clone()),
            None => partitions.push((vec![key.clone()], partition)),
        }
    }
    partitions.iter().filter_map(|(keys, _)| setting_figure(cases, runs, &slices, keys)).collect()
}

/// Slice → place of its value among the setting's values.
fn partition(slices: &[&SliceSummary], key: &str) -> BTreeMap<String, usize> {
    let values = values_of(slices, key);
    let place = |slice: &&SliceSummary| {
        let value = slice.keys.get(key)?;
        Some((slice.slice.clone(), values.iter().position(|known| known == value)?))
    };
    slices.iter().filter_map(place).collect()
}

fn values_of(slices: &[&SliceSummary], key: &str) -> Vec<f64> {
    let mut values: Vec<f64> = slices.iter().filter_map(|slice| slice.keys.get(key).copied()).collect();
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

fn setting_figure(cases: &[Styled], runs: &[Run], slices: &[&SliceSummary], keys: &[String]) -> Option<Figure> {
    let key = keys.first()?;
    let values = values_of(slices, key);
    let mut data = Sheet { columns: vec![Column::text("case")], rows: Vec::new() };
    data.columns.extend(values.iter().map(|value| Column::number(format!("{key}={value}"))));
    let mut series = Vec::new();
    for Styled { case, look, .. } in cases {
        let scores: Vec<Vec<f64>> = values.iter().map(|value| seed_scores(case, runs, key, *value)).collect();
        let mut row = vec![case.label.clone()];
        row.extend(scores.iter().map(|scores| match (mean(scores), t_interval(scores)) {
            (Some(mean), Some(interval)) => {
                format!("{} ± {}", format::percent(mean), format::percent(interval.half_width()))
            }
            (mean, _) => format::or_none(mean, format::percent),
        }));
        data.rows.push(row);
        if series.len() < MAX_SERIES {
            series.push(setting_series(&case.label, *look, &values, &scores));
        }
    }
    let intervals = side_by_side(&mut series);
    let together = if keys.len() > 1 { format!(" (with it {})", keys[1..].join(", ")) } else { String::new() };
    let readings: Vec<String> =
        data.rows.iter().map(|row| format!("{} from {} to {} %", row[0], row[1], row[row.len() - 1])).collect();
    Some(Figure {
        id: format!("accuracy-by-{}", super::slug(key)),
        title: format!("Test accuracy against {key}"),
        caption: format!(
            "Markers: means over seeds. {intervals} Slices of the same {key} are pooled.{}",
            super::left_out(cases.len())
        ),
        alt: format!("Line chart of test accuracy against {key}: {}.", readings.join("; ")),
        drawing: Drawing::Plot(Plot {
            x: Axis::setting(&format!("{key}{together}"), &values),
            y: Axis::percent("test accuracy, %"),
            series,
            guides: guides(cases, runs, slices, key, &values),
        }),
        data,
    })
}

/// Sets means at shared places side by side, or leaves their intervals out where there are too many; tells which.
pub(crate) fn side_by_side(series: &mut [Series]) -> &'static str {
    if series.len() > INTERVALS {
        series.iter_mut().flat_map(|series| &mut series.means).for_each(|mean| mean.2 = None);
        return "The 95 % t intervals are among the numbers.";
    }
    let middle = (series.len() as f64 - 1.0) / 2.0;
    series.iter_mut().enumerate().for_each(|(place, series)| series.aside = (place as f64 - middle) * APART);
    "Bars: 95 % t intervals (drawn within 0 to 100 %). Cases are set side by side."
}

/// The level of a uniform guesser, which may change with the setting, and the values trained on where others are tested.
fn guides(cases: &[Styled], runs: &[Run], slices: &[&SliceSummary], key: &str, values: &[f64]) -> Vec<Guide> {
    let level = |value: &f64| {
        let chances: Vec<f64> =
            slices.iter().filter(|slice| slice.keys.get(key) == Some(value)).map(|slice| slice.chance).collect();
        Some((*value, mean(&chances).filter(|chance| chance.is_finite())?))
    };
    let levels: Vec<(f64, f64)> = values.iter().filter_map(level).collect();
    let mut guides: Vec<Guide> = match super::chance(cases) {
        Some(shared) if levels.windows(2).all(|pair| pair[0].1 == pair[1].1) => vec![shared],
        _ if levels.len() > 1 => vec![Guide { label: "chance".into(), shape: Shape::Path(levels) }],
        _ => Vec::new(),
    };
    let trained: Vec<&[f64]> = cases
        .iter()
        .flat_map(|styled| &styled.case.runs)
        .filter_map(|&run| runs[run].setup.trained.get(key).map(Vec::as_slice))
        .collect();
    let shared = trained.first().filter(|first| trained.iter().all(|other| other == *first));
    if let Some(trained) = shared.filter(|trained| values.iter().any(|value| !trained.contains(value))) {
        let label = format!("trained on {key} {}", listed(trained));
        guides.push(Guide { label, shape: Shape::Uprights(trained.to_vec()) });
    }
    guides
}

/// A few numbers, or the first and the last of many.
fn listed(values: &[f64]) -> String {
    match values {
        [first, .., last] if values.len() > 3 => format!("{} … {}", trimmed(*first), trimmed(*last)),
        _ => values.iter().map(|value| trimmed(*value)).collect::<Vec<_>>().join(", "),
    }
}

/// Accuracy of each run of a case on the slices with `key` at `value`.
fn seed_scores(case: &CaseSummary, runs: &[Run], key: &str, value: f64) -> Vec<f64> {
    let score = |run: &usize| {
        let slices = runs[*run].result.test.iter().filter(|slice| slice.keys.get(key) == Some(&value));
        pooled(slices.map(|slice| (slice.correct, slice.labels)))
    };
    case.runs.iter().filter_map(score).collect()
}

fn setting_series(label: &str, look: Look, values: &[f64], scores: &[Vec<f64>]) -> Series {
    let points: Vec<(f64, f64, Option<Interval>)> = values
        .iter()
        .zip(scores)
        .filter_map(|(value, scores)| Some((*value, mean(scores)?, t_interval(scores))))
        .collect();
    Series {
        label: label.to_owned(),
        look,
        line: points.iter().map(|(x, y, _)| (*x, *y)).collect(),
        means: points,
        ..Series::default()
    }
}
