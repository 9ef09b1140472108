//! Ctrl-C: a checkpoint, and the way on.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use experiments::checkpoint::restore;

use crate::harness::assert_same;
use crate::harness::{Bench, SMALL, text};
use crate::resume::longer;

/// The exit code of what was interrupted.
const INTERRUPTED: i32 = 130;

fn signal(name: &str, child: &Child) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what}: not within two minutes");
        sleep(Duration::from_millis(5));
    }
}

/// Rows of all metrics below an experiment.
fn rows(experiment: &Path) -> Vec<usize> {
    let runs = fs::read_dir(experiment).into_iter().flatten().map(|run| run.unwrap().path().join("metrics.jsonl"));
    runs.filter_map(|metrics| Some(fs::read_to_string(metrics).ok()?.lines().count())).collect()
}

fn start(bench: &Bench, args: &[&str]) -> Child {
    bench.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The longer run, saved at evaluations alone, so that what an interruption saves is what it goes on from.
fn rarely_saved() -> String {
    longer().replace("checkpoint_every = 5", "checkpoint_every = 0")
}

#[test]
fn an_interrupted_run_saves_the_step_it_took_and_ends_bit_identical() {
    let bench = Bench::new();
    bench.write("run.toml", &rarely_saved());
    bench.succeed(&["run", "run.toml", "--out", "undisturbed"]);
    for (after, name) in [(2, "-INT"), (12, "-TERM")] {
        let child = start(&bench, &["run", "run.toml", "--out", "interrupted"]);
        wait_until("the run starts", || rows(&bench.path("interrupted/small")).iter().any(|&rows| rows > after));
        signal(name, &child);
        let output = child.wait_with_output().unwrap();
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(INTERRUPTED), "{complaint}");
        assert!(complaint.contains("Ctrl-C again stops at once") && !complaint.contains("error:"), "{complaint}");
        let step = complaint.split("interrupted behind step ").nth(1).expect(&complaint).split(',').next().unwrap();
        let run = bench.run_directory("interrupted", "small");
        let (checkpoint, _) = restore(&run.join("checkpoint")).unwrap().expect("an interruption saves");
        assert_eq!(checkpoint.state.step.to_string(), step);
        assert!(!run.join("failure.txt").exists());
    }
    bench.succeed(&["run", "run.toml", "--out", "interrupted"]);
    assert_same(&bench.run_directory("undisturbed", "small"), &bench.run_directory("interrupted", "small"));
}

#[test]
fn a_second_signal_stops_at_once() {
    let bench = Bench::new();
    let endless = SMALL
        .replace(
            "train = [{ length = 16, pairs = 2 }, { length = 24, pairs = 3 }]",
            "train = [{ length = 16384, pairs = 2 }]",
        )
        .replace("batch = 8", "batch = 64");
    assert!(endless.contains("16384") && endless.contains("batch = 64"));
    bench.write("run.toml", &endless);
    let mut child = start(&bench, &["run", "run.toml"]);
    wait_until("the run starts", || rows(&bench.path("runs/small")).len() == 1);
    signal("-INT", &child);
    sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "the step is not over yet");
    signal("-INT", &child);
    let started = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(output.status.code(), Some(INTERRUPTED));
    assert!(!text(&output.stderr).contains("interrupted behind step"));
}

#[test]
fn an_interrupted_sweep_stops_its_runs_and_the_next_one_takes_them_up() {
    let bench = Bench::new();
    bench.write("sweep.toml", &format!("{}\n[sweep]\nseeds = [0, 1, 2]\n", rarely_saved()));
    let child = start(&bench, &["sweep", "sweep.toml", "--jobs", "2"]);
    wait_until("two runs start", || rows(&bench.path("runs/small")).iter().filter(|&&rows| rows > 1).count() == 2);
    // To the sweep alone, as a scheduler sends it; a terminal sends SIGINT to its runs too.
    signal("-TERM", &child);
    let output = child.wait_with_output().unwrap();
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(INTERRUPTED), "{complaint}");
    assert!(complaint.contains("interrupted: 0 of 3 runs are finished; the same command goes on"), "{complaint}");
    let listed = bench.succeed(&["runs", "list", "--status", "interrupted", "--json"]);
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.len(), 2, "{listed:?}");
    for run in &listed {
        let directory = bench.path(run["directory"].as_str().unwrap());
        assert!(restore(&directory.join("checkpoint")).unwrap().is_some(), "each saved a checkpoint");
    }
    bench.succeed(&["sweep", "sweep.toml", "--jobs", "2"]);
    bench.succeed(&["run", "sweep.toml", "--seed", "1", "--out", "undisturbed"]);
    let undisturbed = bench.run_directory("undisturbed", "small");
    assert_same(&undisturbed, &bench.path("runs/small").join(undisturbed.file_name().unwrap()));
}

#[test]
fn a_sweep_that_is_killed_leaves_no_run_behind_that_trains_on() {
    let bench = Bench::new();
    let endless = rarely_saved().replace("steps = 400", "steps = 1000000").replace("every = 100", "every = 1000000");
    bench.write("sweep.toml", &format!("{endless}\n[sweep]\nseeds = [0]\n"));
    let mut child = start(&bench, &["sweep", "sweep.toml"]);
    wait_until("the run starts", || rows(&bench.path("runs/small")).iter().any(|&rows| rows > 1));
    assert_eq!(bench.succeed(&["runs", "list", "--json", "--status", "running"]).matches("\"hash\"").count(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the run ends", || bench.succeed(&["runs", "list", "--json", "--status", "running"]).trim() == "[]");
    let run = bench.run_directory("runs", "small");
    assert!(restore(&run.join("checkpoint")).unwrap().is_some(), "it saved a checkpoint first");
}
