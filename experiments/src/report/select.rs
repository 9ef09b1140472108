//! The value of a swept setting that validation chooses, case by case.
//!
//! `sweep.json` beside an experiment's runs names the settings, as in `{"select": ["train.lr"]}`. Of the values tried, each case
//! is then reported at the one that is best on validation: the highest mean over seeds of the lowest slice accuracy, of equal
//! ones the lowest mean loss. The test stream has no say.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::gather::{compare_axes, text_of};
use super::read::Run;
use super::sheet::{Column, Sheet};
use super::{format, stats};

/// File beside the runs of an experiment that tells what its sweep set out to do.
const SWEEP: &str = "sweep.json";

/// Values of axes: dotted key → value.
type Point = BTreeMap<String, Value>;

/// The choice for one case, at one point of the axes that are not selected over.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) name: String,
    pub(crate) case: String,
    /// Values of the other axes.
    pub(crate) rest: Point,
    /// What was tried, by value.
    pub(crate) tried: Vec<Tried>,
    /// Which of [`tried`](Self::tried) was chosen.
    pub(crate) chosen: usize,
}

/// One point that was tried, with its scores on validation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tried {
    /// Values of the selected axes.
    pub(crate) point: Point,
    /// Its runs, as places among those given.
    pub(crate) runs: Vec<usize>,
    /// Lowest accuracy over the slices, mean over seeds.
    pub(crate) accuracy: f64,
    /// Loss summed over the slices, mean over seeds, in nats.
    pub(crate) loss: f64,
    /// Whether it lacks a seed that another point has. Such a point is not chosen: a mean over the seeds that survived says
    /// too much good of it.
    pub(crate) incomplete: bool,
}

/// The settings that an experiment's sweep selects over, from the file beside its runs; none where there is no such file.
pub(crate) fn keys_beside(run: &Path, warnings: &mut Vec<String>) -> Vec<String> {
    let Some(path) = run.parent().map(|parent| parent.join(SWEEP)) else { return Vec::new() };
    let parsed = match fs::read_to_string(&path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(cause) => Err(cause.to_string()),
        Ok(text) => serde_json::from_str::<Value>(&text).map_err(|cause| cause.to_string()),
    };
    let keys = parsed.and_then(|sweep| match sweep.get("select") {
        None => Ok(Vec::new()),
        Some(keys) => serde_json::from_value(keys.clone()).map_err(|cause| format!("`select`: {cause}")),
    });
    keys.unwrap_or_else(|cause| {
        warnings.push(format!("{}: nothing is selected: {cause}", path.display()));
        Vec::new()
    })
}

/// What the runs that are compared have in common: experiment, case, and the axes that are not selected over.
type Group<'a> = (&'a str, &'a str, Point);

/// Chooses for each case of the experiments that select, and each point of their other axes.
pub(crate) fn choose(runs: &[Run]) -> Vec<Choice> {
    let mut groups: Vec<(Group, Vec<usize>)> = Vec::new();
    for (place, run) in runs.iter().enumerate().filter(|(_, run)| !run.select.is_empty()) {
        let rest = run.result.axes.iter().filter(|(key, _)| !run.select.contains(key));
        let rest = rest.map(|(key, value)| (key.clone(), value.clone())).collect();
        let group = (run.result.name.as_str(), run.result.case.as_str(), rest);
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, members)) => members.push(place),
            None => groups.push((group, vec![place])),
        }
    }
    groups.into_iter().map(|(group, members)| choice(group, &members, runs)).collect()
}

fn choice((name, case, rest): Group, members: &[usize], runs: &[Run]) -> Choice {
    let mut points: Vec<(Point, Vec<usize>)> = Vec::new();
    for &member in members {
        let run = &runs[member];
        let value = |key: &String| (key.clone(), run.result.axes.get(key).cloned().unwrap_or_default());
        let point: Point = run.select.iter().map(value).collect();
        match points.iter_mut().find(|(known, _)| *known == point) {
            Some((_, members)) => members.push(member),
            None => points.push((point, vec![member])),
        }
    }
    points.sort_by(|(a, _), (b, _)| compare_axes(a, b));
    let seeds = |members: &[usize]| members.iter().map(|&run| runs[run].result.seed).collect::<BTreeSet<u64>>().len();
    let most = points.iter().map(|(_, members)| seeds(members)).max().unwrap_or(0);
    let tried = |(point, members): (Point, Vec<usize>)| {
        let over_seeds = |of: &dyn Fn(&Run) -> f64| {
            stats::mean(&members.iter().map(|&run| of(&runs[run])).collect::<Vec<f64>>()).unwrap_or(f64::NAN)
        };
        let lowest = |run: &Run| run.result.validation.iter().map(|score| score.accuracy).fold(1.0, worse);
        Tried {
            accuracy: over_seeds(&lowest),
            loss: over_seeds(&|run| run.result.validation.iter().map(|score| score.loss).sum()),
            incomplete: seeds(&members) < most,
            point,
            runs: members,
        }
    };
    let tried: Vec<Tried> = points.into_iter().map(tried).collect();
    // The first of equals, hence the walk from behind.
    let complete = tried.iter().enumerate().rev().filter(|(_, tried)| !tried.incomplete);
    let chosen = complete.max_by(|(_, a), (_, b)| rank(a, b)).map_or(0, |(place, _)| place);
    Choice { name: name.to_owned(), case: case.to_owned(), rest, tried, chosen }
}

/// The lesser; not a number if one of them is none.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

/// By accuracy, then by loss; what is not a number is worst.
fn rank(a: &Tried, b: &Tried) -> Ordering {
    let known = |number: f64| if number.is_nan() { f64::NEG_INFINITY } else { number };
    known(a.accuracy).total_cmp(&known(b.accuracy)).then(known(-a.loss).total_cmp(&known(-b.loss)))
}

impl Choice {
    /// Whether a selected number is the least or the greatest of those tried, so that a better one may lie beyond.
    pub(crate) fn at_edge(&self) -> bool {
        let of_key = |key: &String| {
            let numbers: Option<Vec<f64>> = self.tried.iter().map(|tried| tried.point[key].as_f64()).collect();
            let Some(numbers) = numbers else { return false };
            let (least, greatest) = numbers.iter().fold((f64::MAX, f64::MIN), |(a, b), n| (a.min(*n), b.max(*n)));
            least < greatest && [least, greatest].contains(&numbers[self.chosen])
        };
        self.tried[self.chosen].point.keys().any(of_key)
    }
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
                (true, _) if choice.at_edge() => "selected, at the edge of the grid",
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
        fs::write(home.path().join("recall").join(SWEEP), sweep).unwrap();
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
        assert!(!choices[0].at_edge() && choices[1].at_edge());
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
        assert!(choose(&runs).is_empty() && warnings[0].contains("`select`"), "{warnings:?}");
    }

    #[test]
    fn of_equals_on_validation_the_first_by_value_is_chosen() {
        let (mut runs, _) = read(&[spec("a", 1e-3, 0, 0.5), spec("a", 1e-2, 0, 0.9)], SELECT);
        let validation = runs[0].result.validation.clone();
        runs[1].result.validation = validation;
        assert_eq!(choose(&runs)[0].chosen, 0);
        let better = choose(&runs)[0].tried[1].runs[0];
        runs[better].result.validation[0].loss -= 0.1;
        assert_eq!(choose(&runs)[0].chosen, 1);
    }
}
