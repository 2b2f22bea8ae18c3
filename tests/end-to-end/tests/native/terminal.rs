//! The console device, driven by the payload through its real queues: the partition's second terminal.

use anyhow::{Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::{host, wait};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;

/// Slot of the console device.
const SLOT: u8 = 4;
/// Lines whose text is longer than what is kept for who comes later.
const LINES: u32 = 1500;

/// Two partitions, the first with a second terminal and a port.
const ONE: &str = r#"
[frame]
name = "@NAME@"
memory_block = "2MiB"
reserved = { cpus = 0, memory = "64MiB" }

[[pool]]
name = "default"
cpus = 1

[defaults]
processors = { mode = "shared", pool = "default", desired = 1, units = { minimum = 0.1, desired = 0.4, maximum = 1.0 }, sharing = "uncapped" }
memory = { desired = "16MiB" }
boot = "diagnostics"

[[partition]]
name = "alpha"
console = { ports = ["agent"] }

[[partition]]
name = "beta"
"#;

/// What is typed at the terminal comes back from the guest.
fn echo(console: &mut Console, terminal: &mut Console, line: &str) -> Result<()> {
    console.past_history()?;
    console.type_line(&format!("terminal-echo {SLOT}"))?;
    terminal.type_line(line)?;
    terminal.until(&format!("{line}\n"))?;
    console.until(&format!("terminal echoed={}", line.len() + 1))?;
    Ok(())
}

pub fn echoes() -> Result<()> {
    let frame = Frame::up(ONE)?;
    let sockets = frame.directory().join("r/run/p");
    for port in ["hvc0", "agent"] {
        let mode = std::fs::metadata(sockets.join(format!("alpha.port-{port}")))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the mode of {port}'s socket is {mode:o}");
    }
    let mut console = Console::open(&frame.lpar, "alpha")?;
    let said = console.ask(&format!("terminal-say {SLOT} {LINES}"), "terminal said")?;
    ensure!(said.get("said") == Some(&u64::from(LINES)), "{said:?}");
    // The end of it is kept, the beginning is not; a program that comes takes the terminal over.
    let mut first = Console::port(&frame.lpar, "alpha", "hvc0")?;
    first.until(&format!("terminal line {LINES}\n"))?;
    let history = frame.lpar.ok("console alpha --port hvc0 --history")?.stdout;
    ensure!(history.ends_with(&format!("terminal line {LINES}\n")) && !history.contains("line 1\n"), "{history}");
    let mut terminal = Console::port(&frame.lpar, "alpha", "hvc0")?;
    terminal.until(&format!("terminal line {LINES}\n"))?;
    echo(&mut console, &mut terminal, "who is there?")?;
    // It is the partition's own: a manager that goes takes nothing of it.
    let before = frame.manager()?;
    host::signal(before, Signal::KILL)?;
    wait::until("the next manager", || Ok(frame.manager().ok().filter(|pid| *pid != before)))?;
    frame.lpar.wait("alpha", "Running")?;
    let mut console = Console::open(&frame.lpar, "alpha")?;
    echo(&mut console, &mut terminal, "still there?")?;
    // What is not there is said, with what to do.
    let none = frame.lpar.run("console alpha --port nothing")?.expect(1)?;
    ensure!(none.stderr.contains("has no port nothing"), "{}", none.stderr);
    let none = frame.lpar.run("console beta --port hvc0")?.expect(1)?;
    ensure!(none.stderr.contains("has no port hvc0"), "{}", none.stderr);
    frame.lpar.ok("shutdown alpha --immediate")?;
    let off = frame.lpar.run("console alpha --port hvc0")?.expect(1)?;
    ensure!(off.stderr.contains("Not Activated"), "{}", off.stderr);
    ensure!(!sockets.join("alpha.port-agent").exists(), "a socket is left");
    frame.down()
}
