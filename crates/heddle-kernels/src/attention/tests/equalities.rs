//! Attentions that must equal each other.

use super::*;
use crate::attention::backward::{self, Kept, Plan, Wanted};
use crate::attention::forward;
use crate::testing::on_threads;

/// The bits of values and gradients, on Flex.
fn bits(case: &Case) -> Vec<u32> {
    let mut random = Random::new(3);
    let (inputs, upstream) = (case.sample(&mut random), case.sample_upstream(&mut random));
    case.run(&Device::flex(), attention_with_lse, &inputs, &upstream).bits()
}

#[test]
fn a_window_of_the_whole_length_is_full_attention() {
    for case in
        [Case::causal([1, 2, 1, 150, 150, 9]), Case::full([1, 2, 1, 150, 150, 9]), Case::causal([1, 1, 1, 1, 150, 9])]
    {
        let window = case.clone().with(|rule| rule.window = Some(150));
        assert_eq!(bits(&case), bits(&window), "{case:?}");
    }
}

#[test]
fn dropout_with_chance_0_changes_no_bit() {
    let case = Case::causal([1, 4, 2, 150, 150, 9]);
    let dropout = Some(AttentionDropout { chance: 0.0, seed: 1 });
    assert_eq!(bits(&case), bits(&case.clone().with(|rule| rule.dropout = dropout)));
}

#[test]
fn a_mask_of_all_blocks_is_dense_attention() {
    for size in [1, 10, KEYS, 1000] {
        for case in [Case::causal([1, 2, 1, 150, 150, 9]), Case::full([1, 2, 1, 150, 150, 9])] {
            let blocks = BlockMask::new(size, [150_usize.div_ceil(size); 2], |_, _| true);
            assert_eq!(
                bits(&case),
                bits(&case.clone().with(|rule| rule.blocks = Some(blocks.clone()))),
                "{size} {case:?}"
            );
        }
    }
}

#[test]
fn grouped_heads_equal_expanded_heads() {
    for rule in [AttentionRule::causal(12, 7), AttentionRule { window: Some(20), ..AttentionRule::causal(12, 7) }] {
        let grouped = Case { sizes: [2, 6, 2, 70, 77, 12], rule, sloped: true };
        let mut random = Random::new(4);
        let (inputs, upstream) = (grouped.sample(&mut random), grouped.sample_upstream(&mut random));
        for device in devices() {
            let expanded = |x: &[Tensor<1>]| {
                let mut input = grouped.unflatten(x);
                let [b, h, g, _, m, p] = grouped.sizes;
                let expand =
                    |x: Tensor<4>| x.reshape([b, g, 1, m, p]).expand([b, g, h / g, m, p]).reshape([b, h, m, p]);
                (input.k, input.v) = (expand(input.k), expand(input.v));
                let (o, lse) = attention_with_lse(input, grouped.rule.clone());
                vec![o.flatten(0, 3), lse.flatten(0, 2)]
            };
            let expanded = passes(&device, &inputs, &upstream, expanded);
            let grouped = grouped.run(&device, attention_with_lse, &inputs, &upstream);
            assert_near("values", &grouped.outputs, &wide(&expanded.outputs), VALUES);
            assert_gradients_near("gradients", &grouped.gradients, &wide(&expanded.gradients));
        }
    }
}

/// Causal self-attention in pieces of the given lengths, each over the keys so far.
fn pieces<'a>(case: &'a Case, lengths: &'a [usize]) -> impl Fn(&[Tensor<1>]) -> Vec<Tensor<1>> + 'a {
    move |x| {
        let whole = case.unflatten(x);
        let [b, h, g, _, _, p] = case.sizes;
        let (mut o, mut lse, mut at) = (vec![], vec![], 0);
        for length in lengths {
            let end = at + length;
            let input = AttentionInput {
                q: whole.q.clone().slice([0..b, 0..h, at..end, 0..p]),
                k: whole.k.clone().slice([0..b, 0..g, 0..end, 0..p]),
                v: whole.v.clone().slice([0..b, 0..g, 0..end, 0..p]),
                slopes: whole.slopes.clone(),
            };
            let piece = attention_with_lse(input, AttentionRule { offset: at, ..case.rule.clone() });
            o.push(piece.0);
            lse.push(piece.1);
            at = end;
        }
        vec![Tensor::cat(o, 2).flatten(0, 3), Tensor::cat(lse, 2).flatten(0, 2)]
    }
}

#[test]
fn a_sequence_in_pieces_equals_the_whole_in_values_and_gradients() {
    let causal = Case::causal([1, 4, 2, 90, 90, 10]).sloped();
    let window = causal.clone().with(|rule| (rule.window, rule.sinks) = (Some(11), 2));
    for case in [causal, window] {
        let mut random = Random::new(5);
        let (inputs, upstream) = (case.sample(&mut random), case.sample_upstream(&mut random));
        for device in devices() {
            let whole = case.run(&device, attention_with_lse, &inputs, &upstream);
            for lengths in [&[64, 26][..], &[1, 63, 1, 25], &[1; 90], &[89, 1]] {
                let split = passes(&device, &inputs, &upstream, pieces(&case, lengths));
                assert_near(&format!("values {lengths:?}"), &split.outputs, &wide(&whole.outputs), VALUES);
                assert_gradients_near(&format!("gradients {lengths:?}"), &split.gradients, &wide(&whole.gradients));
            }
        }
    }
}

#[test]
fn attentions_over_parts_of_the_keys_merge_by_their_lse() {
    let case = Case::full([1, 2, 2, 20, 100, 6]);
    let mut random = Random::new(6);
    let (inputs, upstream) = (case.sample(&mut random), case.sample_upstream(&mut random));
    let merged = |x: &[Tensor<1>]| {
        let AttentionInput { q, k, v, .. } = case.unflatten(x);
        let part = |from: usize, to: usize| {
            let cut = |x: &Tensor<4>| x.clone().slice([0..1, 0..2, from..to, 0..6]);
            let input = AttentionInput { q: q.clone(), k: cut(&k), v: cut(&v), slopes: None };
            attention_with_lse(input, case.rule.clone())
        };
        let ((o1, lse1), (o2, lse2)) = (part(0, 37), part(37, 100));
        let lse = (lse1.clone().exp() + lse2.clone().exp()).log();
        let share = |part: Tensor<3>| (part - lse.clone()).exp().reshape([1, 2, 20, 1]);
        let o = o1 * share(lse1) + o2 * share(lse2);
        vec![o.flatten(0, 3), lse.clone().flatten(0, 2)]
    };
    let merged = passes(&Device::flex(), &inputs, &upstream, merged);
    let whole = case.run(&Device::flex(), attention_with_lse, &inputs, &upstream);
    assert_near("values", &merged.outputs, &wide(&whole.outputs), VALUES);
    assert_gradients_near("gradients", &merged.gradients[..3], &wide(&whole.gradients[..3]));
}

#[test]
fn the_lse_does_not_change_the_output() {
    let case = Case::causal([2, 2, 1, 70, 70, 8]);
    let inputs = case.sample(&mut Random::new(7));
    let tensors: Vec<_> = inputs.iter().map(|x| Tensor::<1>::from_data(x.as_slice(), &Device::flex())).collect();
    let alone = attention(case.unflatten(&tensors), case.rule.clone()).into_data();
    assert_eq!(alone, attention_with_lse(case.unflatten(&tensors), case.rule.clone()).0.into_data());
}

#[test]
fn strided_inputs_are_read_as_they_are_meant() {
    let case @ Case { sizes: [b, h, g, l, m, p], .. } = &Case::causal([2, 4, 2, 30, 40, 8]);
    let mut random = Random::new(8);
    let (inputs, upstream) = (case.sample(&mut random), case.sample_upstream(&mut random));
    for device in devices() {
        let strided = |x: &[Tensor<1>]| {
            let mut input = case.unflatten(x);
            // A detour that leaves the heads behind the positions in memory.
            let turn = |x: Tensor<4>, heads: usize, length: usize| {
                x.swap_dims(1, 2).reshape([*b, length, heads * p]).reshape([*b, length, heads, *p]).swap_dims(1, 2)
            };
            (input.q, input.k, input.v) = (turn(input.q, *h, *l), turn(input.k, *g, *m), turn(input.v, *g, *m));
            let (o, lse) = attention_with_lse(input, case.rule.clone());
            vec![o.flatten(0, 3), lse.flatten(0, 2)]
        };
        let truth = case.run(&device, attention_with_lse, &inputs, &upstream).bits();
        assert!(passes(&device, &inputs, &upstream, strided).bits() == truth);
    }
}

/// Sizes with one key head and many, with few rows and many.
const THREADED: [[usize; 6]; 5] = [
    [1, 1, 1, 700, 700, 20],
    [3, 2, 1, 300, 300, 32],
    [8, 4, 4, 130, 130, 16],
    [1, 2, 2, 1, 5000, 32],
    [1, 5, 1, 200, 260, 16],
];

const DROPOUT: Option<AttentionDropout> = Some(AttentionDropout { chance: 0.3, seed: 8 });

#[test]
fn the_number_of_threads_changes_no_bit() {
    for sizes in THREADED {
        let window = Case::causal(sizes).with(|rule| rule.window = Some(90));
        let dropout = Case::causal(sizes).with(|rule| rule.dropout = DROPOUT);
        for case in [Case::causal(sizes).sloped(), window, dropout] {
            let on = |threads| on_threads(threads, || bits(&case));
            let one = on(1);
            assert!(one == on(2) && one == on(3) && one == on(7), "{case:?}");
        }
    }
}

#[test]
fn the_plan_of_the_backward_pass_changes_no_bit() {
    for sizes in THREADED {
        let case = Case::causal(sizes).sloped().with(|rule| (rule.softcap, rule.dropout) = (Some(9.0), DROPOUT));
        let [b, h, g, l, m, p] = sizes;
        let mut random = Random::new(9);
        let (inputs, upstream) = (case.sample(&mut random), case.sample_upstream(&mut random));
        let call = Attention {
            dims: Dims { b, h, g, l, m, room: m, p },
            rule: &case.rule,
            q: &inputs[0],
            k: &inputs[1],
            v: &inputs[2],
            slopes: Some(&inputs[3]),
        };
        let attended = forward::forward(call, Level::current());
        let kept = Kept { o: &attended.o, lse: &attended.lse, g_o: Some(&upstream[0]), g_lse: Some(&upstream[1]) };
        let all = Wanted { queries: true, keys: true };
        let by = |plan, wanted| backward::backward_by(plan, (call, kept), wanted, Level::current());
        let together = by(Plan::Together, all);
        assert!(together == by(Plan::Apart, all), "{case:?}");
        let queries = by(Plan::Apart, Wanted { queries: true, keys: false });
        assert!(queries.q == together.q && queries.slopes == together.slopes && queries.k.is_empty());
        let keys = by(Plan::Apart, Wanted { queries: false, keys: true });
        assert!(keys.k == together.k && keys.v == together.v && keys.q.is_empty());
    }
}

#[test]
fn one_pass_over_a_head_is_planned_where_heads_keep_all_threads_busy() {
    let plan = |heads, threads| Plan::for_threads(heads, threads, Wanted { queries: true, keys: true });
    assert_eq!([plan(1, 1), plan(32, 2), plan(3, 2), plan(5, 2)], [Plan::Together; 4]);
    assert_eq!([plan(1, 2), plan(8, 16)], [Plan::Apart; 2]);
}

#[test]
fn every_instruction_set_computes_the_same() {
    for sizes in [[1, 4, 2, 150, 150, 40], [1, 2, 1, 2, 100, 40]] {
        let case = Case::causal(sizes).sloped().with(|rule| (rule.softcap, rule.window) = (Some(9.0), Some(70)));
        let case = case.with(|rule| rule.dropout = DROPOUT);
        let mut random = Random::new(10);
        let (inputs, upstream) = (case.sample(&mut random), case.sample_upstream(&mut random));
        let with = |level: Level| level.force(|| case.run(&Device::flex(), attention_with_lse, &inputs, &upstream));
        let [portable, others @ ..] = &Level::supported()[..] else { panic!("the portable level is always there") };
        let portable = with(*portable);
        for level in others {
            let other = with(*level);
            assert_near(&format!("{level:?}"), &other.outputs, &wide(&portable.outputs), VALUES);
            assert_gradients_near(&format!("{level:?}"), &other.gradients, &wide(&portable.gradients));
        }
    }
}

#[test]
fn places_without_a_key_are_not_read() {
    let rules = [
        AttentionRule::causal(9, 69),
        AttentionRule { window: Some(20), sinks: 3, ..AttentionRule::causal(9, 69) },
        AttentionRule { causal: false, ..AttentionRule::causal(9, 69) },
    ];
    let (m, room) = (70, 91);
    for (rule, l) in rules.into_iter().flat_map(|rule| [(rule.clone(), 1), (AttentionRule { offset: 30, ..rule }, 40)])
    {
        let case = Case { sizes: [2, 4, 2, l, m, 9], rule: AttentionRule { keys: Some(m), ..rule }, sloped: false };
        let sample = case.sample(&mut Random::new(5));
        let autodiff = [Device::flex().autodiff()];
        for device in devices().into_iter().chain(autodiff) {
            let flat: Vec<Tensor<1>> = sample.iter().map(|x| Tensor::from_data(x.as_slice(), &device)).collect();
            let input = case.unflatten(&flat);
            let spare = Tensor::full([2, 2, room - m, 9], f32::NAN, &device);
            let roomy = |x: &Tensor<4>| Tensor::cat(vec![x.clone(), spare.clone()], 2);
            let with_room = AttentionInput { k: roomy(&input.k), v: roomy(&input.v), ..input.clone() };
            for attend in [attention_with_lse, attention_with_lse_by_definition] {
                let (o, lse) = attend(with_room.clone(), case.rule.clone());
                let (tight, tight_lse) = attend(input.clone(), case.rule.clone());
                assert_eq!(o.into_data(), tight.into_data(), "{case:?}");
                assert_eq!(lse.into_data(), tight_lse.into_data(), "{case:?}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "attention: there are places for 3 keys, not for 4")]
fn keys_without_a_place_are_refused() {
    let ones = Tensor::<4>::ones([1, 1, 3, 2], &Device::flex());
    let rule = AttentionRule { keys: Some(4), ..AttentionRule::causal(2, 0) };
    attention(AttentionInput { q: ones.clone(), k: ones.clone(), v: ones, slopes: None }, rule);
}
