//! From text to a TOML tree with spans, and every syntax error.

use crate::diagnostic::{Diagnostic, boundary};
use std::borrow::Cow;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, Error};

/// Most bytes that are parsed in all attempts at one file.
const MOST_PARSED: usize = 4 << 20;
/// Most attempts at one file.
const MOST_ATTEMPTS: usize = 16;
/// Most syntax errors that are kept of one attempt.
const MOST_ERRORS: usize = super::MOST_DIAGNOSTICS + 1;
/// How the parser's message for a line without `=` begins.
const NO_VALUE: &str = "key with no value";

/// Blanks lines that are neither a header nor `key = value`, and reports them.
///
/// The parser gives up the rest of the text at such a line; with the line blanked, the mistakes after it
/// are found too. Places in the text stay what they are.
pub(super) fn mend<'t>(text: &'t str, errors: &mut Vec<Diagnostic>) -> Cow<'t, str> {
    let mut mended = Cow::Borrowed(text);
    let attempts = (MOST_PARSED / text.len().max(1)).clamp(1, MOST_ATTEMPTS);
    for _ in 1..attempts {
        let (_, found) = DeTable::parse_recoverable(&mended);
        let cut = found.iter().find(|error| error.message().starts_with(NO_VALUE)).and_then(Error::span);
        let Some(line) = cut.and_then(|span| line_of(&mended, span.start)) else { break };
        errors.push(no_value(&mended, line.clone()));
        mended.to_mut().replace_range(line.clone(), &" ".repeat(line.len()));
    }
    mended
}

/// Parses `text`, keeping the syntax errors.
pub(super) fn tree<'t>(text: &'t str, errors: &mut Vec<Diagnostic>) -> Spanned<DeTable<'t>> {
    let (table, found) = DeTable::parse_recoverable(text);
    for error in found.into_iter().take(MOST_ERRORS) {
        let span = error.span().unwrap_or(0..0);
        let message = error.message();
        errors.push(match message.strip_prefix(NO_VALUE).and_then(|_| line_of(text, span.start)) {
            Some(line) => no_value(text, line),
            None if message == "duplicate key" => Diagnostic::error("duplicate-key", "this key is given twice")
                .at(span, "given again here")
                .help("remove one of the two"),
            None => Diagnostic::error("syntax", format!("this is not TOML: {message}")).at(span, ""),
        });
    }
    table
}

fn no_value(text: &str, line: Range<usize>) -> Diagnostic {
    let shown = crate::diagnostic::shown(text.get(line.clone()).unwrap_or_default().trim());
    Diagnostic::error("syntax", format!("this is not TOML: {shown} is neither a [header] nor key = value"))
        .at(line, "expected `=` after the key")
        .help("write key = value; a text value stands in quotes")
}

/// The line around a byte, without its blanks at either end; none when nothing is left.
fn line_of(text: &str, at: usize) -> Option<Range<usize>> {
    let at = boundary(text, at);
    let start = text.get(..at)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.get(start..)?.lines().next()?;
    let lead = line.len() - line.trim_start().len();
    let range = start + lead..start + line.trim_end().len();
    (range.start < range.end).then_some(range)
}
