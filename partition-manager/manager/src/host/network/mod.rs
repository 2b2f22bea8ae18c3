//! Virtual Ethernet switches: bridges of the host, and the taps by which adapters are on them.
//!
//! Where the kernel's bridges filter VLANs, a switch is one bridge of its name, and each adapter one tap that carries
//! tagged frames. Elsewhere each VLAN of a switch is a bridge of its own, such as `lan.10`, and an adapter has a tap
//! on each of its VLANs. Either way a frame reaches only ports of its VLAN.
//!
//! What this frame made says so: in its alias for people and for later managers, and from the first moment in a
//! bridge's address. Taps go with the process that holds them; bridges without taps are swept.

pub mod rtnetlink;
mod tap;

use anyhow::{Context, anyhow, bail};
use frame::declare::Switch;
use frame::device::{Attachment, NetworkSpec};
use frame::mac::Mac;
use frame::name::Name;
use rtnetlink::{Link, Route, Tagging};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;

/// The VLAN that an uplink carries without tags, as ports of bridges do where nothing else is said.
const NATIVE: u16 = 1;

/// The switches of a frame.
#[derive(Debug)]
pub struct Switches {
    /// What tells this frame's from all others on the host.
    tag: String,
    /// What this host's bridges can; not known before it was asked.
    attachment: Option<Attachment>,
}

impl Switches {
    /// The switches of the frame of this tag.
    #[must_use]
    pub fn new(tag: &str) -> Self {
        Self { tag: tag.to_owned(), attachment: None }
    }

    /// How adapters are on switches of this host.
    ///
    /// # Errors
    /// When this host has no switches, and why.
    pub fn attachment(&mut self) -> anyhow::Result<Attachment> {
        if let Some(known) = self.attachment {
            return Ok(known);
        }
        let found = probe()?;
        self.attachment = Some(found);
        Ok(found)
    }

    fn alias(&self) -> String {
        format!("bulkhead {}", self.tag)
    }

    fn mac(&self, bridge: &str) -> Mac {
        Mac::derived(&[&self.tag, bridge])
    }

    fn is_own(&self, link: &Link) -> bool {
        let marked = match &link.alias {
            Some(alias) => *alias == self.alias(),
            // A manager that was killed in between had not yet written it.
            None => link.mac == Some(self.mac(&link.name)),
        };
        link.kind.as_deref() == Some("bridge") && marked
    }

    /// Makes the taps of an adapter, on the bridges of its switch: those of the first queue pair, then of the next.
    /// When it fails, nothing of the adapter stays; a bridge may, until the next [`Switches::sweep`].
    ///
    /// # Errors
    /// What could not be made, and why.
    pub fn plug(
        &mut self,
        switch: &Switch,
        spec: &NetworkSpec,
        partition: &Name,
        adapter: &Name,
    ) -> anyhow::Result<Vec<OwnedFd>> {
        let mut route = Route::open().context("the kernel's network interfaces cannot be reached")?;
        let alias = format!("{} {partition} {adapter}", self.alias());
        let vlans: Vec<u16> = std::iter::once(spec.vlan).chain(spec.tagged.iter().copied()).collect();
        let mut ports: Vec<Vec<OwnedFd>> = vec![];
        match spec.attachment {
            Attachment::Trunk => {
                let bridge = self.bridge(&mut route, switch.name.as_str(), true)?;
                self.lead_out(&mut route, switch, &bridge, &vlans)?;
                ports.push(port(&mut route, &bridge, &alias, spec.queues, &vlans)?);
            }
            Attachment::PerVlan => {
                if let Some(uplink) = &switch.uplink {
                    bail!(
                        "switch {} cannot have the uplink {uplink}: this kernel's bridges have no VLAN filter; leave the uplink out, or use a kernel with CONFIG_BRIDGE_VLAN_FILTERING",
                        switch.name
                    );
                }
                for vlan in &vlans {
                    let bridge = self.bridge(&mut route, &format!("{}.{vlan}", switch.name), false)?;
                    ports.push(port(&mut route, &bridge, &alias, spec.queues, &[])?);
                }
            }
        }
        let mut ports: Vec<_> = ports.into_iter().map(Vec::into_iter).collect();
        let mut taps = vec![];
        for _ in 0..spec.queues {
            taps.extend(ports.iter_mut().filter_map(Iterator::next));
        }
        Ok(taps)
    }

    /// The bridge of that name, made if it is not there.
    fn bridge(&self, route: &mut Route, name: &str, filters: bool) -> anyhow::Result<Link> {
        if let Some(link) = route.find(name)? {
            if !self.is_own(&link) {
                let kind = link.kind.as_deref().unwrap_or("network interface");
                let whose = link.alias.as_deref().map_or_else(String::new, |alias| format!(" ({alias})"));
                bail!(
                    "the {kind} {name}{whose} exists, and is not this frame's: rename the switch, or remove it with `ip link delete {name}`"
                );
            }
            if link.filters == filters {
                return Ok(link);
            }
            // An earlier manager of another kernel's ways cannot have left it: somebody changed it.
            bail!("the bridge {name} was changed: its VLAN filter is {}", if filters { "off" } else { "on" });
        }
        let made = route.add_bridge(name, self.mac(name), filters).map_err(explained);
        made.with_context(|| format!("the bridge {name} cannot be made"))?;
        let link = route.find(name)?.ok_or_else(|| anyhow!("the bridge {name} is gone at once"))?;
        route.alias(link.index, &self.alias()).with_context(|| format!("the bridge {name}"))?;
        silence(name);
        route.up(link.index).with_context(|| format!("the bridge {name} cannot be switched on"))?;
        Ok(link)
    }

    /// Makes the uplink a port of the switch's bridge, and lets the VLANs out by it.
    fn lead_out(&self, route: &mut Route, switch: &Switch, bridge: &Link, vlans: &[u16]) -> anyhow::Result<()> {
        let Some(name) = &switch.uplink else { return Ok(()) };
        let link = route.find(name)?.ok_or_else(|| {
            anyhow!("the uplink {name} of switch {} is no interface of this host: see `ip link`", switch.name)
        })?;
        match link.master {
            Some(master) if master == bridge.index => {}
            Some(_) => {
                bail!("the uplink {name} of switch {} is a port of another bridge: take it out there", switch.name)
            }
            None => {
                let joined = route.join(link.index, bridge.index).map_err(explained);
                joined.with_context(|| format!("the uplink {name} cannot join switch {}", switch.name))?;
                route.up(link.index).with_context(|| format!("the uplink {name} cannot be switched on"))?;
            }
        }
        for vlan in vlans {
            let tagging = if *vlan == NATIVE { Tagging::Native } else { Tagging::Tagged };
            route.allow(link.index, *vlan, tagging).with_context(|| format!("VLAN {vlan} of the uplink {name}"))?;
        }
        Ok(())
    }

    /// Removes the frame's bridges that have no taps: nobody uses them.
    ///
    /// # Errors
    /// What the host says; the others were removed.
    pub fn sweep(&self) -> io::Result<()> {
        let mut route = Route::open()?;
        let links = route.links()?;
        let used = |bridge: &Link| {
            links.iter().any(|link| link.master == Some(bridge.index) && link.kind.as_deref() == Some("tun"))
        };
        let mut outcome = Ok(());
        for bridge in links.iter().filter(|link| self.is_own(link) && !used(link)) {
            // Each is tried, whatever became of the one before.
            let deleted = route.delete(bridge.index);
            outcome = outcome.and(deleted);
        }
        outcome
    }
}

/// Makes a tap that is a port of `bridge` with these VLANs, all tagged.
fn port(route: &mut Route, bridge: &Link, alias: &str, queues: u8, vlans: &[u16]) -> anyhow::Result<Vec<OwnedFd>> {
    let (name, descriptors) = tap::make(queues).map_err(explained).context("a tap cannot be made")?;
    silence(&name);
    let link = route.find(&name)?.ok_or_else(|| anyhow!("the tap {name} is gone at once"))?;
    let failed = || format!("the tap {name} on the bridge {}", bridge.name);
    // The kernel takes at most 255 bytes.
    route.alias(link.index, alias.get(..255).unwrap_or(alias)).with_context(failed)?;
    route.join(link.index, bridge.index).with_context(failed)?;
    for vlan in vlans {
        route.allow(link.index, *vlan, Tagging::Tagged).with_context(failed)?;
    }
    route.up(link.index).with_context(failed)?;
    Ok(descriptors)
}

/// Keeps the host itself off a bridge or tap: without an address it says nothing there and answers nobody.
fn silence(interface: &str) {
    // A kernel without IPv6 has no such file, and an interface without an IPv4 address takes no part in that.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1");
}

/// What the host's refusals mean here.
fn explained(error: io::Error) -> anyhow::Error {
    let means = match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => "whoever runs the frame needs CAP_NET_ADMIN for its switches",
        Some(Errno::OPNOTSUPP) => "this kernel has no bridges: use one with CONFIG_BRIDGE, or load the module bridge",
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            "this kernel has no taps: use one with CONFIG_TUN, or load the module tun"
        }
        _ => return error.into(),
    };
    anyhow::Error::from(error).context(means)
}

/// What this host's bridges can. It is tried in a network namespace that is gone afterwards: nothing changes on the
/// host.
///
/// # Errors
/// Why this host has no switches.
pub fn probe() -> anyhow::Result<Attachment> {
    tap::probe().map_err(explained)?;
    let outcome = std::thread::Builder::new().name("namespace".into()).spawn(|| {
        // SAFETY: only this thread changes its network namespace, and it ends at once.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            return Err(explained(io::Error::last_os_error()));
        }
        let mut route = Route::open()?;
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        if route.add_bridge("filter", mac, true).is_ok() && route.find("filter")?.is_some_and(|link| link.filters) {
            return Ok(Attachment::Trunk);
        }
        route.add_bridge("plain", mac, false).map_err(explained)?;
        Ok(Attachment::PerVlan)
    })?;
    outcome.join().map_err(|_| anyhow!("the thread that tried it ended without an answer"))?
}

/// What this host lacks for switches, for people.
#[must_use]
pub fn lacks() -> Option<String> {
    match probe() {
        Ok(Attachment::Trunk) => None,
        Ok(Attachment::PerVlan) => Some(
            "bridges of this kernel have no VLAN filter (CONFIG_BRIDGE_VLAN_FILTERING): each VLAN of a switch gets a bridge of its own, and switches have no uplinks"
                .into(),
        ),
        Err(error) => Some(format!("partitions can have no network adapters: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_bears_its_mark_is_the_frames_own() {
        let switches = Switches::new("rack7.0000abcd");
        let bridge = |alias: Option<&str>, mac| Link {
            name: "lan".into(),
            alias: alias.map(Into::into),
            mac: Some(mac),
            kind: Some("bridge".into()),
            ..Link::default()
        };
        let (own, other) = (switches.mac("lan"), Mac([2, 0, 0, 0, 0, 9]));
        assert!(switches.is_own(&bridge(Some("bulkhead rack7.0000abcd"), other)));
        assert!(switches.is_own(&bridge(None, own)));
        assert!(!switches.is_own(&bridge(None, other)));
        assert!(!switches.is_own(&bridge(Some("bulkhead rack8.0000abcd"), own)));
        assert!(!switches.is_own(&Link { kind: None, ..bridge(None, own) }));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let text = |errno: Errno| format!("{:#}", explained(errno.into()));
        assert!(text(Errno::PERM).contains("CAP_NET_ADMIN"));
        assert!(text(Errno::OPNOTSUPP).contains("CONFIG_BRIDGE"));
        assert!(text(Errno::BUSY).contains("busy"));
    }
}
