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
mod steering;
mod topology;

use harness::Shape;
use std::process::ExitCode;

/// What most tests run on: with one CPU, interrupts of other CPUs cannot disturb the emulator (see `harness`).
const ONE: Shape = Shape { sockets: 1, cores: 1 };
const SEVERAL: Shape = Shape { sockets: 1, cores: 4 };
const NODES: Shape = Shape { sockets: 2, cores: 2 };

fn main() -> ExitCode {
    harness::run(&[
        ("host", SEVERAL, host::TESTS),
        ("steering", SEVERAL, steering::TESTS),
        ("kernels", ONE, kernels::TESTS),
        ("linux", ONE, linux::TESTS),
        ("devices", ONE, devices::TESTS),
        ("network", ONE, network::TESTS),
        ("topology", ONE, topology::FLOATING),
        ("topology", NODES, topology::PLACED),
    ])
}
