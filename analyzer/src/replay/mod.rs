//! Replays captures through a director: reads, finds what is input, runs the engine, compares, and says what happened.

mod annotated;
pub mod bulk;
mod bulk_request;
mod bystander;
mod cause;
mod check;
mod collector;
mod decisions;
mod demands;
mod destination;
mod frames;
mod golden_file;
mod golden_pieces;
mod golden_stream;
mod known;
mod load;
mod observed;
mod one_by_one;
mod outcome;
mod place;
mod records;
mod reply;
mod session;
mod sides;
mod translation;
mod work;
mod write_behind;

pub use frames::{Frames, StoredFrame};
pub use load::{Loaded, load};
pub use outcome::{Demand, DirectorSummary, Emitted, InputSummary, Outcome, Roles, Speed, Verdicts};
pub use place::{Place, Places};
pub use session::{InputFrame, Session, Sink};
pub use translation::Translation;
pub use work::Probe;

use crate::capture::{Input, link};
use crate::command::args::Mode;
use crate::compare::Comparison;
use crate::compare::ignore::Ignore;
use crate::describe::arguments::{parse_scheduler, parse_server, parse_vip};
use crate::describe::{self, Description, InferOptions, Inference};
use crate::exit::{Failure, Status};
use check::Check;
use lvscheck_engine::batch::Stage;
use lvscheck_engine::config::{Command, ForwardingMethod, TimerWheel, Tunnel};
use lvscheck_engine::listing::ServiceView;
use lvscheck_engine::profile::{Profile, System};
use lvscheck_engine::settle::{Trial, settle};
use lvscheck_engine::{Draws, Nanos};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;
use work::work;

/// Draws that decide what a director does, tried at most.
const MOST_SETTLED: usize = 200;

/// Where frames come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file; `-` is standard input.
    File(PathBuf),
    /// For a golden: what the input capture shows that the director sent.
    Same,
}

/// A director on the command line, as typed.
#[derive(Clone, Debug, Default)]
pub struct ServiceArguments {
    /// `--vip`
    pub services: Vec<String>,
    /// `--rs`
    pub servers: Vec<String>,
    /// `--scheduler`
    pub scheduler: Option<String>,
    /// `--lip`
    pub local_addresses: Vec<String>,
}

/// What to replay and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The captures, merged by time.
    pub captures: Vec<PathBuf>,
    /// The director's description; none: inferred from the captures.
    pub config: Option<PathBuf>,
    /// Forwarding mode; none: as the rules say, or DR when nothing is configured.
    pub mode: Option<Mode>,
    /// Services and servers from the command line.
    pub services: ServiceArguments,
    /// The system to behave as, over what the description says.
    pub profile: Option<String>,
    /// What to compare with.
    pub golden: Option<Source>,
    /// Take real servers from the golden.
    pub observe: bool,
    /// Fields that the comparison masks.
    pub ignore: Vec<String>,
    /// Where to write what the director emits.
    pub write: Option<PathBuf>,
    /// How long the director lives on after the last frame.
    pub linger: Option<Nanos>,
    /// Names and times, after the first frame, at which the connection table is listed.
    pub probes: Vec<(String, Nanos)>,
    /// When counters are summed up the first time, after the first frame; none: all of them are cleared when some are.
    pub counters_summed: Option<Nanos>,
    /// When the timers of connections fire; none: in time.
    pub timer_wheel: Option<TimerWheel>,
    /// Large plain captures may take the fast way, whose outcome lists no connections.
    pub bulk: bool,
    /// Told of progress: frames done.
    pub progress: Option<indicatif::ProgressBar>,
}

/// The result of [`run`].
#[derive(Debug)]
pub struct Replayed {
    /// What happened.
    pub outcome: Outcome,
    /// The tables at the times that were asked for.
    pub probes: Vec<Probe>,
    /// Services as `--stats` shows them when a kernel has summed its counters, some seconds after the end.
    pub counted: Vec<ServiceView>,
}

/// The mode of that name, as case.toml and people write it.
pub fn mode_by_name(name: &str) -> Option<Mode> {
    match name {
        "dr" => Some(Mode::Dr),
        "nat" => Some(Mode::Nat),
        "fullnat" => Some(Mode::Fullnat),
        "tun" | "tunnel" => Some(Mode::Tunnel),
        "rules" | "mixed" => Some(Mode::Rules),
        _ => None,
    }
}

impl Outcome {
    /// Whether everything that was compared is as expected.
    pub fn conforms(&self) -> bool {
        [&self.replies, &self.golden].into_iter().flatten().all(Comparison::conforms)
    }

    /// The exit status of a replay.
    pub fn status(&self) -> Status {
        if !self.conforms() {
            Status::Differs
        } else if self.verdicts.of_services() == 0 && self.golden.as_ref().is_none_or(|golden| golden.expected == 0) {
            Status::NothingToCheck
        } else {
            Status::Conforms
        }
    }
}

/// Replays.
///
/// # Errors
/// Something can't be read, written, or can't work; nothing is left half-written.
pub fn run(request: &Request) -> Result<Replayed, Failure> {
    run_observed(request, &mut |_| {})
}

/// Replays; `observe` is told what is done when, for whoever takes the time. The careful way tells when it reads and when the
/// serial engine, with all that follows, works.
///
/// # Errors
/// As [`run`].
pub fn run_observed(request: &Request, observe: &mut (dyn FnMut(bulk::Step) + Send)) -> Result<Replayed, Failure> {
    let start = Instant::now();
    let ignore = Ignore::new(&request.ignore).map_err(Failure::usage)?;
    let inputs = request.captures.iter().map(|path| Input::new(path)).collect::<Result<Vec<_>, _>>()?;
    let golden = match &request.golden {
        Some(Source::File(path)) => Some(golden_input(path)?),
        Some(Source::Same) | None => None,
    };
    if let Some(replayed) = bulk_request::run(request, &inputs, golden.as_ref(), &ignore, start, observe)? {
        return Ok(replayed);
    }
    observe(bulk::Step::Read);
    let mut loaded = load(&inputs)?;
    let golden = golden.map(|golden| load(&[golden])).transpose()?;
    observe(bulk::Step::Engine(Stage::Serial));
    let mut description = describe_director(request, &loaded)?;
    description.config.counters_summed = request.counters_summed.or(description.config.counters_summed);
    description.config.timer_wheel = request.timer_wheel.or(description.config.timer_wheel);
    let known = describe::Roles::new(&description.config);
    loaded.frames.turn_around(|frame| goes_back(&known, frame));
    let loaded = loaded;
    let check = Check { request, config: &description.config, loaded: &loaded, golden: golden.as_ref(), ignore };

    let replay = |draws: &Draws| work(request, &description, &loaded, golden.as_ref(), draws);
    let mut worked = replay(&Draws::default())?;
    let mut golden_result = check.golden(&worked);
    // A draw that decides what a director does stands in no field of a frame: it can only be tried.
    if golden_result.as_ref().is_some_and(|result| !result.conforms()) && !worked.doubts.is_empty() {
        let trial = |draws: &Draws| match replay(draws) {
            Ok(worked) => check.trial(&worked),
            // The first replay had the same configuration, which is all that can fail.
            Err(_) => Trial { differences: usize::MAX, ..Trial::default() },
        };
        let (draws, settled) = settle(Draws::default(), trial, MOST_SETTLED);
        worked = replay(&draws)?;
        golden_result = check.golden(&worked);
        if let (Some(result), 1..) = (&mut golden_result, settled) {
            result.learned.insert("decision", settled as u64);
        }
    }

    if let Some(path) = &request.write {
        worked.write(path, &description.config, golden.as_ref())?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let outcome = Outcome {
        replies: check.replies(&worked),
        golden: golden_result,
        input: summary(&loaded, golden.as_ref()),
        director: director_summary(request, &description),
        verdicts: worked.verdicts,
        roles: Roles { unreadable: loaded.unreadable.clone(), ..worked.roles },
        demands: worked.demands,
        services: worked.services,
        client_addresses: worked.client_addresses,
        translations: worked.translations,
        connections: worked.connections,
        emitted: worked.totals,
        handled: None,
        speed: Speed { seconds, frames_per_second: loaded.total as f64 / seconds.max(1e-9) },
    };
    Ok(Replayed { outcome, probes: worked.probes, counted: worked.counted })
}

/// Whether a frame whose addresses are made up as if it had arrived was sent: raw IP and loopback captures tell no direction,
/// but addresses do.
fn goes_back(known: &describe::Roles, frame: &[u8]) -> bool {
    link::is_made_up(frame) && known.of(frame) == describe::Role::Reply
}

fn golden_input(path: &Path) -> Result<Input, Failure> {
    if path.as_os_str() != "-" && !path.exists() {
        let help = "name a capture of what a real director sent, or make one with -w";
        return Err(Failure::new(Status::GoldenMissing, format!("{}: no such golden; {help}", path.display())));
    }
    Ok(Input::new(path)?)
}

/// The director: described, from the command line, or inferred from the capture.
fn describe_director(request: &Request, loaded: &Loaded) -> Result<Description, Failure> {
    let described = describe_with(request, |inference| {
        for frame in loaded.frames.inputs() {
            inference.observe(frame.bytes, frame.wire_len);
        }
        true
    })?;
    Ok(described.unwrap_or_default())
}

/// `observe` shows the capture to an inference that needs it; none if it can't.
fn describe_with(request: &Request, observe: impl FnOnce(&mut Inference) -> bool) -> Result<Option<Description>, Failure> {
    let base = match &request.config {
        Some(path) => describe::load(path).map_err(Failure::usage)?,
        None => Description::default(),
    };
    let told = &request.services;
    // A whole node is taken as it is, a real server or one without any service too: nothing is missing that could be guessed.
    if base.has_links() && request.mode.is_none() && told.services.is_empty() && told.servers.is_empty() {
        let mut description = base;
        if let Some(name) = &request.profile {
            description.config.profile = profile_by_name(name)?.clone();
        }
        return Ok(Some(description));
    }
    let dpvs = matches!(request.mode, Some(Mode::Fullnat)) || base.config.profile.system == System::Dpvs;
    let profile = request.profile.as_deref().map(profile_by_name).transpose()?;
    let local = |text: &String| -> Result<IpAddr, Failure> {
        text.parse().map_err(|_| Failure::usage(format!("--lip {text}: is no IP address; write --lip 10.0.0.100")))
    };
    let options = InferOptions {
        base,
        services: told.services.iter().map(|text| parse_vip(text)).collect::<Result<_, _>>().map_err(Failure::usage)?,
        servers: told.servers.iter().map(|text| parse_server(text)).collect::<Result<_, _>>().map_err(Failure::usage)?,
        local_addresses: told.local_addresses.iter().map(local).collect::<Result<_, _>>()?,
        method: request.mode.and_then(method_of),
        scheduler: told.scheduler.as_deref().map(|text| parse_scheduler(text, dpvs)).transpose().map_err(Failure::usage)?,
        profile,
        ..InferOptions::default()
    };
    let mut inference = Inference::new(options);
    if !inference.is_needless() && !observe(&mut inference) {
        return Ok(None);
    }
    inference.finish().map(Some).map_err(Failure::usage)
}

fn profile_by_name(name: &str) -> Result<&'static Profile, Failure> {
    Profile::by_name(name).ok_or_else(|| {
        let known: Vec<&str> = Profile::ALL.iter().map(|profile| profile.name).collect();
        Failure::usage(format!("--profile {name}: unknown; known are {}", known.join(", ")))
    })
}

fn method_of(mode: Mode) -> Option<ForwardingMethod> {
    match mode {
        Mode::Dr => Some(ForwardingMethod::Dr),
        Mode::Nat => Some(ForwardingMethod::Nat),
        Mode::Fullnat => Some(ForwardingMethod::FullNat),
        Mode::Tunnel => Some(ForwardingMethod::Tunnel(Tunnel::default())),
        Mode::Rules => None,
    }
}

fn summary(loaded: &Loaded, golden: Option<&Loaded>) -> InputSummary {
    let golden_warnings = golden.into_iter().flat_map(|golden| &golden.warnings);
    let times = || loaded.frames.records().iter().map(|frame| frame.time);
    InputSummary {
        files: loaded.files.clone(),
        frames: loaded.total,
        bytes: loaded.bytes,
        wire_bytes: loaded.frames.records().iter().map(|frame| u64::from(frame.wire_len)).sum(),
        first: times().min().unwrap_or_default(),
        last: times().max().unwrap_or_default(),
        warnings: loaded.warnings.iter().chain(golden_warnings).cloned().collect(),
    }
}

fn director_summary(request: &Request, description: &Description) -> DirectorSummary {
    let config = &description.config;
    let source = match (&request.config, request.services.services.is_empty()) {
        (Some(path), _) => format!("described by {}", path.display()),
        (None, false) => "described on the command line".to_owned(),
        (None, true) => "inferred from the capture".to_owned(),
    };
    let mut methods: Vec<&'static str> = config
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::AddServer { settings, .. } => Some(crate::report::ipvsadm::method_name(settings.method)),
            _ => None,
        })
        .collect();
    methods.sort_unstable();
    methods.dedup();
    let interfaces = config.interfaces.iter().filter(|interface| !interface.loopback).map(|interface| {
        let addresses: Vec<String> =
            interface.addresses.iter().map(|address| format!("{}/{}", address.address, address.prefix_len)).collect();
        format!("{} {} MTU {}: {}", interface.name, interface.mac, interface.mtu, addresses.join(", "))
    });
    DirectorSummary {
        source,
        profile: config.profile.name.to_owned(),
        mode: if methods.is_empty() { "none".to_owned() } else { methods.join(" and ") },
        assumed: description.assumed.clone(),
        warnings: description.warnings.iter().map(ToString::to_string).collect(),
        interfaces: interfaces.collect(),
    }
}
