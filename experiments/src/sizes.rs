//! Lengths and sizes as they are typed.

/// Lengths named by one part of `--lengths`: `1000`, `64K` (times 1024), `1M` (times 1024²), or `64..1M`, the powers of
/// two from one to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lengths(pub(crate) Vec<usize>);

/// Reads a [`Lengths`].
///
/// # Errors
/// If it is no length or no range, or one without a length in it.
pub(crate) fn lengths(text: &str) -> Result<Lengths, String> {
    let Some((from, to)) = text.split_once("..") else { return Ok(Lengths(vec![length(text)?])) };
    let (first, last) = (length(from)?, length(to)?);
    if last < first {
        return Err(format!("the range ends before it begins: use {to}..{from}"));
    }
    let powers = (0..usize::BITS).map(|power| 1 << power).filter(|power| (first..=last).contains(power));
    match powers.collect::<Vec<usize>>() {
        none if none.is_empty() => {
            Err(format!("no power of two lies in it: use {}..{to}, or list lengths as {from},{to}", below(first)))
        }
        powers => Ok(Lengths(powers)),
    }
}

/// The power of two below a number that is none.
fn below(number: usize) -> usize {
    1 << number.ilog2()
}

/// A number of tokens: `1000`, `64K` or `1M`.
///
/// # Errors
/// If it is none, or 0.
pub(crate) fn length(text: &str) -> Result<usize, String> {
    let number = scaled(text, &[("K", 1 << 10), ("M", 1 << 20)]);
    match number.and_then(|number| usize::try_from(number).ok()) {
        Some(0) => Err("use 1 or more".into()),
        Some(number) => Ok(number),
        None => Err("use a number of tokens such as 1000, 64K (of 1024) or 1M (of 1024²), or a range 64..1M".into()),
    }
}

/// A number of bytes: `800MiB`, `4GiB`.
///
/// # Errors
/// If it is none.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];
    scaled(text, &units).ok_or_else(|| "use a size such as 800MiB or 4GiB".into())
}

/// A whole number before one of some units, or before none.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1));
    number.trim().parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_its_powers_of_two() {
        assert_eq!(lengths("64..1K").unwrap().0, [64, 128, 256, 512, 1024]);
        assert_eq!(lengths("100..300").unwrap().0, [128, 256]);
        assert_eq!(lengths("64..64").unwrap().0, [64]);
        assert_eq!(lengths("1M").unwrap().0, [1_048_576]);
        assert_eq!(lengths("1000").unwrap().0, [1000]);
    }

    #[test]
    fn what_holds_no_length_is_refused_with_what_to_write() {
        assert_eq!(lengths("1K..64").unwrap_err(), "the range ends before it begins: use 64..1K");
        assert_eq!(
            lengths("100..120").unwrap_err(),
            "no power of two lies in it: use 64..120, or list lengths as 100,120"
        );
        assert_eq!(lengths("0").unwrap_err(), "use 1 or more");
        for text in ["", "..", "64..", "1G", "-4", "1.5K", "99999999999999999999", "18446744073709551615M"] {
            assert!(lengths(text).unwrap_err().contains("64K (of 1024)"), "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!((bytes("4GiB"), bytes("800 MiB"), bytes("12")), (Ok(4 << 30), Ok(800 << 20), Ok(12)));
        assert!(bytes("4GB").unwrap_err().contains("4GiB"));
    }
}
