//! The scan with what Mamba does before and behind it.

use burn::tensor::{Device, Tensor};

use super::tests::{oracle, sample, sample_upstream, unflatten};
use super::*;
use crate::testing::{Contract, Random, passes};

const SHAPES: [[usize; 4]; 4] = [[1, 1, 2, 2], [2, 5, 17, 3], [2, 33, 40, 16], [1, 75, 100, 4]];

type GatedScanner = fn(GatedScanInput, Tensor<3>) -> (Tensor<3>, Tensor<3>);

/// Whether there is a bias, a softplus, a gate.
type Form = [bool; 3];

fn forms() -> impl Iterator<Item = Form> {
    (0..8).map(|i| [i & 1 > 0, i & 2 > 0, i & 4 > 0])
}

/// The inputs of a scan, the bias and the gate.
fn sample_gated(shape @ [b, l, e, _]: [usize; 4], [_, softplus, _]: Form, random: &mut Random) -> Vec<Vec<f32>> {
    let mut inputs = sample(shape, random);
    let low = if softplus { -4.0 } else { 0.0 };
    inputs[1] = random.floats(b * l * e, low, 0.5);
    inputs.push(random.floats(e, -0.5, 0.5));
    inputs.push(random.floats(b * l * e, -4.0, 4.0));
    inputs
}

fn flat(scanner: GatedScanner, shape: [usize; 4], form: Form) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    let [b, l, e, _] = shape;
    let [bias, softplus, gate] = form;
    move |x| {
        let (scan, state) = unflatten(shape, x);
        let delta_bias = bias.then(|| x[7].clone());
        let gate = gate.then(|| x[8].clone().reshape([b, l, e]));
        let (y, state) = scanner(GatedScanInput { scan, delta_bias, softplus, gate }, state);
        vec![y.flatten(0, 2), state.flatten(0, 2)]
    }
}

/// The definition in plain loops.
fn gated_oracle(shape @ [_, _, e, _]: [usize; 4], [bias, softplus, gate]: Form, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut scan = x[..7].to_vec();
    for (i, delta) in scan[1].iter_mut().enumerate() {
        *delta += if bias { x[7][i % e] } else { 0.0 };
        *delta = if softplus { delta.max(0.0) + (-delta.abs()).exp().ln_1p() } else { *delta };
    }
    let mut outputs = oracle(shape, &scan);
    if gate {
        outputs[0].iter_mut().zip(&x[8]).for_each(|(y, gate)| *y *= gate / (1.0 + (-gate).exp()));
    }
    outputs
}

#[test]
fn the_kernel_is_the_scan_between_softplus_and_gate() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        for form in forms() {
            let mut random = Random::new(seed as u64);
            let (inputs, upstream) = (sample_gated(shape, form, &mut random), sample_upstream(shape, &mut random));
            let [bias, _, gate] = form;
            // An input that a form lacks has no gradients to compare.
            let used: Vec<_> = [true; 7].into_iter().chain([bias, gate]).collect();
            let inputs: Vec<_> = inputs.into_iter().zip(used).map(|(x, used)| if used { x } else { vec![] }).collect();
            let contract = Contract {
                name: format!("{shape:?} {form:?}"),
                inputs: &inputs,
                upstream: &upstream,
                kernel: flat(gated_scan, shape, form),
                definition: flat(gated_scan_by_definition, shape, form),
                oracle: |x: &[Vec<f64>]| gated_oracle(shape, form, x),
            };
            contract.assert_held();
            if shape[2] < 20 {
                contract.assert_gradients_of_the_oracle();
            }
        }
    }
}

#[test]
fn extreme_steps_and_gates_stay_finite() {
    let (shape, form) = ([1, 40, 18, 4], [true; 3]);
    let mut random = Random::new(3);
    let upstream = sample_upstream(shape, &mut random);
    for scale in [1e-42, 1e3, 1e30] {
        let mut inputs = sample_gated(shape, form, &mut random);
        inputs[2].iter_mut().for_each(|a| *a = -a.abs() - 0.1);
        inputs[1].iter_mut().for_each(|delta| *delta *= scale);
        inputs[8].iter_mut().for_each(|gate| *gate *= scale.min(1e4));
        let result = passes(&Device::flex(), &inputs, &upstream, flat(gated_scan, shape, form));
        let all = result.outputs.iter().chain(&result.gradients).flatten();
        assert!(all.clone().all(|x| x.is_finite()), "scale {scale}");
    }
}

#[test]
#[should_panic(expected = "assert_shape!(gate, [b, l, e])")]
fn a_gate_of_another_shape_is_refused() {
    let shape = [1, 2, 3, 4];
    let inputs = sample(shape, &mut Random::new(4));
    let tensors: Vec<_> = inputs.iter().map(|x| Tensor::<1>::from_data(x.as_slice(), &Device::flex())).collect();
    let (scan, state) = unflatten(shape, &tensors);
    let gate = Some(scan.u.clone().swap_dims(1, 2));
    gated_scan(GatedScanInput { scan, delta_bias: None, softplus: true, gate }, state);
}
