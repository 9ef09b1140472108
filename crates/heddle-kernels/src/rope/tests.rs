use burn::tensor::{Device, Tensor};

use super::*;
use crate::testing::{Contract, GRADIENTS, Random, VALUES, assert_near, outputs, wide};

/// `[b, h, l, p]` and pairs: halves below, at and above a vector; heads that turn in part and not at all.
const SHAPES: [([usize; 4], usize); 6] = [
    ([1, 1, 1, 2], 1),
    ([2, 3, 5, 8], 4),
    ([1, 2, 33, 32], 16),
    ([2, 2, 70, 64], 32),
    ([1, 2, 300, 50], 17),
    ([1, 1, 4, 6], 0),
];

fn oracle([_, _, l, p]: [usize; 4], rotary: &Rotary, x: &[f64]) -> Vec<f64> {
    let mut y = x.to_vec();
    for (row, y) in y.chunks_mut(p).enumerate() {
        for (i, frequency) in rotary.frequencies.iter().enumerate() {
            let (a, b) = match rotary.pairing {
                Pairing::Halves => (i, i + rotary.frequencies.len()),
                Pairing::Neighbours => (2 * i, 2 * i + 1),
            };
            let (sin, cos) = ((rotary.offset + row % l) as f64 * frequency).sin_cos();
            (y[a], y[b]) = (y[a] * cos - y[b] * sin, y[b] * cos + y[a] * sin);
        }
    }
    y
}

fn rotary(pairs: usize, pairing: Pairing, offset: usize) -> Rotary {
    Rotary { offset, ..Rotary::new(10_000.0, 2 * pairs, pairing, 0) }
}

#[test]
fn the_kernel_is_the_formula() {
    for (seed, (shape, pairs)) in SHAPES.into_iter().enumerate() {
        for (pairing, offset) in [(Pairing::Halves, 0), (Pairing::Neighbours, 3), (Pairing::Halves, 100)] {
            let mut random = Random::new(seed as u64);
            let size = shape.iter().product();
            let (inputs, upstream) = ([random.floats(size, -1.0, 1.0)], [random.floats(size, -1.0, 1.0)]);
            let rotary = &rotary(pairs, pairing, offset);
            let rotate = |rotate: fn(Tensor<4>, &Rotary) -> Tensor<4>| {
                move |x: &[Tensor<1>]| vec![rotate(x[0].clone().reshape(shape), rotary).flatten(0, 3)]
            };
            let contract = Contract {
                name: format!("{shape:?} {rotary:?}"),
                inputs: &inputs,
                upstream: &upstream,
                kernel: rotate(super::rotate),
                definition: rotate(rotate_by_definition),
                oracle: |x: &[Vec<f64>]| vec![oracle(shape, rotary, &x[0])],
            };
            contract.assert_held();
            if size < 300 {
                contract.assert_gradients_of_the_oracle();
            }
        }
    }
}

#[test]
fn positions_far_away_are_as_exact_as_near_ones() {
    let shape = [1, 1, 2000, 16];
    let inputs = [Random::new(1).floats(2000 * 16, -1.0, 1.0)];
    let rotary = rotary(8, Pairing::Halves, 1_000_000);
    let result =
        outputs(&Device::flex(), &inputs, |x| vec![rotate(x[0].clone().reshape(shape), &rotary).flatten(0, 3)]);
    assert_near("far", &result, &[oracle(shape, &rotary, &wide(&inputs)[0])], VALUES);
}

#[test]
fn a_score_depends_on_the_distance_alone() {
    let device = Device::flex();
    let mut random = Random::new(2);
    let mut draw = || Tensor::<1>::from_data(random.floats(8, -1.0, 1.0).as_slice(), &device).reshape([1, 1, 1, 8]);
    let (q, k) = (draw(), draw());
    for pairing in [Pairing::Halves, Pairing::Neighbours] {
        let at = |x: &Tensor<4>, offset| rotate(x.clone(), &rotary(4, pairing, offset));
        let score = |i, j| (at(&q, i) * at(&k, j)).sum().into_scalar::<f32>();
        assert!((score(9, 4) - score(25, 20)).abs() < GRADIENTS as f32);
        assert!((score(9, 4) - score(9, 8)).abs() > GRADIENTS as f32);
    }
}

#[test]
#[should_panic(expected = "rotate: 3 pairs of channels do not fit a head of width 5")]
fn too_many_pairs_are_refused() {
    rotate(Tensor::zeros([1, 1, 1, 5], &Device::flex()), &rotary(3, Pairing::Halves, 0));
}
