//! Sets of logical CPUs, written as Linux writes them: `0-3,8`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// A set of logical CPUs of the host, by their numbers. A clone is cheap: many virtual processors have one
/// pool's set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(Arc<BTreeSet<u32>>);

/// Highest CPU number that a set may hold: eight times the most that Linux can be built for on x86-64.
pub const HIGHEST: u32 = 65_535;

/// Why a text is no set of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuSetError {
    /// A piece between commas is neither a number nor a range.
    #[error("{0:?} is neither a CPU number nor a range such as 0-3")]
    Piece(String),
    /// A range runs backwards.
    #[error("the range {0}-{1} runs backwards")]
    Backwards(u32, u32),
    /// A number is above [`HIGHEST`].
    #[error("CPU {0} is above {HIGHEST}, the highest number supported")]
    TooHigh(u64),
}

impl CpuSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the list format of Linux (`cpuset(7)`, "List format"); blanks around pieces are ignored.
    ///
    /// # Errors
    /// [`CpuSetError`] names the piece that is wrong.
    pub fn parse(text: &str) -> Result<Self, CpuSetError> {
        let number = |piece: &str| -> Result<u32, CpuSetError> {
            let digits = !piece.is_empty() && piece.bytes().all(|b| b.is_ascii_digit());
            let value: u64 = if digits {
                piece.parse().unwrap_or(u64::MAX)
            } else {
                return Err(CpuSetError::Piece(piece.chars().take(32).collect()));
            };
            match u32::try_from(value) {
                Ok(cpu) if cpu <= HIGHEST => Ok(cpu),
                _ => Err(CpuSetError::TooHigh(value)),
            }
        };
        let mut ranges = vec![];
        for piece in text.split(',').map(str::trim).filter(|piece| !piece.is_empty()) {
            let (first, last) = match piece.split_once('-') {
                Some((first, last)) => (number(first.trim())?, number(last.trim())?),
                None => (number(piece)?, number(piece)?),
            };
            if first > last {
                return Err(CpuSetError::Backwards(first, last));
            }
            ranges.push((first, last));
        }
        // Ranges that overlap count once: a long text must not cost more than it is long.
        ranges.sort_unstable();
        let mut set = BTreeSet::new();
        let mut next = 0;
        for (first, last) in ranges {
            set.extend(first.max(next)..=last);
            next = next.max(last + 1);
        }
        Ok(Self(Arc::new(set)))
    }

    /// Adds one CPU; true when it was not there before.
    pub fn insert(&mut self, cpu: u32) -> bool {
        Arc::make_mut(&mut self.0).insert(cpu)
    }

    /// Takes one CPU out; true when it was there.
    pub fn remove(&mut self, cpu: u32) -> bool {
        Arc::make_mut(&mut self.0).remove(&cpu)
    }

    /// Whether `cpu` is in the set.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// How many CPUs the set has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set has no CPU.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// CPUs of both sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.0.union(&other.0).copied().collect()
    }

    /// CPUs that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.0.intersection(&other.0).copied().collect()
    }

    /// CPUs of this set that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.0.difference(&other.0).copied().collect()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(Arc::new(cpus.into_iter().collect()))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let mut cpus = self.0.iter().copied().peekable();
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.peek() == Some(&(last + 1)) {
                last += 1;
                cpus.next();
            }
            if !text.is_empty() {
                text.push(',');
            }
            text += &if first == last { first.to_string() } else { format!("{first}-{last}") };
        }
        f.pad(&text)
    }
}

impl TryFrom<String> for CpuSet {
    type Error = CpuSetError;
    fn try_from(text: String) -> Result<Self, CpuSetError> {
        Self::parse(&text)
    }
}

impl From<CpuSet> for String {
    fn from(set: CpuSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_writes_the_list_format() {
        let set = CpuSet::parse(" 8, 0-2,3 ").unwrap();
        assert_eq!(set.to_string(), "0-3,8");
        assert_eq!(CpuSet::parse("").unwrap(), CpuSet::new());
    }

    #[test]
    fn refuses_with_the_reason() {
        assert_eq!(CpuSet::parse("3-1"), Err(CpuSetError::Backwards(3, 1)));
        assert_eq!(CpuSet::parse("0-x"), Err(CpuSetError::Piece("x".into())));
        assert_eq!(CpuSet::parse("-1"), Err(CpuSetError::Piece(String::new())));
        assert_eq!(CpuSet::parse("0-99999999"), Err(CpuSetError::TooHigh(99_999_999)));
    }

    #[test]
    fn overlapping_ranges_cost_no_more_than_their_text() {
        let text = "0-65535,".repeat(100_000);
        assert_eq!(CpuSet::parse(&text).unwrap().len(), 65_536);
        assert_eq!(CpuSet::parse("5,0-3,2-7,1").unwrap().to_string(), "0-7");
    }

    proptest! {
        #[test]
        fn survives_a_round_trip(cpus in proptest::collection::btree_set(0u32..300, 0..40)) {
            let set: CpuSet = cpus.into_iter().collect();
            prop_assert_eq!(CpuSet::parse(&set.to_string()).unwrap(), set);
        }

        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = CpuSet::parse(&text);
        }
    }
}
