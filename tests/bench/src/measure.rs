//! The figures.

use crate::brought_up::{self, BroughtUp};
use crate::memory::{self, MemoryFigure};
use crate::peer::Peer;
use crate::statistics::{Figure, Samples};
use crate::subject::{Run, Setup, Subjects};
use anyhow::{Context, Result, bail, ensure};
use frame::launch::InterruptMode;
use frame::platform;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

const MEMORY: u64 = 16 << 20;

pub fn setup(cmdline: &str) -> Setup {
    let cmdline = format!("name=bench {cmdline}");
    Setup {
        memory: MEMORY,
        cmdline,
        cpu: None,
        interrupt: None,
        entropy: false,
        interrupt_mode: InterruptMode::default(),
    }
}

/// One of those that are measured.
#[derive(Clone, Copy, Debug)]
enum Who<'a> {
    Floor,
    Partition,
    Peer(&'a Peer),
}

impl Who<'_> {
    fn start(self, subjects: &Subjects, setup: &Setup) -> Result<Run> {
        match self {
            Self::Floor => subjects.floor(setup),
            Self::Partition => subjects.partition(setup),
            Self::Peer(peer) => subjects.peer(peer, setup).with_context(|| format!("the peer {}", peer.name)),
        }
    }
}

/// Floor, floor again, partition, peers.
fn everybody(peers: &[Peer]) -> Vec<Who<'_>> {
    let ours = [Who::Floor, Who::Floor, Who::Partition];
    ours.into_iter().chain(peers.iter().map(Who::Peer)).collect()
}

/// Samples of each of `count` subjects, which take turns.
fn in_turn(
    rounds: usize,
    count: usize,
    mut sample: impl FnMut(usize, &mut Samples) -> Result<()>,
) -> Result<Vec<Samples>> {
    let mut all = vec![Samples::default(); count];
    for round in 0..rounds {
        // Who begins changes, so that a machine that drifts favours nobody.
        for turn in 0..count {
            let who = (round + turn) % count;
            if let Some(samples) = all.get_mut(who) {
                sample(who, samples)?;
            }
        }
    }
    Ok(all)
}

/// The figures of all subjects after the floor: `named` gives their names and what is promised of them.
fn figures(
    name: &str,
    unit: &'static str,
    samples: &[Samples],
    named: impl IntoIterator<Item = (String, Option<f64>)>,
) -> Result<Vec<Figure>> {
    let [floor, again, rest @ ..] = samples else { bail!("the floor was not measured") };
    let compare = |(samples, (subject, promised)): (&Samples, (String, Option<f64>))| {
        Figure::compare(name, &subject, unit, promised, [floor, again], samples)
    };
    Ok(rest.iter().zip(named).map(compare).collect())
}

fn peer_names(peers: &[Peer]) -> impl Iterator<Item = (String, Option<f64>)> {
    peers.iter().map(|peer| (peer.name.clone(), None))
}

/// What the guest of every monitor says first; a firmware that runs before it says other things.
const FIRST_OUTPUT: &str = "bench: ";

/// From the start of the process to the first line that the guest begins to print, milliseconds; and from a
/// call of `lpar activate` to the same, as a session on its console sees it.
///
/// # Errors
/// When a subject fails.
pub fn start(subjects: &Subjects, peers: &[Peer], rounds: usize) -> Result<Vec<Figure>> {
    let cpus = std::thread::available_parallelism()?.get();
    // A partition for each round: the console of one that ran before shows what it said then.
    let units = "{ minimum = 0.001, desired = 0.9, maximum = 1.0 }";
    let name = format!("bench{}", std::process::id());
    let text = brought_up::frame_file(&name, cpus, rounds, MEMORY >> 20, units, "");
    let frame = BroughtUp::new(&subjects.binaries, &text)?;
    let everybody = everybody(peers);
    let setup = setup("");
    let mut next = 0;
    let samples = in_turn(rounds, everybody.len() + 1, |who, samples| {
        if let Some(who) = everybody.get(who) {
            let begin = Instant::now();
            let mut run = who.start(subjects, &setup)?;
            run.until(FIRST_OUTPUT)?;
            samples.push(begin.elapsed().as_secs_f64() * 1e3);
        } else {
            samples.push(activation(&frame, &format!("b{next}"))?.as_secs_f64() * 1e3);
            next += 1;
        }
        Ok(())
    })?;
    frame.down()?;
    let named = [("partition".to_owned(), Some(1.5))].into_iter().chain(peer_names(peers));
    figures("start to first output", "ms", &samples, named.chain([("lpar activate".to_owned(), Some(2.5))]))
}

/// From a call of `lpar activate` to the first byte on the partition's console; it is shut down again.
fn activation(frame: &BroughtUp, partition: &str) -> Result<Duration> {
    let mut console = frame.console(partition)?;
    console.set_nonblocking(false)?;
    console.set_read_timeout(Some(Duration::from_secs(60)))?;
    let begin = Instant::now();
    let mut lpar = frame.command(&["activate", partition]).stdout(Stdio::null()).spawn()?;
    let mut first = [0; 256];
    let length = console.read(&mut first).with_context(|| format!("the console of {partition}"));
    let took = begin.elapsed();
    let status = lpar.wait()?;
    ensure!(status.success(), "lpar activate {partition}: {status}");
    ensure!(length? > 0, "the console of {partition} closed");
    frame.lpar(&["shutdown", partition, "--immediate"])?;
    Ok(took)
}

/// A port write from ring 3 to the monitor and back, in cycles of the guest's own clock.
///
/// # Errors
/// When a subject fails.
pub fn exit(subjects: &Subjects, peers: &[Peer], rounds: usize) -> Result<Vec<Figure>> {
    let everybody = everybody(peers);
    let setup = setup("run=exits:5000");
    let samples = in_turn(rounds, everybody.len(), |who, samples| {
        let Some(who) = everybody.get(who) else { return Ok(()) };
        let said = who.start(subjects, &setup)?.until("tsc_khz=")?;
        let word = said.split_whitespace().find_map(|word| word.strip_prefix("p50="));
        samples.push(word.with_context(|| format!("no p50 in {said:?}"))?.parse().context("no number")?);
        Ok(())
    })?;
    let named = [("partition".to_owned(), Some(1.05))].into_iter().chain(peer_names(peers));
    figures("exit round trip (port write)", "cyc", &samples, named)
}

/// From a write to an eventfd to the guest's interrupt handler, microseconds, by the host's clock.
///
/// # Errors
/// When a subject fails, or there is only one CPU.
pub fn interrupt(subjects: &Subjects, rounds: usize, halted: bool) -> Result<Vec<Figure>> {
    const PIN: u32 = 5;
    const SAMPLES: usize = 200;
    let mode = if halted { "" } else { "run=spin" };
    let setup = Setup { cpu: Some(1), interrupt: Some(PIN), ..setup(mode) };
    let mut own = rustix::thread::CpuSet::new();
    own.set(0);
    rustix::thread::sched_setaffinity(None, &own).context("this figure needs two CPUs")?;
    let vector = u64::from(platform::PROBE_PIN_VECTOR) + u64::from(PIN);
    let counter = platform::PROBE_ADDRESS + platform::PROBE_INTERRUPTS + vector * 8;
    let everybody = everybody(&[]);
    let samples = in_turn(rounds, everybody.len(), |who, samples| {
        let Some(who) = everybody.get(who) else { return Ok(()) };
        let mut run = who.start(subjects, &setup)?;
        run.until("\n")?;
        let memory = run.memory.as_ref().context("no guest memory")?;
        let read = |offset: u64| -> Result<u64> {
            let mut bytes = [0; 8];
            rustix::io::pread(memory, &mut bytes, offset)?;
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
    figures(name, "us", &samples?, [("partition".to_owned(), Some(1.1))])
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

/// Measures [`MemoryFigure`] of the partition and of the peers while the guest beats.
///
/// # Errors
/// When one fails.
pub fn memory(subjects: &Subjects, peers: &[Peer]) -> Result<Vec<MemoryFigure>> {
    let measure = |who: Who<'_>, subject: &str, promised_kib| {
        let mut run = who.start(subjects, &setup(""))?;
        run.until("ready")?;
        let (overhead_kib, parts) =
            memory::overhead(&std::fs::read_to_string(format!("/proc/{}/smaps", run.child.id()))?, MEMORY >> 10)?;
        Ok(MemoryFigure { subject: subject.to_owned(), overhead_kib, promised_kib, parts })
    };
    let ours = measure(Who::Partition, "partition", Some(2048));
    [ours].into_iter().chain(peers.iter().map(|peer| measure(Who::Peer(peer), &peer.name, None))).collect()
}
