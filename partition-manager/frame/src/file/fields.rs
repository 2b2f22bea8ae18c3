//! The fields of one table: typed values out of it, and a diagnostic for everything that does not suit.

use super::MOST_DIAGNOSTICS;
use super::near::nearest;
use super::spans::Spans;
use crate::diagnostic::{Diagnostic, boundary, shown};
use crate::name::Name;
use crate::plan::Subject;
use crate::units::{Units, parse_duration_ms, parse_size};
use std::ops::{Range, RangeInclusive};
use toml::de::{DeTable, DeValue};

/// Where diagnostics go: bounded, whatever the text.
#[derive(Debug, Default)]
pub(super) struct Sink {
    syntax: Vec<Diagnostic>,
    found: Vec<Diagnostic>,
    dropped: usize,
}

impl Sink {
    /// A sink that has the syntax errors already.
    pub(super) fn new(syntax: Vec<Diagnostic>) -> Self {
        Self { syntax, ..Self::default() }
    }

    /// Keeps a diagnostic, or counts it.
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        // What is missing may be in the part that could not be understood.
        if diagnostic.rule == "missing-key" && !self.syntax.is_empty() {
            return;
        }
        if self.found.len() < MOST_DIAGNOSTICS {
            self.found.push(diagnostic);
        } else {
            self.dropped += 1;
        }
    }

    /// All diagnostics in the order of the text; those on a line with a syntax error follow from it and are
    /// left out.
    pub(super) fn finish(self, text: &str) -> Vec<Diagnostic> {
        let line = |at: usize| {
            let at = boundary(text, at);
            text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
        };
        let broken: std::collections::BTreeSet<usize> =
            self.syntax.iter().filter_map(Diagnostic::start).map(line).collect();
        let mut all = self.syntax;
        all.extend(self.found.into_iter().filter(|d| !d.start().is_some_and(|at| broken.contains(&line(at)))));
        all.sort_by_key(|diagnostic| (diagnostic.start(), diagnostic.severity));
        let more = self.dropped + all.len().saturating_sub(MOST_DIAGNOSTICS);
        if more > 0 {
            all.truncate(MOST_DIAGNOSTICS);
            all.push(
                Diagnostic::error(
                    "too-many",
                    format!("there are more than {MOST_DIAGNOSTICS} mistakes; {more} or more are not shown"),
                )
                .help("mend those above first"),
            );
        }
        all
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// The fields of one table.
pub(super) struct Fields<'t, 'i> {
    table: &'t DeTable<'i>,
    /// Where the table stands: its header, or its braces.
    pub(super) span: Range<usize>,
    /// What the table is called, such as `[[partition]]`.
    what: String,
    known: Vec<&'static str>,
}

impl<'t, 'i> Fields<'t, 'i> {
    /// The fields of `table`.
    pub(super) fn new(table: &'t DeTable<'i>, span: Range<usize>, what: impl Into<String>) -> Self {
        Self { table, span, what: what.into(), known: vec![] }
    }

    /// The value of a key, as it stands.
    pub(super) fn value(&mut self, key: &'static str) -> Option<At<&'t DeValue<'i>>> {
        self.known.push(key);
        self.table.get(key).map(|value| At { value: value.get_ref(), span: value.span() })
    }

    /// Whether a key is given; it stays unknown.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where the value of a key stands, if it is given.
    pub(super) fn span_of(&self, key: &str) -> Option<Range<usize>> {
        self.table.get(key).map(toml::Spanned::span)
    }

    /// Calls the table something else from now on.
    pub(super) fn rename(&mut self, what: String) {
        self.what = what;
    }

    /// Says that a key must be given.
    pub(super) fn missing(&self, sink: &mut Sink, key: &str, help: &str) {
        sink.push(
            Diagnostic::error("missing-key", format!("{} has no {key}", self.what))
                .at(self.span.clone(), format!("{key} is missing here"))
                .help(help),
        );
    }

    /// Notes where each key stands, for later diagnostics.
    pub(super) fn note(&self, spans: &mut Spans, subject: &Subject, prefix: &str) {
        for (key, value) in self.table {
            if self.known.contains(&key.get_ref().as_ref()) {
                let span = key.span().start.min(value.span().start)..value.span().end;
                // A table by header has its keys elsewhere; its own place is the header.
                let span = if matches!(value.get_ref(), DeValue::Table(_)) { value.span() } else { span };
                spans.note(subject, &format!("{prefix}{}", key.get_ref()), span);
            }
        }
    }

    /// Reports every key that was not asked for. `elsewhere` says why some of them are not here.
    pub(super) fn finish(self, sink: &mut Sink, elsewhere: &[(&str, &str)]) {
        for (key, _) in self.table {
            let word = key.get_ref().as_ref();
            if self.known.contains(&word) {
                continue;
            }
            if let Some((_, why)) = elsewhere.iter().find(|(other, _)| *other == word) {
                let message = format!("{} has no key {}: {why}", self.what, shown(word));
                sink.push(Diagnostic::error("unknown-key", message).at(key.span(), "remove this"));
                continue;
            }
            let mut diagnostic = Diagnostic::error("unknown-key", format!("{} has no key {}", self.what, shown(word)));
            diagnostic = match nearest(word, self.known.iter().copied()) {
                Some(near) => diagnostic.at(key.span(), format!("did you mean {near}?")),
                None => diagnostic.at(key.span(), "not known here").help(format!("it has {}", self.known.join(", "))),
            };
            sink.push(diagnostic);
        }
    }

    fn wrong_type(&self, sink: &mut Sink, key: &str, found: &At<&DeValue<'_>>, expected: &str) {
        sink.push(
            Diagnostic::error("wrong-type", format!("{key} of {} is {expected}", self.what))
                .at(found.span.clone(), format!("this is {}", with_article(found.value.type_str()))),
        );
    }

    /// A text.
    pub(super) fn text(&mut self, sink: &mut Sink, key: &'static str, expected: &str) -> Option<At<&'t str>> {
        let found = self.value(key)?;
        match found.value.as_str() {
            Some(value) => Some(At { value, span: found.span }),
            None => {
                self.wrong_type(sink, key, &found, expected);
                None
            }
        }
    }

    /// A text that `read` understands; `rule` names what is wrong when it does not.
    pub(super) fn read<T, E: std::fmt::Display>(
        &mut self,
        sink: &mut Sink,
        key: &'static str,
        rule: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<At<T>> {
        let text = self.text(sink, key, expected)?;
        match read(text.value) {
            Ok(value) => Some(At { value, span: text.span }),
            Err(error) => {
                sink.push(Diagnostic::error(rule, error.to_string()).at(text.span, format!("{key} is {expected}")));
                None
            }
        }
    }

    /// A name.
    pub(super) fn name(&mut self, sink: &mut Sink, key: &'static str) -> Option<At<Name>> {
        self.read(sink, key, "bad-name", "a name in quotes, such as \"db-1\"", |text| Name::new(text))
    }

    /// A size, bytes.
    pub(super) fn size(&mut self, sink: &mut Sink, key: &'static str) -> Option<At<u64>> {
        self.read(sink, key, "bad-size", "a size in quotes, such as \"512MiB\"", parse_size)
    }

    /// A duration, milliseconds.
    pub(super) fn duration(&mut self, sink: &mut Sink, key: &'static str) -> Option<At<u32>> {
        self.read(sink, key, "bad-duration", "a duration in quotes, such as \"5s\"", parse_duration_ms)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        sink: &mut Sink,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<At<T>> {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let expected = words.join(" or ");
        let text = self.text(sink, key, &expected)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text.value) {
            return Some(At { value: *value, span: text.span });
        }
        let message = format!("{key} of {} cannot be {}; it is {expected}", self.what, shown(text.value));
        let hint = nearest(text.value, choices.iter().map(|(word, _)| *word));
        let hint = hint.map_or_else(|| "no such choice".into(), |near| format!("did you mean \"{near}\"?"));
        sink.push(Diagnostic::error("bad-choice", message).at(text.span, hint));
        None
    }

    /// A truth value.
    pub(super) fn truth(&mut self, sink: &mut Sink, key: &'static str) -> Option<At<bool>> {
        let found = self.value(key)?;
        match found.value.as_bool() {
            Some(value) => Some(At { value, span: found.span }),
            None => {
                self.wrong_type(sink, key, &found, "true or false, without quotes");
                None
            }
        }
    }

    /// A whole number within `range`.
    pub(super) fn number(&mut self, sink: &mut Sink, key: &'static str, range: RangeInclusive<u32>) -> Option<At<u32>> {
        let found = self.value(key)?;
        let (low, high) = (range.start(), range.end());
        let Some(digits) = found.value.as_integer() else {
            self.wrong_type(sink, key, &found, &format!("a whole number from {low} to {high}"));
            return None;
        };
        let value = i128::from_str_radix(digits.as_str(), digits.radix()).ok().and_then(|n| u32::try_from(n).ok());
        match value.filter(|n| range.contains(n)) {
            Some(value) => Some(At { value, span: found.span }),
            None => {
                sink.push(
                    Diagnostic::error("out-of-range", format!("{key} of {} is out of range", self.what))
                        .at(found.span, format!("a whole number from {low} to {high}")),
                );
                None
            }
        }
    }

    /// Processing units: a number of processors, in steps of 0.001.
    pub(super) fn units(&mut self, sink: &mut Sink, key: &'static str) -> Option<At<Units>> {
        let found = self.value(key)?;
        let number = match found.value {
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix()).ok().map(|n| n as f64),
            DeValue::Float(digits) => digits.as_str().parse::<f64>().ok(),
            _ => {
                self.wrong_type(sink, key, &found, "a number of processing units, such as 0.4");
                return None;
            }
        };
        let thousandths = number.map(|n| n * 1000.0).filter(|n| n.is_finite() && (1.0..=65_536_000.0).contains(n));
        match thousandths {
            Some(n) if (n - n.round()).abs() < 1e-6 => {
                Some(At { value: Units::from_thousandths(n.round() as u32), span: found.span })
            }
            Some(_) => {
                let message = format!("{key} of {} is finer than processing units are", self.what);
                sink.push(Diagnostic::error("out-of-range", message).at(found.span, "units come in steps of 0.001"));
                None
            }
            None => {
                let message = format!("{key} of {} is out of range", self.what);
                sink.push(Diagnostic::error("out-of-range", message).at(found.span, "0.001 is the least"));
                None
            }
        }
    }

    /// A table.
    pub(super) fn table(&mut self, sink: &mut Sink, key: &'static str, what: &str) -> Option<Fields<'t, 'i>> {
        let found = self.value(key)?;
        match found.value.as_table() {
            Some(table) => Some(Fields::new(table, found.span, what)),
            None => {
                self.wrong_type(sink, key, &found, "a table, such as { key = value }");
                None
            }
        }
    }

    /// An array of tables, at most `most`.
    pub(super) fn tables(&mut self, sink: &mut Sink, key: &'static str, most: usize) -> Vec<Fields<'t, 'i>> {
        let Some(found) = self.value(key) else { return vec![] };
        let header = format!("[[{key}]]");
        if let Some(table) = found.value.as_table() {
            let message = format!("{key} is declared as a single table");
            sink.push(Diagnostic::error("wrong-type", message).at(found.span.clone(), format!("write {header}")));
            return vec![Fields::new(table, found.span, header)];
        }
        let Some(array) = found.value.as_array() else {
            self.wrong_type(sink, key, &found, &format!("one or more tables, each under {header}"));
            return vec![];
        };
        if array.len() > most {
            let message = format!("there are {} of {header}, at most {most} are supported", array.len());
            sink.push(Diagnostic::error("too-many-items", message).at(found.span.clone(), ""));
        }
        let mut tables = vec![];
        for item in array.iter().take(most) {
            match item.get_ref().as_table() {
                Some(table) => tables.push(Fields::new(table, item.span(), header.clone())),
                None => self.wrong_type(sink, key, &At { value: item.get_ref(), span: item.span() }, &header),
            }
        }
        tables
    }
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}
