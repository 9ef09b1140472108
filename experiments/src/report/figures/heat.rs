//! Heat maps: test accuracy by the depth of the evidence and the length of the sequence, a panel for each case.

use std::collections::{BTreeMap, BTreeSet};

use plotters::element::Rectangle;
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::{Color, RGBColor};

use super::axis::trimmed;
use super::bins::tenth;
use super::lettering::{CHARACTER, TEXT, fitting, shortened};
use super::plot::{Canvas, Drawn, Layout, Words, drawing, px, text_style};
use super::style::{MAX_SERIES, Theme};
use super::{Drawing, Figure, Styled};
use crate::report::format;
use crate::report::gather::CaseSummary;
use crate::report::read::{Run, pooled};
use crate::report::sheet::{Column, Sheet};
use crate::report::stats::wilson_interval;

/// The colours from 0 to 1: cividis (Nuñez, Anderton and Renslow, PLoS ONE 13, 2018), which reads alike with and without
/// colour blindness, and in grey.
const COLOURS: [(u8, u8, u8); 10] = [
    (0, 34, 78),
    (18, 53, 112),
    (59, 73, 108),
    (87, 93, 109),
    (112, 113, 115),
    (138, 134, 120),
    (165, 156, 116),
    (195, 179, 105),
    (225, 204, 85),
    (254, 232, 56),
];

/// From this value on, dark text reads better on the colour than light text.
const LIGHT: f64 = 0.5;

/// Heat maps side by side, of the same rows and columns.
#[derive(Clone, Debug)]
pub(crate) struct Heat {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<String>,
    pub(crate) column_title: String,
    pub(crate) row_title: String,
    pub(crate) panels: Vec<Panel>,
}

/// One heat map.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) label: String,
    /// Row by row, 0 to 1; nothing is drawn where nothing was asked.
    pub(crate) cells: Vec<Vec<Option<f64>>>,
}

/// Sizes of the drawing, in pixels.
struct Grid {
    width: i32,
    titled: i32,
    cell: (i32, i32),
    /// Panels beside each other.
    across: i32,
}

/// Room beside the cells for the names of the rows, above them for the panel's name, and around all.
const ROW_NAMES: i32 = 66;
const ABOVE: i32 = 50;
const GAP: i32 = 18;

/// Panels are set beside each other as long as their cells stay as wide as this.
const NARROW_CELL: i32 = 36;

impl Grid {
    fn of(heat: &Heat, layout: Layout, theme: Theme) -> Self {
        let width = match layout {
            Layout::Wide => 860,
            Layout::Narrow => 360,
        };
        let columns = heat.columns.len().max(1) as i32;
        let cell = |across: i32| (width / across - ROW_NAMES - GAP) / columns;
        let most = heat.panels.len().max(1) as i32;
        let across = (1..=most).rev().find(|across| cell(*across) >= NARROW_CELL).unwrap_or(1);
        let cell = cell(across).clamp(4, 52);
        Self { width, titled: if theme == Theme::Standalone { 30 } else { 0 }, cell: (cell, 22), across }
    }

    fn panel_size(&self, heat: &Heat) -> (i32, i32) {
        let (columns, rows) = (heat.columns.len() as i32, heat.rows.len() as i32);
        (ROW_NAMES + columns * self.cell.0 + GAP, ABOVE + rows * self.cell.1 + 2 * GAP)
    }

    fn height(&self, heat: &Heat) -> i32 {
        let down = (heat.panels.len() as i32 + self.across - 1) / self.across;
        self.titled + 22 + down * self.panel_size(heat).1
    }
}

impl Heat {
    pub(crate) fn svg(&self, words: &Words, theme: Theme, layout: Layout) -> Result<String, String> {
        let grid = Grid::of(self, layout, theme);
        drawing((grid.width, grid.height(self)), words, theme, |canvas| self.draw(canvas, &grid))
    }

    fn draw(&self, canvas: &Canvas, grid: &Grid) -> Drawn {
        let (width, height) = grid.panel_size(self);
        let style = text_style(TEXT, HPos::Left, VPos::Center).style;
        let heading = format!("down: {}; across: {}", self.row_title, self.column_title);
        canvas.draw_text(&shortened(&heading, fitting(grid.width - 16)), &style, px((8, grid.titled + 12)))?;
        for (index, panel) in self.panels.iter().enumerate() {
            let (across, down) = (index as i32 % grid.across, index as i32 / grid.across);
            let corner = (8 + across * width, grid.titled + 22 + down * height);
            self.draw_panel(canvas, panel, corner, grid)?;
        }
        Ok(())
    }

    fn draw_panel(&self, canvas: &Canvas, panel: &Panel, (left, top): (i32, i32), grid: &Grid) -> Drawn {
        let (cell_width, cell_height) = grid.cell;
        let small = TEXT - 2.0;
        let name = text_style(TEXT, HPos::Left, VPos::Center).with_bold().style;
        let characters = (f64::from(grid.panel_size(self).0 - 12) / (CHARACTER + 0.03) / TEXT) as usize;
        canvas.draw_text(&shortened(&panel.label, characters), &name, px((left, top + 16)))?;
        let (x0, y0) = (left + ROW_NAMES, top + ABOVE);
        let above = text_style(small, HPos::Center, VPos::Center).style;
        // Names that would run into each other are left out, as on an axis.
        let widest = self.columns.iter().map(|name| name.chars().count()).max().unwrap_or(1);
        let stride = (widest as f64 * CHARACTER * small / f64::from(cell_width)).ceil().max(1.0) as usize;
        for (column, name) in self.columns.iter().enumerate().step_by(stride) {
            canvas.draw_text(name, &above, px((x0 + column as i32 * cell_width + cell_width / 2, y0 - 10)))?;
        }
        let beside = text_style(small, HPos::Right, VPos::Center).style;
        for (row, name) in self.rows.iter().enumerate() {
            let y = y0 + row as i32 * cell_height;
            canvas.draw_text(name, &beside, px((x0 - 6, y + cell_height / 2)))?;
            for (column, value) in panel.cells[row].iter().enumerate() {
                let Some(value) = value else { continue };
                let x = x0 + column as i32 * cell_width;
                let corners = [px((x, y)), px((x + cell_width - 1, y + cell_height - 1))];
                canvas.draw(&Rectangle::new(corners, colour(*value).filled()))?;
                // Three digits need this much room.
                if cell_width >= 24 {
                    let text = if *value < LIGHT { RGBColor(255, 255, 255) } else { RGBColor(17, 17, 17) };
                    let style = text_style(small, HPos::Center, VPos::Center).style.color(&text);
                    let centre = px((x + cell_width / 2, y + cell_height / 2));
                    canvas.draw_text(&format!("{:.0}", 100.0 * value), &style, centre)?;
                }
            }
        }
        Ok(())
    }
}

fn colour(value: f64) -> RGBColor {
    let place = value.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let (below, share) = (place.floor() as usize, place.fract());
    let (a, b) = (COLOURS[below], COLOURS[(below + 1).min(COLOURS.len() - 1)]);
    let mixed = |a: u8, b: u8| (f64::from(a) + share * (f64::from(b) - f64::from(a))).round() as u8;
    RGBColor(mixed(a.0, b.0), mixed(a.1, b.1), mixed(a.2, b.2))
}

/// Depth of the evidence against the length of the sequence; `None` where no runs counted so at two lengths.
pub(crate) fn depth_by_length(cases: &[Styled], runs: &[Run]) -> Option<Figure> {
    const KEY: &str = "length";
    let counts: Vec<(&CaseSummary, Counts)> =
        cases.iter().map(|styled| (styled.case, counts(styled.case, runs, KEY))).collect();
    let counted: Vec<&(&CaseSummary, Counts)> = counts.iter().filter(|(_, counts)| !counts.is_empty()).collect();
    let lengths: BTreeSet<u64> = counted.iter().flat_map(|(_, counts)| counts.keys().map(|key| key.0)).collect();
    let depths: BTreeSet<u32> = counted.iter().flat_map(|(_, counts)| counts.keys().map(|key| key.1)).collect();
    if lengths.len() < 2 || depths.len() < 2 {
        return None;
    }
    let panel = |(case, counts): &&(&CaseSummary, Counts)| Panel {
        label: case.label.clone(),
        cells: (depths.iter())
            .map(|depth| lengths.iter().map(|length| pooled(counts.get(&(*length, *depth)).copied())).collect())
            .collect(),
    };
    let rows = counted.iter().flat_map(|(case, counts)| counts.iter().map(|(key, count)| row(case, *key, *count)));
    let numbers = ["accuracy, %", "answers", "95 % Wilson interval, %"].map(Column::number);
    let columns = [Column::text("case"), Column::number(KEY), Column::text("depth")].into_iter().chain(numbers);
    let worst = counted.iter().filter_map(|(case, counts)| {
        let share = |count: &(u64, u64)| pooled([*count]).unwrap_or(f64::NAN);
        let (key, count) = counts.iter().min_by(|a, b| share(a.1).total_cmp(&share(b.1)))?;
        Some(format!(
            "{} is lowest, {} %, at {KEY} {} and depth {}",
            case.label,
            format::percent(share(count)),
            key.0,
            tenth(key.1)
        ))
    });
    let worst: Vec<String> = worst.collect();
    Some(Figure {
        id: "accuracy-by-depth-and-length".into(),
        title: "Test accuracy by depth of the evidence and length".into(),
        caption: format!(
            "In each cell: right answers over answers in percent, over all seeds and slices of that length. Depth is the \
             evidence's place in the sequence, 0 % its start; a cell is empty where no evidence stood. Counts and Wilson \
             intervals are among the numbers.{}",
            super::left_out(counted.len())
        ),
        alt: format!(
            "Heat maps of test accuracy by depth of the evidence and length, a panel a case: {}.",
            worst.join("; ")
        ),
        data: Sheet { columns: columns.collect(), rows: rows.collect() },
        drawing: Drawing::Heat(Heat {
            columns: lengths.iter().map(|length| trimmed(*length as f64)).collect(),
            rows: depths.iter().map(|depth| tenth(*depth)).collect(),
            column_title: "length, tokens".into(),
            row_title: "depth of the evidence".into(),
            panels: counted.iter().take(MAX_SERIES).map(panel).collect(),
        }),
    })
}

/// (length, tenth) → right answers and answers.
type Counts = BTreeMap<(u64, u32), (u64, u64)>;

fn counts(case: &CaseSummary, runs: &[Run], key: &str) -> Counts {
    let mut counts = Counts::new();
    for score in case.runs.iter().flat_map(|&run| &runs[run].result.test) {
        let Some(length) = score.keys.get(key).filter(|length| **length >= 0.0) else { continue };
        for bin in score.by_depth.iter().filter(|bin| bin.of > 0) {
            let sum = counts.entry((*length as u64, bin.from)).or_default();
            *sum = (sum.0 + bin.right, sum.1 + bin.of);
        }
    }
    counts
}

fn row(case: &CaseSummary, (length, depth): (u64, u32), (right, of): (u64, u64)) -> Vec<String> {
    let wilson = wilson_interval(right, of).map(format::percent_range);
    vec![
        case.label.clone(),
        format::whole(length),
        tenth(depth),
        format::or_none(pooled([(right, of)]), format::percent),
        format::whole(of),
        format::or_none(wilson, |text| text),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heat(lengths: usize, panels: usize) -> Heat {
        let cells = vec![(0..lengths).map(|column| (column != 1).then_some(0.1 * column as f64)).collect(); 10];
        Heat {
            columns: (0..lengths).map(|column| format!("{}", 64 << column)).collect(),
            rows: (0..10).map(tenth).collect(),
            column_title: "length".into(),
            row_title: "depth".into(),
            panels: (0..panels).map(|panel| Panel { label: format!("case {panel}"), cells: cells.clone() }).collect(),
        }
    }

    #[test]
    fn every_cell_with_a_value_is_drawn_with_its_number() {
        let words = Words { title: "Title", alt: "what it shows" };
        let svg = heat(3, 2).svg(&words, Theme::Embedded, Layout::Wide).unwrap();
        assert_eq!(svg.matches("<rect").count(), 2 * 10 * 2);
        assert!(svg.contains("case 1") && svg.contains("60–70 %") && !svg.contains("#ffffff\"/>"));
    }

    #[test]
    fn panels_stay_inside_the_width_of_a_phone() {
        for lengths in [2, 5, 12] {
            let heat = heat(lengths, 3);
            let grid = Grid::of(&heat, Layout::Narrow, Theme::Embedded);
            assert!(grid.across * heat_width(&grid, &heat) <= grid.width, "{lengths}");
        }
        fn heat_width(grid: &Grid, heat: &Heat) -> i32 {
            grid.panel_size(heat).0
        }
    }

    #[test]
    fn colours_run_from_dark_to_light() {
        assert_eq!(
            (colour(0.0), colour(1.0), colour(7.0)),
            (RGBColor(0, 34, 78), RGBColor(254, 232, 56), RGBColor(254, 232, 56))
        );
    }
}
