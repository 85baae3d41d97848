//! What leaves a large replay: counted, compared with the golden, written.

use super::golden_pieces::{Agreement, Golden, Stretch};
use super::outcome::{Emitted as Totals, Verdicts};
use super::records::Records;
use super::session::count;
use super::translation::TOA;
use super::write_behind::File;
use crate::capture::{CaptureError, PCAP_RECORD_HEAD, pcap_head};
use crate::compare::Comparison;
use lvscheck_engine::Nanos;
use lvscheck_engine::batch::{Emitted, Leaving, Sink};
use lvscheck_engine::verdict::{Forwarded, Verdict};
use std::collections::HashSet;

/// A link header without tags.
const ETHERNET: usize = 14;
/// Where the options of TCP stand over IPv4 at the earliest.
const OPTIONS: usize = ETHERNET + 20 + 20;
/// Room for the addresses and ports of both ends of a packet.
const ENDS: usize = 36;

/// Takes what leaves: counts, compares, writes.
#[derive(Default)]
pub(super) struct Collector<'a, 'scope> {
    golden: Option<Golden>,
    output: Option<File<'a, 'scope>>,
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
    golden: Stretch,
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
        self.golden.as_ref().map_or(Some(Nanos(0)), |golden| golden.end_after(self.emitted))
    }

    /// The result of the comparison with the golden, if there is one: as far as it is made here all is equal.
    pub(super) fn comparison(&self) -> Option<Comparison> {
        self.golden.as_ref().map(|golden| golden.comparison(self.emitted))
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
            piece.golden = golden.begin(before);
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
            match golden.agrees(&mut piece.golden, leaving) {
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
        if let Some(golden) = &self.golden {
            golden.end(std::mem::take(&mut piece.golden));
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
    }
}
