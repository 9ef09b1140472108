//! A character language model: English-like sentences from a grammar, one character a token.
//!
//! A control that is not retrieval. A model of the text must spell words, and let some characters agree with others far
//! back: the number of a verb with that of its subject, past other nouns ("each dog near the kings sees …"), a noun
//! with its numeral ("3 quiet farmers"), a closing quote with an opening one. As the grammar is known, so is what can be
//! known: which characters are determined by those before them, and how well the best model does.
//!
//! Source: the grammar is ours. Linzen, Dupoux and Goldberg, "Assessing the Ability of LSTMs to Learn Syntax-Sensitive
//! Dependencies", arXiv:1611.01368, ask for agreement past attractors.
//!
//! # Layout
//! The beginning of a text:
//!
//! ```text
//! 2 quiet birds want 3 painters and follow 1 young sailor and say: "4 tall doctors like 3 bakers and find a king
//! ```
//!
//! - A text is sentences one after the other, from the start of one, cut off at the length. Each choice of a word, an
//!   adjective, an ending or a further verb is between equally likely alternatives.
//! - A label at a position asks for the next character, at the last position for the one that would follow. Where that
//!   character agrees with another one, its evidence is the latest character that shows the number, or the opening
//!   quote; elsewhere it is the position itself.
//!
//! # Labels
//! `loss` says which next characters a training sequence asks for, `score` which ones an evaluation asks for:
//! - "all": every one, as a language model does (default of `loss`).
//! - "determined": those that the text so far leaves no choice (default of `score`): all can be right.
//! - "agreement": of these, the ones that agree with another character: the ending of a verb, that of a noun with a
//!   numeral or the like, a closing quote.
//!
//! # Chance
//! 1/39: an even guess among the characters. Always guessing the space scores about 20 % of "all". The best model is
//! right about 79 % of "all", at a loss of 0.49 nats a character.
//!
//! # Vocabulary
//! The characters in this order: space, full stop, colon, quote, 1 … 9, a … z.

mod grammar;

use serde::{Deserialize, Serialize};

use self::grammar::{Alternative, CHARACTERS, Place};
use crate::error::require;
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::stream::Stream;
use crate::{Alphabet, Example, Label, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the character language model; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
///
/// let task = TaskRegistry::builtin().build("char_lm", &serde_json::Value::Null)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let text: String = example.tokens[..60].iter().map(|token| task.describe_token(*token)).collect();
/// assert_eq!(text, "3 small dogs under the farmers greet many doctors. 4 young c");
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CharLm {
    /// Which next characters a training sequence asks for.
    pub loss: Asked,
    /// Which ones an evaluation asks for.
    pub score: Asked,
}

/// Which next characters are asked for.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let asked = |score: &str| {
///     let task = TaskRegistry::builtin().build("char_lm", &json!({"score": score}))?;
///     let mut example = Example::default();
///     task.example(Split::Test, 0, 42, 0, &mut example);
///     Ok::<usize, heddle_tasks::TaskError>(example.labels.len())
/// };
/// // Of 256 characters each has a next one; fewer can be known, and fewer still hang on one further back.
/// assert_eq!(asked("all")?, 256);
/// assert!(asked("determined")? < 256 && asked("agreement")? < asked("determined")?);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// Every one.
    All,
    /// Those that the text so far determines.
    Determined,
    /// Those that agree with a character further back.
    Agreement,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::TaskRegistry;
/// use serde_json::json;
///
/// let error = TaskRegistry::builtin().build("char_lm", &json!({"train": [{"length": 20}]})).unwrap_err();
/// assert!(error.to_string().ends_with("use a length from 64, a sentence, to 16777216"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Characters per example.
    pub length: usize,
}

impl Default for CharLm {
    fn default() -> Self {
        Self { loss: Asked::All, score: Asked::Determined }
    }
}

/// A planned slice: the places of the grammar by number, from the start of a text.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    length: u32,
    asked: Asked,
    places: Vec<Vec<Continuation>>,
}

/// An [`Alternative`] as tokens.
#[derive(Debug)]
struct Continuation {
    /// Each character, and the strictest request that includes it.
    text: Vec<(u32, Asked)>,
    next: usize,
    /// Which cause is remembered, and at which offset it stands.
    causes: Option<(usize, u32)>,
    /// The cause of the character that agrees.
    agrees: usize,
}

/// Numbers the places and finds what each character leaves open.
fn places() -> Vec<Vec<Continuation>> {
    let mut known = vec![Place::START];
    let mut places = vec![];
    while let Some(place) = known.get(places.len()) {
        let alternatives = place.alternatives();
        let mut number = |next: Place| {
            known.iter().position(|place| *place == next).unwrap_or_else(|| {
                known.push(next);
                known.len() - 1
            })
        };
        let continuation = |alternative: &Alternative| Continuation {
            text: (0..alternative.text.len()).map(|offset| character(&alternatives, alternative, offset)).collect(),
            next: number(alternative.next),
            causes: alternative.causes.map(|(cause, offset)| (cause as usize, offset as u32)),
            agrees: alternative.agrees.map_or(0, |(cause, _)| cause as usize),
        };
        places.push(alternatives.iter().map(continuation).collect());
    }
    places
}

/// The token at an offset of an alternative, and what kind of request includes it.
fn character(all: &[Alternative], alternative: &Alternative, offset: usize) -> (u32, Asked) {
    let text = alternative.text.as_bytes();
    let token = CHARACTERS.iter().position(|known| *known == text[offset]);
    let mut as_far = all.iter().map(|other| other.text.as_bytes()).filter(|other| other.starts_with(&text[..offset]));
    let determined = as_far.all(|other| other[offset] == text[offset]);
    let asked = match alternative.agrees {
        Some((_, agreeing)) if agreeing == offset && determined => Asked::Agreement,
        _ if determined => Asked::Determined,
        _ => Asked::All,
    };
    (token.expect("the grammar keeps to its characters") as u32, asked)
}

/// Within so many characters the first verb of a text has its ending.
const SHORTEST: usize = 64;

impl Recipe for CharLm {
    const INFO: TaskInfo = TaskInfo {
        kind: "char_lm",
        title: "Character language model",
        doc: "English-like sentences from a grammar, a character a token: a control that is not retrieval. Words must \
              be spelled, verbs agree in number with a subject further back, nouns with a numeral, closing quotes with \
              opening ones. Training asks for every next character, evaluation for those that the text determines.",
        settings: &[
            SettingInfo {
                key: "loss",
                default: "\"all\"",
                meaning: "which next characters training asks for: every one, those that the text determines, or of \
                          these those that agree with a character further back",
                range: "all, determined, agreement",
            },
            SettingInfo {
                key: "score",
                default: "\"determined\"",
                meaning: "which next characters evaluation asks for",
                range: "all, determined, agreement",
            },
            train_setting("[{\"length\": 256, \"weight\": 1.0}]", "{length}: 64 ≤ length ≤ 16777216"),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / 39: an even guess among the characters; the commonest, the space, scores more",
        source: "the grammar is ours; agreement past attractors after Linzen et al. 2016, arXiv:1611.01368",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = ();

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 256 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("character", CHARACTERS.len() as u32)])
    }

    fn check(&self) -> Result<(), TaskError> {
        Ok(())
    }

    fn plan(&self, split: Split, &Knobs { length }: &Knobs) -> Result<(Shape, Plan), TaskError> {
        require(
            (SHORTEST..=LARGEST).contains(&length),
            "length",
            format!("{SHORTEST} ≤ length ≤ {LARGEST}"),
            || (format!("length {length}"), format!("use a length from {SHORTEST}, a sentence, to {LARGEST}")),
        )?;
        let asked = if split == Split::Train { self.loss } else { self.score };
        // The likeliest words still leave more than an eighth of a bit a character open.
        let shape = Shape { length, labels: length, chance: 1.0 / CHARACTERS.len() as f64, bits: length as f64 / 8.0 };
        Ok((shape, Plan { length: length as u32, asked, places: places() }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, (): &mut (), out: &mut Example) {
        let mut causes = [0; 3];
        let (mut place, mut position) = (0, 0);
        loop {
            let continuations = &plan.places[place];
            let choice = if continuations.len() > 1 { stream.below(continuations.len() as u32) } else { 0 };
            let Continuation { text, next, causes: cause, agrees } = &continuations[choice as usize];
            let start = position;
            for (token, asked) in text {
                // Nothing stands in front of the first character to ask for it.
                if *asked >= plan.asked && position > 0 {
                    let before = position - 1;
                    let evidence = if *asked == Asked::Agreement { causes[*agrees] } else { before };
                    out.labels.push(Label { position: before, target: *token, evidence });
                }
                if position == plan.length {
                    return;
                }
                out.tokens.push(*token);
                position += 1;
            }
            if let Some((cause, offset)) = cause {
                causes[*cause] = start + offset;
            }
            place = *next;
        }
    }

    fn describe_token(&self, token: u32) -> String {
        let character = CHARACTERS.get(token as usize);
        character.map_or_else(|| self.alphabet().describe(token), |byte| char::from(*byte).to_string())
    }
}

#[cfg(test)]
mod tests;
