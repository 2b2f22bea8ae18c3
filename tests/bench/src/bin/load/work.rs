//! The loads, and how they are asked for: a line of words.

use anyhow::{Context, Result, bail};

/// Bytes of a random read.
pub const SMALL: usize = 4096;
/// Bytes of a sequential read.
pub const LARGE: usize = 128 << 10;
/// Bytes of one message there, and of the one back.
pub const MESSAGE: usize = 64;
/// Bytes that a stream is written by.
pub const PIECE: usize = 64 << 10;

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// So many reads of [`SMALL`] bytes anywhere on the disk, `depth` of them at a time.
    Random { depth: usize, count: usize },
    /// So many reads of [`LARGE`] bytes, one after the other.
    Sequential { count: usize },
    /// The guest sends so many bytes.
    Send { bytes: usize },
    /// The guest receives so many bytes.
    Receive { bytes: usize },
    /// So many messages of [`MESSAGE`] bytes to the guest, each of which it sends back.
    Echo { count: usize },
}

impl Work {
    /// What is measured, each long enough for a clock and short enough for many rounds.
    pub const ALL: [Self; 6] = [
        Self::Random { depth: 1, count: 800 },
        Self::Random { depth: 8, count: 1600 },
        Self::Sequential { count: 400 },
        Self::Send { bytes: 16 << 20 },
        Self::Receive { bytes: 16 << 20 },
        Self::Echo { count: 400 },
    ];

    /// What the results call it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Random { depth, .. } => format!("block: 4 KiB random read, {depth} at a time"),
            Self::Sequential { .. } => "block: 128 KiB sequential read".to_owned(),
            Self::Send { .. } => "network: TCP stream out of the guest".to_owned(),
            Self::Receive { .. } => "network: TCP stream into the guest".to_owned(),
            Self::Echo { .. } => "network: 64 bytes there and back".to_owned(),
        }
    }

    /// How much of what is done, and what that is.
    #[must_use]
    pub fn amount(self) -> (f64, &'static str) {
        const MIB: f64 = (1 << 20) as f64;
        match self {
            Self::Random { count, .. } | Self::Echo { count } => (count as f64, "a second"),
            Self::Sequential { count } => ((count * LARGE) as f64 / MIB, "MiB/s"),
            Self::Send { bytes } | Self::Receive { bytes } => (bytes as f64 / MIB, "MiB/s"),
        }
    }

    /// The line that asks for it.
    #[must_use]
    pub fn line(self) -> String {
        match self {
            Self::Random { depth, count } => format!("random {depth} {count}\n"),
            Self::Sequential { count } => format!("sequential {count}\n"),
            Self::Send { bytes } => format!("send {bytes}\n"),
            Self::Receive { bytes } => format!("receive {bytes}\n"),
            Self::Echo { count } => format!("echo {count}\n"),
        }
    }

    /// Reads such a line.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| -> Result<usize> {
            let word = words.get(at).with_context(|| format!("{line:?} lacks a number"))?;
            word.parse().with_context(|| format!("{line:?} has no number"))
        };
        Ok(match words.first().copied() {
            Some("random") => Self::Random { depth: number(1)?.clamp(1, 64), count: number(2)? },
            Some("sequential") => Self::Sequential { count: number(1)? },
            Some("send") => Self::Send { bytes: number(1)? },
            Some("receive") => Self::Receive { bytes: number(1)? },
            Some("echo") => Self::Echo { count: number(1)? },
            _ => bail!("{line:?} is no load"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_read_as_it_is_written() {
        for work in Work::ALL {
            assert_eq!(Work::parse(&work.line()).unwrap(), work);
        }
        assert!(Work::parse("write 7").is_err());
        assert!(Work::parse("send much").is_err());
        assert!(Work::parse("echo").is_err());
    }
}
