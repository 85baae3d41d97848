//! Takes the time of repeated replays. The only place of the measurements that reads a clock.

use super::measure::{Run, Series, Stage};
use crate::exit::Failure;
use crate::replay::bulk::Step;
use crate::replay::{self, Outcome, Request, Source};
use lvscheck_engine::batch;
use std::path::Path;
use std::time::Instant;

/// Ethernet's frame check sequence, which captures don't hold, in bytes.
const FCS: u64 = 4;

/// What is done with the frames that leave the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Task {
    /// Nothing.
    Forward,
    /// They are compared with a golden, which is made first.
    Golden,
    /// They are written to a temporary file.
    Write,
}

impl Task {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Task::Forward => "forward",
            Task::Golden => "golden",
            Task::Write => "write",
        }
    }
}

/// One measurement to make.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// What to replay; the measurement sets `golden` and `write` as the task needs them.
    pub request: Request,
    /// What is done with the frames that leave.
    pub task: Task,
    /// Forwarding mode, for the report.
    pub mode: String,
    /// Where the traffic comes from, for the report.
    pub traffic: String,
    /// Threads that work, at least 1.
    pub threads: usize,
    /// How often, at least 1: the first run is the cold one.
    pub runs: u32,
}

/// Runs a measurement. `folder` is for the files that the task needs.
///
/// # Errors
/// The capture can't be replayed, or threads can't be started.
pub fn measure(measurement: &Measurement, folder: &Path) -> Result<Series, Failure> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(measurement.threads)
        .build()
        .map_err(|error| Failure::usage(format!("{} threads: {error}", measurement.threads)))?;
    pool.install(|| repeat(measurement, folder))
}

fn repeat(measurement: &Measurement, folder: &Path) -> Result<Series, Failure> {
    let mut request = measurement.request.clone();
    match measurement.task {
        Task::Forward => {}
        Task::Golden => {
            let golden = folder.join("expected-frames.pcap");
            replay::run(&Request { write: Some(golden.clone()), ..request.clone() })?;
            request.golden = Some(Source::File(golden));
        }
        Task::Write => request.write = Some(folder.join("written-frames.pcap")),
    }
    let (cold, outcome) = once(&request)?;
    let mut warm = Vec::new();
    for _ in 1..measurement.runs {
        warm.push(once(&request)?.0);
    }
    let packets = outcome.input.frames;
    Ok(Series {
        mode: measurement.mode.clone(),
        task: measurement.task.name().to_owned(),
        traffic: measurement.traffic.clone(),
        threads: measurement.threads,
        packets,
        wire_bytes: outcome.input.wire_bytes + packets * FCS,
        fast: outcome.handled.is_some(),
        serial_packets: outcome.handled.map_or(packets, |handled| handled.serial),
        cold,
        warm,
    })
}

/// One run: each moment counts for what was begun last.
fn once(request: &Request) -> Result<(Run, Outcome), Failure> {
    let start = Instant::now();
    let mut run = Run::default();
    let mut since = start;
    // What comes before the first step is opening the capture.
    let mut stage = Stage::Read;
    let replayed = replay::run_observed(request, &mut |step| {
        let Some(next) = begun(step) else { return };
        let now = Instant::now();
        run.stages[stage as usize] += now - since;
        (stage, since) = (next, now);
    })?;
    let end = Instant::now();
    run.stages[stage as usize] += end - since;
    run.elapsed = end - start;
    Ok((run, replayed.outcome))
}

/// The stage that begins with a step; none if it goes on.
fn begun(step: Step) -> Option<Stage> {
    match step {
        Step::Read => Some(Stage::Read),
        Step::Engine(batch::Stage::Classify) => Some(Stage::Classify),
        Step::Engine(batch::Stage::Track) => Some(Stage::Track),
        Step::Engine(batch::Stage::Schedule) => Some(Stage::Schedule),
        Step::Engine(batch::Stage::Rewrite) => Some(Stage::Rewrite),
        Step::Engine(batch::Stage::Serial) => Some(Stage::Serial),
        Step::Engine(batch::Stage::Done) | Step::Frames { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::generate::{GenerateArgs, Method, run};

    #[test]
    fn the_stages_of_a_run_make_up_its_time() {
        for (mode, fast) in [(Method::Dr, true), (Method::Nat, true), (Method::Tunnel, true)] {
            let folder = tempfile::tempdir().unwrap();
            let mut args = GenerateArgs::new(&folder.path().join("traffic.pcap"));
            (args.packets, args.flows, args.mode) = (Some(60_000), 500, mode);
            args.director = Some(folder.path().join("director"));
            run(&args).unwrap();
            for task in [Task::Forward, Task::Golden, Task::Write] {
                let request = Request {
                    captures: vec![folder.path().join("traffic.pcap")],
                    config: args.director.clone(),
                    bulk: true,
                    ..Request::default()
                };
                let (mode, traffic) = ("any".to_owned(), "generated".to_owned());
                let series = measure(&Measurement { request, task, mode, traffic, threads: 2, runs: 2 }, folder.path()).unwrap();
                assert_eq!((series.packets, series.wire_bytes, series.warm.len()), (60_000, 60_000 * 64, 1));
                assert_eq!(series.fast, fast, "{mode:?} {task:?}", mode = args.mode);
                for run in [&series.cold, &series.warm[0]] {
                    assert_eq!(run.stages.iter().sum::<std::time::Duration>(), run.elapsed);
                }
                assert!(series.stage_nanos(if fast { Stage::Rewrite } else { Stage::Serial }) > 0.0);
            }
        }
    }
}
