//! `events`: the event log.

use super::{json, print};
use crate::arguments::Common;
use crate::daemons::{Daemon, ORDINARY, patiently};
use crate::failure::Outcome;
use crate::roots;
use crate::show::{moment, plain};
use frame::api::EVENTS;
use frame::event::LoggedEvent;
use frame::name::Name;
use std::time::Duration;

/// Most events asked for at once.
const PAGE: usize = 1000;
/// How long the service processor waits for the next event before it answers that there is none.
const WAIT: Duration = Duration::from_secs(30);

/// `lpar events [--follow] [-n N]`.
///
/// # Errors
/// When no frame answers.
pub fn events(common: &Common, follow: bool, newest: Option<usize>) -> Outcome {
    let root = roots::running(common)?;
    let processor = Daemon::service_processor(&root);
    let first = collect(&processor, newest)?;
    if !follow {
        return if common.json { json(&first) } else { print(&first.iter().map(line).collect::<String>()) };
    }
    let mut last = match first.last() {
        Some(event) => event.id,
        // None was wanted of those that are there.
        None => collect(&processor, Some(1))?.last().map_or(0, |event| event.id),
    };
    emit(common, &first)?;
    loop {
        let query = format!("{EVENTS}?after={last}&limit={PAGE}&wait_ms={}", WAIT.as_millis());
        let client = processor.client().with_timeout(WAIT + ORDINARY);
        let next: Result<Vec<LoggedEvent>, _> = patiently(|| client.get(&query));
        let next = match next {
            Ok(next) => next,
            // The frame went down: there are no more events.
            Err(error) if error.is_away() && !roots::runs(&root) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        last = next.last().map_or(last, |event| event.id);
        emit(common, &next)?;
    }
}

fn collect(processor: &Daemon, newest: Option<usize>) -> Outcome<Vec<LoggedEvent>> {
    if let Some(newest) = newest.filter(|newest| *newest <= PAGE) {
        let found: Vec<LoggedEvent> = processor.get(&format!("{EVENTS}?last={newest}"))?;
        // Numbers are given without a gap: one before the first that is wanted says whether there are more.
        let older = found.first().is_some_and(|first| first.id > 1);
        if found.len() == newest || !older {
            return Ok(found);
        }
    }
    let mut all: Vec<LoggedEvent> = Vec::new();
    loop {
        let after = all.last().map_or(0, |event| event.id);
        let page: Vec<LoggedEvent> = processor.get(&format!("{EVENTS}?after={after}&limit={PAGE}"))?;
        // Fewer than were asked for need not be all: large ones come in smaller pages.
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    if let Some(newest) = newest {
        all.drain(..all.len().saturating_sub(newest));
    }
    Ok(all)
}

fn emit(common: &Common, events: &[LoggedEvent]) -> Outcome {
    for event in events {
        if common.json {
            print(&format!("{}\n", serde_json::to_string(event)?))?;
        } else {
            print(&line(event))?;
        }
    }
    Ok(())
}

/// An event in one line.
#[must_use]
pub fn line(logged: &LoggedEvent) -> String {
    let event = &logged.event;
    let names: Vec<&str> = event.partitions.iter().map(Name::as_str).collect();
    let severity = serde_json::to_value(event.severity).ok();
    let severity = severity.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let whom = if names.is_empty() { "frame".to_owned() } else { names.join(",") };
    format!("{}  {}  {severity:<13}  {whom:<5}  {}\n", moment(event.time), event.code, plain(&event.text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::code::Code;
    use frame::event::Event;

    #[test]
    fn an_event_is_one_line() {
        let mut event = Event::new(Code::ProcessLost, vec![Name::new("db").unwrap()], "It\nvanished.".into());
        event.time = 1_500_000_000;
        assert_eq!(
            line(&LoggedEvent { id: 3, event }),
            "1970-01-01T00:00:01.500Z  B2000003  unrecoverable  db     It?vanished.\n"
        );
    }
}
