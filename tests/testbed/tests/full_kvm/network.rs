//! Stock Debian Linux on a virtual switch.

use anyhow::{Result, ensure};
use testbed::{Testbed, host};

use crate::harness::Test;
use crate::linux::{console, down, raise, succeeds};

pub const TESTS: &[Test] = &[("partitions_reach_their_own_vlans_and_no_others", vlans)];

/// Red and blue are on VLAN 10 and may both tag 30; green is on 20.
fn vlans(testbed: &mut Testbed) -> Result<()> {
    succeeds(testbed, "modprobe tun && modprobe bridge")?;
    let before = succeeds(testbed, "ls /sys/class/net")?;
    let partition = |name: &str, host: u8, adapter: &str| {
        format!(
            "[[partition]]\nname = \"{name}\"\n\
             processors = {{ mode = \"shared\", desired = 1, units = {{ desired = 0.3 }} }}\n\
             memory = {{ desired = \"128MiB\" }}\n\
             boot = {{ kernel = \"{}\", initrd = \"{}\", cmdline = \"console=ttyS0 name={name} action=net host={host}\" }}\n\
             [[partition.network]]\nname = \"lan0\"\nswitch = \"lan\"\n{adapter}\n",
            host::GUEST_KERNEL,
            host::GUEST_INITRD
        )
    };
    let file = format!(
        "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = {{ cpus = 0, memory = \"128MiB\" }}\n\
         [[pool]]\nname = \"default\"\ncpus = 1\n[[switch]]\nname = \"lan\"\n{}{}{}",
        partition("red", 1, "vlan = 10\ntagged = [30]\nmac = \"02:00:00:00:00:01\""),
        partition("blue", 2, "vlan = 10\ntagged = [30]"),
        partition("green", 3, "vlan = 20"),
    );
    raise(testbed, &file)?;
    let red = console(testbed, "red", "net done", 1)?;
    let blue = console(testbed, "blue", "net received", 1)?;
    for (what, expected) in [
        ("ping", "yes"),
        ("tagged", "yes"),
        ("other-vlan", "no"),
        ("forged-tag", "no"),
        ("forged-mac", "no"),
        ("own-mac", "yes"),
    ] {
        ensure!(red.contains(&format!("net {what}={expected}")), "{what} is not {expected}:\n{red}");
    }
    ensure!(red.contains("mac=02:00:00:00:00:01 driver=virtio_net"), "another address or driver:\n{red}");
    let digest = |history: &str, what: &str| {
        let after = history.split(what).nth(1)?;
        Some(after.split_whitespace().next()?.to_owned())
    };
    let sent = digest(&red, "net sent=");
    ensure!(sent.is_some() && sent == digest(&blue, "net received="), "sent {sent:?}, received:\n{blue}");
    let links = succeeds(testbed, "ls /sys/class/net")?;
    let (few, more) = (before.split_whitespace().count(), links.split_whitespace().count());
    ensure!(more == few + 4, "no bridge and three taps beside\n{before}but\n{links}");
    let events = succeeds(testbed, "lpar events")?;
    ensure!(!events.contains("B2000007"), "an adapter froze:\n{events}");
    down(testbed)?;
    let after = succeeds(testbed, "ls /sys/class/net")?;
    ensure!(after == before, "left behind:\n{after}");
    Ok(())
}
