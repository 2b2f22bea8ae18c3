//! The end of what was written to the terminal.

use std::collections::VecDeque;

/// Bytes that are kept.
pub const KEPT: usize = 16 << 10;

/// Bytes by their place among all that were ever written.
#[derive(Debug, Default)]
pub struct History {
    bytes: VecDeque<u8>,
    /// Place of the first that is kept.
    begin: u64,
}

impl History {
    /// Takes what was written; the oldest gives way.
    pub fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(KEPT);
        drop(self.bytes.drain(..over));
        self.begin += over as u64;
    }

    /// What lies together from `place` on, or from the first that is kept on where that is later; and its place.
    pub fn from(&self, place: u64) -> (u64, &[u8]) {
        let place = place.max(self.begin);
        let skip = usize::try_from(place - self.begin).unwrap_or(usize::MAX);
        let (first, second) = self.bytes.as_slices();
        let rest = first.get(skip..).filter(|rest| !rest.is_empty());
        (place, rest.or_else(|| second.get(skip.saturating_sub(first.len())..)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_reader_sees_what_was_written_but_for_the_oldest(writes in proptest::collection::vec(0usize..6000, 1..20), every in 1usize..5) {
            let (mut history, mut all, mut seen, mut place) = (History::default(), vec![], vec![], 0u64);
            for (turn, count) in writes.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..count).map(|at| (all.len() + at) as u8).collect();
                history.write(&bytes);
                all.extend(bytes);
                prop_assert!(history.bytes.len() <= KEPT);
                if turn % every != 0 {
                    continue;
                }
                loop {
                    let (from, bytes) = history.from(place);
                    prop_assert!(from >= place);
                    if bytes.is_empty() {
                        break;
                    }
                    prop_assert_eq!(bytes, &all[from as usize..from as usize + bytes.len()]);
                    seen.extend_from_slice(bytes);
                    place = from + bytes.len() as u64;
                }
                prop_assert_eq!(place, all.len() as u64);
                let tail = all.len().min(KEPT).min(seen.len());
                prop_assert!(seen.ends_with(&all[all.len() - tail..]));
            }
        }
    }
}
