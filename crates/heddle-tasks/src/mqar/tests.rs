use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::sampling::chi_square_p_value;
use crate::{Label, TaskRegistry, content_hash};

/// Sound data fall below this once in a million seeds; the seeds here are fixed.
const IMPLAUSIBLE: f64 = 1e-6;
/// Standard deviations that sound counts stay within but for one seed in a million; the seeds here are fixed.
const PLAUSIBLE: f64 = 5.0;

const FILLERS: [Filler; 3] = [Filler::Zero, Filler::Random, Filler::Disjoint];

fn task(vocab: usize, length: usize, pairs: usize, filler: Filler) -> Mqar {
    let train = vec![TrainSegment { length, pairs, weight: 1.0, examples: None }];
    Mqar::new(MqarSettings { vocab, filler, train, ..MqarSettings::default() }).unwrap()
}

fn examples(task: &Mqar, split: Split, count: u64) -> impl Iterator<Item = Example> {
    (0..count).map(move |index| {
        let mut example = Example::default();
        task.example(split, 0, 1, index, &mut example);
        example
    })
}

/// Solves a sequence from its tokens alone: the first `pairs` pairs are a dictionary.
fn look_up(tokens: &[u32], pairs: usize, position: u32) -> Option<u32> {
    let dictionary: HashMap<u32, u32> = tokens[..2 * pairs].chunks(2).map(|pair| (pair[0], pair[1])).collect();
    dictionary.get(&tokens[position as usize]).copied()
}

fn score(example: &Example, mut guess: impl FnMut(&Label) -> Option<u32>) -> f64 {
    let right = example.labels.iter().filter(|label| guess(label) == Some(label.target)).count();
    right as f64 / example.labels.len() as f64
}

/// Whether a frequency lies within sampling error of a probability.
fn plausible(successes: f64, trials: f64, probability: f64) -> bool {
    let deviation = (trials * probability * (1.0 - probability)).sqrt();
    (successes - trials * probability).abs() < PLAUSIBLE * deviation
}

#[test]
fn looking_the_key_up_in_the_context_always_answers() {
    for filler in FILLERS {
        for (length, pairs) in [(64, 4), (64, 16), (256, 64), (4, 1)] {
            for example in examples(&task(256, length, pairs, filler), Split::Train, 200) {
                assert_eq!(score(&example, |label| look_up(&example.tokens, pairs, label.position)), 1.0);
            }
        }
    }
}

#[test]
fn with_disjoint_filler_the_queries_show_in_the_tokens_alone() {
    for example in examples(&task(64, 128, 24, Filler::Disjoint), Split::Train, 300) {
        let found: Vec<(u32, u32)> =
            (48..128).filter_map(|position| Some((position, look_up(&example.tokens, 24, position)?))).collect();
        let asked: Vec<(u32, u32)> = example.labels.iter().map(|label| (label.position, label.target)).collect();
        assert_eq!(found, asked);
    }
}

#[test]
fn the_answer_hangs_on_the_evidence_and_on_no_other_token() {
    for example in examples(&task(256, 64, 16, Filler::Zero), Split::Train, 50) {
        for label in &example.labels {
            let answer = |tokens: &[u32]| look_up(tokens, 16, label.position);
            let mut changed = example.tokens.clone();
            for position in (0..64).filter(|position| *position != label.position) {
                let kept = std::mem::replace(&mut changed[position as usize], 0);
                let is_key = position + 1 == label.evidence;
                let expected = match position {
                    _ if is_key => None,
                    _ if position == label.evidence => Some(0),
                    _ => Some(label.target),
                };
                assert_eq!(answer(&changed), expected);
                changed[position as usize] = kept;
            }
            // Without the context's one mention the target does not occur.
            assert_eq!(example.tokens.iter().filter(|token| **token == label.target).count(), 1);
        }
    }
}

#[test]
fn moving_every_value_to_the_next_key_destroys_every_answer() {
    for mut example in examples(&task(256, 64, 16, Filler::Disjoint), Split::Train, 50) {
        let first = example.tokens[1];
        for pair in 0..15 {
            example.tokens[2 * pair + 1] = example.tokens[2 * pair + 3];
        }
        example.tokens[31] = first;
        assert_eq!(score(&example, |label| look_up(&example.tokens, 16, label.position)), 0.0);
    }
}

#[test]
fn guesses_score_chance_and_values_of_the_context_one_in_k() {
    let task = task(16, 16, 4, Filler::Disjoint);
    assert_eq!(task.chance(Split::Train, 0), 1.0 / 8.0);
    let mut stream = Stream::of_example("guesser", Split::Train, 0, 0, 0);
    let (mut even, mut of_context) = (0.0, 0.0);
    for example in examples(&task, Split::Train, 10_000) {
        even += 4.0 * score(&example, |_| Some(8 + stream.below(8)));
        of_context += 4.0 * score(&example, |_| Some(example.tokens[2 * stream.below(4) as usize + 1]));
    }
    assert!(plausible(even, 40_000.0, task.chance(Split::Train, 0)), "{even}");
    assert!(plausible(of_context, 40_000.0, 1.0 / 4.0), "{of_context}");
}

#[test]
fn the_first_pair_is_asked_by_the_law_of_the_first_slot() {
    let task = task(256, 64, 8, Filler::Disjoint);
    let (mut first, mut last) = (vec![0; 24], vec![0; 24]);
    for example in examples(&task, Split::Train, 20_000) {
        for (evidence, counts) in [(1, &mut first), (15, &mut last)] {
            let label = example.labels.iter().find(|label| label.evidence == evidence).unwrap();
            counts[(label.position as usize - 16) / 2] += 1;
        }
    }
    let weights: Vec<f64> = (1..=24).map(|j| f64::from(j).powf(0.01 - 1.0)).collect();
    let law: Vec<f64> = weights.iter().map(|w| w / weights.iter().sum::<f64>()).collect();
    assert!(chi_square_p_value(&first, &law) > IMPLAUSIBLE, "{first:?}");
    // The last pair chooses among the slots that are left.
    assert!(chi_square_p_value(&last, &law) < IMPLAUSIBLE, "{last:?}");
}

#[test]
fn zero_filler_is_blank() {
    for example in examples(&task(256, 64, 16, Filler::Zero), Split::Train, 50) {
        let queries: HashSet<u32> = example.labels.iter().map(|label| label.position).collect();
        assert!((32..64).all(|position| queries.contains(&position) != (example.tokens[position as usize] == 0)));
    }
}

#[test]
fn random_filler_is_uniform_and_repeats_a_key_as_often_as_that_gives() {
    let task = task(8192, 256, 64, Filler::Random);
    let (mut collisions, mut trials) = (0.0, 0.0);
    let mut sixteenths = [0; 16];
    for example in examples(&task, Split::Train, 4000) {
        let queries: HashSet<u32> = example.labels.iter().map(|label| label.position).collect();
        let keys: HashSet<u32> = example.tokens[..128].iter().copied().step_by(2).collect();
        for position in (128..256).filter(|position| !queries.contains(position)) {
            let token = example.tokens[position as usize];
            collisions += f64::from(u8::from(keys.contains(&token)));
            trials += 1.0;
            sixteenths[token as usize / 512] += 1;
        }
    }
    assert_eq!(trials, 4000.0 * 64.0);
    assert!(plausible(collisions, trials, 64.0 / 8192.0), "{} a sequence, not 0.5", collisions / 4000.0);
    assert!(chi_square_p_value(&sixteenths, &[1.0 / 16.0; 16]) > IMPLAUSIBLE, "{sixteenths:?}");
}

#[test]
fn disjoint_filler_is_uniform_over_all_tokens_but_the_keys_of_the_sequence() {
    let task = task(16, 40, 3, Filler::Disjoint);
    let mut counts = [0; 16];
    for example in examples(&task, Split::Train, 4000) {
        let queries: HashSet<u32> = example.labels.iter().map(|label| label.position).collect();
        let keys = [0, 2, 4].map(|position| example.tokens[position]);
        for position in (6..40).filter(|position| !queries.contains(position)) {
            let token = example.tokens[position as usize];
            assert!(!keys.contains(&token));
            counts[token as usize] += 1;
        }
    }
    // A token that is no key fills 1 of 13; one of the 7 keys does so in the 4 of 7 sequences that lack it.
    let law: Vec<f64> =
        (0..16).map(|token| if (1..8).contains(&token) { 4.0 / 7.0 / 13.0 } else { 1.0 / 13.0 }).collect();
    assert!(chi_square_p_value(&counts, &law) > IMPLAUSIBLE, "{counts:?}");
}

#[test]
fn no_training_example_is_seen_in_validation_or_test() {
    let task = task(8192, 64, 4, Filler::Zero);
    let of_split = |split| examples(&task, split, 5000).map(|example| example.tokens).collect::<HashSet<_>>();
    let [train, validation, test] = Split::ALL.map(of_split);
    assert_eq!([train.len(), validation.len(), test.len()], [5000; 3]);
    assert!(train.is_disjoint(&validation) && train.is_disjoint(&test) && validation.is_disjoint(&test));
}

#[test]
fn a_seed_generates_these_data_and_no_others() {
    let hash = |settings| content_hash(TaskRegistry::builtin().build("mqar", &settings).unwrap().as_ref(), 42);
    let recall_against_state = json!({
        "filler": "random",
        "train": [
            {"length": 64, "pairs": 4, "weight": 5},
            {"length": 128, "pairs": 8},
            {"length": 256, "pairs": 16},
            {"length": 256, "pairs": 32},
            {"length": 256, "pairs": 64},
        ],
        "test": [{"length": 64, "pairs": 16}, {"length": 512, "pairs": 128}, {"length": 1024, "pairs": 256}],
    });
    let small = json!({"vocab": 256, "filler": "zero", "train": [{"length": 64, "pairs": 16}]});
    assert_eq!(
        [hash(json!({})), hash(recall_against_state), hash(small)],
        ["5ba4a15c31241780", "86cd5a44b2a7935f", "cf71da8b23189d1d"]
    );
}

#[test]
fn any_length_is_generated_in_memory_that_is_reused() {
    let lengths: Vec<usize> = (6..=16).map(|power| 1 << power).collect();
    for filler in FILLERS {
        let segment =
            |length: &usize| TrainSegment { length: *length, pairs: length / 64, weight: 1.0, examples: None };
        let train = lengths.iter().map(segment).collect();
        let task = Mqar::new(MqarSettings { filler, train, ..MqarSettings::default() }).unwrap();
        for (slice, length) in lengths.iter().enumerate() {
            let mut example = Example::default();
            task.example(Split::Train, slice, 0, 0, &mut example);
            let memory = (example.tokens.capacity(), example.tokens.as_ptr(), example.labels.capacity());
            for index in 1..4 {
                task.example(Split::Train, slice, 0, index, &mut example);
                assert_eq!(example.tokens.len(), *length);
                assert_eq!(score(&example, |label| look_up(&example.tokens, length / 64, label.position)), 1.0);
            }
            assert_eq!(memory, (example.tokens.capacity(), example.tokens.as_ptr(), example.labels.capacity()));
        }
    }
}

#[test]
fn an_example_does_not_depend_on_what_the_thread_generated_before() {
    let tasks = FILLERS.map(|filler| task(256, 64, 16, filler));
    let mut fresh = Vec::new();
    for task in &tasks {
        let alone = || examples(task, Split::Test, 5).collect::<Vec<_>>();
        fresh.push(std::thread::scope(|scope| scope.spawn(alone).join().unwrap()));
    }
    for (task, fresh) in tasks.iter().zip(&fresh) {
        task.example(Split::Test, 0, 9, 9, &mut Example::default());
        super::tests::task(8192, 1024, 256, Filler::Disjoint).example(Split::Train, 0, 0, 0, &mut Example::default());
        assert_eq!(&examples(task, Split::Test, 5).collect::<Vec<_>>(), fresh);
    }
}

#[test]
fn absent_evaluation_splits_take_the_segments_of_training() {
    let train = vec![
        TrainSegment { length: 64, pairs: 4, weight: 5.0, examples: None },
        TrainSegment { length: 128, pairs: 8, weight: 1.0, examples: None },
    ];
    let test = Some(vec![EvaluationSegment { length: 1024, pairs: 256, examples: 10 }]);
    let task = Mqar::new(MqarSettings { train, test, ..MqarSettings::default() }).unwrap();
    let summary = |split| {
        let slices = task.slices(split).iter();
        slices.map(|s| (s.name.clone(), s.labels, s.weight, s.examples)).collect::<Vec<_>>()
    };
    let named = |name: &str, labels, weight, examples| (name.to_owned(), labels, weight, examples);
    let (short, long) = ("length=64,pairs=4", "length=128,pairs=8");
    assert_eq!(summary(Split::Train), [named(short, 4, 5.0, 0), named(long, 8, 1.0, 0)]);
    assert_eq!(summary(Split::Validation), [named(short, 4, 1.0, 1000), named(long, 8, 1.0, 1000)]);
    assert_eq!(summary(Split::Test), [named("length=1024,pairs=256", 256, 1.0, 10)]);
    let keys = &task.slices(Split::Test)[0].keys;
    assert_eq!((keys["length"], keys["pairs"], keys.len()), (1024.0, 256.0, 2));
}

#[test]
fn tokens_are_described_by_their_ranges() {
    let task = task(16, 16, 2, Filler::Zero);
    let described = [0, 1, 7, 8, 15, 16].map(|token| task.describe_token(token));
    assert_eq!(described, ["filler", "key 1", "key 7", "value 8", "value 15", "16 is no token of this vocabulary"]);
}

#[test]
#[should_panic(expected = "slice 1 is out of range: mqar has 1 test slices")]
fn a_slice_out_of_range_is_refused() {
    task(16, 16, 2, Filler::Zero).example(Split::Test, 1, 0, 0, &mut Example::default());
}

#[test]
fn settings_out_of_range_are_refused_with_the_remedy() {
    let refused = |settings| TaskRegistry::builtin().build("mqar", &settings).unwrap_err().to_string();
    let train = |segments| refused(json!({"train": segments}));
    let two = |second| train(json!([{"length": 64, "pairs": 4}, second]));
    assert_eq!(
        two(json!({"length": 64, "pairs": 32})),
        "setting 'train[1]': 4·pairs ≤ length fails (pairs 32, length 64): \
         use at most 16 pairs or a length of at least 128"
    );
    assert_eq!(
        two(json!({"length": 2, "pairs": 1})),
        "setting 'train[1]': 4·pairs ≤ length fails (pairs 1, length 2): use a length of at least 4"
    );
    assert_eq!(
        two(json!({"length": 65, "pairs": 4})),
        "setting 'train[1]': length even fails (pairs 4, length 65): use a length of 64 or 66"
    );
    assert_eq!(
        two(json!({"length": 64, "pairs": 0})),
        "setting 'train[1]': 1 ≤ pairs fails (pairs 0, length 64): use at least 1 pair"
    );
    assert_eq!(
        two(json!({"length": 1 << 25, "pairs": 4})),
        "setting 'train[1]': length ≤ 16777216 fails (pairs 4, length 33554432): use a length of at most 16777216"
    );
    assert_eq!(
        two(json!({"length": 64, "pairs": 4, "weight": 2})),
        "setting 'train[1]': no segment twice fails (pairs 4, length 64, as in train[0]): \
         leave one out and adapt the numbers of the other"
    );
    assert_eq!(
        two(json!({"length": 64, "pairs": 8, "weight": 0})),
        "setting 'train[1]': 0 < weight < ∞ fails (weight 0): use a positive weight, or leave the segment out"
    );
    assert_eq!(
        train(json!([])),
        "setting 'train': 1 ≤ number of segments fails (the list is empty): give at least one {length, pairs}"
    );
    assert_eq!(
        refused(json!({"vocab": 32, "train": [{"length": 64, "pairs": 16}]})),
        "setting 'train[0]': pairs ≤ vocab/2 − 1 fails (pairs 16, vocab 32): \
         use at most 15 pairs or a vocab of at least 34"
    );
    assert_eq!(
        refused(json!({"vocab": 3})),
        "setting 'vocab': 4 ≤ vocab ≤ 16777216 fails (vocab 3): \
         a key and two values need 4 tokens; the published setting is 8192"
    );
    assert_eq!(
        refused(json!({"power_a": 0.0})),
        "setting 'power_a': 0 < power_a ≤ 2 fails (power_a 0): \
         use 0.01 as published, or 1 to scatter the queries evenly"
    );
    assert_eq!(
        refused(json!({"validation": []})),
        "setting 'validation': 1 ≤ number of segments fails (the list is empty): \
         give at least one {length, pairs}, or leave the setting out to use the segments of train"
    );
    assert_eq!(
        refused(json!({"test": [{"length": 64, "pairs": 4, "examples": 0}]})),
        "setting 'test[0]': 1 ≤ examples fails (examples 0): use at least 1 example, or leave the slice out"
    );
}

proptest! {
    #[test]
    fn every_example_has_the_layout(
        vocab in 4_usize..300,
        (length, pairs) in (2_usize..100).prop_flat_map(|half| (Just(2 * half), 1..=half / 2)),
        power_a in 0.001..2.0,
        filler in prop::sample::select(FILLERS.to_vec()),
        seed: u64,
        index: u64,
    ) {
        prop_assume!(pairs < vocab / 2);
        let train = vec![TrainSegment { length, pairs, weight: 1.0, examples: None }];
        let task = Mqar::new(MqarSettings { vocab, power_a, filler, train, ..MqarSettings::default() }).unwrap();
        let mut example = Example::default();
        task.example(Split::Train, 0, seed, index, &mut example);
        let Example { tokens, labels, .. } = &example;
        prop_assert_eq!((tokens.len(), labels.len()), (length, pairs));
        prop_assert!(tokens.iter().all(|token| (*token as usize) < vocab));

        let keys: HashSet<u32> = tokens[..2 * pairs].iter().copied().step_by(2).collect();
        let values: HashSet<u32> = tokens[1..2 * pairs].iter().copied().step_by(2).collect();
        prop_assert_eq!((keys.len(), values.len()), (pairs, pairs));
        prop_assert!(keys.iter().all(|key| (1..vocab / 2).contains(&(*key as usize))));
        prop_assert!(values.iter().all(|value| (vocab / 2..vocab).contains(&(*value as usize))));

        prop_assert!(labels.is_sorted_by(|a, b| a.position < b.position));
        let evidence: HashSet<u32> = labels.iter().map(|label| label.evidence).collect();
        prop_assert_eq!(evidence, (0..pairs as u32).map(|pair| 2 * pair + 1).collect());
        for Label { position, target, evidence } in labels {
            prop_assert!(*position as usize >= 2 * pairs && position % 2 == 0);
            prop_assert_eq!(tokens[*evidence as usize], *target);
            prop_assert_eq!(tokens[*evidence as usize - 1], tokens[*position as usize]);
        }
    }
}

#[test]
fn compat_goes_through_the_segments_in_order_and_through_their_examples_again_and_again() {
    let settings = json!({
        "vocab": 256,
        "compat": true,
        "train": [{"length": 64, "pairs": 4, "examples": 6}, {"length": 32, "pairs": 2, "examples": 5, "weight": 9.0}],
    });
    let task = TaskRegistry::builtin().build("mqar", &settings).unwrap();
    // Two batches of the first segment and two of the second, whose last is filled up.
    let places: Vec<_> = (0..9).map(|batch| task.training_batch(0, batch, 3)).collect();
    let epoch = [(0, 0), (0, 3), (1, 0), (1, 3)];
    assert_eq!(places, [&epoch[..], &epoch, &epoch[..1]].concat());
    let example = |index| {
        let mut example = Example::default();
        task.example(Split::Train, 1, 0, index, &mut example);
        example
    };
    assert!((0..5).all(|index| example(index) == example(index + 5)));
    assert_eq!((0..10).map(|index| example(index).tokens).collect::<HashSet<_>>().len(), 5);
    // The examples are those that training without the switch begins with.
    let fresh = json!({"vocab": 256, "train": [{"length": 64, "pairs": 4}, {"length": 32, "pairs": 2}]});
    let fresh = TaskRegistry::builtin().build("mqar", &fresh).unwrap();
    let mut first = Example::default();
    fresh.example(Split::Train, 1, 0, 4, &mut first);
    assert_eq!(example(4), first);
}

#[test]
fn examples_without_compat_come_again_in_another_order() {
    let settings = json!({"vocab": 256, "train": [{"length": 32, "pairs": 2, "examples": 40}]});
    let task = TaskRegistry::builtin().build("mqar", &settings).unwrap();
    let epoch = |number: u64| -> Vec<Vec<u32>> {
        let mut example = Example::default();
        let draw = |index| {
            task.example(Split::Train, 0, 0, index, &mut example);
            example.tokens.clone()
        };
        (40 * number..40 * (number + 1)).map(draw).collect()
    };
    let (first, second) = (epoch(0), epoch(1));
    assert_ne!(first, second);
    assert_eq!(first.iter().collect::<HashSet<_>>(), second.iter().collect());
}

#[test]
fn compat_wants_a_number_of_examples_and_a_vocabulary_above_every_length() {
    let refused = |settings| TaskRegistry::builtin().build("mqar", &settings).unwrap_err().to_string();
    assert_eq!(
        refused(json!({"compat": true})),
        "setting 'train[0].examples': with compat, 1 ≤ examples fails (no examples): state how many there are, 100000 as \
         published, or set compat to false"
    );
    let train = json!([{"length": 64, "pairs": 4, "examples": 10}]);
    assert_eq!(
        refused(json!({"compat": true, "vocab": 128, "train": train, "test": [{"length": 128, "pairs": 4}]})),
        "setting 'vocab': with compat, length < vocab fails (vocab 128, length 128 in test): use a vocab above 128, 8192 \
         as published, or set compat to false"
    );
}
