//! `partition-manager`: owns the partitions of one frame, or reports what the host can do.

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use frame::api::LEFT;
use frame::declare::Frame;
use frame::root::Root;
use manager::driver::{Driver, Outcome, Settings};
use manager::message::Message;
use manager::server::Server;
use manager::spawn::Seat;
use os::claim::{self, Claim, Claimant};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Owns the partitions of one frame.
#[derive(Debug, Parser)]
#[command(name = "partition-manager", version, about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Manage the frame whose description stands in the run directory.
    Run {
        /// Directory of what is true while this boot lasts.
        #[arg(long)]
        run: PathBuf,
        /// Directory of what stays.
        #[arg(long)]
        state: PathBuf,
        /// The program that runs a partition; the one beside this program when absent.
        #[arg(long)]
        partition_binary: Option<PathBuf>,
    },
    /// Look whether the host is as it was divided; changes nothing. As JSON.
    Audit {
        /// The run directory of the frame.
        #[arg(long)]
        run: PathBuf,
        /// How long to look, milliseconds.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
        milliseconds: u64,
    },
    /// Say what this host is and can do; changes nothing.
    Probe {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    os::private::mask();
    let outcome = match Arguments::parse().verb {
        Verb::Run { run, state, partition_binary } => manage(run, state, partition_binary),
        Verb::Audit { run, milliseconds } => audit(run, milliseconds).map(|()| ExitCode::SUCCESS),
        Verb::Probe { json } => probe(json).map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(status) => status,
        Err(error) => {
            // Nobody reads it if even this fails.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("error: {error:#}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn manage(run: PathBuf, state: PathBuf, partition_binary: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let _seat = Seat::take()?;
    // A log that cannot be written, on a full disk, is no reason to panic, which saying so there would be.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .log_internal_errors(false)
        .init();
    let run = run.canonicalize().with_context(|| format!("the run directory {}", run.display()))?;
    let root = Root { run, state };
    // One manager at a time: the lock goes with this process, whatever ends it.
    let directory = std::fs::File::open(&root.run)?;
    lock(&directory, &root)?;
    let path = root.applied_frame();
    let text =
        std::fs::read(&path).with_context(|| format!("the frame in force, {}, cannot be read", path.display()))?;
    let frame: Frame =
        serde_json::from_slice(&text).with_context(|| format!("the frame in force, {}", path.display()))?;
    root.check(frame.partitions.iter().map(|partition| &partition.name))?;
    let binary = match partition_binary {
        Some(binary) => binary,
        None => std::env::current_exe().context("this program's own place")?.with_file_name("partition"),
    };
    let socket = root.manager_socket();
    let claim = claim(&root, &frame)?;
    let mut driver = Driver::new(Settings { root, frame, binary, claim })?;
    signals(driver.sender())?;
    let mut server = None;
    let queue = driver.sender();
    let outcome = driver.run(|| {
        server = Some(Server::start(&socket, queue.clone())?);
        Ok(())
    });
    if let Some(server) = server.take() {
        server.end();
    }
    match outcome? {
        Outcome::Down => {
            tracing::info!("the frame is down");
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Left => {
            tracing::info!("the manager ends; the partitions run on");
            // Not a success: whoever takes that for the end of the frame would end the partitions too.
            Ok(ExitCode::from(LEFT))
        }
    }
}

/// Locks the run directory. A manager that just died may have left a child that is about to become a
/// partition and still has the lock, but not for long.
fn lock(directory: &std::fs::File, root: &Root) -> anyhow::Result<()> {
    for _ in 0..100 {
        match rustix::fs::flock(directory, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(10)),
            Err(errno) => return Err(errno).with_context(|| format!("{} cannot be locked", root.run.display())),
        }
    }
    bail!("another manager is in control of {}; it must end first", root.run.display())
}

/// Joins the claim on the CPUs that the supervisor made, or makes it where none did. A manager that takes over
/// partitions does so without it too: those that run are not ended for it.
fn claim(root: &Root, frame: &Frame) -> anyhow::Result<Option<Claim>> {
    let taken = Claimant::of(frame, &root.run)
        .context("which CPUs this host has")
        .and_then(|claimant| Ok(Claim::take(&claim::directory()?, &claimant)?));
    match taken {
        Ok(claim) => Ok(Some(claim)),
        Err(error) if std::fs::read_dir(root.partitions()).is_ok_and(|mut sockets| sockets.next().is_some()) => {
            tracing::error!("the CPUs of this frame are not claimed: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// SIGTERM ends the manager and leaves the partitions running. What a terminal sends to the whole group is
/// for whoever supervises the frame, who brings it down in order.
fn signals(queue: crossbeam_channel::Sender<Message>) -> anyhow::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGTERM && queue.send(Message::Terminate).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

fn audit(run: PathBuf, milliseconds: u64) -> anyhow::Result<()> {
    let run = run.canonicalize().with_context(|| format!("the run directory {}", run.display()))?;
    let root = Root { state: run.clone(), run };
    let report = manager::host::audit::audit(&root, Duration::from_millis(milliseconds))?;
    let text = serde_json::to_string(&report)?;
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
    Ok(())
}

fn probe(json: bool) -> anyhow::Result<()> {
    let report = manager::host::report()?;
    let mut text = String::new();
    if json {
        text = serde_json::to_string_pretty(&report)?;
        text.push('\n');
    } else {
        let memory: u64 = report.inventory.nodes.iter().map(|node| node.memory).sum();
        text.push_str(&format!("kernel   {}\n", report.kernel));
        text.push_str(&format!("cpus     {}\n", report.inventory.cpus.len()));
        text.push_str(&format!("nodes    {}\n", report.inventory.nodes.len()));
        text.push_str(&format!("memory   {} MiB\n", memory >> 20));
        let kvm = report.kvm.error.as_deref().unwrap_or("can run partitions");
        text.push_str(&format!("/dev/kvm {kvm}\n"));
        text.push_str(&format!("cgroups  {} {}\n", report.cgroup.version, report.cgroup.controllers.join(" ")));
        for lack in &report.lacks {
            text.push_str(&format!("lacks: {lack}\n"));
        }
    }
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
    Ok(())
}
