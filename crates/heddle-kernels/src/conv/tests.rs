use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::testing::sequence::{assert_outputs_count_alone, assert_pieces_equal_the_whole};
use crate::testing::{
    Passes, Random, VALUES, assert_gradients_near, assert_near, devices, differences, on_threads, outputs, passes, wide,
};

/// `[b, l, e, k]`: lengths below, at and above the filter's, channels that fill no vector, one vector, and more than one.
const SHAPES: [[usize; 4]; 8] = [
    [1, 1, 1, 2],
    [2, 1, 16, 4],
    [1, 2, 17, 4],
    [2, 3, 33, 4],
    [3, 75, 40, 4],
    [1, 64, 5, 2],
    [2, 65, 20, 3],
    [9, 33, 24, 7],
];

type Convolver = fn(ConvInput, Tensor<3>) -> (Tensor<3>, Tensor<3>);

/// Whether there is a bias, and whether there is a SiLU.
const FORMS: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

/// `x, weight, bias, state`
fn sample([b, l, e, k]: [usize; 4], random: &mut Random) -> Vec<Vec<f32>> {
    let mut draw = |count| random.floats(count, -1.0, 1.0);
    vec![draw(b * l * e), draw(e * k), draw(e), draw(b * (k - 1) * e)]
}

/// Gradients of `y` and of the last state.
fn sample_upstream([b, l, e, k]: [usize; 4], random: &mut Random) -> Vec<Vec<f32>> {
    vec![random.floats(b * l * e, -1.0, 1.0), random.floats(b * (k - 1) * e, -1.0, 1.0)]
}

fn unflatten([b, l, e, k]: [usize; 4], (bias, silu): (bool, bool), x: &[Tensor<1>]) -> (ConvInput, Tensor<3>) {
    let input = ConvInput {
        x: x[0].clone().reshape([b, l, e]),
        weight: x[1].clone().reshape([e, k]),
        bias: bias.then(|| x[2].clone()),
        silu,
    };
    (input, x[3].clone().reshape([b, k - 1, e]))
}

fn flat(convolver: Convolver, shape: [usize; 4], form: (bool, bool)) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    move |x| {
        let (input, state) = unflatten(shape, form, x);
        let (y, state) = convolver(input, state);
        vec![y.flatten(0, 2), state.flatten(0, 2)]
    }
}

/// The definition in plain loops.
fn oracle([b, l, e, k]: [usize; 4], (bias, silu): (bool, bool), inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [x, weight, biases, state] = inputs else { panic!("four inputs") };
    let row = |i: usize, r: usize, c: usize| match r.checked_sub(k - 1) {
        Some(t) => x[(i * l + t) * e + c],
        None => state[(i * (k - 1) + r) * e + c],
    };
    let mut y = Vec::new();
    let mut last = Vec::new();
    for i in 0..b {
        for t in 0..l {
            for c in 0..e {
                let sum: f64 = (0..k).map(|j| weight[c * k + j] * row(i, t + j, c)).sum();
                let sum = sum + if bias { biases[c] } else { 0.0 };
                y.push(if silu { sum / (1.0 + (-sum).exp()) } else { sum });
            }
        }
        last.extend((l..l + k - 1).flat_map(|r| (0..e).map(move |c| (r, c))).map(|(r, c)| row(i, r, c)));
    }
    vec![y, last]
}

fn run(
    shape: [usize; 4],
    form: (bool, bool),
    convolver: Convolver,
    inputs: &[Vec<f32>],
    upstream: &[Vec<f32>],
) -> Passes {
    passes(&Device::flex(), inputs, upstream, flat(convolver, shape, form))
}

#[test]
fn the_definition_and_the_kernel_compute_the_sum() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let inputs = sample(shape, &mut Random::new(seed as u64));
        for (form, device) in FORMS.into_iter().flat_map(|form| devices().into_iter().map(move |device| (form, device)))
        {
            let truth = oracle(shape, form, &wide(&inputs));
            for convolver in [causal_conv as Convolver, causal_conv_by_definition] {
                let results = outputs(&device, &inputs, flat(convolver, shape, form));
                assert_near(&format!("{shape:?} {form:?}"), &results, &truth, VALUES);
            }
        }
    }
}

#[test]
fn the_gradients_are_those_of_the_definition() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
        for (form, device) in FORMS.into_iter().flat_map(|form| devices().into_iter().map(move |device| (form, device)))
        {
            let kernel = passes(&device, &inputs, &upstream, flat(causal_conv, shape, form));
            let definition = passes(&device, &inputs, &upstream, flat(causal_conv_by_definition, shape, form));
            assert_gradients_near(&format!("{shape:?} {form:?}"), &kernel.gradients, &wide(&definition.gradients));
        }
    }
}

#[test]
fn the_gradients_are_those_of_the_sum_in_f64() {
    for shape in [[1, 1, 2, 3], [2, 5, 3, 4], [1, 34, 17, 2]] {
        let mut random = Random::new(5);
        let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
        for silu in [true, false] {
            let truth = differences(&inputs, &upstream, |x| oracle(shape, (true, silu), x));
            let kernel = run(shape, (true, silu), causal_conv, &inputs, &upstream);
            assert_gradients_near(&format!("{shape:?} {silu}"), &kernel.gradients, &truth);
        }
    }
}

#[test]
fn a_loss_of_only_one_output_has_the_gradients_of_that_output() {
    let (shape, form) = ([2, 37, 20, 4], (true, true));
    let mut random = Random::new(6);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let definition = flat(causal_conv_by_definition, shape, form);
    assert_outputs_count_alone(&inputs, &upstream, flat(causal_conv, shape, form), definition);
}

#[test]
fn any_split_with_carried_state_equals_the_whole_in_values_and_gradients() {
    let (shape @ [b, l, _, _], form) = ([2, 38, 19, 4], (true, true));
    let mut random = Random::new(8);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let pieces = |cut: usize| {
        move |x: &[Tensor<1>]| {
            let (whole, state) = unflatten(shape, form, x);
            let piece =
                |from: usize, to: usize| ConvInput { x: whole.x.clone().slice([0..b, from..to]), ..whole.clone() };
            let (first, state) = causal_conv(piece(0, cut), state);
            let (second, state) = causal_conv(piece(cut, l), state);
            vec![Tensor::cat(vec![first, second], 1).flatten(0, 2), state.flatten(0, 2)]
        }
    };
    let whole = flat(causal_conv, shape, form);
    assert_pieces_equal_the_whole(&inputs, &upstream, whole, &[1, 2, 3, 4, 32, 37], pieces);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for shape in [[1, 300, 256, 4], [3, 200, 100, 4], [8, 64, 128, 3]] {
        let mut random = Random::new(9);
        let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
        let on = |threads| on_threads(threads, || run(shape, (true, true), causal_conv, &inputs, &upstream).bits());
        assert!(on(1) == on(2) && on(1) == on(3), "{shape:?}");
    }
}

#[test]
fn every_instruction_set_computes_the_same() {
    let shape = [2, 75, 40, 4];
    let mut random = Random::new(10);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let with = |level: Level| level.force(|| run(shape, (true, true), causal_conv, &inputs, &upstream));
    let [portable, others @ ..] = &Level::supported()[..] else { panic!("the portable level is always there") };
    let portable = with(*portable);
    for level in others {
        let other = with(*level);
        assert_near(&format!("{level:?}"), &other.outputs, &wide(&portable.outputs), VALUES);
        assert_gradients_near(&format!("{level:?}"), &other.gradients, &wide(&portable.gradients));
    }
}

#[test]
fn huge_and_denormal_inputs_stay_finite() {
    let shape = [1, 40, 18, 4];
    let mut random = Random::new(11);
    let upstream = sample_upstream(shape, &mut random);
    for scale in [1e-42, 1e4, 1e30] {
        let mut inputs = sample(shape, &mut random);
        inputs[0].iter_mut().for_each(|x| *x *= scale);
        let result = run(shape, (true, true), causal_conv, &inputs, &upstream);
        let all = result.outputs.iter().chain(&result.gradients).flatten();
        assert!(all.clone().all(|x| x.is_finite()), "x × {scale}");
        assert_near("values", &result.outputs, &oracle(shape, (true, true), &wide(&inputs)), VALUES);
    }
}

#[test]
#[should_panic(expected = "a convolution needs a filter of at least two weights, not 1")]
fn a_filter_of_one_weight_is_refused() {
    let device = Device::flex();
    let input = ConvInput {
        x: Tensor::zeros([1, 2, 3], &device),
        weight: Tensor::zeros([3, 1], &device),
        bias: None,
        silu: false,
    };
    causal_conv(input, Tensor::zeros([1, 1, 3], &device));
}

#[test]
#[should_panic(expected = "assert_shape!(state, [b, k - 1, e])")]
fn a_state_of_another_filter_is_refused() {
    let device = Device::flex();
    let input = ConvInput {
        x: Tensor::zeros([1, 2, 3], &device),
        weight: Tensor::zeros([3, 4], &device),
        bias: None,
        silu: false,
    };
    causal_conv(input, Tensor::zeros([1, 4, 3], &device));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_kernel_equals_the_definition_at_any_shape(
        b in 1..4_usize, l in 1..70_usize, e in 1..50_usize, k in 2..9_usize, seed in any::<u64>(),
    ) {
        let shape = [b, l, e, k];
        let mut random = Random::new(seed);
        let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
        let kernel = run(shape, (true, true), causal_conv, &inputs, &upstream);
        let definition = run(shape, (true, true), causal_conv_by_definition, &inputs, &upstream);
        assert_near("values", &kernel.outputs, &oracle(shape, (true, true), &wide(&inputs)), VALUES);
        assert_gradients_near("gradients", &kernel.gradients, &wide(&definition.gradients));
    }
}
