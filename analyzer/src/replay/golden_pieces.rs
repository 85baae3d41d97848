//! A golden that all threads compare at once: each reads on from where the frames of its piece stand.

use crate::capture::{PlainFile, RecordHead};
use crate::compare::Comparison;
use crate::compare::align::LATE_TIME;
use crate::compare::shared_learner::SharedLearner;
use lvscheck_engine::batch::{Emitted, Leaving};
use lvscheck_engine::{EmittedFrame, Nanos};
use std::ops::RangeInclusive;
use std::sync::Mutex;

/// Bytes that one thread reads at a time.
const READ: usize = 64 << 10;

/// The golden, of which the place of each frame is known from what left before it.
pub(super) struct Golden {
    file: PlainFile,
    /// The values of draws.
    learner: SharedLearner,
    done: Mutex<Done>,
}

/// What came of stretches that were compared.
#[derive(Default)]
struct Done {
    /// The latest time stamp.
    last: u64,
    /// What they read, to use again.
    spare: Vec<Read>,
}

/// A stretch of the golden, while it is compared.
#[derive(Default)]
pub(super) struct Stretch {
    read: Read,
    /// The latest time stamp.
    last: u64,
}

/// What one thread read of the golden.
#[derive(Default)]
struct Read {
    bytes: Vec<u8>,
    /// Where it begins in the file, and how many of the bytes were read.
    from: u64,
    filled: usize,
    /// How many of them are compared.
    at: usize,
}

/// Whether what left is what the golden has.
pub(super) enum Agreement {
    No,
    Yes,
    /// These bytes are, which have the golden's draws.
    Learned(Vec<u8>),
}

impl Golden {
    /// From its first frame on. Ports that the director draws lie in that range.
    pub(super) fn new(file: PlainFile, local_ports: RangeInclusive<u16>) -> Golden {
        Golden { file, learner: SharedLearner::new(local_ports), done: Mutex::default() }
    }

    /// Where the frame stands that follows so many, if all before it are equal.
    fn place(&self, emitted: Emitted) -> u64 {
        self.file.first() + emitted.frames * self.file.record_head() as u64 + emitted.bytes
    }

    /// Begins a stretch with the frame that follows so many.
    pub(super) fn begin(&self, emitted: Emitted) -> Stretch {
        let spare = self.done.lock().ok().and_then(|mut done| done.spare.pop()).unwrap_or_default();
        Stretch { read: spare.going_on_at(self.place(emitted)), last: 0 }
    }

    /// Whether the next frame of a stretch is this one.
    #[inline(always)]
    pub(super) fn agrees(&self, stretch: &mut Stretch, leaving: Leaving<'_>) -> Agreement {
        let len = leaving.len();
        let start = self.file.record_head();
        let Some(record) = stretch.read.next(&self.file, start + len) else { return Agreement::No };
        let Some(head) = self.file.head(record) else { return Agreement::No };
        stretch.last = stretch.last.max(head.stamp);
        // A length on the wire below what was captured is that of what was captured.
        if head.len as usize != len || head.wire_len.max(head.len) != len as u32 + leaving.frame.cut {
            return Agreement::No;
        }
        if leaving.frame.late && Nanos(self.file.time(&head).0.abs_diff(leaving.frame.time.0)) > LATE_TIME {
            return Agreement::No;
        }
        let (expected, drawn) = (&record[start..], leaving.frame.drawn);
        if leaving.equals(expected) {
            // The golden's draws are the engine's own.
            let agrees = drawn.is_empty() || self.learner.see(expected, expected, drawn);
            return if agrees { Agreement::Yes } else { Agreement::No };
        }
        if drawn.is_empty() {
            return Agreement::No;
        }
        self.learned(expected, leaving.to_vec(), leaving.frame).map_or(Agreement::No, Agreement::Learned)
    }

    /// The frame with the golden's draws, if it differs in nothing else. Apart from what is done for every frame.
    #[cold]
    fn learned(&self, expected: &[u8], whole: Vec<u8>, frame: EmittedFrame<'_>) -> Option<Vec<u8>> {
        self.learner.take_over(expected, &EmittedFrame { bytes: &whole, ..frame })
    }

    /// A stretch is compared.
    pub(super) fn end(&self, stretch: Stretch) {
        if let Ok(mut done) = self.done.lock() {
            done.last = done.last.max(stretch.last);
            done.spare.push(stretch.read);
        }
    }

    /// The time of its last frame; none if it holds more frames than so many.
    pub(super) fn end_after(&self, emitted: Emitted) -> Option<Nanos> {
        let stamp = self.done.lock().map_or(0, |done| done.last);
        let last = self.file.time(&RecordHead { stamp, len: 0, wire_len: 0 });
        (self.place(emitted) == self.file.size()).then_some(last)
    }

    /// The result, if so many frames are equal and none differs.
    pub(super) fn comparison(&self, emitted: Emitted) -> Comparison {
        Comparison::equal(emitted.frames, self.learner.counts())
    }
}

impl Read {
    /// The same bytes, if they hold that place of the file, from there on.
    fn going_on_at(self, place: u64) -> Read {
        match place.checked_sub(self.from) {
            Some(at) if at < self.filled as u64 => Read { at: at as usize, ..self },
            _ => Read { from: place, filled: 0, at: 0, ..self },
        }
    }

    /// The next bytes, so many, brought from the file if they are not there; none if it does not have them.
    #[inline(always)]
    fn next(&mut self, file: &PlainFile, size: usize) -> Option<&[u8]> {
        if self.filled - self.at < size {
            self.read_on(file, size)?;
        }
        self.at += size;
        self.bytes.get(self.at - size..self.at)
    }

    #[cold]
    fn read_on(&mut self, file: &PlainFile, size: usize) -> Option<()> {
        self.from += self.at as u64;
        (self.at, self.filled) = (0, 0);
        if self.bytes.len() < READ.max(size) {
            self.bytes.resize(READ.max(size), 0);
        }
        self.filled = file.read_at(&mut self.bytes, self.from).ok().filter(|read| *read >= size)?;
        Some(())
    }
}
