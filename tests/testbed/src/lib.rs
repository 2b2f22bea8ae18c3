//! The testbed: a full KVM on a machine that has none.
//!
//! QEMU in software emulation runs Debian's kernel with nested SVM, so that in it the real `kvm-amd`
//! serves `/dev/kvm`. [`Testbed::boot`] starts it with an initial ramdisk of our own and gives a shell.

pub mod agent;
pub mod base64;
pub mod bounded;
mod busybox;
pub mod cache;
pub mod cpio;
mod error;
pub mod guest;
pub mod host;
pub mod modules;
pub mod program;
pub mod qemu;
pub mod skips;
mod testbed;
mod unpacked;

pub use agent::Output;
pub use error::Error;
pub use testbed::{BINARIES, Options, Testbed, install_bulkhead};
