//! DPVS's schedulers, one file each behind one trait (reference/dpvs-fullnat.md section 14).
//!
//! They differ from Linux's of the same name: cursors are reset by every change of the list, the Maglev table has another
//! size and another hash, and consistent hashing takes the place of `sh` and `dh`.

mod conhash;
mod fo;
mod mh;
mod rr;
mod wlc;
mod wrr;

use crate::config::SchedulerKind;
use std::fmt::Debug;
use std::net::IpAddr;

/// A real server as a scheduler sees it. Lists are in DPVS's order: the newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its address.
    pub(super) address: IpAddr,
    /// Its port, host order.
    pub(super) port: u16,
    /// Its weight.
    pub(super) weight: u32,
    /// Above its threshold: takes no new connection.
    pub(super) overloaded: bool,
    /// Connections that are established.
    pub(super) active: u32,
    /// All others.
    pub(super) inactive: u32,
}

impl Candidate {
    /// Whether it may get a connection at all.
    fn usable(&self) -> bool {
        self.weight > 0 && !self.overloaded
    }
}

/// Chooses a real server for each new connection.
pub(super) trait Scheduler: Debug + Send + Sync {
    /// A server was added, edited or deleted.
    fn servers_changed(&mut self, servers: &[Candidate]);
    /// The index of the server that gets a client's connection; none when no server can take it.
    fn choose(&mut self, servers: &[Candidate], client: IpAddr) -> Option<usize>;
    /// A copy of its state, for a director that is copied.
    fn boxed(&self) -> Box<dyn Scheduler>;
}

impl Clone for Box<dyn Scheduler> {
    fn clone(&self) -> Box<dyn Scheduler> {
        self.boxed()
    }
}

/// A scheduler at rest; none for a kind that DPVS does not have.
pub(super) fn scheduler(kind: SchedulerKind) -> Option<Box<dyn Scheduler>> {
    Some(match kind {
        SchedulerKind::Rr => Box::new(rr::RoundRobin::default()),
        SchedulerKind::Wrr => Box::new(wrr::WeightedRoundRobin::default()),
        SchedulerKind::Wlc => Box::new(wlc::WeightedLeastConnection),
        SchedulerKind::Conhash => Box::new(conhash::ConsistentHash::default()),
        SchedulerKind::Mh => Box::new(mh::Maglev::default()),
        SchedulerKind::Fo => Box::new(fo::WeightedFailOver),
        _ => return None,
    })
}

/// The greatest common divisor of the positive weights; 1 when there is none.
fn common_divisor(servers: &[Candidate]) -> u32 {
    let mut result = 0;
    for server in servers {
        let (mut a, mut b) = (result, server.weight);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        result = a;
    }
    result.max(1)
}

#[cfg(test)]
pub(super) fn candidates(weights: &[u32]) -> Vec<Candidate> {
    // Added in this order; the list has the newest first.
    let server = |(index, weight): (usize, &u32)| Candidate {
        address: IpAddr::from([10, 0, 0, 11 + index as u8]),
        port: 8080,
        weight: *weight,
        overloaded: false,
        active: 0,
        inactive: 0,
    };
    let mut list: Vec<Candidate> = weights.iter().enumerate().map(server).collect();
    list.reverse();
    list
}

/// The last byte of the address of each server that `count` connections get.
#[cfg(test)]
pub(super) fn picks(scheduler: &mut dyn Scheduler, servers: &[Candidate], count: usize) -> Vec<u8> {
    let client = IpAddr::from([1, 2, 3, 4]);
    let last = |address: IpAddr| if let IpAddr::V4(address) = address { address.octets()[3] } else { 0 };
    (0..count).filter_map(|_| scheduler.choose(servers, client)).map(|index| last(servers[index].address)).collect()
}
