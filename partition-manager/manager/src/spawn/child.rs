//! A child that shares this process's memory until it runs its program (`CLONE_VM | CLONE_VFORK`, clone(2)), so
//! that starting it costs no copy of page tables, neither then nor by faults afterwards.

use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Bytes of the stack that the child has until it runs its program. What it does there calls the system only.
const STACK: usize = 64 << 10;
/// The highest signal number of Linux on x86.
const SIGNALS: c_int = 64;

/// A process that this one started and has to wait for.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, if it has; it is reaped then.
    ///
    /// # Errors
    /// When it is no child of this process any more.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.reap(WaitOptions::NOHANG)
    }

    /// Kills it and waits for its end.
    ///
    /// # Errors
    /// When it is no child of this process any more.
    pub fn kill(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            rustix::process::kill_process(self.pid, rustix::process::Signal::KILL)?;
        }
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it is no child of this process any more.
    pub fn wait(&mut self) -> io::Result<Option<ExitStatus>> {
        loop {
            match self.reap(WaitOptions::empty()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    fn reap(&mut self, options: WaitOptions) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            let status = waitpid(Some(self.pid), options)?;
            self.ended = status.map(|(_, status): (Pid, WaitStatus)| ExitStatus::from_raw(status.as_raw()));
        }
        Ok(self.ended)
    }
}

/// What the child does before it runs its program.
struct Orders<'a> {
    program: *const c_char,
    /// Ends in nothing.
    arguments: *const *const c_char,
    environment: [*const c_char; 1],
    /// The descriptor of the null device, for standard input, output and error.
    null: c_int,
    prepare: &'a dyn Fn() -> io::Result<()>,
    /// The error number of what failed, written by the child; 0 while nothing has.
    error: c_int,
}

/// Starts `program` with `arguments`, of which the first is its name, without environment, in new namespaces of the
/// kinds `namespaces` (`CLONE_NEW*`), in the root directory, with `null` as standard
/// input, output and error, after `prepare`, which may do system calls only: it runs in this process's memory
/// beside this process's other threads.
///
/// # Errors
/// The error of the system call that failed; no process is left.
pub fn start(
    program: &CString,
    arguments: &[CString],
    namespaces: c_int,
    null: BorrowedFd<'_>,
    prepare: &dyn Fn() -> io::Result<()>,
) -> io::Result<Child> {
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let ends = std::iter::once(std::ptr::null());
    let arguments: Vec<*const c_char> = arguments.iter().map(|argument| argument.as_ptr()).chain(ends).collect();
    let mut orders = Orders {
        program: program.as_ptr(),
        arguments: arguments.as_ptr(),
        environment: [std::ptr::null()],
        null: null.as_raw_fd(),
        prepare,
        error: 0,
    };
    let top = stack.as_mut_ptr_range().end;
    let held = Held::all()?;
    // SAFETY: the stack is aligned, unused and lives until the child has left it: CLONE_VFORK holds this thread
    // until then. So do the orders, which nothing here touches meanwhile.
    let pid = unsafe {
        libc::clone(
            run,
            top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | namespaces,
            (&raw mut orders).cast::<c_void>(),
        )
    };
    let failed = io::Error::last_os_error();
    drop(held);
    let pid = if pid < 0 { None } else { Pid::from_raw(pid) };
    let mut child = Child { pid: pid.ok_or(failed)?, ended: None };
    // SAFETY: reads what the child may have written by its pointer, which the compiler does not see.
    match unsafe { (&raw const orders.error).read_volatile() } {
        0 => Ok(child),
        error => {
            child.wait()?;
            Err(io::Error::from_raw_os_error(error))
        }
    }
}

/// The child, on its own stack.
extern "C" fn run(orders: *mut c_void) -> c_int {
    // SAFETY: it is what `start` gave to clone(2), and `start` waits.
    let orders = unsafe { &mut *orders.cast::<Orders<'_>>() };
    let Err(error) = obey(orders);
    orders.error = error.raw_os_error().unwrap_or(libc::EINVAL);
    // SAFETY: ends the child without anything that belongs to the parent.
    unsafe { libc::_exit(127) }
}

fn obey(orders: &Orders<'_>) -> io::Result<std::convert::Infallible> {
    let check = |outcome: c_int| if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // A handler of the parent's would run in the parent's memory.
    for signal in 1..=SIGNALS {
        // SAFETY: a signal that cannot be set is refused by the kernel; the handlers are this process's own copy.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    for standard in 0..=2 {
        // SAFETY: system calls on numbers.
        check(unsafe { libc::dup2(orders.null, standard) })?;
    }
    // SAFETY: the path is a constant.
    check(unsafe { libc::chdir(c"/".as_ptr()) })?;
    (orders.prepare)()?;
    let mut none = MaybeUninit::uninit();
    // SAFETY: fills the set, which is on this stack.
    check(unsafe { libc::sigemptyset(none.as_mut_ptr()) })?;
    // SAFETY: the set is filled. What is pending now ends this process by default, as it should.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) })?;
    // SAFETY: strings and arrays that end in nothing, all of which `start` keeps.
    check(unsafe { libc::execve(orders.program, orders.arguments, orders.environment.as_ptr()) })?;
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

/// Keeps all signals from this thread while it lives.
struct Held(libc::sigset_t);

impl Held {
    fn all() -> io::Result<Self> {
        let mut all = MaybeUninit::uninit();
        // SAFETY: fills the set, which is on this stack, and cannot fail.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        let mut before = MaybeUninit::uninit();
        // SAFETY: the first set is filled, and the second one of its size.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: the call has filled it.
        Ok(Self(unsafe { before.assume_init() }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: puts back the set that was in force.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}
