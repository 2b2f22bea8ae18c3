//! The guest platform: where a partition's fixed devices are, as guest and monitor both see them.
//!
//! Addresses that have a customary place on a PC keep it. The ACPI fixed hardware follows ACPI 6.5,
//! section 4.8; the rest is described to guests by the tables that the partition builds.

/// Guest-physical base of the first I/O APIC.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Guest-physical base of the local APIC.
pub const LAPIC_BASE: u64 = 0xfee0_0000;
/// First guest-physical address of the 32-bit hole that holds devices; memory above it continues at 4 GiB.
pub const HOLE_START: u64 = 0xc000_0000;
/// First guest-physical address above the 32-bit hole.
pub const HOLE_END: u64 = 0x1_0000_0000;
/// Where the base addresses of PCI functions lie.
pub const PCI_APERTURE: u64 = 0xd000_0000;
/// Bytes of [`PCI_APERTURE`].
pub const PCI_APERTURE_BYTES: u64 = 0x1000_0000;
/// The enhanced configuration area of PCI bus 0, 1 MiB (PCI Express Base Specification, section 7.2.2).
pub const ECAM_BASE: u64 = 0xe000_0000;
/// Slots of PCI bus 0; the host bridge has slot 0.
pub const PCI_SLOTS: u8 = 32;
/// First global system interrupt of the INTx pins of PCI functions; that of slot n is n modulo
/// [`PCI_PINS`] further.
pub const PCI_GSI: u32 = 16;
/// Global system interrupts that PCI functions share.
pub const PCI_PINS: u32 = 8;
/// Three pages that KVM needs on Intel for its real-mode task state (KVM API, section 4.13).
pub const TSS_ADDRESS: u64 = 0xfffb_d000;
/// The page that KVM needs for its identity map on Intel (KVM API, section 4.39).
pub const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// Global system interrupt of the 8254's counter 0: that of its ISA interrupt, since the MADT overrides nothing.
pub const PIT_GSI: u32 = 0;

/// Global system interrupt of the real-time clock.
pub const RTC_GSI: u32 = 8;

/// First port of the 16550 UART that is the partition's console.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Global system interrupt of the console UART.
pub const SERIAL_GSI: u32 = 4;

/// ACPI PM1a event block: status at +0, enable at +2, 16 bits each (ACPI 6.5, section 4.8.3.1).
pub const PM1A_EVENT_PORT: u16 = 0x600;
/// ACPI PM1a control block, 16 bits (ACPI 6.5, section 4.8.3.2).
pub const PM1A_CONTROL_PORT: u16 = 0x604;
/// ACPI power management timer, 32 bits, where there is one (ACPI 6.5, section 4.8.3.3).
pub const PM_TIMER_PORT: u16 = 0x608;
/// `SLP_TYP` value that the `\_S5` object names: soft off.
pub const SLEEP_TYPE_S5: u16 = 5;
/// Power button bit in the PM1 status and enable registers.
pub const PM1_POWER_BUTTON: u16 = 1 << 8;
/// Global system interrupt of the ACPI system control interrupt (level, active high).
pub const SCI_GSI: u32 = 9;
/// ACPI reset register.
pub const RESET_PORT: u16 = 0xcf9;
/// Value that resets when it is written to [`RESET_PORT`].
pub const RESET_VALUE: u8 = 0x06;
/// The keyboard controller's command port; writing [`KEYBOARD_RESET`] pulses the reset line.
pub const KEYBOARD_COMMAND_PORT: u16 = 0x64;
/// Keyboard controller command that pulses the reset line.
pub const KEYBOARD_RESET: u8 = 0xfe;

/// The exit device, only where it is asked for: a write of 1, 2 or 4 bytes ends the partition in order, and what
/// was written is its exit status.
///
/// The port is that of QEMU's `isa-debug-exit`, which ends with the value shifted: `value << 1 | 1`, of which a
/// shell sees the low eight bits. Here the status is the value as it was written, all of its 32 bits.
pub const EXIT_PORT: u16 = 0xf4;

/// The panic device: how a guest's kernel says that it panicked (QEMU, docs/specs/pvpanic.rst). A read gives the events
/// that are listened to, a write tells one.
pub const PANIC_PORT: u16 = 0x505;
/// Event: the guest's kernel panicked, and has nothing that takes over.
pub const PANIC_PANICKED: u8 = 1;

/// Communication channel: how the frame asks a partition for something, and how it answers.
///
/// Eight ports: a 32-bit signature at +0 (read), the pending request at +4 (read, 8 bits), the answer at
/// +5 (write, 8 bits). A guest that writes [`CHANNEL_PRESENT`] says that it listens. The idea is that of
/// a static partitioning hypervisor's communication region: the guest may approve, deny, or not be there.
pub const CHANNEL_PORT: u16 = 0x620;
/// What a read of the 32-bit signature gives: `BLKH` in memory order.
pub const CHANNEL_SIGNATURE: u32 = u32::from_le_bytes(*b"BLKH");
/// Offset of the request register.
pub const CHANNEL_REQUEST: u16 = 4;
/// Offset of the answer register.
pub const CHANNEL_ANSWER: u16 = 5;
/// Request: nothing is asked.
pub const CHANNEL_NOTHING: u8 = 0;
/// Request: please shut down.
pub const CHANNEL_SHUTDOWN: u8 = 1;
/// Answer: the guest listens to the channel.
pub const CHANNEL_PRESENT: u8 = 1;
/// Answer: the guest agrees and acts.
pub const CHANNEL_APPROVE: u8 = 2;
/// Answer: the guest objects.
pub const CHANNEL_DENY: u8 = 3;

/// Port that swallows every write: the target of exit measurements (POST codes on a PC).
pub const POST_PORT: u16 = 0x80;

/// Guest-physical address of the page that the diagnostics payload publishes its figures on.
pub const PROBE_ADDRESS: u64 = 0x8000;
/// What the probe page starts with: `BLKHPROB` in memory order.
pub const PROBE_MAGIC: u64 = u64::from_le_bytes(*b"BLKHPROB");
/// Byte offset on the probe page: beats of the boot processor since start, u64.
pub const PROBE_BEATS: u64 = 8;
/// Byte offset on the probe page: largest gap between two beats, nanoseconds, u64.
pub const PROBE_LARGEST_GAP: u64 = 16;
/// Byte offset on the probe page: time stamp counter at the last entry of a device interrupt, u64.
pub const PROBE_INTERRUPT_TSC: u64 = 24;
/// Byte offset on the probe page: time stamp counter frequency in kHz, u64.
pub const PROBE_TSC_KHZ: u64 = 32;
/// Byte offset on the probe page: processors that run, u64.
pub const PROBE_PROCESSORS: u64 = 40;
/// Byte offset on the probe page: 256 counters, interrupts taken by vector, u64 each.
pub const PROBE_INTERRUPTS: u64 = 0x400;
/// Vector that the payload gives to I/O APIC pin `gsi`: `PROBE_PIN_VECTOR + gsi`.
pub const PROBE_PIN_VECTOR: u8 = 0x40;
/// Vector that the payload gives to the PCI function in slot `n`: `PROBE_SLOT_VECTOR + n`.
pub const PROBE_SLOT_VECTOR: u8 = 0x70;
