use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::testing::{Contract, Function, Random, outputs, passes};

const EPS: f64 = 1e-5;

/// Widths below, at and above a vector's; rows that fill no task and several. None is so narrow that what is normalised
/// hardly depends on its elements, where gradients cancel.
const SHAPES: [[usize; 3]; 6] = [[1, 1, 3], [2, 3, 16], [1, 5, 17], [3, 7, 40], [2, 65, 64], [1, 300, 33]];

fn rms(x: &[f64]) -> f64 {
    (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + EPS).sqrt()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn rms_oracle(d: usize, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let normalised = |x: &[f64]| -> Vec<f64> {
        let root = rms(x);
        x.iter().zip(&inputs[1]).map(|(x, gamma)| gamma * x / root).collect()
    };
    vec![inputs[0].chunks(d).flat_map(normalised).collect()]
}

fn layer_oracle(d: usize, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let normalised = |x: &[f64]| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / d as f64;
        let centred: Vec<_> = x.iter().map(|x| x - mean).collect();
        let root = rms(&centred);
        let y = centred.iter().zip(&inputs[1]).map(|(x, gamma)| gamma * x / root);
        // A shift that is not there is empty.
        y.enumerate().map(|(i, y)| y + inputs[2].get(i).unwrap_or(&0.0)).collect()
    };
    vec![inputs[0].chunks(d).flat_map(normalised).collect()]
}

fn gated_oracle(d: usize, norm: GatedNorm, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [x, gate, gamma] = inputs else { panic!("three inputs") };
    let before = norm.order == GateOrder::Before;
    let gated = |open: bool, x: f64, z: f64| if open { x * silu(z) } else { x };
    let inside: Vec<_> = x.iter().zip(gate).map(|(&x, &z)| gated(before, x, z)).collect();
    let roots: Vec<_> = inside.chunks(d / norm.groups).map(rms).collect();
    let y = inside.iter().enumerate().map(|(i, x)| gamma[i % d] * x / roots[i / (d / norm.groups)]);
    vec![y.zip(gate).map(|(y, &z)| gated(!before, y, z)).collect()]
}

/// The contract of a normalisation of `shape`, whose first inputs are as large as a sequence and the others as a token.
#[track_caller]
fn assert_contract(
    name: &str,
    inputs: &[Vec<f32>],
    kernel: impl Function + Sync,
    definition: impl Function,
    oracle: impl Fn(&[Vec<f64>]) -> Vec<Vec<f64>>,
) {
    let count = inputs[0].len();
    let upstream = [Random::new(99).floats(count, -1.0, 1.0)];
    let contract = Contract { name: name.to_owned(), inputs, upstream: &upstream, kernel, definition, oracle };
    contract.assert_held();
    if count < 1000 {
        contract.assert_gradients_of_the_oracle();
    }
}

#[test]
fn the_root_mean_square_kernel_is_the_formula() {
    for (seed, shape @ [b, l, d]) in SHAPES.into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let inputs = [random.floats(b * l * d, -2.0, 2.0), random.floats(d, 0.5, 1.5)];
        let norm = |norm: fn(Tensor<3>, Tensor<1>, f64) -> Tensor<3>| {
            move |x: &[Tensor<1>]| vec![norm(x[0].clone().reshape(shape), x[1].clone(), EPS).flatten(0, 2)]
        };
        let oracle = |x: &[Vec<f64>]| rms_oracle(d, x);
        assert_contract(&format!("{shape:?}"), &inputs, norm(rms_norm), norm(rms_norm_by_definition), oracle);
    }
}

type LayerNorm = fn(Tensor<3>, Tensor<1>, Option<Tensor<1>>, f64) -> Tensor<3>;

fn layer(norm: LayerNorm, shape: [usize; 3], shifts: bool) -> impl Function {
    move |x: &[Tensor<1>]| {
        let shift = shifts.then(|| x[2].clone());
        vec![norm(x[0].clone().reshape(shape), x[1].clone(), shift, EPS).flatten(0, 2)]
    }
}

#[test]
fn the_layer_kernel_is_the_formula() {
    for (seed, shape @ [b, l, d]) in SHAPES.into_iter().enumerate() {
        for shifts in [false, true] {
            let mut random = Random::new(seed as u64);
            let shift = if shifts { random.floats(d, -1.0, 1.0) } else { vec![] };
            let inputs = [random.floats(b * l * d, -1.0, 3.0), random.floats(d, 0.5, 1.5), shift];
            let norm = |norm| layer(norm, shape, shifts);
            let oracle = |x: &[Vec<f64>]| layer_oracle(d, x);
            let name = format!("{shape:?}, shift {shifts}");
            assert_contract(&name, &inputs, norm(layer_norm), norm(layer_norm_by_definition), oracle);
        }
    }
}

type Gated = fn(Tensor<3>, Tensor<3>, Tensor<1>, GatedNorm) -> Tensor<3>;

fn gated(function: Gated, shape: [usize; 3], norm: GatedNorm) -> impl Function {
    move |x: &[Tensor<1>]| {
        let [y, gate] = [0, 1].map(|i| x[i].clone().reshape(shape));
        vec![function(y, gate, x[2].clone(), norm).flatten(0, 2)]
    }
}

#[test]
fn the_gated_kernel_is_the_formula_in_either_order() {
    for (seed, shape @ [b, l, d]) in SHAPES.into_iter().enumerate() {
        for groups in (1..=4).filter(|groups| d.is_multiple_of(*groups) && d / groups > 2) {
            for order in [GateOrder::Before, GateOrder::After] {
                let mut random = Random::new(seed as u64);
                let [x, gate] = [2.0, 4.0].map(|scale| random.floats(b * l * d, -scale, scale));
                let inputs = [x, gate, random.floats(d, 0.5, 1.5)];
                let norm = GatedNorm { groups, order, eps: EPS };
                let of = |function| gated(function, shape, norm);
                let oracle = |x: &[Vec<f64>]| gated_oracle(d, norm, x);
                let name = format!("{shape:?} {norm:?}");
                assert_contract(&name, &inputs, of(gated_rms_norm), of(gated_rms_norm_by_definition), oracle);
            }
        }
    }
}

#[test]
fn rows_of_zeros_stay_zero_and_large_rows_stay_finite() {
    let of = |norm: fn(Tensor<3>) -> Tensor<3>, x: f32| {
        let norm = |x: &[Tensor<1>]| vec![norm(x[0].clone().reshape([1, 1, 20])).flatten(0, 2)];
        outputs(&Device::flex(), &[vec![x; 20]], norm).remove(0)
    };
    let root: fn(Tensor<3>) -> Tensor<3> = |x| rms_norm(x.clone(), Tensor::ones([20], &x.device()), EPS);
    let layer: fn(Tensor<3>) -> Tensor<3> = |x| layer_norm(x.clone(), Tensor::ones([20], &x.device()), None, EPS);
    assert_eq!([of(root, 0.0), of(layer, 0.0)], [[0.0; 20]; 2]);
    assert!(of(root, 1e-42).iter().chain(&of(layer, 1e-42)).all(|y| y.is_finite()));
    assert!(of(root, 1e15).iter().all(|y| (y - 1.0).abs() < 1e-5));
    // A mean that swamps the differences leaves rounding, which must not explode.
    assert!(of(layer, 1e15).iter().all(|y| y.abs() <= 5.0));
}

#[test]
fn gates_far_open_and_far_shut_stay_finite() {
    let shape @ [b, l, d] = [2, 3, 20];
    for order in [GateOrder::Before, GateOrder::After] {
        for scale in [1e-42, 1e4, 1e10] {
            let mut random = Random::new(7);
            let [x, gate] = [1.0, scale].map(|scale| random.floats(b * l * d, -scale, scale));
            let inputs = [x, gate, random.floats(d, 0.5, 1.5)];
            let upstream = [random.floats(b * l * d, -1.0, 1.0)];
            let norm = GatedNorm { groups: 2, order, eps: EPS };
            let result = passes(&Device::flex(), &inputs, &upstream, gated(gated_rms_norm, shape, norm));
            let all = result.outputs.iter().chain(&result.gradients).flatten();
            assert!(all.clone().all(|x| x.is_finite()), "{order:?}, scale {scale}");
        }
    }
}

#[test]
#[should_panic(expected = "gamma")]
fn a_scale_of_another_width_is_refused() {
    let device = Device::flex();
    rms_norm(Tensor::zeros([1, 2, 3], &device), Tensor::ones([4], &device), EPS);
}

#[test]
#[should_panic(expected = "beta")]
fn a_shift_of_another_width_is_refused() {
    let device = Device::flex();
    layer_norm(Tensor::zeros([1, 2, 3], &device), Tensor::ones([3], &device), Some(Tensor::ones([4], &device)), EPS);
}

#[test]
#[should_panic(expected = "4 groups do not divide 6 channels")]
fn groups_that_do_not_divide_are_refused() {
    let device = Device::flex();
    let zeros = || Tensor::zeros([1, 2, 6], &device);
    let norm = GatedNorm { groups: 4, order: GateOrder::Before, eps: EPS };
    gated_rms_norm(zeros(), zeros(), Tensor::ones([6], &device), norm);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn layer_norm_is_root_mean_square_norm_of_centred_tokens(
        b in 1..4_usize, l in 1..40_usize, d in 2..70_usize, seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let inputs = [random.floats(b * l * d, -2.0, 2.0), random.floats(d, 0.5, 1.5)];
        let shape = [b, l, d];
        let layer = |x: &[Tensor<1>]| vec![layer_norm(x[0].clone().reshape(shape), x[1].clone(), None, EPS).flatten(0, 2)];
        let centred = |x: &[Tensor<1>]| {
            let tokens: Tensor<3> = x[0].clone().reshape(shape);
            vec![rms_norm(tokens.clone() - tokens.mean_dim(2), x[1].clone(), EPS).flatten(0, 2)]
        };
        let [layer, centred] = [outputs(&Device::flex(), &inputs, layer), outputs(&Device::flex(), &inputs, centred)];
        prop_assert!(layer[0].iter().zip(&centred[0]).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}
