//! The reference page of the tasks, and what the program says of them.

use std::fs;

use experiments::{Registry, task_page};

use crate::harness::{Bench, root};

#[test]
fn the_page_describes_every_task_as_the_program_does() {
    let registry = Registry::default();
    let page = fs::read_to_string(root().join("docs/tasks.md")).unwrap();
    for kind in registry.tasks.kinds() {
        let part = task_page(kind, &registry).unwrap();
        assert!(page.contains(part.trim()), "docs/tasks.md lacks, or has otherwise:\n\n{part}");
    }
}

#[test]
fn examples_go_to_other_programs_as_lines_and_as_arrays() {
    let bench = Bench::new();
    let file = bench.path("needle.npz");
    let file = file.to_str().unwrap();
    bench.succeed(&["task", "sample", "needle", "--n", "5", "--format", "npz", "--out", file]);
    let lines = bench.succeed(&["task", "sample", "needle", "--n", "5"]);
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(lines.lines().count(), 5);
    // As `tests/run.sh` says, what needs Python is skipped where there is none.
    let Ok(python) = std::env::var("HEDDLE_TEST_PYTHON") else { return };
    let script = "import sys, numpy; a = numpy.load(sys.argv[1]); print(a['tokens'].shape[0], a['tokens'][0].tolist())";
    let output = std::process::Command::new(python).args(["-c", script, file]).output().unwrap();
    let expected = format!("5 {}", first["tokens"].to_string().replace(',', ", "));
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), expected);
}

#[test]
fn statistics_count_what_examples_hold() {
    let counted = Bench::new().succeed(&["task", "stats", "parity", "--n", "50", "--json"]);
    let counted: serde_json::Value = serde_json::from_str(&counted).unwrap();
    assert_eq!((counted[0]["split"].as_str(), counted[0]["chance"].as_f64()), (Some("train"), Some(0.5)));
    assert_eq!(counted[0]["labels"].as_f64(), counted[0]["length"].as_f64());
}

#[test]
fn a_task_that_no_model_reads_out_is_refused_before_training() {
    let bench = Bench::new();
    let config = bench.write("run.toml", "[task]\nkind = 'compression'\n");
    let said = bench.fail(2, &["run", config.to_str().unwrap()]);
    assert!(said.contains("asks for many items at one position"), "{said}");
}

#[test]
fn a_curriculum_has_a_weight_for_every_slice() {
    let bench = Bench::new();
    let config = bench.write("run.toml", "train.curriculum = [{steps = 5, weights = [1.0, 2.0]}]\n");
    let said = bench.fail(2, &["run", config.to_str().unwrap()]);
    assert!(said.contains("a stage has 2 weights, the task 1 train slices"), "{said}");
}
