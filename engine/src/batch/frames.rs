//! What batch reads from and writes to: frames that lie ready, and whoever takes what leaves.

use crate::director::Arrival;
use crate::output::EmittedFrame;
use crate::rewrite::edit::{Edit, First};
use crate::verdict::Verdict;
use std::ops::Range;

/// Frames that lie ready, in parts of some thousand. Every part is visited by one thread at a time, several parts at once.
pub trait Frames: Sync {
    /// How many parts there are.
    fn parts(&self) -> usize;

    /// How many frames a part has.
    fn part_len(&self, part: usize) -> usize;

    /// A frame of a part; none if it is not for the director (such as one that the director sent itself). It must be the
    /// same each time it is asked for.
    fn arrival(&self, part: usize, number: usize) -> Option<Arrival<'_>>;

    /// Frames of a part, as [`Frames::arrival`] gives them.
    fn arrivals(&self, part: usize, numbers: Range<usize>) -> impl ExactSizeIterator<Item = Option<Arrival<'_>>> {
        numbers.map(move |number| self.arrival(part, number))
    }
}

/// Frames of a slice, in parts of this length.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    arrivals: &'a [Arrival<'a>],
    part: usize,
}

impl<'a> Slice<'a> {
    /// In parts of `part` frames, at least 1.
    pub fn new(arrivals: &'a [Arrival<'a>], part: usize) -> Slice<'a> {
        Slice { arrivals, part: part.max(1) }
    }
}

impl Frames for Slice<'_> {
    fn parts(&self) -> usize {
        self.arrivals.len().div_ceil(self.part)
    }

    fn part_len(&self, part: usize) -> usize {
        self.arrivals.len().saturating_sub(part * self.part).min(self.part)
    }

    fn arrival(&self, part: usize, number: usize) -> Option<Arrival<'_>> {
        self.arrivals.get(part * self.part + number).copied()
    }
}

/// How much was emitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emitted {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A frame that leaves, in two pieces that follow each other: so the payload need not be copied to be compared or written.
#[derive(Clone, Copy, Debug)]
pub struct Leaving<'a> {
    /// The rewritten headers.
    pub head: &'a [u8],
    /// What follows them.
    pub tail: &'a [u8],
    /// What is changed in the tail, which is a packet as it arrived then, of [`crate::rewrite::edit::EDITED`] bytes at least.
    pub edit: Option<Edit>,
    /// All but the bytes: of those, `frame.bytes` holds none.
    pub frame: EmittedFrame<'a>,
}

impl<'a> Leaving<'a> {
    /// A frame whose bytes are those of two pieces.
    #[inline]
    pub fn new(head: &'a [u8], tail: &'a [u8], frame: EmittedFrame<'a>) -> Leaving<'a> {
        Leaving { head, tail, edit: None, frame }
    }

    /// How many bytes it has.
    #[expect(clippy::len_without_is_empty, reason = "no frame is empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// What is edited, with what follows.
    #[inline(always)]
    fn edited(&self) -> Option<(Edit, &'a First, &'a [u8])> {
        let (first, rest) = self.tail.split_first_chunk()?;
        Some((self.edit?, first, rest))
    }

    /// Whether its bytes are those.
    #[inline(always)]
    pub fn equals(&self, expected: &[u8]) -> bool {
        let Some((head, tail)) = expected.split_at_checked(self.head.len()) else { return false };
        match (self.edited(), tail.split_first_chunk()) {
            (Some((edit, first, rest)), Some((expected, others))) => {
                edit.gives(first, expected) && same(head, self.head) && same(rest, others)
            }
            (Some(_), None) => false,
            (None, _) => head == self.head && tail == self.tail,
        }
    }

    /// Puts its bytes there, where there is room for just so many.
    #[inline(always)]
    pub fn put(&self, room: &mut [u8]) {
        let Some((head, tail)) = room.split_at_mut_checked(self.head.len()) else { return };
        copy(head, self.head);
        match (self.edited(), tail.split_first_chunk_mut()) {
            (Some((edit, first, rest)), Some((edited, others))) => {
                *edited = edit.apply(first);
                copy(others, rest);
            }
            _ => copy(tail, self.tail),
        }
    }

    /// Its bytes.
    #[inline(always)]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.put(&mut bytes);
        bytes
    }
}

/// The first and the last so many bytes, which overlap where there are fewer than twice as many.
#[inline(always)]
fn ends<const N: usize>(bytes: &[u8]) -> Option<([u8; N], [u8; N])> {
    Some((*bytes.first_chunk()?, *bytes.last_chunk()?))
}

/// Copies bytes, as many as there is room for: of those there are few most times, and then a call costs more than the copy.
#[inline(always)]
fn copy(room: &mut [u8], bytes: &[u8]) {
    #[inline(always)]
    fn put<const N: usize>(room: &mut [u8], bytes: &[u8]) {
        if let Some((first, last)) = ends::<N>(bytes) {
            if let Some(room) = room.first_chunk_mut() {
                *room = first;
            }
            if let Some(room) = room.last_chunk_mut() {
                *room = last;
            }
        }
    }
    match bytes.len() {
        len if len != room.len() => {}
        4..8 => put::<4>(room, bytes),
        8..=16 => put::<8>(room, bytes),
        17..=32 => put::<16>(room, bytes),
        33..=64 => put::<32>(room, bytes),
        _ => room.copy_from_slice(bytes),
    }
}

/// Whether bytes are equal, of which there are few most times: then a call costs more than the comparison.
#[inline(always)]
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && match one.len() {
            4..8 => ends::<4>(one) == ends::<4>(other),
            8..=16 => ends::<8>(one) == ends::<8>(other),
            _ => one == other,
        }
}

/// Takes what a director emits. Pieces are made in parallel, each by one thread, and collected in order.
pub trait Sink: Sync {
    /// What becomes of a run of arrivals.
    type Piece: Send;

    /// Starts a piece; `before` is what the earlier pieces of this call hold.
    fn piece(&self, before: Emitted) -> Self::Piece;

    /// A frame leaves.
    fn frame(&self, piece: &mut Self::Piece, leaving: Leaving<'_>);

    /// An arrival is done; the frames that it caused came before. `part` and `number` say which.
    fn verdict(&self, piece: &mut Self::Piece, part: usize, number: usize, verdict: Verdict);

    /// A piece is complete: what can be done with it whatever the others hold.
    fn finish(&self, _piece: &mut Self::Piece) {}

    /// Takes a piece that is finished. Called in the order of the arrivals.
    fn collect(&mut self, piece: Self::Piece);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::InterfaceId;
    use crate::time::Nanos;

    #[test]
    fn a_slice_in_parts_holds_every_frame_once() {
        let bytes = [0; 10];
        let arrivals: Vec<Arrival<'_>> = (0..10)
            .map(|number| Arrival { time: Nanos(number), interface: InterfaceId(0), frame: &bytes, wire_len: 10 })
            .collect();
        for part in 1..12 {
            let slice = Slice::new(&arrivals, part);
            let times: Vec<u64> = (0..slice.parts())
                .flat_map(|part| (0..slice.part_len(part)).map(move |number| (part, number)))
                .filter_map(|(part, number)| slice.arrival(part, number))
                .map(|arrival| arrival.time.0)
                .collect();
            assert_eq!(times, (0..10).collect::<Vec<u64>>());
        }
    }
}
