//! A run that was killed ends as one that was not; so does one with another number of threads.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::harness::{Bench, SMALL, assert_same, last_tensors, metrics, result_without_timing};

/// Kills of one run, at random moments.
const KILLS: usize = 5;

/// A run long enough to be killed in the middle, with dropout and experts, so that chance and routing must resume too.
pub(crate) fn longer() -> String {
    let longer = SMALL.replace("steps = 60", "steps = 400").replace("every = 20", "every = 100");
    let layers = r#"layers = ["mamba", "attention+mlp"]"#;
    let with_experts =
        longer.replace(layers, &layers.replace("mamba\"", "mamba+moe\"").replace("layers", "dropout = 0.1\nlayers"));
    let with_experts = with_experts.replace("heads = 2", "heads = 2\ndropout = 0.1");
    let with_experts = with_experts.replace("[train]", "[model.channel.moe]\nexperts = 3\n\n[train]");
    assert_ne!(longer, with_experts);
    with_experts
}

/// The same with everything on that training can do beside: each has something of its own to be taken up again.
fn with_every_feature(optimizer: &str) -> String {
    let train = format!(
        "[train]\noptimizer = \"{optimizer}\"\nschedule = \"wsd\"\ndecay_form = \"one_minus_sqrt\"\ntokens = 30000\nema = 0.9\n\
         accumulate = 2\nchunk = 10\nhistograms = 70\n"
    );
    let eval = "[eval]\nmonitor = [{ length = 32, pairs = 4, examples = 8 }]\nmonitor_every = 30\n";
    longer().replace("[train]\n", &train).replace("[eval]\n", eval)
}

fn killed_at_random_moments(config: &str) -> (Bench, std::path::PathBuf) {
    let bench = Bench::new();
    bench.write("run.toml", config);
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
    (bench, killed)
}

#[test]
fn a_run_killed_at_random_moments_ends_bit_identical() {
    killed_at_random_moments(&longer());
}

#[test]
fn so_does_one_whose_model_reads_out_items() {
    let longer = longer();
    let (task, model) = (longer.find("[task]").unwrap(), longer.find("[model]").unwrap());
    let compression =
        "[task]\nkind = 'compression'\ntrain = [{ length = 16 }]\ntest = [{ length = 16, examples = 32 }]\n";
    killed_at_random_moments(&format!("{}{compression}{}", &longer[..task], &longer[model..]));
}

#[test]
fn so_does_one_with_every_feature_of_training_and_every_optimiser() {
    for optimizer in ["muon", "lion", "sgd"] {
        let (_bench, run) = killed_at_random_moments(&with_every_feature(optimizer));
        let [_, moments, _, average] = last_tensors(&run);
        assert!(moments.iter().any(|(name, _)| name.starts_with(&format!("{optimizer}.momentum."))), "{optimizer}");
        assert!(!average.is_empty());
        let result = result_without_timing(&run);
        assert_eq!(result["stop"], "tokens");
        let rows = metrics(&run);
        let has = |key: &str, value: &str| rows.iter().any(|row| row[key] == value);
        assert!(has("kind", "histogram") && has("split", "monitor") && has("kind", "routing"));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // Wide enough that matrix products are split among threads.
    let wide = |config: &str| config.replace("d_model = 16", "d_model = 128").replace("batch = 8", "batch = 32");
    for (features, config) in [("few", SMALL), ("all", &with_every_feature("muon"))] {
        let bench = Bench::new();
        bench.write("run.toml", &wide(config));
        let runs = ["1", "2", "3"].map(|threads| {
            let out = format!("{features}{threads}");
            let args = ["run", "run.toml", "--set", "train.steps=20", "--out", &out];
            let output = bench.command(&args).env("RAYON_NUM_THREADS", threads).output().unwrap();
            assert!(output.status.success(), "{}", crate::harness::text(&output.stderr));
            bench.run_directory(&out, "small")
        });
        let [one, two, three] = &runs;
        assert_same(one, two);
        assert_same(one, three);
    }
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
