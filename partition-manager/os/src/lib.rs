//! What the rooms need of the operating system, once: messages with descriptors, identity of processes,
//! service notifications, HTTP over Unix sockets, databases.
//!
//! Mechanism only. Nothing here knows what a partition is beyond its words in `frame`.

pub mod claim;
#[cfg(feature = "database")]
pub mod database;
pub mod empty;
#[cfg(feature = "http")]
pub mod http;
pub mod keep;
pub mod notify;
pub mod packet;
pub mod pci;
pub mod peer;
pub mod private;
pub mod process;
pub mod regular;
