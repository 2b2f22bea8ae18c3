//! The subjects: the floor, a `partition` process driven as its manager would drive it, and other monitors.

use crate::peer::Peer;
use anyhow::{Context, Result, bail, ensure};
use frame::cpuset::CpuSet;
use frame::device::{DeviceKind, DeviceSpec};
use frame::launch::{BootSpec, InterruptMode, InterruptSpec, LaunchSpec, MemorySpec, Place, ProcessorSpec, Topology};
use frame::name::Name;
use frame::record::{self, ExitReason};
use frame::wire::{Packet, Report, Request};
use os::packet::{self, PacketError};
use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, SealFlags};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before the run gives up.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where the binaries and the payload are.
#[derive(Debug)]
pub struct Subjects {
    /// Where the binaries are.
    pub binaries: PathBuf,
    /// `partition`.
    pub partition: PathBuf,
    /// `floor`, the bare program.
    pub floor: PathBuf,
    /// The payload, as a file.
    pub image: PathBuf,
    /// Where the partition's socket is made.
    pub directory: tempfile::TempDir,
}

/// What a run starts.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Guest memory, bytes.
    pub memory: u64,
    /// The payload's command line.
    pub cmdline: String,
    /// CPU that the virtual processor runs on.
    pub cpu: Option<u32>,
    /// Pin of the I/O APIC that an eventfd raises.
    pub interrupt: Option<u32>,
    /// Whether the partition has an entropy device, in slot 1, whose thread has the processor's CPU.
    pub entropy: bool,
    /// Where the interrupt controllers of a partition are.
    pub interrupt_mode: InterruptMode,
}

/// A guest that runs.
#[derive(Debug)]
pub struct Run {
    /// The process.
    pub child: Child,
    /// Guest memory; that of other monitors is their own.
    pub memory: Option<OwnedFd>,
    /// The eventfd of [`Setup::interrupt`].
    pub interrupt: Option<OwnedFd>,
    output: Output,
}

#[derive(Debug)]
enum Output {
    Pipe(ChildStdout),
    Record { record: OwnedFd, doorbell: OwnedFd, connection: OwnedFd, seen: u64 },
}

impl Subjects {
    /// Finds the binaries in `directory` and takes the payload out of `partition`.
    ///
    /// # Errors
    /// When one is missing.
    pub fn find(directory: &Path) -> Result<Self> {
        let binaries = directory.to_owned();
        let partition = directory.join("partition");
        let floor = std::env::current_exe()?.with_file_name("floor");
        for binary in [&partition, &floor] {
            ensure!(
                binary.exists(),
                "{} is not built; `cargo build --release --workspace` builds it",
                binary.display()
            );
        }
        let image = Command::new(&partition).arg("--image").output()?.stdout;
        ensure!(image.starts_with(b"\x7fELF"), "partition --image gives no ELF");
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("diagnostics.elf");
        std::fs::write(&path, image)?;
        Ok(Self { binaries, partition, floor, image: path, directory })
    }

    /// Starts the bare program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn floor(&self, setup: &Setup) -> Result<Run> {
        let memory = memfd("guest-memory", setup.memory)?;
        let interrupt = setup.interrupt.map(|_| eventfd()).transpose()?;
        let mut command = Command::new(&self.floor);
        command.arg(&self.image).arg((setup.memory >> 20).to_string()).arg(&setup.cmdline);
        command.arg(FIRST_INHERITED.to_string());
        let mut inherited = vec![memory.as_fd()];
        if let (Some(gsi), Some(interrupt)) = (setup.interrupt, &interrupt) {
            command.arg((FIRST_INHERITED + 1).to_string()).arg(gsi.to_string());
            inherited.push(interrupt.as_fd());
        }
        inherit(&mut command, &inherited, setup.cpu);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = Output::Pipe(child.stdout.take().context("no output")?);
        Ok(Run { child, memory: Some(memory), interrupt, output })
    }

    /// Starts a `partition` process and sends it all that a manager sends.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn partition(&self, setup: &Setup) -> Result<Run> {
        let memory = memfd("guest-memory", setup.memory)?;
        let record = memfd("record", record::SIZE)?;
        let doorbell = eventfd()?;
        let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").context("/dev/kvm")?;
        let interrupt = setup.interrupt.map(|_| eventfd()).transpose()?;
        let path = self.directory.path().join("socket");
        let _ = std::fs::remove_file(&path);
        let listener = packet::listen(&path)?;
        let mut command = Command::new(&self.partition);
        inherit(&mut command, &[listener.as_fd()], None);
        let child = command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let connection = packet::connect(&path)?;
        let affinity: CpuSet = setup.cpu.into_iter().collect();
        let mut devices = vec![];
        if setup.entropy {
            devices.push(DeviceSpec { name: Name::new("entropy")?, slot: 1, kind: DeviceKind::Entropy });
        }
        let spec = LaunchSpec {
            name: Name::new("bench")?,
            frame: Name::new("bench")?,
            id: 1,
            incarnation: 1,
            io: if setup.entropy { affinity.clone() } else { CpuSet::new() },
            processors: vec![ProcessorSpec { affinity, place: Place::default() }],
            memory: vec![MemorySpec { node: 0, bytes: setup.memory, pages: 4096 }],
            boot: BootSpec::Diagnostics { cmdline: setup.cmdline.clone() },
            topology: Topology::default(),
            pit: None,
            exit_device: false,
            panic_device: false,
            watchdog: None,
            devices,
            interrupt_mode: setup.interrupt_mode,
            interrupt_limit: frame::storm::Limit::default(),
            interrupts: setup.interrupt.map(|gsi| InterruptSpec { gsi }).into_iter().collect(),
        };
        let mut descriptors = vec![kvm.as_fd(), record.as_fd(), doorbell.as_fd(), memory.as_fd()];
        descriptors.extend(interrupt.as_ref().map(AsFd::as_fd));
        packet::send(&connection, &Packet::new(1, Request::Hello), &[])?;
        packet::send(&connection, &Packet::new(1, Request::Launch(Box::new(spec))), &descriptors)?;
        packet::send(&connection, &Packet::new(1, Request::Start), &[])?;
        let output = Output::Record { record, doorbell, connection, seen: 0 };
        Ok(Run { child, memory: Some(memory), interrupt, output })
    }

    /// Starts another monitor with the same payload.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn peer(&self, peer: &Peer, setup: &Setup) -> Result<Run> {
        let mut command = peer.command(&self.image, setup, self.directory.path())?;
        inherit(&mut command, &[], setup.cpu);
        let mut child = command.spawn().with_context(|| format!("{} could not be started", peer.name))?;
        let output = Output::Pipe(child.stdout.take().context("no output")?);
        Ok(Run { child, memory: None, interrupt: None, output })
    }
}

/// Number of the first descriptor that a child inherits.
const FIRST_INHERITED: i32 = 3;

/// Lets the child have `descriptors` from number 3 on, and pins it to `cpu`.
fn inherit(command: &mut Command, descriptors: &[BorrowedFd<'_>], cpu: Option<u32>) {
    let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || place(&numbers, cpu));
    }
}

fn place(numbers: &[i32], cpu: Option<u32>) -> std::io::Result<()> {
    // A partition outlives its manager by design; here it must not outlive a bench that is killed.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if let Some(cpu) = cpu {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu as usize);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    // First out of the way, then into place: a number may be another's place.
    let mut away = [0; 4];
    for (from, to) in numbers.iter().zip(&mut away) {
        // SAFETY: the caller's descriptors are open in the child until exec.
        *to = unsafe { libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, FIRST_INHERITED + 8) };
        if *to < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    for (place, from) in (FIRST_INHERITED..).zip(away.iter().take(numbers.len())) {
        // SAFETY: `from` was made above; `place` is below every number in use.
        if unsafe { libc::dup2(*from, place) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

fn memfd(name: &str, bytes: u64) -> Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memfd, bytes)?;
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memfd)
}

fn eventfd() -> Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

impl Run {
    /// Waits for output of the guest and gives it.
    ///
    /// # Errors
    /// When none comes in time, or the guest ended.
    pub fn output(&mut self) -> Result<Vec<u8>> {
        match &mut self.output {
            Output::Pipe(pipe) => {
                let mut bytes = vec![0; 4096];
                let length = pipe.read(&mut bytes)?;
                ensure!(length > 0, "the monitor ended: {}", self.child.wait()?);
                bytes.truncate(length);
                Ok(bytes)
            }
            Output::Record { record, doorbell, connection, seen } => loop {
                let mut total = [0; 8];
                rustix::io::pread(&*record, &mut total, record::CONSOLE_TOTAL_OFFSET)?;
                let total = u64::from_le_bytes(total);
                if total > *seen {
                    let (_, pieces) = record::console_pieces(*seen, total);
                    let mut bytes = Vec::new();
                    for (offset, length) in pieces {
                        let start = bytes.len();
                        bytes.resize(start + usize::try_from(length)?, 0);
                        rustix::io::pread(&*record, &mut bytes[start..], offset)?;
                    }
                    *seen = total;
                    return Ok(bytes);
                }
                match packet::receive_now::<Report>(&*connection) {
                    Ok((packet, _)) => {
                        if let Report::Failed { reason } | Report::Refused { reason } = packet.message {
                            bail!("the partition failed: {reason}");
                        }
                    }
                    Err(PacketError::NotReady) => {}
                    Err(error) => return Err(error.into()),
                }
                ensure!(os::process::readable(&*doorbell, Some(DEADLINE))?, "no output of the partition in time");
                let _ = rustix::io::read(&*doorbell, &mut [0; 8]);
            },
        }
    }

    /// Reads output until `text` is seen, and gives all of it.
    ///
    /// # Errors
    /// As [`Run::output`].
    pub fn until(&mut self, text: &str) -> Result<String> {
        let start = Instant::now();
        let mut seen = String::new();
        while !seen.contains(text) {
            ensure!(start.elapsed() < DEADLINE, "the guest did not say {text:?} in time; it said {seen:?}");
            seen += &String::from_utf8_lossy(&self.output()?);
        }
        Ok(seen)
    }
}

impl Run {
    /// Exits of a partition's first virtual processor to its process so far.
    ///
    /// # Errors
    /// When it is no partition.
    pub fn exits(&self) -> Result<u64> {
        let Output::Record { record, .. } = &self.output else { bail!("only a partition counts its exits") };
        ExitReason::ALL.iter().try_fold(0, |sum, reason| {
            let mut count = [0; 8];
            rustix::io::pread(record, &mut count, record::counter_offset(0, *reason))?;
            Ok(sum + u64::from_le_bytes(count))
        })
    }

    /// Tells a partition to stop, and gives the time until its final record arrives.
    ///
    /// # Errors
    /// When it does not end in time, or is no partition.
    pub fn stop(&mut self) -> Result<Duration> {
        let Output::Record { connection, .. } = &self.output else { bail!("only a partition takes requests") };
        let begin = Instant::now();
        packet::send(connection, &Packet::new(1, Request::Stop), &[])?;
        loop {
            ensure!(os::process::readable(connection, Some(DEADLINE))?, "the partition did not stop in time");
            if let Report::Final(_) = packet::receive::<Report>(connection)?.0.message {
                return Ok(begin.elapsed());
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
