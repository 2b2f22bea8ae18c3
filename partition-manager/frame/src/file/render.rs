//! Diagnostics for people, as rustc shows them.

use crate::diagnostic::{Diagnostic, Severity, boundary, misleads};
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use std::ops::Range;

/// How diagnostics are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Plain text.
    #[default]
    Plain,
    /// With colours (ANSI escape sequences).
    Coloured,
}

/// Longest line that is quoted, bytes; of a longer one only line and column are told.
const LONGEST_LINE: usize = 1000;
/// Labels that are at most this many lines apart are shown in one piece.
const NEAR: usize = 6;

/// Diagnostics as plain text; each ends with an empty line.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], source: &str, path: &str) -> String {
    render_styled(diagnostics, source, path, Style::Plain)
}

/// Diagnostics as text in a style. The text never holds control characters of the source.
#[must_use]
pub fn render_styled(diagnostics: &[Diagnostic], source: &str, path: &str, style: Style) -> String {
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Coloured => Renderer::styled(),
    };
    let lines = Lines::new(source);
    let path = visible(path);
    let mut out = String::new();
    for diagnostic in diagnostics {
        out += &renderer.render(&[group(diagnostic, &lines, &path)]);
        out += "\n\n";
    }
    out
}

fn group<'a>(diagnostic: &Diagnostic, lines: &Lines<'a>, path: &str) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(visible(&diagnostic.message)).id(diagnostic.rule);
    let mut group = Group::with_title(title);
    let mut labels: Vec<_> = diagnostic.labels.iter().map(|label| (lines.lines(&label.span), label)).collect();
    if labels.is_empty() {
        group = group.element(Origin::path(path.to_owned()));
    }
    // The place to mend leads; the others follow in the order of the text.
    labels.sort_by_key(|(at, label)| (!label.primary, at.start, label.span.start));
    let mut pieces: Vec<(Range<usize>, Vec<&crate::diagnostic::Label>)> = vec![];
    for (at, label) in labels {
        let near = pieces.iter_mut().find(|(piece, _)| at.start < piece.end + NEAR && piece.start < at.end + NEAR);
        match near {
            Some((piece, members)) => {
                *piece = piece.start.min(at.start)..piece.end.max(at.end);
                members.push(label);
            }
            None => pieces.push((at, vec![label])),
        }
    }
    for (piece, members) in pieces {
        let Some((text, start)) = lines.quote(&piece) else {
            for label in members {
                let (line, column) = lines.position(label.span.start);
                group = group.element(Origin::path(path.to_owned()).line(line).char_column(column));
                if !label.text.is_empty() {
                    group = group.element(Level::NOTE.message(visible(&label.text)));
                }
            }
            continue;
        };
        let mut snippet = Snippet::source(text).line_start(piece.start + 1).path(path.to_owned());
        for label in members {
            let inside = |at: usize| boundary(text, at.saturating_sub(start));
            let span = inside(label.span.start)..inside(label.span.end).max(inside(label.span.start));
            let kind = if label.primary { AnnotationKind::Primary } else { AnnotationKind::Context };
            let annotation = kind.span(span);
            let text = visible(&label.text);
            snippet = snippet.annotation(if text.is_empty() { annotation } else { annotation.label(text) });
        }
        group = group.element(snippet);
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(visible(help)));
    }
    group
}

/// The text with what cannot be seen, or misleads, written out.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || misleads(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// The lines of a text.
pub(super) struct Lines<'a> {
    source: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// Finds the lines of `source`.
    pub(super) fn new(source: &'a str) -> Self {
        let after = source.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { source, starts: std::iter::once(0).chain(after).collect() }
    }

    /// The line, from 0, that a byte is in.
    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|&start| start <= at).saturating_sub(1)
    }

    /// Line and column of a byte, both from 1, the column in characters.
    pub(super) fn position(&self, at: usize) -> (usize, usize) {
        let at = boundary(self.source, at);
        let line = self.line(at);
        let start = self.starts.get(line).copied().unwrap_or(0);
        (line + 1, self.source.get(start..at).map_or(0, |before| before.chars().count()) + 1)
    }

    /// The lines, from 0, that a span touches.
    fn lines(&self, span: &Range<usize>) -> Range<usize> {
        let start = span.start.min(self.source.len());
        let end = span.end.clamp(start, self.source.len());
        let last = if end > start { end - 1 } else { end };
        self.line(start)..self.line(last) + 1
    }

    /// The text of some lines and the byte it begins at; none when a line is too long to be quoted, or they
    /// are too many.
    fn quote(&self, lines: &Range<usize>) -> Option<(&'a str, usize)> {
        let start = self.starts.get(lines.start).copied()?;
        let end = self.starts.get(lines.end).copied().unwrap_or(self.source.len());
        let text = self.source.get(start..end)?;
        let fits = lines.len() <= 8 * NEAR && text.lines().all(|line| line.len() <= LONGEST_LINE);
        fits.then_some((text, start))
    }
}
