//! Where entries lie: in blocks that never move, so that a table that grows copies nothing and wastes less than a block.

use super::connection::{Entry, EntryFlags};
use prefetch_index::prefetch_index;

/// Entries of a block; a power of two.
const BLOCK: usize = 1024;

type Block = [Entry; BLOCK];

/// Entries by slot.
#[derive(Clone, Debug, Default)]
pub struct Slab {
    blocks: Vec<Box<Block>>,
    len: u32,
}

impl Slab {
    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The entry in a slot.
    #[inline]
    pub fn get(&self, slot: u32) -> Option<&Entry> {
        self.blocks.get(slot as usize / BLOCK).map(|block| &block[slot as usize % BLOCK])
    }

    /// The entry in a slot.
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.blocks.get_mut(slot as usize / BLOCK).map(|block| &mut block[slot as usize % BLOCK])
    }

    /// Puts an entry into a new slot, and returns it.
    pub fn push(&mut self, entry: Entry) -> u32 {
        let slot = self.len;
        match self.get_mut(slot) {
            Some(place) => *place = entry,
            None => self.blocks.extend(block_of(entry)),
        }
        self.len += 1;
        slot
    }

    /// Asks memory for an entry.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        if let Some(block) = self.blocks.get(slot as usize / BLOCK) {
            prefetch_index(&block[..], slot as usize % BLOCK);
        }
    }

    /// All entries in order of slot.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.blocks.iter().flat_map(|block| block.iter()).take(self.len()).enumerate().map(|(slot, entry)| (slot as u32, entry))
    }
}

/// A block that begins with an entry. Made on the heap: it is too large for a stack.
#[cold]
fn block_of(entry: Entry) -> Option<Box<Block>> {
    let unused = Entry { flags: EntryFlags::empty(), ..entry };
    let mut block: Box<Block> = vec![unused; BLOCK].into_boxed_slice().try_into().ok()?;
    block[0] = entry;
    Some(block)
}
