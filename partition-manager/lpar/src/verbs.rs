//! The verbs that ask and answer.

mod audit;
mod change;
mod control;
mod events;
mod explain;
mod look;
mod offline;
mod plan;

pub use audit::audit;
pub use change::{apply, diff, set};
pub use control::{activate, service, shutdown, wait};
pub use events::{events, line as event_line};
pub use explain::explain;
pub use look::{devices, host_interrupts, interrupts, ls, partitions_table, show, stat};
pub use offline::{check, doctor};
pub use plan::plan;

use crate::failure::Outcome;
use serde::Serialize;
use std::io::Write;

/// Prints a value as JSON.
///
/// # Errors
/// When it cannot be written.
pub fn json(value: &impl Serialize) -> Outcome {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

/// Prints text. A reader who left is no error: it has what it wanted.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub fn print(text: &str) -> Outcome {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).context("cannot write to standard output").into())
        }
        _ => Ok(()),
    }
}
