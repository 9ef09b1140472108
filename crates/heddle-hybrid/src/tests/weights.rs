//! Weights of several uses, how they start, and what they learn from.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor};
use heddle_kernels::cross_entropy_at;
use serde_json::{Value, json};

use super::{Found, ROUNDING, assert_close, build, config, has, hidden, model, parameters, paths, tokens};
use crate::Model;

fn shared(rank: Option<usize>) -> Value {
    json!({
        "layers": ["attention+mlp", "mamba", "attention+mlp"],
        "mixer": {"attention": {"shared": true, "adapter_rank": rank}},
        "channel": {"mlp": {"shared": true, "adapter_rank": rank}},
    })
}

#[test]
fn a_shared_part_is_one_set_of_weights_that_learns_from_every_use() {
    let device = Device::flex().autodiff();
    let tied = build(&config(shared(None)), &device).unwrap();
    let once = model(json!({"layers": ["attention+mlp", "mamba"]}));
    assert_eq!(tied.num_params(), once.num_params() + 2 * 16, "two more norms");

    // The gradient of the shared weight is the sum of those of two equal copies.
    let loss = |model: &Model| {
        let (hidden, _) = model.forward(tokens(&device), model.state(2, &device));
        let logits = model.logits(hidden.reshape([14, 16]));
        cross_entropy_at(logits, tokens(&device).flatten::<1>(0, 1))
    };
    let weight = |model: &Model, layer: usize| {
        let mixer = model.layers[layer].mixer.as_ref().unwrap().base(&model.shared.mixers).clone();
        gradient_source(&mixer)
    };
    let mut copies = tied.clone();
    for layer in [0, 2] {
        let mixer = tied.layers[0].mixer.as_ref().unwrap().base(&tied.shared.mixers).clone().fork(&device);
        copies.layers[layer].mixer = Some(crate::shared::Slot::Own(mixer));
    }
    let (a, b) = (loss(&tied), loss(&copies));
    assert_close(a.clone(), b.clone());
    let (from_shared, from_copies) = (a.backward(), b.backward());
    let sum = weight(&copies, 0).grad(&from_copies).unwrap() + weight(&copies, 2).grad(&from_copies).unwrap();
    assert_close(weight(&tied, 0).grad(&from_shared).unwrap() * 100.0, sum * 100.0);
}

/// The first matrix of a module.
fn gradient_source<M: Module>(module: &M) -> Tensor<2> {
    struct First(Option<Tensor<2>>);
    impl ModuleVisitor for First {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value: Box<dyn core::any::Any> = Box::new(param.val());
            if let (None, Ok(matrix)) = (&self.0, value.downcast::<Tensor<2>>()) {
                self.0 = Some(*matrix);
            }
        }
    }
    let mut first = First(None);
    module.visit(&mut first);
    first.0.expect("a mixer has a matrix")
}

#[test]
fn an_adapter_starts_at_nothing_and_tells_uses_apart_once_it_is_trained() {
    let (plain, mut adapted) = (model(shared(None)), model(shared(Some(3))));
    // Other parts are drawn after the adapters; what is shared is drawn before.
    adapted.layers[1] = plain.layers[1].clone();
    adapted.head = plain.head.clone();
    adapted.shared.channels = plain.shared.channels.clone();
    assert_close(hidden(&plain), hidden(&adapted));
    let path = "layers.2.mixer.adapter.maps.0.up.weight";
    assert!(has(&adapted, path), "{:?}", paths(&adapted));
    assert_eq!(
        adapted.num_params() - plain.num_params(),
        // Query, key, value, output, and the two maps of the plain feed-forward layer, at two places each.
        2 * 3 * (4 * (16 + 16) + 2 * (16 + 64))
    );
    let device = Device::flex().autodiff();
    let model = build(&config(shared(Some(3))), &device).unwrap();
    let (hidden, _) = model.forward(tokens(&device), model.state(2, &device));
    let gradients = model.logits(hidden.reshape([14, 16])).square().mean().backward();
    let all = parameters(&model, Some(&gradients));
    assert_eq!(all.len(), paths(&model).len());
    for Found { path, gradient, .. } in all {
        let gradient = gradient.unwrap_or_else(|| panic!("`{path}` gets no gradient"));
        let size = gradient.abs().max().into_scalar::<f32>();
        // While one factor of a product is zero the other one cannot learn.
        assert_eq!(size > 0.0, !(path.contains("maps") && path.ends_with("down.weight")), "`{path}`: {size}");
    }
}

#[test]
fn gradients_by_layer_are_the_gradients() {
    let device = Device::flex().autodiff();
    for (changes, exact) in [
        (json!({"layers": ["attention+mlp", "mamba", "mamba|other"]}), true),
        (json!({"layers": ["attention", "+experts", "mamba+experts"], "tied": true, "norm_placement": "post"}), false),
        (shared(Some(2)), false),
        (super::feeds::fed(), false),
    ] {
        let model = build(&config(changes), &device).unwrap();
        let loss = |hidden: Tensor<3>| {
            let logits = model.logits(hidden.reshape([14, 16]));
            cross_entropy_at(logits, tokens(&device).flatten::<1>(0, 1))
        };
        let (hidden, _, routed) = model.forward_routed(tokens(&device), model.state(2, &device));
        let whole = loss(hidden);
        let objective = routed.iter().fold(whole.clone(), |sum, layer| sum + layer.routing.loss.clone());
        let gradients = objective.backward();
        let by_layer = model.gradients_by_layer(tokens(&device), loss);
        assert_eq!(by_layer.loss.into_data(), whole.into_data());
        assert_eq!(by_layer.routed.len(), routed.len());
        for (a, b) in by_layer.routed.iter().zip(&routed) {
            assert_eq!((a.layer, &a.routing.counts), (b.layer, &b.routing.counts));
        }
        struct Compare<'a>(&'a Gradients, &'a burn::optim::GradientsParams, bool, usize);
        impl ModuleVisitor for Compare<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let (a, b) = (param.val().grad(self.0), self.1.get::<D>(param.id));
                let Some(a) = a else { return assert!(b.is_none()) };
                let b = b.expect("a gradient");
                match self.2 {
                    true => assert_eq!(a.into_data(), b.into_data()),
                    false => {
                        let scale = a.clone().abs().max().into_scalar::<f32>();
                        let difference = (a - b).abs().max().into_scalar::<f32>();
                        assert!(difference <= ROUNDING * scale.max(1e-3), "{difference} of {scale}");
                    }
                }
                self.3 += 1;
            }
        }
        let mut compare = Compare(&gradients, &by_layer.gradients, exact, 0);
        model.visit(&mut compare);
        assert!(compare.3 > 10);
    }
}

#[test]
#[should_panic(expected = "model: gradients by layer and dropout in the mixer of layer 1 exclude each other")]
fn a_layer_that_would_draw_anew_is_not_computed_again() {
    let device = Device::flex().autodiff();
    let attention = json!({"kind": "attention", "dropout": 0.1});
    let changes = json!({"layers": ["mamba", "mamba|attention"], "mixer": {"attention": attention}});
    let model = build(&config(changes), &device).unwrap();
    model.gradients_by_layer(tokens(&device), |hidden| hidden.mean());
}

/// The standard deviation of every parameter, by its path.
fn deviations(model: &Model) -> std::collections::BTreeMap<String, f32> {
    let deviation = |numbers: Tensor<1>| numbers.square().mean().into_scalar::<f32>().sqrt();
    parameters(model, None).into_iter().map(|found| (found.path, deviation(found.numbers))).collect()
}

#[test]
fn outputs_of_deep_models_start_smaller_and_nothing_else_changes() {
    let layers = json!({"layers": ["attention+mlp", "mamba", "+experts", "mamba+none"]});
    let plain = model(layers.clone());
    let mut scaled = layers;
    scaled["depth_scaled_init"] = json!(true);
    let device = Device::flex().autodiff();
    let scaled = build(&config(scaled), &device).unwrap();
    let (plain, deep) = (deviations(&plain), deviations(&scaled));
    let smaller = |path: &String| (deep[path] / plain[path] - 5f32.sqrt().recip()).abs() < 1e-5;
    let outputs: Vec<&String> = plain.keys().filter(|path| smaller(path)).collect();
    // Attention, the feed-forward layer, three experts and two of Mamba.
    assert_eq!(outputs.len(), 7, "{outputs:?}");
    assert!(plain.keys().all(|path| smaller(path) || deep[path] == plain[path]));
    // They learn like any other parameter.
    let (hidden, _) = scaled.forward(tokens(&device), scaled.state(2, &device));
    let gradients = scaled.logits(hidden.reshape([14, 16])).square().mean().backward();
    let output = gradient_of(&scaled, "layers.0.mixer.output.weight", &gradients);
    assert!(output > 0.0);
}

#[test]
fn what_feeds_a_layer_starts_as_it_is_and_a_map_behind_a_part_starts_smaller_in_its_place() {
    let smaller = |changes: Value| {
        let mut scaled = changes.clone();
        scaled["depth_scaled_init"] = json!(true);
        let device = Device::flex().autodiff();
        let (plain, deep) = (deviations(&model(changes)), deviations(&build(&config(scaled), &device).unwrap()));
        plain.keys().filter(|path| deep[*path] < 0.9 * plain[*path]).cloned().collect::<Vec<_>>()
    };
    let outputs = [
        "layers.0.mixer.out_proj.weight",
        "layers.1.mixer.out_proj.weight",
        "layers.2.channel.Mlp.down.weight",
        "layers.2.mixer.out_proj.weight",
    ];
    assert_eq!(smaller(super::feeds::fed()), outputs);
    let mapped = json!({
        "layers": ["attention>mamba", "attention"],
        "mixer": {"attention": {"shared": true, "output_map": true}},
    });
    assert_eq!(smaller(mapped), ["layers.0.mixer.out_proj.weight", "layers.1.mixer.output_map.weight"]);
    let both = json!({"layers": ["attention>mamba", "attention"], "mixer": {"attention": {"shared": true}}});
    assert_eq!(smaller(both), ["layers.0.mixer.out_proj.weight", "shared.mixers.0.output.weight"]);
}

/// Size of the gradient of the parameter at `path`.
fn gradient_of(model: &Model, path: &str, gradients: &Gradients) -> f32 {
    let found = parameters(model, Some(gradients)).into_iter().find(|found| found.path == path);
    let gradient = found.and_then(|found| found.gradient).expect("the parameter has a gradient");
    gradient.abs().sum().into_scalar::<f32>()
}
