//! What partitions do in their lives, and what the verbs answer.

use crate::TWO;
use anyhow::{Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::wait;

pub fn idempotent() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let before = frame.partition("alpha")?;
    frame.lpar.ok("activate alpha")?;
    ensure!(frame.partition("alpha")? == before, "activating a running partition does nothing");
    frame.lpar.run_all(["up".as_ref(), frame.file().as_os_str(), "--detach".as_ref()])?.expect(0)?;
    ensure!(frame.partition("alpha")? == before, "bringing up a frame that is up does nothing");
    frame.lpar.ok("shutdown alpha --immediate")?;
    frame.lpar.ok("shutdown alpha --immediate")?;
    frame.lpar.ok("down --immediate")?;
    frame.lpar.ok("down --immediate")?;
    frame.nothing_left()
}

pub fn power_off() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let mut console = Console::open(&frame.lpar, "alpha")?;
    console.type_line("off")?;
    frame.lpar.wait("alpha", "Not Activated")?;
    let event = frame.lpar.event("D2000001", "alpha")?;
    ensure!(event["scope"] == "partition", "{event}");
    ensure!(frame.lpar.row("beta")?["state"] == "Running");
    frame.lpar.ok("activate alpha")?;
    ensure!(frame.lpar.row("alpha")?["state"] == "Running");
    frame.down()
}

pub fn restart() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let before = frame.partition("alpha")?;
    let mut console = Console::open(&frame.lpar, "alpha")?;
    console.until("diagnostics")?;
    console.type_line("a-line-that-was-typed-before")?;
    console.until("a-line-that-was-typed-before")?;
    console.type_line("reboot")?;
    // The session lives on, and the new guest's banner comes through it.
    console.until("diagnostics")?;
    frame.lpar.wait("alpha", "Running")?;
    ensure!(frame.partition("alpha")? != before, "a restart is a new process");
    ensure!(frame.lpar.row("alpha")?["incarnation"] == 2);
    frame.lpar.event("C2000002", "alpha")?;
    drop(console);
    let mut again = wait::until("the console again", || Ok(Some(Console::open(&frame.lpar, "alpha")?)))?;
    again.until("a-line-that-was-typed-before")?;
    again.until("diagnostics")?;
    frame.down()
}

pub fn processors() -> Result<()> {
    let text = TWO.replacen("desired = 1, units = { minimum = 0.1", "desired = 2, units = { minimum = 0.1", 1);
    ensure!(text != TWO, "the frame's text changed");
    let frame = Frame::up(&text)?;
    let mut console = Console::open(&frame.lpar, "alpha")?;
    let beats = wait::until("two processors that beat", || {
        let beats = console.ask("beats", "beats")?;
        Ok((beats.get("processors") == Some(&2)).then_some(beats))
    })?;
    ensure!(beats["beats"] > 0, "{beats:?}");
    let stat = frame.lpar.json("stat alpha")?;
    let stat = if stat.is_array() { stat[0].clone() } else { stat };
    ensure!(stat["processors"].as_array().is_some_and(|all| all.len() == 2), "{stat}");
    frame.down()
}

pub fn one_session() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let mut first = Console::open(&frame.lpar, "alpha")?;
    first.until("diagnostics")?;
    let refused = frame.lpar.run("console alpha")?.expect(1)?;
    ensure!(refused.stderr.contains("--force"), "{}", refused.stderr);
    let mut other = Console::open(&frame.lpar, "beta")?;
    other.until("diagnostics")?;
    ensure!(other.ask("beats", "beats")?["beats"] > 0);
    frame.down()
}

pub fn statuses() -> Result<()> {
    let frame = Frame::up(TWO)?;
    frame.lpar.run("no-such-verb")?.expect(2)?;
    frame.lpar.run("ls --no-such-option")?.expect(2)?;
    let unknown = frame.lpar.run("show gamma")?.expect(1)?;
    ensure!(unknown.stderr.contains("gamma"), "{}", unknown.stderr);
    frame.lpar.run_all(["wait", "alpha", "--state", "Not Activated", "--timeout", "200ms"])?.expect(3)?;
    frame.lpar.run_all(["wait", "alpha", "--state", "Runing", "--timeout", "1s"])?.expect(2)?;
    frame.down()
}
