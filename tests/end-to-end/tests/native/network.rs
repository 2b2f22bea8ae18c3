//! Network adapters, driven by the payload through their real queues, in a network namespace that is gone with the test.

use anyhow::{Context, Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use std::collections::BTreeMap;
use std::path::Path;

/// Alpha and beta are on VLAN 10, gamma and delta on VLAN 20.
const SWITCH: &str = r#"
[frame]
name = "@NAME@"
memory_block = "2MiB"
reserved = { cpus = 0, memory = "64MiB" }

[[pool]]
name = "default"
cpus = 1

[[switch]]
name = "lan"

[defaults]
processors = { mode = "shared", pool = "default", desired = 1, units = { minimum = 0.1, desired = 0.2, maximum = 1.0 }, sharing = "uncapped" }
memory = { desired = "16MiB" }
boot = "diagnostics"

[[partition]]
name = "alpha"
[[partition.network]]
name = "lan0"
switch = "lan"
vlan = 10
slot = 8

[[partition]]
name = "beta"
[[partition.network]]
name = "lan0"
switch = "lan"
vlan = 10
slot = 8

[[partition]]
name = "gamma"
[[partition.network]]
name = "lan0"
switch = "lan"
vlan = 20
slot = 8

[[partition]]
name = "delta"
[[partition.network]]
name = "lan0"
switch = "lan"
vlan = 20
slot = 8
"#;

/// Why this machine cannot run these; none when it can.
pub fn lacks() -> Option<String> {
    let missing = ["/dev/net/tun", "/sys/module/bridge"].into_iter().find(|path| !Path::new(path).exists());
    missing.map(|path| format!("this kernel has no {path}: modprobe tun bridge"))
}

/// What is sent arrives in its own VLAN, in order; what is forged, and what is of another VLAN, does not.
pub fn frames() -> Result<()> {
    let thread = std::thread::spawn(|| {
        // SAFETY: only this thread, and what it starts, change their network namespace; it ends with the test.
        let outcome = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        ensure!(outcome == 0, "no network namespace: {}", std::io::Error::last_os_error());
        exchange()
    });
    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the test panicked")))
}

fn exchange() -> Result<()> {
    let frame = Frame::new(SWITCH)?;
    frame.lpar.run_all([Path::new("up"), &frame.file(), Path::new("--detach")])?.expect(0)?;
    let mut all = BTreeMap::new();
    for name in ["alpha", "beta", "gamma", "delta"] {
        let mut console = Console::open(&frame.lpar, name)?;
        // What came before a device was started is not for it.
        console.ask("reset 8", "slot")?;
        all.insert(name, console);
    }
    let mut ask = |name: &str, command: &str| {
        let key = if command.starts_with("net-receive") { "received" } else { "sent" };
        all.get_mut(name).context("no such partition")?.ask(command, key)
    };
    ask("alpha", "net-forge 8 1")?;
    ask("alpha", "net-send 8 2")?;
    ask("delta", "net-send 8 3")?;
    ask("alpha", "net-send 8 4")?;
    for (name, expected) in [("beta", [2, 4].as_slice()), ("gamma", &[3])] {
        for (count, number) in (1..).zip(expected) {
            let said = ask(name, "net-receive 8")?;
            ensure!(said.get("received") == Some(number), "{name} received {said:?}, not {number}");
            ensure!(said.get("interrupts") >= Some(&count), "{name} heard of it by no interrupt: {said:?}");
        }
    }
    // The other way, and both of a VLAN hear a broadcast that neither of them sent.
    let from = ask("beta", "net-send 8 5").and_then(|_| ask("alpha", "net-receive 8"))?;
    ensure!(from.get("received") == Some(&5), "{from:?}");
    let rows = frame.lpar.json("devices alpha")?;
    ensure!(rows.as_array().is_some_and(|rows| rows.len() == 1), "{rows}");
    let own = rows.as_array().into_iter().flatten().find(|row| row["device"] == "lan0").context("no lan0")?;
    let count = |what: &str| own["frames"][what].as_u64();
    ensure!(own["kind"] == "network" && own["slot"] == 8 && own["state"] == "working", "{own}");
    ensure!(count("sent") == Some(2) && count("received") == Some(1) && count("source") == Some(1), "{own}");
    let table = frame.lpar.ok("devices")?;
    ensure!(table.stdout.contains("source=1"), "{}", table.stdout);
    let events = frame.lpar.events()?;
    ensure!(events.iter().all(|event| event["code"] != "B2000007"), "an adapter froze: {events:?}");
    frame.down()
}
