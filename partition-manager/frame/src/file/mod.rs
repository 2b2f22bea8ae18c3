//! The frame file: TOML text read into a [`Frame`], with every mistake reported at its place.
//!
//! Reading never stops at the first mistake. The text is parsed with recovery, walked into plain types, and
//! the rules that span several declarations are checked on what was understood. Host facts come in as data:
//! [`check`] for files, [`findings`] for a plan. Included files come from a [`Library`], which the caller
//! brings.
//!
//! `[defaults]` stand below each `[[partition]]` of their file, key by key and deep: what a partition leaves
//! out is looked up there. `count` makes a pattern of a partition, with `{n}` for the number in its name,
//! paths and command lines.

mod boot;
pub mod check;
mod device;
mod fields;
mod include;
mod json;
mod near;
mod network;
mod parse;
mod partition;
mod pattern;
mod processors;
mod render;
mod rules;
mod sink;
mod sources;
mod spans;
#[cfg(test)]
mod tests;
mod walk;

#[cfg(feature = "schema")]
pub(crate) use device::MOST_DISKS;
#[cfg(feature = "schema")]
pub(crate) use network::MOST_SWITCHES;

pub use include::{Alone, Included, Library, Remembered, Unavailable};
pub use json::json;
pub use render::{Style, render, render_styled};
pub use sources::{Source, Sources};
pub use spans::{Spans, findings};

use crate::declare::Frame;
use crate::diagnostic::{Diagnostic, any_error};
use crate::rule;
use std::path::Path;

/// Largest frame file or included file, bytes: 10,000 partitions, each written out in 400 bytes.
pub const LARGEST_FILE: usize = 4 << 20;
/// Largest sum of a frame file and all that it includes, bytes.
pub const LARGEST_SUM: usize = 16 << 20;
/// Most files that a frame includes.
pub const MOST_INCLUDED: usize = 1000;
/// How deep included files can include others.
pub const DEEPEST_INCLUDE: usize = 8;
/// Most diagnostics of one file; what is beyond is counted.
pub const MOST_DIAGNOSTICS: usize = 100;
/// Most partitions of one frame.
pub const MOST_PARTITIONS: usize = 65_535;
/// Most pools of one frame.
pub const MOST_POOLS: usize = 1024;
/// Most bytes of all paths and command lines of a frame, with numbers and defaults put in.
pub const MOST_TEXT: usize = 64 << 20;
/// Most memory of one partition, bytes: what 46 bits of guest-physical address reach.
pub const MOST_MEMORY: u64 = 1 << 46;
/// Longest kernel command line, bytes, without its final zero (Linux, arch/x86/include/asm/setup.h).
pub const LONGEST_CMDLINE: usize = 2047;
/// Longest path, bytes (Linux, PATH_MAX less its final zero).
pub const LONGEST_PATH: usize = 4095;

/// What came of reading a frame file.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The frame, its paths beginning at the directory of the frame file; none when there is an error.
    pub frame: Option<Frame>,
    /// Where in the texts everything is declared.
    pub spans: Spans,
    /// Every mistake and warning, in the order of the texts.
    pub diagnostics: Vec<Diagnostic>,
    /// The texts: the frame file, and what it includes.
    pub sources: Sources,
}

/// Reads a frame file that stands alone.
#[must_use]
pub fn read(text: &str) -> Reading {
    read_bytes("frame.toml", Path::new("frame.toml"), text.as_bytes(), &mut Alone)
}

/// Reads a frame file from bytes that may be anything, and the files that it includes from `library`.
///
/// `label` is what people call the file; `identity` is what it is, as [`Included::identity`].
#[must_use]
pub fn read_bytes(label: &str, identity: &Path, bytes: &[u8], library: &mut dyn Library) -> Reading {
    if bytes.len() > LARGEST_FILE {
        let message = format!("the file has {} bytes or more; a frame file has at most {LARGEST_FILE}", bytes.len());
        return Reading::failed(label, Diagnostic::of(rule::FILE_TOO_LARGE, message));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = line_of(bytes, error.valid_up_to());
            let message = format!("the file is not UTF-8: a byte in line {line} begins no character");
            return Reading::failed(label, Diagnostic::of(rule::NOT_UTF8, message));
        }
    };
    let mut sink = sink::Sink::default();
    let mut gathered = walk::Gathered::new();
    let (mut shelf, opened) = include::Shelf::new(label, identity, text, library);
    shelf.read(&opened, &[], &mut gathered, &mut sink);
    let (frame, spans) = gathered.finish(&mut sink);
    let sources = shelf.sources;
    let diagnostics = sink.finish(&sources);
    let frame = (!any_error(&diagnostics)).then_some(frame);
    Reading { frame, spans, diagnostics, sources }
}

/// The line, from 1, that a byte is in.
fn line_of(bytes: &[u8], at: usize) -> usize {
    bytes.get(..at).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count() + 1
}

impl Reading {
    fn failed(label: &str, diagnostic: Diagnostic) -> Self {
        let (spans, sources) = (Spans::default(), Sources::one(label, ""));
        Self { frame: None, spans, diagnostics: vec![diagnostic], sources }
    }
}
