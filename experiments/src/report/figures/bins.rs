//! Test accuracy by where the evidence stands: how far behind the question, how deep in the sequence.

use std::collections::{BTreeMap, BTreeSet};

use super::axis::Axis;
use super::plot::{Plot, Series};
use super::style::MAX_SERIES;
use super::{Drawing, Figure, Styled};
use crate::report::format;
use crate::report::gather::CaseSummary;
use crate::report::read::{Run, pooled};
use crate::report::sheet::{Column, Sheet};
use crate::report::stats::{Interval, mean, t_interval, wilson_interval};
use crate::result::{Bin, SliceScore};

/// Where the evidence may stand.
struct Place {
    id: &'static str,
    /// What the bins are of, in the title.
    what: &'static str,
    bins: fn(&SliceScore) -> &[Bin],
    axis: fn(&[u32]) -> Axis,
    /// Where a bin is drawn.
    at: fn(u32) -> f64,
    /// A bin in words.
    text: fn(u32) -> String,
    note: &'static str,
}

/// Stands for a distance of 0 on a logarithmic axis.
const AT_ONCE: f64 = 0.5;

const DISTANCE: Place = Place {
    id: "accuracy-by-distance",
    what: "distance back to the evidence",
    bins: |score| &score.by_distance,
    axis: |bins| {
        let mut axis = Axis::setting("distance back to the evidence, tokens (log scale)", &places(bins, DISTANCE.at));
        axis.ticks.iter_mut().filter(|tick| tick.0 == AT_ONCE).for_each(|tick| tick.1 = "0".to_owned());
        axis
    },
    at: |from| if from == 0 { AT_ONCE } else { f64::from(from) },
    text: |from| if from < 2 { from.to_string() } else { format!("{from}–{}", 2 * u64::from(from) - 1) },
    note: "Each marker stands for all distances from its place up to the next power of two.",
};

const DEPTH: Place = Place {
    id: "accuracy-by-depth",
    what: "depth of the evidence",
    bins: |score| &score.by_depth,
    axis: |_| Axis::share("depth of the evidence, % of the sequence (0 is its start)"),
    at: |tenth| (f64::from(tenth) + 0.5) / 10.0,
    text: tenth,
    note: "Each marker stands in the middle of its tenth of the sequence.",
};

/// A tenth of the sequence in words.
pub(crate) fn tenth(place: u32) -> String {
    format!("{}–{} %", 10 * place, 10 * (place + 1))
}

fn places(bins: &[u32], at: fn(u32) -> f64) -> Vec<f64> {
    bins.iter().map(|&bin| at(bin)).collect()
}

/// The figures by distance and by depth, where runs counted their answers so in more than one bin.
pub(crate) fn by_evidence(cases: &[Styled], runs: &[Run]) -> Vec<Figure> {
    [DISTANCE, DEPTH].iter().filter_map(|place| figure(cases, runs, place)).collect()
}

/// Right answers and answers of a run by bin, over all slices.
fn counts(run: &Run, place: &Place) -> BTreeMap<u32, (u64, u64)> {
    let mut counts: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for bin in run.result.test.iter().flat_map(place.bins) {
        let sum = counts.entry(bin.from).or_default();
        *sum = (sum.0 + bin.right, sum.1 + bin.of);
    }
    counts
}

/// A bin of a case, over its seeds.
struct Scored {
    bin: u32,
    answers: u64,
    mean: f64,
    interval: Option<Interval>,
}

fn scored(case: &CaseSummary, runs: &[Run], place: &Place) -> Vec<Scored> {
    let mut by_bin: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
    for &run in &case.runs {
        for (bin, count) in counts(&runs[run], place).into_iter().filter(|(_, count)| count.1 > 0) {
            by_bin.entry(bin).or_default().push(count);
        }
    }
    let score = |(bin, counts): (u32, Vec<(u64, u64)>)| {
        let shares: Vec<f64> = counts.iter().filter_map(|count| pooled([*count])).collect();
        let interval = match counts[..] {
            [(right, of)] => wilson_interval(right, of),
            _ => t_interval(&shares),
        };
        Some(Scored { bin, answers: counts.iter().map(|count| count.1).sum(), mean: mean(&shares)?, interval })
    };
    by_bin.into_iter().filter_map(score).collect()
}

fn figure(cases: &[Styled], runs: &[Run], place: &Place) -> Option<Figure> {
    let scores: Vec<(&Styled, Vec<Scored>)> =
        cases.iter().map(|styled| (styled, scored(styled.case, runs, place))).collect();
    let bins: BTreeSet<u32> = scores.iter().flat_map(|(_, scores)| scores).map(|scored| scored.bin).collect();
    let bins: Vec<u32> = bins.into_iter().collect();
    if bins.len() < 2 {
        return None;
    }
    let numbers = ["answers", "accuracy, %", "95 % interval, %"].map(Column::number);
    let columns = [Column::text("case"), Column::text(place.what)].into_iter().chain(numbers).collect();
    let row = |label: &str, scored: &Scored| {
        let interval = scored.interval.map(format::percent_range);
        let answers = format::whole(scored.answers);
        let interval = format::or_none(interval, |text| text);
        vec![label.to_owned(), (place.text)(scored.bin), answers, format::percent(scored.mean), interval]
    };
    let rows = |(styled, scores): &(&Styled, Vec<Scored>)| {
        scores.iter().map(|scored| row(&styled.case.label, scored)).collect::<Vec<_>>()
    };
    let data = Sheet { columns, rows: scores.iter().flat_map(rows).collect() };
    let shown = scores.iter().filter(|(_, scores)| !scores.is_empty()).take(MAX_SERIES);
    let mut series: Vec<Series> = shown.map(|(styled, scores)| line(styled, scores, place)).collect();
    let intervals = super::scores::side_by_side(&mut series);
    let endings = scores.iter().filter_map(|(styled, scores)| {
        let (first, last) = (scores.first()?, scores.last()?);
        let [first, last] =
            [first, last].map(|end| format!("{} % at {}", format::percent(end.mean), (place.text)(end.bin)));
        Some(format!("{}: {first}, {last}", styled.case.label))
    });
    Some(Figure {
        id: place.id.into(),
        title: format!("Test accuracy by {}", place.what),
        caption: format!(
            "Right answers over answers, all slices pooled: means over seeds. {} {intervals} Of a single seed the interval is \
             Wilson's, of its answers. How many answers a bin has stands among the numbers.{}",
            place.note,
            super::left_out(cases.len())
        ),
        alt: format!("Line chart of test accuracy by {}: {}.", place.what, endings.collect::<Vec<_>>().join("; ")),
        data,
        drawing: Drawing::Plot(Plot {
            x: (place.axis)(&bins),
            y: Axis::percent("test accuracy, %"),
            series,
            guides: super::chance(cases).into_iter().collect(),
        }),
    })
}

fn line(styled: &Styled, scores: &[Scored], place: &Place) -> Series {
    Series {
        label: styled.case.label.clone(),
        look: styled.look,
        line: scores.iter().map(|scored| ((place.at)(scored.bin), scored.mean)).collect(),
        means: scores.iter().map(|scored| ((place.at)(scored.bin), scored.mean, scored.interval)).collect(),
        ..Series::default()
    }
}
