//! Getting a virtual processor's thread out of `KVM_RUN`.
//!
//! A signal alone can land just before `KVM_RUN` and be lost. So its handler also sets `immediate_exit` in
//! the `kvm_run` of the thread that it lands on: the next `KVM_RUN` then comes back at once (kernel,
//! Documentation/virt/kvm/api.rst, 5).

use kvm_ioctls::VcpuFd;
use std::cell::Cell;
use std::ptr;
use std::thread::JoinHandle;
use vmm_sys_util::errno;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler, unblock_signal};

thread_local! {
    /// Address of `immediate_exit` in this thread's `kvm_run`.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `Kickable` keeps the mapping while the address is set, and this is its thread.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler, for the whole process.
///
/// # Errors
/// When `sigaction(2)` fails.
pub fn install() -> errno::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick)
}

/// A virtual processor whose thread, the current one, can be kicked.
#[derive(Debug)]
pub struct Kickable {
    /// The virtual processor.
    pub fd: VcpuFd,
    // The address is this thread's.
    _here: std::marker::PhantomData<*const ()>,
}

impl Kickable {
    /// Makes the current thread kickable.
    #[must_use]
    pub fn new(mut fd: VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut fd.get_kvm_run().immediate_exit);
        // It fails only for a signal that does not exist, or because nobody blocked it.
        let _ = unblock_signal(SIGRTMIN());
        Self { fd, _here: std::marker::PhantomData }
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

/// Kicks a thread that [`Kickable::new`] was called on. Harmless when it ended.
pub fn kick(thread: &JoinHandle<()>) {
    // It may wait outside of its guest.
    thread.thread().unpark();
    let _ = thread.kill(SIGRTMIN());
}
