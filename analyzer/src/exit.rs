//! Exit statuses: the contract with scripts and CI. They never change their meaning.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Everything conforms, or the work was done.
    Conforms = 0,
    /// Something differs, or there are findings of severity error.
    Differs = 1,
    /// Wrong use, a wrong configuration, or a file that could not be read or written.
    Usage = 2,
    /// An input that is no capture, or of which nothing could be read.
    NotACapture = 3,
    /// Nothing to check: no packet of any service. CI must not be green by accident.
    NothingToCheck = 4,
    /// The golden is missing.
    GoldenMissing = 5,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status as u8)
    }
}

/// A command that could not do its work: what to say, and how to end.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub status: Status,
    /// What went wrong, where, and what to do. May have several lines.
    pub message: String,
}

impl Failure {
    /// Wrong use, configuration or I/O.
    pub fn usage(message: impl ToString) -> Failure {
        Failure { status: Status::Usage, message: message.to_string() }
    }

    /// With that status.
    pub fn new(status: Status, message: impl ToString) -> Failure {
        Failure { status, message: message.to_string() }
    }
}
