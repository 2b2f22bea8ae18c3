//! 256 bits, one for each vector.

use serde::{Deserialize, Serialize};

/// A register of 256 bits: eight words of 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bits([u32; 8]);

impl Bits {
    /// Sets or clears a bit; whether that changed it.
    pub(super) fn set(&mut self, vector: u8, on: bool) -> bool {
        let Some(word) = self.0.get_mut(usize::from(vector >> 5)) else { return false };
        let before = *word;
        let bit = 1 << (vector & 31);
        *word = if on { before | bit } else { before & !bit };
        *word != before
    }

    /// A bit.
    pub(super) fn get(&self, vector: u8) -> bool {
        self.0.get(usize::from(vector >> 5)).is_some_and(|word| word & 1 << (vector & 31) != 0)
    }

    /// The highest bit that is set.
    pub(super) fn highest(&self) -> Option<u8> {
        let words = self.0.iter().zip([0u32, 1, 2, 3, 4, 5, 6, 7]).rev();
        words.filter_map(|(word, at)| word.checked_ilog2().map(|bit| (at * 32 + bit) as u8)).next()
    }

    /// The word whose register is `offset` bytes behind the first.
    pub(super) fn word(&self, offset: u64) -> u32 {
        self.0.get((offset >> 4) as usize).copied().unwrap_or_default()
    }
}
