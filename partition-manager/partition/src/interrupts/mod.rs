//! Interrupt routing: from a device's line or message to the partition's interrupt controllers.

pub mod doorbells;
pub mod ioapic;
pub mod lapic;
pub mod message;
pub mod pins;
pub mod routes;
