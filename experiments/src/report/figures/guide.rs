//! What a figure shows besides its cases: a level to compare with, places on the horizontal axis, a frontier.

use plotters::element::PathElement;
use plotters::style::{Color, RGBColor};

use super::plot::{Canvas, Chart, Drawn, UNIT};
use super::style::{NEUTRAL, NEUTRAL_DASHED, NEUTRAL_DOTTED};

/// A thin line in the text's colour, named in the legend.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Guide {
    pub(crate) label: String,
    pub(crate) shape: Shape,
}

/// Where a guide runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// Level at a height.
    Level(f64),
    /// Upright at each of some places.
    Uprights(Vec<f64>),
    /// From point to point.
    Path(Vec<(f64, f64)>),
}

impl Guide {
    pub(crate) fn level(height: f64, label: String) -> Self {
        Self { label, shape: Shape::Level(height) }
    }

    fn colour(&self) -> RGBColor {
        match self.shape {
            Shape::Level(_) => NEUTRAL_DASHED,
            Shape::Uprights(_) => NEUTRAL_DOTTED,
            Shape::Path(_) => NEUTRAL,
        }
    }

    fn stroke(&self, canvas: &Canvas, points: Vec<(i32, i32)>) -> Drawn {
        canvas.draw(&PathElement::new(points, self.colour().mix(0.7).stroke_width(12)))
    }

    pub(crate) fn draw(&self, canvas: &Canvas, chart: &Chart) -> Drawn {
        let (x, y) = (chart.x_range(), chart.y_range());
        match &self.shape {
            Shape::Level(level) => {
                self.stroke(canvas, [x.start, x.end].map(|x| chart.backend_coord(&(x, *level))).to_vec())
            }
            Shape::Uprights(places) => places.iter().filter(|place| x.contains(place)).try_for_each(|place| {
                self.stroke(canvas, [y.start, y.end].map(|y| chart.backend_coord(&(*place, y))).to_vec())
            }),
            Shape::Path(points) => self.stroke(canvas, points.iter().map(|point| chart.backend_coord(point)).collect()),
        }
    }

    /// Its sample in the legend, from `left` on and around the height `y`.
    pub(crate) fn draw_sample(&self, canvas: &Canvas, (left, y): (i32, i32), width: i32) -> Drawn {
        const HALF_HEIGHT: i32 = 8 * UNIT;
        match self.shape {
            Shape::Uprights(_) => {
                let x = left + width / 2;
                self.stroke(canvas, vec![(x, y - HALF_HEIGHT), (x, y + HALF_HEIGHT)])
            }
            Shape::Level(_) | Shape::Path(_) => self.stroke(canvas, vec![(left, y), (left + width, y)]),
        }
    }
}
