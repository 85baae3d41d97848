//! Schedulers: which real server a new connection gets (reference/linux-ipvs.md section 5), one file each behind one trait.
//!
//! A scheduler sees the service's servers in list order (the newest first) and keeps what state it needs. It is told when the
//! list changes, because several of them fill tables or move cursors then.

mod dh;
mod fo;
pub mod hash;
mod lblc;
mod lblcr;
mod lc;
pub mod mh;
mod nq;
mod ovf;
mod rr;
mod sed;
mod sh;
mod twos;
mod wlc;
mod wrr;

use crate::config::{Protocol, SchedulerFlags, SchedulerKind};
use crate::draws::Draws;
use crate::time::Nanos;
use std::net::IpAddr;

/// A real server as schedulers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number, stable for the director's life.
    pub number: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its port, host order.
    pub port: u16,
    /// Its weight; 0: quiesced.
    pub weight: u32,
    /// The last weight that was not 0, or the one it was added with.
    pub last_weight: u32,
    /// Active connections.
    pub active: u32,
    /// Inactive connections.
    pub inactive: u32,
    /// At its upper threshold.
    pub overloaded: bool,
    /// Still in the service's list.
    pub available: bool,
}

impl Candidate {
    /// Takes new connections.
    pub fn usable(&self) -> bool {
        !self.overloaded && self.weight > 0
    }

    /// The classic overhead of section 5.0: an active connection weighs 256, an inactive one 1. The kernel counts it in 32
    /// bits.
    pub fn overhead(&self) -> u32 {
        self.active.wrapping_mul(256).wrapping_add(self.inactive)
    }
}

/// A connection that wants a server.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The client's port, host order.
    pub client_port: u16,
    /// The packet's destination address.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// When.
    pub now: Nanos,
    /// lblc_expiration or lblcr_expiration.
    pub expiration: Nanos,
    /// How many connections of the director were chosen a server by drawing so far.
    pub drawn: u64,
    /// Random draws.
    pub draws: &'a Draws,
}

/// What every scheduler can do. Indices are places in the list, head first.
pub trait Scheduler {
    /// Chooses a server; none: the connection is refused.
    fn schedule(&mut self, list: &[Candidate], wanted: Wanted<'_>) -> Option<usize>;

    /// The list was given for the first time, or the service changed to this scheduler.
    fn init(&mut self, _list: &[Candidate]) {}

    /// A server was added, at the head.
    fn added(&mut self, list: &[Candidate]) {
        self.init(list);
    }

    /// The server that stood at that place was removed; `list` is the list without it.
    fn removed(&mut self, list: &[Candidate], _place: usize, _number: u32) {
        self.init(list);
    }

    /// A server's settings changed.
    fn updated(&mut self, _list: &[Candidate]) {}

    /// The service's scheduler flags changed, the scheduler did not: they hold from the next connection on.
    fn set_flags(&mut self, _flags: SchedulerFlags) {}

    /// Whether a cache names the server: it is not forgotten then, even when it was removed.
    fn holds(&self, _number: u32) -> bool {
        false
    }

    /// Time passes: caches expire.
    fn advance(&mut self, _now: Nanos, _expiration: Nanos) {}
}

/// The scheduler of a service, with its state.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "one a file, see there")]
pub enum ServiceScheduler {
    Rr(rr::Rr),
    Wrr(wrr::Wrr),
    Lc(lc::Lc),
    Wlc(wlc::Wlc),
    Lblc(lblc::Lblc),
    Lblcr(lblcr::Lblcr),
    Dh(dh::Dh),
    Sh(sh::Sh),
    Sed(sed::Sed),
    Nq(nq::Nq),
    Fo(fo::Fo),
    Ovf(ovf::Ovf),
    Mh(mh::Mh),
    Twos(twos::Twos),
    None(Never),
}

/// `none`: never schedules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Never;

impl Scheduler for Never {
    fn schedule(&mut self, _: &[Candidate], _: Wanted<'_>) -> Option<usize> {
        None
    }
}

impl ServiceScheduler {
    /// A fresh scheduler of that kind.
    pub fn new(kind: SchedulerKind, flags: SchedulerFlags) -> ServiceScheduler {
        match kind {
            SchedulerKind::Rr => ServiceScheduler::Rr(rr::Rr::default()),
            SchedulerKind::Wrr => ServiceScheduler::Wrr(wrr::Wrr::default()),
            SchedulerKind::Lc => ServiceScheduler::Lc(lc::Lc),
            SchedulerKind::Wlc => ServiceScheduler::Wlc(wlc::Wlc),
            SchedulerKind::Lblc => ServiceScheduler::Lblc(lblc::Lblc::default()),
            SchedulerKind::Lblcr => ServiceScheduler::Lblcr(lblcr::Lblcr::default()),
            SchedulerKind::Dh => ServiceScheduler::Dh(dh::Dh::default()),
            SchedulerKind::Sh => ServiceScheduler::Sh(sh::Sh::new(flags)),
            SchedulerKind::Sed => ServiceScheduler::Sed(sed::Sed),
            SchedulerKind::Nq => ServiceScheduler::Nq(nq::Nq),
            SchedulerKind::Fo => ServiceScheduler::Fo(fo::Fo),
            SchedulerKind::Ovf => ServiceScheduler::Ovf(ovf::Ovf),
            SchedulerKind::Mh => ServiceScheduler::Mh(mh::Mh::new(flags)),
            SchedulerKind::Twos => ServiceScheduler::Twos(twos::Twos),
            // conhash is DPVS's own, see dpvs/.
            SchedulerKind::Conhash | SchedulerKind::None => ServiceScheduler::None(Never),
        }
    }

    /// The scheduler behind its trait.
    pub fn as_scheduler(&mut self) -> &mut dyn Scheduler {
        match self {
            ServiceScheduler::Rr(scheduler) => scheduler,
            ServiceScheduler::Wrr(scheduler) => scheduler,
            ServiceScheduler::Lc(scheduler) => scheduler,
            ServiceScheduler::Wlc(scheduler) => scheduler,
            ServiceScheduler::Lblc(scheduler) => scheduler,
            ServiceScheduler::Lblcr(scheduler) => scheduler,
            ServiceScheduler::Dh(scheduler) => scheduler,
            ServiceScheduler::Sh(scheduler) => scheduler,
            ServiceScheduler::Sed(scheduler) => scheduler,
            ServiceScheduler::Nq(scheduler) => scheduler,
            ServiceScheduler::Fo(scheduler) => scheduler,
            ServiceScheduler::Ovf(scheduler) => scheduler,
            ServiceScheduler::Mh(scheduler) => scheduler,
            ServiceScheduler::Twos(scheduler) => scheduler,
            ServiceScheduler::None(scheduler) => scheduler,
        }
    }

    /// lblc and lblcr remember destinations, and forget them as time passes.
    pub fn remembers(&self) -> bool {
        matches!(self, ServiceScheduler::Lblc(_) | ServiceScheduler::Lblcr(_))
    }

    /// Whether its choice depends on the packet: on its addresses, its port or its time.
    pub fn looks_at_packets(&self) -> bool {
        use ServiceScheduler::{Dh, Lblc, Lblcr, Mh, Sh};
        matches!(self, Dh(_) | Sh(_) | Mh(_) | Lblc(_) | Lblcr(_))
    }

    /// Whether its choice depends on how many connections servers have.
    pub fn looks_at_counts(&self) -> bool {
        use ServiceScheduler::{Dh, Fo, Mh, Rr, Sh, Wrr};
        !matches!(self, Rr(_) | Wrr(_) | Dh(_) | Sh(_) | Mh(_) | Fo(_))
    }

    /// Whether its choices are drawn.
    pub fn draws(&self) -> bool {
        matches!(self, ServiceScheduler::Twos(_))
    }
}

/// The least loaded usable server by `cost / weight`, compared by cross-multiplication; the earlier one of equals.
pub fn least_loaded(list: &[Candidate], cost: impl Fn(&Candidate) -> u32) -> Option<usize> {
    let mut best: Option<(usize, &Candidate)> = None;
    for (index, candidate) in list.iter().enumerate().filter(|(_, candidate)| candidate.usable()) {
        let better = best.is_none_or(|(_, best)| {
            u64::from(cost(best)) * u64::from(candidate.weight) > u64::from(cost(candidate)) * u64::from(best.weight)
        });
        if better {
            best = Some((index, candidate));
        }
    }
    best.map(|(index, _)| index)
}

/// Greatest common divisor; 0 with 0 is 0.
pub fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
pub(crate) mod testing {
    //! What the schedulers' tests share.
    use super::*;

    /// Servers added in the order of these weights, as a list: the last one first. Numbers count from 0 in order of addition.
    pub fn servers(weights: &[u32]) -> Vec<Candidate> {
        let mut list: Vec<Candidate> = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| Candidate {
                number: index as u32,
                address: IpAddr::from([10, 0, 0, 1 + index as u8]),
                port: 80,
                weight: *weight,
                last_weight: *weight,
                active: 0,
                inactive: 0,
                overloaded: false,
                available: true,
            })
            .collect();
        list.reverse();
        list
    }

    /// Adds the servers one by one, as an operator does.
    pub fn set_up(scheduler: &mut dyn Scheduler, weights: &[u32]) -> Vec<Candidate> {
        scheduler.init(&[]);
        let list = servers(weights);
        for count in 1..=list.len() {
            scheduler.added(&list[list.len() - count..]);
        }
        list
    }

    /// A client at that address and port.
    pub fn client(address: [u8; 4], port: u16, draws: &Draws) -> Wanted<'_> {
        Wanted {
            client: IpAddr::from(address),
            client_port: port,
            destination: IpAddr::from([192, 0, 2, 1]),
            protocol: Protocol::TCP,
            now: Nanos(0),
            expiration: Nanos::from_secs(86_400),
            drawn: 0,
            draws,
        }
    }

    /// The next choices as letters: A was added first.
    pub fn choices(scheduler: &mut dyn Scheduler, list: &[Candidate], count: usize) -> String {
        let draws = Draws::default();
        (0..count)
            .map(|_| match scheduler.schedule(list, client([203, 0, 113, 5], 40000, &draws)) {
                Some(place) => char::from(b'A' + list[place].number as u8),
                None => '-',
            })
            .collect()
    }
}
