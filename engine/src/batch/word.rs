//! What became of a packet of a run, while it is followed and once it is.

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a packet of a run, in one word: what it is and by how much it changed its server's active connections stand
/// at the top. Below is the binding of its connection; where that is not known yet, the place of the packet that opened it, or
/// if it is that packet, the connection's place among those that the run opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub u64);

impl Word {
    pub const KIND: u64 = 3 << 62;
    pub const REQUEST: u64 = 0;
    pub const ANSWER: u64 = 1 << 62;
    /// Of a connection that the run opened.
    pub const FRESH: u64 = 2 << 62;
    /// It opened its connection. Once its server is chosen the binding stands below.
    pub const OPENS: u64 = 3 << 62;
    /// By how much active connections change: a number of two bits, one of which is its sign.
    pub const CHANGE: u64 = 3 << 60;

    /// It opened a connection: by its shard, its place in the shard's list, and the place of its service.
    pub fn opening(shard: usize, place: usize, end: u16) -> Word {
        Word(Word::OPENS | u64::from(end) << 32 | (shard as u64) << PLACE_BITS | place as u64)
    }

    /// Of the connection that a packet of the run opened, by where what became of that one stands.
    pub fn fresh(opening: u32) -> Word {
        Word(Word::FRESH | u64::from(opening))
    }

    /// It changes active connections by that: by one at most.
    #[inline]
    pub fn changing(self, active: i32) -> Word {
        Word(self.0 | (active as u64) << 60 & Word::CHANGE)
    }

    /// The change was counted.
    #[inline]
    pub fn counted(self) -> Word {
        Word(self.0 & !Word::CHANGE)
    }

    #[inline]
    pub fn kind(self) -> u64 {
        self.0 & Word::KIND
    }

    #[inline]
    pub fn binding(self) -> u32 {
        self.0 as u32
    }

    /// The word of the packet that opened its connection, if that was in this run.
    #[inline]
    pub fn bound(self, found: &[AtomicU64]) -> Word {
        if self.kind() != Word::FRESH {
            return self;
        }
        let opening = found.get(self.0 as u32 as usize);
        Word(opening.map_or(u64::from(UNBOUND), |outcome| outcome.load(Ordering::Relaxed)))
    }

    pub fn end(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline]
    pub fn place(self) -> (usize, usize) {
        let place = self.0 as u32;
        ((place >> PLACE_BITS) as usize, (place & ((1 << PLACE_BITS) - 1)) as usize)
    }

    /// Whether it changes how many active connections its server has.
    #[inline]
    pub fn changes(self) -> bool {
        self.0 & Word::CHANGE != 0
    }

    #[inline]
    pub fn change(self) -> i32 {
        ((self.0 << 2) as i64 >> 62) as i32
    }
}

/// What became of a packet of a run, taken apart once: where its word is asked instead as it is needed, making a frame takes fifteen
/// instructions more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The binding of its connection.
    pub binding: u32,
    /// It opened its connection.
    pub opens: bool,
    /// It came from the server.
    pub answer: bool,
    /// What was stored: it says by how much its server's active connections change, if that was not counted yet.
    pub word: Word,
}

/// In the place of a binding: the connection has no server yet, the rest is its place among those that the run opened.
pub(super) const UNBOUND: u32 = 1 << 31;
/// Bits of a connection's place in its shard's list.
pub(super) const PLACE_BITS: u32 = 20;
/// The longest run: no shard can open more connections than have a place.
pub(super) const LONGEST_RUN: usize = 1 << PLACE_BITS;

impl Outcome {
    /// From what tracking stored, once servers are chosen.
    #[inline]
    pub fn read(stored: u64, found: &[AtomicU64]) -> Outcome {
        let word = Word(stored);
        let (opens, answer) = (word.kind() == Word::OPENS, word.kind() == Word::ANSWER);
        Outcome { binding: word.bound(found).binding(), opens, answer, word }
    }
}
