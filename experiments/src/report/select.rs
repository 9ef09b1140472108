//! What validation chose of a swept setting, case by case, as the report tells it.
//!
//! `sweep.json` beside an experiment's runs names the settings ([`SweepRecord`]); the rule is that of [`select`].

use std::collections::BTreeSet;
use std::path::Path;

use super::format;
use super::gather::text_of;
use super::read::Run;
use super::sheet::{Column, Sheet};
use crate::select::{Choice, Point, select};
use crate::sweep_record::SweepRecord;

/// The settings that an experiment's sweep selects over, from the file beside its runs; none where there is no such file.
pub(crate) fn keys_beside(run: &Path, warnings: &mut Vec<String>) -> Vec<String> {
    match run.parent().map(SweepRecord::read) {
        Some(Ok(record)) => record.map(|record| record.select).unwrap_or_default(),
        Some(Err(error)) => {
            warnings.push(format!("nothing is selected: {error}"));
            Vec::new()
        }
        None => Vec::new(),
    }
}

/// Chooses for each case of the experiments that select, and each point of their other axes. The runs of a choice are places
/// in `runs`.
pub(crate) fn choose(runs: &[Run]) -> Vec<Choice> {
    let keys: BTreeSet<&[String]> = runs.iter().map(|run| &*run.select).filter(|keys| !keys.is_empty()).collect();
    let mut choices = Vec::new();
    for keys in keys {
        let places: Vec<usize> = (0..runs.len()).filter(|&place| runs[place].select == keys).collect();
        for mut choice in select(places.iter().map(|&place| &runs[place].result), keys) {
            choice.tried.iter_mut().flat_map(|tried| &mut tried.runs).for_each(|run| *run = places[*run]);
            choices.push(choice);
        }
    }
    choices
}

/// A point in words: `lr=0.001`.
pub(crate) fn in_words(point: &Point) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    point.iter().map(|(key, value)| format!("{}={}", last(key), text_of(value))).collect::<Vec<_>>().join(" ")
}

/// What was tried for each case, with its scores on validation and what was chosen.
pub(crate) fn sheet(choices: &[Choice]) -> Sheet {
    let numbers = ["lowest slice accuracy on validation, %", "validation loss, nats", "seeds"].map(Column::number);
    let texts = ["case", "tried"].map(Column::text);
    let several = choices.iter().map(|choice| &choice.name).collect::<BTreeSet<_>>().len() > 1;
    let rows = choices.iter().flat_map(|choice| {
        let name = several.then_some(choice.name.as_str()).into_iter();
        let case = if choice.case.is_empty() && !several { choice.name.as_str() } else { choice.case.as_str() };
        let rest = in_words(&choice.rest);
        let label = name.chain([case, &rest]).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        choice.tried.iter().enumerate().map(move |(place, tried)| {
            let chosen = match (place == choice.chosen, tried.incomplete) {
                (true, _) if !choice.at_edge.is_empty() => "selected, at the edge of the grid",
                (true, _) => "selected",
                (false, true) => "lacks a seed",
                (false, false) => "",
            };
            vec![
                label.clone(),
                in_words(&tried.point),
                format::percent(tried.accuracy),
                format::short(tried.loss),
                tried.runs.len().to_string(),
                chosen.to_owned(),
            ]
        })
    });
    Sheet { columns: texts.into_iter().chain(numbers).chain([Column::text("")]).collect(), rows: rows.collect() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use serde_json::Value;

    use super::*;
    use crate::report::gather::gather;
    use crate::report::read::read_runs;
    use crate::report::synthetic::{self, RunSpec};

    fn spec(case: &str, lr: f64, seed: u64, accuracy: f64) -> RunSpec {
        let axes = BTreeMap::from([("train.lr".to_owned(), Value::from(lr))]);
        RunSpec { axes, accuracy, noise: 0.0, ..RunSpec::new("recall", case, seed) }
    }

    fn read(specs: &[RunSpec], sweep: &str) -> (Vec<Run>, Vec<String>) {
        let home = tempfile::tempdir().unwrap();
        specs.iter().for_each(|spec| drop(synthetic::write(home.path(), spec)));
        fs::write(home.path().join("recall").join(crate::sweep_record::FILE), sweep).unwrap();
        read_runs(&[home.path().to_owned()])
    }

    const SELECT: &str = r#"{"select": ["train.lr"], "seeds": [0, 1]}"#;

    #[test]
    fn each_case_is_reported_at_the_value_that_validation_chose() {
        let specs = [
            spec("a", 1e-3, 0, 0.5),
            spec("a", 1e-2, 0, 0.9),
            spec("a", 1e-1, 0, 0.1),
            spec("b", 1e-3, 0, 0.8),
            spec("b", 1e-2, 0, 0.7),
        ];
        let (mut runs, warnings) = read(&specs, SELECT);
        assert!(warnings.is_empty(), "{warnings:?}");
        // The test stream says the opposite, and must have no say.
        for run in &mut runs {
            run.result.test[0].correct = run.result.test[0].labels - run.result.test[0].correct;
        }
        let cases = gather(&runs, &[]).0;
        let told: Vec<_> = cases.iter().map(|case| (case.label.as_str(), in_words(&case.selected))).collect();
        assert_eq!(told, [("a", "lr=0.01".to_owned()), ("b", "lr=0.001".to_owned())]);
        assert!((cases[0].accuracy.mean.unwrap() - 0.1).abs() < 1e-9);
        let choices = choose(&runs);
        assert!(choices[0].at_edge.is_empty() && !choices[1].at_edge.is_empty());
        let sheet = sheet(&choices);
        assert_eq!(sheet.rows.len(), 5);
        assert_eq!(sheet.rows[1][..3], ["a", "lr=0.01", "90.0"]);
        assert_eq!(
            (sheet.rows[1][5].as_str(), sheet.rows[3][5].as_str()),
            ("selected", "selected, at the edge of the grid")
        );
    }

    #[test]
    fn a_value_that_lacks_a_seed_is_not_chosen() {
        let specs = [spec("a", 1e-3, 0, 0.5), spec("a", 1e-3, 1, 0.5), spec("a", 1e-2, 0, 0.9)];
        let choice = choose(&read(&specs, SELECT).0).remove(0);
        assert_eq!((choice.chosen, choice.tried[1].incomplete), (0, true));
        assert_eq!(sheet(&[choice]).rows[1][5], "lacks a seed");
    }

    #[test]
    fn without_a_word_of_selection_every_value_is_a_case() {
        let specs = [spec("a", 1e-3, 0, 0.5), spec("a", 1e-2, 0, 0.9)];
        for sweep in ["{}", r#"{"select": []}"#] {
            let (runs, warnings) = read(&specs, sweep);
            assert!(warnings.is_empty() && choose(&runs).is_empty());
            assert_eq!(gather(&runs, &[]).0.len(), 2);
        }
        let (runs, warnings) = read(&specs, r#"{"select": "train.lr"}"#);
        assert!(choose(&runs).is_empty() && warnings[0].contains("sweep.json"), "{warnings:?}");
    }
}
