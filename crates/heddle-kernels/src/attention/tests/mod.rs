//! The kernel and the definition against plain loops of `f64`, and against themselves.

mod equalities;
mod limits;
mod memory;
mod oracle;

use burn::tensor::{Device, Tensor};
use proptest::prelude::*;

use self::oracle::Truth;
use super::block::{Attention, Dims};
use super::sight::KEYS;
use super::*;
use crate::testing::{Passes, Random, VALUES, assert_gradients_near, assert_near, devices, differences, passes, wide};

/// An attention to test.
#[derive(Clone, Debug)]
struct Case {
    /// `[b, h, g, l, m, p]`
    sizes: [usize; 6],
    rule: AttentionRule,
    sloped: bool,
}

type Attend = fn(AttentionInput, AttentionRule) -> (Tensor<4>, Tensor<3>);

impl Case {
    /// Causal, with the queries at the end of the keys.
    fn causal(sizes @ [_, _, _, l, m, p]: [usize; 6]) -> Self {
        Self { sizes, rule: AttentionRule::causal(p, m - l), sloped: false }
    }

    fn full(sizes: [usize; 6]) -> Self {
        Self { sizes, rule: AttentionRule::full(sizes[5]), sloped: false }
    }

    fn with(mut self, change: impl Fn(&mut AttentionRule)) -> Self {
        change(&mut self.rule);
        self
    }

    fn sloped(self) -> Self {
        Self { sloped: true, ..self }
    }

    /// `q, k, v, slopes`
    fn sample(&self, random: &mut Random) -> Vec<Vec<f32>> {
        let [b, h, g, l, m, p] = self.sizes;
        vec![
            random.floats(b * h * l * p, -2.0, 2.0),
            random.floats(b * g * m * p, -2.0, 2.0),
            random.floats(b * g * m * p, -1.0, 1.0),
            random.floats(h, 0.0, 0.2),
        ]
    }

    /// Gradients of `o` and `lse`.
    fn sample_upstream(&self, random: &mut Random) -> Vec<Vec<f32>> {
        let [b, h, _, l, _, p] = self.sizes;
        vec![random.floats(b * h * l * p, -1.0, 1.0), random.floats(b * h * l, -1.0, 1.0)]
    }

    fn unflatten(&self, x: &[Tensor<1>]) -> AttentionInput {
        let [b, h, g, l, m, p] = self.sizes;
        AttentionInput {
            q: x[0].clone().reshape([b, h, l, p]),
            k: x[1].clone().reshape([b, g, m, p]),
            v: x[2].clone().reshape([b, g, m, p]),
            slopes: self.sloped.then(|| x[3].clone()),
        }
    }

    /// Both outputs, with 0 for the `lse` of a query that sees no key.
    fn flat(&self, attend: Attend) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {
        move |x| {
            let (o, lse) = attend(self.unflatten(x), self.rule.clone());
            let blind = lse.clone().equal_elem(f32::NEG_INFINITY);
            vec![o.flatten(0, 3), lse.mask_fill(blind, 0.0).flatten(0, 2)]
        }
    }

    fn run(&self, device: &Device, attend: Attend, inputs: &[Vec<f32>], upstream: &[Vec<f32>]) -> Passes {
        passes(device, inputs, upstream, self.flat(attend))
    }

    /// Asserts that kernel and definition have the values and gradients of the plain loops, on every device.
    #[track_caller]
    fn assert_true(&self, seed: u64) {
        let mut random = Random::new(seed);
        let (inputs, upstream) = (self.sample(&mut random), self.sample_upstream(&mut random));
        let truth = Truth::of(self, &wide(&inputs), &wide(&upstream));
        for device in devices() {
            for (name, attend) in
                [("kernel", attention_with_lse as Attend), ("definition", attention_with_lse_by_definition)]
            {
                let result = self.run(&device, attend, &inputs, &upstream);
                assert_near(&format!("{name}, {self:?}, values"), &result.outputs, &truth.outputs, VALUES);
                assert_gradients_near(&format!("{name}, {self:?}, gradients"), &result.gradients, &truth.gradients);
            }
        }
    }
}

/// Sizes that fill no tile, one exactly, and more; that share heads and do not; with fewer queries than keys.
const SIZES: [[usize; 6]; 9] = [
    [1, 1, 1, 1, 1, 1],
    [2, 2, 2, 5, 5, 3],
    [1, 2, 1, KEYS, KEYS, 16],
    [2, 3, 3, KEYS + 1, KEYS + 1, 8],
    [1, 4, 2, 100, 150, 24],
    [1, 6, 2, 45, 45, 33],
    [1, 71, 1, 3, 70, 4],
    [1, 1, 1, 9, 2 * KEYS + 9, 70],
    [2, 2, 1, 1, 77, 32],
];

fn mask(size: usize, [rows, columns]: [usize; 2]) -> Option<BlockMask> {
    Some(BlockMask::new(size, [rows.div_ceil(size), columns.div_ceil(size)], |row, column| (row * 5 + column) % 3 != 1))
}

#[test]
fn the_loops_have_the_gradients_of_differences() {
    let case =
        Case::causal([1, 4, 2, 3, 5, 2]).sloped().with(|rule| (rule.softcap, rule.window) = (Some(2.0), Some(3)));
    let mut random = Random::new(1);
    let (inputs, upstream) = (case.sample(&mut random), case.sample_upstream(&mut random));
    let differences = differences(&inputs, &upstream, |x| Truth::of(&case, x, &[]).outputs);
    let truth = Truth::of(&case, &wide(&inputs), &wide(&upstream)).gradients;
    for (differences, truth) in differences.iter().zip(&truth) {
        assert!(differences.iter().zip(truth).all(|(a, b)| (a - b).abs() < 1e-8), "{differences:?} {truth:?}");
    }
}

#[test]
fn causal_attention_has_the_true_values_and_gradients() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        Case::causal(sizes).assert_true(seed as u64);
    }
}

#[test]
fn full_attention_has_the_true_values_and_gradients() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        Case::full(sizes).assert_true(seed as u64);
    }
}

#[test]
fn soft_caps_and_slopes_have_the_true_values_and_gradients() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        Case::causal(sizes).with(|rule| rule.softcap = Some(1.5)).assert_true(seed as u64);
        Case::causal(sizes).sloped().assert_true(seed as u64);
        Case::full(sizes).sloped().with(|rule| rule.softcap = Some(20.0)).assert_true(seed as u64);
    }
}

#[test]
fn windows_around_the_tile_have_the_true_values_and_gradients() {
    for window in [1, 7, KEYS - 1, KEYS, KEYS + 1] {
        for case in [
            Case::causal([1, 2, 1, 150, 150, 9]),
            Case::full([1, 1, 1, 150, 170, 9]),
            Case::causal([1, 1, 1, 3, 150, 9]),
        ] {
            case.with(|rule| rule.window = Some(window)).assert_true(window as u64);
        }
    }
}

#[test]
fn sinks_have_the_true_values_and_gradients() {
    for (sinks, window) in [(1, 7), (4, 60), (KEYS, 5), (KEYS + 1, KEYS), (149, 3)] {
        for case in [
            Case::causal([1, 2, 1, 150, 150, 9]),
            Case::full([1, 1, 1, 150, 150, 9]),
            Case::causal([1, 1, 1, 2, 150, 9]),
        ] {
            case.with(|rule| (rule.sinks, rule.window) = (sinks, Some(window))).assert_true(sinks as u64);
        }
    }
}

#[test]
fn block_masks_have_the_true_values_and_gradients() {
    for size in [1, 7, 16, KEYS, 100] {
        for case in [
            Case::causal([1, 2, 1, 130, 150, 9]),
            Case::full([1, 1, 1, 150, 150, 9]),
            Case::causal([2, 1, 1, 4, 150, 9]),
        ] {
            let blocks = mask(size, [150, 150]);
            case.clone().with(|rule| rule.blocks = blocks.clone()).assert_true(size as u64);
            case.with(|rule| (rule.blocks, rule.window, rule.sinks) = (blocks.clone(), Some(40), 20))
                .assert_true(size as u64);
        }
    }
}

#[test]
fn dropout_has_the_true_values_and_gradients() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        for chance in [0.1, 0.9] {
            let dropout = Some(AttentionDropout { chance, seed: seed as u64 });
            Case::causal(sizes).with(|rule| rule.dropout = dropout).assert_true(seed as u64);
            let windowed = Case::full(sizes).sloped().with(|rule| (rule.softcap, rule.window) = (Some(3.0), Some(50)));
            windowed.with(|rule| rule.dropout = dropout).assert_true(seed as u64);
        }
    }
}

#[test]
fn few_queries_over_many_keys_have_the_true_values_and_gradients() {
    for (l, shared) in [(1, 1), (1, 4), (8, 1), (9, 1), (2, 3)] {
        let sizes = [2, 2 * shared, 2, l, 2500, 20];
        Case::causal(sizes).assert_true(l as u64);
        Case::causal(sizes).sloped().with(|rule| rule.softcap = Some(3.0)).assert_true(l as u64);
        Case::causal(sizes).with(|rule| (rule.window, rule.sinks) = (Some(300), 5)).assert_true(l as u64);
        Case::full(sizes).with(|rule| (rule.window, rule.offset) = (Some(1100), 1200)).assert_true(l as u64);
    }
}

#[test]
fn a_loss_of_only_one_output_has_the_gradients_of_that_output() {
    let case = Case::causal([1, 2, 1, 70, 70, 5]).sloped();
    let mut random = Random::new(2);
    let (inputs, upstream) = (case.sample(&mut random), case.sample_upstream(&mut random));
    for absent in [0, 1] {
        let mut one = upstream.clone();
        one[absent].clear();
        let truth = Truth::of(&case, &wide(&inputs), &wide(&one));
        let result = case.run(&Device::flex(), attention_with_lse, &inputs, &one);
        assert_gradients_near("gradients of q and k", &result.gradients[..2], &truth.gradients[..2]);
        assert_gradients_near("gradient of slopes", &result.gradients[3..], &truth.gradients[3..]);
        match absent {
            0 => assert!(result.gradients[2].iter().all(|&g| g == 0.0), "values do not reach the lse"),
            _ => assert_gradients_near("gradient of v", &result.gradients[2..3], &truth.gradients[2..3]),
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1..3_usize, 1..4_usize, 1..4_usize, 1..100_usize, 1..140_usize, 1..40_usize);
    let sight = (any::<bool>(), prop::option::of(1..150_usize), 0..80_usize, 0..60_usize);
    let score = (prop::option::of(0.5..30.0_f64), any::<bool>(), prop::option::of(1..90_usize));
    let dropout = prop::option::of((0.0..0.9_f64, any::<u64>()));
    (sizes, sight, score, dropout).prop_map(
        |((b, g, shared, l, m, p), (causal, window, sinks, offset), (softcap, sloped, size), dropout)| {
            let blocks = size.and_then(|size| mask(size, [offset + l, m]));
            let dropout = dropout.map(|(chance, seed)| AttentionDropout { chance, seed });
            let rule =
                AttentionRule { causal, window, sinks, offset, softcap, blocks, dropout, ..AttentionRule::full(p) };
            Case { sizes: [b, g * shared, g, l, m, p], rule, sloped }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_attention_has_the_true_values_and_gradients(case in cases(), seed in any::<u64>()) {
        case.assert_true(seed);
    }
}
