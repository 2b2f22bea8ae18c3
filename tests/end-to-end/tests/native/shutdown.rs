//! The shutdown ladder: ask, press the button, interrupt, kill.

use crate::TWO;
use anyhow::{Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;

pub fn asked() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let mut console = Console::open(&frame.lpar, "alpha")?;
    console.until("diagnostics")?;
    frame.lpar.ok("shutdown alpha")?;
    console.until("asked to shut down")?;
    ensure!(frame.lpar.row("alpha")?["state"] == "Not Activated");
    frame.lpar.event("D2000002", "alpha")?;
    let escalated = frame.lpar.events()?.iter().any(|event| event["code"] == "D2000003");
    ensure!(!escalated, "a guest that agrees needs no second rung");
    frame.down()
}

pub fn denied() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let mut console = Console::open(&frame.lpar, "alpha")?;
    console.until("diagnostics")?;
    console.type_line("deny")?;
    console.until("den")?;
    let refused = frame.lpar.run("shutdown alpha")?.expect(1)?;
    ensure!(refused.stderr.contains("objects") || refused.stderr.contains("denie"), "{}", refused.stderr);
    ensure!(frame.lpar.row("alpha")?["state"] == "Running");
    frame.lpar.event("A2000001", "alpha")?;
    frame.lpar.ok("shutdown alpha --immediate")?;
    ensure!(frame.lpar.row("alpha")?["state"] == "Not Activated");
    frame.down()
}

pub fn hung() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let mut console = Console::open(&frame.lpar, "alpha")?;
    console.until("diagnostics")?;
    console.type_line("hang")?;
    console.until("hang")?;
    frame.lpar.ok("shutdown alpha")?;
    ensure!(frame.lpar.row("alpha")?["state"] == "Not Activated");
    frame.lpar.event("D2000003", "alpha")?;
    frame.lpar.event("D2000002", "alpha")?;
    ensure!(frame.lpar.row("beta")?["state"] == "Running");
    frame.down()
}
