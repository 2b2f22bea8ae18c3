//! What an interrupt storm in one partition does to another one's interrupts.
//!
//! The victim is a guest that measures how late its own timer interrupts come, on a CPU of its own; the storm is a
//! guest on another CPU whose device interrupts it at full speed. What the same storm does to a bare thread that
//! sleeps until absolute times on the victim's CPU is the host's doing, and taken off.

use crate::measure::setup;
use crate::statistics::Samples;
use crate::subject::{Run, Setup, Subjects};
use anyhow::{Context, Result, bail, ensure};
use frame::platform::{PROBE_ADDRESS, PROBE_INTERRUPTS, PROBE_SLOT_VECTOR};
use rustix::thread::{ClockId, CpuSet, clock_nanosleep_absolute, sched_setaffinity};
use rustix::time::{Timespec, clock_gettime};
use std::time::Instant;

/// CPU of the storm, and CPU of the victims.
const STORM: u32 = 0;
const VICTIM: u32 = 1;
/// Timer interrupts of one sample.
const BEATS: usize = 200;
/// Nanoseconds between them.
const PERIOD: i64 = 2_000_000;
/// At most how much later the victim's interrupts come, as a ratio.
const PROMISED: f64 = 1.1;

/// How late interrupts come, microseconds at p50, in the median of the rounds.
#[derive(Debug, serde::Serialize)]
pub struct StormFigure {
    /// The victim without and with a storm.
    pub quiet: f64,
    /// The same once more without one: how far from `quiet` is chance.
    pub again: f64,
    /// With the storm.
    pub storm: f64,
    /// A bare thread without it.
    pub bare_quiet: f64,
    /// A bare thread with it.
    pub bare_storm: f64,
    /// What is left of the storm when the bare thread's loss is taken off, to the quiet.
    pub ratio: f64,
    /// Interrupts of the storm in a second.
    pub rate: f64,
    /// At most this is promised of `ratio`.
    pub promised: f64,
}

impl StormFigure {
    /// Whether the promise holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.ratio <= self.promised
    }
}

/// Measures it in `rounds` rounds.
///
/// # Errors
/// When a guest fails, or there is only one CPU.
pub fn measure(subjects: &Subjects, rounds: usize) -> Result<StormFigure> {
    let mut samples = vec![Samples::default(); 5];
    let mut rate = Samples::default();
    for round in 0..rounds {
        for turn in 0..samples.len() {
            let what = (round + turn) % samples.len();
            let storm = match what {
                2 | 4 => Some(begin(subjects)?),
                _ => None,
            };
            let late = if what >= 3 { bare()? } else { victim(subjects)? };
            if let Some(mut storm) = storm {
                rate.push(storm.taken_in_a_second()?);
            }
            if let Some(samples) = samples.get_mut(what) {
                samples.push(late);
            }
        }
    }
    let median: Vec<f64> = samples.iter().map(|samples| samples.quantile(0.5)).collect();
    let [quiet, again, storm, bare_quiet, bare_storm] = median[..] else { bail!("nothing was measured") };
    let ratio = (storm - (bare_storm - bare_quiet).max(0.0)) / quiet;
    Ok(StormFigure { quiet, again, storm, bare_quiet, bare_storm, ratio, rate: rate.quantile(0.5), promised: PROMISED })
}

/// A storm that goes on until it is dropped.
struct Storm {
    run: Run,
    before: u64,
    since: Instant,
}

fn begin(subjects: &Subjects) -> Result<Storm> {
    let setup = Setup { cpu: Some(STORM), entropy: true, ..setup("run=requests:1:1000000") };
    let run = subjects.partition(&setup)?;
    let mut storm = Storm { run, before: 0, since: Instant::now() };
    while storm.taken()? < 100 {
        ensure!(storm.since.elapsed().as_secs() < 30, "the storm does not begin");
        std::thread::yield_now();
    }
    storm.before = storm.taken()?;
    storm.since = Instant::now();
    Ok(storm)
}

impl Storm {
    fn taken(&self) -> Result<u64> {
        let memory = self.run.memory.as_ref().context("no guest memory")?;
        let mut bytes = [0; 8];
        let vector = u64::from(PROBE_SLOT_VECTOR) + 1;
        rustix::io::pread(memory, &mut bytes, PROBE_ADDRESS + PROBE_INTERRUPTS + vector * 8)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn taken_in_a_second(&mut self) -> Result<f64> {
        let taken = self.taken()?.saturating_sub(self.before);
        ensure!(taken > 0, "the storm ended before the measurement");
        Ok(taken as f64 / self.since.elapsed().as_secs_f64())
    }
}

/// How late the timer interrupts of a guest come, microseconds at p50.
fn victim(subjects: &Subjects) -> Result<f64> {
    let period = PERIOD / 1_000_000;
    let line = format!("beat={period} run=lateness:{BEATS}");
    let said = subjects.partition(&Setup { cpu: Some(VICTIM), ..setup(&line) })?.until("p99=")?;
    let word = said.split_whitespace().find_map(|word| word.strip_prefix("p50="));
    let nanoseconds: f64 = word.with_context(|| format!("no p50 in {said:?}"))?.parse()?;
    Ok(nanoseconds / 1000.0)
}

/// How late a bare thread on the victim's CPU wakes, microseconds at p50.
fn bare() -> Result<f64> {
    let thread = std::thread::spawn(|| -> Result<f64> {
        let mut own = CpuSet::new();
        own.set(VICTIM as usize);
        sched_setaffinity(None, &own).context("this figure needs two CPUs")?;
        let nanoseconds = |time: Timespec| time.tv_sec * 1_000_000_000 + time.tv_nsec;
        let mut samples = Samples::default();
        let mut due = nanoseconds(clock_gettime(ClockId::Monotonic));
        for _ in 0..BEATS {
            due += PERIOD;
            let until = Timespec { tv_sec: due / 1_000_000_000, tv_nsec: due % 1_000_000_000 };
            clock_nanosleep_absolute(ClockId::Monotonic, &until)?;
            samples.push((nanoseconds(clock_gettime(ClockId::Monotonic)) - due) as f64 / 1000.0);
        }
        Ok(samples.quantile(0.5))
    });
    match thread.join() {
        Ok(outcome) => outcome,
        Err(_) => bail!("the bare thread failed"),
    }
}
