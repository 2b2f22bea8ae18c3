//! The exit device: how a test kernel says how it ended.

use crate::TWO;
use anyhow::{Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::{host, wait};
use rustix::process::Signal;
use serde_json::Value;

pub fn kept() -> Result<()> {
    let text = TWO.replacen("boot = \"diagnostics\"", "boot = \"diagnostics\"\nexit_device = true", 1);
    ensure!(text != TWO, "the frame's text changed");
    let frame = Frame::up(&text)?;
    let lpar = &frame.lpar;
    ensure!(lpar.json("show alpha")?["exit_status"] == Value::Null, "it has not ended");
    let mut console = Console::open(lpar, "alpha")?;
    console.until("ready")?;
    // All 32 bits, as they were written.
    console.type_line("exit 0x80000007")?;
    lpar.wait("alpha", "Not Activated")?;
    let expected = 0x8000_0007_u32;
    ensure!(lpar.json("show alpha")?["exit_status"] == expected, "{}", lpar.json("show alpha")?);
    ensure!(lpar.row("alpha")?["exit_status"] == expected, "{}", lpar.row("alpha")?);
    let said = format!("exit status {expected}");
    for command in ["ls", "show alpha", "wait alpha --state not-activated --timeout 10s"] {
        let answer = lpar.ok(command)?;
        ensure!(answer.stdout.contains(&said), "{command}: {}", answer.stdout);
    }
    let event = lpar.event("D2000004", "alpha")?;
    ensure!(event["text"].as_str().is_some_and(|text| text.contains(&said)), "{event}");
    ensure!(event["data"]["cause"]["exit"]["status"] == expected, "{event}");
    // The other one ran on, and has no such device.
    let mut other = Console::open(lpar, "beta")?;
    other.until("ready")?;
    other.type_line("exit 1")?;
    other.until("there is no exit device")?;
    // A manager that is replaced knows it too.
    let before = frame.manager()?;
    host::signal(before, Signal::KILL)?;
    wait::until("the next manager", || Ok(frame.manager().ok().filter(|pid| *pid != before)))?;
    let status = wait::until("its answer", || Ok(lpar.json("show alpha").ok()))?;
    ensure!(status["exit_status"] == expected, "{status}");
    // It is gone with the next start.
    lpar.ok("activate alpha")?;
    ensure!(lpar.json("show alpha")?["exit_status"] == Value::Null, "it runs again");
    frame.down()
}
