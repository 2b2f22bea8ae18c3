//! The texts of a frame file and of the files that it includes, in one space of places.
//!
//! A place is a byte of all texts one after the other, so that a span says by itself which file it is in.

use crate::diagnostic::boundary;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One file's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file as it is shown to people.
    pub label: String,
    /// The file as seen from the directory of the frame file; empty for the frame file itself.
    pub path: PathBuf,
    /// Its text.
    pub text: Arc<str>,
    /// Place of its first byte.
    base: usize,
}

/// All texts that one frame was read from; the first is the frame file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// The sources of a frame that stands in one file.
    #[must_use]
    pub fn one(label: impl Into<String>, text: &str) -> Self {
        let mut sources = Self::default();
        sources.add(label.into(), PathBuf::new(), text.into());
        sources
    }

    /// Adds a file and gives the place of its first byte.
    pub(super) fn add(&mut self, label: String, path: PathBuf, text: Arc<str>) -> usize {
        // One place more than bytes, so that the end of a file is not the begin of the next.
        let base = self.0.last().map_or(0, |last| last.base + last.text.len() + 1);
        self.0.push(Source { label, path, text, base });
        base
    }

    /// Every file, the frame file first.
    pub fn iter(&self) -> std::slice::Iter<'_, Source> {
        self.0.iter()
    }

    /// The files that the frame file includes, directly or not.
    pub fn included(&self) -> impl Iterator<Item = &Source> {
        self.0.iter().skip(1)
    }

    /// Line and column of a place, both from 1, the column in characters.
    #[must_use]
    pub fn position(&self, at: usize) -> (&str, usize, usize) {
        let (index, at) = self.find(at);
        let Some(source) = self.0.get(index) else { return ("", 1, 1) };
        let (line, column) = Lines::new(&source.text).position(at);
        (&source.label, line, column)
    }

    /// The file that a place is in, by number, and the byte of its text. A place past the end is the end.
    pub(super) fn find(&self, at: usize) -> (usize, usize) {
        let index = self.0.partition_point(|source| source.base <= at).saturating_sub(1);
        let base = self.0.get(index).map_or(0, |source| source.base);
        (index, at - base.min(at))
    }

    /// The place at which the line of a place begins.
    pub(super) fn line_start(&self, at: usize) -> usize {
        let (index, inside) = self.find(at);
        let Some(source) = self.0.get(index) else { return 0 };
        let inside = boundary(&source.text, inside);
        let start = source.text.get(..inside).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
        source.base + start
    }

    /// What the frame file calls a file, for people: beside `label`, when that has a directory.
    pub(super) fn label_beside(label: &str, path: &Path) -> String {
        let beside = Path::new(label).parent().unwrap_or_else(|| Path::new(""));
        beside.join(path).to_string_lossy().into_owned()
    }
}

/// The lines of one text.
#[derive(Debug)]
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
    pub(super) fn lines(&self, span: &Range<usize>) -> Range<usize> {
        let start = span.start.min(self.source.len());
        let end = span.end.clamp(start, self.source.len());
        let last = if end > start { end - 1 } else { end };
        self.line(start)..self.line(last) + 1
    }

    /// The text of some lines and the byte it begins at, when they are at most `most`, each of at most
    /// `longest` bytes.
    pub(super) fn quote(&self, lines: &Range<usize>, most: usize, longest: usize) -> Option<(&'a str, usize)> {
        let start = self.starts.get(lines.start).copied()?;
        let end = self.starts.get(lines.end).copied().unwrap_or(self.source.len());
        let text = self.source.get(start..end)?;
        let fits = lines.len() <= most && text.lines().all(|line| line.len() <= longest);
        fits.then_some((text, start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_which_file_it_is_in() {
        let mut sources = Sources::one("a.toml", "x\ny");
        let base = sources.add("b.toml".into(), "b.toml".into(), "ä\n€z".into());
        assert_eq!(base, 4);
        assert_eq!(sources.position(2), ("a.toml", 2, 1));
        assert_eq!(sources.position(3), ("a.toml", 2, 2));
        assert_eq!(sources.position(base), ("b.toml", 1, 1));
        assert_eq!(sources.position(base + 6), ("b.toml", 2, 2));
        assert_eq!(sources.position(1000), ("b.toml", 2, 3));
        assert_eq!((sources.line_start(2), sources.line_start(base + 6)), (2, base + 3));
        assert_eq!(Sources::default().position(5), ("", 1, 1));
    }
}
