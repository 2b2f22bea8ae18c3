//! What a frame does, shown while it is up: a live table on a terminal, plain lines in a pipe.

mod lines;
mod live;

use crate::daemons::{ORDINARY, of};
use frame::api::{EVENTS, FrameStatus, PARTITIONS, PartitionRow, PartitionStat};
use frame::event::LoggedEvent;
use frame::root::Root;
use frame::state::State;
use os::http::Client;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the table is drawn.
const TICK: Duration = Duration::from_millis(500);
/// How often changes are looked for when they are printed as lines.
const LINE_TICK: Duration = Duration::from_millis(200);
/// How many events may come at once.
const PAGE: usize = 200;

/// What is known of the frame at one moment.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The frame; absent while its manager is away.
    pub status: Option<FrameStatus>,
    /// The partitions, as last seen.
    pub rows: Vec<PartitionRow>,
    /// Figures of the active ones.
    pub stats: Vec<PartitionStat>,
    /// Events since the last look, oldest first.
    pub events: Vec<LoggedEvent>,
}

/// The thread that looks and shows.
#[derive(Debug)]
pub struct Watch {
    end: Sender<bool>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts to show the frame at `root`; only events after `since` (nanoseconds since 1970-01-01 UTC) are
    /// shown. With `table` it is a live table, with the remarks that come from there above it.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(root: &Root, since: u64, table: Option<Receiver<String>>) -> std::io::Result<Self> {
        let (end, ended) = channel();
        let look = Look::new(root, since);
        let thread = std::thread::Builder::new().name("watch".into()).spawn(move || match table {
            Some(remarks) => live::show(look, &ended, &remarks),
            None => lines::show(look, &ended),
        })?;
        Ok(Self { end, thread })
    }

    /// Shows what is to be seen once more, and ends; `down` says whether the frame is down, so that nothing is
    /// there to be asked. A reader that does not read is not waited for.
    pub fn end(self, down: bool) {
        let _ = self.end.send(down);
        for _ in 0..20 {
            if self.thread.is_finished() {
                break;
            }
            std::thread::sleep(LINE_TICK);
        }
        if self.thread.is_finished() {
            let _ = self.thread.join();
        }
    }
}

/// Whether the watch is to go on, to end, or to end because the frame is down; known after `tick` at the
/// latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    On,
    End,
    Down,
}

fn course(end: &Receiver<bool>, tick: Duration) -> Course {
    match end.recv_timeout(tick) {
        Err(RecvTimeoutError::Timeout) => Course::On,
        Ok(true) => Course::Down,
        Ok(false) | Err(RecvTimeoutError::Disconnected) => Course::End,
    }
}

/// The rows as they are once the frame is down.
fn down(rows: &[PartitionRow]) -> Vec<PartitionRow> {
    let off = |row: &PartitionRow| match row.state {
        State::Error | State::NotActivated => row.clone(),
        _ => PartitionRow { state: State::NotActivated, pid: None, uptime: None, ..row.clone() },
    };
    rows.iter().map(off).collect()
}

/// The looking.
struct Look {
    manager: Client,
    processor: Client,
    since: u64,
    last: u64,
}

impl Look {
    fn new(root: &Root, since: u64) -> Self {
        let manager = Client::new(&root.manager_socket(), ORDINARY);
        let processor = Client::new(&root.service_processor_socket(), ORDINARY);
        Self { manager, processor, since, last: 0 }
    }

    /// Looks once. What is away is left out; it will be back.
    fn look(&mut self, with_stats: bool) -> Seen {
        let status = self.manager.get(frame::api::FRAME).ok();
        let rows: Vec<PartitionRow> = self.manager.get(PARTITIONS).unwrap_or_default();
        let active = rows.iter().filter(|row| with_stats && row.state.is_active());
        let stats = active.filter_map(|row| self.manager.get(&of(&row.name, "/stat")).ok()).collect();
        Seen { status, rows, stats, events: self.events() }
    }

    fn events(&mut self) -> Vec<LoggedEvent> {
        let query = match self.last {
            0 => format!("{EVENTS}?last={PAGE}"),
            last => format!("{EVENTS}?after={last}&limit={PAGE}"),
        };
        let mut events: Vec<LoggedEvent> = self.processor.get(&query).unwrap_or_default();
        self.last = events.last().map_or(self.last, |event| event.id);
        events.retain(|event| event.event.time >= self.since);
        events
    }
}
