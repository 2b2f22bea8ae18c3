//! A kernel's modules, and in what order they must be loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::{Error, cpio::Archive};

/// The modules of one kernel, as `modules.dep` and `modules.builtin` list them.
///
/// Formats: `modules.dep(5)`; Linux, `Documentation/kbuild/kbuild.rst` on `modules.builtin`.
#[derive(Debug)]
pub struct Modules {
    directory: PathBuf,
    release: String,
    /// Name of a module: its file and the names it needs directly or not.
    files: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Reads the lists in `directory`, the `/lib/modules/RELEASE` of a kernel.
    ///
    /// # Errors
    /// [`Error::File`] if a list cannot be read.
    pub fn read(directory: &Path, release: &str) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).map_err(Error::file("read", path))
        };
        Ok(Self::parse(directory, release, &read("modules.dep")?, &read("modules.builtin")?))
    }

    fn parse(directory: &Path, release: &str, dependencies: &str, builtin: &str) -> Self {
        let files = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| {
                (name_of(file), (file.trim().to_owned(), needs.split_whitespace().map(name_of).collect()))
            })
            .collect();
        let builtin = builtin.lines().map(name_of).collect();
        Self { directory: directory.to_owned(), release: release.to_owned(), files, builtin }
    }

    /// The kernel's release, as `uname -r` prints it.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The files (relative to the directory) of `wanted` and all they need, each after what it needs.
    /// What is built into the kernel has no file.
    ///
    /// # Errors
    /// [`Error::Module`] if the kernel has one of them neither as module nor built in.
    pub fn in_order(&self, wanted: &[&str]) -> Result<Vec<&str>, Error> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        // Depth first without recursion: a module is written when all it needs has been.
        let mut stack: Vec<(String, bool)> =
            wanted.iter().rev().map(|module| (module.replace('-', "_"), false)).collect();
        while let Some((module, needs_written)) = stack.pop() {
            let Some((file, needs)) = self.files.get(&module) else {
                if self.builtin.contains(&module) {
                    continue;
                }
                return Err(Error::Module { module, release: self.release.clone() });
            };
            if needs_written {
                order.push(file.as_str());
            } else if seen.insert(module.clone()) {
                stack.push((module, true));
                stack.extend(needs.iter().rev().map(|need| (need.clone(), false)));
            }
        }
        Ok(order)
    }

    /// Puts `wanted` and what they need into an initial ramdisk, with a `modules.dep` of just these,
    /// so that `modprobe` finds them there.
    ///
    /// # Errors
    /// [`Error::Module`], [`Error::File`] and [`Error::Archive`].
    pub fn put_into(&self, archive: &mut Archive, wanted: &[&str]) -> Result<(), Error> {
        let root = format!("/lib/modules/{}", self.release);
        let mut dependencies = String::new();
        for file in self.in_order(wanted)? {
            let path = self.directory.join(file);
            let content = std::fs::read(&path).map_err(Error::file("read", path))?;
            archive.file(&format!("{root}/{file}"), 0o644, &content)?;
            let needs = self.in_order(&[&name_of(file)])?;
            let needs: Vec<_> = needs.into_iter().filter(|need| *need != file).rev().collect();
            dependencies.push_str(&format!("{file}: {}\n", needs.join(" ")));
        }
        archive.file(&format!("{root}/modules.dep"), 0o644, dependencies.as_bytes())?;
        Ok(())
    }
}

/// `kernel/arch/x86/kvm/kvm-amd.ko` is the module `kvm_amd`.
fn name_of(file: &str) -> String {
    let base = file.trim().rsplit('/').next().unwrap_or_default();
    base.split('.').next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
kernel/arch/x86/kvm/kvm-amd.ko: kernel/arch/x86/kvm/kvm.ko kernel/drivers/crypto/ccp/ccp.ko
kernel/arch/x86/kvm/kvm.ko: kernel/virt/lib/irqbypass.ko
kernel/virt/lib/irqbypass.ko:
kernel/drivers/crypto/ccp/ccp.ko: kernel/drivers/char/hw_random/rng-core.ko
kernel/drivers/char/hw_random/rng-core.ko:
kernel/drivers/net/tun.ko:
";

    fn modules() -> Modules {
        Modules::parse(Path::new("/none"), "6.1.0-1", DEPENDENCIES, "kernel/fs/proc/proc.ko\n")
    }

    #[test]
    fn a_module_comes_after_all_it_needs_and_once() {
        let modules = modules();
        let order = modules.in_order(&["kvm-amd", "tun", "kvm"]).unwrap();
        let names: Vec<_> = order.iter().map(|file| name_of(file)).collect();
        assert_eq!(names, ["irqbypass", "kvm", "rng_core", "ccp", "kvm_amd", "tun"]);
    }

    #[test]
    fn what_is_built_in_needs_no_file() {
        assert!(modules().in_order(&["proc"]).unwrap().is_empty());
    }

    #[test]
    fn a_module_that_the_kernel_lacks_is_named() {
        let error = modules().in_order(&["kvm-amd", "no-such"]).unwrap_err().to_string();
        assert!(error.contains("no_such") && error.contains("6.1.0-1"), "{error}");
    }

    #[test]
    fn a_circle_in_the_list_ends() {
        let modules = Modules::parse(Path::new("/none"), "1", "a.ko: b.ko\nb.ko: a.ko\n", "");
        assert_eq!(modules.in_order(&["a"]).unwrap(), ["b.ko", "a.ko"]);
    }
}
