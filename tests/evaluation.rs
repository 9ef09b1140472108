//! `heddle eval`: a finished run where it was not trained.

use std::fs;

use serde_json::Value;

use crate::harness::{Bench, SMALL, result_without_timing};

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("the program prints JSON")
}

/// A bench with the small run finished, and its directory.
fn finished() -> (Bench, String) {
    let bench = Bench::new();
    bench.write("run.toml", SMALL);
    bench.succeed(&["run", "run.toml"]);
    let run = bench.run_directory("runs", "small").to_str().unwrap().to_owned();
    (bench, run)
}

#[test]
fn without_more_it_is_the_test_of_the_run() {
    let (bench, run) = finished();
    let evaluation = json(&bench.succeed(&["eval", &run, "--json"]));
    let result = result_without_timing(run.as_ref());
    assert_eq!(evaluation["scores"], result["test"]);
    assert_eq!((&evaluation["config_hash"], &evaluation["split"]), (&result["config_hash"], &Value::from("test")));
    let validation = json(&bench.succeed(&["eval", &run, "--split", "validation", "--json"]));
    assert_eq!(validation["scores"], result["validation"]);
    // Each question has a file of its own, and the same question the same one.
    bench.succeed(&["eval", &run]);
    assert_eq!(fs::read_dir(bench.path(&run).join("eval")).unwrap().count(), 2);
}

#[test]
fn lengths_and_sizes_are_other_slices_of_the_same_task() {
    let (bench, run) = finished();
    let args = ["eval", &run, "--lengths", "32,64", "--set", "test=[{length=16,pairs=2}]", "--examples", "20"];
    let printed = bench.succeed(&args);
    for part in ["length=32,pairs=2", "length=64,pairs=2", "40", "95 % interval", "chance", "Written to"] {
        assert!(printed.contains(part), "no `{part}` in\n{printed}");
    }
    let evaluation = json(&bench.succeed(&[&args[..], &["--json"]].concat()));
    let scores = evaluation["scores"].as_array().unwrap();
    assert_eq!(scores.len(), 2);
    assert!(scores.iter().all(|score| score["examples"] == 20 && score["labels"] == 40));
    let stored = fs::read_dir(bench.path(&run).join("eval")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(json(&fs::read_to_string(stored).unwrap()), evaluation);
}

#[test]
fn another_task_must_fit_the_vocabulary_and_the_models_length() {
    let (bench, run) = finished();
    let other =
        ["eval", &run, "--task", "induction", "--set", "vocab=16", "--lengths", "64", "--examples", "8", "--json"];
    let evaluation = json(&bench.succeed(&other));
    assert_eq!(evaluation["task"]["kind"], "induction");
    assert_eq!(evaluation["scores"][0]["examples"], 8);
    let complaint = bench.fail(2, &["eval", &run, "--task", "induction", "--set", "vocab=64"]);
    assert!(complaint.contains("the model knows 32") && complaint.contains("--set"), "{complaint}");
    let complaint = bench.fail(2, &["eval", &run, "--task", "inducton"]);
    assert!(complaint.contains("induction"), "{complaint}");
    let complaint = bench.fail(2, &["eval", &run, "--set", "pears=2"]);
    assert!(complaint.contains("task.pears"), "{complaint}");
    let complaint = bench.fail(2, &["eval", &run, "--split", "train"]);
    assert!(complaint.contains("validation or test"), "{complaint}");
}

#[test]
fn a_run_that_is_not_finished_is_refused_with_the_remedy() {
    let (bench, run) = finished();
    fs::remove_file(bench.path(&run).join("result.json")).unwrap();
    let complaint = bench.fail(2, &["eval", &run]);
    assert!(complaint.contains("no result.json") && complaint.contains("heddle run"), "{complaint}");
}

#[test]
fn a_model_that_reads_so_many_tokens_is_not_given_more() {
    let bench = Bench::new();
    bench.write("run.toml", &SMALL.replace("heads = 2", "heads = 2\npositions = \"learned\"\nmax_length = 24"));
    bench.succeed(&["run", "run.toml", "--set", "train.steps=20"]);
    let run = bench.run_directory("runs", "small");
    let complaint = bench.fail(2, &["eval", run.to_str().unwrap(), "--lengths", "32"]);
    assert!(complaint.contains("reads 24 at most") && complaint.contains("--lengths"), "{complaint}");
}
