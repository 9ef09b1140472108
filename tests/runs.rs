//! `heddle sweep` over again, what it records, and `heddle runs`.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use experiments::sweep_record::SweepRecord;
use serde_json::{Value, json};

use crate::harness::{Bench, SMALL, text};

/// A sweep of four runs, of which the two of the case `wild` diverge.
fn sweep() -> String {
    // A decay that blows the parameters up whatever the learning rate.
    let cases = "[sweep.case.calm]\n[sweep.case.wild]\ntrain.weight_decay = 1e30\n";
    let axes = "[sweep]\nseeds = [0]\nselect = ['train.lr']\n[sweep.axes]\ntrain.lr = [1e-3, 2e-3]\n";
    format!("# Which?\n#\n# Expect: calm.\n\n{SMALL}{axes}{cases}")
}

#[test]
fn a_sweep_records_what_it_planned_and_leaves_what_failed_unless_asked() {
    let bench = Bench::new();
    bench.write("sweep.toml", &sweep());
    let first = bench.heddle(&["sweep", "sweep.toml"]);
    assert_eq!(first.status.code(), Some(1), "{}", text(&first.stderr));
    assert_eq!(text(&first.stderr).matches("diverged at step").count(), 2, "{}", text(&first.stderr));
    assert!(!text(&first.stderr).contains("--retry"), "{}", text(&first.stderr));

    let record = SweepRecord::read(&bench.path("runs/small")).unwrap().unwrap();
    assert_eq!((record.config.as_str(), record.cases), ("sweep.toml", vec!["calm".to_owned(), "wild".to_owned()]));
    assert_eq!((record.question.as_deref(), record.claim.as_deref()), (Some("Which?"), Some("calm.")));
    assert_eq!((record.select, record.runs.len()), (vec!["train.lr".to_owned()], 4));
    assert_eq!(record.axes["train.lr"], [json!(1e-3), json!(2e-3)]);

    let failed = bench.path("runs/small").join(&record.runs[2].hash);
    let before = fs::metadata(failed.join("failure.txt")).unwrap().modified().unwrap();
    let again = bench.heddle(&["sweep", "sweep.toml"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stdout).contains("2 of 4 runs were finished before"));
    let complaint = text(&again.stderr);
    assert_eq!(complaint.matches("diverged at step").count(), 2, "{complaint}");
    assert!(
        complaint.contains("2 of these failed before and were left alone; `--retry` tries them again"),
        "{complaint}"
    );
    assert_eq!(fs::metadata(failed.join("failure.txt")).unwrap().modified().unwrap(), before);

    let retried = bench.heddle(&["sweep", "sweep.toml", "--retry"]);
    assert_eq!(text(&retried.stderr).matches("diverged at step").count(), 2, "{}", text(&retried.stderr));
    assert!(!text(&retried.stderr).contains("left alone"));
    assert!(fs::metadata(failed.join("failure.txt")).unwrap().modified().unwrap() > before);
}

#[test]
fn runs_are_listed_shown_and_removed_by_what_they_are() {
    let bench = Bench::new();
    bench.write("sweep.toml", &sweep());
    bench.heddle(&["sweep", "sweep.toml"]);
    bench.write("other.toml", &SMALL.replace("\"small\"", "\"other\"").replace("steps = 60", "steps = 100000"));
    let mut running = bench.command(&["run", "other.toml"]).stdout(Stdio::null()).spawn().unwrap();
    while fs::read_dir(bench.path("runs/other"))
        .map_or(0, |runs| runs.filter(|run| run.as_ref().unwrap().path().join("metrics.jsonl").exists()).count())
        == 0
    {
        assert!(running.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let list = |args: &[&str]| -> Vec<Value> {
        let printed = bench.succeed(&[&["runs", "list", "--json"], args].concat());
        serde_json::from_str(&printed).unwrap()
    };
    assert_eq!(list(&[]).len(), 5);
    assert_eq!(list(&["--name", "small"]).len(), 4);
    assert_eq!(list(&["--case", "calm", "--set", "train.lr=0.001"]).len(), 1);
    assert_eq!(list(&["--set", "train.lr=2e-3", "--set", "model.d_model=16", "--name", "small"]).len(), 2);
    assert_eq!(list(&["--set", "train.lr=5"]).len(), 0);
    assert_eq!(list(&["--status", "running"])[0]["name"], "other");
    let failed = list(&["--status", "failed"]);
    assert_eq!(failed.len(), 2);
    assert_eq!(failed[0]["axes"]["train.lr"].as_f64().map(|lr| lr < 1.0), Some(true), "from the sweep's record");
    assert!(failed[0]["failure"].as_str().unwrap().contains("diverged at step"));
    let table = bench.succeed(&["runs", "list"]);
    assert!(
        table.contains("test accuracy") && table.contains("running") && table.contains("train.lr=0.001"),
        "{table}"
    );

    let hash = list(&["--case", "calm"])[0]["hash"].as_str().unwrap().to_owned();
    let shown = bench.succeed(&["runs", "show", &hash[..6]]);
    assert!(shown.contains("finished") && shown.contains("length=24,pairs=3") && shown.contains("train.lr"), "{shown}");
    assert!(bench.fail(2, &["runs", "show", "nosuchrun"]).contains("no run below runs fits"));

    // Nothing is removed unasked, while it runs, or for want of an answer.
    assert!(bench.fail(2, &["runs", "rm", "--yes"]).contains("say which runs"));
    assert!(bench.fail(2, &["runs", "rm", "", "--yes"]).contains("no run below runs fits"));
    assert!(bench.fail(2, &["runs", "rm", "--status", "interrupted", "--yes"]).contains("no run below runs fits"));
    let complaint = bench.fail(1, &["runs", "rm", "--set", "train.batch=8", "--yes"]);
    assert!(complaint.contains("is running; stop it first. Nothing was removed"), "{complaint}");
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(list(&["--status", "interrupted"]).len(), 1);
    let asked = |answer: &str| {
        let mut command = bench.command(&["runs", "rm", "--status", "failed"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        text(&child.wait_with_output().unwrap().stdout)
    };
    assert!(asked("\n").contains("Remove 2 runs? [y/N] Nothing was removed."));
    assert_eq!(list(&[]).len(), 5);
    assert!(asked("y\n").contains("Removed 2 runs."));
    assert_eq!(list(&[]).len(), 3);
    let directory = bench.path("runs/small").join(&hash);
    let by_path = bench.succeed(&["runs", "list", "--json", "--out", "nowhere", directory.to_str().unwrap()]);
    assert_eq!(serde_json::from_str::<Vec<Value>>(&by_path).unwrap()[0]["hash"], json!(hash));
    assert!(bench.succeed(&["runs", "rm", directory.to_str().unwrap(), "--yes"]).contains("Removed 1 run."));
    assert!(!directory.exists());
}
