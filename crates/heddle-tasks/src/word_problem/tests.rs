use serde_json::json;

use super::*;
use crate::Task;
use crate::sampling::chi_square_p_value;
use crate::testing::{Examined, build, examine, message};

/// All permutations of `points` points in lexicographic order, the even ones alone if asked: by their definition.
fn permutations(points: u8, even: bool) -> Vec<Vec<u8>> {
    fn extend(prefix: Vec<u8>, points: u8, all: &mut Vec<Vec<u8>>) {
        if prefix.len() == points as usize {
            all.push(prefix);
            return;
        }
        for next in (0..points).filter(|next| !prefix.contains(next)) {
            extend([prefix.as_slice(), &[next]].concat(), points, all);
        }
    }
    let mut all = vec![];
    extend(vec![], points, &mut all);
    let above = |images: &[u8], i: usize| images[..i].iter().filter(|image| **image > images[i]).count();
    all.retain(|images| !even || (0..images.len()).map(|i| above(images, i)).sum::<usize>() % 2 == 0);
    all
}

/// Follows each point through the permutations one after the other.
fn oracle(task: &dyn Task, tokens: &[u32]) -> u32 {
    let even = task.vocab() == 60;
    let all = permutations(5, even);
    let images: Vec<u8> =
        (0..5).map(|point| tokens.iter().fold(point, |at, token| all[*token as usize][at as usize])).collect();
    all.iter().position(|permutation| *permutation == images).unwrap() as u32
}

#[test]
fn the_word_problem_of_all_permutations_is_what_it_says() {
    examine::<WordProblem>(&Examined {
        settings: json!({"train": [{"length": 4}, {"length": 40}]}),
        at_length: |length| json!({"train": [{"length": length}]}),
        golden: "ad00435bc7e9d10b",
        oracle,
        guess: |_, stream| stream.below(120),
    });
}

#[test]
fn the_word_problem_of_even_permutations_is_what_it_says() {
    examine::<WordProblem>(&Examined {
        settings: json!({"group": "a5", "train": [{"length": 4}, {"length": 40}]}),
        at_length: |length| json!({"group": "a5", "train": [{"length": length}]}),
        golden: "ed360cf0d69f1dc4",
        oracle,
        guess: |_, stream| stream.below(60),
    });
}

#[test]
fn every_group_is_what_its_name_says() {
    /// (group, elements whose square is the identity, pairs that commute): what tells these groups from any other of
    /// their order here. Pairs that commute are the order times the number of conjugacy classes.
    const KNOWN: [(Group, usize, usize); 7] = [
        (Group::S3, 4, 6 * 3),
        (Group::S4, 10, 24 * 5),
        (Group::S5, 26, 120 * 7),
        (Group::A4, 4, 12 * 4),
        (Group::A5, 16, 60 * 5),
        (Group::A4Z5, 4, 60 * 20),
        (Group::Z60, 2, 60 * 60),
    ];
    for (group, involutions, commuting) in KNOWN {
        let (order, table) = (group.order(), group.table());
        let of = |g: usize, h: usize| usize::from(table[g * order + h]);
        assert_eq!(group.elements().len(), order);
        for g in 0..order {
            assert_eq!((of(0, g), of(g, 0)), (g, g), "0 is the identity of {group:?}");
            let mut row: Vec<usize> = (0..order).map(|h| of(g, h)).collect();
            row.sort_unstable();
            assert!(row.into_iter().eq(0..order), "a row of {group:?} is no permutation");
        }
        assert_eq!((0..order).filter(|g| of(*g, *g) == 0).count(), involutions, "{group:?}");
        let pairs = (0..order).flat_map(|g| (0..order).map(move |h| (g, h)));
        assert_eq!(pairs.filter(|(g, h)| of(*g, *h) == of(*h, *g)).count(), commuting, "{group:?}");
    }
}

#[test]
fn every_position_of_training_asks_for_its_product_and_products_are_uniform() {
    let task = build("word_problem", json!({"group": "a5", "train": [{"length": 60_000}]}));
    let mut example = Example::default();
    task.example(Split::Train, 0, 0, 0, &mut example);
    assert_eq!(example.labels.len(), 60_000);
    let mut counts = [0; 60];
    for (label, position) in example.labels.iter().zip(0..) {
        assert_eq!((label.position, label.evidence), (position, position));
        counts[label.target as usize] += 1;
    }
    assert!(chi_square_p_value(&counts, &[1.0 / 60.0; 60]) > 1e-6, "{counts:?}");
    for label in &example.labels[..50] {
        assert_eq!(label.target, oracle(task.as_ref(), &example.tokens[..=label.position as usize]));
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    assert_eq!(
        message("word_problem", json!({"group": "s6"})),
        "word_problem, setting 'group': unknown variant `s6`, expected one of `s3`, `s4`, `s5`, `a4`, `a5`, `a4_z5`, \
         `z60`"
    );
    assert_eq!(
        message("word_problem", json!({"train": [{"length": 16_777_217}]})),
        "setting 'train[0].length': 1 ≤ length ≤ 16777216 fails (length 16777217): use at most 16777216"
    );
}
