//! `testbed`: the testbed by hand, and what `tests/run` needs around a run of tests.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use testbed::skips::{Run, SkipList};
use testbed::{Options, Testbed, bounded, skips};

/// Exit status when a deadline passed, as `timeout(1)` has it.
const DEADLINE_PASSED: u8 = 124;

/// A full KVM in software emulation, and what a run of tests needs around it.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Boot a testbed and run a shell command in it; the exit status is the command's.
    Run(RunArguments),
    /// Run a command with a deadline and kill whatever is left of it; 124 if the deadline passed.
    Bounded {
        /// Seconds that the command may take.
        #[arg(long)]
        deadline: u64,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Print the class of this machine: no-kvm, kvm-pvm or full-kvm.
    MachineClass,
    /// Judge what `cargo test` printed, and end with the sum of its summaries; 1 unless all is in order.
    Verdict(VerdictArguments),
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// Put a file of this host into it, as HERE:THERE.
    #[arg(long = "file", value_name = "HERE:THERE")]
    files: Vec<String>,
    /// Put the four binaries into its /usr/bin.
    #[arg(long)]
    bulkhead: bool,
    /// Sockets, each a NUMA node if there are several.
    #[arg(long, default_value_t = Options::default().sockets, value_parser = clap::value_parser!(u32).range(1..=8))]
    sockets: u32,
    /// Cores of each socket.
    #[arg(long, default_value_t = Options::default().cores, value_parser = clap::value_parser!(u32).range(1..=64))]
    cores: u32,
    /// Threads of each core.
    #[arg(long, default_value_t = Options::default().threads, value_parser = clap::value_parser!(u32).range(1..=2))]
    threads: u32,
    /// Memory in MiB.
    #[arg(long, default_value_t = 2048)]
    memory: u64,
    /// Added to the kernel's command line.
    #[arg(long, default_value = "")]
    append: String,
    /// Seconds that the command may take.
    #[arg(long, default_value_t = 300)]
    deadline: u64,
    /// The command line.
    command: String,
}

#[derive(Debug, clap::Args)]
struct VerdictArguments {
    /// The list of tests that may be skipped.
    #[arg(long)]
    skips: PathBuf,
    /// A class that this run belongs to.
    #[arg(long = "class")]
    classes: Vec<String>,
    /// Tests were left out by a filter.
    #[arg(long)]
    filtered: bool,
    /// Exit status of `cargo test`.
    #[arg(long)]
    status: i32,
    /// What it printed: both outputs, without colours.
    output: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().verb {
        Verb::Run(arguments) => run(arguments),
        Verb::Bounded { deadline, command } => bound(&command, Duration::from_secs(deadline)),
        Verb::MachineClass => {
            println!("{}", skips::machine_class());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Verdict(arguments) => verdict(&arguments),
    }
}

fn run(arguments: RunArguments) -> anyhow::Result<ExitCode> {
    let mut files = if arguments.bulkhead { testbed::install_bulkhead()? } else { Vec::new() };
    for file in arguments.files {
        let (here, there) = file.split_once(':').context("--file wants HERE:THERE")?;
        files.push((here.into(), there.to_owned()));
    }
    let mut testbed = Testbed::boot(&Options {
        sockets: arguments.sockets,
        cores: arguments.cores,
        threads: arguments.threads,
        memory_mib: arguments.memory,
        files,
        kernel_arguments: arguments.append,
        ..Options::default()
    })?;
    eprintln!("testbed: up after {:.1} s; console in {}", testbed.boot_time().as_secs_f64(), testbed.log().display());
    let output = testbed.run(&arguments.command, Duration::from_secs(arguments.deadline))?;
    std::io::stderr().write_all(output.stderr.as_bytes())?;
    std::io::stdout().write_all(output.stdout.as_bytes())?;
    Ok(u8::try_from(output.status).unwrap_or(1).into())
}

fn bound(command: &[String], deadline: Duration) -> anyhow::Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command is given")?;
    let ended = bounded::run(Command::new(program).args(arguments), deadline)
        .with_context(|| format!("cannot run {program}"))?;
    for (pid, name) in &ended.left {
        eprintln!("bounded: `{program}` left process {pid} ({name}) running; it was killed");
    }
    let Some(status) = ended.status else {
        eprintln!(
            "bounded: `{program}` did not end within {} s, or was told to end; it was killed",
            deadline.as_secs()
        );
        return Ok(DEADLINE_PASSED.into());
    };
    // Ended by a signal: no code.
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into())
}

fn verdict(arguments: &VerdictArguments) -> anyhow::Result<ExitCode> {
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let list = SkipList::parse(&String::from_utf8_lossy(&read(&arguments.skips)?))
        .with_context(|| format!("{} is no list of skips", arguments.skips.display()))?;
    let run = Run::parse(&String::from_utf8_lossy(&read(&arguments.output)?));
    let mut problems: Vec<String> =
        list.judge(&run, &arguments.classes, arguments.filtered).iter().map(ToString::to_string).collect();
    match arguments.status {
        0 => {}
        status if status == i32::from(DEADLINE_PASSED) => problems.push("the tests did not end in time".to_owned()),
        status => problems.push(format!("cargo test exited with {status}")),
    }
    if run.totals.passed + run.totals.failed == 0 {
        problems.push("no test ran".to_owned());
    }
    for problem in &problems {
        println!("error: {problem}");
    }
    let verdict = if problems.is_empty() { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {}", run.totals);
    Ok(ExitCode::from(u8::from(!problems.is_empty())))
}
