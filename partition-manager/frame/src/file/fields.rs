//! The fields of one table: typed values out of it, and a diagnostic for everything that does not suit.

use super::near::nearest;
use super::sink::Sink;
use super::spans::Keys;
use crate::diagnostic::{Diagnostic, shown};
use crate::name::{Name, NameError};
use crate::rule::{self, Rule};
use crate::units::{Units, parse_duration_ms, parse_size};
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// A table as it stands in one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer<'t, 'i> {
    table: &'t DeTable<'i>,
    /// Place of the file's first byte.
    base: usize,
    /// Directory of the file, as seen from that of the frame file.
    directory: &'t Path,
    /// Whether it only stands for what another table leaves out.
    default: bool,
}

impl<'t, 'i> Layer<'t, 'i> {
    /// A table of the file that begins at place `base` and stands in `directory`.
    pub(super) fn new(table: &'t DeTable<'i>, base: usize, directory: &'t Path) -> Self {
        Self { table, base, directory, default: false }
    }

    /// The same table, for what others leave out.
    pub(super) fn as_default(self) -> Self {
        Self { default: true, ..self }
    }

    fn get(&self, key: &str) -> Option<At<&'t DeValue<'i>>> {
        self.table.get(key).map(|value| At { value: value.get_ref(), span: self.place(value.span()) })
    }

    fn place(&self, span: Range<usize>) -> Range<usize> {
        self.base + span.start..self.base + span.end
    }
}

/// Whether a table adds to the same table of the defaults; otherwise it takes its place.
pub(super) type Merges = fn(&DeTable<'_>, &DeTable<'_>) -> bool;

/// The fields of one table, and of the defaults below it.
pub(super) struct Fields<'t, 'i> {
    /// The table, and what stands for the keys that it leaves out, nearest first.
    layers: Vec<Layer<'t, 'i>>,
    /// Where the table stands: its header, or its braces.
    pub(super) span: Range<usize>,
    /// What the table is called, such as `[[partition]]`.
    what: String,
    known: Vec<&'static str>,
}

impl<'t, 'i> Fields<'t, 'i> {
    /// The fields of the table `layer`, which stands at `span`.
    pub(super) fn new(layer: Layer<'t, 'i>, span: Range<usize>, what: impl Into<String>) -> Self {
        Self { layers: vec![layer], span, what: what.into(), known: vec![] }
    }

    /// The table itself, without what stands below it.
    pub(super) fn top(&self) -> Option<Layer<'t, 'i>> {
        self.layers.first().copied()
    }

    /// Adds what stands for the keys that the table leaves out.
    pub(super) fn with_defaults(mut self, defaults: &[Layer<'t, 'i>]) -> Self {
        self.layers.extend_from_slice(defaults);
        self
    }

    fn get(&self, key: &str) -> Option<At<&'t DeValue<'i>>> {
        self.layers.iter().find_map(|layer| layer.get(key))
    }

    /// The value of a key, as it stands.
    pub(super) fn value(&mut self, key: &'static str) -> Option<At<&'t DeValue<'i>>> {
        self.known.push(key);
        self.get(key)
    }

    /// Whether a key is given; it stays unknown.
    pub(super) fn has(&self, key: &str) -> bool {
        self.layers.iter().any(|layer| layer.table.contains_key(key))
    }

    /// Where the value of a key stands, if it is given.
    pub(super) fn span_of(&self, key: &str) -> Option<Range<usize>> {
        self.get(key).map(|found| found.span)
    }

    /// Directory of the file that gives a key, as seen from that of the frame file.
    pub(super) fn directory_of(&self, key: &str) -> Option<&'t Path> {
        self.layers.iter().find(|layer| layer.table.contains_key(key)).map(|layer| layer.directory)
    }

    /// Calls the table something else from now on.
    pub(super) fn rename(&mut self, what: String) {
        self.what = what;
    }

    /// Says that a key must be given.
    pub(super) fn missing(&self, sink: &mut Sink, key: &str, help: &str) {
        sink.push(
            Diagnostic::of(rule::MISSING_KEY, format!("{} has no {key}", self.what))
                .at(self.span.clone(), format!("{key} is missing here"))
                .help(help),
        );
    }

    /// Notes where each key stands, for later diagnostics.
    pub(super) fn note(&self, keys: &mut Keys, prefix: &str) {
        for key in &self.known {
            let found = self.layers.iter().find_map(|layer| Some((layer, layer.table.get_key_value(*key)?)));
            let Some((layer, (word, value))) = found else { continue };
            let span = word.span().start.min(value.span().start)..value.span().end;
            // A table by header has its keys elsewhere; its own place is the header.
            let span = if matches!(value.get_ref(), DeValue::Table(_)) { value.span() } else { span };
            keys.note(&format!("{prefix}{key}"), layer.place(span));
        }
    }

    /// Reports every key that was not asked for. `elsewhere` says why some of them are not here.
    pub(super) fn finish(self, sink: &mut Sink, elsewhere: &[(&str, &'static Rule, &str)]) {
        // Defaults are read once by themselves; what no partition can use is said there.
        let Some(layer) = self.layers.first().filter(|layer| !layer.default) else { return };
        for (key, _) in layer.table {
            let word = key.get_ref().as_ref();
            if self.known.contains(&word) {
                continue;
            }
            if sink.is_full() {
                sink.drop_more(1);
                continue;
            }
            let span = layer.place(key.span());
            let no_key = format!("{} has no key {}", self.what, shown(word));
            if let Some((_, rule, why)) = elsewhere.iter().find(|(other, _, _)| *other == word) {
                sink.push(Diagnostic::of(rule, format!("{no_key}: {why}")).at(span, "remove this"));
                continue;
            }
            let diagnostic = Diagnostic::of(rule::UNKNOWN_KEY, no_key);
            sink.push(match nearest(word, self.known.iter().copied()) {
                Some(near) => diagnostic.at(span, format!("did you mean {near}?")),
                None => diagnostic.at(span, "not known here").help(format!("it has {}", self.known.join(", "))),
            });
        }
    }

    fn wrong_type(&self, sink: &mut Sink, key: &str, found: &At<&DeValue<'_>>, expected: &str) {
        sink.push(
            Diagnostic::of(rule::WRONG_TYPE, format!("{key} of {} is {expected}", self.what))
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
        rule: &'static Rule,
        expected: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<At<T>> {
        let text = self.text(sink, key, expected)?;
        match read(text.value) {
            Ok(value) => Some(At { value, span: text.span }),
            Err(error) => {
                sink.push(Diagnostic::of(rule, error.to_string()).at(text.span, format!("{key} is {expected}")));
                None
            }
        }
    }

    /// A name.
    pub(super) fn name(&mut self, sink: &mut Sink, key: &'static str) -> Option<At<Name>> {
        let text = self.text(sink, key, NAME)?;
        name(text, key, sink)
    }

    /// A size, bytes.
    pub(super) fn size(&mut self, sink: &mut Sink, key: &'static str) -> Option<At<u64>> {
        self.read(sink, key, rule::BAD_SIZE, "a size in quotes, such as \"512MiB\"", parse_size)
    }

    /// A duration, milliseconds.
    pub(super) fn duration(&mut self, sink: &mut Sink, key: &'static str) -> Option<At<u32>> {
        self.read(sink, key, rule::BAD_DURATION, "a duration in quotes, such as \"5s\"", parse_duration_ms)
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
        sink.push(Diagnostic::of(rule::BAD_CHOICE, message).at(text.span, hint));
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
                    Diagnostic::of(rule::OUT_OF_RANGE, format!("{key} of {} is out of range", self.what))
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
                sink.push(Diagnostic::of(rule::UNITS_STEP, message).at(found.span, "units come in steps of 0.001"));
                None
            }
            None => {
                let message = format!("{key} of {} is out of range", self.what);
                sink.push(Diagnostic::of(rule::UNITS_RANGE, message).at(found.span, "0.001 is the least"));
                None
            }
        }
    }

    /// A table; what the defaults have for it counts where `merges` says so.
    pub(super) fn table(
        &mut self,
        sink: &mut Sink,
        key: &'static str,
        what: &str,
        merges: Merges,
    ) -> Option<Fields<'t, 'i>> {
        let found = self.value(key)?;
        let Some(top) = found.value.as_table() else {
            self.wrong_type(sink, key, &found, "a table, such as { key = value }");
            return None;
        };
        let mut layers = vec![];
        for layer in &self.layers {
            let Some(value) = layer.get(key) else { continue };
            // What hides the defaults' table hides also what is below it.
            let Some(table) = value.value.as_table().filter(|table| layers.is_empty() || merges(top, table)) else {
                break;
            };
            layers.push(Layer { table, ..*layer });
        }
        Some(Fields { layers, span: found.span, what: what.into(), known: vec![] })
    }

    /// An array of tables, at most `most`. Defaults never add to it.
    pub(super) fn tables(&mut self, sink: &mut Sink, key: &'static str, most: usize) -> Vec<Fields<'t, 'i>> {
        let Some(found) = self.value(key) else { return vec![] };
        let Some(layer) = self.layers.iter().find(|layer| layer.table.contains_key(key)).copied() else {
            return vec![];
        };
        let header = format!("[[{key}]]");
        if let Some(table) = found.value.as_table() {
            let message = format!("{key} is declared as a single table");
            sink.push(Diagnostic::of(rule::SINGLE_TABLE, message).at(found.span.clone(), format!("write {header}")));
            return vec![Fields::new(Layer { table, ..layer }, found.span, header)];
        }
        let Some(array) = found.value.as_array() else {
            self.wrong_type(sink, key, &found, &format!("one or more tables, each under {header}"));
            return vec![];
        };
        if array.len() > most {
            let message = format!("there are {} of {header}, at most {most} are supported", array.len());
            let first_beyond = array.get(most).map_or(found.span, |item| layer.place(item.span()));
            sink.push(Diagnostic::of(rule::TOO_MANY_ITEMS, message).at(first_beyond, "this is one too many"));
        }
        let mut tables = vec![];
        for item in array.iter().take(most) {
            let span = layer.place(item.span());
            match item.get_ref().as_table() {
                Some(table) => tables.push(Fields::new(Layer { table, ..layer }, span, header.clone())),
                None => self.wrong_type(sink, key, &At { value: item.get_ref(), span }, &header),
            }
        }
        tables
    }

    /// An array of whole numbers within `range`, at most `most`.
    pub(super) fn numbers(
        &mut self,
        sink: &mut Sink,
        key: &'static str,
        range: &RangeInclusive<u32>,
        most: usize,
    ) -> Vec<At<u32>> {
        let Some(found) = self.value(key) else { return vec![] };
        let base = self.layers.iter().find(|layer| layer.table.contains_key(key)).map_or(0, |layer| layer.base);
        let expected = format!("whole numbers from {} to {} in brackets", range.start(), range.end());
        let Some(array) = found.value.as_array() else {
            self.wrong_type(sink, key, &found, &expected);
            return vec![];
        };
        if array.len() > most {
            let message = format!("there are {} of {key} of {}, at most {most} are supported", array.len(), self.what);
            sink.push(Diagnostic::of(rule::TOO_MANY_ITEMS, message).at(found.span, "remove some"));
            return vec![];
        }
        let mut numbers = vec![];
        for item in array.iter() {
            let span = base + item.span().start..base + item.span().end;
            let Some(digits) = item.get_ref().as_integer() else {
                self.wrong_type(sink, key, &At { value: item.get_ref(), span }, &expected);
                continue;
            };
            let value = i128::from_str_radix(digits.as_str(), digits.radix()).ok().and_then(|n| u32::try_from(n).ok());
            match value.filter(|n| range.contains(n)) {
                Some(value) => numbers.push(At { value, span }),
                None => sink.push(
                    Diagnostic::of(rule::OUT_OF_RANGE, format!("{key} of {} is out of range", self.what))
                        .at(span, format!("a whole number from {} to {}", range.start(), range.end())),
                ),
            }
        }
        numbers
    }

    /// An array of texts.
    pub(super) fn texts(&mut self, sink: &mut Sink, key: &'static str, expected: &str) -> Vec<At<&'t str>> {
        let Some(found) = self.value(key) else { return vec![] };
        let base = self.layers.iter().find(|layer| layer.table.contains_key(key)).map_or(0, |layer| layer.base);
        let Some(array) = found.value.as_array() else {
            self.wrong_type(sink, key, &found, expected);
            return vec![];
        };
        let mut texts = vec![];
        for item in array.iter() {
            let span = base + item.span().start..base + item.span().end;
            match item.get_ref().as_str() {
                Some(value) => texts.push(At { value, span }),
                None => self.wrong_type(sink, key, &At { value: item.get_ref(), span }, expected),
            }
        }
        texts
    }
}

const NAME: &str = "a name in quotes, such as \"db-1\"";

/// Takes a text as a name.
pub(super) fn name(text: At<&str>, key: &str, sink: &mut Sink) -> Option<At<Name>> {
    match Name::new(text.value) {
        Ok(value) => Some(At { value, span: text.span }),
        Err(error) => {
            let rule = if matches!(error, NameError::TooLong(_)) { rule::NAME_TOO_LONG } else { rule::BAD_NAME };
            sink.push(Diagnostic::of(rule, error.to_string()).at(text.span, format!("{key} is {NAME}")));
            None
        }
    }
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}
