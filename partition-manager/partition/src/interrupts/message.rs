//! An interrupt on its way to local APICs: what an I/O APIC, a message or another local APIC sends. Pure.

use serde::{Deserialize, Serialize};

/// How an interrupt is delivered (Intel SDM, volume 3, section 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// Its vector, to every processor that is named.
    Fixed,
    /// Its vector, to the one of them with the lowest priority.
    LowestPriority,
    /// Non-maskable.
    Nmi,
    /// Reset of the processor.
    Init,
    /// Start after a reset, at the page that the vector names.
    Startup,
}

impl Delivery {
    /// The mode of an interrupt command, a redirection entry, a message or a local vector; none for those that
    /// are reserved or have nothing behind them here: SMI, and an 8259's interrupts.
    #[must_use]
    pub const fn of(mode: u32) -> Option<Self> {
        match mode & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::Startup),
            _ => None,
        }
    }

    /// Whether it goes by vector and priority.
    #[must_use]
    pub const fn has_vector(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

/// An interrupt and whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// The vector, or the page of a start.
    pub vector: u8,
    /// How it is delivered.
    pub delivery: Delivery,
    /// Level-triggered: the end of the interrupt is told to the I/O APIC.
    pub level: bool,
    /// Whom it is for: an APIC identifier, or a set of logical ones.
    pub destination: u8,
    /// Whether the destination is logical.
    pub logical: bool,
}

/// Where messages to local APICs are written, bits 31..20 of the address.
const WINDOW: u64 = 0xfee;

impl Interrupt {
    /// What writing `data` to `address` sends (section 11.11); none for an address that is no local APIC's and for
    /// modes that do not exist. The redirection hint says nothing that the delivery mode does not, as in KVM.
    #[must_use]
    pub fn of_message(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != WINDOW {
            return None;
        }
        let delivery = Delivery::of(data >> 8).filter(|delivery| *delivery != Delivery::Startup)?;
        Some(Self {
            vector: data as u8,
            delivery,
            level: data & 1 << 15 != 0 && delivery.has_vector(),
            destination: (address >> 12) as u8,
            logical: address & 1 << 2 != 0,
        })
    }

    /// The message that sends it: address and data.
    #[must_use]
    pub const fn message(self) -> (u64, u32) {
        let mode = match self.delivery {
            Delivery::Fixed => 0,
            Delivery::LowestPriority => 1,
            Delivery::Nmi => 4,
            Delivery::Init => 5,
            Delivery::Startup => 6,
        };
        let address = WINDOW << 20 | (self.destination as u64) << 12 | (self.logical as u64) << 2;
        (address, self.vector as u32 | mode << 8 | 1 << 14 | (self.level as u32) << 15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_message_is_what_it_was(address: u32, data: u32) {
            let address = 0xfee0_0000 | u64::from(address & 0xf_ffff);
            if let Some(interrupt) = Interrupt::of_message(address, data) {
                let (again, content) = interrupt.message();
                prop_assert_eq!(Interrupt::of_message(again, content), Some(interrupt));
                prop_assert_eq!(u32::from(interrupt.vector), data & 0xff);
                prop_assert_eq!(u64::from(interrupt.destination), address >> 12 & 0xff);
            }
            prop_assert_eq!(Interrupt::of_message(address | 1 << 32, data), None);
        }
    }
}
