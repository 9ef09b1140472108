//! `heddle task mad`: the 66 settings of mechanistic architecture design, and what runs on them are worth.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use heddle_tasks::content_hash;
use heddle_tasks::mad::{self, Score, Setting};
use serde_json::json;

use crate::Registry;
use crate::cli::{Out, complain};
use crate::report::{Column, Sheet, read_runs};
use crate::result::RunResult;
use crate::select::select;

#[derive(Debug, Args)]
pub(crate) struct MadArgs {
    /// Directories with finished runs; without any, the settings are listed
    dirs: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists the settings, or scores the runs below the directories, case by case.
pub(crate) fn execute(args: &MadArgs, registry: &Registry, out: &mut Out) -> anyhow::Result<()> {
    let settings = mad::settings();
    if args.dirs.is_empty() {
        return list(&settings, args.json, out);
    }
    let (runs, warnings) = read_runs(&args.dirs);
    warnings.iter().for_each(|warning| complain(&format!("warning: {warning}")));
    let runs: Vec<RunResult> = runs.into_iter().map(|run| run.result).collect();
    let scores = scores(&settings, &runs, registry)?;
    if args.json {
        let rows: Vec<_> = scores
            .iter()
            .map(|(case, score)| json!({"case": case, "tasks": score.tasks, "mean": score.mean, "settings": score.settings}))
            .collect();
        return out.line(&serde_json::to_string_pretty(&rows)?);
    }
    let kinds: BTreeSet<&str> = settings.iter().map(|setting| setting.kind).collect();
    let percent = |value: Option<&f64>| value.map_or("–".to_owned(), |value| format!("{:.1}", 100.0 * value));
    let row = |(case, score): (&String, &Score)| {
        let tasks = kinds.iter().map(|kind| percent(score.tasks.get(kind)));
        let ends = [percent(Some(&score.mean)), format!("{} of {}", score.settings, settings.len())];
        std::iter::once(case.clone()).chain(tasks).chain(ends).collect()
    };
    let numbers = kinds.iter().copied().chain(["mean", "settings"]).map(Column::number);
    let columns = std::iter::once(Column::text("case")).chain(numbers).collect();
    out.line(&Sheet { columns, rows: scores.iter().map(row).collect() }.terminal(None))
}

fn list(settings: &[Setting], json: bool, out: &mut Out) -> anyhow::Result<()> {
    if json {
        let rows = settings.iter().map(|Setting { name, kind, settings, examples }| {
            json!({"name": name, "kind": kind, "settings": settings, "examples": examples})
        });
        return out.line(&serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?);
    }
    let row = |setting: &Setting| vec![setting.name.clone(), setting.examples.to_string()];
    let columns = vec![Column::text("setting"), Column::number("training examples")];
    out.line(&Sheet { columns, rows: settings.iter().map(row).collect() }.terminal(None))
}

/// The score of every case. A run belongs to the setting whose data it was trained on; of the runs of a case on a setting,
/// those at the values of the other axes that are best on validation count, by their mean over seeds.
fn scores(
    settings: &[Setting],
    runs: &[RunResult],
    registry: &Registry,
) -> Result<BTreeMap<String, Score>, heddle_tasks::TaskError> {
    let mut by_data = BTreeMap::new();
    for setting in settings {
        let task = registry.tasks.build(setting.kind, &setting.settings)?;
        by_data.insert(content_hash(&*task, 0), setting);
    }
    let mut of_case: BTreeMap<String, Vec<(&Setting, f64)>> = BTreeMap::new();
    for (data, setting) in &by_data {
        let runs: Vec<&RunResult> = runs.iter().filter(|run| run.data_hash == *data).collect();
        let axes: BTreeSet<String> = runs.iter().flat_map(|run| run.axes.keys().cloned()).collect();
        for choice in select(runs.iter().copied(), &Vec::from_iter(axes)) {
            let accuracies = choice.runs().iter().flat_map(|&run| runs[run].test.iter().map(|slice| slice.accuracy));
            let accuracies: Vec<f64> = accuracies.collect();
            let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
            of_case.entry(choice.case.clone()).or_default().push((setting, mean));
        }
    }
    Ok(of_case.into_iter().map(|(case, runs)| (case, mad::score(runs))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::SliceScore;

    #[test]
    fn every_setting_has_data_of_its_own() {
        let registry = Registry::default();
        let hash =
            |setting: &Setting| content_hash(&*registry.tasks.build(setting.kind, &setting.settings).unwrap(), 0);
        let settings = mad::settings();
        assert_eq!(settings.iter().map(hash).collect::<BTreeSet<_>>().len(), settings.len());
    }

    fn run(data: &str, lr: f64, validation: f64, test: f64) -> RunResult {
        let score = |accuracy| SliceScore { accuracy, ..SliceScore::default() };
        RunResult {
            case: "mamba".into(),
            axes: BTreeMap::from([("train.lr".to_owned(), lr.into())]),
            data_hash: data.into(),
            validation: vec![score(validation)],
            test: vec![score(test)],
            ..RunResult::default()
        }
    }

    #[test]
    fn validation_chooses_the_run_that_counts_and_other_data_does_not() {
        let (registry, settings) = (Registry::default(), mad::settings());
        let task = registry.tasks.build(settings[0].kind, &settings[0].settings).unwrap();
        let data = content_hash(&*task, 0);
        // The better one on the test stream is the worse one on validation.
        let runs = [run(&data, 1e-3, 0.9, 0.7), run(&data, 1e-4, 0.8, 0.75), run("elsewhere", 1e-3, 1.0, 1.0)];
        let scores = scores(&settings, &runs, &registry).unwrap();
        assert_eq!(scores["mamba"].settings, 1);
        assert!((scores["mamba"].mean - 0.7).abs() < 1e-12);
    }
}
