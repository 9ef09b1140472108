//! What is seen inside is what is computed.

use burn::tensor::{Device, Int, Tensor};
use serde_json::{Value, json};

use super::{HeadTally, Seen};
use crate::{Init, MixerRegistry, Model};

/// Sums in another order; values are of order one.
const ROUNDING: f32 = 2e-5;

fn model(changes: Value) -> Model {
    let mut config = json!({
        "d_model": 16,
        "layers": ["attention+mlp", "mamba2"],
        "mixer": {
            "attention": {"kind": "attention", "heads": 4, "kv_heads": 2},
            "linear": {"kind": "linear_attention", "heads": 2},
            "mamba2": {"kind": "mamba2", "head_dim": 8, "d_state": 4},
            "mamba": {"kind": "mamba", "d_state": 4},
            "delta": {"kind": "gated_delta_net", "heads": 2},
            "lstm": {"kind": "lstm"},
        },
        "channel": {"mlp": {"kind": "mlp"}},
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    let config = serde_json::from_value(config).unwrap();
    Model::new(&config, 11, &MixerRegistry::default(), &mut Init::new(3, &Device::flex())).unwrap()
}

fn tokens() -> Tensor<2, Int> {
    Tensor::from_ints([[1, 5, 2, 9, 0, 3, 3], [7, 7, 1, 0, 10, 4, 8]], &Device::flex())
}

fn differ(a: Tensor<3>, b: Tensor<3>) -> f32 {
    (a - b).abs().max().into_scalar::<f32>()
}

#[test]
fn the_streams_lead_to_what_the_model_computes() {
    for changes in [
        json!({}),
        json!({"norm_placement": "post"}),
        json!({"norm_placement": "sandwich", "residual_scale": 0.5}),
        json!({"layers": ["attention+mlp>mamba2", "mamba"]}),
    ] {
        let model = model(changes.clone());
        let (hidden, _) = model.forward(tokens(), model.state(2, &Device::flex()));
        assert_eq!(differ(model.inspect(tokens()).hidden(), hidden), 0.0, "{changes}");
    }
}

#[test]
fn a_map_is_taken_of_what_the_mixer_reads_within_the_layer() {
    // A layer whose norm stands before the mixer and one whose norm stands behind read other numbers.
    for placement in ["pre", "post"] {
        let model = model(json!({"layers": ["attention"], "norm_placement": placement}));
        let inside = model.inspect(tokens());
        let map = inside.map(0, 0..7).unwrap();
        let layer = &model.layers[0];
        let mixer = layer.mixer.as_ref().unwrap().own().unwrap();
        let x = inside.stream(0);
        let read = if placement == "pre" { layer.mixer_norm.as_ref().unwrap().own().unwrap().forward(x) } else { x };
        assert_eq!(map.into_data(), mixer.attention_map(read, 0..7).unwrap().into_data(), "{placement}");
    }
}

#[test]
fn a_mixer_without_all_its_heads_adds_nothing() {
    for (name, heads) in [("attention", 4), ("linear", 2), ("mamba2", 4), ("delta", 2)] {
        let model = model(json!({"layers": [name]}));
        let none = model.without_mixer(0).unwrap().inspect(tokens()).hidden();
        let some = model.without_head(0, 0).unwrap();
        assert!(differ(some.inspect(tokens()).hidden(), model.inspect(tokens()).hidden()) > 1e-4, "{name}");
        assert!(differ(some.inspect(tokens()).hidden(), none.clone()) > 1e-4, "{name}");
        let all = (0..heads).fold(model.clone(), |model, head| model.without_head(0, head).unwrap());
        assert_eq!(differ(all.inspect(tokens()).hidden(), none), 0.0, "{name}");
        assert!(model.without_head(0, heads).is_none(), "{name}");
    }
    for name in ["mamba", "lstm"] {
        assert!(model(json!({"layers": [name]})).without_head(0, 0).is_none(), "{name}");
    }
}

#[test]
fn what_is_taken_out_is_taken_out_of_one_layer() {
    let model = model(json!({"layers": ["shared * 2"], "mixer": {"shared": {"kind": "attention", "shared": true}}}));
    let hidden = |model: &Model| model.inspect(tokens()).hidden();
    let (first, second) = (model.without_mixer(0).unwrap(), model.without_mixer(1).unwrap());
    // Of two uses of one part either leaves the other.
    assert!(differ(hidden(&first), hidden(&second)) < ROUNDING);
    assert!(differ(hidden(&first), hidden(&model)) > 1e-4);
    let neither = first.without_mixer(1).unwrap();
    assert!(differ(hidden(&neither), hidden(&second)) > 1e-4);
    assert_eq!(neither.inspect(tokens()).stream(0).into_data(), neither.inspect(tokens()).stream(2).into_data());
}

#[test]
fn to_patch_the_only_token_that_differs_is_to_read_the_other_text() {
    let model = model(json!({"layers": ["attention+mlp", "mamba2", "mamba"]}));
    let text = |third: i32| Tensor::<1, Int>::from_ints([1, 5, third, 9], &Device::flex()).unsqueeze();
    let (one, other) = (model.inspect(text(2)), model.inspect(text(7)));
    let patched = one.patched(0, &other);
    assert!(differ(patched.clone().narrow(0, 2, 1), other.hidden()) < ROUNDING);
    // Tokens that are the same change nothing; behind the last layer, a token is its own answer alone.
    assert!(differ(patched.narrow(0, 1, 1), one.hidden()) < ROUNDING);
    let last = one.patched(3, &other);
    assert!(differ(last.clone().narrow(0, 3, 1).narrow(1, 3, 1), other.hidden().narrow(1, 3, 1)) < ROUNDING);
    assert!(differ(last.narrow(0, 2, 1).narrow(1, 3, 1), one.hidden().narrow(1, 3, 1)) < ROUNDING);
}

#[test]
fn a_delta_is_told_of_blocks_that_have_one() {
    for (name, heads) in [("mamba2", Some(4)), ("mamba", Some(32)), ("delta", Some(2)), ("attention", None)] {
        let model = model(json!({"layers": [name]}));
        let delta = model.inspect(tokens()).selection(0);
        assert_eq!(delta.as_ref().map(|delta| delta.dims()), heads.map(|heads| [2, 7, heads]), "{name}");
        let positive = |delta: Tensor<3>| delta.into_data().iter::<f32>().all(|delta| delta > 0.0);
        assert!(delta.is_none_or(positive), "{name}");
    }
}

#[test]
fn heads_of_a_known_kind_score_as_what_they_are() {
    // a b c a b c: token 3 repeats token 0, which token 1 follows.
    let tokens = [0, 1, 2, 0, 1, 2];
    let one_hot = |looks_at: fn(usize) -> usize| {
        (0..36).map(|place| f32::from(u8::from(looks_at(place / 6) == place % 6))).collect::<Vec<f32>>()
    };
    let scores = |map: &[f32]| {
        let mut tally = HeadTally::default();
        tally.add(&Seen { map, rows: &[0, 1, 2, 3, 4, 5], tokens: &tokens, asked: &[(5, 3)] });
        tally.scores()
    };
    let previous = scores(&one_hot(|i| i.saturating_sub(1)));
    assert_eq!((previous.previous, previous.induction, previous.retrieval), (Some(1.0), Some(0.0), Some(0.0)));
    assert_eq!((previous.entropy, previous.distance), (Some(0.0), Some(5.0 / 6.0)));
    let induction = scores(&one_hot(|i| if i >= 3 { i - 2 } else { i }));
    assert_eq!((induction.induction, induction.retrieval, induction.retrieved), (Some(1.0), Some(1.0), Some(1.0)));
    assert_eq!(induction.profile, [0.5, 0.0, 0.5]);
    // Signs and scale do not matter, shares do.
    let negative: Vec<f32> = one_hot(|i| i.saturating_sub(1)).iter().map(|weight| -3.0 * weight).collect();
    assert_eq!(scores(&negative), previous);
}
