//! The first comparison that a reader sees: its stored result, and the claim in its config's header.

use std::collections::BTreeMap;
use std::fs;

use experiments::Registry;
use experiments::config::load;
use experiments::result::RunResult;
use serde_json::Value;

use crate::harness::{Bench, root};

/// The stored result of a case.
struct Stored {
    lowest: f64,
    mean: f64,
    hashes: Vec<String>,
}

/// `docs/results/quickstart.json` by case.
fn stored() -> BTreeMap<String, Stored> {
    let text = fs::read_to_string(root().join("docs/results/quickstart.json")).unwrap();
    let runs: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut cases: BTreeMap<String, Vec<RunResult>> = BTreeMap::new();
    for run in runs {
        let run: RunResult = serde_json::from_value(run).expect("the stored result is of this version");
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
    let stored = stored();
    assert!(stored["hybrid"].lowest >= 0.98, "{}", stored["hybrid"].lowest);
    assert!(stored["attention"].lowest >= 0.98, "{}", stored["attention"].lowest);
    assert!(stored["mamba"].mean < 0.15, "{}", stored["mamba"].mean);
}

#[test]
fn the_stored_result_is_of_the_config_as_it_stands() {
    let planned = load(&root().join("configs/quickstart.toml"), &[], &Registry::default().kinds()).unwrap().expand();
    let mut hashes: Vec<String> = stored().into_values().flat_map(|case| case.hashes).collect();
    let mut expected: Vec<String> = planned.into_iter().map(|run| run.hash).collect();
    hashes.sort();
    expected.sort();
    assert_eq!(hashes, expected, "configs/quickstart.toml was changed: run it again and store the result");
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
