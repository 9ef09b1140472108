//! A figure as PNG: the few SVG elements that Plotters writes, drawn with a font of our own, so that a machine without any
//! font draws the same picture.
//!
//! This is no renderer of SVG at large. It knows `rect`, `polyline`, `line`, `polygon`, `circle` and `text` with the attributes
//! that `plotters-svg` and [`themed`](super::style::themed) give them, and refuses everything else.

use std::collections::BTreeMap;

use tiny_skia::{Color, FillRule, LineJoin, Paint, Path, PathBuilder, Pixmap, Rect, Stroke, StrokeDash, Transform};
use ttf_parser::{Face, GlyphId, OutlineBuilder};

/// Pixels of the picture to one pixel of the figure: sharp on dense screens and in print.
const DENSITY: f32 = 2.0;

/// Draws an SVG of `unit` drawing units to the pixel as PNG.
///
/// # Errors
/// If the SVG holds what this module does not know, or is empty.
pub(crate) fn png(svg: &str, unit: u32) -> Result<Vec<u8>, String> {
    encoded(&picture(svg, unit)?).map_err(|cause| cause.to_string())
}

fn picture(svg: &str, unit: u32) -> Result<Pixmap, String> {
    let mut elements = Elements { rest: svg };
    let root = elements.next().filter(|root| root.name == "svg").ok_or("no <svg>")?;
    let size = |key: &str| root.number(key).map(|size| (size * DENSITY).ceil() as u32);
    let mut picture = Pixmap::new(size("width")?, size("height")?).ok_or("an empty picture")?;
    // On white, so that the picture needs no opacity.
    picture.fill(Color::WHITE);
    let face = Face::parse(dejavu::sans::regular(), 0).map_err(|cause| cause.to_string())?;
    let mut pen = Pen { picture: &mut picture, scale: DENSITY / unit as f32, face };
    for element in elements {
        pen.draw(&element)?;
    }
    Ok(picture)
}

fn encoded(picture: &Pixmap) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(png::ColorType::RGB);
    encoder.set_depth(png::BitDepth::Eight);
    let colours: Vec<u8> =
        picture.pixels().iter().flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()]).collect();
    encoder.write_header()?.write_image_data(&colours)?;
    Ok(bytes)
}

/// An element with its attributes and the text after its tag.
struct Element<'a> {
    name: &'a str,
    attributes: BTreeMap<&'a str, &'a str>,
    text: &'a str,
}

impl Element<'_> {
    fn number(&self, key: &str) -> Result<f32, String> {
        let text = self.attributes.get(key).ok_or_else(|| format!("<{}> without `{key}`", self.name))?;
        text.parse().map_err(|_| format!("<{}> with {key}=\"{text}\"", self.name))
    }

    fn has(&self, key: &str) -> bool {
        self.attributes.get(key).is_some_and(|value| *value != "none")
    }

    /// The points of a polyline or polygon.
    fn points(&self) -> Result<Vec<(f32, f32)>, String> {
        let text = self.attributes.get("points").copied().unwrap_or_default();
        let point = |pair: &str| pair.split_once(',').and_then(|(x, y)| Some((x.parse().ok()?, y.parse().ok()?)));
        text.split_whitespace().map(|pair| point(pair).ok_or_else(|| format!("the point `{pair}`"))).collect()
    }
}

/// The opening tags of a document, one after the other.
struct Elements<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        loop {
            let tag = self.rest.split_once('<')?.1;
            // Attributes may hold a `>`, though never a quote.
            let mut quoted = false;
            let end = tag.find(|letter| {
                quoted ^= letter == '"';
                letter == '>' && !quoted
            })?;
            self.rest = &tag[end + 1..];
            let inside = tag[..end].trim_end_matches('/');
            if inside.starts_with(['/', '!', '?']) {
                continue;
            }
            let (name, mut attributes_text) = inside.split_once(char::is_whitespace).unwrap_or((inside, ""));
            let mut attributes = BTreeMap::new();
            while let Some((key, value)) = attributes_text.split_once("=\"") {
                let (value, rest) = value.split_once('"')?;
                attributes.insert(key.trim(), value);
                attributes_text = rest;
            }
            let text = self.rest.split('<').next().unwrap_or_default().trim();
            return Some(Element { name, attributes, text });
        }
    }
}

/// What draws.
struct Pen<'a> {
    picture: &'a mut Pixmap,
    /// Pixels to the drawing unit.
    scale: f32,
    face: Face<'static>,
}

impl Pen<'_> {
    fn draw(&mut self, element: &Element) -> Result<(), String> {
        let path = match element.name {
            "title" => None,
            "text" => return self.draw_text(element),
            "rect" if element.attributes.get("width") == Some(&"100%") => {
                self.picture.fill(colour(element, "fill")?);
                None
            }
            "rect" => {
                let [x, y, width, height] = ["x", "y", "width", "height"].map(|key| element.number(key));
                Rect::from_xywh(x?, y?, width?, height?).map(PathBuilder::from_rect)
            }
            "line" => {
                let [x1, y1, x2, y2] = ["x1", "y1", "x2", "y2"].map(|key| element.number(key));
                polygon(&[(x1?, y1?), (x2?, y2?)], false)
            }
            "polyline" => polygon(&element.points()?, false),
            "polygon" => polygon(&element.points()?, true),
            "circle" => PathBuilder::from_circle(element.number("cx")?, element.number("cy")?, element.number("r")?),
            other => return Err(format!("the element <{other}>")),
        };
        let Some(path) = path else { return Ok(()) };
        let transform = Transform::from_scale(self.scale, self.scale);
        if element.has("fill") {
            self.picture.fill_path(&path, &paint(element, "fill")?, FillRule::Winding, transform, None);
        }
        if element.has("stroke") {
            let dash = element.attributes.get("stroke-dasharray").map(|text| {
                text.split(' ')
                    .map(|length| length.parse::<f32>().map_err(|_| format!("the dash `{length}`")))
                    .collect()
            });
            let dash: Option<Vec<f32>> = dash.transpose()?;
            let stroke = Stroke {
                width: element.number("stroke-width")?,
                line_join: LineJoin::Round,
                dash: dash.and_then(|lengths| StrokeDash::new(lengths, 0.0)),
                ..Stroke::default()
            };
            self.picture.stroke_path(&path, &paint(element, "stroke")?, &stroke, transform, None);
        }
        Ok(())
    }

    fn draw_text(&mut self, element: &Element) -> Result<(), String> {
        let (text, size) = (unescaped(element.text), element.number("font-size")?);
        let em = f32::from(self.face.units_per_em());
        let glyphs: Vec<GlyphId> =
            text.chars().map(|letter| self.face.glyph_index(letter).unwrap_or(GlyphId(0))).collect();
        let advance = |face: &Face, glyph: GlyphId| f32::from(face.glyph_hor_advance(glyph).unwrap_or(0)) * size / em;
        let width: f32 = glyphs.iter().map(|glyph| advance(&self.face, *glyph)).sum();
        // The font does not tell its x-height; its x does.
        let x = self.face.glyph_index('x').and_then(|x| self.face.glyph_bounding_box(x));
        let x_height = x.map_or(0.5, |x| f32::from(x.y_max) / em);
        let down = match element.attributes.get("dy").copied().unwrap_or("0") {
            "0" => 0.0,
            dy => match (dy.strip_suffix("ex"), dy.strip_suffix("em")) {
                (Some(number), _) => number.parse::<f32>().map_err(|_| format!("dy=\"{dy}\""))? * x_height,
                (None, Some(number)) => number.parse::<f32>().map_err(|_| format!("dy=\"{dy}\""))?,
                (None, None) => return Err(format!("dy=\"{dy}\"")),
            },
        };
        let mut x = element.number("x")?
            - match element.attributes.get("text-anchor") {
                Some(&"middle") => width / 2.0,
                Some(&"end") => width,
                _ => 0.0,
            };
        let y = element.number("y")? + down * size;
        let mut outline = Outline { path: PathBuilder::new(), x, y, scale: size / em };
        for glyph in glyphs {
            outline.x = x;
            // A glyph without an outline is a space.
            let _ = self.face.outline_glyph(glyph, &mut outline);
            x += advance(&self.face, glyph);
        }
        let Some(path) = outline.path.finish() else { return Ok(()) };
        let transform = Transform::from_scale(self.scale, self.scale);
        let paint = paint(element, "fill")?;
        self.picture.fill_path(&path, &paint, FillRule::Winding, transform, None);
        if element.attributes.get("font-weight") == Some(&"bold") {
            // There is one font; a thin stroke makes it bold.
            let stroke = Stroke { width: size / 28.0, ..Stroke::default() };
            self.picture.stroke_path(&path, &paint, &stroke, transform, None);
        }
        Ok(())
    }
}

fn polygon(points: &[(f32, f32)], closed: bool) -> Option<Path> {
    let mut builder = PathBuilder::new();
    let (first, rest) = points.split_first()?;
    builder.move_to(first.0, first.1);
    rest.iter().for_each(|point| builder.line_to(point.0, point.1));
    if closed {
        builder.close();
    }
    builder.finish()
}

fn colour(element: &Element, key: &str) -> Result<Color, String> {
    let text = element.attributes.get(key).copied().unwrap_or_default();
    let number = text.strip_prefix('#').filter(|digits| digits.len() == 6);
    let number = number.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let [_, red, green, blue] = number.ok_or_else(|| format!("the colour `{text}`"))?.to_be_bytes();
    let opacity = if element.attributes.contains_key("opacity") { element.number("opacity")? } else { 1.0 };
    let mut colour = Color::from_rgba8(red, green, blue, 255);
    colour.set_alpha(opacity.clamp(0.0, 1.0));
    Ok(colour)
}

fn paint(element: &Element, key: &str) -> Result<Paint<'static>, String> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(colour(element, key)?);
    Ok(paint)
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")
}

/// Collects glyphs as one path, `y` down.
struct Outline {
    path: PathBuilder,
    x: f32,
    y: f32,
    scale: f32,
}

impl Outline {
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x + x * self.scale, self.y - y * self.scale)
    }
}

impl OutlineBuilder for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.at(x1, y1), self.at(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.at(x1, y1), self.at(x2, y2), self.at(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(body: &str) -> Pixmap {
        let svg = format!(
            "<svg width=\"40\" height=\"20\">\n<title>a &gt; b</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>{body}</svg>"
        );
        picture(&svg, 10).unwrap()
    }

    fn at(picture: &Pixmap, x: u32, y: u32) -> [u8; 3] {
        let pixel = picture.pixel(x, y).unwrap();
        [pixel.red(), pixel.green(), pixel.blue()]
    }

    /// Pixels darker than half.
    fn dark(picture: &Pixmap) -> usize {
        picture.pixels().iter().filter(|pixel| pixel.green() < 128).count()
    }

    #[test]
    fn shapes_stand_where_they_should_in_their_colours() {
        let shapes = drawn(
            "<polygon opacity=\"1\" fill=\"#0072B2\" points=\"0,0 100,0 100,100 0,100 \"/>\
             <rect x=\"200\" y=\"0\" width=\"100\" height=\"100\" opacity=\"0.5\" fill=\"#000000\" stroke=\"none\"/>\
             <circle cx=\"350\" cy=\"150\" r=\"40\" opacity=\"1\" fill=\"#D55E00\" stroke=\"none\" stroke-width=\"1\"/>",
        );
        assert_eq!((shapes.width(), shapes.height()), (80, 40));
        assert_eq!(at(&shapes, 10, 10), [0x00, 0x72, 0xB2]);
        assert_eq!(at(&shapes, 30, 10), [255, 255, 255]);
        assert!(at(&shapes, 50, 10).iter().all(|part| part.abs_diff(128) <= 1));
        assert_eq!(at(&shapes, 70, 30), [0xD5, 0x5E, 0x00]);
    }

    #[test]
    fn dashes_leave_gaps() {
        let line = |dash: &str| {
            let points = "points=\"0,100 400,100 \"";
            drawn(&format!(
                "<polyline fill=\"none\" opacity=\"1\" stroke=\"#000000\"{dash} stroke-width=\"20\" {points}/>"
            ))
        };
        let (whole, dashed) = (dark(&line("")), dark(&line(" stroke-dasharray=\"20 20\"")));
        assert_eq!((whole, dashed), (320, 160));
    }

    #[test]
    fn text_is_drawn_at_its_anchor_without_any_font_of_the_machine() {
        let text = |anchor: &str, weight: &str| {
            drawn(&format!(
                "<text x=\"200\" y=\"100\" dy=\"0.5ex\" text-anchor=\"{anchor}\" font-family=\"x\" font-size=\"100\" \
                 opacity=\"1\" fill=\"#000000\"{weight}>\nA&lt;±\n</text>"
            ))
        };
        let columns = |picture: &Pixmap| {
            let dark = |x: &u32| (0..40).any(|y| at(picture, *x, y)[1] < 128);
            let columns: Vec<u32> = (0..80).filter(dark).collect();
            (columns[0], columns[columns.len() - 1])
        };
        let (start, middle, end) = (text("start", ""), text("middle", ""), text("end", ""));
        assert!(columns(&start).0 >= 39 && columns(&end).1 <= 41, "{:?} {:?}", columns(&start), columns(&end));
        let (left, right) = columns(&middle);
        assert!((left + right).abs_diff(80) <= 4, "{left} {right}");
        let x =
            drawn("<text x=\"200\" y=\"100\" dy=\"0.5ex\" font-size=\"100\" opacity=\"1\" fill=\"#000000\">x</text>");
        let rows: Vec<u32> = (0..40).filter(|y| (0..80).any(|column| at(&x, column, *y)[1] < 128)).collect();
        assert!((rows[0] + rows[rows.len() - 1]).abs_diff(39) <= 1, "not centred: {rows:?}");
        assert!(dark(&text("start", " font-weight=\"bold\"")) > dark(&start));
    }

    #[test]
    fn a_png_holds_the_picture() {
        let body = "<rect x=\"0\" y=\"0\" width=\"10\" height=\"10\" fill=\"#0072B2\"/>";
        let svg = format!("<svg width=\"3\" height=\"2\">{body}</svg>");
        let bytes = png(&svg, 10).unwrap();
        let (info, mut reader) = png::Decoder::new(&bytes[..]).read_info().unwrap();
        assert_eq!((info.width, info.height, info.color_type), (6, 4, png::ColorType::RGB));
        let mut colours = vec![0; info.buffer_size()];
        reader.next_frame(&mut colours).unwrap();
        assert_eq!((&colours[..3], &colours[15..18]), (&[0x00, 0x72, 0xB2][..], &[255, 255, 255][..]));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let refused = |body: &str| png(&format!("<svg width=\"1\" height=\"1\">{body}</svg>"), 10).unwrap_err();
        assert_eq!(refused("<image/>"), "the element <image>");
        assert!(refused("<polygon fill=\"currentColor\" points=\"0,0 1,1 1,0\"/>").contains("currentColor"));
        assert!(png("", 10).is_err());
    }
}
