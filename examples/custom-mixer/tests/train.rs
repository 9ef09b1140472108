//! The block goes through the whole program by its name in a config file.

use std::path::Path;
use std::process::Command;

/// Runs the program in a directory of its own and returns what it prints.
fn run(directory: &Path, args: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_custom-mixer")).args(args).current_dir(directory).output();
    let output = output.expect("the program starts");
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("it prints UTF-8"));
    (output.status.success(), out, err)
}

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/lightning.toml");

#[test]
fn a_config_trains_it_and_a_sweep_compares_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut args = vec!["sweep", CONFIG, "--out", "runs"];
    for set in ["train.steps=150", "eval.every=50", "train.batch=32", "sweep.seeds=[0]", "task.vocab=64"] {
        args.extend(["--set", set]);
    }
    for set in ["task.train=[{length=24,pairs=2}]", "task.test=[{length=24,pairs=2,examples=256}]"] {
        args.extend(["--set", set]);
    }
    args.extend(["--set", "task.validation=[{length=24,pairs=2,examples=128}]"]);
    let (success, out, err) = run(directory.path(), &args);
    assert!(success, "{err}");
    for case in ["attention", "lightning"] {
        assert!(out.contains(case), "{out}");
    }
    let results = std::fs::read_to_string(directory.path().join("runs/lightning/results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    let runs = results.as_array().expect("a list of runs");
    let lightning = runs.iter().find(|run| run["case"] == "lightning").expect("the case was run");
    // It has learned at least which values an example holds.
    let score = &lightning["test"][0];
    assert!(score["accuracy"].as_f64().unwrap() > 10.0 * score["chance"].as_f64().unwrap(), "{score}");
}

#[test]
fn a_setting_that_cannot_be_is_refused_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["run", CONFIG, "--case", "lightning", "--seed", "0", "--set", "model.mixer.lightning.heads=5"];
    let (success, _, err) = run(directory.path(), &args);
    assert!(!success && err.contains("model.mixer.lightning.heads"), "{err}");
}
