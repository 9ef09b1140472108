//! Test accuracy of each case against one number of it: state, speed, a share of layers, a swept setting.

use std::collections::BTreeSet;

use super::axis::{Axis, trimmed};
use super::guide::{Guide, Shape};
use super::plot::{Plot, Series};
use super::style::{Look, MAX_SERIES};
use super::{Drawing, Figure, Styled};
use crate::report::format;
use crate::report::gather::{CaseSummary, Score, text_of};
use crate::report::pareto::{Better, front};
use crate::report::read::Run;
use crate::report::setup::Layers;
use crate::report::sheet::{Column, Sheet};

/// What the horizontal axis shows.
struct Measure<'a> {
    /// Name of the figure's file.
    id: String,
    /// What accuracy is drawn against, in the title.
    what: String,
    /// Title of its column among the numbers.
    column: String,
    axis: Axis,
    text: fn(f64) -> String,
    /// Which cases the Pareto front may hold, where there is one.
    better: Option<Better>,
    /// What the caption adds.
    note: &'a str,
}

/// A case with its place on the horizontal axis, the name it is drawn under, and its look.
struct Placed<'a> {
    case: &'a CaseSummary,
    x: f64,
    label: String,
    look: Look,
}

fn placed<'a>(cases: &[Styled<'a>], of: impl Fn(&CaseSummary) -> Option<f64>) -> Vec<Placed<'a>> {
    let place = |styled: &Styled<'a>| {
        let x = of(styled.case).filter(|x| x.is_finite())?;
        styled.case.accuracy.mean?;
        let (label, look) = styled.family.clone().unwrap_or_else(|| (styled.case.label.clone(), styled.look));
        Some(Placed { case: styled.case, x, label, look })
    };
    cases.iter().filter_map(place).collect()
}

fn extent(placed: &[Placed]) -> Option<(f64, f64)> {
    let places = || placed.iter().map(|case| case.x);
    Some((places().reduce(f64::min)?, places().reduce(f64::max)?))
}

/// Test accuracy against the bytes of state a sequence needs; `None` where no case has both.
pub(crate) fn by_state(cases: &[Styled]) -> Option<Figure> {
    let placed = placed(cases, |case| (case.state_bytes > 0).then_some(case.state_bytes as f64));
    let (min, max) = extent(&placed)?;
    let lengths: BTreeSet<u64> = placed.iter().map(|case| case.case.state_length).collect();
    let at = match lengths.first() {
        Some(length) if lengths.len() == 1 => format!(" at length {}", format::whole(*length)),
        _ => String::new(),
    };
    let measure = Measure {
        id: "accuracy-by-state".into(),
        what: "size of the state".into(),
        column: "state, bytes".into(),
        axis: Axis::bytes(&format!("state of one sequence while decoding{at}, f32 (log scale)"), min, max),
        text: |bytes| format::whole(bytes as u64),
        better: Some(Better::Less),
        note: "",
    };
    Some(figure(cases, &placed, measure))
}

/// Test accuracy against training throughput; `None` where fewer than two cases have both.
pub(crate) fn by_speed(cases: &[Styled]) -> Option<Figure> {
    let placed = placed(cases, |case| case.tokens_per_second.filter(|speed| *speed > 0.0));
    let (min, max) = extent(&placed).filter(|_| placed.len() > 1)?;
    let measure = Measure {
        id: "accuracy-by-speed".into(),
        what: "training throughput".into(),
        column: "tokens/s".into(),
        axis: Axis::logarithmic("training throughput, tokens/s (log scale)", min, max),
        text: |speed| format::whole(speed.round() as u64),
        better: Some(Better::More),
        note: " Throughput is the median over runs, and compares only between runs on the same machine with the same load.",
    };
    Some(figure(cases, &placed, measure))
}

/// Test accuracy against how many layers attend, and, of cases with as many, against where they stand.
pub(crate) fn by_attention(cases: &[Styled], runs: &[Run]) -> Vec<Figure> {
    let layers = |case: &CaseSummary| runs[*case.runs.first()?].setup.layers.as_ref();
    let mut figures = Vec::new();
    let by_share = placed(cases, |case| layers(case).map(Layers::attention_share));
    if differing(by_share.iter().map(|case| case.x)) {
        let measure = Measure {
            id: "accuracy-by-attention-share".into(),
            what: "share of attention layers".into(),
            column: "layers that attend, %".into(),
            axis: Axis::share("layers with a mixer of the kind attention, % of all layers"),
            text: format::percent,
            better: None,
            note: " A layer counts if attention is among its mixers.",
        };
        figures.push(figure(cases, &by_share, measure));
    }
    // Places compare only where the share is the same.
    let shared = |case: &CaseSummary| {
        let share = layers(case)?.attention_share();
        let others = by_share.iter().filter(|other| other.x == share && other.case.label != case.label);
        let place = layers(case)?.attention_place()?;
        let elsewhere = |other: &Placed| layers(other.case).and_then(Layers::attention_place) != Some(place);
        others.into_iter().any(elsewhere).then_some(place)
    };
    let by_place = placed(cases, shared);
    if differing(by_place.iter().map(|case| case.x)) {
        let measure = Measure {
            id: "accuracy-by-attention-place".into(),
            what: "place of the attention layers".into(),
            column: "mean place, %".into(),
            axis: Axis::share("mean place of the attention layers, % of the way from the first layer to the last"),
            text: format::percent,
            better: None,
            note: " Drawn are cases that share the number of attention layers with another that has them elsewhere.",
        };
        figures.push(figure(cases, &by_place, measure));
    }
    figures
}

/// Test accuracy against every numeric axis of the sweep.
pub(crate) fn by_axis(cases: &[Styled]) -> Vec<Figure> {
    let keys: BTreeSet<&String> = cases.iter().flat_map(|styled| styled.case.axes.keys()).collect();
    let only = keys.len() == 1;
    keys.into_iter().filter_map(|key| axis_figure(cases, key, only)).collect()
}

fn axis_figure(cases: &[Styled], key: &str, only: bool) -> Option<Figure> {
    let mut placed = placed(cases, |case| case.axes.get(key)?.as_f64());
    let mut values: Vec<f64> = placed.iter().map(|case| case.x).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    if values.len() < 2 {
        return None;
    }
    let mut names: Vec<String> = Vec::new();
    for case in &mut placed {
        let rest = case.case.axes.iter().filter(|(other, _)| *other != key);
        let rest = rest.map(|(other, value)| format!(" {}={}", last_part(other), text_of(value)));
        let start = if case.case.case.is_empty() { &case.case.name } else { &case.case.case };
        case.label = start.chars().chain(rest.collect::<String>().chars()).collect();
        let place = names.iter().position(|name| *name == case.label).unwrap_or_else(|| {
            names.push(case.label.clone());
            names.len() - 1
        });
        // With a single axis the case is the family, which has a look already.
        let family = cases.iter().find(|styled| styled.case.label == case.case.label)?.family.as_ref();
        case.look = family.filter(|_| only).map_or_else(|| Look::nth(place % MAX_SERIES), |(_, look)| *look);
    }
    let measure = Measure {
        id: format!("accuracy-by-axis-{}", super::slug(key)),
        what: key.into(),
        column: key.into(),
        axis: Axis::setting(key, &values),
        text: trimmed,
        better: None,
        note: "",
    };
    Some(figure(cases, &placed, measure))
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn differing(mut values: impl Iterator<Item = f64>) -> bool {
    let first = values.next();
    values.any(|value| Some(value) != first)
}

fn figure(cases: &[Styled], placed: &[Placed], measure: Measure) -> Figure {
    let mut series = series(placed);
    let left_out = super::left_out(series.len());
    series.truncate(MAX_SERIES);
    let mut guides: Vec<Guide> = super::chance(cases).into_iter().collect();
    let mut members = String::new();
    if let Some(better) = measure.better {
        let points: Vec<(f64, f64)> =
            placed.iter().map(|case| (case.x, case.case.accuracy.mean.unwrap_or(0.0))).collect();
        let front = front(&points, better);
        if placed.len() > 1 {
            let names: Vec<&str> = front.iter().map(|&place| placed[place].case.label.as_str()).collect();
            members = format!(
                " On the Pareto front of the means (no other case is better in one and no worse in the other): {}. Intervals \
                 are not considered, so a near miss may belong to it.",
                names.join(", ")
            );
        }
        if front.len() > 1 {
            let path = front.iter().map(|&place| points[place]).collect();
            guides.push(Guide { label: "Pareto front".into(), shape: Shape::Path(path) });
        }
    }
    let points = placed.iter().map(|case| {
        let accuracy = format::or_none(case.case.accuracy.mean, format::percent);
        format!("{} {accuracy} % at {}", case.case.label, (measure.text)(case.x))
    });
    Figure {
        title: format!("Test accuracy against {}", measure.what),
        caption: format!(
            "Small dots: single seeds. Large markers: their means, with the 95 % t interval over seeds (drawn within 0 to \
             100 %).{members}{}{left_out}",
            measure.note
        ),
        alt: format!(
            "Scatter plot of test accuracy against {}: {}.{members}",
            measure.what,
            points.collect::<Vec<_>>().join("; ")
        ),
        data: sheet(placed, &measure),
        id: measure.id,
        drawing: Drawing::Plot(Plot { x: measure.axis, y: Axis::percent("test accuracy, %"), guides, series }),
    }
}

/// One series for each name, with a line through its places.
fn series(placed: &[Placed]) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for case in placed {
        let place = series.iter().position(|known| known.label == case.label).unwrap_or_else(|| {
            series.push(Series { label: case.label.clone(), look: case.look, ..Series::default() });
            series.len() - 1
        });
        let Score { mean: Some(mean), interval, by_seed, .. } = &case.case.accuracy else { continue };
        let drawn = &mut series[place];
        drawn.dots.extend(by_seed.values().map(|value| (case.x, *value)));
        drawn.means.push((case.x, *mean, *interval));
        drawn.line.push((case.x, *mean));
    }
    for drawn in &mut series {
        drawn.line.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    series
}

fn sheet(placed: &[Placed], measure: &Measure) -> Sheet {
    let row = |case: &Placed| {
        let Score { mean, interval, by_seed, .. } = &case.case.accuracy;
        let interval = interval.map(format::percent_range);
        let seeds: Vec<String> = by_seed.values().map(|value| format::percent(*value)).collect();
        vec![
            case.case.label.clone(),
            (measure.text)(case.x),
            format::or_none(*mean, format::percent),
            format::or_none(interval, |text| text),
            seeds.join(", "),
        ]
    };
    let numbers = [measure.column.as_str(), "mean, %", "95 % interval, %", "single seeds, %"].map(Column::number);
    Sheet {
        columns: [Column::text("case")].into_iter().chain(numbers).collect(),
        rows: placed.iter().map(row).collect(),
    }
}
