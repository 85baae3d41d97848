//! An index of the connection table: slots of entries by fingerprint, in a hash table whose buckets are lines of a processor's
//! cache, eight places each. A fingerprint's slot stands in its home line, or in one of those that follow it if all before are full.
//!
//! It is no general hash table because of what batch needs of it: to ask memory for the lines of many fingerprints before any of
//! them is searched, so that it brings them all at once; and then to find each in the line that was asked for, nearly always, for
//! the next one would have to be waited for. A library's table was tried first (docs/benchmarks.md).

use prefetch_index::prefetch_index;

/// A hash of all that an entry is looked up by. The index keeps it, so that it grows without looking at entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(pub u32);

/// Slots by fingerprint. Several may have the same.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// As many as a power of two, or none at all.
    lines: Vec<Line>,
    len: usize,
}

/// Places of a line.
const PLACES: usize = 8;

/// Some slots with their fingerprints. Those in use come first.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line {
    fingerprints: [u32; PLACES],
    slots: [u32; PLACES],
}

const _: () = assert!(size_of::<Line>() == 64);

const FEWEST_LINES: usize = 2;

/// No slot: there are fewer of those. It is not 0, because memory that the system has yet to fill with zeros and that is read
/// before it is written costs two page faults instead of one, the second of which stops all threads.
const EMPTY: u32 = u32::MAX;

/// Some places of a line: all bits of a byte for each.
#[derive(Clone, Copy)]
struct Places(u64);

impl Places {
    /// The first one; [`PLACES`] if there is none.
    #[inline]
    fn first(self) -> usize {
        self.0.trailing_zeros() as usize / 8
    }

    /// The same without the first one.
    #[inline]
    fn others(self) -> Places {
        Places(self.0 & !(0xff_u64.wrapping_shl(self.0.trailing_zeros())))
    }
}

impl Line {
    const UNUSED: Line = Line { fingerprints: [0; PLACES], slots: [EMPTY; PLACES] };

    /// The places of a fingerprint; perhaps some that are not in use, too.
    #[inline]
    fn places_of(&self, fingerprint: u32) -> Places {
        // Of all bits of a byte the compiler makes one comparison for several places.
        Places(u64::from_le_bytes(self.fingerprints.map(|known| if known == fingerprint { 0xff } else { 0 })))
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.slots[PLACES - 1] != EMPTY
    }

    /// How many places are in use.
    #[inline]
    fn len(&self) -> usize {
        self.slots.iter().filter(|slot| **slot != EMPTY).count()
    }

    /// Takes a place's content out.
    fn take(&mut self, place: usize) -> (u32, u32) {
        let last = self.len() - 1;
        let taken = (self.fingerprints[place], self.slots[place]);
        self.fingerprints[place] = self.fingerprints[last];
        self.slots[place] = self.slots[last];
        self.slots[last] = EMPTY;
        taken
    }
}

impl Index {
    /// What makes the number of a line of any number.
    #[inline]
    fn mask(&self) -> usize {
        self.lines.len().wrapping_sub(1)
    }

    /// The line where the search for a fingerprint begins.
    #[inline]
    fn home(&self, fingerprint: u32) -> usize {
        fingerprint as usize & self.mask()
    }

    /// Asks memory for where the search for a fingerprint begins.
    #[inline]
    pub fn prefetch(&self, fingerprint: Fingerprint) {
        prefetch_index(&self.lines, self.home(fingerprint.0));
    }

    /// The first slot with a fingerprint that fits.
    #[inline]
    pub fn find(&self, fingerprint: Fingerprint, mut fits: impl FnMut(u32) -> bool) -> Option<u32> {
        self.all(fingerprint).find(|slot| fits(*slot))
    }

    /// The first slot with a fingerprint.
    #[inline]
    pub fn first(&self, fingerprint: Fingerprint) -> Option<u32> {
        let line = self.lines.get(self.home(fingerprint.0))?;
        let place = line.places_of(fingerprint.0).first();
        match line.slots.get(place) {
            Some(slot) if *slot != EMPTY => Some(*slot),
            None if !line.is_full() => None,
            // Seldom: it stands in another line, if anywhere.
            _ => self.all(fingerprint).next(),
        }
    }

    /// All slots with a fingerprint.
    #[inline]
    pub fn all(&self, fingerprint: Fingerprint) -> impl Iterator<Item = u32> {
        let mut number = self.home(fingerprint.0);
        let mut line = self.lines.get(number);
        let mut places = line.map_or(Places(0), |line| line.places_of(fingerprint.0));
        // Some line is never full, so every search ends.
        std::iter::from_fn(move || {
            loop {
                while places.first() < PLACES {
                    let place = places.first();
                    places = places.others();
                    let slot = line?.slots[place % PLACES];
                    if slot != EMPTY {
                        return Some(slot);
                    }
                }
                line.filter(|line| line.is_full())?;
                number = (number + 1) & self.mask();
                line = self.lines.get(number);
                places = line?.places_of(fingerprint.0);
            }
        })
    }

    /// Adds a slot.
    #[inline]
    pub fn insert(&mut self, fingerprint: Fingerprint, slot: u32) {
        // Three quarters: more full lines cost more than the memory.
        if (self.len + 1) * 4 > self.lines.len() * PLACES * 3 {
            self.grow();
        }
        self.put(fingerprint.0, slot);
        self.len += 1;
    }

    #[inline]
    fn put(&mut self, fingerprint: u32, slot: u32) {
        let mask = self.mask();
        let mut number = self.home(fingerprint);
        while let Some(line) = self.lines.get_mut(number) {
            if !line.is_full() {
                let place = line.len() % PLACES;
                (line.fingerprints[place], line.slots[place]) = (fingerprint, slot);
                return;
            }
            number = (number + 1) & mask;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let lines = vec![Line::UNUSED; (self.lines.len() * 2).max(FEWEST_LINES)];
        for line in std::mem::replace(&mut self.lines, lines) {
            for (fingerprint, slot) in line.fingerprints.into_iter().zip(line.slots).take(line.len()) {
                self.put(fingerprint, slot);
            }
        }
    }

    /// Takes a slot out.
    pub fn remove(&mut self, fingerprint: Fingerprint, slot: u32) {
        let mask = self.mask();
        let mut number = self.home(fingerprint.0);
        let place = loop {
            let Some(line) = self.lines.get(number) else { return };
            let found = (0..line.len()).find(|place| (line.fingerprints[*place], line.slots[*place]) == (fingerprint.0, slot));
            match found {
                Some(place) => break place,
                None if line.is_full() => number = (number + 1) & mask,
                None => return,
            }
        };
        self.len -= 1;
        let mut goes_on = self.lines[number].is_full();
        self.lines[number].take(place);
        // Whoever stands behind a full line may be there because it was full: the first that belongs before moves up, and leaves
        // room in turn.
        let mut room = number;
        while goes_on {
            number = (number + 1) & mask;
            let line = &self.lines[number];
            goes_on = line.is_full();
            let belongs_before = |place: &usize| {
                let home = self.home(line.fingerprints[*place]);
                number.wrapping_sub(home) & mask >= number.wrapping_sub(room) & mask
            };
            if let Some(place) = (0..line.len()).find(belongs_before) {
                let (fingerprint, slot) = self.lines[number].take(place);
                let line = &mut self.lines[room];
                let last = line.len() % PLACES;
                (line.fingerprints[last], line.slots[last]) = (fingerprint, slot);
                room = number;
            }
        }
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
                    let first = index.first(Fingerprint(fingerprint));
                    prop_assert_eq!(first.is_some(), !known.is_empty());
                    prop_assert!(first.is_none_or(|first| known.contains(&first)));
                    prop_assert_eq!(found, known);
                }
            }
        }
    }
}
