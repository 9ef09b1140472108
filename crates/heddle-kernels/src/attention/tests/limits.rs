//! Rows that see nothing, scores that are extreme, inputs that do not fit.

use super::*;
use crate::testing::numbers;

/// Rules under which some of 100 queries, or all, see none of 30 keys.
fn blinding() -> Vec<AttentionRule> {
    let full = AttentionRule::full(6);
    let blocks = BlockMask::new(10, [10, 3], |row, column| row == column + 1);
    vec![
        AttentionRule { window: Some(5), ..full.clone() },
        AttentionRule { window: Some(5), ..AttentionRule::causal(6, 0) },
        AttentionRule { window: Some(0), ..full.clone() },
        AttentionRule { window: Some(5), offset: 1000, ..full.clone() },
        AttentionRule { blocks: Some(blocks), ..full },
    ]
}

#[test]
fn a_query_that_sees_no_key_gives_zero_and_gets_zero() {
    for rule in blinding() {
        for l in [100, 3] {
            let case = Case { sizes: [1, 2, 1, l, 30, 6], rule: rule.clone(), sloped: true };
            let blind = |i: usize| (0..30).all(|j| !rule.sees(rule.offset + i, j));
            let mut random = Random::new(11);
            let (inputs, upstream) = (case.sample(&mut random), case.sample_upstream(&mut random));
            let tensors: Vec<_> =
                inputs.iter().map(|x| Tensor::<1>::from_data(x.as_slice(), &Device::flex())).collect();
            for attend in [attention_with_lse as Attend, attention_with_lse_by_definition] {
                let lse = numbers(attend(case.unflatten(&tensors), rule.clone()).1);
                let result = case.run(&Device::flex(), attend, &inputs, &upstream);
                for row in (0..2 * l).filter(|row| blind(row % l)) {
                    assert_eq!(lse[row], f32::NEG_INFINITY, "{rule:?} {row}");
                    assert_eq!(result.outputs[0][row * 6..][..6], [0.0; 6], "{rule:?} {row}");
                    assert_eq!(result.gradients[0][row * 6..][..6], [0.0; 6], "{rule:?} {row}");
                }
                assert!(result.gradients.iter().flatten().all(|x| x.is_finite()), "{rule:?}");
            }
            let truth = Truth::of(&case, &wide(&inputs), &wide(&upstream));
            let result = case.run(&Device::flex(), attention_with_lse, &inputs, &upstream);
            if (0..l).any(|i| !blind(i)) {
                assert_near(&format!("{rule:?}"), &result.outputs, &truth.outputs, VALUES);
                assert_gradients_near(&format!("{rule:?}"), &result.gradients, &truth.gradients);
            }
        }
    }
}

#[test]
fn scores_of_ten_thousand_stay_finite_and_choose_the_largest() {
    for l in [40, 2] {
        let mut case = Case::full([1, 1, 1, l, 100, 4]);
        case.rule.scale = 1.0;
        let mut random = Random::new(12);
        let (mut inputs, upstream) = (case.sample(&mut random), case.sample_upstream(&mut random));
        // Key j scores 10000 − 200 j for one sign of the query, and the opposite for the other.
        inputs[0].fill(0.0);
        inputs[1].fill(0.0);
        inputs[0].chunks_mut(4).enumerate().for_each(|(i, q)| q[0] = if i % 2 == 0 { 100.0 } else { -100.0 });
        inputs[1].chunks_mut(4).enumerate().for_each(|(j, k)| k[0] = 100.0 - 2.0 * j as f32);
        let result = case.run(&Device::flex(), attention_with_lse, &inputs, &upstream);
        for (i, o) in result.outputs[0].chunks(4).enumerate() {
            let winner = if i % 2 == 0 { 0 } else { 99 };
            assert_eq!(o, &inputs[2][winner * 4..][..4], "{i}");
        }
        assert!(result.outputs.iter().chain(&result.gradients).flatten().all(|x| x.is_finite()));
    }
}

#[test]
fn what_is_no_number_stays_so_in_its_row_alone() {
    for l in [40, 2] {
        let case = Case::causal([1, 1, 1, l, 60, 4]);
        let mut inputs = case.sample(&mut Random::new(13));
        inputs[0][5] = f32::NAN;
        let tensors: Vec<_> = inputs.iter().map(|x| Tensor::<1>::from_data(x.as_slice(), &Device::flex())).collect();
        let o = numbers(attention(case.unflatten(&tensors), case.rule.clone()));
        assert!(o.chunks(4).enumerate().all(|(i, o)| o.iter().all(|x| x.is_nan() == (i == 1))));
    }
}

#[test]
fn only_the_inputs_that_need_gradients_get_them() {
    let case = Case::causal([1, 2, 1, 20, 20, 4]).sloped();
    let inputs = case.sample(&mut Random::new(14));
    let device = Device::flex().autodiff();
    for asked in 0..4 {
        let mut tensors: Vec<_> = inputs.iter().map(|x| Tensor::<1>::from_data(x.as_slice(), &device)).collect();
        tensors[asked] = tensors[asked].clone().require_grad();
        let gradients = attention(case.unflatten(&tensors), case.rule.clone()).sum().backward();
        for (i, tensor) in tensors.iter().enumerate() {
            assert_eq!(tensor.grad(&gradients).is_some(), i == asked, "asked for {asked}, input {i}");
        }
    }
}

#[test]
fn other_number_types_take_the_definition() {
    let case = Case::causal([1, 2, 1, 5, 7, 3]).sloped();
    let inputs = case.sample(&mut Random::new(15));
    let cast = |x: &Vec<f32>| Tensor::<1>::from_data(x.as_slice(), &Device::flex()).cast(burn::tensor::DType::F64);
    let tensors: Vec<_> = inputs.iter().map(cast).collect();
    let truth = Truth::of(&case, &wide(&inputs), &[]);
    let (o, lse) = attention_with_lse(case.unflatten(&tensors), case.rule.clone());
    let alone = attention(case.unflatten(&tensors), case.rule.clone());
    for (tensor, truth) in [
        (o.flatten::<1>(0, 3), &truth.outputs[0]),
        (lse.flatten(0, 2), &truth.outputs[1]),
        (alone.flatten(0, 3), &truth.outputs[0]),
    ] {
        let numbers: Vec<f64> = tensor.into_data().to_vec().expect("f64 stays f64");
        assert!(numbers.iter().zip(truth).all(|(x, truth)| (x - truth).abs() < 1e-12));
    }
}

/// An attention of zeros.
fn zeros([b, h, g, l, m, p]: [usize; 6], rule: AttentionRule) {
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &Device::flex());
    let input = AttentionInput { q: zeros([b, h, l, p]), k: zeros([b, g, m, p]), v: zeros([b, g, m, p]), slopes: None };
    attention(input, rule);
}

#[test]
#[should_panic(expected = "attention: 3 query heads cannot share 2 key heads evenly")]
fn heads_that_cannot_be_shared_are_refused() {
    zeros([1, 3, 2, 4, 4, 5], AttentionRule::full(5));
}

#[test]
#[should_panic(expected = "attention: an axis of queries [1, 2, 0, 5] or keys [1, 2, 4, 5] is empty")]
fn empty_axes_are_refused() {
    zeros([1, 2, 2, 0, 4, 5], AttentionRule::full(5));
}

#[test]
#[should_panic(expected = "attention: 2 rows of blocks do not cover 9 positions")]
fn block_masks_that_are_too_small_are_refused() {
    let blocks = Some(BlockMask::new(4, [2, 2], |_, _| true));
    zeros([1, 1, 1, 4, 8, 5], AttentionRule { blocks, ..AttentionRule::causal(5, 5) });
}

#[test]
#[should_panic(expected = "attention: a soft-cap must be positive, not 0")]
fn soft_caps_of_zero_are_refused() {
    zeros([1, 1, 1, 4, 4, 5], AttentionRule { softcap: Some(0.0), ..AttentionRule::full(5) });
}

#[test]
#[should_panic(expected = "attention: a chance of dropout is from 0 to below 1, not 1")]
fn dropping_everything_is_refused() {
    let dropout = Some(AttentionDropout { chance: 1.0, seed: 0 });
    zeros([1, 1, 1, 4, 4, 5], AttentionRule { dropout, ..AttentionRule::full(5) });
}

#[test]
#[should_panic(expected = "attention: slopes [3] do not fit 2 heads")]
fn slopes_for_other_heads_are_refused() {
    let x = Tensor::<4>::zeros([1, 2, 3, 4], &Device::flex());
    let slopes = Some(Tensor::<1>::zeros([3], &Device::flex()));
    attention(AttentionInput { q: x.clone(), k: x.clone(), v: x, slopes }, AttentionRule::full(4));
}

#[test]
#[should_panic(expected = "a block mask needs blocks of at least one position, not 2 × 2 blocks of 0")]
fn blocks_without_positions_are_refused() {
    BlockMask::new(0, [2, 2], |_, _| true);
}
