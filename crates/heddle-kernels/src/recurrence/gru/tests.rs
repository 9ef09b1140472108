use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::testing::sequence::{
    Suite, assert_finite, assert_outputs_count_alone, assert_pieces_equal_the_whole, assert_strides_are_read,
    assert_wide_numbers_stay_wide, turned,
};
use crate::testing::{Random, VALUES, assert_near, wide};

/// `[b, l, d]`: one task and several, of one sequence and many; channels that fill no vector, whole ones, and more; a weight
/// that is read where it lies, and one that is packed; more tokens than the weight's gradient takes at once.
const SHAPES: [[usize; 3]; 9] =
    [[1, 1, 1], [2, 2, 5], [1, 3, 16], [3, 33, 17], [9, 7, 32], [40, 4, 20], [150, 2, 3], [1, 300, 4], [5, 40, 48]];

type Recur = fn(GruInput, Tensor<2>) -> (Tensor<3>, Tensor<2>);

/// `gates, weight, bias, state`
fn sample([b, l, d]: [usize; 3], random: &mut Random) -> Vec<Vec<f32>> {
    let bound = (d as f32).sqrt().recip();
    vec![
        random.floats(b * l * 3 * d, -2.0, 2.0),
        random.floats(d * 3 * d, -bound, bound),
        random.floats(d, -1.0, 1.0),
        random.floats(b * d, -1.0, 1.0),
    ]
}

fn sample_upstream([b, l, d]: [usize; 3], random: &mut Random) -> Vec<Vec<f32>> {
    [b * l * d, b * d].map(|count| random.floats(count, -1.0, 1.0)).into()
}

fn unflatten([b, l, d]: [usize; 3], x: &[Tensor<1>]) -> (GruInput, Tensor<2>) {
    let input = GruInput {
        gates: x[0].clone().reshape([b, l, 3 * d]),
        weight: x[1].clone().reshape([d, 3 * d]),
        bias: x[2].clone(),
    };
    (input, x[3].clone().reshape([b, d]))
}

fn flatten((all, h): (Tensor<3>, Tensor<2>)) -> Vec<Tensor<1>> {
    vec![all.flatten(0, 2), h.flatten(0, 1)]
}

fn flat(recur: Recur, shape: [usize; 3]) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    move |x| {
        let (input, state) = unflatten(shape, x);
        flatten(recur(input, state))
    }
}

/// The definition in plain loops.
fn oracle([b, l, d]: [usize; 3], inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [gates, weight, bias, state] = inputs else { panic!("four inputs") };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let mut h = state.clone();
    let mut all = vec![0.0; b * l * d];
    for i in 0..b {
        for t in 0..l {
            let before = h[i * d..(i + 1) * d].to_vec();
            for k in 0..d {
                let x = |gate: usize| gates[(i * l + t) * 3 * d + gate * d + k];
                let product =
                    |gate: usize| -> f64 { (0..d).map(|j| before[j] * weight[j * 3 * d + gate * d + k]).sum() };
                let (r, z) = (sigmoid(x(0) + product(0)), sigmoid(x(1) + product(1)));
                let n = (x(2) + r * (product(2) + bias[k])).tanh();
                h[i * d + k] = (1.0 - z) * n + z * before[k];
                all[(i * l + t) * d + k] = h[i * d + k];
            }
        }
    }
    vec![all, h]
}

#[test]
fn the_kernel_is_the_layer() {
    let suite = Suite {
        shapes: &SHAPES,
        sample,
        sample_upstream,
        kernel: |shape| flat(gru, shape),
        definition: |shape| flat(gru_by_definition, shape),
        oracle,
        differences_below: 200,
    };
    suite.assert_held();
}

#[test]
fn a_loss_of_only_one_output_has_the_gradients_of_that_output() {
    let shape = [2, 9, 20];
    let mut random = Random::new(6);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    assert_outputs_count_alone(&inputs, &upstream, flat(gru, shape), flat(gru_by_definition, shape));
}

#[test]
fn any_split_with_carried_state_equals_the_whole_in_values_and_gradients() {
    let shape @ [b, l, d] = [2, 38, 32];
    let mut random = Random::new(8);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let pieces = |cut: usize| {
        move |x: &[Tensor<1>]| {
            let (input, state) = unflatten(shape, x);
            let piece = |from: usize, to: usize| GruInput {
                gates: input.gates.clone().slice([0..b, from..to, 0..3 * d]),
                ..input.clone()
            };
            let (first, state) = gru(piece(0, cut), state);
            let (second, state) = gru(piece(cut, l), state);
            flatten((Tensor::cat(vec![first, second], 1), state))
        }
    };
    assert_pieces_equal_the_whole(&inputs, &upstream, flat(gru, shape), &[1, 2, 31, 32, 37], pieces);
}

#[test]
fn extreme_inputs_saturate_the_gates_and_stay_finite() {
    let shape = [1, 40, 18];
    let mut random = Random::new(11);
    let upstream = sample_upstream(shape, &mut random);
    for (gates, weights, states) in [(1e-42, 1.0, 1.0), (1e4, 1.0, 1.0), (1.0, 1e-42, 1e-42), (1.0, 1.0, 1e4)] {
        let mut inputs = sample(shape, &mut random);
        for (x, scale) in inputs.iter_mut().zip([gates, weights, states, states]) {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        let name = format!("gates × {gates}, weight × {weights}, bias and state × {states}");
        let result = assert_finite(&name, &inputs, &upstream, flat(gru, shape));
        assert_near(&name, &result.outputs, &oracle(shape, &wide(&inputs)), VALUES);
    }
}

#[test]
fn strided_inputs_are_read_as_they_are_meant() {
    let shape = [2, 9, 20];
    let mut random = Random::new(12);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let strided = |x: &[Tensor<1>]| {
        let (GruInput { gates, weight, bias }, h) = unflatten(shape, x);
        flatten(gru(GruInput { gates: turned(gates), weight: turned(weight), bias }, turned(h)))
    };
    assert_strides_are_read(&inputs, &upstream, flat(gru, shape), strided);
}

#[test]
fn other_number_types_take_the_definition() {
    let shape = [1, 3, 2];
    let inputs = sample(shape, &mut Random::new(13));
    assert_wide_numbers_stay_wide(&inputs, flat(gru, shape), &oracle(shape, &wide(&inputs)));
}

fn zeros(gates: [usize; 3], bias: usize) -> GruInput {
    let device = Device::flex();
    GruInput {
        gates: Tensor::zeros(gates, &device),
        weight: Tensor::zeros([2, 6], &device),
        bias: Tensor::zeros([bias], &device),
    }
}

#[test]
#[should_panic(expected = "a GRU needs at least one sequence, token and channel; [b, l, d] = [1, 0, 2]")]
fn an_empty_sequence_is_refused() {
    gru(zeros([1, 0, 6], 2), Tensor::zeros([1, 2], &Device::flex()));
}

#[test]
#[should_panic(expected = "assert_shape!(gates, [b, l, 3 * d])")]
fn gates_of_another_width_are_refused() {
    gru(zeros([1, 3, 8], 2), Tensor::zeros([1, 2], &Device::flex()));
}

#[test]
#[should_panic(expected = "assert_shape!(bias, [d])")]
fn a_bias_of_another_width_is_refused() {
    gru(zeros([1, 3, 6], 6), Tensor::zeros([1, 2], &Device::flex()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_kernel_equals_the_definition_at_any_shape(
        b in 1..12_usize, l in 1..20_usize, d in 1..40_usize, seed in any::<u64>(),
    ) {
        let shape = [b, l, d];
        let mut random = Random::new(seed);
        let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
        assert_strides_are_read(&inputs, &upstream, flat(gru_by_definition, shape), flat(gru, shape));
    }
}
