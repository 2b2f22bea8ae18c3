//! Builds the diagnostics payload: a freestanding program that the `partition` binary carries.
//!
//! No target for bare machines needs to be installed: the compiler that builds the crate builds the payload,
//! for the same target, without its standard library and with the payload's own linker script.

#[path = "../unwinder.rs"]
mod unwinder;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let home = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let sources = home.join("diagnostics");
    let shared = home.join("../frame/src/platform.rs");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", sources.display());
    println!("cargo:rerun-if-changed={}", shared.display());
    for entry in fs::read_dir(&sources)? {
        println!("cargo:rerun-if-changed={}", entry?.path().display());
    }
    let directory = PathBuf::from(variable("OUT_DIR")?);
    unwinder::carry(&directory)?;
    build(&home, &sources, &directory.join("diagnostics.elf"))
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}; this script is run by cargo")))
}

fn build(home: &Path, sources: &Path, image: &Path) -> io::Result<()> {
    let script = sources.join("link.ld");
    let mut compiler = Command::new(variable("RUSTC")?);
    compiler
        .arg(sources.join("main.rs"))
        .args(["--crate-name=diagnostics", "--crate-type=bin", "--edition=2024"])
        .arg(format!("--target={}", variable("TARGET")?))
        .arg(format!("--remap-path-prefix={}=.", home.display()))
        .args(["-Cpanic=abort", "-Copt-level=2", "-Clto=fat", "-Ccodegen-units=1", "-Cstrip=symbols"])
        .args(["-Crelocation-model=static", "-Ctarget-cpu=x86-64", "-Ctarget-feature=+crt-static"])
        .args(["-Cdefault-linker-libraries=no", "-Clink-arg=-nostdlib", "-Clink-arg=-nostartfiles"])
        .args(["-Clink-arg=-static", "-Clink-arg=-no-pie", "-Clink-arg=-Wl,--build-id=none"])
        .args(["-Clink-arg=-Wl,-z,max-page-size=4096", "-Clink-arg=-Wl,-z,noexecstack"])
        .arg(format!("-Clink-arg=-Wl,-T,{}", script.display()))
        .arg("-o")
        .arg(image);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        compiler.arg(format!("-Clinker={linker}"));
    }
    let status = compiler.status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("the diagnostics payload was not built: {compiler:?} ended with {status}")))
}
