//! Files that stand in memory, and places that are marked in their texts.

use frame::diagnostic::Diagnostic;
use frame::file::{Included, Library, Reading, Unavailable, read_bytes};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Marks the place to mend.
pub const HERE: char = '➊';
/// Marks the other claimant.
pub const THERE: char = '➋';

/// File, line and column.
pub type Place = (String, usize, usize);

/// Files by path; the frame file is `frame.toml`.
#[derive(Clone, Debug, Default)]
pub struct Files {
    texts: BTreeMap<PathBuf, Result<Vec<u8>, Unavailable>>,
    /// Where [`HERE`] stood.
    pub here: Option<Place>,
    /// Where [`THERE`] stood.
    pub there: Option<Place>,
}

impl Files {
    /// Files of these texts, with marks taken out and remembered.
    pub fn of(texts: &[(&str, &str)]) -> Self {
        let mut files = Self::default();
        for (path, text) in texts {
            files.add(path, text);
        }
        files
    }

    /// Adds a file.
    pub fn add(&mut self, path: &str, text: &str) {
        let mut clean = String::new();
        for c in text.chars() {
            if c != HERE && c != THERE {
                clean.push(c);
                continue;
            }
            let line = clean.matches('\n').count() + 1;
            let column = clean.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let place = Some((path.to_owned(), line, column));
            if c == HERE {
                self.here = place;
            } else {
                self.there = place;
            }
        }
        self.texts.insert(path.into(), Ok(clean.into_bytes()));
    }

    /// Puts something else at a path.
    pub fn put(&mut self, path: &str, what: Result<Vec<u8>, Unavailable>) {
        self.texts.insert(path.into(), what);
    }

    /// Reads the frame.
    pub fn read(mut self) -> Reading {
        let root = PathBuf::from("frame.toml");
        let bytes = self.texts.get(&root).cloned().and_then(Result::ok).unwrap_or_default();
        read_bytes("frame.toml", &root, &bytes, &mut self)
    }
}

impl Library for Files {
    fn read(&mut self, path: &Path, most: usize) -> Result<Included, Unavailable> {
        let mut bytes = self.texts.get(path).cloned().unwrap_or(Err(Unavailable::Missing))?;
        bytes.truncate(most + 1);
        Ok(Included { identity: path.to_owned(), bytes })
    }
}

/// File, line and column of a label.
pub fn place(reading: &Reading, at: usize) -> Place {
    let (file, line, column) = reading.sources.position(at);
    (file.to_owned(), line, column)
}

/// The rules that were broken.
pub fn broken(reading: &Reading) -> Vec<&'static str> {
    reading.diagnostics.iter().map(|diagnostic| diagnostic.rule).collect()
}

/// The places of a diagnostic that are not to be mended.
pub fn others(reading: &Reading, diagnostic: &Diagnostic) -> Vec<Place> {
    diagnostic.labels.iter().filter(|label| !label.primary).map(|label| place(reading, label.span.start)).collect()
}
