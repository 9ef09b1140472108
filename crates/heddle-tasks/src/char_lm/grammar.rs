//! The sentences: what may stand at each place, and what follows.
//!
//! The alternatives of a place are equally likely, and none is the beginning of another, so the characters up to a
//! position tell the place that they have reached.

/// Every character, in the order of the tokens.
pub(super) const CHARACTERS: &[u8; 39] = b" .:\"123456789abcdefghijklmnopqrstuvwxyz";

pub(super) const NOUNS: [&str; 12] =
    ["baker", "bird", "cat", "doctor", "dog", "farmer", "horse", "king", "painter", "queen", "sailor", "teacher"];
pub(super) const ADJECTIVES: [&str; 6] = ["clever ", "happy ", "quiet ", "small ", "tall ", "young "];
pub(super) const VERBS: [&str; 9] = ["find", "follow", "greet", "hear", "help", "know", "like", "see", "want"];
const PREPOSITIONS: [&str; 3] = ["near the ", "behind the ", "under the "];

/// What a later character may agree with: its latest position is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// What tells the number of the subject.
    Subject,
    /// What tells the number of the object.
    Object,
    /// The opening quote.
    Quote,
}

/// A place in a sentence, with what is to be remembered there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) part: Part,
    /// Inside of quotes.
    pub(super) quoted: bool,
    /// The number of the subject.
    pub(super) plural: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The word in front of a noun phrase: the subject's, or else the object's.
    Determiner { subject: bool },
    /// The noun or, if none stands there yet, an adjective; the number if it is settled.
    Noun { subject: bool, adjective: bool, number: Option<bool> },
    /// The ending of the noun and what stands behind it.
    Ending { subject: bool, number: Option<bool> },
    /// A verb, or between subject and verb a preposition.
    Verb { preposition: bool },
    /// The noun behind a preposition, whose number does not matter.
    Near,
    /// Its ending.
    NearEnding,
    /// The ending of the verb.
    VerbEnding { says: bool },
}

/// One way to go on from a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alternative {
    pub(super) text: String,
    pub(super) next: Place,
    /// The character at this offset is a cause of later ones.
    pub(super) causes: Option<(Cause, usize)>,
    /// The character at this offset agrees with its cause.
    pub(super) agrees: Option<(Cause, usize)>,
}

impl Place {
    /// Where a text starts.
    pub(super) const START: Self = Self { part: Part::Determiner { subject: true }, quoted: false, plural: false };

    fn go(self, text: impl Into<String>, part: Part) -> Alternative {
        Alternative { text: text.into(), next: Place { part, ..self }, causes: None, agrees: None }
    }

    /// All ways to go on.
    pub(super) fn alternatives(self) -> Vec<Alternative> {
        match self.part {
            Part::Determiner { subject } => self.determiners(subject),
            Part::Noun { subject, adjective, number } => {
                let nouns = NOUNS.map(|noun| self.go(noun, Part::Ending { subject, number }));
                let noun = Part::Noun { subject, adjective: false, number };
                let adjectives = ADJECTIVES.iter().filter(|_| adjective).map(|word| self.go(*word, noun));
                nouns.into_iter().chain(adjectives).collect()
            }
            Part::Ending { subject: true, number } => self.subject_endings(number),
            Part::Ending { subject: false, number } => self.object_endings(number),
            Part::Verb { preposition } => {
                let verbs = VERBS.map(|verb| self.go(verb, Part::VerbEnding { says: false }));
                let says = (!self.quoted).then(|| self.go("say", Part::VerbEnding { says: true }));
                let near = PREPOSITIONS.iter().filter(|_| preposition).map(|words| self.go(*words, Part::Near));
                verbs.into_iter().chain(says).chain(near).collect()
            }
            Part::Near => NOUNS.map(|noun| self.go(noun, Part::NearEnding)).to_vec(),
            Part::NearEnding => {
                let verb = Part::Verb { preposition: false };
                vec![self.go(" ", verb), self.go("s ", verb)]
            }
            Part::VerbEnding { says } => self.verb_ending(says),
        }
    }

    fn determiners(self, subject: bool) -> Vec<Alternative> {
        let cause = if subject { Cause::Subject } else { Cause::Object };
        let noun = |number| Part::Noun { subject, adjective: true, number };
        let several = (2..=9).map(|count| (format!("{count} "), true));
        let one = ["1 ", "a ", "each "].map(|word| (word.to_owned(), false));
        let settled = one.into_iter().chain([("many ".to_owned(), true)]).chain(several);
        let settled = settled.map(|(word, plural)| {
            let causes = Some((cause, word.len() - 2));
            Alternative { causes, ..self.go(word, noun(Some(plural))) }
        });
        std::iter::once(self.go("the ", noun(None))).chain(settled).collect()
    }

    fn subject_endings(self, number: Option<bool>) -> Vec<Alternative> {
        let of_number = |plural: bool| {
            let text = if plural { "s " } else { " " };
            let mut alternative = Place { plural, ..self }.go(text, Part::Verb { preposition: true });
            match number {
                // A settled number shows once more, and the verb hangs on what showed it last.
                Some(_) => {
                    alternative.agrees = Some((Cause::Subject, 0));
                    alternative.causes = Some((Cause::Subject, 0));
                }
                None => alternative.causes = Some((Cause::Subject, 0)),
            }
            alternative
        };
        [false, true]
            .into_iter()
            .filter(|plural| number.is_none_or(|number| number == *plural))
            .map(of_number)
            .collect()
    }

    /// The ending of the object, and the end of the sentence or another verb for its subject.
    fn object_endings(self, number: Option<bool>) -> Vec<Alternative> {
        let numbers = [false, true].into_iter().filter(|plural| number.is_none_or(|number| number == *plural));
        let of_number = |plural: bool| {
            let ending = if plural { "s" } else { "" };
            let agrees = (plural && number.is_some()).then_some((Cause::Object, 0));
            let further = self.go(format!("{ending} and "), Part::Verb { preposition: false });
            let stop = if self.quoted { ".\" " } else { ". " };
            let stop = Alternative { next: Place::START, ..self.go(format!("{ending}{stop}"), Place::START.part) };
            // Of two characters that agree the later one, which hangs on what is further away.
            let quote = self.quoted.then_some((Cause::Quote, ending.len() + 1));
            [Alternative { agrees, ..further }, Alternative { agrees: quote.or(agrees), ..stop }]
        };
        numbers.flat_map(of_number).collect()
    }

    fn verb_ending(self, says: bool) -> Vec<Alternative> {
        let ending = if self.plural { "" } else { "s" };
        let mut alternative = if says {
            let quoted = Place { quoted: true, ..self };
            let text = format!("{ending}: \"");
            let causes = Some((Cause::Quote, text.len() - 1));
            Alternative { causes, ..quoted.go(text, Part::Determiner { subject: true }) }
        } else {
            self.go(format!("{ending} "), Part::Determiner { subject: false })
        };
        alternative.agrees = Some((Cause::Subject, 0));
        vec![alternative]
    }
}
