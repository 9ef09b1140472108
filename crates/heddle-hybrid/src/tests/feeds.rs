//! Layers that are fed beside the stream.

use burn::tensor::{Device, Tensor};
use heddle_kernels::rms_norm;
use serde_json::{Value, json};

use super::{Found, assert_close, build, config, has, hidden, model, parameters, paths, tokens};
use crate::layer::Layer;
use crate::{Cost, Model};

/// A block of attention and a feed-forward layer that feeds two layers, as Zamba2 has it.
pub(super) fn fed() -> Value {
    json!({
        "layers": ["mamba", "attention+gated>mamba", "attention+gated>other+mlp"],
        "mixer": {"attention": {
            "shared": true, "shared_norm": true, "with_embedding": true,
            "adapter_rank": 2, "adapter_maps": [["query"], ["value"]],
        }},
        "channel": {"gated": {
            "kind": "swiglu", "shared": true, "shared_norm": true, "output_map": true,
            "adapter_rank": 3, "adapter_maps": [["gate", "up"]],
        }},
    })
}

fn with(mut value: Value, key: &str, setting: Value) -> Value {
    value[key] = setting;
    value
}

fn norm(x: Tensor<3>) -> Tensor<3> {
    let width = x.dims()[2];
    let ones = Tensor::ones([width], &x.device());
    rms_norm(x, ones, 1e-5)
}

/// What the parts of a layer make of tokens.
fn mix(model: &Model, layer: &Layer, x: Tensor<3>) -> Tensor<3> {
    let (slot, pool) = (layer.mixer.as_ref().unwrap(), &model.shared.mixers);
    slot.mapped(slot.with(pool, |mixer| mixer.forward(x, mixer.state(2, 16, &Device::flex())).0))
}

fn map(model: &Model, layer: &Layer, x: Tensor<3>) -> Tensor<3> {
    let (slot, pool) = (layer.channel.as_ref().unwrap(), &model.shared.channels);
    slot.mapped(slot.with(pool, |channel| channel.forward(x).0))
}

#[test]
fn a_feed_is_a_chain_whose_result_the_next_part_reads_beside_the_stream() {
    for layers in [json!(["attention+gated>mamba"]), json!(["attention+gated>+mlp"]), json!(["other>other+mlp"])] {
        let model = model(with(fed(), "layers", layers));
        let layer = &model.layers[0];
        let feed = &layer.feed[0];
        let embedding = model.embedding.val().select(0, tokens(&Device::flex()).flatten::<1>(0, 1));
        let e: Tensor<3> = embedding.reshape([2, 7, 16]);
        let read = if feed.with_embedding { Tensor::cat(vec![e.clone(), e.clone()], 2) } else { e.clone() };
        let mut fed = mix(&model, feed, norm(read));
        if feed.channel.is_some() {
            fed = map(&model, feed, norm(fed));
        }
        let x = match (&layer.mixer, &layer.channel) {
            (Some(_), None) => e.clone() + mix(&model, layer, norm(e + fed)),
            (None, _) => e.clone() + map(&model, layer, norm(e + fed)),
            (Some(_), Some(_)) => {
                let x = e.clone() + mix(&model, layer, norm(e + fed));
                x.clone() + map(&model, layer, norm(x))
            }
        };
        assert_close(hidden(&model), norm(x));
    }
}

#[test]
fn a_mixer_of_the_stream_may_read_the_embedding_as_well() {
    let settings = json!({"attention": {"with_embedding": true}});
    let model = model(with(json!({"layers": ["attention", "attention"]}), "mixer", settings));
    let embedding = model.embedding.val().select(0, tokens(&Device::flex()).flatten::<1>(0, 1));
    let e: Tensor<3> = embedding.reshape([2, 7, 16]);
    let mut x = e.clone();
    for layer in &model.layers {
        let read = Tensor::cat(vec![x.clone(), e.clone()], 2);
        x = x + mix(&model, layer, norm(read));
    }
    assert_close(hidden(&model), norm(x));
}

#[test]
fn fed_layers_decode_as_they_read_and_hold_the_state_they_claim() {
    let device = Device::flex();
    for changes in [
        fed(),
        with(fed(), "norm_placement", json!("sandwich")),
        with(fed(), "norm_placement", json!("post")),
        json!({"layers": ["attention|other+experts>mamba+mlp", "other>+mlp"]}),
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
        assert_eq!(state.clone().detach().bytes(), state.bytes());
    }
}

#[test]
fn every_parameter_of_a_fed_model_stands_once_where_it_belongs_and_learns() {
    let device = Device::flex().autodiff();
    let model = build(&config(fed()), &device).unwrap();
    for path in [
        "shared.mixers.0.query.weight",
        "shared.channels.0.SwiGlu.gate.weight",
        "shared.norms.0.gamma",
        "shared.norms.1.gamma",
        "layers.1.feed.0.mixer.adapter.maps.1.up.weight",
        "layers.2.feed.0.channel.adapter.maps.0.up.weight",
        "layers.2.feed.0.channel.output_map.weight",
        "layers.1.mixer_norm.gamma",
    ] {
        assert!(has(&model, path), "no `{path}` in {:?}", paths(&model));
    }
    assert!(!has(&model, "layers.1.feed.0.mixer_norm.gamma"), "the norm is the pool's");
    let shape = |path: &str| paths(&model).into_iter().find(|(found, _)| found == path).map(|(_, shape)| shape);
    assert_eq!(shape("shared.mixers.0.query.weight").unwrap(), [32, 32]);
    assert_eq!(shape("shared.mixers.0.output.weight").unwrap(), [32, 16]);
    assert_eq!(shape("shared.norms.0.gamma").unwrap(), [32]);
    // Two halves of 8/3 · 16 columns, which have the first factor in common.
    assert_eq!(shape("layers.1.feed.0.channel.adapter.maps.0.up.weight").unwrap(), [3, 2 * 43]);
    let (hidden, _) = model.forward(tokens(&device), model.state(2, &device));
    let gradients = model.logits(hidden.reshape([14, 16])).square().mean().backward();
    for Found { path, gradient, .. } in parameters(&model, Some(&gradients)) {
        let gradient = gradient.unwrap_or_else(|| panic!("`{path}` gets no gradient"));
        let size = gradient.abs().max().into_scalar::<f32>();
        // While one factor of a product is zero the other one cannot learn.
        assert_eq!(size > 0.0, !(path.contains("maps") && path.ends_with("down.weight")), "`{path}`: {size}");
    }
}

#[test]
fn a_product_of_several_maps_adds_its_columns_to_each() {
    let mut model = model(with(fed(), "layers", json!(["attention+gated>mamba"])));
    let before = hidden(&model);
    // Without products: they start at zero.
    let slot = model.layers[0].feed[0].channel.as_mut().unwrap();
    let crate::shared::Slot::Shared(used) = slot else { panic!("it is shared") };
    let bare = crate::shared::Use { adapter: None, ..used.clone() };
    *slot = crate::shared::Slot::Shared(bare);
    assert_close(before, hidden(&model));
}

#[test]
fn what_a_feed_costs_is_counted() {
    let (fed, bare) =
        (model(with(fed(), "layers", json!(["attention+gated>mamba"]))), model(json!({"layers": ["mamba"]})));
    let extra = fed.flops(8, 8) - bare.flops(8, 8);
    let (d, l, width) = (16, 8, 43);
    // Attention of heads as wide as both, which reads twice the width.
    let attention = 2 * l * (3 * 2 * d * 2 * d + 2 * d * d) + 4 * 2 * d * (l * (l + 1) / 2);
    let gated = 2 * l * 3 * d * width + 2 * l * d * d;
    // The products, once a pass: queries, values, and gate with up.
    let adapters = 2 * (2 * 2 + 1) * (2 * d * 2 * d) + (2 * 3 + 1) * d * 2 * width;
    assert_eq!(extra as usize, attention + gated + adapters);
    assert_eq!(fed.state_bytes(8) - bare.state_bytes(8), 4 * 2 * 32 * 8);
    let described = config(with(self::fed(), "layers", json!(["attention+gated>mamba"])));
    let cost = Cost::new(&described, &fed, 8);
    assert_eq!(cost.layers[0].name, "attention+gated>mamba");
    assert_eq!(
        cost.parameters as usize,
        paths(&fed).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>()
    );
    assert_eq!(cost.decoding_flops, fed.flops(9, 1) - fed.flops(8, 0) + adapters as u64);
}

#[test]
fn a_feed_that_cannot_be_is_refused_by_its_key() {
    let refused = |changes: Value, key: &str, part: &str| {
        let error = build(&config(changes), &Device::flex()).unwrap_err();
        assert_eq!(error.key(), key, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    let mixer = |settings: Value| json!({"mixer": {"attention": settings}});
    refused(json!({"layers": ["+none>mamba"]}), "model.layers", "layer `+none` computes nothing");
    refused(
        json!({"layers": ["attention+experts>mamba+experts"]}),
        "model.layers",
        "experts in its feed and behind it",
    );
    refused(mixer(json!({"shared_norm": true})), "model.mixer.attention.shared_norm", "shared = true");
    refused(mixer(json!({"output_map": true})), "model.mixer.attention.output_map", "shared = true");
    refused(json!({"mixer": {"mamba": {"with_embedding": true}}}), "model.mixer.mamba.with_embedding", "not of 32");
    let beside = json!({"layers": ["mamba|attention"], "mixer": {"attention": {"with_embedding": true}}});
    refused(beside, "model.mixer.attention.with_embedding", "mixers beside it");
    let maps = |maps: Value| mixer(json!({"shared": true, "adapter_rank": 2, "adapter_maps": maps}));
    refused(maps(json!([["up"]])), "model.mixer.attention.adapter_maps", "no linear maps are called `up`");
    refused(maps(json!([[]])), "model.mixer.attention.adapter_maps", "a list is empty");
    refused(maps(json!([["query", "key"], ["key"]])), "model.mixer.attention.adapter_maps", "`key` is listed twice");
    let alone = mixer(json!({"shared": true, "adapter_maps": [["query"]]}));
    refused(alone, "model.mixer.attention.adapter_maps", "state `adapter_rank`");
    let wide = json!({"channel": {"mlp": {"shared": true, "adapter_rank": 2, "adapter_maps": [["up", "down"]]}}});
    refused(wide, "model.channel.mlp.adapter_maps", "different widths");
}
