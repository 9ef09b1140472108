//! Stored results, and the claims in their configs' headers.

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

/// A file of `docs/results` by case.
fn stored(name: &str) -> BTreeMap<String, Stored> {
    let text = fs::read_to_string(root().join("docs/results").join(name)).unwrap();
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
fn stored_results_are_of_the_configs_as_they_stand() {
    let files = [("quickstart", "quickstart"), ("blocks/mqar", "blocks"), ("hybrid/ratio", "ratio")];
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
