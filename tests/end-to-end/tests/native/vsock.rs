//! The socket device, driven by the payload through its real queues: streams both ways, over the manager's death.

use anyhow::{Context, Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::{host, wait};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

/// Slot of the socket device.
const SLOT: u8 = 3;
/// Port that the guest listens on, and one that a program of the host does.
const PORT: u32 = 1024;
const HOST_PORT: u32 = 777;
/// Bytes of a stream: more than all rooms on the way together.
const STREAM: usize = 2 << 20;

/// Two partitions, the first with a socket device.
const ONE: &str = r#"
[frame]
name = "@NAME@"
memory_block = "2MiB"
reserved = { cpus = 0, memory = "64MiB" }

[[pool]]
name = "default"
cpus = 1

[defaults]
processors = { mode = "shared", pool = "default", desired = 1, units = { minimum = 0.1, desired = 0.4, maximum = 1.0 }, sharing = "uncapped" }
memory = { desired = "16MiB" }
boot = "diagnostics"

[[partition]]
name = "alpha"
vsock = {}

[[partition]]
name = "beta"
"#;

fn sockets(frame: &Frame) -> PathBuf {
    frame.directory().join("r/run/p")
}

/// Has the guest echo a stream and demands that what comes back is what was sent.
fn echo(stream: &UnixStream) -> Result<()> {
    stream.set_read_timeout(Some(wait::DEADLINE))?;
    stream.set_write_timeout(Some(wait::DEADLINE))?;
    let data: Vec<u8> = (0..STREAM as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (expected, mut writer) = (data.clone(), stream.try_clone()?);
    let write = std::thread::spawn(move || {
        writer.write_all(&data)?;
        writer.shutdown(Shutdown::Write)
    });
    let mut echoed = vec![];
    let mut reader = stream;
    let read = reader.read_to_end(&mut echoed);
    write.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("writing")?;
    read.with_context(|| format!("after {} bytes", echoed.len()))?;
    ensure!(echoed == expected, "{} bytes came back, and they are others", echoed.len());
    Ok(())
}

/// A program of the host connects to a port of the guest.
fn connect(frame: &Frame, console: &mut Console) -> Result<()> {
    console.past_history()?;
    console.type_line(&format!("vsock-listen {SLOT} {PORT}"))?;
    let mut stream = UnixStream::connect(sockets(frame).join("alpha.vsock"))?;
    stream.set_read_timeout(Some(wait::DEADLINE))?;
    stream.write_all(format!("CONNECT {PORT}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::with_capacity(1, &stream).read_line(&mut line)?;
    ensure!(line.starts_with("OK "), "the guest was not reached: {line:?}");
    echo(&stream)?;
    console.until(&format!("echoed={STREAM}"))?;
    Ok(())
}

/// The guest connects to a port of the host.
fn call(listener: &UnixListener, console: &mut Console) -> Result<()> {
    console.past_history()?;
    console.type_line(&format!("vsock-call {SLOT} {HOST_PORT}"))?;
    listener.set_nonblocking(true)?;
    let (stream, _) = wait::until("the guest's call", || match listener.accept() {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        other => Ok(Some(other?)),
    })?;
    stream.set_nonblocking(false)?;
    echo(&stream)?;
    console.until(&format!("echoed={STREAM}"))?;
    Ok(())
}

pub fn both_ways() -> Result<()> {
    let frame = Frame::up(ONE)?;
    let mut console = Console::open(&frame.lpar, "alpha")?;
    let path = sockets(&frame).join("alpha.vsock");
    let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the socket's mode is {mode:o}");
    ensure!(!sockets(&frame).join("beta.vsock").exists(), "beta has no socket device");
    connect(&frame, &mut console)?;
    // A program of the host that is silent keeps nobody out.
    let silent: Vec<UnixStream> = (0..70).map(|_| UnixStream::connect(&path)).collect::<Result<_, _>>()?;
    connect(&frame, &mut console)?;
    drop(silent);
    // Nobody is there; then somebody is.
    let refused = console.ask(&format!("vsock-call {SLOT} {HOST_PORT}"), "peer")?;
    ensure!(refused.get("echoed") == Some(&0), "{refused:?}");
    let called = sockets(&frame).join(format!("alpha.vsock_{HOST_PORT}"));
    let listener = UnixListener::bind(&called)?;
    call(&listener, &mut console)?;
    // The next manager serves as this one did, and takes nothing away.
    let before = frame.manager()?;
    host::signal(before, Signal::KILL)?;
    wait::until("the next manager", || Ok(frame.manager().ok().filter(|pid| *pid != before)))?;
    frame.lpar.wait("alpha", "Running")?;
    ensure!(path.exists() && called.exists(), "a socket is gone");
    let mut console = Console::open(&frame.lpar, "alpha")?;
    call(&listener, &mut console)?;
    connect(&frame, &mut console)?;
    frame.lpar.ok("shutdown alpha --immediate")?;
    ensure!(!path.exists() && called.exists(), "the wrong socket is left");
    std::fs::remove_file(called)?;
    frame.down()
}

pub fn misdriven() -> Result<()> {
    let frame = Frame::up(ONE)?;
    let mut console = Console::open(&frame.lpar, "alpha")?;
    connect(&frame, &mut console)?;
    let mut other = Console::open(&frame.lpar, "beta")?;
    let beats = other.ask("beats", "beats")?;
    for misdeed in ["loop", "index", "next", "flood", "rings"] {
        let said = console.ask(&format!("misdrive {SLOT} {misdeed}"), "slot")?;
        ensure!(said.get("frozen") == Some(&1), "{misdeed}: {said:?}");
        ensure!(console.ask("beats", "beats")?.contains_key("beats"), "{misdeed}: the guest beats no more");
        console.ask(&format!("reset {SLOT}"), "slot")?;
    }
    let after = other.ask("beats", "beats")?;
    ensure!(after["beats"] > beats["beats"], "{beats:?}, {after:?}");
    // Five freezes: a reset thaws it still, and nobody else has heard of any.
    connect(&frame, &mut console)?;
    let events = frame.lpar.events()?;
    let frozen = events.iter().filter(|event| event["code"] == "B2000007").count();
    ensure!(frozen == 5, "{frozen} freezes: {events:?}");
    ensure!(
        events.iter().all(|event| event["partitions"] != serde_json::json!(["beta"]) || event["code"] == "C2000001")
    );
    frame.down()
}
