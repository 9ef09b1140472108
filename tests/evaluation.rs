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

/// Rounding of a mean loss where the pieces of a sequence are added up in another order.
const ROUNDING: f64 = 1e-5;

#[test]
fn a_sequence_in_chunks_scores_as_at_once() {
    let (bench, run) = finished();
    let scores = |chunk: &str| {
        let args = ["eval", &run, "--lengths", "24,62", "--examples", "20", "--chunk", chunk, "--json"];
        let evaluation = json(&bench.succeed(&args));
        (evaluation["scores"].as_array().unwrap().clone(), evaluation["costs"].as_array().unwrap().clone())
    };
    let (whole, _) = scores("64");
    for chunk in [1, 7, 24, 61] {
        let (scores, costs) = scores(&chunk.to_string());
        assert_eq!(costs[3]["chunk"], chunk);
        for (score, whole) in scores.iter().zip(&whole) {
            for key in ["correct", "whole", "labels", "by_distance", "by_depth"] {
                assert_eq!(score[key], whole[key], "chunk {chunk}");
            }
            let difference = score["loss"].as_f64().unwrap() - whole["loss"].as_f64().unwrap();
            assert!(difference.abs() < ROUNDING, "chunk {chunk}: {difference}");
        }
    }
    // Training's own evaluation has the same choice.
    bench.write("chunked.toml", &SMALL.replace("name = \"small\"", "name = \"chunked\""));
    bench.succeed(&["run", "chunked.toml", "--set", "eval.chunk=5"]);
    let chunked = result_without_timing(&bench.run_directory("runs", "chunked"));
    for (score, whole) in
        chunked["test"].as_array().unwrap().iter().zip(result_without_timing(run.as_ref())["test"].as_array().unwrap())
    {
        assert_eq!(score["correct"], whole["correct"]);
    }
}

/// Layers whose state has a fixed size, and a task of one label.
const CONSTANT: &str = r#"
name = "constant"

[task]
kind = "induction"
train = [{ length = 16 }]

[model]
d_model = 16
layers = ["mamba", "window"]

[model.mixer.mamba]
d_state = 4

[model.mixer.window]
kind = "attention"
heads = 2
window = 16

[model.mixer.attention]
heads = 2

[train]
steps = 2
batch = 4
warmup = 1

[eval]
every = 2
"#;

#[cfg(target_os = "linux")]
#[test]
fn what_is_held_grows_with_the_state_alone_and_is_foreseen() {
    let bench = Bench::new();
    bench.write("run.toml", CONSTANT);
    bench.succeed(&["run", "run.toml", "--set", "task.test=[{length=16,examples=4}]"]);
    let run = bench.run_directory("runs", "constant");
    let costs = |run: &str| {
        let args = ["eval", run, "--lengths", "4K,64K", "--examples", "1", "--json"];
        let costs = json(&bench.succeed(&args))["costs"].as_array().unwrap().clone();
        for cost in &costs {
            let bytes = |key: &str| cost[key].as_u64().unwrap();
            assert!(bytes("peak_bytes") <= bytes("expected_bytes"), "{cost}");
            assert!(cost["tokens_per_second"].as_f64().unwrap() > 0.0);
        }
        [0, 1].map(|slice| costs[slice]["peak_bytes"].as_f64().unwrap())
    };
    let [short, long] = costs(run.to_str().unwrap());
    assert!(long <= 1.1 * short, "{short} bytes at 4K, {long} at 64K");

    // A cache of all keys and values grows by 128 bytes a token.
    bench
        .write("growing.toml", &CONSTANT.replace("\"constant\"", "\"growing\"").replace("\"window\"", "\"attention\""));
    bench.succeed(&["run", "growing.toml", "--set", "task.test=[{length=16,examples=4}]"]);
    let growing = bench.run_directory("runs", "growing");
    let growing = growing.to_str().unwrap();
    let [short, long] = costs(growing);
    assert!(long - short > 60.0 * 128.0 * 1024.0 / 2.0, "{short} bytes at 4K, {long} at 64K");

    // So it is refused where that passes the limit, before anything is computed.
    let refused = ["eval", growing, "--lengths", "4K,16M", "--examples", "1", "--max-memory", "2GiB"];
    let complaint = bench.fail(1, &refused);
    for part in
        ["length=16777216", "state of `attention × 1`: 5 GiB", "`--max-memory` is 2 GiB", "--lengths", "--chunk"]
    {
        assert!(complaint.contains(part), "no `{part}` in {complaint}");
    }
}

#[test]
fn lengths_that_cannot_be_are_refused_with_what_to_do() {
    let (bench, run) = finished();
    for (lengths, remedy) in
        [("1K..64", "use 64..1K"), ("100..120", "list lengths"), ("0", "use 1 or more"), ("1G", "1M")]
    {
        let complaint = bench.fail(2, &["eval", &run, "--lengths", lengths]);
        assert!(complaint.contains(remedy), "{complaint}");
    }
    let complaint = bench.fail(2, &["eval", &run, "--lengths", "64,2"]);
    assert!(complaint.contains("`--lengths`: 'mqar'") && complaint.contains("--set"), "{complaint}");
    let complaint = bench.fail(2, &["eval", &run, "--max-memory", "4GB"]);
    assert!(complaint.contains("4GiB"), "{complaint}");
}

#[test]
fn a_mixer_that_is_not_causal_is_read_at_once() {
    let bench = Bench::new();
    bench.write("run.toml", &SMALL.replace("heads = 2", "heads = 2\ncausal = false"));
    bench.succeed(&["run", "run.toml", "--set", "train.steps=20"]);
    let run = bench.run_directory("runs", "small");
    let run = run.to_str().unwrap();
    let complaint = bench.fail(2, &["eval", run, "--chunk", "8"]);
    assert!(complaint.contains("`attention` is not causal") && complaint.contains("--chunk"), "{complaint}");
    let evaluation = json(&bench.succeed(&["eval", run, "--lengths", "4K", "--examples", "1", "--json"]));
    assert_eq!(evaluation["costs"][0]["chunk"], 4096);
}
