//! Bars: amounts by owner as a row of cells.

use super::marks::{Mark, Marks};
use super::scene::Owner;
use std::collections::BTreeSet;

/// The cells of a bar: `shares` one after another, `cell` of them in each cell (the last may be less full).
///
/// Every partition is seen: a cell is that of the partition that has the most of it, if all others that have
/// part of it have a cell elsewhere; if not, it is that of several. A cell in which no partition has part is
/// that of who has the most of it.
#[must_use]
pub fn bar(marks: &Marks, shares: &[(Owner, u64)], cell: u64) -> Vec<Mark> {
    let cells = cut(shares, cell);
    let chief: Vec<Option<Owner>> = cells.iter().map(|parts| most(parts, is_partition)).collect();
    let seen: BTreeSet<Owner> = chief.iter().flatten().copied().collect();
    cells
        .iter()
        .zip(&chief)
        .map(|(parts, chief)| match chief {
            Some(chief) => {
                let hidden = parts.iter().any(|(owner, _)| is_partition(*owner) && !seen.contains(owner));
                if hidden {
                    marks.of_cell(parts.iter().map(|(owner, _)| *owner).filter(|one| is_partition(*one)))
                } else {
                    marks.of(*chief)
                }
            }
            None => marks.of(most(parts, |_| true).unwrap_or(Owner::Nobody)),
        })
        .collect()
}

fn is_partition(owner: Owner) -> bool {
    matches!(owner, Owner::Partition(_))
}

/// The owner that has the most, of those for whom `which` holds; the first of equals.
fn most(parts: &[(Owner, u64)], which: impl Fn(Owner) -> bool) -> Option<Owner> {
    let mut best: Option<(Owner, u64)> = None;
    for &(owner, amount) in parts {
        if which(owner) && best.is_none_or(|(_, most)| amount > most) {
            best = Some((owner, amount));
        }
    }
    best.map(|(owner, _)| owner)
}

/// Cuts shares into cells.
pub fn cut(shares: &[(Owner, u64)], cell: u64) -> Vec<Vec<(Owner, u64)>> {
    let cell = cell.max(1);
    let mut cells: Vec<Vec<(Owner, u64)>> = Vec::new();
    let mut room = 0;
    for &(owner, mut amount) in shares {
        while amount > 0 {
            if room == 0 {
                cells.push(Vec::new());
                room = cell;
            }
            let part = amount.min(room);
            if let Some(last) = cells.last_mut() {
                last.push((owner, part));
            }
            room -= part;
            amount -= part;
        }
    }
    cells
}

/// The least power of two, times `least`, of which at most `most` cover `amount`.
#[must_use]
pub fn cell_size(amount: u64, most: usize, least: u64) -> u64 {
    let most = (most as u64).max(1);
    let mut size = least.max(1);
    while amount.div_ceil(size) > most {
        let Some(next) = size.checked_mul(2) else { return u64::MAX };
        size = next;
    }
    size
}
