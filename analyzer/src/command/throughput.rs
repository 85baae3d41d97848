//! `lvscheck throughput`.

use super::args::{Format, Mode, ThroughputArgs};
use super::{CommonArgs, print, progress_bar, warn};
use crate::capture::Input;
use crate::exit::{Failure, Status};
use crate::generate::{self, FamilyName, GenerateArgs, Method, Mix, ProtocolName};
use crate::replay::Request;
use crate::throughput::{self, Measurement, RFC_2544_SIZES, Series};
use clap::ValueEnum;
use lvscheck_engine::config::{Family, Protocol};
use std::path::{Path, PathBuf};

/// The modes that are measured when none is named.
const MODES: [Mode; 4] = [Mode::Dr, Mode::Nat, Mode::Fullnat, Mode::Tunnel];

/// Traffic to measure with.
struct Traffic {
    capture: PathBuf,
    /// Its name in the report.
    name: String,
    generated: bool,
}

pub(super) fn run(args: &ThroughputArgs, common: &CommonArgs) -> Result<Status, Failure> {
    if args.captures.iter().any(|path| Input::is_read_once(path)) {
        return Err(Failure::usage("standard input and pipes can be read only once, and measurements are repeated; name a file"));
    }
    let series = measure_all(args, common)?;
    if let Some(path) = &args.report {
        std::fs::write(path, throughput::html::render(&series))
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    }
    match common.format {
        Format::Text if common.quiet => {}
        Format::Text => {
            let mut text = String::new();
            throughput::text::render(&series, &mut text).map_err(Failure::usage)?;
            print(&text)?;
        }
        Format::Json => print(&format!("{:#}\n", throughput::json::render(&series)))?,
    }
    Ok(Status::Conforms)
}

fn measure_all(args: &ThroughputArgs, common: &CommonArgs) -> Result<Vec<Series>, Failure> {
    let folder = tempfile::tempdir().map_err(|error| Failure::usage(format!("no temporary folder: {error}")))?;
    let sizes = if args.size.is_empty() { &RFC_2544_SIZES[..] } else { &args.size };
    let modes = match &args.mode[..] {
        [] if args.config.is_some() => &[Mode::Rules][..],
        [] => &MODES,
        named => named,
    };
    let threads = threads(&common.threads)?;
    let kinds = if args.captures.is_empty() { sizes.len() } else { args.captures.len() };
    let bar = progress_bar(common, (kinds * modes.len() * threads.len() * args.task.len()) as u64, "measurements");
    let mut series = Vec::new();
    let mut measure_with = |traffic: &Traffic| -> Result<(), Failure> {
        for mode in modes {
            let request = request(args, traffic, *mode, folder.path())?;
            for (task, threads) in args.task.iter().flat_map(|task| threads.iter().map(move |threads| (*task, *threads))) {
                let mode = mode.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
                let (request, traffic, runs) = (request.clone(), traffic.name.clone(), args.runs);
                let measurement = Measurement { request, task, mode, traffic, threads, runs };
                series.push(throughput::measure(&measurement, folder.path())?);
                bar.inc(1);
            }
        }
        Ok(())
    };
    for capture in &args.captures {
        let name = capture.file_name().unwrap_or(capture.as_os_str()).to_string_lossy().into_owned();
        measure_with(&Traffic { capture: capture.clone(), name, generated: false })?;
    }
    if args.captures.is_empty() {
        for size in sizes {
            let capture = folder.path().join("traffic.pcap");
            generate::run(&generated(&capture, *size, args)).map_err(Failure::usage)?;
            measure_with(&Traffic { capture, name: format!("{size}-byte frames"), generated: true })?;
        }
    }
    bar.finish_and_clear();
    if series.iter().all(|row| row.packets == 0) {
        warn("nothing was measured: no capture holds a frame");
    }
    Ok(series)
}

/// What is measured with: what was asked for, else one thread and all.
fn threads(asked: &[usize]) -> Result<Vec<usize>, Failure> {
    if asked.contains(&0) {
        return Err(Failure::usage("--threads 0: at least one thread has to work"));
    }
    let mut threads = asked.to_vec();
    if threads.is_empty() {
        threads = vec![1, std::thread::available_parallelism().map_or(1, usize::from)];
    }
    threads.dedup();
    Ok(threads)
}

/// Traffic of frames of one size: UDP, as RFC 2544 has it, because no frame of TCP's handshake has the size asked for.
fn generated(capture: &Path, size: u32, args: &ThroughputArgs) -> GenerateArgs {
    GenerateArgs {
        packets: Some(args.packets),
        flows: args.flows.unwrap_or(args.packets / 10).clamp(1, args.packets),
        size: Mix::only(size),
        protocol: Mix::only(ProtocolName(Protocol::UDP)),
        family: Mix::only(FamilyName(Family::Ipv4)),
        ..GenerateArgs::new(capture)
    }
}

/// What to replay for one mode.
fn request(args: &ThroughputArgs, traffic: &Traffic, mode: Mode, folder: &Path) -> Result<Request, Failure> {
    let mut request = Request { captures: vec![traffic.capture.clone()], bulk: true, ..Request::default() };
    let method = match mode {
        Mode::Dr => Some(Method::Dr),
        Mode::Nat => Some(Method::Nat),
        Mode::Fullnat => Some(Method::Fullnat),
        Mode::Tunnel => Some(Method::Tunnel),
        Mode::Rules => None,
    };
    match method.filter(|_| traffic.generated) {
        Some(method) => {
            let director = folder.join("director");
            let traffic = GenerateArgs { mode: method, ..generated(&traffic.capture, 64, args) };
            generate::describe(&traffic, &director).map_err(Failure::usage)?;
            request.config = Some(director);
        }
        None if traffic.generated => {
            return Err(Failure::usage("--mode rules takes the methods from a configuration; name captures, and it with -c"));
        }
        None => {
            if mode == Mode::Rules && args.config.is_none() {
                return Err(Failure::usage("--mode rules takes the methods from a configuration; name it with -c"));
            }
            request.config.clone_from(&args.config);
            request.mode = Some(mode).filter(|mode| *mode != Mode::Rules);
        }
    }
    Ok(request)
}
