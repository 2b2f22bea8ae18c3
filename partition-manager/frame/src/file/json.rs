//! Diagnostics as JSON, for editors and scripts.

use super::render::Lines;
use crate::diagnostic::Diagnostic;
use serde::Serialize;
use std::ops::Range;

/// A place: lines and columns count from 1, columns in characters; the end is the first column after.
#[derive(Serialize)]
struct Place {
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
}

#[derive(Serialize)]
struct Label<'d> {
    #[serde(flatten)]
    place: Place,
    text: &'d str,
    primary: bool,
}

#[derive(Serialize)]
struct Entry<'d> {
    rule: &'d str,
    severity: crate::diagnostic::Severity,
    message: &'d str,
    file: &'d str,
    line: Option<usize>,
    column: Option<usize>,
    labels: Vec<Label<'d>>,
    help: Option<&'d str>,
}

/// An array of diagnostics: `rule`, `severity`, `message`, `file`, `line`, `column` (of the place to mend;
/// null when it is about the whole file), `labels` and `help`.
#[must_use]
pub fn json(diagnostics: &[Diagnostic], source: &str, path: &str) -> serde_json::Value {
    let lines = Lines::new(source);
    let place = |span: &Range<usize>| {
        let ((line, column), (end_line, end_column)) = (lines.position(span.start), lines.position(span.end));
        Place { line, column, end_line, end_column }
    };
    let entries = diagnostics.iter().map(|diagnostic| {
        let start = diagnostic.start().map(|start| lines.position(start));
        let labels = diagnostic.labels.iter();
        let entry = Entry {
            rule: diagnostic.rule,
            severity: diagnostic.severity,
            message: &diagnostic.message,
            file: path,
            line: start.map(|(line, _)| line),
            column: start.map(|(_, column)| column),
            labels: labels.map(|l| Label { place: place(&l.span), text: &l.text, primary: l.primary }).collect(),
            help: diagnostic.help.as_deref(),
        };
        serde_json::to_value(entry).unwrap_or_default()
    });
    serde_json::Value::Array(entries.collect())
}
