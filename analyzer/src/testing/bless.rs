//! Accepting changes as new goldens, and making cases.

use super::case::{Case, CaseFile};
use super::run::{CaseOutcome, CaseRun, request};
use crate::command::args::{Mode, TestArgs};
use crate::exit::{Failure, Status};
use crate::replay::{self, Request};
use crate::report::ipvsadm;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Asks for each differing case whether what lvscheck emits now is the new golden, and writes it. The differences were
/// printed before.
///
/// # Errors
/// There is no terminal to ask on and `--yes` was not given, or a file could not be written.
pub fn bless(args: &TestArgs, cases: &[Case], runs: &[CaseRun]) -> Result<Status, Failure> {
    let differing: Vec<&Case> =
        cases.iter().zip(runs).filter(|(_, run)| matches!(run.outcome, CaseOutcome::Differs(_))).map(|(case, _)| case).collect();
    if !differing.is_empty() && !args.yes && !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{} cases differ, and there is no terminal to ask on; look at the differences above, then add --yes",
            differing.len()
        )));
    }
    let mut refused = runs.iter().filter(|run| matches!(run.outcome, CaseOutcome::CouldNotRun(_))).count();
    for case in differing {
        if !args.yes && !asked(&case.name)? {
            refused += 1;
            continue;
        }
        accept(case)?;
    }
    Ok(if refused == 0 { Status::Conforms } else { Status::Differs })
}

fn asked(name: &str) -> Result<bool, Failure> {
    let mut error = std::io::stderr();
    let _ = write!(error, "accept the new output of {name}? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(Failure::usage)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Writes what the engine emits now as the case's golden, its tables too.
fn accept(case: &Case) -> Result<(), Failure> {
    let request = Request { golden: None, write: Some(case.output()), ..request(case).map_err(Failure::usage)? };
    let replayed = replay::run(&request)?;
    let outcome = &replayed.outcome;
    let mut tables = vec![
        ("list.txt".to_owned(), ipvsadm::list(&outcome.services)),
        ("stats.txt".to_owned(), ipvsadm::stats(&replayed.counted)),
        ("conn.txt".to_owned(), ipvsadm::connections(&outcome.connections)),
    ];
    tables.extend(replayed.probes.iter().map(|probe| (probe.name.clone(), ipvsadm::connections(&probe.connections))));
    for (name, text) in tables {
        let path = case.state(&name);
        if path.is_file() {
            write(&path, &text)?;
        }
    }
    let mut file = case.file.clone();
    file.frames_out = Some(outcome.emitted.frames);
    write_case_file(&case.folder, &file)
}

/// `lvscheck test --new`: a case from a capture; its golden is what the engine emits today.
///
/// # Errors
/// The case exists, the capture can't be replayed, or a file can't be written.
pub fn make_case(args: &TestArgs, capture: &Path) -> Result<PathBuf, Failure> {
    let stem = || capture.file_stem().map_or_else(|| "case".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().unwrap_or_else(stem);
    let folder = args.folder.join(&name);
    if folder.exists() {
        return Err(Failure::usage(format!("{}: exists already; choose another --name, or --bless the case", folder.display())));
    }
    let io = |path: &Path, error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(&folder).map_err(|error| io(&folder, error))?;
    let input = match capture.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => "in.pcapng".to_owned(),
    };
    std::fs::copy(capture, folder.join(&input)).map_err(|error| io(capture, error))?;
    if let Some(config) = &args.config {
        copy_director(config, &folder.join("director")).map_err(|error| io(config, error))?;
    }
    let mut file = CaseFile {
        name,
        what: String::new(),
        mode: args.mode.map_or_else(String::new, |mode| mode_word(mode).to_owned()),
        system: "lvscheck".to_owned(),
        input,
        output: "out.pcapng".to_owned(),
        ..CaseFile::default()
    };
    let case = Case { name: String::new(), folder: folder.clone(), file: file.clone() };
    let request = Request { golden: None, write: Some(case.output()), ..request(&case).map_err(Failure::usage)? };
    let replayed = replay::run(&request)?;
    let outcome = &replayed.outcome;
    file.frames_in = Some(outcome.input.frames);
    file.frames_out = Some(outcome.emitted.frames);
    write_case_file(&folder, &file)?;
    let state = folder.join("state");
    std::fs::create_dir_all(&state).map_err(|error| io(&state, error))?;
    write(&state.join("list.txt"), &ipvsadm::list(&outcome.services))?;
    write(&state.join("stats.txt"), &ipvsadm::stats(&replayed.counted))?;
    write(&state.join("conn.txt"), &ipvsadm::connections(&outcome.connections))?;
    Ok(folder)
}

fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Dr => "dr",
        Mode::Nat => "nat",
        Mode::Fullnat => "fullnat",
        Mode::Tunnel => "tunnel",
        Mode::Rules => "rules",
    }
}

/// A snapshot folder as it is; a single file under the name by which a snapshot knows it.
fn copy_director(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    if from.is_dir() {
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        return Ok(());
    }
    let text = std::fs::read_to_string(from)?;
    let extension = from.extension().and_then(|extension| extension.to_str()).unwrap_or("");
    let name = match extension {
        "toml" => "lvs.toml",
        "conf" => "keepalived.conf",
        "sh" => "setup.sh",
        _ if text.lines().any(|line| line.trim_start().starts_with("ip ")) => "setup.sh",
        _ => "ipvsadm.rules",
    };
    std::fs::write(to.join(name), text)
}

fn write_case_file(folder: &Path, file: &CaseFile) -> Result<(), Failure> {
    let text = toml::to_string(file).map_err(Failure::usage)?;
    write(&folder.join("case.toml"), &text)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
