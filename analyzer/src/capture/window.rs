//! A window of a capture: frames in parts that are worked on by one thread each, those that are input and those that stand aside.

use super::buffer::Buffer;
use super::format::{Record, Step};
use lvscheck_engine::Nanos;
use std::ops::Range;

/// A frame of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkFrame<'a> {
    /// When it was captured.
    pub time: Nanos,
    /// Where it stands, as it was asked for; of one that stands aside its interface's number.
    pub place: u16,
    /// What was captured of it.
    pub bytes: &'a [u8],
    /// How long it was on the wire.
    pub wire_len: u32,
}

/// Frames of a capture, in parts.
#[derive(Debug, Default)]
pub struct BulkWindow {
    pub(super) bytes: Buffer,
    pub(super) parts: Vec<Part>,
    pub(super) count: usize,
    pub(super) first_number: u64,
    pub(super) steps_back: bool,
}

/// A frame in a window's bytes.
#[derive(Clone, Copy, Debug)]
struct Placed {
    time: Nanos,
    start: u32,
    len: u32,
    wire_len: u32,
    place: u16,
}

/// A frame that is no input.
#[derive(Clone, Copy, Debug)]
struct Aside {
    /// Its place is its interface's number.
    frame: Placed,
    /// So many frames of its part before it are input.
    before: u32,
}

/// Records of one part.
#[derive(Debug, Default)]
pub(super) struct Part {
    records: Vec<Placed>,
    /// Frames between them that are no input.
    aside: Vec<Aside>,
    /// The earliest and the latest time of all.
    times: Option<(Nanos, Nanos)>,
    /// Where the walk began and ended.
    pub(super) walked: Range<usize>,
    /// Why it ended before the part's end: the rest is not whole, or makes no sense.
    pub(super) stopped: Option<Step>,
    /// Captured bytes, and bytes on the wire: of all, and of the longest frame.
    bytes: u64,
    wire_bytes: u64,
    longest: u32,
    /// Time steps back.
    steps_back: bool,
}

/// Says where a frame of that interface of the capture stands; none: it is no input, and stands aside.
pub trait Place: Fn(u32, &[u8]) -> Option<u16> + Sync {}
impl<F: Fn(u32, &[u8]) -> Option<u16> + Sync> Place for F {}

impl Part {
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.aside.clear();
        self.times = None;
        self.walked = usize::MAX..usize::MAX;
        self.stopped = None;
        self.steps_back = false;
        (self.bytes, self.wire_bytes, self.longest) = (0, 0, 0);
    }

    /// How many frames it has in all.
    pub(super) fn len(&self) -> usize {
        self.records.len() + self.aside.len()
    }
}

/// What a part adds up while frames are added: apart from it, where a processor can keep it at hand.
pub(super) struct Adding {
    /// The earliest time, and the latest.
    first: Option<Nanos>,
    last: Nanos,
    bytes: u64,
    wire_bytes: u64,
    longest: u32,
    steps_back: bool,
    /// The Ethernet addresses of the last frame, and where it stands: that of the next one with the same is the same.
    known: Option<(u32, [u8; 12], Option<u16>)>,
}

impl Adding {
    pub(super) fn to(part: &Part) -> Adding {
        let Part { times, bytes, wire_bytes, longest, steps_back, .. } = *part;
        let last = times.map_or(Nanos(0), |(_, last)| last);
        Adding { first: times.map(|(first, _)| first), last, bytes, wire_bytes, longest, steps_back, known: None }
    }

    pub(super) fn done(self, part: &mut Part) {
        (part.bytes, part.wire_bytes, part.longest) = (self.bytes, self.wire_bytes, self.longest);
        part.steps_back = self.steps_back;
        part.times = self.first.map(|first| (first, self.last));
    }

    /// Adds a frame that begins at `start` of the window.
    #[inline(always)]
    pub(super) fn add(&mut self, part: &mut Part, record: &Record, start: usize, frame: &[u8], place: &impl Place) {
        let Record { time, interface, len, wire_len, .. } = *record;
        let first = self.first.get_or_insert(time);
        if time < self.last {
            self.steps_back = true;
            *first = time.min(*first);
        } else {
            self.last = time;
        }
        self.bytes += u64::from(len);
        self.wire_bytes += u64::from(wire_len);
        self.longest = self.longest.max(wire_len);
        let place = match (frame.first_chunk::<12>(), &self.known) {
            (Some(addresses), Some((from, known, place))) if *from == interface && known == addresses => *place,
            (addresses, _) => self.find(interface, addresses, frame, place),
        };
        let placed = |place: u16| Placed { time, start: start as u32, len, wire_len, place };
        match place {
            Some(place) => part.records.push(placed(place)),
            None => {
                let frame = placed(u16::try_from(interface).unwrap_or(u16::MAX));
                part.aside.push(Aside { frame, before: part.records.len() as u32 });
            }
        }
    }

    #[cold]
    fn find(&mut self, interface: u32, addresses: Option<&[u8; 12]>, frame: &[u8], place: &impl Place) -> Option<u16> {
        let found = place(interface, frame);
        // Where a frame to a group stands depends on more than its addresses.
        self.known = addresses.filter(|addresses| addresses[0] & 1 == 0).map(|addresses| (interface, *addresses, found));
        found
    }
}

impl BulkWindow {
    /// How many frames there are, with those that stand aside.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number in the capture of a frame of a part, from 1.
    pub fn number(&self, part: usize, number: usize) -> u64 {
        let aside = self.parts.get(part).map_or(0, |part| part.aside.partition_point(|aside| aside.before as usize <= number));
        self.first_of(part) + (number + aside) as u64
    }

    /// The number in the capture of one of a part's frames that stand aside, from 1.
    pub fn number_aside(&self, part: usize, number: usize) -> u64 {
        let aside = self.parts.get(part).and_then(|part| part.aside.get(number));
        self.first_of(part) + number as u64 + aside.map_or(0, |aside| u64::from(aside.before))
    }

    /// The number of a part's first frame.
    fn first_of(&self, part: usize) -> u64 {
        self.first_number + self.parts.iter().take(part).map(|part| part.len() as u64).sum::<u64>()
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// How many frames of a part are input.
    pub fn part_len(&self, part: usize) -> usize {
        self.parts.get(part).map_or(0, |part| part.records.len())
    }

    /// A frame of a part. None beyond its end.
    #[inline]
    pub fn frame(&self, part: usize, number: usize) -> Option<BulkFrame<'_>> {
        let Placed { time, start, len, wire_len, place } = *self.parts.get(part)?.records.get(number)?;
        let bytes = self.bytes.get(start as usize..start as usize + len as usize)?;
        Some(BulkFrame { time, place, bytes, wire_len })
    }

    /// Frames of a part, of those that are there.
    #[inline]
    pub fn frames(&self, part: usize, numbers: Range<usize>) -> impl ExactSizeIterator<Item = Option<BulkFrame<'_>>> {
        let records = self.parts.get(part).and_then(|part| part.records.get(numbers)).unwrap_or_default();
        let bytes = &self.bytes[..];
        records.iter().map(move |Placed { time, start, len, wire_len, place }| {
            let bytes = bytes.get(*start as usize..*start as usize + *len as usize)?;
            Some(BulkFrame { time: *time, place: *place, bytes, wire_len: *wire_len })
        })
    }

    /// The length on the wire of a part's longest frame.
    pub fn longest(&self, part: usize) -> u32 {
        self.parts.get(part).map_or(0, |part| part.longest)
    }

    /// Frames of a part that stand aside, in order.
    pub fn aside(&self, part: usize) -> impl Iterator<Item = BulkFrame<'_>> {
        let aside = self.parts.get(part).map_or(&[][..], |part| &part.aside);
        aside.iter().filter_map(|Aside { frame: Placed { time, start, len, wire_len, place }, .. }| {
            let bytes = self.bytes.get(*start as usize..*start as usize + *len as usize)?;
            Some(BulkFrame { time: *time, place: *place, bytes, wire_len: *wire_len })
        })
    }

    /// The earliest and the latest time of a frame.
    pub fn times(&self) -> Option<(Nanos, Nanos)> {
        let times = self.parts.iter().filter_map(|part| part.times);
        times.reduce(|(first, last), (earliest, latest)| (first.min(earliest), last.max(latest)))
    }

    /// Whether time steps back, within this window or from the last one to this.
    pub fn steps_back(&self) -> bool {
        self.steps_back
    }

    /// Captured bytes of all frames, and their bytes on the wire.
    pub fn lengths(&self) -> (u64, u64) {
        self.parts.iter().fold((0, 0), |sum, part| (sum.0 + part.bytes, sum.1 + part.wire_bytes))
    }

    /// Sums the parts up.
    pub(super) fn finish(&mut self, last: &mut Nanos) {
        self.count = self.parts.iter().map(Part::len).sum();
        for part in &self.parts {
            let Some((first, end)) = part.times else { continue };
            self.steps_back |= part.steps_back || first < *last;
            *last = end.max(*last);
        }
    }
}
