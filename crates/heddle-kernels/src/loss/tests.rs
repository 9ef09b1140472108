use burn::tensor::{Device, Int, Tensor, TensorData};

use super::*;
use crate::testing::{Contract, Random, outputs, passes};

/// Columns below, at and above a vector's; rows that fill no task and several.
const SHAPES: [[usize; 2]; 6] = [[1, 1], [3, 16], [5, 17], [40, 100], [300, 33], [7, 5000]];

fn oracle(targets: &[usize], logits: &[f64]) -> f64 {
    let v = logits.len() / targets.len();
    let row = |(row, target): (&[f64], &usize)| {
        let largest = row.iter().copied().fold(f64::MIN, f64::max);
        largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln() - row[*target]
    };
    logits.chunks(v).zip(targets).map(row).sum::<f64>() / targets.len() as f64
}

fn as_tensor(targets: &[usize], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(
        TensorData::from(targets.iter().map(|target| *target as i64).collect::<Vec<_>>().as_slice()),
        device,
    )
}

#[test]
fn the_kernel_is_the_formula() {
    for (seed, shape @ [rows, v]) in SHAPES.into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let inputs = [random.floats(rows * v, -4.0, 4.0)];
        let targets = random.indices(rows, v);
        let loss = |loss: fn(Tensor<2>, Tensor<1, Int>) -> Tensor<1>| {
            let targets = &targets;
            move |x: &[Tensor<1>]| vec![loss(x[0].clone().reshape(shape), as_tensor(targets, &x[0].device()))]
        };
        // A loss of one class is zero, and so are its gradients: nothing to compare relative to.
        if v > 1 {
            let contract = Contract {
                name: format!("cross_entropy of {shape:?}"),
                inputs: &inputs,
                upstream: &[vec![0.7]],
                kernel: loss(cross_entropy_at),
                definition: loss(cross_entropy_by_definition),
                oracle: |x: &[Vec<f64>]| vec![vec![oracle(&targets, &x[0])]],
            };
            contract.assert_held();
            if rows * v < 1000 {
                contract.assert_gradients_of_the_oracle();
            }
        } else {
            assert_eq!(outputs(&Device::flex(), &inputs, loss(cross_entropy_at)), [[0.0]]);
        }
    }
}

#[test]
fn extreme_logits_stay_finite() {
    let logits = vec![1e4, -1e4, 0.0, -1e4, 1e4, 3.0];
    let result = passes(&Device::flex(), &[logits], &[vec![1.0]], |x| {
        vec![cross_entropy_at(x[0].clone().reshape([2, 3]), as_tensor(&[1, 1], &x[0].device()))]
    });
    assert_eq!(result.outputs, [[1e4]]);
    assert_eq!(result.gradients, [[0.5, -0.5, 0.0, 0.0, 0.0, 0.0]]);
}

#[test]
#[should_panic(expected = "target")]
fn a_target_that_is_no_column_is_refused() {
    let device = Device::flex();
    cross_entropy_at(Tensor::zeros([2, 3], &device), as_tensor(&[0, 3], &device));
}

#[test]
#[should_panic(expected = "targets")]
fn a_missing_target_is_refused() {
    let device = Device::flex();
    cross_entropy_at(Tensor::zeros([2, 3], &device), as_tensor(&[0], &device));
}
