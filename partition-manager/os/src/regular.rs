//! Regular files that somebody names: read without ever waiting, and no further than asked for.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regular {
    /// Its canonical path.
    pub path: PathBuf,
    /// What is in it; one byte more than was asked for when there is more.
    pub bytes: Vec<u8>,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RegularError {
    /// Nothing is there.
    #[error("is not there")]
    Missing,
    /// It is there, but cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
    /// It is something else; what it is.
    #[error("is {0}, not a file")]
    Kind(&'static str),
}

/// Reads the file at `path`, at most `most` bytes and one.
///
/// A pipe, a device or a socket is never opened: that can wait, or do something.
///
/// # Errors
/// [`RegularError`].
pub fn read(path: &Path, most: usize) -> Result<Regular, RegularError> {
    let why = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => RegularError::Missing,
        _ => RegularError::Unreadable(error),
    };
    let path = std::fs::canonicalize(path).map_err(why)?;
    check(&std::fs::metadata(&path).map_err(why)?)?;
    // Something else may stand there by now; without waiting it does no harm to see what.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(why)?;
    check(&file.metadata().map_err(why)?)?;
    let mut bytes = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(RegularError::Unreadable)?;
    Ok(Regular { path, bytes })
}

fn check(metadata: &std::fs::Metadata) -> Result<(), RegularError> {
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(RegularError::Kind(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        std::fs::write(&file, b"12345").unwrap();
        std::os::unix::fs::symlink(&file, directory.path().join("link")).unwrap();
        let read_file = read(&directory.path().join("link"), 3).unwrap();
        assert_eq!((read_file.bytes.as_slice(), read_file.path.file_name()), (&b"1234"[..], file.file_name()));
        assert_eq!(read(&file, 5).unwrap().bytes, b"12345");
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        let kind = |path: &Path| match read(path, 1) {
            Err(RegularError::Kind(kind)) => kind,
            other => panic!("{other:?}"),
        };
        assert_eq!((kind(&pipe), kind(directory.path())), ("a pipe", "a directory"));
        assert_eq!(kind(Path::new("/dev/zero")), "a device");
        assert!(matches!(read(&directory.path().join("none"), 1), Err(RegularError::Missing)));
        assert!(matches!(read(&file.join("below"), 1), Err(RegularError::Missing)));
    }
}
