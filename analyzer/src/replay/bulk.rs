//! The fast way of a replay: a large capture goes through [`lvscheck_engine::batch`] window by window, and what leaves is compared
//! or written by all threads at once. Memory holds two windows, however large the capture is.
//!
//! It is taken only where its result is the same as the careful way's. What must be told by connections, answers to send through
//! the director, a clock that steps back and the first byte that differs from the golden end it for the way of one packet after the
//! other, which begins again.

use super::Outcome;
use super::bystander::Bystanders;
use super::collector::Collector;
use super::demands::Watch;
use super::golden_file::GoldenFile;
use super::golden_pieces::Golden;
use super::outcome::Roles;
use super::place::{Place, Places};
use super::session::InputFrame;
use super::translation::Translations;
use super::write_behind::{self, File};
use crate::capture::link::{self, AsEthernet};
use crate::capture::{BulkFrame, BulkReader, BulkWindow, CaptureError, Input, Writer};
use crate::compare::ignore::Ignore;
use crate::exit::Failure;
use lvscheck_engine::batch::{Batch, Emitted, Frames, Handled, Leaving, Sink, Stage};
use lvscheck_engine::config::InterfaceId;
use lvscheck_engine::settle::Trial;
use lvscheck_engine::{Arrival, Director, DirectorConfig, Nanos, Output};
use std::ops::{Range, RangeInclusive};

/// Bytes of a window.
pub(super) const WINDOW: usize = 2 << 20;

/// What a bulk replay is told.
pub struct BulkRequest<'a> {
    /// The capture, or several as one.
    pub input: BulkReader,
    /// What to compare with.
    pub golden: Option<&'a Input>,
    /// To compare with what the capture shows that the director sent; the fast way does not.
    pub compares_sent: bool,
    /// Fields of it, and of answers, that may differ: none on the fast way.
    pub ignore: &'a Ignore,
    /// Where to write what leaves: a file, no pipe.
    pub write: Option<Writer>,
    /// Where frames stand.
    pub places: Places,
    /// What describes the director.
    pub config: &'a DirectorConfig,
    /// The director, at rest.
    pub director: Director,
    /// What frames are that are no input.
    pub bystanders: Bystanders,
    /// Whether answers that the director sent in the capture would have to go through it once more: asked only where they would.
    pub turns_replies: &'a dyn Fn(&Places) -> Result<bool, CaptureError>,
    /// The capture's frames as Ethernet; the fast way takes no others.
    pub as_ethernet: AsEthernet,
    /// Signs of broken demands.
    pub watch: Watch,
    /// How FULLNAT shows connections.
    pub translations: Translations,
    /// Ports that the director may draw.
    pub local_ports: RangeInclusive<u16>,
    /// A golden that agrees with no more frames than so many need not be compared any further; the fast way never compares further
    /// than to the first difference.
    pub further_than: Option<u64>,
    /// When the director's life ends, by the times of the capture's first and last frame and of the golden's last.
    pub end: &'a dyn Fn((Nanos, Nanos), Nanos) -> Nanos,
    /// Told what is done when, and of frames done.
    pub stage: &'a mut (dyn FnMut(Step) + Send),
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
    },
}

/// What came of it.
#[derive(Debug)]
pub struct BulkResult {
    /// All but input, director and speed is filled in.
    pub outcome: Outcome,
    /// What was read.
    pub counts: Counts,
    /// What the capture lost.
    pub warnings: Vec<String>,
    /// How packets were handled.
    pub handled: Handled,
    /// If something differs from the golden: which draws of the director may have decided it.
    pub trial: Option<Trial>,
    /// The director at its end.
    pub director: Director,
}

/// Why another way must be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detour {
    /// One packet after the other.
    OneByOne,
    /// The careful way.
    Careful,
    /// None: the golden agrees no further than it must.
    NoFurther,
}

/// What came of it, or which way must be taken instead.
pub type Attempt = Result<BulkResult, Detour>;

/// Replays in bulk.
///
/// # Errors
/// Something can't be read or written.
pub fn run(mut request: BulkRequest<'_>) -> Result<Attempt, Failure> {
    let writer = request.write.take();
    write_behind::with(writer, |output| replay(request, output))
}

fn replay(request: BulkRequest<'_>, output: Option<File<'_, '_>>) -> Result<Attempt, Failure> {
    let BulkRequest { mut input, golden, write: _, places, director, bystanders, turns_replies, .. } = request;
    let BulkRequest { mut watch, mut translations, local_ports, end, stage, .. } = request;
    // A temporary file that the golden lies in must stay until the end.
    let golden = match golden.map(|golden| GoldenFile::open(golden, request.config)) {
        Some(None) => return Ok(Err(Detour::OneByOne)),
        golden => golden.flatten(),
    };
    let (golden, _kept) = golden.map(|golden| (Golden::new(golden.file, local_ports), golden.unpacked)).unzip();
    let mut batch = Batch::new(director);
    let mut collector = Collector::new(golden, output);
    (collector.translates, collector.room) = (translations.wants_more(), translations.room());
    let mut counts = Counts::default();
    let mut roles = Roles::default();
    let mut turns = None;
    let interfaces = input.interfaces().len();
    let place = |interface: u32, frame: &[u8]| match places.of(interface, frame) {
        Place::Arrived(InterfaceId(place)) if (interface as usize) < interfaces && !link::is_made_up(frame) => Some(place),
        _ => None,
    };
    let (mut window, mut next) = (BulkWindow::default(), BulkWindow::default());
    stage(Step::Read);
    let mut more = input.next_window(&mut window, WINDOW, &place)?;
    while more {
        let position = input.position();
        let seen = bystanders.look(&window, &places, &watch, interfaces);
        if seen.sent && bystanders.translates() && turns.is_none() {
            turns = Some(turns_replies(&places)?);
        }
        if seen.new_interface {
            return Ok(Err(Detour::Careful));
        }
        if window.steps_back() || seen.by_connection || seen.sent && turns == Some(true) {
            return Ok(Err(Detour::OneByOne));
        }
        roles.add(&seen.roles);
        collector.begin();
        // Reading is a part of the same work: whichever thread has nothing else to do reads.
        let (emitted, read) = rayon::join(
            || {
                let emitted = batch.process(&Given(&window), &mut collector, &mut |now| stage(Step::Engine(now)));
                stage(Step::Read);
                emitted
            },
            || input.next_window(&mut next, WINDOW, &place),
        );
        collector.add(emitted);
        if let Some(error) = collector.error() {
            return Err(error.into());
        }
        if collector.needs_care {
            return Ok(Err(Detour::OneByOne));
        }
        demands(&mut watch, &window, std::mem::take(&mut collector.unusual), &seen.concerning);
        for ((part, number), emitted) in std::mem::take(&mut collector.forwarded) {
            if let Some(frame) = window.frame(part, number) {
                translations.note(frame.bytes, &emitted);
            }
        }
        (collector.translates, collector.room) = (translations.wants_more(), translations.room());
        counts.add(&window);
        stage(Step::Frames { frames: counts.frames, position });
        more = read?;
        std::mem::swap(&mut window, &mut next);
    }
    let (Some((first, last)), Some(last_golden)) = (counts.times, collector.golden_end()) else {
        return Ok(Err(Detour::OneByOne));
    };
    let mut out = Output::default();
    batch.director_mut().advance(last.max(end((first, last), last_golden)), &mut out);
    collector.begin();
    let mut piece = collector.piece(Emitted::default());
    for frame in out.frames() {
        collector.frame(&mut piece, Leaving::new(frame.bytes, &[], frame));
    }
    if !collector.take(piece)? {
        // The golden had ended already: what timers send afterwards is too much.
        return Ok(Err(Detour::OneByOne));
    }
    let outcome = Outcome {
        golden: collector.comparison(),
        emitted: collector.totals(),
        verdicts: collector.verdicts,
        roles,
        demands: watch.finish(),
        services: batch.director().services(),
        client_addresses: batch.director().client_addresses(),
        translations: translations.into_list(),
        ..Outcome::default()
    };
    let warnings = input.damage().map(ToString::to_string).collect();
    let handled = batch.handled();
    Ok(Ok(BulkResult { outcome, counts, warnings, handled, trial: None, director: batch.into_director() }))
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

/// Counts of what was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Frames.
    pub frames: u64,
    /// Captured bytes.
    pub bytes: u64,
    /// Bytes on the wire, without FCS.
    pub wire_bytes: u64,
    /// The earliest and the latest time of a frame.
    pub times: Option<(Nanos, Nanos)>,
}

impl Counts {
    /// Adds a window.
    pub(super) fn add(&mut self, window: &BulkWindow) {
        let (bytes, wire_bytes) = window.lengths();
        self.frames += window.len() as u64;
        self.bytes += bytes;
        self.wire_bytes += wire_bytes;
        if let Some((first, last)) = window.times() {
            let (earliest, latest) = self.times.unwrap_or((first, last));
            self.times = Some((first.min(earliest), last.max(latest)));
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
    fn arrivals(&self, part: usize, numbers: Range<usize>) -> impl ExactSizeIterator<Item = Option<Arrival<'_>>> {
        self.0.frames(part, numbers).map(|frame| {
            let BulkFrame { time, place, bytes, wire_len } = frame?;
            Some(Arrival { time, interface: InterfaceId(place), frame: bytes, wire_len })
        })
    }
}
