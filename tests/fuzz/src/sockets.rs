//! The queues of the socket and console devices, with programs of the host that come, say something and go.

use crate::Bytes;
use crate::queues::serve;
use frame::name::Name;
use frame::vsock::{Answer, Call, RECORD, SERVE};
use partition::devices::virtio::console::ports::Ports;
use partition::devices::virtio::vsock::streams::Streams;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// Identifier of the guest.
const CID: u32 = 9;
/// Most programs of the host at once.
const PROGRAMS: usize = 6;

/// The device, and where programs of the host find it.
struct Reached {
    streams: Streams,
    address: SocketAddrUnix,
}

/// The console device, and where programs of the host find its ports.
struct Joined {
    ports: Ports,
    addresses: Vec<SocketAddrUnix>,
}

/// The console device's ports; the first is its terminal.
const PORTS: [&str; 2] = ["hvc0", "agent"];

thread_local! {
    static DEVICE: RefCell<Option<Reached>> = const { RefCell::new(None) };
    static CONSOLE: RefCell<Option<Joined>> = const { RefCell::new(None) };
}

/// The queues of the console device: one of them, those of its terminal, or all.
pub fn console_queues(bytes: &[u8]) {
    CONSOLE.with_borrow_mut(|device| {
        let device = device.get_or_insert_with(|| joined().unwrap_or_else(|error| panic!("no device: {error}")));
        let Joined { ports, addresses } = device;
        let mut programs: Vec<UnixStream> = vec![];
        let (queues, bytes) = bytes.split_first().unwrap_or((&0, &[]));
        let all: Vec<usize> = (0..6).collect();
        let queues = match queues % 8 {
            6 => all.get(..2),
            7 => Some(&all[..]),
            one => all.get(usize::from(one)..=usize::from(one)),
        };
        let mut outside = |bytes: &mut Bytes<'_>| {
            let address = addresses.get(usize::from(bytes.byte()) % PORTS.len());
            address.into_iter().for_each(|address| act(address, &mut programs, bytes));
        };
        serve(ports, queues.unwrap_or_default(), bytes, &mut outside);
    });
}

fn joined() -> io::Result<Joined> {
    let (mut names, mut listeners, mut addresses) = (vec![], vec![], vec![]);
    for name in PORTS {
        let (listener, address) = listener(name)?;
        listeners.push(listener);
        addresses.push(address);
        names.push(Name::new(name).map_err(io::Error::other)?);
    }
    Ok(Joined { ports: Ports::new(&names, listeners)?, addresses })
}

/// The queues of the socket device: one, the other, or both.
pub fn socket_queues(bytes: &[u8]) {
    DEVICE.with_borrow_mut(|device| {
        let device = device.get_or_insert_with(|| reached().unwrap_or_else(|error| panic!("no device: {error}")));
        let Reached { streams, address } = device;
        let mut programs: Vec<UnixStream> = vec![];
        let (queues, bytes) = bytes.split_first().unwrap_or((&0, &[]));
        let queues: &[usize] = match queues % 4 {
            0 => &[0],
            1 => &[1],
            _ => &[0, 1],
        };
        serve(streams, queues, bytes, &mut |bytes| act(address, &mut programs, bytes));
    });
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn listener(name: &str) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let address = SocketAddrUnix::new_abstract_name(format!("bulkhead-fuzz-{thread}-{name}").as_bytes())?;
    let listener = socket()?;
    rustix::net::bind(&listener, &address)?;
    rustix::net::listen(&listener, 16)?;
    Ok((listener, address))
}

fn reached() -> io::Result<Reached> {
    let (listener, address) = listener("vsock")?;
    Ok(Reached { streams: Streams::new(CID, listener)?, address })
}

/// What programs of the host do between two kicks.
fn act(address: &SocketAddrUnix, programs: &mut Vec<UnixStream>, bytes: &mut Bytes<'_>) {
    for _ in 0..bytes.byte() % 4 {
        let (what, which) = (bytes.byte(), usize::from(bytes.byte()));
        if what % 8 == 0 {
            if let Ok(socket) = socket().and_then(|socket| Ok(rustix::net::connect(&socket, address).map(|()| socket)?))
                && programs.len() < PROGRAMS
            {
                programs.push(socket.into());
            }
            continue;
        }
        if programs.is_empty() {
            continue;
        }
        let which = which % programs.len();
        let Some(program) = programs.get_mut(which) else { continue };
        // None of them waits, and none minds that the device has left it.
        let _ = match what % 8 {
            1 => program.write(format!("CONNECT {}\n", bytes.byte() % 4).as_bytes()),
            2 => program.write(SERVE),
            3 => program.write(&vec![what; usize::from(bytes.half())]),
            4 => program.write(bytes.some(8)),
            5 => program.read(&mut [0; 4096]),
            6 => answer(program),
            _ => {
                programs.swap_remove(which);
                Ok(0)
            }
        };
    }
}

/// Answers a call of the guest, without a socket.
fn answer(program: &mut UnixStream) -> io::Result<usize> {
    let mut call = [0; RECORD];
    program.read_exact(&mut call)?;
    program.write(&Answer { id: Call::parse(call).id, error: u32::from(call[4]) % 2 }.bytes())
}
