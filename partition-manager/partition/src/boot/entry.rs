//! The state of the boot processor at its first instruction.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

const PROTECTED: u64 = 1;
const EXTENSION_TYPE: u64 = 1 << 4;
const PAGING: u64 = 1 << 31;
const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const LONG_ENABLED_ACTIVE: u64 = 1 << 8 | 1 << 10;
/// The only bit of RFLAGS that is always set.
const RESERVED_FLAG: u64 = 2;

const EXECUTE_READ_ACCESSED: u8 = 0xb;
const READ_WRITE_ACCESSED: u8 = 0x3;
const BUSY_TASK: u8 = 0xb;
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

/// How the boot processor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// PVH and multiboot: 32-bit protected mode, flat segments, no paging, EBX at the information.
    Protected {
        /// The first instruction.
        address: u32,
        /// `hvm_start_info`, or what multiboot hands over.
        information: u32,
        /// What EAX holds.
        magic: u32,
    },
    /// Linux's 64-bit protocol: long mode, one-to-one page tables, RSI at the zero page.
    Long {
        /// The first instruction.
        address: u64,
        /// The zero page.
        parameters: u64,
        /// The top page table.
        tables: u64,
        /// The descriptor table.
        descriptors: u64,
    },
}

impl Entry {
    /// The general registers; `sregs`, which come as after a reset, are changed to go with them.
    #[must_use]
    pub fn registers(&self, sregs: &mut kvm_sregs) -> kvm_regs {
        let long = matches!(self, Self::Long { .. });
        let data = kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector: DATA_SELECTOR,
            type_: READ_WRITE_ACCESSED,
            present: 1,
            dpl: 0,
            db: 1,
            s: 1,
            l: 0,
            g: 1,
            avl: 0,
            unusable: 0,
            padding: 0,
        };
        sregs.cs = kvm_segment {
            selector: CODE_SELECTOR,
            type_: EXECUTE_READ_ACCESSED,
            db: u8::from(!long),
            l: u8::from(long),
            ..data
        };
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.tr = kvm_segment { selector: TASK_SELECTOR, type_: BUSY_TASK, limit: 0x67, db: 0, s: 0, g: 0, ..data };
        sregs.cr0 = PROTECTED | EXTENSION_TYPE;
        sregs.idt.limit = 0;
        match *self {
            Self::Protected { address, information, magic } => kvm_regs {
                rip: address.into(),
                rax: magic.into(),
                rbx: information.into(),
                rflags: RESERVED_FLAG,
                ..Default::default()
            },
            Self::Long { address, parameters, tables, descriptors } => {
                sregs.cr0 |= PAGING;
                sregs.cr3 = tables;
                sregs.cr4 |= PHYSICAL_ADDRESS_EXTENSION;
                sregs.efer |= LONG_ENABLED_ACTIVE;
                sregs.gdt.base = descriptors;
                sregs.gdt.limit = Self::descriptor_table().len() as u16 - 1;
                kvm_regs { rip: address, rsi: parameters, rflags: RESERVED_FLAG, ..Default::default() }
            }
        }
    }

    /// The descriptor table of the 64-bit entry, with the selectors that Linux asks for: 64-bit code at
    /// 0x10, data at 0x18.
    #[must_use]
    pub fn descriptor_table() -> Vec<u8> {
        const CODE_64: u64 = 0x00af_9b00_0000_ffff;
        const DATA: u64 = 0x00cf_9300_0000_ffff;
        const TASK: u64 = 0x0000_8b00_0000_0067;
        [0, 0, CODE_64, DATA, TASK, 0].iter().flat_map(|entry: &u64| entry.to_le_bytes()).collect()
    }
}
