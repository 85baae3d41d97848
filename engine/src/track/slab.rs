//! Where entries of a table lie: in blocks that never move, so that a table that grows copies nothing and wastes less than a block.

use prefetch_index::prefetch_index;

/// Entries of a block; a power of two.
const BLOCK: usize = 1024;

/// Entries by slot.
#[derive(Clone, Debug)]
pub struct Slab<T> {
    /// All but the last one are full. Memory behind their ends was not written yet.
    blocks: Vec<Vec<T>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { blocks: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * BLOCK + last.len())
    }

    /// The entry in a slot.
    #[inline]
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.blocks.get(slot as usize / BLOCK)?.get(slot as usize % BLOCK)
    }

    /// The entry in a slot.
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.blocks.get_mut(slot as usize / BLOCK)?.get_mut(slot as usize % BLOCK)
    }

    /// Puts an entry into a new slot, and returns it.
    #[inline]
    pub fn push(&mut self, entry: T) -> u32 {
        let slot = self.len();
        match self.blocks.last_mut().filter(|last| last.len() < BLOCK) {
            Some(last) => last.push(entry),
            None => self.push_block(entry),
        }
        slot as u32
    }

    /// Adds a block that begins with an entry.
    #[cold]
    fn push_block(&mut self, entry: T) {
        let mut block = Vec::with_capacity(BLOCK);
        block.push(entry);
        self.blocks.push(block);
    }

    /// Asks memory for an entry.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        if let Some(block) = self.blocks.get(slot as usize / BLOCK) {
            prefetch_index(&block[..], slot as usize % BLOCK);
        }
    }

    /// All entries in order of slot.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.blocks.iter().flatten().enumerate().map(|(slot, entry)| (slot as u32, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_go_on_from_block_to_block() {
        let mut slab = Slab::default();
        for slot in 0..2 * BLOCK as u32 + 3 {
            assert_eq!(slab.push(slot), slot);
        }
        assert_eq!(slab.len(), 2 * BLOCK + 3);
        assert!(slab.iter().all(|(slot, entry)| *entry == slot));
        assert_eq!((slab.get(BLOCK as u32), slab.get(2 * BLOCK as u32 + 3)), (Some(&(BLOCK as u32)), None));
    }
}
