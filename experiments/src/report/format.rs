//! Numbers as the report writes them.

use super::gather::{Score, StepsToTarget};
use super::stats::Interval;

/// What stands where there is no value.
pub(crate) const NONE: &str = "–";

/// A whole number with a comma between thousands.
pub(crate) fn whole(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number to about three digits: `1,234`, `12.3`, `1.23`.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => NONE.to_owned(),
        size if size >= 99.95 => {
            let rounded = whole(size.round() as u64);
            if value < 0.0 { format!("-{rounded}") } else { rounded }
        }
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A proportion in percent, without the sign: `99.3`.
pub(crate) fn percent(value: f64) -> String {
    if value.is_finite() { format!("{:.1}", 100.0 * value) } else { NONE.to_owned() }
}

/// An interval of proportions in percent: `97.1 to 99.0`.
pub(crate) fn percent_range(interval: Interval) -> String {
    [interval.low, interval.high].map(percent).join(" to ")
}

/// A difference of proportions in points, with its sign: `+3.1`, `−0.2`, `+0.04`.
pub(crate) fn points(value: f64) -> String {
    let size = 100.0 * value.abs();
    let size = if size < 0.095 { format!("{size:.2}") } else { format!("{size:.1}") };
    match size.as_str() {
        "0.00" => "0".to_owned(),
        _ if value < 0.0 => format!("−{size}"),
        _ => format!("+{size}"),
    }
}

/// A p value: `0.03`, `< 0.001`.
pub(crate) fn p_value(value: f64) -> String {
    if value < 0.001 {
        "< 0.001".to_owned()
    } else {
        format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// A number in full, or nothing.
pub(crate) fn raw(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map(|value| value.to_string()).unwrap_or_default()
}

/// A number, if there is one.
pub(crate) fn or_none<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or_else(|| NONE.to_owned(), text)
}

/// `mean ± half-width`, in percent; one seed has no half-width.
pub(crate) fn score(score: &Score) -> String {
    match (score.mean, score.interval) {
        (Some(mean), Some(interval)) => format!("{} ± {}", percent(mean), percent(interval.half_width())),
        (Some(mean), None) => percent(mean),
        _ => NONE.to_owned(),
    }
}

/// `mean ± half-width [lowest seed]`, in percent.
pub(crate) fn score_with_min(score: &Score) -> String {
    match score.min {
        Some(min) if score.by_seed.len() > 1 => format!("{} [{}]", self::score(score), percent(min)),
        _ => self::score(score),
    }
}

/// `median [first–last]`, and how many runs reached the target where not all did.
pub(crate) fn steps_to_target(steps: &StepsToTarget) -> String {
    let median = steps.median.map_or_else(|| "not reached".to_owned(), |median| whole(median.round() as u64));
    let range = match (steps.first == steps.last, steps.median) {
        (true, Some(_)) => String::new(),
        _ => format!(" [{}–{}]", whole(steps.first), whole(steps.last)),
    };
    let share =
        if steps.reached < steps.runs { format!(" ({} of {})", steps.reached, steps.runs) } else { String::new() };
    format!("{median}{range}{share}")
}

/// Bytes in the largest unit that keeps the number at one or more: `16 KiB`, `6.25 KiB`.
pub(crate) fn bytes(value: f64) -> String {
    let mut amount = value;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or("B");
    for larger in units {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = larger;
    }
    let digits = format!("{amount:.2}");
    format!("{} {unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, 16_384, 1_234_567].map(whole), ["0", "999", "1,000", "16,384", "1,234,567"]);
    }

    #[test]
    fn short_numbers_keep_about_three_digits() {
        assert_eq!(
            [1.234, 12.34, 123.4, 1234.6, -1234.6, 99.97].map(short),
            ["1.23", "12.3", "123", "1,235", "-1,235", "100"]
        );
        assert_eq!(short(f64::NAN), NONE);
    }

    #[test]
    fn differences_carry_their_sign() {
        assert_eq!([0.031, -0.002, 0.0004, -0.00001].map(points), ["+3.1", "−0.2", "+0.04", "0"]);
    }

    #[test]
    fn bytes_are_in_binary_units() {
        assert_eq!([512.0, 4096.0, 6400.0, 1_048_576.0].map(bytes), ["512 B", "4 KiB", "6.25 KiB", "1 MiB"]);
    }

    #[test]
    fn a_target_that_some_runs_missed_says_so() {
        let steps = |reached, median| StepsToTarget { reached, runs: 3, median, first: 130, last: 1500 };
        assert_eq!(steps_to_target(&steps(3, Some(140.0))), "140 [130–1,500]");
        assert_eq!(steps_to_target(&steps(2, Some(1500.0))), "1,500 [130–1,500] (2 of 3)");
        assert_eq!(steps_to_target(&steps(1, None)), "not reached [130–1,500] (1 of 3)");
    }
}
