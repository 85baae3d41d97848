//! An index of the connection table: slots of entries by fingerprint, in open addressing with linear probing.
//!
//! It is no general hash table because of what batch needs of it: to look at the places of several fingerprints before any of
//! them is searched, so that memory brings them all at once. A library's table was tried first (docs/benchmarks.md).

use prefetch_index::prefetch_index;

/// A hash of all that an entry is looked up by. The index keeps it, so that it grows without looking at entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(pub u32);

/// Slots by fingerprint. Several may have the same.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Fingerprint (upper half) and slot. As many as a power of two, or none at all.
    cells: Vec<u64>,
    len: usize,
}

const FEWEST: usize = 16;

/// No cell of a slot: there are fewer of those. It is not 0, because memory that the system has yet to fill with zeros and that
/// is read before it is written costs two page faults instead of one, the second of which stops all threads.
const EMPTY: u64 = u64::MAX;

fn cell(fingerprint: Fingerprint, slot: u32) -> u64 {
    u64::from(fingerprint.0) << 32 | u64::from(slot)
}

impl Index {
    /// Where the search for a fingerprint begins.
    #[inline]
    fn home(&self, fingerprint: u32) -> usize {
        fingerprint as usize & self.cells.len().wrapping_sub(1)
    }

    /// Asks memory for where the search for a fingerprint begins.
    #[inline]
    pub fn prefetch(&self, fingerprint: Fingerprint) {
        prefetch_index(&self.cells, self.home(fingerprint.0));
    }

    /// The first slot with a fingerprint that fits.
    #[inline]
    pub fn find(&self, fingerprint: Fingerprint, mut fits: impl FnMut(u32) -> bool) -> Option<u32> {
        self.all(fingerprint).find(|slot| fits(*slot))
    }

    /// All slots with a fingerprint.
    #[inline]
    pub fn all(&self, fingerprint: Fingerprint) -> impl Iterator<Item = u32> {
        let mask = self.cells.len().wrapping_sub(1);
        let mut at = self.home(fingerprint.0);
        // One cell is always empty, so every search ends.
        std::iter::from_fn(move || {
            loop {
                let cell = self.cells.get(at).copied().filter(|cell| *cell != EMPTY)?;
                at = (at + 1) & mask;
                if (cell >> 32) as u32 == fingerprint.0 {
                    return Some(cell as u32);
                }
            }
        })
    }

    /// Adds a slot.
    #[inline]
    pub fn insert(&mut self, fingerprint: Fingerprint, slot: u32) {
        // Three quarters: longer searches cost more than the memory.
        if (self.len + 1) * 4 > self.cells.len() * 3 {
            self.grow();
        }
        self.put(cell(fingerprint, slot));
        self.len += 1;
    }

    #[inline]
    fn put(&mut self, cell: u64) {
        let mask = self.cells.len().wrapping_sub(1);
        let mut at = self.home((cell >> 32) as u32);
        while let Some(place) = self.cells.get_mut(at) {
            if *place == EMPTY {
                *place = cell;
                return;
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let cells = vec![EMPTY; (self.cells.len() * 2).max(FEWEST)];
        for cell in std::mem::replace(&mut self.cells, cells) {
            if cell != EMPTY {
                self.put(cell);
            }
        }
    }

    /// Takes a slot out.
    pub fn remove(&mut self, fingerprint: Fingerprint, slot: u32) {
        let mask = self.cells.len().wrapping_sub(1);
        let wanted = cell(fingerprint, slot);
        let mut hole = self.home(fingerprint.0);
        loop {
            match self.cells.get(hole) {
                Some(cell) if *cell == wanted => break,
                Some(&EMPTY) | None => return,
                Some(_) => hole = (hole + 1) & mask,
            }
        }
        self.len -= 1;
        // What follows without a gap moves up, unless it would come to stand before where its search begins.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let cell = self.cells[at];
            if cell == EMPTY {
                break;
            }
            let from_home = at.wrapping_sub(self.home((cell >> 32) as u32)) & mask;
            if from_home >= (at.wrapping_sub(hole) & mask) {
                self.cells[hole] = cell;
                hole = at;
            }
        }
        self.cells[hole] = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn an_index_is_a_set_of_pairs(
            // Few fingerprints, some of them at the end, so that searches wrap and meet.
            steps in prop::collection::vec((prop_oneof![0..40u32, u32::MAX - 20..=u32::MAX], 0..30u32, any::<bool>()), 0..400),
        ) {
            let mut index = Index::default();
            let mut pairs = BTreeSet::new();
            for (fingerprint, slot, adds) in steps {
                if adds && pairs.insert((fingerprint, slot)) {
                    index.insert(Fingerprint(fingerprint), slot);
                } else if !adds {
                    pairs.remove(&(fingerprint, slot));
                    index.remove(Fingerprint(fingerprint), slot);
                }
                prop_assert_eq!(index.len, pairs.len());
                for fingerprint in (0..40).chain(u32::MAX - 20..=u32::MAX) {
                    let mut found: Vec<u32> = index.all(Fingerprint(fingerprint)).collect();
                    found.sort_unstable();
                    let known: Vec<u32> = pairs.range((fingerprint, 0)..=(fingerprint, u32::MAX)).map(|(_, slot)| *slot).collect();
                    prop_assert_eq!(found, known);
                }
            }
        }
    }
}
