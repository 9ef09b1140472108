//! What the model's settings change, and what they leave as it is.

mod feeds;
mod items;
mod weights;

use burn::module::Param;
use burn::tensor::{Device, Gradients, Int, Tensor};
use heddle_kernels::{layer_norm, rms_norm};
use serde_json::{Value, json};

use crate::{EachParameter, Init, MixerRegistry, Model, ModelConfig, ModelError, for_each_parameter};

const VOCAB: usize = 11;

/// Sums in another order; values are of order one.
const ROUNDING: f32 = 2e-5;

/// A small model with every kind of part, `changes` laid over its top level.
fn config(changes: Value) -> ModelConfig {
    let mut value = json!({
        "d_model": 16,
        "layers": ["attention+mlp", "mamba"],
        "mixer": {
            "attention": {"kind": "attention", "heads": 2},
            "mamba": {"kind": "mamba", "d_state": 4},
            "other": {"kind": "short_conv"},
        },
        "channel": {"mlp": {"kind": "mlp"}, "none": {"kind": "none"}, "experts": {"kind": "moe", "experts": 3}},
    });
    merge(&mut value, changes);
    serde_json::from_value(value).unwrap()
}

fn merge(value: &mut Value, changes: Value) {
    match (value, changes) {
        (Value::Object(table), Value::Object(changes)) => {
            changes.into_iter().for_each(|(key, change)| merge(table.entry(key).or_insert(Value::Null), change));
        }
        (value, changes) => *value = changes,
    }
}

fn build(config: &ModelConfig, device: &Device) -> Result<Model, ModelError> {
    Model::new(config, VOCAB, &MixerRegistry::default(), &mut Init::new(3, device))
}

fn model(changes: Value) -> Model {
    build(&config(changes), &Device::flex()).unwrap()
}

fn tokens(device: &Device) -> Tensor<2, Int> {
    Tensor::from_ints([[1, 5, 2, 9, 0, 3, 3], [7, 7, 1, 0, 10, 4, 8]], device)
}

fn hidden(model: &Model) -> Tensor<3> {
    let device = Device::flex();
    model.forward(tokens(&device), model.state(2, &device)).0
}

fn logits(model: &Model) -> Tensor<2> {
    let [b, l, d] = hidden(model).dims();
    model.logits(hidden(model).reshape([b * l, d]))
}

fn assert_close<const D: usize>(a: Tensor<D>, b: Tensor<D>) {
    let difference = (a.clone() - b).abs().max().into_scalar::<f32>();
    let scale = a.abs().max().into_scalar::<f32>();
    assert!(scale > 1e-3 && difference <= ROUNDING * scale.max(1.0), "{difference} of {scale}");
}

/// A parameter of a model.
struct Found {
    path: String,
    shape: Vec<usize>,
    numbers: Tensor<1>,
    /// None if it was not asked for, or does not reach the loss.
    gradient: Option<Tensor<1>>,
}

/// All parameters, with their gradients if there are some.
fn parameters(model: &Model, gradients: Option<&Gradients>) -> Vec<Found> {
    struct Find<'a>(Option<&'a Gradients>, Vec<Found>);
    impl EachParameter for Find<'_> {
        fn parameter<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
            let flat = |tensor: Tensor<D>| {
                let count = tensor.shape().num_elements();
                tensor.reshape([count])
            };
            self.1.push(Found {
                path: path.to_owned(),
                shape: param.dims().to_vec(),
                numbers: flat(param.val()),
                gradient: self.0.and_then(|gradients| param.val().grad(gradients)).map(flat),
            });
        }
    }
    let mut find = Find(gradients, vec![]);
    for_each_parameter(model, &mut find);
    find.1
}

/// Paths and shapes of all parameters.
fn paths(model: &Model) -> Vec<(String, Vec<usize>)> {
    parameters(model, None).into_iter().map(|found| (found.path, found.shape)).collect()
}

fn has(model: &Model, path: &str) -> bool {
    paths(model).iter().any(|(found, _)| found == path)
}

#[test]
fn a_plain_model_keeps_the_paths_of_its_parameters() {
    let model = model(json!({"layers": ["attention+mlp"]}));
    for path in [
        "embedding",
        "layers.0.mixer_norm.gamma",
        "layers.0.mixer.query.weight",
        "layers.0.channel_norm.gamma",
        "layers.0.channel.Mlp.up.weight",
        "norm.gamma",
        "head.weight",
    ] {
        assert!(has(&model, path), "no `{path}` in {:?}", paths(&model));
    }
}

#[test]
fn a_norm_is_what_the_setting_says_and_plus_one_is_the_same_norm() {
    let normalised = |changes: Value| {
        // Without layers that change anything the model is its embedding and a norm.
        let mut model = model(changes);
        model.layers.clear();
        let x = model.embedding.val().select(0, tokens(&Device::flex()).flatten::<1>(0, 1)).reshape([2, 7, 16]);
        (hidden(&model), x)
    };
    let (ones, zeros) = (Tensor::ones([16], &Device::flex()), Tensor::zeros([16], &Device::flex()));
    let (y, x) = normalised(json!({"norm_eps": 1e-3}));
    assert_close(y, rms_norm(x, ones.clone(), 1e-3));
    let (y, x) = normalised(json!({"norm": "layer", "norm_eps": 1e-3}));
    assert_close(y, layer_norm(x, ones, Some(zeros), 1e-3));
    for norm in ["rms", "layer"] {
        let [a, b] = [false, true].map(|plus_one| model(json!({"norm": norm, "norm_plus_one": plus_one})));
        assert_close(hidden(&a), hidden(&b));
    }
    assert!(has(&model(json!({"norm": "layer"})), "layers.0.mixer_norm.beta"));
}

#[test]
fn norms_stand_where_they_are_put() {
    let device = Device::flex();
    let at = |placement: &str| model(json!({"layers": ["other"], "norm_placement": placement}));
    let embedded =
        |model: &Model| model.embedding.val().select(0, tokens(&device).flatten::<1>(0, 1)).reshape([2, 7, 16]);
    let norm = |x: Tensor<3>| rms_norm(x, Tensor::ones([16], &device), 1e-5);
    let mix = |model: &Model, x: Tensor<3>| {
        let mixer = model.layers[0].mixer.as_ref().unwrap().base(&model.shared.mixers);
        mixer.forward(x, mixer.state(2, 16, &device)).0
    };
    let pre = at("pre");
    let x = embedded(&pre);
    assert_close(hidden(&pre), norm(x.clone() + mix(&pre, norm(x))));
    let sandwich = at("sandwich");
    let x = embedded(&sandwich);
    assert_close(hidden(&sandwich), norm(x.clone() + norm(mix(&sandwich, norm(x)))));
    let post = at("post");
    let x = embedded(&post);
    assert_close(hidden(&post), norm(x.clone() + mix(&post, x)));
    assert!(!has(&post, "norm.gamma") && has(&sandwich, "layers.0.mixer_out_norm.gamma"));
}

#[test]
fn multipliers_multiply_what_they_are_named_after() {
    let plain = model(json!({}));
    let scaled = |key: &str, value: f64| {
        let mut changes = json!({});
        changes[key] = json!(value);
        model(changes)
    };
    assert_close(logits(&scaled("logit_scale", 0.25)), logits(&plain) * 0.25);
    let capped = logits(&scaled("logit_softcap", 0.1));
    assert_close(capped.clone(), (logits(&plain) / 0.1).tanh() * 0.1);
    assert!(capped.abs().max().into_scalar::<f32>() <= 0.1);
    // Twice the embedding is what doubling the matrix gives.
    let mut doubled = plain.clone();
    doubled.embedding = doubled.embedding.map(|x| x * 2.0);
    assert_close(hidden(&scaled("embedding_scale", 2.0)), hidden(&doubled));
    // A residual multiplier and a mixer's output multiplier are the same in a layer without channel mixer.
    let by_layer = model(json!({"layers": ["other"], "residual_scale": 0.5}));
    let by_mixer = model(json!({"layers": ["other"], "mixer": {"other": {"output_scale": 0.5}}}));
    assert_close(hidden(&by_layer), hidden(&by_mixer));
    assert!(has(&model(json!({"head_bias": true})), "head.bias"));
}

#[test]
fn a_layer_may_be_a_channel_mixer_alone() {
    let whole = model(json!({"layers": ["attention+mlp"]}));
    // The same draws in the same order, only cut in two layers.
    let halves = model(json!({"layers": ["attention", "+mlp"]}));
    assert_close(hidden(&whole), hidden(&halves));
    assert_eq!(halves.state_bytes(7), whole.state_bytes(7));
}

#[test]
fn parallel_mixers_add_up() {
    let device = Device::flex();
    let scales = json!({
        "attention": {"input_scale": 2.0, "output_scale": 0.5},
        "other": {"output_scale": 0.25, "output_norm": true},
    });
    let model = model(json!({"layers": ["attention|other"], "mixer": scales}));
    let alone = |name: &str| {
        // The parts draw in their order, so each can be cut out of the same stream by what stands before it.
        let config = config(json!({}));
        let mut init = Init::new(3, &device);
        let _ = init.normal([VOCAB, 16], 1.0);
        let registry = MixerRegistry::default();
        let first = registry.build(&config.mixer["attention"], 16, &mut init).unwrap();
        let second = registry.build(&config.mixer["other"], 16, &mut init).unwrap();
        if name == "attention" { first } else { second }
    };
    let ones = || Tensor::ones([16], &device);
    let x = model.embedding.val().select(0, tokens(&device).flatten::<1>(0, 1)).reshape([2, 7, 16]);
    let input = rms_norm(x.clone(), ones(), 1e-5);
    let run = |name: &str, scale: f64| {
        let mixer = alone(name);
        mixer.forward(input.clone() * scale, mixer.state(2, 16, &device)).0
    };
    let mixed = run("attention", 2.0) * 0.5 + rms_norm(run("other", 1.0), ones(), 1e-5) * 0.25;
    assert_close(hidden(&model), rms_norm(x + mixed, ones(), 1e-5));
    let bytes = |name: &str| alone(name).state_bytes(7, 16);
    assert_eq!(model.state_bytes(7), bytes("attention") + bytes("other"));
}

#[test]
fn any_structure_decodes_as_it_reads_and_holds_the_state_it_claims() {
    let device = Device::flex();
    for changes in [
        json!({"layers": ["attention|mamba+mlp", "+experts", "other"]}),
        json!({"layers": ["mamba", "attention+mlp", "attention+mlp"], "mixer": {"attention": {"shared": true}}}),
        json!({"norm_placement": "sandwich", "norm": "layer", "residual_scale": 0.3, "embedding_scale": 4.0}),
        json!({"norm_placement": "post", "tied": true, "logit_softcap": 2.0}),
    ] {
        let model = model(changes);
        let mut state = model.state(2, &device);
        let mut outputs = vec![];
        for t in 0..7 {
            let (y, next) = model.forward(tokens(&device).narrow(1, t, 1), state);
            outputs.push(y);
            state = next;
        }
        assert_close(hidden(&model), Tensor::cat(outputs, 1));
        assert_eq!(state.bytes() as u64, 2 * model.state_bytes(7));
    }
}

#[test]
fn what_cannot_be_is_refused_by_its_key() {
    let refused = |changes: Value, key: &str, part: &str| {
        let error = build(&config(changes), &Device::flex()).unwrap_err();
        assert_eq!(error.key(), key, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    refused(json!({"logit_scale": 0.0}), "model.logit_scale", "1 changes nothing");
    refused(json!({"logit_softcap": -1.0}), "model.logit_softcap", "leave it out");
    refused(json!({"head_bias": true, "tied": true}), "model.head_bias", "tied = false");
    refused(json!({"layers": ["+none"]}), "model.layers", "layer `+none` computes nothing");
    refused(json!({"layers": ["attention|nowhere"]}), "model.layers", "names `nowhere`");
    let mixer = |settings: Value| json!({"mixer": {"attention": settings}});
    refused(mixer(json!({"output_scale": 0.0})), "model.mixer.attention.output_scale", "no multiplier");
    refused(mixer(json!({"shared": 3})), "model.mixer.attention.shared", "invalid type");
    refused(mixer(json!({"heads": 2, "window": "wide"})), "model.mixer.attention.window", "invalid type");
    refused(mixer(json!({"hats": 2})), "model.mixer.attention.hats", "unknown field");
    refused(json!({"channel": {"mlp": {"activation": "elu"}}}), "model.channel.mlp.activation", "unknown variant");
    refused(mixer(json!({"adapter_rank": 2})), "model.mixer.attention.adapter_rank", "shared = true");
    refused(mixer(json!({"shared": true, "adapter_rank": 0})), "model.mixer.attention.adapter_rank", "rank 0");
    let beside = json!({"layers": ["mamba|attention"], "mixer": {"attention": {"shared": true}}});
    refused(beside, "model.mixer.attention.shared", "mixers beside it");
    refused(json!({"channel": {"mlp": {"adapter_rank": 2}}}), "model.channel.mlp.adapter_rank", "shared = true");
}
