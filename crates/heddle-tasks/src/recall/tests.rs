use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::sampling::chi_square_p_value;
use crate::testing::{Examined, build, examine, message};
use crate::{Label, Task};

const IMPLAUSIBLE: f64 = 1e-6;

/// What followed the last W tokens at their last sight.
fn oracle<const W: usize>(_: &dyn Task, tokens: &[u32]) -> u32 {
    let Some((before, key)) = tokens.split_last_chunk::<W>() else { return 0 };
    let sight = before.windows(W).rposition(|window| window == key);
    sight.and_then(|sight| tokens.get(sight + W)).copied().unwrap_or_default()
}

#[test]
fn forgetting_recall_is_what_it_says() {
    examine::<Recall<Forgetting>>(&Examined {
        settings: json!({"vocab": 40, "train": [
            {"length": 60, "pairs": 8, "updates": 4}, {"length": 37, "pairs": 6, "updates": 6}
        ]}),
        at_length: |length| json!({"train": [{"length": length, "pairs": 8, "updates": 4}]}),
        golden: "90b784fcea2b2bf8",
        oracle: oracle::<1>,
        guess: |_, stream| 20 + stream.below(20),
    });
}

#[test]
fn compositional_recall_is_what_it_says() {
    examine::<Recall<Compositional>>(&Examined {
        settings: json!({"vocab": 50, "train": [{"length": 64, "pairs": 9}, {"length": 24, "pairs": 4}]}),
        at_length: |length| json!({"train": [{"length": length, "pairs": 4}]}),
        golden: "64cdaa4d7e72a0d4",
        oracle: oracle::<2>,
        guess: |_, stream| 32 + stream.below(18),
    });
}

#[test]
fn multi_pass_recall_is_what_it_says() {
    examine::<Recall<MultiPass>>(&Examined {
        settings: json!({"vocab": 40, "train": [{"length": 64, "pairs": 8}, {"length": 41, "pairs": 4, "passes": 4}]}),
        at_length: |length| json!({"train": [{"length": length, "pairs": 4}]}),
        golden: "d0e222d92f0a9d01",
        oracle: oracle::<1>,
        guess: |_, stream| 20 + stream.below(20),
    });
}

#[test]
fn tokens_are_described_by_their_ranges_with_their_own_numbers() {
    let task = build("forgetting_recall", json!({"vocab": 18, "train": [{"length": 32, "pairs": 4, "updates": 1}]}));
    let described = [0, 1, 8, 9, 17, 18].map(|token| task.describe_token(token));
    let plain = ["filler", "key 1", "key 8", "value 9", "value 17", "18 is no token of this vocabulary"];
    assert_eq!(described, plain);
    let task = build("compositional_recall", json!({"vocab": 18, "train": [{"length": 32, "pairs": 4}]}));
    let described = [0, 1, 5, 6, 11, 12, 17, 18].map(|token| task.describe_token(token));
    let composed = ["first key 1", "first key 5", "second key 6", "second key 11", "value 12", "value 17"];
    assert_eq!(described[1..7], composed);
    assert_eq!([&described[0], &described[7]], ["filler", "18 is no token of this vocabulary"]);
}

fn first(kind: &str, settings: Value) -> Example {
    let mut example = Example::default();
    build(kind, settings).example(Split::Train, 0, 0, 0, &mut example);
    example
}

#[test]
fn the_examples_of_the_documentation_are_the_programs() {
    let label = |(position, target, evidence)| Label { position, target, evidence };
    let one = |vocab, knobs: Value| json!({"vocab": vocab, "filler": "zero", "train": [knobs]});
    let forgetting = first("forgetting_recall", one(16, json!({"length": 14, "pairs": 2, "updates": 1})));
    assert_eq!(forgetting.tokens, [2, 10, 7, 12, 7, 15, 7, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(forgetting.labels, [(6, 15, 5), (12, 10, 1)].map(label));
    let composed = first("compositional_recall", one(18, json!({"length": 25, "pairs": 4})));
    assert_eq!(composed.tokens[..12], [5, 11, 17, 3, 9, 15, 5, 9, 12, 3, 11, 13]);
    assert_eq!(composed.tokens[12..], [5, 9, 0, 3, 11, 0, 3, 9, 0, 5, 11, 0, 0]);
    assert_eq!(composed.labels, [(13, 12, 8), (16, 13, 11), (19, 15, 5), (22, 17, 2)].map(label));
    let passes = first("multi_pass_recall", one(16, json!({"length": 14, "pairs": 2})));
    assert_eq!(passes.tokens, [4, 10, 7, 13, 4, 10, 7, 13, 4, 0, 0, 0, 7, 0]);
    assert_eq!(passes.labels, [(8, 10, 5), (12, 13, 7)].map(label));
}

#[test]
fn a_new_value_is_uniform_among_all_but_the_old_one() {
    let task = build("forgetting_recall", json!({"vocab": 10, "train": [{"length": 8, "pairs": 1, "updates": 1}]}));
    let mut counts = vec![0; 25];
    let mut example = Example::default();
    for index in 0..20_000 {
        task.example(Split::Train, 0, 0, index, &mut example);
        let [old, new] = [1, 3].map(|position| example.tokens[position] as usize - 5);
        counts[5 * old + new] += 1;
    }
    let differ: Vec<u64> = (0..25).filter(|cell| cell / 5 != cell % 5).map(|cell| counts[cell]).collect();
    // Sequences are few here and each belongs to one split, so only what cannot occur is certain.
    assert_eq!(differ.iter().sum::<u64>(), 20_000, "{counts:?}");
    assert!(differ.iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
fn every_key_is_as_likely_to_be_updated_as_any_other() {
    let settings = json!({"vocab": 8192, "train": [{"length": 64, "pairs": 8, "updates": 3}]});
    let task = build("forgetting_recall", settings);
    let mut counts = [0; 8];
    let mut example = Example::default();
    for index in 0..10_000 {
        task.example(Split::Test, 0, 0, index, &mut example);
        let pairs: HashMap<u32, usize> = (0..8).map(|pair| (example.tokens[2 * pair], pair)).collect();
        counts[pairs[&example.tokens[16]]] += 1;
        let updated: Vec<_> = [16, 18, 20].map(|position| pairs[&example.tokens[position]]).into();
        assert!(updated[0] != updated[1] && updated[1] != updated[2] && updated[2] != updated[0]);
        assert_eq!(example.labels.iter().filter(|label| label.evidence > 16).count(), 3);
    }
    assert!(chi_square_p_value(&counts, &[0.125; 8]) > IMPLAUSIBLE, "{counts:?}");
}

#[test]
fn composed_keys_are_a_grid_in_random_order_of_which_no_token_tells_the_value() {
    let task = build("compositional_recall", json!({"vocab": 300, "train": [{"length": 64, "pairs": 9}]}));
    let mut example = Example::default();
    let mut order = [0; 9];
    for index in 0..5000 {
        task.example(Split::Test, 0, 0, index, &mut example);
        let context: Vec<[u32; 3]> = (0..9).map(|i| [0, 1, 2].map(|j| example.tokens[3 * i + j])).collect();
        for (column, range) in [(0, 1..100), (1, 100..200)] {
            let mut sights = HashMap::<u32, Vec<u32>>::new();
            for statement in &context {
                assert!(range.contains(&statement[column]));
                sights.entry(statement[column]).or_default().push(statement[1 - column]);
            }
            assert_eq!(sights.len(), 3);
            assert!(sights.values().all(|partners| partners.len() == 3));
        }
        let mut values: Vec<u32> = context.iter().map(|statement| statement[2]).collect();
        values.sort_unstable();
        values.dedup();
        assert!(values.len() == 9 && values.iter().all(|value| (200..300).contains(value)));
        // Where the key stands that shares neither token with the first.
        let rank = context.iter().position(|s| s[0] != context[0][0] && s[1] != context[0][1]).unwrap();
        order[rank] += 1;
    }
    // 4 of the 8 other keys: the first of them at place r is at 1 … 5 with C(8 − r, 3) / C(8, 4).
    let law = [35.0, 20.0, 10.0, 4.0, 1.0].map(|ways| ways / 70.0);
    assert!(chi_square_p_value(&order[1..6], &law) > IMPLAUSIBLE, "{order:?}");
}

#[test]
fn with_one_pass_queries_are_those_of_plain_recall() {
    let settings = |knobs: Value| json!({"vocab": 256, "train": [knobs]});
    let passes = build("multi_pass_recall", settings(json!({"length": 64, "pairs": 8, "passes": 1})));
    let plain = build("mqar", settings(json!({"length": 64, "pairs": 8})));
    let law: Vec<f64> = (1..=24).map(|j| f64::from(j).powf(0.01 - 1.0)).collect();
    let law: Vec<f64> = law.iter().map(|weight| weight / law.iter().sum::<f64>()).collect();
    for task in [&passes, &plain] {
        let mut counts = [0; 24];
        let mut example = Example::default();
        for index in 0..5000 {
            task.example(Split::Test, 0, 0, index, &mut example);
            let label = example.labels.iter().find(|label| label.evidence == 1).unwrap();
            counts[(label.position as usize - 16) / 2] += 1;
        }
        assert!(chi_square_p_value(&counts, &law) > IMPLAUSIBLE, "{counts:?}");
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let train = |kind, knobs| message(kind, json!({"vocab": 32, "train": [knobs]}));
    assert_eq!(
        train("forgetting_recall", json!({"length": 38, "pairs": 8, "updates": 4})),
        "setting 'train[0].length': 2·(passes·pairs + updates + pairs) ≤ length fails (length 38, pairs 8, passes 1, \
         updates 4): use fewer pairs or a length of at least 40"
    );
    assert_eq!(
        train("forgetting_recall", json!({"length": 64, "pairs": 4, "updates": 5})),
        "setting 'train[0].updates': updates ≤ pairs fails (updates 5, pairs 4): use at most 4 updates"
    );
    assert_eq!(
        train("multi_pass_recall", json!({"length": 64, "pairs": 4, "passes": usize::MAX})),
        format!("setting 'train[0].passes': 1 ≤ passes ≤ 16777216 fails (passes {}): use at most 16777216", usize::MAX)
    );
    assert_eq!(
        train("multi_pass_recall", json!({"length": 256, "pairs": 16})),
        "setting 'train[0].pairs': pairs ≤ vocab/2 − 1 fails (pairs 16, vocab 32): use at most 15 pairs or a vocab of at \
         least 34"
    );
    assert_eq!(
        train("compositional_recall", json!({"length": 64, "pairs": 8})),
        "setting 'train[0].pairs': pairs a square number fails (pairs 8, vocab 32): use 4 or 9 pairs"
    );
    assert_eq!(
        train("compositional_recall", json!({"length": 256, "pairs": 16})),
        "setting 'train[0].pairs': pairs ≤ vocab/3 fails (pairs 16, vocab 32): use fewer pairs or a vocab of at least 48"
    );
    assert_eq!(
        message("compositional_recall", json!({"vocab": 6, "train": [{"length": 64, "pairs": 4}]})),
        "setting 'train[0].pairs': √pairs ≤ vocab/3 − 1 fails (pairs 4, vocab 6): use at most 1 pairs or a vocab of at \
         least 9"
    );
    assert_eq!(
        message("compositional_recall", json!({"vocab": 5})),
        "setting 'vocab': 6 ≤ vocab ≤ 16777216 fails (vocab 5): the published setting is 8192"
    );
    assert_eq!(
        message("forgetting_recall", json!({"power_a": 3.0})),
        "setting 'power_a': 0 < power_a ≤ 2 fails (power_a 3): use 0.01 as published, or 1 to scatter the queries evenly"
    );
}
