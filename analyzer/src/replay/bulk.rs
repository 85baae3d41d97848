//! The fast way of a replay: a large plain capture goes through [`lvscheck_engine::batch`] window by window, and what leaves is
//! compared or written by all threads at once. Memory holds one window, however large the capture is.
//!
//! It is taken only where its result is the same as the careful way's. Whatever needs care (frames that are no input, time that
//! steps back, draws, the first byte that differs from the golden) ends it, and the replay begins again, carefully.

use super::Outcome;
use super::demands::Watch;
use super::outcome::{Emitted as Totals, Verdicts};
use super::place::{Place, Places};
use super::session::{InputFrame, count};
use crate::capture::{BulkReader, BulkWindow, Writer, pcap_record_head};
use crate::compare::Comparison;
use crate::exit::Failure;
use lvscheck_engine::batch::{Batch, Emitted, Frames, Handled, Leaving, Sink, Stage};
use lvscheck_engine::verdict::Verdict;
use lvscheck_engine::{Arrival, Director, Nanos, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of a window.
const WINDOW: usize = 64 << 20;
/// Bytes of the golden that one thread reads at a time.
const GOLDEN: usize = 256 << 10;

/// What a bulk replay is told.
pub struct BulkRequest<'a> {
    /// The capture.
    pub input: BulkReader,
    /// What to compare with, from its first frame on.
    pub golden: Option<BulkReader>,
    /// Where to write what leaves.
    pub write: Option<Writer>,
    /// Where frames stand.
    pub places: Places,
    /// The director, at rest.
    pub director: Director,
    /// Signs of broken demands.
    pub watch: Watch,
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
pub fn run(request: BulkRequest<'_>) -> Result<Option<BulkResult>, Failure> {
    let BulkRequest { input, golden, write, places, director, watch, end, stage } = request;
    let Some(writer) = write else { return work(input, golden, None, places, director, watch, end, stage) };
    std::thread::scope(|scope| {
        let (full, ready) = sync_channel::<Vec<u8>>(512);
        let (empty, used) = sync_channel::<Vec<u8>>(1024);
        let thread = scope.spawn(move || write_out(writer, &ready, &empty));
        let result = work(input, golden, Some((full, Mutex::new(used))), places, director, watch, end, stage);
        let written = thread.join().unwrap_or_else(|_| Err(Failure::usage("the writing thread panicked")));
        match (result, written) {
            (Ok(Some(result)), Ok(writer)) => {
                writer.finish()?;
                Ok(Some(result))
            }
            (Ok(Some(_)), Err(error)) | (Err(error), _) => Err(error),
            (Ok(None), _) => Ok(None),
        }
    })
}

fn write_out(mut writer: Writer, ready: &Receiver<Vec<u8>>, empty: &SyncSender<Vec<u8>>) -> Result<Writer, Failure> {
    for mut records in ready {
        writer.write_raw(&records)?;
        records.clear();
        let _nobody_needs_it = empty.try_send(records);
    }
    Ok(writer)
}

type Pipe = Option<(SyncSender<Vec<u8>>, Mutex<Receiver<Vec<u8>>>)>;

#[expect(clippy::too_many_arguments, reason = "the fields of the request")]
fn work(
    mut input: BulkReader,
    golden: Option<BulkReader>,
    pipe: Pipe,
    places: Places,
    director: Director,
    mut watch: Watch,
    end: &dyn Fn(Nanos, Nanos) -> Nanos,
    stage: &mut dyn FnMut(Step),
) -> Result<Option<BulkResult>, Failure> {
    let mut batch = Batch::new(director);
    let mut window = BulkWindow::default();
    let mut collector = Collector { pipe, golden: golden.map(Golden::new), ..Collector::default() };
    let mut counts = Counts::default();
    loop {
        stage(Step::Read);
        if !input.next_window(&mut window, WINDOW)? {
            break;
        }
        let given = Given { window: &window, places: &places, floor: counts.last, needs_care: AtomicBool::new(false) };
        collector.start = collector.emitted;
        batch.process(&given, &mut collector, &mut |now| stage(Step::Engine(now)));
        if given.needs_care.into_inner() || collector.needs_care {
            return Ok(None);
        }
        // Frames that are neither IPv4 nor IPv6 without tags: ARP above all. There are few.
        for (part, number) in std::mem::take(&mut collector.unusual) {
            let before: usize = (0..part).map(|part| window.part_len(part)).sum();
            let Some((record, bytes)) = window.frame(part, number) else { continue };
            let number = window.first_number() + (before + number) as u64;
            watch.look(InputFrame { number, time: record.time, interface: 0, bytes, wire_len: record.wire_len });
        }
        counts.add(&window);
        let first = counts.first.unwrap_or_default();
        stage(Step::Frames { frames: counts.frames, position: input.position(), first });
    }
    let (Some(first), Some(last)) = (counts.first, counts.last) else { return Ok(None) };
    let last_golden = match &collector.golden {
        Some(golden) if golden.at(collector.emitted) != golden.reader.size() => return Ok(None),
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
    collector.collect(piece);
    let frames = collector.emitted.frames;
    let outcome = Outcome {
        golden: collector.golden.is_some().then(|| Comparison {
            expected: frames,
            actual: frames,
            equal: frames,
            ..Comparison::default()
        }),
        verdicts: collector.verdicts,
        demands: watch.finish(),
        services: batch.director().services(),
        client_addresses: batch.director().client_addresses(),
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
        let time = |part: usize, number: usize| window.frame(part, number).map(|(record, _)| record.time);
        let filled = |part: &usize| window.part_len(*part) > 0;
        self.first = self.first.or_else(|| (0..window.parts()).find(filled).and_then(|part| time(part, 0)));
        let last = (0..window.parts()).rev().find(filled).and_then(|part| time(part, window.part_len(part) - 1));
        self.last = last.or(self.last);
    }
}

/// A window as the engine sees it. Frames that are no input, and time that steps back, need care.
struct Given<'a> {
    window: &'a BulkWindow,
    places: &'a Places,
    floor: Option<Nanos>,
    needs_care: AtomicBool,
}

impl Given<'_> {
    /// The time of the frame before one.
    fn before(&self, part: usize, number: usize) -> Option<Nanos> {
        if number > 0 {
            return self.window.time(part, number - 1);
        }
        let earlier = (0..part).rev().find(|part| self.window.part_len(*part) > 0);
        earlier.and_then(|part| self.window.time(part, self.window.part_len(part) - 1)).or(self.floor)
    }
}

impl Frames for Given<'_> {
    fn parts(&self) -> usize {
        self.window.parts()
    }

    fn part_len(&self, part: usize) -> usize {
        self.window.part_len(part)
    }

    #[inline]
    fn arrival(&self, part: usize, number: usize) -> Option<Arrival<'_>> {
        let (record, frame) = self.window.frame(part, number)?;
        let place = self.places.of(0, frame);
        let steps_back = self.before(part, number).is_some_and(|before| record.time < before);
        let Place::Arrived(interface) = place else {
            self.needs_care.store(true, Ordering::Relaxed);
            return None;
        };
        if steps_back {
            self.needs_care.store(true, Ordering::Relaxed);
            return None;
        }
        Some(Arrival { time: record.time, interface, frame, wire_len: record.wire_len })
    }
}

/// The golden, read where it is compared.
struct Golden {
    reader: BulkReader,
    first: u64,
    last: Nanos,
}

impl Golden {
    fn new(reader: BulkReader) -> Golden {
        Golden { first: reader.position(), reader, last: Nanos(0) }
    }

    /// Where the frame stands that follows so many, if all before it are equal.
    fn at(&self, emitted: Emitted) -> u64 {
        self.first + emitted.frames * self.reader.record_head() as u64 + emitted.bytes
    }
}

/// Takes what leaves: counts, compares, writes.
#[derive(Default)]
struct Collector {
    golden: Option<Golden>,
    pipe: Pipe,
    /// What was emitted in all, and when the window began.
    emitted: Emitted,
    start: Emitted,
    verdicts: Verdicts,
    totals: Totals,
    /// Frames that demands look at.
    unusual: Vec<(usize, usize)>,
    needs_care: bool,
}

/// What a run of frames gave.
#[derive(Default)]
struct Piece {
    forwarded: Option<(Verdict, u64)>,
    returned: Option<(Verdict, u64)>,
    others: Vec<(usize, usize, Verdict)>,
    emitted: Emitted,
    totals: Totals,
    needs_care: bool,
    /// The golden from `golden_at` on, as far as it was read; `at` is the place in it.
    golden: Vec<u8>,
    golden_at: u64,
    at: usize,
    golden_last: Nanos,
    records: Vec<u8>,
}

impl Collector {
    /// Whether the golden's next frame is this one.
    #[inline]
    fn agrees(&self, golden: &Golden, piece: &mut Piece, leaving: &Leaving<'_>) -> bool {
        let len = leaving.head.len() + leaving.tail.len();
        let size = golden.reader.record_head() + len;
        if piece.golden.len() - piece.at < size {
            piece.golden_at += piece.at as u64;
            piece.at = 0;
            piece.golden.resize(GOLDEN.max(size), 0);
            match golden.reader.read_at(&mut piece.golden, piece.golden_at) {
                Ok(read) if read >= size => piece.golden.truncate(read),
                _ => return false,
            }
        }
        let Some(record) = golden.reader.record(&piece.golden, piece.at) else { return false };
        let head = record.start + leaving.head.len();
        let equal = record.len as usize == len
            && record.wire_len == len as u32 + leaving.frame.cut
            && piece.golden.get(record.start..head) == Some(leaving.head)
            && piece.golden.get(head..record.start + len) == Some(leaving.tail);
        piece.at += size;
        piece.golden_last = piece.golden_last.max(record.time);
        equal
    }
}

impl Sink for Collector {
    type Piece = Piece;

    fn piece(&self, before: Emitted) -> Piece {
        let mut piece = Piece::default();
        if let Some((_, used)) = &self.pipe
            && let Ok(used) = used.lock()
            && let Ok(records) = used.try_recv()
        {
            piece.records = records;
        }
        if let Some(golden) = &self.golden {
            let frames = self.start.frames + before.frames;
            piece.golden_at = golden.at(Emitted { frames, bytes: self.start.bytes + before.bytes });
        }
        piece
    }

    #[inline]
    fn frame(&self, piece: &mut Piece, leaving: Leaving<'_>) {
        piece.emitted.frames += 1;
        piece.emitted.bytes += (leaving.head.len() + leaving.tail.len()) as u64;
        if !leaving.frame.bytes.is_empty() {
            // It went the serial way: perhaps the director's own frame, perhaps with a draw.
            count(&mut piece.totals, &leaving.frame);
            piece.needs_care |= self.golden.is_some() && !leaving.frame.drawn.is_empty();
        }
        if let Some(golden) = &self.golden
            && !piece.needs_care
        {
            piece.needs_care |= !self.agrees(golden, piece, &leaving);
        }
        if self.pipe.is_some() {
            let len = leaving.head.len() + leaving.tail.len();
            pcap_record_head(&mut piece.records, leaving.frame.time, len as u32, len as u32 + leaving.frame.cut);
            piece.records.extend_from_slice(leaving.head);
            piece.records.extend_from_slice(leaving.tail);
        }
    }

    #[inline]
    fn verdict(&self, piece: &mut Piece, part: usize, number: usize, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Forwarded(_) => &mut piece.forwarded,
            Verdict::Returned(_) => &mut piece.returned,
            _ => return piece.others.push((part, number, verdict)),
        };
        counter.get_or_insert((verdict, 0)).1 += 1;
    }

    fn collect(&mut self, piece: Piece) {
        for (verdict, frames) in [piece.forwarded, piece.returned].into_iter().flatten() {
            self.verdicts.count_many(verdict, frames);
        }
        for (part, number, verdict) in piece.others {
            self.verdicts.count(verdict);
            self.unusual.push((part, number));
        }
        self.emitted.frames += piece.emitted.frames;
        self.emitted.bytes += piece.emitted.bytes;
        self.totals.link += piece.totals.link;
        self.totals.icmp_errors += piece.totals.icmp_errors;
        self.needs_care |= piece.needs_care;
        if let Some(golden) = &mut self.golden {
            golden.last = golden.last.max(piece.golden_last);
        }
        if let Some((full, _)) = &self.pipe {
            // When the writer failed its error is reported in the end.
            let _writer_is_gone = full.send(piece.records);
        }
    }
}
