//! Models as data, through the program: presets, structure in a run file, and what a model costs.

use std::fs;
use std::time::{Duration, Instant};

use experiments::Registry;
use experiments::config::load_text;
use heddle_hybrid::{Cost, Init, Model, PRESETS, preset};
use serde_json::Value;

use crate::harness::{Bench, SMALL, last_tensors};

/// Longer than any laptop needs to measure a model of 80 billion parameters, far shorter than to draw its numbers.
const BLINK: Duration = Duration::from_secs(5);

fn shown(args: &[&str]) -> Value {
    serde_json::from_str(&Bench::new().succeed(&[&["model", "show"], args, &["--json"]].concat())).unwrap()
}

#[test]
fn a_model_of_any_size_is_shown_in_a_blink() {
    let started = Instant::now();
    let jamba = shown(&["jamba", "--length", "262144"]);
    let qwen = shown(&["qwen3-next"]);
    assert!(started.elapsed() < BLINK, "{:?}", started.elapsed());
    let number = |value: &Value| value.as_u64().unwrap() as f64 / 1e9;
    assert_eq!(number(&jamba["cost"]["parameters"]).round(), 52.0);
    assert_eq!(number(&jamba["cost"]["active_parameters"]).round(), 12.0);
    assert_eq!(number(&qwen["cost"]["parameters"]).round(), 80.0);
    assert_eq!(jamba["state_bytes"]["bf16"]["growing"], 4u64 << 30);
    assert_eq!(jamba["layers"][0]["repeat"], 4);
}

#[test]
fn the_table_says_what_the_json_says() {
    let text = Bench::new().succeed(&[
        "model",
        "show",
        "mistral",
        "--length",
        "262144",
        "--set",
        "model.mixer.attention.window=262145",
    ]);
    for part in
        ["Mistral 7B", "32 layers of width 4096: 32 × attention+mlp", "7.242 B (7,241,732,096)", "32 GiB in bf16"]
    {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    let list = Bench::new().succeed(&["model", "show"]);
    assert!(PRESETS.iter().all(|name| list.contains(name)), "{list}");
}

#[test]
fn a_preset_through_the_config_is_the_preset_itself() {
    let registry = Registry::default();
    for name in PRESETS {
        let overrides = [format!("model.preset={name}")];
        let loaded = load_text("none".as_ref(), "", &overrides, &registry.kinds()).unwrap();
        let (config, preset) = (&loaded.runs()[0].config.model, preset(name).unwrap());
        let cost = |config| {
            let init = &mut Init::outline(&burn::tensor::Device::flex());
            let model = Model::new(config, preset.vocab, &registry.mixers, init).unwrap();
            Cost::new(config, &model, 1000)
        };
        assert_eq!(cost(config), cost(&preset.model), "{name}");
        // The file that is stored beside the results loads back to the same run without naming the preset.
        let text = loaded.runs()[0].config.to_toml();
        assert!(!text.contains("preset"));
        let again = load_text("none".as_ref(), &text, &[], &registry.kinds()).unwrap();
        assert_eq!(again.runs()[0].hash, loaded.runs()[0].hash, "{name}");
    }
}

#[test]
fn a_run_file_is_laid_over_its_preset_whatever_names_it() {
    let sizes = "model.d_model = 16\nmodel.mixer.attention = { heads = 2, kv_heads = 1 }\n";
    let load = |text: &str, overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.into()).collect();
        load_text("run.toml".as_ref(), &format!("{sizes}{text}"), &overrides, &Registry::default().kinds()).unwrap()
    };
    for loaded in [
        load("model.preset = \"jamba\"", &[]),
        load("", &["model.preset=jamba"]),
        load("[sweep.case.one]\nmodel.preset = \"jamba\"", &[]),
        load("[sweep.axes]\n\"model.preset\" = [\"jamba\"]", &[]),
        load("model.preset = \"llama3\"\n[sweep.axes]\n\"model.preset\" = [\"jamba\"]", &[]),
    ] {
        let [run] = loaded.runs() else { panic!("{} runs", loaded.runs().len()) };
        let model = &run.config.model;
        assert_eq!((model.d_model, model.layer_names().unwrap().len(), model.norm_eps), (16, 32, 1e-6));
        assert_eq!(model.mixer["attention"]["heads"], 2);
        assert_eq!(model.mixer["attention"]["positions"], "none", "what the file does not state is the preset's");
    }
    let swept = load("[sweep.axes]\n\"model.preset\" = [\"jamba\", \"llama3\"]", &[]);
    let axes: Vec<&Value> = swept.runs().iter().map(|run| &run.axes["model.preset"]).collect();
    assert_eq!(axes, ["jamba", "llama3"]);
}

#[test]
fn what_cannot_be_shown_is_refused_by_its_name() {
    let bench = Bench::new();
    let complaint = bench.fail(2, &["model", "show", "jambo"]);
    assert!(complaint.contains("`jambo`") && complaint.contains("did you mean `jamba`?"), "{complaint}");
    bench.write("run.toml", &SMALL.replace("d_model = 16", "d_model = 16\npreset = \"jambo\""));
    let complaint = bench.fail(2, &["run", "run.toml"]);
    for part in ["run.toml:13", "`model.preset` names no preset: \"jambo\"", "did you mean `jamba`?"] {
        assert!(complaint.contains(part), "no `{part}` in:\n{complaint}");
    }
    bench.write("run.toml", &SMALL.replace("d_model = 16", "d_model = 16\npresett = \"jamba\""));
    let complaint = bench.fail(2, &["run", "run.toml"]);
    assert!(complaint.contains("did you mean `model.preset`?"), "{complaint}");
    bench.write("run.toml", &SMALL.replace("heads = 2", "heads = 2\noutput_scale = 0.0"));
    let complaint = bench.fail(2, &["model", "show", "run.toml"]);
    assert!(
        complaint.contains("model.mixer.attention.output_scale") && complaint.contains("run.toml:20"),
        "{complaint}"
    );
}

/// A model with every structure at once.
fn structured() -> String {
    let layers = r#"layers = ["mamba", "attention+mlp"]"#;
    let all = r#"layers = ["attention+mlp", "attention > mamba|conv", "+experts", "attention+mlp"]
norm = "layer"
norm_placement = "sandwich"
residual_scale = 0.5
logit_softcap = 20.0"#;
    let parts = r#"heads = 2
shared = true
adapter_rank = 2
adapter_maps = [["query", "key"], ["output"]]
output_map = true

[model.mixer.conv]
kind = "short_conv"
output_scale = 0.5
output_norm = true

[model.channel.experts]
kind = "moe"
experts = 3
shared_expand = 0.5
"#;
    let structured = SMALL.replace(layers, all).replace("heads = 2\n", parts);
    assert!(structured.contains("adapter_maps") && structured.contains("sandwich"));
    structured
}

#[test]
fn a_structured_model_trains_and_resumes_like_any_other() {
    let bench = Bench::new();
    bench.write("run.toml", &structured());
    bench.succeed(&["run", "run.toml", "--out", "whole"]);
    let whole = bench.run_directory("whole", "small");
    // The same run, taken up at the last but one checkpoint.
    let run = bench.path("runs/small").join(whole.file_name().unwrap());
    fs::create_dir_all(run.join("checkpoint")).unwrap();
    let mut checkpoints: Vec<_> =
        fs::read_dir(whole.join("checkpoint")).unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.sort();
    fs::copy(&checkpoints[0], run.join("checkpoint").join(checkpoints[0].file_name().unwrap())).unwrap();
    fs::copy(whole.join("metrics.jsonl"), run.join("metrics.jsonl")).unwrap();
    bench.succeed(&["run", "run.toml"]);
    assert!(last_tensors(&whole) == last_tensors(&run), "the parameters differ");

    let text = bench.succeed(&["model", "show", "run.toml", "--json"]);
    let shown: Value = serde_json::from_str(&text).unwrap();
    let result: Value = serde_json::from_str(&fs::read_to_string(whole.join("result.json")).unwrap()).unwrap();
    assert_eq!(shown["cost"]["parameters"], result["parameters"]);
    let state = &shown["cost"]["state"];
    assert_eq!(state["fixed"].as_u64().unwrap() + state["growing"].as_u64().unwrap(), result["state_bytes"]);
}

#[test]
fn gradients_by_layer_train_to_the_same_bits() {
    let bench = Bench::new();
    bench.write("run.toml", SMALL);
    bench.succeed(&["run", "run.toml", "--out", "whole"]);
    bench.succeed(&["run", "run.toml", "--out", "layers", "--set", "train.gradient_checkpointing=true"]);
    let [whole, layers] = ["whole", "layers"].map(|out| bench.run_directory(out, "small"));
    assert_ne!(whole.file_name(), layers.file_name(), "a setting that is not at its default is part of the name");
    assert!(last_tensors(&whole) == last_tensors(&layers), "the parameters differ");

    for (key, setting) in
        [("`model.dropout`", "model.dropout=0.1"), ("`model.mixer.*.dropout`", "model.mixer.attention.dropout=0.1")]
    {
        let dropout = ["--set", "train.gradient_checkpointing=true", "--set", setting];
        let complaint = bench.fail(2, &[&["run", "run.toml"], &dropout[..]].concat());
        let named = complaint.contains("`train.gradient_checkpointing` is true") && complaint.contains(key);
        assert!(named, "{complaint}");
    }
}
