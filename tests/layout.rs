//! Rules of the house that a program can check.

use std::fs;
use std::path::PathBuf;

use crate::harness::{files_below, root};

/// Lines of a file that still holds one thing.
const LONGEST_FILE: usize = 450;

/// Every file that is tracked or would be, below the root.
fn files(extension: &str) -> Vec<(PathBuf, String)> {
    let found = files_below(&root(), extension);
    assert!(!found.is_empty(), "no .{extension} files");
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

fn kernels() -> PathBuf {
    root().join("crates/heddle-kernels")
}

#[test]
fn every_crate_is_named_after_its_folder_and_takes_the_workspace_lints() {
    let mut crates: Vec<String> = vec![];
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name}");
        crates.push(name);
    }
    crates.sort();
    assert_eq!(crates, ["heddle-attention", "heddle-hybrid", "heddle-kernels", "heddle-ssm", "heddle-tasks"]);
    assert!(fs::read_to_string(root().join("experiments/Cargo.toml")).unwrap().contains("[lints]\nworkspace = true"));
}

#[test]
fn crates_depend_in_one_direction() {
    let depends = |a: &str, b: &str| {
        let manifest = fs::read_to_string(root().join("crates").join(a).join("Cargo.toml")).unwrap();
        let dependencies =
            manifest.split("[dev-dependencies]").next().unwrap().split("[dependencies]").nth(1).unwrap().to_owned();
        dependencies.lines().any(|line| line.starts_with(&format!("{b}.")) || line.starts_with(&format!("{b} ")))
    };
    assert!(depends("heddle-hybrid", "heddle-ssm") && depends("heddle-hybrid", "heddle-attention"));
    for (a, b) in [("heddle-attention", "heddle-ssm"), ("heddle-ssm", "heddle-attention")] {
        assert!(!depends(a, b), "{a} sees {b}");
    }
    for a in ["heddle-attention", "heddle-ssm", "heddle-kernels"] {
        assert!(!depends(a, "heddle-hybrid"), "{a} sees the model");
    }
    assert!(!depends("heddle-tasks", "burn"), "tasks know Burn");
}

#[test]
fn only_the_kernels_name_a_backend_or_hold_unsafe_code() {
    for (path, text) in files("rs") {
        if path.starts_with(kernels()) || path.starts_with(root().join("tests")) {
            continue;
        }
        for word in ["unsafe ", "burn_flex", "burn_ndarray", "burn::backend", "burn_cubecl"] {
            assert!(!text.contains(word), "{} contains `{word}`", path.display());
        }
    }
    let roots =
        files("rs").into_iter().filter(|(path, _)| path.ends_with("src/lib.rs") && !path.starts_with(kernels()));
    for (path, text) in roots {
        assert!(text.contains("#![forbid(unsafe_code)]"), "{} does not forbid unsafe code", path.display());
    }
}

#[test]
fn only_experiments_read_files_clocks_arguments_or_environment() {
    for (path, text) in files("rs") {
        let library =
            path.starts_with(root().join("crates")) && path.components().any(|part| part.as_os_str() == "src");
        let tests = path.components().any(|part| part.as_os_str() == "tests");
        if !library || tests || path.starts_with(kernels().join("src/cpu")) {
            continue;
        }
        for word in ["std::fs", "std::env", "Instant::now", "SystemTime", "println!", "eprintln!"] {
            let uses = text.lines().filter(|line| line.contains(word) && !line.trim_start().starts_with("//"));
            assert_eq!(uses.count(), 0, "{} uses {word}", path.display());
        }
    }
}

/// The line and name of every public type of a file whose docs have no example that runs.
///
/// What is `pub` is reachable: the compiler refuses the word elsewhere (`unreachable_pub`).
fn types_without_example(text: &str) -> Vec<(usize, &str)> {
    let (mut found, mut runs, mut inside) = (vec![], false, false);
    for (index, line) in text.lines().enumerate() {
        if let Some(doc) = line.strip_prefix("///") {
            let fence = doc.trim().strip_prefix("```");
            runs |= !inside && fence == Some("");
            inside ^= fence.is_some();
            continue;
        }
        let declared = ["pub struct ", "pub enum ", "pub trait "].iter().find_map(|word| line.strip_prefix(word));
        if let (Some(name), false) = (declared, runs) {
            found.push((index + 1, name.split(|c: char| !c.is_alphanumeric()).next().unwrap()));
        }
        // Attributes stand between docs and type.
        if line.is_empty() || line.starts_with(char::is_alphabetic) {
            (runs, inside) = (false, false);
        }
    }
    found
}

#[test]
fn an_example_is_one_that_runs() {
    let text = "/// Text.\n///\n/// ```text\n/// y = x\n/// ```\n#[derive(Debug)]\npub struct Formula {\n}\n\n\
                /// ```\n/// assert!(true);\n/// ```\n#[derive(Debug)]\npub enum Shown {}\npub trait Bare {}\n";
    assert_eq!(types_without_example(text), [(7, "Formula"), (15, "Bare")]);
}

#[test]
fn files_stay_short_enough_to_hold_one_thing() {
    for (path, text) in files("rs") {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines", path.display());
    }
}

#[test]
fn nothing_is_left_undone() {
    // Split, so that this file does not find itself.
    let words = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("FIX", "ME"),
        concat!("#[igno", "re"),
        concat!("// --", "-"),
        concat!("// ==", "="),
    ];
    for (path, text) in files("rs") {
        for word in words {
            assert!(!text.contains(word), "{} contains `{word}`", path.display());
        }
    }
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let words = [
        concat!("/wo", "rk/"),
        concat!("../sha", "red"),
        concat!("crates", ".io/"),
        concat!("pypi", ".org"),
        concat!("/ro", "ot/"),
    ];
    for extension in ["rs", "toml", "md", "sh", "html"] {
        for (path, text) in files(extension) {
            for word in words {
                assert!(!text.contains(word), "{} contains `{word}`", path.display());
            }
        }
    }
}

#[test]
fn the_readme_and_the_continuous_integration_name_the_same_test_command() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    for command in ["bash tests/run.sh", "cargo run --release -- sweep configs/quickstart.toml"] {
        assert!(readme.contains(command), "README.md does not give `{command}`");
    }
    assert!(ci.lines().any(|line| line == "bash tests/run.sh"), ".ci/run does not call the README's test command");
}

#[test]
fn every_config_states_its_question_its_command_its_time_and_its_score() {
    let configs = files("toml").into_iter().filter(|(path, _)| path.starts_with(root().join("configs")));
    // What others extend is no experiment of its own.
    for (path, text) in configs.filter(|(path, _)| !path.ends_with("base.toml")) {
        let header: String = text.lines().take_while(|line| line.starts_with('#')).collect::<Vec<_>>().join("\n");
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        for part in ["?", "cargo run --release -- ", name.as_str(), "Time:", "Expect:"] {
            assert!(header.contains(part), "the header of {name} lacks `{part}`");
        }
    }
}

#[test]
fn dependencies_are_named_in_the_workspace_alone() {
    for (path, text) in files("toml") {
        if path.file_name().is_some_and(|name| name == "Cargo.toml") && path != root().join("Cargo.toml") {
            for line in text.lines().filter(|line| line.contains("version = \"") || line.contains("path = \"../heddle"))
            {
                assert!(line.contains("package") || line.starts_with("version"), "{}: {line}", path.display());
            }
        }
    }
}

/// Whether the type declared at a line is left out of the docs, as what only a trait of the same crate names.
fn is_hidden(text: &str, line: usize) -> bool {
    let before: Vec<&str> = text.lines().take(line - 1).collect();
    before.iter().rev().take_while(|line| line.starts_with("#[")).any(|line| *line == "#[doc(hidden)]")
}

/// Crates of which every public type is shown in use.
const SHOWN: [&str; 5] = ["heddle-attention", "heddle-hybrid", "heddle-kernels", "heddle-ssm", "heddle-tasks"];

#[test]
fn every_public_type_has_an_example() {
    let mut missing = String::new();
    for name in SHOWN {
        let folder = root().join("crates").join(name).join("src");
        for (path, text) in files("rs").into_iter().filter(|(path, _)| path.starts_with(&folder)) {
            let place = path.strip_prefix(root()).unwrap().display();
            let shown = types_without_example(&text).into_iter().filter(|(line, _)| !is_hidden(&text, *line));
            shown.for_each(|(line, name)| missing += &format!("\n{place}:{line}: `{name}`"));
        }
    }
    assert!(
        missing.is_empty(),
        "show in the docs of these types, in a block between lines of ```, what one does with each, or hide what no one \
         names with #[doc(hidden)]:{missing}"
    );
}
