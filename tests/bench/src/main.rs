//! `bench`: a running partition against the bare floor and other monitors, in one run, as ratios.
//!
//! The floor is a program without threads that makes the same virtual machine by raw system calls and
//! starts the same payload in the same memory. An absolute time proves nothing on a shared machine; a
//! ratio beside the noise of the floor against itself does.

mod brought_up;
mod devices;
mod measure;
mod memory;
mod modes;
mod peer;
mod report;
mod scale;
mod statistics;
mod storm;
mod subject;

use anyhow::{Context, Result};
use clap::Parser;
use devices::DeviceFigure;
use measure::StopFigure;
use memory::MemoryFigure;
use modes::ModeFigure;
use scale::Scale;
use statistics::Figure;
use std::path::PathBuf;
use std::process::ExitCode;
use storm::StormFigure;

/// Measures a partition against the bare floor, in one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds of each figure, for some a quarter of them; every subject takes its turn in each.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Directory of the binaries; by default that of this one.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Another monitor to compare with; by default those on the PATH. NAME begins with qemu, firecracker or
    /// cloud-hypervisor.
    #[arg(long, value_name = "NAME=PATH", value_parser = peer::parse)]
    peer: Vec<peer::Peer>,
    /// Compare with no other monitor.
    #[arg(long, conflicts_with = "peer")]
    no_peers: bool,
    /// Measure only the figures from a start to the first output.
    #[arg(long, conflicts_with = "scale")]
    start: bool,
    /// Measure only what a storm in one partition does to another.
    #[arg(long, conflicts_with_all = ["scale", "start"])]
    storm: bool,
    /// Measure instead what an interrupt costs with the interrupt controllers in KVM, split, and emulated.
    #[arg(long, conflicts_with_all = ["scale", "start", "storm", "devices", "peer"])]
    modes: bool,
    /// Measure instead disk and adapter of a Linux partition against those of QEMU's microvm, both in the testbed.
    #[arg(long, conflicts_with_all = ["scale", "start", "storm", "peer"])]
    devices: bool,
    /// Measure instead how a frame fills with this many partitions.
    #[arg(long, value_name = "PARTITIONS", value_parser = clap::value_parser!(u16).range(1..=1000))]
    scale: Option<u16>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Leave with status 1 when a promise is not held.
    #[arg(long)]
    strict: bool,
}

/// The own figure against the best of all other monitors.
#[derive(Debug, serde::Serialize)]
pub struct Race {
    /// What was measured; less is better.
    pub name: String,
    /// Whose figure it is.
    pub subject: String,
    /// Its figure at p50.
    pub own: f64,
    /// Which of the others is best.
    pub quickest: String,
    /// Its figure.
    pub other: f64,
}

impl Race {
    /// Whether the own figure is the better one.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.own < self.other
    }
}

/// All that was measured.
#[derive(Debug, Default, serde::Serialize)]
pub struct Results {
    figures: Vec<Figure>,
    stops: Vec<StopFigure>,
    memory: Vec<MemoryFigure>,
    races: Vec<Race>,
    storm: Option<StormFigure>,
    devices: Vec<DeviceFigure>,
    modes: Vec<ModeFigure>,
    scale: Option<Scale>,
}

impl Results {
    fn held(&self) -> bool {
        self.figures.iter().all(Figure::holds)
            && self.stops.iter().all(|stop| stop.p99_ms <= stop.promised_ms)
            && self.memory.iter().all(|one| one.promised_kib.is_none_or(|promised| one.overhead_kib <= promised))
            && self.races.iter().all(Race::holds)
            && self.storm.as_ref().is_none_or(StormFigure::holds)
            && self.devices.iter().all(DeviceFigure::holds)
            && self.scale.as_ref().is_none_or(Scale::holds)
    }
}

/// The races of all own figures, those with a promise, against the others of the same name.
fn races(figures: &[Figure], memory: &[MemoryFigure]) -> Vec<Race> {
    let times = figures.iter().map(|one| (one.name.as_str(), one.subject.as_str(), one.p50, one.promised.is_some()));
    let sizes = memory
        .iter()
        .map(|one| ("memory, KiB", one.subject.as_str(), one.overhead_kib as f64, one.promised_kib.is_some()));
    let all: Vec<_> = times.chain(sizes).collect();
    let race = |&(name, subject, own, _): &(&str, &str, f64, bool)| {
        let others = all.iter().filter(|one| one.0 == name && !one.3);
        let &(_, quickest, other, _) = others.min_by(|one, two| one.2.total_cmp(&two.2))?;
        Some(Race { name: name.into(), subject: subject.into(), own, quickest: quickest.into(), other })
    };
    all.iter().filter(|one| one.3).filter_map(race).collect()
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let own = std::env::current_exe()?;
    let directory = arguments.bin.clone().or_else(|| own.parent().map(Into::into)).context("no directory")?;
    let results = match arguments.scale {
        Some(count) => Results { scale: Some(scale::measure(&directory, count.into())?), ..Results::default() },
        None if arguments.devices => {
            let (devices, memory) = devices::measure(&directory, usize::from(arguments.rounds).div_ceil(4))?;
            Results { devices, memory, ..Results::default() }
        }
        None => ratios(&directory, &arguments)?,
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    } else {
        print!("{}", report::text(&results));
    }
    Ok(if arguments.strict && !results.held() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn ratios(directory: &std::path::Path, arguments: &Arguments) -> Result<Results> {
    let subjects = subject::Subjects::find(directory)?;
    let peers = match arguments.peer.as_slice() {
        _ if arguments.no_peers => vec![],
        [] => peer::on_path(),
        named => named.to_vec(),
    };
    let rounds = usize::from(arguments.rounds);
    let several = rounds.div_ceil(4);
    if arguments.modes {
        return Ok(Results { modes: modes::measure(&subjects, several)?, ..Results::default() });
    }
    if arguments.storm {
        return Ok(Results { storm: Some(storm::measure(&subjects, several)?), ..Results::default() });
    }
    let mut figures = measure::start(&subjects, &peers, rounds)?;
    if arguments.start {
        let races = races(&figures, &[]);
        return Ok(Results { figures, races, ..Results::default() });
    }
    let mut storm = None;
    figures.extend(measure::exit(&subjects, &peers, several)?);
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2) {
        figures.extend(measure::interrupt(&subjects, several, true)?);
        figures.extend(measure::interrupt(&subjects, several, false)?);
        storm = Some(storm::measure(&subjects, several)?);
    } else {
        eprintln!("the interrupt figures need two CPUs; they are left out");
    }
    let stops = measure::stop(&subjects, rounds)?;
    let memory = measure::memory(&subjects, &peers)?;
    let races = races(&figures, &memory);
    Ok(Results { figures, stops, memory, races, storm, ..Results::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_own_figure_races_the_best_of_the_others() {
        let memory = |subject: &str, overhead_kib, promised_kib| MemoryFigure {
            subject: subject.into(),
            overhead_kib,
            promised_kib,
            parts: vec![],
        };
        let own = memory("partition", 10, Some(20));
        assert!(races(&[], &[own]).is_empty());
        let all = [memory("partition", 10, Some(20)), memory("qemu", 30, None), memory("firecracker", 9, None)];
        let found = races(&[], &all);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].quickest.as_str(), found[0].holds()), ("firecracker", false));
        assert!(races(&[], &all[..2])[0].holds());
    }
}
