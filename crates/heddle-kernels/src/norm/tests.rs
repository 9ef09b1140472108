use burn::tensor::{Device, Tensor};

use super::*;
use crate::testing::{Contract, Random, outputs};

const EPS: f64 = 1e-5;

/// Widths below, at and above a vector's; rows that fill no task and several.
const SHAPES: [[usize; 3]; 6] = [[1, 1, 2], [2, 3, 16], [1, 5, 17], [3, 7, 40], [2, 65, 64], [1, 300, 33]];

fn oracle(d: usize, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [x, gamma] = inputs else { panic!("two inputs") };
    let normalised = |x: &[f64]| -> Vec<f64> {
        let mean_square = x.iter().map(|x| x * x).sum::<f64>() / d as f64;
        x.iter().zip(gamma).map(|(x, gamma)| gamma * x / (mean_square + EPS).sqrt()).collect()
    };
    vec![x.chunks(d).flat_map(normalised).collect()]
}

#[test]
fn the_kernel_is_the_formula() {
    for (seed, shape @ [b, l, d]) in SHAPES.into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let inputs = [random.floats(b * l * d, -2.0, 2.0), random.floats(d, 0.5, 1.5)];
        let upstream = [random.floats(b * l * d, -1.0, 1.0)];
        let norm = |norm: fn(Tensor<3>, Tensor<1>, f64) -> Tensor<3>| {
            move |x: &[Tensor<1>]| vec![norm(x[0].clone().reshape(shape), x[1].clone(), EPS).flatten(0, 2)]
        };
        let contract = Contract {
            name: format!("rms_norm of {shape:?}"),
            inputs: &inputs,
            upstream: &upstream,
            kernel: norm(rms_norm),
            definition: norm(rms_norm_by_definition),
            oracle: |x: &[Vec<f64>]| oracle(d, x),
        };
        contract.assert_held();
        if b * l * d < 1000 {
            contract.assert_gradients_of_the_oracle();
        }
    }
}

#[test]
fn a_row_of_zeros_stays_zero_and_large_rows_stay_finite() {
    let device = Device::flex();
    let of = |x: f32| {
        let inputs = [vec![x; 20], vec![1.0; 20]];
        outputs(&device, &inputs, |x| vec![rms_norm(x[0].clone().reshape([1, 1, 20]), x[1].clone(), EPS).flatten(0, 2)])
            .remove(0)
    };
    assert_eq!(of(0.0), [0.0; 20]);
    assert!(of(1e-42).iter().all(|y| y.is_finite()));
    assert!(of(1e15).iter().all(|y| (y - 1.0).abs() < 1e-5));
}

#[test]
#[should_panic(expected = "gamma")]
fn a_scale_of_another_width_is_refused() {
    let device = Device::flex();
    rms_norm(Tensor::zeros([1, 2, 3], &device), Tensor::ones([4], &device), EPS);
}
