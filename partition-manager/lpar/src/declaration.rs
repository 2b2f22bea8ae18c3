//! A frame file with all that can be said of it before anything is made.

use crate::failure::{Failure, Outcome};
use crate::show::plain;
use anyhow::Context;
use frame::assignment::Assignment;
use frame::declare::Frame;
use frame::diagnostic::{Diagnostic, Severity, any_error};
use frame::file::check::{FileFact, FileFacts, Purpose, against, files};
use frame::file::{LARGEST_FILE, Reading, Style, findings, json, read_bytes, render_styled};
use frame::image;
use frame::inventory::Inventory;
use frame::plan::{Plan, plan};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

/// A frame file that was read.
#[derive(Debug)]
pub struct Declaration {
    /// The file as it was named.
    label: String,
    /// Its absolute path.
    path: PathBuf,
    text: String,
    reading: Reading,
}

impl Declaration {
    /// Reads the frame file at `path` and looks at the files that it names.
    ///
    /// # Errors
    /// When the file itself cannot be read; its mistakes are diagnostics.
    pub fn load(path: &Path) -> Outcome<Self> {
        let shown = || path.display();
        let absolute =
            std::fs::canonicalize(path).with_context(|| format!("cannot find the frame file {}", shown()))?;
        let opened = File::open(&absolute).with_context(|| format!("cannot open the frame file {}", shown()))?;
        let mut bytes = Vec::new();
        // One byte more than allowed, so that a file that is too large is seen to be.
        opened
            .take(LARGEST_FILE as u64 + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read the frame file {}", shown()))?;
        let mut reading = read_bytes(&bytes);
        if let Some(frame) = &reading.frame {
            let directory = absolute.parent().unwrap_or_else(|| Path::new("/"));
            let facts = facts(frame, directory);
            reading.diagnostics.extend(against(frame, &reading.spans, &facts));
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { label: path.to_string_lossy().into_owned(), path: absolute, text, reading })
    }

    /// Its absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The frame, when nothing is wrong with it so far.
    #[must_use]
    pub fn frame(&self) -> Option<&Frame> {
        self.reading.frame.as_ref().filter(|_| !any_error(&self.reading.diagnostics))
    }

    /// The frame as the daemons take it, every path absolute; none when something is wrong with it.
    #[must_use]
    pub fn resolved(&self) -> Option<Frame> {
        let directory = self.path.parent().unwrap_or_else(|| Path::new("/"));
        self.frame().map(|frame| frame.clone().with_paths_from(directory))
    }

    /// Decides who gets what on `inventory`, and adds what the decision finds to the diagnostics, beside what is
    /// wrong with the files that the frame names. None when there is no frame or no plan.
    pub fn plan(&mut self, inventory: &Inventory) -> Option<Plan> {
        let decided = plan(self.reading.frame.as_ref()?, inventory, &Assignment::new());
        let (plan, severity, found) = match decided {
            Ok(plan) => {
                let warnings = plan.warnings.clone();
                (Some(plan), Severity::Warning, warnings)
            }
            Err(refusals) => (None, Severity::Error, refusals),
        };
        self.reading.diagnostics.extend(findings(&found, &self.reading.spans, severity));
        plan
    }

    /// Adds a warning that points nowhere.
    pub fn warn(&mut self, rule: &'static str, message: String) {
        self.reading.diagnostics.push(Diagnostic::warning(rule, message));
    }

    /// The diagnostics as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        json(&self.reading.diagnostics, &self.text, &self.label)
    }

    /// Prints the diagnostics on standard error, as rustc does, and fails when one of them is an error.
    ///
    /// # Errors
    /// [`Failure::Said`].
    pub fn judge(&self) -> Outcome {
        let style = if std::io::stderr().is_terminal() { Style::Coloured } else { Style::Plain };
        let shown = render_styled(&self.reading.diagnostics, &self.text, &self.label, style);
        if !shown.is_empty() {
            crate::failure::say!("{}", shown.trim_end());
        }
        self.verdict()
    }

    /// Like [`Declaration::judge`], but a warning is one line: for a frame that is brought up, where it is said
    /// each time.
    ///
    /// # Errors
    /// [`Failure::Said`].
    pub fn judge_briefly(&self) -> Outcome {
        if any_error(&self.reading.diagnostics) {
            return self.judge();
        }
        for diagnostic in &self.reading.diagnostics {
            let at = diagnostic.start().map(|start| line_of(&self.text, start));
            let place = at.map_or_else(|| self.label.clone(), |line| format!("{}:{line}", self.label));
            crate::failure::say!("warning: {} ({})", plain(&diagnostic.message), plain(&place));
        }
        Ok(())
    }

    /// Fails, and says nothing, when one of the diagnostics is an error.
    ///
    /// # Errors
    /// [`Failure::Said`].
    pub fn verdict(&self) -> Outcome {
        if any_error(&self.reading.diagnostics) { Err(Failure::Said) } else { Ok(()) }
    }
}

/// The line, from 1, that a byte of a text is in.
fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// Looks at every file that the frame names.
fn facts(frame: &Frame, directory: &Path) -> FileFacts {
    files(frame)
        .into_iter()
        .map(|(path, purpose)| {
            let fact = fact(&directory.join(&path), purpose);
            ((path, purpose), fact)
        })
        .collect()
}

fn fact(path: &Path, purpose: Purpose) -> FileFact {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return FileFact::Missing,
        Err(error) => return FileFact::Unreadable(error.to_string()),
    };
    if metadata.is_dir() {
        return FileFact::NoFile("a directory".into());
    }
    if !metadata.is_file() {
        // Opening a pipe or a device can wait, or do something.
        return FileFact::NoFile("a device, a pipe or a socket".into());
    }
    let length = metadata.len();
    let mut head = Vec::new();
    let opened = File::open(path).and_then(|file| file.take(image::HEAD as u64).read_to_end(&mut head));
    match (opened, purpose) {
        (Err(error), _) => FileFact::Unreadable(error.to_string()),
        (Ok(_), Purpose::Initrd | Purpose::Module) => FileFact::Good { length },
        (Ok(_), Purpose::Kernel) => match image::identify(&head, length) {
            Ok(_) => FileFact::Good { length },
            Err(error) => FileFact::BadImage(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        std::fs::write(&file, b"no kernel at all").unwrap();
        assert!(matches!(fact(&file, Purpose::Kernel), FileFact::BadImage(_)));
        assert_eq!(fact(&file, Purpose::Initrd), FileFact::Good { length: 16 });
        assert!(matches!(fact(directory.path(), Purpose::Initrd), FileFact::NoFile(_)));
        assert!(matches!(fact(Path::new("/dev/null"), Purpose::Kernel), FileFact::NoFile(_)));
        assert_eq!(fact(&directory.path().join("missing"), Purpose::Kernel), FileFact::Missing);
    }

    #[test]
    fn lines_count_from_one() {
        let numbers: Vec<usize> = (0..4).map(|at| line_of("a\nb", at)).collect();
        assert_eq!(numbers, [1, 1, 2, 2]);
    }

    #[test]
    fn a_file_that_is_not_there_is_said() {
        let error = Declaration::load(Path::new("/nowhere/frame.toml")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/frame.toml") && error.contains("No such file"), "{error}");
    }
}
