//! Errors of configuration, drawn where they were written.

use std::fmt;
use std::path::PathBuf;

use super::source::Place;

/// Why a run file was refused. The message names the file, the line, the key, the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the run file {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// A directory was given in place of a file.
    #[error("{} is a directory; give the run file itself, for example {}", path.display(), path.join("config.toml").display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The file is no text.
    #[error("the run file {} is not UTF-8: line {line} holds other bytes", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first line at fault, counted from 1.
        line: usize,
    },
    /// A setting was refused.
    #[error("{0}")]
    Setting(Box<Problem>),
    /// One run was asked for, but the file plans several, or none of that name.
    #[error("{0}")]
    Selection(String),
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self::Setting(Box::new(problem))
    }
}

/// A refused setting: its key, what is wrong, where it was written, and hints.
///
/// Displays as the cause, the line with a caret below the culprit, and one line for each hint.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    key: String,
    what: String,
    place: Option<Place>,
    notes: Vec<String>,
}

impl Problem {
    pub(super) fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { key: key.into(), what: what.into(), place: None, notes: Vec::new() }
    }

    pub(super) fn at(self, place: Option<Place>) -> Self {
        Self { place, ..self }
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds a hint if there is one.
    pub(super) fn hint(self, note: Option<String>) -> Self {
        match note {
            Some(note) => self.note(note),
            None => self,
        }
    }

    /// Dotted key of the setting; empty where the text itself is at fault.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Line and column, counted from 1, if the setting was written anywhere (and is not a default).
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(|place| {
            let spot = Spot::of(place);
            (spot.line, spot.column + 1)
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        let mut gutter = 1;
        if let Some(place) = &self.place {
            let Spot { line, column, text, width } = Spot::of(place);
            let label = if place.source.file.is_some() { line.to_string() } else { " ".to_owned() };
            gutter = label.len();
            match &place.source.file {
                Some(file) => write!(f, "\n{:gutter$}--> {file}:{line}:{}", "", column + 1)?,
                None => write!(f, "\n{:gutter$}--> --set", "")?,
            }
            // A line of a machine-made file may be longer than any screen: show what surrounds the culprit.
            let start = column.saturating_sub(60);
            let shown: String = text.chars().skip(start).take(120).collect();
            let (before, carets) = (column - start, "^".repeat(width.clamp(1, 120)));
            write!(f, "\n{:gutter$} |\n{label} | {}", "", shown.trim_end())?;
            write!(f, "\n{:gutter$} | {:before$}{carets}", "", "")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n{:gutter$} = {note}", ""))
    }
}

/// A place in terms of lines and characters.
struct Spot {
    /// From 1.
    line: usize,
    /// From 0, in characters.
    column: usize,
    /// The line, every control character a blank, so that carets align and terminals stay sane.
    text: String,
    /// Characters from `column` to the end of the span or of the line.
    width: usize,
}

impl Spot {
    fn of(place: &Place) -> Self {
        let text = &place.source.text;
        let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let (from, to) = (boundary(place.span.start), boundary(place.span.end.max(place.span.start)));
        let start = text[..from].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[from..].find('\n').map_or(text.len(), |newline| from + newline);
        Self {
            line: text[..from].matches('\n').count() + 1,
            column: text[start..from].chars().count(),
            text: text[start..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
            width: text[from..to.min(end)].trim_end().chars().count(),
        }
    }
}

/// The candidate most like the word, if any is like it at all.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// More than half of the letters agree: `max_steps` finds `steps`, `lrr` finds `lr`, `window` not `kind`.
    const LIKE: f64 = 0.5;
    let score = |candidate: &&str| strsim::normalized_damerau_levenshtein(word, candidate);
    candidates.into_iter().filter(|candidate| score(candidate) > LIKE).max_by(|a, b| score(a).total_cmp(&score(b)))
}
