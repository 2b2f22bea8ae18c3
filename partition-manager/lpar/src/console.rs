//! A console session: a terminal, or a pipe, joined to the console of a partition.

mod escape;
mod session;

use crate::daemons::{Daemon, of, patiently};
use crate::failure::{Outcome, refuse};
use crate::roots;
use frame::api::PartitionDetail;
use frame::name::Name;
use session::{End, Session};
use std::io::IsTerminal;

/// Joins standard input and output to the console of `partition`.
///
/// # Errors
/// When the console cannot be had, or closes by itself.
pub fn run(common: &crate::arguments::Common, partition: &Name, force: bool, history: bool) -> Outcome {
    let root = roots::running(common)?;
    let manager = Daemon::manager(&root);
    let path = of(partition, if force { "/console?force=true" } else { "/console" });
    let stream = patiently(|| manager.client().upgrade(&path, "console"))?;
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && !history;
    let session = Session::begin(stream, terminal, history)?;
    if terminal {
        crate::failure::say!("console of {partition}; Enter, then ~ and . leave it\r");
        idle(&manager, partition);
    }
    let end = session.run()?;
    match end {
        End::Left | End::InputEnded | End::OutputClosed => Ok(()),
        End::Closed => refuse!(
            "the console of {partition} was closed: another session took it over, or the partition manager was replaced; run `lpar console {partition}` again"
        ),
        End::Signal(signal) => refuse!("signal {signal} ended the session"),
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
