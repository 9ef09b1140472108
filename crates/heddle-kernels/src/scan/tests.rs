use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::cpu::channels::CHUNK;
use crate::testing::sequence::{
    assert_outputs_count_alone, assert_pieces_equal_the_whole, assert_wide_numbers_stay_wide,
};
use crate::testing::{
    Passes, Random, VALUES, assert_gradients_near, assert_near, devices, differences, on_threads, outputs, passes, wide,
};

/// `[b, l, e, n]`: lengths around the chunk, channels that fill no vector, one vector, and more than one.
const SHAPES: [[usize; 4]; 8] = [
    [1, 1, 1, 1],
    [2, 2, 5, 3],
    [1, CHUNK - 1, 17, 2],
    [2, CHUNK, 16, 4],
    [1, CHUNK + 1, 33, 1],
    [3, 75, 40, 16],
    [1, 75, 100, 5],
    [9, 3, 24, 16],
];

type Scanner = fn(ScanInput, Tensor<3>) -> (Tensor<3>, Tensor<3>);

/// `u, delta, a, write, read, skip, state`
pub(super) fn sample([b, l, e, n]: [usize; 4], random: &mut Random) -> Vec<Vec<f32>> {
    vec![
        random.floats(b * l * e, -1.0, 1.0),
        random.floats(b * l * e, 0.0, 0.5),
        random.floats(e * n, -4.0, 0.2),
        random.floats(b * l * n, -1.0, 1.0),
        random.floats(b * l * n, -1.0, 1.0),
        random.floats(e, -1.0, 1.0),
        random.floats(b * e * n, -1.0, 1.0),
    ]
}

/// Gradients of `y` and of the last state.
pub(super) fn sample_upstream([b, l, e, n]: [usize; 4], random: &mut Random) -> Vec<Vec<f32>> {
    vec![random.floats(b * l * e, -1.0, 1.0), random.floats(b * e * n, -1.0, 1.0)]
}

pub(super) fn unflatten([b, l, e, n]: [usize; 4], x: &[Tensor<1>]) -> (ScanInput, Tensor<3>) {
    let input = ScanInput {
        u: x[0].clone().reshape([b, l, e]),
        delta: x[1].clone().reshape([b, l, e]),
        a: x[2].clone().reshape([e, n]),
        write: x[3].clone().reshape([b, l, n]),
        read: x[4].clone().reshape([b, l, n]),
        skip: x[5].clone(),
    };
    (input, x[6].clone().reshape([b, e, n]))
}

fn flat(scanner: Scanner, shape: [usize; 4]) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    move |x| {
        let (input, state) = unflatten(shape, x);
        let (y, state) = scanner(input, state);
        vec![y.flatten(0, 2), state.flatten(0, 2)]
    }
}

fn run(shape: [usize; 4], device: &Device, scanner: Scanner, inputs: &[Vec<f32>], upstream: &[Vec<f32>]) -> Passes {
    passes(device, inputs, upstream, flat(scanner, shape))
}

/// The definition in plain loops.
pub(super) fn oracle([b, l, e, n]: [usize; 4], x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [u, delta, a, write, read, skip, state] = x else { panic!("seven inputs") };
    let mut h = state.clone();
    let mut y = vec![0.0; b * l * e];
    for i in 0..b {
        for t in 0..l {
            for c in 0..e {
                let token = (i * l + t) * e + c;
                y[token] = skip[c] * u[token];
                for s in 0..n {
                    let h = &mut h[(i * e + c) * n + s];
                    let decay = (delta[token] * a[c * n + s]).exp();
                    *h = decay * *h + delta[token] * write[(i * l + t) * n + s] * u[token];
                    y[token] += read[(i * l + t) * n + s] * *h;
                }
            }
        }
    }
    vec![y, h]
}

#[test]
fn the_definition_and_the_kernel_compute_the_recurrence() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let inputs = sample(shape, &mut Random::new(seed as u64));
        let truth = oracle(shape, &wide(&inputs));
        for device in devices() {
            for scanner in [selective_scan as Scanner, scan_by_definition] {
                assert_near(&format!("{shape:?}"), &outputs(&device, &inputs, flat(scanner, shape)), &truth, VALUES);
            }
        }
    }
}

#[test]
fn the_gradients_are_those_of_the_definition() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
        for device in devices() {
            let kernel = run(shape, &device, selective_scan, &inputs, &upstream);
            let definition = run(shape, &device, scan_by_definition, &inputs, &upstream);
            assert_near(&format!("values {shape:?}"), &kernel.outputs, &wide(&definition.outputs), VALUES);
            assert_gradients_near(&format!("gradients {shape:?}"), &kernel.gradients, &wide(&definition.gradients));
        }
    }
}

#[test]
fn the_gradients_are_those_of_the_recurrence_in_f64() {
    for shape in [[1, 1, 2, 1], [2, 5, 3, 2], [1, CHUNK + 2, 17, 2]] {
        let mut random = Random::new(5);
        let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
        let truth = differences(&inputs, &upstream, |x| oracle(shape, x));
        for device in devices() {
            let kernel = run(shape, &device, selective_scan, &inputs, &upstream);
            assert_gradients_near(&format!("{shape:?}"), &kernel.gradients, &truth);
        }
    }
}

#[test]
fn a_loss_of_only_one_output_has_the_gradients_of_that_output() {
    let shape = [2, CHUNK + 3, 20, 4];
    let mut random = Random::new(6);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    assert_outputs_count_alone(&inputs, &upstream, flat(selective_scan, shape), flat(scan_by_definition, shape));
}

#[test]
fn only_the_inputs_that_need_gradients_get_them() {
    let shape = [1, 4, 3, 2];
    let inputs = sample(shape, &mut Random::new(7));
    let device = Device::flex().autodiff();
    let tensors: Vec<_> = inputs.iter().map(|x| Tensor::<1>::from_data(x.as_slice(), &device)).collect();
    let (mut input, state) = unflatten(shape, &tensors);
    input.a = input.a.require_grad();
    let gradients = selective_scan(input.clone(), state.clone()).0.sum().backward();
    assert!(input.a.grad(&gradients).is_some());
    assert!(input.u.grad(&gradients).is_none() && state.grad(&gradients).is_none());
}

/// A scan in two pieces that meet after `cut` tokens.
fn pieces(shape: [usize; 4], cut: usize) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    move |x| {
        let (whole, state) = unflatten(shape, x);
        let [b, l, _, _] = shape;
        let piece = |from: usize, to: usize| {
            let cut = |x: &Tensor<3>| x.clone().slice([0..b, from..to]);
            ScanInput {
                u: cut(&whole.u),
                delta: cut(&whole.delta),
                a: whole.a.clone(),
                write: cut(&whole.write),
                read: cut(&whole.read),
                skip: whole.skip.clone(),
            }
        };
        let (first, state) = selective_scan(piece(0, cut), state);
        let (second, state) = selective_scan(piece(cut, l), state);
        vec![Tensor::cat(vec![first, second], 1).flatten(0, 2), state.flatten(0, 2)]
    }
}

#[test]
fn any_split_with_carried_state_equals_the_whole_in_values_and_gradients() {
    let shape = [2, CHUNK + 6, 19, 3];
    let mut random = Random::new(8);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let cuts = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 5];
    assert_pieces_equal_the_whole(&inputs, &upstream, flat(selective_scan, shape), &cuts, |cut| pieces(shape, cut));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for shape in [[1, 200, 256, 16], [3, 75, 100, 16], [8, 64, 64, 4]] {
        let mut random = Random::new(9);
        let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
        let on =
            |threads| on_threads(threads, || run(shape, &Device::flex(), selective_scan, &inputs, &upstream).bits());
        assert!(on(1) == on(2) && on(1) == on(3), "{shape:?}");
    }
}

#[test]
fn every_instruction_set_computes_the_same() {
    let shape = [2, 75, 40, 7];
    let mut random = Random::new(10);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    let with = |level: Level| level.force(|| run(shape, &Device::flex(), selective_scan, &inputs, &upstream));
    let [portable, others @ ..] = &Level::supported()[..] else { panic!("the portable level is always there") };
    let portable = with(*portable);
    for level in others {
        let other = with(*level);
        assert_near(&format!("{level:?}"), &other.outputs, &wide(&portable.outputs), VALUES);
        assert_gradients_near(&format!("{level:?}"), &other.gradients, &wide(&portable.gradients));
    }
}

#[test]
fn large_steps_and_denormal_inputs_stay_finite() {
    let shape = [1, 40, 18, 4];
    let mut random = Random::new(11);
    let upstream = sample_upstream(shape, &mut random);
    for (scale_u, scale_delta) in [(1.0, 1e4), (1e-42, 1.0), (1e-42, 1e-42), (1e3, 1e3)] {
        let mut inputs = sample(shape, &mut random);
        inputs[0].iter_mut().for_each(|u| *u *= scale_u);
        inputs[1].iter_mut().for_each(|delta| *delta *= scale_delta);
        inputs[2].iter_mut().for_each(|a| *a = -a.abs() - 0.1);
        let result = run(shape, &Device::flex(), selective_scan, &inputs, &upstream);
        let all = result.outputs.iter().chain(&result.gradients).flatten();
        assert!(all.clone().all(|x| x.is_finite()), "u × {scale_u}, delta × {scale_delta}");
        assert_near("values", &result.outputs, &oracle(shape, &wide(&inputs)), VALUES);
    }
}

#[test]
fn strided_inputs_are_read_as_they_are_meant() {
    let shape @ [b, l, e, n] = [2, 9, 20, 3];
    let mut random = Random::new(12);
    let (inputs, upstream) = (sample(shape, &mut random), sample_upstream(shape, &mut random));
    for device in devices() {
        let strided = |x: &[Tensor<1>]| {
            let (mut input, state) = unflatten(shape, x);
            input.u = Tensor::cat(vec![input.delta.clone(), input.u], 2).slice([0..b, 0..l, e..2 * e]);
            input.write = Tensor::from_inner(input.write.inner()).swap_dims(1, 2).swap_dims(1, 2);
            input.read = input.read.reshape([b, l, n, 1]).permute([0, 2, 1, 3]).reshape([b, n, l]).swap_dims(1, 2);
            let (y, state) = selective_scan(input, state);
            vec![y.flatten(0, 2), state.flatten(0, 2)]
        };
        let truth = run(shape, &device, selective_scan, &inputs, &upstream);
        let result = passes(&device, &inputs, &upstream, strided);
        assert_near("values", &result.outputs, &wide(&truth.outputs), VALUES);
        assert_gradients_near("gradient of u", &result.gradients[..1], &wide(&truth.gradients[..1]));
        assert_gradients_near("gradient of read", &result.gradients[4..5], &wide(&truth.gradients[4..5]));
    }
}

#[test]
fn other_number_types_take_the_definition() {
    let shape = [1, 3, 2, 2];
    let inputs = sample(shape, &mut Random::new(13));
    assert_wide_numbers_stay_wide(&inputs, flat(selective_scan, shape), &oracle(shape, &wide(&inputs)));
}

#[test]
#[should_panic(expected = "a scan needs at least one sequence, token, channel and state; [b, l, e, n] = [1, 0, 2, 3]")]
fn an_empty_sequence_is_refused() {
    let zeros = |shape: [usize; 3]| Tensor::<3>::zeros(shape, &Device::flex());
    let input = ScanInput {
        u: zeros([1, 0, 2]),
        delta: zeros([1, 0, 2]),
        a: Tensor::zeros([2, 3], &Device::flex()),
        write: zeros([1, 0, 3]),
        read: zeros([1, 0, 3]),
        skip: Tensor::zeros([2], &Device::flex()),
    };
    selective_scan(input, zeros([1, 2, 3]));
}

#[test]
#[should_panic(expected = "assert_shape!(write, [b, l, n])")]
fn shapes_that_disagree_are_refused() {
    let inputs = sample([1, 2, 3, 4], &mut Random::new(14));
    let tensors: Vec<_> = inputs.iter().map(|x| Tensor::<1>::from_data(x.as_slice(), &Device::flex())).collect();
    let (mut input, state) = unflatten([1, 2, 3, 4], &tensors);
    input.write = input.write.swap_dims(1, 2);
    selective_scan(input, state);
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
        let kernel = run(shape, &Device::flex(), selective_scan, &inputs, &upstream);
        let definition = run(shape, &Device::flex(), scan_by_definition, &inputs, &upstream);
        assert_near("values", &kernel.outputs, &oracle(shape, &wide(&inputs)), VALUES);
        assert_gradients_near("gradients", &kernel.gradients, &wide(&definition.gradients));
    }
}
