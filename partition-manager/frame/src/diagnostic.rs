//! Diagnostics: what is wrong with a text, where, and how to mend it.

use crate::rule::Rule;
use serde::Serialize;
use std::ops::Range;

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is done until it is mended.
    Error,
    /// It works, but the reader should know.
    Warning,
}

/// One place in the text, and what it has to do with the matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Bytes of the text, or of all texts one after the other; past its end is taken as its end.
    pub span: Range<usize>,
    /// What is to be said there; may be empty.
    pub text: String,
    /// Whether this is the place to mend; others explain.
    pub primary: bool,
}

/// One mistake, or one thing worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Short stable name of the rule, such as `unknown-key`.
    pub rule: &'static str,
    /// Whether it stops anything.
    pub severity: Severity,
    /// What happened, to what, and why.
    pub message: String,
    /// Where; the first primary label gives line and column. None when it is about the whole file.
    pub labels: Vec<Label>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// That a rule is broken; so far without a place, and with the rule's own remedy.
    #[must_use]
    pub fn of(rule: &'static Rule, message: impl Into<String>) -> Self {
        let help = Some(rule.remedy.to_owned());
        Self { rule: rule.name, severity: rule.severity, message: message.into(), labels: vec![], help }
    }

    /// Adds the place to mend.
    #[must_use]
    pub fn at(mut self, span: Range<usize>, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into(), primary: true });
        self
    }

    /// Adds a place that explains.
    #[must_use]
    pub fn see(mut self, span: Range<usize>, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into(), primary: false });
        self
    }

    /// Says more precisely what to do than the rule itself.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// First byte of the place to mend, if there is one.
    #[must_use]
    pub fn start(&self) -> Option<usize> {
        self.place().map(|label| label.span.start)
    }

    /// The place to mend, if there is one.
    #[must_use]
    pub fn place(&self) -> Option<&Label> {
        self.labels.iter().find(|label| label.primary).or_else(|| self.labels.first())
    }
}

/// Whether any of them stops.
#[must_use]
pub fn any_error(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// The last boundary of characters at or before a byte; the end of the text for a byte past it.
#[must_use]
pub fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// A piece of somebody's text, safe to print: quoted, escaped, at most 60 characters.
#[must_use]
pub fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let mut out = String::from("\"");
    for (at, c) in text.chars().enumerate() {
        if at == MOST {
            out.push('…');
            break;
        }
        match c {
            '\'' => out.push(c),
            _ if misleads(c) => out.extend(c.escape_unicode()),
            _ => out.extend(c.escape_debug()),
        }
    }
    out.push('"');
    out
}

/// Characters that change how others are shown, or are not shown themselves (Unicode, general category Cf,
/// as far as they matter here: directions, joiners, tags, the byte order mark).
#[must_use]
pub fn misleads(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_cannot_mislead() {
        assert_eq!(shown("it's"), "\"it's\"");
        assert_eq!(shown("a\u{202e}b\x1b[0m\n\""), "\"a\\u{202e}b\\u{1b}[0m\\n\\\"\"");
        assert_eq!(shown(&"ä".repeat(100)), format!("\"{}…\"", "ä".repeat(60)));
    }

    #[test]
    fn boundaries_never_split_a_character() {
        let text = "aä€";
        let found: Vec<usize> = (0..9).map(|at| boundary(text, at)).collect();
        assert_eq!(found, [0, 1, 1, 3, 3, 3, 6, 6, 6]);
    }

    #[test]
    fn the_place_to_mend_comes_first() {
        let both = Diagnostic::of(crate::rule::SYNTAX, "y").see(3..4, "see").at(7..8, "mend");
        assert_eq!(both.start(), Some(7));
        assert!(any_error(&[both]));
        assert!(!any_error(&[Diagnostic::of(crate::rule::WEIGHT_ZERO, "y")]));
    }
}
