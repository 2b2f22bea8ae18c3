//! How long a plan takes, by the number of partitions and by the size of the machine.
//!
//! No privilege and no device: planning is arithmetic. What counts is the last column: the time of one partition
//! beside that of the line before.

mod frames;
mod machine;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use frame::assignment::Assignment;
use frame::declare::Frame;
use frame::inventory::Inventory;
use frame::plan::{Plan, plan};
use frames::Supply;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Times plans of generated frames on generated machines.
#[derive(Parser)]
struct Arguments {
    /// How often each plan is made; the quickest counts.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Write the inventory of the machine of 1,920 CPUs to this file, and do nothing else.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Fail unless 1,000 partitions take less than 50 ms and 10,000 less than 1 s.
    #[arg(long)]
    check: bool,
}

/// What is said of one plan.
struct Line {
    partitions: u32,
    cpus: u32,
    case: &'static str,
    time: Duration,
}

fn planned(frame: &Frame, machine: &Inventory, owned: &Assignment) -> Result<Plan> {
    plan(frame, machine, owned).map_err(|refusals| match refusals.first() {
        Some(first) => anyhow!("the frame of {} partitions has no plan: {first}", frame.partitions.len()),
        None => anyhow!("the frame has no plan"),
    })
}

/// The shortest of `rounds` plans.
fn quickest(rounds: u32, frame: &Frame, machine: &Inventory, owned: &Assignment) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        let plan = planned(frame, machine, owned)?;
        best = best.min(start.elapsed());
        if plan.partitions.len() + plan.withheld.len() != frame.partitions.len() {
            bail!("{} partitions of {} are in the plan", plan.partitions.len(), frame.partitions.len());
        }
    }
    Ok(best)
}

/// Plans with plenty, with scarcity, and with every second partition running.
fn measure(rounds: u32, partitions: u32, cpus: u32) -> Result<Vec<Line>> {
    let machine = machine::machine(cpus);
    let plenty = frames::frame(partitions, &machine, Supply::Plenty)?;
    let scarce = frames::frame(partitions, &machine, Supply::Scarce)?;
    let mut half = planned(&plenty, &machine, &Assignment::new())?.assignment();
    let mut odd = false;
    half.partitions.retain(|_, _| {
        odd = !odd;
        odd
    });
    let line = |case, frame: &Frame, owned: &Assignment| -> Result<Line> {
        let time = quickest(rounds, frame, &machine, owned)?;
        Ok(Line { partitions, cpus, case, time })
    };
    let nothing = Assignment::new();
    Ok(vec![
        line("plenty", &plenty, &nothing)?,
        line("scarce", &scarce, &nothing)?,
        line("half running", &plenty, &half)?,
    ])
}

fn show(title: &str, lines: &[Line], by: fn(&Line) -> u32) {
    println!(
        "{title}\n{:>10} {:>6}  {:12} {:>10} {:>14} {:>6}",
        "partitions", "CPUs", "case", "ms", "us each", "ratio"
    );
    for (at, line) in lines.iter().enumerate() {
        let each = |line: &Line| line.time.as_secs_f64() * 1e6 / f64::from(by(line).max(1));
        let before = lines.iter().take(at).rev().find(|one| one.case == line.case);
        let ratio = before.map_or_else(String::new, |before| format!("{:.2}", each(line) / each(before)));
        println!(
            "{:>10} {:>6}  {:12} {:>10.2} {:>14.2} {ratio:>6}",
            line.partitions,
            line.cpus,
            line.case,
            line.time.as_secs_f64() * 1e3,
            each(line)
        );
    }
    println!();
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(path) = &arguments.write {
        let text = machine::json(&machine::machine(1920))?;
        return std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()));
    }
    let mut by_partitions = vec![];
    for partitions in [100, 200, 500, 1000, 2000, 5000, 10_000, 20_000] {
        by_partitions.extend(measure(arguments.rounds, partitions, 1920)?);
    }
    show("By partitions, on 1,920 CPUs, 16 nodes, 32 TiB (each: for a partition)", &by_partitions, |line| {
        line.partitions
    });
    let mut by_cpus = vec![];
    for cpus in [2, 8, 32, 120, 480, 1920, 7680] {
        by_cpus.extend(measure(arguments.rounds, 1000.min(cpus * 20), cpus)?);
    }
    show("By CPUs, 1,000 partitions, or 20 for a CPU (each: for a CPU)", &by_cpus, |line| line.cpus);
    if arguments.check {
        let late = |partitions: u32, most: u64| {
            let slow = |line: &&Line| line.partitions == partitions && line.time > Duration::from_millis(most);
            match by_partitions.iter().find(slow) {
                Some(line) => {
                    bail!("{partitions} partitions ({}) took {:?}, more than {most} ms", line.case, line.time)
                }
                None => Ok(()),
            }
        };
        late(1000, 50)?;
        late(10_000, 1000)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plan that looked at every pair of partitions would take eight times as long for each.
    #[test]
    fn eight_times_the_partitions_take_about_eight_times_as_long() {
        let machine = machine::machine(1920);
        for supply in [Supply::Plenty, Supply::Scarce] {
            let each = |partitions: u32| {
                let frame = frames::frame(partitions, &machine, supply).unwrap();
                let time = quickest(5, &frame, &machine, &Assignment::new()).unwrap();
                time.as_secs_f64() / f64::from(partitions)
            };
            let (few, many) = (each(1000), each(8000));
            assert!(many < few * 3.0, "{supply:?}: {few} s for each of 1,000, {many} s for each of 8,000");
        }
    }

    #[test]
    fn plenty_is_plenty_and_scarce_is_scarce() {
        for (cpus, partitions) in [(2, 40), (120, 40), (1920, 1000)] {
            let machine = machine::machine(cpus);
            let count = |supply| {
                let frame = frames::frame(partitions, &machine, supply).unwrap();
                let plan = planned(&frame, &machine, &Assignment::new()).unwrap();
                assert_eq!((plan.partitions.len(), plan.withheld.len()), (partitions as usize, 0));
                plan.warnings.iter().filter(|warning| warning.rule == "shortfall").count()
            };
            assert_eq!(count(Supply::Plenty), 0, "{cpus} CPUs");
            assert!(count(Supply::Scarce) > 0, "{cpus} CPUs");
        }
    }
}
