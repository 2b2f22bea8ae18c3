//! The floor that everything is measured against: the least program that runs the payload on KVM.
//!
//! `floor PAYLOAD MIB "COMMAND LINE" [MEMORY_FD [EVENT_FD GSI]]`: raw ioctls, no threads, one memfd (the
//! caller's, if given), one processor. The serial console goes to stdout; power off ends it with status 0,
//! anything else with status 1 and the reason on stderr. Figures compared with it are of the same payload.
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use frame::platform::{IDENTITY_MAP_ADDRESS, PM1A_CONTROL_PORT, SERIAL_PORT, TSS_ADDRESS};
use kvm_bindings::*;

// Request numbers from the kernel's include/uapi/linux/kvm.h.
const CREATE_VM: u64 = 0xae01;
const GET_VCPU_MMAP_SIZE: u64 = 0xae04;
const GET_SUPPORTED_CPUID: u64 = 0xc008_ae05;
const CREATE_VCPU: u64 = 0xae41;
const SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
const SET_TSS_ADDR: u64 = 0xae47;
const SET_IDENTITY_MAP_ADDR: u64 = 0x4008_ae48;
const CREATE_IRQCHIP: u64 = 0xae60;
const SET_GSI_ROUTING: u64 = 0x4008_ae6a;
const IRQFD: u64 = 0x4020_ae76;
const RUN: u64 = 0xae80;
const GET_REGS: u64 = 0x8090_ae81;
const SET_REGS: u64 = 0x4090_ae82;
const GET_SREGS: u64 = 0x8138_ae83;
const SET_SREGS: u64 = 0x4138_ae84;
const SET_CPUID2: u64 = 0x4008_ae90;
// Where the start info goes, and what it points to.
const START_INFO: u64 = 0x6000;
const MEMORY_MAP: u64 = 0x6100;
const COMMAND_LINE: u64 = 0x6200;

/// An ioctl whose argument is a plain number.
fn call(fd: &File, request: u64, argument: u64, what: &str) -> Result<i32> {
    // SAFETY: every caller passes a request that takes a number, or `pass` a pointer to what it takes.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument) };
    ensure!(answer >= 0, "{what}: {}", std::io::Error::last_os_error());
    Ok(answer)
}

/// An ioctl whose argument is a structure, which must be the one that the request names.
fn pass<T: ?Sized>(fd: &File, request: u64, argument: &mut T, what: &str) -> Result<i32> {
    call(fd, request, (&raw mut *argument).cast::<u8>() as u64, what)
}

fn own(fd: i32, what: &str) -> Result<File> {
    ensure!(fd >= 0, "{what}: {}", std::io::Error::last_os_error());
    // SAFETY: KVM, memfd_create or the caller has just given us this descriptor; nobody else here owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn map(fd: &File, size: usize) -> Result<*mut u8> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), size, 3, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
    ensure!(address != libc::MAP_FAILED, "mmap of {size} bytes: {}", std::io::Error::last_os_error());
    Ok(address.cast())
}

/// Puts the payload's segments into memory; returns where its PVH note says that it starts.
fn load(image: &[u8], memory: &File) -> Result<u64> {
    let slice = |at: u64, size: u64| image.get(at as usize..).and_then(|rest| rest.get(..size as usize));
    let read = |at: u64, size: u64| -> Result<u64> {
        let bytes = slice(at, size).context("the payload is cut short")?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    };
    ensure!(image.starts_with(b"\x7fELF\x02\x01"), "the payload is no 64-bit ELF file");
    let mut entry = None;
    for index in 0..read(56, 2)? {
        let header = read(32, 8)? + index * 56;
        let (offset, size) = (read(header + 8, 8)?, read(header + 32, 8)?);
        match read(header, 4)? {
            1 => {
                memory.write_all_at(slice(offset, size).context("the payload is cut short")?, read(header + 24, 8)?)?;
            }
            4 if read(offset + 8, 4)? == 18 => entry = Some(read(offset + 16, 8)?),
            _ => {}
        }
    }
    entry.context("the payload has no PVH note")
}

fn write_start(memory: &File, size: u64, line: &str) -> Result<()> {
    let info = [0x1_336e_c578, 0, 0, COMMAND_LINE, 0, MEMORY_MAP, 2];
    let ranges = [0, 0xa_0000, 1, 1 << 20, size - (1 << 20), 1];
    for (at, words) in [(START_INFO, info.as_slice()), (MEMORY_MAP, &ranges)] {
        memory.write_all_at(&words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect::<Vec<_>>(), at)?;
    }
    ensure!(line.len() < 512, "the command line is longer than 511 bytes");
    Ok(memory.write_all_at(&[line.as_bytes(), b"\0"].concat(), COMMAND_LINE)?)
}

/// The processor's features as KVM offers them, with the TSC deadline timer, which comes with the irqchip.
fn set_cpuid(kvm: &File, vcpu: &File) -> Result<()> {
    // A kvm_cpuid2 with 256 entries of 10 words behind its two words of header.
    let mut words = vec![0u32; 2 + 256 * 10];
    words[0] = 256;
    pass(kvm, GET_SUPPORTED_CPUID, words.as_mut_slice(), "KVM_GET_SUPPORTED_CPUID")?;
    if let Some(leaf) = words[2..].chunks_exact_mut(10).find(|leaf| leaf[0] == 1) {
        leaf[4] &= 0x00ff_ffff;
        leaf[5] |= 1 << 24;
    }
    pass(vcpu, SET_CPUID2, words.as_mut_slice(), "KVM_SET_CPUID2").map(drop)
}

/// The PVH entry state: 32-bit protected mode, flat segments, no paging, EBX at the start info.
fn set_registers(vcpu: &File, entry: u64) -> Result<()> {
    let mut sregs = kvm_sregs::default();
    pass(vcpu, GET_SREGS, &mut sregs, "KVM_GET_SREGS")?;
    let none = kvm_segment { type_: 11, present: 1, limit: 0x67, ..Default::default() };
    let data = kvm_segment { limit: u32::MAX, selector: 0x18, type_: 3, db: 1, s: 1, g: 1, ..none };
    sregs.cs = kvm_segment { selector: 8, type_: 11, ..data };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.tr, sregs.cr0) = (none, 0x11);
    pass(vcpu, SET_SREGS, &mut sregs, "KVM_SET_SREGS")?;
    let mut regs = kvm_regs { rip: entry, rbx: START_INFO, rflags: 2, ..Default::default() };
    pass(vcpu, SET_REGS, &mut regs, "KVM_SET_REGS").map(drop)
}

/// Runs until power off.
fn run(vcpu: &File, run: *mut u8, size: usize) -> Result<()> {
    let mut console = std::io::stdout();
    loop {
        call(vcpu, RUN, 0, "KVM_RUN")?;
        // SAFETY: the kernel mapped a kvm_run there, and leaves it alone until the next KVM_RUN.
        let state = unsafe { &mut *run.cast::<kvm_run>() };
        match state.exit_reason {
            KVM_EXIT_IO => {
                // SAFETY: this is the member of the union that goes with the exit reason.
                let io = unsafe { state.__bindgen_anon_1.io };
                let (at, length) = (io.data_offset as usize, usize::from(io.size) * io.count as usize);
                ensure!(at.checked_add(length).is_some_and(|end| end <= size), "KVM gave data outside of kvm_run");
                // SAFETY: inside the mapping, beyond the structure, and unused by the kernel until the next run.
                let data = unsafe { std::slice::from_raw_parts_mut(run.wrapping_add(at), length) };
                match (u32::from(io.direction), io.port) {
                    (KVM_EXIT_IO_OUT, SERIAL_PORT) => console.write_all(data).and_then(|()| console.flush())?,
                    (KVM_EXIT_IO_OUT, PM1A_CONTROL_PORT) => return Ok(()),
                    (KVM_EXIT_IO_OUT, _) => {}
                    (_, port) => data.fill(if port == SERIAL_PORT + 5 { 0x60 } else { 0xff }),
                }
            }
            KVM_EXIT_MMIO => state.__bindgen_anon_1.mmio.data = [0xff; 8],
            reason => {
                let mut regs = kvm_regs::default();
                pass(vcpu, GET_REGS, &mut regs, "KVM_GET_REGS")?;
                bail!("the guest stopped with exit reason {reason}: {regs:x?}");
            }
        }
    }
}

fn floor(arguments: &[String]) -> Result<()> {
    let [payload, mib, line, options @ ..] = arguments else {
        bail!("usage: floor PAYLOAD MIB \"COMMAND LINE\" [MEMORY_FD [EVENT_FD GSI]]");
    };
    let image = std::fs::read(payload).with_context(|| format!("cannot read the payload {payload}"))?;
    let mib: u64 = mib.parse().context("MIB is no number")?;
    ensure!((2..=3072).contains(&mib), "MIB is {mib}, and must be between 2 and 3072");
    let kvm = File::options().read(true).write(true).open("/dev/kvm").context("cannot open /dev/kvm")?;
    let vm = own(call(&kvm, CREATE_VM, 0, "KVM_CREATE_VM")?, "KVM_CREATE_VM")?;
    let memory = match options.first() {
        Some(fd) => own(fd.parse().context("MEMORY_FD is no number")?, "MEMORY_FD")?,
        // SAFETY: the name is a C string.
        None => own(unsafe { libc::memfd_create(c"memory".as_ptr(), libc::MFD_CLOEXEC) }, "memfd_create")?,
    };
    memory.set_len(mib << 20)?;
    let userspace_addr = map(&memory, (mib << 20) as usize)? as u64;
    let mut slot = kvm_userspace_memory_region { userspace_addr, memory_size: mib << 20, ..Default::default() };
    pass(&vm, SET_USER_MEMORY_REGION, &mut slot, "KVM_SET_USER_MEMORY_REGION")?;
    call(&vm, SET_TSS_ADDR, TSS_ADDRESS, "KVM_SET_TSS_ADDR")?;
    pass(&vm, SET_IDENTITY_MAP_ADDR, &mut { IDENTITY_MAP_ADDRESS }, "KVM_SET_IDENTITY_MAP_ADDR")?;
    call(&vm, CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP")?;
    // A kvm_irq_routing: two words, then an entry of 12 words for each pin of the I/O APIC (chip 2).
    let mut routing = vec![24, 0];
    (0..24).for_each(|pin| routing.extend([pin, 1, 0, 0, 2, pin, 0, 0, 0, 0, 0, 0]));
    pass(&vm, SET_GSI_ROUTING, routing.as_mut_slice(), "KVM_SET_GSI_ROUTING")?;
    if let [_, fd, gsi] = options {
        let mut irqfd = kvm_irqfd { fd: fd.parse()?, gsi: gsi.parse()?, ..Default::default() };
        pass(&vm, IRQFD, &mut irqfd, "KVM_IRQFD")?;
    }
    let vcpu = own(call(&vm, CREATE_VCPU, 0, "KVM_CREATE_VCPU")?, "KVM_CREATE_VCPU")?;
    set_cpuid(&kvm, &vcpu)?;
    let entry = load(&image, &memory)?;
    write_start(&memory, mib << 20, line)?;
    set_registers(&vcpu, entry)?;
    let size = call(&kvm, GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE")? as usize;
    run(&vcpu, map(&vcpu, size)?, size)
}

fn main() -> ExitCode {
    let result = floor(&std::env::args().skip(1).collect::<Vec<_>>());
    result.inspect_err(|error| eprintln!("floor: {error:#}")).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}
