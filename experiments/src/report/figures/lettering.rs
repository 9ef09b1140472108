//! How much room text takes, and what to do where there is too little.

/// Size of the text, in pixels.
pub(crate) const TEXT: f64 = 13.0;

/// Width of an average character, as a share of the text's size.
pub(crate) const CHARACTER: f64 = 0.56;

/// Width of a text of the usual size, in pixels, as far as its length tells.
pub(crate) fn width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER * TEXT
}

/// How many characters of the usual size fit.
pub(crate) fn fitting(pixels: i32) -> usize {
    (f64::from(pixels) / CHARACTER / TEXT) as usize
}

/// The text, with its middle left out where it is longer than `characters`.
pub(crate) fn shortened(text: &str, characters: usize) -> String {
    let count = text.chars().count();
    if count <= characters {
        return text.to_owned();
    }
    let kept = characters.saturating_sub(1);
    let head: String = text.chars().take(kept.div_ceil(2)).collect();
    let tail: String = text.chars().skip(count - kept / 2).collect();
    format!("{head}…{tail}")
}

/// The text in lines of at most `characters`, broken between words.
pub(crate) fn wrapped(text: &str, characters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= characters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(shortened(word, characters)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_label_loses_its_middle() {
        assert_eq!(shortened("attention", 9), "attention");
        assert_eq!(shortened("mamba d_model=128 d_state=16", 11), "mamba…te=16");
    }

    #[test]
    fn a_long_title_is_broken_between_words() {
        assert_eq!(wrapped("depth of the evidence", 40), ["depth of the evidence"]);
        assert_eq!(wrapped("depth of the evidence", 12), ["depth of the", "evidence"]);
        assert_eq!(wrapped("undividedword", 6), ["und…rd"]);
        assert!(wrapped("", 6).is_empty());
    }
}
