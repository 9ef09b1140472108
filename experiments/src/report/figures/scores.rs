//! Figures of test scores: against the size of the state, and against what the slices differ in.

use std::collections::{BTreeMap, BTreeSet};

use super::axis::Axis;
use super::plot::{Plot, Series};
use super::style::{Look, MAX_SERIES};
use super::{Figure, Styled};
use crate::report::format;
use crate::report::gather::{CaseSummary, Score, SliceSummary};
use crate::report::read::{Run, pooled};
use crate::report::sheet::{Column, Sheet};
use crate::report::stats::{Interval, mean, t_interval};
use crate::report::table;

/// Up to this many series, means at a shared place are drawn side by side with their intervals; of more, the intervals would
/// hide each other.
const INTERVALS: usize = 6;

/// Distance between means at a shared place, in pixels.
const APART: f64 = 4.0;

/// Test accuracy against the bytes of state a sequence needs; `None` where no case has both.
pub(crate) fn by_state(cases: &[Styled]) -> Option<Figure> {
    let scored: Vec<&Styled> =
        cases.iter().filter(|styled| styled.case.state_bytes > 0 && styled.case.accuracy.mean.is_some()).collect();
    let sizes = || scored.iter().map(|styled| styled.case.state_bytes as f64);
    let (min, max) = (sizes().reduce(f64::min)?, sizes().reduce(f64::max)?);
    let lengths: BTreeSet<u64> = scored.iter().map(|styled| styled.case.state_length).collect();
    let at = match lengths.first() {
        Some(length) if lengths.len() == 1 => format!(" at length {}", format::whole(*length)),
        _ => String::new(),
    };
    let mut series = families(&scored);
    let left_out = super::left_out(series.len());
    series.truncate(MAX_SERIES);
    let points: Vec<String> = scored.iter().map(|styled| state_in_words(styled.case)).collect();
    Some(Figure {
        id: "accuracy-by-state".into(),
        title: "Test accuracy against size of the state".into(),
        caption: format!(
            "Small dots: single seeds. Large markers: their means, with the 95 % t interval over seeds (drawn within 0 to \
             100 %).{left_out}"
        ),
        alt: format!("Scatter plot of test accuracy against state bytes: {}.", points.join("; ")),
        data: state_sheet(&scored),
        plot: Plot {
            x: Axis::bytes(&format!("state of one sequence while decoding{at}, f32 (log scale)"), min, max),
            y: Axis::percent("test accuracy, %"),
            reference: super::chance(cases),
            series,
        },
    })
}

fn state_in_words(case: &CaseSummary) -> String {
    let accuracy = format::or_none(case.accuracy.mean, format::percent);
    format!("{} {accuracy} % with {}", case.label, format::bytes(case.state_bytes as f64))
}

fn state_sheet(scored: &[&Styled]) -> Sheet {
    let row = |styled: &&Styled| {
        let Score { mean, interval, by_seed, .. } = &styled.case.accuracy;
        let interval = interval.map(|interval| [interval.low, interval.high].map(format::percent).join(" to "));
        let seeds: Vec<String> = by_seed.values().map(|value| format::percent(*value)).collect();
        vec![
            styled.case.label.clone(),
            format::whole(styled.case.state_bytes),
            format::or_none(*mean, format::percent),
            format::or_none(interval, |text| text),
            seeds.join(", "),
        ]
    };
    let numbers = ["state, bytes", "mean, %", "95 % interval, %", "single seeds, %"].map(Column::number);
    Sheet {
        columns: [Column::text("case")].into_iter().chain(numbers).collect(),
        rows: scored.iter().map(row).collect(),
    }
}

/// One series for each family, with a line through its sizes, or for each case that has none.
fn families(cases: &[&Styled]) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for styled in cases {
        let (label, look) = match &styled.family {
            Some((label, look)) => (label, *look),
            None => (&styled.case.label, styled.look),
        };
        let place = series.iter().position(|known| known.label == *label).unwrap_or_else(|| {
            series.push(Series { label: label.clone(), look, ..Series::default() });
            series.len() - 1
        });
        let size = styled.case.state_bytes as f64;
        let Some(mean) = styled.case.accuracy.mean else { continue };
        let drawn = &mut series[place];
        drawn.dots.extend(styled.case.accuracy.by_seed.values().map(|value| (size, *value)));
        drawn.means.push((size, mean, styled.case.accuracy.interval));
        drawn.line.push((size, mean));
    }
    for drawn in &mut series {
        drawn.line.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    series
}

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
    let intervals = if series.len() > INTERVALS {
        series.iter_mut().flat_map(|series| &mut series.means).for_each(|mean| mean.2 = None);
        "The 95 % t intervals are among the numbers."
    } else {
        let middle = (series.len() as f64 - 1.0) / 2.0;
        series.iter_mut().enumerate().for_each(|(place, series)| series.aside = (place as f64 - middle) * APART);
        "Bars: 95 % t intervals (drawn within 0 to 100 %). Cases are set side by side."
    };
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
        plot: Plot {
            x: Axis::setting(&format!("{key}{together}"), &values),
            y: Axis::percent("test accuracy, %"),
            series,
            reference: super::chance(cases),
        },
        data,
    })
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
