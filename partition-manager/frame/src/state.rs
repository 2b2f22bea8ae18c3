//! States of a partition, in the words of the hardware management console.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The state of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum State {
    /// Off.
    #[serde(rename = "Not Activated")]
    NotActivated,
    /// Its process is being made and its memory filled.
    Starting,
    /// Guest firmware runs; only where guest firmware boots.
    #[serde(rename = "Open Firmware")]
    OpenFirmware,
    /// Since the first entry into the guest.
    Running,
    /// A shutdown was asked for and is not done.
    #[serde(rename = "Shutting Down")]
    ShuttingDown,
    /// On the way to Suspended.
    Suspending,
    /// Stopped with its state kept.
    Suspended,
    /// On the way back to Running.
    Resuming,
    /// Failed; the reason stands beside it.
    Error,
    /// The frame cannot say: its manager is away.
    #[serde(rename = "Not Available")]
    NotAvailable,
}

/// Every state, in the order of a partition's life.
pub const ALL: [State; 10] = [
    State::NotActivated,
    State::Starting,
    State::OpenFirmware,
    State::Running,
    State::ShuttingDown,
    State::Suspending,
    State::Suspended,
    State::Resuming,
    State::Error,
    State::NotAvailable,
];

impl State {
    /// The state as people read and write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotActivated => "Not Activated",
            Self::Starting => "Starting",
            Self::OpenFirmware => "Open Firmware",
            Self::Running => "Running",
            Self::ShuttingDown => "Shutting Down",
            Self::Suspending => "Suspending",
            Self::Suspended => "Suspended",
            Self::Resuming => "Resuming",
            Self::Error => "Error",
            Self::NotAvailable => "Not Available",
        }
    }

    /// Whether a process of the partition exists, or may exist.
    #[must_use]
    pub const fn is_active(self) -> bool {
        !matches!(self, Self::NotActivated | Self::Error | Self::NotAvailable)
    }

    /// Whether a partition may go from this state to `next` in one step.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use State::{
            Error, NotActivated, NotAvailable, OpenFirmware, Resuming, Running, ShuttingDown, Starting, Suspended,
            Suspending,
        };
        match (self, next) {
            // Knowledge can be lost and come back at any time; any active partition can fail or vanish.
            (NotAvailable, _) | (_, NotAvailable) => true,
            (from, Error) => from.is_active(),
            (NotActivated | Error, Starting) | (Error, NotActivated) => true,
            (Starting, OpenFirmware | Running | ShuttingDown | NotActivated) => true,
            (OpenFirmware, Running | ShuttingDown | NotActivated | Starting) => true,
            // A guest may power itself off or restart without being asked.
            (Running, ShuttingDown | Suspending | NotActivated | Starting) => true,
            // A partition that denies a shutdown keeps running.
            (ShuttingDown, NotActivated | Starting | Running) => true,
            (Suspending, Suspended | Running) | (Suspended, Resuming | NotActivated) => true,
            (Resuming, Running | Suspended) => true,
            _ => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no state; there are Not Activated, Starting, Open Firmware, Running, Shutting Down, Suspending, Suspended, Resuming, Error and Not Available"
)]
pub struct StateError(String);

impl std::str::FromStr for State {
    type Err = StateError;

    /// Takes the words in any case, with blanks, hyphens, underscores or nothing between them.
    fn from_str(text: &str) -> Result<Self, StateError> {
        let plain = |text: &str| -> String {
            text.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect()
        };
        let wanted = plain(text);
        ALL.into_iter()
            .find(|state| plain(state.as_str()) == wanted)
            .ok_or_else(|| StateError(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for state in ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
            assert_eq!(state.to_string().replace(' ', "-").to_uppercase().parse(), Ok(state));
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
        assert!("Runing".parse::<State>().is_err());
    }

    #[test]
    fn every_state_can_reach_not_activated() {
        for start in ALL {
            let mut reached = vec![start];
            let mut index = 0;
            while index < reached.len() {
                for next in ALL {
                    if reached[index].may_become(next) && next != State::NotAvailable && !reached.contains(&next) {
                        reached.push(next);
                    }
                }
                index += 1;
            }
            assert!(reached.contains(&State::NotActivated), "{start} cannot end");
        }
    }

    #[test]
    fn an_inactive_partition_does_not_fail() {
        assert!(!State::NotActivated.may_become(State::Error));
        assert!(!State::NotActivated.may_become(State::Running));
    }
}
