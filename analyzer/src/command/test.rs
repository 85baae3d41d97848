//! `lvscheck test`.

use super::args::{Format, TestArgs};
use super::{CommonArgs, print, progress_bar};
use crate::exit::{Failure, Status};
use crate::testing::case::{self, Case};
use crate::testing::run::{CaseOutcome, CaseRun, run_all};
use crate::testing::{bless, junit};
use serde_json::json;
use std::fmt::Write;

pub(super) fn run(args: &TestArgs, common: &CommonArgs) -> Result<Status, Failure> {
    if let Some(capture) = &args.new {
        let folder = bless::make_case(args, capture)?;
        if !common.quiet {
            print(&format!("made {}; look at it, then commit it\n", folder.display()))?;
        }
        return Ok(Status::Conforms);
    }
    let cases = find(args)?;
    let bar = progress_bar(common, cases.len() as u64, "cases");
    let runs = run_all(&cases, &|_| bar.inc(1));
    bar.finish_and_clear();

    if let Some(path) = &args.junit {
        let xml = junit::render(&runs).map_err(Failure::usage)?;
        std::fs::write(path, xml).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    }
    if std::env::var_os("GITHUB_ACTIONS").is_some() {
        annotate(&runs)?;
    }
    match common.format {
        Format::Text => print(&text(&runs, common))?,
        Format::Json => print(&format!("{:#}\n", json(&runs)))?,
    }
    if args.bless {
        return bless::bless(args, &cases, &runs);
    }
    Ok(status(&runs))
}

fn find(args: &TestArgs) -> Result<Vec<Case>, Failure> {
    if !args.folder.is_dir() {
        return Err(Failure::new(
            Status::GoldenMissing,
            format!(
                "{}: no such folder; name the folder with the cases, or make one with `lvscheck test --new CAPTURE`",
                args.folder.display()
            ),
        ));
    }
    let mut cases = case::find(&args.folder).map_err(Failure::usage)?;
    let found = cases.len();
    cases.retain(|case| args.filter.is_empty() || args.filter.iter().any(|text| case.name.contains(text.as_str())));
    if cases.is_empty() {
        let why = if found == 0 {
            "no folder below it holds a case.toml".to_owned()
        } else {
            format!("--filter leaves none of its {found} cases")
        };
        return Err(Failure::new(Status::NothingToCheck, format!("{}: {why}", args.folder.display())));
    }
    Ok(cases)
}

/// A case that could not run is worse than one that differs: the answer is not known.
fn status(runs: &[CaseRun]) -> Status {
    runs.iter()
        .map(|run| match run.outcome {
            CaseOutcome::Conforms => Status::Conforms,
            CaseOutcome::Differs(_) => Status::Differs,
            CaseOutcome::CouldNotRun(_) => Status::Usage,
        })
        .max()
        .unwrap_or(Status::NothingToCheck)
}

fn tally(runs: &[CaseRun]) -> (usize, usize, usize) {
    let count = |wanted: fn(&CaseOutcome) -> bool| runs.iter().filter(|run| wanted(&run.outcome)).count();
    (
        count(|outcome| matches!(outcome, CaseOutcome::Conforms)),
        count(|outcome| matches!(outcome, CaseOutcome::Differs(_))),
        count(|outcome| matches!(outcome, CaseOutcome::CouldNotRun(_))),
    )
}

fn text(runs: &[CaseRun], common: &CommonArgs) -> String {
    let good = anstyle::AnsiColor::Green.on_default().bold();
    let bad = anstyle::AnsiColor::Red.on_default().bold();
    let mut out = String::new();
    for run in runs {
        match &run.outcome {
            CaseOutcome::Conforms if common.verbose > 0 && !common.quiet => {
                let _ = writeln!(out, "{good}conforms{good:#}       {}", run.name);
            }
            CaseOutcome::Conforms => {}
            CaseOutcome::Differs(why) => {
                let _ = writeln!(out, "{bad}differs{bad:#}        {}", run.name);
                indent(&mut out, why, if common.verbose > 0 { usize::MAX } else { 12 });
            }
            CaseOutcome::CouldNotRun(why) => {
                let _ = writeln!(out, "{bad}could not run{bad:#}  {}", run.name);
                indent(&mut out, why, usize::MAX);
            }
        }
    }
    let (conform, differ, could_not) = tally(runs);
    if common.quiet && differ + could_not == 0 {
        return out;
    }
    let style = if differ + could_not == 0 { good } else { bad };
    let _ = writeln!(out, "{style}{conform} conform, {differ} differ, {could_not} could not run{style:#}");
    out
}

fn indent(out: &mut String, why: &str, most: usize) {
    let lines = why.lines().count();
    for line in why.lines().take(most) {
        let _ = writeln!(out, "    {line}");
    }
    if lines > most {
        let _ = writeln!(out, "    ... {} more lines with --verbose", lines - most);
    }
}

fn json(runs: &[CaseRun]) -> serde_json::Value {
    let (conform, differ, could_not) = tally(runs);
    json!({
        "schema": crate::report::json::SCHEMA,
        "command": "test",
        "conform": conform,
        "differ": differ,
        "could_not_run": could_not,
        "cases": runs.iter().map(|run| {
            let (word, why) = match &run.outcome {
                CaseOutcome::Conforms => ("conforms", None),
                CaseOutcome::Differs(why) => ("differs", Some(why)),
                CaseOutcome::CouldNotRun(why) => ("could-not-run", Some(why)),
            };
            json!({
                "name": run.name,
                "result": word,
                "seconds": run.elapsed.as_secs_f64(),
                "why": why,
                "comparison": run.comparison.as_ref().and_then(|comparison| serde_json::to_value(comparison).ok()),
            })
        }).collect::<Vec<_>>(),
    })
}

/// GitHub shows these lines beside the files that they name.
fn annotate(runs: &[CaseRun]) -> Result<(), Failure> {
    let mut out = String::new();
    for run in runs {
        let (title, why) = match &run.outcome {
            CaseOutcome::Conforms => continue,
            CaseOutcome::Differs(why) => ("differs", why),
            CaseOutcome::CouldNotRun(why) => ("could not run", why),
        };
        let message = why.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let _ = writeln!(out, "::error file={},title={} {title}::{message}", run.folder.join("case.toml").display(), run.name);
    }
    if !out.is_empty() {
        // Annotations belong to the log, not to the result that a program may read from standard output.
        warn_lines(&out);
    }
    Ok(())
}

fn warn_lines(lines: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().write_all(lines.as_bytes());
}
