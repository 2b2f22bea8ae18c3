//! The lock that the supervisor of a running frame holds, and what is written in it.

use frame::name::Name;
use os::process::Identity;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the lock says of its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// The supervisor.
    pub supervisor: Identity,
    /// The frame that it supervises.
    pub frame: Name,
    /// The frame file that it was brought up with; absent when it only brings a frame down that was left.
    pub file: Option<PathBuf>,
    /// The service processor that it started or adopted last.
    pub service_processor: Option<Identity>,
}

impl Holder {
    /// What the lock at `path` says, whether it is held or was left; none when there is none.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read(path).ok()?;
        // One who was killed while it wrote a shorter text has left the end of the longer one behind it.
        serde_json::Deserializer::from_slice(&text).into_iter().next()?.ok()
    }

    /// Whether the supervisor runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        match self.supervisor.open() {
            // One that ended and was not waited for yet does not run.
            Ok(Some(handle)) => !handle.wait(std::time::Duration::ZERO).unwrap_or(false),
            _ => false,
        }
    }
}

/// The lock, held.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock at `path`, making the file when it is not there; none when somebody else holds it.
    ///
    /// # Errors
    /// The error of the system call that failed.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
            // Its last holder may have removed the file between the two steps; then this is a lock of nothing.
            let same = |there: &std::fs::Metadata| {
                file.metadata().map(|here| here.ino() == there.ino() && here.dev() == there.dev())
            };
            match std::fs::metadata(path) {
                Ok(there) if same(&there)? => return Ok(Some(Self { file, path: path.to_owned() })),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes who holds it.
    ///
    /// # Errors
    /// The error of the system call that failed.
    pub fn note(&mut self, holder: &Holder) -> io::Result<()> {
        let text = serde_json::to_vec(holder)?;
        self.file.rewind()?;
        self.file.write_all(&text)?;
        self.file.set_len(text.len() as u64)
    }

    /// Removes the file and gives the lock up.
    ///
    /// # Errors
    /// The error of the system call that failed.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let mut lock = Lock::take(&path).unwrap().unwrap();
        assert!(Lock::take(&path).unwrap().is_none());
        let supervisor = Identity::of(std::process::id()).unwrap();
        let mut holder = Holder {
            supervisor,
            frame: Name::new("f").unwrap(),
            file: Some("/f.toml".into()),
            service_processor: None,
        };
        holder.service_processor = Some(holder.supervisor.clone());
        lock.note(&holder).unwrap();
        assert_eq!(Holder::read(&path), Some(holder.clone()));
        holder.service_processor = None;
        lock.note(&holder).unwrap();
        assert_eq!(Holder::read(&path), Some(holder.clone()));
        assert!(holder.runs());
        let torn = [std::fs::read(&path).unwrap(), b"1}}".to_vec()].concat();
        std::fs::write(&path, torn).unwrap();
        assert_eq!(Holder::read(&path), Some(holder.clone()));
        drop(lock);
        let lock = Lock::take(&path).unwrap().unwrap();
        lock.remove().unwrap();
        assert_eq!(Holder::read(&path), None);
        holder.supervisor.start += 1;
        assert!(!holder.runs());
    }
}
