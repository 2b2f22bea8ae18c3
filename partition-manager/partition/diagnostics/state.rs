//! What the boot processor keeps while it serves: input, requests, answers.

use crate::acpi::{self, Tables};
use crate::actions;
use crate::command::{self, Mistake};
use crate::console::{self, Input, Line, Received};
use crate::options::Options;
use crate::platform;
use crate::start::Start;
use crate::watchdog::Watchdog;
use crate::{apic, clock, probe, processors, ring0};

/// Everything the boot processor decides by.
pub struct State {
    /// What the monitor handed over.
    pub start: Start,
    /// What the command line asks for.
    pub options: Options,
    /// What ACPI says.
    pub tables: Tables,
    /// Never halt.
    pub spinning: bool,
    /// Deny requests to shut down.
    pub denying: bool,
    /// Only count NMIs, even when hung.
    pub ignoring_nmi: bool,
    /// Only count presses of the power button.
    pub ignoring_button: bool,
    /// Where the clock's frequency comes from.
    pub clock: &'static str,
    /// Whether the frame's communication channel is there.
    pub channel: bool,
    /// The watchdog that each beat reloads.
    pub watchdog: Option<Watchdog>,
    /// Time stamp when beats were last counted from nothing.
    pub since: u64,
    input: Input,
    serial_seen: u64,
    beats_seen: u64,
}

impl State {
    /// Nothing asked for yet.
    pub fn new(start: Start, options: Options, tables: Tables) -> Self {
        Self {
            start,
            options,
            tables,
            spinning: false,
            denying: false,
            ignoring_nmi: false,
            ignoring_button: false,
            clock: "",
            channel: false,
            watchdog: None,
            since: 0,
            input: Input::new(),
            serial_seen: u64::MAX,
            beats_seen: 0,
        }
    }

    /// Sets up clock, interrupts, beats, the other processors and the channel, and says so.
    pub fn prepare(&mut self) {
        let own = apic::detect();
        apic::enable();
        self.clock = clock::calibrate();
        probe::publish(clock::kilohertz());
        processors::prepare_boot();
        apic::calibrate_timer();
        self.enable_button();
        apic::enable_pins(self.tables.ioapic, own, self.tables.event_port != 0);
        // Whoever sees a beat may rely on the pins.
        self.since = ring0::tsc();
        apic::start_beats(processors::record(0), clock::cycles(self.options.beat));
        ring0::unmask();
        apic::start_others(self.tables.processors(), own);
        actions::fill_pattern();
        self.channel = ring0::in32(platform::CHANNEL_PORT) == platform::CHANNEL_SIGNATURE;
        if self.channel {
            self.answer(platform::CHANNEL_PRESENT);
        }
        console::enable_input();
        let count = self.tables.processors().len().max(1) as u64;
        console::say(
            Line::named()
                .text(": ready, ")
                .number(processors::running())
                .text(" of ")
                .number(count)
                .text(if count == 1 { " processor" } else { " processors" })
                .text(" up, a beat every ")
                .number(self.options.beat)
                .text(" ms"),
        );
        if self.options.run_mistaken {
            console::say(Line::named().text(": run= on the command line names no command; help lists them"));
        }
    }

    fn enable_button(&self) {
        let port = self.tables.event_port;
        if port == 0 {
            return;
        }
        if let Some((command, value)) = self.tables.enable {
            ring0::out8(command, value);
        }
        ring0::set_pm1_port(port);
        ring0::out16(port, platform::PM1_POWER_BUTTON);
        ring0::out16(port + 2, platform::PM1_POWER_BUTTON);
    }

    fn answer(&self, answer: u8) {
        ring0::out8(platform::CHANNEL_PORT + platform::CHANNEL_ANSWER, answer);
    }

    /// Looks after everything that may have happened; `true` if there may be more at once.
    pub fn attend(&mut self) -> bool {
        if ring0::take_pm1_status() & platform::PM1_POWER_BUTTON != 0 && !self.ignoring_button {
            console::say(Line::named().text(": power button"));
            acpi::power_off();
        }
        let beats = processors::record(0).total();
        if beats != self.beats_seen {
            self.beats_seen = beats;
            if self.channel {
                self.read_request();
            }
            if let Some(watchdog) = &self.watchdog {
                watchdog.reload();
            }
        }
        let serial = probe::pin_interrupts(platform::SERIAL_GSI);
        if serial == self.serial_seen {
            return false;
        }
        match self.input.receive() {
            Received::Nothing => {
                self.serial_seen = serial;
                false
            }
            Received::More => true,
            Received::Line => {
                let (bytes, length) = self.input.take();
                self.obey(bytes.get(..length).unwrap_or_default());
                true
            }
        }
    }

    fn read_request(&self) {
        // An answer takes the request away, so each is seen once.
        if ring0::in8(platform::CHANNEL_PORT + platform::CHANNEL_REQUEST) != platform::CHANNEL_SHUTDOWN {
            return;
        }
        if self.denying {
            self.answer(platform::CHANNEL_DENY);
            console::say(Line::named().text(": asked to shut down, denied"));
        } else {
            self.answer(platform::CHANNEL_APPROVE);
            console::say(Line::named().text(": asked to shut down"));
            acpi::power_off();
        }
    }

    fn obey(&mut self, line: &[u8]) {
        match command::parse(line) {
            Ok(command) => actions::perform(self, command),
            Err(Mistake::Empty) => {}
            Err(Mistake::Unknown) => console::say(Line::new().text("unknown command; help lists the commands")),
            Err(Mistake::Argument) => {
                console::say(
                    Line::new().text("wrong argument: exits, wild, dirty, storm and ipi take one number, others none"),
                );
            }
        }
    }
}
