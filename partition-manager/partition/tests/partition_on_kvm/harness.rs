//! A manager of one partition, as much as a test needs.

use anyhow::{Context, Result, bail, ensure};
use frame::cpuset::CpuSet;
use frame::device::DeviceSpec;
use frame::launch::{BootSpec, InterruptMode, InterruptSpec, LaunchSpec, MemorySpec, Place, ProcessorSpec, Topology};
use frame::name::Name;
use frame::record::{self, ExitReason, Final};
use frame::wire::{Packet, Report, Request};
use os::packet::{self, PacketError};
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// The epoch of the first manager.
pub const EPOCH: u64 = 5;

/// The binary.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_partition"))
}

/// A `partition` process that listens.
#[derive(Debug)]
pub struct Process {
    /// The process.
    pub child: Child,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Process {
    /// Starts the binary.
    pub fn start() -> Result<Self> {
        Self::start_with(binary(), |_| ())
    }

    /// Starts `program`, with a last change to the command.
    pub fn start_with(program: &Path, change: impl FnOnce(&mut Command)) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("socket");
        let listener = packet::listen(&socket)?;
        let mut command = Command::new(program);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let from = listener.as_raw_fd();
        let place = move || {
            // SAFETY: both numbers are the child's own to use; the listener is open until exec.
            let (same, moved) = (from == 3, unsafe { libc::dup2(from, 3) });
            if same {
                // SAFETY: the descriptor is open; only its close-on-exec flag changes.
                unsafe { libc::fcntl(3, libc::F_SETFD, 0) };
            }
            if moved < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        };
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe { command.pre_exec(place) };
        change(&mut command);
        let child = command.spawn().context("the partition binary does not start")?;
        Ok(Self { child, socket, _directory: directory })
    }

    /// Connects without a word.
    pub fn connect(&self) -> Result<Connection> {
        Ok(Connection { socket: packet::connect(&self.socket)?, epoch: EPOCH })
    }

    /// Connects and says hello.
    pub fn hello(&self, epoch: u64) -> Result<Connection> {
        let connection = Connection { epoch, ..self.connect()? };
        connection.send(Request::Hello)?;
        Ok(connection)
    }

    /// Waits until the process has ended.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + DEADLINE;
        let id = rustix::process::Pid::from_child(&self.child);
        let pidfd = rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty())?;
        ensure!(readable(&pidfd, deadline)?, "the process did not end in time");
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to a partition.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub socket: OwnedFd,
    /// The epoch that it speaks in.
    pub epoch: u64,
}

impl Connection {
    /// Sends a request.
    pub fn send(&self, request: Request) -> Result<()> {
        self.send_with(request, &[])
    }

    /// Sends a request with descriptors.
    pub fn send_with(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        Ok(packet::send(&self.socket, &Packet::new(self.epoch, request), descriptors)?)
    }

    /// Takes the next report.
    pub fn report(&self) -> Result<(Report, Vec<OwnedFd>)> {
        ensure!(readable(&self.socket, Instant::now() + DEADLINE)?, "no report in time");
        let (packet, descriptors) = packet::receive::<Report>(&self.socket)?;
        Ok((packet.message, descriptors))
    }

    /// Takes the next report, which must be `expected`.
    pub fn expect(&self, expected: &Report) -> Result<()> {
        let (report, _) = self.report()?;
        ensure!(report == *expected, "{report:?} instead of {expected:?}");
        Ok(())
    }

    /// Takes reports up to the final one.
    pub fn last(&self) -> Result<Final> {
        loop {
            match self.report()?.0 {
                Report::Final(last) => return Ok(*last),
                Report::Failed { reason } => bail!("failed: {reason}"),
                _ => {}
            }
        }
    }

    /// Waits until the other side has closed.
    pub fn closed(&self) -> Result<()> {
        loop {
            ensure!(readable(&self.socket, Instant::now() + DEADLINE)?, "not closed in time");
            match packet::receive::<Report>(&self.socket) {
                Ok(_) => {}
                Err(PacketError::Closed) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether `descriptor` can be read before `deadline`.
pub fn readable(descriptor: impl AsFd, deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let time = rustix::time::Timespec::try_from(left)?;
        match rustix::event::poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&time)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A sealed memfd.
pub fn memfd(bytes: u64) -> Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memfd, bytes)?;
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memfd)
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Memory of each node, MiB.
    pub memory: Vec<u64>,
    /// Where each virtual processor may run.
    pub processors: Vec<CpuSet>,
    /// The payload's command line, or a kernel with its.
    pub boot: Boot,
    /// Where the guest sees each virtual processor; cores of one package when empty.
    pub places: Vec<Place>,
    /// What it sees of nodes and caches.
    pub topology: Topology,
    /// Pins that eventfds raise.
    pub interrupts: Vec<u32>,
    /// Whether there is an exit device.
    pub exit_device: bool,
    /// Devices on the PCI bus.
    pub devices: Vec<DeviceSpec>,
    /// Where the interrupt controllers are.
    pub interrupt_mode: InterruptMode,
    /// Whether there is an 8254; by the kernel when absent.
    pub pit: Option<bool>,
    /// The kernel's command line.
    pub cmdline: &'static str,
    /// The initial RAM disk.
    pub initrd: Option<Vec<u8>>,
    /// Multiboot modules with their command lines.
    pub modules: Vec<(Vec<u8>, &'static str)>,
}

/// What to start.
#[derive(Clone, Debug)]
pub enum Boot {
    /// The built-in payload.
    Payload(&'static str),
    /// This ELF file.
    Kernel(Vec<u8>),
}

impl Setup {
    /// The payload, on one virtual processor with 16 MiB.
    pub fn payload(cmdline: &'static str) -> Self {
        Self::new(Boot::Payload(cmdline))
    }

    /// A micro guest, on one virtual processor with 16 MiB.
    pub fn guest(code: &super::guest::Code) -> Self {
        Self::new(Boot::Kernel(code.elf()))
    }

    /// A kernel, on one virtual processor with 16 MiB and an exit device.
    pub fn kernel(file: Vec<u8>) -> Self {
        Self::new(Boot::Kernel(file)).exit_device()
    }

    fn new(boot: Boot) -> Self {
        Self {
            memory: vec![16],
            processors: vec![CpuSet::new()],
            boot,
            places: vec![],
            topology: Topology::default(),
            interrupts: vec![],
            exit_device: false,
            devices: vec![],
            interrupt_mode: InterruptMode::default(),
            pit: None,
            cmdline: "",
            initrd: None,
            modules: vec![],
        }
    }

    /// With this many virtual processors.
    pub fn processors(self, count: usize) -> Self {
        Self { processors: vec![CpuSet::new(); count], ..self }
    }

    /// With an exit device.
    pub fn exit_device(self) -> Self {
        Self { exit_device: true, ..self }
    }

    /// The specification.
    pub fn spec(&self) -> Result<LaunchSpec> {
        Ok(LaunchSpec {
            name: Name::new("test")?,
            frame: Name::new("frame")?,
            id: 1,
            incarnation: 1,
            processors: (0..)
                .zip(&self.processors)
                .map(|(core, cpus)| {
                    let place = self.places.get(core as usize).copied();
                    let place = place.unwrap_or_else(|| Place { core, ..Place::default() });
                    ProcessorSpec { affinity: cpus.clone(), place }
                })
                .collect(),
            io: CpuSet::new(),
            memory: (0..).zip(&self.memory).map(|(node, mib)| range(node, mib << 20)).collect(),
            boot: match &self.boot {
                Boot::Payload(cmdline) => BootSpec::Diagnostics { cmdline: (*cmdline).to_owned() },
                Boot::Kernel(_) => BootSpec::Kernel {
                    cmdline: self.cmdline.to_owned(),
                    initrd: self.initrd.is_some(),
                    modules: self.modules.iter().map(|(_, line)| (*line).to_owned()).collect(),
                },
            },
            topology: self.topology.clone(),
            pit: self.pit,
            exit_device: self.exit_device,
            panic_device: true,
            watchdog: None,
            devices: self.devices.clone(),
            interrupt_mode: self.interrupt_mode,
            interrupt_limit: frame::storm::Limit::default(),
            interrupts: self.interrupts.iter().map(|gsi| InterruptSpec { gsi: *gsi }).collect(),
        })
    }
}

const fn range(node: u32, bytes: u64) -> MemorySpec {
    MemorySpec { node, bytes, pages: 4096 }
}

/// What a partition is given, kept by its manager.
#[derive(Debug)]
pub struct Given {
    kvm: OwnedFd,
    /// The shared record.
    pub record: OwnedFd,
    /// The console's doorbell.
    pub doorbell: OwnedFd,
    /// Memory by node.
    pub memory: Vec<OwnedFd>,
    files: Vec<OwnedFd>,
    /// Eventfds of the interrupt sources.
    pub interrupts: Vec<OwnedFd>,
}

impl Given {
    /// Everything that `setup` needs.
    pub fn new(setup: &Setup) -> Result<Self> {
        let eventfd = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let kernel = match &setup.boot {
            Boot::Payload(_) => None,
            Boot::Kernel(bytes) => Some(bytes),
        };
        let modules = setup.modules.iter().map(|(bytes, _)| bytes);
        let files = kernel.into_iter().chain(&setup.initrd).chain(modules).map(|bytes| {
            let mut file = tempfile::tempfile()?;
            file.write_all(bytes)?;
            Ok(file.into())
        });
        Ok(Self {
            kvm: File::options().read(true).write(true).open("/dev/kvm")?.into(),
            record: memfd(record::SIZE)?,
            doorbell: eventfd()?,
            memory: setup.memory.iter().map(|mib| memfd(mib << 20)).collect::<Result<_>>()?,
            files: files.collect::<Result<_>>()?,
            interrupts: setup.interrupts.iter().map(|_| eventfd()).collect::<Result<_, _>>()?,
        })
    }

    /// In the order of a launch.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![self.kvm.as_fd(), self.record.as_fd(), self.doorbell.as_fd()];
        all.extend(self.memory.iter().map(AsFd::as_fd));
        all.extend(self.files.iter().map(AsFd::as_fd));
        all.extend(self.interrupts.iter().map(AsFd::as_fd));
        all
    }
}

/// A partition that was launched, and its manager.
#[derive(Debug)]
pub struct Partition {
    /// The process.
    pub process: Process,
    /// The manager's connection.
    pub manager: Connection,
    /// What it was given.
    pub given: Given,
    /// Virtual processors' descriptors.
    pub processors: Vec<OwnedFd>,
    /// Console bytes that were read.
    seen: u64,
    /// Those of them that nobody has asked for yet.
    rest: String,
}

impl Partition {
    /// Launches and starts.
    pub fn run(setup: &Setup) -> Result<Self> {
        let partition = Self::launch(setup)?;
        partition.start()?;
        Ok(partition)
    }

    /// Launches.
    pub fn launch(setup: &Setup) -> Result<Self> {
        Self::launch_in(Process::start()?, setup)
    }

    /// Launches in this process.
    pub fn launch_in(process: Process, setup: &Setup) -> Result<Self> {
        let (manager, given) = send_launch(&process, setup)?;
        match manager.report()? {
            (Report::Ready, processors) => {
                ensure!(processors.len() == setup.processors.len(), "{} processors", processors.len());
                Ok(Self { process, manager, given, processors, seen: 0, rest: String::new() })
            }
            (other, _) => bail!("{other:?} instead of Ready"),
        }
    }

    /// Enters the guest.
    pub fn start(&self) -> Result<()> {
        self.manager.send(Request::Start)?;
        self.manager.expect(&Report::Running)
    }

    /// Runs a guest to its end, takes the final record over, and gives it and the process's exit status.
    pub fn end(setup: &Setup) -> Result<(Final, Option<i32>, Self)> {
        let mut partition = Self::run(setup)?;
        let last = partition.manager.last()?;
        let status = partition.acknowledge()?;
        Ok((last, status, partition))
    }

    /// Takes the final record over and waits for the process to end.
    pub fn acknowledge(&mut self) -> Result<Option<i32>> {
        self.manager.send(Request::Acknowledge)?;
        Ok(self.process.wait()?.code())
    }

    /// Reads the record.
    pub fn record(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = rustix::io::pread(&self.given.record, &mut bytes, offset)?;
        ensure!(read == length, "the record is short");
        Ok(bytes)
    }

    fn record_word(&self, offset: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(self.record(offset, 8)?.try_into().unwrap_or_default()))
    }

    /// How often a virtual processor left the guest.
    pub fn exits(&self, processor: usize, reason: ExitReason) -> Result<u64> {
        self.record_word(record::counter_offset(processor, reason))
    }

    /// The final record, if there is one.
    pub fn concluded(&self) -> Result<Option<Final>> {
        match self.record_word(record::FINAL_LENGTH_OFFSET)? {
            0 => Ok(None),
            length => Ok(Some(serde_json::from_slice(&self.record(record::FINAL_OFFSET, usize::try_from(length)?)?)?)),
        }
    }

    /// A word of guest memory of the first node.
    pub fn guest_word(&self, address: u64) -> Result<u64> {
        let memory = self.given.memory.first().context("no memory")?;
        let mut bytes = [0; 8];
        rustix::io::pread(memory, &mut bytes, address)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Console output since the last call, once the doorbell has rung.
    pub fn output(&mut self) -> Result<String> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let total = self.record_word(record::CONSOLE_TOTAL_OFFSET)?;
            if total > self.seen {
                let (_, pieces) = record::console_pieces(self.seen, total);
                let mut bytes = Vec::new();
                for (offset, length) in pieces {
                    bytes.extend(self.record(offset, usize::try_from(length)?)?);
                }
                self.seen = total;
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            ensure!(readable(&self.given.doorbell, deadline)?, "no console output in time");
            let _ = rustix::io::read(&self.given.doorbell, &mut [0; 8]);
        }
    }

    /// Console output up to `text`, which is its end.
    pub fn until(&mut self, text: &str) -> Result<String> {
        let mut seen = std::mem::take(&mut self.rest);
        while !seen.contains(text) {
            seen += &self.output().with_context(|| format!("waiting for {text:?} after {seen:?}"))?;
        }
        let end = seen.find(text).map_or(seen.len(), |at| at + text.len());
        self.rest = seen.split_off(end);
        Ok(seen)
    }

    /// Waits until `what` holds, which other processes make true.
    pub fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while !holds()? {
            ensure!(Instant::now() < deadline, "{what}: not in time");
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// Says hello and sends a launch, without waiting for its outcome.
pub fn send_launch(process: &Process, setup: &Setup) -> Result<(Connection, Given)> {
    let manager = process.hello(EPOCH)?;
    let (Report::Welcome(_), _) = manager.report()? else { bail!("no welcome") };
    let given = Given::new(setup)?;
    manager.send_with(Request::Launch(Box::new(setup.spec()?)), &given.descriptors())?;
    Ok((manager, given))
}

/// Sends a launch that must fail, and gives the reason. The process must end with status 1.
pub fn failure(setup: &Setup, change: impl FnOnce(&mut LaunchSpec, &mut Given) -> Result<()>) -> Result<String> {
    let mut process = Process::start()?;
    let manager = process.hello(EPOCH)?;
    let (Report::Welcome(_), _) = manager.report()? else { bail!("no welcome") };
    let (mut spec, mut given) = (setup.spec()?, Given::new(setup)?);
    change(&mut spec, &mut given)?;
    manager.send_with(Request::Launch(Box::new(spec)), &given.descriptors())?;
    // The process must not lose its last word because of what it did not read.
    let _ = manager.send(Request::Start);
    let status = process.wait()?;
    ensure!(status.code() == Some(1), "{status}");
    match manager.report()?.0 {
        Report::Failed { reason } => Ok(reason),
        other => bail!("{other:?} instead of Failed"),
    }
}
