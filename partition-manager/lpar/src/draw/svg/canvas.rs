//! The few shapes that a picture is made of, and the style that they share.

use crate::draw::marks::{Mark, Paint};
use frame::diagnostic::misleads;
use std::fmt::Write;

/// Fill of each colour of partitions (Okabe and Ito, 2008: told apart by colour-blind eyes too), and whether
/// text on it is light.
const PARTITIONS: [(&str, bool); crate::draw::marks::COLOURS] = [
    ("#e69f00", false),
    ("#56b4e9", false),
    ("#00805f", true),
    ("#f0e442", false),
    ("#0072b2", true),
    ("#c04e00", true),
    ("#cc79a7", false),
    ("#c9c3a5", false),
];

/// The style. Colours of a dark page come last, for readers who have one.
const STYLE: &str = "\
text{font-family:system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif;font-size:13px;fill:#1b1f24}\
.h1{font-size:24px;font-weight:600}.h2{font-size:15px;font-weight:600}.small{font-size:11px}.faint{fill:#57606a}\
.end{text-anchor:end}.mid{text-anchor:middle}\
.paper{fill:#ffffff}.panel{fill:#f6f8fa;stroke:#d0d7de}.core{fill:none;stroke:#6e7781}.rule{stroke:#d0d7de}\
.free{fill:#ffffff;stroke:#8c959f;stroke-width:.6}.outside{fill:#eaeef2;stroke:#afb8c1;stroke-width:.6;stroke-dasharray:2 2}\
.host{fill:#8c959f}.pool{fill:#5b5f97}.guard{fill:#fff;stroke:#a40e26;stroke-width:1.4}\
.on-dark{fill:#fff}.on-light{fill:#111}.bad{fill:#a40e26}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.faint{fill:#9198a1}.paper{fill:#0d1117}\
.panel{fill:#151b23;stroke:#3d444d}.core{stroke:#9198a1}.rule{stroke:#3d444d}.free{fill:#0d1117;stroke:#6e7681}\
.outside{fill:#21262d;stroke:#484f58}.host{fill:#6e7681}.on-dark{fill:#fff}.on-light{fill:#111}.bad{fill:#ff7b72}}";

/// Patterns over a fill: what tells owners apart where there is no room for a letter, and no colour.
const PATTERNS: &str = "\
<pattern id=\"host\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
<rect width=\"1.6\" height=\"5\" fill=\"#fff\" fill-opacity=\".55\"/></pattern>\
<pattern id=\"idle\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\">\
<rect width=\"4\" height=\"4\" fill=\"#fff\" fill-opacity=\".5\"/><rect width=\"4\" height=\"1.5\" fill=\"#222\" fill-opacity=\".55\"/></pattern>\
<pattern id=\"pool\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\">\
<circle cx=\"2.5\" cy=\"2.5\" r=\".9\" fill=\"#fff\" fill-opacity=\".75\"/></pattern>\
<pattern id=\"r1\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(-45)\">\
<rect width=\"1.2\" height=\"4\" fill=\"#000\" fill-opacity=\".45\"/></pattern>\
<pattern id=\"r2\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\">\
<circle cx=\"2\" cy=\"2\" r=\".9\" fill=\"#000\" fill-opacity=\".5\"/></pattern>\
<pattern id=\"r3\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\">\
<path d=\"M0 0H5M0 0V5\" stroke=\"#000\" stroke-opacity=\".5\"/></pattern>";

/// What a cell is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    mark: Mark,
    /// Which pattern tells partitions of one colour apart: 0 for none.
    round: usize,
}

impl Fill {
    /// The fill of a mark; of partitions with one colour, `round` tells which has it how often before.
    #[must_use]
    pub fn new(mark: Mark, round: usize) -> Self {
        Self { mark, round: round.min(3) }
    }

    fn attribute(self) -> String {
        match self.mark.paint {
            Paint::Partition(colour) => format!("fill=\"{}\"", PARTITIONS.get(colour).map_or("#999999", |one| one.0)),
            Paint::Pool => "class=\"pool\"".to_owned(),
            Paint::Host => "class=\"host\"".to_owned(),
            Paint::Guarded => "class=\"guard\"".to_owned(),
            _ if self.mark.glyph == '_' => "class=\"outside\"".to_owned(),
            _ => "class=\"free\"".to_owned(),
        }
    }

    fn pattern(self) -> Option<&'static str> {
        match (self.mark.paint, self.mark.glyph) {
            (Paint::Host, _) => Some("host"),
            (Paint::Pool, _) => Some("pool"),
            (Paint::Partition(_), '-') => Some("idle"),
            (Paint::Partition(_), _) => ["", "r1", "r2", "r3"].get(self.round).copied().filter(|name| !name.is_empty()),
            _ => None,
        }
    }

    /// What is written into the cell when there is room, and on what ground.
    fn label(self) -> Option<(char, &'static str)> {
        let light = match self.mark.paint {
            Paint::Partition(_) if self.mark.glyph == '-' => return None,
            Paint::Partition(colour) => PARTITIONS.get(colour).is_some_and(|one| one.1),
            Paint::Pool => true,
            _ => return None,
        };
        Some((self.mark.glyph, if light { "on-dark" } else { "on-light" }))
    }
}

/// A box: left, top, width, height.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area(pub f64, pub f64, pub f64, pub f64);

/// A document in the making.
#[derive(Clone, Debug, Default)]
pub struct Canvas {
    body: String,
}

impl Canvas {
    /// Text at a place; `class` is one of the style's, or several.
    pub fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        // Writing into a string cannot fail, here and below.
        let _ = writeln!(
            self.body,
            "<text x=\"{}\" y=\"{}\" class=\"{class}\">{}</text>",
            Short(x),
            Short(y),
            escape(text)
        );
    }

    /// A box in a style.
    pub fn shape(&mut self, area: Area, class: &str, round: f64) {
        let _ = writeln!(self.body, "<rect {} rx=\"{}\" class=\"{class}\"/>", place(area), Short(round));
    }

    /// A line across the document.
    pub fn rule(&mut self, x: f64, y: f64, width: f64) {
        let _ = writeln!(
            self.body,
            "<path d=\"M{} {}h{}\" class=\"rule\" fill=\"none\"/>",
            Short(x),
            Short(y),
            Short(width)
        );
    }

    /// A cell with its pattern, its letter where there is room, and a tooltip.
    pub fn cell(&mut self, area: Area, fill: Fill, tip: &str) {
        let at = place(area);
        let _ = write!(self.body, "<g><title>{}</title><rect {at} {}/>", escape(tip), fill.attribute());
        if let Some(pattern) = fill.pattern() {
            let _ = write!(self.body, "<rect {at} fill=\"url(#{pattern})\"/>");
        }
        let Area(x, y, width, height) = area;
        if fill.mark.paint == Paint::Guarded {
            let _ = write!(
                self.body,
                "<path d=\"M{} {}l{} {}m0 {}l{} {}\" class=\"guard\"/>",
                Short(x),
                Short(y),
                Short(width),
                Short(height),
                Short(-height),
                Short(-width),
                Short(height)
            );
        }
        let font = (height * 0.78).min(15.0);
        if let Some((glyph, class)) = fill.label()
            && font >= 7.0
            && width >= font * 0.8
        {
            let _ = write!(
                self.body,
                "<text x=\"{}\" y=\"{}\" class=\"mid {class}\" style=\"font-size:{}px\">{}</text>",
                Short(x + width / 2.0),
                Short(y + height / 2.0 + font * 0.36),
                Short(font),
                escape(glyph.encode_utf8(&mut [0; 4]))
            );
        }
        self.body.push_str("</g>\n");
    }

    /// The document.
    #[must_use]
    pub fn finish(self, width: f64, height: f64, title: &str) -> String {
        let (width, height) = (Short(width), Short(height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n<defs>{PATTERNS}</defs>\n\
             <rect width=\"100%\" height=\"100%\" class=\"paper\"/>\n{}</svg>\n",
            escape(title),
            self.body
        )
    }
}

fn place(Area(x, y, width, height): Area) -> String {
    format!(
        "x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"",
        Short(x),
        Short(y),
        Short(width.max(0.0)),
        Short(height.max(0.0))
    )
}

/// A length with at most two digits after the point.
struct Short(f64);

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.2}", if self.0.is_finite() { self.0 } else { 0.0 });
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Text as character data of XML 1.0 (section 2.4), without what that does not allow or what misleads a reader.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() || misleads(c) || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}
