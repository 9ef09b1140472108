//! Tells the program what it is built from: the commit, where the sources are a checkout, and the version of Burn.
//!
//! The commit is looked up again when a source of the program changes, not at every commit, which would compile the
//! program anew. So what was built with changes and committed afterwards stays the commit before, `-dirty`.

#![allow(clippy::print_stdout, reason = "a build script speaks to Cargo through its output")]

use std::path::Path;
use std::process::Command;

fn main() {
    for source in ["build.rs", "src", "../crates", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={source}");
    }
    if let Some(version) = burn_version() {
        println!("cargo::rustc-env=HEDDLE_BURN={version}");
    }
    if let Some(commit) = commit() {
        println!("cargo::rustc-env=HEDDLE_COMMIT={commit}");
    }
}

/// The commit that the sources are at, with `-dirty` behind it if a tracked file differs; none outside of a checkout.
fn commit() -> Option<String> {
    // Of this project alone: the sources may lie within the checkout of another one.
    if !Path::new("../.git").exists() {
        return None;
    }
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]).env("GIT_OPTIONAL_LOCKS", "0");
    let output = git.output().ok().filter(|output| output.status.success())?;
    let commit = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!commit.is_empty()).then_some(commit)
}

/// The version of Burn that is locked.
fn burn_version() -> Option<String> {
    let lock = std::fs::read_to_string("../Cargo.lock").ok()?;
    let (_, behind) = lock.split_once("name = \"burn\"\nversion = \"")?;
    behind.split('"').next().map(str::to_owned)
}
