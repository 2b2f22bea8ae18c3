//! The diagnostics payload: a freestanding guest that beats, answers commands and misbehaves when asked.
//!
//! It starts wherever a PVH kernel starts (Xen's `hvm_start_info` boot protocol), in a partition or in any
//! other virtual machine monitor. Ring 0 is [`ring0`]'s few hundred instructions of assembly; everything
//! else runs in ring 3 with I/O privilege, because some hosts run ring 3 at full speed and interpret ring 0.
#![no_std]
#![no_main]

mod acpi;
mod actions;
mod apic;
mod clock;
mod command;
mod console;
mod devices;
mod digits;
mod histogram;
mod memory;
mod network;
mod options;
mod pci;
#[allow(dead_code, reason = "the monitor's half of the shared constants")]
#[path = "../../frame/src/platform.rs"]
mod platform;
mod probe;
mod processors;
mod ring0;
mod start;
mod state;
mod terminal;
mod virtio;
mod vsock;
mod watchdog;

use core::sync::atomic::Ordering::{Acquire, Relaxed};

use acpi::Tables;
use console::Line;
use state::State;

/// First code in ring 3, on the boot processor, interrupts off; `start` is the address of `hvm_start_info`.
#[unsafe(no_mangle)]
extern "C" fn boot_main(start: u64) -> ! {
    // The banner first: everything that can wait comes after it.
    let start = start::read(start);
    let options = options::parse(start.command_line());
    let tables = Tables::find(start.rsdp);
    console::set_name(options.name());
    let count = tables.processors().len().max(1) as u64;
    console::say(
        Line::named()
            .text(": diagnostics, ")
            .number(count)
            .text(if count == 1 { " processor, " } else { " processors, " })
            .number(start.memory_mib())
            .text(" MiB"),
    );

    let mut state = State::new(start, options, tables);
    state.prepare();
    let run = state.options.run;
    if let Some(command) = run {
        actions::perform(&mut state, command);
        if !state.spinning {
            acpi::power_off();
        }
    }
    serve(&mut state)
}

/// Answers the console, the power button and the communication channel, for ever.
fn serve(state: &mut State) -> ! {
    let record = processors::record(0);
    loop {
        let seen = record.events.load(Acquire);
        if state.attend() {
            continue;
        }
        if state.spinning {
            while record.events.load(Relaxed) == seen {
                core::hint::spin_loop();
            }
        } else {
            ring0::wait(&record.events, seen);
        }
    }
}

/// Where ring 0 sends a processor after an exception that is not a service call.
#[unsafe(no_mangle)]
extern "C" fn on_fault() -> ! {
    let [vector, error, address, fault] = ring0::fault();
    console::say(
        Line::named()
            .text(": exception ")
            .number(vector)
            .text(" error ")
            .hex(error)
            .text(" rip ")
            .hex(address)
            .text(" cr2 ")
            .hex(fault),
    );
    ring0::triple_fault()
}

/// Where ring 0 sends the processor that takes an NMI while the payload hangs.
#[unsafe(no_mangle)]
extern "C" fn on_nmi() -> ! {
    console::say(Line::named().text(": NMI"));
    acpi::power_off()
}

/// A failed check in the payload itself: said, then visible from outside as a triple fault.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    console::say(Line::named().text(": a check in the payload failed"));
    ring0::triple_fault()
}
