//! What leaves the engine: frames, in order, in one reusable buffer.

use crate::config::InterfaceId;
use crate::draws::Draw;
use crate::time::Nanos;

/// Collects the frames that a director emits. Cleared by its owner, so that steady work allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    frames: Vec<FrameRecord>,
    drawn: Vec<DrawnField>,
}

#[derive(Clone, Copy, Debug)]
struct FrameRecord {
    time: Nanos,
    interface: InterfaceId,
    end: usize,
    drawn_end: usize,
    late: bool,
    cut: u32,
}

/// A frame that the director emitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmittedFrame<'a> {
    /// When: the time of the frame that caused it, or of the timer.
    pub time: Nanos,
    /// Where it leaves.
    pub interface: InterfaceId,
    /// The Ethernet frame, without padding and FCS.
    pub bytes: &'a [u8],
    /// Fields that hold a random draw, in order of offset.
    pub drawn: &'a [DrawnField],
    /// A timer caused it, no frame: a real system's moment is only roughly this.
    pub late: bool,
    /// Bytes that the capture did not hold (snap length): the real frame is this much longer.
    pub cut: u32,
}

/// A field of an emitted frame whose value is a random draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrawnField {
    /// Which draw. Fields with the same draw change together.
    pub draw: Draw,
    /// Where the field starts in the frame.
    pub offset: u16,
    /// Its length in bytes; the value is big-endian.
    pub len: u8,
    /// The lowest 20 bits only (an IPv6 flow label in the first four bytes of the header).
    pub bits: u8,
    /// How the value stands there.
    pub kind: DrawnKind,
    /// Checksums that cover it: offsets of 16-bit Internet checksums in the frame; 0: none.
    pub checksums: [u16; 2],
}

/// How a draw stands in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrawnKind {
    /// The field is the value.
    Value,
    /// The field is a known number plus the value (mod 2^32).
    Plus,
    /// The field is a known number minus the value (mod 2^32).
    Minus,
}

impl DrawnField {
    /// A field that is the value itself.
    pub fn value(draw: Draw, offset: usize, len: u8) -> DrawnField {
        DrawnField { draw, offset: offset as u16, len, bits: len * 8, kind: DrawnKind::Value, checksums: [0; 2] }
    }

    /// With the checksum at that offset covering it.
    pub fn summed_at(mut self, offset: usize) -> DrawnField {
        let slot = usize::from(self.checksums[0] != 0);
        self.checksums[slot] = offset as u16;
        self
    }

    /// The same field, and the checksums that cover it, with so many bytes put before them.
    pub fn behind(mut self, bytes: usize) -> DrawnField {
        self.offset += bytes as u16;
        self.checksums.iter_mut().filter(|at| **at != 0).for_each(|at| *at += bytes as u16);
        self
    }
}

impl Output {
    /// Forgets all frames, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.frames.clear();
        self.drawn.clear();
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Adds a frame. `fill` appends its bytes to the buffer; what stands before them is not its own.
    pub fn emit(&mut self, time: Nanos, interface: InterfaceId, fill: impl FnOnce(&mut Vec<u8>)) {
        fill(&mut self.bytes);
        let drawn_end = self.drawn.len();
        self.frames.push(FrameRecord { time, interface, end: self.bytes.len(), drawn_end, late: false, cut: 0 });
    }

    /// Says that a field of the last frame is a random draw.
    pub fn drawn(&mut self, field: DrawnField) {
        self.drawn.push(field);
        if let Some(last) = self.frames.last_mut() {
            last.drawn_end = self.drawn.len();
        }
    }

    /// Says that a timer caused the last frame.
    pub fn late(&mut self) {
        if let Some(last) = self.frames.last_mut() {
            last.late = true;
        }
    }

    /// Says that a timer caused all frames from that one on.
    pub fn late_from(&mut self, first: usize) {
        self.frames.iter_mut().skip(first).for_each(|frame| frame.late = true);
    }

    /// Says how many bytes of the last frame the capture did not hold.
    pub fn cut(&mut self, bytes: u32) {
        if let Some(last) = self.frames.last_mut() {
            last.cut = bytes;
        }
    }

    /// The frames, in order.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = EmittedFrame<'_>> {
        let mut start = (0, 0);
        self.frames.iter().map(move |record| {
            let frame = EmittedFrame {
                time: record.time,
                interface: record.interface,
                bytes: &self.bytes[start.0..record.end],
                drawn: &self.drawn[start.1..record.drawn_end],
                late: record.late,
                cut: record.cut,
            };
            start = (record.end, record.drawn_end);
            frame
        })
    }
}
