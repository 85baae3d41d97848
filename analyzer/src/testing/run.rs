//! Runs golden cases: in parallel, each on its own director.

use super::case::Case;
use super::state;
use crate::compare::Comparison;
use crate::compare::report::{self, Styles};
use crate::replay::{self, Request, Source};
use crate::report::ipvsadm;
use crate::report::text::comparison_summary;
use lvscheck_engine::Nanos;
use lvscheck_engine::config::{DirectorConfig, TimerWheel};
use rayon::prelude::*;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// How a case ended.
#[derive(Debug)]
pub enum CaseOutcome {
    /// Frames and tables are as recorded.
    Conforms,
    /// They are not; the differences in words.
    Differs(String),
    /// The case itself is at fault; why.
    CouldNotRun(String),
}

/// One case that was run.
#[derive(Debug)]
pub struct CaseRun {
    /// The case's name.
    pub name: String,
    /// The folder, as it was found.
    pub folder: std::path::PathBuf,
    /// How it ended.
    pub outcome: CaseOutcome,
    /// How long it took.
    pub elapsed: Duration,
    /// The comparison, when it came to one.
    pub comparison: Option<Comparison>,
}

/// Runs cases in parallel; `done` is told of each as it ends. The results are in the order of the cases.
pub fn run_all(cases: &[Case], done: &(impl Fn(&CaseRun) + Sync)) -> Vec<CaseRun> {
    cases
        .par_iter()
        .map(|case| {
            let run = run_guarded(case);
            done(&run);
            run
        })
        .collect()
}

/// A panic in one case is that case's failure, not the end of all of them.
fn run_guarded(case: &Case) -> CaseRun {
    let start = Instant::now();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(case)));
    let (outcome, comparison) = result.unwrap_or_else(|_| {
        let text = "lvscheck itself failed on this case; please report it with the case's folder".to_owned();
        (CaseOutcome::CouldNotRun(text), None)
    });
    CaseRun { name: case.name.clone(), folder: case.folder.clone(), outcome, elapsed: start.elapsed(), comparison }
}

fn run(case: &Case) -> (CaseOutcome, Option<Comparison>) {
    match check(case) {
        Err(message) => (CaseOutcome::CouldNotRun(message), None),
        Ok((comparison, text)) if text.is_empty() && comparison.conforms() => (CaseOutcome::Conforms, Some(comparison)),
        Ok((comparison, text)) => (CaseOutcome::Differs(text), Some(comparison)),
    }
}

/// What a replay needs to run this case.
///
/// # Errors
/// The case holds no director and names no mode.
pub fn request(case: &Case) -> Result<Request, String> {
    let director = case.director();
    Ok(Request {
        captures: vec![case.input()],
        // The rules say the methods; a case without a director names one.
        mode: if director.is_dir() { None } else { replay::mode_by_name(&case.file.mode) },
        config: director.is_dir().then_some(director),
        golden: Some(Source::File(case.output())),
        ignore: case.file.ignore.keys().cloned().collect(),
        linger: case.file.linger.map(|seconds| Nanos((seconds.clamp(0.0, 1e9) * 1e9).round() as u64)),
        probes: case
            .file
            .state
            .iter()
            .filter(|(name, _)| name.starts_with("conn"))
            .map(|(name, seconds)| (name.clone(), Nanos((seconds * 1e9).round() as u64)))
            .collect(),
        ..Request::default()
    })
}

/// Ticks a second of the kernels of the distributions.
const TICKS_PER_SECOND: u32 = 250;
/// After this long all levels of the timer wheel that connections use tick together again.
const WHEEL_TURN: Nanos = Nanos::from_millis(16_384);
/// How many phases of the timer wheel are tried.
const PHASES: u64 = 256;
/// How many phases of the sums of counters are tried.
const SUM_PHASES: u64 = 32;
/// Larger cases are not replayed again and again.
const MOST_FRAMES_TRIED: u64 = 10_000;

/// A kernel's timers are late by what its timer wheel makes of them, and what it clears of its counters is what it summed up last.
/// How these clocks stood when the recording began is told by nothing but their effects. A case that does not conform without them
/// is tried with each.
fn check(case: &Case) -> Result<(Comparison, String), String> {
    let request = request(case)?;
    let exact = check_with(case, &request)?;
    let conforms = |(comparison, text): &(Comparison, String)| text.is_empty() && comparison.conforms();
    if conforms(&exact) || !is_kernel(case) || exact.0.expected > MOST_FRAMES_TRIED {
        return Ok(exact);
    }
    let sums = (0..SUM_PHASES).map(|phase| Request {
        counters_summed: Some(Nanos(DirectorConfig::COUNTERS_PERIOD.0 / SUM_PHASES * phase)),
        ..request.clone()
    });
    let wheels = (0..PHASES).map(|phase| {
        let wheel = TimerWheel { ticks_per_second: TICKS_PER_SECOND, phase: Nanos(WHEEL_TURN.0 / PHASES * phase) };
        Request { timer_wheel: Some(wheel), ..request.clone() }
    });
    // Sums change nothing but counters.
    let frames_differ = !exact.0.conforms();
    for request in sums.filter(|_| !frames_differ).chain(wheels) {
        let mut tried = check_with(case, &request)?;
        if conforms(&tried) {
            tried.0.learned.insert("clock", 1);
            return Ok(tried);
        }
    }
    Ok(exact)
}

/// Whether a Linux kernel recorded the case.
fn is_kernel(case: &Case) -> bool {
    case.file.system == "linux"
}

fn check_with(case: &Case, request: &Request) -> Result<(Comparison, String), String> {
    let replayed = replay::run(request).map_err(|failure| failure.message)?;
    let outcome = replayed.outcome;
    if let Some(expected) = case.file.frames_in
        && expected != outcome.input.frames
    {
        return Err(format!("{}: holds {} frames, case.toml says {expected}", case.input().display(), outcome.input.frames));
    }
    let mut text = String::new();
    let Some(comparison) = outcome.golden else {
        return Err(format!("{}: no golden", case.output().display()));
    };
    if !comparison.conforms() {
        let _ = writeln!(text, "{}", comparison_summary(&comparison));
        text.push_str(&report::render(&comparison, 20, &Styles::default()));
    }
    let mut tables: Vec<(String, state::ListingDifference)> = Vec::new();
    let read = |name: &str| std::fs::read_to_string(case.state(name)).ok();
    if let Some(expected) = read("list.txt") {
        tables.push(("list.txt".to_owned(), state::services(&expected, &ipvsadm::list(&outcome.services))));
    }
    if let Some(expected) = read("stats.txt") {
        tables.push(("stats.txt".to_owned(), state::services(&expected, &ipvsadm::stats(&replayed.counted))));
    }
    if let Some(expected) = read("conn.txt") {
        tables.push(("conn.txt".to_owned(), state::connections(&expected, &ipvsadm::connections(&outcome.connections))));
    }
    for probe in &replayed.probes {
        let Some(expected) = read(&probe.name) else { continue };
        // Some files hold both listings, one after the other.
        let services_at = expected.find(ipvsadm::VERSION_LINE).unwrap_or(expected.len());
        let (connections, services) = expected.split_at(services_at);
        if !connections.is_empty() {
            let actual = ipvsadm::connections(&probe.connections);
            tables.push((probe.name.clone(), state::connections(connections, &actual)));
        }
        if !services.is_empty() {
            tables.push((probe.name.clone(), state::services(services, &ipvsadm::list(&probe.services))));
        }
    }
    for (name, difference) in tables {
        for line in &difference.missing {
            let _ = writeln!(text, "state/{name}: expected `{line}`, and it is not there");
        }
        for line in &difference.unexpected {
            let _ = writeln!(text, "state/{name}: `{line}` is there and was not expected");
        }
    }
    Ok((comparison, text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_case_says_how_long_its_recording_listened() {
        let case = |text: &str| Case { name: String::new(), folder: "case".into(), file: toml::from_str(text).unwrap() };
        assert_eq!(request(&case("linger = 36")).unwrap().linger, Some(Nanos::from_secs(36)));
        assert_eq!(request(&case("linger = 0.5")).unwrap().linger, Some(Nanos::from_millis(500)));
        assert_eq!(request(&case("")).unwrap().linger, None);
    }
}
