//! Local APICs in user space: `interrupts = "emulated"`. Every interrupt of the partition passes here.
//!
//! Locks: the I/O APIC's comes before a local APIC's, and no two local APICs' are held at once.

use super::chip::Sink;
use super::lapic::{Effect, Lapic, Shorthand};
use super::latency::Latency;
use super::lock;
use super::message::{Delivery, Interrupt};
use super::waker::Waker;
use crate::devices::pci::msix::{Message, Vector};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// One local APIC, and its processor's thread.
#[derive(Debug)]
struct Local {
    state: Mutex<State>,
    waker: Waker,
}

#[derive(Debug)]
struct State {
    lapic: Lapic,
    /// By vector, when a timed source requested it, and where its time is counted.
    since: Vec<Option<(Instant, Arc<Latency>)>>,
}

/// A source whose interrupts are timed, and when it raised one.
type Origin<'source> = Option<(Instant, &'source Arc<Latency>)>;

/// Vectors of a local APIC.
const VECTORS: usize = 256;

/// The local APICs of a partition, by the number of the virtual processor.
#[derive(Debug)]
pub struct Board {
    locals: Vec<Local>,
}

impl Board {
    /// Local APICs with these identifiers.
    #[must_use]
    pub fn new(ids: &[u8]) -> Arc<Self> {
        let local = |id: &u8| Local {
            state: Mutex::new(State { lapic: Lapic::new(*id).with_nmi_on_lint1(), since: vec![None; VECTORS] }),
            waker: Waker::default(),
        };
        Arc::new(Self { locals: ids.iter().map(local).collect() })
    }

    /// Does something with the local APIC of `processor`; nothing for one that does not exist.
    pub(crate) fn with<T>(&self, processor: usize, act: impl FnOnce(&mut Lapic) -> T) -> Option<T> {
        self.locals.get(processor).map(|local| act(&mut lock(&local.state).lapic))
    }

    /// `processor` takes the interrupt that it is to have, if there is one, and is about to enter its handler: the
    /// acknowledgement that is timed.
    pub(crate) fn acknowledge(&self, processor: usize) -> Option<u8> {
        let mut state = lock(&self.locals.get(processor)?.state);
        let vector = state.lapic.acknowledge()?;
        if let Some((since, latency)) = state.since.get_mut(usize::from(vector)).and_then(Option::take) {
            latency.record(since.elapsed());
        }
        Some(vector)
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
                self.deliver(interrupt, None, |index, lapic| match shorthand {
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
    fn deliver(&self, interrupt: Interrupt, origin: Origin<'_>, meant: impl Fn(usize, &Lapic) -> bool) -> bool {
        let all = self.locals.iter().enumerate();
        if interrupt.delivery == Delivery::LowestPriority {
            let candidates = all.filter_map(|(index, local)| {
                let state = lock(&local.state);
                let can = meant(index, &state.lapic) && state.lapic.can_arbitrate();
                can.then(|| (state.lapic.processor_priority(), local))
            });
            return candidates
                .min_by_key(|(priority, _)| *priority)
                .is_some_and(|(_, local)| local.accept(interrupt, origin));
        }
        all.fold(false, |changed, (index, local)| {
            let here = meant(index, &lock(&local.state).lapic);
            changed | (here && local.accept(interrupt, origin))
        })
    }
}

impl Local {
    fn accept(&self, interrupt: Interrupt, origin: Origin<'_>) -> bool {
        let mut state = lock(&self.state);
        let changed = state.lapic.accept(interrupt);
        // One that was requested already is taken together with the first.
        if changed
            && interrupt.delivery.has_vector()
            && let Some(since) = state.since.get_mut(usize::from(interrupt.vector))
        {
            *since = origin.map(|(at, latency)| (at, Arc::clone(latency)));
        }
        drop(state);
        if changed {
            self.waker.wake();
        }
        changed
    }
}

impl Sink for Board {
    fn send(&self, interrupt: Interrupt) -> bool {
        self.deliver(interrupt, None, |_, lapic| lapic.is_meant(interrupt.destination, interrupt.logical))
    }
}

/// The way of a message-signalled interrupt.
#[derive(Debug)]
pub(super) struct Route {
    board: Arc<Board>,
    /// Low half of the address above the data; zero, which is no local APIC's address, leads nowhere.
    message: AtomicU64,
    latency: OnceLock<Arc<Latency>>,
}

impl Route {
    pub(super) const fn new(board: Arc<Board>) -> Self {
        Self { board, message: AtomicU64::new(0), latency: OnceLock::new() }
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
            let origin = self.latency.get().map(|latency| (Instant::now(), latency));
            self.board.deliver(interrupt, origin, |_, lapic| lapic.is_meant(interrupt.destination, interrupt.logical));
        }
    }

    fn watch(&self, latency: &Arc<Latency>) -> bool {
        self.latency.set(Arc::clone(latency)).is_ok()
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
    fn a_message_is_timed_once_until_a_processor_takes_it() {
        let board = board(2);
        let (route, latency) = (Route::new(Arc::clone(&board)), Arc::new(Latency::default()));
        assert!(route.watch(&latency) && !route.watch(&latency));
        route.route(Some(Message { address: 0xfee0_1000, data: 0x44 }));
        route.trigger();
        route.trigger();
        assert_eq!(latency.read().total(), 0);
        assert_eq!(board.acknowledge(1), Some(0x44));
        assert_eq!(latency.read().total(), 1);
        // It is requested and forgotten; then the same vector comes from nobody that is timed.
        let _ = board.with(1, |lapic| lapic.write(0xb0, 0, 0));
        route.trigger();
        let _ = board.with(1, Lapic::reset);
        let _ = board.with(1, |lapic| lapic.write(SPURIOUS, 0x1ff, 0));
        assert!(board.send(Interrupt::of_message(0xfee0_1000, 0x44).unwrap()));
        assert_eq!((board.acknowledge(1), latency.read().total()), (Some(0x44), 1));
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
