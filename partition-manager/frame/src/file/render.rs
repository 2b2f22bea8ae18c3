//! Diagnostics for people, as rustc shows them.

use super::sources::{Lines, Sources};
use crate::diagnostic::{Diagnostic, Label, Severity, boundary, misleads};
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
pub fn render(diagnostics: &[Diagnostic], sources: &Sources) -> String {
    render_styled(diagnostics, sources, Style::Plain)
}

/// Diagnostics as text in a style. The text never holds control characters of the sources.
#[must_use]
pub fn render_styled(diagnostics: &[Diagnostic], sources: &Sources, style: Style) -> String {
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Coloured => Renderer::styled(),
    };
    let shown = Shown::new(sources);
    let mut out = String::new();
    for diagnostic in diagnostics {
        out += &renderer.render(&[shown.group(diagnostic)]);
        out += "\n\n";
    }
    out
}

/// Some lines of one file that are shown together.
struct Piece<'d> {
    file: usize,
    lines: Range<usize>,
    labels: Vec<(Range<usize>, &'d Label)>,
}

struct Shown<'a> {
    sources: &'a Sources,
    files: Vec<(String, Lines<'a>)>,
}

impl<'a> Shown<'a> {
    fn new(sources: &'a Sources) -> Self {
        let files = sources.iter().map(|source| (visible(&source.label), Lines::new(&source.text))).collect();
        Self { sources, files }
    }

    /// What is shown together: the place to mend leads, the others follow in the order of the text.
    fn pieces<'d>(&self, diagnostic: &'d Diagnostic) -> Vec<Piece<'d>> {
        let mut labels: Vec<&Label> = diagnostic.labels.iter().collect();
        labels.sort_by_key(|label| (!label.primary, label.span.start));
        let mut pieces: Vec<Piece<'d>> = vec![];
        for label in labels {
            let (file, start) = self.sources.find(label.span.start);
            let span = start..start + label.span.len();
            let Some((_, text)) = self.files.get(file) else { continue };
            let lines = text.lines(&span);
            let near = |piece: &&mut Piece<'_>| {
                piece.file == file && lines.start < piece.lines.end + NEAR && piece.lines.start < lines.end + NEAR
            };
            match pieces.iter_mut().find(near) {
                Some(piece) => {
                    piece.lines = piece.lines.start.min(lines.start)..piece.lines.end.max(lines.end);
                    piece.labels.push((span, label));
                }
                None => pieces.push(Piece { file, lines, labels: vec![(span, label)] }),
            }
        }
        pieces
    }

    fn group(&self, diagnostic: &Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(visible(&diagnostic.message)).id(diagnostic.rule);
        let mut group = Group::with_title(title);
        if let (true, Some((label, _))) = (diagnostic.labels.is_empty(), self.files.first()) {
            group = group.element(Origin::path(label.clone()));
        }
        for piece in self.pieces(diagnostic) {
            let Some((path, lines)) = self.files.get(piece.file) else { continue };
            let Some((text, start)) = lines.quote(&piece.lines, 8 * NEAR, LONGEST_LINE) else {
                for (span, label) in piece.labels {
                    let (line, column) = lines.position(span.start);
                    group = group.element(Origin::path(path.clone()).line(line).char_column(column));
                    if !label.text.is_empty() {
                        group = group.element(Level::NOTE.message(visible(&label.text)));
                    }
                }
                continue;
            };
            let mut snippet = Snippet::source(text).line_start(piece.lines.start + 1).path(path.clone());
            for (span, label) in piece.labels {
                let inside = |at: usize| boundary(text, at.saturating_sub(start));
                let span = inside(span.start)..inside(span.end).max(inside(span.start));
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
