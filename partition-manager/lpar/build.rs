//! Makes the command start sooner.

#[path = "../unwinder.rs"]
mod unwinder;

use std::path::PathBuf;
use std::{env, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    let directory = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR: this script is run by cargo"))?;
    unwinder::carry(&PathBuf::from(directory))
}
