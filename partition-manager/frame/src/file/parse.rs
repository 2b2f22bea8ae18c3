//! From text to a TOML tree with spans, and every syntax error.

use super::sink::Sink;
use crate::diagnostic::{Diagnostic, boundary, shown};
use crate::rule;
use std::borrow::Cow;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, Error};
use toml_parser::parser::{RecursionGuard, ValidateWhitespace};
use toml_parser::{ParseError, Source};

/// Most bytes that are parsed in all attempts at one file.
const MOST_PARSED: usize = 4 << 20;
/// Most attempts at one file.
const MOST_ATTEMPTS: usize = 16;
/// Most syntax errors of a text that is read at all.
const MOST_ERRORS: usize = super::MOST_DIAGNOSTICS;
/// How much of a large text is tried first, bytes.
const PROBE: usize = 128 << 10;
/// How deep values may nest; as deep as the `toml` crate takes them.
const DEEPEST: u32 = 80;
/// How the parser's message for a line without `=` begins.
const NO_VALUE: &str = "key with no value";
/// How it begins for what is no further key of an inline table.
const NO_COMMA: &str = "missing comma between key-value pairs";

/// The part of a text before it has more than [`MOST_ERRORS`] syntax errors: the whole, as a rule.
///
/// A text that is no TOML at all can have an error for each byte. They are counted here before any is
/// described, which costs far less.
pub(super) fn bearable(text: &str) -> Result<(), (&str, usize)> {
    let mut count = 0_usize;
    let mut last = None;
    let mut sink = |error: ParseError| {
        count += 1;
        if count == MOST_ERRORS + 1 {
            last = error.unexpected().or_else(|| error.context()).map(|span| span.start());
        }
    };
    let mut nowhere = ();
    let source = Source::new(text);
    let tokens = source.lex().into_vec();
    let mut blanks = ValidateWhitespace::new(&mut nowhere, source);
    let mut shallow = RecursionGuard::new(&mut blanks, DEEPEST);
    toml_parser::parser::parse_document(&tokens, &mut shallow, &mut sink);
    if count <= MOST_ERRORS {
        return probe(text);
    }
    let end = boundary(text, last.unwrap_or(0));
    Err((text.get(..end).unwrap_or_default(), count - MOST_ERRORS))
}

/// Like [`bearable`], for mistakes that only the tree shows, such as keys given again and again: judged by how
/// a large text begins.
fn probe(text: &str) -> Result<(), (&str, usize)> {
    let head = text.get(..boundary(text, PROBE)).unwrap_or_default();
    let head = head.rfind('\n').and_then(|end| head.get(..=end)).unwrap_or(head);
    if text.len() <= PROBE || DeTable::parse_recoverable(head).1.len() <= MOST_ERRORS {
        return Ok(());
    }
    Err((head, 0))
}

/// Blanks lines that are neither a header nor `key = value`, and those whose braces stay open, and reports
/// them.
///
/// The parser gives up the rest of the text at such a line, or takes it for something else; with the line
/// blanked, the mistakes after it are found too. Places in the text stay what they are.
pub(super) fn mend<'t>(text: &'t str, base: usize, sink: &mut Sink) -> Cow<'t, str> {
    let mut mended = Cow::Borrowed(text);
    let attempts = (MOST_PARSED / text.len().max(1)).clamp(1, MOST_ATTEMPTS);
    for _ in 1..attempts {
        let (_, found) = DeTable::parse_recoverable(&mended);
        let Some((line, diagnostic)) = found.iter().find_map(|error| culprit(&mended, base, error)) else { break };
        sink.syntax(diagnostic);
        mended.to_mut().replace_range(line.clone(), &" ".repeat(line.len()));
    }
    mended
}

/// The line without which the rest can be read, and what is wrong with it.
fn culprit(text: &str, base: usize, error: &Error) -> Option<(Range<usize>, Diagnostic)> {
    let at = error.span()?.start;
    let line = line_of(text, at)?;
    if error.message().starts_with(NO_VALUE) {
        let diagnostic = no_value(text, base, line.clone());
        return Some((line, diagnostic));
    }
    // A brace that stays open takes in the lines below; the first of them is where the parser notices.
    if !error.message().starts_with(NO_COMMA) || at != line.start {
        return None;
    }
    let before = text.get(..line.start)?.trim_end();
    let open = line_of(text, before.len().checked_sub(1)?)?;
    let message = "this is not TOML: a brace is open at the end of this line, and the next does not go on with it";
    let diagnostic = Diagnostic::of(rule::SYNTAX, message)
        .at(base + open.end..base + open.end, "expected `}`, or a comma")
        .help("close the brace, or write a comma where the table goes on in the next line");
    Some((open, diagnostic))
}

/// Parses `text`, keeping the syntax errors.
pub(super) fn tree<'t>(text: &'t str, base: usize, sink: &mut Sink) -> Spanned<DeTable<'t>> {
    let (table, found) = DeTable::parse_recoverable(text);
    sink.drop_more(found.len().saturating_sub(MOST_ERRORS));
    for error in found.into_iter().take(MOST_ERRORS) {
        let span = error.span().unwrap_or(0..0);
        let message = error.message();
        let at = base + span.start..base + span.end;
        sink.syntax(match message.strip_prefix(NO_VALUE).and_then(|_| line_of(text, span.start)) {
            Some(line) => no_value(text, base, line),
            None if message == "duplicate key" => {
                Diagnostic::of(rule::DUPLICATE_KEY, "this key is given twice").at(at, "given again here")
            }
            None => Diagnostic::of(rule::SYNTAX, format!("this is not TOML: {message}")).at(at, ""),
        });
    }
    table
}

fn no_value(text: &str, base: usize, line: Range<usize>) -> Diagnostic {
    let shown = shown(text.get(line.clone()).unwrap_or_default().trim());
    Diagnostic::of(rule::SYNTAX, format!("this is not TOML: {shown} is neither a [header] nor key = value"))
        .at(base + line.start..base + line.end, "expected `=` after the key")
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
