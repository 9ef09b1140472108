use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::cpu::channels::CHUNK;
use crate::testing::sequence::{
    Suite, assert_finite, assert_outputs_count_alone, assert_pieces_equal_the_whole, assert_strides_are_read,
    assert_wide_numbers_stay_wide, turned,
};
use crate::testing::{Random, VALUES, assert_near, wide};

/// `[b, l, e, n]`: lengths around the chunk; channels that fill no vector, one vector, and more than one; states that fill
/// the registers and that do not.
const SHAPES: [[usize; 4]; 9] = [
    [1, 1, 1, 1],
    [2, 2, 5, 3],
    [1, CHUNK - 1, 17, 2],
    [2, CHUNK, 16, 4],
    [1, CHUNK + 1, 33, 1],
    [3, 75, 40, 16],
    [1, 75, 100, 5],
    [9, 3, 24, 16],
    [1, 64, 600, 2],
];

type Recur = fn(ComplexInput, [Tensor<3>; 2]) -> (Tensor<3>, [Tensor<3>; 2]);

/// `decay, u, read, skip, state`, every complex number as a pair.
fn sample([b, l, e, n]: [usize; 4], random: &mut Random) -> Vec<Vec<f32>> {
    let radii = random.floats(e * n, 0.5, 1.01);
    let angles = random.floats(e * n, -3.2, 3.2);
    let part = |turn: fn(f32) -> f32| radii.iter().zip(&angles).map(|(radius, &angle)| radius * turn(angle)).collect();
    vec![
        part(f32::cos),
        part(f32::sin),
        random.floats(b * l * e, -1.0, 1.0),
        random.floats(e * n, -1.0, 1.0),
        random.floats(e * n, -1.0, 1.0),
        random.floats(e, -1.0, 1.0),
        random.floats(b * e * n, -1.0, 1.0),
        random.floats(b * e * n, -1.0, 1.0),
    ]
}

fn sample_upstream([b, l, e, n]: [usize; 4], random: &mut Random) -> Vec<Vec<f32>> {
    [b * l * e, b * e * n, b * e * n].map(|count| random.floats(count, -1.0, 1.0)).into()
}

fn unflatten([b, l, e, n]: [usize; 4], x: &[Tensor<1>]) -> (ComplexInput, [Tensor<3>; 2]) {
    let input = ComplexInput {
        decay: [0, 1].map(|i| x[i].clone().reshape([e, n])),
        u: x[2].clone().reshape([b, l, e]),
        read: [3, 4].map(|i| x[i].clone().reshape([e, n])),
        skip: x[5].clone(),
    };
    (input, [6, 7].map(|i| x[i].clone().reshape([b, e, n])))
}

fn flatten((y, [re, im]): (Tensor<3>, [Tensor<3>; 2])) -> Vec<Tensor<1>> {
    vec![y.flatten(0, 2), re.flatten(0, 2), im.flatten(0, 2)]
}

fn flat(recur: Recur, shape: [usize; 4]) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    move |x| {
        let (input, state) = unflatten(shape, x);
        flatten(recur(input, state))
    }
}

/// The definition in plain loops.
fn oracle([b, l, e, n]: [usize; 4], x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [decay, decay_im, u, read, read_im, skip, state, state_im] = x else { panic!("eight inputs") };
    let (mut re, mut im) = (state.clone(), state_im.clone());
    let mut y = vec![0.0; b * l * e];
    for i in 0..b {
        for t in 0..l {
            for (c, skip) in skip.iter().enumerate() {
                let token = (i * l + t) * e + c;
                y[token] = skip * u[token];
                for s in 0..n {
                    let (own, shared) = ((i * e + c) * n + s, c * n + s);
                    let (before, before_im) = (re[own], im[own]);
                    re[own] = decay[shared] * before - decay_im[shared] * before_im + u[token];
                    im[own] = decay[shared] * before_im + decay_im[shared] * before;
                    y[token] += 2.0 * (read[shared] * re[own] - read_im[shared] * im[own]);
                }
            }
        }
    }
    vec![y, re, im]
}

#[test]
fn the_kernel_is_the_recurrence() {
    let suite = Suite {
        shapes: &SHAPES,
        sample,
        sample_upstream,
        kernel: |shape| flat(complex_recurrence, shape),
        definition: |shape| flat(complex_recurrence_by_definition, shape),
        oracle,
        differences_below: 1500,
    };
    suite.assert_held();
}

#[test]
fn a_loss_of_only_one_output_has_the_gradients_of_that_output() {
    let shape = [2, CHUNK + 3, 20, 3];
    let mut random = Random::new(6);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let definition = flat(complex_recurrence_by_definition, shape);
    assert_outputs_count_alone(&inputs, &upstream, flat(complex_recurrence, shape), definition);
}

#[test]
fn any_split_with_carried_state_equals_the_whole_in_values_and_gradients() {
    let shape @ [b, l, e, _] = [2, CHUNK + 6, 19, 3];
    let mut random = Random::new(8);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let pieces = |cut: usize| {
        move |x: &[Tensor<1>]| {
            let (input, state) = unflatten(shape, x);
            let piece = |from: usize, to: usize| ComplexInput {
                u: input.u.clone().slice([0..b, from..to, 0..e]),
                ..input.clone()
            };
            let (first, state) = complex_recurrence(piece(0, cut), state);
            let (second, state) = complex_recurrence(piece(cut, l), state);
            flatten((Tensor::cat(vec![first, second], 1), state))
        }
    };
    let cuts = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 5];
    assert_pieces_equal_the_whole(&inputs, &upstream, flat(complex_recurrence, shape), &cuts, pieces);
}

#[test]
fn extreme_decays_and_inputs_stay_finite() {
    let shape = [1, 40, 18, 4];
    let mut random = Random::new(11);
    let upstream = sample_upstream(shape, &mut random);
    for (decays, inputs_scale) in [(0.0, 1.0), (1e-42, 1.0), (0.9, 1e-42), (0.9, 1e4), (1.0, 1e30)] {
        let mut inputs = sample(shape, &mut random);
        inputs[..2].iter_mut().flatten().for_each(|decay| *decay *= decays);
        inputs[2].iter_mut().for_each(|u| *u *= inputs_scale);
        let name = format!("decay × {decays}, u × {inputs_scale}");
        let result = assert_finite(&name, &inputs, &upstream, flat(complex_recurrence, shape));
        // Not the state, whose imaginary part may be denormal throughout and coarse.
        assert_near(&name, &result.outputs[..1], &oracle(shape, &wide(&inputs))[..1], VALUES);
    }
}

#[test]
fn strided_inputs_are_read_as_they_are_meant() {
    let shape = [2, 9, 20, 3];
    let mut random = Random::new(12);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let strided = |x: &[Tensor<1>]| {
        let (ComplexInput { decay, u, read, skip }, state) = unflatten(shape, x);
        let input = ComplexInput { decay: decay.map(turned), u: turned(u), read: read.map(turned), skip };
        flatten(complex_recurrence(input, state.map(turned)))
    };
    assert_strides_are_read(&inputs, &upstream, flat(complex_recurrence, shape), strided);
}

#[test]
fn other_number_types_take_the_definition() {
    let shape = [1, 3, 2, 2];
    let inputs = sample(shape, &mut Random::new(13));
    assert_wide_numbers_stay_wide(&inputs, flat(complex_recurrence, shape), &oracle(shape, &wide(&inputs)));
}

#[test]
#[should_panic(
    expected = "a recurrence needs at least one sequence, token, channel and state; [b, l, e, n] = [1, 0, 2, 3]"
)]
fn an_empty_sequence_is_refused() {
    let device = Device::flex();
    let pair = || [Tensor::zeros([2, 3], &device), Tensor::zeros([2, 3], &device)];
    let (u, skip) = (Tensor::zeros([1, 0, 2], &device), Tensor::zeros([2], &device));
    let state = [Tensor::zeros([1, 2, 3], &device), Tensor::zeros([1, 2, 3], &device)];
    complex_recurrence(ComplexInput { decay: pair(), u, read: pair(), skip }, state);
}

#[test]
#[should_panic(expected = "assert_shape!(read_im, [e, n])")]
fn shapes_that_disagree_are_refused() {
    let shape = [1, 2, 3, 4];
    let inputs = sample(shape, &mut Random::new(14));
    let tensors: Vec<_> = inputs.iter().map(|x| Tensor::<1>::from_data(x.as_slice(), &Device::flex())).collect();
    let (mut input, state) = unflatten(shape, &tensors);
    input.read[1] = input.read[1].clone().swap_dims(0, 1);
    complex_recurrence(input, state);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_kernel_equals_the_definition_at_any_shape(
        b in 1..4_usize, l in 1..70_usize, e in 1..50_usize, n in 1..20_usize, seed in any::<u64>(),
    ) {
        let shape = [b, l, e, n];
        let mut random = Random::new(seed);
        let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
        let (kernel, definition) = (flat(complex_recurrence, shape), flat(complex_recurrence_by_definition, shape));
        assert_strides_are_read(&inputs, &upstream, definition, kernel);
    }
}
