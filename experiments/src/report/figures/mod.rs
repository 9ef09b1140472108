//! The figures of a report: what each shows, in words, as a table and as a drawing.

mod axis;
mod bins;
mod curves;
mod guide;
mod heat;
mod lettering;
mod numbers;
mod plot;
mod raster;
mod scatter;
mod scores;
mod style;

use std::collections::BTreeMap;

pub use plot::Layout;
pub use style::Theme;

use super::ReportError;
use super::format;
use super::gather::CaseSummary;
use super::read::Run;
use super::sheet::{Column, Sheet};
use axis::Axis;
use curves::CurvePoint;
use guide::Guide;
pub(crate) use heat::{Heat, Panel};
use plot::{Plot, Series, UNIT, Words};
use style::{Look, MAX_SERIES};

/// A figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of its file, without the ending.
    pub id: String,
    /// Title.
    pub title: String,
    /// What the marks mean.
    pub caption: String,
    /// What it shows, in words, for those who cannot see it.
    pub alt: String,
    /// The numbers it is drawn from.
    pub data: Sheet,
    drawing: Drawing,
}

/// What is drawn.
#[derive(Clone, Debug)]
enum Drawing {
    Plot(Plot),
    Heat(Heat),
}

impl Figure {
    /// Heat maps with their words and numbers.
    pub(crate) fn of_heat(id: String, [title, caption, alt]: [String; 3], data: Sheet, heat: Heat) -> Self {
        Self { id, title, caption, alt, data, drawing: Drawing::Heat(heat) }
    }

    /// The figure as SVG.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub fn svg(&self, theme: Theme, layout: Layout) -> Result<String, ReportError> {
        let words = Words { title: &self.title, alt: &self.alt };
        let svg = match &self.drawing {
            Drawing::Plot(plot) => plot.svg(&words, theme, layout),
            Drawing::Heat(heat) => heat.svg(&words, theme, layout),
        };
        svg.map_err(|cause| ReportError::Draw { figure: self.id.clone(), cause })
    }
    /// A standalone figure as PNG, two pixels to the pixel.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub fn png(&self) -> Result<Vec<u8>, ReportError> {
        let svg = self.svg(Theme::Standalone, Layout::Wide)?;
        raster::png(&svg, UNIT as u32).map_err(|cause| ReportError::Draw { figure: self.id.clone(), cause })
    }

    /// What is drawn, in full precision, for programs.
    #[must_use]
    pub fn numbers(&self) -> Sheet {
        match &self.drawing {
            Drawing::Plot(plot) => numbers::of_plot(plot),
            Drawing::Heat(heat) => numbers::of_heat(heat),
        }
    }
}

/// All figures that the runs allow, for each experiment: learning curves, then test scores.
pub(crate) fn figures(summaries: &[CaseSummary], runs: &[Run]) -> Vec<Figure> {
    let mut experiments: BTreeMap<&str, Vec<&CaseSummary>> = BTreeMap::new();
    for summary in summaries {
        experiments.entry(&summary.name).or_default().push(summary);
    }
    let several = experiments.len() > 1;
    let mut figures = Vec::new();
    for (name, cases) in experiments {
        let cases = styled(&cases);
        let mut drawn: Vec<Figure> = Vec::new();
        drawn.extend(accuracy_curves(&cases, runs));
        drawn.extend(loss_curves(&cases, runs));
        drawn.extend(scatter::by_state(&cases));
        drawn.extend(scatter::by_speed(&cases));
        drawn.extend(scatter::by_attention(&cases, runs));
        drawn.extend(scatter::by_axis(&cases));
        drawn.extend(scores::by_setting(&cases, runs));
        drawn.extend(bins::by_evidence(&cases, runs));
        drawn.extend(heat::depth_by_length(&cases, runs));
        if several {
            for figure in &mut drawn {
                figure.id = format!("{}-{}", slug(name), figure.id);
                figure.title = format!("{name}: {}", figure.title);
            }
        }
        figures.extend(drawn);
    }
    figures
}

/// A case, and how it looks in every figure of its experiment.
struct Styled<'a> {
    case: &'a CaseSummary,
    look: Look,
    /// Where several cases are sizes of one thing: what they have in common, and its look.
    family: Option<(String, Look)>,
}

/// Gives each case its look. In a sweep of several cases over axes, a case keeps its colour over all values of the axes.
fn styled<'a>(cases: &[&'a CaseSummary]) -> Vec<Styled<'a>> {
    let mut families: Vec<&str> = Vec::new();
    for case in cases {
        if !families.contains(&case.case.as_str()) {
            families.push(&case.case);
        }
    }
    let swept = families.len() < cases.len() && (families.len() > 1 || cases.len() > MAX_SERIES);
    let mut variants = vec![0; families.len()];
    let mut styled = Vec::with_capacity(cases.len());
    for (place, case) in cases.iter().enumerate() {
        let family = families.iter().position(|family| *family == case.case).unwrap_or(0);
        let name = if case.case.is_empty() { &case.name } else { &case.case };
        styled.push(Styled {
            case,
            look: if swept { Look::variant(family, variants[family]) } else { Look::nth(place) },
            family: swept.then(|| (name.clone(), Look::variant(family, 0))),
        });
        variants[family] += 1;
    }
    styled
}

/// Letters, digits and single hyphens: a name that any file system takes.
pub(crate) fn slug(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let parts: Vec<&str> = plain.split('-').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "unnamed".to_owned() } else { parts.join("-") }
}

/// The level of a uniform guesser, where all cases share it.
fn chance(cases: &[Styled]) -> Option<Guide> {
    let level = cases.first()?.case.chance.filter(|level| level.is_finite())?;
    let shared = cases.iter().all(|styled| styled.case.chance == Some(level));
    shared.then(|| Guide::level(level, format!("chance ({} %)", format::percent(level))))
}

/// A sentence for the caption where not every case fits into a figure.
fn left_out(cases: usize) -> String {
    if cases > MAX_SERIES {
        format!(" Drawn are the first {MAX_SERIES} of {cases} cases, in the table's order.")
    } else {
        String::new()
    }
}

/// The learning curve of a case.
struct Curve<'a> {
    label: &'a str,
    look: Look,
    points: Vec<CurvePoint>,
}

/// The curves of the cases that can be told apart, and the last step of any run.
struct Curves<'a> {
    curves: Vec<Curve<'a>>,
    last: u64,
    cases: usize,
}

impl<'a> Curves<'a> {
    fn of(cases: &[Styled<'a>], runs: &[Run], points: fn(&[&Run]) -> Vec<CurvePoint>) -> Self {
        let members = |case: &CaseSummary| case.runs.iter().map(|&run| &runs[run]).collect::<Vec<&Run>>();
        let shown = &cases[..cases.len().min(MAX_SERIES)];
        let curve = |styled: &Styled<'a>| Curve {
            label: &styled.case.label,
            look: styled.look,
            points: points(&members(styled.case)),
        };
        let steps = shown.iter().flat_map(|styled| &styled.case.runs).map(|&run| runs[run].result.steps);
        Self { last: steps.max().unwrap_or(0), curves: shown.iter().map(curve).collect(), cases: cases.len() }
    }

    fn points(&self) -> impl Iterator<Item = &CurvePoint> {
        self.curves.iter().flat_map(|curve| &curve.points)
    }

    fn plot(&self, y: Axis) -> Plot {
        let series = self.curves.iter().map(|curve| Series {
            label: curve.label.to_owned(),
            look: curve.look,
            line: curve.points.iter().map(|point| (point.step, point.mean)).collect(),
            band: curve.points.iter().map(|point| (point.step, point.range)).collect(),
            ..Series::default()
        });
        let series = series.collect();
        Plot { x: Axis::from_zero("optimiser steps", self.last as f64), y, series, guides: Vec::new() }
    }

    fn sheet(&self, text: fn(f64) -> String) -> Sheet {
        let row = |label: &str, point: &CurvePoint| {
            let values = [point.mean, point.range.low, point.range.high].map(text);
            [label.to_owned(), format::whole(point.step.round() as u64)].into_iter().chain(values).collect()
        };
        let rows = |curve: &Curve<'a>| curve.points.iter().map(|point| row(curve.label, point)).collect::<Vec<_>>();
        let numbers = ["step", "mean", "lowest", "highest"].map(Column::number);
        Sheet {
            columns: [Column::text("case")].into_iter().chain(numbers).collect(),
            rows: self.curves.iter().flat_map(rows).collect(),
        }
    }

    /// Where each curve ends, in words.
    fn endings(&self, text: impl Fn(f64) -> String) -> String {
        let ending = |curve: &Curve<'a>| {
            let last = curve.points.last()?;
            let step = format::whole(last.step.round() as u64);
            Some(format!("{} ends at {} after {step} steps", curve.label, text(last.mean)))
        };
        self.curves.iter().filter_map(ending).collect::<Vec<_>>().join("; ")
    }
}

fn accuracy_curves(cases: &[Styled], runs: &[Run]) -> Option<Figure> {
    let curves = Curves::of(cases, runs, curves::accuracy);
    curves.points().next()?;
    let ends = curves.endings(|value| format!("{} %", format::percent(value)));
    Some(Figure {
        id: "validation-accuracy".into(),
        title: "Validation accuracy while training".into(),
        caption: format!(
            "Line: mean over seeds. Band: lowest to highest seed. A run that stopped early keeps its last value, so that \
             the mean does not change with who is left.{}",
            left_out(curves.cases)
        ),
        alt: format!("Line chart of validation accuracy against optimiser steps: {ends}."),
        data: curves.sheet(format::percent),
        drawing: Drawing::Plot(Plot {
            guides: chance(cases).into_iter().collect(),
            ..curves.plot(Axis::percent("validation accuracy, %"))
        }),
    })
}

fn loss_curves(cases: &[Styled], runs: &[Run]) -> Option<Figure> {
    let curves = Curves::of(cases, runs, curves::loss);
    let highest = curves.points().map(|point| point.range.high).reduce(f64::max)?;
    let firsts = curves.curves.iter().filter_map(|curve| curve.points.first());
    // A diverging run would flatten all others against the floor.
    let top = highest.min(1.5 * firsts.map(|point| point.range.high).reduce(f64::max)?);
    let cut = if highest > top { format!(" Losses above {} are cut off.", format::short(top)) } else { String::new() };
    let ends = curves.endings(format::short);
    Some(Figure {
        id: "training-loss".into(),
        title: "Training loss".into(),
        caption: format!(
            "Line: mean over seeds of the cross-entropy on training batches. Band: lowest to highest seed. A run that \
             stopped early keeps its last value.{cut}{}",
            left_out(curves.cases)
        ),
        alt: format!("Line chart of training loss in nats against optimiser steps: {ends}."),
        data: curves.sheet(format::short),
        drawing: Drawing::Plot(curves.plot(Axis::from_zero("training loss, nats per label", top))),
    })
}

#[cfg(test)]
mod tests;
