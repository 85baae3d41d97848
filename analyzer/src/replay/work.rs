//! One run of the engine over the loaded frames, with everything that it gave.

use super::cause::Cause;
use super::check::captured;
use super::demands::Watch;
use super::frames::{Frames, StoredFrame};
use super::load::Loaded;
use super::observed;
use super::outcome::{Demand, Emitted, Roles, Verdicts};
use super::place::{Place, Places};
use super::reply;
use super::session::{InputFrame, Session, Sink, answers_pass_director};
use super::translation::{Translation, Translations};
use super::{Request, Source};
use crate::capture::Writer;
use crate::compare::draws::take_over;
use crate::describe::Description;
use crate::exit::Failure;
use lvscheck_engine::config::{Command, DirectorConfig};
use lvscheck_engine::draws::Doubt;
use lvscheck_engine::listing::{ClientAddressCounts, ConnectionView, ServiceView};
use lvscheck_engine::verdict::Verdict;
use lvscheck_engine::{Director, Draws, EmittedFrame, Nanos};
use std::net::IpAddr;
use std::path::Path;

/// How long a director lives on after the last frame when nothing says otherwise: long enough for a neighbour that does not
/// answer to be given up.
pub(super) const LINGER: Nanos = Nanos::from_secs(5);

/// How long after its last frame a recording listened at least.
pub(super) const LISTENED: Nanos = Nanos::from_millis(100);

/// How long after the end the counters of a recording were read.
const COUNTERS_LATER: Nanos = Nanos::from_millis(2500);

/// What a run gave.
pub struct Worked {
    /// Frames that left the director.
    pub emitted: Frames,
    /// For each of them, why.
    pub causes: Vec<Cause>,
    /// The director at its end.
    pub director: Director,
    /// Answers as the client saw them.
    pub replies_seen: Frames,
    /// What the director made of the real servers' frames behind them.
    pub replies_made: Frames,
    /// What the capture shows that the director sent.
    pub sent: Frames,
    /// Draws on which it hung what happened, with the time.
    pub doubts: Vec<(Nanos, Doubt)>,
    /// DPVS: how clients' addresses reached the real servers, by service.
    pub client_addresses: Vec<(u32, ClientAddressCounts)>,
    /// FULLNAT: how each connection is shown to its real server.
    pub translations: Vec<Translation>,
    /// Counts by verdict.
    pub verdicts: Verdicts,
    /// Frames that were no input.
    pub roles: Roles,
    /// Counts of what left.
    pub totals: Emitted,
    /// Broken demands.
    pub demands: Vec<Demand>,
    /// Services at the end.
    pub services: Vec<ServiceView>,
    /// Services a little later, when a kernel has summed its counters.
    pub counted: Vec<ServiceView>,
    /// Connections at the end.
    pub connections: Vec<ConnectionView>,
    /// Connections at the times that were asked for.
    pub probes: Vec<Probe>,
}

/// The director's tables at one moment.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The name that was asked for.
    pub name: String,
    /// Services then.
    pub services: Vec<ServiceView>,
    /// Connections then.
    pub connections: Vec<ConnectionView>,
}

impl Probe {
    fn of(name: &str, director: &Director, at: Nanos) -> Probe {
        Probe { name: name.to_owned(), services: director.services(), connections: director.connections(at) }
    }
}

#[derive(Default)]
struct Collect {
    emitted: Frames,
    causes: Vec<Cause>,
    replies_seen: Frames,
    replies_made: Frames,
    sent: Frames,
}

impl Sink for Collect {
    fn emitted(&mut self, frame: EmittedFrame<'_>, cause: Option<u64>, verdict: Option<Verdict>) {
        self.emitted.push_emitted(self.causes.len() as u64 + 1, frame);
        self.causes.push(Cause { frame: cause, verdict, flow: None });
    }

    fn reply(&mut self, captured: InputFrame<'_>, emitted: EmittedFrame<'_>) {
        self.replies_seen.push(captured);
        self.replies_made.push_emitted(captured.number, emitted);
        // A reply is output like any other, for -w and for a golden.
        self.emitted.push_emitted(self.causes.len() as u64 + 1, emitted);
        self.causes.push(Cause { frame: Some(captured.number), verdict: None, flow: None });
    }

    fn sent(&mut self, frame: InputFrame<'_>) {
        self.sent.push(frame);
    }
}

/// Runs the engine over all frames.
///
/// # Errors
/// The configuration can't work.
pub fn work(
    request: &Request,
    description: &Description,
    loaded: &Loaded,
    golden: Option<&Loaded>,
    draws: &Draws,
) -> Result<Worked, Failure> {
    let config = &description.config;
    let places = Places::new(config, loaded.interfaces.iter().map(Option::as_deref));
    let turn_replies = request.golden != Some(Source::Same) && turns_replies(config, loaded, &places);
    let mut session = Session::new(config, places, draws.clone(), turn_replies, loaded.made_up_macs)
        .map_err(|error| Failure::usage(description.explain(&error)))?;
    if request.observe
        && let Some(golden) = golden
    {
        let frames = golden.frames.records().iter().map(|frame| captured(&golden.frames, frame, None));
        session.observe(observed::in_memory(config, frames.map(|frame| (frame.time, frame.bytes))));
    }
    let mut watch = Watch::new(config, !loaded.made_up_macs);
    let mut collect = Collect::default();
    let mut pending: Vec<&(String, Nanos)> = request.probes.iter().collect();
    pending.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
    let mut probes = Vec::new();
    let first = loaded.frames.records().first().map_or(Nanos(0), |frame| frame.time);
    let mut started = false;
    let mut doubts = Vec::new();
    if golden.is_some() {
        session.note_doubts();
    }
    let mut translations = Translations::new(config, usize::MAX);

    for frame in loaded.frames.inputs() {
        while started && let Some((name, _)) = pending.pop_if(|(_, at)| first + *at <= frame.time) {
            let at = request.probes.iter().find(|(probe, _)| probe == name).map_or(Nanos(0), |(_, at)| first + *at);
            session.advance(at, &mut collect);
            probes.push(Probe::of(name, session.director(), at));
        }
        watch.look(frame);
        let before = collect.causes.len();
        session.step(frame, &mut collect);
        let left = collect.emitted.records().get(before..).unwrap_or_default();
        for (left, cause) in left.iter().zip(collect.causes.iter_mut().skip(before)).filter(|(_, cause)| cause.frame.is_some()) {
            cause.flow = reply::flow(frame.bytes);
            if let Some(Verdict::Forwarded(_)) = cause.verdict {
                translations.note(frame.bytes, collect.emitted.bytes(left));
            }
        }
        doubts.extend(session.director().doubts().iter().map(|doubt| (frame.time, *doubt)));
        started = true;
        if let Some(bar) = &request.progress {
            bar.inc(1);
        }
    }
    let last = loaded.frames.records().iter().map(|frame| frame.time).max().unwrap_or_default();
    let last_change = config.changes.last().map_or(Nanos(0), |change| first + change.after);
    let last_golden = golden.and_then(|golden| golden.frames.records().iter().map(|frame| frame.time).max());
    let mut end = last.max(last_change);
    if started {
        while let Some((name, at)) = pending.pop() {
            end = end.max(first + *at);
            session.advance(first + *at, &mut collect);
            probes.push(Probe::of(name, session.director(), first + *at));
        }
    }
    end = match (request.linger, golden.is_some() || request.golden.is_some()) {
        (Some(linger), _) => last.max(last_change) + linger,
        (None, true) => end.max(last_golden.unwrap_or_default()) + LISTENED,
        (None, false) => end + LINGER,
    };
    if !started && let Some(golden) = golden {
        // Without any input, what the director sends by itself from its start on.
        end = end.max(golden.frames.records().iter().map(|frame| frame.time).max().unwrap_or_default() + LISTENED);
        session.advance(golden.frames.records().first().map_or(end, |frame| frame.time), &mut collect);
    }
    session.advance(end, &mut collect);
    let at_end = Probe::of("", session.director(), end);
    let verdicts = std::mem::take(&mut session.verdicts);
    let roles = std::mem::take(&mut session.roles);
    let totals = std::mem::take(&mut session.emitted);
    // A kernel sums its counters every two seconds, so a recording reads them this much later than all else.
    session.advance(end + COUNTERS_LATER, &mut Collect::default());
    let director = session.into_director();
    Ok(Worked {
        causes: collect.causes,
        translations: translations.into_list(),
        counted: director.services(),
        services: at_end.services,
        connections: at_end.connections,
        probes,
        demands: watch.finish(),
        verdicts,
        roles,
        totals,
        emitted: collect.emitted,
        replies_seen: collect.replies_seen,
        replies_made: collect.replies_made,
        sent: collect.sent,
        doubts,
        client_addresses: director.client_addresses(),
        director,
    })
}

/// Answers seen at the client are turned back when the mode translates them and no frame of the servers' side is there.
fn turns_replies(config: &DirectorConfig, loaded: &Loaded, places: &Places) -> bool {
    let servers = ServersSide::new(config);
    answers_pass_director(config) && !loaded.frames.inputs().any(|frame| servers.sent(places, frame.interface, frame.bytes))
}

/// Frames that come from real servers.
pub(super) struct ServersSide(Vec<IpAddr>);

impl ServersSide {
    /// Of the servers that are there from the start.
    pub fn new(config: &DirectorConfig) -> ServersSide {
        let servers = config.commands.iter().filter_map(|command| match command {
            Command::AddServer { server, .. } => Some(server.address),
            _ => None,
        });
        ServersSide(servers.collect())
    }

    /// Whether a frame arrived at the director from a real server.
    pub fn sent(&self, places: &Places, interface: u32, frame: &[u8]) -> bool {
        matches!(places.of(interface, frame), Place::Arrived(_))
            && reply::flow(frame).is_some_and(|flow| self.0.contains(&flow.source.0))
    }
}

impl Worked {
    /// Writes what the director emitted. Random fields get the golden's values where the frame is the golden's otherwise.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, path: &Path, config: &DirectorConfig, golden: Option<&Loaded>) -> Result<(), Failure> {
        let names: Vec<&str> = config.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        let mut writer = Writer::create(path, &names)?;
        for (place, (frame, cause)) in self.emitted.records().iter().zip(&self.causes).enumerate() {
            let comment = writer.keeps_comments().then(|| cause.words(&self.director));
            let learned = golden.and_then(|golden| self.with_golden_draws(frame, place, golden));
            let bytes = learned.as_deref().unwrap_or(self.emitted.bytes(frame));
            writer.write(frame.time, frame.interface, bytes, frame.wire_len, comment.as_deref())?;
        }
        writer.finish()?;
        Ok(())
    }
}

impl Worked {
    /// The frame with the random values of the golden's frame at the same place, when that makes them equal.
    fn with_golden_draws(&self, frame: &StoredFrame, place: usize, golden: &Loaded) -> Option<Vec<u8>> {
        let drawn = self.emitted.drawn(frame);
        if drawn.is_empty() {
            return None;
        }
        let expected = golden.frames.bytes(golden.frames.records().get(place)?);
        let mut bytes = self.emitted.bytes(frame).to_vec();
        take_over(expected, &mut bytes, drawn);
        (bytes == expected).then_some(bytes)
    }
}

/// The name of one of the director's interfaces.
pub fn interface_name(config: &DirectorConfig, number: u32) -> Option<&str> {
    config.interfaces.get(number as usize).map(|interface| interface.name.as_str())
}
