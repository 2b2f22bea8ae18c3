//! Event records: every fact that the frame keeps, once.

use crate::code::Code;
pub use crate::code::{Scope, Severity};
use crate::name::Name;
use serde::{Deserialize, Serialize};

/// Who raised an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The partition manager.
    PartitionManager,
    /// The service processor.
    ServiceProcessor,
}

impl Source {
    /// The source's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PartitionManager => "partition-manager",
            Self::ServiceProcessor => "service-processor",
        }
    }
}

/// One event.
///
/// (`source`, `incarnation`, `sequence`) names it: a source counts its events from 1 in each incarnation,
/// and an event that arrives twice is the same event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Who raised it.
    pub source: Source,
    /// Which incarnation of the source.
    pub incarnation: u64,
    /// Which event of that incarnation, from 1.
    pub sequence: u64,
    /// Wall clock, nanoseconds since 1970-01-01 UTC.
    pub time: u64,
    /// Monotonic clock of this boot of the host, nanoseconds.
    pub monotonic: u64,
    /// What happened.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// Whom it concerns.
    pub scope: Scope,
    /// The partitions concerned, by name.
    pub partitions: Vec<Name>,
    /// What happened, in a sentence, with the particulars.
    pub text: String,
    /// First-failure data: registers, signal, error chain. An object.
    pub data: serde_json::Value,
}

/// Longest text of an event, bytes; longer ones are cut.
pub const LONGEST_TEXT: usize = 2048;
/// Most events in one delivery.
pub const LARGEST_DELIVERY: usize = 64;

/// An event as the log gives it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoggedEvent {
    /// Number in the log, ascending.
    pub id: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

impl Event {
    /// An event with the severity and scope of its code. The caller names it and says when it happened.
    #[must_use]
    pub fn new(code: Code, partitions: Vec<Name>, mut text: String) -> Self {
        if text.len() > LONGEST_TEXT {
            let end = (0..=LONGEST_TEXT).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
            text.truncate(end);
        }
        let entry = code.entry();
        Self {
            source: Source::PartitionManager,
            incarnation: 0,
            sequence: 0,
            time: 0,
            monotonic: 0,
            code,
            severity: entry.severity,
            scope: entry.scope,
            partitions,
            text,
            data: serde_json::Value::Object(serde_json::Map::new()),
        }
    }

    /// The same event with first-failure data.
    #[must_use]
    pub fn with_data(mut self, data: serde_json::Value) -> Self {
        self.data = data;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let event = Event::new(Code::TripleFault, Vec::new(), "ä".repeat(LONGEST_TEXT));
        assert!(event.text.len() <= LONGEST_TEXT && event.text.ends_with('ä'));
        assert_eq!(event.severity, Severity::Unrecoverable);
    }
}
