//! What figures are drawn of which runs.

use serde_json::Value;

use super::guide::Shape;
use super::*;
use crate::report::gather::gather;
use crate::report::synthetic::{self, RunSpec};

fn drawn(specs: &[RunSpec]) -> Vec<Figure> {
    let runs = synthetic::read(specs);
    figures(&gather(&runs, &[]).0, &runs)
}

fn drawn_plot(figure: &Figure) -> &Plot {
    match &figure.drawing {
        Drawing::Plot(plot) => plot,
        Drawing::Heat(_) => panic!("{} is a heat map", figure.id),
    }
}

fn named<'a>(figures: &'a [Figure], id: &str) -> &'a Figure {
    figures.iter().find(|figure| figure.id == id).unwrap_or_else(|| panic!("no {id} in {:?}", ids(figures)))
}

fn ids(figures: &[Figure]) -> Vec<&str> {
    figures.iter().map(|figure| figure.id.as_str()).collect()
}

#[test]
fn a_comparison_on_one_slice_has_curves_and_the_state_figure() {
    let figures = drawn(&synthetic::comparison(3));
    assert_eq!(ids(&figures), ["validation-accuracy", "training-loss", "accuracy-by-state", "accuracy-by-speed"]);
    assert!(figures[0].alt.contains("% after 180 steps; mamba ends at "), "{}", figures[0].alt);
    assert_eq!(figures[2].data.rows.len(), 3);
}

#[test]
fn settings_that_rise_together_share_one_figure() {
    let slices = vec![(64.0, 4.0), (128.0, 8.0), (512.0, 32.0)];
    let figures = drawn(&[RunSpec { slices, ..RunSpec::new("recall", "a", 0) }]);
    assert_eq!(ids(&figures)[3..], ["accuracy-by-length"]);
    assert_eq!(drawn_plot(&figures[3]).x.title, "length (with it pairs)");
}

#[test]
fn settings_that_vary_apart_have_a_figure_each_with_slices_pooled() {
    let slices = vec![(64.0, 4.0), (64.0, 8.0), (128.0, 4.0), (128.0, 8.0)];
    let figures = drawn(&[RunSpec { slices, toll: 0.5, ..RunSpec::new("recall", "a", 0) }]);
    assert_eq!(ids(&figures)[3..], ["accuracy-by-length", "accuracy-by-pairs"]);
    assert_eq!(drawn_plot(&figures[4]).series[0].means.len(), 2);
    assert_eq!(drawn_plot(&figures[4]).series[0].means[0].1, drawn_plot(&figures[4]).series[0].means[1].1);
}

#[test]
fn intervals_over_a_setting_are_drawn_side_by_side_for_few_cases_and_not_for_many() {
    let spec = |case: usize, seed| RunSpec {
        slices: vec![(64.0, 4.0), (128.0, 4.0)],
        ..RunSpec::new("recall", &format!("c{case}"), seed)
    };
    let cases = |count: usize| (0..count).flat_map(|case| [spec(case, 0), spec(case, 1)]).collect::<Vec<_>>();
    let few = drawn(&cases(3));
    let few = named(&few, "accuracy-by-length");
    assert_eq!(drawn_plot(few).series.iter().map(|series| series.aside).sum::<f64>(), 0.0);
    assert!(drawn_plot(few).series[0].aside < 0.0 && drawn_plot(few).series[0].means[0].2.is_some());
    let many = drawn(&cases(9));
    let many = named(&many, "accuracy-by-length");
    assert!(drawn_plot(many).series.iter().all(|series| series.aside == 0.0 && series.means[0].2.is_none()));
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
    let state = named(&figures, "accuracy-by-state");
    let labels: Vec<&str> = drawn_plot(state).series.iter().map(|series| series.label.as_str()).collect();
    assert_eq!(labels, ["a", "b"]);
    assert_eq!(drawn_plot(state).series[0].line.len(), 2);
}

#[test]
fn in_a_sweep_a_case_keeps_its_look_over_all_figures() {
    let spec = |case: &str, width: u64| RunSpec {
        axes: [("model.d_model".to_owned(), Value::from(width))].into(),
        ..RunSpec::new("recall", case, 0)
    };
    let figures = drawn(&[spec("a", 64), spec("a", 128), spec("b", 64), spec("b", 128)]);
    let looks = |figure: &Figure| drawn_plot(figure).series.iter().map(|series| series.look).collect::<Vec<_>>();
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
    assert_eq!(drawn_plot(&figures[0]).series.len(), MAX_SERIES);
    assert!(figures[0].caption.contains("first 14 of 20 cases"), "{}", figures[0].caption);
    assert!(drawn_plot(&figures[2]).series.len() <= MAX_SERIES);
}

#[test]
fn every_figure_can_be_drawn_in_every_form() {
    let slices = vec![(64.0, 4.0), (128.0, 4.0)];
    let binned = RunSpec { binned: true, slices, ..RunSpec::new("recall", "a", 0) };
    for figure in drawn(&synthetic::comparison(2)).into_iter().chain(drawn(&[binned])) {
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
    assert_eq!(drawn_plot(&figures[0]).guides[0].label, "chance (0.4 %)");
}

#[test]
fn answers_counted_by_evidence_have_figures_by_distance_and_depth_and_a_heat_map() {
    let slices = vec![(64.0, 4.0), (256.0, 4.0)];
    let spec = |seed| RunSpec { binned: true, slices: slices.clone(), ..RunSpec::new("recall", "a", seed) };
    let figures = drawn(&[spec(0), spec(1)]);
    let distance = named(&figures, "accuracy-by-distance");
    let places: Vec<f64> = drawn_plot(distance).series[0].line.iter().map(|point| point.0).collect();
    assert_eq!(places, [0.5, 8.0, 32.0]);
    assert_eq!(drawn_plot(distance).x.ticks[0].1, "0");
    // Two slices of two seeds, a quarter of 16,000 labels each.
    assert_eq!(distance.data.rows[0][..3], ["a", "0", "16,000"]);
    let depth = named(&figures, "accuracy-by-depth");
    assert_eq!(depth.data.rows.last().unwrap()[1], "90–100 %");
    let heat = named(&figures, "accuracy-by-depth-and-length");
    let Drawing::Heat(Heat { columns, panels, .. }) = &heat.drawing else { panic!("no heat map") };
    assert_eq!((columns.join(" ").as_str(), panels.len(), panels[0].cells.len()), ("64 256", 1, 2));
    assert!(heat.data.columns.iter().any(|column| column.title.contains("Wilson")));
}

#[test]
fn one_seed_has_the_interval_of_its_answers() {
    let spec = RunSpec { binned: true, ..RunSpec::new("recall", "a", 0) };
    let figures = drawn(&[spec]);
    let (_, mean, interval) = drawn_plot(named(&figures, "accuracy-by-depth")).series[0].means[0];
    let interval = interval.unwrap();
    assert!(interval.low < mean && mean < interval.high && interval.half_width() < 0.01, "{interval:?}");
}

#[test]
fn lengths_trained_on_are_marked_where_others_are_tested() {
    let slices = vec![(64.0, 4.0), (128.0, 4.0), (512.0, 4.0)];
    let config = "[task]\ntrain = [{ length = 64 }, { length = 128 }]".to_owned();
    let figures = drawn(&[RunSpec { slices: slices.clone(), config, ..RunSpec::new("recall", "a", 0) }]);
    let guides = &drawn_plot(named(&figures, "accuracy-by-length")).guides;
    assert_eq!(guides[1].label, "trained on length 64, 128");
    assert_eq!(guides[1].shape, Shape::Uprights(vec![64.0, 128.0]));
    let everywhere = "[task]\ntrain = [{ length = 64 }, { length = 128 }, { length = 512 }]".to_owned();
    let figures = drawn(&[RunSpec { slices, config: everywhere, ..RunSpec::new("recall", "a", 0) }]);
    assert_eq!(drawn_plot(named(&figures, "accuracy-by-length")).guides.len(), 1);
}

#[test]
fn the_pareto_front_is_drawn_and_its_members_are_named() {
    let case = |case: &str, accuracy, state_bytes| RunSpec {
        accuracy,
        state_bytes,
        noise: 0.0,
        ..RunSpec::new("recall", case, 0)
    };
    let figures = drawn(&[case("small", 0.3, 1000), case("worse", 0.2, 2000), case("large", 0.9, 4000)]);
    let state = named(&figures, "accuracy-by-state");
    assert!(state.caption.contains("no worse in the other): small, large."), "{}", state.caption);
    let front = &drawn_plot(state).guides[1];
    assert_eq!(front.shape, Shape::Path(vec![(1000.0, 0.3), (4000.0, 0.9)]));
    // All are equally fast, so only the most accurate is left.
    assert!(named(&figures, "accuracy-by-speed").caption.contains("no worse in the other): large."));
}

#[test]
fn layers_that_attend_are_a_figure_where_cases_differ_in_them() {
    let case = |case: &str, layers: &str| RunSpec {
        config: format!("[model]\nlayers = [{layers}]"),
        ..RunSpec::new("recall", case, 0)
    };
    let none = case("none", "'mamba * 4'");
    let (early, late) = (case("early", "'attention', 'mamba * 3'"), case("late", "'mamba * 3', 'attention'"));
    let figures = drawn(&[none.clone(), early.clone(), late]);
    let share = drawn_plot(named(&figures, "accuracy-by-attention-share"));
    let places: Vec<f64> = share.series.iter().map(|series| series.means[0].0).collect();
    assert_eq!(places, [0.25, 0.25, 0.0]);
    let place = drawn_plot(named(&figures, "accuracy-by-attention-place"));
    let places: Vec<f64> = place.series.iter().map(|series| series.means[0].0).collect();
    assert_eq!(places, [0.0, 1.0]);
    assert!(!ids(&drawn(&[none, early])).contains(&"accuracy-by-attention-place"));
}

#[test]
fn every_numeric_axis_is_a_figure() {
    let spec = |case: &str, lr: f64, width: u64| RunSpec {
        axes: [("train.lr".to_owned(), Value::from(lr)), ("model.d_model".to_owned(), Value::from(width))].into(),
        ..RunSpec::new("recall", case, 0)
    };
    let grid = [(1e-4, 64), (1e-2, 64), (1e-4, 128), (1e-2, 128)];
    let figures = drawn(&grid.map(|(lr, width)| spec("a", lr, width)));
    let lr = drawn_plot(named(&figures, "accuracy-by-axis-train-lr"));
    let labels: Vec<&str> = lr.series.iter().map(|series| series.label.as_str()).collect();
    assert_eq!(labels, ["a d_model=64", "a d_model=128"]);
    assert_eq!(lr.x.ticks.iter().map(|tick| tick.1.as_str()).collect::<Vec<_>>(), ["1e-4", "0.01"]);
    assert_eq!(drawn_plot(named(&figures, "accuracy-by-axis-model-d-model")).series[0].line.len(), 2);
}
