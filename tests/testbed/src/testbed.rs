//! One running testbed.

use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::agent::{Line, Output, Silence};
use crate::cache::Cache;
use crate::qemu::{self, Machine, Qemu};
use crate::{Error, host};

/// The four binaries of a Bulkhead.
pub const BINARIES: [&str; 4] = ["partition", "partition-manager", "service-processor", "lpar"];

/// What a testbed is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sockets; if there are several, each is a NUMA node.
    pub sockets: u32,
    /// Cores of each socket.
    pub cores: u32,
    /// Threads of each core.
    pub threads: u32,
    /// Memory in MiB, in equal parts on the nodes.
    pub memory_mib: u64,
    /// Files of this host to put into it, with the libraries that they link: (path here, path there).
    pub files: Vec<(PathBuf, String)>,
    /// Added to the kernel's command line.
    pub kernel_arguments: String,
    /// Where the console goes; by default `console.log` in the cache folder.
    pub log: Option<PathBuf>,
    /// How long another testbed is waited for.
    pub lock_deadline: Duration,
    /// How long it may take from QEMU's start until the agent listens.
    pub boot_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sockets: 1,
            cores: 4,
            threads: 1,
            memory_mib: 2048,
            files: Vec::new(),
            kernel_arguments: String::new(),
            log: None,
            lock_deadline: Duration::from_secs(600),
            boot_deadline: Duration::from_secs(180),
        }
    }
}

/// A running testbed. Dropping it ends its QEMU.
#[derive(Debug)]
pub struct Testbed {
    line: Line,
    qemu: Qemu,
    boot_time: Duration,
    log: PathBuf,
    // Below what uses them: dropped after it.
    _directory: tempfile::TempDir,
    _lock: File,
}

impl Testbed {
    /// Boots a testbed and waits until its shell serves commands. Only one runs at a time per cache folder.
    ///
    /// # Errors
    /// [`Error::NotProvisioned`] if a piece is missing, [`Error::Busy`], [`Error::Ended`], [`Error::Deadline`],
    /// and what keeps the initial ramdisk from being made.
    pub fn boot(options: &Options) -> Result<Self, Error> {
        let cache = Cache::find()?;
        let version = qemu::version()?;
        let kernel = cache.host_kernel()?;
        let lock = lock(&cache.root().join("testbed.lock"), options.lock_deadline)?;

        // In the cache, under the lock: a run that was killed leaves one behind, not many.
        let initrd = cache.root().join("initrd.img");
        let content = host::initial_ramdisk(&cache, &kernel, &options.files)?;
        std::fs::write(&initrd, content).map_err(Error::file("write", &initrd))?;
        // A socket's path is limited to 108 bytes, so it lies in a directory of its own.
        let directory = tempfile::Builder::new().prefix("bulkhead-testbed-").tempdir();
        let directory = directory.map_err(Error::file("make a directory in", std::env::temp_dir()))?;
        let agent = directory.path().join("agent");
        let listener = UnixListener::bind(&agent).map_err(Error::file("listen at", &agent))?;
        let log = options.log.clone().unwrap_or_else(|| cache.root().join("console.log"));
        let log_file = File::create(&log).map_err(Error::file("create", &log))?;

        // Balancing would unmap guests' pages all the time to learn which node uses them; here all are equally far.
        let command_line = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off no5lvl nokaslr numa_balancing=disable {}",
            options.kernel_arguments
        );
        let machine = Machine {
            sockets: options.sockets,
            cores: options.cores,
            threads: options.threads,
            memory_mib: options.memory_mib,
            kernel: &kernel.image,
            initrd: &initrd,
            command_line: command_line.trim_end(),
            agent: &agent,
            version,
        };
        let start = Instant::now();
        let qemu = Qemu::start(&machine, log_file)?;
        let until = start + options.boot_deadline;
        let ready = accept(&listener, &agent, &qemu, until).and_then(|stream| {
            let mut line = Line::new(stream);
            line.wait_ready(until)?;
            Ok(line)
        });
        let mut line = ready.map_err(|silence| explain(silence, "while it booted", options.boot_deadline, &qemu))?;
        // The first command answered is what a user waits for.
        let answered = line.run("true", options.boot_deadline);
        answered.map_err(|silence| explain(silence, "to its first command", options.boot_deadline, &qemu))?;
        let boot_time = start.elapsed();
        Ok(Self { line, qemu, boot_time, log, _directory: directory, _lock: lock })
    }

    /// Runs a command line in a shell of the emulated machine. Past `deadline` (whole seconds, at least one) it
    /// and all that it started in its session are killed.
    ///
    /// # Errors
    /// [`Error::Deadline`], [`Error::Ended`] if the machine is gone, and [`Error::Protocol`].
    pub fn run(&mut self, command: &str, deadline: Duration) -> Result<Output, Error> {
        self.line.run(command, deadline).map_err(|silence| {
            let shown: String = command.chars().take(200).collect();
            explain(silence, &format!("to `{shown}`"), deadline, &self.qemu)
        })
    }

    /// From the start of QEMU to the first command answered.
    #[must_use]
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// The file that the console goes to.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Process id of QEMU.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.qemu.pid()
    }
}

/// The four binaries as [`Options::files`] takes them, in one directory, `/usr/bin`. They are those in the directory
/// `BULKHEAD_BIN`, else those of the profile that the running executable was built with (`target/PROFILE`), else
/// those in `target/release`.
///
/// # Errors
/// [`Error::NotBuilt`] if one is in none of these, and [`Error::File`].
pub fn install_bulkhead() -> Result<Vec<(PathBuf, String)>, Error> {
    let executable = std::env::current_exe().map_err(Error::file("find", "the running executable"))?;
    // A test executable lies in target/PROFILE/deps, any other in target/PROFILE.
    let deps = executable.ancestors().nth(1).is_some_and(|directory| directory.ends_with("deps"));
    let profile = executable.ancestors().nth(if deps { 2 } else { 1 }).unwrap_or(&executable);
    let places = match std::env::var_os("BULKHEAD_BIN") {
        Some(named) => vec![PathBuf::from(named)],
        None => vec![profile.to_owned(), profile.with_file_name("release")],
    };
    let complete = |place: &&PathBuf| BINARIES.iter().all(|binary| place.join(binary).is_file());
    let place = places.iter().find(complete).ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        Error::NotBuilt { binaries: BINARIES.join(", "), places: places.join(" or ") }
    })?;
    Ok(BINARIES.iter().map(|binary| (place.join(binary), format!("/usr/bin/{binary}"))).collect())
}

/// Takes the lock file, waiting for its holder at most `deadline`.
fn lock(path: &Path, deadline: Duration) -> Result<File, Error> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(Error::file("open", path))?;
    let (taken, take) = mpsc::channel();
    // The wait has no deadline of its own: past ours the thread is left to it, and gives up what it gets.
    std::thread::spawn(move || taken.send(file.lock().map(|()| file)));
    match take.recv_timeout(deadline) {
        Ok(locked) => locked.map_err(Error::file("lock", path)),
        Err(_) => Err(Error::Busy { path: path.to_owned(), waited: deadline }),
    }
}

/// QEMU connects before the machine runs; it may as well end before that.
fn accept(listener: &UnixListener, path: &Path, qemu: &Qemu, until: Instant) -> Result<UnixStream, Silence> {
    const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    while Instant::now() < until {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        let polled = rustix::event::poll(&mut ready, Some(&LOOK));
        if polled.is_ok_and(|count| count > 0) {
            let (stream, _) = listener.accept().map_err(|_| Silence::Closed)?;
            // Nobody else shall connect.
            let _ = std::fs::remove_file(path);
            return Ok(stream);
        }
        if qemu.ended().is_some() {
            return Err(Silence::Closed);
        }
    }
    Err(Silence::Deadline)
}

fn explain(silence: Silence, when: &str, deadline: Duration, qemu: &Qemu) -> Error {
    let console = qemu.tail();
    match silence {
        Silence::Closed => {
            let status = qemu.ended().map_or_else(|| "it still runs".to_owned(), |status| status.to_string());
            Error::Ended { when: format!("before it answered {when}"), status, console }
        }
        Silence::Deadline => Error::Deadline { when: when.to_owned(), deadline, console },
        Silence::Dead => Error::Dead { when: when.to_owned(), deadline, console },
        Silence::Nonsense(what) => Error::Protocol { what },
    }
}
