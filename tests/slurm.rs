//! Sweeps through Slurm: a real one, of one node, where `tests/run.sh` found or installed it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::{Bench, SMALL, result_without_timing, root, text};

/// A sweep of three seeds.
fn config() -> String {
    format!("{SMALL}\n[sweep]\nseeds = [0, 1, 2]\n\n[slurm]\npartition = \"main\"\ntime = \"10\"\n")
}

/// A Slurm of one node that ends with this value.
struct Slurm {
    home: PathBuf,
}

impl Slurm {
    /// Starts it; `None` where it is not installed, which `tests/run.sh` tells and lets pass nowhere but at home.
    fn start(home: PathBuf) -> Option<Self> {
        std::env::var_os("HEDDLE_TEST_SLURM")?;
        fs::create_dir(&home).unwrap();
        let output = Command::new("bash").arg(root().join("tests/slurm/start.sh")).arg(&home).output().unwrap();
        let slurm = Self { home };
        assert!(output.status.success(), "{}", text(&output.stderr));
        Some(slurm)
    }

    fn conf(&self) -> PathBuf {
        self.home.join("slurm.conf")
    }

    /// What one of Slurm's programs prints.
    fn ask(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).env("SLURM_CONF", self.conf()).output().unwrap();
        assert!(output.status.success(), "{program}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The sweep, in a process of its own.
    fn sweep(&self, bench: &Bench, args: &[&str]) -> Child {
        let mut command = bench.command(&[&["sweep", "run.toml", "--launcher", "slurm"], args].concat());
        command.env("SLURM_CONF", self.conf()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        for pid in ["slurmctld.pid", "slurmd.pid", "munge/pid"] {
            if let Ok(pid) = fs::read_to_string(self.home.join(pid)) {
                let _ = Command::new("kill").args(["-KILL", pid.trim()]).status();
            }
        }
    }
}

/// The directories of the runs, those begun and not ended included.
fn runs(bench: &Bench) -> Vec<PathBuf> {
    let entries = fs::read_dir(bench.path("runs/small")).into_iter().flatten();
    let mut runs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    runs.retain(|run| run.join("config.toml").exists());
    runs.sort();
    runs
}

/// Waits until there is something.
fn wait<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        sleep(Duration::from_millis(20));
    }
}

/// The process that works on a run, found by the run's config among its arguments.
fn process_of(run: &Path) -> Option<String> {
    let config = run.join("config.toml").to_str().unwrap().to_owned();
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let arguments = fs::read(entry.path().join("cmdline")).ok()?;
        let mut arguments = arguments.split(|byte| *byte == 0);
        let ours = arguments.next()?.ends_with(b"heddle") && arguments.any(|argument| argument == config.as_bytes());
        ours.then(|| entry.file_name().into_string().unwrap())
    })
}

#[test]
fn a_sweep_through_slurm_survives_a_killed_task_and_finds_what_a_local_one_finds() {
    let bench = Bench::new();
    let Some(slurm) = Slurm::start(bench.path("slurm")) else { return };
    bench.write("run.toml", &config().replace("steps = 60", "steps = 600"));

    let sweep = slurm.sweep(&bench, &[]);
    let victim = wait("a checkpoint of a run at work", || {
        let begun = |run: &PathBuf| run.join("checkpoint").exists() && !run.join("result.json").exists();
        runs(&bench).into_iter().find(begun).filter(|run| process_of(run).is_some())
    });
    let killed = process_of(&victim).map(|pid| Command::new("kill").args(["-KILL", &pid]).status());
    assert!(killed.is_some_and(|status| status.unwrap().success()), "the run had not ended yet");
    let output = sweep.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(printed.contains("report.html"), "{printed}");
    assert!(printed.contains("submitted again"), "{printed}");
    assert!(bench.path("runs/small/slurm/2/job.sbatch").exists(), "{printed}");

    // Bit for bit what the runs find here.
    let there = runs(&bench);
    assert_eq!(there.len(), 3);
    bench.succeed(&["sweep", "run.toml", "--out", "here"]);
    for run in there {
        let here = bench.path("here/small").join(run.file_name().unwrap());
        assert_eq!(result_without_timing(&run), result_without_timing(&here));
    }

    // A second sweep has nothing to submit.
    let output = slurm.sweep(&bench, &[]).wait_with_output().unwrap();
    assert!(text(&output.stdout).contains("3 of 3 runs were finished before"), "{}", text(&output.stdout));
    assert!(!bench.path("runs/small/slurm/3").exists());
}

#[test]
fn a_detached_sweep_is_followed_and_a_cancelled_task_is_told_and_taken_up_again() {
    let bench = Bench::new();
    let Some(slurm) = Slurm::start(bench.path("slurm")) else { return };
    bench.write("run.toml", &config());
    // Nothing may end before it is cancelled.
    slurm.ask("scontrol", &["update", "PartitionName=main", "State=DOWN"]);

    let output = slurm.sweep(&bench, &["--detach"]).wait_with_output().unwrap();
    assert!(text(&output.stdout).contains("Submitted job 1 of 3 runs"), "{}", text(&output.stderr));
    let mut follower = slurm.sweep(&bench, &[]);
    let mut first = String::new();
    let mut printed = BufReader::new(follower.stdout.take().unwrap());
    printed.read_line(&mut first).unwrap();
    assert_eq!(first, "Job 1 is at work on 3 runs\n");
    slurm.ask("scancel", &["1_1"]);
    slurm.ask("scontrol", &["update", "PartitionName=main", "State=UP"]);
    // The follower must be able to print on.
    let output = follower.wait_with_output().unwrap();
    drop(printed);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("1_1 was cancelled"), "{}", text(&output.stderr));
    assert_eq!(runs(&bench).iter().filter(|run| run.join("result.json").exists()).count(), 2);

    let output = slurm.sweep(&bench, &[]).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(runs(&bench).iter().all(|run| run.join("result.json").exists()));
    let submitted = fs::read_to_string(bench.path("runs/small/slurm/2/runs.tsv")).unwrap();
    assert_eq!(submitted.lines().count(), 1, "only the cancelled run: {submitted}");
}

#[test]
fn a_run_that_fails_is_told_with_its_reason_and_not_tried_again() {
    let bench = Bench::new();
    let Some(slurm) = Slurm::start(bench.path("slurm")) else { return };
    bench.write("run.toml", &config().replace("batch = 8", "batch = 8\nlr = 1e30\nclip = 0.0"));
    let output = slurm.sweep(&bench, &[]).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert_eq!(complaint.matches("diverged at step").count(), 3, "{complaint}");
    assert!(!bench.path("runs/small/slurm/2").exists());
}

#[test]
fn an_array_job_that_slurm_refuses_is_an_error_with_its_words() {
    let bench = Bench::new();
    let Some(slurm) = Slurm::start(bench.path("slurm")) else { return };
    bench.write("run.toml", &config().replace("partition = \"main\"", "partition = \"gpu\""));
    let output = slurm.sweep(&bench, &[]).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert!(complaint.contains("partition") && complaint.contains("[slurm]"), "{complaint}");
}

#[test]
fn job_files_are_written_without_slurm() {
    let bench = Bench::new();
    bench.write("run.toml", &config());
    let printed = bench.succeed(&["sweep", "run.toml", "--launcher", "slurm", "--no-submit"]);
    let script = bench.path("runs/small/slurm/1/job.sbatch");
    assert!(printed.contains("job.sbatch"), "{printed}");
    let syntax = Command::new("bash").arg("-n").arg(&script).status().unwrap();
    assert!(syntax.success());

    // A task of it, as Slurm would start it.
    let task = Command::new("bash").arg(&script).env("SLURM_ARRAY_TASK_ID", "1").output().unwrap();
    assert!(task.status.success(), "{}", text(&task.stderr));
    let table = fs::read_to_string(script.with_file_name("runs.tsv")).unwrap();
    let config = Path::new(table.lines().nth(1).unwrap().split('\t').next().unwrap());
    assert!(config.with_file_name("result.json").exists());
}

#[test]
fn a_missing_slurm_and_bad_settings_are_named() {
    let bench = Bench::new();
    bench.write("run.toml", &config());
    let output = bench.command(&["sweep", "run.toml", "--launcher", "slurm"]).env("PATH", "").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--no-submit"), "{}", text(&output.stderr));

    bench.write("run.toml", &config().replace("partition", "partitoin"));
    let complaint = bench.fail(2, &["sweep", "run.toml"]);
    assert!(complaint.contains("slurm.partitoin") && complaint.contains("did you mean"), "{complaint}");
    bench.write("run.toml", &config().replace("\"10\"", "\"10 hours\""));
    let complaint = bench.fail(2, &["sweep", "run.toml"]);
    assert!(complaint.contains("slurm.time") && complaint.contains("one word"), "{complaint}");
    bench.write("run.toml", &config());
    assert!(bench.fail(2, &["sweep", "run.toml", "--detach"]).contains("--launcher slurm"));
}
