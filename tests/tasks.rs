//! The reference page of the tasks, and what the program says of them.

use std::collections::BTreeSet;
use std::fs;

use experiments::config::load;
use experiments::run::build_task;
use experiments::{Registry, task_page};
use heddle_tasks::content_hash;

use crate::harness::{Bench, result_without_timing, root};

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

/// Seven tokens of five kinds in one state, learnt in seconds.
const COMPRESSION: &str = r#"
name = "compression"

[task]
kind = "compression"
vocab = 6
train = [{ length = 8 }]
validation = [{ length = 8, examples = 128 }]
test = [{ length = 8, examples = 128 }]

[model]
d_model = 64
layers = ["mamba * 2"]

[model.mixer.mamba]
d_state = 8

[train]
steps = 800
batch = 32
warmup = 20
lr = 3e-3

[eval]
every = 100
"#;

#[test]
fn a_hidden_state_learns_to_hold_a_sequence_and_its_read_out_counts() {
    let bench = Bench::new();
    bench.write("run.toml", COMPRESSION);
    bench.succeed(&["run", "run.toml"]);
    let directory = bench.run_directory("runs", "compression");
    let result = result_without_timing(&directory);
    let accuracy = result["test"][0]["accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.9, "accuracy {accuracy}");
    assert_eq!((&result["test"][0]["labels"], &result["test"][0]["examples"]), (&(7 * 128).into(), &128.into()));
    let shown = bench.succeed(&["model", "show", "run.toml", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["cost"]["parameters"], result["parameters"]);
    // Two maps with biases and two norms more than the same model has for another task.
    let same = ["model", "show", "run.toml", "--json", "--set", "task={kind='parity'}"];
    let same: serde_json::Value = serde_json::from_str(&bench.succeed(&same)).unwrap();
    let tokens = |more: u64| same["cost"]["parameters"].as_u64().unwrap() + more * 2 * 64;
    assert_eq!(
        result["parameters"].as_u64().unwrap(),
        tokens(6 - same["vocab"].as_u64().unwrap()) + 2 * (64 * 65 + 64)
    );
    let said = bench.fail(2, &["model", "generate", directory.to_str().unwrap(), "--tokens", "1,2"]);
    assert!(said.contains("predicts no next token"), "{said}");
}

#[test]
fn any_config_can_be_told_to_train_compression() {
    let bench = Bench::new();
    let model = "[model]\nd_model = 16\nlayers = ['a']\nmixer.a.kind = 'attention'\n";
    bench.write("run.toml", &format!("{model}[eval]\nbatch = 64\n"));
    let few = "train={steps=2, warmup=0, batch=4}";
    let kind = ["--set", "task.kind=compression", "--set", few];
    for more in [[].as_slice(), &["--set", "train.gradient_checkpointing=true"]] {
        bench.succeed(&[&["run", "run.toml"], &kind[..], more].concat());
    }
}

#[test]
fn a_curriculum_has_a_weight_for_every_slice() {
    let bench = Bench::new();
    let config = bench.write("run.toml", "train.curriculum = [{steps = 5, weights = [1.0, 2.0]}]\n");
    let said = bench.fail(2, &["run", config.to_str().unwrap()]);
    assert!(said.contains("a stage has 2 weights, the task 1 train slices"), "{said}");
}

#[test]
fn the_mad_configs_plan_its_66_settings() {
    let registry = Registry::default();
    let settings = heddle_tasks::mad::settings();
    let expected: BTreeSet<String> = settings
        .iter()
        .map(|setting| content_hash(&*registry.tasks.build(setting.kind, &setting.settings).unwrap(), 0))
        .collect();
    let mut planned = BTreeSet::new();
    for kind in settings.iter().map(|setting| setting.kind).collect::<BTreeSet<_>>() {
        let path = root().join(format!("configs/mad/{kind}.toml"));
        for run in load(&path, &["sweep.seeds=[0]".into()], &registry.kinds()).unwrap().expand() {
            planned.insert(content_hash(&*build_task(&run.config, &registry).unwrap(), 0));
            // 200 epochs, whatever the number of examples.
            let examples = run.config.task["train"][0]["examples"].as_u64().unwrap();
            assert_eq!(run.config.train.steps, 200 * examples / 128, "{kind}: {:?}", run.axes);
        }
    }
    assert_eq!(planned, expected);
}

#[test]
fn a_config_states_how_many_examples_training_repeats() {
    let bench = Bench::new();
    let model = "[model]\nd_model = 16\nlayers = ['a']\nmixer.a.kind = 'attention'\n";
    bench.write("run.toml", &format!("{model}[train]\nsteps = 2\nwarmup = 0\nbatch = 4\n"));
    for task in [
        "{kind='induction', train=[{length=16, examples=10}]}",
        "{kind='mqar', vocab=64, compat=true, train=[{length=32, pairs=2, examples=10}]}",
    ] {
        bench.succeed(&["run", "run.toml", "--set", &format!("task={task}")]);
    }
}
