//! What stands for whom: a glyph that tells owners apart without colour, and a colour for those who see it.

use super::scene::Owner;
use frame::name::Name;
use std::cmp::Reverse;

/// Most partitions that have a letter each.
pub const LETTERS: usize = 26;
/// How many of more partitions than that have one: the largest.
pub const LARGEST: usize = 20;
/// How many colours there are to tell partitions apart.
pub const COLOURS: usize = 8;
/// Glyph of several owners in one cell.
pub const SEVERAL: char = '+';
/// Glyph of a partition without a letter.
pub const ANOTHER: char = '*';

/// How a glyph is painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Paint {
    /// As text is.
    Plain,
    /// As a heading.
    Strong,
    /// So that it steps back.
    Faint,
    /// One of the [`COLOURS`] of partitions.
    Partition(usize),
    /// A shared pool.
    Pool,
    /// The host's own.
    Host,
    /// What is broken.
    Guarded,
}

/// What stands for an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The glyph: one column wide, ASCII.
    pub glyph: char,
    /// How it is painted.
    pub paint: Paint,
}

/// A partition as far as it matters for who gets a letter.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// Its name.
    pub name: Name,
    /// Its part of the machine's CPUs or memory, whichever is more: 0 to 1.
    pub share: f64,
}

/// The marks of all partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// By position in the plan: which letter it has, if it has one.
    letters: Vec<Option<usize>>,
    /// Positions in the plan of those that have a letter, by letter.
    listed: Vec<usize>,
}

impl Marks {
    /// All partitions get letters when there are enough, in the order given; otherwise the largest do.
    #[must_use]
    pub fn new(tallies: &[Tally]) -> Self {
        let mut listed: Vec<usize> = (0..tallies.len()).collect();
        if tallies.len() > LETTERS {
            let key = |at: &usize| tallies.get(*at).map(|one| (Reverse(Ordered(one.share)), one.name.clone()));
            listed.sort_by_cached_key(key);
            listed.truncate(LARGEST);
        }
        let mut letters = vec![None; tallies.len()];
        for (letter, at) in listed.iter().enumerate() {
            if let Some(place) = letters.get_mut(*at) {
                *place = Some(letter);
            }
        }
        Self { letters, listed }
    }

    /// Positions of the partitions that have letters, in the order of the letters.
    #[must_use]
    pub fn listed(&self) -> &[usize] {
        &self.listed
    }

    /// How many partitions have none.
    #[must_use]
    pub fn unlisted(&self) -> usize {
        self.letters.len() - self.listed.len()
    }

    /// Whether a partition has a letter.
    #[must_use]
    pub fn is_listed(&self, at: usize) -> bool {
        self.letters.get(at).copied().flatten().is_some()
    }

    /// How many times a partition's colour was given to others before it.
    #[must_use]
    pub fn round(&self, at: usize) -> usize {
        self.letters.get(at).copied().flatten().unwrap_or(0) / COLOURS
    }

    /// What stands for an owner.
    #[must_use]
    pub fn of(&self, owner: Owner) -> Mark {
        let mark = |glyph, paint| Mark { glyph, paint };
        match owner {
            Owner::Partition(at) => mark(self.letter(at).unwrap_or(ANOTHER), self.colour(at)),
            Owner::Idle(at) => mark('-', self.colour(at)),
            Owner::Pool(at) => mark(pool_glyph(at), Paint::Pool),
            Owner::Host => mark('=', Paint::Host),
            Owner::Guarded => mark('!', Paint::Guarded),
            Owner::Nobody => mark('.', Paint::Faint),
            Owner::Outside => mark('_', Paint::Faint),
        }
    }

    /// What stands for a cell in which all of `owners` are: one mark when they are one, when they are a
    /// partition with its idle siblings, or when something is guarded.
    #[must_use]
    pub fn of_cell(&self, owners: impl IntoIterator<Item = Owner>) -> Mark {
        let mut all: Vec<Owner> = owners.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        match all.as_slice() {
            [] => self.of(Owner::Outside),
            [one] => self.of(*one),
            some if some.contains(&Owner::Guarded) => self.of(Owner::Guarded),
            [Owner::Partition(at), Owner::Idle(idle)] if at == idle => {
                let glyph = self.letter(*at).map_or('-', |letter| letter.to_ascii_lowercase());
                Mark { glyph, paint: self.colour(*at) }
            }
            _ => Mark { glyph: SEVERAL, paint: Paint::Strong },
        }
    }

    fn letter(&self, at: usize) -> Option<char> {
        let letter = self.letters.get(at).copied().flatten()?;
        u8::try_from(letter).ok().filter(|letter| *letter < 26).map(|letter| char::from(b'A' + letter))
    }

    /// Colours go round; those without a letter have one too, so that neighbours differ.
    fn colour(&self, at: usize) -> Paint {
        Paint::Partition(self.letters.get(at).copied().flatten().unwrap_or(at) % COLOURS)
    }
}

/// Pools have digits as long as there are some.
fn pool_glyph(at: usize) -> char {
    match u8::try_from(at) {
        Ok(at) if at < 9 => char::from(b'1' + at),
        _ => '#',
    }
}

/// A share, which is never NaN, in order.
struct Ordered(f64);

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}
