//! What a replay found, as data: reports of every format render this.

use super::translation::Translation;
use crate::compare::Comparison;
use lvscheck_engine::Nanos;
use lvscheck_engine::batch::Handled;
use lvscheck_engine::listing::{ClientAddressCounts, ConnectionView, ServiceView};
use lvscheck_engine::verdict::{DropReason, Verdict};
use std::collections::BTreeMap;

/// The result of one replay.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was read.
    pub input: InputSummary,
    /// The director, and how it was found.
    pub director: DirectorSummary,
    /// What became of the frames.
    pub verdicts: Verdicts,
    /// Frames that were no input to the director, by role.
    pub roles: Roles,
    /// Answers seen at the client, sent through the director again.
    pub replies: Option<Comparison>,
    /// The comparison with the golden.
    pub golden: Option<Comparison>,
    /// What the mode demands and the capture or configuration breaks, one sentence each.
    pub demands: Vec<Demand>,
    /// Services and real servers with their counters.
    pub services: Vec<ServiceView>,
    /// DPVS: how clients' addresses reached the real servers, by the number of the service.
    pub client_addresses: Vec<(u32, ClientAddressCounts)>,
    /// FULLNAT: the local address and port of each connection, in order of opening.
    pub translations: Vec<Translation>,
    /// The connection table at the end.
    pub connections: Vec<ConnectionView>,
    /// What left the director.
    pub emitted: Emitted,
    /// How the fast way handled packets; none where the careful way was taken.
    pub handled: Option<Handled>,
    /// How long the engine and everything around it took.
    pub speed: Speed,
}

/// What was read.
#[derive(Debug, Default)]
pub struct InputSummary {
    /// File names, `-` for standard input.
    pub files: Vec<String>,
    /// Frames in all.
    pub frames: u64,
    /// Captured bytes in all.
    pub bytes: u64,
    /// Bytes that these frames had on the wire, without FCS.
    pub wire_bytes: u64,
    /// Time of the first frame.
    pub first: Nanos,
    /// Time of the last frame.
    pub last: Nanos,
    /// Faults of the files that lost something, the golden's too, in words.
    pub warnings: Vec<String>,
}

/// The director, and how it was found.
#[derive(Debug, Default)]
pub struct DirectorSummary {
    /// Where its description came from, in words.
    pub source: String,
    /// The profile's name.
    pub profile: String,
    /// The forwarding mode, in words.
    pub mode: String,
    /// What was assumed, one sentence each.
    pub assumed: Vec<String>,
    /// What in the description deserves a word.
    pub warnings: Vec<String>,
    /// Its interfaces, for people.
    pub interfaces: Vec<String>,
}

/// Frames by what became of them.
#[derive(Debug, Default)]
pub struct Verdicts {
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

impl Verdicts {
    /// Counts one.
    pub fn count(&mut self, verdict: Verdict) {
        *self.counts.entry((verdict.kind(), verdict.words())).or_default() += 1;
    }

    /// Counts many of a kind.
    pub fn count_many(&mut self, verdict: Verdict, frames: u64) {
        if frames == 0 {
            return;
        }
        *self.counts.entry((verdict.kind(), verdict.words())).or_default() += frames;
    }

    /// Kind, words and count, the most frequent first within each kind.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        self.counts.iter().map(|((kind, words), count)| (*kind, *words, *count))
    }

    /// How many frames concern a service: forwarded, returned, refused, waiting, or dropped on the way to a real server.
    pub fn of_services(&self) -> u64 {
        let concerned =
            ["forwarded", "returned", "related", "local-server", "waits-for-neighbour", "waits-for-fragments", "refused"];
        let dropped = [
            DropReason::ServerRemoved,
            DropReason::NoServer,
            DropReason::DropRate,
            DropReason::NeighbourQueueFull,
            DropReason::TunnelTooSmall,
            DropReason::NoCallId,
            DropReason::NoLocalPort,
            DropReason::NoLocalAddress,
            DropReason::AccessList,
        ];
        let concerns =
            |kind: &str, words: &str| concerned.contains(&kind) || dropped.iter().any(|reason| reason.words() == words);
        self.counts.iter().filter(|((kind, words), _)| concerns(kind, words)).map(|(_, count)| count).sum()
    }
}

/// Frames of the capture that were no input to the director.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Sent by the director itself, as the capture shows.
    pub from_director: u64,
    /// Answers that go past the director (DR, tunnel).
    pub past_director: u64,
    /// Answers seen at the client, turned back into what the real server sent.
    pub replies: u64,
    /// Answers whose request the capture does not hold.
    pub unmatched_replies: u64,
    /// Between other hosts.
    pub of_others: u64,
    /// Not parseable as frames of their link type, by reason.
    pub unreadable: BTreeMap<String, u64>,
}

impl Roles {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Roles) {
        self.from_director += other.from_director;
        self.past_director += other.past_director;
        self.replies += other.replies;
        self.unmatched_replies += other.unmatched_replies;
        self.of_others += other.of_others;
        for (reason, count) in &other.unreadable {
            *self.unreadable.entry(reason.clone()).or_insert(0) += count;
        }
    }
}

/// A rule of the forwarding mode that is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// A stable identifier, such as `nat-bypass`.
    pub id: &'static str,
    /// Frame numbers that show it; empty for the configuration.
    pub frames: Vec<u64>,
    /// How many frames show it.
    pub count: u64,
    /// What is broken and what follows, in one or two sentences.
    pub message: String,
}

/// What left the director.
#[derive(Debug, Default)]
pub struct Emitted {
    /// Frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
    /// ARP and neighbour discovery frames among them.
    pub link: u64,
    /// ICMP errors among them.
    pub icmp_errors: u64,
}

/// How long it took.
#[derive(Debug, Default, Clone, Copy)]
pub struct Speed {
    /// Seconds from the first byte read to the last frame checked.
    pub seconds: f64,
    /// Frames per second.
    pub frames_per_second: f64,
}
