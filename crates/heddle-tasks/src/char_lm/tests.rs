use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::Task;
use crate::testing::{Examined, build, examine, message};

/// No character.
const NONSENSE: u32 = 99;

/// The text that the reference page shows.
const TEXT: &str =
    "2 quiet birds want 3 painters and follow 1 young sailor and say: \"4 tall doctors like 3 bakers and find a king";

/// How many of the equally likely ways to go on after these tokens begin with each character. Every way that agrees
/// with the text is followed, so this does not hang on the grammar telling its places apart.
fn open(tokens: &[u32]) -> BTreeMap<u32, usize> {
    let begin = |place: Place| place.alternatives().into_iter().map(|alternative| (alternative, 0));
    let mut ways: Vec<(Alternative, usize)> = begin(Place::START).collect();
    let at = |(alternative, offset): &(Alternative, usize)| {
        let byte = alternative.text.as_bytes()[*offset];
        CHARACTERS.iter().position(|known| *known == byte).unwrap() as u32
    };
    for token in tokens {
        ways.retain(|way| at(way) == *token);
        ways = std::mem::take(&mut ways)
            .into_iter()
            .flat_map(|(alternative, offset)| {
                if offset + 1 < alternative.text.len() {
                    vec![(alternative, offset + 1)]
                } else {
                    begin(alternative.next).collect()
                }
            })
            .collect();
    }
    let mut counts = BTreeMap::new();
    ways.iter().for_each(|way| *counts.entry(at(way)).or_default() += 1);
    counts
}

/// The only character that can follow.
fn oracle(_: &dyn Task, tokens: &[u32]) -> u32 {
    let open = open(tokens);
    if open.len() == 1 { *open.keys().next().unwrap() } else { NONSENSE }
}

fn text(task: &dyn Task, tokens: &[u32]) -> String {
    tokens.iter().map(|token| task.describe_token(*token)).collect()
}

#[test]
fn determined_characters_are_what_they_say() {
    examine::<CharLm>(&Examined {
        settings: json!({"train": [{"length": 64}, {"length": 90}]}),
        at_length: |length| json!({"train": [{"length": length}]}),
        golden: "63d94970ec56b489",
        oracle,
        guess: |_, stream| stream.below(39),
    });
}

#[test]
fn agreeing_characters_are_what_they_say() {
    examine::<CharLm>(&Examined {
        settings: json!({"score": "agreement", "train": [{"length": 64}, {"length": 200}]}),
        at_length: |length| json!({"score": "agreement", "train": [{"length": length}]}),
        golden: "51e5012b0fffa608",
        oracle,
        guess: |_, stream| stream.below(39),
    });
}

/// The longest text in front of the first character that agrees, from a place on.
fn until_agreement(place: Place) -> usize {
    let of = |alternative: &Alternative| match alternative.agrees {
        Some((_, offset)) => offset,
        None => alternative.text.len() + until_agreement(alternative.next),
    };
    place.alternatives().iter().map(of).max().unwrap()
}

#[test]
fn every_text_of_the_shortest_length_holds_an_agreement() {
    assert!(until_agreement(Place::START) <= SHORTEST);
}

#[test]
fn no_alternative_begins_another() {
    let mut known = vec![Place::START];
    let mut next = 0;
    while next < known.len() {
        let alternatives = known[next].alternatives();
        for (i, one) in alternatives.iter().enumerate() {
            let begins = |(j, other): (usize, &Alternative)| i != j && other.text.starts_with(&one.text);
            assert!(!alternatives.iter().enumerate().any(begins), "{one:?}");
            if !known.contains(&one.next) {
                known.push(one.next);
            }
        }
        next += 1;
    }
}

#[test]
fn numbers_agree_and_quotes_close() {
    let task = build("char_lm", json!({"train": [{"length": 20_000}]}));
    let mut example = Example::default();
    task.example(Split::Train, 0, 0, 0, &mut example);
    let text = text(task.as_ref(), &example.tokens);
    assert!(text.matches(": \"").count() > 20);
    assert!(text.matches('"').count().abs_diff(2 * text.matches(".\" ").count()) <= 1);
    let words: Vec<&str> = text.split([' ', '.', ':', '"']).filter(|word| !word.is_empty()).collect();
    let mut seen = 0;
    for words in words[..words.len() - 1].windows(3) {
        let singular = match words[0] {
            "1" | "a" | "each" => true,
            "many" => false,
            number if number.parse::<u32>().is_ok() => false,
            _ => continue,
        };
        let noun =
            if grammar::ADJECTIVES.iter().any(|adjective| adjective.trim() == words[1]) { words[2] } else { words[1] };
        assert_eq!(grammar::NOUNS.contains(&noun), singular, "{words:?}");
        // A verb right behind a noun of settled number: a subject's.
        if noun == words[1]
            && grammar::VERBS.iter().any(|verb| words[2].trim_end_matches('s') == verb.trim_end_matches('s'))
        {
            assert_eq!(words[2].ends_with('s'), singular, "{words:?}");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn what_the_best_model_reaches_is_known() {
    let task = build("char_lm", json!({"score": "all", "train": [{"length": 600}]}));
    let mut example = Example::default();
    let (mut loss, mut best, mut spaces, mut of) = (0.0, 0.0, 0, 0.0);
    for index in 0..100 {
        task.example(Split::Test, 0, 0, index, &mut example);
        assert!(example.labels.iter().map(|label| label.position).eq(0..600));
        let mut bits = 0.0;
        for label in &example.labels {
            // The grammar does not look back beyond a sentence.
            let ways = ways_after(&example.tokens[..=label.position as usize]);
            let all: usize = ways.values().sum();
            let share = |count: usize| count as f64 / all as f64;
            bits -= share(ways[&label.target]).log2();
            best += share(*ways.values().max().unwrap());
            spaces += u64::from(label.target == 0);
            of += 1.0;
        }
        assert!(bits > 600.0 / 8.0, "{bits} bits of text {index}");
        loss += bits * std::f64::consts::LN_2;
    }
    let reached = [loss / of, best / of, spaces as f64 / of];
    for (value, documented) in reached.into_iter().zip([0.49, 0.79, 0.2]) {
        assert!((value - documented).abs() < 0.01, "{reached:?}");
    }
}

/// As [`open`], of the text since the last sentence outside of quotes began.
fn ways_after(tokens: &[u32]) -> BTreeMap<u32, usize> {
    let [space, stop, _, quote] = [0, 1, 2, 3];
    let mut inside = false;
    let mut start = 0;
    for (i, token) in tokens.iter().enumerate() {
        inside ^= *token == quote;
        let ended = i >= 1 && *token == space && !inside && (tokens[i - 1] == stop || tokens[i - 1] == quote);
        // A quote opens behind a colon, so a space behind a quote that closes ends a sentence.
        if ended {
            start = i + 1;
        }
    }
    open(&tokens[start..])
}

#[test]
fn the_program_writes_the_text_of_the_documentation() {
    let task = build("char_lm", json!({"train": [{"length": 110}]}));
    let mut example = Example::default();
    task.example(Split::Train, 0, 3, 0, &mut example);
    assert_eq!(text(task.as_ref(), &example.tokens), TEXT);
}

#[test]
fn settings_out_of_range_are_refused() {
    assert_eq!(
        message("char_lm", json!({"train": [{"length": 63}]})),
        "setting 'train[0].length': 64 ≤ length ≤ 16777216 fails (length 63): use a length from 64, a sentence, to \
         16777216"
    );
    assert!(
        message("char_lm", json!({"train": [{"length": u64::MAX}]})).contains("fails (length 18446744073709551615)")
    );
    assert!(message("char_lm", json!({"score": "none"})).contains("expected one of `all`, `determined`, `agreement`"));
}
