//! Taking over a thread of another process, as a guest that breaks out of its monitor would: it does what it is told,
//! with whatever rights its process has left (ptrace(2); the rights of the one who tells do not pass over).

use anyhow::{Context, Result, ensure};
use std::io;

/// `syscall` on x86-64, as it lies in memory.
const SYSCALL: libc::c_long = 0x050f;

/// The threads of a process, with their names.
///
/// # Errors
/// When the process is gone.
pub fn threads(pid: u32) -> Result<Vec<(i32, String)>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).context("the threads of a partition")?;
    tasks
        .map(|task| {
            let task = task?;
            let name = std::fs::read_to_string(task.path().join("comm"))?.trim().to_owned();
            Ok((task.file_name().to_string_lossy().parse()?, name))
        })
        .collect()
}

fn trace(request: libc::c_uint, thread: i32, address: u64, data: u64) -> Result<libc::c_long> {
    // SAFETY: the requests that are made here either take numbers, or the address of registers that their caller has.
    let outcome = unsafe { libc::ptrace(request, thread, address, data) };
    if outcome == -1 {
        return Err(io::Error::last_os_error()).with_context(|| format!("ptrace request {request:#x}"));
    }
    Ok(outcome)
}

fn wait(thread: i32) -> Result<i32> {
    let mut status = 0;
    // SAFETY: the status is this function's.
    let outcome = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
    ensure!(outcome == thread, "waitpid: {}", io::Error::last_os_error());
    Ok(status)
}

/// Makes `thread`, which waits in the kernel or runs a guest, do one system call. Gives the signal that it dies of.
///
/// # Errors
/// When it cannot be taken over, and when it does not die of the call.
pub fn call(thread: i32, number: u64, arguments: [u64; 3]) -> Result<i32> {
    trace(libc::PTRACE_SEIZE, thread, 0, libc::PTRACE_O_TRACESYSGOOD as u64)?;
    trace(libc::PTRACE_INTERRUPT, thread, 0, 0)?;
    let status = wait(thread)?;
    ensure!(libc::WIFSTOPPED(status), "it did not stop: {status:#x}");
    // SAFETY: plain numbers, for which zeros are a value.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    trace(libc::PTRACE_GETREGS, thread, 0, &raw mut registers as u64)?;
    let before = registers.rip - 2;
    ensure!(trace(libc::PTRACE_PEEKTEXT, thread, before, 0)? & 0xffff == SYSCALL, "it was in no system call");
    registers.rip = before;
    registers.rax = number;
    [registers.rdi, registers.rsi, registers.rdx] = arguments;
    // What it was interrupted in is not begun again.
    registers.orig_rax = u64::MAX;
    trace(libc::PTRACE_SETREGS, thread, 0, &raw mut registers as u64)?;
    trace(libc::PTRACE_SYSCALL, thread, 0, 0)?;
    let mut stops = 0;
    loop {
        let status = wait(thread)?;
        if libc::WIFSIGNALED(status) {
            return Ok(libc::WTERMSIG(status));
        }
        ensure!(libc::WIFSTOPPED(status), "it ended by itself: {status:#x}");
        stops += i32::from(libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80);
        // It stops before the call and behind it, even one that is forbidden; one that lives does another call then.
        ensure!(stops < 3, "system call {number} did not end it");
        trace(libc::PTRACE_SYSCALL, thread, 0, 0)?;
    }
}
