//! The last registers of a virtual processor, read from the `kvm_run` that its descriptor maps.
//!
//! KVM copies the registers there at every exit once a monitor asked for it (KVM API, section 6.74,
//! `KVM_CAP_SYNC_REGS`). The mapping outlives the monitor's process. The monitor may write to it too, so it
//! is untrusted: read field by field, and never interpreted.

use frame::record::Registers;
use kvm_bindings::{KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_regs, kvm_run, kvm_segment, kvm_sregs};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

/// What is mapped, bytes: the structure fits on the first page of what a descriptor can map.
const LENGTH: usize = 4096;
const _: () = assert!(size_of::<kvm_run>() <= LENGTH);

/// A virtual processor's descriptor, mapped.
#[derive(Debug)]
pub struct Processor {
    page: NonNull<u8>,
    // The mapping holds the virtual processor by itself; the descriptor goes to nobody else.
    _descriptor: OwnedFd,
}

// SAFETY: the page belongs to this value alone and is only read; where from does not matter.
unsafe impl Send for Processor {}

impl Processor {
    /// Maps the `kvm_run` of a descriptor that a partition sent.
    ///
    /// # Errors
    /// `InvalidInput` when it is not the descriptor of a virtual processor; else the error of `mmap(2)`.
    pub fn map(descriptor: OwnedFd) -> io::Result<Self> {
        // Any other file could be cut under the mapping, and reading it would then end this process.
        let link = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))?;
        if !link.to_string_lossy().starts_with("anon_inode:kvm-vcpu:") {
            let text = format!("the partition sent {} in place of a virtual processor", link.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that cannot shrink.
        let page = unsafe { mmap(std::ptr::null_mut(), LENGTH, ProtFlags::READ, MapFlags::SHARED, &descriptor, 0)? };
        let page = NonNull::new(page.cast()).ok_or_else(|| io::Error::other("a mapping at address zero"))?;
        Ok(Self { page, _descriptor: descriptor })
    }

    /// The registers at the last exit; none when they were never copied.
    #[must_use]
    pub fn registers(&self) -> Option<Registers> {
        // Copied in one go, since the guest may still run; what is then in it is anybody's.
        let mut copy = [0u8; LENGTH];
        for (at, byte) in copy.iter_mut().enumerate() {
            // SAFETY: `at` is within the page, which is mapped as long as `self` lives. Volatile, since
            // others write to it.
            *byte = unsafe { std::ptr::read_volatile(self.page.as_ptr().wrapping_add(at)) };
        }
        parse(&copy)
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more. Failing leaves it mapped, which harms nobody.
        let _ = unsafe { munmap(self.page.as_ptr().cast(), LENGTH) };
    }
}

/// Reads the registers out of a copy of `kvm_run`.
fn parse(run: &[u8; LENGTH]) -> Option<Registers> {
    let at = |offset: usize, length: usize| run.get(offset..offset + length).unwrap_or_default();
    let number = |offset: usize| at(offset, 8).try_into().map_or(0, u64::from_le_bytes);
    let short = |offset: usize| at(offset, 2).try_into().map_or(0, u16::from_le_bytes);
    let wanted = u64::from(KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS);
    if number(offset_of!(kvm_run, kvm_valid_regs)) & wanted != wanted {
        return None;
    }
    // `kvm_sync_regs` begins with the two structures in this order.
    let regs = offset_of!(kvm_run, s);
    let sregs = regs + size_of::<kvm_regs>();
    macro_rules! general {
        ($($name:ident)*) => { ($(number(regs + offset_of!(kvm_regs, $name)),)*) };
    }
    macro_rules! system {
        ($name:ident) => {
            number(sregs + offset_of!(kvm_sregs, $name))
        };
    }
    let (rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags) =
        general!(rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags);
    if rip == 0 && rflags == 0 {
        // Bit 1 of RFLAGS is always set (Intel SDM, volume 1, section 3.4.3): nothing was copied yet.
        return None;
    }
    let selector = |segment: usize| u64::from(short(sregs + segment + offset_of!(kvm_segment, selector)));
    Some(Registers {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
        cr0: system!(cr0),
        cr2: system!(cr2),
        cr3: system!(cr3),
        cr4: system!(cr4),
        efer: system!(efer),
        cs: selector(offset_of!(kvm_sregs, cs)),
        ss: selector(offset_of!(kvm_sregs, ss)),
        // The base is the first field of a descriptor table register.
        gdt: system!(gdt),
        idt: system!(idt),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_found() {
        let mut run = [0; LENGTH];
        let mut put = |offset: usize, value: u64| run[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        let regs = offset_of!(kvm_run, s);
        let sregs = regs + size_of::<kvm_regs>();
        put(regs + offset_of!(kvm_regs, rip), 0x1234);
        put(regs + offset_of!(kvm_regs, rflags), 2);
        put(sregs + offset_of!(kvm_sregs, cr3), 0x5000);
        put(sregs + offset_of!(kvm_sregs, cs) + offset_of!(kvm_segment, selector), 0x10);
        assert_eq!(parse(&run), None);
        let valid = offset_of!(kvm_run, kvm_valid_regs);
        run[valid..valid + 8].copy_from_slice(&3u64.to_le_bytes());
        let found = parse(&run).unwrap();
        assert_eq!((found.rip, found.rflags, found.cr3, found.cs), (0x1234, 2, 0x5000, 0x10));
    }

    #[test]
    fn only_virtual_processors_are_mapped() {
        let file = std::fs::File::open("/dev/zero").unwrap();
        let error = Processor::map(file.into()).unwrap_err();
        assert!(error.to_string().contains("/dev/zero"), "{error}");
    }

    proptest! {
        #[test]
        fn any_page_can_be_read(seed in any::<[u8; 32]>()) {
            let mut run = [0; LENGTH];
            for (at, byte) in run.iter_mut().enumerate() {
                *byte = seed[at % 32].wrapping_mul((at / 32) as u8 | 1);
            }
            parse(&run);
        }
    }
}
