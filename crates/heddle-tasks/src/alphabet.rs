use std::ops::Range;

use crate::TaskError;
use crate::error::{require, require_between};
use crate::recipe::LARGEST;

/// The vocabulary of a task as named ranges of tokens, one behind the other from 0.
///
/// ```
/// use heddle_tasks::Alphabet;
///
/// let alphabet = Alphabet::of([("blank", 1), ("key", 7), ("value", 8)]);
/// assert_eq!(alphabet.size(), 16);
/// assert_eq!(alphabet.range("value"), 8..16);
/// assert_eq!(alphabet.describe(0), "blank");
/// assert_eq!(alphabet.describe(9), "value 1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alphabet {
    parts: Vec<(&'static str, Range<u32>)>,
}

impl Alphabet {
    /// The ranges of these names and sizes.
    pub fn of(parts: impl IntoIterator<Item = (&'static str, u32)>) -> Self {
        let mut end = 0;
        let part = |(name, size)| {
            let start = end;
            end += size;
            (name, start..end)
        };
        Self { parts: parts.into_iter().map(part).collect() }
    }

    /// The number of tokens.
    pub fn size(&self) -> u32 {
        self.parts.last().map_or(0, |(_, range)| range.end)
    }

    /// The tokens of one name.
    ///
    /// # Panics
    /// If no range has this name.
    pub fn range(&self, name: &str) -> Range<u32> {
        let part = self.parts.iter().find(|(part, _)| *part == name);
        part.unwrap_or_else(|| panic!("the alphabet has no '{name}'")).1.clone()
    }

    /// The token of a name that has only one, or the first of its range.
    ///
    /// # Panics
    /// If no range has this name.
    pub fn token(&self, name: &str) -> u32 {
        self.range(name).start
    }

    /// What a token stands for: its range's name, and its number there if the range has several.
    pub fn describe(&self, token: u32) -> String {
        match self.parts.iter().find(|(_, range)| range.contains(&token)) {
            Some((name, range)) if range.len() == 1 => (*name).to_owned(),
            Some((name, range)) => format!("{name} {}", token - range.start),
            None => format!("{token} is no token of this vocabulary"),
        }
    }
}

/// Refuses settings that give parts of a vocabulary, each as (setting, size, least size), beside `markers` further tokens.
///
/// # Errors
/// [`TaskError::OutOfRange`] if a part is too small, or all are too many.
pub(crate) fn check_parts<const N: usize>(parts: [(&str, usize, usize); N], markers: usize) -> Result<(), TaskError> {
    for (setting, size, least) in parts {
        require_between(size, setting, least, LARGEST)?;
    }
    let total = parts.iter().map(|(_, size, _)| size).sum::<usize>() + markers;
    let largest = parts.into_iter().max_by_key(|(_, size, _)| *size).map_or("vocab", |(setting, ..)| setting);
    require(total <= LARGEST, largest, format!("all tokens together ≤ {LARGEST}"), || {
        (format!("{total} tokens"), format!("use a {largest} smaller by at least {}", total - LARGEST))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other_and_describe_their_tokens() {
        let alphabet = Alphabet::of([("noise", 3), ("end", 1)]);
        assert_eq!((alphabet.range("noise"), alphabet.token("end"), alphabet.size()), (0..3, 3, 4));
        assert_eq!(alphabet.describe(2), "noise 2");
        assert_eq!(alphabet.describe(3), "end");
        assert_eq!(alphabet.describe(4), "4 is no token of this vocabulary");
    }

    #[test]
    #[should_panic(expected = "the alphabet has no 'key'")]
    fn an_unknown_name_is_refused() {
        Alphabet::of([("noise", 3)]).range("key");
    }
}
