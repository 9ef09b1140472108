//! How layers combine. How a sweep unfolds is in `sweeps`, files over files in `extends`, the messages in `messages`, what
//! holds of any input in `properties`.

mod extends;
mod messages;
mod properties;
mod sweeps;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::*;

/// A registry whose kinds read their settings into types, as the real ones do.
struct Tasks;

#[derive(Serialize, Deserialize)]
#[serde(default)]
struct Recall {
    vocab: u64,
    pairs: u64,
    power: f64,
    filler: Filler,
    limit: Option<u64>,
    segments: Vec<Segment>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Filler {
    Zero,
    Random,
}

#[derive(Serialize, Deserialize)]
struct Segment {
    length: u64,
    pairs: u64,
    #[serde(default = "one")]
    weight: f64,
}

fn one() -> f64 {
    1.0
}

impl Default for Recall {
    fn default() -> Self {
        let segments = vec![Segment { length: 64, pairs: 8, weight: 1.0 }];
        Self { vocab: 256, pairs: 8, power: 0.01, filler: Filler::Zero, limit: None, segments }
    }
}

impl KindDefaults for Tasks {
    fn kinds(&self) -> Vec<String> {
        ["mqar", "induction"].map(str::to_owned).into()
    }

    fn defaults(&self, kind: &str) -> Option<Value> {
        match kind {
            "mqar" => serde_json::to_value(Recall::default()).ok(),
            "induction" => Some(json!({"vocab": 16, "length": 256})),
            _ => None,
        }
    }

    fn resolve(&self, kind: &str, settings: Map<String, Value>) -> Result<Map<String, Value>, Complaint> {
        if kind != "mqar" {
            return Ok(settings);
        }
        let read: Result<Recall, _> = serde_path_to_error::deserialize(Value::Object(settings));
        let recall =
            read.map_err(|error| Complaint { key: error.path().to_string(), problem: error.inner().to_string() })?;
        if let Some(i) = recall.segments.iter().position(|segment| 4 * segment.pairs > segment.length) {
            let problem = "four times the pairs must fit into the length".to_owned();
            return Err(Complaint { key: format!("segments[{i}].pairs"), problem });
        }
        match serde_json::to_value(recall) {
            Ok(Value::Object(settings)) => Ok(settings),
            _ => unreachable!("a struct serialises to a table"),
        }
    }
}

fn try_load(text: &str, overrides: &[&str]) -> Result<Loaded, ConfigError> {
    let map = |table: Value| -> BTreeMap<String, Value> { table.as_object().unwrap().clone().into_iter().collect() };
    let mixers = map(json!({
        "attention": {"heads": 2, "window": null, "rope": true},
        "mamba": {"d_state": 16, "expand": 2},
    }));
    let channels = map(json!({"swiglu": {"expand": 2.5}}));
    let kinds = Kinds { tasks: &Tasks, mixers: &mixers, channels: &channels };
    let overrides: Vec<String> = overrides.iter().map(|argument| argument.to_string()).collect();
    load_text(Path::new("run.toml"), text, &overrides, &kinds)
}

fn runs(text: &str, overrides: &[&str]) -> Vec<PlannedRun> {
    try_load(text, overrides).unwrap_or_else(|error| panic!("{error}")).expand()
}

fn run(text: &str, overrides: &[&str]) -> RunConfig {
    let [run] = runs(text, overrides).try_into().expect("one run");
    run.config
}

#[test]
fn an_empty_file_is_the_defaults_with_every_setting_of_the_default_task_stated() {
    let run = run("", &[]);
    assert_eq!(run.train, TrainConfig::default());
    assert_eq!(run.task["kind"], "mqar");
    assert_eq!(run.task["segments"], json!([{"length": 64, "pairs": 8, "weight": 1.0}]));
    assert_eq!(run.task["limit"], Value::Null);
}

#[test]
fn a_later_layer_wins_and_tables_merge_key_by_key() {
    let text = "
        [train]
        steps = 500
        lr = 1
        [sweep.case.long.train]
        steps = 900";
    let long = run(text, &[]);
    assert_eq!((long.case.as_str(), long.train.steps, long.train.lr), ("long", 900, 1.0));
    assert_eq!(run(text, &["train.steps = 700", "train.steps=800"]).train.steps, 800);
}

#[test]
fn a_layer_that_names_another_kind_starts_from_its_defaults() {
    let text = "
        [task]
        pairs = 4
        [sweep.case.other.task]
        kind = 'induction'
        length = 32";
    let other = run(text, &[]);
    assert_eq!(Value::Object(other.task), json!({"kind": "induction", "vocab": 16, "length": 32}));
    // The order of the arguments does not matter: they are one layer.
    let swapped = run("task.pairs = 4", &["task.length=32", "task.kind=induction"]);
    assert_eq!(swapped.task["length"], 32);
}

#[test]
fn a_named_mixer_gets_the_defaults_of_its_kind_and_a_name_alone_can_be_the_kind() {
    let text = "
        [model.mixer.local]
        kind = 'attention'
        window = 16
        [model.mixer.mamba]
        [model.channel.swiglu]
        expand = 4";
    let model = serde_json::to_value(run(text, &[]).model).unwrap();
    assert_eq!(model["mixer"]["local"], json!({"kind": "attention", "heads": 2, "window": 16, "rope": true}));
    assert_eq!(model["mixer"]["mamba"], json!({"kind": "mamba", "d_state": 16, "expand": 2}));
    assert_eq!(model["channel"]["swiglu"], json!({"kind": "swiglu", "expand": 4.0}));
}

#[test]
fn what_an_element_of_an_array_leaves_out_is_filled_in_by_its_type() {
    let run = run("task.segments = [{length = 32, pairs = 4}]", &[]);
    assert_eq!(run.task["segments"], json!([{"length": 32, "pairs": 4, "weight": 1.0}]));
}

#[test]
fn layers_are_names_and_tables_mixed() {
    let layers = json!(["mamba * 3", {"repeat": 2, "layers": ["attention+mlp"]}]);
    let run = run("model.layers = ['mamba * 3', {repeat = 2, layers = ['attention+mlp']}]", &[]);
    assert_eq!(serde_json::to_value(run.model.layers).unwrap(), layers);
}

#[test]
fn an_override_is_toml_and_else_a_string() {
    let run = run("", &["name = smoke", "case='a'", "train.lr=1e-4", "model.layers=['mamba']", "model.tied=true"]);
    assert_eq!((run.name.as_str(), run.case.as_str(), run.train.lr, run.model.tied), ("smoke", "a", 1e-4, true));
}

const SWEEP: &str = "
    [sweep]
    seeds = [1, 2]
    [sweep.axes]
    train.lr = [1e-3, 1]
    'model.d_model' = [32, 64]
    [sweep.case.hybrid]
    model.layers = ['mamba', 'attention']
    [sweep.case.attention]
    model.layers = ['attention']";

#[test]
fn a_sweep_runs_cases_in_the_files_order_then_axes_by_key_then_seeds() {
    let runs = runs(SWEEP, &[]);
    let told = |run: &PlannedRun| (run.config.case.clone(), run.axes["model.d_model"].clone(), run.config.seed);
    assert_eq!(runs.len(), 16);
    assert_eq!(told(&runs[0]), ("hybrid".into(), json!(32), 1));
    assert_eq!(told(&runs[1]), ("hybrid".into(), json!(32), 2));
    assert_eq!(runs[2].axes, BTreeMap::from([("model.d_model".into(), json!(32)), ("train.lr".into(), json!(1.0))]));
    assert_eq!(told(&runs[4]), ("hybrid".into(), json!(64), 1));
    assert_eq!(told(&runs[8]), ("attention".into(), json!(32), 1));
    assert!(runs.iter().all(|run| run.hash == run.config.hash()));
}

#[test]
fn overrides_pin_an_axis_and_equal_runs_are_one() {
    let pinned = runs(SWEEP, &["train.lr=0.5", "sweep.seeds=[7]"]);
    assert_eq!(pinned.len(), 4);
    assert!(pinned.iter().all(|run| run.axes["train.lr"] == json!(0.5) && run.config.seed == 7));
    assert_eq!(runs("sweep.seeds = [3, 3]", &[]).len(), 1);
}

#[test]
fn the_sweep_is_kept_as_it_was_written() {
    let sweep = try_load(SWEEP, &[]).unwrap().sweep;
    assert_eq!(sweep.seeds, [1, 2]);
    assert_eq!(sweep.axes["train.lr"], [json!(1e-3), json!(1)]);
    assert_eq!(sweep.case.keys().collect::<Vec<_>>(), ["hybrid", "attention"]);
}

#[test]
fn one_run_of_a_sweep_is_selected_by_case_seed_and_pinned_axes() {
    let pinned = try_load(SWEEP, &["train.lr=0.5", "model.d_model=32"]).unwrap();
    let run = pinned.select(Some("attention"), Some(9)).unwrap();
    assert_eq!((run.config.case.as_str(), run.config.seed), ("attention", 9));
    assert_eq!(run.hash, run.config.hash());
    let alone = try_load("seed = 3", &[]).unwrap();
    assert_eq!(alone.select(None, None).unwrap().config.seed, 3);
    assert_eq!(alone.select(None, Some(4)).unwrap().config.seed, 4);
}

#[test]
fn every_key_is_documented_with_its_default() {
    let mixers = BTreeMap::from([("mamba".to_owned(), json!({"d_state": 16}))]);
    let kinds = Kinds { tasks: &Tasks, mixers: &mixers, channels: &BTreeMap::new() };
    let keys = known_keys(&kinds);
    let find = |key: &str, kind: Option<&str>| {
        keys.iter().find(|known| known.key == key && known.kind.as_deref() == kind).map(|known| known.default.clone())
    };
    assert_eq!(find("train.lr", None), Some(json!(3e-3)));
    assert_eq!(find("task.length", Some("induction")), Some(json!(256)));
    assert_eq!(find("task.limit", Some("mqar")), Some(Value::Null));
    assert_eq!(find("model.mixer.NAME.d_state", Some("mamba")), Some(json!(16)));
    assert_eq!(find("model.mixer", None), None);
}
