//! The partition manager: who owns what on the host, and what is done about it.
//!
//! It finds places, opens, activates, adopts and reclaims. What is done about faults is not decided here,
//! and the inside of a guest is none of its business.

pub mod cgroup;
pub mod clock;
pub mod descriptors;
pub mod driver;
pub mod host;
pub mod journal;
pub mod memory;
pub mod message;
pub mod outbox;
pub mod poller;
pub mod record;
pub mod registers;
pub mod server;
pub mod spawn;
