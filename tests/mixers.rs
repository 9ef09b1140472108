//! What every mixer promises, for every mixer that is registered: a new one is covered by being registered.

use approx::assert_relative_eq;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use heddle_hybrid::{AnyMixer, AnyState, EachParameter, Init, KindTable, MixerRegistry, for_each_parameter};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::harness::root;

const WIDTH: usize = 16;
const LENGTH: usize = 11;

/// Chunked and whole sum in other orders; values are of order one.
const ROUNDING: f32 = 2e-5;

/// Gradients pass through more products than values do.
const GRADIENT_ROUNDING: f32 = 2e-4;

/// Settings that bring parameters or formulas of their own.
const VARIANTS: [&str; 11] = [
    r#"{"kind": "mamba", "dt_rank": 3, "inner_norm": {"scale": true}}"#,
    r#"{"kind": "mamba", "dt_rank": 3, "inner_norm": {"scale": false}, "bias": true, "conv_bias": false}"#,
    r#"{"kind": "mamba2", "head_dim": 4, "d_state": 8, "dt_limit": [0.002, 0.05]}"#,
    r#"{"kind": "mamba2", "head_dim": 4, "d_state": 8, "bias": true, "conv_bias": false}"#,
    r#"{"kind": "mamba2", "head_dim": 4, "d_state": 8, "gated_norm": "before", "norm_groups": 2}"#,
    r#"{"kind": "mamba2", "d_inner": 24, "head_dim": 4, "d_state": 8, "gated_norm": "none", "part_scales": [1, 2, 3, 0.5, 2]}"#,
    r#"{"kind": "short_conv", "bias": true}"#,
    r#"{"kind": "attention", "heads": 2, "qk_norm": true, "qk_norm_eps": 0.1}"#,
    r#"{"kind": "attention", "heads": 2, "qk_norm": true, "qk_norm_plus_one": true, "score_scale": 0.4}"#,
    r#"{"kind": "attention", "heads": 2, "window": 3, "sinks": 1, "positions": "none"}"#,
    r#"{"kind": "gated_delta_net", "heads": 2, "value_heads": 4, "norm_eps": 0.1}"#,
];

/// The table that a mixer is described by, from its text.
fn table(text: &str) -> KindTable {
    serde_json::from_str(text).unwrap()
}

/// Every registered mixer with default settings, and the variants, by their tables, on both CPU backends with gradients.
fn for_each_mixer(check: impl Fn(&str, &AnyMixer, &Device)) {
    for_each_mixer_on(cpus().map(Device::autodiff), check);
}

#[allow(deprecated, reason = "Burn has deprecated its NdArray backend, which we still support")]
fn cpus() -> [Device; 2] {
    [Device::flex(), Device::ndarray()]
}

fn for_each_mixer_on(devices: [Device; 2], check: impl Fn(&str, &AnyMixer, &Device)) {
    let registry = MixerRegistry::default();
    assert!(registry.kinds().count() >= 2);
    let defaults = registry.kinds().map(|kind| format!(r#"{{"kind": "{kind}"}}"#));
    let all: Vec<String> = defaults.chain(VARIANTS.map(str::to_owned)).collect();
    for device in devices {
        for text in &all {
            let mixer = registry.build(&table(text), WIDTH, &mut Init::new(5, &device)).unwrap();
            check(text, &mixer, &device);
        }
    }
}

fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Runs `x` through the mixer in chunks of these lengths.
fn chunked(mixer: &AnyMixer, x: &Tensor<3>, lengths: &[usize]) -> (Tensor<3>, AnyState) {
    let [b, _, d] = x.dims();
    let mut state = mixer.state(b, d, &x.device());
    let mut outputs = vec![];
    let mut start = 0;
    for length in lengths {
        let (y, next) = mixer.forward(x.clone().slice([0..b, start..start + length, 0..d]), state);
        outputs.push(y);
        state = next;
        start += length;
    }
    (Tensor::cat(outputs, 1), state)
}

fn close(name: &str, a: &Tensor<3>, b: &Tensor<3>, tolerance: f32) {
    let (a, b) = (a.to_data().iter::<f32>().collect::<Vec<_>>(), b.to_data().iter::<f32>().collect::<Vec<_>>());
    let scale = a.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    assert!(scale > 0.0 && scale.is_finite(), "{name}: the outputs are zero or not finite");
    for (a, b) in a.iter().zip(&b) {
        assert_relative_eq!(a / scale, b / scale, epsilon = tolerance);
    }
}

/// Gradients of every parameter and of `x` for the loss Σ weight · y, in the module's order.
fn gradients(mixer: &AnyMixer, lengths: &[usize], device: &Device) -> Vec<(String, Vec<f32>)> {
    struct Collect<'a>(&'a burn::tensor::Gradients, Vec<(String, Vec<f32>)>);
    impl EachParameter for Collect<'_> {
        fn parameter<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
            let grad = param.val().grad(self.0).unwrap_or_else(|| panic!("`{path}` gets no gradient"));
            self.1.push((path.to_owned(), grad.into_data().iter::<f32>().collect()));
        }
    }
    let x = random([2, LENGTH, WIDTH], 1, device).require_grad();
    let (y, _) = chunked(mixer, &x, lengths);
    let grads = (y * random([2, LENGTH, WIDTH], 2, device)).sum().backward();
    let mut collect = Collect(&grads, vec![]);
    for_each_parameter(mixer, &mut collect);
    collect.1.push(("x".into(), x.grad(&grads).expect("x gets a gradient").into_data().iter::<f32>().collect()));
    collect.1
}

#[test]
fn any_split_of_a_sequence_gives_the_outputs_of_the_whole() {
    for_each_mixer(|kind, mixer, device| {
        let x = random([2, LENGTH, WIDTH], 1, device);
        let (whole, _) = chunked(mixer, &x, &[LENGTH]);
        for lengths in [&[1; LENGTH][..], &[4, 7], &[10, 1], &[1, 2, 8]] {
            close(kind, &whole, &chunked(mixer, &x, lengths).0, ROUNDING);
        }
    });
}

/// Where nobody asks for gradients, states grow in place and products of few rows have kernels of their own.
#[test]
fn decoding_without_gradients_gives_the_outputs_of_the_whole() {
    for_each_mixer_on(cpus(), |kind, mixer, device| {
        let x = random([2, LENGTH, WIDTH], 1, device);
        let (whole, _) = chunked(mixer, &x, &[LENGTH]);
        for lengths in [&[1; LENGTH][..], &[4, 7], &[1, 2, 8], &[3, 1, 1, 1, 1, 4]] {
            let (y, state) = chunked(mixer, &x, lengths);
            close(kind, &whole, &y, ROUNDING);
            let bytes = 2 * mixer.state_bytes(LENGTH, WIDTH);
            assert_eq!(state.bytes() as u64, bytes, "{kind} after {lengths:?}");
        }
    });
}

#[test]
fn two_clones_of_a_state_go_on_by_themselves() {
    for_each_mixer_on(cpus(), |kind, mixer, device| {
        let x = random([2, LENGTH, WIDTH], 1, device);
        let (_, state) = chunked(mixer, &x, &[1; LENGTH]);
        // More tokens than any room that there is holds.
        let steps = |mut state: AnyState, seed: u64| {
            let mut outputs = vec![];
            for i in 0..2 * LENGTH as u64 {
                let (y, next) = mixer.forward(random([2, 1, WIDTH], seed + i, device), state);
                outputs.push(y);
                state = next;
            }
            Tensor::cat(outputs, 1).into_data()
        };
        let alone = steps(chunked(mixer, &x, &[1; LENGTH]).1, 100);
        let other = steps(state.clone(), 200);
        assert_eq!(steps(state.clone(), 100), alone, "{kind}: a clone changed the state");
        assert_eq!(steps(state, 100), alone, "{kind}: a clone changed the state");
        assert_ne!(other, alone, "{kind}");
    });
}

#[test]
fn any_split_of_a_sequence_gives_the_gradients_of_the_whole() {
    for_each_mixer(|kind, mixer, device| {
        let whole = gradients(mixer, &[LENGTH], device);
        for lengths in [&[1; LENGTH][..], &[4, 7], &[1, 2, 8]] {
            for ((name, a), (_, b)) in whole.iter().zip(gradients(mixer, lengths, device)) {
                let scale = a.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                assert!(scale > 0.0, "{kind}: the gradient of `{name}` is zero");
                for (a, b) in a.iter().zip(&b) {
                    assert!((a - b).abs() <= GRADIENT_ROUNDING * scale, "{kind}, {lengths:?}: `{name}` {a} became {b}");
                }
            }
        }
    });
}

#[test]
fn a_later_token_changes_no_earlier_output() {
    for_each_mixer(|kind, mixer, device| {
        let x = random([1, LENGTH, WIDTH], 1, device);
        let y = chunked(mixer, &x, &[LENGTH]).0.into_data().iter::<f32>().collect::<Vec<_>>();
        for t in 0..LENGTH {
            let changed = x.clone().slice_assign([0..1, t..t + 1, 0..WIDTH], random([1, 1, WIDTH], 9, device));
            let z = chunked(mixer, &changed, &[LENGTH]).0.into_data().iter::<f32>().collect::<Vec<_>>();
            let (before, after) = (0..t * WIDTH, t * WIDTH..LENGTH * WIDTH);
            assert_eq!(y[before.clone()], z[before], "{kind}: token {t} reached back");
            assert_ne!(y[after.clone()], z[after], "{kind}: token {t} reached nothing");
        }
    });
}

/// The cells of these pass their values through a tanh from token to token.
const WITHOUT_MAP: [&str; 2] = ["gru", "lstm"];

#[test]
fn every_mixer_that_is_linear_in_its_values_has_a_map_which_is_causal() {
    for_each_mixer(|kind, mixer, device| {
        let map = mixer.attention_map(random([2, LENGTH, WIDTH], 1, device), 0..LENGTH);
        let name = table(kind)["kind"].as_str().unwrap().to_owned();
        assert_eq!(map.is_none(), WITHOUT_MAP.contains(&name.as_str()), "{kind}");
        let Some(map) = map else { return };
        let [b, heads, rows, columns] = map.dims();
        assert!((b, rows, columns) == (2, LENGTH, LENGTH) && heads > 0, "{kind}: {:?}", map.dims());
        for (at, weight) in map.into_data().iter::<f32>().enumerate() {
            let (i, j) = (at / LENGTH % LENGTH, at % LENGTH);
            assert!(weight.is_finite(), "{kind}: token {i} takes {weight} of {j}");
            assert!(j <= i || weight == 0.0, "{kind}: token {i} takes {weight} of {j}, which comes later");
            assert!(j != i || weight != 0.0, "{kind}: token {i} takes nothing of itself");
        }
    });
}

#[test]
fn rows_of_a_map_are_those_of_the_whole() {
    for_each_mixer(|kind, mixer, device| {
        let x = random([2, LENGTH, WIDTH], 1, device);
        let Some(map) = mixer.attention_map(x.clone(), 0..LENGTH) else { return };
        for rows in [0..1, 3..8, LENGTH - 1..LENGTH] {
            let some = mixer.attention_map(x.clone(), rows.clone()).expect("the whole has a map");
            assert_eq!(some.dims()[2..], [rows.len(), LENGTH], "{kind}");
            close(kind, &map.clone().narrow(2, rows.start, rows.len()).flatten(0, 1), &some.flatten(0, 1), ROUNDING);
        }
    });
}

#[test]
fn a_later_token_changes_no_earlier_row_of_a_map() {
    for_each_mixer(|kind, mixer, device| {
        let x = random([1, LENGTH, WIDTH], 1, device);
        let changed = x.clone().slice_assign([0..1, 7..8, 0..WIDTH], random([1, 1, WIDTH], 9, device));
        let rows = |x| mixer.attention_map(x, 0..7).map(Tensor::into_data);
        assert_eq!(rows(x), rows(changed), "{kind}: token 7 reached back");
    });
}

#[test]
fn sequences_of_a_batch_do_not_meet() {
    for_each_mixer(|kind, mixer, device| {
        let x = random([3, LENGTH, WIDTH], 1, device);
        let (together, _) = chunked(mixer, &x, &[LENGTH]);
        for row in 0..3 {
            let (alone, _) = chunked(mixer, &x.clone().slice(row..row + 1), &[LENGTH]);
            close(kind, &together.clone().slice(row..row + 1), &alone, ROUNDING);
        }
    });
}

#[test]
fn the_state_holds_the_bytes_that_the_cost_model_says() {
    for_each_mixer(|kind, mixer, device| {
        for length in [1, 5, LENGTH] {
            let (_, state) = chunked(mixer, &random([3, length, WIDTH], 1, device), &[length]);
            assert_eq!(state.bytes() as u64, 3 * mixer.state_bytes(length, WIDTH), "{kind} after {length} tokens");
        }
    });
}

#[test]
fn a_detached_state_passes_values_and_no_gradients() {
    for_each_mixer(|kind, mixer, device| {
        let x = random([1, 4, WIDTH], 1, device).require_grad();
        let (_, state) = chunked(mixer, &x, &[4]);
        let next = random([1, 3, WIDTH], 2, device);
        let (y, _) = mixer.forward(next.clone(), state.clone());
        let (z, _) = mixer.forward(next, state.detach());
        assert_eq!(y.to_data(), z.to_data(), "{kind}");
        assert!(x.grad(&y.sum().backward()).is_some(), "{kind}: the state carries no gradient");
        assert!(x.grad(&z.sum().backward()).is_none(), "{kind}: a detached state carries a gradient");
    });
}

#[test]
fn a_saved_mixer_computes_the_same() {
    for_each_mixer(|kind, mixer, device| {
        let x = random([1, LENGTH, WIDTH], 1, device);
        let record = mixer.clone().into_record();
        let registry = MixerRegistry::default();
        let other = registry.build(&table(kind), WIDTH, &mut Init::new(6, device)).unwrap();
        assert_ne!(chunked(&other, &x, &[LENGTH]).0.into_data(), chunked(mixer, &x, &[LENGTH]).0.into_data());
        let loaded = other.load_record(record);
        assert_eq!(
            chunked(&loaded, &x, &[LENGTH]).0.into_data(),
            chunked(mixer, &x, &[LENGTH]).0.into_data(),
            "{kind}"
        );
    });
}

#[test]
#[should_panic(expected = "the state given to a mixer is not a heddle_ssm::mamba::MambaState")]
fn a_state_of_another_mixer_is_refused() {
    let (registry, device) = (MixerRegistry::default(), Device::flex());
    let build = |kind: &str| {
        let table = KindTable::from_iter([("kind".to_owned(), kind.into())]);
        registry.build(&table, WIDTH, &mut Init::new(0, &device)).unwrap()
    };
    let state = build("attention").state(1, WIDTH, &device);
    build("mamba").forward(random([1, 2, WIDTH], 0, &device), state);
}

/// A table's settings as the docs have them: null stands for one that may be left out.
fn listed(settings: &serde_json::Map<String, Value>, wanted: impl Fn(&str) -> bool) -> String {
    let words = settings.iter().filter(|(key, _)| wanted(key)).map(|(key, value)| match value {
        Value::Null => format!("`{key}`"),
        value => format!("`{key} = {value}`"),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_docs_list_every_mixer_with_all_its_settings() {
    let registry = MixerRegistry::default();
    let docs = std::fs::read_to_string(root().join("docs/blocks.md")).unwrap();
    let all: Vec<(&str, Value)> = registry.kinds().map(|kind| (kind, registry.defaults(kind).unwrap())).collect();
    let common = |key: &str| all.iter().all(|(_, settings)| settings.get(key).is_some());
    let rows = all.iter().map(|(kind, settings)| {
        let settings = settings.as_object().expect("settings are a table");
        format!("| `{kind}` | {} |", listed(settings, |key| !common(key)))
    });
    let every = format!("| every kind | {} |", listed(all[0].1.as_object().unwrap(), common));
    for row in rows.chain([every]) {
        assert!(docs.lines().any(|line| line == row), "docs/blocks.md lacks this row:\n{row}");
    }
    for (kind, _) in &all {
        let row = |line: &str| line.starts_with(&format!("| `{kind}` |")) && line.matches(" | ").count() == 4;
        assert!(docs.lines().any(row), "docs/blocks.md says not what `{kind}` computes");
    }
}
