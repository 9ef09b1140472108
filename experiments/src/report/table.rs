//! The comparison of cases as tables: one for people, one of full precision for programs.

use std::collections::BTreeMap;

use serde_json::Value;

use super::compare::Comparison;
use super::format::{self, raw};
use super::gather::{CaseSummary, Score, SliceSummary, compare_keys};
use super::read::Run;
use super::select;
use super::sheet::{Column, Sheet};

/// Up to this many slices, each has a column of its own in the comparison.
pub(crate) const SLICE_COLUMNS: usize = 6;

/// What the numbers of [`comparison`] mean.
pub(crate) const NOTE: &str = "Test accuracy in percent, of the checkpoint that was best on validation: mean over seeds ± the \
half-width of the 95 % t interval of that mean [lowest seed]. Steps to target, tokens/s and training time: medians over seeds.";

/// The slices of all cases by name, in order of their keys.
pub(crate) fn slices<'a>(summaries: impl IntoIterator<Item = &'a CaseSummary>) -> Vec<&'a SliceSummary> {
    let mut slices: Vec<&SliceSummary> = Vec::new();
    for slice in summaries.into_iter().flat_map(|summary| &summary.slices) {
        if slices.iter().all(|known| known.slice != slice.slice) {
            slices.push(slice);
        }
    }
    slices.sort_by(|a, b| compare_keys(&a.keys, &b.keys).then_with(|| a.slice.cmp(&b.slice)));
    slices
}

/// The comparison that people read: a row for each case.
pub(crate) fn comparison(summaries: &[CaseSummary], runs: &[Run]) -> Sheet {
    let slices = slices(summaries);
    let shown = if (2..=SLICE_COLUMNS).contains(&slices.len()) { &slices[..] } else { &[] };
    let lengths: Vec<u64> = summaries.iter().map(|summary| summary.state_length).collect();
    let one_length = lengths.windows(2).all(|pair| pair[0] == pair[1]);
    let state = match lengths.first() {
        Some(length) if one_length => format!("state bytes per sequence at length {}", format::whole(*length)),
        _ => "state bytes per sequence at its length".to_owned(),
    };
    let bootstrapped = summaries.iter().any(|summary| summary.accuracy.bootstrap.is_some());
    let mut columns = vec![Column::text("case"), Column::number("seeds"), Column::number("test accuracy, %")];
    columns.extend(shown.iter().map(|slice| Column::number(slice.slice.replace(',', ", "))));
    let selecting = summaries.iter().any(|summary| !summary.selected.is_empty());
    if selecting {
        columns.insert(1, Column::text("selected"));
    }
    if bootstrapped {
        columns.push(Column::number("95 % bootstrap interval"));
    }
    columns.push(Column::number("chance, %"));
    columns.push(Column::number("steps to target"));
    columns.push(Column::number("parameters"));
    columns.push(Column::number(state));
    columns.push(Column::number("tokens/s"));
    columns.push(Column::number("training, s"));
    let row = |summary: &CaseSummary| {
        let mut cells = vec![
            summary.label.clone(),
            summary.seeds(runs).len().to_string(),
            format::score_with_min(&summary.accuracy),
        ];
        cells.extend(shown.iter().map(|slice| match score_of(summary, &slice.slice) {
            Some(score) => format::score(score),
            None => format::NONE.to_owned(),
        }));
        if selecting {
            cells.insert(1, select::in_words(&summary.selected));
        }
        if bootstrapped {
            cells.push(format::or_none(summary.accuracy.bootstrap, format::percent_range));
        }
        cells.push(format::or_none(summary.chance, format::percent));
        let bytes = format::whole(summary.state_bytes);
        cells.extend([
            format::or_none(summary.steps_to_target.as_ref(), format::steps_to_target),
            format::whole(summary.parameters),
            if one_length { bytes } else { format!("{bytes} at {}", format::whole(summary.state_length)) },
            format::or_none(summary.tokens_per_second, |speed| format::whole(speed.round() as u64)),
            format::or_none(summary.train_seconds, format::short),
        ]);
        cells
    };
    Sheet { columns, rows: summaries.iter().map(row).collect() }
}

/// The score of one slice of a case.
pub(crate) fn score_of<'a>(summary: &'a CaseSummary, slice: &str) -> Option<&'a Score> {
    summary.slices.iter().find(|own| own.slice == slice).map(|own| &own.accuracy)
}

/// The comparison that programs read: the same rows, proportions from 0 to 1, nothing rounded, empty where there is no value.
pub(crate) fn results(summaries: &[CaseSummary], runs: &[Run]) -> Sheet {
    let slices = slices(summaries);
    let titles = [
        ("name", false),
        ("case", false),
        ("axes", false),
        ("selected", false),
        ("seeds", true),
        ("accuracy_mean", true),
        ("accuracy_low", true),
        ("accuracy_high", true),
        ("accuracy_bootstrap_low", true),
        ("accuracy_bootstrap_high", true),
        ("accuracy_min", true),
        ("chance", true),
        ("steps_to_target_median", true),
        ("steps_to_target_first", true),
        ("steps_to_target_last", true),
        ("runs", true),
        ("runs_at_target", true),
        ("parameters", true),
        ("state_bytes", true),
        ("state_length", true),
        ("tokens_per_second_median", true),
        ("train_seconds_median", true),
    ];
    let mut columns: Vec<Column> =
        titles.iter().map(|&(title, numeric)| Column { title: title.to_owned(), numeric }).collect();
    for slice in &slices {
        let titles = ["mean", "low", "high", "min"].map(|part| format!("accuracy_{part}[{}]", slice.slice));
        columns.extend(titles.into_iter().map(Column::number));
    }
    let row = |summary: &CaseSummary| {
        let mut cells = result_cells(summary, runs);
        for slice in &slices {
            let score = score_of(summary, &slice.slice);
            let interval = score.and_then(|score| score.interval);
            cells.push(raw(score.and_then(|score| score.mean)));
            cells.push(raw(interval.map(|interval| interval.low)));
            cells.push(raw(interval.map(|interval| interval.high)));
            cells.push(raw(score.and_then(|score| score.min)));
        }
        cells
    };
    Sheet { rows: summaries.iter().map(row).collect(), columns }
}

fn result_cells(summary: &CaseSummary, runs: &[Run]) -> Vec<String> {
    let Score { mean, interval, bootstrap, min, .. } = &summary.accuracy;
    let steps = summary.steps_to_target.as_ref();
    let words = |point: &BTreeMap<String, Value>| {
        point.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    vec![
        summary.name.clone(),
        summary.case.clone(),
        words(&summary.axes),
        words(&summary.selected),
        summary.seeds(runs).len().to_string(),
        raw(*mean),
        raw(interval.map(|interval| interval.low)),
        raw(interval.map(|interval| interval.high)),
        raw(bootstrap.map(|interval| interval.low)),
        raw(bootstrap.map(|interval| interval.high)),
        raw(*min),
        raw(summary.chance),
        raw(steps.and_then(|steps| steps.median)),
        steps.map(|steps| steps.first.to_string()).unwrap_or_default(),
        steps.map(|steps| steps.last.to_string()).unwrap_or_default(),
        summary.runs.len().to_string(),
        steps.map_or(0, |steps| steps.reached).to_string(),
        summary.parameters.to_string(),
        summary.state_bytes.to_string(),
        summary.state_length.to_string(),
        raw(summary.tokens_per_second),
        raw(summary.train_seconds),
    ]
}

/// The paired comparisons for people: differences in points.
pub(crate) fn pairs(comparisons: &[Comparison]) -> Sheet {
    let numbers = ["difference, points", "95 % interval", "effect size", "p", "p after Holm", "seeds"];
    let columns = ["first", "second"].map(Column::text).into_iter().chain(numbers.map(Column::number));
    let row = |pair: &Comparison| {
        let difference = pair.difference;
        let interval = difference.and_then(|difference| difference.interval);
        let interval = interval.map(|interval| [interval.low, interval.high].map(format::points).join(" to "));
        vec![
            pair.first.clone(),
            pair.second.clone(),
            format::or_none(difference.map(|difference| difference.mean), format::points),
            format::or_none(interval, |text| text),
            format::or_none(difference.and_then(|difference| difference.effect), format::short),
            format::or_none(difference.and_then(|difference| difference.p), format::p_value),
            format::or_none(pair.adjusted_p, format::p_value),
            difference.map_or(0, |difference| difference.seeds).to_string(),
        ]
    };
    Sheet { columns: columns.collect(), rows: comparisons.iter().map(row).collect() }
}

/// Test accuracy by slice: a row for each case and one for chance, a column for each slice.
pub(crate) fn by_slice(summaries: &[CaseSummary]) -> Sheet {
    let slices = slices(summaries);
    let mut columns = vec![Column::text("case")];
    columns.extend(slices.iter().map(|slice| Column::number(slice.slice.replace(',', ", "))));
    let row = |summary: &CaseSummary| {
        let scores: BTreeMap<&str, &Score> =
            summary.slices.iter().map(|slice| (slice.slice.as_str(), &slice.accuracy)).collect();
        let mut cells = vec![summary.label.clone()];
        cells.extend(slices.iter().map(|slice| match scores.get(slice.slice.as_str()) {
            Some(score) => format::score(score),
            None => format::NONE.to_owned(),
        }));
        cells
    };
    let mut rows: Vec<Vec<String>> = summaries.iter().map(row).collect();
    let chance = slices.iter().map(|slice| format::percent(slice.chance));
    rows.push(["chance".to_owned()].into_iter().chain(chance).collect());
    Sheet { columns, rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::gather::gather;
    use crate::report::synthetic::{self, RunSpec};

    fn read(specs: &[RunSpec]) -> (Vec<CaseSummary>, Vec<Run>) {
        let runs = synthetic::read(specs);
        (gather(&runs, &[]).0, runs)
    }

    #[test]
    fn the_comparison_reads_as_documented() {
        let (summaries, runs) = read(&synthetic::comparison(3));
        let expected = "\
| case | seeds | test accuracy, % | chance, % | steps to target | parameters | state bytes per sequence at length 64 | tokens/s | training, s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
";
        let drawn = comparison(&summaries, &runs).markdown();
        assert!(drawn.starts_with(expected), "{drawn}");
        let rows: Vec<&str> = drawn.lines().skip(2).collect();
        assert_eq!(rows.len(), 3);
        let accuracy = format::score_with_min(&summaries[0].accuracy);
        let start = format!("| attention | 3 | {accuracy} | 0.4 | 1,020 [1,000–1,040] | 66,000 | 16,384 |");
        assert!(rows[0].starts_with(&start) && accuracy.contains(" ± ") && accuracy.ends_with(']'), "{}", rows[0]);
        assert!(rows[1].contains("| 160 [140–180] | 71,000 | 6,400 | 37,000 | 17.6 |"), "{}", rows[1]);
        assert!(rows[2].contains("| – | 76,000 | 4,600 |"), "{}", rows[2]);
    }

    #[test]
    fn one_seed_has_no_half_width() {
        let (summaries, runs) = read(&[RunSpec::new("recall", "a", 0)]);
        assert!(!comparison(&summaries, &runs).rows[0][2].contains('±'));
    }

    #[test]
    fn a_few_slices_are_columns_and_many_are_not() {
        let spec = |count| RunSpec {
            slices: (0..count).map(|index| (64.0 * f64::from(1 << index), 4.0)).collect(),
            ..RunSpec::new("recall", "a", 0)
        };
        let (few, runs) = read(&[spec(3)]);
        assert_eq!(comparison(&few, &runs).columns.len(), 9 + 3);
        let (many, runs) = read(&[spec(9)]);
        assert_eq!(comparison(&many, &runs).columns.len(), 9);
        assert_eq!(by_slice(&many).columns.len(), 1 + 9);
        assert_eq!(results(&many, &runs).columns.len(), results(&few, &runs).columns.len() + 6 * 4);
    }

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        let (summaries, runs) = read(&[
            RunSpec { slices: vec![(64.0, 4.0), (128.0, 8.0)], ..RunSpec::new("recall", "a", 0) },
            RunSpec { slices: vec![(64.0, 4.0)], ..RunSpec::new("recall", "b", 0) },
        ]);
        for sheet in [comparison(&summaries, &runs), results(&summaries, &runs), by_slice(&summaries)] {
            assert!(sheet.rows.iter().all(|row| row.len() == sheet.columns.len()));
        }
        assert_eq!(by_slice(&summaries).rows[1][2], format::NONE);
    }

    #[test]
    fn results_are_not_rounded() {
        let (summaries, runs) = read(&synthetic::comparison(2));
        let sheet = results(&summaries, &runs);
        let mean = sheet.columns.iter().position(|column| column.title == "accuracy_mean").unwrap();
        assert_eq!(sheet.rows[0][mean].parse::<f64>().unwrap(), summaries[0].accuracy.mean.unwrap());
    }

    #[test]
    fn state_lengths_that_differ_are_told_in_each_row() {
        let (mut summaries, runs) = read(&synthetic::comparison(1));
        summaries[0].state_length = 4096;
        let sheet = comparison(&summaries, &runs);
        assert_eq!(sheet.rows[0][6], "16,384 at 4,096");
    }
}
