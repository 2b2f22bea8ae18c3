//! A local APIC in xAPIC mode (Intel SDM, volume 3, chapter 11). Pure: it knows no clock, time comes in
//! nanoseconds from whatever beginning.
//!
//! There is no SMI, no 8259 behind LINT0, no TSC deadline and no thermal or performance interrupt, whose local
//! vectors can be programmed and stay quiet.

mod bits;
mod timer;

use super::message::{Delivery, Interrupt};
use bits::Bits;
use serde::{Deserialize, Serialize};
use timer::Timer;

/// Bytes of its registers' page.
pub const BYTES: u64 = 0x1000;

/// Offsets of the registers (table 11-1).
const ID: u64 = 0x20;
const VERSION: u64 = 0x30;
const TASK_PRIORITY: u64 = 0x80;
const PROCESSOR_PRIORITY: u64 = 0xa0;
const END: u64 = 0xb0;
const LOGICAL: u64 = 0xd0;
const FORMAT: u64 = 0xe0;
const SPURIOUS: u64 = 0xf0;
const IN_SERVICE: u64 = 0x100;
const TRIGGER: u64 = 0x180;
const REQUEST: u64 = 0x200;
const ERROR_STATUS: u64 = 0x280;
const COMMAND: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const FIRST_LOCAL: u64 = 0x320;
const LAST_LOCAL: u64 = 0x370;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

/// Version 0x14, six local vectors, end of interrupt without broadcast (section 11.4.8).
const VERSION_VALUE: u32 = 0x14 | (LOCALS as u32 - 1) << 16 | 1 << 24;
/// Bits of the spurious vector register (section 11.9).
const ENABLED: u32 = 1 << 8;
const QUIET_END: u32 = 1 << 12;
/// Errors (section 11.5.3).
const SENT_ILLEGAL: u32 = 1 << 5;
const RECEIVED_ILLEGAL: u32 = 1 << 6;
const NO_REGISTER: u32 = 1 << 7;
/// Lowest vector that is one.
const FIRST_VECTOR: u8 = 16;

/// Local vectors, in the order of their registers.
const LOCALS: usize = 6;
const TIMER: usize = 0;
const LINT0: usize = 3;
const ERROR: usize = 5;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
/// Bits of each that a guest can set (figure 11-8).
const LOCAL_BITS: [u32; LOCALS] = [0x300ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff];

/// Whom an interrupt that a processor sends is for (section 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// Its destination.
    None,
    /// The sender.
    Oneself,
    /// Everybody.
    All,
    /// Everybody but the sender.
    Others,
}

/// What a write asks of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// I/O APICs are to hear that the level-triggered interrupt with this vector ended.
    Ended(u8),
    /// An interrupt is to be sent.
    Send(Interrupt, Shorthand),
}

/// What waits for the processor, beside interrupts with a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Signals {
    nmi: bool,
    init: bool,
    startup: Option<u8>,
}

/// The state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapic {
    id: u8,
    /// Whether `IA32_APIC_BASE` has it on.
    on: bool,
    task_priority: u8,
    logical: u8,
    format: u8,
    spurious: u32,
    request: Bits,
    service: Bits,
    trigger: Bits,
    errors: u32,
    error_status: u32,
    command: u32,
    destination: u8,
    locals: [u32; LOCALS],
    timer: Timer,
    signals: Signals,
}

impl Lapic {
    /// As after power on, with this identifier.
    #[must_use]
    pub fn new(id: u8) -> Self {
        Self {
            id,
            on: true,
            task_priority: 0,
            logical: 0,
            format: 0xf,
            spurious: 0xff,
            request: Bits::default(),
            service: Bits::default(),
            trigger: Bits::default(),
            errors: 0,
            error_status: 0,
            command: 0,
            destination: 0,
            locals: [MASKED; LOCALS],
            timer: Timer::default(),
            signals: Signals::default(),
        }
    }

    /// As firmware leaves it: LINT1 is the NMI's.
    #[must_use]
    pub fn with_nmi_on_lint1(mut self) -> Self {
        if let Some(lint1) = self.locals.get_mut(LINT0 + 1) {
            *lint1 = 4 << 8;
        }
        self
    }

    /// The identifier.
    #[must_use]
    pub const fn id(&self) -> u8 {
        self.id
    }

    /// As after INIT (section 11.4.7.3): like power on, and what waits is forgotten.
    pub fn reset(&mut self) {
        *self = Self::new(self.id);
    }

    /// Switched on or off by `IA32_APIC_BASE` (section 11.4.3): off, it takes nothing, and forgets what it was.
    pub fn switch(&mut self, on: bool) {
        if self.on != on {
            self.reset();
            self.on = on;
        }
    }

    fn is_enabled(&self) -> bool {
        self.on && self.spurious & ENABLED != 0
    }

    /// Whether a destination means this one (section 11.6.2).
    #[must_use]
    pub const fn is_meant(&self, destination: u8, logical: bool) -> bool {
        if destination == 0xff {
            return true;
        }
        if !logical {
            return destination == self.id;
        }
        match self.format {
            0xf => destination & self.logical != 0,
            0 => destination >> 4 == self.logical >> 4 && destination & self.logical & 0xf != 0,
            _ => false,
        }
    }

    /// Priority of what the processor does (section 11.8.3.1).
    #[must_use]
    pub fn processor_priority(&self) -> u8 {
        let service = self.service.highest().unwrap_or(0) & 0xf0;
        if self.task_priority & 0xf0 >= service { self.task_priority } else { service }
    }

    /// The task priority.
    #[must_use]
    pub const fn task_priority(&self) -> u8 {
        self.task_priority
    }

    /// Takes over CR8, which is the class of the task priority (section 11.8.6).
    pub const fn set_class(&mut self, class: u8) {
        if self.task_priority >> 4 != class & 0xf {
            self.task_priority = (class & 0xf) << 4;
        }
    }

    /// Whether an interrupt with lowest priority may come here.
    #[must_use]
    pub fn can_arbitrate(&self) -> bool {
        self.is_enabled()
    }

    /// Takes an interrupt that means this one. `false` when it changes nothing: it is pending already, or not
    /// taken at all.
    pub fn accept(&mut self, interrupt: Interrupt) -> bool {
        if !self.on {
            return false;
        }
        match interrupt.delivery {
            Delivery::Fixed | Delivery::LowestPriority => self.request(interrupt.vector, interrupt.level),
            Delivery::Nmi => !std::mem::replace(&mut self.signals.nmi, true),
            Delivery::Init => {
                // A start that came before belongs to the time before.
                self.signals.startup = None;
                !std::mem::replace(&mut self.signals.init, true)
            }
            Delivery::Startup => self.signals.startup.replace(interrupt.vector).is_none(),
        }
    }

    fn request(&mut self, vector: u8, level: bool) -> bool {
        if vector < FIRST_VECTOR {
            self.fail(RECEIVED_ILLEGAL);
            return false;
        }
        // While it is switched off by software it takes none (section 11.4.7.2).
        if !self.is_enabled() {
            return false;
        }
        self.trigger.set(vector, level);
        self.request.set(vector, true)
    }

    /// Notes an error, and interrupts if that is wanted. An error of the error's own vector is only noted.
    fn fail(&mut self, error: u32) {
        let before = self.errors;
        self.errors |= error;
        let local = self.local(ERROR);
        if before & error == 0 && local & MASKED == 0 && local as u8 >= FIRST_VECTOR {
            self.request(local as u8, false);
        }
    }

    fn local(&self, which: usize) -> u32 {
        self.locals.get(which).copied().unwrap_or(MASKED)
    }

    /// What comes by a local vector, if that is not masked (section 11.5.1).
    fn signal(&mut self, which: usize) {
        let local = self.local(which);
        if local & MASKED != 0 {
            return;
        }
        match Delivery::of(local >> 8) {
            Some(Delivery::Nmi) => self.signals.nmi = true,
            Some(Delivery::Init) => self.signals.init = true,
            Some(Delivery::Fixed) => drop(self.request(local as u8, false)),
            _ => {}
        }
    }

    /// An edge at LINT0 (`pin` 0) or LINT1.
    pub fn raise(&mut self, pin: u8) {
        self.signal(LINT0 + usize::from(pin & 1));
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: u64) {
        if self.timer.expire(now, self.local(TIMER) & PERIODIC != 0) {
            self.signal(TIMER);
        }
    }

    /// When the timer expires, if it runs and would be heard.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        if self.local(TIMER) & MASKED == 0 { self.timer.deadline() } else { None }
    }

    /// The vector that the processor is to be interrupted with: the highest that is requested, if its class is above
    /// the processor's priority (section 11.8.3).
    #[must_use]
    pub fn deliverable(&self) -> Option<u8> {
        self.request.highest().filter(|vector| vector >> 4 > self.processor_priority() >> 4)
    }

    /// The processor takes [`Lapic::deliverable`]: from now on it is in service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        self.request.set(vector, false);
        self.service.set(vector, true);
        Some(vector)
    }

    /// Whether INIT waits.
    #[must_use]
    pub const fn has_init(&self) -> bool {
        self.signals.init
    }

    /// Takes the NMI that waits.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.signals.nmi)
    }

    /// The processor takes INIT, if one waits: the local APIC is reset. A start that came after it is kept.
    pub fn take_init(&mut self) -> bool {
        let Signals { init, startup, .. } = self.signals;
        if init {
            self.reset();
            self.signals.startup = startup;
        }
        init
    }

    /// Takes the start that waits: the number of the page.
    pub fn take_startup(&mut self) -> Option<u8> {
        self.signals.startup.take()
    }

    /// Reads the register at `offset`, a multiple of 16.
    pub fn read(&mut self, offset: u64, now: u64) -> u32 {
        match offset {
            ID => u32::from(self.id) << 24,
            VERSION => VERSION_VALUE,
            TASK_PRIORITY => self.task_priority.into(),
            PROCESSOR_PRIORITY => self.processor_priority().into(),
            LOGICAL => u32::from(self.logical) << 24,
            FORMAT => u32::from(self.format) << 28 | 0x0fff_ffff,
            SPURIOUS => self.spurious,
            IN_SERVICE..TRIGGER => self.service.word(offset - IN_SERVICE),
            TRIGGER..REQUEST => self.trigger.word(offset - TRIGGER),
            REQUEST..ERROR_STATUS => self.request.word(offset - REQUEST),
            ERROR_STATUS => self.error_status,
            COMMAND => self.command,
            COMMAND_HIGH => u32::from(self.destination) << 24,
            FIRST_LOCAL..=LAST_LOCAL => self.local(index(offset)),
            INITIAL_COUNT => self.timer.initial(),
            CURRENT_COUNT => self.timer.current(now),
            DIVIDE => self.timer.divide(),
            END => 0,
            _ => {
                self.fail(NO_REGISTER);
                0
            }
        }
    }

    /// Writes the register at `offset`, a multiple of 16.
    pub fn write(&mut self, offset: u64, value: u32, now: u64) -> Effect {
        match offset {
            TASK_PRIORITY => self.task_priority = value as u8,
            END => return self.end(),
            LOGICAL => self.logical = (value >> 24) as u8,
            FORMAT => self.format = (value >> 28) as u8,
            SPURIOUS => self.set_spurious(value),
            ERROR_STATUS => self.error_status = std::mem::take(&mut self.errors),
            COMMAND => return self.send(value),
            COMMAND_HIGH => self.destination = (value >> 24) as u8,
            FIRST_LOCAL..=LAST_LOCAL => self.set_local(index(offset), value),
            INITIAL_COUNT => self.timer.start(value, now),
            DIVIDE => self.timer.set_divide(value, now),
            // Those that are read only, and the identifier, which firmware gave once.
            ID | VERSION | PROCESSOR_PRIORITY | CURRENT_COUNT | IN_SERVICE..ERROR_STATUS => {}
            _ => self.fail(NO_REGISTER),
        }
        Effect::None
    }

    fn set_spurious(&mut self, value: u32) {
        self.spurious = value & (0xff | ENABLED | QUIET_END);
        if !self.is_enabled() {
            // Switching it off masks the local vectors (section 11.4.7.2).
            self.locals.iter_mut().for_each(|local| *local |= MASKED);
        }
    }

    fn set_local(&mut self, which: usize, value: u32) {
        let off = if self.is_enabled() { 0 } else { MASKED };
        if let (Some(local), Some(bits)) = (self.locals.get_mut(which), LOCAL_BITS.get(which)) {
            *local = value & bits | off;
        }
    }

    /// The end of the interrupt in service with the highest priority (section 11.8.5).
    fn end(&mut self) -> Effect {
        let Some(vector) = self.service.highest() else { return Effect::None };
        self.service.set(vector, false);
        if self.trigger.get(vector) && self.spurious & QUIET_END == 0 { Effect::Ended(vector) } else { Effect::None }
    }

    /// The lower half of the interrupt command register sends (section 11.6.1).
    fn send(&mut self, value: u32) -> Effect {
        const ASSERT: u32 = 1 << 14;
        const LEVEL: u32 = 1 << 15;
        self.command = value & 0x000c_cfff;
        let Some(delivery) = Delivery::of(value >> 8) else { return Effect::None };
        if delivery == Delivery::Init && value & LEVEL != 0 && value & ASSERT == 0 {
            // INIT level de-assert: of no effect since arbitration identifiers are gone.
            return Effect::None;
        }
        if delivery.has_vector() && (value as u8) < FIRST_VECTOR {
            self.fail(SENT_ILLEGAL);
            return Effect::None;
        }
        let shorthand = match value >> 18 & 3 {
            0 => Shorthand::None,
            1 => Shorthand::Oneself,
            2 => Shorthand::All,
            _ => Shorthand::Others,
        };
        let logical = value & 1 << 11 != 0;
        let interrupt =
            Interrupt { vector: value as u8, delivery, level: false, destination: self.destination, logical };
        Effect::Send(interrupt, shorthand)
    }
}

/// Which local vector a register is.
const fn index(offset: u64) -> usize {
    ((offset - FIRST_LOCAL) >> 4) as usize
}

#[cfg(test)]
mod tests;
