//! Published checkpoints: computed as their reference computes them, in any pieces, and written back as they were.
//!
//! The fixtures are tiny models with random weights, written by transformers 5.23 in f32, each with the reference's logits of
//! one whole pass over a sequence and over its greedy continuation.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use experiments::Registry;
use experiments::pretrained::{Pieces, import, load_model, logits};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::harness::{Bench, SMALL, root};

/// Rounding in another order. The fixtures are conditioned such that a relative change of the weights by 1e-6 moves the
/// logits by up to 8e-4, and one rounding is 6e-8; a wrong formula moves them by 1e-2 at least.
const TOLERANCE: f32 = 2e-4;

/// Both forms of a config: today's and the older one.
const STYLES: [&str; 2] = ["config.json", "config.hub.json"];

fn fixture(family: &str) -> PathBuf {
    root().join("tests/fixtures").join(family)
}

/// A published checkpoint with the config in one of its forms.
fn published(bench: &Bench, family: &str, style: &str) -> PathBuf {
    let directory = bench.path(&format!("{family}-{style}"));
    fs::create_dir_all(&directory).unwrap();
    fs::copy(fixture(family).join(style), directory.join("config.json")).unwrap();
    fs::copy(fixture(family).join("model.safetensors"), directory.join("model.safetensors")).unwrap();
    directory
}

/// A sequence with its greedy continuation, and what the reference says of it.
struct Truth {
    tokens: Vec<i64>,
    logits: Vec<f32>,
    /// `[b, l, v]`
    shape: [usize; 3],
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn integers(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn truth(family: &str) -> Truth {
    let bytes = fs::read(fixture(family).join("io.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| file.tensor(name).unwrap();
    let (ids, more) = (integers(tensor("input_ids").data()), integers(tensor("decode_ids").data()));
    let (whole, rest) = (floats(tensor("logits").data()), floats(tensor("full_logits").data()));
    let &[b, l, v] = tensor("logits").shape() else { panic!("logits are [b, l, v]") };
    let n = tensor("decode_ids").shape()[1];
    // The first of the continuation's logits are those of the prompt's last token, which predict its first.
    let mut truth = Truth { tokens: vec![], logits: vec![], shape: [b, l + n - 1, v] };
    for row in 0..b {
        truth.tokens.extend(&ids[row * l..][..l]);
        truth.tokens.extend(&more[row * n..][..n - 1]);
        truth.logits.extend(&whole[row * l * v..][..l * v]);
        truth.logits.extend(&rest[(row * n + 1) * v..][..(n - 1) * v]);
    }
    truth
}

/// Fails if scores differ from the truth by more than the tolerance, or another token is the likeliest anywhere.
fn compare(what: &str, scores: &[f32], truth: &Truth) {
    assert_eq!(scores.len(), truth.logits.len(), "{what}");
    let [_, _, v] = truth.shape;
    let best = |row: &[f32]| (0..v).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    for (at, (row, true_row)) in scores.chunks(v).zip(truth.logits.chunks(v)).enumerate() {
        assert_eq!(best(row), best(true_row), "{what}: the likeliest token behind token {at}");
    }
    let largest = scores.iter().zip(&truth.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest <= TOLERANCE, "{what}: the logits differ by {largest:e}");
}

/// Whole, in chunks, and prefilled in chunks with the rest decoded.
fn ways() -> Vec<Pieces> {
    let chunks = [None, Some(1), Some(7), Some(16)];
    [None, Some(56), Some(3)].into_iter().flat_map(|prefill| chunks.map(|chunk| Pieces { prefill, chunk })).collect()
}

fn agrees_with_the_reference(family: &str, device: &Device) {
    let (bench, registry, truth) = (Bench::new(), Registry::default(), truth(family));
    let [b, l, _] = truth.shape;
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(truth.tokens.clone(), [b, l]), device);
    for style in STYLES {
        let imported = bench.path(&format!("{style}-imported"));
        import(&published(&bench, family, style), &imported, &registry).unwrap();
        let model = load_model(&imported, &registry, device).unwrap();
        for pieces in ways() {
            let scores: Vec<f32> = logits(&model, tokens.clone(), pieces).into_data().try_to_vec().unwrap();
            compare(&format!("{family}, {style}, {pieces:?}"), &scores, &truth);
        }
    }
}

/// One test a fixture.
macro_rules! families {
    ($($family:ident),*) => {
        $(
            #[test]
            fn $family() {
                super::agrees_with_the_reference(stringify!($family), &burn::tensor::Device::flex());
            }
        )*

        pub(super) const ALL: &[&str] = &[$(stringify!($family)),*];
    };
}

mod agrees {
    families!(
        llama,
        llama3_rope,
        mistral,
        mamba,
        falcon_mamba,
        mamba2,
        mamba2_dtlimit,
        jamba,
        lfm2,
        bamba,
        granitemoehybrid,
        qwen3_next,
        falcon_h1,
        nemotron_h,
        zamba2
    );
}

#[test]
fn the_other_backend_agrees_as_well() {
    #[allow(deprecated, reason = "Burn has deprecated its NdArray backend, which we still support")]
    let device = Device::ndarray();
    agrees_with_the_reference("jamba", &device);
}

/// The tensors of a file by name: their shape and bits.
fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> =
        file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec())).collect();
    tensors.sort();
    tensors
}

#[test]
fn what_is_imported_and_exported_is_what_it_was() {
    let bench = Bench::new();
    for family in agrees::ALL {
        let original = published(&bench, family, STYLES[1]);
        let path = |name: &str| bench.path(&format!("{family}-{name}")).display().to_string();
        bench.succeed(&["model", "import", original.to_str().unwrap(), "--out", &path("in")]);
        bench.succeed(&["model", "export", &path("in"), "--out", &path("out")]);
        let back = bench.path(&format!("{family}-out"));
        assert_eq!(tensors(&back.join("model.safetensors")), tensors(&original.join("model.safetensors")), "{family}");
        let config = |directory: &Path| fs::read(directory.join("config.json")).unwrap();
        assert_eq!(config(&back), config(&original), "{family}");
    }
}

/// Writes `ids` as a file that `logits` reads.
fn write_ids(path: &Path, ids: &[i64], shape: [usize; 2]) {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::I64, shape.to_vec(), &bytes).unwrap();
    fs::write(path, safetensors::serialize([("input_ids", view)], None).unwrap()).unwrap();
}

#[test]
fn the_program_computes_the_logits_of_a_file_of_tokens() {
    let (bench, truth) = (Bench::new(), truth("mamba2_dtlimit"));
    let [b, l, v] = truth.shape;
    let original = published(&bench, "mamba2_dtlimit", STYLES[0]);
    bench.succeed(&["model", "import", original.to_str().unwrap(), "--out", "model"]);
    write_ids(&bench.path("ids.safetensors"), &truth.tokens, [b, l]);
    let files = ["--input", "ids.safetensors", "--output", "logits.safetensors"];
    for (directory, more) in
        [("model", vec![]), ("model", vec!["--prefill", "40", "--chunk", "7"]), (original.to_str().unwrap(), vec![])]
    {
        bench.succeed(&[&["model", "logits", directory], &files[..], &more[..]].concat());
        let [(name, shape, bits)] = tensors(&bench.path("logits.safetensors")).try_into().unwrap();
        assert_eq!((name.as_str(), shape), ("logits", vec![b, l, v]));
        compare(directory, &floats(&bits), &truth);
    }
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let bench = Bench::new();
    let original = published(&bench, "llama", STYLES[0]);
    bench.succeed(&["model", "import", original.to_str().unwrap(), "--out", "model"]);
    write_ids(&bench.path("ids.safetensors"), &[0, 127, 5, 128], [2, 2]);
    let logits = |more: &[&str]| {
        let all = [&["model", "logits", "model", "--output", "out.safetensors"], more].concat();
        bench.fail(2, &all)
    };
    let complaint = logits(&["--input", "ids.safetensors"]);
    assert!(complaint.contains("token 128 at [1, 1] is not one of the model's 128"), "{complaint}");
    let complaint = logits(&["--input", "ids.safetensors", "--prefill", "3"]);
    assert!(complaint.contains("`--prefill` is 3, and the sequences are 2 long"), "{complaint}");
    let complaint = logits(&["--input", "absent.safetensors"]);
    assert!(complaint.contains("cannot read absent.safetensors"), "{complaint}");
    let complaint = logits(&["--input", "model/model.toml"]);
    assert!(complaint.contains("model.toml"), "{complaint}");
    logits(&["--input", "ids.safetensors", "--chunk", "0"]);
    assert!(!bench.path("out.safetensors").exists());

    let complaint = bench.fail(2, &["model", "import", "absent", "--out", "other"]);
    assert!(complaint.contains("absent holds no config.json"), "{complaint}");
    let config = fs::read_to_string(original.join("config.json")).unwrap();
    fs::write(original.join("config.json"), config.replace("\"llama\"", "\"llama9\"")).unwrap();
    let complaint = bench.fail(2, &["model", "import", original.to_str().unwrap(), "--out", "other"]);
    assert!(complaint.contains("`model_type`: the family `llama9` is not known; known: llama, mistral"), "{complaint}");
    assert!(!bench.path("other").exists());
}

#[test]
fn a_checkpoint_in_several_files_is_read_by_its_index() {
    let bench = Bench::new();
    let directory = published(&bench, "mistral", STYLES[1]);
    let whole = tensors(&directory.join("model.safetensors"));
    fs::remove_file(directory.join("model.safetensors")).unwrap();
    let name = |shard: usize| format!("model-0000{}-of-00003.safetensors", shard + 1);
    let mut places = serde_json::Map::new();
    for (shard, part) in whole.chunks(whole.len().div_ceil(3)).enumerate() {
        let views = part.iter().map(|(tensor, shape, bits)| {
            places.insert(tensor.clone(), name(shard).into());
            (tensor, TensorView::new(Dtype::F32, shape.clone(), bits).unwrap())
        });
        fs::write(directory.join(name(shard)), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    let index = |places: &serde_json::Map<String, serde_json::Value>| {
        let text = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": places}).to_string();
        fs::write(directory.join("model.safetensors.index.json"), text).unwrap();
    };
    index(&places);
    let import = ["model", "import", directory.to_str().unwrap(), "--out", "model"];
    bench.succeed(&import);
    bench.succeed(&["model", "export", "model", "--out", "back"]);
    assert_eq!(tensors(&bench.path("back/model.safetensors")), whole);

    let mut outside = places.clone();
    outside.insert("lm_head.weight".into(), "../model.safetensors".into());
    index(&outside);
    let complaint = bench.fail(2, &import);
    assert!(complaint.contains("which is outside the directory"), "{complaint}");
    index(&places);
    fs::remove_file(directory.join(name(1))).unwrap();
    let complaint = bench.fail(2, &import);
    assert!(complaint.contains("it names model-00002-of-00003.safetensors, which is not there"), "{complaint}");
}

#[test]
fn a_run_says_what_it_learned_and_is_not_written_over() {
    let bench = Bench::new();
    let config = bench.write("small.toml", SMALL);
    bench.succeed(&["run", config.to_str().unwrap(), "--set", "train.steps=20"]);
    let run = bench.run_directory("runs", "small");
    write_ids(&bench.path("ids.safetensors"), &[1, 2, 3, 4, 5, 6], [2, 3]);
    let files = ["--input", "ids.safetensors", "--output", "logits.safetensors"];
    bench.succeed(&[&["model", "logits", run.to_str().unwrap()], &files[..]].concat());
    let [(_, shape, bits)] = tensors(&bench.path("logits.safetensors")).try_into().unwrap();
    assert_eq!(shape[..2], [2, 3]);
    assert!(floats(&bits).iter().any(|score| score.abs() > 1e-3));
    let original = published(&bench, "llama", STYLES[0]);
    let complaint = bench.fail(2, &["model", "import", original.to_str().unwrap(), "--out", run.to_str().unwrap()]);
    assert!(complaint.contains("holds a run; choose another directory"), "{complaint}");
}

#[test]
fn an_imported_model_that_was_damaged_is_not_computed_with() {
    let bench = Bench::new();
    let original = published(&bench, "llama", STYLES[0]);
    bench.succeed(&["model", "import", original.to_str().unwrap(), "--out", "model"]);
    let weights = fs::read_dir(bench.path("model/checkpoint")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    write_ids(&bench.path("ids.safetensors"), &[0, 1], [1, 2]);
    let complaint =
        bench.fail(1, &["model", "logits", "model", "--input", "ids.safetensors", "--output", "out.safetensors"]);
    assert!(complaint.contains("damaged or cut short"), "{complaint}");
}
