//! Several captures as one, by time: frames of one moment come in the order in which the captures were named, and each
//! capture keeps its own order, as with mergecap(1). Only one window of each capture is in memory.

use super::error::{CaptureError, Damage};
use super::format::CaptureInterface;
use super::reader::{Frame, OwnedWindow, Reader};
use lvscheck_engine::Nanos;
use std::path::Path;

/// How many frames of a capture are found at a time.
const WINDOW: usize = 4096;

/// Captures that are read as one.
pub struct Merge {
    sources: Vec<Source>,
    interfaces: Vec<MergedInterface>,
}

/// An interface of one of the captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedInterface {
    /// Which capture, from 0.
    pub capture: usize,
    /// What the capture says of it.
    pub interface: CaptureInterface,
}

struct Source {
    reader: Reader,
    window: OwnedWindow,
    next: usize,
    ended: bool,
    /// The place of each of its interfaces in the list of all.
    interfaces: Vec<u32>,
}

impl Merge {
    /// Opens captures; `-` is standard input.
    ///
    /// # Errors
    /// One of them can't be opened, or is no capture.
    pub fn open(paths: &[impl AsRef<Path>]) -> Result<Merge, CaptureError> {
        let readers: Result<Vec<Reader>, CaptureError> = paths.iter().map(|path| Reader::open(path.as_ref())).collect();
        Ok(Merge::new(readers?))
    }

    /// Merges captures that are open.
    pub fn new(readers: Vec<Reader>) -> Merge {
        let source = |reader| Source { reader, window: OwnedWindow::default(), next: 0, ended: false, interfaces: Vec::new() };
        Merge { sources: readers.into_iter().map(source).collect(), interfaces: Vec::new() }
    }

    /// The interfaces of the frames given so far, as the frames number them.
    pub fn interfaces(&self) -> &[MergedInterface] {
        &self.interfaces
    }

    /// The faults that ended captures early, known once the last frame was given.
    pub fn damage(&self) -> impl Iterator<Item = &Damage> {
        self.sources.iter().filter_map(|source| source.reader.damage())
    }

    /// The next frame and the number of its capture, from 0; none at the end. The frame's own number is that in its capture,
    /// its interface the place in [`Merge::interfaces`].
    ///
    /// # Errors
    /// A capture can't be read, or is broken before its first frame.
    pub fn next_frame(&mut self) -> Result<Option<(usize, Frame<'_>)>, CaptureError> {
        let Some(index) = self.earliest()? else { return Ok(None) };
        Ok(self.sources[index].take(&self.interfaces).map(|frame| (index, frame)))
    }

    /// The capture of the next frame.
    pub(super) fn earliest(&mut self) -> Result<Option<usize>, CaptureError> {
        let mut earliest: Option<(Nanos, usize)> = None;
        for (index, source) in self.sources.iter_mut().enumerate() {
            if let Some(time) = source.time(index, &mut self.interfaces)?
                && earliest.is_none_or(|(other, _)| time < other)
            {
                earliest = Some((time, index));
            }
        }
        Ok(earliest.map(|(_, index)| index))
    }
}

impl Source {
    /// When the next frame was captured; reads another window if that is needed.
    fn time(&mut self, capture: usize, interfaces: &mut Vec<MergedInterface>) -> Result<Option<Nanos>, CaptureError> {
        if self.next >= self.window.records.len() && !self.ended {
            self.ended = !self.reader.next_owned(&mut self.window, WINDOW)?;
            self.next = 0;
            for interface in &self.reader.interfaces()[self.interfaces.len()..] {
                self.interfaces.push(interfaces.len() as u32);
                interfaces.push(MergedInterface { capture, interface: interface.clone() });
            }
        }
        Ok(self.window.records.get(self.next).map(|record| record.time))
    }

    fn take(&mut self, interfaces: &[MergedInterface]) -> Option<Frame<'_>> {
        let record = self.window.records.get(self.next)?;
        let number = self.window.first_number + self.next as u64;
        self.next += 1;
        // Every record's interface was described before it.
        let interface = *self.interfaces.get(record.interface as usize)?;
        let link_type = interfaces.get(interface as usize)?.interface.link_type;
        let bytes = record.of(&self.window.bytes);
        Some(Frame { number, time: record.time, interface, link_type, bytes, wire_len: record.wire_len })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{pcap_head, pcap_record};
    use super::*;

    fn capture(name: &str, frames: &[(u64, &[u8])]) -> Reader {
        let mut bytes = pcap_head().to_vec();
        for (time, frame) in frames {
            pcap_record(&mut bytes, Nanos(*time), frame, 100);
        }
        Reader::from_bytes(name, bytes).unwrap()
    }

    #[test]
    fn by_time_and_otherwise_as_named() {
        // The second capture's own order is kept, though its times run back.
        let first = capture("first", &[(1, b"a"), (5, b"b"), (5, b"c"), (9, b"d")]);
        let second = capture("second", &[(5, b"e"), (2, b"f"), (20, b"g")]);
        let mut merge = Merge::new(vec![first, capture("empty", &[]), second]);
        let mut found = Vec::new();
        while let Some((capture, frame)) = merge.next_frame().unwrap() {
            found.push((capture, frame.number, frame.time.0, frame.bytes[0], frame.interface));
        }
        let expected = [
            (0, 1, 1, b'a', 0),
            (0, 2, 5, b'b', 0),
            (0, 3, 5, b'c', 0),
            (2, 1, 5, b'e', 2),
            (2, 2, 2, b'f', 2),
            (0, 4, 9, b'd', 0),
            (2, 3, 20, b'g', 2),
        ];
        assert_eq!(found, expected);
        assert_eq!(merge.interfaces().iter().map(|interface| interface.capture).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(merge.damage().count(), 0);
    }

    #[test]
    fn more_frames_than_a_window() {
        let frames: Vec<(u64, &[u8])> = (0..3 * WINDOW as u64 + 5).map(|time| (time, &b"frame"[..])).collect();
        let mut merge = Merge::new(vec![capture("even", &frames), capture("odd", &frames)]);
        let mut count = 0u64;
        while let Some((capture, frame)) = merge.next_frame().unwrap() {
            assert_eq!((capture as u64, frame.time.0), (count % 2, count / 2));
            count += 1;
        }
        assert_eq!(count, 2 * frames.len() as u64);
    }
}
