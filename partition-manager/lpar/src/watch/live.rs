//! The live table: drawn over itself twice a second.

use super::{Course, Look, Seen, TICK, course, down};
use crate::show::{Table, plain, size, span};
use crate::verbs::event_line;
use crossterm::cursor::{Hide, MoveToColumn, MoveUp, Show};
use crossterm::queue;
use crossterm::style::Print;
use crossterm::terminal::{self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate};
use frame::event::LoggedEvent;
use frame::name::Name;
use frame::units::Units;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::sync::mpsc::Receiver;
use std::time::Instant;

/// Most events below the table.
const MOST_EVENTS: usize = 8;

/// Draws until `end` fires or the terminal is gone. The last table stays on the screen.
pub(super) fn show(mut look: Look, end: &Receiver<bool>, remarks: &Receiver<String>) {
    let mut screen = Screen { drawn: 0 };
    let mut table = LiveTable::default();
    loop {
        let course = course(end, TICK);
        let mut seen = look.look(true);
        if course == Course::Down {
            seen = Seen { rows: down(&table.rows), ..Seen::default() };
            table.over = true;
        }
        let (width, height) = terminal::size().unwrap_or((80, 24));
        let above: Vec<String> = remarks.try_iter().map(|remark| fit(&remark, width.into())).collect();
        let lines = table.lines(seen, Instant::now(), width.into(), height.into());
        if screen.draw(&above, &lines).is_err() || course != Course::On {
            return;
        }
    }
}

/// The part of the terminal that is drawn on. The cursor is shown again when it is dropped.
struct Screen {
    drawn: u16,
}

impl Screen {
    /// Draws `lines` over what was drawn before, and `above` once above them.
    fn draw(&mut self, above: &[String], lines: &[String]) -> io::Result<()> {
        // Everything goes out at once, and lines are overwritten, not cleared first: nothing flickers.
        let mut out = Vec::new();
        queue!(out, BeginSynchronizedUpdate, Hide, MoveToColumn(0))?;
        if self.drawn > 0 {
            queue!(out, MoveUp(self.drawn))?;
        }
        for line in above.iter().chain(lines) {
            queue!(out, Print(line), Clear(ClearType::UntilNewLine), Print("\r\n"))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown), EndSynchronizedUpdate)?;
        self.drawn = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        let mut output = io::stdout().lock();
        output.write_all(&out)?;
        output.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing restored.
        let _ = crossterm::execute!(io::stdout(), Show);
    }
}

/// A line that does not wrap, and moves nothing.
fn fit(line: &str, width: usize) -> String {
    plain(line).chars().take(width.saturating_sub(1)).collect()
}

/// The line of an event without its date: a screen is narrow, and its events are of this run.
fn time_of_day(line: &str) -> &str {
    let line = line.trim_end();
    line.split_once('T').map_or(line, |(_, rest)| rest)
}

/// What the table remembers between two drawings.
#[derive(Debug, Default)]
struct LiveTable {
    rows: Vec<frame::api::PartitionRow>,
    events: VecDeque<LoggedEvent>,
    /// Processor time of each partition, nanoseconds, and when it was read.
    times: BTreeMap<Name, (u64, Instant)>,
    title: String,
    /// Whether the frame is down.
    over: bool,
}

impl LiveTable {
    fn lines(&mut self, seen: Seen, now: Instant, width: usize, height: usize) -> Vec<String> {
        let use_of = self.processor_use(&seen, now);
        let away = seen.status.is_none();
        if let Some(status) = &seen.status {
            self.title = format!("frame {}  manager {}", status.name, status.pid);
            self.title.push_str(if status.going_down { "  going down" } else { "  Ctrl-C brings it down" });
        }
        if !seen.rows.is_empty() {
            self.rows = seen.rows;
        }
        self.events.extend(seen.events);
        self.events.drain(..self.events.len().saturating_sub(MOST_EVENTS));

        let title = match (self.title.is_empty(), away) {
            _ if self.over => "the frame is down".to_owned(),
            (true, _) => "the frame is coming up".to_owned(),
            (false, true) => format!("{}  (its manager is away)", self.title),
            (false, false) => self.title.clone(),
        };
        let mut table =
            Table::new(&["name", "state", ">processors", ">units", ">in use", ">memory", ">uptime", "reason"]);
        for row in &self.rows {
            table.row([
                row.name.to_string(),
                row.state.to_string(),
                row.processors.to_string(),
                Units::from(row.units).to_string(),
                use_of.get(&row.name).map_or_else(|| "-".to_owned(), |used| format!("{used:.2}")),
                size(row.memory),
                row.uptime.map_or_else(|| "-".to_owned(), span),
                row.reason.clone(),
            ]);
        }
        let mut lines = vec![title];
        if !self.rows.is_empty() {
            lines.extend(table.lines());
        }
        if !self.events.is_empty() {
            lines.push(String::new());
            lines.extend(self.events.iter().map(|event| time_of_day(&event_line(event)).to_owned()));
        }
        // A line that wraps, or a table that scrolls, could not be drawn over.
        lines.truncate(height.saturating_sub(1).max(1));
        lines.iter().map(|line| fit(line, width)).collect()
    }

    /// Processors in use by each partition since the last look.
    fn processor_use(&mut self, seen: &Seen, now: Instant) -> BTreeMap<Name, f64> {
        let mut used = BTreeMap::new();
        let mut times = BTreeMap::new();
        for stat in &seen.stats {
            let time: u64 = stat.processors.iter().filter_map(|one| one.cpu_time).fold(0, u64::saturating_add);
            if let Some((before, then)) = self.times.get(&stat.name) {
                let elapsed = now.saturating_duration_since(*then).as_nanos() as f64;
                // A partition that was restarted counts from zero again.
                if elapsed > 0.0 && time >= *before {
                    used.insert(stat.name.clone(), (time - before) as f64 / elapsed);
                }
            }
            times.insert(stat.name.clone(), (time, now));
        }
        self.times = times;
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::api::{FrameStatus, PartitionRow, PartitionStat, ProcessorStat};
    use frame::state::State;
    use std::time::Duration;

    fn seen(cpu_time: u64) -> Seen {
        let name = Name::new("alpha").unwrap();
        let row = PartitionRow {
            name: name.clone(),
            id: 1,
            state: State::Running,
            reason: String::new(),
            processors: 2,
            units: 0.4,
            memory: 64 << 20,
            mode: "shared".into(),
            cpus: "0".into(),
            availability_priority: 127,
            pid: Some(9),
            incarnation: 1,
            uptime: Some(2.0),
            exit_status: None,
        };
        let (exits, exit_time) = (BTreeMap::new(), BTreeMap::new());
        let processor = ProcessorStat { processor: 0, exits, exit_time, cpu_time: Some(cpu_time) };
        let stat = PartitionStat { name, processors: vec![processor], console_bytes: 0, resident: None };
        let status = FrameStatus {
            name: Name::new("f").unwrap(),
            epoch: 3,
            pid: 5,
            lacks: vec![],
            outbox: 0,
            going_down: false,
        };
        Seen { status: Some(status), rows: vec![row], stats: vec![stat], events: vec![] }
    }

    #[test]
    fn processor_use_is_what_was_used_since() {
        let mut table = LiveTable::default();
        let start = Instant::now();
        let first = table.lines(seen(1_000_000_000), start, 100, 24);
        assert_eq!(first[0], "frame f  manager 5  Ctrl-C brings it down");
        assert!(first[2].contains(" - "), "{first:?}");
        let second = table.lines(seen(1_250_000_000), start + Duration::from_secs(1), 100, 24);
        assert!(second[2].contains(" 0.25 "), "{second:?}");
        // It was restarted: what it used since is not known.
        let third = table.lines(seen(5), start + Duration::from_secs(2), 100, 24);
        assert!(third[2].contains(" - "), "{third:?}");
    }

    #[test]
    fn events_have_no_date() {
        assert_eq!(time_of_day("1970-01-01T00:00:01.500Z  B2000003  db\n"), "00:00:01.500Z  B2000003  db");
        assert_eq!(time_of_day("1970"), "1970");
    }

    #[test]
    fn the_table_stays_while_the_manager_is_away_and_fits_the_screen() {
        let mut table = LiveTable::default();
        let start = Instant::now();
        table.lines(seen(1), start, 100, 24);
        let away = table.lines(Seen::default(), start, 100, 24);
        assert!(away[0].ends_with("(its manager is away)") && away[2].starts_with("alpha"), "{away:?}");
        let small = table.lines(Seen::default(), start, 20, 3);
        assert_eq!(small.len(), 2);
        assert!(small.iter().all(|line| line.chars().count() < 20));
    }
}
