//! PCI: the root complex, configuration space, message-signalled interrupts, and what freezes a function.

pub mod config;
pub mod freeze;
pub mod msix;
pub mod root;
pub mod storms;
