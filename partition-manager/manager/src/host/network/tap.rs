//! Taps: interfaces whose other end is a descriptor (Linux, Documentation/networking/tuntap.rst). One that nobody
//! holds is gone.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

const DEVICE: &str = "/dev/net/tun";
/// What the kernel makes names of: the lowest number that is free.
const PATTERN: &str = "bh%d";

// Linux, include/uapi/linux/if_tun.h.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca as libc::Ioctl;
const TAP: u16 = 0x0002;
const MULTIQUEUE: u16 = 0x0100;
const NO_INFORMATION: u16 = 0x1000;
const HEADER: u16 = 0x4000;

/// Bytes of an interface's name, with its final zero (IFNAMSIZ).
const NAME: usize = 16;
/// Bytes of `struct ifreq`.
const REQUEST: usize = 40;

/// Makes a tap with so many queues; its name, and a descriptor for each queue.
///
/// # Errors
/// What the host says.
pub fn make(queues: u8) -> io::Result<(String, Vec<OwnedFd>)> {
    let flags = TAP | NO_INFORMATION | HEADER | if queues > 1 { MULTIQUEUE } else { 0 };
    let mut name = PATTERN.to_owned();
    let mut descriptors = vec![];
    for _ in 0..queues.max(1) {
        let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)?;
        name = attach(&file, &name, flags)?;
        descriptors.push(file.into());
    }
    Ok((name, descriptors))
}

/// Whether taps can be made at all; changes nothing.
///
/// # Errors
/// What the host says.
pub fn probe() -> io::Result<()> {
    File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE).map(drop)
}

fn attach(file: &File, name: &str, flags: u16) -> io::Result<String> {
    let mut request = [0u8; REQUEST];
    request.iter_mut().zip(name.bytes().take(NAME - 1)).for_each(|(to, from)| *to = from);
    request.iter_mut().skip(NAME).zip(flags.to_ne_bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: the request is a whole `struct ifreq`, which the kernel reads and writes its name into.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    let given = request.get(..NAME).unwrap_or_default();
    Ok(String::from_utf8_lossy(given.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned())
}
