//! Local APICs and I/O APIC in user space: `interrupts = "emulated"`, as virtual machines had it before hardware and
//! kernels helped. KVM only injects what it is told.

use super::board::{Board, Route};
use super::chip::Chip;
use crate::devices::pci::msix::Vector;
use crate::vm::VmError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The controllers.
#[derive(Debug)]
pub struct Emulated {
    pub(crate) board: Arc<Board>,
    pub(super) chip: Arc<Chip>,
    vectors: AtomicU32,
}

impl Emulated {
    pub(super) fn new(ids: &[u8]) -> Arc<Self> {
        let board = Board::new(ids);
        Arc::new(Self { chip: Chip::new(Arc::clone(&board) as _), board, vectors: AtomicU32::new(0) })
    }

    /// A way for messages, of which there are as many as KVM routes in the other modes.
    pub(super) fn vector(&self) -> Result<Box<dyn Vector>, VmError> {
        if self.vectors.fetch_add(1, Ordering::Relaxed) >= super::routes::MOST_MESSAGES {
            return Err(VmError::Table("one more message-signalled interrupt"));
        }
        Ok(Box::new(Route::new(Arc::clone(&self.board))))
    }

    /// A processor ended the level-triggered interrupt with `vector`.
    pub(crate) fn end(&self, vector: u8) {
        self.chip.end(vector);
    }
}
