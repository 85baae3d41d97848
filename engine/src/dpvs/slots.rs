//! Where things lie whose places are numbered, and used again.

use super::entry::Entry;
use prefetch_index::prefetch_index;

/// Entries of a block; a power of two.
const BLOCK: usize = 1024;

/// Entries of connections by slot, in blocks that never move: so a table that grows copies nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    /// All but the last one are full.
    blocks: Vec<Vec<Entry>>,
}

impl Entries {
    /// The entry in a slot.
    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.blocks.get(slot as usize / BLOCK)?.get(slot as usize % BLOCK)
    }

    /// The entry in a slot.
    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.blocks.get_mut(slot as usize / BLOCK)?.get_mut(slot as usize % BLOCK)
    }

    /// Puts an entry into a new slot, and returns that.
    #[inline]
    pub(super) fn push(&mut self, entry: Entry) -> u32 {
        if self.blocks.last().is_none_or(|last| last.len() == BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let before = (self.blocks.len() - 1) * BLOCK;
        self.blocks.last_mut().map_or(0, |last| {
            last.push(entry);
            (before + last.len() - 1) as u32
        })
    }

    /// Asks memory for an entry.
    #[inline]
    pub(super) fn prefetch(&self, slot: u32) {
        if let Some(block) = self.blocks.get(slot as usize / BLOCK) {
            prefetch_index(&block[..], slot as usize % BLOCK);
        }
    }

    /// All entries in order of slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.blocks.iter().flatten()
    }
}

/// What only some connections have, by place.
#[derive(Clone, Debug)]
pub(super) struct Places<T> {
    list: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Places<T> {
    fn default() -> Places<T> {
        Places { list: Vec::new(), free: Vec::new() }
    }
}

impl<T> Places<T> {
    /// Puts something into a free place, and returns that.
    pub(super) fn put(&mut self, thing: T) -> u32 {
        let place = self.free.pop().unwrap_or(self.list.len() as u32);
        match self.list.get_mut(place as usize) {
            Some(free) => *free = Some(thing),
            None => self.list.push(Some(thing)),
        }
        place
    }

    /// Takes what is in a place, and frees it.
    pub(super) fn take(&mut self, place: u32) -> Option<T> {
        let thing = self.list.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(thing)
    }

    /// What is in a place.
    #[inline]
    pub(super) fn get(&self, place: u32) -> Option<&T> {
        self.list.get(place as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut places = Places::default();
        assert_eq!((places.put('a'), places.put('b')), (0, 1));
        assert_eq!((places.take(0), places.take(0), places.get(0), places.get(1)), (Some('a'), None, None, Some(&'b')));
        assert_eq!((places.put('c'), places.put('d'), places.get(0)), (0, 2, Some(&'c')));
    }

    #[test]
    fn slots_go_on_from_block_to_block() {
        let mut entries = Entries::default();
        for slot in 0..2 * BLOCK as u32 + 3 {
            let mut entry = Entry::EMPTY;
            entry.trigger = slot;
            assert_eq!(entries.push(entry), slot);
        }
        assert!((0..).zip(entries.iter()).all(|(slot, entry)| entry.trigger == slot));
        assert_eq!(entries.get(BLOCK as u32).map(|entry| entry.trigger), Some(BLOCK as u32));
        assert!(entries.get(2 * BLOCK as u32 + 3).is_none());
    }
}
