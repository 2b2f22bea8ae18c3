//! Plain lines: one for each change of a state, one for each event.

use super::{LINE_TICK, Look, Seen, ended};
use crate::show::plain;
use crate::verbs::event_line;
use frame::name::Name;
use frame::state::State;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::mpsc::Receiver;

/// Prints lines until `end` fires or nobody reads them.
pub(super) fn show(mut look: Look, end: &Receiver<()>) {
    let mut known = Known::default();
    loop {
        let last = ended(end, LINE_TICK);
        let text = known.changes(&look.look(false));
        let mut output = std::io::stdout().lock();
        if output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_err() || last {
            return;
        }
    }
}

/// What was said already.
#[derive(Debug, Default)]
struct Known {
    states: BTreeMap<Name, (State, String, u64)>,
}

impl Known {
    fn changes(&mut self, seen: &Seen) -> String {
        let mut out = String::new();
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
    use frame::api::PartitionRow;

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
        };
        let mut known = Known::default();
        let mut seen = Seen { rows: vec![row.clone()], ..Seen::default() };
        assert_eq!(known.changes(&seen), "a: Running\n");
        assert_eq!(known.changes(&seen), "");
        // A manager that is away takes nothing back.
        assert_eq!(known.changes(&Seen::default()), "");
        (row.state, row.reason) = (State::Error, "it crashed".into());
        seen.rows = vec![row];
        assert_eq!(known.changes(&seen), "a: Error (it crashed)\n");
    }
}
