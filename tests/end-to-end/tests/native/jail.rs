//! The jail of a partition's process: what is left to one that was taken over.

use anyhow::{Context, Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::{hijack, lpar, wait};
use std::path::Path;
use std::process::Command;

/// Every class of thread does a call that none of them has, and the process is gone.
pub fn taken_over() -> Result<()> {
    let frame = Frame::up(&crate::TWO.replace("boot = \"diagnostics\"", "boot = \"diagnostics\"\nentropy = true"))?;
    let mut other = Console::open(&frame.lpar, "beta")?;
    let calls: [(&str, u64, [u64; 3]); 3] = [
        ("vcpu0", libc::SYS_socket as u64, [1, 1, 0]),
        ("dev-", libc::SYS_openat as u64, [0, 0, 0]),
        ("", libc::SYS_kill as u64, [1, 9, 0]),
    ];
    for (round, (class, number, arguments)) in (1..).zip(calls) {
        let before = other.ask("beats", "beats")?;
        let pid = frame.partition("alpha")?;
        let threads = hijack::threads(pid)?;
        let main = i32::try_from(pid)?;
        let thread = threads.iter().find(|(thread, name)| match class {
            "" => *thread == main,
            class => name.starts_with(class),
        });
        let (thread, name) = thread.with_context(|| format!("no thread {class} among {threads:?}"))?;
        let signal = hijack::call(*thread, number, arguments).with_context(|| format!("thread {name}"))?;
        ensure!(signal == libc::SIGSYS, "thread {name} died of signal {signal}");
        frame.lpar.wait("alpha", "Error")?;
        let same = |event: &&serde_json::Value| event["code"] == "B200000D";
        wait::until("the event", || Ok((frame.lpar.events()?.iter().filter(same).count() >= round).then_some(())))?;
        let events = frame.lpar.events()?;
        let forbidden: Vec<_> = events.iter().filter(same).collect();
        ensure!(forbidden.len() == round, "one end is one event, not {}", forbidden.len());
        let event = forbidden.last().context("no event")?;
        ensure!(event["text"].as_str().is_some_and(|text| text.contains("SIGSYS")), "{event}");
        ensure!(event["data"]["registers"][0]["rip"].as_u64().is_some_and(|rip| rip != 0), "no registers: {event}");
        ensure!(!events.iter().any(|event| event["code"] == "B2000003"), "the same end is told twice");
        wait::until("the other's beats", || {
            let now = other.ask("beats", "beats")?;
            Ok((now["beats"] > before["beats"] + 10).then_some(()))
        })?;
        frame.lpar.ok("activate alpha")?;
        ensure!(frame.lpar.row("alpha")?["state"] == "Running");
    }
    ensure!(frame.lpar.row("beta")?["incarnation"] == 1);
    frame.down()
}

/// What the outer wall leaves to a process, each of which its filter of system calls takes.
const BEHIND_THE_WALL: [&str; 4] =
    ["a namespace of users", "a key ring", "watch page faults", "count events of the processor"];

/// A program that wants out stands in the partition's place, started by the real manager.
pub fn captured() -> Result<()> {
    let intruder = env!("CARGO_BIN_EXE_intruder");
    let free = Command::new(intruder).arg("--free").output()?;
    let free = String::from_utf8(free.stdout)?;
    // Outside of a jail they work, so it is the jail that they fail by.
    for attempt in ["read /etc/passwd", "see /proc", "signal a process", "mount", "reach a network", "be root"] {
        ensure!(free.contains(attempt), "{attempt} does not even work for the superuser: {free}");
    }
    let frame = Frame::new(crate::TWO)?;
    let binaries = frame.directory().join("bin");
    std::fs::create_dir(&binaries)?;
    for name in ["lpar", "partition-manager", "service-processor"] {
        std::fs::copy(lpar::binaries()?.join(name), binaries.join(name))?;
    }
    std::fs::copy(intruder, binaries.join("partition"))?;
    let lpar = frame.lpar.of(&binaries);
    lpar.run_all([Path::new("up"), &frame.file(), Path::new("--detach")])?.expect(1)?;
    let event = frame.lpar.event("B2000004", "alpha")?;
    let text = event["text"].as_str().context("no text")?;
    let between = |from: &str| Some(text.split_once(from)?.1.split_once(']')?.0);
    ensure!(between("behind the filter: [") == Some(""), "something worked: {text}");
    let wall = between("behind the wall: [").with_context(|| text.to_owned())?;
    let worked: Vec<&str> = wall.split(", ").filter(|attempt| !attempt.is_empty()).collect();
    ensure!(worked.iter().all(|attempt| BEHIND_THE_WALL.contains(attempt)), "the wall has a hole: {text}");
    println!("behind the wall, without a filter: {wall}");
    frame.down()
}
