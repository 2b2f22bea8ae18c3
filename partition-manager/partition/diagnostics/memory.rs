//! Guest memory by address, and the four functions that compiled code expects of a C library.

/// First address that the page tables do not map.
const MAPPED_END: u64 = 1 << 32;

/// Whether `length` bytes at `address` are mapped, and not at the null page's first byte.
const fn mapped(address: u64, length: u64) -> bool {
    address != 0 && address < MAPPED_END && length <= MAPPED_END - address
}

/// The byte at a guest-physical address; 0 where the tables map nothing.
pub fn byte(address: u64) -> u8 {
    if !mapped(address, 1) {
        return 0;
    }
    // SAFETY: mapped one to one and readable; another party may change it, hence volatile.
    unsafe { (address as *const u8).read_volatile() }
}

/// The little-endian 32-bit word at a guest-physical address, aligned or not.
pub fn word(address: u64) -> u32 {
    if !mapped(address, 4) {
        return 0;
    }
    // SAFETY: as in `byte`; any alignment is allowed.
    unsafe { (address as *const u32).read_unaligned() }
}

/// The little-endian 64-bit word at a guest-physical address, aligned or not.
pub fn long(address: u64) -> u64 {
    u64::from(word(address)) | u64::from(word(address.wrapping_add(4))) << 32
}

/// Reads a 32-bit device register with one access.
pub fn read_register(address: u64) -> u32 {
    // SAFETY: callers name device registers below 4 GiB, which are mapped.
    unsafe { (address as *const u32).read_volatile() }
}

/// Writes a 32-bit device register with one access.
pub fn write_register(address: u64, value: u32) {
    // SAFETY: callers name device registers below 4 GiB, or memory that no reference covers.
    unsafe { (address as *mut u32).write_volatile(value) };
}

/// Writes 16 bits with one access, to a device register or to memory that no reference covers.
pub fn write_half(address: u64, value: u16) {
    // SAFETY: callers name device registers below 4 GiB, or memory between payload and spare memory.
    unsafe { (address as *mut u16).write_volatile(value) };
}

/// Writes a byte with one access, where [`write_half`] may.
pub fn write_byte(address: u64, value: u8) {
    // SAFETY: as there.
    unsafe { (address as *mut u8).write_volatile(value) };
}

/// Copies code to a page that nothing else uses.
pub fn place(address: u64, bytes: &[u8]) {
    // SAFETY: callers name a page of low memory that no reference covers.
    unsafe { memcpy(address as *mut u8, bytes.as_ptr(), bytes.len()) };
}

/// Fills memory that no reference covers; the caller has looked it up in the memory map.
pub fn fill(address: u64, length: u64, value: u8) {
    // SAFETY: callers name memory beyond the payload.
    unsafe { memset(address as *mut u8, i32::from(value), length as usize) };
}

/// C's `memcpy`.
///
/// # Safety
/// As C: both ranges valid, not overlapping.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// C's `memmove`.
///
/// # Safety
/// As C: both ranges valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= length {
        // SAFETY: the caller's promise; going up, no byte is overwritten before it is read.
        return unsafe { memcpy(to, from, length) };
    }
    let (last_to, last_from) = (to.wrapping_add(length).wrapping_sub(1), from.wrapping_add(length).wrapping_sub(1));
    // SAFETY: the caller's promise; going down, no byte is overwritten before it is read. `length` is not 0
    // here, and the direction flag is put back.
    unsafe {
        core::arch::asm!("std", "rep movsb", "cld", inout("rcx") length => _, inout("rdi") last_to => _,
            inout("rsi") last_from => _, options(nostack));
    }
    to
}

/// C's `memset`.
///
/// # Safety
/// As C: the range is valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// C's `memcmp`.
///
/// # Safety
/// As C: both ranges valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    for offset in 0..length {
        // SAFETY: the caller's promise.
        let a = unsafe { left.wrapping_add(offset).read() };
        // SAFETY: the caller's promise.
        let b = unsafe { right.wrapping_add(offset).read() };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// What a compiler calls where only equality matters.
///
/// # Safety
/// As [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(left, right, length) }
}
