use burn::tensor::{Device, Int, Tensor, TensorData};

use super::*;
use crate::testing::{Contract, Random};

/// `[v, d, b, l]`: tables narrower and wider than a vector; tokens that repeat and rows that nobody asks for.
const SHAPES: [[usize; 4]; 5] = [[1, 1, 1, 1], [5, 16, 2, 3], [7, 17, 1, 40], [100, 33, 3, 20], [50, 8, 4, 300]];

fn as_tensor(tokens: &[usize], shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(tokens.iter().map(|token| *token as i64).collect::<Vec<_>>(), shape), device)
}

#[test]
fn the_kernel_is_the_formula() {
    for (seed, [v, d, b, l]) in SHAPES.into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let inputs = [random.floats(v * d, -1.0, 1.0)];
        let upstream = [random.floats(b * l * d, -1.0, 1.0)];
        let tokens = random.indices(b * l, v);
        let look_up = |look_up: fn(Tensor<2>, Tensor<2, Int>) -> Tensor<3>| {
            let tokens = &tokens;
            move |x: &[Tensor<1>]| {
                let tokens = as_tensor(tokens, [b, l], &x[0].device());
                vec![look_up(x[0].clone().reshape([v, d]), tokens).flatten(0, 2)]
            }
        };
        let contract = Contract {
            name: format!("embedding of {v} × {d}"),
            inputs: &inputs,
            upstream: &upstream,
            kernel: look_up(embed),
            definition: look_up(embed_by_definition),
            oracle: |x: &[Vec<f64>]| vec![tokens.iter().flat_map(|token| x[0][token * d..][..d].to_vec()).collect()],
        };
        contract.assert_held();
        contract.assert_gradients_of_the_oracle();
    }
}

#[test]
#[should_panic(expected = "token")]
fn a_token_without_a_row_is_refused() {
    let device = Device::flex();
    embed(Tensor::zeros([3, 2], &device), as_tensor(&[3], [1, 1], &device));
}
