//! The ground floor of Bulkhead: what is declared, what the host has, what is owned, what is decided.
//!
//! Pure functions over plain data. Nothing here knows files, threads, KVM or clocks, so every rule about
//! partitions can be tested without a host, on machines of any size.

pub mod cpuset;
pub mod declare;
pub mod name;
pub mod platform;
pub mod units;
