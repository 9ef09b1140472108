//! The figures of a report: what each shows, in words, as a table and as a drawing.

mod axis;
mod curves;
mod plot;
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
use plot::{Plot, Series};
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
    plot: Plot,
}

impl Figure {
    /// The figure as SVG.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub fn svg(&self, theme: Theme, layout: Layout) -> Result<String, ReportError> {
        self.plot
            .svg(&self.title, &self.alt, theme, layout)
            .map_err(|cause| ReportError::Draw { figure: self.id.clone(), cause })
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
        drawn.extend(scores::by_state(&cases));
        drawn.extend(scores::by_setting(&cases, runs));
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
fn chance(cases: &[Styled]) -> Option<(f64, String)> {
    let level = cases.first()?.case.chance.filter(|level| level.is_finite())?;
    let shared = cases.iter().all(|styled| styled.case.chance == Some(level));
    shared.then(|| (level, format!("chance ({} %)", format::percent(level))))
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
        Plot { x: Axis::from_zero("optimiser steps", self.last as f64), y, series, reference: None }
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
        plot: Plot { reference: chance(cases), ..curves.plot(Axis::percent("validation accuracy, %")) },
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
        plot: curves.plot(Axis::from_zero("training loss, nats per label", top)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::report::gather::gather;
    use crate::report::synthetic::{self, RunSpec};

    fn drawn(specs: &[RunSpec]) -> Vec<Figure> {
        let runs = synthetic::read(specs);
        figures(&gather(&runs, &[]).0, &runs)
    }

    fn ids(figures: &[Figure]) -> Vec<&str> {
        figures.iter().map(|figure| figure.id.as_str()).collect()
    }

    #[test]
    fn a_comparison_on_one_slice_has_curves_and_the_state_figure() {
        let figures = drawn(&synthetic::comparison(3));
        assert_eq!(ids(&figures), ["validation-accuracy", "training-loss", "accuracy-by-state"]);
        assert!(figures[0].alt.contains("% after 180 steps; mamba ends at "), "{}", figures[0].alt);
        assert_eq!(figures[2].data.rows.len(), 3);
    }

    #[test]
    fn settings_that_rise_together_share_one_figure() {
        let slices = vec![(64.0, 4.0), (128.0, 8.0), (512.0, 32.0)];
        let figures = drawn(&[RunSpec { slices, ..RunSpec::new("recall", "a", 0) }]);
        assert_eq!(ids(&figures)[3..], ["accuracy-by-length"]);
        assert_eq!(figures[3].plot.x.title, "length (with it pairs)");
    }

    #[test]
    fn settings_that_vary_apart_have_a_figure_each_with_slices_pooled() {
        let slices = vec![(64.0, 4.0), (64.0, 8.0), (128.0, 4.0), (128.0, 8.0)];
        let figures = drawn(&[RunSpec { slices, toll: 0.5, ..RunSpec::new("recall", "a", 0) }]);
        assert_eq!(ids(&figures)[3..], ["accuracy-by-length", "accuracy-by-pairs"]);
        assert_eq!(figures[4].plot.series[0].means.len(), 2);
        assert_eq!(figures[4].plot.series[0].means[0].1, figures[4].plot.series[0].means[1].1);
    }

    #[test]
    fn intervals_over_a_setting_are_drawn_side_by_side_for_few_cases_and_not_for_many() {
        let spec = |case: usize, seed| RunSpec {
            slices: vec![(64.0, 4.0), (128.0, 4.0)],
            ..RunSpec::new("recall", &format!("c{case}"), seed)
        };
        let cases = |count: usize| (0..count).flat_map(|case| [spec(case, 0), spec(case, 1)]).collect::<Vec<_>>();
        let few = drawn(&cases(3)).remove(3);
        assert_eq!(few.plot.series.iter().map(|series| series.aside).sum::<f64>(), 0.0);
        assert!(few.plot.series[0].aside < 0.0 && few.plot.series[0].means[0].2.is_some());
        let many = drawn(&cases(9)).remove(3);
        assert!(many.plot.series.iter().all(|series| series.aside == 0.0 && series.means[0].2.is_none()));
        assert!(many.data.rows[0][1].contains('±') && many.caption.contains("among the numbers"));
    }

    #[test]
    fn a_sweep_over_sizes_joins_the_points_of_a_case() {
        let spec = |case: &str, width: u64| RunSpec {
            axes: [("model.d_model".to_owned(), Value::from(width))].into(),
            state_bytes: width * 100,
            ..RunSpec::new("recall", case, 0)
        };
        let figures = drawn(&[spec("a", 64), spec("a", 128), spec("b", 64), spec("b", 128)]);
        let state = figures.iter().find(|figure| figure.id == "accuracy-by-state").unwrap();
        let labels: Vec<&str> = state.plot.series.iter().map(|series| series.label.as_str()).collect();
        assert_eq!(labels, ["a", "b"]);
        assert_eq!(state.plot.series[0].line.len(), 2);
    }

    #[test]
    fn in_a_sweep_a_case_keeps_its_look_over_all_figures() {
        let spec = |case: &str, width: u64| RunSpec {
            axes: [("model.d_model".to_owned(), Value::from(width))].into(),
            ..RunSpec::new("recall", case, 0)
        };
        let figures = drawn(&[spec("a", 64), spec("a", 128), spec("b", 64), spec("b", 128)]);
        let looks = |figure: &Figure| figure.plot.series.iter().map(|series| series.look).collect::<Vec<_>>();
        let (curves, state) = (looks(&figures[0]), looks(&figures[2]));
        assert_eq!([curves[0], curves[2]], [state[0], state[1]]);
        assert_eq!(curves[0].colour(), curves[1].colour());
        assert!(curves[0] != curves[1] && curves[0].colour() != curves[2].colour());
    }

    #[test]
    fn each_experiment_has_figures_of_its_own() {
        let figures = drawn(&[RunSpec::new("recall", "a", 0), RunSpec::new("copy <i>", "a", 0)]);
        assert_eq!(ids(&figures)[0], "copy-i-validation-accuracy");
        assert_eq!(ids(&figures)[3], "recall-validation-accuracy");
    }

    #[test]
    fn more_cases_than_can_be_told_apart_are_cut_and_the_caption_says_so() {
        let cases: Vec<RunSpec> = (0..20).map(|case| RunSpec::new("recall", &format!("c{case:02}"), 0)).collect();
        let figures = drawn(&cases);
        assert_eq!(figures[0].plot.series.len(), MAX_SERIES);
        assert!(figures[0].caption.contains("first 14 of 20 cases"), "{}", figures[0].caption);
        assert!(figures[2].plot.series.len() <= MAX_SERIES);
    }

    #[test]
    fn every_figure_can_be_drawn_in_every_form() {
        for figure in drawn(&synthetic::comparison(2)) {
            for theme in [Theme::Embedded, Theme::Standalone] {
                for layout in [Layout::Wide, Layout::Narrow] {
                    assert!(figure.svg(theme, layout).unwrap().trim_end().ends_with("</svg>"));
                }
            }
        }
    }

    #[test]
    fn chance_is_drawn_only_where_all_cases_share_it() {
        let figures = drawn(&synthetic::comparison(1));
        assert_eq!(figures[0].plot.reference.as_ref().unwrap().1, "chance (0.4 %)");
    }
}
