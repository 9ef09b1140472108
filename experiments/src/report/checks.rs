//! What makes runs hard to compare, as warnings.

use std::collections::{BTreeMap, BTreeSet};

use super::gather::CaseSummary;
use super::read::{Run, pooled};
use crate::result::RunResult;

/// Notes what is odd about the runs of each case, and what differs between the cases of an experiment.
pub(crate) fn check(summaries: &[CaseSummary], runs: &[Run], warnings: &mut Vec<String>) {
    for summary in summaries {
        check_group(summary, runs, warnings);
    }
    check_comparability(runs, warnings);
}

/// Notes what is odd about the runs of one case.
fn check_group(summary: &CaseSummary, runs: &[Run], warnings: &mut Vec<String>) {
    let label = &summary.label;
    let mut hashes: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for result in summary.runs.iter().map(|&index| &runs[index].result) {
        hashes.entry(result.seed).or_default().insert(&result.config_hash);
        if result.parameters != summary.parameters || result.state_bytes != summary.state_bytes {
            warnings.push(format!(
                "{label}: seed {} has another number of parameters or state bytes than the first run, which the table shows; \
                 the case mixes different models",
                result.seed
            ));
        }
        if pooled(result.test.iter().map(|slice| (slice.correct, slice.labels))).is_none() {
            warnings
                .push(format!("{label}: seed {} has no labelled test position, so it has no accuracy", result.seed));
        }
    }
    for (seed, hashes) in hashes.iter().filter(|(_, hashes)| hashes.len() > 1) {
        let hashes: Vec<&str> = hashes.iter().copied().collect();
        warnings.push(format!(
            "{label}: seed {seed} was run with different settings (configs {}); their mean counts as one seed; \
             report the runs of one setting only",
            hashes.join(", ")
        ));
    }
    if hashes.values().all(|hashes| hashes.len() == 1) && summary.runs.len() > hashes.len() {
        warnings.push(format!("{label}: some seeds were run more than once; the mean of such runs counts as one seed"));
    }
}

/// Notes what differs within an experiment although it should not, or makes clocks incomparable.
fn check_comparability(runs: &[Run], warnings: &mut Vec<String>) {
    let names: BTreeSet<&str> = runs.iter().map(|run| run.result.name.as_str()).collect();
    for name in names {
        let of_name = || runs.iter().map(|run| &run.result).filter(|result| result.name == name);
        let distinct = |pick: fn(&RunResult) -> &str| of_name().map(pick).collect::<BTreeSet<&str>>();
        let task_swept = of_name().any(|result| result.axes.keys().any(|key| key.starts_with("task")));
        if distinct(|result| &result.data_hash).len() > 1 && !task_swept {
            warnings.push(format!("{name}: the runs are on different data, so their scores do not compare"));
        }
        let devices = distinct(|result| &result.device);
        if devices.len() > 1 {
            let devices: Vec<&str> = devices.into_iter().collect();
            warnings.push(format!("{name}: run on {}, so times do not compare across devices", devices.join(", ")));
        }
        let versions = distinct(|result| &result.version);
        if versions.len() > 1 {
            let versions: Vec<&str> = versions.into_iter().collect();
            warnings.push(format!("{name}: made by different versions of Heddle ({})", versions.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::report::gather::{Score, gather};
    use crate::report::synthetic::{self, RunSpec, read};

    #[test]
    fn a_run_without_any_label_is_a_warning() {
        let mut runs = read(&[RunSpec::new("recall", "a", 0)]);
        runs[0].result.test.clear();
        let (summaries, warnings) = gather(&runs, &[]);
        assert_eq!(summaries[0].accuracy, Score::default());
        assert!(warnings[0].contains("no labelled test position"), "{warnings:?}");
    }

    #[test]
    fn two_settings_under_one_name_and_seed_are_a_warning_and_one_seed() {
        let mut runs = read(&[RunSpec::new("recall", "a", 0), RunSpec::new("recall", "a", 1)]);
        runs[1].result.seed = 0;
        let (summaries, warnings) = gather(&runs, &[]);
        assert_eq!(summaries[0].accuracy.by_seed.len(), 1);
        assert!(warnings[0].contains("different settings"), "{warnings:?}");
    }

    #[test]
    fn different_data_under_one_name_is_a_warning() {
        let mut runs = read(&synthetic::comparison(1));
        runs[0].result.data_hash = "other".into();
        assert!(gather(&runs, &[]).1[0].contains("different data"));
    }

    #[test]
    fn other_data_where_the_task_is_swept_is_no_warning() {
        let mut runs = read(&synthetic::comparison(1));
        for (run, length) in runs.iter_mut().zip([64, 128, 256]) {
            run.result.data_hash = length.to_string();
            run.result.axes.insert("task.length".into(), length.into());
        }
        assert!(gather(&runs, &[]).1.is_empty());
    }

    #[test]
    fn clocks_of_different_devices_are_a_warning() {
        let mut runs = read(&synthetic::comparison(1));
        runs[0].result.device = "cuda".into();
        let warnings = gather(&runs, &[]).1;
        assert!(warnings[0].contains("cpu, cuda") && warnings[0].contains("times"), "{warnings:?}");
    }

    #[test]
    fn another_size_of_model_on_one_seed_is_a_warning() {
        let mut runs = read(&[RunSpec::new("recall", "a", 0), RunSpec::new("recall", "a", 1)]);
        runs[1].result.parameters += 1;
        assert!(gather(&runs, &[]).1[0].contains("different models"));
    }
}
