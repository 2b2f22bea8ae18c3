//! The watchdog: a guest that hangs is found, one that is held up is not.

use crate::TWO;
use anyhow::{Context, Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::{host, wait};
use frame::cpuset::CpuSet;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// The event of an expired watchdog.
const HUNG: &str = "B200000C";
/// How long the payload's watchdog waits, milliseconds.
const TIMEOUT: u64 = 400;
/// How much longer than that a guest is held up.
const HELD_UP: Duration = Duration::from_millis(TIMEOUT * 8);

fn up(action: &str) -> Result<(Frame, Console)> {
    let watchdog = format!("boot = \"diagnostics\"\nwatchdog = \"{action}\"");
    let frame = Frame::up(&TWO.replacen("boot = \"diagnostics\"", &watchdog, 1))?;
    let mut console = Console::open(&frame.lpar, "alpha")?;
    console.until("ready")?;
    Ok((frame, console))
}

fn arm(console: &mut Console, milliseconds: u64) -> Result<()> {
    let answer = console.ask(&format!("watchdog {milliseconds}"), "watchdog")?;
    // Enabled, as its lock register reads.
    ensure!(answer.get("lock") == Some(&2), "{answer:?}");
    Ok(())
}

/// Beats of the payload, which reload its watchdog.
fn beats(console: &mut Console) -> Result<u64> {
    console.ask("beats", "beats")?.get("beats").copied().context("no beats")
}

/// Lets it go on for as long as its watchdog would take to expire, on its own clock.
fn lives(frame: &Frame, console: &mut Console) -> Result<()> {
    console.type_line("reset-beats")?;
    wait::until("a life longer than the watchdog's time", || {
        let fields = console.ask("beats", "beats")?;
        Ok((fields.get("elapsed_ms").copied().unwrap_or(0) > 3 * TIMEOUT).then_some(()))
    })?;
    not_hung(frame)
}

fn not_hung(frame: &Frame) -> Result<()> {
    let row = frame.lpar.row("alpha")?;
    ensure!(row["state"] == "Running" && row["incarnation"] == 1, "{row}");
    ensure!(!frame.lpar.events()?.iter().any(|event| event["code"] == HUNG), "it was called hung");
    Ok(())
}

/// A guest that reloads lives, one that hangs is restarted: one event, with its registers.
pub fn restarted() -> Result<()> {
    let (frame, mut console) = up("restart")?;
    arm(&mut console, TIMEOUT)?;
    lives(&frame, &mut console)?;
    console.type_line("hang")?;
    let event = frame.lpar.event(HUNG, "alpha")?;
    ensure!(event["data"]["cause"]["watchdog"]["restart"] == true, "{event}");
    ensure!(event["data"]["registers"][0]["rip"].as_u64().is_some_and(|rip| rip != 0), "{event}");
    wait::until("the restart", || {
        let row = frame.lpar.row("alpha")?;
        Ok((row["state"] == "Running" && row["incarnation"] == 2).then_some(()))
    })?;
    drop(console);
    let mut console = Console::open(&frame.lpar, "alpha")?;
    beats(&mut console)?;
    // The next life begins with a watchdog that is not armed, and that can be disarmed.
    arm(&mut console, TIMEOUT)?;
    ensure!(console.ask("watchdog 0", "watchdog")?.get("watchdog") == Some(&0));
    let hung = frame.lpar.events()?.into_iter().filter(|event| event["code"] == HUNG).count();
    ensure!(hung == 1, "{hung} events of one hang");
    let row = frame.lpar.row("beta")?;
    ensure!(row["state"] == "Running" && row["incarnation"] == 1, "{row}");
    frame.down()
}

/// The same, where the frame wants it to stay as it is.
pub fn error() -> Result<()> {
    let (frame, mut console) = up("error")?;
    arm(&mut console, TIMEOUT)?;
    console.type_line("hang")?;
    frame.lpar.event(HUNG, "alpha")?;
    frame.lpar.wait("alpha", "Error")?;
    let row = frame.lpar.row("alpha")?;
    ensure!(row["reason"].as_str().is_some_and(|reason| reason.contains("watchdog")), "{row}");
    frame.lpar.ok("activate alpha")?;
    frame.lpar.wait("alpha", "Running")?;
    let beta = frame.lpar.row("beta")?;
    ensure!(beta["state"] == "Running" && beta["incarnation"] == 1, "{beta}");
    frame.down()
}

/// A process that was stopped for longer than the watchdog's time, and goes on, has not hung.
pub fn stopped() -> Result<()> {
    let (frame, mut console) = up("restart")?;
    arm(&mut console, TIMEOUT)?;
    for _ in 0..2 {
        let process = frame.partition("alpha")?;
        let before = beats(&mut console)?;
        host::signal(process, Signal::STOP)?;
        // It is the length of the stop that matters here, however much longer it becomes.
        std::thread::sleep(HELD_UP);
        host::signal(process, Signal::CONT)?;
        wait::until("beats after the stop", || Ok((beats(&mut console)? > before).then_some(())))?;
        not_hung(&frame)?;
    }
    // It was armed all the time.
    console.type_line("hang")?;
    frame.lpar.event(HUNG, "alpha")?;
    frame.down()
}

/// Where the virtual processors of a process may run, and how long they waited to, nanoseconds.
fn processors(process: u32) -> Result<(CpuSet, u64)> {
    let (mut allowed, mut waited) = (None, 0);
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        if !std::fs::read_to_string(task.join("comm"))?.starts_with("vcpu") {
            continue;
        }
        let status = std::fs::read_to_string(task.join("status"))?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).context("no CPUs")?;
        allowed = Some(CpuSet::parse(list.trim())?);
        let schedstat = std::fs::read_to_string(task.join("schedstat"))?;
        waited += schedstat.split_whitespace().nth(1).context("no wait in schedstat")?.parse::<u64>()?;
    }
    Ok((allowed.context("no virtual processor")?, waited))
}

/// Keeps the CPUs busy with a thread each that goes before all usual ones, for a bounded time.
fn occupy(cpus: &CpuSet) -> Result<()> {
    let threads: Vec<_> = cpus.iter().map(|cpu| std::thread::spawn(move || hog(cpu))).collect();
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a busy thread failed"))?)
}

fn hog(cpu: u32) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu as usize);
    rustix::thread::sched_setaffinity(None, &set).context("the affinity of a busy thread")?;
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter is a valid structure, and 0 is this thread.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    ensure!(outcome == 0, "no real-time priority: {}", std::io::Error::last_os_error());
    let start = Instant::now();
    while start.elapsed() < HELD_UP {
        std::hint::spin_loop();
    }
    Ok(())
}

/// A guest whose processor is taken by others for longer than the watchdog's time has not hung.
pub fn starved() -> Result<()> {
    let (frame, mut console) = up("restart")?;
    arm(&mut console, TIMEOUT)?;
    let (cpus, before) = processors(frame.partition("alpha")?)?;
    let beats_before = beats(&mut console)?;
    occupy(&cpus)?;
    wait::until("beats afterwards", || Ok((beats(&mut console)? > beats_before).then_some(())))?;
    let (_, after) = processors(frame.partition("alpha")?)?;
    let waited = Duration::from_nanos(after.saturating_sub(before));
    println!("  its processor waited {} ms with a watchdog of {TIMEOUT} ms", waited.as_millis());
    ensure!(waited > Duration::from_millis(2 * TIMEOUT), "it waited only {waited:?}: nothing was shown");
    not_hung(&frame)?;
    frame.down()
}
