//! A golden that is read frame by frame beside what leaves, whatever its format. Unlike one that all threads read at once, it may
//! name the director's interfaces, and fields of it may differ.

use super::check::unpadded;
use super::pairs::Pairs;
use super::work::interface_name;
use crate::capture::link::ETHERNET;
use crate::capture::{CaptureError, Input, OwnedWindow, Reader, Record};
use crate::compare::draws::take_over;
use crate::compare::ignore::Ignore;
use crate::compare::{Comparison, Frame};
use lvscheck_engine::{DirectorConfig, EmittedFrame, Nanos};
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// A golden, and how far what left is equal to it.
pub(super) struct GoldenStream<'a> {
    frames: Stream,
    config: &'a DirectorConfig,
    pairs: Pairs<'a>,
    /// The latest time of its frames so far.
    last: Nanos,
    /// More left than it has.
    is_short: bool,
    error: Option<CaptureError>,
}

/// Its frames, one after the other.
struct Stream {
    reader: Reader,
    /// What its interfaces are called that have no name.
    stem: Option<String>,
    window: OwnedWindow,
    next: usize,
}

impl<'a> GoldenStream<'a> {
    /// From its first frame on. These fields may differ. Ports that the director draws lie in that range.
    ///
    /// # Errors
    /// It can't be opened, or is no capture.
    pub(super) fn open(
        golden: &Input,
        config: &'a DirectorConfig,
        ignore: &'a Ignore,
        local_ports: RangeInclusive<u16>,
    ) -> Result<GoldenStream<'a>, CaptureError> {
        let (reader, stem) = (Reader::of(golden)?, golden.stem());
        let frames = Stream { reader, stem, window: OwnedWindow::default(), next: 0 };
        let pairs = Pairs::new(ignore, local_ports);
        Ok(GoldenStream { frames, config, pairs, last: Nanos(0), is_short: false, error: None })
    }

    /// Compares the next frame that left. Returns its bytes: with the golden's draws, if those make it equal.
    pub(super) fn compare<'f>(&mut self, frame: &EmittedFrame<'f>) -> Cow<'f, [u8]> {
        let own = Cow::Borrowed(frame.bytes);
        if self.needs_care() {
            return own;
        }
        let record = match self.frames.next() {
            Ok(Some(record)) => record,
            Ok(None) => {
                self.is_short = true;
                return own;
            }
            Err(error) => {
                self.error = Some(error);
                return own;
            }
        };
        self.last = self.last.max(record.time);
        let whole = record.of(&self.frames.window.bytes);
        let (bytes, wire_len) = unpadded(whole, record.wire_len);
        let name = self.frames.interface(record.interface).filter(|name| self.config.interface(name).is_some());
        let expected = Frame { time: record.time, interface: name, bytes, wire_len, ..Frame::default() };
        self.pairs.compare(&expected, &emitted(frame, interface_name(self.config, frame.interface.0.into())));
        if frame.drawn.is_empty() {
            return own;
        }
        let mut learned = frame.bytes.to_vec();
        take_over(whole, &mut learned, frame.drawn);
        if learned == whole { Cow::Owned(learned) } else { own }
    }

    /// Whether what left so far is not equal to it, so that the careful way must tell how.
    pub(super) fn needs_care(&self) -> bool {
        self.is_short || self.error.is_some() || self.pairs.differ()
    }

    /// What went wrong with reading it, once.
    pub(super) fn error(&mut self) -> Option<CaptureError> {
        self.error.take()
    }

    /// The time of its last frame; none if it holds frames that did not leave, or others than Ethernet.
    ///
    /// # Errors
    /// It can't be read.
    pub(super) fn end(&mut self) -> Result<Option<Nanos>, CaptureError> {
        let is_read = self.frames.next()?.is_none();
        let is_ethernet = self.frames.reader.interfaces().iter().all(|interface| interface.link_type == ETHERNET);
        Ok((is_read && is_ethernet).then_some(self.last))
    }

    /// The result if nothing needs care.
    pub(super) fn comparison(&self) -> Comparison {
        self.pairs.comparison()
    }
}

impl Stream {
    /// The next frame, which lies in the window.
    fn next(&mut self) -> Result<Option<Record>, CaptureError> {
        if self.next >= self.window.records.len() {
            self.next = 0;
            if !self.reader.next_owned(&mut self.window, usize::MAX)? {
                return Ok(None);
            }
        }
        self.next += 1;
        Ok(self.window.records.get(self.next - 1).copied())
    }

    /// The name of an interface.
    fn interface(&self, number: u32) -> Option<&str> {
        let own = self.reader.interfaces().get(number as usize).and_then(|interface| interface.name.as_deref());
        own.or(self.stem.as_deref())
    }
}

/// A frame that the director emitted on an interface of that name, to compare.
pub(super) fn emitted<'f>(frame: &EmittedFrame<'f>, interface: Option<&'f str>) -> Frame<'f> {
    let EmittedFrame { time, bytes, drawn, late, cut, .. } = *frame;
    Frame { number: 0, time, interface, bytes, wire_len: bytes.len() as u32 + cut, drawn, late }
}
