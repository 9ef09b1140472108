use burn::tensor::{Device, Tensor};

use super::*;
use crate::testing::{Contract, Random, outputs};

/// Lengths below, at and above a vector's and a task's. (A single number has nothing to be compared relative to.)
const LENGTHS: [usize; 6] = [2, 7, 16, 33, 1000, (1 << 14) + 5];

fn sigmoid_in_f64(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Φ by its series, summed until it no longer changes: exact to rounding for the arguments of these tests.
fn normal(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > 1e-18 * sum.abs() {
        term *= x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn softplus_in_f64(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn assert_unary(
    name: &str,
    kernel: fn(Tensor<1>) -> Tensor<1>,
    definition: fn(Tensor<1>) -> Tensor<1>,
    oracle: fn(f64) -> f64,
) {
    for (seed, length) in LENGTHS.into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let (inputs, upstream) = ([random.floats(length, -5.0, 5.0)], [random.floats(length, -1.0, 1.0)]);
        let contract = Contract {
            name: format!("{name} of {length}"),
            inputs: &inputs,
            upstream: &upstream,
            kernel: |x: &[Tensor<1>]| vec![kernel(x[0].clone())],
            definition: |x: &[Tensor<1>]| vec![definition(x[0].clone())],
            oracle: |x: &[Vec<f64>]| vec![x[0].iter().map(|x| oracle(*x)).collect()],
        };
        contract.assert_held();
        if length < 100 {
            contract.assert_gradients_of_the_oracle();
        }
    }
}

#[test]
fn silu_is_its_formula() {
    assert_unary("silu", silu, silu_by_definition, |x| x * sigmoid_in_f64(x));
}

#[test]
fn relu_squared_is_its_formula() {
    assert_unary("relu_squared", relu_squared, relu_squared_by_definition, |x| x.max(0.0).powi(2));
}

#[test]
fn exp_is_its_formula() {
    assert_unary("exp", exp, exp_by_definition, f64::exp);
}

#[test]
fn softplus_is_its_formula() {
    assert_unary("softplus", softplus, softplus_by_definition, softplus_in_f64);
}

#[test]
fn gelu_is_its_formula() {
    assert_unary("gelu", gelu, gelu_by_definition, |x| x * normal(x));
}

type Gated = fn(Tensor<1>, Tensor<1>) -> Tensor<1>;

fn assert_gated(name: &str, kernel: Gated, definition: Gated, oracle: fn(f64, f64) -> f64) {
    for (seed, length) in LENGTHS.into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let inputs = [random.floats(length, -5.0, 5.0), random.floats(length, -2.0, 2.0)];
        let upstream = [random.floats(length, -1.0, 1.0)];
        let contract = Contract {
            name: format!("{name} of {length}"),
            inputs: &inputs,
            upstream: &upstream,
            kernel: |x: &[Tensor<1>]| vec![kernel(x[0].clone(), x[1].clone())],
            definition: |x: &[Tensor<1>]| vec![definition(x[0].clone(), x[1].clone())],
            oracle: |x: &[Vec<f64>]| vec![x[0].iter().zip(&x[1]).map(|(gate, x)| oracle(*gate, *x)).collect()],
        };
        contract.assert_held();
        if length < 100 {
            contract.assert_gradients_of_the_oracle();
        }
    }
}

#[test]
fn the_product_of_swiglu_is_its_formula() {
    assert_gated("silu_mul", silu_mul, silu_mul_by_definition, |gate, x| gate * sigmoid_in_f64(gate) * x);
}

#[test]
fn the_sigmoid_gate_is_its_formula() {
    assert_gated("sigmoid_mul", sigmoid_mul, sigmoid_mul_by_definition, |gate, x| sigmoid_in_f64(gate) * x);
}

#[test]
fn sigmoid_is_its_formula() {
    assert_unary("sigmoid", sigmoid, sigmoid_by_definition, sigmoid_in_f64);
}

#[test]
fn far_arguments_meet_their_limits() {
    let far = vec![-1e30, -1e4, -1e-42, 0.0, 1e-42, 1e4, 1e30];
    let device = Device::flex();
    let of = |function: fn(Tensor<1>) -> Tensor<1>| {
        outputs(&device, std::slice::from_ref(&far), |x| vec![function(x[0].clone())]).remove(0)
    };
    assert_eq!(of(silu)[..2], [0.0, 0.0]);
    assert_eq!(of(silu)[5..], [1e4, 1e30]);
    assert_eq!(of(gelu)[..2], [0.0, 0.0]);
    assert_eq!(of(gelu)[5..], [1e4, 1e30]);
    assert_eq!(of(softplus)[..2], [0.0, 0.0]);
    assert_eq!(of(softplus)[5..], [1e4, 1e30]);
}

#[test]
#[should_panic(expected = "a gate of [2, 3] does not fit [3, 2]")]
fn a_product_of_different_shapes_is_refused() {
    let device = Device::flex();
    silu_mul(Tensor::<2>::zeros([2, 3], &device), Tensor::zeros([3, 2], &device));
}
