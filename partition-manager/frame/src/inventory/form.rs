//! How an inventory is written in JSON, and what of it is refused before it is built.
//!
//! A set of CPUs is short to write and long to keep, so the sets of caches are counted while they are read.

use super::*;

/// Most CPUs that all caches together may list: each CPU once for each level and kind.
const MOST_LISTED: usize = MOST_CPUS * MOST_LEVELS as usize * 3;

/// An inventory as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    cpus: Vec<Cpu>,
    nodes: Vec<Node>,
    #[serde(default)]
    caches: Vec<CacheForm>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    guards: Vec<Guard>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheForm {
    level: u8,
    kind: CacheKind,
    size: u64,
    #[serde(default)]
    line: u32,
    #[serde(default)]
    ways: u32,
    cpus: String,
}

impl TryFrom<Form> for Inventory {
    type Error = InventoryError;

    fn try_from(form: Form) -> Result<Self, InventoryError> {
        let Form { cpus, nodes, caches, devices, guards } = form;
        let mut listed = 0usize;
        let mut read = |(index, form): (usize, CacheForm)| {
            let CacheForm { level, kind, size, line, ways, cpus } = form;
            let refuse = |why: String| InventoryError::Cache { index, level, kind, why };
            let cpus = CpuSet::parse(&cpus).map_err(|error| refuse(error.to_string()))?;
            listed = listed.saturating_add(cpus.len());
            if listed > MOST_LISTED {
                return Err(refuse("the caches up to this one list more CPUs than a host has".into()));
            }
            Ok(Cache { level, kind, size, line, ways, cpus })
        };
        let caches = caches.into_iter().enumerate().map(&mut read).collect::<Result<_, _>>()?;
        Ok(Self { cpus, nodes, caches, devices, guards })
    }
}
