//! How cases are told apart, and how a figure takes on a theme.
//!
//! Plotters knows neither dashes nor themes. A figure is therefore drawn in key colours that name a role (text, series 3,
//! dashed line of series 3), and [`themed`] puts the theme's colours and the dashes in their place.

use plotters::style::RGBColor;

/// Where a figure is going to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Inside a page: no background, text in the page's colour, light or dark.
    Embedded,
    /// A file of its own: white background, dark text, its title drawn.
    Standalone,
}

/// Series that can be told apart in one figure.
pub(crate) const MAX_SERIES: usize = 14;

/// The colours of Okabe and Ito (Color Universal Design, 2008) that stand out from white and from black; their black is the
/// text's colour here, and their yellow is left out.
const COLOURS: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", TEXT];

/// Stands for the text's colour.
const TEXT: &str = "text";

/// The text's colour on white.
const DARK: &str = "#1f2328";

/// Dashes and gaps, in pixels; none is a solid line.
const DASHES: [&[u32]; 4] = [&[], &[7, 3], &[2, 3], &[9, 3, 2, 3]];

/// Text, axes and grid.
pub(crate) const NEUTRAL: RGBColor = RGBColor(0, 0, 1);

/// The neutral colour, drawn with short dashes.
pub(crate) const NEUTRAL_DASHED: RGBColor = RGBColor(0, 0, 2);

/// The neutral colour, dotted.
pub(crate) const NEUTRAL_DOTTED: RGBColor = RGBColor(0, 0, 3);

/// How a series is told from the others: by colour, by dashes and by marker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    colour: usize,
    dash: usize,
    marker: usize,
}

impl Look {
    /// The look of the series at a place among up to [`MAX_SERIES`], no two alike.
    pub(crate) fn nth(place: usize) -> Self {
        let (colour, round) = (place % COLOURS.len(), place / COLOURS.len());
        // Where colours repeat, dashes and markers are shifted against them.
        Self { colour, dash: (colour + 2 * round) % DASHES.len(), marker: (place + round) % MARKERS.len() }
    }

    /// The look of a variant within a family: the family's colour, the variant's dashes.
    pub(crate) fn variant(family: usize, variant: usize) -> Self {
        let (colour, round) = (family % COLOURS.len(), family / COLOURS.len());
        let marker = (family + round + variant / DASHES.len()) % MARKERS.len();
        Self { colour, dash: variant % DASHES.len(), marker }
    }

    /// Its key colour.
    pub(crate) fn colour(self) -> RGBColor {
        RGBColor(0, 1, self.colour as u8)
    }

    /// Its key colour for a line with its dashes.
    pub(crate) fn dashed(self) -> RGBColor {
        RGBColor(0, 2, (self.colour * DASHES.len() + self.dash) as u8)
    }

    /// The outline of its marker around `centre`.
    pub(crate) fn marker(self, centre: (i32, i32), radius: i32) -> Vec<(i32, i32)> {
        let outline = MARKERS[self.marker].iter();
        outline.map(|(x, y)| (centre.0 + x * radius / 10, centre.1 + y * radius / 10)).collect()
    }
}

/// Markers, each as a polygon around the origin, in tenths of its radius.
const MARKERS: [&[(i32, i32)]; 7] = [
    &[
        (10, 0),
        (9, 4),
        (7, 7),
        (4, 9),
        (0, 10),
        (-4, 9),
        (-7, 7),
        (-9, 4),
        (-10, 0),
        (-9, -4),
        (-7, -7),
        (-4, -9),
        (0, -10),
        (4, -9),
        (7, -7),
        (9, -4),
    ],
    &[(-9, -9), (9, -9), (9, 9), (-9, 9)],
    &[(0, -12), (11, 8), (-11, 8)],
    &[(0, -13), (11, 0), (0, 13), (-11, 0)],
    &[(0, 12), (11, -8), (-11, -8)],
    &[
        (-3, -11),
        (3, -11),
        (3, -3),
        (11, -3),
        (11, 3),
        (3, 3),
        (3, 11),
        (-3, 11),
        (-3, 3),
        (-11, 3),
        (-11, -3),
        (-3, -3),
    ],
    &[(0, -4), (7, -11), (11, -7), (4, 0), (11, 7), (7, 11), (0, 4), (-7, 11), (-11, 7), (-4, 0), (-11, -7), (-7, -11)],
];

/// Puts a theme's colours and the series' dashes (`unit` drawing units to the pixel) in place of the key colours.
pub(crate) fn themed(svg: &str, theme: Theme, unit: u32) -> String {
    let text = match theme {
        Theme::Embedded => "currentColor",
        Theme::Standalone => DARK,
    };
    let dash = |pattern: &[u32]| match pattern {
        [] => String::new(),
        _ => {
            let lengths: Vec<String> = pattern.iter().map(|length| (length * unit).to_string()).collect();
            format!(" stroke-dasharray=\"{}\"", lengths.join(" "))
        }
    };
    let mut themed = svg.replace(&quoted(NEUTRAL), &format!("\"{text}\""));
    themed = themed.replace(&quoted(NEUTRAL_DASHED), &format!("\"{text}\"{}", dash(&[4, 4])));
    themed = themed.replace(&quoted(NEUTRAL_DOTTED), &format!("\"{text}\"{}", dash(&[1, 3])));
    for (colour, fixed) in COLOURS.into_iter().enumerate() {
        let drawn = if fixed == TEXT { text } else { fixed };
        let look = Look { colour, ..Look::default() };
        themed = themed.replace(&quoted(look.colour()), &format!("\"{drawn}\""));
        for (place, pattern) in DASHES.into_iter().enumerate() {
            let look = Look { dash: place, ..look };
            themed = themed.replace(&quoted(look.dashed()), &format!("\"{drawn}\"{}", dash(pattern)));
        }
    }
    themed
}

/// The colour as an attribute's value, as Plotters writes it.
fn quoted(RGBColor(red, green, blue): RGBColor) -> String {
    format!("\"#{red:02X}{green:02X}{blue:02X}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_colour_differ_in_marker_and_in_dashes() {
        for place in 0..MAX_SERIES - COLOURS.len() {
            let (one, other) = (Look::nth(place), Look::nth(place + COLOURS.len()));
            assert_eq!(one.colour, other.colour);
            assert!(one.dash != other.dash && one.marker != other.marker, "{place}");
        }
    }

    #[test]
    fn a_family_has_one_colour_and_its_variants_differ() {
        let looks: Vec<Look> = (0..8).map(|variant| Look::variant(2, variant)).collect();
        assert!(looks.iter().all(|look| look.colour == 2));
        assert!((1..8).all(|variant| !looks[..variant].contains(&looks[variant])));
    }

    #[test]
    fn families_of_one_colour_differ_in_marker() {
        assert_ne!(Look::variant(0, 0).marker, Look::variant(COLOURS.len(), 0).marker);
    }

    #[test]
    fn an_embedded_figure_takes_the_colour_of_the_page() {
        let svg = format!("<text fill={}>", quoted(NEUTRAL));
        assert_eq!(themed(&svg, Theme::Embedded, 1), "<text fill=\"currentColor\">");
        assert_eq!(themed(&svg, Theme::Standalone, 1), format!("<text fill=\"{DARK}\">"));
    }

    #[test]
    fn dashes_are_in_drawing_units() {
        let svg = format!("<line stroke={}/>", quoted(Look::nth(1).dashed()));
        assert_eq!(themed(&svg, Theme::Standalone, 10), "<line stroke=\"#D55E00\" stroke-dasharray=\"70 30\"/>");
    }
}
