//! ACPI fixed hardware: the PM1a event and control blocks (ACPI 6.5, sections 4.8.3.1 and 4.8.3.2).

use super::bus::Device;
use super::lock;
use frame::platform::{PM1_POWER_BUTTON, PM1A_CONTROL_PORT, PM1A_EVENT_PORT, SLEEP_TYPE_S5};
use frame::record::Cause;
use std::sync::Mutex;

/// Ports that the blocks take, counted from [`PM1A_EVENT_PORT`].
pub const PORTS: u64 = (PM1A_CONTROL_PORT - PM1A_EVENT_PORT) as u64 + 2;

/// `SCI_EN` in the control register: ACPI mode, the only one here.
const SCI_ENABLE: u16 = 1;
/// `SLP_EN` in the control register's high byte.
const SLEEP_ENABLE: u8 = 1 << 5;
/// Status bits that are defined and can be cleared by writing ones: timer, bus master, global lock, power
/// button, sleep button, RTC, wake.
const STATUS_BITS: u16 = 0x8731;
/// Enable bits that are defined: timer, global lock, power button, sleep button, RTC.
const ENABLE_BITS: u16 = 0x0721;

/// An interrupt line that is held, not pulsed.
pub trait Line: Send + Sync + std::fmt::Debug {
    /// Sets the line's level.
    fn set(&self, high: bool);
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Registers {
    status: u16,
    enable: u16,
    control: u16,
    high: bool,
}

/// The power management blocks, with the power button.
#[derive(Debug)]
pub struct PowerManagement {
    registers: Mutex<Registers>,
    sci: Box<dyn Line>,
}

impl PowerManagement {
    /// No button is pressed, no event enabled; `sci` is the system control interrupt.
    #[must_use]
    pub fn new(sci: Box<dyn Line>) -> Self {
        Self { registers: Mutex::new(Registers { control: SCI_ENABLE, ..Registers::default() }), sci }
    }

    /// Presses the power button. A guest that has not enabled it sees it when it asks.
    pub fn press(&self) {
        let mut registers = lock(&self.registers);
        registers.status |= PM1_POWER_BUTTON;
        self.update(&mut registers);
    }

    /// The line is set under the lock, so that its level is that of the last change.
    fn update(&self, registers: &mut Registers) {
        let high = registers.status & registers.enable != 0;
        if registers.high != high {
            registers.high = high;
            self.sci.set(high);
        }
    }
}

/// `word` with one byte, 0 or 1, replaced.
const fn with_byte(word: u16, byte: u64, value: u8) -> u16 {
    let [low, high] = word.to_le_bytes();
    u16::from_le_bytes(if byte == 0 { [value, high] } else { [low, value] })
}

impl Device for PowerManagement {
    fn read(&self, offset: u64) -> u8 {
        let registers = lock(&self.registers);
        let word = match offset / 2 {
            0 => registers.status,
            1 => registers.enable,
            2 => registers.control,
            _ => 0xffff,
        };
        let [low, high] = word.to_le_bytes();
        if offset.is_multiple_of(2) { low } else { high }
    }

    fn write(&self, offset: u64, value: u8) -> Option<Cause> {
        let mut registers = lock(&self.registers);
        match offset / 2 {
            0 => registers.status &= !(with_byte(0, offset % 2, value) & STATUS_BITS),
            1 => registers.enable = with_byte(registers.enable, offset % 2, value) & ENABLE_BITS,
            2 if offset.is_multiple_of(2) => {
                registers.control = with_byte(registers.control, 0, value) | SCI_ENABLE;
            }
            2 => {
                // SLP_EN reads as zero. Sleep types other than soft off are not offered, and do nothing.
                registers.control = with_byte(registers.control, 1, value & !SLEEP_ENABLE);
                let kind = u16::from(value >> 2 & 7);
                return (value & SLEEP_ENABLE != 0 && kind == SLEEP_TYPE_S5).then_some(Cause::PowerOff);
            }
            _ => {}
        }
        self.update(&mut registers);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    #[derive(Clone, Debug, Default)]
    struct Wire(Arc<Mutex<Vec<bool>>>);

    impl Line for Wire {
        fn set(&self, high: bool) {
            self.0.lock().unwrap().push(high);
        }
    }

    fn pm() -> (Wire, PowerManagement) {
        let wire = Wire::default();
        (wire.clone(), PowerManagement::new(Box::new(wire)))
    }

    fn write16(pm: &PowerManagement, offset: u64, value: u16) -> Option<Cause> {
        let [low, high] = value.to_le_bytes();
        pm.write(offset, low).or_else(|| pm.write(offset + 1, high))
    }

    #[test]
    fn the_button_holds_the_line_until_its_status_is_cleared() {
        let (wire, pm) = pm();
        assert_eq!(write16(&pm, 2, PM1_POWER_BUTTON), None);
        pm.press();
        pm.press();
        assert_eq!(*wire.0.lock().unwrap(), [true]);
        assert_eq!(pm.read(1), 1);
        assert_eq!(write16(&pm, 0, PM1_POWER_BUTTON), None);
        assert_eq!(*wire.0.lock().unwrap(), [true, false]);
        assert_eq!(pm.read(1), 0);
    }

    #[test]
    fn a_press_that_nobody_enabled_is_seen_when_it_is_enabled() {
        let (wire, pm) = pm();
        pm.press();
        assert!(wire.0.lock().unwrap().is_empty());
        assert_eq!(write16(&pm, 2, PM1_POWER_BUTTON), None);
        assert_eq!(*wire.0.lock().unwrap(), [true]);
    }

    #[test]
    fn only_soft_off_powers_off() {
        let (_, pm) = pm();
        assert_eq!(pm.read(4) & 1, 1, "SCI_EN");
        assert_eq!(write16(&pm, 4, 1 << 10 | 1 << 13), None);
        assert_eq!(write16(&pm, 4, SLEEP_TYPE_S5 << 10), None);
        assert_eq!(write16(&pm, 4, SLEEP_TYPE_S5 << 10 | 1 << 13), Some(Cause::PowerOff));
        assert_eq!(pm.read(5) & SLEEP_ENABLE, 0);
    }

    proptest! {
        #[test]
        fn the_line_is_high_exactly_while_an_enabled_event_is_pending(
            steps in proptest::collection::vec((0u64..PORTS, any::<u8>(), any::<bool>()), 0..100),
        ) {
            let (wire, pm) = pm();
            for (offset, value, press) in steps {
                if press {
                    pm.press();
                } else {
                    let _ = pm.write(offset, value);
                }
                let status = u16::from_le_bytes([pm.read(0), pm.read(1)]);
                let enable = u16::from_le_bytes([pm.read(2), pm.read(3)]);
                let levels = wire.0.lock().unwrap().clone();
                prop_assert_eq!(levels.last().copied().unwrap_or(false), status & enable != 0);
                prop_assert!(levels.windows(2).all(|pair| pair[0] != pair[1]));
            }
        }
    }
}
