//! A frame file with all that can be said of it before anything is made.

use crate::failure::{Failure, Outcome, refuse};
use crate::show::plain;
use frame::assignment::Assignment;
use frame::change::keep_numbers;
use frame::declare::Frame;
use frame::diagnostic::{Diagnostic, Severity, any_error};
use frame::file::check::{FileFact, FileFacts, Purpose, against, files, sockets};
use frame::file::{
    Included, LARGEST_FILE, Library, Reading, Style, Unavailable, findings, json, read_bytes, render_styled,
};
use frame::image;
use frame::inventory::Inventory;
use frame::name::Name;
use frame::plan::{Plan, Subject, plan};
use frame::root::Root;
use frame::rule::Rule;
use os::regular::{self, RegularError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Most warnings of one rule that are shown one by one.
const MOST_ALIKE: usize = 4;

/// The files of the host, as a frame file in `directory` includes them.
struct Files<'d> {
    directory: &'d Path,
}

impl Library for Files<'_> {
    fn read(&mut self, path: &Path, most: usize) -> Result<Included, Unavailable> {
        match regular::read(&self.directory.join(path), most) {
            Ok(file) => Ok(Included { identity: file.path, bytes: file.bytes }),
            Err(RegularError::Missing) => Err(Unavailable::Missing),
            Err(RegularError::Unreadable(error)) => Err(Unavailable::Unreadable(error.to_string())),
            Err(RegularError::Kind(kind)) => Err(Unavailable::NoFile(kind.into())),
        }
    }
}

/// A frame file that was read.
#[derive(Debug)]
pub struct Declaration {
    /// The file as it was named.
    label: String,
    /// Its absolute path.
    path: PathBuf,
    reading: Reading,
}

impl Declaration {
    /// Reads the frame file at `path` and looks at the files that it names.
    ///
    /// # Errors
    /// When the file itself cannot be read; its mistakes are diagnostics.
    pub fn load(path: &Path) -> Outcome<Self> {
        let file = match regular::read(path, LARGEST_FILE) {
            Ok(file) => file,
            Err(RegularError::Unreadable(error)) => {
                return Err(anyhow::Error::from(error)
                    .context(format!("cannot read the frame file {}", path.display()))
                    .into());
            }
            Err(error) => refuse!("the frame file {} {error}", path.display()),
        };
        let absolute = file.path;
        let directory = absolute.parent().unwrap_or_else(|| Path::new("/"));
        let label = path.to_string_lossy().into_owned();
        let mut reading = read_bytes(&label, &absolute, &file.bytes, &mut Files { directory });
        if let Some(frame) = &reading.frame {
            let facts = facts(frame, directory);
            reading.diagnostics.extend(against(frame, &reading.spans, &facts));
        }
        Ok(Self { label, path: absolute, reading })
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

    /// As [`Declaration::resolved`], for a frame that is up as `there`: partitions that have no `id` in the file keep
    /// the number that they have.
    #[must_use]
    pub fn resolved_beside(&self, there: &Frame) -> Option<Frame> {
        let mut frame = self.resolved()?;
        let spans = &self.reading.spans;
        let automatic = |name: &Name| spans.exactly(&Subject::Partition(name.clone()), "id").is_none();
        keep_numbers(there, &mut frame, &automatic);
        Some(frame)
    }

    /// Decides who gets what on `inventory`, and adds what the decision finds to the diagnostics, beside what is
    /// wrong with the files that the frame names. None when there is no frame or no plan.
    pub fn plan(&mut self, inventory: &Inventory) -> Option<Plan> {
        self.plan_against(inventory, &Assignment::new())
    }

    /// As [`Declaration::plan`], keeping what is owned now.
    pub fn plan_against(&mut self, inventory: &Inventory, owned: &Assignment) -> Option<Plan> {
        let decided = plan(self.reading.frame.as_ref()?, inventory, owned);
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

    /// Adds a diagnostic that points nowhere.
    pub fn say(&mut self, rule: &'static Rule, message: String) {
        self.reading.diagnostics.push(Diagnostic::of(rule, message));
    }

    /// Checks that the sockets of the frame can be bound at `root`.
    pub fn at_root(&mut self, root: &Root) {
        if let Some(frame) = &self.reading.frame {
            self.reading.diagnostics.extend(sockets(frame, &self.reading.spans, root));
        }
    }

    /// The diagnostics as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        json(&self.reading.diagnostics, &self.reading.sources)
    }

    /// Prints the diagnostics on standard error, as rustc does, and fails when one of them is an error.
    ///
    /// # Errors
    /// [`Failure::Said`].
    pub fn judge(&self) -> Outcome {
        let style = if std::io::stderr().is_terminal() { Style::Coloured } else { Style::Plain };
        let (first, more) = first_of_each(&self.reading.diagnostics);
        let shown = render_styled(&first, &self.reading.sources, style);
        if !shown.is_empty() {
            crate::failure::say!("{}", shown.trim_end());
        }
        say_more(&more);
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
        let (first, more) = first_of_each(&self.reading.diagnostics);
        for diagnostic in &first {
            let at = diagnostic.start().map(|start| self.reading.sources.position(start));
            let place = at.map_or_else(|| self.label.clone(), |(file, line, _)| format!("{file}:{line}"));
            crate::failure::say!("warning: {} ({})", plain(&diagnostic.message), plain(&place));
        }
        say_more(&more);
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

/// All errors and the first few warnings of each rule, and how many more there are by rule: a thousand partitions
/// would say the same thing a thousand times.
fn first_of_each(diagnostics: &[Diagnostic]) -> (Vec<Diagnostic>, BTreeMap<&'static str, usize>) {
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut first = vec![];
    for diagnostic in diagnostics {
        let count = seen.entry(diagnostic.rule).or_default();
        *count += 1;
        if diagnostic.severity == Severity::Error || *count <= MOST_ALIKE {
            first.push(diagnostic.clone());
        }
    }
    let errors = |rule: &str| diagnostics.iter().any(|one| one.rule == rule && one.severity == Severity::Error);
    seen.retain(|rule, count| *count > MOST_ALIKE && !errors(rule));
    seen.values_mut().for_each(|count| *count -= MOST_ALIKE);
    (first, seen)
}

fn say_more(more: &BTreeMap<&'static str, usize>) {
    for (rule, count) in more {
        crate::failure::say!("warning: {count} more of {rule}; `lpar check --json` has them all");
    }
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
    if purpose.is_disk() {
        return disk_fact(path, purpose);
    }
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
        (Ok(_), Purpose::Initrd | Purpose::Module | Purpose::Disk | Purpose::WritableDisk) => FileFact::Good { length },
        (Ok(_), Purpose::Kernel) => match image::identify(&head, length) {
            Ok(image) => FileFact::Kernel { length, takes_modules: image.takes_modules() },
            Err(error) => FileFact::BadImage(error),
        },
    }
}

/// What images of other formats begin with.
const FORMATS: [(&[u8], &str); 4] =
    [(b"QFI\xfb", "qcow2"), (b"KDMV", "VMDK"), (b"vhdxfile", "VHDX"), (b"conectix", "VHD")];

fn disk_fact(path: &Path, purpose: Purpose) -> FileFact {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return FileFact::Missing,
        Err(error) => return FileFact::Unreadable(error.to_string()),
    };
    if metadata.is_dir() {
        return FileFact::NoFile("a directory".into());
    }
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return FileFact::NoFile("a character device, a pipe or a socket".into());
    }
    let mut head = Vec::new();
    let opened = File::open(path).and_then(|mut file| {
        let length = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        file.take(8).read_to_end(&mut head)?;
        Ok(length)
    });
    let length = match opened {
        Ok(length) => length,
        Err(error) => return FileFact::Unreadable(error.to_string()),
    };
    if let Some((_, format)) = FORMATS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return FileFact::Format(format);
    }
    if purpose == Purpose::WritableDisk
        && let Err(error) = File::options().write(true).open(path)
    {
        return FileFact::Unwritable(error.to_string());
    }
    let identity = match metadata.file_type().is_block_device() {
        // Two nodes may stand for one device.
        true => (u64::MAX, metadata.rdev()),
        false => (metadata.dev(), metadata.ino()),
    };
    let function = metadata.file_type().is_block_device().then(|| os::pci::behind(metadata.rdev())).flatten();
    FileFact::Disk { length, identity, function }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::rule;

    #[test]
    fn warnings_that_are_alike_are_counted_and_errors_are_not() {
        let mut all = vec![Diagnostic::of(rule::AFFINITY, "far"); 10];
        all.extend(vec![Diagnostic::of(rule::UNKNOWN_KEY, "no such key"); 10]);
        all.push(Diagnostic::of(rule::OVERHEAD, "costly"));
        let (first, more) = first_of_each(&all);
        assert_eq!(first.len(), MOST_ALIKE + 10 + 1);
        assert_eq!(more, BTreeMap::from([("affinity", 10 - MOST_ALIKE)]));
    }

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
    fn included_files_belong_to_the_frame() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.toml");
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        std::fs::write(&file, "include = [\"sub/t.toml\"]\n[frame]\nname = \"f\"\n").unwrap();
        let partition = "[[partition]]\nname = \"a\"\nprocessors = { mode = \"dedicated\", desired = 1 }\nmemory = { desired = \"2MiB\" }\nboot = { kernel = \"k\" }\n";
        std::fs::write(directory.path().join("sub/t.toml"), partition).unwrap();
        let declaration = Declaration::load(&file).unwrap();
        let json = declaration.json();
        let label = directory.path().join("sub/t.toml");
        assert_eq!((json[0]["rule"].as_str(), json[0]["file"].as_str()), (Some("file-missing"), label.to_str()));
        assert_eq!((json[0]["line"].as_u64(), json[0]["claimants"][0]["column"].as_u64()), (Some(5), Some(10)));
        // Nothing is waited for, and nothing is opened that could do something.
        std::fs::remove_file(directory.path().join("sub/t.toml")).unwrap();
        let pipe = directory.path().join("sub/t.toml");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(Declaration::load(&file).unwrap().json()[0]["rule"], "include-kind");
        let error = Declaration::load(&pipe).unwrap_err().to_string();
        assert!(error.contains("a pipe"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_said() {
        let error = Declaration::load(Path::new("/nowhere/frame.toml")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/frame.toml") && error.contains("is not there"), "{error}");
    }
}
