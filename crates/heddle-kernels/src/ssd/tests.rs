use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use super::chunk::{LONGEST, SHORTEST};
use super::*;
use crate::testing::sequence::{
    assert_outputs_count_alone, assert_pieces_equal_the_whole, assert_strides_are_read, assert_wide_numbers_stay_wide,
};
use crate::testing::{
    Contract, Passes, Random, VALUES, assert_gradients_near, assert_near, devices, differences, on_threads, outputs,
    passes, wide,
};

/// `[b, l, h, p, g, n]`
type Shape = [usize; 6];

/// Lengths around the shortest and the longest chunk and one between, widths that fill no vector, one, and more than one,
/// heads that share a group or have their own, tasks of one head, of several, and of unequally many; the last two are
/// worth threads.
const SHAPES: [Shape; 15] = [
    [1, 1, 1, 1, 1, 1],
    [2, 1, 4, 5, 2, 3],
    [2, 2, 3, 17, 3, 5],
    [1, SHORTEST - 1, 2, 3, 1, 2],
    [2, SHORTEST, 2, 16, 2, 16],
    [1, SHORTEST + 1, 4, 33, 2, 4],
    [1, 47, 2, 3, 1, 40],
    [1, 48, 2, 3, 1, 40],
    [1, 49, 2, 3, 1, 40],
    [1, LONGEST - 1, 1, 4, 1, LONGEST],
    [1, LONGEST + 1, 2, 20, 1, LONGEST + 3],
    [5, 75, 5, 3, 1, 4],
    [3, 20, 12, 4, 2, 5],
    [2, 2 * SHORTEST + 5, 8, 32, 1, 16],
    [8, SHORTEST + 8, 8, 16, 2, 16],
];

type Duality = fn(SsdInput, Tensor<4>) -> (Tensor<4>, Tensor<4>);

/// Whether there is a bias, a softplus, a skip.
type Form = [bool; 3];

const FULL: Form = [true; 3];

fn forms() -> impl Iterator<Item = Form> {
    (0..8).map(|i| [i & 1 > 0, i & 2 > 0, i & 4 > 0])
}

/// `x, delta, a, write, read, state, delta_bias, skip`; what a form lacks is empty.
fn sample([b, l, h, p, g, n]: Shape, [bias, softplus, skip]: Form, random: &mut Random) -> Vec<Vec<f32>> {
    let (low, high) = if softplus { (-4.0, 0.5) } else { (0.2, 0.5) };
    vec![
        random.floats(b * l * h * p, -1.0, 1.0),
        random.floats(b * l * h, low, high),
        random.floats(h, -4.0, 0.2),
        random.floats(b * l * g * n, -1.0, 1.0),
        random.floats(b * l * g * n, -1.0, 1.0),
        random.floats(b * h * p * n, -1.0, 1.0),
        random.floats(if bias { h } else { 0 }, -0.2, 0.2),
        random.floats(if skip { h } else { 0 }, -1.0, 1.0),
    ]
}

/// Gradients of `y` and of the last state.
fn sample_upstream([b, l, h, p, _, n]: Shape, random: &mut Random) -> Vec<Vec<f32>> {
    vec![random.floats(b * l * h * p, -1.0, 1.0), random.floats(b * h * p * n, -1.0, 1.0)]
}

fn unflatten([b, l, h, p, g, n]: Shape, [bias, softplus, skip]: Form, x: &[Tensor<1>]) -> (SsdInput, Tensor<4>) {
    let input = SsdInput {
        x: x[0].clone().reshape([b, l, h, p]),
        delta: x[1].clone().reshape([b, l, h]),
        delta_bias: bias.then(|| x[6].clone()),
        softplus,
        a: x[2].clone(),
        write: x[3].clone().reshape([b, l, g, n]),
        read: x[4].clone().reshape([b, l, g, n]),
        skip: skip.then(|| x[7].clone()),
    };
    (input, x[5].clone().reshape([b, h, p, n]))
}

fn flat(duality: Duality, shape: Shape, form: Form) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    move |x| {
        let (input, state) = unflatten(shape, form, x);
        let (y, state) = duality(input, state);
        vec![y.flatten(0, 3), state.flatten(0, 3)]
    }
}

fn run(shape: Shape, duality: Duality, inputs: &[Vec<f32>], upstream: &[Vec<f32>]) -> Passes {
    passes(&Device::flex(), inputs, upstream, flat(duality, shape, FULL))
}

/// The definition in plain loops.
fn oracle([_, l, h, p, g, n]: Shape, [bias, softplus, skip]: Form, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [x, delta, a, write, read, state, delta_bias, skips] = inputs else { panic!("eight inputs") };
    let mut last = state.clone();
    let mut y = vec![0.0; x.len()];
    for (i, &delta) in delta.iter().enumerate() {
        let (sequence, token, head) = (i / (l * h), i / h, i % h);
        let group = (token * g + head / (h / g)) * n;
        let mut step = delta + if bias { delta_bias[head] } else { 0.0 };
        step = if softplus { step.max(0.0) + (-step.abs()).exp().ln_1p() } else { step };
        for channel in 0..p {
            let at = i * p + channel;
            y[at] = if skip { skips[head] * x[at] } else { 0.0 };
            for s in 0..n {
                let state = &mut last[((sequence * h + head) * p + channel) * n + s];
                *state = (step * a[head]).exp() * *state + step * x[at] * write[group + s];
                y[at] += *state * read[group + s];
            }
        }
    }
    vec![y, last]
}

fn assert_contract(shape: Shape, form: Form, seed: u64) {
    let mut random = Random::new(seed);
    let (inputs, upstream) = (sample(shape, form, &mut random), sample_upstream(shape, &mut random));
    let contract = Contract {
        name: format!("{shape:?} {form:?}"),
        inputs: &inputs,
        upstream: &upstream,
        kernel: flat(ssd, shape, form),
        definition: flat(ssd_by_definition, shape, form),
        oracle: |x: &[Vec<f64>]| oracle(shape, form, x),
    };
    contract.assert_held();
    if shape.iter().product::<usize>() < 2000 {
        contract.assert_gradients_of_the_oracle();
    }
}

#[test]
fn the_kernel_is_the_recurrence_in_values_and_gradients() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        assert_contract(shape, FULL, seed as u64);
    }
}

#[test]
fn bias_softplus_and_skip_may_each_be_left_out() {
    for (seed, form) in forms().enumerate() {
        for shape in [[1, 4, 2, 3, 1, 2], [2, SHORTEST + 2, 4, 5, 2, 17]] {
            assert_contract(shape, form, seed as u64);
        }
    }
}

#[test]
fn a_loss_of_only_one_output_has_the_gradients_of_that_output() {
    let shape = [2, SHORTEST + 3, 4, 5, 2, 4];
    let mut random = Random::new(1);
    let (inputs, upstream) = (sample(shape, FULL, &mut random), sample_upstream(shape, &mut random));
    assert_outputs_count_alone(&inputs, &upstream, flat(ssd, shape, FULL), flat(ssd_by_definition, shape, FULL));
}

#[test]
fn only_the_inputs_that_need_gradients_get_them() {
    let shape = [1, 4, 2, 3, 1, 2];
    let inputs = sample(shape, FULL, &mut Random::new(2));
    let device = Device::flex().autodiff();
    let tensors: Vec<_> = inputs.iter().map(|x| Tensor::<1>::from_data(x.as_slice(), &device)).collect();
    let (mut input, state) = unflatten(shape, FULL, &tensors);
    input.a = input.a.require_grad();
    let gradients = ssd(input.clone(), state.clone()).0.sum().backward();
    assert!(input.a.grad(&gradients).is_some());
    assert!(input.x.grad(&gradients).is_none() && state.grad(&gradients).is_none());
}

/// A call in two pieces that meet after `cut` tokens.
fn pieces(shape @ [b, l, h, p, g, n]: Shape, cut: usize) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    move |x| {
        let (whole, state) = unflatten(shape, FULL, x);
        let piece = |from: usize, to: usize| SsdInput {
            x: whole.x.clone().slice([0..b, from..to, 0..h, 0..p]),
            delta: whole.delta.clone().slice([0..b, from..to, 0..h]),
            write: whole.write.clone().slice([0..b, from..to, 0..g, 0..n]),
            read: whole.read.clone().slice([0..b, from..to, 0..g, 0..n]),
            ..whole.clone()
        };
        let (first, state) = ssd(piece(0, cut), state);
        let (second, state) = ssd(piece(cut, l), state);
        vec![Tensor::cat(vec![first, second], 1).flatten(0, 3), state.flatten(0, 3)]
    }
}

#[test]
fn any_split_with_carried_state_equals_the_whole_in_values_and_gradients() {
    let shape = [2, SHORTEST + 6, 4, 3, 2, 5];
    let mut random = Random::new(3);
    let (inputs, upstream) = (sample(shape, FULL, &mut random), sample_upstream(shape, &mut random));
    let cuts = [1, 2, 15, 16, 17, SHORTEST - 1, SHORTEST, SHORTEST + 1, SHORTEST + 5];
    assert_pieces_equal_the_whole(&inputs, &upstream, flat(ssd, shape, FULL), &cuts, |cut| pieces(shape, cut));
}

#[test]
fn decoding_token_by_token_equals_the_whole() {
    let shape @ [b, l, h, p, g, n] = [2, 5, 4, 3, 2, 18];
    let inputs = sample(shape, FULL, &mut Random::new(4));
    let decode = |x: &[Tensor<1>]| {
        let (whole, mut state) = unflatten(shape, FULL, x);
        let mut ys = vec![];
        for t in 0..l {
            let token = SsdInput {
                x: whole.x.clone().slice([0..b, t..t + 1, 0..h, 0..p]),
                delta: whole.delta.clone().slice([0..b, t..t + 1, 0..h]),
                write: whole.write.clone().slice([0..b, t..t + 1, 0..g, 0..n]),
                read: whole.read.clone().slice([0..b, t..t + 1, 0..g, 0..n]),
                ..whole.clone()
            };
            let (y, next) = ssd(token, state);
            ys.push(y);
            state = next;
        }
        vec![Tensor::cat(ys, 1).flatten(0, 3), state.flatten(0, 3)]
    };
    for device in devices() {
        assert_near("decoding", &outputs(&device, &inputs, decode), &oracle(shape, FULL, &wide(&inputs)), VALUES);
    }
}

#[test]
fn decoding_a_large_batch_does_not_depend_on_the_threads() {
    let shape = [8, 1, 8, 64, 2, 64];
    let inputs = sample(shape, FULL, &mut Random::new(9));
    let on = |threads| on_threads(threads, || outputs(&Device::flex(), &inputs, flat(ssd, shape, FULL)));
    let alone = on(1);
    assert_near("decoding", &alone, &oracle(shape, FULL, &wide(&inputs)), VALUES);
    assert!(alone == on(2) && alone == on(3));
}

#[test]
fn a_step_that_forgets_everything_costs_its_neighbours_no_precision() {
    // Differences of cumulative sums in f32 would lose the small steps beside the large one.
    let (shape, form) = ([1, SHORTEST + 4, 1, 2, 1, 3], [false, false, true]);
    let mut random = Random::new(5);
    let (mut inputs, upstream) = (sample(shape, form, &mut random), sample_upstream(shape, &mut random));
    inputs[2].fill(-1.0);
    for at in [0, 7, SHORTEST - 1, SHORTEST + 1] {
        inputs[1].iter_mut().for_each(|delta| *delta = delta.min(0.01));
        inputs[1][at] = 1e4;
        let truth = oracle(shape, form, &wide(&inputs));
        let result = passes(&Device::flex(), &inputs, &upstream, flat(ssd, shape, form));
        assert_near(&format!("values, {at}"), &result.outputs, &truth, VALUES);
        let truth = differences(&inputs, &upstream, |x| oracle(shape, form, x));
        assert_gradients_near(&format!("gradients, {at}"), &result.gradients[1..2], &truth[1..2]);
        assert_gradients_near(&format!("gradients, {at}"), &result.gradients[2..3], &truth[2..3]);
    }
}

#[test]
fn extreme_inputs_stay_finite() {
    let shape = [1, SHORTEST + 8, 3, 4, 1, 18];
    let mut random = Random::new(6);
    let upstream = sample_upstream(shape, &mut random);
    for (of_x, of_delta, of_rows) in
        [(1.0, 1e4, 1.0), (1e-42, 1.0, 1.0), (1e-42, 1e-42, 1.0), (1e4, 1.0, 1e4), (1.0, 1e30, 1.0), (1e4, 1e4, 1e4)]
    {
        let mut inputs = sample(shape, FULL, &mut random);
        let factors = [of_x, of_delta, 1.0, of_rows, of_rows];
        for (input, factor) in inputs.iter_mut().zip(factors) {
            input.iter_mut().for_each(|x| *x *= factor);
        }
        // Slow enough that the state does not fade to denormal numbers, which have few digits.
        inputs[2].iter_mut().for_each(|a| *a = -0.2 * a.abs() - 0.1);
        let name = format!("x × {of_x}, delta × {of_delta}, write and read × {of_rows}");
        let result = run(shape, ssd, &inputs, &upstream);
        let all = result.outputs.iter().chain(&result.gradients).flatten();
        assert!(all.clone().all(|x| x.is_finite()), "{name}");
        assert_near(&name, &result.outputs, &oracle(shape, FULL, &wide(&inputs)), VALUES);
    }
}

#[test]
fn strided_inputs_are_read_as_they_are_meant() {
    let shape @ [b, l, h, p, g, n] = [2, 9, 4, 3, 2, 5];
    let mut random = Random::new(7);
    let (inputs, upstream) = (sample(shape, FULL, &mut random), sample_upstream(shape, &mut random));
    let strided = |x: &[Tensor<1>]| {
        let (mut input, state) = unflatten(shape, FULL, x);
        // As a block cuts them out of one projection.
        let rows = |x: Tensor<4>, width| x.reshape([b, l, width]);
        let (e, s) = (h * p, g * n);
        let joined = Tensor::cat(vec![rows(input.x, e), rows(input.write, s), rows(input.read, s), input.delta], 2);
        let cut = |from, width| joined.clone().slice([0..b, 0..l, from..from + width]);
        input.x = cut(0, e).reshape([b, l, h, p]);
        input.write = cut(e, s).reshape([b, l, g, n]);
        input.read = cut(e + s, s).reshape([b, l, g, n]).swap_dims(2, 3).swap_dims(2, 3);
        input.delta = cut(e + 2 * s, h);
        let (y, state) = ssd(input, state.swap_dims(2, 3).reshape([b, h, n, p]).swap_dims(2, 3));
        vec![y.flatten(0, 3), state.flatten(0, 3)]
    };
    assert_strides_are_read(&inputs, &upstream, flat(ssd, shape, FULL), strided);
}

#[test]
fn other_number_types_take_the_definition() {
    let shape = [1, 3, 4, 2, 2, 2];
    let inputs = sample(shape, FULL, &mut Random::new(8));
    assert_wide_numbers_stay_wide(&inputs, flat(ssd, shape, FULL), &oracle(shape, FULL, &wide(&inputs)));
}

/// Inputs of this shape, and the state.
fn zeros([b, l, h, p, g, n]: Shape) -> (SsdInput, Tensor<4>) {
    let device = Device::flex();
    let input = SsdInput {
        x: Tensor::zeros([b, l, h, p], &device),
        delta: Tensor::zeros([b, l, h], &device),
        delta_bias: None,
        softplus: true,
        a: Tensor::zeros([h], &device),
        write: Tensor::zeros([b, l, g, n], &device),
        read: Tensor::zeros([b, l, g, n], &device),
        skip: None,
    };
    (input, Tensor::zeros([b, h, p, n], &device))
}

#[test]
#[should_panic(
    expected = "state-space duality needs at least one of everything; [b, l, h, p, g, n] = [1, 0, 2, 3, 1, 4]"
)]
fn an_empty_sequence_is_refused() {
    let (input, state) = zeros([1, 0, 2, 3, 1, 4]);
    ssd(input, state);
}

#[test]
#[should_panic(expected = "every group needs as many heads as the others; h = 3, g = 2")]
fn heads_that_no_group_divides_are_refused() {
    let (input, state) = zeros([1, 2, 3, 3, 2, 4]);
    ssd(input, state);
}

#[test]
#[should_panic(expected = "assert_shape!(read, [b, l, g, n])")]
fn shapes_that_disagree_are_refused() {
    let (mut input, state) = zeros([1, 2, 3, 3, 1, 4]);
    input.read = input.read.swap_dims(1, 3);
    ssd(input, state);
}

#[test]
#[should_panic(expected = "assert_shape!(state, [b, h, p, n])")]
fn a_state_of_another_shape_is_refused() {
    let (input, state) = zeros([1, 2, 3, 3, 1, 4]);
    ssd(input, state.swap_dims(2, 3));
}

#[test]
#[should_panic(expected = "assert_shape!(skip, [h])")]
fn a_skip_of_another_width_is_refused() {
    let (mut input, state) = zeros([1, 2, 3, 3, 1, 4]);
    input.skip = Some(Tensor::zeros([2], &Device::flex()));
    ssd(input, state);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_kernel_equals_the_definition_at_any_shape(
        b in 1..4_usize, l in 1..80_usize, p in 1..40_usize, g in 1..3_usize, share in 1..5_usize, n in 1..50_usize,
        seed in any::<u64>(),
    ) {
        let shape = [b, l, g * share, p, g, n];
        let mut random = Random::new(seed);
        let (inputs, upstream) = (sample(shape, FULL, &mut random), sample_upstream(shape, &mut random));
        let kernel = run(shape, ssd, &inputs, &upstream);
        let definition = run(shape, ssd_by_definition, &inputs, &upstream);
        assert_near("values", &kernel.outputs, &oracle(shape, FULL, &wide(&inputs)), VALUES);
        assert_gradients_near("gradients", &kernel.gradients, &wide(&definition.gradients));
    }
}
