//! Many partitions in one frame: an activation takes no longer when many run, and a list of a thousand is
//! there at once.

use anyhow::{Context, Result, ensure};
use end_to_end::frame::Frame;
use end_to_end::wait;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Partitions that run at once.
const MANY: usize = 200;
/// Activations at either end of the curve that are compared.
const END: usize = 20;
/// Partitions that are listed.
const LISTED: usize = 1000;
/// How long a list of them may take.
const LIST_TIME: Duration = Duration::from_millis(50);

/// A frame of `count` partitions, of which the first `active` start with it. They beat every ten seconds only.
fn file(count: usize, active: usize) -> String {
    let mut text = r#"
[frame]
name = "@NAME@"
memory_block = "2MiB"
reserved = { cpus = 0, memory = "64MiB" }
minimum_units = 0.001

[[pool]]
name = "default"
cpus = 1
"#
    .to_owned();
    for number in 0..count {
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            r#"
[[partition]]
name = "p{number}"
auto_start = {}
processors = {{ mode = "shared", pool = "default", desired = 1, units = {{ minimum = 0.001, desired = 0.001, maximum = 0.1 }}, sharing = "uncapped", weight = 128 }}
memory = {{ desired = "4MiB" }}
boot = {{ payload = "diagnostics", cmdline = "beat=10000" }}
"#,
            number < active
        );
    }
    text
}

/// Processor time of a process in all its threads.
fn processor_time(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0u64;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that ends meanwhile had little to do.
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let first = text.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        nanoseconds = nanoseconds.saturating_add(first.unwrap_or(0));
    }
    Ok(Duration::from_nanos(nanoseconds))
}

fn median(times: &[Duration]) -> Result<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().context("nothing was timed")
}

/// The partitions that run, by `lpar ls`.
fn running(frame: &Frame) -> Result<usize> {
    Ok(frame.lpar.ok("ls -F state")?.stdout.lines().filter(|state| *state == "Running").count())
}

pub fn two_hundred() -> Result<()> {
    let frame = Frame::up(&file(MANY, 0))?;
    let manager = frame.manager()?;
    // The manager's own time tells growth apart from what else this machine does; the call's time is what a
    // user sees of it.
    let (mut used, mut calls) = (vec![], vec![]);
    for number in 0..MANY {
        let (before, begin) = (processor_time(manager)?, Instant::now());
        frame.lpar.ok(&format!("activate p{number}"))?;
        calls.push(begin.elapsed());
        used.push(processor_time(manager)?.saturating_sub(before));
    }
    for (used, calls) in used.chunks(END).zip(calls.chunks(END)) {
        eprintln!("activation: {:?} of the manager, {:?} in all (medians of {END})", median(used)?, median(calls)?);
    }
    ensure!(running(&frame)? == MANY, "not all run: {}", frame.lpar.ok("ls -F name,state,reason")?.stdout);
    let growth = |times: &[Duration]| -> Result<f64> {
        let (first, last) = (median(&times[..END])?, median(&times[times.len() - END..])?);
        Ok(last.as_secs_f64() / first.as_secs_f64())
    };
    let (used, calls) = (growth(&used)?, growth(&calls)?);
    ensure!(used < 2.0, "an activation takes {used:.2} times the manager's time with {MANY} running");
    ensure!(calls < 4.0, "an activation takes {calls:.2} times as long with {MANY} running");
    // The guests got to run: each has left for its monitor.
    let stat = frame.lpar.json("stat")?;
    let silent: Vec<_> = stat
        .as_array()
        .context("stat is no array")?
        .iter()
        .filter(|one| one["console_bytes"].as_u64().is_none_or(|bytes| bytes == 0))
        .collect();
    ensure!(silent.is_empty(), "these said nothing: {silent:?}");
    frame.lpar.ok("shutdown p7 --immediate")?;
    ensure!(running(&frame)? == MANY - 1);
    frame.down()
}

pub fn a_thousand_listed() -> Result<()> {
    let frame = Frame::up(&file(LISTED, END))?;
    wait::until("all that start by themselves run", || Ok((running(&frame)? == END).then_some(())))?;
    let mut quickest = [Duration::MAX; 3];
    // The best of many: what else this machine does only ever makes one slower.
    for _ in 0..40 {
        for (quickest, arguments) in quickest.iter_mut().zip(["ls", "ls --json", "ls -F name,state"]) {
            let begin = Instant::now();
            let answer = frame.lpar.ok(arguments)?;
            *quickest = begin.elapsed().min(*quickest);
            ensure!(answer.stdout.lines().count() >= if arguments == "ls --json" { 1 } else { LISTED });
        }
    }
    eprintln!("a list of {LISTED}: as a table, as JSON, as values: {quickest:?}");
    ensure!(quickest.iter().all(|&one| one < LIST_TIME), "a list takes {quickest:?}, more than {LIST_TIME:?}");
    frame.down()
}
