//! A console session: a terminal, or a pipe, joined to the console of a partition.

mod escape;
mod session;

use crate::daemons::{Daemon, of, patiently};
use crate::failure::{Outcome, refuse};
use crate::roots;
use anyhow::Context;
use frame::api::PartitionDetail;
use frame::device::TERMINAL;
use frame::name::Name;
use session::{End, Session};
use std::io::{ErrorKind, IsTerminal};
use std::os::unix::net::UnixStream;

/// Joins standard input and output to the console of `partition`.
///
/// # Errors
/// When the console cannot be had, or closes by itself.
pub fn run(common: &crate::arguments::Common, partition: &Name, force: bool, history: bool) -> Outcome {
    let root = roots::running(common)?;
    let manager = Daemon::manager(&root);
    let path = of(partition, if force { "/console?force=true" } else { "/console" });
    let stream = patiently(|| manager.client().upgrade(&path, "console"))?;
    let begun = || {
        crate::failure::say!("console of {partition}; Enter, then ~ and . leave it\r");
        idle(&manager, partition);
    };
    match session(stream, history, begun)? {
        End::Closed => refuse!(
            "the console of {partition} was closed: another session took it over, or the partition manager was replaced; run `lpar console {partition}` again"
        ),
        end => ended(end),
    }
}

/// Joins standard input and output to a port of the console device of `partition`.
///
/// # Errors
/// When there is no such port, or when it closes by itself.
pub fn join(common: &crate::arguments::Common, partition: &Name, port: &Name, history: bool) -> Outcome {
    let root = roots::running(common)?;
    let PartitionDetail { row, .. } = Daemon::manager(&root).get(&of(partition, ""))?;
    let path = root.console_port(partition, port);
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(_) if !row.state.is_active() => {
            refuse!("partition {partition} is in state {}: `lpar activate {partition}` starts it", row.state)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => refuse!(
            "partition {partition} has no port {port}: its console device has {TERMINAL} and those that the frame file names, such as console = {{ ports = [\"{port}\"] }}"
        ),
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", path.display()))?,
    };
    let begun = || crate::failure::say!("port {port} of {partition}; Enter, then ~ and . leave it\r");
    match session(stream, history, begun)? {
        End::Closed => {
            refuse!("port {port} of {partition} was closed: another program took it over, or the partition ended")
        }
        end => ended(end),
    }
}

/// Runs a session, which says that it has `begun` where somebody types.
fn session(stream: UnixStream, history: bool, begun: impl FnOnce()) -> anyhow::Result<End> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && !history;
    let session = Session::begin(stream, terminal, history)?;
    if terminal {
        begun();
    }
    session.run()
}

fn ended(end: End) -> Outcome {
    match end {
        End::Signal(signal) => refuse!("signal {signal} ended the session"),
        _ => Ok(()),
    }
}

/// Says that nobody reads what is typed, when nobody does.
fn idle(manager: &Daemon, partition: &Name) {
    // One that cannot be asked now says so when the console is used.
    let Ok(PartitionDetail { row, .. }) = manager.get(&of(partition, "")) else { return };
    if !row.state.is_active() {
        crate::failure::say!(
            "note: partition {partition} is in state {}: this is its history; `lpar activate {partition}` starts it\r",
            row.state
        );
    }
}
