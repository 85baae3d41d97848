//! Frames kept in memory: one buffer for the bytes, one record a frame.

use super::session::InputFrame;
use lvscheck_engine::Nanos;
use lvscheck_engine::config::InterfaceId;
use lvscheck_engine::output::{DrawnField, EmittedFrame};

/// A frame that the director emitted, or that a capture holds.
#[derive(Clone, Copy, Debug)]
pub struct StoredFrame {
    /// Its number, from 1.
    pub number: u64,
    /// Its time.
    pub time: Nanos,
    /// The capture's interface, or the director's.
    pub interface: u32,
    /// Its length on the wire.
    pub wire_len: u32,
    /// A timer caused it.
    pub late: bool,
    start: usize,
    end: usize,
    drawn: (usize, usize),
}

/// A list of frames.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    drawn: Vec<DrawnField>,
    records: Vec<StoredFrame>,
}

impl Frames {
    /// Adds a frame of a capture.
    pub fn push(&mut self, frame: InputFrame<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(frame.bytes);
        let InputFrame { number, time, interface, wire_len, .. } = frame;
        let drawn = (self.drawn.len(), self.drawn.len());
        self.records.push(StoredFrame { number, time, interface, wire_len, late: false, start, end: self.bytes.len(), drawn });
    }

    /// Adds a frame that the director emitted.
    pub fn push_emitted(&mut self, number: u64, frame: EmittedFrame<'_>) {
        let InterfaceId(interface) = frame.interface;
        let wire_len = frame.bytes.len() as u32 + frame.cut;
        self.push(InputFrame { number, time: frame.time, interface: interface.into(), bytes: frame.bytes, wire_len });
        self.drawn.extend_from_slice(frame.drawn);
        if let Some(last) = self.records.last_mut() {
            last.late = frame.late;
            last.drawn.1 = self.drawn.len();
        }
    }

    /// Forgets all frames, and keeps their memory for others.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.drawn.clear();
        self.records.clear();
    }

    /// Forgets the first frames, so many of those that lie in the order in which they were added.
    pub fn forget(&mut self, count: usize) {
        let next = self.records.get(count);
        let (start, drawn) = next.map_or((self.bytes.len(), self.drawn.len()), |next| (next.start, next.drawn.0));
        self.bytes.drain(..start);
        self.drawn.drain(..drawn);
        self.records.drain(..count.min(self.records.len()));
        for record in &mut self.records {
            record.start -= start;
            record.end -= start;
            record.drawn = (record.drawn.0 - drawn, record.drawn.1 - drawn);
        }
    }

    /// How many frames.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of all frames.
    pub fn total_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The frames, in order.
    pub fn records(&self) -> &[StoredFrame] {
        &self.records
    }

    /// A frame's bytes.
    pub fn bytes(&self, frame: &StoredFrame) -> &[u8] {
        &self.bytes[frame.start..frame.end]
    }

    /// A frame's drawn fields.
    pub fn drawn(&self, frame: &StoredFrame) -> &[DrawnField] {
        &self.drawn[frame.drawn.0..frame.drawn.1]
    }

    /// The frames as inputs, in order.
    pub fn inputs(&self) -> impl Iterator<Item = InputFrame<'_>> {
        self.records.iter().map(|record| InputFrame {
            number: record.number,
            time: record.time,
            interface: record.interface,
            bytes: self.bytes(record),
            wire_len: record.wire_len,
        })
    }

    /// Makes other frames of these, or drops them where `change` gives none.
    pub fn convert(&mut self, mut change: impl FnMut(InputFrame<'_>) -> Option<(std::borrow::Cow<'_, [u8]>, u32)>) {
        let mut converted = Frames::default();
        for frame in self.inputs() {
            let InputFrame { number, time, interface, bytes, .. } = frame;
            let same = InputFrame { number, time, interface, bytes, wire_len: frame.wire_len };
            if let Some((bytes, wire_len)) = change(same) {
                converted.push(InputFrame { number, time, interface, bytes: &bytes, wire_len });
            }
        }
        *self = converted;
    }

    /// Swaps the MAC addresses of the frames that `which` picks.
    pub fn turn_around(&mut self, which: impl Fn(&[u8]) -> bool) {
        for record in &self.records {
            let frame = &mut self.bytes[record.start..record.end];
            if frame.len() >= 12 && which(frame) {
                let (destination, source) = frame.split_at_mut(6);
                destination.swap_with_slice(&mut source[..6]);
            }
        }
    }

    /// Puts the frames in order of time, and numbers them in it; frames of one moment keep their order.
    pub fn sort_by_time(&mut self) {
        self.records.sort_by_key(|record| record.time);
        for (number, record) in (1..).zip(&mut self.records) {
            record.number = number;
        }
    }
}
