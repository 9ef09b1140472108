use serde_json::json;

use super::*;
use crate::Task;
use crate::sampling::chi_square_p_value;
use crate::testing::{Examined, build, examine, message};

/// No digit.
const NONSENSE: u32 = 99;

/// Evaluates by reduction: each closing bracket replaces what it closes by its value. Nonsense has no value.
fn evaluate(words: &[String]) -> Option<u32> {
    let mut stack: Vec<&str> = vec![];
    let mut values = vec![];
    for word in words.iter().map(String::as_str).skip_while(|word| *word == "blank") {
        if word != "]" {
            stack.push(word);
            continue;
        }
        let open = stack.iter().rposition(|word| word.starts_with('['))?;
        let mut digits: Vec<u32> = stack[open + 1..].iter().map(|word| word.parse().ok()).collect::<Option<_>>()?;
        digits.sort_unstable();
        let n = digits.len();
        let (first, last) = (digits.first()?, digits.last()?);
        let value = match stack[open] {
            "[MAX" => *last,
            "[MIN" => *first,
            "[MED" => (digits[(n - 1) / 2] + digits[n / 2]) / 2,
            "[SM" => digits.iter().sum::<u32>() % 10,
            _ => return None,
        };
        stack.truncate(open);
        values.push(value);
        stack.push(["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"][value as usize]);
    }
    match stack.as_slice() {
        [value] => value.parse().ok(),
        _ => None,
    }
}

fn words(task: &dyn Task, tokens: &[u32]) -> Vec<String> {
    tokens.iter().map(|token| task.describe_token(*token)).collect()
}

fn oracle(task: &dyn Task, tokens: &[u32]) -> u32 {
    evaluate(&words(task, tokens)).unwrap_or(NONSENSE)
}

#[test]
fn it_is_what_it_says() {
    examine::<ListOps>(&Examined {
        settings: json!({"train": [{"length": 20}, {"length": 300, "depth": 3, "arguments": 9}, {"length": 40, "depth": 1}]}),
        at_length: |length| json!({"train": [{"length": length}]}),
        golden: "0494ea26c0cb876d",
        oracle,
        guess: |_, stream| stream.below(10),
    });
}

#[test]
fn operators_are_those_of_the_long_range_arena() {
    for (expression, value) in [
        ("[MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]", 5),
        ("[MED 1 2 4 9 ]", 3),
        ("[MED 1 2 ]", 1),
        ("[SM 9 9 [MIN 7 8 ] ]", 5),
    ] {
        let spoken: Vec<String> = expression.split(' ').map(str::to_owned).collect();
        assert_eq!(evaluate(&spoken), Some(value), "{expression}");
    }
    let frame = |operator, counts| Frame { operator, left: 0, room: 0, counts };
    let counts = [0, 1, 1, 0, 1, 0, 0, 0, 0, 1];
    assert_eq!([0, 1, 2, 3].map(|operator| frame(operator, counts).value()), [9, 1, 3, 6]);
}

#[test]
fn expressions_keep_to_their_depth_and_arguments_and_fill_their_length() {
    for (length, depth, arguments) in [(64, 10, 10), (300, 3, 7), (1000, 2, 40), (50, 9, 2), (500, 4, 3), (4, 1, 2)] {
        let knobs = json!({"length": length, "depth": depth, "arguments": arguments});
        let plan = ListOps {}.plan(Split::Train, &serde_json::from_value(knobs.clone()).unwrap()).unwrap().1;
        let room = length.min(plan.capacity(depth) as usize);
        let task =
            build("listops", json!({"train": [knobs], "test": [{"length": 40}], "validation": [{"length": 40}]}));
        let mut example = Example::default();
        let mut used = 0;
        for index in 0..300 {
            task.example(Split::Train, 0, 0, index, &mut example);
            let written = words(task.as_ref(), &example.tokens);
            assert_eq!(evaluate(&written), Some(example.labels[0].target));
            let mut open: Vec<usize> = vec![];
            for word in &written {
                match word.as_str() {
                    "]" => assert!((2..=arguments).contains(&open.pop().unwrap())),
                    "blank" => continue,
                    _ => {}
                }
                if word != "]" {
                    open.iter_mut().rev().take(1).for_each(|count| *count += 1);
                }
                if word.starts_with('[') {
                    open.push(0);
                }
                assert!(open.len() <= depth);
            }
            let digits = example.tokens.iter().filter(|token| **token < 10).count();
            assert!(digits >= room.div_ceil(9).max(2), "{digits} digits in {room} tokens");
            used += example.tokens.iter().filter(|token| **token != BLANK).count();
        }
        let filled = used as f64 / (300 * room) as f64;
        assert!(filled > if arguments > 3 { 0.95 } else { 0.6 }, "{filled} of {length}, {depth}, {arguments}");
    }
}

#[test]
fn digits_and_operators_are_even_and_the_commonest_answers_are_known() {
    let task = build("listops", json!({"train": [{"length": 64}]}));
    let mut example = Example::default();
    let (mut digits, mut operators) = ([0; 10], [0; 4]);
    let mut answers = [[0_u64; 10]; 4];
    for index in 0..20_000 {
        task.example(Split::Train, 0, 0, index, &mut example);
        for token in &example.tokens {
            match *token {
                digit @ 0..10 => digits[digit as usize] += 1,
                operator @ FIRST_OPERATOR..CLOSE => operators[(operator - FIRST_OPERATOR) as usize] += 1,
                _ => {}
            }
        }
        let label = example.labels[0];
        let outermost = example.tokens[label.evidence as usize] - FIRST_OPERATOR;
        answers[outermost as usize][label.target as usize] += 1;
    }
    assert!(chi_square_p_value(&digits, &[0.1; 10]) > 1e-6, "{digits:?}");
    assert!(chi_square_p_value(&operators, &[0.25; 4]) > 1e-6, "{operators:?}");
    assert!(answers[0][9] > answers[0][0] && answers[1][0] > answers[1][9], "{answers:?}");
    let plateau = answers.iter().map(|row| row.iter().max().unwrap()).sum::<u64>() as f64 / 20_000.0;
    assert!((plateau - 1.0 / 3.0).abs() < 0.02, "{plateau}");
}

#[test]
fn settings_out_of_range_are_refused_and_extreme_ones_are_borne() {
    let of = |knobs: serde_json::Value| message("listops", json!({"train": [knobs]}));
    assert_eq!(
        of(json!({"length": 3})),
        "setting 'train[0].length': 4 ≤ length ≤ 16777216 fails (length 3): use a length from 4, an operator over two \
         digits, to 16777216"
    );
    assert_eq!(
        of(json!({"length": 64, "depth": 0})),
        "setting 'train[0].depth': 1 ≤ depth fails (depth 0): use 10 as published"
    );
    assert!(of(json!({"length": 64, "arguments": 1})).contains("2 ≤ arguments"));
    assert!(of(json!({"length": u64::MAX})).contains("4 ≤ length"));
    assert!(of(json!({"length": 64, "arguments": u64::MAX})).contains("2 ≤ arguments"));
    let mut example = Example::default();
    for (depth, arguments) in [(usize::MAX, 2), (usize::MAX, LARGEST), (1, LARGEST), (2, 2)] {
        let task = build("listops", json!({"train": [{"length": 5000, "depth": depth, "arguments": arguments}]}));
        task.example(Split::Train, 0, 0, 0, &mut example);
        assert_eq!(oracle(task.as_ref(), &example.tokens), example.labels[0].target);
    }
}
