//! What `tests/testbed/provision` made ready: kernels and busybox, taken apart in a cache folder.

use std::path::{Path, PathBuf};

use crate::{Error, modules::Modules};

/// The cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// One of Debian's kernels.
#[derive(Debug)]
pub struct Kernel {
    /// The compressed image (bzImage).
    pub image: PathBuf,
    /// Its modules.
    pub modules: Modules,
}

impl Cache {
    /// The folder that the environment names: `BULKHEAD_TESTBED_CACHE`, else
    /// `bulkhead/testbed` in `XDG_CACHE_HOME` or `~/.cache`.
    ///
    /// # Errors
    /// [`Error::NotProvisioned`] if there is no such folder.
    pub fn find() -> Result<Self, Error> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = set("BULKHEAD_TESTBED_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("bulkhead/testbed")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/bulkhead/testbed")))
            .ok_or_else(|| Error::NotProvisioned { what: "no cache folder is named by HOME".to_owned() })?;
        Self::open(&root)
    }

    /// The cache at `root`.
    ///
    /// # Errors
    /// [`Error::NotProvisioned`] if it is no directory.
    pub fn open(root: &Path) -> Result<Self, Error> {
        if root.is_dir() {
            Ok(Self { root: root.to_owned() })
        } else {
            Err(Error::NotProvisioned { what: format!("there is no folder {}", root.display()) })
        }
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The kernel that the emulated machine runs, with KVM in it.
    ///
    /// # Errors
    /// [`Error::NotProvisioned`] and [`Error::File`].
    pub fn host_kernel(&self) -> Result<Kernel, Error> {
        self.kernel("host")
    }

    /// The stock kernel that partitions boot.
    ///
    /// # Errors
    /// [`Error::NotProvisioned`] and [`Error::File`].
    pub fn guest_kernel(&self) -> Result<Kernel, Error> {
        self.kernel("guest")
    }

    /// The statically linked busybox.
    ///
    /// # Errors
    /// [`Error::NotProvisioned`] if it is not there.
    pub fn busybox(&self) -> Result<PathBuf, Error> {
        self.part("busybox", "busybox")
    }

    fn kernel(&self, part: &str) -> Result<Kernel, Error> {
        let image = self.part(part, "vmlinuz")?;
        let release_file = self.part(part, "release")?;
        let release = std::fs::read_to_string(&release_file).map_err(Error::file("read", &release_file))?;
        let release = release.trim();
        let modules = Modules::read(&self.root.join(part).join("lib/modules").join(release), release)?;
        Ok(Kernel { image, modules })
    }

    /// A part is put in place as a whole, with its manifest: without one it is not ours.
    fn part(&self, part: &str, file: &str) -> Result<PathBuf, Error> {
        let directory = self.root.join(part);
        let path = directory.join(file);
        if directory.join("manifest").is_file() && path.is_file() {
            Ok(path)
        } else {
            Err(Error::NotProvisioned { what: format!("there is no {}", path.display()) })
        }
    }
}
