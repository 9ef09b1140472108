use serde_json::{Value, json};

use super::*;
use crate::sampling::chi_square_p_value;
use crate::testing::{Examined, build, examine, message};
use crate::{Label, Task};

const IMPLAUSIBLE: f64 = 1e-6;

/// The next digit of the values of the key asked for last, where keys have K digits and values V.
fn oracle<const K: usize, const V: usize>(task: &dyn Task, tokens: &[u32]) -> u32 {
    let (needle, query) = (task.vocab() as u32 - 2, task.vocab() as u32 - 1);
    let Some(asked) = tokens.iter().rposition(|token| *token == query) else { return 0 };
    let Some(key) = tokens.get(asked + 1..asked + 1 + K) else { return 0 };
    let given = tokens.len() - asked - 1 - K;
    let sights = tokens.windows(1 + K).enumerate().filter(|(_, window)| window[0] == needle && &window[1..] == key);
    let start = sights.map(|(start, _)| start + 1 + K).nth(given / V);
    start.and_then(|start| tokens.get(start + given % V)).copied().unwrap_or_default()
}

fn guess(_: &dyn Task, stream: &mut Stream) -> u32 {
    46 + stream.below(16)
}

#[test]
fn it_is_what_it_says() {
    let train = json!([
        {"length": 40},
        {"length": 64, "haystack": "text", "keys": 4, "queries": 3},
        {"length": 64, "keys": 2, "values": 3, "queries": 2},
        {"length": 64, "haystack": "text", "keys": 3, "values": 2, "queries": 2, "depth": 0.5},
        {"length": 62, "haystack": "needles", "keys": 2, "values": 2},
        {"length": 62, "haystack": "needles", "keys": 2, "queries": 2, "depth": 0.3},
    ]);
    examine::<Needle>(&Examined {
        settings: json!({"train": train}),
        at_length: |length| json!({"train": [{"length": length, "haystack": "text", "keys": 2, "queries": 2}]}),
        golden: "62e522ea895a8185",
        oracle: oracle::<2, 2>,
        guess,
    });
}

#[test]
fn a_haystack_of_needles_is_what_it_says_at_any_length() {
    examine::<Needle>(&Examined {
        settings: json!({"train": [{"length": 64, "haystack": "needles", "key_digits": 5, "value_digits": 1}]}),
        at_length: |length| json!({"train": [{"length": length, "haystack": "needles", "key_digits": 5, "value_digits": 1}]}),
        golden: "20410b5cb78f05f6",
        oracle: oracle::<5, 1>,
        guess,
    });
}

fn first(settings: Value) -> (Box<dyn Task>, Example) {
    let task = build("needle", settings);
    let mut example = Example::default();
    task.example(Split::Train, 0, 0, 0, &mut example);
    (task, example)
}

#[test]
fn the_example_of_the_documentation_is_the_programs() {
    let (task, example) = first(json!({
        "noise_vocab": 8, "key_vocab": 4, "value_vocab": 4, "train": [{"length": 23, "keys": 2}]
    }));
    assert_eq!(example.tokens[..9], [16, 8, 10, 15, 15, 6, 4, 1, 4]);
    assert_eq!(example.tokens[9..], [16, 10, 8, 14, 12, 5, 0, 7, 7, 6, 17, 8, 10, 15]);
    let label = |position, evidence| Label { position, target: 15, evidence };
    assert_eq!(example.labels, [label(21, 3), label(22, 4)]);
    let described = [7, 8, 15, 16, 17].map(|token| task.describe_token(token));
    assert_eq!(described, ["noise 7", "key digit 0", "value digit 3", "needle", "query"]);
}

/// Where needles start.
fn needles(example: &Example) -> Vec<u32> {
    let marked = (0..).zip(&example.tokens).filter(|(_, token)| **token == 62);
    marked.map(|(position, _)| position).collect()
}

#[test]
fn needles_stand_anywhere_with_the_same_probability() {
    // A needle of 5 in a haystack of 14, and two in one of 12.
    let task = build("needle", json!({"train": [{"length": 18}, {"length": 16, "keys": 2}]}));
    let (mut one, mut two) = ([0; 10], vec![0; 64]);
    let mut example = Example::default();
    for index in 0..20_000 {
        task.example(Split::Test, 0, 0, index, &mut example);
        one[needles(&example)[0] as usize] += 1;
        task.example(Split::Test, 1, 0, index, &mut example);
        // Which of the two is asked for is part of the choice.
        let starts = needles(&example);
        two[(8 * starts[0] + starts[1] - 5) as usize + 32 * usize::from(example.labels[0].evidence > starts[1])] += 1;
    }
    assert!(chi_square_p_value(&one, &[0.1; 10]) > IMPLAUSIBLE, "{one:?}");
    let two: Vec<u64> = two.into_iter().filter(|count| *count > 0).collect();
    assert!(chi_square_p_value(&two, &[1.0 / 12.0; 12]) > IMPLAUSIBLE, "{two:?}");
}

#[test]
fn needles_asked_for_stand_side_by_side_at_their_depth() {
    let knobs = |depth: f64, haystack: &str| json!({"length": 100, "haystack": haystack, "keys": 4, "values": 2, "queries": 2, "depth": depth});
    // The questions take 2·7 − 1 tokens, the block 4·5 of the 87 before them.
    for (depth, wanted) in [(0.0, 0), (0.25, 17), (0.5, 34), (1.0, 67)] {
        for haystack in ["noise", "text", "needles"] {
            let task = build("needle", json!({"train": [knobs(depth, haystack)]}));
            let mut example = Example::default();
            for index in 0..100 {
                task.example(Split::Test, 0, 0, index, &mut example);
                let mut asked: Vec<u32> = example.labels.iter().step_by(2).map(|label| label.evidence - 3).collect();
                asked.sort_unstable();
                let start = asked[0];
                assert_eq!(asked, [0, 5, 10, 15].map(|offset| start + offset));
                assert!((wanted - 4..=wanted).contains(&(start as i32)), "{haystack} at {depth}: {start}");
                let all = needles(&example);
                assert_eq!(all.len(), if haystack == "needles" { 17 } else { 8 });
                assert!(all.windows(2).all(|pair| pair[0] + 5 <= pair[1]));
                let cut = all.iter().any(|other| *other < wanted as u32 && *other + 5 > wanted as u32);
                assert!(start as i32 == wanted || cut || all.contains(&(start + 20)), "{start} for no reason");
            }
        }
    }
}

#[test]
fn all_keys_of_a_haystack_differ_and_fill_their_space() {
    // 16 needles of 4 in 64 tokens hold each of the 16 keys once; the question takes 3 more.
    let settings = json!({"train": [{"length": 67, "haystack": "needles", "key_digits": 1}]});
    let (_, example) = first(settings);
    let mut keys: Vec<u32> = needles(&example).iter().map(|start| example.tokens[*start as usize + 1]).collect();
    keys.sort_unstable();
    assert_eq!(keys, (30..46).collect::<Vec<_>>());
}

#[test]
fn a_million_tokens_take_at_most_64_mebibytes() {
    let recipe = Needle::default();
    let knobs = |haystack, key_digits| Knobs {
        length: 1 << 20,
        haystack,
        keys: 100,
        values: 2,
        queries: 50,
        key_digits,
        value_digits: 1,
        depth: Some(0.5),
    };
    for knobs in [knobs(Haystack::Needles, 5), knobs(Haystack::Needles, 15), knobs(Haystack::Text, 2)] {
        let (_, plan) = recipe.plan(Split::Train, &knobs).unwrap();
        let (mut scratch, mut example) = (Scratch::default(), Example::default());
        for index in 0..2 {
            let mut stream = Stream::of_example("needle", Split::Train, 0, 0, index);
            example.clear();
            recipe.write(&plan, &mut stream, &mut scratch, &mut example);
        }
        let words = [&scratch.owners, &scratch.starts, &scratch.found, &scratch.known, &example.tokens];
        let counted: usize =
            words.iter().map(|words| 4 * words.capacity()).sum::<usize>() + 8 * scratch.keys.capacity();
        // The distinct numbers: a table of 8 bytes twice as large as their number, rounded up, or 4 bytes a number in all.
        let distinct = 8 * (2 * plan.keys as usize).next_power_of_two() + 4 * plan.haystack as usize;
        assert!(counted + distinct <= 64 << 20, "{counted} + {distinct}");
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let train = |knobs| message("needle", json!({"train": [knobs]}));
    assert_eq!(
        train(json!({"length": 8})),
        "setting 'train[0].length': keys·values·(1 + key_digits + value_digits) + queries·(1 + key_digits + \
         values·value_digits) − 1 ≤ length fails (length 8, keys 1, values 1, queries 1, key_digits 2, value_digits 2: 9 \
         tokens): use fewer keys, values, queries or digits or a length of at least 9"
    );
    assert_eq!(
        train(json!({"length": 256, "queries": 2})),
        "setting 'train[0].queries': queries ≤ keys fails (queries 2, keys 1): use at most 1 queries or at least 2 keys"
    );
    assert_eq!(
        train(json!({"length": 256, "keys": 0})),
        "setting 'train[0].keys': 1 ≤ keys ≤ 16777216 fails (keys 0): use at least 1"
    );
    assert_eq!(
        train(json!({"length": 256, "depth": -0.1})),
        "setting 'train[0].depth': 0 ≤ depth ≤ 1 fails (depth -0.1): use 0 for the beginning, 1 for the end, or null for \
         any place"
    );
    assert_eq!(
        train(json!({"length": 4096, "haystack": "needles"})),
        "setting 'train[0].key_digits': number of keys ≤ key_vocab^key_digits fails (818 keys, key_vocab 16, key_digits \
         2): use at least 3 key_digits, a larger key_vocab or fewer keys"
    );
    assert_eq!(
        train(json!({"length": 256, "key_digits": 16})),
        "setting 'train[0].key_digits': key_vocab^key_digits ≤ 2^63 fails (key_vocab 16, key_digits 16): use at most 15 \
         key_digits"
    );
    assert_eq!(
        message("needle", json!({"value_vocab": 1})),
        "setting 'value_vocab': 2 ≤ value_vocab ≤ 16777216 fails (value_vocab 1): use at least 2"
    );
    assert_eq!(
        train(json!({"length": 256, "haystack": "hay"})),
        "needle, setting 'train[0].haystack': unknown variant `hay`, expected one of `noise`, `text`, `needles`"
    );
}

#[test]
fn no_settings_panic() {
    let sizes = [1, 2, 1, 2, 3, 2, 3, 4, 17, 300, 0, 1 << 24, (1 << 24) + 1, 1 << 32, usize::MAX];
    let mut stream = Stream::of_example("hostile", Split::Train, 0, 0, 0);
    let mut any = || sizes[stream.below(sizes.len() as u32) as usize];
    let mut written = 0;
    for _ in 0..100_000 {
        let recipe = Needle { noise_vocab: any(), key_vocab: any(), value_vocab: any() };
        let haystack = [Haystack::Noise, Haystack::Text, Haystack::Needles][any() % 3];
        let knobs = Knobs {
            length: any().saturating_mul(100),
            haystack,
            keys: any(),
            values: any(),
            queries: any(),
            key_digits: any(),
            value_digits: any(),
            depth: [None, Some(0.5), Some(f64::NAN)][any() % 3],
        };
        let Ok((shape, plan)) = recipe.check().and_then(|()| recipe.plan(Split::Train, &knobs)) else { continue };
        assert!(shape.bits >= 0.0 && (1..shape.length).contains(&shape.labels), "{knobs:?}");
        if shape.length <= 1 << 12 {
            let (mut scratch, mut example) = (Scratch::default(), Example::default());
            recipe.write(&plan, &mut Stream::of_example("hostile", Split::Train, 0, 0, 1), &mut scratch, &mut example);
            assert_eq!((example.tokens.len(), example.labels.len()), (shape.length, shape.labels));
            written += 1;
        }
    }
    assert!(written > 100, "{written}");
}
