//! The requests of a disk's driver (virtio 1.2, section 5.2.6).

use super::engine::{DEPTH, Engine};
use super::image::{Image, MOST_PARTS};
use super::{MOST_RANGE_SECTORS, MOST_RANGES, SECTOR};
use crate::devices::pci::freeze::Fault;
use crate::devices::virtio::limits::Limits;
use crate::devices::virtio::ring::{Chain, Ring};
use crate::devices::virtio::worker::{Served, Service};
use frame::device::{DiskEngine, DiskSpec, LONGEST_SERIAL};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Requests that are done before the thread looks for other orders.
const BATCH: usize = 64;
/// The timer of the limits among the sources.
const LIMITS: usize = 0;
/// Bytes of a request's header: type, reserved, sector.
const HEADER: u64 = 16;
/// Bytes of one range of a discard or write-zeroes request: sector, count, flags.
const RANGE: u64 = 16;
/// Flag of a range to be zeroed: its space may be given back.
const UNMAP: u32 = 1;

/// What a request comes to: the byte that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    Error = 1,
    Unsupported = 2,
}

/// What a request asks for, once it was checked.
#[derive(Clone, Copy, Debug)]
enum Task {
    Read { position: u64, bytes: u64 },
    Write { position: u64, bytes: u64 },
    Flush,
}

impl Task {
    const fn name(self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Flush => "flush",
        }
    }
}

/// What an answer of the ring means.
#[derive(Debug)]
enum Settled {
    Done,
    /// Nothing went wrong, but not all is done: the rest of a transfer, or all where the kernel had no thread for it.
    Again,
    /// An error is told once: a flush that is tried again would succeed, though data were lost (fsync(2)).
    Failed(io::Error),
}

fn settle(result: io::Result<usize>, asked: u64) -> Settled {
    match result {
        Ok(moved) if moved as u64 == asked => Settled::Done,
        Ok(_) => Settled::Again,
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ECANCELED) => Settled::Again,
            _ => Settled::Failed(error),
        },
    }
}

/// What becomes of a request.
enum Course {
    /// It is done: its status, the bytes that were written before it, and those that it counts for.
    Done(Status, u64, u64),
    /// The image is to be asked.
    Task(Task),
}

/// The service of one disk.
#[derive(Debug)]
pub struct Requests {
    image: Image,
    serial: [u8; LONGEST_SERIAL],
    limits: Limits,
    wanted: DiskEngine,
    /// Whether the driver asks for flushes; where it does not, every write is one (virtio 1.2, section 5.2.6.2).
    flushes: bool,
    /// Has several requests under way; without it they are done one after the other.
    engine: Option<Engine>,
    /// Whether there is an engine, for whoever asks.
    io_uring: Arc<AtomicBool>,
    /// What is under way, by tag.
    pending: Vec<Option<(Chain, Task)>>,
}

impl Requests {
    /// The service of `image`.
    ///
    /// # Errors
    /// When there can be no timer.
    pub fn new(image: Image, spec: &DiskSpec) -> io::Result<Self> {
        let mut serial = [0; LONGEST_SERIAL];
        serial.iter_mut().zip(spec.serial.bytes()).for_each(|(to, from)| *to = from);
        let limits = Limits::new(spec.operations, spec.bandwidth)?;
        let pending = (0..DEPTH).map(|_| None).collect();
        let (wanted, io_uring) = (spec.engine, Arc::default());
        Ok(Self { image, serial, limits, wanted, flushes: false, engine: None, io_uring, pending })
    }

    /// Tells whether several requests can be under way at once, now and later.
    #[must_use]
    pub fn io_uring(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.io_uring)
    }

    /// Does without a ring from now on.
    fn give_up(&mut self) {
        self.engine = None;
        self.io_uring.store(false, Ordering::Relaxed);
    }

    /// Checks a request, and does it if the image need not be asked for data.
    fn course(&self, ring: &Ring, chain: &Chain) -> Result<Course, Fault> {
        let malformed = |why: &str| Fault::Chain { queue: ring.index(), head: chain.head, why: why.into() };
        let mut header = [0; HEADER as usize];
        if ring.read(&chain.readable, 0, &mut header)? < header.len() {
            return Err(malformed("a request without a whole header"));
        }
        let room = room(chain).ok_or_else(|| malformed("a request without room for its status"))?;
        let word =
            |at: usize| header.iter().skip(at).take(4).rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
        let data = chain.readable_bytes() - HEADER;
        let place = |bytes: u64| {
            let position = sector.checked_mul(SECTOR).filter(|position| self.image.has(*position, bytes));
            position.filter(|_| bytes.is_multiple_of(SECTOR))
        };
        let (status, written, counted) = match word(0) {
            IN => match place(room) {
                Some(position) => return Ok(Course::Task(Task::Read { position, bytes: room })),
                None => (Status::Error, 0, room),
            },
            OUT => match place(data).filter(|_| !self.image.is_read_only()) {
                Some(position) => return Ok(Course::Task(Task::Write { position, bytes: data })),
                None => (Status::Error, 0, data),
            },
            FLUSH => return Ok(Course::Task(Task::Flush)),
            GET_ID => {
                let id = self.serial.get(..room.min(LONGEST_SERIAL as u64) as usize).unwrap_or_default();
                (Status::Ok, ring.write(&chain.writable, 0, id)? as u64, 0)
            }
            kind @ (DISCARD | WRITE_ZEROES) => {
                let (status, zeroed) = self.ranges(ring, chain, kind, data)?;
                (status, 0, data.saturating_add(zeroed))
            }
            _ => (Status::Unsupported, 0, data),
        };
        Ok(Course::Done(status, written, counted))
    }

    /// Does what the image is asked for, and waits for it. Gives the bytes that were read.
    fn perform(&self, ring: &Ring, chain: &Chain, task: Task) -> Result<u64, Fault> {
        match task {
            Task::Read { position, bytes } => {
                let slices = ring.slices(&chain.writable, 0, bytes)?;
                self.image.read(&slices, position).map_err(|error| backend("read", &error))?;
                return Ok(bytes);
            }
            Task::Write { position, bytes } => {
                let slices = ring.slices(&chain.readable, HEADER, bytes)?;
                self.image.write(&slices, position).map_err(|error| backend("write", &error))?;
                if !self.flushes {
                    self.image.flush().map_err(|error| backend("flush", &error))?;
                }
            }
            Task::Flush => self.image.flush().map_err(|error| backend("flush", &error))?,
        }
        Ok(0)
    }

    /// Has the image asked, and does not wait. Whether it is under way.
    fn begin(&mut self, ring: &Ring, chain: &Chain, task: Task) -> Result<bool, Fault> {
        if matches!(task, Task::Write { .. }) && !self.flushes {
            return Ok(false);
        }
        let Some(engine) = &mut self.engine else { return Ok(false) };
        let Some(tag) = self.pending.iter().position(Option::is_none) else { return Ok(false) };
        let begun = match task {
            Task::Read { position, bytes } => {
                let parts = Image::parts(&ring.slices(&chain.writable, 0, bytes)?);
                if parts.is_empty() || parts.len() > MOST_PARTS {
                    return Ok(false);
                }
                // SAFETY: the queue's memory stays until the device stops, and that waits for the answer.
                unsafe { engine.transfer(tag as u64, &parts, position, false) }
            }
            Task::Write { position, bytes } => {
                let parts = Image::parts(&ring.slices(&chain.readable, HEADER, bytes)?);
                if parts.is_empty() || parts.len() > MOST_PARTS {
                    return Ok(false);
                }
                // SAFETY: as above.
                unsafe { engine.transfer(tag as u64, &parts, position, true) }
            }
            Task::Flush => engine.flush(tag as u64),
        };
        if let Err(error) = begun {
            // What lies in its queue must not be submitted later.
            self.give_up();
            return Err(backend("io_uring", &error));
        }
        if let Some(place) = self.pending.get_mut(tag) {
            *place = Some((chain.clone(), task));
        }
        Ok(true)
    }

    /// Gives back what has been answered.
    fn answers(&mut self, ring: &mut Ring) -> Result<(), Fault> {
        while let Some((tag, result)) = self.engine.as_mut().and_then(Engine::answer) {
            let place = usize::try_from(tag).ok().and_then(|tag| self.pending.get_mut(tag));
            let Some((chain, task)) = place.and_then(Option::take) else { continue };
            let (asked, read) = match task {
                Task::Read { bytes, .. } => (bytes, bytes),
                Task::Write { bytes, .. } => (bytes, 0),
                Task::Flush => (0, 0),
            };
            let read = match settle(result, asked) {
                Settled::Done => read,
                Settled::Again => self.perform(ring, &chain, task)?,
                Settled::Failed(error) => return Err(backend(task.name(), &error)),
            };
            end(ring, &chain, Status::Ok, read)?;
        }
        Ok(())
    }

    /// How many requests are under way.
    fn under_way(&self) -> usize {
        self.engine.as_ref().map_or(0, Engine::under_way)
    }

    /// Discards ranges or makes them zeros, and gives the bytes of zeros (section 5.2.6.2: all are checked before one is touched).
    fn ranges(&self, ring: &Ring, chain: &Chain, kind: u32, data: u64) -> Result<(Status, u64), Fault> {
        if self.image.is_read_only() {
            return Ok((Status::Error, 0));
        }
        if data == 0 || !data.is_multiple_of(RANGE) || data > RANGE * MOST_RANGES as u64 {
            return Ok((Status::Error, 0));
        }
        let mut bytes = vec![0; data as usize];
        ring.read(&chain.readable, HEADER, &mut bytes)?;
        let mut ranges = Vec::with_capacity(MOST_RANGES);
        for range in bytes.chunks_exact(RANGE as usize) {
            let number = range.iter().rev().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
            let (sector, count, flags) = (number as u64, (number >> 64) as u32, (number >> 96) as u32);
            let known = if kind == DISCARD { 0 } else { UNMAP };
            if flags & !known != 0 {
                return Ok((Status::Unsupported, 0));
            }
            let bytes = u64::from(count) * SECTOR;
            let position = sector.checked_mul(SECTOR).filter(|position| self.image.has(*position, bytes));
            let Some(position) = position.filter(|_| count <= MOST_RANGE_SECTORS) else {
                return Ok((Status::Error, 0));
            };
            if bytes > 0 {
                ranges.push((position, bytes, flags & UNMAP != 0));
            }
        }
        let mut zeroed = 0;
        for (position, bytes, unmap) in ranges {
            if kind == WRITE_ZEROES {
                zeroed += bytes;
                self.image.zero(position, bytes, unmap).map_err(|error| backend("write zeros", &error))?;
            } else if !self.image.discard(position, bytes).map_err(|error| backend("discard", &error))? {
                return Ok((Status::Unsupported, 0));
            }
        }
        Ok((Status::Ok, zeroed))
    }
}

/// Bytes that a request leaves for data before its status; none when it has not even room for that.
fn room(chain: &Chain) -> Option<u64> {
    chain.writable_bytes().checked_sub(1)
}

/// Gives a request back, of which `written` bytes were written to the guest's memory.
fn end(ring: &mut Ring, chain: &Chain, status: Status, written: u64) -> Result<(), Fault> {
    let room = room(chain).unwrap_or(0);
    ring.write(&chain.writable, room, &[status as u8])?;
    // What lies between the data and the status was not written, but only its end can be told.
    let told = u32::try_from(if written == room { room + 1 } else { written.max(1) }).unwrap_or(u32::MAX);
    ring.complete(chain.head, told)?;
    // Nobody waits for the requests of others.
    ring.notify()
}

fn backend(what: &str, error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Gone(format!("{what}: the image ended: {error}")),
        _ => Fault::Backend(format!("{what}: {error}")),
    }
}

impl Service for Requests {
    fn prepare(&mut self) {
        if self.wanted == DiskEngine::Auto {
            // What the host does not let us have, is done without.
            self.engine = Engine::new(self.image.file()).ok();
        }
        self.io_uring.store(self.engine.is_some(), Ordering::Relaxed);
    }

    fn start(&mut self, features: u64, _: &mut [Option<Ring>]) -> Result<(), Fault> {
        self.flushes = features & super::FLUSH != 0;
        Ok(())
    }

    fn serve(&mut self, rings: &mut [Option<Ring>], queue: usize) -> Result<Served, Fault> {
        let Some(Some(ring)) = rings.get_mut(queue) else { return Ok(Served::All) };
        self.answers(ring)?;
        for _ in 0..BATCH {
            let limited = self.limits.must_wait().map_err(|error| backend("the timer of its limits", &error))?;
            if limited || self.under_way() == DEPTH {
                return Ok(Served::Waits);
            }
            let Some(chain) = ring.take()? else { break };
            let moved = match self.course(ring, &chain)? {
                Course::Done(status, written, counted) => {
                    end(ring, &chain, status, written)?;
                    counted
                }
                Course::Task(task) => {
                    if self.begin(ring, &chain, task)? {
                        // What the host has in memory is there already.
                        self.answers(ring)?;
                    } else {
                        let read = self.perform(ring, &chain, task)?;
                        end(ring, &chain, Status::Ok, read)?;
                    }
                    match task {
                        Task::Read { bytes, .. } | Task::Write { bytes, .. } => bytes,
                        Task::Flush => 0,
                    }
                }
            };
            self.limits.took(moved);
        }
        Ok(Served::All)
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        [Some(self.limits.as_fd()), self.engine.as_ref().map(Engine::as_fd)].into_iter().flatten().collect()
    }

    fn ready(&mut self, rings: &mut [Option<Ring>], source: usize) -> Result<(), Fault> {
        if source == LIMITS {
            self.limits.ring();
            return Ok(());
        }
        let Some(Some(ring)) = rings.get_mut(0) else { return Ok(()) };
        self.answers(ring)
    }

    fn stop(&mut self) {
        if let Some(engine) = &mut self.engine {
            let waited = loop {
                match engine.wait() {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            if waited.is_err() {
                // What it still says would be taken for the answers of others.
                self.give_up();
            }
        }
        self.pending.fill_with(|| None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_not_asked_for_twice() {
        let error = |code: i32| settle(Err(io::Error::from_raw_os_error(code)), 0);
        assert!(matches!(settle(Ok(4096), 4096), Settled::Done));
        assert!(matches!(settle(Ok(100), 4096), Settled::Again));
        assert!(matches!(error(libc::ECANCELED), Settled::Again));
        assert!(matches!(error(libc::EIO), Settled::Failed(error) if error.raw_os_error() == Some(libc::EIO)));
    }
}
