//! What a figure draws, in full precision: a row for each mark.

use super::guide::{Guide, Shape};
use super::heat::{Heat, Panel};
use super::plot::{Plot, Series};
use crate::report::format::raw;
use crate::report::sheet::{Column, Sheet};
use crate::report::stats::Interval;

/// A row for each point of a line, each mean, each single run, and each guide.
///
/// `kind` is `line` (with the spread around it), `mean` (with its interval), `seed`, `level`, `place` or `path`.
pub(crate) fn of_plot(plot: &Plot) -> Sheet {
    let columns = ["series", "kind"].map(Column::text).into_iter().chain(["x", "y", "low", "high"].map(Column::number));
    let rows = plot.series.iter().flat_map(of_series).chain(plot.guides.iter().flat_map(of_guide));
    Sheet { columns: columns.collect(), rows: rows.collect() }
}

fn row(series: &str, kind: &str, (x, y): (Option<f64>, Option<f64>), interval: Option<Interval>) -> Vec<String> {
    let ends = [interval.map(|interval| interval.low), interval.map(|interval| interval.high)];
    [series.to_owned(), kind.to_owned()].into_iter().chain([x, y, ends[0], ends[1]].map(raw)).collect()
}

fn of_series(series: &Series) -> Vec<Vec<String>> {
    let mark = |kind, (x, y): (f64, f64), interval| row(&series.label, kind, (Some(x), Some(y)), interval);
    let means = series.means.iter().map(|(x, y, interval)| mark("mean", (*x, *y), *interval));
    let seeds = series.dots.iter().map(|point| mark("seed", *point, None));
    // Where there are means, the line runs through them.
    let line = if series.means.is_empty() { &series.line[..] } else { &[] };
    let spread = |place: usize| series.band.get(place).map(|(_, spread)| *spread);
    let line = line.iter().enumerate().map(|(place, point)| mark("line", *point, spread(place)));
    line.chain(means).chain(seeds).collect()
}

fn of_guide(guide: &Guide) -> Vec<Vec<String>> {
    match &guide.shape {
        Shape::Level(level) => vec![row(&guide.label, "level", (None, Some(*level)), None)],
        Shape::Uprights(places) => {
            places.iter().map(|place| row(&guide.label, "place", (Some(*place), None), None)).collect()
        }
        Shape::Path(points) => {
            points.iter().map(|(x, y)| row(&guide.label, "path", (Some(*x), Some(*y)), None)).collect()
        }
    }
}

/// A row for each cell that has a value.
pub(crate) fn of_heat(heat: &Heat) -> Sheet {
    let titles = ["panel", heat.row_title.as_str(), heat.column_title.as_str()].map(Column::text);
    let cells = |panel: &Panel| {
        let mut rows = Vec::new();
        for (row, values) in heat.rows.iter().zip(&panel.cells) {
            for (column, value) in heat.columns.iter().zip(values).filter(|(_, value)| value.is_some()) {
                rows.push(vec![panel.label.clone(), row.clone(), column.clone(), raw(*value)]);
            }
        }
        rows
    };
    Sheet {
        columns: titles.into_iter().chain([Column::number("accuracy")]).collect(),
        rows: heat.panels.iter().flat_map(cells).collect(),
    }
}
