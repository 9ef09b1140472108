//! Coreference: which of two nouns does a pronoun stand for, where only sense can tell?
//!
//! "The trophy did not fit in the suitcase because it was too large. It is the …": the trophy. With "small" in place of
//! "large" it is the suitcase. The sentences are those of the Winograd schema challenge in a closed vocabulary. What is
//! asked turns on two words that stand apart, the relation and the adjective, and neither decides alone: "large" tells
//! of the first noun where something did not fit in, and of the second where something could not hold. A model must
//! bind the two, then copy the noun. The positions of pronoun, adjective and both nouns are marked, so that an attention
//! map can be asked what the pronoun looks at.
//!
//! Source: Levesque, Davis and Morgenstern, "The Winograd Schema Challenge", KR 2012, whose first schema this is; the
//! grammar is ours. The pair of a schema, two sentences that differ in one word and in the answer, is kept.
//!
//! # Layout
//! With `nouns` 8 and length 24; one example and its other form:
//!
//! ```text
//! . the cart was green . the box could not catch up with the suitcase since it was too slow . it is the ▸ box
//! . the cart was green . the box could not catch up with the suitcase since it was too fast . it is the ▸ suitcase
//! ```
//!
//! - The sentence that is asked about stands at the end: one of 4 templates, one of 10 relations, two of the nouns,
//!   all equally likely, and one of two adjectives. Examples 2i and 2i + 1 are the same but for the adjective.
//! - In front of it stands filler, sentences like "the cart was red .", the first of which may be cut off: their nouns
//!   are neither of the two, each with the same probability, as are their colours. So the length is a knob and the
//!   answer stays near the end.
//! - One label, at the last position: its target is the noun meant, its evidence the position of that noun.
//! - Marks: `sentence` (where it starts), `pronoun`, `adjective`, `right noun`, `wrong noun`.
//!
//! Each pair of relations shares a pair of adjectives, so that every adjective points to the first noun as often as to
//! the second:
//!
//! | adjectives | of A, of B | of B, of A |
//! |---|---|---|
//! | large, small | A did not fit in B | A could not hold B |
//! | heavy, weak | A fell through B | A could not carry B |
//! | wide, narrow | A did not pass through B | A did not let in B |
//! | tall, low | A did not fit under B | A could not see over B |
//! | slow, fast | A could not catch up with B | A left behind B |
//!
//! # Splits
//! A combination of template, relation and both nouns belongs to one split, in both forms: what is tested was never
//! trained on, though all its parts were.
//!
//! # Vocabulary
//! Tokens 0 … 45 are words, those above are the nouns.
//!
//! # Chance
//! 1 / nouns. A model that copies one of the two nouns of the last sentence without sense scores 1/2: a plateau there
//! is copying, not coreference.

mod words;

use serde::{Deserialize, Serialize};

use self::words::{COLOURS, NOUNS, RELATIONS, TEMPLATES, WORDS};
use crate::error::require;
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::stream::Stream;
use crate::{Alphabet, Example, Label, Mark, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the coreference task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("coreference", &serde_json::Value::Null)?;
/// let sentence = |index| {
///     let mut example = Example::default();
///     task.example(Split::Test, 0, 42, index, &mut example);
///     let start = example.marks.iter().find(|mark| mark.name == "sentence").unwrap().position;
///     let tokens = example.tokens[start as usize..].iter().chain([&example.labels[0].target]);
///     tokens.map(|token| task.describe_token(*token)).collect::<Vec<_>>().join(" ")
/// };
/// assert_eq!(sentence(0), "the statue could not hold the truck since it was too large . it is the truck");
/// assert_eq!(sentence(1), "the statue could not hold the truck since it was too small . it is the statue");
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coreference {
    /// The number of nouns.
    pub nouns: usize,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::TaskRegistry;
/// use serde_json::json;
///
/// let error = TaskRegistry::builtin().build("coreference", &json!({"train": [{"length": 12}]})).unwrap_err();
/// assert!(error.to_string().ends_with("use a length from 19, the longest sentence, to 16777216"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example.
    pub length: usize,
}

impl Default for Coreference {
    fn default() -> Self {
        Self { nouns: NOUNS.len() }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    length: usize,
    sentences: Vec<Sentence>,
    /// Tokens of a filler sentence; its noun and its colour are drawn.
    filler: [u32; 5],
    colours: [u32; COLOURS.len()],
}

/// A template with a relation.
#[derive(Debug)]
struct Sentence {
    pieces: Vec<Piece>,
    adjectives: [u32; 2],
    /// Which noun the first adjective tells of.
    first_tells_of: usize,
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    Word(u32),
    Noun(usize),
    Pronoun(u32),
    Adjective,
}

fn word(word: &str) -> u32 {
    WORDS.iter().position(|known| *known == word).unwrap_or_else(|| panic!("'{word}' is no word")) as u32
}

/// Every template with every relation.
fn sentences() -> Vec<Sentence> {
    let relations = RELATIONS.iter().flat_map(|(adjectives, relations)| {
        relations.iter().enumerate().map(move |(first_tells_of, relation)| (adjectives, first_tells_of, relation))
    });
    let of_relation = |(adjectives, first_tells_of, relation): (&[&str; 2], usize, &&str)| {
        TEMPLATES.map(|template| {
            let pieces = template.split(' ').flat_map(|part| match part {
                "A" => vec![Piece::Noun(0)],
                "B" => vec![Piece::Noun(1)],
                "P" => vec![Piece::Pronoun(word("it"))],
                "J" => vec![Piece::Adjective],
                "V" => relation.split(' ').map(|part| Piece::Word(word(part))).collect(),
                part => vec![Piece::Word(word(part))],
            });
            Sentence { pieces: pieces.collect(), adjectives: adjectives.map(word), first_tells_of }
        })
    };
    relations.flat_map(of_relation).collect()
}

impl Recipe for Coreference {
    const INFO: TaskInfo = TaskInfo {
        kind: "coreference",
        title: "Coreference",
        doc: "\"The trophy did not fit in the suitcase because it was too large. It is the …\": the model is to name \
              the noun that the pronoun stands for. The relation between the nouns and the adjective decide together, \
              neither does alone, and each sentence comes in two forms that differ in the adjective and in the \
              answer. Combinations of nouns, relation and template that are tested are never trained on.",
        settings: &[
            SettingInfo { key: "nouns", default: "64", meaning: "number of nouns", range: "4 to 64" },
            train_setting("[{\"length\": 32, \"weight\": 1.0}]", "{length}: 19 ≤ length ≤ 16777216"),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / nouns: an even guess among the nouns; copying one of the two named last scores 1/2",
        source: "Levesque, Davis & Morgenstern 2012, The Winograd Schema Challenge; the grammar is ours",
    };
    const FORMS: u32 = 2;
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = ();

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 32 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("word", WORDS.len() as u32), ("noun", self.nouns as u32)])
    }

    fn check(&self) -> Result<(), TaskError> {
        let most = NOUNS.len();
        require((4..=most).contains(&self.nouns), "nouns", format!("4 ≤ nouns ≤ {most}"), || {
            (format!("nouns {}", self.nouns), format!("use {most}, or fewer for a small model"))
        })
    }

    fn plan(&self, _: Split, &Knobs { length }: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let sentences = sentences();
        let longest = sentences.iter().map(|sentence| sentence.pieces.len()).max().unwrap_or_default();
        require(
            (longest..=LARGEST).contains(&length),
            "length",
            format!("{longest} ≤ length ≤ {LARGEST}"),
            || (format!("length {length}"), format!("use a length from {longest}, the longest sentence, to {LARGEST}")),
        )?;
        let nouns = self.nouns as f64;
        // What the splits share out: see `identity`.
        let combinations = sentences.len() as f64 * nouns * (nouns - 1.0);
        let shape = Shape { length, labels: 1, chance: 1.0 / nouns, bits: combinations.log2() };
        let filler = ["the", "the", "was", "the", "."].map(word);
        Ok((shape, Plan { length, sentences, filler, colours: COLOURS.map(word) }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, scratch: &mut (), out: &mut Example) {
        self.write_form(0, plan, stream, scratch, out);
    }

    fn write_form(&self, form: u32, plan: &Plan, stream: &mut Stream, (): &mut (), out: &mut Example) {
        let nouns = self.nouns as u32;
        let first_noun = WORDS.len() as u32;
        let Sentence { pieces, adjectives, first_tells_of } =
            &plan.sentences[stream.below(plan.sentences.len() as u32) as usize];
        let a = stream.below(nouns);
        let b = (a + 1 + stream.below(nouns - 1)) % nouns;
        let start = plan.length - pieces.len();

        // The last filler sentence is whole.
        let cut = (5 - start % 5) % 5;
        for step in cut..cut + start {
            out.tokens.push(match step % 5 {
                1 => {
                    let other = stream.below(nouns - 2);
                    let other = other + u32::from(other >= a.min(b));
                    first_noun + other + u32::from(other >= a.max(b))
                }
                3 => plan.colours[stream.below(COLOURS.len() as u32) as usize],
                part => plan.filler[part],
            });
        }

        let mut at = [0; 2];
        let mut mark = |name: &'static str, position| out.marks.push(Mark { name: name.into(), position });
        mark("sentence", start as u32);
        for (piece, position) in pieces.iter().zip(start as u32..) {
            out.tokens.push(match piece {
                Piece::Word(word) => *word,
                Piece::Noun(which) => {
                    at[*which] = position;
                    first_noun + [a, b][*which]
                }
                Piece::Pronoun(word) => {
                    mark("pronoun", position);
                    *word
                }
                Piece::Adjective => {
                    mark("adjective", position);
                    adjectives[form as usize]
                }
            });
        }
        let right = first_tells_of ^ form as usize;
        mark("right noun", at[right]);
        mark("wrong noun", at[1 - right]);
        let position = plan.length as u32 - 1;
        out.labels.push(Label { position, target: first_noun + [a, b][right], evidence: at[right] });
    }

    /// The sentence that is asked about without its adjective: the filler tells no two apart.
    fn identity(&self, example: &Example, bytes: &mut Vec<u8>) {
        let at = |name| example.marks.iter().find(|mark| mark.name == name).map_or(0, |mark| mark.position as usize);
        let (start, adjective) = (at("sentence"), at("adjective"));
        let sentence = example.tokens.iter().enumerate().skip(start).filter(|(position, _)| *position != adjective);
        bytes.extend(sentence.flat_map(|(_, token)| token.to_le_bytes()));
    }

    fn describe_token(&self, token: u32) -> String {
        let words = WORDS.iter().chain(&NOUNS[..self.nouns]);
        words.copied().nth(token as usize).map_or_else(|| self.alphabet().describe(token), str::to_owned)
    }
}

#[cfg(test)]
mod tests;
