//! What leaves a large replay: counted, compared with the golden, written.

use super::outcome::{Emitted as Totals, Verdicts};
use super::records::Records;
use super::session::count;
use super::translation::TOA;
use super::write_behind::File;
use crate::capture::{CaptureError, PCAP_RECORD_HEAD, PlainFile, RecordHead, pcap_head};
use crate::compare::Comparison;
use crate::compare::align::LATE_TIME;
use crate::compare::shared_learner::SharedLearner;
use lvscheck_engine::batch::{Emitted, Leaving, Sink};
use lvscheck_engine::verdict::{Forwarded, Verdict};
use lvscheck_engine::{EmittedFrame, Nanos};
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Mutex;

/// Bytes of the golden that one thread reads at a time.
const GOLDEN: usize = 64 << 10;
/// A link header without tags.
const ETHERNET: usize = 14;
/// Where the options of TCP stand over IPv4 at the earliest.
const OPTIONS: usize = ETHERNET + 20 + 20;
/// Room for the addresses and ports of both ends of a packet.
const ENDS: usize = 36;

/// The golden, read where it is compared.
pub(super) struct Golden {
    file: PlainFile,
    last: Nanos,
    /// The values of draws.
    learner: SharedLearner,
}

impl Golden {
    /// From its first frame on. Ports that the director draws lie in that range.
    pub(super) fn new(file: PlainFile, local_ports: RangeInclusive<u16>) -> Golden {
        Golden { file, last: Nanos(0), learner: SharedLearner::new(local_ports) }
    }

    /// Where the frame stands that follows so many, if all before it are equal.
    fn at(&self, emitted: Emitted) -> u64 {
        self.file.first() + emitted.frames * self.file.record_head() as u64 + emitted.bytes
    }
}

/// Takes what leaves: counts, compares, writes.
#[derive(Default)]
pub(super) struct Collector<'a, 'scope> {
    golden: Option<Golden>,
    output: Option<File<'a, 'scope>>,
    /// Buffers for goldens, to use again.
    spare: Mutex<Vec<Read>>,
    /// What was emitted in all, and when the window began.
    emitted: Emitted,
    start: Emitted,
    pub(super) verdicts: Verdicts,
    totals: Totals,
    /// Frames that demands look at.
    pub(super) unusual: Vec<(usize, usize)>,
    /// Translations are of interest, and of so many connections more: of packets that were forwarded, what left for them.
    pub(super) translates: bool,
    pub(super) room: usize,
    pub(super) forwarded: Vec<((usize, usize), Vec<u8>)>,
    pub(super) needs_care: bool,
}

/// A stretch of the golden.
#[derive(Default)]
struct Read {
    bytes: Vec<u8>,
    /// Where it begins in the file, and how many of the bytes were read.
    from: u64,
    filled: usize,
    /// How many of them are compared.
    at: usize,
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
        if self.bytes.len() < GOLDEN.max(size) {
            self.bytes.resize(GOLDEN.max(size), 0);
        }
        self.filled = file.read_at(&mut self.bytes, self.from).ok().filter(|read| *read >= size)?;
        Some(())
    }
}

/// What a run of frames gave.
#[derive(Default)]
pub(super) struct Piece {
    forwarded: u64,
    returned: u64,
    others: Vec<(usize, usize, Verdict)>,
    /// What left since the last verdict, and of the packets that were forwarded so all of it, while translations are of interest;
    /// and the ends of those that took the parallel way: what leaves between the same two shows nothing more.
    left: Vec<Vec<u8>>,
    translated: Vec<((usize, usize), Vec<u8>)>,
    shown: HashSet<[u8; ENDS]>,
    /// Counts of what left the serial way.
    totals: Totals,
    needs_care: bool,
    /// The golden, as far as it was read.
    golden: Read,
    /// The latest time stamp of the golden.
    golden_last: u64,
    records: Records,
}

impl<'a, 'scope> Collector<'a, 'scope> {
    /// Nothing left yet.
    pub(super) fn new(golden: Option<Golden>, output: Option<File<'a, 'scope>>) -> Collector<'a, 'scope> {
        Collector { golden, output, ..Collector::default() }
    }

    /// A window begins.
    pub(super) fn begin(&mut self) {
        self.start = self.emitted;
    }

    /// So much left, of which it has all pieces.
    pub(super) fn add(&mut self, emitted: Emitted) {
        self.emitted.frames += emitted.frames;
        self.emitted.bytes += emitted.bytes;
    }

    /// Takes in what left the serial way; whether all was equal so far.
    ///
    /// # Errors
    /// The first write that failed so far.
    pub(super) fn take(&mut self, mut piece: Piece) -> Result<bool, CaptureError> {
        self.finish(&mut piece);
        self.add(Emitted { frames: piece.totals.frames, bytes: piece.totals.bytes });
        self.collect(piece);
        self.error().map_or(Ok(!self.needs_care), Err)
    }

    /// The time of the golden's last frame, 0 without a golden; none if it holds frames that did not leave.
    pub(super) fn golden_end(&self) -> Option<Nanos> {
        match &self.golden {
            Some(golden) if golden.at(self.emitted) != golden.file.size() => None,
            Some(golden) => Some(golden.last),
            None => Some(Nanos(0)),
        }
    }

    /// The result of the comparison with the golden, if there is one: as far as it is made here all is equal.
    pub(super) fn comparison(&self) -> Option<Comparison> {
        self.golden.as_ref().map(|golden| Comparison::equal(self.emitted.frames, golden.learner.counts()))
    }

    /// Counts of what left.
    pub(super) fn totals(&mut self) -> Totals {
        Totals { frames: self.emitted.frames, bytes: self.emitted.bytes, ..std::mem::take(&mut self.totals) }
    }

    /// The first write that failed so far, once.
    pub(super) fn error(&self) -> Option<CaptureError> {
        self.output.and_then(|(behind, _)| behind.error())
    }

    /// Whether a frame that took the parallel way and begins so may be the first one of its connection, or may carry an option of
    /// address.
    #[inline(never)]
    fn shows(&self, piece: &mut Piece, head: &[u8]) -> bool {
        let v4 = head.get(12..14) == Some(&[8, 0]);
        let options = head.get(if v4 { OPTIONS } else { OPTIONS + 20 }..).unwrap_or_default();
        let mut is_first = || {
            let ends = if v4 { 26..38 } else { 22..58 };
            let mut key = [0; ENDS];
            key.iter_mut().zip(head.get(ends).unwrap_or_default()).for_each(|(place, byte)| *place = *byte);
            piece.shown.len() < self.room && piece.shown.insert(key)
        };
        options.contains(&TOA) || is_first()
    }

    /// Whether the golden's next frame is this one.
    #[inline(always)]
    fn agrees(&self, golden: &Golden, piece: &mut Piece, leaving: Leaving<'_>) -> Agreement {
        let len = leaving.len();
        let start = golden.file.record_head();
        let Some(record) = piece.golden.next(&golden.file, start + len) else { return Agreement::No };
        let Some(head) = golden.file.head(record) else { return Agreement::No };
        piece.golden_last = piece.golden_last.max(head.stamp);
        // A length on the wire below what was captured is that of what was captured.
        if head.len as usize != len || head.wire_len.max(head.len) != len as u32 + leaving.frame.cut {
            return Agreement::No;
        }
        let expected = &record[start..];
        if leaving.frame.late && Nanos(golden.file.time(&head).0.abs_diff(leaving.frame.time.0)) > LATE_TIME {
            return Agreement::No;
        }
        let drawn = leaving.frame.drawn;
        if leaving.equals(expected) {
            // The golden's draws are the engine's own.
            let agrees = drawn.is_empty() || golden.learner.see(expected, expected, drawn);
            return if agrees { Agreement::Yes } else { Agreement::No };
        }
        if drawn.is_empty() {
            return Agreement::No;
        }
        learned(golden, expected, leaving.to_vec(), leaving.frame).map_or(Agreement::No, Agreement::Learned)
    }
}

/// Whether what left is what the golden has.
enum Agreement {
    No,
    Yes,
    /// These bytes are, which have the golden's draws.
    Learned(Vec<u8>),
}

/// The frame with the golden's draws, if it differs in nothing else. Apart from what is done for every frame.
#[cold]
fn learned(golden: &Golden, expected: &[u8], whole: Vec<u8>, frame: EmittedFrame<'_>) -> Option<Vec<u8>> {
    golden.learner.take_over(expected, &EmittedFrame { bytes: &whole, ..frame })
}

impl Sink for Collector<'_, '_> {
    type Piece = Piece;

    fn piece(&self, before: Emitted) -> Piece {
        let frames = self.start.frames + before.frames;
        let before = Emitted { frames, bytes: self.start.bytes + before.bytes };
        let mut piece = Piece::default();
        if let Some((behind, _)) = self.output {
            let at = pcap_head().len() as u64 + frames * PCAP_RECORD_HEAD as u64 + before.bytes;
            piece.records = Records::new(behind.buffer(), at);
        }
        if let Some(golden) = &self.golden {
            let spare = self.spare.lock().ok().and_then(|mut spare| spare.pop()).unwrap_or_default();
            piece.golden = spare.going_on_at(golden.at(before));
        }
        piece
    }

    #[inline(always)]
    fn frame(&self, piece: &mut Piece, leaving: Leaving<'_>) {
        let len = leaving.len();
        if !leaving.frame.bytes.is_empty() {
            // It went the serial way: perhaps the director's own frame, perhaps with a draw.
            count(&mut piece.totals, leaving.frame);
            if self.translates {
                piece.left.push(leaving.frame.bytes.to_vec());
            }
        } else if self.translates && (self.room > 0 || leaving.head.len() > OPTIONS) {
            // Its bytes are made here: what is given to a function must lie in memory, and need not where none is called.
            if self.shows(piece, leaving.head) {
                piece.left.push(leaving.to_vec());
            }
        }
        let mut learned = None;
        if let Some(golden) = &self.golden
            && !piece.needs_care
        {
            match self.agrees(golden, piece, leaving) {
                Agreement::Yes => {}
                Agreement::No => piece.needs_care = true,
                Agreement::Learned(bytes) => learned = Some(bytes),
            }
        }
        if self.output.is_some() {
            let room = piece.records.add(leaving.frame.time, len, len as u32 + leaving.frame.cut);
            match &learned {
                Some(bytes) => room.copy_from_slice(bytes),
                None => leaving.put(room),
            }
        }
    }

    #[inline(always)]
    fn verdict(&self, piece: &mut Piece, part: usize, number: usize, verdict: Verdict) {
        match verdict {
            Verdict::Forwarded(_) => piece.forwarded += 1,
            Verdict::Returned(_) => piece.returned += 1,
            _ => piece.others.push((part, number, verdict)),
        }
        if !piece.left.is_empty() {
            let left = piece.left.drain(..).map(|emitted| ((part, number), emitted));
            if let Verdict::Forwarded(_) = verdict {
                piece.translated.extend(left);
            }
        }
    }

    fn finish(&self, piece: &mut Piece) {
        if let Some((behind, scope)) = self.output {
            let records = std::mem::take(&mut piece.records);
            let at = records.at();
            behind.write(scope, records.into_bytes(), at);
        }
        if self.golden.is_some()
            && let Ok(mut spare) = self.spare.lock()
        {
            spare.push(std::mem::take(&mut piece.golden));
        }
    }

    fn collect(&mut self, piece: Piece) {
        // Those of a kind count together, whatever their service.
        let any = Forwarded { service: 0, server: 0, new: false };
        self.verdicts.count_many(Verdict::Forwarded(any), piece.forwarded);
        self.verdicts.count_many(Verdict::Returned(any), piece.returned);
        for (part, number, verdict) in piece.others {
            self.verdicts.count(verdict);
            self.unusual.push((part, number));
        }
        self.forwarded.extend(piece.translated);
        self.totals.link += piece.totals.link;
        self.totals.icmp_errors += piece.totals.icmp_errors;
        self.needs_care |= piece.needs_care;
        if let Some(golden) = &mut self.golden {
            let last = golden.file.time(&RecordHead { stamp: piece.golden_last, len: 0, wire_len: 0 });
            golden.last = golden.last.max(last);
        }
    }
}
