//! The way of large captures whose packets must be taken one after the other: those with answers that are sent through the
//! director once more, a clock that steps back, services by firewall mark, other link types than Ethernet, a pcapng to write,
//! which says of each frame why it left, a golden that names interfaces, may differ in some fields or does differ, what the capture
//! shows that the director sent as a golden, or real servers that are observed.
//!
//! It does what the careful way does, by the same [`Session`], but window by window: memory holds two of them, and a stretch of
//! what is compared ([`Sides`]), however large the capture is. So it also tells what differs from a golden.

use super::annotated::Annotated;
use super::bulk::{Attempt, BulkRequest, BulkResult, Counts, Detour, Step, WINDOW};
use super::cause::Cause;
use super::check;
use super::collector::{Collector, Piece};
use super::decisions::Doubts;
use super::demands::Watch;
use super::golden_stream::GoldenStream;
use super::reply;
use super::session::{InputFrame, Session, Sink};
use super::sides::Sides;
use super::translation::Translations;
use super::write_behind::{self, File};
use super::{Outcome, Roles, goes_back};
use crate::capture::link::AsEthernet;
use crate::capture::{BulkWindow, CaptureError};
use crate::describe;
use crate::exit::Failure;
use lvscheck_engine::batch::{Emitted, Handled, Leaving, Sink as _, Stage};
use lvscheck_engine::verdict::Verdict;
use lvscheck_engine::{EmittedFrame, Nanos};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Replays.
///
/// # Errors
/// Something can't be read or written.
pub fn run(mut request: BulkRequest<'_>) -> Result<Attempt, Failure> {
    match request.write.take() {
        Some(writer) if writer.keeps_comments() => {
            let mut annotated = Annotated::new(writer);
            let attempt = replay(request, None, Some(&mut annotated))?;
            if attempt.is_ok() {
                annotated.finish()?;
            }
            Ok(attempt)
        }
        writer => write_behind::with(writer, |output| replay(request, output, None)),
    }
}

fn replay(request: BulkRequest<'_>, output: Option<File<'_, '_>>, annotated: Option<&mut Annotated>) -> Result<Attempt, Failure> {
    let BulkRequest { mut input, golden, places, config, director, bystanders, turns_replies, .. } = request;
    let BulkRequest { ignore, watch, translations, as_ethernet, end, stage, further_than, compares_sent, .. } = request;
    let turns = bystanders.translates() && turns_replies(&places)?;
    let replies = Sides::new(check::options_of_replies(config, ignore));
    let golden = match golden.map(|golden| GoldenStream::open(golden, config, ignore)).transpose() {
        Ok(None) if compares_sent => Some(GoldenStream::sent_by(places.clone(), config, ignore)),
        Ok(golden) => golden,
        // There it is told what is wrong.
        Err(_) => return Ok(Err(Detour::Careful)),
    };
    let mut collector = Collector::new(None, output);
    let mut session = Session::around(director, config, places, turns, !as_ethernet.is_nothing_to_do());
    // Only for a golden of its own are draws tried, as on the careful way.
    if golden.is_some() && !compares_sent {
        session.note_doubts();
    }
    let known = describe::Roles::new(config);
    let (wire_bytes, times, unreadable, doubts) = Default::default();
    let mut work = Work {
        session,
        golden,
        annotated,
        watch,
        translations,
        replies,
        as_ethernet,
        known,
        wire_bytes,
        times,
        unreadable,
        doubts,
    };
    let (mut counts, mut handled) = (Counts::default(), Handled::default());
    let interfaces = input.interfaces().len();
    let by_interface = |interface: u32, _: &[u8]| u16::try_from(interface).ok().filter(|_| (interface as usize) < interfaces);
    let (mut window, mut next) = (BulkWindow::default(), BulkWindow::default());
    stage(Step::Read);
    let mut more = input.next_window(&mut window, WINDOW, &by_interface)?;
    while more {
        let new_interface = (0..window.parts()).any(|part| window.aside(part).next().is_some());
        // Captures are merged frame by frame, so one whose clock steps back leaves all of them out of order.
        let out_of_order = window.steps_back() && input.is_merged();
        if new_interface || out_of_order {
            return Ok(Err(Detour::Careful));
        }
        stage(Step::Engine(Stage::Serial));
        collector.begin();
        let mut piece = collector.piece(Emitted::default());
        let (read, taken) =
            rayon::join(|| input.next_window(&mut next, WINDOW, &by_interface), || work.take(&window, &collector, &mut piece));
        taken?;
        collector.take(piece)?;
        if work.agreed()?.is_some_and(|agreed| further_than.is_some_and(|most| agreed <= most)) {
            return Ok(Err(Detour::NoFurther));
        }
        counts.add(&window);
        (handled.serial, handled.windows) = (counts.frames, handled.windows + 1);
        stage(Step::Frames { frames: counts.frames, position: input.position() });
        more = read?;
        std::mem::swap(&mut window, &mut next);
    }
    handled.mixed_windows = handled.windows;
    let (Some((_, _, last)), Some(last_golden)) = (work.times, work.golden_end()?) else {
        return Ok(Err(Detour::Careful));
    };
    collector.begin();
    let mut piece = collector.piece(Emitted::default());
    work.end(last.max(end((work.first(), last), last_golden)), &collector, &mut piece)?;
    collector.take(piece)?;
    work.agreed()?;
    work.replies.settle(true, |_| None, None);
    let Work { mut session, golden, watch, translations, replies, wire_bytes, times, unreadable, doubts, .. } = work;
    let golden_damage = golden.as_ref().and_then(GoldenStream::damage).map(ToString::to_string);
    let (golden, trial) = golden.map(|golden| golden.finish(session.director(), doubts)).unzip();
    // As Ethernet, and without those that could not be made that.
    (counts.wire_bytes, counts.times) = (wire_bytes, times.map(|(_, earliest, latest)| (earliest, latest)));
    let outcome = Outcome {
        replies: Some(replies.finish()).filter(|replies| replies.expected > 0),
        golden,
        emitted: std::mem::take(&mut session.emitted),
        verdicts: std::mem::take(&mut session.verdicts),
        roles: Roles { unreadable, ..std::mem::take(&mut session.roles) },
        demands: watch.finish(),
        services: session.director().services(),
        client_addresses: session.director().client_addresses(),
        translations: translations.into_list(),
        ..Outcome::default()
    };
    let warnings = input.damage().map(ToString::to_string).chain(golden_damage).collect();
    let trial = trial.flatten();
    Ok(Ok(BulkResult { outcome, counts, warnings, handled, trial, director: session.into_director() }))
}

/// What takes frames one after the other.
struct Work<'w> {
    session: Session,
    golden: Option<GoldenStream<'w>>,
    /// A pcapng to write.
    annotated: Option<&'w mut Annotated>,
    watch: Watch,
    translations: Translations,
    /// Answers that clients saw, and what the director makes of the frames behind them.
    replies: Sides,
    as_ethernet: AsEthernet,
    known: describe::Roles,
    /// Of all frames that could be read as Ethernet: their bytes on the wire, and the first, the earliest and the latest time.
    wire_bytes: u64,
    times: Option<(Nanos, Nanos, Nanos)>,
    /// Frames that could not, by reason.
    unreadable: BTreeMap<String, u64>,
    /// Draws on which the director hung what it did.
    doubts: Doubts,
}

impl Work<'_> {
    /// Takes the frames of a window.
    fn take(&mut self, window: &BulkWindow, collector: &Collector<'_, '_>, piece: &mut Piece) -> Result<(), CaptureError> {
        let frames = (0..window.parts()).flat_map(|part| window.frames(part, 0..window.part_len(part)));
        for (number, frame) in (window.number(0, 0)..).zip(frames.flatten()) {
            let (interface, time) = (frame.place.into(), frame.time);
            let (mut bytes, wire_len) = match self.as_ethernet.convert(interface, frame.bytes, frame.wire_len) {
                Ok(ethernet) => ethernet,
                Err(reason) => {
                    *self.unreadable.entry(reason.to_string()).or_default() += 1;
                    continue;
                }
            };
            if goes_back(&self.known, &bytes) {
                bytes.to_mut()[..12].rotate_left(6);
            }
            self.wire_bytes += u64::from(wire_len);
            let (first, earliest, latest) = self.times.unwrap_or((time, time, time));
            self.times = Some((first, earliest.min(time), latest.max(time)));
            let input = InputFrame { number, time, interface, bytes: &bytes, wire_len };
            self.watch.look(input);
            let forwarded = self.translations.wants_more().then(Vec::new);
            let flow = if self.golden.is_some() { reply::flow(&bytes) } else { None };
            let (golden, annotated) = (self.golden.as_mut(), self.annotated.as_deref_mut());
            let mut passing = Passing { collector, piece, flow, replies: &mut self.replies, golden, annotated, forwarded };
            self.session.step(input, &mut passing);
            for emitted in passing.forwarded.into_iter().flatten() {
                self.translations.note(&bytes, &emitted);
            }
            let director = self.session.director();
            self.doubts.note(time, director.doubts());
            if let Some(golden) = &mut self.golden {
                golden.go_on(director, &mut self.doubts);
            }
            if self.replies.is_full() {
                self.replies.settle(false, |_| None, None);
            }
        }
        self.write()
    }

    /// Lets the director live on to its end.
    fn end(&mut self, end: Nanos, collector: &Collector<'_, '_>, piece: &mut Piece) -> Result<(), CaptureError> {
        let (golden, annotated) = (self.golden.as_mut(), self.annotated.as_deref_mut());
        let replies = &mut self.replies;
        let mut rest = Passing { collector, piece, flow: None, replies, golden, annotated, forwarded: None };
        self.session.advance(end, &mut rest);
        self.write()
    }

    /// Writes the frames that left, with why they did.
    fn write(&mut self) -> Result<(), CaptureError> {
        let director = self.session.director();
        self.annotated.as_mut().map_or(Ok(()), |annotated| annotated.write(director))
    }

    /// How far what left agrees with the golden, once it is known to differ.
    ///
    /// # Errors
    /// The golden can't be read.
    fn agreed(&mut self) -> Result<Option<u64>, CaptureError> {
        let Some(golden) = &mut self.golden else { return Ok(None) };
        golden.error().map_or(Ok(golden.first_difference().map(|first| first.agreed)), Err)
    }

    /// The time of the golden's last frame, 0 without a golden; none if it needs care.
    fn golden_end(&mut self) -> Result<Option<Nanos>, CaptureError> {
        self.golden.as_mut().map_or(Ok(Some(Nanos(0))), |golden| golden.end(self.session.director(), &mut self.doubts))
    }

    /// The time of the first frame.
    fn first(&self) -> Nanos {
        self.times.unwrap_or_default().0
    }
}

/// Takes what leaves while one frame is worked on.
struct Passing<'p, 'w, 'a, 'scope> {
    collector: &'p Collector<'a, 'scope>,
    piece: &'p mut Piece,
    /// The frame's, if that is of interest.
    flow: Option<reply::Flow>,
    replies: &'p mut Sides,
    golden: Option<&'p mut GoldenStream<'w>>,
    annotated: Option<&'p mut Annotated>,
    /// What left for packets that were forwarded, while it is of interest.
    forwarded: Option<Vec<Vec<u8>>>,
}

impl Passing<'_, '_, '_, '_> {
    fn leave(&mut self, frame: EmittedFrame<'_>, cause: Option<u64>, verdict: Option<Verdict>) {
        let cause = Cause { frame: cause, verdict, flow: self.flow.filter(|_| cause.is_some()) };
        let bytes = match &mut self.golden {
            Some(golden) => golden.take(frame, cause),
            None => Cow::Borrowed(frame.bytes),
        };
        let frame = EmittedFrame { bytes: &bytes, ..frame };
        self.collector.frame(self.piece, Leaving::new(frame.bytes, &[], frame));
        if let Some(annotated) = &mut self.annotated {
            annotated.push(frame, cause);
        }
    }
}

impl Sink for Passing<'_, '_, '_, '_> {
    fn emitted(&mut self, frame: EmittedFrame<'_>, cause: Option<u64>, verdict: Option<Verdict>) {
        if let (Some(forwarded), Some(_), Some(Verdict::Forwarded(_))) = (&mut self.forwarded, cause, verdict) {
            forwarded.push(frame.bytes.to_vec());
        }
        self.leave(frame, cause, verdict);
    }

    fn reply(&mut self, captured: InputFrame<'_>, emitted: EmittedFrame<'_>) {
        self.replies.expect(captured);
        self.replies.take(captured.number, emitted, Cause::default());
        self.leave(emitted, Some(captured.number), None);
    }

    fn sent(&mut self, frame: InputFrame<'_>) {
        if let Some(golden) = &mut self.golden {
            golden.sent(frame);
        }
    }
}
