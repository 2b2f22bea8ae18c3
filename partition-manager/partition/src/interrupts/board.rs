//! Local APICs in user space: `interrupts = "emulated"`. Every interrupt of the partition passes here.
//!
//! Locks: the I/O APIC's comes before a local APIC's, and no two local APICs' are held at once.

use super::chip::Sink;
use super::lapic::{Effect, Lapic, Shorthand};
use super::lock;
use super::message::{Delivery, Interrupt};
use super::waker::Waker;
use crate::devices::pci::msix::{Message, Vector};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// One local APIC, and its processor's thread.
#[derive(Debug)]
struct Local {
    state: Mutex<Lapic>,
    waker: Waker,
}

/// The local APICs of a partition, by the number of the virtual processor.
#[derive(Debug)]
pub struct Board {
    locals: Vec<Local>,
}

impl Board {
    /// Local APICs with these identifiers.
    #[must_use]
    pub fn new(ids: &[u8]) -> Arc<Self> {
        let local = |id: &u8| Local { state: Mutex::new(Lapic::new(*id).with_nmi_on_lint1()), waker: Waker::default() };
        Arc::new(Self { locals: ids.iter().map(local).collect() })
    }

    /// Does something with the local APIC of `processor`; nothing for one that does not exist.
    pub(crate) fn with<T>(&self, processor: usize, act: impl FnOnce(&mut Lapic) -> T) -> Option<T> {
        self.locals.get(processor).map(|local| act(&mut lock(&local.state)))
    }

    /// What wakes `processor`.
    pub(crate) fn waker(&self, processor: usize) -> Option<&Waker> {
        self.locals.get(processor).map(|local| &local.waker)
    }

    /// Carries out what a write of `processor` asks of others, but for the end of a level-triggered interrupt, whose
    /// vector is given back.
    pub(crate) fn carry_out(&self, processor: usize, effect: Effect) -> Option<u8> {
        match effect {
            Effect::None => None,
            Effect::Ended(vector) => Some(vector),
            Effect::Send(interrupt, shorthand) => {
                self.deliver(interrupt, |index, lapic| match shorthand {
                    Shorthand::None => lapic.is_meant(interrupt.destination, interrupt.logical),
                    Shorthand::Oneself => index == processor,
                    Shorthand::All => true,
                    Shorthand::Others => index != processor,
                });
                None
            }
        }
    }

    /// Delivers an interrupt to those that are `meant`. Whether it changed anything.
    fn deliver(&self, interrupt: Interrupt, meant: impl Fn(usize, &Lapic) -> bool) -> bool {
        let all = self.locals.iter().enumerate();
        if interrupt.delivery == Delivery::LowestPriority {
            let candidates = all.filter_map(|(index, local)| {
                let lapic = lock(&local.state);
                let can = meant(index, &lapic) && lapic.can_arbitrate();
                can.then(|| (lapic.processor_priority(), local))
            });
            return candidates.min_by_key(|(priority, _)| *priority).is_some_and(|(_, local)| local.accept(interrupt));
        }
        all.fold(false, |changed, (index, local)| {
            let here = meant(index, &lock(&local.state));
            changed | (here && local.accept(interrupt))
        })
    }
}

impl Local {
    fn accept(&self, interrupt: Interrupt) -> bool {
        let changed = lock(&self.state).accept(interrupt);
        if changed {
            self.waker.wake();
        }
        changed
    }
}

impl Sink for Board {
    fn send(&self, interrupt: Interrupt) -> bool {
        self.deliver(interrupt, |_, lapic| lapic.is_meant(interrupt.destination, interrupt.logical))
    }
}

/// The way of a message-signalled interrupt.
#[derive(Debug)]
pub(super) struct Route {
    board: Arc<Board>,
    /// Low half of the address above the data; zero, which is no local APIC's address, leads nowhere.
    message: AtomicU64,
}

impl Route {
    pub(super) const fn new(board: Arc<Board>) -> Self {
        Self { board, message: AtomicU64::new(0) }
    }
}

impl Vector for Route {
    fn route(&self, message: Option<Message>) {
        let packed = message.filter(|message| message.address >> 32 == 0);
        let packed = packed.map_or(0, |message| message.address << 32 | u64::from(message.data));
        self.message.store(packed, Ordering::Release);
    }

    fn trigger(&self) {
        let packed = self.message.load(Ordering::Acquire);
        if let Some(interrupt) = Interrupt::of_message(packed >> 32, packed as u32) {
            self.board.send(interrupt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPURIOUS: u64 = 0xf0;
    const COMMAND: u64 = 0x300;
    const COMMAND_HIGH: u64 = 0x310;

    fn board(count: u8) -> Arc<Board> {
        let board = Board::new(&(0..count).collect::<Vec<_>>());
        for processor in 0..count.into() {
            let _ = board.with(processor, |lapic| lapic.write(SPURIOUS, 0x1ff, 0));
        }
        board
    }

    fn command(board: &Board, sender: usize, high: u32, low: u32) -> Vec<usize> {
        let _ = board.with(sender, |lapic| lapic.write(COMMAND_HIGH, high, 0));
        let effect = board.with(sender, |lapic| lapic.write(COMMAND, low, 0)).unwrap();
        assert_eq!(board.carry_out(sender, effect), None);
        (0..board.locals.len())
            .filter(|processor| board.with(*processor, |lapic| lapic.acknowledge().is_some()) == Some(true))
            .collect()
    }

    #[test]
    fn every_shorthand_reaches_whom_it_names() {
        let board = board(4);
        assert_eq!(command(&board, 1, 3 << 24, 0x40), [3]);
        assert_eq!(command(&board, 1, 0, 0x4_0050), [1]);
        assert_eq!(command(&board, 1, 0, 0x8_0060), [0, 1, 2, 3]);
        assert_eq!(command(&board, 1, 0, 0xc_0070), [0, 2, 3]);
        assert_eq!(command(&board, 1, 0xff << 24, 0x80), [0, 1, 2, 3]);
    }

    #[test]
    fn the_lowest_priority_takes_it_alone() {
        let board = board(3);
        for (processor, priority) in [(0, 0x60), (1, 0x20), (2, 0x40)] {
            let _ = board.with(processor, |lapic| lapic.write(0x80, priority, 0));
        }
        assert_eq!(command(&board, 0, 0xff << 24, 0x0000_0190), [1]);
        // Now 1 serves vector 0x90, so 2 is lower.
        assert_eq!(command(&board, 0, 0xff << 24, 0x0000_01a0), [2]);
    }

    #[test]
    fn a_message_goes_where_it_was_routed_last() {
        let board = board(2);
        let route = Route::new(Arc::clone(&board));
        let taken = |processor| board.with(processor, Lapic::acknowledge).flatten();
        route.trigger();
        route.route(Some(Message { address: 0xfee0_1000, data: 0x44 }));
        route.trigger();
        assert_eq!((taken(0), taken(1)), (None, Some(0x44)));
        for message in [None, Some(Message { address: 1 << 32 | 0xfee0_0000, data: 0x45 })] {
            route.route(message);
            route.trigger();
            assert_eq!((taken(0), taken(1)), (None, None));
        }
    }
}
