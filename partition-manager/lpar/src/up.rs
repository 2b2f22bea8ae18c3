//! `up`: a frame as a whole, before everybody's eyes or in the background.

use crate::arguments::Common;
use crate::daemons::ORDINARY;
use crate::declaration::Declaration;
use crate::failure::{Failure, Outcome, refuse, say};
use crate::host;
use crate::lock::Holder;
use crate::remarks::Remarks;
use crate::roots;
use crate::supervisor::{Job, Log, Supervisor, open_log, tail, tail_of};
use crate::verbs::{json, partitions_table, print};
use crate::watch::Watch;
use anyhow::Context;
use frame::api::{DownRequest, EVENTS, PARTITIONS, PartitionRow};
use frame::code::Code;
use frame::declare::Frame;
use frame::event::LoggedEvent;
use frame::name::Name;
use frame::root::Root;
use frame::state::State;
use os::claim::{self, Claim, Claimant};
use os::http::Client;
use std::fs::File;
use std::io::IsTerminal;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a detached frame may take until all its partitions run or failed.
const COMING_UP: Duration = Duration::from_secs(120);
/// How often a frame that comes up is looked at.
const TICK: Duration = Duration::from_millis(50);

/// `lpar up FILE [--detach]`.
///
/// # Errors
/// When the file has mistakes, the host cannot run partitions, or the frame does not come up.
pub fn up(common: &Common, file: &Path, detach: bool) -> Outcome {
    let mut declaration = Declaration::load(file)?;
    let Some(frame) = declaration.resolved() else { return declaration.judge() };
    if let Some(named) = common.frame.as_ref().filter(|named| **named != frame.name) {
        refuse!("{} declares frame {}, not frame {named}; leave --frame out", file.display(), frame.name);
    }
    let root = roots::of_frame(common, &frame.name)?;
    root.check(frame.partitions.iter().map(|partition| &partition.name))?;
    if already_up(&root, &declaration, &frame)? {
        declaration.judge_briefly()?;
        return standing(common, &root, &frame);
    }
    let report = host::report()?;
    declaration.plan(&report.inventory);
    declaration.judge_briefly()?;
    if let Some(reason) = report.kvm.error {
        refuse!("partitions cannot run on this host: {reason}");
    }
    // Before anything is made; it is claimed by whoever supervises the frame.
    let claimant = Claimant::of(&frame, &root.run).context("cannot tell which CPUs the frame claims")?;
    Claim::check(&claim::directory()?, &claimant)?;
    for lack in &report.lacks {
        say!("note: {lack}");
    }
    if detach { detached(common, &root, &frame, &declaration) } else { attached(&root, &frame, &declaration, claimant) }
}

/// Whether the very frame is up already.
fn already_up(root: &Root, declaration: &Declaration, frame: &Frame) -> Outcome<bool> {
    let Some(holder) = Holder::read(&root.lock()) else { return Ok(false) };
    if !holder.runs() {
        if holder.frame != frame.name && roots::runs(root) {
            refuse!(
                "frame {} was left running at {}; `lpar down` brings it down first, or choose another --root for frame {}",
                holder.frame,
                root.run.display(),
                frame.name
            );
        }
        return Ok(false);
    }
    let pid = holder.supervisor.pid;
    if holder.frame != frame.name {
        refuse!(
            "frame {} is up at {}, supervised by process {pid}; choose another --root for frame {}",
            holder.frame,
            root.run.display(),
            frame.name
        );
    }
    // A frame that is just coming up has not applied anything yet.
    match applied(root) {
        Some(applied) if declaration.resolved_beside(&applied).as_ref() == Some(&applied) => Ok(true),
        _ => refuse!(
            "frame {} is already up, and declared otherwise, supervised by process {pid}; `lpar apply FILE` declares it anew while it runs, `lpar diff FILE` shows what is different, `lpar down` brings it down",
            frame.name
        ),
    }
}

/// Says how a frame stands that was up already.
fn standing(common: &Common, root: &Root, frame: &Frame) -> Outcome {
    let rows: Vec<PartitionRow> = crate::daemons::Daemon::manager(root).get(PARTITIONS)?;
    if common.json {
        return json(&rows);
    }
    print(&format!("frame {} is already up\n{}", frame.name, partitions_table(&rows)))
}

fn attached(root: &Root, frame: &Frame, declaration: &Declaration, claimant: Claimant) -> Outcome {
    make(root)?;
    let log = Log::file(root).with_context(|| format!("cannot open the log {}", root.log().display()))?;
    let (remarks, table) = if std::io::stdout().is_terminal() {
        let (remarks, table) = Remarks::for_table();
        (remarks, Some(table))
    } else {
        (Remarks::Stderr, None)
    };
    let file = Some(declaration.path().to_owned());
    let (claim, frame_name) = (Some(claimant), frame.name.clone());
    let job = Job { root: root.clone(), frame: frame_name, file, log, remarks, claim, down: None };
    let Some(supervisor) = Supervisor::new(job)? else {
        refuse!("frame {} is being brought up or down by somebody else just now; try again", frame.name);
    };
    let since = now();
    let watch = Watch::start(root, since, table).context("cannot show the frame")?;
    let result = supervisor.run();
    watch.end(result.is_ok());
    if result.is_ok() {
        print(&format!("frame {} is down\n", frame.name))?;
    }
    result
}

/// Makes the run directory, so that the log can be in it.
fn make(root: &Root) -> Outcome {
    os::private::mask();
    Ok(os::private::make(&root.run)?)
}

fn detached(common: &Common, root: &Root, frame: &Frame, declaration: &Declaration) -> Outcome {
    // Held open, it can be read when the supervisor has removed everything.
    let log = log(root)?;
    let since = now();
    let mut supervisor = spawn(root, Some(declaration.path()), None, &log)?;
    let started = Instant::now();
    let manager = Client::new(&root.manager_socket(), ORDINARY);
    let rows = loop {
        if let Some(status) = supervisor.try_wait().context("cannot wait for the supervisor")? {
            let said = tail_of(log);
            let said = if said.is_empty() { format!("its supervisor ended: {status}") } else { said };
            refuse!("frame {} did not come up:\n{said}", frame.name);
        }
        let rows: Vec<PartitionRow> = manager.get(PARTITIONS).unwrap_or_default();
        // A frame that was left ran all the time; it is up once somebody supervises it again.
        let supervised = || Holder::read(&root.lock()).is_some_and(|holder| holder.supervisor.pid == supervisor.id());
        if settled(frame, &rows) && supervised() {
            break rows;
        }
        if started.elapsed() > COMING_UP {
            return Err(Failure::TimedOut(format!(
                "the frame {} is up, but not all of its partitions run after {} s; `lpar ls` shows them, {} tells more\n{}",
                frame.name,
                COMING_UP.as_secs(),
                root.log().display(),
                tail(&root.log())
            )));
        }
        std::thread::sleep(TICK);
    };
    for event in left_behind(root, since) {
        say!("note: {event}");
    }
    if common.json {
        json(&rows)?;
    } else {
        print(&partitions_table(&rows).to_string())?;
    }
    let failed: Vec<String> = rows
        .iter()
        .filter(|row| row.state == State::Error)
        .map(|row| format!("partition {} failed: {}", row.name, row.reason))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    refuse!("{}; the rest of frame {} is up", failed.join("; "), frame.name)
}

/// The wall clock, nanoseconds since 1970-01-01 UTC.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// What an earlier run left and this start dealt with, since the time `since`. Nothing when it cannot be asked:
/// it is in the event log.
fn left_behind(root: &Root, since: u64) -> Vec<String> {
    let service_processor = Client::new(&root.service_processor_socket(), ORDINARY);
    let newest: Vec<LoggedEvent> = service_processor.get(&format!("{EVENTS}?last=100")).unwrap_or_default();
    let of_now = newest.into_iter().filter(|logged| logged.event.time >= since);
    let left = of_now.filter(|logged| logged.event.code == Code::LeftoverRemoved);
    left.map(|logged| crate::show::plain(&logged.event.text)).collect()
}

/// Whether every partition that starts with the frame was started, or failed.
fn settled(frame: &Frame, rows: &[PartitionRow]) -> bool {
    frame.partitions.iter().filter(|partition| partition.auto_start).all(|partition| {
        rows.iter().find(|row| row.name == partition.name).is_some_and(|row| match row.state {
            State::Starting | State::OpenFirmware | State::NotAvailable => false,
            // One that ran and ended by itself was started.
            State::NotActivated => row.incarnation > 0,
            _ => true,
        })
    }) && (!rows.is_empty() || frame.partitions.is_empty())
}

/// Starts a supervisor that outlives this process and writes into `log`.
fn spawn(root: &Root, file: Option<&Path>, down: Option<DownRequest>, log: &File) -> Outcome<Child> {
    let own = std::env::current_exe().context("cannot find this executable")?;
    let mut command = Command::new(own);
    command.arg("supervise").arg("--run").arg(&root.run).arg("--state").arg(&root.state);
    if let Some(file) = file {
        command.arg("--file").arg(file);
    }
    if down.is_some_and(|down| down.immediate) {
        command.arg("--immediate");
    }
    let output = || log.try_clone().context("cannot use the log");
    command.stdin(Stdio::null()).stdout(output()?).stderr(output()?).current_dir("/");
    Ok(command.spawn().context("cannot start the supervisor")?)
}

/// Makes the run directory and opens the log in it.
fn log(root: &Root) -> Outcome<File> {
    make(root)?;
    Ok(open_log(root).with_context(|| format!("cannot open the log {}", root.log().display()))?)
}

/// Brings a frame down that has no supervisor any more.
///
/// # Errors
/// When it does not come down in order.
pub fn bring_down_what_was_left(root: &Root, request: DownRequest) -> Outcome {
    let log = log(root)?;
    let mut supervisor = spawn(root, None, Some(request), &log)?;
    let status = supervisor.wait().context("cannot wait for the supervisor")?;
    if !status.success() {
        refuse!("the frame that was left did not come down in order:\n{}", tail_of(log));
    }
    Ok(())
}

/// The supervisor of a detached frame, or of one that was left and is brought down.
///
/// # Errors
/// As [`Supervisor::run`].
pub fn supervise(root: Root, file: Option<&Path>, immediate: bool) -> Outcome {
    // Not the caller's terminal, and not its Ctrl-C.
    rustix::process::setsid().context("cannot begin a session of its own")?;
    make(&root)?;
    let (frame, claim, down) = match file {
        Some(file) => match Declaration::load(file)?.frame() {
            Some(frame) => {
                let claim = Claimant::of(frame, &root.run).context("cannot tell which CPUs the frame claims")?;
                (frame.name.clone(), Some(claim), None)
            }
            None => refuse!("the frame file {} has mistakes; `lpar check` shows them", file.display()),
        },
        None => (left(&root)?, None, Some(DownRequest { immediate })),
    };
    let log = Log::own(&root).with_context(|| format!("cannot open the log {}", root.log().display()))?;
    let remarks = Remarks::Stderr;
    let job = Job { root, frame: frame.clone(), file: file.map(Path::to_owned), log, remarks, claim, down };
    match Supervisor::new(job)? {
        Some(supervisor) => supervisor.run(),
        None => refuse!("frame {frame} is being brought up or down by somebody else just now; try again"),
    }
}

/// The name of the frame that was left at `root`.
fn left(root: &Root) -> Outcome<Name> {
    if let Some(holder) = Holder::read(&root.lock()) {
        return Ok(holder.frame);
    }
    match applied(root) {
        Some(frame) => Ok(frame.name),
        None => refuse!("there is no frame at {}", root.run.display()),
    }
}

/// The frame in force at `root`, if one is.
fn applied(root: &Root) -> Option<Frame> {
    serde_json::from_slice(&std::fs::read(root.applied_frame()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_settled_when_all_were_started() {
        let text = r#"
            [frame]
            name = "t"
            reserved = { cpus = 0 }
            [[pool]]
            name = "default"
            cpus = 1
            [[partition]]
            name = "a"
            processors = { mode = "shared", pool = "default", desired = 1, units = { minimum = 0.1, desired = 0.1, maximum = 0.1 }, sharing = "capped" }
            memory = { desired = "64MiB" }
            boot = "diagnostics"
            [[partition]]
            name = "b"
            processors = { mode = "shared", pool = "default", desired = 1, units = { minimum = 0.1, desired = 0.1, maximum = 0.1 }, sharing = "capped" }
            memory = { desired = "64MiB" }
            boot = "diagnostics"
            auto_start = false
        "#;
        let frame = frame::file::read(text).frame.unwrap();
        let row = |name: &str, state, incarnation| PartitionRow {
            name: Name::new(name).unwrap(),
            id: 1,
            state,
            reason: String::new(),
            processors: 1,
            units: 0.1,
            memory: 0,
            mode: "shared".into(),
            cpus: String::new(),
            availability_priority: 0,
            pid: None,
            incarnation,
            uptime: None,
            exit_status: None,
        };
        let b = row("b", State::NotActivated, 0);
        for (state, incarnation, done) in [
            (State::NotActivated, 0, false),
            (State::Starting, 1, false),
            (State::Running, 1, true),
            (State::Error, 0, true),
            (State::NotActivated, 1, true),
        ] {
            assert_eq!(settled(&frame, &[row("a", state, incarnation), b.clone()]), done, "{state}");
        }
        assert!(!settled(&frame, &[]));
    }
}
