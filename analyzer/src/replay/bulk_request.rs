//! Whether a replay may take the fast way, and its result in the form of the careful way's.

use super::bulk::{self, Attempt, BulkRequest, Detour, Step};
use super::bystander::Bystanders;
use super::demands::Watch;
use super::destination::Destination;
use super::observed;
use super::one_by_one;
use super::outcome::{InputSummary, Speed};
use super::place::Places;
use super::translation::Translations;
use super::work::{LINGER, LISTENED, ServersSide};
use super::{MOST_SETTLED, Replayed, Request, Source, describe_with, director_summary};
use crate::capture::link::AsEthernet;
use crate::capture::{BulkFrame, BulkReader, BulkWindow, CaptureError, CaptureInterface, Container, Input};
use crate::compare::ignore::Ignore;
use crate::describe::{Description, Inference, Tally};
use crate::exit::Failure;
use lvscheck_engine::settle::{Trial, settle};
use lvscheck_engine::{Director, Draws, Nanos};
use rayon::prelude::*;
use std::borrow::Cow;
use std::time::Instant;

/// Smaller captures are done at once anyway, with all that the careful way shows.
const SMALLEST: u64 = 4 << 20;

/// How many of FULLNAT's connections are listed: memory does not grow with the capture.
const TRANSLATIONS: usize = 1000;

/// Bytes of a window that an inference looks at: small enough to stay in the cache.
const OBSERVED: usize = 16 << 20;

/// What a replay is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its result, with what is to be written.
    Result,
    /// Whether it agrees with the golden further than so many frames.
    Trial { further_than: u64 },
}

/// Replays in bulk; none when the careful way must be taken.
///
/// # Errors
/// Something can't be read, written, or can't work.
pub(super) fn run(
    request: &Request,
    captures: &[Input],
    golden: Option<&Input>,
    ignore: &Ignore,
    start: Instant,
    observe: &mut (dyn FnMut(Step) + Send),
) -> Result<Option<Replayed>, Failure> {
    if !request.bulk || !request.probes.is_empty() {
        return Ok(None);
    }
    let compares_sent = request.golden == Some(Source::Same);
    // What can't be read so is the careful way's, errors included.
    let Ok(input) = BulkReader::open_all(captures) else { return Ok(None) };
    let Ok(false) = is_small(captures, &input) else { return Ok(None) };
    let as_ethernet = as_ethernet(captures, input.interfaces())?;
    let Some(description) = describe(request, captures, &as_ethernet)? else { return Ok(None) };
    let config = &description.config;
    let names: Vec<&str> = config.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let destination = request.write.as_deref().map(Destination::new).transpose()?;
    let size = input.size().unwrap_or(0);
    // Where there are several captures, each has named its interfaces.
    let own = if let [capture] = captures { capture.stem() } else { None };
    let interfaces: Vec<Option<&str>> =
        input.interfaces().iter().map(|interface| interface.name.as_deref().or(own.as_deref())).collect();
    let last_change = config.changes.last().map_or(Nanos(0), |change| change.after);
    let end = |(first, last): (Nanos, Nanos), last_golden: Nanos| {
        let changed = if last_change == Nanos(0) { Nanos(0) } else { first + last_change };
        match (request.linger, request.golden.is_some()) {
            (Some(linger), _) => last.max(changed) + linger,
            (None, true) => last.max(changed).max(last_golden) + LISTENED,
            (None, false) => last.max(changed) + LINGER,
        }
    };
    if let Some(bar) = &request.progress {
        bar.set_length(size);
    }
    let progress = request.progress.as_ref();
    let mut stage = |step: Step| {
        observe(step);
        if let (Step::Frames { position, .. }, Some(bar)) = (step, progress) {
            bar.set_position(position.min(size));
        }
    };
    let turns_replies =
        |places: &Places| Ok(!compares_sent && !holds_servers_side(captures, &as_ethernet, places, &ServersSide::new(config))?);
    let observations = match golden.filter(|_| request.observe).map(|golden| observed::in_capture(config, golden)).transpose()? {
        Some(None) => return Ok(None),
        observations => observations.flatten(),
    };
    let (low, high) = config.sysctls.ip_local_port_range;
    let mut attempt = |replay: fn(BulkRequest<'_>) -> Result<Attempt, Failure>, draws: &Draws, kind: Kind| {
        let destination = destination.as_ref().filter(|_| kind == Kind::Result);
        let mut director = Director::new(config, draws.clone()).map_err(|error| Failure::usage(description.explain(&error)))?;
        if let Some(observations) = &observations {
            director.observe(observations.clone());
        }
        replay(BulkRequest {
            input: BulkReader::open_all(captures)?,
            golden,
            compares_sent,
            ignore,
            write: destination.map(|destination| destination.writer(&names)).transpose()?,
            places: Places::new(config, interfaces.iter().copied()),
            config,
            director,
            bystanders: Bystanders::new(config),
            turns_replies: &turns_replies,
            as_ethernet: as_ethernet.clone(),
            watch: Watch::new(config, as_ethernet.is_nothing_to_do()),
            translations: Translations::new(config, TRANSLATIONS),
            local_ports: low..=high,
            further_than: if let Kind::Trial { further_than } = kind { Some(further_than) } else { None },
            end: &end,
            stage: &mut stage,
        })
    };
    // The fast way does not know why a frame leaves, nor its fields.
    let annotates = request.write.as_deref().is_some_and(|path| Container::of(path) == Container::PcapNg);
    let masks = golden.is_some() && !ignore.is_empty();
    let in_bulk = as_ethernet.is_nothing_to_do() && !annotates && !masks && !compares_sent && !request.observe;
    let drawn = Draws::default();
    let mut attempted = if in_bulk { attempt(bulk::run, &drawn, Kind::Result)? } else { Err(Detour::OneByOne) };
    if let Err(Detour::OneByOne) = attempted {
        attempted = attempt(one_by_one::run, &drawn, Kind::Result)?;
    }
    let Ok(mut result) = attempted else { return Ok(None) };
    if let Some(first) = result.trial.take() {
        let (draws, settled) = decide(first, |draws, kind| attempt(one_by_one::run, draws, kind));
        if settled > 0 {
            let Ok(better) = attempt(one_by_one::run, &draws, Kind::Result)? else { return Ok(None) };
            result = better;
            if let Some(golden) = &mut result.outcome.golden {
                golden.learned.insert("decision", settled as u64);
            }
        }
    }
    destination.map(Destination::finish).transpose()?;
    let seconds = start.elapsed().as_secs_f64();
    let mut outcome = result.outcome;
    let (earliest, latest) = result.counts.times.unwrap_or_default();
    outcome.input = InputSummary {
        files: captures.iter().map(|capture| capture.given().display().to_string()).collect(),
        frames: result.counts.frames,
        bytes: result.counts.bytes,
        wire_bytes: result.counts.wire_bytes,
        first: earliest,
        last: latest,
        warnings: result.warnings,
    };
    outcome.handled = Some(result.handled);
    outcome.director = director_summary(request, &description);
    outcome.speed = Speed { seconds, frames_per_second: result.counts.frames as f64 / seconds.max(1e-9) };
    // A process that ends gives its memory back faster than a destructor does.
    std::mem::forget(result.director);
    let counted = outcome.services.clone();
    Ok(Some(Replayed { outcome, probes: Vec::new(), counted }))
}

/// Tries draws that decide what a director does, of which none stands in a field of a frame, after a first replay. Returns those with
/// which a replay agrees best with the golden, and how many of them were settled.
fn decide(first: Trial, mut attempt: impl FnMut(&Draws, Kind) -> Result<Attempt, Failure>) -> (Draws, usize) {
    let (mut first, mut agreed) = (Some(first), 0);
    let trial = |draws: &Draws| {
        let trial = first.take().or_else(|| {
            // The first replay had the same configuration and the same files, so no other failure is new.
            let result = attempt(draws, Kind::Trial { further_than: agreed as u64 }).ok()?.ok()?;
            Some(result.trial.unwrap_or(Trial { agreed: result.outcome.emitted.frames as usize, ..Trial::default() }))
        });
        let trial = trial.unwrap_or(Trial { differences: usize::MAX, ..Trial::default() });
        agreed = trial.agreed.max(agreed);
        trial
    };
    settle(Draws::default(), trial, MOST_SETTLED)
}

/// Whether the careful way is as good: the captures' frames are few, however well they are compressed.
fn is_small(captures: &[Input], reader: &BulkReader) -> Result<bool, CaptureError> {
    match reader.size() {
        None => Ok(true),
        Some(size) if size >= SMALLEST => Ok(false),
        Some(_) if reader.is_plain() => Ok(true),
        Some(_) => {
            let (mut reader, mut window) = (BulkReader::open_all(captures)?, BulkWindow::default());
            while reader.position() < SMALLEST && reader.next_window(&mut window, SMALLEST as usize, &|_, _| Some(0))? {}
            Ok(reader.position() < SMALLEST)
        }
    }
}

/// How the captures' frames become Ethernet: for other link types in a pass over all of them.
fn as_ethernet(captures: &[Input], interfaces: &[CaptureInterface]) -> Result<AsEthernet, CaptureError> {
    let mut as_ethernet = AsEthernet::new(interfaces.iter().map(|interface| interface.link_type).collect());
    if !as_ethernet.is_nothing_to_do() {
        let (mut reader, mut window) = (BulkReader::open_all(captures)?, BulkWindow::default());
        while reader.next_window(&mut window, OBSERVED, &|_, _| None)? {
            for frame in (0..window.parts()).flat_map(|part| window.aside(part)) {
                as_ethernet.observe(frame.place.into(), frame.bytes);
            }
        }
    }
    Ok(as_ethernet)
}

/// The director: as described, or inferred in a pass of its own over the captures.
fn describe(request: &Request, captures: &[Input], as_ethernet: &AsEthernet) -> Result<Option<Description>, Failure> {
    let mut failure = None;
    let description = describe_with(request, |inference| match observe(inference, captures, as_ethernet) {
        Ok(()) => true,
        Err(error) => {
            failure = Some(error);
            false
        }
    })?;
    failure.map_or(Ok(description), |error| Err(error.into()))
}

/// Whether captures hold a frame that arrived from a real server.
fn holds_servers_side(
    captures: &[Input],
    as_ethernet: &AsEthernet,
    places: &Places,
    servers: &ServersSide,
) -> Result<bool, CaptureError> {
    let (mut reader, mut window) = (BulkReader::open_all(captures)?, BulkWindow::default());
    while reader.next_window(&mut window, OBSERVED, &|_, _| None)? {
        let of_server = |part: usize| {
            window.aside(part).any(|frame| {
                let interface = frame.place.into();
                converted(as_ethernet, frame).is_some_and(|(frame, _)| servers.sent(places, interface, &frame))
            })
        };
        if (0..window.parts()).into_par_iter().any(of_server) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Shows captures to an inference: which frames tell anything new is found out by all threads at once.
fn observe(inference: &mut Inference, captures: &[Input], as_ethernet: &AsEthernet) -> Result<(), CaptureError> {
    let (mut reader, mut window) = (BulkReader::open_all(captures)?, BulkWindow::default());
    while reader.next_window(&mut window, OBSERVED, &|interface, _| Some(u16::try_from(interface).unwrap_or(u16::MAX)))? {
        let known = &*inference;
        let parts: Vec<(Tally, Vec<usize>)> = (0..window.parts())
            .into_par_iter()
            .map(|part| {
                let mut tally = Tally::default();
                let mut concerning = Vec::new();
                for (number, frame) in window.frames(part, 0..window.part_len(part)).enumerate() {
                    if let Some((frame, wire_len)) = frame.and_then(|frame| converted(as_ethernet, frame))
                        && known.concerns(&frame, wire_len, &mut tally)
                    {
                        concerning.push(number);
                    }
                }
                (tally, concerning)
            })
            .collect();
        for (part, (tally, concerning)) in parts.into_iter().enumerate() {
            inference.add(&tally);
            for number in concerning {
                if let Some((frame, _)) = window.frame(part, number).and_then(|frame| converted(as_ethernet, frame)) {
                    inference.note(&frame);
                }
            }
        }
    }
    Ok(())
}

/// A frame that stands where its interface's number says, as Ethernet, with its length on the wire; none if it can't be that.
fn converted<'a>(as_ethernet: &AsEthernet, frame: BulkFrame<'a>) -> Option<(Cow<'a, [u8]>, u32)> {
    as_ethernet.convert(frame.place.into(), frame.bytes, frame.wire_len).ok()
}
