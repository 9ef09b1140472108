//! `heddle config`: run files checked, resolved and described for editors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use experiments::Registry;
use experiments::config::{json_schema, load, load_text};
use serde_json::{Value, json};

use crate::harness::{Bench, SMALL, files_below, root, text};

fn configs() -> Vec<PathBuf> {
    let found = files_below(&root().join("configs"), "toml");
    assert!(found.len() >= 3);
    found
}

#[test]
fn every_config_of_the_repository_passes_the_check() {
    let bench = Bench::new();
    let paths = configs();
    let mut args = vec!["config", "check"];
    args.extend(paths.iter().map(|path| path.to_str().unwrap()));
    let told = bench.succeed(&args);
    assert_eq!(told.lines().count(), paths.len(), "{told}");
    let quickstart = told.lines().find(|line| line.contains("quickstart.toml")).unwrap();
    assert!(quickstart.ends_with("quickstart.toml: 9 runs"), "{told}");
}

#[test]
fn a_check_names_what_is_wrong_with_each_file_on_its_line() {
    let bench = Bench::new();
    bench.write("good.toml", SMALL);
    bench.write("typo.toml", &SMALL.replace("batch = 8", "bach = 8"));
    bench.write("base.toml", "[train]\nlrr = 1\n");
    bench.write("base_typo.toml", &format!("extends = \"base.toml\"\n{SMALL}"));
    // What only the model can tell, in one case of several.
    bench.write("heads.toml", &format!("{SMALL}\n[sweep.case.a]\n[sweep.case.b]\nmodel.mixer.attention.heads = 3\n"));
    let output = bench.heddle(&["config", "check", "typo.toml", "good.toml", "base_typo.toml", "heads.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "good.toml: 1 run\n");
    let complaint = text(&output.stderr);
    for part in ["--> typo.toml:", "`train.batch`?", "--> base.toml:2:1", "--> heads.toml:", "do not divide"] {
        assert!(complaint.contains(part), "no `{part}` in:\n{complaint}");
    }
    assert!(!bench.path("runs").exists(), "a check leaves nothing behind");
}

#[test]
fn what_is_shown_is_the_run_file_of_that_run() {
    let bench = Bench::new();
    bench.write("base.toml", SMALL);
    bench.write("run.toml", "extends = 'base.toml'\n[sweep.case.a]\n[sweep.case.b]\nmodel.layers = ['mamba']\n");
    let shown = bench.succeed(&["config", "show", "run.toml", "--case", "b", "--seed", "7", "--set", "train.lr=0.25"]);
    bench.write("shown.toml", &shown);
    let kinds = Registry::default();
    let [run] = load(&bench.path("shown.toml"), &[], &kinds.kinds()).unwrap().expand().try_into().unwrap();
    assert_eq!((run.config.case.as_str(), run.config.seed, run.config.train.lr), ("b", 7, 0.25));
    assert!(shown.starts_with(&format!("# small/{}\n", run.hash)), "{shown}");
    let complaint = bench.fail(2, &["config", "show", "run.toml"]);
    assert!(complaint.contains("--case a|b"), "{complaint}");
}

#[test]
fn every_run_file_of_the_page_on_run_files_is_one() {
    let page = fs::read_to_string(root().join("docs/configs.md")).unwrap();
    let bench = Bench::new();
    let mut names = vec![];
    for block in page.split("```toml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let name = block.lines().next().unwrap().trim_start_matches("# ");
        bench.write(name, block);
        names.push(name);
    }
    let told = bench.succeed(&[&["config", "check"], &names[..]].concat());
    assert_eq!(told, "base.toml: 1 run\nwide.toml: 1 run\nsweep.toml: 72 runs\n");
    for verb in ["runs list", "runs show", "runs rm", "config schema", "config check", "config show", "sweep", "run"] {
        assert!(page.contains(&format!("heddle {verb}")), "the page does not tell of `heddle {verb}`");
        bench.succeed(&verb.split(' ').chain(["--help"]).collect::<Vec<_>>());
    }
}

/// What Python's validator says first against each of some run files.
const VALIDATOR: &str = "
import json, sys
from jsonschema import Draft202012Validator
schema, files = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
print(json.dumps([next((str(error.message)[:200] for error in validator.iter_errors(file)), None) for file in files]))
";

fn validate(schema: &Value, files: &[Value]) -> Option<Vec<Option<String>>> {
    let Ok(python) = std::env::var("HEDDLE_TEST_PYTHON") else {
        assert!(std::env::var_os("CI").is_none(), "HEDDLE_TEST_PYTHON is not set: start the tests with tests/run.sh");
        return None;
    };
    let bench = Bench::new();
    let input = bench.write("input.json", &json!([schema, files]).to_string());
    let output = Command::new(python).args(["-c", VALIDATOR]).arg(input).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn toml_value(text: &str) -> Value {
    toml::from_str(text).unwrap()
}

/// A value with another in the place at a path.
fn mutated(file: &Value, path: &[&str], value: Value) -> Value {
    let mut file = file.clone();
    let mut place = &mut file;
    for key in path {
        place = place.as_object_mut().unwrap().entry(*key).or_insert_with(|| json!({}));
    }
    *place = value;
    file
}

#[test]
fn the_schema_accepts_what_the_loader_accepts_down_to_every_kinds_settings() {
    let registry = Registry::default();
    let schema: Value = serde_json::from_str(&Bench::new().succeed(&["config", "schema"])).unwrap();
    assert_eq!(schema, json_schema(&registry.kinds()));
    let mut files: Vec<(String, Value)> = vec![];
    for path in configs() {
        files.push((path.display().to_string(), toml_value(&fs::read_to_string(&path).unwrap())));
    }
    let resolved = |file: &str| {
        let [run] = load_text(Path::new("x.toml"), file, &[], &registry.kinds()).unwrap().expand().try_into().unwrap();
        toml_value(&run.config.to_toml())
    };
    for kind in registry.tasks.kinds() {
        files.push((format!("task {kind}"), resolved(&format!("task.kind = '{kind}'"))));
    }
    for kind in registry.mixers.kinds() {
        files.push((format!("mixer {kind}"), resolved(&format!("[model.mixer.x]\nkind = '{kind}'"))));
    }
    for kind in heddle_hybrid::CHANNEL_KINDS {
        files.push((format!("channel {kind}"), resolved(&format!("[model.channel.x]\nkind = '{kind}'"))));
    }
    for preset in heddle_hybrid::PRESETS {
        let file = format!("model.preset = '{preset}'");
        files.push((format!("preset {preset}"), resolved(&file)));
        files.push((format!("preset {preset}, by name"), toml_value(&file)));
    }
    let Some(complaints) = validate(&schema, &files.iter().map(|(_, file)| file.clone()).collect::<Vec<_>>()) else {
        return;
    };
    let refused: Vec<_> = files.iter().zip(complaints).filter(|(_, said)| said.is_some()).collect();
    assert!(refused.is_empty(), "{:?}", refused.iter().map(|((name, _), said)| (name, said)).collect::<Vec<_>>());
}

/// A file with all that a sweep may hold.
const SWEEP: &str = r#"
extends = ["a.toml", "b.toml"]
[task]
vocab = 64
[model.mixer.local]
window = 8
[sweep]
seeds = [0, 1]
select = ["train.lr"]
[sweep.axes]
train.lr = [1e-3, 1]
"model.d_model" = [32, 64]
model.preset = ["mamba", "jamba"]
task = [{ kind = "needle" }]
model.mixer.local.window = [8, 16]
[sweep.zip]
train.beta1 = [0.9]
[[sweep.list]]
train.steps = 5
"train.batch" = 5
[sweep.case.a]
model.layers = ["mamba * 2", { repeat = 2, layers = ["attention+mlp"] }]
model.mixer.attention = { kind = "attention", heads = 2 }
train.curriculum = [{ steps = 3, weights = [1, 0] }]
"#;

/// What is wrong in the place at each path of that file.
fn wrong() -> Vec<(&'static [&'static str], Value)> {
    vec![
        (&["nme"][..], json!("x")),
        (&["extends"], json!(3)),
        (&["seed"], json!(-1)),
        (&["train", "stepss"], json!(3)),
        (&["train", "steps"], json!("many")),
        (&["train", "schedule"], json!("cosin")),
        (&["train", "curriculum"], json!([{"steps": 3}])),
        (&["eval", "every"], json!(0.5)),
        (&["model", "d_modle"], json!(3)),
        (&["model", "preset"], json!("jambo")),
        (&["model", "norm"], json!("rmss")),
        (&["model", "logit_softcap"], json!("high")),
        (&["model", "layers"], json!([{"repeat": 2}])),
        (&["task"], json!({"kind": "mqarr"})),
        (&["task"], json!({"kind": "mqar", "pears": 3})),
        (&["task"], json!({"kind": "mqar", "vocab": "large"})),
        (&["task"], json!({"no_task_has_this": 3})),
        (&["task"], json!({"kind": "mqar", "train": [{"lenght": 3}]})),
        (&["model", "mixer", "local"], json!({"kind": "atention"})),
        (&["model", "mixer", "local"], json!({"kind": "mamba", "window": 3})),
        (&["model", "mixer", "local"], json!({"kind": "attention", "kv_heads": "two"})),
        (&["model", "mixer", "local"], json!({"windw": 3})),
        (&["model", "channel", "mlp"], json!({"kind": "swiglu", "activation": "silly"})),
        (&["sweep", "seeds"], json!([-1])),
        (&["sweep", "cases"], json!({})),
        (&["sweep", "axes", "train", "lr"], json!([])),
        (&["sweep", "axes", "train", "lr"], json!(["high"])),
        (&["sweep", "axes", "train", "lrr"], json!([1])),
        (&["sweep", "zip", "train", "beta1"], json!(0.9)),
        (&["sweep", "list"], json!({})),
        (&["sweep", "list"], json!([{"train": {"lrr": 1}}])),
        (&["sweep", "case", "a", "train"], json!({"lrr": 1})),
        (&["sweep", "case", "a", "sweep"], json!({})),
    ]
}

#[test]
fn the_schema_knows_sweeps_and_bases_as_the_loader_does() {
    let file = toml_value(SWEEP);
    let mut files = vec![file.clone()];
    files.extend(wrong().into_iter().map(|(path, value)| mutated(&file, path, value)));
    let Some(complaints) = validate(&json_schema(&Registry::default().kinds()), &files) else { return };
    assert_eq!(complaints[0], None);
    for ((path, value), complaint) in wrong().iter().zip(&complaints[1..]) {
        assert!(complaint.is_some(), "{} = {value} passes", path.join("."));
    }
}

#[test]
fn the_schema_describes_what_the_documentation_describes() {
    let schema = json_schema(&Registry::default().kinds());
    for table in ["train", "eval", "model", "slurm"] {
        for (key, setting) in schema["properties"][table]["properties"].as_object().unwrap() {
            assert!(setting["description"].as_str().is_some_and(|text| text.len() > 3), "{table}.{key}: {setting}");
        }
    }
    let parts = |name: &str| ["task.", "mixer.", "channel."].iter().any(|part| name.starts_with(part));
    for (name, kind) in schema["$defs"].as_object().unwrap().iter().filter(|(name, _)| parts(name)) {
        assert!(name == "channel.none" || kind["description"].is_string(), "{name}");
        for (key, setting) in kind["properties"].as_object().unwrap() {
            assert!(key == "kind" || setting["description"].is_string(), "{name}.{key}: {setting}");
        }
    }
    // Names come from the types themselves.
    let defs = &schema["$defs"];
    let schedules = schema["properties"]["train"]["properties"]["schedule"]["enum"].as_array().unwrap();
    assert!(schedules.contains(&json!("constant")) && schedules.contains(&json!("cosine")), "{schedules:?}");
    assert_eq!(defs["channel.moe"]["properties"]["scores"]["enum"], json!(["softmax", "sigmoid"]));
    let window = &defs["mixer.attention"]["properties"]["window"];
    assert_eq!((&window["type"], &window["minimum"]), (&json!("integer"), &json!(0)));
    assert_eq!(schema["properties"]["model"]["properties"]["logit_softcap"]["type"], "number");
}
