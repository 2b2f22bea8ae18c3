//! An initial ramdisk: a `newc` cpio archive.
//!
//! Format: Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;

/// Value of the `mode` field that says directory (`S_IFDIR`).
const DIRECTORY: u32 = 0o040_000;
/// Value of the `mode` field that says regular file (`S_IFREG`).
const REGULAR: u32 = 0o100_000;
/// Value of the `mode` field that says symbolic link (`S_IFLNK`).
const SYMLINK: u32 = 0o120_000;
/// Value of the `mode` field that says character device (`S_IFCHR`).
const CHARACTER: u32 = 0o020_000;

/// Why an entry cannot be put into an archive.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The path is empty, relative, or climbs out with `..`.
    #[error("`{0}` cannot be put into an initial ramdisk: give an absolute path without `.` and `..`")]
    Path(String),
    /// The content does not fit the format's 32-bit size field.
    #[error("`{path}` has {size} bytes; an initial ramdisk takes at most 4294967295 in one file")]
    TooLarge {
        /// Path of the file inside the archive.
        path: String,
        /// Its size in bytes.
        size: usize,
    },
}

/// An archive being written. Parent directories come by themselves, and equal input gives equal bytes.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the directory `path` and its parents; one that is there already is left as it is.
    ///
    /// # Errors
    /// [`Error::Path`] if the path is not absolute and plain.
    pub fn directory(&mut self, path: &str) -> Result<(), Error> {
        let inner = inner_path(path)?;
        self.make_directories(inner);
        Ok(())
    }

    /// Adds a regular file with permission bits `mode` (such as `0o755`).
    ///
    /// # Errors
    /// [`Error::Path`] and [`Error::TooLarge`].
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), Error> {
        let inner = self.prepare(path)?;
        self.entry(inner, REGULAR | (mode & 0o7777), (0, 0), content)
    }

    /// Adds a symbolic link at `path` that points to `target`.
    ///
    /// # Errors
    /// [`Error::Path`] and [`Error::TooLarge`].
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), Error> {
        let inner = self.prepare(path)?;
        self.entry(inner, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device with permission bits `mode`.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<(), Error> {
        let inner = self.prepare(path)?;
        self.entry(inner, CHARACTER | (mode & 0o7777), (major, minor), &[])
    }

    /// Ends the archive and gives its bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.record("TRAILER!!!", 0, 1, (0, 0), 0, &[]);
        self.bytes
    }

    fn prepare<'a>(&mut self, path: &'a str) -> Result<&'a str, Error> {
        let inner = inner_path(path)?;
        if let Some((parent, _)) = inner.rsplit_once('/') {
            self.make_directories(parent);
        }
        Ok(inner)
    }

    fn make_directories(&mut self, inner: &str) {
        let ends = inner.match_indices('/').map(|(end, _)| end).chain([inner.len()]);
        for end in ends {
            let directory = &inner[..end];
            if self.directories.insert(directory.to_owned()) {
                self.entries += 1;
                self.record(directory, DIRECTORY | 0o755, 2, (0, 0), 0, &[]);
            }
        }
    }

    fn entry(&mut self, inner: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<(), Error> {
        let size = u32::try_from(content.len())
            .map_err(|_| Error::TooLarge { path: format!("/{inner}"), size: content.len() })?;
        self.entries += 1;
        self.record(inner, mode, 1, device, size, content);
        Ok(())
    }

    /// One header of thirteen 8-digit hexadecimal fields, the name and the content, each padded to 4 bytes.
    fn record(&mut self, name: &str, mode: u32, links: u32, device: (u32, u32), size: u32, content: &[u8]) {
        // The trailer has no inode; the names are ours and short, so their length fits.
        let inode = if mode == 0 { 0 } else { self.entries };
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

/// The path as the archive holds it: without the leading slash.
fn inner_path(path: &str) -> Result<&str, Error> {
    let inner = path.strip_prefix('/').ok_or_else(|| Error::Path(path.to_owned()))?;
    let plain = !inner.is_empty() && inner.len() < 4096 && inner.split('/').all(|p| !matches!(p, "" | "." | ".."));
    if plain { Ok(inner) } else { Err(Error::Path(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode, device number, content.
    type Entry = (String, u32, (u32, u32), Vec<u8>);

    /// Reads an archive back as the kernel's `init/initramfs.c` does.
    fn read(mut bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let total = bytes.len();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            assert_eq!((total - bytes.len()) % 4, 0, "headers start at multiples of 4");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + index * 8..14 + index * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let device = (field(9), field(10));
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0, "names end with a zero byte");
            let start = (110 + name_size).next_multiple_of(4);
            let end = (start + size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(bytes.len(), end);
                return entries;
            }
            entries.push((name, mode, device, bytes[start..start + size].to_vec()));
            bytes = &bytes[end..];
        }
    }

    #[test]
    fn every_kind_of_entry_reads_back() {
        let mut archive = Archive::new();
        archive.file("/bin/tool", 0o755, b"12345").unwrap();
        archive.symlink("/bin/sh", "tool").unwrap();
        archive.directory("/proc").unwrap();
        archive.character_device("/dev/console", 0o600, 5, 1).unwrap();
        let entries = read(&archive.finish());
        let expected = [
            ("bin", 0o040_755, (0, 0), &b""[..]),
            ("bin/tool", 0o100_755, (0, 0), b"12345"),
            ("bin/sh", 0o120_777, (0, 0), b"tool"),
            ("proc", 0o040_755, (0, 0), b""),
            ("dev", 0o040_755, (0, 0), b""),
            ("dev/console", 0o020_600, (5, 1), b""),
        ];
        assert_eq!(entries.len(), expected.len());
        for (entry, (name, mode, device, content)) in entries.iter().zip(expected) {
            assert_eq!((entry.0.as_str(), entry.1, entry.2, entry.3.as_slice()), (name, mode, device, content));
        }
    }

    #[test]
    fn a_parent_is_written_once_and_before_its_children() {
        let mut archive = Archive::new();
        archive.file("/a/b/c", 0o644, b"").unwrap();
        archive.file("/a/b/d", 0o644, b"").unwrap();
        let names: Vec<_> = read(&archive.finish()).into_iter().map(|entry| entry.0).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d"]);
    }

    #[test]
    fn a_path_that_is_not_absolute_and_plain_is_refused() {
        for path in ["", "/", "a", "/a/", "//a", "/a/../b", "/./a"] {
            assert_eq!(Archive::new().file(path, 0o644, b""), Err(Error::Path(path.to_owned())), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn contents_of_any_length_survive(contents in proptest::collection::vec(proptest::collection::vec(0u8.., 0..40), 0..8)) {
            let mut archive = Archive::new();
            for (index, content) in contents.iter().enumerate() {
                archive.file(&format!("/{}", "n".repeat(index + 1)), 0o600, content).unwrap();
            }
            let read: Vec<_> = read(&archive.finish()).into_iter().map(|entry| entry.3).collect();
            proptest::prop_assert_eq!(read, contents);
        }
    }
}
