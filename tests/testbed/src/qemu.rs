//! QEMU as the emulated machine: which version, which command line, and its sure end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::Error;

/// The program.
const PROGRAM: &str = "qemu-system-x86_64";
/// Below this version multi-threaded emulation hangs with nested guests.
const FIRST_MULTI_THREADED: u32 = 8;
/// The console's log file is cut at this many bytes.
const LOG_LIMIT: usize = 16 << 20;
/// Distance of two nodes; a node's to itself is 10 (ACPI 6.5, section 5.2.17). Not what is assumed where nothing is
/// said, so that a test can tell.
const REMOTE_DISTANCE: u32 = 21;
/// So many of the last bytes are kept for error messages.
const TAIL_BYTES: usize = 4096;

/// The version of the QEMU that is installed, as (major, minor).
///
/// # Errors
/// [`Error::NotProvisioned`] if there is none, [`Error::Program`] if it does not say.
pub fn version() -> Result<(u32, u32), Error> {
    let output = Command::new(PROGRAM).arg("--version").output();
    let output = output.map_err(|error| Error::NotProvisioned { what: format!("{PROGRAM} cannot be run: {error}") })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_version(&text).ok_or_else(|| Error::Program {
        program: PROGRAM.to_owned(),
        why: format!("its version cannot be read: {text}"),
    })
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split("version ").nth(1)?.split(['.', ' ', '(', '\n']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What the machine consists of.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
    /// In equal parts on a node for each socket.
    pub memory_mib: u64,
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    pub command_line: &'a str,
    /// Unix socket that the agent's port is connected to.
    pub agent: &'a Path,
    pub version: (u32, u32),
}

impl Machine<'_> {
    fn arguments(&self) -> Vec<String> {
        let threads = if self.version.0 < FIRST_MULTI_THREADED { ",thread=single" } else { "" };
        let arguments = [
            "-nodefaults -no-user-config -display none -no-reboot",
            // Five-level page tables cost every emulated page walk a step.
            "-machine q35 -cpu max,la57=off",
            // Standard input and output are the console.
            "-serial stdio -device virtio-serial-pci",
            "-device virtserialport,chardev=agent,nr=1,name=agent",
            // Two disks of zeros, whose interrupts the kernel manages itself and lets be moved.
            "-drive if=none,id=managed,driver=null-co,size=64M,read-zeroes=on -device virtio-blk-pci,drive=managed",
            "-drive if=none,id=movable,driver=null-co,size=64M,read-zeroes=on -device ide-hd,drive=movable,bus=ide.0",
        ];
        let mut arguments: Vec<String> =
            arguments.iter().flat_map(|part| part.split(' ')).map(ToOwned::to_owned).collect();
        arguments.extend([
            "-accel".to_owned(),
            format!("tcg{threads}"),
            "-smp".to_owned(),
            format!("{},sockets={},cores={},threads={}", self.cpus(), self.sockets, self.cores, self.threads),
            "-m".to_owned(),
            format!("{}M", self.memory_mib),
            "-chardev".to_owned(),
            format!("socket,id=agent,path={}", self.agent.display()),
            "-kernel".to_owned(),
            self.kernel.display().to_string(),
            "-initrd".to_owned(),
            self.initrd.display().to_string(),
            "-append".to_owned(),
            self.command_line.to_owned(),
        ]);
        if self.sockets > 1 {
            self.nodes(&mut arguments);
        }
        arguments
    }

    fn cpus(&self) -> u32 {
        self.sockets * self.cores * self.threads
    }

    /// A node for each socket, as on a server: its processors and its share of the memory.
    fn nodes(&self, arguments: &mut Vec<String>) {
        let of_a_socket = self.cores * self.threads;
        let share = self.memory_mib / u64::from(self.sockets);
        for node in 0..self.sockets {
            // The shares are together what `-m` says.
            let rest = if node == 0 { self.memory_mib % u64::from(self.sockets) } else { 0 };
            let (first, last) = (node * of_a_socket, (node + 1) * of_a_socket - 1);
            arguments.extend([
                "-object".to_owned(),
                format!("memory-backend-ram,id=node{node},size={}M", share + rest),
                "-numa".to_owned(),
                format!("node,nodeid={node},cpus={first}-{last},memdev=node{node}"),
            ]);
        }
        for (from, to) in (0..self.sockets).flat_map(|from| (0..self.sockets).map(move |to| (from, to))) {
            if from != to {
                arguments.extend(["-numa".to_owned(), format!("dist,src={from},dst={to},val={REMOTE_DISTANCE}")]);
            }
        }
    }
}

/// A running QEMU. It ends when this is dropped, and when this process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Arc<Mutex<Child>>,
    tail: Arc<Mutex<VecDeque<u8>>>,
    /// Ends the keeper, which is the parent that the kernel watches.
    release: Option<std::sync::mpsc::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Qemu {
    /// Starts the machine; its console, and what QEMU itself says, goes to `log`.
    pub(crate) fn start(machine: &Machine<'_>, log: File) -> Result<Self, Error> {
        let mut command = Command::new(PROGRAM);
        command.args(machine.arguments()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let parent = std::process::id();
        // SAFETY: between fork and exec this makes only system calls (prctl, getppid), takes no lock and allocates nothing.
        unsafe {
            command.pre_exec(move || end_with_parent(parent));
        }
        // The parent-death signal follows the *thread* that started the child, so a thread of its own
        // starts it and stays for as long as it runs.
        let (started, start) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let keeper = std::thread::spawn(move || {
            let spawned = command.spawn();
            let running = spawned.is_ok();
            if started.send(spawned).is_ok() && running {
                // Returns when the owner is dropped.
                let _ = released.recv();
            }
        });
        let failed = |why: String| Error::Program { program: PROGRAM.to_owned(), why };
        let mut child = start
            .recv()
            .map_err(|_| failed("the thread that starts it ended".to_owned()))?
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let log = Arc::new(Mutex::new((log, LOG_LIMIT)));
        let mut threads = vec![keeper];
        if let Some(console) = child.stdout.take() {
            threads.push(copy(console, Arc::clone(&log), Arc::clone(&tail)));
        }
        if let Some(messages) = child.stderr.take() {
            threads.push(copy(messages, log, Arc::clone(&tail)));
        }
        Ok(Self { child: Arc::new(Mutex::new(child)), tail, release: Some(release), threads })
    }

    /// Process id of QEMU.
    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// How QEMU ended, if it did.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().ok().flatten()
    }

    /// The last lines of the console and of QEMU's messages.
    pub(crate) fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = tail.iter().copied().filter(|byte| *byte == b'\n' || !byte.is_ascii_control()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        {
            let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            // It may have ended by itself; then there is nothing to kill and the status is there.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.release = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Copies what QEMU writes into the log, up to its limit, and keeps the last of it.
fn copy(
    mut source: impl Read + Send + 'static,
    log: Arc<Mutex<(File, usize)>>,
    tail: Arc<Mutex<VecDeque<u8>>>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        loop {
            let bytes = match source.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => &chunk[..count],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                let kept = bytes.len().min(log.1);
                // A log that cannot be written must not stop the machine.
                if log.0.write_all(&bytes[..kept]).is_ok() {
                    log.1 -= kept;
                }
            }
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend(bytes);
            let excess = tail.len().saturating_sub(TAIL_BYTES);
            tail.drain(..excess);
        }
    })
}

/// Asks the kernel to kill this process when the thread that started it ends; `prctl(2)`, `PR_SET_PDEATHSIG`.
fn end_with_parent(parent: u32) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // The parent may have ended before the request was made.
    let still_there =
        rustix::process::getppid().is_some_and(|now| now.as_raw_nonzero().get().cast_unsigned() == parent);
    if still_there { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_debian_prints_them() {
        assert_eq!(parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\n"), Some((7, 2)));
        assert_eq!(parse_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"), Some((10, 0)));
        assert_eq!(parse_version("something else"), None);
    }

    fn machine(sockets: u32, memory_mib: u64) -> Machine<'static> {
        let path = Path::new("/none");
        let version = (10, 0);
        Machine {
            sockets,
            cores: 2,
            threads: 1,
            memory_mib,
            kernel: path,
            initrd: path,
            command_line: "",
            agent: path,
            version,
        }
    }

    #[test]
    fn each_socket_is_a_node_and_the_nodes_are_the_whole_machine() {
        let told = machine(3, 100).arguments().join(" ");
        assert!(told.contains("-smp 6,sockets=3,cores=2,threads=1 -m 100M"), "{told}");
        for (node, (mib, cpus)) in [(34, "0-1"), (33, "2-3"), (33, "4-5")].into_iter().enumerate() {
            assert!(told.contains(&format!("id=node{node},size={mib}M")), "{told}");
            assert!(told.contains(&format!("nodeid={node},cpus={cpus},memdev=node{node}")), "{told}");
        }
        assert_eq!(told.matches("-numa dist").count(), 6);
        assert!(!machine(1, 100).arguments().join(" ").contains("-numa"));
    }

    #[test]
    fn an_old_qemu_is_run_single_threaded() {
        let accelerator = |version| {
            let arguments = Machine { version, ..machine(1, 64) }.arguments();
            let place = arguments.iter().position(|argument| argument == "-accel").unwrap();
            arguments[place + 1].clone()
        };
        assert_eq!(accelerator((7, 2)), "tcg,thread=single");
        assert_eq!(accelerator((8, 0)), "tcg");
        assert_eq!(accelerator((10, 0)), "tcg");
    }
}
