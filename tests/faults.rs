//! Bad input and broken surroundings: a clear message, the documented exit code, and nothing saved is lost.

use std::fs;

use crate::harness::{Bench, SMALL, last_tensors};

/// The exit code of a run that failed.
const FAILED: i32 = 1;
/// The exit code of bad usage or config.
const USAGE: i32 = 2;

fn complaint(config: &str, args: &[&str]) -> String {
    let bench = Bench::new();
    bench.write("run.toml", config);
    let complaint = bench.fail(USAGE, &[&["run", "run.toml"], args].concat());
    assert!(!bench.path("runs").exists(), "a config that is refused leaves nothing behind");
    complaint
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn a_missing_config_is_named() {
    let complaint = Bench::new().fail(USAGE, &["run", "nowhere.toml"]);
    assert_contains(&complaint, &["nowhere.toml", "No such file"]);
}

#[test]
fn a_malformed_config_is_drawn_on_its_line() {
    assert_contains(&complaint("name = \"x\"\n[train\nsteps = 3\n", &[]), &["run.toml:2"]);
}

#[test]
fn an_unknown_key_gets_the_nearest_one() {
    let complaint = complaint(&SMALL.replace("batch = 8", "bach = 8"), &[]);
    assert_contains(&complaint, &["run.toml:", "train.bach", "did you mean", "train.batch"]);
}

#[test]
fn a_value_of_the_wrong_type_is_drawn() {
    let complaint = complaint(&SMALL.replace("steps = 60", "steps = \"many\""), &[]);
    assert_contains(&complaint, &["run.toml:", "train.steps", "many"]);
}

#[test]
fn an_override_is_checked_like_a_line_of_the_file() {
    assert_contains(&complaint(SMALL, &["--set", "train.stepps=3"]), &["train.stepps", "train.steps"]);
}

#[test]
fn an_impossible_task_says_what_would_fit() {
    let complaint = complaint(&SMALL.replace("length = 16, pairs = 2 }, {", "length = 16, pairs = 5 }, {"), &[]);
    assert_contains(&complaint, &["pairs", "length", "4"]);
}

#[test]
fn an_unknown_block_and_an_unused_name_are_named() {
    let unknown = complaint(&SMALL.replace("[model.mixer.mamba]", "[model.mixer.mamba]\nkind = \"mambo\""), &[]);
    assert_contains(&unknown, &["mambo", "mamba"]);
    let undescribed = complaint(&SMALL.replace("\"mamba\", \"attention+mlp\"", "\"mamba\", \"atention+mlp\""), &[]);
    assert_contains(&undescribed, &["model.layers", "atention", "attention"]);
}

#[test]
fn a_setting_that_no_block_can_have_is_drawn() {
    assert_contains(
        &complaint(&SMALL.replace("heads = 2", "heads = 3"), &[]),
        &["run.toml:", "heads", "do not divide"],
    );
}

#[test]
fn what_training_cannot_combine_is_refused_with_the_remedy() {
    let train = |settings: &str| SMALL.replace("[train]", &format!("[train]\n{settings}"));
    let both_ways = SMALL.replace("heads = 2", "heads = 2\ncausal = false").replace("[train]", "[train]\nchunk = 8");
    assert_contains(&complaint(&both_ways, &[]), &["train.chunk", "`attention` is not causal", "use 0"]);
    assert_contains(&complaint(&train("accumulate = 3"), &[]), &["train.accumulate", "divisor of `train.batch` (8)"]);
    let by_layer = train("chunk = 8\ngradient_checkpointing = true");
    assert_contains(&complaint(&by_layer, &[]), &["train.gradient_checkpointing", "`train.chunk` is not 0"]);
    let endless = SMALL.replace("steps = 60", "steps = 0");
    assert_contains(&complaint(&endless, &[]), &["train.steps", "train.tokens", "train.minutes"]);
    let monitor = SMALL.replace("[eval]", "[eval]\nmonitor = [{ length = 16, pears = 2 }]");
    assert_contains(&complaint(&monitor, &[]), &["eval.monitor", "pears", "`pairs`"]);
}

#[test]
fn an_unknown_device_is_refused_with_the_known_ones() {
    assert_contains(&complaint(SMALL, &["--device", "tpu"]), &["device", "tpu", "cpu", "ndarray"]);
}

#[test]
fn bad_usage_has_its_own_exit_code() {
    let bench = Bench::new();
    bench.fail(USAGE, &["run"]);
    bench.fail(USAGE, &["fly"]);
    bench.fail(USAGE, &["task", "show", "mqra"]);
    bench.fail(USAGE, &["report", "nowhere"]);
}

#[test]
fn an_output_directory_that_cannot_be_written_fails_before_training() {
    let bench = Bench::new();
    bench.write("run.toml", SMALL);
    // A file where the directory should be: refused to every user, root included.
    bench.write("taken", "");
    let complaint = bench.fail(FAILED, &["run", "run.toml", "--out", "taken"]);
    assert_contains(&complaint, &["cannot create the directory", "taken"]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_a_lone_one_refused() {
    let bench = Bench::new();
    bench.write("run.toml", SMALL);
    bench.succeed(&["run", "run.toml", "--out", "whole"]);
    let whole = bench.run_directory("whole", "small");
    let hash = whole.file_name().unwrap().to_str().unwrap();
    let run = bench.path("runs").join("small").join(hash);
    fs::create_dir_all(run.join("checkpoint")).unwrap();
    let mut checkpoints: Vec<_> =
        fs::read_dir(whole.join("checkpoint")).unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.sort();
    assert_eq!(checkpoints.len(), 2);
    for checkpoint in &checkpoints {
        fs::copy(checkpoint, run.join("checkpoint").join(checkpoint.file_name().unwrap())).unwrap();
    }
    fs::copy(whole.join("metrics.jsonl"), run.join("metrics.jsonl")).unwrap();

    let [older, newest] = [0, 1].map(|i| run.join("checkpoint").join(checkpoints[i].file_name().unwrap()));
    let mut bytes = fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&newest, bytes).unwrap();
    let output = bench.heddle(&["run", "run.toml"]);
    assert!(output.status.success());
    assert_contains(
        &crate::harness::text(&output.stderr),
        &["warning: passed over", newest.to_str().unwrap().rsplit('/').next().unwrap()],
    );
    assert!(last_tensors(&whole) == last_tensors(&run), "the run went on from the older checkpoint to the same end");

    fs::remove_file(run.join("result.json")).unwrap();
    for entry in fs::read_dir(run.join("checkpoint")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let complaint = bench.fail(FAILED, &["run", "run.toml"]);
    assert_contains(&complaint, &["no checkpoint in", "cut short", "Remove that directory"]);
    assert!(older.exists(), "nothing is removed");
}

#[test]
fn a_diverging_run_stops_with_step_and_seed_and_keeps_its_checkpoint() {
    let bench = Bench::new();
    bench.write(
        "run.toml",
        &SMALL
            .replace("warmup = 10", "warmup = 0\nlr = 1e30\nclip = 0.0\ncheckpoint_every = 1")
            .replace("checkpoint_every = 5\n", ""),
    );
    let complaint = bench.fail(FAILED, &["run", "run.toml", "--seed", "7"]);
    assert_contains(&complaint, &["diverged at step", "seed 7", "train.lr"]);
    let run = bench.run_directory("runs", "small");
    let failure = fs::read_to_string(run.join("failure.txt")).unwrap();
    assert_contains(&failure, &["diverged at step", "seed 7"]);
    assert!(!run.join("result.json").exists());
    for tensors in last_tensors(&run) {
        for (name, bytes) in tensors {
            let finite = bytes.chunks(4).all(|word| f32::from_le_bytes(word.try_into().unwrap()).is_finite());
            assert!(finite, "`{name}` of the last checkpoint is not finite");
        }
    }
}

#[test]
fn a_sweep_lists_what_failed_and_finishes_the_rest() {
    let bench = Bench::new();
    let sweep = "\n[sweep]\nseeds = [0, 1]\n[sweep.case.calm]\ntrain.lr = 1e-3\n[sweep.case.wild]\ntrain.lr = 1e30\ntrain.clip = 0.0\ntrain.warmup = 0\n";
    bench.write("sweep.toml", &format!("{SMALL}{sweep}"));
    let output = bench.heddle(&["sweep", "sweep.toml", "--jobs", "2"]);
    assert_eq!(output.status.code(), Some(FAILED));
    let complaint = crate::harness::text(&output.stderr);
    assert_eq!(complaint.matches("diverged at step").count(), 2, "{complaint}");
    let table = crate::harness::text(&output.stdout);
    assert_contains(&table, &["calm", "report.html"]);
    assert!(!table.contains("wild"), "{table}");
    // What was finished is not run again.
    assert_contains(
        &crate::harness::text(&bench.heddle(&["sweep", "sweep.toml"]).stdout),
        &["2 of 4 runs were finished before"],
    );
}

#[test]
fn a_second_process_is_kept_out_of_a_run() {
    let bench = Bench::new();
    bench.write(
        "run.toml",
        &SMALL.replace("steps = 60", "steps = 100000").replace("checkpoint_every = 5", "checkpoint_every = 0"),
    );
    let mut first = bench.command(&["run", "run.toml"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let started = std::time::Instant::now();
    while !bench.path("runs/small").exists()
        || fs::read_dir(bench.path("runs/small"))
            .unwrap()
            .all(|run| !run.unwrap().path().join("metrics.jsonl").exists())
    {
        assert!(started.elapsed().as_secs() < 60, "the first process does not start");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let complaint = bench.fail(FAILED, &["run", "run.toml"]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_contains(&complaint, &["another process is working on"]);
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_failure() {
    let bench = Bench::new();
    let mut child = bench
        .command(&["task", "sample", "mqar", "--n", "100000"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
