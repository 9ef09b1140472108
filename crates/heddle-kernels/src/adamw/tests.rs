use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::testing::{Random, VALUES, assert_near, devices, numbers, on_threads, outputs, wide};

const RULE: AdamW =
    AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, gradient_scale: 0.7, step: 1 };

type Step = fn(Tensor<1>, Tensor<1>, Moments, &AdamW) -> (Tensor<1>, Moments);

/// Parameter, gradient and moments of `count` elements.
fn sample(count: usize, random: &mut Random) -> Vec<Vec<f32>> {
    let mut draw = |low| random.floats(count, low, 1.0);
    vec![draw(-1.0), draw(-1.0), draw(-1.0), draw(0.0)]
}

fn flat(step: Step, rule: AdamW) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
    move |x| {
        let moments = Moments { first: x[2].clone(), second: x[3].clone() };
        let (parameter, moments) = step(x[0].clone(), x[1].clone(), moments, &rule);
        vec![parameter, moments.first, moments.second]
    }
}

/// Algorithm 2 in plain loops.
fn oracle(rule: AdamW, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut result = vec![vec![]; 3];
    for i in 0..x[0].len() {
        let g = x[1][i] * rule.gradient_scale;
        let m = rule.beta1 * x[2][i] + (1.0 - rule.beta1) * g;
        let v = rule.beta2 * x[3][i] + (1.0 - rule.beta2) * g * g;
        let steps = i32::try_from(rule.step).unwrap();
        let (mean, square) = (m / (1.0 - rule.beta1.powi(steps)), v / (1.0 - rule.beta2.powi(steps)));
        let moved = rule.lr * (mean / (square.sqrt() + rule.epsilon) + rule.weight_decay * x[0][i]);
        [x[0][i] - moved, m, v].into_iter().zip(&mut result).for_each(|(x, to)| to.push(x));
    }
    result
}

#[test]
fn the_kernel_is_the_formula() {
    for (seed, count) in [1, 15, 16, 100, (1 << 14) + 3].into_iter().enumerate() {
        for step in [1, 2, 1000] {
            let (inputs, rule) = (sample(count, &mut Random::new(seed as u64)), AdamW { step, ..RULE });
            let truth = oracle(rule, &wide(&inputs));
            for device in devices() {
                for (name, of) in [("kernel", adamw as Step), ("definition", adamw_by_definition)] {
                    assert_near(&format!("{name} {count}"), &outputs(&device, &inputs, flat(of, rule)), &truth, VALUES);
                }
            }
        }
    }
}

#[test]
fn threads_and_instructions_do_not_matter() {
    let inputs = sample(50_000, &mut Random::new(5));
    let update = || outputs(&Device::flex(), &inputs, flat(adamw, RULE));
    assert_eq!(on_threads(1, update), on_threads(2, update));
    let truth = oracle(RULE, &wide(&inputs));
    for level in Level::supported() {
        assert_near(&format!("{level:?}"), &level.force(update), &truth, VALUES);
    }
}

#[test]
fn parameters_without_gradient_only_decay() {
    let zeros = vec![0.0; 20];
    let inputs = [vec![1.0; 20], zeros.clone(), zeros.clone(), zeros];
    let [parameter, first, second] = outputs(&Device::flex(), &inputs, flat(adamw, RULE)).try_into().unwrap();
    assert!(parameter.iter().all(|x| (x - 0.999).abs() < 1e-6));
    assert!(first.iter().chain(&second).all(|&x| x == 0.0));
}

#[test]
fn huge_and_tiny_gradients_leave_finite_parameters() {
    for scale in [1e-42, 1e-30, 1e18] {
        let mut inputs = sample(40, &mut Random::new(6));
        inputs[1].iter_mut().for_each(|g| *g *= scale);
        let result = outputs(&Device::flex(), &inputs, flat(adamw, RULE));
        assert!(result.iter().flatten().all(|x| x.is_finite()), "{scale}");
    }
}

#[test]
fn the_squared_norm_is_exact_to_double_precision_of_its_pieces() {
    for device in devices() {
        let x = Random::new(8).floats(1_000_003, -1.0, 1.0);
        let truth: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
        let tensor = || Tensor::<1>::from_data(x.as_slice(), &device);
        assert!((squared_norm(tensor()) / truth - 1.0).abs() < 1e-6);
        let norms = [1, 2, 3].map(|threads| on_threads(threads, || squared_norm(tensor())));
        assert!(norms.iter().all(|norm| norm.to_bits() == norms[0].to_bits()));
        assert_eq!(squared_norm(Tensor::<1>::from_data([1e30, 1e30], &device)), f64::INFINITY);
        assert!(squared_norm(Tensor::<1>::from_data([f32::NAN, 1.0], &device)).is_nan());
    }
}

#[test]
#[should_panic(expected = "a gradient of 4 and moments of 3 and 3 do not fit 3 elements")]
fn lengths_that_disagree_are_refused() {
    let zeros = |count| Tensor::zeros([count], &Device::flex());
    adamw(zeros(3), zeros(4), Moments { first: zeros(3), second: zeros(3) }, &RULE);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn kernel_and_definition_agree(count in 1..300_usize, step in 1..10_000_u64, seed in any::<u64>()) {
        let (inputs, rule) = (sample(count, &mut Random::new(seed)), AdamW { step, ..RULE });
        let tensors: Vec<_> = inputs.iter().map(|x| Tensor::<1>::from_data(x.as_slice(), &Device::flex())).collect();
        let [kernel, definition] = [adamw as Step, adamw_by_definition]
            .map(|step| flat(step, rule)(&tensors).into_iter().map(numbers).collect::<Vec<_>>());
        assert_near("kernel", &kernel, &wide(&definition), VALUES);
    }
}
