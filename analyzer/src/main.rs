//! The `lvscheck` command.

#![forbid(unsafe_code)]

use clap::Parser;
use lvscheck::command::{self, args::Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    command::run(Cli::parse()).into()
}
