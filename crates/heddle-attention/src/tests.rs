//! What all variants of attention promise, and which of them are the same.

use burn::tensor::{Device, Tensor, TensorData};
use heddle_kernels::{Init, Mixer, MixerSettings, MixerState, sigmoid_mul};

use crate::{Attention, AttentionSettings, Positions, RopeScaling, Sparsity};

const WIDTH: usize = 32;
const LENGTH: usize = 23;

/// Chunked and whole sum in other orders; values are of order one.
const ROUNDING: f32 = 2e-5;

fn settings() -> AttentionSettings {
    AttentionSettings { heads: 4, ..Default::default() }
}

/// One setting away from the default each.
fn variants() -> Vec<AttentionSettings> {
    let dilated = Sparsity::Dilated { block: 3, window: 2, dilation: 2 };
    let bigbird = Sparsity::Bigbird { block: 2, window: 1, global: 1, random: 2, seed: 3 };
    let llama = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    vec![
        AttentionSettings { kv_heads: Some(2), ..settings() },
        AttentionSettings { kv_heads: Some(1), head_dim: Some(10), ..settings() },
        AttentionSettings { window: Some(1), ..settings() },
        AttentionSettings { window: Some(6), ..settings() },
        AttentionSettings { window: Some(4), sinks: 3, ..settings() },
        AttentionSettings { window: Some(5), positions: Positions::Alibi, kv_heads: Some(2), ..settings() },
        AttentionSettings { sparsity: Some(dilated), ..settings() },
        AttentionSettings { sparsity: Some(bigbird), kv_heads: Some(2), ..settings() },
        AttentionSettings { sparsity: Some(Sparsity::Strided { block: 2, window: 2, stride: 3 }), ..settings() },
        AttentionSettings { positions: Positions::None, ..settings() },
        AttentionSettings { positions: Positions::Alibi, ..settings() },
        AttentionSettings { positions: Positions::Learned, max_length: LENGTH, ..settings() },
        AttentionSettings { positions: Positions::Sinusoidal, ..settings() },
        AttentionSettings { rope_fraction: 0.5, rope_scaling: Some(llama), ..settings() },
        AttentionSettings { rope_scaling: Some(RopeScaling::Linear { factor: 4.0 }), ..settings() },
        AttentionSettings { qk_norm: true, softcap: Some(5.0), ..settings() },
        AttentionSettings { output_gate: true, bias: true, output_bias: true, ..settings() },
    ]
}

fn build(settings: &AttentionSettings, device: &Device) -> Attention {
    settings.init(WIDTH, &mut Init::new(1, device)).unwrap()
}

fn sequence(device: &Device) -> Tensor<3> {
    let mut init = Init::new(2, device);
    let values: Vec<f32> = (0..2 * LENGTH * WIDTH).map(|_| init.draw_normal()).collect();
    Tensor::from_data(TensorData::new(values, [2, LENGTH, WIDTH]), device)
}

fn numbers(x: &Tensor<3>) -> Vec<f32> {
    x.to_data().try_to_vec().unwrap()
}

#[track_caller]
fn assert_same(name: &str, a: &Tensor<3>, b: &Tensor<3>) {
    let pairs: Vec<_> = numbers(a).into_iter().zip(numbers(b)).collect();
    assert!(pairs.iter().all(|(a, b)| (a - b).abs() < ROUNDING), "{name}");
}

/// The outputs of a sequence in chunks, after checking the state of each against its cost.
fn chunked(block: &Attention, x: &Tensor<3>, lengths: &[usize]) -> Tensor<3> {
    let (mut state, mut start, mut outputs) = (block.state(2, WIDTH, &x.device()), 0, vec![]);
    for length in lengths {
        let (y, next) = block.forward(x.clone().narrow(1, start, *length), state);
        (state, start) = (next, start + length);
        assert_eq!(state.bytes() as u64, 2 * block.state_bytes(start, WIDTH), "after {start} tokens");
        assert_eq!(state.seen(), start);
        outputs.push(y);
    }
    Tensor::cat(outputs, 1)
}

#[test]
fn chunks_and_single_tokens_give_the_whole_in_every_variant() {
    let device = Device::flex();
    let x = sequence(&device);
    for settings in variants() {
        let block = build(&settings, &device);
        let whole = chunked(&block, &x, &[LENGTH]);
        for lengths in [&[1; LENGTH][..], &[10, 13], &[22, 1], &[3, 1, 7, 12]] {
            assert_same(&format!("{settings:?} {lengths:?}"), &whole, &chunked(&block, &x, lengths));
        }
    }
}

#[test]
fn every_parameter_of_every_variant_learns_through_chunks() {
    use burn::module::{ModuleVisitor, Param};
    struct Learns<'a>(&'a burn::tensor::Gradients, usize);
    impl ModuleVisitor for Learns<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(self.0).expect("a parameter gets a gradient");
            assert!(gradient.abs().sum().into_scalar::<f32>() > 0.0);
            self.1 += 1;
        }
    }
    let device = Device::flex().autodiff();
    let x = sequence(&device);
    for settings in variants() {
        let block = build(&settings, &device);
        let gradients = chunked(&block, &x, &[9, 1, 13]).powi_scalar(2).sum().backward();
        let mut learns = Learns(&gradients, 0);
        burn::module::Module::visit(&block, &mut learns);
        assert!(learns.1 >= 4, "{settings:?}");
    }
}

#[test]
fn a_window_or_mask_of_everything_is_full_attention() {
    let device = Device::flex();
    let x = sequence(&device);
    let full = chunked(&build(&settings(), &device), &x, &[LENGTH]);
    let all = Sparsity::Strided { block: 4, window: LENGTH, stride: 2 };
    for same in [
        AttentionSettings { window: Some(LENGTH), ..settings() },
        AttentionSettings { sparsity: Some(all), ..settings() },
        AttentionSettings { window: Some(8), sinks: LENGTH, ..settings() },
    ] {
        assert_same(&format!("{same:?}"), &full, &chunked(&build(&same, &device), &x, &[LENGTH]));
    }
    let windowed = AttentionSettings { window: Some(4), ..settings() };
    let windowed = chunked(&build(&windowed, &device), &x, &[LENGTH]);
    assert!((windowed - full).abs().max().into_scalar::<f32>() > 1e-2);
}

/// What the block would give if its mixing were `map` by the values.
fn mixed_by(block: &Attention, x: &Tensor<3>, map: Tensor<4>) -> Tensor<3> {
    let [b, l, _] = x.dims();
    let x = block.placement.add_to(x.clone(), 0);
    let (h, g, p) = (block.heads, block.kv_heads, block.value.weight.dims()[1] / block.kv_heads);
    let values: Tensor<5> = block.value.forward(x.clone()).reshape([b, l, g, 1, p]);
    let values = values.repeat_dim(3, h / g).reshape([b, l, h, p]).swap_dims(1, 2);
    let mixed = map.matmul(values).swap_dims(1, 2).reshape([b, l, h * p]);
    block.output.forward(match &block.gate {
        Some(gate) => sigmoid_mul(gate.forward(x), mixed),
        None => mixed,
    })
}

#[test]
fn the_map_of_every_variant_is_the_weights_of_its_values() {
    let device = Device::flex();
    let x = sequence(&device);
    for settings in variants().into_iter().chain([AttentionSettings { causal: false, ..settings() }]) {
        let block = build(&settings, &device);
        let map = block.attention_map(x.clone(), 0..LENGTH).unwrap();
        assert_eq!(map.dims(), [2, 4, LENGTH, LENGTH]);
        assert!(map.clone().min().into_scalar::<f32>() >= 0.0, "{settings:?}");
        let sums = map.clone().sum_dim(3).squeeze_dim(3);
        assert_same(&format!("sums of {settings:?}"), &sums, &Tensor::ones([2, 4, LENGTH], &device));
        let some = block.attention_map(x.clone(), 9..14).unwrap();
        assert_same(&format!("rows of {settings:?}"), &some.flatten(0, 1), &map.clone().narrow(2, 9, 5).flatten(0, 1));
        let (y, _) = block.forward(x.clone(), Default::default());
        assert_same(&format!("{settings:?}"), &y, &mixed_by(&block, &x, map));
    }
}

#[test]
fn a_map_is_the_softmax_of_the_scores_and_zero_where_nothing_is_seen() {
    let device = Device::flex();
    let x = sequence(&device);
    let windowed = AttentionSettings { window: Some(4), sinks: 3, positions: Positions::None, ..settings() };
    let block = build(&windowed, &device);
    let heads = |map: &burn::nn::Linear| map.forward(x.clone()).reshape([2, LENGTH, 4, 8]).swap_dims(1, 2);
    let scores = heads(&block.query).matmul(heads(&block.key).transpose()) / 8f64.sqrt();
    let seen = |i: usize, j: usize| j <= i && (i - j < 4 || j < 3);
    let seen = (0..LENGTH * LENGTH).map(|at| f32::from(u8::from(seen(at / LENGTH, at % LENGTH)))).collect::<Vec<_>>();
    let seen: Tensor<4> = Tensor::<1>::from_data(seen.as_slice(), &device).reshape([1, 1, LENGTH, LENGTH]);
    let weights = scores.exp() * seen.clone();
    let weights = weights.clone() / weights.sum_dim(3);
    let map = block.attention_map(x.clone(), 0..LENGTH).unwrap();
    assert!((map.clone() - weights).abs().max().into_scalar::<f32>() < 1e-6);
    assert_eq!((map * (seen - 1.0)).abs().max().into_scalar::<f32>(), 0.0);
}

#[test]
#[should_panic(expected = "`rows` 20..24 of 23 tokens; use a range that is not empty and lies within 0..23")]
fn a_map_has_no_rows_beyond_its_tokens() {
    let device = Device::flex();
    build(&settings(), &device).attention_map(sequence(&device), 20..24);
}

#[test]
fn an_encoder_sees_what_comes_later() {
    let device = Device::flex();
    let block = build(&AttentionSettings { causal: false, ..settings() }, &device);
    let x = sequence(&device);
    let changed = x.clone().slice_assign([0..2, LENGTH - 1..LENGTH, 0..WIDTH], Tensor::ones([2, 1, WIDTH], &device));
    let first = |x: &Tensor<3>| numbers(&block.forward(x.clone(), Default::default()).0.narrow(1, 0, 1));
    assert_ne!(first(&x), first(&changed));
}

#[test]
fn fewer_pairs_cost_less() {
    let device = Device::flex();
    let flops = |settings: AttentionSettings| build(&settings, &device).flops(4096, WIDTH);
    let full = flops(settings());
    assert!(flops(AttentionSettings { window: Some(64), ..settings() }) < full / 4);
    let dilated = Sparsity::Dilated { block: 64, window: 4, dilation: 2 };
    assert!(flops(AttentionSettings { sparsity: Some(dilated), ..settings() }) < full / 2);
    assert!(flops(AttentionSettings { causal: false, ..settings() }) > full);
}

/// Draws whose mean is compared with what is computed without dropout.
const DRAWS: usize = 200;

/// Five standard errors or more of how much of the latter is in that mean: a draw is off by a twentieth or less.
const DEVIATION: f32 = 0.02;

#[test]
fn dropout_is_there_in_training_alone_and_changes_no_mean() {
    let (plain, training) = (Device::flex(), Device::flex().autodiff());
    let without = build(&settings(), &plain).forward(sequence(&plain), Default::default()).0;
    let settings = AttentionSettings { dropout: 0.2, ..settings() };
    let block = build(&settings, &training);
    let evaluated = burn::module::Module::valid(&block).forward(sequence(&plain), Default::default()).0;
    assert_eq!(evaluated.into_data(), without.to_data());

    let draw = || block.forward(sequence(&training), Default::default()).0.inner();
    training.seed(5);
    let (first, second) = (draw(), draw());
    assert_ne!(numbers(&first), numbers(&second));
    training.seed(5);
    assert_eq!((numbers(&draw()), numbers(&draw())), (numbers(&first), numbers(&second)));

    let mean = (0..DRAWS).map(|_| draw()).reduce(|sum, y| sum + y).unwrap() / DRAWS as f64;
    let share = (mean * without.clone()).sum() / without.square().sum();
    assert!((share.into_scalar::<f32>() - 1.0).abs() < DEVIATION);
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let refused = |settings: AttentionSettings, key: &str, problem: &str| {
        let error = settings.init(64, &mut Init::new(0, &Device::flex())).unwrap_err();
        assert!(error.key == key && error.problem.contains(problem), "{error}");
    };
    let rope = |theta, fraction| AttentionSettings { rope_theta: theta, rope_fraction: fraction, ..settings() };
    refused(AttentionSettings { heads: 3, ..settings() }, "heads", "3 heads do not divide the width 64 that they read");
    refused(AttentionSettings { kv_heads: Some(3), ..settings() }, "kv_heads", "3 key/value heads do not divide 4");
    refused(AttentionSettings { head_dim: Some(0), ..settings() }, "head_dim", "no width");
    refused(AttentionSettings { head_dim: Some(5), ..settings() }, "heads", "even part of the head's width 5");
    refused(AttentionSettings { window: Some(0), ..settings() }, "window", "sees nothing");
    refused(AttentionSettings { softcap: Some(-1.0), ..settings() }, "softcap", "-1 is no bound");
    for dropout in [1.0, -0.1, f64::NAN] {
        refused(AttentionSettings { dropout, ..settings() }, "dropout", "is no chance");
    }
    refused(AttentionSettings { sinks: 2, ..settings() }, "sinks", "without a window");
    refused(rope(0.0, 1.0), "rope_theta", "0 is no base");
    refused(rope(1e4, 0.0), "rope_fraction", "0 is no part");
    refused(rope(1e4, 0.2), "rope_fraction", "not 3");
    let alibi = AttentionSettings { window: Some(4), sinks: 1, positions: Positions::Alibi, ..settings() };
    refused(alibi, "sinks", "how far");
    let sparse = AttentionSettings {
        window: Some(4),
        sparsity: Some(Sparsity::Dilated { block: 4, window: 1, dilation: 1 }),
        ..settings()
    };
    refused(sparse.clone(), "sparsity", "a window of their own");
    let empty = Some(Sparsity::Dilated { block: 4, window: 1, dilation: 0 });
    refused(AttentionSettings { window: None, sparsity: empty, ..sparse }, "sparsity", "without keys");
    let learned = AttentionSettings { positions: Positions::Learned, max_length: 0, ..settings() };
    refused(learned, "max_length", "no position");
    let linear = AttentionSettings { rope_scaling: Some(RopeScaling::Linear { factor: 0.0 }), ..settings() };
    refused(linear, "rope_scaling", "not positive");
}

#[test]
#[should_panic(expected = "learned positions end at `max_length` = 4, and a sequence of 5 came")]
fn learned_positions_end() {
    let device = Device::flex();
    let block = build(&AttentionSettings { positions: Positions::Learned, max_length: 4, ..settings() }, &device);
    block.forward(Tensor::zeros([1, 5, WIDTH], &device), Default::default());
}
