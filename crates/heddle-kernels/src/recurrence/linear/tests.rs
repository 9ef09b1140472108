use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::testing::sequence::{
    Suite, assert_finite, assert_outputs_count_alone, assert_pieces_equal_the_whole, assert_strides_are_read,
    assert_wide_numbers_stay_wide, turned,
};
use crate::testing::{Random, VALUES, assert_near, wide};

/// `[b, l, d]`: channels that fill no vector, one vector, and more than one task's.
const SHAPES: [[usize; 3]; 7] =
    [[1, 1, 1], [2, 2, 5], [1, 31, 17], [2, 33, 16], [3, 75, 40], [1, 200, 600], [40, 9, 24]];

type Recur = fn(Tensor<3>, Tensor<3>, Tensor<2>) -> (Tensor<3>, Tensor<2>);

/// `decay, x, state`
fn sample([b, l, d]: [usize; 3], random: &mut Random) -> Vec<Vec<f32>> {
    vec![random.floats(b * l * d, -1.1, 1.1), random.floats(b * l * d, -1.0, 1.0), random.floats(b * d, -1.0, 1.0)]
}

fn sample_upstream([b, l, d]: [usize; 3], random: &mut Random) -> Vec<Vec<f32>> {
    vec![random.floats(b * l * d, -1.0, 1.0), random.floats(b * d, -1.0, 1.0)]
}

fn unflatten(shape @ [b, _, d]: [usize; 3], x: &[Tensor<1>]) -> (Tensor<3>, Tensor<3>, Tensor<2>) {
    (x[0].clone().reshape(shape), x[1].clone().reshape(shape), x[2].clone().reshape([b, d]))
}

fn flat(recur: Recur, shape: [usize; 3]) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    move |x| {
        let (decay, x, state) = unflatten(shape, x);
        let (h, last) = recur(decay, x, state);
        vec![h.flatten(0, 2), last.flatten(0, 1)]
    }
}

/// The definition in plain loops.
fn oracle([b, l, d]: [usize; 3], inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [decay, x, state] = inputs else { panic!("three inputs") };
    let mut last = state.clone();
    let mut h = vec![0.0; b * l * d];
    for i in 0..b {
        for t in 0..l {
            for c in 0..d {
                let token = (i * l + t) * d + c;
                last[i * d + c] = decay[token] * last[i * d + c] + x[token];
                h[token] = last[i * d + c];
            }
        }
    }
    vec![h, last]
}

#[test]
fn the_kernel_is_the_recurrence() {
    let suite = Suite {
        shapes: &SHAPES,
        sample,
        sample_upstream,
        kernel: |shape| flat(linear_recurrence, shape),
        definition: |shape| flat(linear_recurrence_by_definition, shape),
        oracle,
        differences_below: 2000,
    };
    suite.assert_held();
}

#[test]
fn a_loss_of_only_one_output_has_the_gradients_of_that_output() {
    let shape = [2, 35, 20];
    let mut random = Random::new(6);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let definition = flat(linear_recurrence_by_definition, shape);
    assert_outputs_count_alone(&inputs, &upstream, flat(linear_recurrence, shape), definition);
}

#[test]
fn any_split_with_carried_state_equals_the_whole_in_values_and_gradients() {
    let shape @ [b, l, d] = [2, 38, 19];
    let mut random = Random::new(8);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let pieces = |cut: usize| {
        move |x: &[Tensor<1>]| {
            let (decay, x, state) = unflatten(shape, x);
            let piece = |x: &Tensor<3>, from: usize, to: usize| x.clone().slice([0..b, from..to, 0..d]);
            let (first, state) = linear_recurrence(piece(&decay, 0, cut), piece(&x, 0, cut), state);
            let (second, state) = linear_recurrence(piece(&decay, cut, l), piece(&x, cut, l), state);
            vec![Tensor::cat(vec![first, second], 1).flatten(0, 2), state.flatten(0, 1)]
        }
    };
    assert_pieces_equal_the_whole(&inputs, &upstream, flat(linear_recurrence, shape), &[1, 2, 31, 32, 37], pieces);
}

#[test]
fn extreme_decays_and_inputs_stay_finite() {
    let shape = [1, 40, 18];
    let mut random = Random::new(11);
    let upstream = sample_upstream(shape, &mut random);
    for (decays, inputs_scale) in [(0.0, 1.0), (1e-42, 1.0), (0.9, 1e-42), (0.9, 1e4), (1.0, 1e30)] {
        let mut inputs = sample(shape, &mut random);
        inputs[0].iter_mut().for_each(|a| *a *= decays);
        inputs[1].iter_mut().for_each(|x| *x *= inputs_scale);
        let name = format!("decay × {decays}, x × {inputs_scale}");
        let result = assert_finite(&name, &inputs, &upstream, flat(linear_recurrence, shape));
        assert_near(&name, &result.outputs, &oracle(shape, &wide(&inputs)), VALUES);
    }
}

#[test]
fn a_decay_that_is_the_same_for_all_tokens_may_be_expanded() {
    let shape @ [_, _, d] = [2, 9, 20];
    let mut random = Random::new(12);
    let mut inputs = sample(shape, &mut random);
    inputs[0].truncate(d);
    let upstream = sample_upstream(shape, &mut random);
    let with = |recur: Recur| {
        move |x: &[Tensor<1>]| {
            let decay = x[0].clone().reshape([1, 1, d]).expand(shape);
            let (h, last) = recur(decay, x[1].clone().reshape(shape), x[2].clone().reshape([2, d]));
            vec![h.flatten(0, 2), last.flatten(0, 1)]
        }
    };
    assert_strides_are_read(&inputs, &upstream, with(linear_recurrence_by_definition), with(linear_recurrence));
}

#[test]
fn strided_inputs_are_read_as_they_are_meant() {
    let shape = [2, 9, 20];
    let mut random = Random::new(12);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let strided = |x: &[Tensor<1>]| {
        let (decay, x, state) = unflatten(shape, x);
        let (h, last) = linear_recurrence(turned(decay), turned(x), turned(state));
        vec![h.flatten(0, 2), last.flatten(0, 1)]
    };
    assert_strides_are_read(&inputs, &upstream, flat(linear_recurrence, shape), strided);
}

#[test]
fn other_number_types_take_the_definition() {
    let shape = [1, 3, 2];
    let inputs = sample(shape, &mut Random::new(13));
    assert_wide_numbers_stay_wide(&inputs, flat(linear_recurrence, shape), &oracle(shape, &wide(&inputs)));
}

#[test]
#[should_panic(expected = "a recurrence needs at least one sequence, token and channel; [b, l, d] = [1, 0, 2]")]
fn an_empty_sequence_is_refused() {
    let device = Device::flex();
    linear_recurrence(
        Tensor::zeros([1, 0, 2], &device),
        Tensor::zeros([1, 0, 2], &device),
        Tensor::zeros([1, 2], &device),
    );
}

#[test]
#[should_panic(expected = "assert_shape!(decay, [b, l, d])")]
fn a_decay_of_another_shape_is_refused() {
    let device = Device::flex();
    linear_recurrence(
        Tensor::zeros([1, 2, 3], &device),
        Tensor::zeros([1, 3, 2], &device),
        Tensor::zeros([1, 2], &device),
    );
}

#[test]
#[should_panic(expected = "assert_shape!(state, [b, d])")]
fn a_state_of_another_shape_is_refused() {
    let device = Device::flex();
    linear_recurrence(
        Tensor::zeros([1, 3, 2], &device),
        Tensor::zeros([1, 3, 2], &device),
        Tensor::zeros([1, 3], &device),
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_kernel_equals_the_definition_at_any_shape(
        b in 1..5_usize, l in 1..70_usize, d in 1..80_usize, seed in any::<u64>(),
    ) {
        let shape = [b, l, d];
        let mut random = Random::new(seed);
        let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
        let (kernel, definition) = (flat(linear_recurrence, shape), flat(linear_recurrence_by_definition, shape));
        assert_strides_are_read(&inputs, &upstream, definition, kernel);
    }
}
