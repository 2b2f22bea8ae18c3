//! The three places where interrupt controllers can be, side by side: all in KVM, the I/O APIC in the partition's
//! process, or both there. What an interrupt costs in each, in exits to the process and in time.

use crate::measure::setup;
use crate::statistics::Samples;
use crate::subject::{Setup, Subjects};
use anyhow::{Context, Result};
use frame::launch::InterruptMode;

/// The modes, as the frame file names them.
const MODES: [(&str, InterruptMode); 3] =
    [("kernel", InterruptMode::Kernel), ("split", InterruptMode::Split), ("emulated", InterruptMode::Emulated)];
/// CPU of the virtual processor and of the device's thread.
const CPU: u32 = 0;

/// What interrupts the guest.
struct Load {
    name: &'static str,
    /// What the payload is told, before the number of interrupts.
    run: &'static str,
    /// The field of its answer with the time, and how many of its units are a microsecond.
    field: &'static str,
    divisor: f64,
    /// Whether that is the time of all interrupts.
    total: bool,
    /// Fewer and more interrupts: what a start costs is in both.
    counts: [u32; 2],
}

const LOADS: [Load; 3] = [
    Load {
        name: "timer, late",
        run: "beat=2 run=lateness:",
        field: "p50=",
        divisor: 1e3,
        total: false,
        counts: [50, 250],
    },
    Load {
        name: "device, request to answer",
        run: "run=requests:1:",
        field: "total_us=",
        divisor: 1.0,
        total: true,
        counts: [500, 2500],
    },
    Load { name: "to itself", run: "run=storm:", field: "total_us=", divisor: 1.0, total: true, counts: [500, 2500] },
];

/// One mode under one load.
#[derive(Debug, serde::Serialize)]
pub struct ModeFigure {
    /// What interrupted the guest.
    pub load: &'static str,
    /// Where its interrupt controllers were.
    pub mode: &'static str,
    /// Microseconds of one interrupt, in the median of the rounds.
    pub microseconds: f64,
    /// The same to that of the mode `kernel`; of that mode, a second turn to the first: how far from 1.0 is chance.
    pub ratio: f64,
    /// Exits from the guest to the partition's process for one interrupt, in the median of the rounds.
    pub exits: f64,
}

/// Measures all modes in `rounds` rounds, in turns; `kernel` has two in each.
///
/// # Errors
/// When a guest fails.
pub fn measure(subjects: &Subjects, rounds: usize) -> Result<Vec<ModeFigure>> {
    let mut figures = Vec::new();
    for load in &LOADS {
        // The second turn of the first mode is the last.
        let turns = MODES.len() + 1;
        let mut times = vec![Samples::default(); turns];
        let mut exits = vec![Samples::default(); turns];
        for round in 0..rounds {
            for turn in 0..turns {
                let turn = (round + turn) % turns;
                let (_, mode) = MODES.get(turn % MODES.len()).context("no such mode")?;
                let (time, count) = sample(subjects, load, *mode)?;
                if let (Some(times), Some(exits)) = (times.get_mut(turn), exits.get_mut(turn)) {
                    times.push(time);
                    exits.push(count);
                }
            }
        }
        let median: Vec<f64> = times.iter().map(|samples| samples.quantile(0.5)).collect();
        let kernel = median.first().copied().unwrap_or(f64::NAN);
        for ((turn, (mode, _)), (time, exits)) in MODES.iter().enumerate().zip(median.iter().zip(&exits)) {
            let of = if turn == 0 { median.last().copied().unwrap_or(f64::NAN) } else { *time };
            figures.push(ModeFigure {
                load: load.name,
                mode,
                microseconds: *time,
                ratio: of / kernel,
                exits: exits.quantile(0.5),
            });
        }
    }
    Ok(figures)
}

/// Microseconds of one interrupt, and exits for it.
fn sample(subjects: &Subjects, load: &Load, mode: InterruptMode) -> Result<(f64, f64)> {
    let [few, many] = load.counts;
    let (_, before) = run(subjects, load, mode, few)?;
    let (time, after) = run(subjects, load, mode, many)?;
    let time = if load.total { time / f64::from(many) } else { time };
    Ok((time / load.divisor, (after as f64 - before as f64).max(0.0) / f64::from(many - few)))
}

/// What a guest with `count` interrupts says of their time, and its exits from its start on.
fn run(subjects: &Subjects, load: &Load, mode: InterruptMode, count: u32) -> Result<(f64, u64)> {
    let line = format!("{}{count}", load.run);
    let setup = Setup { cpu: Some(CPU), entropy: true, interrupt_mode: mode, ..setup(&line) };
    let mut run = subjects.partition(&setup)?;
    let mut said = run.until(load.field)?;
    // The value may come later than its name.
    while !said.rsplit(load.field).next().is_some_and(|rest| rest.contains([' ', '\n', '\r'])) {
        said += &String::from_utf8_lossy(&run.output()?);
    }
    let word = said.split_whitespace().find_map(|word| word.strip_prefix(load.field));
    let value = word.and_then(|word| word.parse().ok()).with_context(|| format!("no {} in {said:?}", load.field))?;
    Ok((value, run.exits()?))
}
