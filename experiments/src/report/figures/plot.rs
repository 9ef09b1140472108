//! A figure as data, and its drawing.

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, RGBColor, TRANSPARENT, TextStyle};

use super::axis::Axis;
use super::guide::Guide;
use super::lettering::{self, TEXT, shortened, wrapped};
use super::style::{Look, NEUTRAL, Theme, themed};
use crate::report::stats::Interval;

/// Drawing units to the pixel: Plotters rounds coordinates to whole units, which would show as steps in a curve.
pub(crate) const UNIT: i32 = 10;

/// Plotters writes a font size divided by this.
const FONT_SCALE: f64 = 1.24;

/// Height of a line of the legend, in pixels.
const LEGEND_LINE: i32 = 22;

/// Width of the sample before a legend's text, with the gap after it, in pixels.
const SAMPLE: i32 = 38;

/// Height of a line of the horizontal axis' title, in pixels.
const TITLE_LINE: i32 = 16;

/// Width beside the plotting area for the ticks of the vertical axis, in pixels.
const LEFT: i32 = 54;

/// Radius of a marker, in drawing units.
const MARKER: i32 = 42;

/// Least distance between two markers of a line, in drawing units.
const MARKER_DISTANCE: i32 = 75 * UNIT;

/// Shape of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// For a page: the legend stands at the right.
    Wide,
    /// For a phone: the legend stands above.
    Narrow,
}

/// What a figure shows.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    /// Levels, places and lines to compare with.
    pub(crate) guides: Vec<Guide>,
}

/// One case in a figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    pub(crate) label: String,
    pub(crate) look: Look,
    pub(crate) line: Vec<(f64, f64)>,
    /// The spread around the line.
    pub(crate) band: Vec<(f64, Interval)>,
    /// Single runs, drawn small.
    pub(crate) dots: Vec<(f64, f64)>,
    /// Means with their intervals, drawn large.
    pub(crate) means: Vec<(f64, f64, Option<Interval>)>,
    /// How far to the right of its place it is drawn, in pixels.
    pub(crate) aside: f64,
}

pub(crate) type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;
pub(crate) type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Sizes of a figure, in pixels.
struct Frame {
    width: i32,
    height: i32,
    /// Height above the plotting area: title, legend and the vertical axis' title.
    top: i32,
    /// Width beside the plotting area.
    right: i32,
    /// Left upper corner of the legend.
    legend: (i32, i32),
    /// Characters of a legend's line.
    characters: usize,
    /// Lines of the horizontal axis' title, and their middle.
    x_title: Vec<String>,
    x_middle: i32,
}

impl Frame {
    fn of(plot: &Plot, layout: Layout, titled: bool) -> Self {
        const WIDE: i32 = 860;
        const NARROW: i32 = 360;
        const AXIS_TITLE: i32 = 26;
        const TICKS: i32 = 36;
        let (width, x_title) = match layout {
            Layout::Wide => (WIDE, vec![plot.x.title.clone()]),
            Layout::Narrow => (NARROW, wrapped(&plot.x.title, lettering::fitting(NARROW - 8))),
        };
        let below = TICKS + TITLE_LINE * x_title.len() as i32;
        let title = if titled { 30 } else { 0 };
        let legend = plot.labels().count() as i32 * LEGEND_LINE;
        let longest = plot.labels().map(lettering::width).fold(0.0, f64::max);
        match layout {
            Layout::Wide => {
                let text = (longest.ceil() as i32).clamp(105, 230);
                let right = SAMPLE + text + 24;
                let top = title + AXIS_TITLE;
                Self {
                    width,
                    height: top + below + legend.max(320),
                    top,
                    right,
                    legend: (WIDE - right + 18, top + 2),
                    characters: lettering::fitting(text),
                    x_title,
                    x_middle: (LEFT + width - right) / 2,
                }
            }
            Layout::Narrow => {
                let top = title + legend + 8 + AXIS_TITLE;
                Self {
                    width,
                    height: top + below + 230,
                    top,
                    right: 28,
                    legend: (8, title + 4),
                    characters: lettering::fitting(width - SAMPLE - 16),
                    x_title,
                    x_middle: width / 2,
                }
            }
        }
    }
}

impl Plot {
    fn labels(&self) -> impl Iterator<Item = &str> {
        let guides = self.guides.iter().map(|guide| guide.label.as_str());
        self.series.iter().map(|series| series.label.as_str()).chain(guides)
    }

    /// The figure as SVG.
    pub(crate) fn svg(&self, words: &Words, theme: Theme, layout: Layout) -> Result<String, String> {
        let frame = Frame::of(self, layout, theme == Theme::Standalone);
        drawing((frame.width, frame.height), words, theme, |canvas| self.draw(canvas, &frame))
    }

    fn draw(&self, canvas: &Canvas, frame: &Frame) -> Drawn {
        let titles = TITLE_LINE * frame.x_title.len() as i32;
        let area = canvas.margin(frame.top * UNIT, (8 + titles) * UNIT, 6 * UNIT, frame.right * UNIT);
        // On a narrow figure, not every tick has room for what is written at it.
        let x = self.x.thinned(f64::from(frame.width - frame.right - LEFT));
        let mut chart = ChartBuilder::on(&area)
            .set_label_area_size(LabelAreaPosition::Left, (LEFT - 6) * UNIT)
            .set_label_area_size(LabelAreaPosition::Bottom, 28 * UNIT)
            .build_cartesian_2d(x.clone(), self.y.clone())?;
        chart
            .configure_mesh()
            .bold_line_style(NEUTRAL.mix(0.14).stroke_width(UNIT as u32))
            .light_line_style(TRANSPARENT)
            .axis_style(NEUTRAL.mix(0.6).stroke_width(UNIT as u32))
            .label_style(text_style(TEXT, HPos::Left, VPos::Top).style)
            .x_label_formatter(&|value| plotters::coord::ranged1d::ValueFormatter::format_ext(&x, value))
            .y_label_formatter(&|value| plotters::coord::ranged1d::ValueFormatter::format_ext(&self.y, value))
            .set_all_tick_mark_size(4 * UNIT)
            .draw()?;
        let centred = text_style(TEXT, HPos::Center, VPos::Center).style;
        for (line, text) in frame.x_title.iter().rev().enumerate() {
            canvas.draw_text(text, &centred, px((frame.x_middle, frame.height - 13 - TITLE_LINE * line as i32)))?;
        }
        let style = text_style(TEXT, HPos::Left, VPos::Center).style;
        canvas.draw_text(&self.y.title, &style, px((8, frame.top - 15)))?;
        for guide in &self.guides {
            guide.draw(canvas, &chart)?;
        }
        // Bands lie over each other: the more there are, the fainter each.
        let opacity = if self.series.len() > 5 { 0.1 } else { 0.2 };
        for series in &self.series {
            series.draw_band(canvas, &chart, opacity)?;
        }
        for series in &self.series {
            series.draw(canvas, &chart)?;
        }
        self.draw_legend(canvas, frame)
    }

    fn draw_legend(&self, canvas: &Canvas, frame: &Frame) -> Drawn {
        let (left, top) = frame.legend;
        let style = text_style(TEXT, HPos::Left, VPos::Center).style;
        for (index, label) in self.labels().enumerate() {
            let y = top + LEGEND_LINE / 2 + LEGEND_LINE * index as i32;
            match self.series.get(index) {
                Some(series) => {
                    if series.line.len() > 1 {
                        let ends = vec![px((left, y)), px((left + SAMPLE - 8, y))];
                        canvas.draw(&line(ends, series.look.dashed()))?;
                    }
                    let centre = px((left + (SAMPLE - 8) / 2, y));
                    canvas.draw(&Polygon::new(series.look.marker(centre, MARKER), series.look.colour().filled()))?;
                }
                None => {
                    self.guides[index - self.series.len()].draw_sample(canvas, px((left, y)), (SAMPLE - 8) * UNIT)?;
                }
            }
            canvas.draw_text(&shortened(label, frame.characters), &style, px((left + SAMPLE, y)))?;
        }
        Ok(())
    }
}

impl Series {
    fn draw_band(&self, canvas: &Canvas, chart: &Chart, opacity: f64) -> Drawn {
        let upper = self.band.iter().map(|(x, interval)| chart.backend_coord(&(*x, interval.high)));
        let lower = self.band.iter().rev().map(|(x, interval)| chart.backend_coord(&(*x, interval.low)));
        let outline: Vec<(i32, i32)> = upper.chain(lower).collect();
        if outline.is_empty() {
            Ok(())
        } else {
            canvas.draw(&Polygon::new(outline, self.look.colour().mix(opacity).filled()))
        }
    }

    fn draw(&self, canvas: &Canvas, chart: &Chart) -> Drawn {
        let aside = (self.aside * f64::from(UNIT)).round() as i32;
        let place = |x: f64, y: f64| {
            let (x, y) = chart.backend_coord(&(x, y));
            (x + aside, y)
        };
        let points: Vec<(i32, i32)> = self.line.iter().map(|(x, y)| place(*x, *y)).collect();
        if points.len() > 1 {
            canvas.draw(&line(points.clone(), self.look.dashed()))?;
        }
        for (x, y) in &self.dots {
            canvas.draw(&Circle::new(place(*x, *y), 26, self.look.colour().mix(0.45).filled()))?;
        }
        for (x, y, interval) in &self.means {
            if let Some(interval) = interval.map(Interval::clamped_to_unit) {
                self.draw_interval(canvas, place(*x, interval.low), place(*x, interval.high))?;
            }
            canvas.draw(&Polygon::new(self.look.marker(place(*x, *y), MARKER + 8), self.look.colour().filled()))?;
        }
        let marked = if self.means.is_empty() { spaced(&points) } else { Vec::new() };
        for point in marked {
            canvas.draw(&Polygon::new(self.look.marker(point, MARKER), self.look.colour().filled()))?;
        }
        Ok(())
    }

    /// A vertical bar with caps at its ends.
    fn draw_interval(&self, canvas: &Canvas, low: (i32, i32), high: (i32, i32)) -> Drawn {
        const CAP: i32 = 5 * UNIT;
        let cap = |(x, y): (i32, i32)| vec![(x - CAP, y), (x + CAP, y)];
        for stroke in [vec![low, high], cap(low), cap(high)] {
            canvas.draw(&PathElement::new(stroke, self.look.colour().stroke_width(15)))?;
        }
        Ok(())
    }
}

/// Points at which a line carries its marker: its end, and before it as many as keep their distance.
fn spaced(points: &[(i32, i32)]) -> Vec<(i32, i32)> {
    let mut marked: Vec<(i32, i32)> = Vec::new();
    for &(x, y) in points.iter().rev() {
        if marked.last().is_none_or(|last| (last.0 - x).abs() + (last.1 - y).abs() >= MARKER_DISTANCE) {
            marked.push((x, y));
        }
    }
    marked
}

fn line(points: Vec<(i32, i32)>, colour: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new(points, colour.stroke_width(20))
}

pub(crate) fn px((x, y): (i32, i32)) -> (i32, i32) {
    (x * UNIT, y * UNIT)
}

/// A text style under construction.
pub(crate) struct Text {
    pub(crate) style: TextStyle<'static>,
}

impl Text {
    pub(crate) fn with_bold(self) -> Self {
        let font = self.style.font.style(plotters::style::FontStyle::Bold);
        Self { style: TextStyle { font, ..self.style } }
    }
}

pub(crate) fn text_style(size: f64, horizontal: HPos, vertical: VPos) -> Text {
    let font = ("sans-serif", size * FONT_SCALE * f64::from(UNIT)).into_font();
    Text { style: TextStyle::from(font).color(&NEUTRAL).pos(Pos::new(horizontal, vertical)) }
}

/// What is written about a figure.
pub(crate) struct Words<'a> {
    /// Drawn where the figure stands alone.
    pub(crate) title: &'a str,
    /// Read out instead of the figure.
    pub(crate) alt: &'a str,
}

/// A drawing of a size in pixels as SVG.
pub(crate) fn drawing(
    size: (i32, i32),
    words: &Words,
    theme: Theme,
    draw: impl FnOnce(&Canvas) -> Drawn,
) -> Result<String, String> {
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, ((size.0 * UNIT) as u32, (size.1 * UNIT) as u32));
        let canvas = canvas.into_drawing_area();
        if theme == Theme::Standalone {
            let style = text_style(TEXT + 2.0, HPos::Left, VPos::Center).with_bold();
            canvas.draw_text(words.title, &style.style, px((8, 16))).map_err(|cause| cause.to_string())?;
        }
        draw(&canvas).map_err(|cause| cause.to_string())?;
        canvas.present().map_err(|cause| cause.to_string())?;
    }
    Ok(finish(&svg, size, words.alt, theme))
}

/// Gives the drawing its root element, theme, and background.
fn finish(svg: &str, (width, height): (i32, i32), alt: &str, theme: Theme) -> String {
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let body = themed(body, theme, UNIT as u32);
    let view = format!("viewBox=\"0 0 {} {}\" stroke-linejoin=\"round\" role=\"img\"", width * UNIT, height * UNIT);
    let alt = escaped(alt);
    match theme {
        Theme::Embedded => {
            let body = body.replace(" font-family=\"sans-serif\"", "");
            format!("<svg {view} aria-label=\"{alt}\" style=\"max-width:{width}px\">{body}")
        }
        Theme::Standalone => {
            let body =
                body.replace("\"sans-serif\"", "\"system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif\"");
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" {view}>\n<title>{alt}</title>\n\
                 <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>{body}"
            )
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(label: &str) -> Plot {
        let series = Series {
            label: label.into(),
            line: vec![(0.0, 0.1), (50.0, 0.5), (100.0, 0.9)],
            band: vec![(0.0, Interval { low: 0.0, high: 0.2 }), (100.0, Interval { low: 0.8, high: 1.0 })],
            ..Series::default()
        };
        Plot {
            x: Axis::from_zero("step", 100.0),
            y: Axis::percent("accuracy, %"),
            series: vec![series],
            guides: vec![Guide::level(0.1, "chance".into())],
        }
    }

    #[test]
    fn a_standalone_figure_is_a_document_with_a_white_background() {
        let svg = plot("hybrid")
            .svg(&Words { title: "Title", alt: "what it shows" }, Theme::Standalone, Layout::Wide)
            .unwrap();
        assert!(svg.starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>"));
        assert!(
            svg.contains("fill=\"#ffffff\"") && svg.contains("<title>what it shows</title>") && svg.contains("Title")
        );
        assert!(!svg.contains("currentColor"));
    }

    #[test]
    fn an_embedded_figure_names_no_address_font_or_background() {
        let svg = plot("hybrid")
            .svg(&Words { title: "Title", alt: "what it shows" }, Theme::Embedded, Layout::Narrow)
            .unwrap();
        assert!(svg.contains("currentColor") && svg.contains("aria-label=\"what it shows\""));
        assert!(!svg.contains("http") && !svg.contains("font-family") && !svg.contains("#ffffff"));
    }

    #[test]
    fn no_key_colour_is_left_in_a_figure() {
        for theme in [Theme::Embedded, Theme::Standalone] {
            let svg = plot("hybrid").svg(&Words { title: "", alt: "" }, theme, Layout::Wide).unwrap();
            assert!(!["\"#0000", "\"#0001", "\"#0002"].iter().any(|key| svg.contains(key)), "{svg}");
        }
    }

    #[test]
    fn markup_in_a_label_is_escaped() {
        let svg = plot("<b>&").svg(&Words { title: "<i>", alt: "\"<u>\"" }, Theme::Standalone, Layout::Wide).unwrap();
        assert!(!svg.contains("<b>") && !svg.contains("<i>") && !svg.contains("<u>"), "{svg}");
    }

    #[test]
    fn markers_keep_their_distance_and_the_end_has_one() {
        let points: Vec<(i32, i32)> = (0..400).map(|x| (x * UNIT, 0)).collect();
        let marked = spaced(&points);
        assert_eq!(marked[0], points[399]);
        assert!(marked.windows(2).all(|pair| pair[0].0 - pair[1].0 >= MARKER_DISTANCE));
    }

    #[test]
    fn a_figure_without_series_can_be_drawn() {
        let empty = Plot { series: Vec::new(), guides: Vec::new(), ..plot("") };
        assert!(empty.svg(&Words { title: "", alt: "" }, Theme::Embedded, Layout::Wide).is_ok());
    }
}
