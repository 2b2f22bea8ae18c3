//! The frame in force: read from its file once, and kept for whoever comes later.

use crate::clock;
use crate::errors::Error;
use crate::store::{AppliedText, Store};
use frame::declare::Frame;
use frame::file::{Included, LARGEST_FILE, Library, Reading, Remembered, Unavailable, read_bytes, render};
use frame::root::Root;
use os::regular::{self, RegularError};
use std::path::Path;

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

/// Puts a frame in force and tells the manager of it: the one that `file` declares, or without `file` the one
/// that was in force before, with what was changed of it since.
///
/// # Errors
/// When the file cannot be read or has mistakes, when nothing was applied before, or when it cannot be kept.
pub fn apply(root: &Root, file: Option<&Path>, store: Option<&mut Store>) -> Result<Frame, Error> {
    let frame = match (file, store) {
        (Some(file), store) => {
            let (text, frame) = load(file)?;
            if let Some(store) = store {
                store.apply(&text, clock::wall())?;
            }
            frame
        }
        // The manager may have been told of changes since a file was applied.
        (None, store) => match (handed_over(root), store.map(|store| store.applied()).transpose()) {
            (Ok(frame), _) => frame,
            (Err(_), Ok(Some(Some(text)))) => recall(text)?,
            (Err(_), Err(error)) => return Err(error.into()),
            (Err(error), Ok(_)) => return Err(error),
        },
    };
    let json = serde_json::to_vec_pretty(&frame).map_err(|source| Error::Json { what: "the frame", source })?;
    let path = root.applied_frame();
    // What stands there already needs no room: on a full disk a service processor can still be replaced.
    if std::fs::read(&path).is_ok_and(|there| there == json) {
        return Ok(frame);
    }
    os::private::replace(&path, &json).map_err(Error::file("write", &path))?;
    Ok(frame)
}

/// Reads a frame file and what it includes, and keeps all texts: what is in force does not change when a file
/// does.
fn load(file: &Path) -> Result<(AppliedText, Frame), Error> {
    let read = regular::read(file, LARGEST_FILE).map_err(|error| match error {
        RegularError::Unreadable(source) => Error::file("read", file)(source),
        RegularError::Missing => Error::file("find", file)(std::io::ErrorKind::NotFound.into()),
        RegularError::Kind(_) => Error::file("read", file)(std::io::Error::other(error.to_string())),
    })?;
    let path = read.path;
    let reading = read_bytes(&path.to_string_lossy(), &path, &read.bytes, &mut Files { directory: directory(&path) });
    let text = reading.sources.iter().next().map(|source| source.text.to_string()).unwrap_or_default();
    let included = reading.sources.included().map(|source| (source.path.clone(), source.text.to_string())).collect();
    let frame = understand(reading, &path)?;
    Ok((AppliedText { path, text, included }, frame))
}

/// Reads what was kept of a frame file.
fn recall(applied: AppliedText) -> Result<Frame, Error> {
    let AppliedText { path, text, included } = applied;
    let reading = read_bytes(&path.to_string_lossy(), &path, text.as_bytes(), &mut Remembered(included));
    understand(reading, &path)
}

fn understand(reading: Reading, path: &Path) -> Result<Frame, Error> {
    match reading.frame {
        Some(frame) => Ok(frame.with_paths_from(directory(path))),
        None => {
            let shown = render(&reading.diagnostics, &reading.sources);
            Err(Error::Mistakes { path: path.to_owned(), shown })
        }
    }
}

/// The frame in force, as the manager is told of it.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn handed_over(root: &Root) -> Result<Frame, Error> {
    let path = root.applied_frame();
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NothingApplied { state: root.state.clone() });
        }
        Err(error) => return Err(Error::file("read", path)(error)),
    };
    serde_json::from_slice(&bytes).map_err(|error| Error::file("understand", path)(error.into()))
}

fn directory(file: &Path) -> &Path {
    file.parent().unwrap_or_else(|| Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::declare::Boot;
    use std::path::PathBuf;

    const TEXT: &str = r#"
        [frame]
        name = "t"
        reserved = { cpus = 0 }
        [[pool]]
        name = "default"
        cpus = 1
        [[partition]]
        name = "a"
        processors = { mode = "shared", pool = "default", desired = 1, units = { minimum = 0.1, desired = 0.1, maximum = 0.1 }, sharing = "capped" }
        memory = { desired = "64MiB" }
        boot = { kernel = "k/vmlinuz", initrd = "/abs/initrd", cmdline = "" }
    "#;

    struct Place {
        _directory: tempfile::TempDir,
        root: Root,
        file: PathBuf,
    }

    fn place(text: &str) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::under(directory.path());
        std::fs::create_dir_all(&root.run).unwrap();
        std::fs::create_dir_all(&root.state).unwrap();
        let file = directory.path().join("f.toml");
        std::fs::write(&file, text).unwrap();
        Place { file: file.canonicalize().unwrap(), _directory: directory, root }
    }

    #[test]
    fn what_was_applied_stays_in_force() {
        let place = place(TEXT);
        let mut store = Store::open(&place.root.event_database()).unwrap();
        let first = apply(&place.root, Some(&place.file), Some(&mut store)).unwrap();
        let Boot::Kernel { kernel, initrd, .. } = &first.partitions[0].boot else { panic!("{first:?}") };
        assert_eq!(*kernel, place.file.parent().unwrap().join("k/vmlinuz"));
        assert_eq!(initrd.as_deref(), Some(Path::new("/abs/initrd")));
        let told: Frame = serde_json::from_slice(&std::fs::read(place.root.applied_frame()).unwrap()).unwrap();
        assert_eq!(told, first);
        // The file changes, the frame does not until somebody applies it.
        std::fs::write(&place.file, "nonsense").unwrap();
        assert_eq!(apply(&place.root, None, Some(&mut store)).unwrap(), first);
        // Nor when the database is lost.
        assert_eq!(apply(&place.root, None, None).unwrap(), first);
        // What the manager was told since stays as well.
        let mut changed = first.clone();
        changed.partitions[0].availability_priority = 9;
        std::fs::write(place.root.applied_frame(), serde_json::to_vec(&changed).unwrap()).unwrap();
        assert_eq!(apply(&place.root, None, Some(&mut store)).unwrap(), changed);
        // If that is lost, what the file said.
        std::fs::remove_file(place.root.applied_frame()).unwrap();
        assert_eq!(apply(&place.root, None, Some(&mut store)).unwrap(), first);
    }

    #[test]
    fn what_was_included_stays_in_force_too() {
        let (head, tenants) = TEXT.split_at(TEXT.find("[[partition]]").unwrap());
        let place = place(&format!("include = [\"sub/tenants.toml\"]\n{head}"));
        let sub = place.file.parent().unwrap().join("sub");
        std::fs::create_dir(&sub).unwrap();
        std::fs::write(sub.join("tenants.toml"), tenants).unwrap();
        let mut store = Store::open(&place.root.event_database()).unwrap();
        let first = apply(&place.root, Some(&place.file), Some(&mut store)).unwrap();
        let Boot::Kernel { kernel, .. } = &first.partitions[0].boot else { panic!("{first:?}") };
        assert_eq!(*kernel, sub.join("k/vmlinuz"));
        std::fs::remove_dir_all(&sub).unwrap();
        std::fs::remove_file(place.root.applied_frame()).unwrap();
        assert_eq!(apply(&place.root, None, Some(&mut store)).unwrap(), first);
        assert!(apply(&place.root, Some(&place.file), Some(&mut store)).is_err());
        assert_eq!(apply(&place.root, None, Some(&mut store)).unwrap(), first);
    }

    #[test]
    fn mistakes_are_shown_and_nothing_is_applied() {
        let place = place(&TEXT.replace("desired = 1,", "desired = 1, wrong = 2,"));
        let mut store = Store::open(&place.root.event_database()).unwrap();
        let error = apply(&place.root, Some(&place.file), Some(&mut store)).unwrap_err().to_string();
        assert!(error.contains("wrong") && error.contains("f.toml"), "{error}");
        assert_eq!(store.applied().unwrap(), None);
        assert!(!place.root.applied_frame().exists());
        assert!(matches!(apply(&place.root, None, Some(&mut store)), Err(Error::NothingApplied { .. })));
    }
}
