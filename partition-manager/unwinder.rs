//! For build scripts: the binary carries its unwinder, instead of having the loader find and prepare one at each start.
//!
//! `libgcc_s` costs a program of a few milliseconds a tenth of its time: besides its pages it asks the processor what it
//! can do, and where there is a hypervisor below, each question is an exit. A linker takes a library's name for a script
//! where it finds one (ld(1), "implicit linker scripts"); this one names the unwinder's archive, which every GCC has
//! beside its library.

use std::path::Path;
use std::process::Command;
use std::{env, fs, io};

/// Has the linker take the unwinder from the archive, where there is one and its format is known.
pub fn carry(directory: &Path) -> io::Result<()> {
    println!("cargo:rerun-if-changed=../unwinder.rs");
    let is_gnu = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|environment| environment == "gnu");
    if is_gnu && has_archive() {
        fs::write(directory.join("libgcc_s.so"), "INPUT(-lgcc_eh)\n")?;
        println!("cargo:rustc-link-search=native={}", directory.display());
    }
    Ok(())
}

/// The compiler that links names the archive's path, or no more than its name where it has none.
fn has_archive() -> bool {
    let linker = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    let said = Command::new(linker).arg("-print-file-name=libgcc_eh.a").output();
    said.is_ok_and(|said| Path::new(String::from_utf8_lossy(&said.stdout).trim()).is_file())
}
