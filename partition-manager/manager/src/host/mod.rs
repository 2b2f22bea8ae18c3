//! The host: what it has, what it can do, what it lacks.

pub mod audit;
pub mod inventory;
pub mod jail;
pub mod kvm;
pub mod network;
pub mod work;

use crate::cgroup;
use frame::api::HostReport;

/// Looks at the host and changes nothing.
///
/// # Errors
/// [`inventory::InventoryError`] when the host does not even say what it has.
pub fn report() -> Result<HostReport, inventory::InventoryError> {
    let inventory = inventory::here()?;
    let (kvm, mut lacks) = kvm::probe();
    let (cgroup, groups) = cgroup::hierarchy::probe();
    lacks.extend(groups);
    lacks.extend(network::lacks());
    lacks.extend(jail::lacks());
    if !inventory.nodes.iter().any(|node| node.huge_pages.iter().any(|pages| pages.total > 0)) {
        lacks.push(
            "no huge pages are set aside: memory comes in pages of 4 KiB; write to /proc/sys/vm/nr_hugepages to have some"
                .into(),
        );
    }
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    Ok(HostReport { inventory, kvm, cgroup, kernel, lacks })
}
