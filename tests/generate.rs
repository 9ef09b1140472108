//! Prompts continued by the program.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::harness::{Bench, SMALL, root, text};

const FAMILIES: [&str; 10] =
    ["llama", "llama3_rope", "mistral", "mamba", "falcon_mamba", "mamba2", "mamba2_dtlimit", "jamba", "lfm2", "bamba"];

fn fixture(family: &str) -> PathBuf {
    root().join("tests/fixtures").join(family)
}

/// Rows of prompts, and what the reference computes behind them.
struct Truth {
    prompts: Vec<Vec<i64>>,
    greedy: Vec<Vec<i64>>,
    /// The likeliest token behind every token of a prompt.
    next: Vec<Vec<i64>>,
}

fn truth(family: &str) -> Truth {
    let bytes = fs::read(fixture(family).join("io.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let rows = |name: &str| -> Vec<Vec<i64>> {
        let tensor = file.tensor(name).unwrap();
        let row = |row: &[u8]| row.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
        tensor.data().chunks(8 * tensor.shape()[1]).map(row).collect()
    };
    let logits = file.tensor("logits").unwrap();
    let &[_, l, v] = logits.shape() else { panic!("logits are [b, l, v]") };
    let scores: Vec<f32> = logits.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let best = |row: &[f32]| (0..v as i64).max_by(|a, b| row[*a as usize].total_cmp(&row[*b as usize])).unwrap();
    let next = scores.chunks(l * v).map(|row| row.chunks(v).map(best).collect()).collect();
    Truth { prompts: rows("input_ids"), greedy: rows("decode_ids"), next }
}

fn list(tokens: &[i64]) -> String {
    tokens.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

/// A tokenizer of 128 words, `w0` to `w127`, of which the first ends a text.
fn tokenizer() -> String {
    let vocab: serde_json::Map<String, Value> = (0..128).map(|id| (format!("w{id}"), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "normalizer": null, "post_processor": null, "decoder": null,
        // What a prompt is not filled up with.
        "padding": {
            "strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
            "pad_token": "w0"
        },
        "added_tokens": [{
            "id": 0, "content": "w0", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true
        }],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w1"},
    })
    .to_string()
}

/// A published checkpoint that ends texts at `stop`, perhaps with a tokenizer.
fn published(bench: &Bench, family: &str, stop: Value, with_tokenizer: bool) -> String {
    let directory = bench.path(&format!("{family}-published"));
    fs::create_dir_all(&directory).unwrap();
    fs::copy(fixture(family).join("model.safetensors"), directory.join("model.safetensors")).unwrap();
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(fixture(family).join("config.json")).unwrap()).unwrap();
    config["eos_token_id"] = stop;
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    if with_tokenizer {
        fs::write(directory.join("tokenizer.json"), tokenizer()).unwrap();
    }
    directory.display().to_string()
}

/// What the program says of each prompt.
fn objects(bench: &Bench, args: &[&str]) -> Vec<Value> {
    let said = bench.succeed(&[&["model", "generate", "--json"], args].concat());
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn tokens(object: &Value) -> Vec<i64> {
    object["tokens"].as_array().unwrap().iter().map(|token| token.as_i64().unwrap()).collect()
}

#[test]
fn a_greedy_continuation_is_the_references() {
    let bench = Bench::new();
    for family in FAMILIES {
        let directory = fixture(family).display().to_string();
        let Truth { prompts, greedy, next } = truth(family);
        // Three lengths, two prompts of one.
        let cut = 49;
        let lists = [list(&prompts[0]), list(&prompts[0][..cut]), list(&prompts[1]), list(&prompts[1][..3])];
        let flags = lists.iter().flat_map(|list| ["--tokens", list]);
        let args: Vec<&str> = [directory.as_str(), "--max-tokens", "12"].into_iter().chain(flags).collect();
        let said = objects(&bench, &args);
        assert_eq!([tokens(&said[0]), tokens(&said[2])], greedy[..], "{family}");
        assert_eq!(tokens(&said[1])[0], next[0][cut - 1], "{family}");
        assert_eq!(tokens(&said[3])[0], next[1][2], "{family}");
    }
}

#[test]
fn the_other_backend_says_the_same() {
    let (bench, directory) = (Bench::new(), fixture("jamba").display().to_string());
    let Truth { prompts, greedy, .. } = truth("jamba");
    let args = [directory.as_str(), "--max-tokens", "12", "--device", "ndarray", "--tokens", &list(&prompts[0])];
    assert_eq!(tokens(&objects(&bench, &args)[0]), greedy[0]);
}

#[test]
fn prompts_together_are_continued_as_each_alone() {
    let bench = Bench::new();
    for family in ["jamba", "lfm2", "bamba", "mistral"] {
        let directory = fixture(family).display().to_string();
        let prompts = ["5,6,7,8,9,10,11,12,13,14", "99", "3,1,4,1,5,9,2,6,5,3"];
        let drawn = [directory.as_str(), "--max-tokens", "20", "--temperature", "1", "--top-p", "0.9", "--seed", "4"];
        let flags: Vec<&str> = prompts.iter().flat_map(|prompt| ["--tokens", *prompt]).collect();
        let together = objects(&bench, &[&drawn[..], &flags[..]].concat());
        for (prompt, together) in prompts.iter().zip(together) {
            assert_eq!(objects(&bench, &[&drawn[..], &["--tokens", prompt]].concat()), [together], "{family}");
        }
    }
}

#[test]
fn one_seed_says_one_text_and_another_another() {
    let bench = Bench::new();
    let published = published(&bench, "mamba2", Value::Null, true);
    bench.succeed(&["model", "import", &published, "--out", "model"]);
    let say = |seed: &str| {
        let drawn = ["--temperature", "1.5", "--top-k", "50", "--max-tokens", "16", "--seed", seed];
        bench.succeed(&[&["model", "generate", "model", "--prompt", "w70 w62 w82"], &drawn[..]].concat())
    };
    assert_eq!(say("1"), say("1"));
    assert_ne!(say("1"), say("2"));
}

/// The words of tokens as the tokenizer puts them together.
fn words(tokens: &[i64]) -> String {
    tokens.iter().map(|token| format!(" w{token}")).collect()
}

#[test]
fn texts_go_through_the_models_tokenizer() {
    let bench = Bench::new();
    let Truth { prompts, greedy, .. } = truth("jamba");
    let published = published(&bench, "jamba", Value::Null, true);
    bench.succeed(&["model", "import", &published, "--out", "model"]);
    let prompt = words(&prompts[0]);
    let expected = words(&greedy[0]);
    for directory in [&published, "model"] {
        let args = [directory, "--max-tokens", "12", "--prompt", prompt.trim_start(), "--tokens", &list(&prompts[1])];
        let said = objects(&bench, &args);
        assert_eq!(said[0]["prompt"], json!(prompts[0]));
        assert_eq!([tokens(&said[0]), tokens(&said[1])], greedy[..]);
        assert_eq!(said[0]["text"], expected.as_str());
        // One prompt is printed as it grows, several one after the other.
        let alone = bench.heddle(&[&["model", "generate"], &args[..5]].concat());
        assert_eq!(text(&alone.stdout), format!("{expected}\n"));
        let pace = text(&alone.stderr);
        assert!(pace.contains("prefill: 56 tokens, ") && pace.contains("decoding: 11 tokens, "), "{pace}");
        let both = bench.succeed(&[&["model", "generate"], &args[..]].concat());
        assert_eq!(both, format!("[1] {expected}\n[2] {}\n", words(&greedy[1])));
    }
    // The tokenizer's padding is none of a prompt.
    assert_eq!(objects(&bench, &["model", "--prompt", "w7 w8"])[0]["prompt"], json!([7, 8]));
    bench.succeed(&["model", "export", "model", "--out", "back"]);
    assert_eq!(fs::read_to_string(bench.path("back/tokenizer.json")).unwrap(), tokenizer());
    // A model without a tokenizer does not keep that of the one before.
    bench.succeed(&["model", "import", fixture("mamba").to_str().unwrap(), "--out", "model"]);
    assert!(!bench.path("model/tokenizer.json").exists());
}

#[test]
fn a_text_ends_where_the_config_says() {
    let bench = Bench::new();
    let Truth { prompts, greedy, .. } = truth("lfm2");
    let stop = greedy[0][4];
    let first = greedy[0].iter().position(|token| *token == stop).unwrap();
    for stop in [json!(stop), json!([1000, stop])] {
        let directory = published(&bench, "lfm2", stop, false);
        let said = objects(&bench, &[&directory, "--max-tokens", "12", "--tokens", &list(&prompts[0])]);
        assert_eq!(tokens(&said[0]), greedy[0][..first]);
        assert_eq!(said[0]["stopped"], true);
        assert_eq!(said[0].get("text"), None);
        let printed = bench.succeed(&["model", "generate", &directory, "--tokens", &list(&prompts[0])]);
        assert_eq!(printed, format!("{}\n", list(&greedy[0][..first])));
    }
}

#[test]
fn a_finished_run_goes_on_with_its_task() {
    let bench = Bench::new();
    let config = bench.write("small.toml", SMALL);
    bench.succeed(&["run", config.to_str().unwrap(), "--set", "train.steps=20"]);
    let run = bench.run_directory("runs", "small").display().to_string();
    let said = objects(&bench, &[&run, "--max-tokens", "6", "--tokens", "1,20,2,25", "--tokens", "3"]);
    assert!(said.iter().all(|said| tokens(said).len() == 6 && tokens(said).iter().all(|token| *token < 32)));
}

/// Writes a run of the small model with learned positions.
fn run_with_positions(bench: &Bench) -> String {
    let config = bench.write("small.toml", SMALL);
    let set = ["model.mixer.attention.positions=learned", "model.mixer.attention.max_length=24", "train.steps=20"];
    let sets: Vec<&str> = set.iter().flat_map(|set| ["--set", *set]).collect();
    bench.succeed(&[&["run", config.to_str().unwrap()], &sets[..]].concat());
    bench.run_directory("runs", "small").display().to_string()
}

#[test]
fn what_cannot_be_continued_is_refused_by_its_flag() {
    let bench = Bench::new();
    let llama = published(&bench, "llama", Value::Null, false);
    let refused = |directory: &str, args: &[&str], expected: &[&str]| {
        let complaint = bench.fail(2, &[&["model", "generate", directory], args].concat());
        assert!(expected.iter().all(|part| complaint.contains(part)), "{args:?}: {complaint}");
    };
    refused(&llama, &["--prompt", "hello"], &["`--prompt`", "holds no tokenizer.json", "`--tokens 1,2,3`"]);
    refused(&llama, &["--tokens", "0,128"], &["`--tokens`", "token 128", "one of the model's 128; use 0 to 127"]);
    refused(&llama, &["--tokens", "1,x"], &["--tokens", "`x` is no token", "1,2,3"]);
    refused(&llama, &["--tokens", ""], &["--tokens", "is no token"]);
    refused(&llama, &[], &["--prompt", "required"]);
    let one = ["--tokens", "1"];
    let with =
        |flag: &str, value: &str, expected: &[&str]| refused(&llama, &[&one[..], &[flag, value]].concat(), expected);
    with("--temperature", "-1", &["`--temperature`", "it is -1", "use 0"]);
    with("--temperature", "nan", &["`--temperature`"]);
    with("--top-p", "0", &["`--top-p`", "it is 0", "above 0 and up to 1"]);
    with("--top-p", "1.5", &["`--top-p`", "it is 1.5"]);
    with("--top-k", "0", &["--top-k", "use 1 or more"]);
    with("--max-tokens", "0", &["--max-tokens", "use 1 or more"]);
    with("--device", "tpu", &["`--device`", "known: cpu, ndarray"]);
    refused("absent", &one, &["absent"]);

    let positions = run_with_positions(&bench);
    let all = ["--tokens", "1,2,3,4", "--max-tokens", "21"];
    assert_eq!(tokens(&objects(&bench, &[&[positions.as_str()], &all[..]].concat())[0]).len(), 21);
    let expected = ["`--max-tokens`", "4 tokens, and with 22 more", "24 positions", "ask for fewer"];
    refused(&positions, &["--tokens", "1,2,3,4", "--max-tokens", "22"], &expected);
}

#[test]
fn files_beside_the_weights_that_are_wrong_are_named() {
    let bench = Bench::new();
    let directory = published(&bench, "llama", json!("</s>"), true);
    let args = ["model", "generate", &directory, "--tokens", "1"];
    let complaint = bench.fail(2, &args);
    assert!(complaint.contains("config.json: `eos_token_id`: it is \"</s>\""), "{complaint}");
    published(&bench, "llama", Value::Null, true);
    bench.succeed(&args);
    fs::write(Path::new(&directory).join("tokenizer.json"), "{}").unwrap();
    let complaint = bench.fail(2, &args);
    assert!(complaint.contains("tokenizer.json: ") && complaint.contains("fetch it again"), "{complaint}");
}
