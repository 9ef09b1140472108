//! Axes: a range, linear or logarithmic, with the ticks chosen by us and drawn by Plotters.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::lettering;
use crate::report::format;

/// Ticks that an axis aims at.
const TICKS: usize = 6;

/// From this ratio of largest to smallest value on, an axis of a setting is logarithmic.
const LOG_RATIO: f64 = 4.0;

/// An axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// What is measured, with its unit.
    pub(crate) title: String,
    /// Lowest and highest value drawn.
    pub(crate) range: Range<f64>,
    /// Where the ticks stand, and what is written at them.
    pub(crate) ticks: Vec<(f64, String)>,
    log: bool,
}

impl Axis {
    /// Proportions from 0 to 1, written in percent, always in full: a cut axis would exaggerate differences.
    pub(crate) fn percent(title: &str) -> Self {
        let ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0].map(|tick| (tick, format!("{:.0}", 100.0 * tick)));
        // The margin keeps markers at 0 and 1 whole.
        Self { title: title.into(), range: -0.02..1.02, ticks: ticks.to_vec(), log: false }
    }

    /// Numbers from zero to `max`.
    pub(crate) fn from_zero(title: &str, max: f64) -> Self {
        let max = if max.is_finite() && max > 0.0 { max } else { 1.0 };
        let step = nice_step(max / TICKS as f64);
        let count = (max / step).floor() as u32;
        let text = |tick: f64| if step >= 1.0 { format::whole(tick.round() as u64) } else { trimmed(tick) };
        let ticks = (0..=count).map(|index| f64::from(index) * step).map(|tick| (tick, text(tick))).collect();
        Self { title: title.into(), range: 0.0..max * 1.02, ticks, log: false }
    }

    /// Bytes on a logarithmic scale, with ticks at powers of two.
    pub(crate) fn bytes(title: &str, min: f64, max: f64) -> Self {
        // Room beside the outermost points, then out to the next power.
        const ROOM: f64 = 0.15;
        let low = (min.log2() - ROOM).floor() as i32;
        let high = (max.log2() + ROOM).ceil() as i32;
        let stride = ((high - low) as usize).div_ceil(TICKS).max(1);
        let ticks = (low..=high).step_by(stride).map(|power| 2.0_f64.powi(power));
        let ticks = ticks.map(|tick| (tick, format::bytes(tick))).collect();
        Self { title: title.into(), range: 2.0_f64.powi(low)..2.0_f64.powi(high), ticks, log: true }
    }

    /// Positive numbers on a logarithmic scale, with ticks at 1, 2 and 5 times powers of ten.
    pub(crate) fn logarithmic(title: &str, min: f64, max: f64) -> Self {
        let range = min / 1.2..max * 1.2;
        let powers = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
        let all = |factors: &[f64]| -> Vec<f64> {
            let ticks =
                powers.clone().flat_map(|power| factors.iter().map(move |factor| factor * 10.0_f64.powi(power)));
            ticks.filter(|tick| range.contains(tick)).collect()
        };
        let fine = all(&[1.0, 2.0, 5.0]);
        let ticks = if fine.len() > TICKS + 2 { all(&[1.0]) } else { fine };
        let stride = ticks.len().div_ceil(TICKS + 2).max(1);
        let ticks = ticks.into_iter().step_by(stride).map(|tick| (tick, trimmed(tick))).collect();
        Self { title: title.into(), range, ticks, log: true }
    }

    /// Shares of a whole, written in percent.
    pub(crate) fn share(title: &str) -> Self {
        let full = Self::percent(title);
        Self { range: -0.04..1.04, ..full }
    }

    /// The values of a setting, each a tick; logarithmic where they span much.
    pub(crate) fn setting(title: &str, values: &[f64]) -> Self {
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log = min > 0.0 && max / min >= LOG_RATIO;
        let range = if log {
            let room = (max / min).powf(0.05);
            min / room..max * room
        } else {
            let room = 0.05 * (max - min).max(f64::MIN_POSITIVE);
            min - room..max + room
        };
        let ticks = values.iter().map(|&value| (value, trimmed(value))).collect();
        Self { title: title.into(), range, ticks, log }
    }

    /// The axis with only those ticks whose texts do not run into each other, drawn over `pixels`.
    pub(crate) fn thinned(&self, pixels: f64) -> Self {
        const APART: f64 = 6.0;
        let (low, high) = (self.scaled(self.range.start), self.scaled(self.range.end));
        let mut end = f64::NEG_INFINITY;
        let mut ticks = self.ticks.clone();
        ticks.retain(|(value, text)| {
            let (middle, half) = ((self.scaled(*value) - low) / (high - low) * pixels, lettering::width(text) / 2.0);
            let fits = middle - half >= end;
            if fits {
                end = middle + half + APART;
            }
            fits
        });
        Self { ticks, ..self.clone() }
    }

    fn scaled(&self, value: f64) -> f64 {
        if self.log { value.log2() } else { value }
    }
}

/// The least of 1, 2 and 5 times a power of ten that is no less than `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10.0_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}

/// A setting as it is written in a config: few digits, and an exponent where zeros would hide them.
pub(crate) fn trimmed(value: f64) -> String {
    // Below that, a fixed number of digits would round values away.
    const SMALL: f64 = 0.01;
    if value.fract() == 0.0 && value >= 0.0 {
        return format::whole(value as u64);
    }
    if value.abs() < SMALL {
        return format!("{value:e}");
    }
    format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let (low, high) = (self.scaled(self.range.start), self.scaled(self.range.end));
        let share = ((self.scaled(*value) - low) / (high - low)).clamp(0.0, 1.0);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(value, _)| *value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.ticks.iter().find(|(tick, _)| tick == value).map(|(_, text)| text.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn steps_have_round_ticks() {
        assert_eq!(texts(&Axis::from_zero("", 1500.0)), ["0", "500", "1,000", "1,500"]);
        assert_eq!(texts(&Axis::from_zero("", 5.6)), ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(texts(&Axis::from_zero("", 0.5)), ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]);
    }

    #[test]
    fn an_axis_without_a_finite_end_is_still_an_axis() {
        for max in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(!Axis::from_zero("", max).ticks.is_empty());
        }
    }

    #[test]
    fn bytes_have_ticks_at_powers_of_two_with_every_value_inside() {
        let axis = Axis::bytes("", 4600.0, 16_384.0);
        assert_eq!(texts(&axis), ["4 KiB", "8 KiB", "16 KiB", "32 KiB"]);
        assert!(axis.range.contains(&4600.0) && axis.range.contains(&16_384.0));
        assert!(Axis::bytes("", 4096.0, 2.0_f64.powi(32)).ticks.len() <= TICKS + 1);
    }

    #[test]
    fn a_wide_setting_is_logarithmic_and_a_narrow_one_is_not() {
        assert!(Axis::setting("", &[64.0, 128.0, 512.0]).log);
        assert!(!Axis::setting("", &[1.0, 2.0, 3.0]).log);
        assert!(!Axis::setting("", &[0.0, 100.0]).log);
    }

    #[test]
    fn small_settings_keep_their_digits() {
        assert_eq!(texts(&Axis::setting("", &[3e-4, 1e-3, 0.03])), ["3e-4", "1e-3", "0.03"]);
    }

    #[test]
    fn ticks_without_room_are_left_out() {
        let values: Vec<f64> = (0..8).map(|power| 64.0 * 2.0_f64.powi(power)).collect();
        let axis = Axis::setting("", &values);
        assert_eq!(axis.thinned(800.0).ticks.len(), 8);
        assert_eq!(texts(&axis.thinned(200.0)), ["64", "128", "512", "2,048", "8,192"]);
    }

    #[test]
    fn a_logarithmic_axis_has_round_ticks_with_every_value_inside() {
        assert_eq!(texts(&Axis::logarithmic("", 900.0, 12_000.0)), ["1,000", "2,000", "5,000", "10,000"]);
        assert_eq!(
            texts(&Axis::logarithmic("", 1e2, 1e7)),
            ["100", "1,000", "10,000", "100,000", "1,000,000", "10,000,000"]
        );
        assert!(Axis::logarithmic("", 37_000.0, 37_000.0).range.contains(&37_000.0));
    }

    #[test]
    fn equal_ratios_are_equal_distances_on_a_logarithmic_axis() {
        let axis = Axis::bytes("", 2048.0, 8192.0);
        let at = |value| axis.map(&value, (0, 3000));
        assert!((at(4096.0) - at(2048.0) - (at(8192.0) - at(4096.0))).abs() <= 1);
    }

    #[test]
    fn values_outside_the_range_are_drawn_at_its_edge() {
        let axis = Axis::from_zero("", 10.0);
        assert_eq!(axis.map(&1e9, (0, 1000)), 1000);
        assert_eq!(axis.map(&-1.0, (0, 1000)), 0);
    }
}
