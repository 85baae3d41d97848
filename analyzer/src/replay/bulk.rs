//! The fast way of a replay: a large plain capture goes through [`lvscheck_engine::batch`] window by window, and what leaves is
//! compared or written by all threads at once. Memory holds one window, however large the capture is.
//!
//! It is taken only where its result is the same as the careful way's. Whatever needs care (frames that are no input, time that
//! steps back, draws, the first byte that differs from the golden) ends it, and the replay begins again, carefully.

use super::Outcome;
use super::bystander::Bystanders;
use super::demands::Watch;
use super::outcome::{Emitted as Totals, Roles, Verdicts};
use super::place::{Place, Places};
use super::session::{InputFrame, count};
use super::translation::{TOA, Translations};
use super::write_behind::WriteBehind;
use crate::capture::{
    BulkFrame, BulkReader, BulkWindow, CaptureError, PCAP_RECORD_HEAD, PlainFile, RecordHead, Writer, pcap_head, pcap_record_head,
};
use crate::compare::Comparison;
use crate::compare::align::LATE_TIME;
use crate::compare::draws::take_over;
use crate::compare::shared_learner::SharedLearner;
use crate::exit::Failure;
use lvscheck_engine::batch::{Batch, Emitted, Frames, Handled, Leaving, Sink, Stage};
use lvscheck_engine::config::InterfaceId;
use lvscheck_engine::verdict::{Forwarded, Verdict};
use lvscheck_engine::{Arrival, Director, EmittedFrame, Nanos, Output};
use rayon::Scope;
use std::collections::HashSet;
use std::ops::{Range, RangeInclusive};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

/// Bytes of a window.
const WINDOW: usize = 4 << 20;
/// Windows in use: one is worked on while the next is read.
const AHEAD: usize = 2;
/// Bytes of the golden that one thread reads at a time.
const GOLDEN: usize = 64 << 10;
/// A link header without tags.
const ETHERNET: usize = 14;
/// Room for the addresses and ports of both ends of a packet.
const ENDS: usize = 36;

/// What a bulk replay is told.
pub struct BulkRequest<'a> {
    /// The capture.
    pub input: BulkReader,
    /// What to compare with, from its first frame on.
    pub golden: Option<PlainFile>,
    /// Where to write what leaves: a file, no pipe.
    pub write: Option<Writer>,
    /// Where frames stand.
    pub places: Places,
    /// The director, at rest.
    pub director: Director,
    /// What frames are that are no input.
    pub bystanders: Bystanders,
    /// Whether answers that the director sent in the capture would have to go through it once more: asked only where they would.
    pub turns_replies: &'a dyn Fn(&Places) -> Result<bool, CaptureError>,
    /// Signs of broken demands.
    pub watch: Watch,
    /// How FULLNAT shows connections.
    pub translations: Translations,
    /// Ports that the director may draw.
    pub local_ports: RangeInclusive<u16>,
    /// When the director's life ends, by the time of the last frame of the capture and of the golden.
    pub end: &'a dyn Fn(Nanos, Nanos) -> Nanos,
    /// Told what is done when, and of frames done.
    pub stage: &'a mut dyn FnMut(Step),
}

/// What a bulk replay does at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A window is read.
    Read,
    /// The engine's part.
    Engine(Stage),
    /// A window is done.
    Frames {
        /// Frames done.
        frames: u64,
        /// Bytes of the capture done.
        position: u64,
        /// The time of the first frame.
        first: Nanos,
    },
}

/// What came of it.
#[derive(Debug)]
pub struct BulkResult {
    /// All but input, director and speed is filled in.
    pub outcome: Outcome,
    /// Frames read.
    pub frames: u64,
    /// Captured bytes.
    pub bytes: u64,
    /// Bytes on the wire, without FCS.
    pub wire_bytes: u64,
    /// The times of the first and the last frame.
    pub times: (Nanos, Nanos),
    /// What the capture lost.
    pub warnings: Vec<String>,
    /// How packets were handled.
    pub handled: Handled,
    /// The director at its end.
    pub director: Director,
}

/// Replays in bulk; none when the careful way must be taken.
///
/// # Errors
/// Something can't be read or written.
pub fn run(mut request: BulkRequest<'_>) -> Result<Option<BulkResult>, Failure> {
    let Some(writer) = request.write.take() else { return replay(request, None) };
    let behind = WriteBehind::new(writer)?;
    let result = rayon::in_place_scope(|scope| replay(request, Some((&behind, scope))))?;
    if result.is_some() {
        behind.finish()?;
    }
    Ok(result)
}

fn replay(request: BulkRequest<'_>, output: Option<File<'_, '_>>) -> Result<Option<BulkResult>, Failure> {
    let BulkRequest { mut input, golden, write: _, places, director, bystanders, turns_replies, .. } = request;
    let BulkRequest { mut watch, mut translations, local_ports, end, stage, .. } = request;
    let mut batch = Batch::new(director);
    let golden = golden.map(|file| Golden { file, last: Nanos(0), learner: SharedLearner::new(local_ports) });
    let mut collector =
        Collector { output, golden, translates: translations.wants_more(), room: translations.room(), ..Collector::default() };
    let mut counts = Counts::default();
    let mut roles = Roles::default();
    let mut turns = None;
    let interfaces = input.interfaces().len();
    let plain = std::thread::scope(|scope| -> Result<bool, Failure> {
        // Made here: when this ends early, so do the channels, and with them the thread that reads.
        let (empty, to_fill) = channel::<BulkWindow>();
        let (filled, windows) = sync_channel::<Result<(BulkWindow, u64), CaptureError>>(1);
        let (reader, places) = (&mut input, &places);
        scope.spawn(move || read_ahead(reader, places, &to_fill, &filled));
        for _ in 0..AHEAD {
            let _reader_is_gone = empty.send(BulkWindow::default());
        }
        loop {
            stage(Step::Read);
            let Ok(read) = windows.recv() else { return Ok(true) };
            let (window, position) = read?;
            let seen = bystanders.look(&window, places, &watch, interfaces);
            if seen.sent && bystanders.translates() && turns.is_none() {
                turns = Some(turns_replies(places)?);
            }
            if window.steps_back() || seen.needs_care || seen.sent && turns == Some(true) {
                return Ok(false);
            }
            roles.add(&seen.roles);
            collector.start = collector.emitted;
            batch.process(&Given(&window), &mut collector, &mut |now| stage(Step::Engine(now)));
            if let Some(error) = collector.error() {
                return Err(error.into());
            }
            if collector.needs_care {
                return Ok(false);
            }
            demands(&mut watch, &window, std::mem::take(&mut collector.unusual), &seen.concerning);
            for ((part, number), emitted) in std::mem::take(&mut collector.forwarded) {
                if let Some(frame) = window.frame(part, number) {
                    translations.note(frame.bytes, &emitted);
                }
            }
            (collector.translates, collector.room) = (translations.wants_more(), translations.room());
            counts.add(&window);
            let first = counts.first.unwrap_or_default();
            stage(Step::Frames { frames: counts.frames, position, first });
            let _reader_is_gone = empty.send(window);
        }
    });
    if !plain? {
        return Ok(None);
    }
    let (Some(first), Some(last)) = (counts.first, counts.last) else { return Ok(None) };
    let last_golden = match &collector.golden {
        Some(golden) if golden.at(collector.emitted) != golden.file.size() => return Ok(None),
        Some(golden) => golden.last,
        None => Nanos(0),
    };
    let mut out = Output::default();
    batch.director_mut().advance(last.max(end(last, last_golden)), &mut out);
    if !out.is_empty() && collector.golden.is_some() {
        // What timers send afterwards was compared with the golden's end already, and found too much.
        return Ok(None);
    }
    collector.start = collector.emitted;
    let mut piece = collector.piece(Emitted::default());
    for frame in out.frames() {
        collector.frame(&mut piece, Leaving { head: frame.bytes, tail: &[], frame });
    }
    collector.finish(&mut piece);
    collector.collect(piece);
    if let Some(error) = collector.error() {
        return Err(error.into());
    }
    let frames = collector.emitted.frames;
    let learned = collector.golden.as_ref().map(|golden| golden.learner.counts()).unwrap_or_default();
    let outcome = Outcome {
        golden: collector.golden.is_some().then(|| Comparison {
            expected: frames,
            actual: frames,
            equal: frames,
            learned,
            ..Comparison::default()
        }),
        verdicts: collector.verdicts,
        roles,
        demands: watch.finish(),
        services: batch.director().services(),
        client_addresses: batch.director().client_addresses(),
        translations: translations.into_list(),
        emitted: Totals { frames, bytes: collector.emitted.bytes, ..collector.totals },
        ..Outcome::default()
    };
    Ok(Some(BulkResult {
        outcome,
        frames: counts.frames,
        bytes: counts.bytes,
        wire_bytes: counts.wire_bytes,
        times: (first, last),
        warnings: input.damage().map(ToString::to_string).into_iter().collect(),
        handled: batch.handled(),
        director: batch.into_director(),
    }))
}

/// Shows demands what may concern them: packets that were not just forwarded, ARP above all, those too long for a tunnel, and of
/// those that stand aside the ones named. There are few.
fn demands(watch: &mut Watch, window: &BulkWindow, mut unusual: Vec<(usize, usize)>, aside: &[(usize, usize)]) {
    for part in (0..window.parts()).filter(|part| watch.is_big(window.longest(*part))) {
        let frames = window.frames(part, 0..window.part_len(part)).enumerate();
        unusual.extend(frames.filter_map(|(number, frame)| watch.is_big(frame?.wire_len).then_some((part, number))));
    }
    unusual.sort_unstable();
    unusual.dedup();
    let input = unusual.iter().filter_map(|&(part, number)| Some((window.number(part, number), window.frame(part, number)?)));
    let aside = aside.iter().filter_map(|&(part, at)| Some((window.number_aside(part, at), window.aside(part).nth(at)?)));
    let mut frames: Vec<(u64, BulkFrame<'_>)> = input.chain(aside).collect();
    frames.sort_by_key(|(number, _)| *number);
    for (number, frame) in frames {
        watch.look(InputFrame { number, time: frame.time, interface: 0, bytes: frame.bytes, wire_len: frame.wire_len });
    }
}

/// Fills windows until the capture ends or nobody wants them.
fn read_ahead(
    input: &mut BulkReader,
    places: &Places,
    to_fill: &Receiver<BulkWindow>,
    filled: &SyncSender<Result<(BulkWindow, u64), CaptureError>>,
) {
    let interfaces = input.interfaces().len();
    let place = |interface: u32, frame: &[u8]| match places.of(interface, frame) {
        Place::Arrived(InterfaceId(place)) if (interface as usize) < interfaces => Some(place),
        _ => None,
    };
    for mut window in to_fill {
        let read = match input.next_window(&mut window, WINDOW, &place) {
            Ok(true) => Ok((window, input.position())),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        let ends = read.is_err();
        if filled.send(read).is_err() || ends {
            return;
        }
    }
}

/// Counts of what was read.
#[derive(Default)]
struct Counts {
    frames: u64,
    bytes: u64,
    wire_bytes: u64,
    first: Option<Nanos>,
    last: Option<Nanos>,
}

impl Counts {
    fn add(&mut self, window: &BulkWindow) {
        let (bytes, wire_bytes) = window.lengths();
        self.frames += window.len() as u64;
        self.bytes += bytes;
        self.wire_bytes += wire_bytes;
        if let Some((first, last)) = window.times() {
            self.first.get_or_insert(first);
            self.last = Some(last);
        }
    }
}

/// A window as the engine sees it.
struct Given<'a>(&'a BulkWindow);

impl Frames for Given<'_> {
    fn parts(&self) -> usize {
        self.0.parts()
    }

    fn part_len(&self, part: usize) -> usize {
        self.0.part_len(part)
    }

    #[inline]
    fn arrival(&self, part: usize, number: usize) -> Option<Arrival<'_>> {
        let BulkFrame { time, place, bytes, wire_len } = self.0.frame(part, number)?;
        Some(Arrival { time, interface: InterfaceId(place), frame: bytes, wire_len })
    }

    #[inline]
    fn arrivals(&self, part: usize, numbers: Range<usize>) -> impl Iterator<Item = Option<Arrival<'_>>> {
        self.0.frames(part, numbers).map(|frame| {
            let BulkFrame { time, place, bytes, wire_len } = frame?;
            Some(Arrival { time, interface: InterfaceId(place), frame: bytes, wire_len })
        })
    }
}

/// The golden, read where it is compared.
struct Golden {
    file: PlainFile,
    last: Nanos,
    /// The values of draws.
    learner: SharedLearner,
}

impl Golden {
    /// Gives a frame the golden's draws and returns it, if that makes it equal and they agree with those before.
    #[cold]
    fn with_draws(&self, expected: &[u8], frame: &EmittedFrame<'_>) -> Option<Vec<u8>> {
        let mut bytes = frame.bytes.to_vec();
        take_over(expected, &mut bytes, frame.drawn);
        (bytes == expected && self.learner.see(expected, frame.bytes, frame.drawn)).then_some(bytes)
    }

    /// Brings so many bytes of a piece's golden from where it stands; false if there are not so many.
    #[cold]
    fn read_on(&self, piece: &mut Piece, size: usize) -> bool {
        piece.golden_at += piece.at as u64;
        (piece.at, piece.filled) = (0, 0);
        if piece.golden.len() < GOLDEN.max(size) {
            piece.golden.resize(GOLDEN.max(size), 0);
        }
        match self.file.read_at(&mut piece.golden, piece.golden_at) {
            Ok(read) if read >= size => piece.filled = read,
            _ => return false,
        }
        true
    }

    /// Where the frame stands that follows so many, if all before it are equal.
    fn at(&self, emitted: Emitted) -> u64 {
        self.file.first() + emitted.frames * self.file.record_head() as u64 + emitted.bytes
    }
}

/// Where what leaves is written, and what it takes to do that later.
type File<'a, 'scope> = (&'scope WriteBehind, &'a Scope<'scope>);

/// Takes what leaves: counts, compares, writes.
#[derive(Default)]
struct Collector<'a, 'scope> {
    golden: Option<Golden>,
    output: Option<File<'a, 'scope>>,
    /// Buffers for goldens, to use again.
    spare: Mutex<Vec<Vec<u8>>>,
    /// What was emitted in all, and when the window began.
    emitted: Emitted,
    start: Emitted,
    verdicts: Verdicts,
    totals: Totals,
    /// Frames that demands look at.
    unusual: Vec<(usize, usize)>,
    /// Translations are of interest, and of so many connections more: of packets that were forwarded, what left for them.
    translates: bool,
    room: usize,
    forwarded: Vec<((usize, usize), Vec<u8>)>,
    needs_care: bool,
}

/// What a run of frames gave.
#[derive(Default)]
struct Piece {
    forwarded: u64,
    returned: u64,
    others: Vec<(usize, usize, Verdict)>,
    /// What left since the last verdict, and of the packets that were forwarded so all of it, while translations are of interest;
    /// and the ends of those that took the parallel way: what leaves between the same two shows nothing more.
    left: Vec<Vec<u8>>,
    translated: Vec<((usize, usize), Vec<u8>)>,
    shown: HashSet<[u8; ENDS]>,
    /// The last frame with the golden's draws, if it has any.
    learned: Option<Vec<u8>>,
    emitted: Emitted,
    totals: Totals,
    needs_care: bool,
    /// The golden from `golden_at` on, of which `filled` bytes were read; `at` is the place in it.
    golden: Vec<u8>,
    golden_at: u64,
    filled: usize,
    at: usize,
    /// The latest time stamp of the golden.
    golden_last: u64,
    records: Vec<u8>,
    /// Where the records belong in the file.
    records_at: u64,
}

impl Collector<'_, '_> {
    /// The first write that failed so far, once.
    fn error(&self) -> Option<CaptureError> {
        self.output.and_then(|(behind, _)| behind.error())
    }

    /// Keeps a frame that took the parallel way if it may be the first one of its connection, or may carry an option of address.
    fn show(&self, piece: &mut Piece, leaving: &Leaving<'_>) {
        const OPTIONS: (usize, usize) = (ETHERNET + 20 + 20, ETHERNET + 40 + 20);
        let v4 = leaving.head.get(12..14) == Some(&[8, 0]);
        let options = leaving.head.get(if v4 { OPTIONS.0 } else { OPTIONS.1 }..).unwrap_or_default();
        let mut is_first = || {
            let ends = if v4 { 26..38 } else { 22..58 };
            let mut key = [0; ENDS];
            key.iter_mut().zip(leaving.head.get(ends).unwrap_or_default()).for_each(|(place, byte)| *place = *byte);
            piece.shown.len() < self.room && piece.shown.insert(key)
        };
        if options.contains(&TOA) || is_first() {
            piece.left.push([leaving.head, leaving.tail].concat());
        }
    }

    /// Whether the golden's next frame is this one.
    #[inline(always)]
    fn agrees(&self, golden: &Golden, piece: &mut Piece, leaving: &Leaving<'_>) -> bool {
        let (head_len, len) = (leaving.head.len(), leaving.head.len() + leaving.tail.len());
        let start = golden.file.record_head();
        if piece.filled - piece.at < start + len && !golden.read_on(piece, start + len) {
            return false;
        }
        let Some(record) = piece.golden.get(piece.at..piece.at + start + len) else { return false };
        let Some(head) = golden.file.head(record) else { return false };
        piece.at += start + len;
        piece.golden_last = piece.golden_last.max(head.stamp);
        // A length on the wire below what was captured is that of what was captured.
        if head.len as usize != len || head.wire_len.max(head.len) != len as u32 + leaving.frame.cut {
            return false;
        }
        let expected = &record[start..];
        if leaving.frame.late && Nanos(golden.file.time(&head).0.abs_diff(leaving.frame.time.0)) > LATE_TIME {
            return false;
        }
        if expected[..head_len] == *leaving.head && expected[head_len..] == *leaving.tail {
            // The golden's draws are the engine's own.
            let drawn = leaving.frame.drawn;
            return drawn.is_empty() || golden.learner.see(expected, expected, drawn);
        }
        if leaving.frame.drawn.is_empty() {
            return false;
        }
        let whole = [leaving.head, leaving.tail].concat();
        piece.learned = golden.with_draws(expected, &EmittedFrame { bytes: &whole, ..leaving.frame });
        piece.learned.is_some()
    }
}

impl Sink for Collector<'_, '_> {
    type Piece = Piece;

    fn piece(&self, before: Emitted) -> Piece {
        let frames = self.start.frames + before.frames;
        let before = Emitted { frames, bytes: self.start.bytes + before.bytes };
        let mut piece = Piece::default();
        if let Some((behind, _)) = self.output {
            piece.records = behind.buffer();
            piece.records_at = pcap_head().len() as u64 + frames * PCAP_RECORD_HEAD as u64 + before.bytes;
        }
        if let Some(golden) = &self.golden {
            piece.golden = self.spare.lock().ok().and_then(|mut spare| spare.pop()).unwrap_or_default();
            piece.golden_at = golden.at(before);
        }
        piece
    }

    #[inline(always)]
    fn frame(&self, piece: &mut Piece, leaving: Leaving<'_>) {
        let len = leaving.head.len() + leaving.tail.len();
        piece.emitted.frames += 1;
        piece.emitted.bytes += len as u64;
        if !leaving.frame.bytes.is_empty() {
            // It went the serial way: perhaps the director's own frame, perhaps with a draw.
            count(&mut piece.totals, &leaving.frame);
            if self.translates {
                piece.left.push(leaving.frame.bytes.to_vec());
            }
        } else if self.translates {
            self.show(piece, &leaving);
        }
        if piece.learned.is_some() {
            piece.learned = None;
        }
        if let Some(golden) = &self.golden
            && !piece.needs_care
        {
            piece.needs_care |= !self.agrees(golden, piece, &leaving);
        }
        if self.output.is_some() {
            pcap_record_head(&mut piece.records, leaving.frame.time, len as u32, len as u32 + leaving.frame.cut);
            match &piece.learned {
                Some(bytes) => piece.records.extend_from_slice(bytes),
                None => {
                    piece.records.extend_from_slice(leaving.head);
                    piece.records.extend_from_slice(leaving.tail);
                }
            }
        }
    }

    #[inline(always)]
    fn verdict(&self, piece: &mut Piece, part: usize, number: usize, verdict: Verdict) {
        match verdict {
            Verdict::Forwarded(_) => {
                piece.forwarded += 1;
                if !piece.left.is_empty() {
                    piece.translated.extend(piece.left.drain(..).map(|emitted| ((part, number), emitted)));
                }
            }
            Verdict::Returned(_) => piece.returned += 1,
            _ => piece.others.push((part, number, verdict)),
        }
        if !piece.left.is_empty() {
            piece.left.clear();
        }
    }

    fn finish(&self, piece: &mut Piece) {
        if let Some((behind, scope)) = self.output {
            behind.write(scope, std::mem::take(&mut piece.records), piece.records_at);
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
        self.emitted.frames += piece.emitted.frames;
        self.emitted.bytes += piece.emitted.bytes;
        self.totals.link += piece.totals.link;
        self.totals.icmp_errors += piece.totals.icmp_errors;
        self.needs_care |= piece.needs_care;
        if let Some(golden) = &mut self.golden {
            let last = golden.file.time(&RecordHead { stamp: piece.golden_last, len: 0, wire_len: 0 });
            golden.last = golden.last.max(last);
        }
    }
}
