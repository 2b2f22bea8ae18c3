//! The ground floor of Bulkhead: what is declared, what the host has, what is owned, what is decided.
//!
//! Pure functions over plain data. Nothing here knows files, threads, KVM or clocks, so every rule about
//! partitions can be tested without a host, on machines of any size.

pub mod adapter;
pub mod api;
pub mod assignment;
pub mod audit;
pub mod change;
pub mod code;
pub mod cpuset;
pub mod declare;
pub mod device;
pub mod device_row;
pub mod diagnostic;
pub mod event;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "schema")]
pub mod form;
pub mod guard;
pub mod image;
pub mod interrupt;
pub mod inventory;
pub mod jail;
pub mod ladder;
pub mod latency;
pub mod launch;
pub mod lifecycle;
pub mod mac;
pub mod name;
pub mod plan;
pub mod platform;
pub mod record;
pub mod root;
pub mod rule;
pub mod set;
pub mod state;
pub mod steer;
pub mod step;
pub mod storm;
pub mod topology;
pub mod units;
pub mod vsock;
pub mod wire;
