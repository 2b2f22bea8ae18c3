//! Entropy for the first moments of a Linux guest (kernel, Documentation/arch/x86/boot.rst, `setup_data`,
//! `SETUP_RNG_SEED`). Neither PVH nor multiboot has a place for it.

use super::{BootError, place, write};
use crate::memory::Memory;
use std::io;

/// Length of the seed, bytes: what the kernel's generator takes for fully seeded.
pub const LENGTH: usize = 32;
const RNG_SEED: u32 = 9;
/// `next`, `type` and `len` before the data.
const HEADER: usize = 16;

/// Leaves a `setup_data` with a seed that nobody else has at [`place::SETUP_DATA`]. The guest wipes it there; the
/// copies here are wiped before this returns.
pub fn leave(memory: &Memory) -> Result<(), BootError> {
    let mut data = [0; HEADER + LENGTH];
    let (header, seed) = data.split_at_mut(HEADER);
    for (to, from) in
        header.iter_mut().skip(8).zip(RNG_SEED.to_le_bytes().into_iter().chain((LENGTH as u32).to_le_bytes()))
    {
        *to = from;
    }
    fill(seed).map_err(BootError::Entropy)?;
    let result = write(memory, place::SETUP_DATA, &data);
    data.fill(0);
    // Or the compiler would leave out what nobody reads.
    std::hint::black_box(&data);
    result
}

/// Fills `bytes` from the kernel's generator, which is seeded long before partitions start.
fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the pointer and the length are those of a slice that is borrowed for the call.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => done += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}
