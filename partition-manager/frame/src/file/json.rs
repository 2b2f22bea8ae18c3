//! Diagnostics as JSON, for editors and scripts.

use super::sources::{Lines, Sources};
use crate::diagnostic::Diagnostic;
use serde::Serialize;
use std::ops::Range;

/// A place: lines and columns count from 1, columns in characters; the end is the first column after.
#[derive(Serialize)]
struct Place<'s> {
    file: Option<&'s str>,
    line: Option<usize>,
    column: Option<usize>,
    end_line: Option<usize>,
    end_column: Option<usize>,
}

#[derive(Serialize)]
struct Claimant<'d> {
    #[serde(flatten)]
    place: Place<'d>,
    text: &'d str,
    primary: bool,
}

#[derive(Serialize)]
struct Entry<'d> {
    rule: &'d str,
    severity: crate::diagnostic::Severity,
    message: &'d str,
    #[serde(flatten)]
    place: Place<'d>,
    claimants: Vec<Claimant<'d>>,
    remedy: Option<&'d str>,
}

/// An array of diagnostics: `rule`, `severity`, `message`, the place to mend (`file`, `line`, `column`,
/// `end_line`, `end_column`; all but the file null when it is about the whole file), `claimants` (every place
/// that has a part in it, each with its own place, `text`, and whether it is `primary`) and `remedy`.
#[must_use]
pub fn json(diagnostics: &[Diagnostic], sources: &Sources) -> serde_json::Value {
    let files: Vec<(&str, Lines<'_>)> =
        sources.iter().map(|source| (source.label.as_str(), Lines::new(&source.text))).collect();
    let place = |span: &Range<usize>| {
        let (index, start) = sources.find(span.start);
        let file = files.get(index);
        let at = |byte: usize| file.map(|(_, lines)| lines.position(byte));
        let (begin, end) = (at(start), at(start + span.len()));
        Place {
            file: file.map(|(label, _)| *label),
            line: begin.map(|(line, _)| line),
            column: begin.map(|(_, column)| column),
            end_line: end.map(|(line, _)| line),
            end_column: end.map(|(_, column)| column),
        }
    };
    let entries = diagnostics.iter().map(|diagnostic| {
        let whole = Place {
            file: files.first().map(|(label, _)| *label),
            line: None,
            column: None,
            end_line: None,
            end_column: None,
        };
        let labels = diagnostic.labels.iter();
        let entry = Entry {
            rule: diagnostic.rule,
            severity: diagnostic.severity,
            message: &diagnostic.message,
            place: diagnostic.place().map_or(whole, |label| place(&label.span)),
            claimants: labels
                .map(|label| Claimant { place: place(&label.span), text: &label.text, primary: label.primary })
                .collect(),
            remedy: diagnostic.help.as_deref(),
        };
        serde_json::to_value(entry).unwrap_or_default()
    });
    serde_json::Value::Array(entries.collect())
}
