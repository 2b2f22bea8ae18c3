//! Processes that are killed or stopped, and what that does to everybody else.

use crate::TWO;
use anyhow::{Context, Result, bail, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::{host, wait};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// The payload's beat, milliseconds.
const TICK_MS: u64 = 10;
/// How long a run is watched. Long enough for a lost daemon to be noticed, replaced and in control again.
const RUN: Duration = Duration::from_secs(8);
/// How often a comparison may be repeated when something else on the machine disturbed it.
const ROUNDS: usize = 4;

pub fn partition_killed() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let mut other = Console::open(&frame.lpar, "beta")?;
    let before = other.ask("beats", "beats")?;
    host::signal(frame.partition("alpha")?, Signal::KILL)?;
    frame.lpar.wait("alpha", "Error")?;
    let row = frame.lpar.row("alpha")?;
    ensure!(row["reason"].as_str().is_some_and(|reason| reason.contains("9") || reason.contains("KILL")), "{row}");
    let event = frame.lpar.event("B2000003", "alpha")?;
    let registers = &event["data"]["registers"][0];
    ensure!(registers["rip"].as_u64().is_some_and(|rip| rip != 0), "no last registers: {event}");
    ensure!(event["partitions"].as_array().is_some_and(|all| all.len() == 1), "{event}");
    let beats = wait::until("the other's beats", || {
        let now = other.ask("beats", "beats")?;
        Ok((now["beats"] > before["beats"] + 10).then_some(now))
    })?;
    ensure!(beats["processors"] == 1, "{beats:?}");
    frame.lpar.ok("activate alpha")?;
    ensure!(frame.lpar.row("alpha")?["state"] == "Running");
    let mut console = Console::open(&frame.lpar, "alpha")?;
    ensure!(console.ask("beats", "beats")?.contains_key("beats"));
    frame.down()
}

pub fn guest_crashed() -> Result<()> {
    let frame = Frame::up(TWO)?;
    for (command, code) in [("triple-fault", "B2000001"), ("crash", "B2000002")] {
        let mut console = Console::open(&frame.lpar, "alpha")?;
        console.until("diagnostics")?;
        console.type_line(command)?;
        frame.lpar.wait("alpha", "Error")?;
        let event = frame.lpar.event(code, "alpha")?;
        ensure!(event["data"]["registers"][0]["rip"].is_u64(), "{event}");
        let same = frame.lpar.events()?.iter().filter(|event| event["code"] == code).count();
        ensure!(same == 1, "one crash is one event, not {same}");
        drop(console);
        frame.lpar.ok("activate alpha")?;
    }
    ensure!(frame.lpar.row("beta")?["incarnation"] == 1);
    frame.down()
}

/// Who is disturbed, and how.
#[derive(Clone, Copy)]
enum Who {
    Manager,
    ServiceProcessor,
    Both,
}

pub fn manager_killed() -> Result<()> {
    undisturbed_by(Who::Manager, Signal::KILL)
}

pub fn manager_stopped() -> Result<()> {
    undisturbed_by(Who::Manager, Signal::STOP)
}

pub fn service_processor_killed() -> Result<()> {
    undisturbed_by(Who::ServiceProcessor, Signal::KILL)
}

pub fn service_processor_stopped() -> Result<()> {
    undisturbed_by(Who::ServiceProcessor, Signal::STOP)
}

pub fn both_killed() -> Result<()> {
    undisturbed_by(Who::Both, Signal::KILL)
}

pub fn both_stopped() -> Result<()> {
    undisturbed_by(Who::Both, Signal::STOP)
}

/// The largest gap (us) and the missed beats of one partition over [`RUN`], while `disturb` is done at its
/// beginning. Beats and missed beats together must fill the run; a missed one is told apart, never hidden.
fn watch(frame: &Frame, disturb: impl FnOnce() -> Result<()>) -> Result<(u64, u64)> {
    let mut console = Console::open(&frame.lpar, "alpha")?;
    console.type_line("reset-beats")?;
    // Answered, so done.
    console.ask("beats", "beats")?;
    drop(console);
    let start = Instant::now();
    disturb()?;
    // The run has a length: this is the one place that waits for time, since time is what is measured.
    std::thread::sleep(RUN.saturating_sub(start.elapsed()));
    let mut console = wait::until("the console", || Ok(frame.lpar.run("ls")?.expect(0).ok()))
        .and_then(|_| Console::open(&frame.lpar, "alpha"))?;
    let beats = console.ask("beats", "beats")?;
    let field = |name: &str| beats.get(name).copied().with_context(|| format!("no {name} in {beats:?}"));
    let elapsed = field("elapsed_ms")?;
    let counted = field("beats")? + field("missed")?;
    ensure!(
        (counted + 2) * TICK_MS >= elapsed,
        "{counted} beats in {elapsed} ms: the partition did not run all of the time"
    );
    ensure!(elapsed >= RUN.as_millis() as u64, "the beats of {elapsed} ms are not those of the run");
    Ok((field("largest_gap_us")?, field("missed")?))
}

fn undisturbed_by(who: Who, signal: Signal) -> Result<()> {
    let frame = Frame::up(TWO)?;
    let partitions = [frame.partition("alpha")?, frame.partition("beta")?];
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let (quiet, quiet_missed) = watch(&frame, || Ok(()))?;
        let (manager, service_processor) = (frame.manager()?, frame.service_processor()?);
        let targets = match who {
            Who::Manager => vec![manager],
            Who::ServiceProcessor => vec![service_processor],
            Who::Both => vec![service_processor, manager],
        };
        let (disturbed, disturbed_missed) = watch(&frame, || {
            for &pid in &targets {
                host::signal(pid, signal)?;
            }
            replaced(&frame, who, manager, service_processor)?;
            if signal == Signal::STOP {
                for &pid in &targets {
                    // Continued after its replacement: it is gone, so it can do nothing.
                    ensure!(!host::runs(pid), "process {pid} was replaced and lives");
                }
            }
            Ok(())
        })?;
        ensure!(
            [frame.partition("alpha")?, frame.partition("beta")?] == partitions,
            "the same processes are there, adopted"
        );
        println!(
            "largest gap: {quiet} us undisturbed, {disturbed} us disturbed; beats missed: {quiet_missed} and {disturbed_missed}"
        );
        seen.push((quiet, disturbed));
        if disturbed <= quiet + TICK_MS * 1000 {
            // Only the service processor's own loss can go unsaid: it is replaced before anybody misses it.
            if matches!(who, Who::Manager) {
                frame.lpar.event(if signal == Signal::KILL { "B17B0001" } else { "B17B0002" }, "")?;
            }
            return frame.down();
        }
    }
    bail!(
        "in each of {ROUNDS} rounds the largest gap grew by more than a tick: {seen:?} (us, undisturbed and disturbed)"
    )
}

/// Waits until others stand in the place of the daemons that were lost.
fn replaced(frame: &Frame, who: Who, manager: u32, service_processor: u32) -> Result<()> {
    wait::until("the replacement", || {
        let now = frame.lpar.run("ls")?;
        if now.status != 0 {
            return Ok(None);
        }
        let new_manager = frame.manager()? != manager;
        let new_service_processor = frame.service_processor()? != service_processor;
        Ok(match who {
            Who::Manager => new_manager,
            Who::ServiceProcessor => new_service_processor,
            Who::Both => new_manager && new_service_processor,
        }
        .then_some(()))
    })
}

pub fn manager_terminated() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let before = [frame.partition("alpha")?, frame.partition("beta")?];
    let (manager, service_processor) = (frame.manager()?, frame.service_processor()?);
    host::signal(manager, Signal::TERM)?;
    replaced(&frame, Who::Manager, manager, service_processor)?;
    ensure!([frame.partition("alpha")?, frame.partition("beta")?] == before, "the partitions run on, adopted");
    let down = frame.lpar.events()?.iter().filter(|event| event["code"] == "D1000001").count();
    ensure!(down == 0, "the frame is not down");
    frame.down()
}

pub fn all_killed() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let supervisor = host::parent_of(frame.service_processor()?)?;
    let daemons = [supervisor, frame.service_processor()?, frame.manager()?];
    let all: Vec<u32> = daemons.into_iter().chain([frame.partition("alpha")?, frame.partition("beta")?]).collect();
    for &pid in &all {
        host::signal(pid, Signal::KILL)?;
    }
    wait::until("the end of them all", || Ok((!all.iter().any(|&pid| host::runs(pid))).then_some(())))?;
    // Groups and the journal stay until somebody asks.
    frame.down()
}

pub fn supervisor_killed() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let before = frame.partition("alpha")?;
    let supervisor = host::parent_of(frame.service_processor()?)?;
    host::signal(supervisor, Signal::KILL)?;
    wait::until("the end of the supervisor", || Ok((!host::runs(supervisor)).then_some(())))?;
    ensure!(host::runs(before), "the partition runs on");
    frame.lpar.run_all(["up".as_ref(), frame.file().as_os_str(), "--detach".as_ref()])?.expect(0)?;
    ensure!(frame.partition("alpha")? == before, "the partition was adopted");
    ensure!(frame.lpar.row("beta")?["state"] == "Running");
    frame.manager()?;
    frame.service_processor()?;
    frame.down()
}
