//! Confinement of partitions by control groups: version 2, and version 1 where a host still has that.
//!
//! (Linux, Documentation/admin-guide/cgroup-v2.rst and Documentation/admin-guide/cgroup-v1/.) Each
//! partition has one group in each hierarchy that is used: `bulkhead/FRAME.ROOT/PARTITION`, where `ROOT`
//! tells two roots with frames of one name apart. The groups are no daemon's: daemons come and go.

pub mod group;
pub mod hierarchy;
pub mod limits;
pub mod share;
