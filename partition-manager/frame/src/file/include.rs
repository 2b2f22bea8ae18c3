//! Included files: asked for by path, and kept from going round in circles or on for ever.

use super::fields::{At, Layer};
use super::sink::Sink;
use super::sources::Sources;
use super::walk::{self, Gathered};
use super::{DEEPEST_INCLUDE, LARGEST_FILE, LARGEST_SUM, MOST_INCLUDED, boot};
use crate::diagnostic::{Diagnostic, shown};
use crate::rule;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that was included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Included {
    /// What the file is, however it was named: its canonical path.
    pub identity: PathBuf,
    /// What is in it; one byte more than was asked for when there is more.
    pub bytes: Vec<u8>,
}

/// Why a file cannot be included.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Nothing is there.
    #[error("is not there")]
    Missing,
    /// It is there, but cannot be read; the operating system's reason.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It is a directory, or another thing that is no file; what it is, such as `a directory`.
    #[error("is {0}, not a file")]
    NoFile(String),
}

/// Whoever can read the files that a frame file includes.
pub trait Library {
    /// Reads the file at `path`, which begins at the directory of the frame file unless it is absolute: at
    /// most `most` bytes and one. Never waits for a pipe or a device.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn read(&mut self, path: &Path, most: usize) -> Result<Included, Unavailable>;
}

/// A library without a file, for texts that stand alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Library for Alone {
    fn read(&mut self, _: &Path, _: usize) -> Result<Included, Unavailable> {
        Err(Unavailable::Unreadable("this text stands alone, and nothing can be included".into()))
    }
}

/// Included files that were read before, by the path that they were asked for.
#[derive(Clone, Debug, Default)]
pub struct Remembered(pub BTreeMap<PathBuf, String>);

impl Library for Remembered {
    fn read(&mut self, path: &Path, _: usize) -> Result<Included, Unavailable> {
        let text = self.0.get(path).ok_or(Unavailable::Missing)?;
        Ok(Included { identity: path.to_owned(), bytes: text.clone().into_bytes() })
    }
}

/// A file whose text is there.
pub(super) struct Opened {
    /// Its text.
    pub(super) text: Arc<str>,
    /// Place of its first byte.
    pub(super) base: usize,
    /// Its directory, as seen from that of the frame file.
    pub(super) directory: PathBuf,
    /// Whether it is the frame file itself.
    pub(super) is_root: bool,
}

/// The files that are open, and those that were.
pub(super) struct Shelf<'l> {
    library: &'l mut dyn Library,
    pub(super) sources: Sources,
    label: String,
    /// Each file and where it was included; the frame file nowhere.
    seen: BTreeMap<PathBuf, Option<Range<usize>>>,
    /// The files that include each other down to the one that is read now.
    open: Vec<PathBuf>,
    /// How many files were asked for, be it one of them many times.
    asked: usize,
    /// Bytes that may still be read.
    left: usize,
}

impl<'l> Shelf<'l> {
    /// A shelf with the frame file, which `label` shows to people.
    pub(super) fn new(label: &str, identity: &Path, text: &str, library: &'l mut dyn Library) -> (Self, Opened) {
        let sources = Sources::one(label, text);
        let opened = Opened { text: text.into(), base: 0, directory: PathBuf::new(), is_root: true };
        let shelf = Self {
            library,
            sources,
            label: label.to_owned(),
            seen: BTreeMap::from([(identity.to_owned(), None)]),
            open: vec![identity.to_owned()],
            asked: 0,
            left: LARGEST_SUM.saturating_sub(text.len()),
        };
        (shelf, opened)
    }

    /// Reads `opened` and everything that it includes.
    pub(super) fn read(
        &mut self,
        opened: &Opened,
        defaults: &[Layer<'_, '_>],
        gathered: &mut Gathered,
        sink: &mut Sink,
    ) {
        let mut include = |path: At<&str>, defaults: &[Layer<'_, '_>], gathered: &mut Gathered, sink: &mut Sink| {
            let before = self.seen.len();
            match self.take(&path, &opened.directory, sink) {
                Some((identity, included)) => {
                    self.open.push(identity);
                    self.read(&included, defaults, gathered, sink);
                    self.open.pop();
                }
                // A file that stands already among those that were read lacks nowhere.
                None if self.seen.len() == before => gathered.lacks_something(),
                None => {}
            }
        };
        walk::file(opened, defaults, gathered, sink, &mut include);
    }

    /// Takes the file that is included at `path` from the library, or says why not.
    fn take(&mut self, path: &At<&str>, directory: &Path, sink: &mut Sink) -> Option<(PathBuf, Opened)> {
        if !boot::check_path("include", path, sink) {
            return None;
        }
        let told = shown(path.value);
        let file = directory.join(path.value);
        let mut say = |rule, message: String, before: Option<Range<usize>>| {
            let mut diagnostic = Diagnostic::of(rule, message).at(path.span.clone(), "included here");
            if let Some(before) = before {
                diagnostic = diagnostic.see(before, "included first here");
            }
            sink.push(diagnostic);
            None
        };
        if self.open.len() > DEEPEST_INCLUDE {
            let message = format!("{told} is included too deep: includes nest at most {DEEPEST_INCLUDE} deep");
            return say(rule::INCLUDE_DEPTH, message, None);
        }
        // Files that are missing or included twice count as well: each is looked for.
        self.asked = self.asked.saturating_add(1);
        if self.asked > MOST_INCLUDED {
            if self.asked > MOST_INCLUDED + 1 {
                return None;
            }
            return say(rule::INCLUDE_TOO_MANY, format!("more than {MOST_INCLUDED} files are included"), None);
        }
        let most = LARGEST_FILE.min(self.left);
        let Included { identity, bytes } = match self.library.read(&file, most) {
            Ok(included) => included,
            Err(why) => {
                let rule = match &why {
                    Unavailable::Missing => rule::INCLUDE_MISSING,
                    Unavailable::Unreadable(_) => rule::INCLUDE_UNREADABLE,
                    Unavailable::NoFile(_) => rule::INCLUDE_KIND,
                };
                return say(rule, format!("the included file {told} {why}"), None);
            }
        };
        self.left -= bytes.len().min(self.left);
        if let Some(before) = self.seen.get(&identity).cloned() {
            return match self.open.contains(&identity) {
                true => {
                    say(rule::INCLUDE_CIRCLE, format!("{told} includes itself, directly or through others"), before)
                }
                false => say(rule::INCLUDE_TWICE, format!("{told} is included twice"), before),
            };
        }
        if bytes.len() > most {
            return if most < LARGEST_FILE {
                let message = format!("with {told}, the frame's files together have more than {LARGEST_SUM} bytes");
                say(rule::INCLUDE_SUM, message, None)
            } else {
                let message = format!("the included file {told} has more than {LARGEST_FILE} bytes");
                say(rule::INCLUDE_TOO_LARGE, message, None)
            };
        }
        let text: Arc<str> = match std::str::from_utf8(&bytes) {
            Ok(text) => text.into(),
            Err(error) => {
                let line = super::line_of(&bytes, error.valid_up_to());
                let message =
                    format!("the included file {told} is not UTF-8: a byte in line {line} begins no character");
                return say(rule::INCLUDE_NOT_UTF8, message, None);
            }
        };
        self.seen.insert(identity.clone(), Some(path.span.clone()));
        let label = Sources::label_beside(&self.label, &file);
        let base = self.sources.add(label, file.clone(), Arc::clone(&text));
        let directory = file.parent().unwrap_or_else(|| Path::new("")).to_owned();
        Some((identity, Opened { text, base, directory, is_root: false }))
    }
}
