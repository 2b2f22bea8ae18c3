//! Where an image comes from: a file or a piece of this program.

use super::BootError;
use crate::memory::Memory;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use vm_memory::{Bytes, GuestAddress};

/// Bytes that are copied at once.
const PIECE: u64 = 128 << 10;

/// An image. Reads say where they read, since others may hold the same open file.
#[derive(Debug)]
pub struct Source<'data> {
    image: &'static str,
    data: Data<'data>,
    length: u64,
}

#[derive(Debug)]
enum Data<'data> {
    File(&'data File),
    Bytes(&'data [u8]),
}

impl<'data> Source<'data> {
    /// An open file; `image` names it in errors.
    ///
    /// # Errors
    /// When its length cannot be had.
    pub fn file(image: &'static str, file: &'data File) -> Result<Self, BootError> {
        let stat = file.metadata().map_err(|source| BootError::Read { image, source })?;
        Ok(Self { image, data: Data::File(file), length: stat.len() })
    }

    /// Bytes of this program.
    #[must_use]
    pub const fn bytes(image: &'static str, bytes: &'data [u8]) -> Self {
        Self { image, data: Data::Bytes(bytes), length: bytes.len() as u64 }
    }

    /// Its length, bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Checks that `bytes` from `offset` on are there; `what` they are is for people.
    ///
    /// # Errors
    /// [`BootError::Short`].
    pub fn check(&self, what: &str, offset: u64, bytes: u64) -> Result<(), BootError> {
        let needs = offset.saturating_add(bytes);
        if needs <= self.length {
            return Ok(());
        }
        Err(BootError::Short { image: self.image, has: self.length, what: what.to_owned(), needs })
    }

    /// Reads `into` from `offset` on.
    ///
    /// # Errors
    /// [`BootError::Short`] and [`BootError::Read`].
    pub fn read(&self, what: &str, offset: u64, into: &mut [u8]) -> Result<(), BootError> {
        self.check(what, offset, into.len() as u64)?;
        let result = match self.data {
            Data::File(file) => file.read_exact_at(into, offset),
            Data::Bytes(bytes) => {
                let from = usize::try_from(offset).ok().and_then(|at| bytes.get(at..at.checked_add(into.len())?));
                from.map(|from| into.copy_from_slice(from)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        };
        result.map_err(|source| BootError::Read { image: self.image, source })
    }

    /// Copies `bytes` from `offset` on to guest-physical `address`, piece by piece.
    ///
    /// # Errors
    /// As [`Source::read`], and [`BootError::Write`].
    pub fn copy(&self, what: &str, offset: u64, bytes: u64, memory: &Memory, address: u64) -> Result<(), BootError> {
        self.check(what, offset, bytes)?;
        let mut buffer = vec![0; bytes.min(PIECE) as usize];
        let mut done = 0;
        while done < bytes {
            let length = (bytes - done).min(PIECE) as usize;
            let piece = buffer.get_mut(..length).unwrap_or_default();
            self.read(what, offset + done, piece)?;
            let to = address.saturating_add(done);
            memory.guest.write_slice(piece, GuestAddress(to)).map_err(|_| BootError::Write(to))?;
            done += length as u64;
        }
        Ok(())
    }
}

/// A little-endian number of at most eight bytes at `at`; 0 where there is none.
pub fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let field = bytes.get(at..).and_then(|rest| rest.get(..length)).unwrap_or_default();
    field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
