//! What the service processor knows of its manager, kept for the one that replaces it.

use crate::errors::Error;
use os::process::Identity;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The manager that was started last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which process it is.
    pub manager: Identity,
    /// How often a manager was replaced since the frame came up.
    pub replaced: u64,
    /// Whether a manager of this frame was ever ready.
    pub ready: bool,
}

impl Record {
    /// Reads the record at `path`; none when there is none of this boot, or it cannot be read: then no
    /// manager is known.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        let record: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let boot = os::process::boot_id().ok()?;
        (record.manager.boot == boot).then_some(record)
    }

    /// Writes the record to `path`.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text =
            serde_json::to_vec(self).map_err(|source| Error::Json { what: "the surveillance record", source })?;
        os::private::replace(path, &text).map_err(Error::file("write", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_and_is_of_this_boot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        assert_eq!(Record::read(&path), None);
        let own = Identity::of(std::process::id()).unwrap();
        let record = Record { manager: own, replaced: 3, ready: true };
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path), Some(record.clone()));
        let other = Record { manager: Identity { boot: "another".into(), ..record.manager }, ..record };
        other.write(&path).unwrap();
        assert_eq!(Record::read(&path), None);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Record::read(&path), None);
    }
}
