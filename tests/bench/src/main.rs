//! `bench`: a running partition against the bare floor, in one run, as ratios.
//!
//! The floor is a program without threads that makes the same virtual machine by raw system calls and
//! starts the same payload in the same memory. An absolute time proves nothing on a shared machine; a
//! ratio beside the noise of the floor against itself does.

mod measure;
mod statistics;
mod subject;

use anyhow::{Context, Result};
use clap::Parser;
use std::path::PathBuf;

/// Measures a partition against the bare floor, in one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds of each figure; every subject takes its turn in each.
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// Directory of the binaries; by default that of this one.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Leave with status 1 when a promise is not held.
    #[arg(long)]
    strict: bool,
}

fn main() -> Result<std::process::ExitCode> {
    let arguments = Arguments::parse();
    let own = std::env::current_exe()?;
    let directory = arguments.bin.clone().or_else(|| own.parent().map(Into::into)).context("no directory")?;
    let subjects = subject::Subjects::find(&directory)?;
    let several = arguments.rounds.div_ceil(4);
    let mut figures = vec![measure::start(&subjects, arguments.rounds)?, measure::exit(&subjects, several)?];
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2) {
        figures.push(measure::interrupt(&subjects, several, true)?);
        figures.push(measure::interrupt(&subjects, several, false)?);
    } else {
        eprintln!("the interrupt figures need two CPUs; they are left out");
    }
    let stops = measure::stop(&subjects, arguments.rounds)?;
    let memory = measure::memory(&subjects)?;
    let held = figures.iter().all(statistics::Figure::holds)
        && stops.iter().all(|stop| stop.p99_ms <= stop.promised_ms)
        && memory.overhead_kib <= memory.promised_kib;
    if arguments.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&serde_json::json!({ "figures": figures, "stops": stops, "memory": memory }))?
        );
    } else {
        println!("{}", statistics::header());
        for figure in &figures {
            println!("{figure}");
        }
        for stop in &stops {
            println!(
                "stop of a guest that is {:<38} p50 {:>6.2}  p99 {:>6.2}  longest {:>6.2} ms of at most {} ({})",
                stop.guest,
                stop.p50_ms,
                stop.p99_ms,
                stop.longest_ms,
                stop.promised_ms,
                if stop.p99_ms <= stop.promised_ms { "held" } else { "NOT HELD" }
            );
        }
        println!(
            "memory of one partition process, without its guest's: {} KiB of at most {} ({})",
            memory.overhead_kib,
            memory.promised_kib,
            if memory.overhead_kib <= memory.promised_kib { "held" } else { "NOT HELD" }
        );
        for (mapping, kib) in &memory.parts {
            println!("  {kib:>6} KiB {mapping}");
        }
    }
    Ok(if arguments.strict && !held { std::process::ExitCode::FAILURE } else { std::process::ExitCode::SUCCESS })
}
