//! Plain lines: one for each change of a state, one for each event.

use super::{Course, LINE_TICK, Look, Seen, course, down};
use crate::show::plain;
use crate::verbs::event_line;
use frame::api::PartitionRow;
use frame::name::Name;
use frame::state::State;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::mpsc::Receiver;

/// Prints lines until `end` fires or nobody reads them.
pub(super) fn show(mut look: Look, end: &Receiver<bool>) {
    let mut known = Known::default();
    loop {
        let course = course(end, LINE_TICK);
        let mut seen = look.look(false);
        if course == Course::Down {
            seen.rows = down(&known.rows);
        }
        let text = known.changes(&seen);
        let mut output = std::io::stdout().lock();
        if output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_err() || course != Course::On {
            return;
        }
    }
}

/// What was said already.
#[derive(Debug, Default)]
struct Known {
    states: BTreeMap<Name, (State, String, u64)>,
    rows: Vec<PartitionRow>,
}

impl Known {
    fn changes(&mut self, seen: &Seen) -> String {
        let mut out = String::new();
        if !seen.rows.is_empty() {
            self.rows.clone_from(&seen.rows);
        }
        for event in &seen.events {
            out.push_str(&event_line(event));
        }
        for row in &seen.rows {
            let now = (row.state, row.reason.clone(), row.incarnation);
            if self.states.get(&row.name) != Some(&now) {
                let reason = if row.reason.is_empty() { String::new() } else { format!(" ({})", plain(&row.reason)) };
                out.push_str(&format!("{}: {}{reason}\n", row.name, row.state));
                self.states.insert(row.name.clone(), now);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_said_once() {
        let mut row = PartitionRow {
            name: Name::new("a").unwrap(),
            id: 1,
            state: State::Running,
            reason: String::new(),
            processors: 1,
            units: 0.1,
            memory: 0,
            mode: "shared".into(),
            cpus: String::new(),
            availability_priority: 0,
            pid: None,
            incarnation: 1,
            uptime: None,
            exit_status: None,
        };
        let mut known = Known::default();
        let mut seen = Seen { rows: vec![row.clone()], ..Seen::default() };
        assert_eq!(known.changes(&seen), "a: Running\n");
        assert_eq!(known.changes(&seen), "");
        // A manager that is away takes nothing back.
        assert_eq!(known.changes(&Seen::default()), "");
        (row.state, row.reason) = (State::Error, "it crashed".into());
        seen.rows = vec![row.clone()];
        assert_eq!(known.changes(&seen), "a: Error (it crashed)\n");
        // Once the frame is down nothing runs, and what failed has failed.
        let running = PartitionRow { state: State::Running, reason: String::new(), ..row.clone() };
        assert_eq!(down(&[running])[0].state, State::NotActivated);
        assert_eq!(down(&[row.clone()]), [row]);
    }
}
