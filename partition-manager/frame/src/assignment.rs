//! The assignment: what is owned now.
//!
//! An entry is what a plan decided when its owner was activated, kept until the owner gives it up. A plan
//! takes entries as they are: nothing that runs moves.

use crate::cpuset::CpuSet;
use crate::name::Name;
use crate::plan::PartitionPlan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is owned now, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// CPUs of each pool. A pool that no active partition lives on may still be chosen anew.
    pub pools: BTreeMap<Name, CpuSet>,
    /// What each active partition owns. A partition that is not active has no entry.
    pub partitions: BTreeMap<Name, PartitionPlan>,
}

impl Assignment {
    /// Nothing is owned: the frame has just come up.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}
