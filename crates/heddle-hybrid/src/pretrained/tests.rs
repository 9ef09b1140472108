//! Files and configs that are not what they should be.

use std::io::Cursor;

use burn::tensor::{Device, Int, Tensor};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::*;
use crate::{Init, MixerRegistry, Model};

/// A config of the smallest Mamba that has a tensor of every kind.
const CONFIG: &str = r#"{
    "model_type": "mamba", "hidden_size": 4, "state_size": 2, "num_hidden_layers": 1, "vocab_size": 5, "time_step_rank": 1,
    "conv_kernel": 2, "tie_word_embeddings": false
}"#;

/// A config with keys of other kinds: layers of two sorts, experts, a rank that is a text.
const HYBRID: &str = r#"{
    "model_type": "jamba", "hidden_size": 4, "num_hidden_layers": 2, "vocab_size": 5, "mamba_dt_rank": "auto",
    "intermediate_size": 6, "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 2, "attn_layer_period": 2,
    "attn_layer_offset": 1, "rms_norm_eps": 1e-06
}"#;

/// A config whose experts, and whose gates and ups, share tensors.
const STACKED: &str = r#"{
    "model_type": "granitemoehybrid", "hidden_size": 4, "num_hidden_layers": 2, "vocab_size": 5, "num_attention_heads": 2,
    "intermediate_size": 3, "shared_intermediate_size": 5, "num_local_experts": 2, "num_experts_per_tok": 1,
    "mamba_n_heads": 2, "mamba_d_state": 3, "layer_types": ["mamba", "attention"], "residual_multiplier": 0.5
}"#;

/// A config whose queries, keys, values and gates stand in turns in one tensor.
const INTERLEAVED: &str = r#"{
    "model_type": "qwen3_next", "hidden_size": 4, "num_hidden_layers": 2, "vocab_size": 5, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 3, "num_experts": 2, "num_experts_per_tok": 1,
    "moe_intermediate_size": 3, "shared_expert_intermediate_size": 2, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 3, "linear_value_head_dim": 2,
    "layer_types": ["linear_attention", "full_attention"]
}"#;

/// A config whose blocks are shared and stand in the first layer that they feed, with biases that share a tensor.
const SHARED: &str = r#"{
    "model_type": "zamba2", "hidden_size": 4, "num_hidden_layers": 5, "vocab_size": 5, "num_attention_heads": 2,
    "intermediate_size": 3, "mamba_d_state": 2, "n_mamba_heads": 4, "mamba_ngroups": 2, "num_mem_blocks": 2,
    "adapter_rank": 2, "add_bias_linear": true, "use_shared_attention_adapter": true, "use_mem_rope": true,
    "layers_block_type": ["hybrid", "mamba", "hybrid", "hybrid", "hybrid"], "hybrid_layer_ids": [0, 2, 3, 4]
}"#;

fn model(config: &str) -> (Architecture, Model) {
    let architecture = Architecture::parse(config).unwrap();
    let init = &mut Init::new(3, &Device::flex());
    let model = Model::new(architecture.model(), architecture.vocab(), &MixerRegistry::default(), init).unwrap();
    (architecture, model)
}

fn bytes_of(config: &str) -> Vec<u8> {
    let (architecture, model) = model(config);
    let tensors = architecture.tensors(&model).unwrap().into_iter().map(|tensor| (tensor.name.clone(), tensor));
    safetensors::serialize(tensors, None).unwrap()
}

fn load(config: &str, files: &[(&str, Vec<u8>)]) -> Result<Model, PretrainedError> {
    let files = files.iter().map(|(name, bytes)| TensorFile::open(name, Cursor::new(bytes.clone())));
    let mut files = TensorFiles::new(files.collect::<Result<_, _>>()?)?;
    Architecture::parse(config)?.load(&mut files, &MixerRegistry::default(), &Device::flex())
}

#[track_caller]
fn refused(bytes: Vec<u8>, expected: &str) {
    let error = load(CONFIG, &[("model.safetensors", bytes)]).unwrap_err();
    assert!(error.to_string().contains(expected) && !error.is_failure(), "{error}");
}

/// What a model says of three tokens.
fn scores(model: &Model) -> Vec<f32> {
    let device = Device::flex();
    let tokens = Tensor::<2, Int>::from_ints([[1, 4, 2]], &device);
    let (hidden, _) = model.forward(tokens, model.state(1, &device));
    model.logits(hidden.reshape([3, model.d_model()])).into_data().try_to_vec().unwrap()
}

/// Named tensors as bits, to be changed and written again.
type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// By name, since a file's own order is that of a hash.
fn unpacked(config: &str) -> Tensors {
    let bytes = bytes_of(config);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned = |(name, view): (&str, TensorView<'_>)| {
        (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec())
    };
    let mut tensors: Tensors = file.iter().map(owned).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

fn packed(tensors: &Tensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name, TensorView::new(*dtype, shape.clone(), data).expect("shape and bytes agree"))
    });
    safetensors::serialize(views, None).unwrap()
}

fn floats(data: &[u8]) -> impl Iterator<Item = f32> {
    data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// A file with this header and `data` bytes behind it.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn what_is_written_is_read() {
    for config in [CONFIG, HYBRID, STACKED, INTERLEAVED, SHARED] {
        let read = load(config, &[("model.safetensors", bytes_of(config))]).unwrap();
        assert_eq!(scores(&read), scores(&model(config).1));
    }
}

/// A kind of number of sixteen bits, and the ways to it and back.
type Half = (Dtype, fn(f32) -> [u8; 2], fn([u8; 2]) -> f32);

#[test]
fn numbers_of_sixteen_bits_are_widened() {
    let halves: [Half; 2] = [
        (Dtype::F16, |x| half::f16::from_f32(x).to_le_bytes(), |b| half::f16::from_le_bytes(b).to_f32()),
        (Dtype::BF16, |x| half::bf16::from_f32(x).to_le_bytes(), |b| half::bf16::from_le_bytes(b).to_f32()),
    ];
    for (kind, narrow, widen) in halves {
        let (mut narrowed, mut rounded) = (unpacked(CONFIG), unpacked(CONFIG));
        for ((_, dtype, _, data), (_, _, _, wide)) in narrowed.iter_mut().zip(&mut rounded) {
            *wide = floats(data).flat_map(|x| widen(narrow(x)).to_le_bytes()).collect();
            *data = floats(data).flat_map(narrow).collect();
            *dtype = kind;
        }
        let [a, b] =
            [narrowed, rounded].map(|tensors| load(CONFIG, &[("model.safetensors", packed(&tensors))]).unwrap());
        assert_eq!(scores(&a), scores(&b));
        assert_ne!(scores(&a), scores(&model(CONFIG).1), "rounding shows");
    }
}

#[test]
fn a_header_that_contradicts_its_file_is_refused() {
    refused(vec![1, 2, 3], "3 bytes are no safetensors file");
    refused(
        [&u64::MAX.to_le_bytes()[..], b"{}"].concat(),
        "said to be 18446744073709551615 bytes long, but 2 bytes follow",
    );
    refused(with_header("{", 0), "its header cannot be read");
    let mut cut = bytes_of(CONFIG);
    cut.truncate(cut.len() - 4);
    refused(cut, "follow the header");
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#;
    refused(with_header(header, 6), "its header cannot be read");
    let header = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,18446744073709551615]}}"#;
    refused(with_header(header, 8), "its header cannot be read");
    let header = r#"{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}"#;
    refused(with_header(header, 8), "its tensors take 4000000000000 bytes, but 8 follow the header");
}

#[test]
fn a_tensor_that_is_not_as_the_config_says_is_named() {
    const EMBEDDING: &str = "backbone.embeddings.weight";
    let changed = |change: fn(&mut Tensors)| {
        let mut tensors = unpacked(CONFIG);
        change(&mut tensors);
        packed(&tensors)
    };
    refused(changed(|tensors| drop(tensors.remove(0))), &format!("`{EMBEDDING}`: it is missing"));
    refused(
        changed(|tensors| tensors.push(("extra".into(), Dtype::F32, vec![1], vec![0; 4]))),
        "`extra`: the config has no place for it",
    );
    refused(changed(|tensors| tensors[0].2 = vec![4, 5]), "its shape is [4, 5], and the config asks for [5, 4]");
    let wide = |tensors: &mut Tensors| (tensors[0].1, tensors[0].2) = (Dtype::I32, vec![5, 4]);
    refused(changed(wide), &format!("`{EMBEDDING}`: its numbers are I32; F32, F16 and BF16 can be read"));
    let infinite = |tensors: &mut Tensors| tensors[0].3[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    refused(changed(infinite), &format!("`{EMBEDDING}`: it holds a number that is not finite"));
}

#[test]
fn a_shared_head_may_only_be_a_copy() {
    let tied = CONFIG.replace("false", "true");
    let mut tensors = unpacked(&tied);
    let embedding = tensors.iter().find(|tensor| tensor.0.contains("embeddings")).unwrap().clone();
    tensors.push(("lm_head.weight".into(), embedding.1, embedding.2, embedding.3));
    let read = load(&tied, &[("model.safetensors", packed(&tensors))]).unwrap();
    assert_eq!(scores(&read), scores(&model(&tied).1));
    tensors.last_mut().unwrap().3[0] ^= 1;
    let error = load(&tied, &[("model.safetensors", packed(&tensors))]).unwrap_err();
    assert!(error.to_string().starts_with("tensor `lm_head.weight`: the config says that the head shares"), "{error}");
}

#[test]
fn shards_are_one_checkpoint() {
    let mut tensors = unpacked(CONFIG);
    let rest = tensors.split_off(5);
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let shards = [(names[0], packed(&tensors)), (names[1], packed(&rest))];
    assert_eq!(scores(&load(CONFIG, &shards).unwrap()), scores(&model(CONFIG).1));
    let error = load(CONFIG, &shards[..1]).unwrap_err();
    assert!(error.to_string().contains("it is missing"), "{error}");
    let error = load(CONFIG, &[shards[0].clone(), (names[1], packed(&tensors))]).unwrap_err();
    assert!(error.to_string().contains("stands in both model-00001-of-00002.safetensors and model-00002"), "{error}");

    let open =
        || shards.iter().map(|(name, bytes)| TensorFile::open(name, Cursor::new(bytes.clone())).unwrap()).collect();
    let index = |file: &str| format!(r#"{{"metadata": {{}}, "weight_map": {{"{}": "{file}"}}}}"#, tensors[0].0);
    let right = ShardIndex::parse(&index(names[0])).unwrap();
    assert_eq!(TensorFiles::indexed(&right, open()).unwrap().len(), tensors.len() + rest.len());
    let wrong = ShardIndex::parse(&index(names[1])).unwrap();
    let error = TensorFiles::indexed(&wrong, open()).unwrap_err().to_string();
    assert!(error.contains("the index says model-00002-of-00002.safetensors, which does not hold it"), "{error}");
    for outside in ["../model.safetensors", "/model.safetensors", "..", "", "a/b", "c:d"] {
        let error = ShardIndex::parse(&index(outside)).unwrap_err().to_string();
        assert!(error.contains("outside the directory"), "{outside}: {error}");
    }
    assert!(ShardIndex::parse("[]").is_err() && ShardIndex::parse("{}").is_err());
}

#[track_caller]
fn unsupported(config: &str, change: [&str; 2], expected: &str) {
    let changed = config.replace(change[0], change[1]);
    assert_ne!(changed, config);
    let error = Architecture::parse(&changed).map(drop).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_key_that_is_not_understood_is_named() {
    unsupported(CONFIG, ["\"vocab_size\": 5", "\"vocab\": 5"], "`vocab_size`: it is missing");
    unsupported(
        CONFIG,
        ["\"hidden_size\": 4", "\"hidden_size\": -4"],
        "`hidden_size`: it is -4; this key takes a whole number",
    );
    unsupported(
        CONFIG,
        ["\"conv_kernel\": 2", "\"conv_kernel\": 2, \"gain\": 2.0"],
        "`gain`: it is 2.0, and nothing is known",
    );
    unsupported(
        CONFIG,
        ["mamba\",", "mamba\", \"hidden_act\": \"gelu\","],
        "`hidden_act`: \"gelu\" is not supported; only \"silu\" is",
    );
    unsupported(CONFIG, ["mamba\",", "mamba\", \"intermediate_size\": 7,"], "`intermediate_size`: 7 is no multiple");
    unsupported(CONFIG, ["\"num_hidden_layers\": 1", "\"num_hidden_layers\": 5000"], "`num_hidden_layers`: it is 5000");
    unsupported(
        HYBRID,
        ["\"attn_layer_offset\": 1", "\"attn_layer_offset\": 2"],
        "`attn_layer_offset`: 2 is not below",
    );
    unsupported(HYBRID, ["1e-06", "Infinity"], "`rms_norm_eps`");
    unsupported(HYBRID, ["1e-06", "1e-06, \"rope_theta\": 10000"], "`rope_theta`");
    unsupported(CONFIG, ["\"mamba\"", "\"mumba\""], "`model_type`: the family `mumba` is not known; known: llama");
    for text in ["", "[]", "{}", "\"\\", "{\"model_type\": 3}", "{\"model_type\": NaN}"] {
        assert!(Architecture::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_shared_block_stands_once_with_what_adapts_it_to_each_use() {
    let named = |tensors: &Tensors, part: &str| tensors.iter().filter(|(name, ..)| name.contains(part)).count();
    let tensors = unpacked(SHARED);
    assert_eq!(named(&tensors, "self_attn.q_proj.weight"), 2);
    for (layer, numbers) in [(0, [0, 2]), (2, [1, 3])] {
        for number in numbers {
            let list = format!("layers.{layer}.shared_transformer.feed_forward.gate_up_proj_adapter_list.{number}.");
            assert_eq!(named(&tensors, &list), 2, "{list}");
            let list = format!("layers.{layer}.shared_transformer.self_attn.linear_k_adapter_list.{number}.1.weight");
            assert_eq!(named(&tensors, &list), 1, "{list}");
        }
    }
    let bias = tensors.iter().find(|(name, ..)| name.ends_with("gate_up_proj.bias")).unwrap();
    assert_eq!(bias.2, [6]);
    let layers = Architecture::parse(SHARED).unwrap().model().layer_names().unwrap();
    let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
    let fed = ["attention1+mlp1>mamba2", "attention2+mlp2>mamba2"];
    assert_eq!(layers, [fed[0], "mamba2", fed[1], fed[0], fed[1]]);
    for (change, expected) in [
        (["[0, 2, 3, 4]", "[0, 2, 3]"], "`hybrid_layer_ids`: it is [0, 2, 3]"),
        (["_layers\": 5", "_layers\": 6"], "`layers_block_type`: it lists 5 layers, and `num_hidden_layers` is 6"),
        (["\"mamba\",", "\"attention\","], "`layers_block_type`: \"attention\" is not supported"),
        (["\"n_mamba_heads\": 4", "\"n_mamba_heads\": 3"], "`n_mamba_heads`: 3 heads do not divide"),
        (["_heads\": 2", "_heads\": 2, \"num_key_value_heads\": 1"], "`use_shared_attention_adapter`: queries are 8"),
        (["\"adapter_rank\"", "\"hidden_act\": \"gelu_new\", \"adapter_rank\""], "`hidden_act`: `gelu_new`"),
        (["\"adapter_rank\"", "\"use_shared_mlp_adapter\": false, \"adapter_rank\""], "`use_shared_mlp_adapter`"),
        (["\"adapter_rank\"", "\"attention_hidden_size\": 4, \"adapter_rank\""], "`attention_hidden_size`: it is 4"),
        (["\"adapter_rank\"", "\"time_step_limit\": [0, 1], \"adapter_rank\""], "`time_step_limit`: bounds"),
    ] {
        unsupported(SHARED, change, expected);
    }
}

#[test]
fn rotary_positions_are_read_in_both_styles_and_refused_where_they_are_others() {
    let llama = |more: &str| {
        format!(
            r#"{{"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 5, "num_attention_heads": 2,
            "intermediate_size": 6{more}}}"#
        )
    };
    let theta =
        |more: &str| Architecture::parse(&llama(more)).unwrap().model().mixer["attention"]["rope_theta"].clone();
    assert_eq!(theta(""), 10_000.0);
    assert_eq!(theta(r#", "rope_theta": 5e5, "rope_scaling": null"#), 5e5);
    assert_eq!(theta(r#", "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}"#), 5e5);
    for (more, expected) in [
        (r#", "rope_scaling": {"type": "yarn", "factor": 2.0}"#, "`rope_scaling.rope_type`: `yarn` is not supported"),
        (r#", "rope_scaling": {"type": "linear"}"#, "`rope_scaling.factor`: it is missing"),
        (r#", "rope_scaling": {"type": "linear", "factor": 2.0, "beta": 1}"#, "`rope_scaling.beta`"),
        (r#", "rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}"#, "`rope_theta`: it is 500000 here and 10000"),
        (r#", "rope_parameters": {"partial_rotary_factor": 0.5}"#, "`partial_rotary_factor`: 0.5 is not supported"),
        (r#", "rope_parameters": {"rope_theta": Infinity}"#, "`rope_parameters.rope_theta`"),
        (r#", "sliding_window": 4"#, "`sliding_window`"),
    ] {
        let error = Architecture::parse(&llama(more)).map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_config_that_asks_for_more_than_the_file_holds_allocates_nothing() {
    let huge = CONFIG
        .replace("\"hidden_size\": 4", "\"hidden_size\": 1048576")
        .replace("\"vocab_size\": 5", "\"vocab_size\": 1048576");
    let error = load(&huge, &[("model.safetensors", bytes_of(CONFIG))]).unwrap_err();
    assert!(error.to_string().contains("the config asks for [1048576, 1048576]"), "{error}");
    let many = HYBRID.replace("\"num_experts\": 2", "\"num_experts\": 1048576");
    let error = load(&many, &[("model.safetensors", bytes_of(HYBRID))]).unwrap_err();
    assert!(error.to_string().contains("tensors for the layers that it asks for"), "{error}");
}

/// What a change of a config may put there: what JSON is made of.
const CHARACTERS: &[u8] = b"0123456789-.\"{}[],: eInfity\\";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_change_of_a_file_is_more_than_an_error(
        changes in prop::collection::vec((0usize..1 << 12, any::<u8>()), 1..8),
        cut in prop::option::of(0usize..1 << 12),
    ) {
        let mut bytes = bytes_of(CONFIG);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(cut.unwrap_or(usize::MAX).max(1));
        let _ = load(CONFIG, &[("model.safetensors", bytes)]);
    }

    #[test]
    fn no_change_of_a_config_is_more_than_an_error(
        config in prop::sample::select(&[CONFIG, HYBRID, STACKED, INTERLEAVED, SHARED][..]),
        changes in prop::collection::vec((0usize..1 << 12, prop::sample::select(CHARACTERS)), 1..4),
    ) {
        let mut bytes = config.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let changed = String::from_utf8(bytes).expect("ASCII");
        let _ = load(&changed, &[("model.safetensors", bytes_of(config))]);
    }
}
