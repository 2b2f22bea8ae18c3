//! The requests of a disk's driver (virtio 1.2, section 5.2.6).

use super::image::Image;
use super::{MOST_RANGE_SECTORS, MOST_RANGES, SECTOR};
use crate::devices::pci::freeze::Fault;
use crate::devices::virtio::limits::Limits;
use crate::devices::virtio::ring::{Chain, Ring, Segment};
use crate::devices::virtio::worker::{Served, Service};
use frame::device::{DiskSpec, LONGEST_SERIAL};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Requests that are done before the thread looks for other orders.
const BATCH: usize = 64;
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

/// The service of one disk.
#[derive(Debug)]
pub struct Requests {
    image: Image,
    serial: [u8; LONGEST_SERIAL],
    limits: Limits,
}

impl Requests {
    /// The service of `image`.
    ///
    /// # Errors
    /// When there can be no timer.
    pub fn new(image: Image, spec: &DiskSpec) -> io::Result<Self> {
        let mut serial = [0; LONGEST_SERIAL];
        serial.iter_mut().zip(spec.serial.bytes()).for_each(|(to, from)| *to = from);
        Ok(Self { image, serial, limits: Limits::new(spec.operations, spec.bandwidth)? })
    }

    /// Does one request; gives the bytes that were written to the guest's memory, with the status.
    fn request(&mut self, ring: &Ring, chain: &Chain) -> Result<u32, Fault> {
        let malformed = |why: &str| Fault::Chain { queue: ring.index(), head: chain.head, why: why.into() };
        let mut header = [0; HEADER as usize];
        if ring.read(&chain.readable, 0, &mut header)? < header.len() {
            return Err(malformed("a request without a whole header"));
        }
        let Some(room) = chain.writable_bytes().checked_sub(1) else {
            return Err(malformed("a request without room for its status"));
        };
        let word =
            |at: usize| header.iter().skip(at).take(4).rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
        let data = chain.readable_bytes() - HEADER;
        let (status, written) = match word(0) {
            IN => self.transfer(ring, &chain.writable, 0, room, sector, false)?,
            OUT => self.transfer(ring, &chain.readable, HEADER, data, sector, true)?,
            FLUSH => {
                self.image.flush().map_err(|error| backend("flush", &error))?;
                (Status::Ok, 0)
            }
            GET_ID => {
                let id = self.serial.get(..room.min(LONGEST_SERIAL as u64) as usize).unwrap_or_default();
                (Status::Ok, ring.write(&chain.writable, 0, id)? as u64)
            }
            kind @ (DISCARD | WRITE_ZEROES) => (self.ranges(ring, chain, kind, data)?, 0),
            _ => (Status::Unsupported, 0),
        };
        self.limits.took(data.max(written));
        ring.write(&chain.writable, room, &[status as u8])?;
        // What lies between the data and the status was not written, but only its end can be told.
        Ok(u32::try_from(if written == room { room + 1 } else { written.max(1) }).unwrap_or(u32::MAX))
    }

    /// Reads or writes: whole sectors that are on the disk, else the request fails.
    fn transfer(
        &self,
        ring: &Ring,
        segments: &[Segment],
        offset: u64,
        bytes: u64,
        sector: u64,
        out: bool,
    ) -> Result<(Status, u64), Fault> {
        let position = sector.checked_mul(SECTOR).filter(|position| self.image.has(*position, bytes));
        let Some(position) = position.filter(|_| bytes.is_multiple_of(SECTOR)) else { return Ok((Status::Error, 0)) };
        if out && self.image.is_read_only() {
            return Ok((Status::Error, 0));
        }
        let slices = ring.slices(segments, offset, bytes)?;
        if out {
            self.image.write(&slices, position).map_err(|error| backend("write", &error))?;
            return Ok((Status::Ok, 0));
        }
        self.image.read(&slices, position).map_err(|error| backend("read", &error))?;
        Ok((Status::Ok, bytes))
    }

    /// Discards ranges or makes them zeros (section 5.2.6.2: all are checked before one is touched).
    fn ranges(&self, ring: &Ring, chain: &Chain, kind: u32, data: u64) -> Result<Status, Fault> {
        if self.image.is_read_only() {
            return Ok(Status::Error);
        }
        if data == 0 || !data.is_multiple_of(RANGE) || data > RANGE * MOST_RANGES as u64 {
            return Ok(Status::Error);
        }
        let mut bytes = vec![0; data as usize];
        ring.read(&chain.readable, HEADER, &mut bytes)?;
        let mut ranges = Vec::with_capacity(MOST_RANGES);
        for range in bytes.chunks_exact(RANGE as usize) {
            let number = range.iter().rev().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
            let (sector, count, flags) = (number as u64, (number >> 64) as u32, (number >> 96) as u32);
            let known = if kind == DISCARD { 0 } else { UNMAP };
            if flags & !known != 0 {
                return Ok(Status::Unsupported);
            }
            let bytes = u64::from(count) * SECTOR;
            let position = sector.checked_mul(SECTOR).filter(|position| self.image.has(*position, bytes));
            let Some(position) = position.filter(|_| count <= MOST_RANGE_SECTORS) else { return Ok(Status::Error) };
            if bytes > 0 {
                ranges.push((position, bytes, flags & UNMAP != 0));
            }
        }
        for (position, bytes, unmap) in ranges {
            if kind == WRITE_ZEROES {
                self.image.zero(position, bytes, unmap).map_err(|error| backend("write zeros", &error))?;
            } else if !self.image.discard(position, bytes).map_err(|error| backend("discard", &error))? {
                return Ok(Status::Unsupported);
            }
        }
        Ok(Status::Ok)
    }
}

fn backend(what: &str, error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Gone(format!("{what}: the image ended: {error}")),
        _ => Fault::Backend(format!("{what}: {error}")),
    }
}

impl Service for Requests {
    fn serve(&mut self, rings: &mut [Option<Ring>], queue: usize) -> Result<Served, Fault> {
        let Some(Some(ring)) = rings.get_mut(queue) else { return Ok(Served::All) };
        let mut served = Served::All;
        for _ in 0..BATCH {
            if self.limits.must_wait().map_err(|error| backend("the timer of its limits", &error))? {
                served = Served::Waits;
                break;
            }
            let Some(chain) = ring.take()? else { break };
            let written = self.request(ring, &chain)?;
            ring.complete(chain.head, written)?;
            // Nobody waits for the requests of others.
            ring.notify()?;
        }
        Ok(served)
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.limits.as_fd()]
    }

    fn ready(&mut self, _: &mut [Option<Ring>], _: usize) -> Result<(), Fault> {
        self.limits.ring();
        Ok(())
    }
}
