//! Frames of any number of partitions for a machine.

use anyhow::Result;
use frame::declare::{
    Boot, Frame, IoProcessors, Memory, Partition, Pool, ProcessorMode, Processors, Range, Sharing, Shutdown,
    WhenInactive,
};
use frame::inventory::Inventory;
use frame::name::Name;
use frame::units::{MIB, Units};

/// Allocation granule, bytes.
const BLOCK: u64 = 2 * MIB;
/// Most dedicated CPUs that one partition desires.
const WIDEST: u32 = 8;

/// How scarce processors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// Everybody gets what he desires.
    Plenty,
    /// Minimums fit, desires do not.
    Scarce,
}

/// A frame of `count` partitions for `machine`: a third of its CPUs dedicated, as far as there are partitions for
/// them, the rest in four pools that the others share. Sizes and priorities differ, the same way each time.
///
/// # Errors
/// When a name is none.
pub fn frame(count: u32, machine: &Inventory, supply: Supply) -> Result<Frame> {
    let cpus = u32::try_from(machine.cpus.len())?;
    let reserved = cpus / 64;
    let pools = if cpus >= 32 { 4 } else { 1 };
    let in_pools = ((cpus - reserved) / 2).max(1) / pools * pools;
    let mut dedicated_cpus = (cpus - reserved).saturating_sub(in_pools) * 2 / 3;
    let memory: u64 = machine.nodes.iter().map(|node| node.available).sum();
    let share = (memory / 10 * 8 / u64::from(count.max(1)) / BLOCK).max(1);
    let shared = u64::from(count);
    // Thousandths for each shared partition, were all of them shared.
    let each = (u64::from(in_pools) * 1000 * 9 / 10 / shared.max(1)).clamp(1, 900);
    let each = u32::try_from(each)?;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |most: u32| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        u32::try_from(random % u64::from(most.max(1))).unwrap_or(0)
    };
    let mut partitions = vec![];
    for at in 0..count {
        let wide = 1 + next(WIDEST);
        // Whole cores: an odd count costs one more.
        let cost = wide.next_multiple_of(2);
        let (mode, processors) = if at % 2 == 0 && cost <= dedicated_cpus {
            dedicated_cpus -= cost;
            let desired = if supply == Supply::Plenty { wide } else { wide * 8 };
            let count = Range { minimum: wide.min(2), desired, maximum: desired };
            (ProcessorMode::Dedicated { io: IoProcessors::Own }, count)
        } else {
            let units = |thousandths| Units::from_thousandths(thousandths);
            let desired = if supply == Supply::Plenty { each } else { (each * 4).min(1000) };
            let mode = ProcessorMode::Shared {
                pool: Name::new(format!("pool{}", at % pools))?,
                units: Range { minimum: units(each.div_ceil(2)), desired: units(desired), maximum: units(1000) },
                sharing: Sharing::Uncapped { weight: 128 },
            };
            (mode, Range { minimum: 1, desired: 1, maximum: 1 })
        };
        let blocks = 1 + u64::from(next(u32::try_from(share.min(1 << 30))?));
        let size = Range { minimum: BLOCK, desired: blocks * BLOCK, maximum: blocks * BLOCK };
        partitions.push(Partition {
            name: Name::new(format!("p{at:05}"))?,
            id: at + 1,
            availability_priority: u8::try_from(next(256))?,
            processors: Processors { count: processors, mode },
            memory: Memory { size, base: BLOCK, pages: None },
            boot: Boot::Diagnostics { cmdline: String::new() },
            auto_start: true,
            when_inactive: WhenInactive::Hold,
            shutdown: Shutdown::default(),
            pit: None,
            exit_device: false,
            panic_device: false,
            watchdog: None,
            interrupts: frame::launch::InterruptMode::Kernel,
            interrupt_limit: frame::storm::Limit::default(),
            entropy: None,
            disks: vec![],
            networks: vec![],
            vsock: None,
            console: None,
        });
    }
    let pool = |at: u32| Ok(Pool { name: Name::new(format!("pool{at}"))?, cpus: in_pools / pools });
    Ok(Frame {
        name: Name::new("bench")?,
        cpus: None,
        memory_block: BLOCK,
        reserved_cpus: reserved,
        reserved_memory: memory / 100 / BLOCK * BLOCK,
        minimum_units: Units::from_thousandths(1),
        shared_host: false,
        pools: (0..pools).map(pool).collect::<Result<_>>()?,
        switches: vec![],
        partitions,
    })
}
