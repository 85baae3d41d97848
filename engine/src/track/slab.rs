//! Where entries lie: in blocks that never move, so that a table that grows copies nothing and wastes less than a block.

use super::connection::Entry;

/// Entries of a block; a power of two.
const BLOCK: usize = 256;

/// Entries by slot.
#[derive(Clone, Debug, Default)]
pub struct Slab {
    blocks: Vec<Vec<Entry>>,
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
        self.blocks.get(slot as usize / BLOCK)?.get(slot as usize % BLOCK)
    }

    /// The entry in a slot.
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.blocks.get_mut(slot as usize / BLOCK)?.get_mut(slot as usize % BLOCK)
    }

    /// Puts an entry into a new slot, and returns it.
    pub fn push(&mut self, entry: Entry) -> u32 {
        let slot = self.len;
        match self.blocks.last_mut() {
            Some(block) if block.len() < BLOCK => block.push(entry),
            _ => {
                let mut block = Vec::with_capacity(BLOCK);
                block.push(entry);
                self.blocks.push(block);
            }
        }
        self.len += 1;
        slot
    }

    /// All entries in order of slot.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.blocks.iter().flatten().enumerate().map(|(slot, entry)| (slot as u32, entry))
    }
}
