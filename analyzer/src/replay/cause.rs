//! Why a frame left the director, as data and in the words of a packet comment.

use super::reply;
use lvscheck_engine::verdict::{Names, Verdict};

/// Why a frame left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cause {
    /// The number of the frame that caused it; none for timers and commands.
    pub frame: Option<u64>,
    /// What became of that frame; none if it was an answer that was turned back.
    pub verdict: Option<Verdict>,
    /// The connection, as its client sees it.
    pub flow: Option<reply::Flow>,
}

impl Cause {
    /// In words, with the names that the director has.
    pub fn words(&self, names: &impl Names) -> String {
        match (self.frame, self.verdict) {
            (Some(number), Some(verdict)) => format!("frame {number} {}", words(names, verdict)),
            (Some(number), None) => format!("answer {number}, as its real server sent it"),
            (None, _) => "a timer or a command".to_owned(),
        }
    }
}

/// A verdict with the names of its service and real server.
fn words(names: &impl Names, verdict: Verdict) -> String {
    let whom = match verdict {
        Verdict::Forwarded(forwarded)
        | Verdict::Returned(forwarded)
        | Verdict::Related(forwarded)
        | Verdict::DeliveredToLocalServer(forwarded)
        | Verdict::WaitsForNeighbour(forwarded) => match (names.server(forwarded.server), names.service(forwarded.service)) {
            (Some(server), Some(service)) => format!(" ({server} for {service}{})", if forwarded.new { ", new" } else { "" }),
            _ => String::new(),
        },
        _ => String::new(),
    };
    format!("{}{whom}", verdict.words())
}
