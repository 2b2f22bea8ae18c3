//! A frame of a test: its directories, its manager, and the certainty that nothing of it is left.

use anyhow::{Context, Result, ensure};
use frame::api::{PartitionDetail, PartitionRow, WaitAnswer};
use frame::declare::{
    Boot, Frame, Memory, Partition, Pool, ProcessorMode, Processors, Range, Sharing, Shutdown, WhenInactive,
};
use frame::event::Event;
use frame::name::Name;
use frame::root::Root;
use frame::state::State;
use frame::units::{MIB, Units};
use os::http::Client;
use rustix::process::{Pid, Signal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Generous, since the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Looks until there is something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "no {what} within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program that runs partitions, when it is built.
pub fn partition_binary() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_partition-manager")).with_file_name("partition")
}

pub fn partition(name: &str, id: u32) -> Result<Partition> {
    let desired = Units::from(0.2);
    Ok(Partition {
        name: Name::new(name)?,
        id,
        availability_priority: 127,
        processors: Processors {
            count: Range { minimum: 1, desired: 1, maximum: 1 },
            mode: ProcessorMode::Shared {
                pool: Name::new("default")?,
                units: Range { minimum: desired, desired, maximum: desired },
                sharing: Sharing::Uncapped { weight: 128 },
            },
        },
        memory: Memory {
            size: Range { minimum: 16 * MIB, desired: 16 * MIB, maximum: 16 * MIB },
            base: 16 * MIB,
            pages: None,
        },
        boot: Boot::Diagnostics { cmdline: String::new() },
        auto_start: true,
        when_inactive: WhenInactive::Hold,
        shutdown: Shutdown { ask_ms: 2_000, button_ms: 2_000, nmi_ms: 2_000 },
        pit: None,
        exit_device: false,
        panic_device: false,
        watchdog: None,
        interrupts: frame::launch::InterruptMode::Kernel,
        interrupt_limit: frame::storm::Limit::default(),
        entropy: None,
        disks: vec![],
        networks: vec![],
        vsock: None,
        console: None,
    })
}

pub struct Managed {
    directory: tempfile::TempDir,
    pub root: Root,
    pub name: String,
    manager: Option<Child>,
    binary: PathBuf,
    pub client: Client,
}

impl Managed {
    /// A frame with these partitions, whose manager does not run yet.
    pub fn new(partitions: Vec<Partition>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("bhm").tempdir()?;
        let root = Root::under(directory.path());
        std::fs::create_dir_all(&root.run)?;
        std::fs::create_dir_all(&root.state)?;
        let name = format!("m{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let frame = Frame {
            name: Name::new(name.as_str())?,
            cpus: None,
            memory_block: 2 * MIB,
            reserved_cpus: 0,
            reserved_memory: 16 * MIB,
            minimum_units: Units::from(0.05),
            shared_host: true,
            pools: vec![Pool { name: Name::new("default")?, cpus: 1 }],
            switches: vec![],
            partitions,
        };
        std::fs::write(root.applied_frame(), serde_json::to_vec(&frame)?)?;
        let client = Client::new(&root.manager_socket(), DEADLINE);
        Ok(Self { directory, root, name, manager: None, binary: partition_binary(), client })
    }

    /// The same, with the manager and all partitions running.
    pub fn up(partitions: Vec<Partition>) -> Result<Self> {
        let names: Vec<String> = partitions.iter().map(|one| one.name.to_string()).collect();
        let mut managed = Self::new(partitions)?;
        managed.start()?;
        for name in names {
            managed.reach(&name, State::Running)?;
        }
        Ok(managed)
    }

    pub fn with_binary(mut self, binary: &Path) -> Self {
        self.binary = binary.to_owned();
        self
    }

    /// Starts a manager, without waiting for it.
    pub fn start_only(&mut self) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_partition-manager"));
        command.arg("run").arg("--run").arg(&self.root.run).arg("--state").arg(&self.root.state);
        command.arg("--partition-binary").arg(&self.binary);
        let log = std::fs::File::options().create(true).append(true).open(self.directory.path().join("log"))?;
        self.manager = Some(command.stderr(log).spawn()?);
        Ok(())
    }

    /// Starts a manager and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        self.start_only()?;
        until("manager", || Ok(self.rows().ok())).with_context(|| self.log())?;
        Ok(())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn kill_manager(&mut self) -> Result<()> {
        let mut manager = self.manager.take().context("no manager")?;
        manager.kill()?;
        manager.wait()?;
        Ok(())
    }

    /// Waits until the manager has ended by itself.
    pub fn wait_for_manager(&mut self) -> Result<std::process::ExitStatus> {
        let mut manager = self.manager.take().context("no manager")?;
        let ended = until("end of the manager", || Ok(manager.try_wait()?));
        if ended.is_err() {
            self.manager = Some(manager);
        }
        ended
    }

    pub fn rows(&self) -> Result<Vec<PartitionRow>> {
        Ok(self.client.get("/v1/partitions")?)
    }

    pub fn detail(&self, name: &str) -> Result<PartitionDetail> {
        Ok(self.client.get(&format!("/v1/partitions/{name}"))?)
    }

    pub fn pid(&self, name: &str) -> Result<u32> {
        let detail = self.detail(name)?;
        detail.row.pid.with_context(|| format!("{name} has no process: {detail:?}"))
    }

    pub fn reach(&self, name: &str, state: State) -> Result<PartitionRow> {
        let state = state.as_str().replace(' ', "-");
        let path = format!("/v1/partitions/{name}/wait?state={state}&timeout_ms=50000");
        let answer: WaitAnswer = self.client.get(&path)?;
        ensure!(answer.reached, "{state} was not reached: {answer:?}\n{}", self.log());
        Ok(answer.partition)
    }

    pub fn post(&self, name: &str, verb: &str, body: &serde_json::Value) -> Result<PartitionRow> {
        Ok(self.client.post(&format!("/v1/partitions/{name}/{verb}"), body)?)
    }

    /// The events that wait in the outbox: nobody takes them.
    pub fn events(&self) -> Result<Vec<Event>> {
        let database = rusqlite::Connection::open(self.root.manager_database())?;
        let mut statement = database.prepare("SELECT body FROM outbox ORDER BY incarnation, sequence")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.map(|text| Ok(serde_json::from_str(&text?)?)).collect()
    }

    /// Processes of this frame, by their titles.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).starts_with(&format!("partition {}.", self.name)) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    pub fn groups(&self) -> Vec<PathBuf> {
        fn walk(directory: &Path, text: &str, depth: usize, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth < 8 {
                    if entry.path().to_string_lossy().contains(text) {
                        found.push(entry.path());
                    }
                    walk(&entry.path(), text, depth + 1, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(Path::new("/sys/fs/cgroup"), &format!("bulkhead/{}.", self.name), 0, &mut found);
        found
    }

    /// Brings the frame down: exit status 0, and nothing left.
    pub fn down(mut self) -> Result<()> {
        self.client.post::<_, ()>("/v1/down", &serde_json::json!({ "immediate": true }))?;
        let status = self.wait_for_manager()?;
        ensure!(status.success(), "the manager ended with {status}\n{}", self.log());
        ensure!(self.processes()?.is_empty(), "processes are left: {:?}", self.processes()?);
        ensure!(self.groups().is_empty(), "cgroups are left: {:?}", self.groups());
        ensure!(!self.root.partitions().exists() && !self.root.manager_socket().exists(), "sockets are left");
        Ok(())
    }
}

impl Drop for Managed {
    /// Whatever a failed test left is ended.
    fn drop(&mut self) {
        if let Some(mut manager) = self.manager.take() {
            let _ = manager.kill();
            let _ = manager.wait();
        }
        for pid in self.processes().unwrap_or_default() {
            let _ = signal(pid, Signal::KILL);
        }
        // A group is busy for a moment after its last process was killed.
        let _ = until("end of the groups", || {
            let mut groups = self.groups();
            groups.sort();
            for group in groups.iter().rev() {
                let _ = std::fs::remove_dir(group);
            }
            Ok(groups.is_empty().then_some(()))
        });
    }
}

pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process number")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}
