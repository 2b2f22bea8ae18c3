//! Files that are there whole or not at all.

use crate::failure::{Outcome, refuse};
use anyhow::Context;
use std::io::Write;
use std::path::Path;

/// Writes `what`, a picture or a report, to `path`.
///
/// # Errors
/// When it cannot be written; then nothing is left, and what was there before is.
pub fn write(path: &Path, bytes: &[u8], what: &str) -> Outcome {
    let shown = path.display();
    let name = path.file_name().with_context(|| format!("{shown} names no file"))?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&beside, path));
    if let Err(error) = written {
        // It is not there if it could not be made.
        let _ = std::fs::remove_file(&beside);
        refuse!("the {what} cannot be written to {shown}: {error}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plan.svg");
        write(&path, b"one", "picture").unwrap();
        write(&path, b"two", "picture").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let entries = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(entries, 1, "nothing is left beside it");
        let error = write(&directory.path().join("no/plan.svg"), b"x", "picture").unwrap_err().to_string();
        assert!(error.contains("no/plan.svg") && error.contains("No such file"), "{error}");
        // A directory cannot be replaced, and what was written beside it goes.
        std::fs::create_dir(directory.path().join("d")).unwrap();
        write(&directory.path().join("d"), b"x", "picture").unwrap_err();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
