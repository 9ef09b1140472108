//! Kills, full disks and directories that cannot be written: nothing saved is lost, and what goes on ends bit-identical.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::harness::{Bench, SMALL, assert_same, text};

/// Kills of a sweep and all of its runs, at random moments.
const KILLS: usize = 50;

const SWEEP: &str = "\n[sweep]\nseeds = [0, 1, 2]\n[sweep.case.plain]\n[sweep.case.muon]\ntrain.optimizer = \"muon\"\ntrain.ema = 0.9\n";

/// Kills a child and every process that it started.
fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
    child.wait().unwrap();
}

fn runs_of(bench: &Bench, out: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(bench.path(out).join("small")).unwrap().map(|entry| entry.unwrap().path());
    let mut runs: Vec<PathBuf> = entries.filter(|path| path.join("result.json").exists()).collect();
    runs.sort();
    runs
}

#[test]
fn a_sweep_killed_at_fifty_random_moments_ends_bit_identical() {
    let bench = Bench::new();
    bench.write("sweep.toml", &format!("{SMALL}{SWEEP}"));
    let started = Instant::now();
    bench.succeed(&["sweep", "sweep.toml", "--jobs", "2", "--out", "whole"]);
    let whole = started.elapsed();
    let mut rng = ChaCha8Rng::seed_from_u64(whole.as_nanos() as u64);
    let mut interrupted = 0;
    for _ in 0..KILLS {
        let mut command = bench.command(&["sweep", "sweep.toml", "--jobs", "2", "--out", "killed"]);
        let mut child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(whole.mul_f64(rng.random_range(0.0..0.03)) + Duration::from_millis(20));
        if child.try_wait().unwrap().is_none() {
            interrupted += 1;
            kill_group(&mut child);
        }
    }
    // What was killed last lets go of its runs.
    sleep(Duration::from_millis(500));
    assert!(interrupted > KILLS / 2, "{interrupted} of {KILLS} kills came in time");
    bench.succeed(&["sweep", "sweep.toml", "--jobs", "2", "--out", "killed"]);
    let (undisturbed, killed) = (runs_of(&bench, "whole"), runs_of(&bench, "killed"));
    assert_eq!((undisturbed.len(), killed.len()), (6, 6));
    undisturbed.iter().zip(&killed).for_each(|(a, b)| assert_same(a, b));
}

/// A file system of its own in memory; none where it may not be mounted.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mount = ["-t", "tmpfs", "-o", options, "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(&at).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }

    fn remount(&self, options: &str) {
        let remount = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &remount]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn fails_without_panic(mut command: Command, parts: &[&str]) {
    let output = command.output().unwrap();
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(!complaint.contains("panicked"), "{complaint}");
    for part in parts {
        assert!(complaint.contains(part), "no `{part}` in {complaint}");
    }
}

fn only_run(directory: &Path) -> PathBuf {
    fs::read_dir(directory.join("small")).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn a_disk_that_is_full_ends_the_run_which_goes_on_when_there_is_room() {
    let bench = Bench::new();
    bench.write("run.toml", SMALL);
    bench.succeed(&["run", "run.toml", "--out", "whole"]);
    let out = bench.path("small-disk");
    match Disk::mount(out.clone(), "size=150k") {
        Some(disk) => {
            fails_without_panic(
                bench.command(&["run", "run.toml", "--out", "small-disk"]),
                &["cannot write", "No space"],
            );
            disk.remount("size=64m");
            bench.succeed(&["run", "run.toml", "--out", "small-disk"]);
            assert_same(&bench.run_directory("whole", "small"), &only_run(&out));
        }
        // Where nothing may be mounted: no file may grow beyond so many blocks, which fails writes likewise.
        None => {
            let program = env!("CARGO_BIN_EXE_heddle");
            let mut command = Command::new("sh");
            let script = format!("trap '' XFSZ; ulimit -f 40; exec '{program}' run run.toml --out small-disk");
            command.args(["-c", &script]).current_dir(bench.path(""));
            fails_without_panic(command, &["cannot write"]);
            bench.succeed(&["run", "run.toml", "--out", "small-disk"]);
            assert_same(&bench.run_directory("whole", "small"), &only_run(&out));
        }
    }
}

#[test]
fn a_directory_that_may_only_be_read_is_named() {
    let bench = Bench::new();
    bench.write("run.toml", SMALL);
    let out = bench.path("locked");
    let disk = Disk::mount(out.clone(), "ro");
    if disk.is_none() {
        let mut permissions = fs::metadata(&out).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&out, permissions).unwrap();
        if fs::write(out.join("probe"), "").is_ok() {
            // A user whom permissions do not stop, and who may mount nothing.
            return;
        }
    }
    fails_without_panic(
        bench.command(&["run", "run.toml", "--out", "locked"]),
        &["cannot create the directory", "locked"],
    );
}
