use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use super::layout::{CHUNK, SPAN};
use super::*;
use crate::testing::sequence::{
    assert_outputs_count_alone, assert_pieces_equal_the_whole, assert_strides_are_read, assert_wide_numbers_stay_wide,
};
use crate::testing::{
    Contract, Passes, Random, VALUES, assert_gradients_near, assert_near, devices, numbers, outputs, passes, wide,
};

/// Tokens between two states that the forward pass keeps.
const KEPT: usize = SPAN * CHUNK;

/// `[b, l, h, g, p, n]`: lengths around the chunk and the span, heads that share keys, widths that fill no vector, one
/// vector, and more than one.
const SHAPES: [[usize; 6]; 11] = [
    [1, 1, 1, 1, 1, 1],
    [2, 2, 3, 1, 5, 3],
    [1, CHUNK - 1, 4, 2, 17, 2],
    [2, CHUNK, 2, 2, 16, 4],
    [1, CHUNK + 1, 2, 1, 33, 1],
    [1, 37, 2, 2, 20, 19],
    [1, KEPT - 1, 2, 1, 3, 17],
    [1, KEPT, 1, 1, 16, 16],
    [2, KEPT + 1, 2, 2, 9, 5],
    [1, 2 * KEPT + 7, 4, 2, 18, 33],
    [17, 3, 4, 2, 8, 16],
];

type Shape = [usize; 6];
type Rule = fn(DeltaInput, Tensor<4>) -> (Tensor<4>, Tensor<4>);

/// Rows of `n` of length 1.
fn unit_rows(mut x: Vec<f32>, n: usize) -> Vec<f32> {
    for row in x.chunks_exact_mut(n) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-3);
        row.iter_mut().for_each(|x| *x /= length);
    }
    x
}

/// `q, k, v, beta, state` and, if it decays, `log_decay`.
fn sample([b, l, h, g, p, n]: Shape, decays: bool, random: &mut Random) -> Vec<Vec<f32>> {
    let mut inputs = vec![
        random.floats(b * l * g * n, -1.0, 1.0),
        unit_rows(random.floats(b * l * g * n, -1.0, 1.0), n),
        random.floats(b * l * h * p, -1.0, 1.0),
        random.floats(b * l * h, 0.0, 1.2),
        random.floats(b * h * p * n, -1.0, 1.0),
    ];
    if decays {
        inputs.push(random.floats(b * l * h, -0.5, 0.0));
    }
    inputs
}

/// Gradients of `o` and of the last state.
fn sample_upstream([b, l, h, _, p, n]: Shape, random: &mut Random) -> Vec<Vec<f32>> {
    vec![random.floats(b * l * h * p, -1.0, 1.0), random.floats(b * h * p * n, -1.0, 1.0)]
}

fn unflatten([b, l, h, g, p, n]: Shape, x: &[Tensor<1>]) -> (DeltaInput, Tensor<4>) {
    let input = DeltaInput {
        q: x[0].clone().reshape([b, l, g, n]),
        k: x[1].clone().reshape([b, l, g, n]),
        v: x[2].clone().reshape([b, l, h, p]),
        beta: x[3].clone().reshape([b, l, h]),
        log_decay: x.get(5).map(|x| x.clone().reshape([b, l, h])),
    };
    (input, x[4].clone().reshape([b, h, p, n]))
}

fn flat(rule: Rule, shape: Shape) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> + Sync {
    move |x| {
        let (input, state) = unflatten(shape, x);
        let (o, state) = rule(input, state);
        vec![o.flatten(0, 3), state.flatten(0, 3)]
    }
}

fn run(shape: Shape, device: &Device, rule: Rule, inputs: &[Vec<f32>], upstream: &[Vec<f32>]) -> Passes {
    passes(device, inputs, upstream, flat(rule, shape))
}

/// The definition in plain loops.
fn oracle([b, l, h, g, p, n]: Shape, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [q, k, v, beta, state, rest @ ..] = x else { panic!("at least five inputs") };
    let mut s = state.clone();
    let mut o = vec![0.0; b * l * h * p];
    for (row, s) in s.chunks_exact_mut(n).enumerate() {
        let (sequence, head, channel) = (row / (h * p), row / p % h, row % p);
        for t in 0..l {
            let token = sequence * l + t;
            let keys = (token * g + head / (h / g)) * n;
            let (q, k) = (&q[keys..][..n], &k[keys..][..n]);
            let dot = |s: &[f64], x: &[f64]| s.iter().zip(x).map(|(s, x)| s * x).sum::<f64>();
            let decay = rest.first().map_or(1.0, |log| log[token * h + head].exp());
            s.iter_mut().for_each(|s| *s *= decay);
            let at = (token * h + head) * p + channel;
            let step = beta[token * h + head] * (v[at] - dot(s, k));
            s.iter_mut().zip(k).for_each(|(s, k)| *s += step * k);
            o[at] = dot(s, q);
        }
    }
    vec![o, s]
}

#[track_caller]
fn assert_rule(shape: Shape, decays: bool, seed: u64) {
    let mut random = Random::new(seed);
    let (inputs, upstream) = (sample(shape, decays, &mut random), sample_upstream(shape, &mut random));
    let contract = Contract {
        name: format!("{shape:?}, decays: {decays}"),
        inputs: &inputs,
        upstream: &upstream,
        kernel: flat(delta_rule, shape),
        definition: flat(delta_rule_by_definition, shape),
        oracle: |x: &[Vec<f64>]| oracle(shape, x),
    };
    contract.assert_held();
    if inputs.iter().map(Vec::len).sum::<usize>() < 1500 {
        contract.assert_gradients_of_the_oracle();
    }
}

#[test]
fn the_kernel_is_the_recurrence_in_values_and_gradients() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        for decays in [false, true] {
            assert_rule(shape, decays, seed as u64);
        }
    }
}

#[test]
fn a_long_sequence_of_many_heads_is_the_recurrence() {
    assert_rule([1, 200, 8, 2, 32, 32], true, 20);
}

#[test]
fn a_loss_of_only_one_output_has_the_gradients_of_that_output() {
    let shape = [2, KEPT + 3, 2, 1, 20, 4];
    let mut random = Random::new(30);
    let (inputs, upstream) = (sample(shape, true, &mut random), sample_upstream(shape, &mut random));
    assert_outputs_count_alone(&inputs, &upstream, flat(delta_rule, shape), flat(delta_rule_by_definition, shape));
}

#[test]
fn only_the_inputs_that_need_gradients_get_them() {
    let shape = [1, 4, 2, 1, 3, 2];
    let inputs = sample(shape, true, &mut Random::new(31));
    let device = Device::flex().autodiff();
    let tensors: Vec<_> = inputs.iter().map(|x| Tensor::<1>::from_data(x.as_slice(), &device)).collect();
    let (mut input, state) = unflatten(shape, &tensors);
    input.beta = input.beta.require_grad();
    let gradients = delta_rule(input.clone(), state.clone()).0.sum().backward();
    assert!(input.beta.grad(&gradients).is_some());
    assert!(input.k.grad(&gradients).is_none() && state.grad(&gradients).is_none());
}

/// The rule in two pieces that meet after `cut` tokens.
fn pieces(shape: Shape, cut: usize) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    move |x| {
        let (whole, state) = unflatten(shape, x);
        let [b, l, ..] = shape;
        let piece = |from: usize, to: usize| DeltaInput {
            q: whole.q.clone().slice([0..b, from..to]),
            k: whole.k.clone().slice([0..b, from..to]),
            v: whole.v.clone().slice([0..b, from..to]),
            beta: whole.beta.clone().slice([0..b, from..to]),
            log_decay: whole.log_decay.clone().map(|x| x.slice([0..b, from..to])),
        };
        let (first, state) = delta_rule(piece(0, cut), state);
        let (second, state) = delta_rule(piece(cut, l), state);
        vec![Tensor::cat(vec![first, second], 1).flatten(0, 3), state.flatten(0, 3)]
    }
}

#[test]
fn any_split_with_carried_state_equals_the_whole_in_values_and_gradients() {
    let shape = [2, KEPT + 6, 4, 2, 19, 3];
    let mut random = Random::new(32);
    let (inputs, upstream) = (sample(shape, true, &mut random), sample_upstream(shape, &mut random));
    let cuts = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, KEPT - 1, KEPT, KEPT + 1, KEPT + 5];
    assert_pieces_equal_the_whole(&inputs, &upstream, flat(delta_rule, shape), &cuts, |cut| pieces(shape, cut));
}

#[test]
fn a_sequence_taken_token_by_token_or_few_by_few_equals_the_whole() {
    let shape @ [b, l, ..] = [2, 21, 4, 2, 19, 37];
    let inputs = sample(shape, true, &mut Random::new(39));
    let truth = oracle(shape, &wide(&inputs));
    for step in [1, 3, CHUNK / 2 - 1, CHUNK / 2] {
        let steps = |x: &[Tensor<1>]| {
            let (whole, mut state) = unflatten(shape, x);
            let mut outputs = vec![];
            for t in (0..l).step_by(step) {
                let tokens = t..l.min(t + step);
                let input = DeltaInput {
                    q: whole.q.clone().slice([0..b, tokens.clone()]),
                    k: whole.k.clone().slice([0..b, tokens.clone()]),
                    v: whole.v.clone().slice([0..b, tokens.clone()]),
                    beta: whole.beta.clone().slice([0..b, tokens.clone()]),
                    log_decay: whole.log_decay.clone().map(|x| x.slice([0..b, tokens.clone()])),
                };
                let (o, next) = delta_rule(input, state);
                outputs.push(o);
                state = next;
            }
            vec![Tensor::cat(outputs, 1).flatten(0, 3), state.flatten(0, 3)]
        };
        for device in devices() {
            for level in Level::supported() {
                let result = level.force(|| outputs(&device, &inputs, steps));
                assert_near(&format!("steps of {step}, {level:?}"), &result, &truth, VALUES);
            }
        }
    }
}

#[test]
fn a_value_written_at_full_strength_is_read_back_and_replaced() {
    let shape = [1, 2, 1, 1, 3, 4];
    let key = [0.5_f32; 8].to_vec();
    let inputs = [key.clone(), key, vec![1.0, 2.0, 3.0, -4.0, 5.0, 6.0], vec![1.0; 2], vec![0.7; 12]];
    let [o, _] = &outputs(&Device::flex(), &inputs, flat(delta_rule, shape))[..] else { panic!("two outputs") };
    assert_near("values", std::slice::from_ref(o), &wide(&inputs[2..3]), VALUES);
}

#[test]
fn without_strength_nothing_is_written_but_its_gradient_is_there() {
    let shape = [1, CHUNK + 2, 2, 1, 5, 3];
    let mut random = Random::new(33);
    let (mut inputs, upstream) = (sample(shape, true, &mut random), sample_upstream(shape, &mut random));
    inputs[3].fill(0.0);
    let device = Device::flex();
    let kernel = run(shape, &device, delta_rule, &inputs, &upstream);
    let definition = run(shape, &device, delta_rule_by_definition, &inputs, &upstream);
    assert_near("values", &kernel.outputs, &oracle(shape, &wide(&inputs)), VALUES);
    assert_gradients_near("gradients", &kernel.gradients, &wide(&definition.gradients));
    assert!(kernel.gradients[2].iter().all(|g| *g == 0.0) && kernel.gradients[3].iter().any(|g| *g != 0.0));
}

#[test]
fn a_state_under_strong_decay_has_accurate_gradients() {
    let shape = [1, CHUNK + 5, 2, 1, 4, 3];
    let mut random = Random::new(34);
    let (mut inputs, upstream) = (sample(shape, true, &mut random), sample_upstream(shape, &mut random));
    inputs[5] = random.floats(inputs[5].len(), -12.0, -6.0);
    let contract = Contract {
        name: "strong decay".into(),
        inputs: &inputs,
        upstream: &upstream,
        kernel: flat(delta_rule, shape),
        definition: flat(delta_rule_by_definition, shape),
        oracle: |x: &[Vec<f64>]| oracle(shape, x),
    };
    contract.assert_held();
}

#[test]
fn extreme_inputs_stay_finite() {
    let shape = [1, KEPT + 9, 2, 1, 18, 4];
    let mut random = Random::new(35);
    let upstream = sample_upstream(shape, &mut random);
    // Factors of `q`, `k`, `v`, `state` and `log_decay`.
    for scales in [
        [1.0, 1.0, 1.0, 1.0, 1e4],
        [1e-42; 5],
        [1e4, 1.0, 1e4, 1e4, 1.0],
        [1.0, 1e-42, 1e4, 1.0, 0.0],
        [1.0, 1.0, 1.0, 1.0, f32::INFINITY],
    ] {
        let mut inputs = sample(shape, true, &mut random);
        for (input, scale) in [0, 1, 2, 4, 5].into_iter().zip(scales) {
            inputs[input].iter_mut().for_each(|x| *x *= scale);
        }
        let result = run(shape, &Device::flex(), delta_rule, &inputs, &upstream);
        let all = result.outputs.iter().chain(&result.gradients).flatten();
        assert!(all.clone().all(|x| x.is_finite()), "{scales:?}");
        // Denormal results are as good as 0.
        if scales[0] >= 1.0 {
            assert_near(&format!("{scales:?}"), &result.outputs, &oracle(shape, &wide(&inputs)), VALUES);
        }
    }
}

#[test]
fn strengths_up_to_two_reflect() {
    let shape = [1, 50, 2, 1, 18, 6];
    let mut random = Random::new(36);
    let (mut inputs, upstream) = (sample(shape, false, &mut random), sample_upstream(shape, &mut random));
    inputs[3].iter_mut().for_each(|beta| *beta = 2.0 - 0.1 * *beta);
    let kernel = run(shape, &Device::flex(), delta_rule, &inputs, &upstream);
    let definition = run(shape, &Device::flex(), delta_rule_by_definition, &inputs, &upstream);
    assert_near("values", &kernel.outputs, &oracle(shape, &wide(&inputs)), VALUES);
    assert_gradients_near("gradients", &kernel.gradients, &wide(&definition.gradients));
}

#[test]
fn strided_inputs_are_read_as_they_are_meant() {
    let shape @ [b, l, h, g, p, n] = [2, 9, 4, 2, 6, 3];
    let mut random = Random::new(37);
    let (inputs, upstream) = (sample(shape, true, &mut random), sample_upstream(shape, &mut random));
    let strided = |x: &[Tensor<1>]| {
        let (mut input, state) = unflatten(shape, x);
        input.v = Tensor::cat(vec![input.v.clone(), input.v], 3).slice([0..b, 0..l, 0..h, p..2 * p]);
        input.k = input.k.permute([0, 2, 3, 1]).reshape([b, g, n, l]).permute([0, 3, 1, 2]);
        let (o, state) = delta_rule(input, state.swap_dims(2, 3).reshape([b, h, n, p]).swap_dims(2, 3));
        vec![o.flatten(0, 3), state.flatten(0, 3)]
    };
    assert_strides_are_read(&inputs, &upstream, flat(delta_rule, shape), strided);
}

#[test]
fn other_number_types_take_the_definition() {
    let shape = [1, 3, 2, 1, 2, 2];
    let inputs = sample(shape, true, &mut Random::new(38));
    assert_wide_numbers_stay_wide(&inputs, flat(delta_rule, shape), &oracle(shape, &wide(&inputs)));
}

fn zeros([b, l, h, g, p, n]: Shape) -> (DeltaInput, Tensor<4>) {
    let device = Device::flex();
    let keys = || Tensor::zeros([b, l, g, n], &device);
    let (v, beta) = (Tensor::zeros([b, l, h, p], &device), Tensor::zeros([b, l, h], &device));
    (DeltaInput { q: keys(), k: keys(), v, beta, log_decay: None }, Tensor::zeros([b, h, p, n], &device))
}

#[test]
fn zeros_stay_zeros() {
    let (input, state) = zeros([1, 20, 2, 1, 3, 2]);
    let (o, state) = delta_rule(input, state);
    assert!(numbers(o).into_iter().chain(numbers(state)).all(|x| x == 0.0));
}

#[test]
#[should_panic(expected = "a delta rule needs at least one sequence, token, head and channel; \
                           [b, l, h, g, p, n] = [1, 0, 2, 1, 3, 2]")]
fn an_empty_sequence_is_refused() {
    let (input, state) = zeros([1, 0, 2, 1, 3, 2]);
    delta_rule(input, state);
}

#[test]
#[should_panic(expected = "3 value heads cannot share 2 key heads evenly")]
fn heads_that_do_not_divide_are_refused() {
    let (input, state) = zeros([1, 2, 3, 2, 3, 2]);
    delta_rule(input, state);
}

#[test]
#[should_panic(expected = "assert_shape!(state, [b, h, p, n])")]
fn shapes_that_disagree_are_refused() {
    let (input, state) = zeros([1, 2, 3, 1, 5, 4]);
    delta_rule(input, state.swap_dims(2, 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_kernel_equals_the_definition_at_any_shape(
        b in 1..4_usize, l in 1..90_usize, g in 1..4_usize, shared in 1..4_usize, p in 1..40_usize, n in 1..40_usize,
        decays in any::<bool>(), seed in any::<u64>(),
    ) {
        let shape = [b, l, g * shared, g, p, n];
        let mut random = Random::new(seed);
        let (inputs, upstream) = (sample(shape, decays, &mut random), sample_upstream(shape, &mut random));
        let kernel = run(shape, &Device::flex(), delta_rule, &inputs, &upstream);
        let definition = run(shape, &Device::flex(), delta_rule_by_definition, &inputs, &upstream);
        assert_near("values", &kernel.outputs, &oracle(shape, &wide(&inputs)), VALUES);
        assert_gradients_near("gradients", &kernel.gradients, &wide(&definition.gradients));
    }
}
