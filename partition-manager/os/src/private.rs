//! Directories of a frame: made for whoever runs it, and used only when nobody else can change what is in them.

use rustix::fs::Mode;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What everybody but the owner and the group may do with what is made: nothing; and the group may not write.
const MASK: u32 = 0o027;
/// Whoever may write in a directory, beyond its owner and its group (`inode(7)`).
const OTHERS_WRITE: u32 = 0o002;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// The host refused.
    #[error("cannot make the directory {}", .path.display())]
    System {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else could put other files in place of the frame's.
    #[error(
        "the directory {} belongs to user {user}, who could put other files in place of the frame's; remove it, or choose another --root",
        .path.display()
    )]
    Another {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        user: u32,
    },
    /// Everybody could.
    #[error(
        "everybody may write in the directory {}, and could put other files in place of the frame's; run `chmod o-w` on it, or choose another --root",
        .0.display()
    )]
    ForAll(PathBuf),
}

/// Keeps what this process and its children make from now on from the eyes of others than its user and group,
/// and from the hands of others than its user (`umask(2)`). To be called while there is one thread.
pub fn mask() {
    let before = rustix::process::umask(Mode::from_raw_mode(MASK));
    rustix::process::umask(before | Mode::from_raw_mode(MASK));
}

/// Makes the directory at `path` and those above it where they are missing, and checks that it is this user's or
/// the superuser's, and not open to everybody.
///
/// # Errors
/// [`PrivateError`].
pub fn make(path: &Path) -> Result<(), PrivateError> {
    let failed = |source| PrivateError::System { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o777 & !MASK).create(path).map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    // A link counts as well as what it leads to: its owner decides where that is.
    for found in [std::fs::symlink_metadata(path), std::fs::metadata(path)] {
        let found = found.map_err(failed)?;
        if found.uid() != own && found.uid() != 0 {
            return Err(PrivateError::Another { path: path.to_owned(), user: found.uid() });
        }
        if found.is_dir() && found.mode() & OTHERS_WRITE != 0 {
            return Err(PrivateError::ForAll(path.to_owned()));
        }
    }
    Ok(())
}

/// Puts `bytes` in place of the file at `path`, which is the old or the new one at every moment.
///
/// # Errors
/// When it cannot be written; then the old one stands, if there was one.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // It is not there if it could not be made.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_directory_that_others_can_change_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o027, 0);
        make(&path).unwrap();
        symlink(&path, directory.path().join("link")).unwrap();
        make(&directory.path().join("link")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        for open in [&path, &directory.path().join("link")] {
            let error = make(open).unwrap_err().to_string();
            assert!(error.contains("everybody may write") && error.contains("chmod o-w"), "{error}");
        }
        std::fs::write(directory.path().join("file"), "").unwrap();
        assert!(matches!(make(&directory.path().join("file")), Err(PrivateError::System { .. })));
    }

    #[test]
    fn a_directory_of_another_user_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        make(&path).unwrap();
        // Only the superuser can give a directory away; for others, one that is not theirs is hard to come by.
        if std::os::unix::fs::chown(&path, Some(65_534), None).is_ok() {
            assert!(matches!(make(&path), Err(PrivateError::Another { user: 65_534, .. })));
            // A link to a good directory that another can turn elsewhere.
            let link = directory.path().join("link");
            symlink(directory.path(), &link).unwrap();
            std::os::unix::fs::lchown(&link, Some(65_534), None).unwrap();
            assert!(matches!(make(&link), Err(PrivateError::Another { .. })));
        }
    }
}
