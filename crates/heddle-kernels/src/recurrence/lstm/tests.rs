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

type Recur = fn(LstmInput, (Tensor<2>, Tensor<2>)) -> (Tensor<3>, (Tensor<2>, Tensor<2>));

/// `gates, weight, h, c`
fn sample([b, l, d]: [usize; 3], random: &mut Random) -> Vec<Vec<f32>> {
    let bound = (d as f32).sqrt().recip();
    vec![
        random.floats(b * l * 4 * d, -2.0, 2.0),
        random.floats(d * 4 * d, -bound, bound),
        random.floats(b * d, -1.0, 1.0),
        random.floats(b * d, -2.0, 2.0),
    ]
}

fn sample_upstream([b, l, d]: [usize; 3], random: &mut Random) -> Vec<Vec<f32>> {
    [b * l * d, b * d, b * d].map(|count| random.floats(count, -1.0, 1.0)).into()
}

fn unflatten([b, l, d]: [usize; 3], x: &[Tensor<1>]) -> (LstmInput, (Tensor<2>, Tensor<2>)) {
    let input = LstmInput { gates: x[0].clone().reshape([b, l, 4 * d]), weight: x[1].clone().reshape([d, 4 * d]) };
    (input, (x[2].clone().reshape([b, d]), x[3].clone().reshape([b, d])))
}

fn flatten((all, (h, c)): (Tensor<3>, (Tensor<2>, Tensor<2>))) -> Vec<Tensor<1>> {
    vec![all.flatten(0, 2), h.flatten(0, 1), c.flatten(0, 1)]
}

fn flat(recur: Recur, shape: [usize; 3]) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    move |x| {
        let (input, state) = unflatten(shape, x);
        flatten(recur(input, state))
    }
}

/// The definition in plain loops.
fn oracle([b, l, d]: [usize; 3], inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [gates, weight, h, c] = inputs else { panic!("four inputs") };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (mut h, mut c) = (h.clone(), c.clone());
    let mut all = vec![0.0; b * l * d];
    for i in 0..b {
        for t in 0..l {
            let before = h[i * d..(i + 1) * d].to_vec();
            for k in 0..d {
                let sum = |gate: usize| {
                    let column = gate * d + k;
                    let product: f64 = (0..d).map(|j| before[j] * weight[j * 4 * d + column]).sum();
                    gates[(i * l + t) * 4 * d + column] + product
                };
                let c = &mut c[i * d + k];
                *c = sigmoid(sum(1)) * *c + sigmoid(sum(0)) * sum(2).tanh();
                h[i * d + k] = sigmoid(sum(3)) * c.tanh();
                all[(i * l + t) * d + k] = h[i * d + k];
            }
        }
    }
    vec![all, h, c]
}

#[test]
fn the_kernel_is_the_layer() {
    let suite = Suite {
        shapes: &SHAPES,
        sample,
        sample_upstream,
        kernel: |shape| flat(lstm, shape),
        definition: |shape| flat(lstm_by_definition, shape),
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
    assert_outputs_count_alone(&inputs, &upstream, flat(lstm, shape), flat(lstm_by_definition, shape));
}

#[test]
fn any_split_with_carried_state_equals_the_whole_in_values_and_gradients() {
    let shape @ [b, l, d] = [2, 38, 32];
    let mut random = Random::new(8);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let pieces = |cut: usize| {
        move |x: &[Tensor<1>]| {
            let (input, state) = unflatten(shape, x);
            let piece = |from: usize, to: usize| LstmInput {
                gates: input.gates.clone().slice([0..b, from..to, 0..4 * d]),
                weight: input.weight.clone(),
            };
            let (first, state) = lstm(piece(0, cut), state);
            let (second, state) = lstm(piece(cut, l), state);
            flatten((Tensor::cat(vec![first, second], 1), state))
        }
    };
    assert_pieces_equal_the_whole(&inputs, &upstream, flat(lstm, shape), &[1, 2, 31, 32, 37], pieces);
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
        let name = format!("gates × {gates}, weight × {weights}, state × {states}");
        let result = assert_finite(&name, &inputs, &upstream, flat(lstm, shape));
        assert_near(&name, &result.outputs, &oracle(shape, &wide(&inputs)), VALUES);
    }
}

#[test]
fn strided_inputs_are_read_as_they_are_meant() {
    let shape = [2, 9, 20];
    let mut random = Random::new(12);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let strided = |x: &[Tensor<1>]| {
        let (LstmInput { gates, weight }, (h, c)) = unflatten(shape, x);
        flatten(lstm(LstmInput { gates: turned(gates), weight: turned(weight) }, (turned(h), turned(c))))
    };
    assert_strides_are_read(&inputs, &upstream, flat(lstm, shape), strided);
}

#[test]
fn other_number_types_take_the_definition() {
    let shape = [1, 3, 2];
    let inputs = sample(shape, &mut Random::new(13));
    assert_wide_numbers_stay_wide(&inputs, flat(lstm, shape), &oracle(shape, &wide(&inputs)));
}

#[test]
#[should_panic(expected = "an LSTM needs at least one sequence, token and channel; [b, l, d] = [1, 0, 2]")]
fn an_empty_sequence_is_refused() {
    let device = Device::flex();
    let input = LstmInput { gates: Tensor::zeros([1, 0, 8], &device), weight: Tensor::zeros([2, 8], &device) };
    lstm(input, (Tensor::zeros([1, 2], &device), Tensor::zeros([1, 2], &device)));
}

#[test]
#[should_panic(expected = "assert_shape!(gates, [b, l, 4 * d])")]
fn gates_of_another_width_are_refused() {
    let device = Device::flex();
    let input = LstmInput { gates: Tensor::zeros([1, 3, 6], &device), weight: Tensor::zeros([2, 8], &device) };
    lstm(input, (Tensor::zeros([1, 2], &device), Tensor::zeros([1, 2], &device)));
}

#[test]
#[should_panic(expected = "assert_shape!(c, [b, d])")]
fn a_state_of_another_width_is_refused() {
    let device = Device::flex();
    let input = LstmInput { gates: Tensor::zeros([1, 3, 8], &device), weight: Tensor::zeros([2, 8], &device) };
    lstm(input, (Tensor::zeros([1, 2], &device), Tensor::zeros([1, 3], &device)));
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
        assert_strides_are_read(&inputs, &upstream, flat(lstm_by_definition, shape), flat(lstm, shape));
    }
}
