use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::testing::sequence::assert_wide_numbers_stay_wide;
use crate::testing::{Contract, Random, VALUES, assert_near, devices, outputs, passes, wide};

const EPS: f64 = 1e-6;

/// Widths below, at and above a vector's; rows that fill no task and several.
const SHAPES: [[usize; 4]; 6] =
    [[1, 1, 1, 2], [2, 3, 1, 16], [1, 5, 2, 17], [3, 7, 3, 40], [2, 65, 4, 64], [1, 100, 6, 33]];

fn oracle(n: usize, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let normalised = |x: &[f64]| -> Vec<f64> {
        let square = x.iter().map(|x| x * x).sum::<f64>();
        x.iter().map(|x| x / (square + EPS).sqrt()).collect()
    };
    vec![inputs[0].chunks(n).flat_map(normalised).collect()]
}

fn flat(norm: fn(Tensor<4>, f64) -> Tensor<4>, shape: [usize; 4]) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> + Sync {
    move |x| vec![norm(x[0].clone().reshape(shape), EPS).flatten(0, 3)]
}

#[track_caller]
fn assert_formula(shape @ [b, l, g, n]: [usize; 4], seed: u64) {
    let mut random = Random::new(seed);
    let (inputs, upstream) = ([random.floats(b * l * g * n, -2.0, 2.0)], [random.floats(b * l * g * n, -1.0, 1.0)]);
    let contract = Contract {
        name: format!("l2_normalize of {shape:?}"),
        inputs: &inputs,
        upstream: &upstream,
        kernel: flat(l2_normalize, shape),
        definition: flat(l2_normalize_by_definition, shape),
        oracle: |x: &[Vec<f64>]| oracle(n, x),
    };
    contract.assert_held();
    if b * l * g * n < 1000 {
        contract.assert_gradients_of_the_oracle();
    }
}

#[test]
fn the_kernel_is_the_formula() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        assert_formula(shape, seed as u64);
    }
}

#[test]
fn a_row_of_zeros_stays_zero_and_large_and_denormal_rows_stay_finite() {
    let of = |x: f32| passes(&Device::flex(), &[vec![x; 20]], &[vec![1.0; 20]], flat(l2_normalize, [1, 1, 1, 20]));
    assert_eq!(of(0.0).outputs[0], [0.0; 20]);
    for x in [0.0, 1e-42, -1e4, 1e4, 1e15] {
        let result = of(x);
        assert!(result.outputs.iter().chain(&result.gradients).flatten().all(|y| y.is_finite()), "{x}");
    }
    let length = of(1e15).outputs[0].iter().map(|y| y * y).sum::<f32>();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
}

#[test]
fn strided_inputs_are_read_as_they_are_meant() {
    let shape @ [b, l, g, n] = [2, 5, 3, 20];
    let inputs = [Random::new(1).floats(b * l * g * n, -2.0, 2.0)];
    let across = |x: &[Tensor<1>]| {
        let x = x[0].clone().reshape([b, l, g, n]).permute([0, 2, 1, 3]);
        vec![l2_normalize(x, EPS).permute([0, 2, 1, 3]).flatten(0, 3)]
    };
    for device in devices() {
        let truth = outputs(&device, &inputs, flat(l2_normalize, shape));
        assert_near("values", &outputs(&device, &inputs, across), &wide(&truth), VALUES);
    }
}

#[test]
fn other_number_types_take_the_definition() {
    let x = [Random::new(2).floats(12, -2.0, 2.0)];
    assert_wide_numbers_stay_wide(&x, flat(l2_normalize, [1, 2, 2, 3]), &oracle(3, &wide(&x)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_kernel_is_the_formula_at_any_shape(
        b in 1..4_usize, l in 1..20_usize, g in 1..4_usize, n in 1..70_usize, seed in any::<u64>(),
    ) {
        let shape = [b, l, g, n];
        let inputs = [Random::new(seed).floats(b * l * g * n, -2.0, 2.0)];
        let result = outputs(&Device::flex(), &inputs, flat(l2_normalize, shape));
        assert_near("values", &result, &oracle(n, &wide(&inputs)), VALUES);
    }
}
