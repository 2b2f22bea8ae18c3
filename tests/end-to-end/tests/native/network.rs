//! Network adapters, driven by the payload through their real queues, in a network namespace that is gone with the test:
//! the partitions of `configs/vlans.toml`, tenant a's on VLAN 10, tenant b's on VLAN 20.

use anyhow::{Context, Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use std::collections::BTreeMap;
use std::path::Path;

use crate::examples;

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
    let frame = Frame::new(&examples::example("vlans")?)?;
    frame.lpar.run_all([Path::new("up"), &frame.file(), Path::new("--detach")])?.expect(0)?;
    let mut all = BTreeMap::new();
    for name in ["a-web", "a-db", "b-web", "b-db"] {
        let mut console = Console::open(&frame.lpar, name)?;
        // What came before a device was started is not for it.
        console.ask("reset 8", "slot")?;
        all.insert(name, console);
    }
    let mut ask = |name: &str, command: &str| {
        let key = if command.starts_with("net-receive") { "received" } else { "sent" };
        all.get_mut(name).context("no such partition")?.ask(command, key)
    };
    ask("a-web", "net-forge 8 1")?;
    ask("a-web", "net-send 8 2")?;
    ask("b-db", "net-send 8 3")?;
    ask("a-web", "net-send 8 4")?;
    for (name, expected) in [("a-db", [2, 4].as_slice()), ("b-web", &[3])] {
        for (count, number) in (1..).zip(expected) {
            let said = ask(name, "net-receive 8")?;
            ensure!(said.get("received") == Some(number), "{name} received {said:?}, not {number}");
            ensure!(said.get("interrupts") >= Some(&count), "{name} heard of it by no interrupt: {said:?}");
        }
    }
    // The other way, and both of a VLAN hear a broadcast that neither of them sent.
    let from = ask("a-db", "net-send 8 5").and_then(|_| ask("a-web", "net-receive 8"))?;
    ensure!(from.get("received") == Some(&5), "{from:?}");
    let rows = frame.lpar.json("devices a-web")?;
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
