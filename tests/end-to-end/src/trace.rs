//! Stopping a process at one of its writes to one of its files, from outside (`ptrace(2)`).

use anyhow::{Context, Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};

/// On which side of a write a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It is about to write; nothing of it is written.
    Before,
    /// All of it is written.
    After,
}

/// What a trace saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Writes to the file.
    pub writes: usize,
    /// Whether the process was killed at the one that was meant.
    pub killed: bool,
}

/// `struct ptrace_syscall_info` (Linux, include/uapi/linux/ptrace.h), as far as an entry fills it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SyscallInfo {
    op: u8,
    padding: [u8; 3],
    arch: u32,
    instruction_pointer: u64,
    stack_pointer: u64,
    number: u64,
    arguments: [u64; 6],
    /// More than any kernel writes of it today.
    rest: [u64; 8],
}

const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
const ENTRY: u8 = 1;
const EXIT: u8 = 2;

struct Traced(libc::pid_t);

impl Traced {
    fn request(&self, request: libc::c_uint, address: usize, data: usize) -> Result<i64> {
        // SAFETY: the requests made here read and write no memory of this process, but for the one that is given
        // the address and the size of a structure that is there.
        let outcome = unsafe { libc::ptrace(request, self.0, address, data) };
        if outcome < 0 { Err(std::io::Error::last_os_error()).context("ptrace") } else { Ok(outcome) }
    }

    fn wait(&self) -> Result<i32> {
        let mut status = 0;
        loop {
            // SAFETY: the kernel writes the status to where it is told.
            let outcome = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
            let error = std::io::Error::last_os_error();
            if outcome == self.0 {
                return Ok(status);
            }
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(error).context("waitpid");
            }
        }
    }

    fn syscall(&self) -> Result<SyscallInfo> {
        let mut info = SyscallInfo::default();
        self.request(GET_SYSCALL_INFO, size_of::<SyscallInfo>(), &raw mut info as usize)?;
        Ok(info)
    }
}

/// Follows the first thread of process `pid` and kills the process at its `nth` write (from 1) to a file whose
/// path ends with `file`, on this `side` of it. Ends without that when the process ends or `over` is set and
/// the thread makes its next system call. `began` is set as soon as every write is seen.
///
/// To be called from a thread that does nothing else meanwhile.
///
/// # Errors
/// When the process cannot be traced.
pub fn kill_at_write(
    pid: u32,
    file: &str,
    nth: usize,
    side: Side,
    began: &AtomicBool,
    over: &AtomicBool,
) -> Result<Seen> {
    let traced = Traced(libc::pid_t::try_from(pid)?);
    let options = usize::try_from(libc::PTRACE_O_TRACESYSGOOD)?;
    traced.request(libc::PTRACE_SEIZE, 0, options)?;
    traced.request(libc::PTRACE_INTERRUPT, 0, 0)?;
    let mut seen = Seen { writes: 0, killed: false };
    let mut writing = false;
    loop {
        let status = traced.wait()?;
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            return Ok(seen);
        }
        if !libc::WIFSTOPPED(status) {
            bail!("an unknown state of process {pid}: {status:#x}");
        }
        began.store(true, Ordering::SeqCst);
        let mut signal = libc::WSTOPSIG(status);
        if signal == libc::SIGTRAP | 0x80 {
            signal = 0;
            let info = traced.syscall()?;
            let mut here = false;
            if info.op == ENTRY {
                writing = is_write(info.number) && path(pid, info.arguments[0]).ends_with(file);
                seen.writes += usize::from(writing);
                here = writing && side == Side::Before && seen.writes == nth;
            } else if info.op == EXIT {
                here = writing && side == Side::After && seen.writes == nth;
                writing = false;
            }
            if here {
                seen.killed = true;
                // SAFETY: sends a signal; the process is held by this trace, so its number is its own.
                unsafe { libc::kill(traced.0, libc::SIGKILL) };
                continue;
            }
        } else if status >> 16 != 0 {
            // A stop of the trace's own, no signal.
            signal = 0;
        }
        if seen.killed {
            continue;
        }
        if over.load(Ordering::SeqCst) {
            traced.request(libc::PTRACE_DETACH, 0, usize::try_from(signal)?)?;
            return Ok(seen);
        }
        // It may be killed by another at any moment; the next wait says so.
        let _ = traced.request(libc::PTRACE_SYSCALL, 0, usize::try_from(signal)?);
    }
}

fn is_write(number: u64) -> bool {
    let number = i64::try_from(number).unwrap_or(-1);
    [libc::SYS_write, libc::SYS_pwrite64, libc::SYS_writev, libc::SYS_pwritev].contains(&number)
}

fn path(pid: u32, descriptor: u64) -> String {
    let link = std::fs::read_link(format!("/proc/{pid}/fd/{descriptor}"));
    link.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}
