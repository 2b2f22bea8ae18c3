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
    pub cpus: u32,
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
            // One socket of whole cores; standard input and output are the console.
            "-serial stdio -device virtio-serial-pci",
            "-device virtserialport,chardev=agent,nr=1,name=agent",
        ];
        let mut arguments: Vec<String> =
            arguments.iter().flat_map(|part| part.split(' ')).map(ToOwned::to_owned).collect();
        arguments.extend([
            "-accel".to_owned(),
            format!("tcg{threads}"),
            "-smp".to_owned(),
            format!("{0},sockets=1,cores={0},threads=1", self.cpus),
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
        arguments
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

    #[test]
    fn an_old_qemu_is_run_single_threaded() {
        let path = Path::new("/none");
        let accelerator = |version| {
            let machine =
                Machine { cpus: 4, memory_mib: 64, kernel: path, initrd: path, command_line: "", agent: path, version };
            let arguments = machine.arguments();
            let place = arguments.iter().position(|argument| argument == "-accel").unwrap();
            arguments[place + 1].clone()
        };
        assert_eq!(accelerator((7, 2)), "tcg,thread=single");
        assert_eq!(accelerator((8, 0)), "tcg");
        assert_eq!(accelerator((10, 0)), "tcg");
    }
}
