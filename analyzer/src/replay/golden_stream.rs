//! A golden that is compared frame by frame beside what leaves: a capture of any format, or what the replayed capture shows that the
//! director sent. Unlike one that all threads read at once, it may name the director's interfaces, fields of it may differ, and what
//! differs is told.

use super::cause::Cause;
use super::check;
use super::decisions::{Doubts, FirstDifference};
use super::place::{Place, Places};
use super::session::InputFrame;
use super::sides::{Sender, Sides};
use super::work::interface_name;
use crate::capture::link::ETHERNET;
use crate::capture::{CaptureError, Damage, Input, OwnedWindow, Reader, Record};
use crate::compare::Comparison;
use crate::compare::draws::take_over;
use crate::compare::ignore::Ignore;
use lvscheck_engine::config::InterfaceId;
use lvscheck_engine::settle::Trial;
use lvscheck_engine::{Director, DirectorConfig, EmittedFrame, Nanos};
use std::borrow::Cow;

/// A golden, and what left beside it.
pub(super) struct GoldenStream<'a> {
    source: Source,
    config: &'a DirectorConfig,
    sides: Sides,
    /// How many of its frames were read, and how many left.
    read: u64,
    left: u64,
    /// The latest time of its frames so far.
    last: Nanos,
    error: Option<CaptureError>,
}

/// Where its frames come from.
enum Source {
    /// A capture.
    File(Box<Stream>),
    /// What the replayed capture shows that the director sent, by where its frames stand.
    Sent(Places),
}

/// A capture's frames, one after the other.
struct Stream {
    reader: Reader,
    /// What its interfaces are called that have no name.
    stem: Option<String>,
    window: OwnedWindow,
    next: usize,
}

impl<'a> GoldenStream<'a> {
    /// From its first frame on. These fields may differ.
    ///
    /// # Errors
    /// It can't be opened, or is no capture.
    pub(super) fn open(golden: &Input, config: &'a DirectorConfig, ignore: &Ignore) -> Result<GoldenStream<'a>, CaptureError> {
        let (reader, stem) = (Reader::of(golden)?, golden.stem());
        let source = Source::File(Box::new(Stream { reader, stem, window: OwnedWindow::default(), next: 0 }));
        Ok(GoldenStream::of(source, config, ignore, check::GOLDEN))
    }

    /// What the replayed capture shows that the director sent, whose frames stand there. These fields may differ.
    pub(super) fn sent_by(places: Places, config: &'a DirectorConfig, ignore: &Ignore) -> GoldenStream<'a> {
        GoldenStream::of(Source::Sent(places), config, ignore, check::SENT)
    }

    fn of(source: Source, config: &'a DirectorConfig, ignore: &Ignore, label: &str) -> GoldenStream<'a> {
        let sides = Sides::new(check::options(config, ignore, label));
        GoldenStream { source, config, sides, read: 0, left: 0, last: Nanos(0), error: None }
    }

    /// Takes the next frame that left. Returns its bytes: with the draws of the golden's frame at that place, if those make it equal.
    pub(super) fn take<'f>(&mut self, frame: EmittedFrame<'f>, cause: Cause) -> Cow<'f, [u8]> {
        self.left += 1;
        let own = Cow::Borrowed(frame.bytes);
        if matches!(self.source, Source::Sent(_)) && check::asks_for_neighbour(frame.bytes) {
            return own;
        }
        self.sides.take(self.left, frame, cause);
        let record = match self.read() {
            Ok(record) => record,
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        };
        let (Some(record), Source::File(stream)) = (record, &self.source) else { return own };
        if frame.drawn.is_empty() {
            return own;
        }
        let expected = record.of(&stream.window.bytes);
        let mut learned = frame.bytes.to_vec();
        take_over(expected, &mut learned, frame.drawn);
        if learned == expected { Cow::Owned(learned) } else { own }
    }

    /// Takes a frame that the replayed capture shows that the director sent.
    pub(super) fn sent(&mut self, frame: InputFrame<'_>) {
        if let Source::Sent(places) = &self.source
            && !check::asks_for_neighbour(frame.bytes)
        {
            let interface = match places.of(frame.interface, frame.bytes) {
                Place::Sent(InterfaceId(number)) => number.into(),
                _ => u32::MAX,
            };
            self.sides.expect(InputFrame { interface, ..frame });
        }
    }

    /// The next of a capture's frames, which lies in the window.
    fn read(&mut self) -> Result<Option<Record>, CaptureError> {
        let Source::File(stream) = &mut self.source else { return Ok(None) };
        let Some(record) = stream.next()? else { return Ok(None) };
        self.read += 1;
        self.last = self.last.max(record.time);
        let Record { time, interface, wire_len, .. } = record;
        self.sides.expect(InputFrame { number: self.read, time, interface, bytes: record.of(&stream.window.bytes), wire_len });
        Ok(Some(record))
    }

    /// Compares what came, if that is enough for a stretch. Doubts that are too old to matter are forgotten.
    pub(super) fn go_on(&mut self, director: &Director, doubts: &mut Doubts) {
        if self.sides.is_full() {
            self.settle(director, false);
            if let Some(agrees) = self.sides.oldest() {
                doubts.forget_before(agrees, self.sides.first_difference());
            }
        }
    }

    fn settle(&mut self, director: &Director, all: bool) {
        let GoldenStream { source, config, sides, .. } = self;
        let name = |number| match &*source {
            Source::File(stream) => stream.interface(number).filter(|name| config.interface(name).is_some()),
            Source::Sent(_) => interface_name(config, number),
        };
        sides.settle(all, name, Some(Sender { director, config }));
    }

    /// Where what left differs from it first, as far as that is compared.
    pub(super) fn first_difference(&self) -> Option<FirstDifference> {
        self.sides.first_difference()
    }

    /// What went wrong with reading it, once.
    pub(super) fn error(&mut self) -> Option<CaptureError> {
        self.error.take()
    }

    /// Reads a capture to its end. Returns the time of its last frame; none if it holds others than Ethernet.
    ///
    /// # Errors
    /// It can't be read.
    pub(super) fn end(&mut self, director: &Director, doubts: &mut Doubts) -> Result<Option<Nanos>, CaptureError> {
        while self.read()?.is_some() {
            self.go_on(director, doubts);
        }
        let is_ethernet = match &self.source {
            Source::File(stream) => stream.reader.interfaces().iter().all(|interface| interface.link_type == ETHERNET),
            Source::Sent(_) => true,
        };
        Ok(is_ethernet.then_some(self.last))
    }

    /// The fault that ended a capture early.
    pub(super) fn damage(&self) -> Option<&Damage> {
        match &self.source {
            Source::File(stream) => stream.reader.damage(),
            Source::Sent(_) => None,
        }
    }

    /// The result, once everything left, and if something differs, how far it agrees and which doubts are near.
    pub(super) fn finish(mut self, director: &Director, doubts: Doubts) -> (Comparison, Option<Trial>) {
        self.settle(director, true);
        let first = self.sides.first_difference();
        let comparison = self.sides.finish();
        let trial = first.map(|first| doubts.trial(first, comparison.total()));
        (comparison, trial)
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
