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

    /// The stock kernel of a version and flavour, such as `6.1` and `cloud` or `standard`: that of the emulated
    /// machine or of the partitions if it is one of these, else one fetched for itself.
    ///
    /// # Errors
    /// [`Error::NotProvisioned`] if there is none, and [`Error::File`].
    pub fn kernel_of(&self, version: &str, flavour: &str) -> Result<Kernel, Error> {
        let own = format!("kernel-{version}-{flavour}");
        for part in ["host", "guest", own.as_str()] {
            let Ok(path) = self.part(part, "package") else { continue };
            let package = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
            if is_kernel(&package, version, flavour) {
                return self.kernel(part);
            }
        }
        Err(Error::NotProvisioned { what: format!("there is no {flavour} kernel {version}") })
    }

    /// memtest86+ as Linux's boot protocol loads it.
    ///
    /// # Errors
    /// [`Error::NotProvisioned`] if it is not there.
    pub fn memtest(&self) -> Result<PathBuf, Error> {
        self.part("memtest", "memtest.bin")
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

/// Whether `package`, a kernel package's name and version, is one of `version` and `flavour`.
fn is_kernel(package: &str, version: &str, flavour: &str) -> bool {
    let name = package.split_whitespace().next().unwrap_or_default();
    let of_flavour = match flavour {
        "standard" => !["-cloud-", "-rt-"].iter().any(|other| name.contains(other)),
        other => name.contains(&format!("-{other}-")),
    };
    of_flavour && name.starts_with(&format!("linux-image-{version}."))
}

#[cfg(test)]
mod tests {
    use super::is_kernel;

    #[test]
    fn a_kernel_package_tells_its_version_and_flavour() {
        let cloud = "linux-image-6.12.9+deb12-cloud-amd64 6.12.9-1\n";
        assert!(is_kernel(cloud, "6.12", "cloud"));
        assert!(!is_kernel(cloud, "6.12", "standard"));
        assert!(!is_kernel(cloud, "6.1", "cloud"));
        assert!(is_kernel("linux-image-6.1.0-56-amd64 6.1.192-2\n", "6.1", "standard"));
        assert!(!is_kernel("busybox-static 1:1.35", "6.1", "standard"));
    }
}
