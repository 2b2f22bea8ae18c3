//! Pieces of text with a paint, and how a terminal shows them.

use super::marks::{Mark, Paint};
use crate::show::plain;

/// Whether colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Glyphs only: for pipes, terminals without colours and readers who asked for it (`NO_COLOR`).
    Plain,
    /// With the escape sequences of ECMA-48 for 256 colours.
    Colours,
}

/// A line of painted pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<(Paint, String)>);

impl Line {
    /// A line of plain text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self::painted(Paint::Plain, text)
    }

    /// A line of text in one paint.
    #[must_use]
    pub fn painted(paint: Paint, text: &str) -> Self {
        let mut line = Self::default();
        line.push(paint, text);
        line
    }

    /// Adds text; what a terminal would take for a command is replaced.
    pub fn push(&mut self, paint: Paint, text: &str) {
        let text = plain(text);
        match self.0.last_mut() {
            Some((last, before)) if *last == paint => before.push_str(&text),
            _ => self.0.push((paint, text)),
        }
    }

    /// Adds a mark.
    pub fn mark(&mut self, mark: Mark) {
        self.push(mark.paint, mark.glyph.encode_utf8(&mut [0; 4]));
    }

    /// The marks of the line: each painted column but those of plain text.
    pub fn marks(&self) -> impl Iterator<Item = Mark> + '_ {
        let painted = self.0.iter().filter(|(paint, _)| *paint != Paint::Plain);
        painted.flat_map(|(paint, text)| text.chars().map(|glyph| Mark { glyph, paint: *paint }))
    }

    /// How many columns it takes.
    #[must_use]
    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// The text with its paint as escape sequences, or without; no blanks at the end.
    #[must_use]
    pub fn show(&self, ink: Ink) -> String {
        let mut out = String::new();
        for (paint, text) in &self.0 {
            match (ink, sequence(*paint)) {
                (Ink::Colours, Some(start)) => {
                    out.push_str("\x1b[");
                    out.push_str(&start);
                    out.push('m');
                    out.push_str(text);
                    out.push_str("\x1b[0m");
                }
                _ => out.push_str(text),
            }
        }
        out.truncate(out.trim_end().len());
        out
    }
}

/// Colours that stay apart for colour-blind eyes (Okabe and Ito, 2008), as near as 256 colours come, each with
/// a readable text on it: (background, foreground).
const PARTITIONS: [(u8, u8); super::marks::COLOURS] =
    [(214, 16), (74, 16), (29, 231), (227, 16), (25, 231), (166, 231), (175, 16), (187, 16)];

fn sequence(paint: Paint) -> Option<String> {
    let on = |(back, fore): (u8, u8)| format!("48;5;{back};38;5;{fore}");
    Some(match paint {
        Paint::Plain => return None,
        Paint::Strong => "1".to_owned(),
        Paint::Faint => "2".to_owned(),
        Paint::Partition(colour) => on(PARTITIONS.get(colour).copied().unwrap_or((250, 16))),
        Paint::Pool => on((60, 231)),
        Paint::Host => on((240, 231)),
        Paint::Guarded => "1;48;5;160;38;5;231".to_owned(),
    })
}
