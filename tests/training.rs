//! Budgets, averages and what is watched, through the program.

use std::path::PathBuf;

use experiments::checkpoint::restore;
use serde_json::Value;

use crate::harness::{Bench, SMALL, metrics, result_without_timing, text};

/// Trains the small run with more settings, in a directory of its own.
fn trained(bench: &Bench, out: &str, train: &str, eval: &str) -> PathBuf {
    let config =
        SMALL.replace("[train]\n", &format!("[train]\n{train}")).replace("[eval]\n", &format!("[eval]\n{eval}"));
    bench.write("run.toml", &config);
    bench.succeed(&["run", "run.toml", "--out", out]);
    bench.run_directory(out, "small")
}

fn result(run: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(run.join("result.json")).unwrap()).unwrap()
}

#[test]
fn a_budget_of_tokens_ends_with_the_step_that_reaches_it_and_the_schedule_with_it() {
    let bench = Bench::new();
    let config = SMALL.replace("steps = 60", "steps = 0\ntokens = 5000\nlog_every = 1\nschedule = \"linear\"");
    bench.write("run.toml", &config);
    bench.succeed(&["run", "run.toml"]);
    let run = bench.run_directory("runs", "small");
    let result = result_without_timing(&run);
    assert_eq!(result["stop"], "tokens");
    let tokens = result["tokens"].as_u64().unwrap();
    assert!((5000..5000 + 8 * 24).contains(&tokens), "{tokens}");
    let rows = metrics(&run);
    let last = rows.iter().rev().find(|row| row["kind"] == "train").unwrap();
    assert_eq!((last["lr"].as_f64(), last["step"].as_u64()), (Some(0.0), result["steps"].as_u64()));
}

#[test]
fn a_budget_of_time_ends_the_run_and_says_so() {
    let bench = Bench::new();
    let config = SMALL.replace("steps = 60", "steps = 0\nminutes = 0.01\nschedule = \"constant\"");
    bench.write("run.toml", &config);
    bench.succeed(&["run", "run.toml"]);
    let result = result(&bench.run_directory("runs", "small"));
    assert_eq!(result["stop"], "time");
    let seconds = result["timing"]["train_seconds"].as_f64().unwrap();
    assert!(seconds >= 0.6, "{seconds}");
    // What is above the budget is one step's.
    let step = seconds / result["steps"].as_f64().unwrap();
    assert!(seconds < 0.6 + 20.0 * step, "{seconds} with steps of {step}");
}

#[test]
fn the_time_to_the_target_is_told_in_steps_tokens_and_seconds() {
    let bench = Bench::new();
    let reached = result(&trained(&bench, "reached", "", "stop_at = 0.001\n"));
    assert_eq!((reached["stop"].as_str(), reached["steps_to_target"].as_u64()), (Some("target"), Some(20)));
    assert_eq!(reached["tokens_to_target"], reached["tokens"]);
    let timing = &reached["timing"];
    let seconds = timing["seconds_to_target"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds <= timing["train_seconds"].as_f64().unwrap());
    let missed = result(&trained(&bench, "missed", "", ""));
    assert!(missed["steps_to_target"].is_null() && missed.get("tokens_to_target").is_none());
    assert!(missed["timing"].get("seconds_to_target").is_none());
}

#[test]
fn the_average_is_what_is_evaluated_and_kept() {
    let bench = Bench::new();
    let run = trained(&bench, "averaged", "ema = 0.98\n", "");
    let (checkpoint, _) = restore(&run.join("checkpoint")).unwrap().unwrap();
    assert!(checkpoint.average.keys().eq(checkpoint.model.keys()));
    assert!(checkpoint.average != checkpoint.model);
    let best = checkpoint.state.best.unwrap();
    // Every number evaluated at the last step is that of the average; it is the best here or was passed over.
    assert!(best.step != checkpoint.state.step || checkpoint.best == checkpoint.average);
    assert!(checkpoint.best != checkpoint.model);
    let plain = trained(&bench, "plain", "", "");
    let (other, _) = restore(&plain.join("checkpoint")).unwrap().unwrap();
    assert!(other.model == checkpoint.model, "an average does not change the path of training");
    assert_ne!(result_without_timing(&run)["validation"], result_without_timing(&plain)["validation"]);
}

#[test]
fn what_is_monitored_is_recorded_and_chooses_nothing() {
    let bench = Bench::new();
    let monitor = "monitor = [{ length = 16, pairs = 2, examples = 32 }, { length = 48, pairs = 6, examples = 16 }]\n";
    let watched = trained(&bench, "watched", "", &format!("{monitor}monitor_every = 15\n"));
    let plain = trained(&bench, "plain", "", "");
    let [of_watched, of_plain] = [&watched, &plain].map(|run| result_without_timing(run));
    for key in ["validation", "test", "best_step", "steps", "stop"] {
        assert_eq!(of_watched[key], of_plain[key], "{key}");
    }
    let rows = metrics(&watched);
    let of = |split: &str, slice: &str| -> Vec<(u64, f64)> {
        let rows = rows.iter().filter(|row| row["split"] == split && row["slice"] == slice);
        rows.map(|row| (row["step"].as_u64().unwrap(), row["accuracy"].as_f64().unwrap())).collect()
    };
    let long = of("monitor", "length=48,pairs=6");
    assert_eq!(long.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [15, 30, 45, 60]);
    // The first slice of the validation stream is that slice wherever it is evaluated.
    let (same, validation) = (of("monitor", "length=16,pairs=2"), of("validation", "length=16,pairs=2"));
    assert_eq!(same.last(), validation.last());
}

#[test]
fn memory_is_cut_by_chunks_and_micro_batches_and_the_loss_is_that_of_the_whole() {
    let bench = Bench::new();
    let first_loss = |out: &str, train: &str| {
        let run = trained(&bench, out, train, "");
        metrics(&run).iter().find(|row| row["kind"] == "train").unwrap()["loss"].as_f64().unwrap()
    };
    let whole = first_loss("whole", "");
    for (out, train) in
        [("chunks", "chunk = 5\n"), ("parts", "accumulate = 4\n"), ("both", "chunk = 7\naccumulate = 2\n")]
    {
        let loss = first_loss(out, train);
        assert!((loss - whole).abs() < 1e-4 * whole, "{out}: {loss}, {whole}");
    }
}

#[test]
fn a_result_tells_what_it_was_made_by() {
    let bench = Bench::new();
    let run = trained(&bench, "runs", "", "");
    let result = result(&run);
    assert_eq!(result["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(result["burn"], "0.22.1");
    assert!(result["timing"]["threads"].as_u64().unwrap() >= 1);
    if let Some(commit) = result.get("commit") {
        let commit = commit.as_str().unwrap().trim_end_matches("-dirty");
        assert!(commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{commit}");
    }
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("device = \"cpu\"") && config.contains("seed = 0"));
    // Nothing tells the machine: the same run has the same result everywhere.
    let all = std::fs::read_to_string(run.join("result.json")).unwrap();
    let host = text(&std::process::Command::new("uname").arg("-n").output().unwrap().stdout);
    assert!(!all.contains(host.trim()) && !all.contains(bench.path("").to_str().unwrap()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_sequence_longer_than_memory_is_trained_on_in_chunks() {
    let bench = Bench::new();
    let peak = |length: usize, layers: &str| {
        let config = SMALL
            .replace("name = \"small\"", &format!("name = \"long-{length}\""))
            .replace("layers = [\"mamba\", \"attention+mlp\"]", layers)
            .replace(
                "{ length = 16, pairs = 2 }, { length = 24, pairs = 3 }",
                &format!("{{ length = {length}, pairs = 2 }}"),
            )
            .replace("steps = 60\nbatch = 8\nwarmup = 10", "steps = 1\nbatch = 1\nwarmup = 0\nchunk = 256");
        bench.write("run.toml", &config);
        bench.succeed(&["run", "run.toml"]);
        result(&bench.run_directory("runs", &format!("long-{length}")))["timing"]["peak_bytes"].as_f64().unwrap()
    };
    let layers = "layers = [\"mamba\", \"mamba+mlp\"]";
    let (short, long) = (peak(2048, layers), peak(32_768, layers));
    // The graphs of all chunks would be over a hundred megabytes, three times as much.
    assert!(long < 1.5 * short, "{short} bytes at 2048 tokens, {long} at 32768");
}
