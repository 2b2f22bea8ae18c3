//! The frame file: TOML text read into a [`Frame`], with every mistake reported at its place.
//!
//! Reading never stops at the first mistake. The text is parsed with recovery, walked into plain types, and
//! the rules that span several declarations are checked on what was understood. Host facts come in as data:
//! [`check`] for files, [`findings`] for a plan.

pub mod check;
mod fields;
mod json;
mod near;
mod parse;
mod partition;
mod processors;
mod render;
mod rules;
mod spans;
#[cfg(test)]
mod tests;
mod walk;

pub use json::json;
pub use render::{Style, render, render_styled};
pub use spans::{Spans, findings};

use crate::declare::Frame;
use crate::diagnostic::{Diagnostic, any_error};

/// Largest frame file, bytes.
pub const LARGEST_FILE: usize = 1 << 20;
/// Most diagnostics of one file; what is beyond is counted.
pub const MOST_DIAGNOSTICS: usize = 100;
/// Most partitions of one frame.
pub const MOST_PARTITIONS: usize = 65_535;
/// Most pools of one frame.
pub const MOST_POOLS: usize = 1024;

/// What came of reading a frame file.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The frame; none when there is an error.
    pub frame: Option<Frame>,
    /// Where in the text everything is declared.
    pub spans: Spans,
    /// Every mistake and warning, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads a frame file.
#[must_use]
pub fn read(text: &str) -> Reading {
    if text.len() > LARGEST_FILE {
        return Reading::failed(too_large(text.len()));
    }
    let mut errors = vec![];
    let mended = parse::mend(text, &mut errors);
    let tree = parse::tree(&mended, &mut errors);
    let mut sink = fields::Sink::new(errors);
    let (frame, spans) = walk::frame(tree.get_ref(), &mut sink);
    let diagnostics = sink.finish(text);
    let frame = (!any_error(&diagnostics)).then_some(frame);
    Reading { frame, spans, diagnostics }
}

/// Reads a frame file from bytes that may be anything.
#[must_use]
pub fn read_bytes(bytes: &[u8]) -> Reading {
    if bytes.len() > LARGEST_FILE {
        return Reading::failed(too_large(bytes.len()));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => read(text),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
            Reading::failed(
                Diagnostic::error(
                    "not-utf8",
                    format!("the file is not UTF-8: a byte in line {line} begins no character"),
                )
                .help("a frame file is TOML, which is UTF-8 text; save it as such"),
            )
        }
    }
}

fn too_large(bytes: usize) -> Diagnostic {
    Diagnostic::error("file-too-large", format!("the file has {bytes} bytes; a frame file has at most {LARGEST_FILE}"))
        .help("check that this is the file you mean")
}

impl Reading {
    fn failed(diagnostic: Diagnostic) -> Self {
        Self { frame: None, spans: Spans::default(), diagnostics: vec![diagnostic] }
    }
}
