//! The command: from what was typed to an exit status. Results go to standard output, everything else to standard error.

pub mod args;
mod diff;
mod generate;
mod replay;
mod test;
mod throughput;

use crate::exit::{Failure, Status};
use args::{Cli, Color, Command, CommonArgs};
use clap::CommandFactory;
use std::io::{IsTerminal, Write};

/// Runs one command line.
pub fn run(cli: Cli) -> Status {
    let common = cli.common;
    match common.color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
    let alone = matches!(cli.command, Command::Throughput(_));
    if common.threads.len() > 1 && !alone {
        complain("--threads takes one number; several are for `lvscheck throughput`");
        return Status::Usage;
    }
    if let Some(&threads) = common.threads.first().filter(|_| !alone) {
        // Fails only when a pool was built before, which nothing does.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    let result = match cli.command {
        Command::Replay(args) => replay::run(&args, &common),
        Command::Test(args) => test::run(&args, &common),
        Command::Diff(args) => diff::run(&args, &common),
        Command::Generate(args) => generate::run(&args, &common),
        Command::Throughput(args) => throughput::run(&args, &common),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lvscheck", &mut script);
            print(&String::from_utf8_lossy(&script)).map(|()| Status::Conforms)
        }
        Command::Man => man().and_then(|page| print(&page)).map(|()| Status::Conforms),
    };
    match result {
        Ok(status) => status,
        Err(failure) => {
            complain(&failure.message);
            failure.status
        }
    }
}

fn man() -> Result<String, Failure> {
    let mut page = Vec::new();
    let command = Cli::command();
    let mut render = |command: clap::Command| clap_mangen::Man::new(command).render(&mut page).map_err(Failure::usage);
    render(command.clone())?;
    for part in command.get_subcommands().filter(|part| !part.is_hide_set()) {
        let name = format!("lvscheck-{}", part.get_name());
        render(part.clone().name(name))?;
    }
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Writes a result to standard output. A closed pipe is no error: the reader has seen enough.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::usage(format!("standard output: {error}"))),
        _ => Ok(()),
    }
}

/// Says on standard error why the work could not be done.
fn complain(message: &str) {
    let style = anstyle::AnsiColor::Red.on_default().bold();
    let _ = writeln!(anstream::stderr(), "{style}error{style:#}: {message}");
}

/// Says on standard error what went wrong without stopping the work; `--quiet` does not hide it.
fn warn(message: &str) {
    let style = anstyle::AnsiColor::Yellow.on_default().bold();
    let _ = writeln!(anstream::stderr(), "{style}warning{style:#}: {message}");
}

/// A progress bar on standard error for work that takes more than a second; hidden when nobody watches.
fn progress_bar(common: &CommonArgs, total: u64, unit: &'static str) -> indicatif::ProgressBar {
    if common.quiet || !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let bar = indicatif::ProgressBar::new(total);
    let template = format!("{{elapsed_precise}} {{wide_bar}} {{percent}}% {{pos}}/{{len}} {unit} eta {{eta}}");
    if let Ok(style) = indicatif::ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}
