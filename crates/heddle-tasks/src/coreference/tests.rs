use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;
use crate::sampling::chi_square_p_value;
use crate::testing::{Examined, build, examine, message};
use crate::{Task, draw};

/// The two forms that the reference page shows.
const SLOW: &str =
    ". the cart was green . the box could not catch up with the suitcase since it was too slow . it is the ▸ box";
const FAST: &str =
    ". the cart was green . the box could not catch up with the suitcase since it was too fast . it is the ▸ suitcase";

/// Words of the relation, the adjective, and whether it tells of the first noun: sense, written down once more.
const SENSE: [(&str, &str, bool); 20] = [
    ("fit in", "large", true),
    ("fit in", "small", false),
    ("hold", "large", false),
    ("hold", "small", true),
    ("fell through", "heavy", true),
    ("fell through", "weak", false),
    ("carry", "heavy", false),
    ("carry", "weak", true),
    ("pass through", "wide", true),
    ("pass through", "narrow", false),
    ("let in", "wide", false),
    ("let in", "narrow", true),
    ("fit under", "tall", true),
    ("fit under", "low", false),
    ("see over", "tall", false),
    ("see over", "low", true),
    ("catch up", "slow", true),
    ("catch up", "fast", false),
    ("left behind", "slow", false),
    ("left behind", "fast", true),
];

/// Reads the last two sentences as a reader would: whatever follows "the" is a noun.
fn oracle(task: &dyn Task, tokens: &[u32]) -> u32 {
    let tail = &tokens[tokens.len().saturating_sub(19)..];
    let words: Vec<String> = tail.iter().map(|token| task.describe_token(*token)).collect();
    let text = words.join(" ");
    let known = SENSE.iter().find(|(relation, adjective, _)| {
        text.contains(&format!(" {relation} ")) && text.contains(&format!(" too {adjective} "))
    });
    let question = words.len().saturating_sub(3);
    let nouns: Vec<u32> = (1..question).filter(|i| words[i - 1] == "the").map(|i| tail[i]).collect();
    match (nouns.as_slice(), known) {
        ([.., first, second], Some((.., of_first))) => *if *of_first { first } else { second },
        _ => 0,
    }
}

fn text(task: &dyn Task, example: &Example) -> String {
    let words: Vec<String> = example.tokens.iter().map(|token| task.describe_token(*token)).collect();
    words.join(" ")
}

fn at<'a>(example: &'a Example, name: &str) -> (u32, &'a u32) {
    let mark = example.marks.iter().find(|mark| mark.name == name).unwrap();
    (mark.position, &example.tokens[mark.position as usize])
}

#[test]
fn it_is_what_it_says() {
    examine::<Coreference>(&Examined {
        settings: json!({"nouns": 12, "train": [{"length": 19}, {"length": 33}]}),
        at_length: |length| json!({"train": [{"length": length}]}),
        golden: "ab86225e6f3bc220",
        oracle,
        guess: |_, stream| 46 + stream.below(12),
    });
}

#[test]
fn every_sentence_comes_in_two_forms_that_differ_in_the_adjective_and_the_answer() {
    let task = build("coreference", json!({"train": [{"length": 40}]}));
    let (mut one, mut other) = (Example::default(), Example::default());
    for split in Split::ALL {
        for pair in 0..200 {
            task.example(split, 0, 1, 2 * pair, &mut one);
            task.example(split, 0, 1, 2 * pair + 1, &mut other);
            let differing: Vec<u32> =
                (0..40).filter(|i| one.tokens[*i] != other.tokens[*i]).map(|i| i as u32).collect();
            assert_eq!(differing, [at(&one, "adjective").0]);
            assert_eq!(at(&one, "right noun"), at(&other, "wrong noun"));
            assert_eq!(at(&one, "wrong noun"), at(&other, "right noun"));
            assert_eq!(one.labels[0].target, *at(&one, "right noun").1);
            assert_eq!(task.describe_token(*at(&one, "pronoun").1), "it");
        }
    }
}

#[test]
fn splits_share_no_combination_of_template_relation_and_nouns() {
    let task = build("coreference", json!({"nouns": 4, "train": [{"length": 25}], "test": [{"length": 61}]}));
    let mut example = Example::default();
    let [train, validation, test] = Split::ALL.map(|split| {
        let drawn = (0..4000).map(|index| {
            task.example(split, 0, 0, 2 * index, &mut example);
            let start = at(&example, "sentence").0 as usize;
            example.tokens[start..].to_vec()
        });
        drawn.collect::<BTreeSet<_>>()
    });
    assert!(train.is_disjoint(&validation) && train.is_disjoint(&test) && validation.is_disjoint(&test));
    // 40 sentences and 12 ordered pairs of nouns.
    assert_eq!(train.len() + validation.len() + test.len(), 480);
}

#[test]
fn neither_adjective_nor_relation_nor_place_decides_alone() {
    let task = build("coreference", json!({"train": [{"length": 19}]}));
    let mut example = Example::default();
    // For each adjective, how often it told of the noun that stands first.
    let mut of_first: BTreeMap<u32, [u64; 2]> = BTreeMap::new();
    for index in 0..40_000 {
        task.example(Split::Train, 0, 0, index, &mut example);
        let first = at(&example, "right noun").0 < at(&example, "wrong noun").0;
        of_first.entry(*at(&example, "adjective").1).or_default()[usize::from(first)] += 1;
    }
    assert_eq!(of_first.len(), 10);
    for counts in of_first.values() {
        assert!(chi_square_p_value(counts, &[0.5, 0.5]) > 1e-6, "{of_first:?}");
    }
}

#[test]
fn filler_speaks_evenly_of_the_other_nouns() {
    let task = build("coreference", json!({"nouns": 5, "train": [{"length": 4000}]}));
    let mut example = Example::default();
    task.example(Split::Train, 0, 0, 0, &mut example);
    let asked = [*at(&example, "right noun").1, *at(&example, "wrong noun").1];
    let start = at(&example, "sentence").0 as usize;
    let mut counts = BTreeMap::new();
    example.tokens[..start].iter().filter(|t| **t >= 46).for_each(|noun| *counts.entry(*noun).or_insert(0) += 1);
    assert!(counts.len() == 3 && asked.iter().all(|noun| !counts.contains_key(noun)), "{counts:?}");
    let counts: Vec<u64> = counts.into_values().collect();
    assert!(chi_square_p_value(&counts, &[1.0 / 3.0; 3]) > 1e-6, "{counts:?}");
}

#[test]
fn the_program_writes_the_layout_of_the_documentation() {
    let task = build("coreference", json!({"nouns": 8, "train": [{"length": 24}]}));
    let mut example = Example::default();
    for (index, expected) in [(0, SLOW), (1, FAST)] {
        task.example(Split::Train, 0, 0, index, &mut example);
        let answer = task.describe_token(example.labels[0].target);
        let drawn = format!("{} ▸ {answer}", text(task.as_ref(), &example));
        assert_eq!(drawn, expected);
    }
    assert!(draw(task.as_ref(), &example).contains("◂ the answer at 23"));
}

#[test]
fn settings_out_of_range_are_refused() {
    let of_length = |length: Value| message("coreference", json!({"train": [{"length": length}]}));
    assert_eq!(
        of_length(json!(18)),
        "setting 'train[0].length': 19 ≤ length ≤ 16777216 fails (length 18): use a length from 19, the longest \
         sentence, to 16777216"
    );
    assert!(of_length(json!(u64::MAX)).contains("(length 18446744073709551615)"));
    assert_eq!(
        message("coreference", json!({"nouns": 3})),
        "setting 'nouns': 4 ≤ nouns ≤ 64 fails (nouns 3): use 64, or fewer for a small model"
    );
    assert!(message("coreference", json!({"nouns": 65})).contains("fails (nouns 65)"));
}
