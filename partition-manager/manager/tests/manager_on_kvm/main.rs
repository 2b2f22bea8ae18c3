//! The manager alone, with real partitions: what it does about deaths, its own among them.

mod frame;

use crate::frame::{DEADLINE, Managed, partition, partition_binary, signal, until};
use ::frame::api::FrameStatus;
use ::frame::code::Code;
use ::frame::name::Name;
use ::frame::state::State;
use ::frame::wire::{Packet, Report, Request};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use os::http::HttpError;
use os::packet;
use rustix::process::Signal;
use serde_json::json;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

type Test = fn() -> Result<()>;

/// Why this machine cannot run the tests.
fn lacks() -> Option<String> {
    let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(error) = kvm {
        return Some(format!("/dev/kvm: {error}"));
    }
    let binary = partition_binary();
    (!binary.exists()).then(|| format!("{} is not built: cargo build -p partition", binary.display()))
}

fn main() -> ExitCode {
    let tests: [(&str, Test); 12] = [
        ("a_killed_partition_is_lost_and_comes_back", killed),
        ("a_lost_manager_is_replaced", replaced),
        ("a_manager_lost_at_any_moment_leaves_one_process_each", lost_at_any_moment),
        ("a_partition_that_ends_unseen_is_noticed", unseen),
        ("a_partition_that_ended_waits_for_a_manager", waits),
        ("a_manager_that_was_replaced_ends", fenced),
        ("a_stopped_partition_stops_nobody_else", stopped),
        ("a_shutdown_is_finished_by_the_next_manager", finished),
        ("a_console_has_one_session_and_a_history", console),
        ("a_guest_restarts_in_a_new_process", restarts),
        ("what_cannot_be_started_leaves_nothing", nothing),
        ("a_damaged_journal_ends_no_partition", damaged),
    ];
    let lacks = lacks();
    if let Some(lacks) = &lacks {
        println!("ignored: {lacks}");
    }
    let trials = tests.into_iter().map(|(name, test)| {
        let run = move || test().map_err(|error| Failed::from(format!("{error:?}")));
        Trial::test(name, run).with_ignored_flag(lacks.is_some())
    });
    // Frames share the machine's CPUs: two at a time.
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn two() -> Result<Managed> {
    Managed::up(vec![partition("alpha", 1)?, partition("beta", 2)?])
}

fn count(managed: &Managed, code: Code) -> Result<usize> {
    Ok(managed.events()?.iter().filter(|event| event.code == code).count())
}

fn killed() -> Result<()> {
    let managed = two()?;
    let beta = managed.pid("beta")?;
    signal(managed.pid("alpha")?, Signal::KILL)?;
    let row = managed.reach("alpha", State::Error)?;
    ensure!(row.reason.contains("signal 9 (SIGKILL)"), "{row:?}");
    let events = managed.events()?;
    let lost: Vec<_> = events.iter().filter(|event| event.code == Code::ProcessLost).collect();
    ensure!(lost.len() == 1, "one end is one event: {events:?}");
    ensure!(lost[0].data["registers"][0]["rip"].as_u64().is_some_and(|rip| rip != 0), "{:?}", lost[0]);
    ensure!(managed.groups().iter().all(|group| !group.ends_with("alpha")), "{:?}", managed.groups());
    let row = managed.post("alpha", "activate", &json!({}))?;
    ensure!(row.state == State::Running && row.incarnation == 2, "{row:?}");
    let again = managed.post("alpha", "activate", &json!({}))?;
    ensure!(again.pid == row.pid, "activating what runs does nothing");
    ensure!(managed.pid("beta")? == beta);
    managed.down()
}

fn replaced() -> Result<()> {
    let mut managed = two()?;
    let before = (managed.pid("alpha")?, managed.pid("beta")?);
    for round in 1..=3 {
        managed.kill_manager()?;
        managed.start()?;
        ensure!((managed.pid("alpha")?, managed.pid("beta")?) == before, "the same processes run");
        for name in ["alpha", "beta"] {
            ensure!(managed.detail(name)?.row.state == State::Running);
        }
        until("adoptions", || Ok((count(&managed, Code::PartitionAdopted)? == 2 * round).then_some(())))?;
    }
    // Of a process that is not its child the manager knows the end as well.
    signal(before.0, Signal::KILL)?;
    let row = managed.reach("alpha", State::Error)?;
    ensure!(row.reason.contains("signal 9 (SIGKILL)") || row.reason.contains("cause unknown"), "{row:?}");
    let events = managed.events()?;
    let lost = events.iter().find(|event| event.code == Code::ProcessLost).context("no event")?;
    ensure!(lost.data["registers"][0]["rip"].as_u64().is_some_and(|rip| rip != 0), "{lost:?}");
    // What an operator shut down stays so under the next manager.
    managed.post("beta", "shutdown", &json!({ "immediate": true }))?;
    managed.kill_manager()?;
    managed.start()?;
    ensure!(managed.detail("beta")?.row.state == State::NotActivated);
    ensure!(managed.detail("alpha")?.row.state == State::Error);
    managed.down()
}

fn lost_at_any_moment() -> Result<()> {
    let mut managed = Managed::new(vec![partition("alpha", 1)?, partition("beta", 2)?])?;
    // Over an activation of some tens of milliseconds, in steps that do not divide it.
    for step in 0..14 {
        managed.start_only()?;
        let end = std::time::Instant::now() + std::time::Duration::from_millis(3 + step * 7);
        while std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        managed.kill_manager()?;
    }
    managed.start()?;
    for name in ["alpha", "beta"] {
        let settled = until("a settled partition", || {
            let row = managed.detail(name)?.row;
            Ok(matches!(row.state, State::Running | State::Error).then_some(row))
        })?;
        if settled.state == State::Error {
            ensure!(settled.reason.contains("manager was lost"), "{settled:?}\n{}", managed.log());
            managed.post(name, "activate", &json!({}))?;
        }
    }
    let pids = [managed.pid("alpha")?, managed.pid("beta")?];
    until("end of what was left", || {
        let mut processes = managed.processes()?;
        processes.retain(|pid| !pids.contains(pid));
        Ok(processes.is_empty().then_some(()))
    })?;
    managed.down()
}

fn unseen() -> Result<()> {
    let mut managed = two()?;
    let pid = managed.pid("alpha")?;
    managed.kill_manager()?;
    signal(pid, Signal::KILL)?;
    managed.start()?;
    let row = managed.reach("alpha", State::Error)?;
    ensure!(!row.reason.is_empty(), "{row:?}");
    ensure!(count(&managed, Code::ProcessLost)? == 1, "{:?}", managed.events()?);
    ensure!(managed.detail("beta")?.row.state == State::Running);
    managed.down()
}

/// Speaks to a partition as the manager of an epoch does.
fn as_manager(managed: &Managed, name: &str, epoch: u64, request: Option<Request>) -> Result<OwnedFd> {
    let socket = packet::connect(&managed.root.partition_socket(&Name::new(name)?))?;
    packet::send(&socket, &Packet::new(epoch, Request::Hello), &[])?;
    let (answer, _) = packet::receive::<Report>(&socket)?;
    ensure!(matches!(answer.message, Report::Welcome(_)), "{answer:?}");
    if let Some(request) = request {
        packet::send(&socket, &Packet::new(epoch, request), &[])?;
    }
    Ok(socket)
}

fn waits() -> Result<()> {
    let mut managed = two()?;
    let mut session = Session::open(&managed, "alpha", false)?;
    session.until("ready")?;
    let status: FrameStatus = managed.client.get("/v1/frame")?;
    managed.kill_manager()?;
    // The guest ends while there is no manager.
    let socket = as_manager(&managed, "alpha", status.epoch, Some(Request::Input(b"off\n".to_vec())))?;
    let (end, _) = packet::receive::<Report>(&socket)?;
    ensure!(matches!(end.message, Report::Final(_)), "{end:?}");
    drop(socket);
    managed.start()?;
    managed.reach("alpha", State::NotActivated)?;
    ensure!(count(&managed, Code::PartitionPoweredOff)? == 1, "{:?}", managed.events()?);
    managed.down()
}

fn fenced() -> Result<()> {
    let mut managed = two()?;
    let before = managed.pid("alpha")?;
    let status: FrameStatus = managed.client.get("/v1/frame")?;
    let database = rusqlite::Connection::open(managed.root.manager_database())?;
    database.execute("UPDATE fact SET value = ?1 WHERE name = 'epoch'", [(status.epoch + 1).to_string()])?;
    drop(database);
    let newer = as_manager(&managed, "alpha", status.epoch + 1, None)?;
    let end = managed.wait_for_manager()?;
    ensure!(end.code() == Some(1), "{end:?}");
    ensure!(managed.log().contains("a newer manager is in control"), "{}", managed.log());
    drop(newer);
    managed.start()?;
    ensure!(managed.pid("alpha")? == before);
    managed.down()
}

fn stopped() -> Result<()> {
    let mut managed = two()?;
    let alpha = managed.pid("alpha")?;
    signal(alpha, Signal::STOP)?;
    // A new manager is not held up by it either.
    managed.kill_manager()?;
    managed.start()?;
    ensure!(managed.rows()?.len() == 2);
    managed.post("beta", "shutdown", &json!({}))?;
    let row = managed.post("alpha", "shutdown", &json!({}))?;
    ensure!(row.state == State::NotActivated, "{row:?}");
    ensure!(count(&managed, Code::ShutdownEscalated)? >= 1, "{:?}", managed.events()?);
    ensure!(count(&managed, Code::PartitionStopped)? == 2, "{:?}", managed.events()?);
    managed.down()
}

fn finished() -> Result<()> {
    let mut managed = two()?;
    let mut session = Session::open(&managed, "alpha", false)?;
    session.until("ready")?;
    session.stream.write_all(b"hang\n")?;
    session.until("hang")?;
    let client = managed.client.clone();
    let asking = std::thread::spawn(move || {
        // Its manager dies under it.
        let _ = client.post::<_, serde_json::Value>("/v1/partitions/alpha/shutdown", &json!({}));
    });
    managed.reach("alpha", State::ShuttingDown)?;
    managed.kill_manager()?;
    let _ = asking.join();
    managed.start()?;
    managed.reach("alpha", State::NotActivated)?;
    ensure!(count(&managed, Code::PartitionStopped)? == 1, "{:?}", managed.events()?);
    managed.down()
}

/// A console session.
struct Session {
    stream: UnixStream,
    seen: String,
}

impl Session {
    fn open(managed: &Managed, name: &str, force: bool) -> Result<Self, HttpError> {
        let path = format!("/v1/partitions/{name}/console?force={force}");
        Ok(Self { stream: managed.client.upgrade(&path, "console")?, seen: String::new() })
    }

    /// Reads until `text` has come, and forgets everything up to it.
    fn until(&mut self, text: &str) -> Result<()> {
        self.stream.set_read_timeout(Some(DEADLINE))?;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes).with_context(|| format!("no {text:?} in {:?}", self.seen))?;
            if count == 0 {
                bail!("the session ended without {text:?}: {:?}", self.seen);
            }
            self.seen += &String::from_utf8_lossy(&bytes[..count]);
        }
    }
}

fn console() -> Result<()> {
    let managed = two()?;
    let mut first = Session::open(&managed, "alpha", false)?;
    first.until("alpha: diagnostics")?;
    first.stream.write_all(b"beats\n")?;
    first.until("beats=")?;
    match Session::open(&managed, "alpha", false) {
        Err(HttpError::Refused { status: 409, message }) => ensure!(message.contains("--force"), "{message}"),
        other => bail!("a second session was not refused: {:?}", other.map(|_| ())),
    }
    let mut second = Session::open(&managed, "alpha", true)?;
    first.until("took the console over")?;
    // The history comes first.
    second.until("alpha: diagnostics")?;
    second.until("beats=")?;
    let mut beta = Session::open(&managed, "beta", false)?;
    beta.until("beta: diagnostics")?;
    // A client that leaves makes room for the next one.
    drop(beta);
    until("a free console", || Ok(Session::open(&managed, "beta", false).ok()))?;
    let stat: ::frame::api::PartitionStat = managed.client.get("/v1/partitions/alpha/stat")?;
    ensure!(stat.processors[0].exits.get("io_out").is_some_and(|&count| count > 0), "{stat:?}");
    ensure!(stat.console_bytes > 0 && stat.resident.is_some_and(|bytes| bytes > 0), "{stat:?}");
    ensure!(stat.processors[0].cpu_time.is_some(), "{stat:?}");
    managed.down()
}

fn restarts() -> Result<()> {
    let managed = two()?;
    let before = managed.pid("alpha")?;
    let mut session = Session::open(&managed, "alpha", false)?;
    session.until("ready")?;
    session.stream.write_all(b"reboot\n")?;
    // The same session shows the next guest.
    session.until("alpha: diagnostics")?;
    until("the second incarnation", || {
        let row = managed.detail("alpha")?.row;
        Ok((row.state == State::Running && row.incarnation == 2).then_some(()))
    })?;
    ensure!(managed.pid("alpha")? != before);
    ensure!(count(&managed, Code::PartitionRestarted)? == 1, "{:?}", managed.events()?);
    let row = managed.post("alpha", "shutdown", &json!({ "immediate": true, "restart": true }))?;
    ensure!(row.state == State::Running && row.incarnation == 3, "{row:?}");
    session.until("alpha: diagnostics")?;
    managed.down()
}

fn nothing() -> Result<()> {
    let mut missing = partition("alpha", 1)?;
    missing.auto_start = false;
    missing.boot = ::frame::declare::Boot::Kernel {
        kernel: "/no/such/kernel".into(),
        initrd: None,
        modules: vec![],
        cmdline: String::new(),
    };
    let mut no_program = Managed::new(vec![partition("beta", 2)?])?.with_binary("/no/such/program".as_ref());
    no_program.start()?;
    let row = no_program.reach("beta", State::Error)?;
    ensure!(row.reason.contains("/no/such/program"), "{row:?}");
    let mut managed = Managed::new(vec![missing])?;
    managed.start()?;
    match managed.client.post::<_, serde_json::Value>("/v1/partitions/alpha/activate", &json!({})) {
        Err(HttpError::Refused { status: 500, message }) => ensure!(message.contains("/no/such/kernel"), "{message}"),
        other => bail!("it was activated: {other:?}"),
    }
    for managed in [&managed, &no_program] {
        ensure!(count(managed, Code::ActivationFailed)? == 1, "{:?}", managed.events()?);
        ensure!(managed.processes()?.is_empty());
        ensure!(managed.groups().iter().all(|group| !group.ends_with("alpha") && !group.ends_with("beta")));
        ensure!(std::fs::read_dir(managed.root.partitions())?.next().is_none(), "a socket is left");
    }
    no_program.down()?;
    managed.down()
}

fn damaged() -> Result<()> {
    let mut managed = two()?;
    let before = (managed.pid("alpha")?, managed.pid("beta")?);
    let incarnation = managed.detail("alpha")?.row.incarnation;
    managed.kill_manager()?;
    std::fs::write(managed.root.manager_database(), vec![0x55; 8192])?;
    for side in ["-wal", "-shm"] {
        let mut path = managed.root.manager_database().into_os_string();
        path.push(side);
        let _ = std::fs::remove_file(path);
    }
    managed.start()?;
    for name in ["alpha", "beta"] {
        managed.reach(name, State::Running)?;
    }
    ensure!((managed.pid("alpha")?, managed.pid("beta")?) == before, "they say themselves what they own");
    ensure!(managed.detail("alpha")?.row.incarnation == incarnation);
    ensure!(managed.processes()?.len() == 2);
    let events = managed.events()?;
    let found = events.iter().filter(|event| event.code == Code::LeftoverRemoved).count();
    ensure!(found == 1, "{events:?}");
    managed.down()
}
