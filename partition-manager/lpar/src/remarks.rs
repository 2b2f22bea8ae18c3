//! The supervisor's remarks: on standard error, or above a live table, which they would tear otherwise.

use crate::failure::say;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Most remarks that wait to be shown; more are dropped.
const MOST_WAITING: usize = 64;

/// Where remarks go.
#[derive(Clone, Debug)]
pub enum Remarks {
    /// To standard error.
    Stderr,
    /// To whoever draws the table.
    Table(SyncSender<String>),
}

impl Remarks {
    /// Remarks for a table, and the end at which the table takes them.
    #[must_use]
    pub fn for_table() -> (Self, Receiver<String>) {
        let (sender, receiver) = sync_channel(MOST_WAITING);
        (Self::Table(sender), receiver)
    }

    /// Makes a remark. Never waits.
    pub fn say(&self, remark: String) {
        match self {
            Self::Stderr => say!("{remark}"),
            Self::Table(table) => {
                // A table that does not draw any more has no reader.
                let _ = table.try_send(remark);
            }
        }
    }
}
