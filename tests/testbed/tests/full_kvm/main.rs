//! Tests in a full KVM: the testbed is booted once, and each test gets it in turn.
//!
//! To add a test, write a function `fn(&mut Testbed) -> anyhow::Result<()>` in the module of its subject and
//! name it in that module's `TESTS`. [`harness::skip`] says that it cannot run on this machine.

mod console;
mod devices;
mod harness;
mod host;
mod kernels;
mod linux;
mod network;
mod topology;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::run(&[
        ("host", 1, host::TESTS),
        ("kernels", 1, kernels::TESTS),
        ("linux", 1, linux::TESTS),
        ("devices", 1, devices::TESTS),
        ("network", 1, network::TESTS),
        ("topology", 2, topology::TESTS),
    ])
}
