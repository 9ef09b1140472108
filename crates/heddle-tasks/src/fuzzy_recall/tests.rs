use std::collections::HashMap;

use serde_json::json;

use super::*;
use crate::Task;
use crate::sampling::chi_square_p_value;
use crate::testing::{Examined, build, examine, message};

/// Sound data fall below this once in a million seeds; the seeds here are fixed.
const IMPLAUSIBLE: f64 = 1e-6;

/// The pairs that tokens spell, the last one perhaps incomplete.
fn spelled(vocab: usize, tokens: &[u32]) -> Vec<[Vec<u32>; 2]> {
    let keys = (vocab as u32 - 1) / 2;
    let mut pairs: Vec<[Vec<u32>; 2]> = Vec::new();
    let mut before = keys;
    for token in tokens.iter().copied().filter(|token| *token != vocab as u32 - 1) {
        if token < keys && before >= keys || pairs.is_empty() {
            pairs.push(Default::default());
        }
        pairs.last_mut().unwrap()[usize::from(token >= keys)].push(token);
        before = token;
    }
    pairs
}

/// The next token of the value that the last key had before.
fn oracle(task: &dyn Task, tokens: &[u32]) -> u32 {
    let pairs = spelled(task.vocab(), tokens);
    let Some(([key, said], before)) = pairs.split_last() else { return 0 };
    let sight = before.iter().rev().find(|pair| pair[0] == *key);
    sight.and_then(|[_, value]| value.get(said.len()).copied()).unwrap_or(0)
}

#[test]
fn it_is_what_it_says() {
    examine::<FuzzyRecall>(&Examined {
        settings: json!({"vocab": 10, "train": [{"length": 128}, {"length": 25}]}),
        at_length: |length| json!({"vocab": 12, "train": [{"length": length}]}),
        golden: "15a88d325f257db8",
        oracle,
        guess: |_, stream| 4 + stream.below(5),
    });
}

fn examples(settings: serde_json::Value, split: Split, count: u64) -> Vec<Example> {
    let task = build("fuzzy_recall", settings);
    let of = |index| {
        let mut example = Example::default();
        task.example(split, 0, 1, index, &mut example);
        example
    };
    (0..count).map(of).collect()
}

#[test]
fn every_token_of_every_value_seen_before_is_asked_and_keys_are_long_in_evaluation_alone() {
    for split in [Split::Train, Split::Test] {
        let mut lengths = [[0; 3]; 2];
        for example in examples(json!({"loss": "answers", "train": [{"length": 96}]}), split, 500) {
            let pairs = spelled(16, &example.tokens);
            let blanks = example.tokens.iter().take_while(|token| **token == 15).count();
            let (mut position, mut asked) = (blanks, Vec::new());
            let mut values: HashMap<&[u32], &[u32]> = HashMap::new();
            for [key, value] in &pairs {
                let before = values.insert(key, value);
                assert!(before.is_none_or(|before| before == value), "{key:?} is {before:?} and {value:?}");
                position += key.len();
                if before.is_some() {
                    asked.extend(value.iter().zip(position as u32 - 1..).map(|(token, position)| (position, *token)));
                }
                position += value.len();
                lengths[0][key.len() - 1] += 1;
                lengths[1][value.len() - 1] += 1;
            }
            assert_eq!(position, 96);
            let labels: Vec<(u32, u32)> = example.labels.iter().map(|label| (label.position, label.target)).collect();
            assert_eq!(labels, asked);
            assert_eq!(labels.last().map(|last| last.0), Some(94), "the probe is a key seen before");
        }
        assert!(lengths[1].iter().all(|count| *count > 1000), "{lengths:?}");
        let of_train = lengths[0].iter().all(|count| *count > 1000);
        assert!(if split == Split::Train { of_train } else { lengths[0][..2] == [0, 0] }, "{lengths:?}");
    }
}

#[test]
fn tuples_are_of_different_tokens_and_all_such_tuples_are_equally_likely() {
    let (mut first_keys, mut lengths) = (HashMap::<Vec<u32>, u64>::new(), vec![0; 3]);
    for example in examples(json!({"vocab": 9, "train": [{"length": 64}]}), Split::Test, 12_000) {
        let pairs = spelled(9, &example.tokens);
        *first_keys.entry(pairs[0][0].clone()).or_default() += 1;
        lengths[pairs[0][1].len() - 1] += 1;
    }
    let counts: Vec<u64> = first_keys.values().copied().collect();
    assert_eq!(counts.len(), 24, "4·3·2 keys of 3 different tokens");
    assert!(chi_square_p_value(&counts, &[1.0 / 24.0; 24]) > IMPLAUSIBLE, "{first_keys:?}");
    assert!(chi_square_p_value(&lengths, &[1.0 / 3.0; 3]) > IMPLAUSIBLE, "{lengths:?}");
}

#[test]
fn no_pair_of_the_greatest_length_would_fit_before_the_probe_and_the_probe_is_stated_anywhere() {
    let mut quarters = [0; 4];
    for example in examples(json!({"vocab": 128, "train": [{"length": 256}]}), Split::Test, 4000) {
        let blanks = example.tokens.iter().take_while(|token| **token == 127).count();
        assert!(blanks < 6, "{blanks} blanks");
        let first = spelled(128, &example.tokens);
        let (probe, before) = first.split_last().unwrap();
        let stated = before.iter().position(|pair| pair == probe).expect("the probe is stated");
        quarters[4 * stated / before.len()] += 1;
    }
    // Even up to the length of a pair, which the last place leaves out.
    assert!(quarters.iter().all(|count| (850..1150).contains(count)), "{quarters:?}");
}

#[test]
fn training_has_the_loss_on_every_next_token() {
    for example in examples(json!({"train": [{"length": 64}]}), Split::Train, 100) {
        assert!(example.labels.iter().map(|label| label.position).eq(0..63));
        for label in &example.labels {
            assert_eq!(example.tokens[label.position as usize + 1], label.target);
            if label.evidence < label.position {
                assert_eq!(example.tokens[label.evidence as usize], label.target);
            }
        }
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    assert_eq!(
        message("fuzzy_recall", json!({"train": [{"length": 11}]})),
        "setting 'train[0].length': 2·(key_tokens + value_tokens) ≤ length fails (key_tokens 3, value_tokens 3, length \
         11): use a length of at least 12 or shorter keys and values"
    );
    assert_eq!(
        message("fuzzy_recall", json!({"key_tokens": 8})),
        "setting 'key_tokens': 1 ≤ key_tokens ≤ 7, the tokens it is made of fails (key_tokens 8, vocab 16): use at most 7, \
         or a larger vocabulary; published are 3 and 16"
    );
    assert_eq!(
        message("fuzzy_recall", json!({"value_tokens": 0})),
        "setting 'value_tokens': 1 ≤ value_tokens ≤ 8, the tokens it is made of fails (value_tokens 0, vocab 16): use at \
         most 8, or a larger vocabulary; published are 3 and 16"
    );
    assert_eq!(
        message("fuzzy_recall", json!({"vocab": 4})),
        "setting 'vocab': 5 ≤ vocab ≤ 16777216 fails (vocab 4): use 16 as published"
    );
    assert_eq!(
        message("fuzzy_recall", json!({"train": [{"length": usize::MAX}]})),
        "setting 'train[0].length': length ≤ 16777216 fails (length 18446744073709551615): use a length of at most 16777216"
    );
}

#[test]
fn extreme_settings_are_built_or_refused_and_never_hang() {
    for vocab in [5, 6, 9, 1 << 24] {
        for (key_tokens, value_tokens) in [(1, 1), (2, 2), (1, 3), (4, 1), (1 << 12, 1), (usize::MAX, usize::MAX)] {
            for length in [0, 4, 5, 8, 64, 1 << 15] {
                let train = [json!({"length": length})];
                let settings =
                    json!({"vocab": vocab, "key_tokens": key_tokens, "value_tokens": value_tokens, "train": train});
                if let Ok(task) = crate::TaskRegistry::builtin().build("fuzzy_recall", &settings) {
                    let mut example = Example::default();
                    task.example(Split::Train, 0, 0, 0, &mut example);
                    assert_eq!(example.tokens.len(), length);
                }
            }
        }
    }
}
