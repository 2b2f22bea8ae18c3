//! The figures.

use crate::statistics::{Figure, Samples};
use crate::subject::{Run, Setup, Subjects};
use anyhow::{Context, Result, ensure};
use frame::platform;
use std::time::{Duration, Instant};

const MEMORY: u64 = 16 << 20;

fn setup(cmdline: &str) -> Setup {
    Setup { memory: MEMORY, cmdline: format!("name=bench {cmdline}"), cpu: None, interrupt: None }
}

/// Floor, floor again, partition, in turn.
fn in_turn(
    rounds: usize,
    subjects: &Subjects,
    setup: &Setup,
    mut sample: impl FnMut(&mut dyn FnMut() -> Result<Run>, &mut Samples) -> Result<()>,
) -> Result<[Samples; 3]> {
    let mut all = [Samples::default(), Samples::default(), Samples::default()];
    for round in 0..rounds {
        // Who begins changes, so that a machine that drifts favours nobody.
        for turn in 0..3 {
            let who = (round + turn) % 3;
            let Some(samples) = all.get_mut(who) else { continue };
            if who == 2 {
                sample(&mut || subjects.partition(setup), samples)?;
            } else {
                sample(&mut || subjects.floor(setup), samples)?;
            }
        }
    }
    Ok(all)
}

fn figure(name: &str, unit: &'static str, promised: f64, samples: &[Samples; 3]) -> Figure {
    let [floor, again, partition] = samples;
    Figure::compare(name, unit, promised, floor, again, partition)
}

/// From the start of the process to the first byte that the guest prints, milliseconds.
///
/// # Errors
/// When a subject fails.
pub fn start(subjects: &Subjects, rounds: usize) -> Result<Figure> {
    let samples = in_turn(rounds, subjects, &setup(""), |run, samples| {
        let begin = Instant::now();
        let mut run = run()?;
        run.output()?;
        samples.push(begin.elapsed().as_secs_f64() * 1e3);
        Ok(())
    })?;
    Ok(figure("process start to first output", "ms", 1.5, &samples))
}

/// A port write from ring 3 to the monitor and back, microseconds, as the guest's own clock counts.
///
/// # Errors
/// When a subject fails.
pub fn exit(subjects: &Subjects, rounds: usize) -> Result<Figure> {
    let samples = in_turn(rounds, subjects, &setup("run=exits:5000"), |run, samples| {
        let mut run = run()?;
        let said = run.until("tsc_khz=")?;
        let word = said.split_whitespace().find_map(|word| word.strip_prefix("p50="));
        samples.push(word.with_context(|| format!("no p50 in {said:?}"))?.parse().context("no number")?);
        Ok(())
    })?;
    Ok(figure("exit round trip (port write)", "cyc", 1.05, &samples))
}

/// From a write to an eventfd to the guest's interrupt handler, microseconds, by the host's clock.
///
/// # Errors
/// When a subject fails, or there is only one CPU.
pub fn interrupt(subjects: &Subjects, rounds: usize, halted: bool) -> Result<Figure> {
    const PIN: u32 = 5;
    const SAMPLES: usize = 200;
    let mode = if halted { "" } else { "run=spin" };
    let setup = Setup { cpu: Some(1), interrupt: Some(PIN), ..setup(mode) };
    let mut own = rustix::thread::CpuSet::new();
    own.set(0);
    rustix::thread::sched_setaffinity(None, &own).context("this figure needs two CPUs")?;
    let vector = u64::from(platform::PROBE_PIN_VECTOR) + u64::from(PIN);
    let counter = platform::PROBE_ADDRESS + platform::PROBE_INTERRUPTS + vector * 8;
    let samples = in_turn(rounds, subjects, &setup, |run, samples| {
        let mut run = run()?;
        run.until("\n")?;
        let read = |offset: u64| -> Result<u64> {
            let mut bytes = [0; 8];
            rustix::io::pread(&run.memory, &mut bytes, offset)?;
            Ok(u64::from_le_bytes(bytes))
        };
        // The guest beats, so its interrupt controllers are set up.
        let begin = Instant::now();
        while read(platform::PROBE_ADDRESS + platform::PROBE_BEATS)? < 2 {
            ensure!(begin.elapsed() < Duration::from_secs(30), "the guest does not beat");
            std::thread::yield_now();
        }
        let source = run.interrupt.as_ref().context("no interrupt source")?;
        for index in 0..SAMPLES {
            let before = read(counter)?;
            let begin = Instant::now();
            rustix::io::write(source, &1u64.to_ne_bytes())?;
            while read(counter)? == before {
                ensure!(begin.elapsed() < Duration::from_secs(10), "the guest took no interrupt");
            }
            samples.push(begin.elapsed().as_secs_f64() * 1e6);
            // A prime number of microseconds, so that beats and samples do not march in step.
            let pause = Duration::from_micros(1009 + (index as u64 % 7) * 97);
            let begin = Instant::now();
            while begin.elapsed() < pause {
                std::hint::spin_loop();
            }
        }
        Ok(())
    });
    let mut all = rustix::thread::CpuSet::new();
    (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    rustix::thread::sched_setaffinity(None, &all)?;
    let name = if halted { "irqfd to handler, guest halted" } else { "irqfd to handler, guest computing" };
    Ok(figure(name, "us", 1.1, &samples?))
}

/// How long a partition takes to stop, from the order to its final record.
#[derive(Debug, serde::Serialize)]
pub struct StopFigure {
    /// What the guest did meanwhile.
    pub guest: &'static str,
    /// Half of the samples were no longer, milliseconds.
    pub p50_ms: f64,
    /// 99 % of them, milliseconds.
    pub p99_ms: f64,
    /// The longest, milliseconds.
    pub longest_ms: f64,
    /// What the specification promises of `p99_ms`, at most.
    pub promised_ms: f64,
}

/// Measures [`StopFigure`] for guests that do their best not to be stopped.
///
/// # Errors
/// When a partition fails.
pub fn stop(subjects: &Subjects, rounds: usize) -> Result<Vec<StopFigure>> {
    let guests = [
        ("halted", ""),
        ("computing in ring 3", "run=spin"),
        ("hung in ring 0, interrupts off", "run=hang"),
        ("leaving for its monitor all the time", "run=exits:1000000"),
    ];
    let mut figures = Vec::new();
    for (guest, cmdline) in guests {
        let mut samples = Samples::default();
        for _ in 0..rounds {
            let mut run = subjects.partition(&setup(cmdline))?;
            run.until("ready")?;
            samples.push(run.stop()?.as_secs_f64() * 1e3);
        }
        let [p50_ms, p99_ms, longest_ms] = [0.5, 0.99, 1.0].map(|at| samples.quantile(at));
        figures.push(StopFigure { guest, p50_ms, p99_ms, longest_ms, promised_ms: 50.0 });
    }
    Ok(figures)
}

/// Proportional memory of one `partition` process alone, without guest memory.
#[derive(Debug, serde::Serialize)]
pub struct MemoryFigure {
    /// Kibibytes.
    pub overhead_kib: u64,
    /// What the specification promises, at most.
    pub promised_kib: u64,
    /// The largest parts: mapping and kibibytes.
    pub parts: Vec<(String, u64)>,
}

/// Measures [`MemoryFigure`] while the guest beats.
///
/// # Errors
/// When the partition fails.
pub fn memory(subjects: &Subjects) -> Result<MemoryFigure> {
    let mut run = subjects.partition(&setup(""))?;
    run.until("\n")?;
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", run.child.id()))?;
    let mut parts = std::collections::BTreeMap::<String, u64>::new();
    let mut mapping = String::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if first.contains('-') && !first.ends_with(':') {
            mapping = words.nth(4).unwrap_or("anonymous").to_owned();
        } else if first == "Pss:" {
            let kib: u64 = words.next().unwrap_or_default().parse()?;
            if !mapping.starts_with("/memfd:guest-memory") {
                *parts.entry(mapping.clone()).or_default() += kib;
            }
        }
    }
    let overhead_kib = parts.values().sum();
    let mut parts: Vec<(String, u64)> = parts.into_iter().filter(|(_, kib)| *kib > 0).collect();
    parts.sort_by_key(|(_, kib)| std::cmp::Reverse(*kib));
    parts.truncate(8);
    Ok(MemoryFigure { overhead_kib, promised_kib: 2048, parts })
}
