//! Stored results, and the claims in their configs' headers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use experiments::Registry;
use experiments::config::load;
use experiments::result::{RunResult, SliceScore};
use experiments::select::select;
use serde_json::Value;

use crate::harness::{Bench, files_below, root};

/// The stored result of a case.
struct Stored {
    lowest: f64,
    mean: f64,
    hashes: Vec<String>,
}

/// The runs in a file of `docs/results`.
fn stored_runs(name: &str) -> Vec<RunResult> {
    let text = fs::read_to_string(root().join("docs/results").join(name)).unwrap();
    serde_json::from_str(&text).expect("the stored results are of this version")
}

/// A file of `docs/results` by case.
fn stored(name: &str) -> BTreeMap<String, Stored> {
    let mut cases: BTreeMap<String, Vec<RunResult>> = BTreeMap::new();
    for run in stored_runs(name) {
        cases.entry(run.case.clone()).or_default().push(run);
    }
    let summary = |runs: Vec<RunResult>| {
        let accuracies = runs.iter().map(|run| run.test[0].accuracy).collect::<Vec<_>>();
        Stored {
            lowest: accuracies.iter().copied().fold(1.0, f64::min),
            mean: accuracies.iter().sum::<f64>() / accuracies.len() as f64,
            hashes: runs.into_iter().map(|run| run.config_hash).collect(),
        }
    };
    cases.into_iter().map(|(case, runs)| (case, summary(runs))).collect()
}

#[test]
fn the_claim_in_the_header_is_what_the_stored_result_shows() {
    let config = fs::read_to_string(root().join("configs/quickstart.toml")).unwrap();
    let expect =
        "# Expect: hybrid at least 98 % on every seed, attention at least 98 % after more steps, Mamba below 15 %.";
    assert!(config.lines().any(|line| line == expect), "the header no longer claims: {expect}");
    let stored = stored("quickstart.json");
    assert!(stored["hybrid"].lowest >= 0.98, "{}", stored["hybrid"].lowest);
    assert!(stored["attention"].lowest >= 0.98, "{}", stored["attention"].lowest);
    assert!(stored["mamba"].mean < 0.15, "{}", stored["mamba"].mean);
}

#[test]
fn blocks_recall_what_the_header_says() {
    let stored = stored("blocks.json");
    assert!(stored["delta_net"].lowest >= 0.98 && stored["gated_delta_net"].lowest >= 0.98);
    assert!((0.4..0.7).contains(&stored["rg_lru"].mean), "{}", stored["rg_lru"].mean);
    let least = stored
        .iter()
        .filter(|(case, _)| !["attention", "delta_net", "gated_delta_net", "rg_lru"].contains(&case.as_str()));
    least.for_each(|(case, result)| assert!(result.lowest < 0.3, "{case}: {}", result.lowest));
}

#[test]
fn one_layer_of_attention_in_eight_is_enough() {
    let stored = stored("ratio.json");
    assert!(stored["one_in_eight"].lowest >= 0.99, "{}", stored["one_in_eight"].lowest);
    assert!(stored["none"].mean < 0.06, "{}", stored["none"].mean);
}

#[test]
fn induction_takes_a_mixture() {
    let stored = stored("ratio-induction.json");
    for case in ["one_in_eight", "one_in_four", "one_in_two"] {
        assert!(stored[case].lowest >= 0.99, "{case}: {}", stored[case].lowest);
    }
    assert!(stored["none"].mean < 0.12, "{}", stored["none"].mean);
    assert!((0.3..0.9).contains(&stored["all"].mean), "{}", stored["all"].mean);
}

#[test]
fn recall_has_a_price_in_state() {
    let runs = stored_runs("recall-vs-state-small.json");
    let choices = select(&runs, &["train.lr".to_owned()]);
    let of = |case: &str| {
        let choice = choices.iter().find(|choice| choice.case == case).unwrap();
        let chosen = choice.runs().iter().map(|&run| &runs[run]);
        let accuracy = |run: &RunResult| {
            let sum = |of: fn(&SliceScore) -> u64| run.test.iter().map(of).sum::<u64>() as f64;
            sum(|slice| slice.correct) / sum(|slice| slice.labels)
        };
        let lowest = chosen.clone().map(accuracy).fold(1.0, f64::min);
        (lowest, chosen.clone().map(accuracy).fold(0.0, f64::max), runs[choice.runs()[0]].state_bytes)
    };
    let (lowest, _, cache) = of("attention_32");
    assert!(lowest > 0.999, "{lowest}");
    for case in ["based_8", "mamba2_32", "gated_delta_64"] {
        let (lowest, _, state) = of(case);
        assert!(lowest > 0.95 && state < cache, "{case}: {lowest}, {state} bytes");
    }
    for case in ["mamba_8", "mamba_24"] {
        assert!(of(case).1 < 0.2, "{case}: {:?}", of(case));
    }
}

/// Of the runs stored as seen from inside: case, and of each head the pairs in which the last token's weights turn to the right
/// noun, by layer.
fn turned_heads() -> Vec<(String, [Vec<u64>; 2])> {
    let text = fs::read_to_string(root().join("docs/results/inspect-coreference-inside.json")).unwrap();
    let runs: Vec<Value> = serde_json::from_str(&text).unwrap();
    let heads = |run: &Value, layer: u64| {
        let heads = run["pairs"]["heads"].as_array().unwrap().iter();
        let asked = heads.filter(|head| head["layer"] == layer && head["from"] == "asked");
        asked.map(|head| head["to_the_right"]["right"].as_u64().unwrap()).collect()
    };
    runs.iter().map(|run| (run["case"].as_str().unwrap().to_owned(), [heads(run, 0), heads(run, 1)])).collect()
}

#[test]
fn weights_turn_with_the_adjective_in_the_hybrid_and_not_in_the_transformer() {
    for (case, stored) in stored("inspect-coreference.json") {
        assert!(stored.lowest >= 0.995, "{case}: {}", stored.lowest);
    }
    let runs = turned_heads();
    assert_eq!(runs.len(), 6);
    for (case, [first, second]) in &runs {
        let most = |heads: &Vec<u64>| *heads.iter().max().unwrap();
        assert!(first.len() == 4 && most(first) <= 36, "{case}: {first:?}");
        match case.as_str() {
            "hybrid" => assert!(most(second) >= 489, "{second:?}"),
            _ => assert!(most(second) <= 35, "{second:?}"),
        }
    }
    // Every row of the page's table is of the stored result.
    let page = fs::read_to_string(root().join("docs/inspection.md")).unwrap();
    for (seed, (case, layers)) in runs.iter().enumerate() {
        let cells = layers.each_ref().map(|heads| heads.iter().map(u64::to_string).collect::<Vec<_>>().join(", "));
        let row = format!("| {case} | {} | {} |", seed % 3, cells.join(" | "));
        assert!(page.contains(&row), "docs/inspection.md lacks the row {row}");
    }
}

#[test]
fn stored_results_are_of_the_configs_as_they_stand() {
    let files = [
        ("quickstart", "quickstart"),
        ("blocks/mqar", "blocks"),
        ("hybrid/ratio", "ratio"),
        ("hybrid/ratio-induction", "ratio-induction"),
        ("mqar/recall-vs-state-small", "recall-vs-state-small"),
        ("inspect/coreference", "inspect-coreference"),
    ];
    for (config, name) in files {
        let path = root().join(format!("configs/{config}.toml"));
        let planned = load(&path, &[], &Registry::default().kinds()).unwrap().expand();
        let mut hashes: Vec<String> =
            stored(&format!("{name}.json")).into_values().flat_map(|case| case.hashes).collect();
        let mut expected: Vec<String> = planned.into_iter().map(|run| run.hash).collect();
        hashes.sort();
        expected.sort();
        assert_eq!(hashes, expected, "configs/{config}.toml was changed: run it again and store the result");
    }
}

#[test]
fn the_hybrid_learns_to_recall_on_a_seed_that_nobody_chose_it_by() {
    let bench = Bench::new();
    let config = root().join("configs/quickstart.toml");
    let output = bench.succeed(&["run", config.to_str().unwrap(), "--case", "hybrid", "--seed", "3", "--json"]);
    let result: RunResult = serde_json::from_str(&output).unwrap();
    assert!(result.test[0].accuracy >= 0.98, "{}", result.test[0].accuracy);
    assert!(result.steps <= 400, "{}", result.steps);
}

/// The configs of a folder below `configs`, by name.
fn configs(folder: &str) -> Vec<PathBuf> {
    let mut paths = files_below(&root().join("configs").join(folder), "toml");
    paths.retain(|path| path.file_stem().is_some_and(|stem| stem != "base"));
    paths
}

/// Of the runs of a task, a row of the table for each slice that was tested: accuracies of the three models.
fn rows(task: &str, runs: &[RunResult]) -> Vec<String> {
    let of_case = |case: &str, slice: usize| {
        let accuracies = runs.iter().filter(|run| run.case == case).map(|run| 100.0 * run.test[slice].accuracy);
        let accuracies: Vec<f64> = accuracies.collect();
        let lowest = accuracies.iter().copied().fold(f64::INFINITY, f64::min);
        format!("{:.1} [{lowest:.1}]", accuracies.iter().sum::<f64>() / accuracies.len() as f64)
    };
    let row = |(slice, score): (usize, &SliceScore)| {
        let cells = ["attention", "mamba", "hybrid"].map(|case| of_case(case, slice)).join(" | ");
        let length = score.keys["length"];
        format!("| `{task}` | {length} | {:.1} | {cells} |", 100.0 * score.chance)
    };
    runs[0].test.iter().enumerate().map(row).collect()
}

#[test]
fn every_task_has_a_config_and_a_stored_result_and_the_page_shows_it() {
    let results = stored_runs("tasks.json");
    let page = fs::read_to_string(root().join("docs/results.md")).unwrap();
    let registry = Registry::default();
    let mut table = Vec::new();
    let mut tasks = Vec::new();
    for path in configs("tasks") {
        let planned = load(&path, &[], &registry.kinds()).unwrap().expand();
        let task = planned[0].config.task["kind"].as_str().unwrap().to_owned();
        assert_eq!(path.file_stem().unwrap().to_str(), Some(&*task));
        let runs: Vec<RunResult> = results.iter().filter(|run| run.name == task).cloned().collect();
        let hashes = |hashes: Vec<String>| BTreeSet::from_iter(hashes);
        let stored = hashes(runs.iter().map(|run| run.config_hash.clone()).collect());
        let expected = hashes(planned.into_iter().map(|run| run.hash).collect());
        assert_eq!(stored, expected, "{}: run it again and store the result", path.display());
        table.extend(rows(&task, &runs));
        tasks.push(task);
    }
    // Multi-query recall is the quickstart's.
    tasks.push("mqar".to_owned());
    tasks.sort();
    assert_eq!(tasks, registry.tasks.kinds(), "a config for every task");
    let missing: Vec<&String> = table.iter().filter(|row| !page.contains(*row)).collect();
    assert!(missing.is_empty(), "docs/results.md lacks rows; its table should be\n{}", table.join("\n"));
}
