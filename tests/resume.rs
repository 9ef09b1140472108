//! A run that was killed ends as one that was not; so does one with another number of threads.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::harness::{Bench, SMALL, last_tensors, result_without_timing};

/// Kills of one run, at random moments.
const KILLS: usize = 5;

/// A run long enough to be killed in the middle, with dropout and experts, so that chance and routing must resume too.
fn longer() -> String {
    let longer = SMALL.replace("steps = 60", "steps = 400").replace("every = 20", "every = 100");
    let layers = r#"layers = ["mamba", "attention+mlp"]"#;
    let with_experts =
        longer.replace(layers, &layers.replace("mamba\"", "mamba+moe\"").replace("layers", "dropout = 0.1\nlayers"));
    let with_experts = with_experts.replace("heads = 2", "heads = 2\ndropout = 0.1");
    let with_experts = with_experts.replace("[train]", "[model.channel.moe]\nexperts = 3\n\n[train]");
    assert_ne!(longer, with_experts);
    with_experts
}

fn metrics_without_speed(run: &Path) -> Vec<serde_json::Value> {
    let rows = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let rows =
        rows.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("no row is half-written"));
    rows.map(|mut row| {
        row.as_object_mut().unwrap().remove("tokens_per_second");
        row
    })
    .collect()
}

fn assert_same(a: &Path, b: &Path) {
    assert_eq!(result_without_timing(a), result_without_timing(b));
    assert!(last_tensors(a) == last_tensors(b), "the parameters differ");
    assert_eq!(metrics_without_speed(a), metrics_without_speed(b));
    let checkpoints = |run: &Path| {
        let files = fs::read_dir(run.join("checkpoint")).unwrap();
        files.map(|file| file.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    // A checkpoint's name holds the hash of its content.
    assert_eq!(checkpoints(a), checkpoints(b));
}

#[test]
fn a_run_killed_at_random_moments_ends_bit_identical() {
    let bench = Bench::new();
    bench.write("run.toml", &longer());
    let started = Instant::now();
    bench.succeed(&["run", "run.toml", "--out", "undisturbed"]);
    let whole = started.elapsed();
    let undisturbed = bench.run_directory("undisturbed", "small");
    let mut rng = ChaCha8Rng::seed_from_u64(whole.as_nanos() as u64);
    let mut interrupted = 0;
    for _ in 0..KILLS {
        let mut child = bench.command(&["run", "run.toml", "--out", "killed"]).stdout(Stdio::null()).spawn().unwrap();
        sleep(whole.mul_f64(rng.random_range(0.05..0.5)) + Duration::from_millis(20));
        interrupted += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(interrupted > 0, "no kill came in time");
    bench.succeed(&["run", "run.toml", "--out", "killed"]);
    let killed = bench.run_directory("killed", "small");
    assert_same(&undisturbed, &killed);
    let leftovers = |directory: &Path| {
        fs::read_dir(directory)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".writing"))
            .count()
    };
    assert_eq!(leftovers(&killed) + leftovers(&killed.join("checkpoint")), 0);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let bench = Bench::new();
    // Wide enough that matrix products are split among threads.
    bench.write("run.toml", &SMALL.replace("d_model = 16", "d_model = 128").replace("batch = 8", "batch = 32"));
    for threads in ["1", "2", "3"] {
        let out = format!("threads{threads}");
        let status = bench
            .command(&["run", "run.toml", "--set", "train.steps=20", "--out", &out])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", crate::harness::text(&status.stderr));
    }
    let [one, two, three] = ["threads1", "threads2", "threads3"].map(|out| bench.run_directory(out, "small"));
    assert_same(&one, &two);
    assert_same(&one, &three);
}

#[test]
fn a_finished_run_is_not_run_again() {
    let bench = Bench::new();
    bench.write("run.toml", SMALL);
    bench.succeed(&["run", "run.toml"]);
    let result = bench.run_directory("runs", "small").join("result.json");
    let before = fs::metadata(&result).unwrap().modified().unwrap();
    assert!(bench.succeed(&["run", "run.toml"]).contains("finished before"));
    assert_eq!(fs::metadata(&result).unwrap().modified().unwrap(), before);
}

#[test]
fn the_stored_config_repeats_the_run_bit_for_bit() {
    let bench = Bench::new();
    bench.write("run.toml", SMALL);
    bench.succeed(&["run", "run.toml", "--set", "train.lr=1e-3", "--seed", "4"]);
    let first = bench.run_directory("runs", "small");
    let stored = first.join("config.toml");
    bench.succeed(&["run", stored.to_str().unwrap(), "--out", "again"]);
    assert_same(&first, &bench.run_directory("again", "small"));
}
