//! `lvscheck replay`.

use super::args::{Format, Mode, ReplayArgs};
use super::{CommonArgs, print, progress_bar, warn};
use crate::exit::{Failure, Status};
use crate::replay::{self, Request, ServiceArguments, Source};
use crate::report;
use crate::report::text::TextOptions;
use lvscheck_engine::Nanos;
use std::io::IsTerminal;

/// Findings that are shown without --verbose.
const FINDINGS: usize = 10;

pub(super) fn run(args: &ReplayArgs, common: &CommonArgs) -> Result<Status, Failure> {
    check_use(args)?;
    let request = Request {
        captures: args.captures.clone(),
        config: args.config.clone(),
        mode: args.mode.filter(|mode| *mode != Mode::Rules),
        services: ServiceArguments {
            services: args.vip.clone(),
            servers: args.rs.clone(),
            scheduler: args.scheduler.clone(),
            local_addresses: args.lip.clone(),
        },
        profile: args.profile.clone(),
        golden: args
            .golden
            .as_ref()
            .map(|path| if path.as_os_str() == "same" { Source::Same } else { Source::File(path.clone()) }),
        observe: args.observe,
        ignore: args.ignore.clone(),
        write: args.write.clone(),
        counters_summed: None,
        timer_wheel: None,
        linger: args.linger.map(|seconds| Nanos((seconds.clamp(0.0, 1e9) * 1e9) as u64)),
        probes: Vec::new(),
        bulk: common.format == Format::Text && !args.connections && args.report.is_none(),
        progress: Some(progress_bar(common, 0, "frames")),
    };
    let result = replay::run(&request);
    if let Some(bar) = &request.progress {
        bar.finish_and_clear();
    }
    let outcome = result?.outcome;
    for warning in &outcome.input.warnings {
        warn(warning);
    }
    if let Some(path) = &args.report {
        std::fs::write(path, report::html::render(&outcome))
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    }
    let to_stdout = args.write.as_ref().is_some_and(|path| path.as_os_str() == "-");
    match common.format {
        // Standard output holds the capture: the result would spoil it.
        _ if to_stdout => {}
        Format::Text => {
            let findings = if common.verbose > 0 { 1000 } else { FINDINGS };
            let options =
                TextOptions { quiet: common.quiet, connections: args.connections, findings, handled: common.verbose > 0 };
            print(&report::text::render(&outcome, options))?;
        }
        Format::Json => print(&format!("{:#}\n", report::json::render(&outcome)))?,
    }
    let status = outcome.status();
    if status == Status::NothingToCheck {
        warn("nothing to check: no frame of the capture concerns a virtual service; name one with --vip or -c");
    }
    Ok(status)
}

fn check_use(args: &ReplayArgs) -> Result<(), Failure> {
    if args.captures.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(Failure::usage("standard input can be read only once; name `-` once"));
    }
    if args.write.as_ref().is_some_and(|path| path.as_os_str() == "-") && std::io::stdout().is_terminal() {
        return Err(Failure::usage("-w - would write a binary capture to the terminal; redirect it, or name a file"));
    }
    if args.mode == Some(Mode::Rules) && args.config.is_none() {
        return Err(Failure::usage("--mode rules takes the methods from a configuration; name it with -c"));
    }
    Ok(())
}
