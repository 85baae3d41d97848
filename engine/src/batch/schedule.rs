//! The serial stage of a run: new connections get their servers in the order of their packets, and what expired meanwhile ends
//! in its place between them.

use super::run::{Context, ShardRun, TOGETHER};
use super::way::Ways;
use super::word::Word;
use crate::draws::Draws;
use crate::packet::FlowKey;
use crate::schedule::Candidate;
use crate::time::Nanos;
use crate::track::{Connection, Ipvs};
use std::iter::Peekable;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::IntoIter;

/// The stage, while it goes on: in the order of the packets, part by part.
pub(super) struct Scheduling<'a> {
    ipvs: &'a mut Ipvs,
    context: &'a Context<'a>,
    draws: &'a Draws,
    runs: &'a mut [ShardRun],
    /// What is known of services in lane, by their place.
    services: Vec<Service>,
    counts: Counts<'a>,
    /// Entries that expire during the run, each with when.
    expired: Peekable<IntoIter<(Nanos, Connection)>>,
}

/// What the stage knows of a service.
struct Service {
    number: u32,
    /// Its scheduler looks at more of a packet than that it opens a connection.
    looks_at_packets: bool,
    /// A packet to it from nobody.
    flow: FlowKey,
}

impl Service {
    fn of(ipvs: &Ipvs, context: &Context<'_>, place: usize) -> Option<Service> {
        let number = context.ways.service(u16::try_from(place).ok()?)?.number;
        let (destination, destination_port, protocol) = *context.ends.list.get(place)?;
        let flow = FlowKey { protocol, source: Ipv4Addr::UNSPECIFIED.into(), destination, source_port: 0, destination_port };
        Some(Service { number, looks_at_packets: ipvs.scheduler_looks_at_packets(number), flow })
    }
}

impl<'a> Scheduling<'a> {
    /// Begins with a run whose last packet has that time. What its packets set timers to comes later.
    pub fn new(
        ipvs: &'a mut Ipvs,
        context: &'a Context<'a>,
        draws: &'a Draws,
        runs: &'a mut [ShardRun],
        until: Nanos,
    ) -> Scheduling<'a> {
        let mut expired = Vec::new();
        while let Some(entry) = ipvs.expire_next(until) {
            expired.push(entry);
        }
        let services: Vec<Service> = (0..context.ends.services).map_while(|place| Service::of(ipvs, context, place)).collect();
        let mut candidates: Vec<Vec<Candidate>> = vec![Vec::new(); services.len()];
        for (service, list) in services.iter().zip(&mut candidates) {
            ipvs.services.candidates(service.number, list);
        }
        let counts = Counts { ways: context.ways, candidates, are_needed: context.counts };
        Scheduling { ipvs, context, draws, runs, services, counts, expired: expired.into_iter().peekable() }
    }

    /// Goes on with the packets that have those places: each that opened a connection gets its server, and the servers' counts
    /// are brought up to them, as far as schedulers look at them.
    pub fn go_on(&mut self, events: &[u32]) {
        for place in events {
            if let Some(outcome) = self.context.found.get(*place as usize) {
                self.take(outcome);
            }
        }
    }

    #[inline]
    fn take(&mut self, outcome: &AtomicU64) {
        let mut word = Word(outcome.load(Ordering::Relaxed));
        let change = word.change();
        if word.kind() == Word::OPENS {
            let Some(server) = self.choose(word) else { return };
            word = Word(Word::OPENS | u64::from(self.context.ways.binding_of(server)));
            outcome.store(word.0, Ordering::Relaxed);
            let entry = &mut self.ipvs.services.servers[server as usize];
            entry.total += 1;
            entry.counters.connections += 1;
            let service = entry.service;
            self.ipvs.services.all[service as usize].counters.connections += 1;
            self.counts.refresh(self.ipvs, server);
        } else {
            outcome.store(word.counted().0, Ordering::Relaxed);
            word = word.bound(self.context.found);
        }
        if change != 0
            && let Some(way) = self.context.ways.binding(word.binding())
            && let Some(entry) = self.ipvs.services.servers.get_mut(way.server as usize)
        {
            entry.active = entry.active.saturating_add_signed(change);
            self.counts.refresh(self.ipvs, way.server);
        }
    }

    /// The server of a connection that a packet opened.
    #[inline]
    fn choose(&mut self, opening: Word) -> Option<u32> {
        let (end, (shard, place)) = (usize::from(opening.end()), opening.place());
        let service = self.services.get(end)?;
        // Memory is slow to bring these, one by one as they are needed here: most schedulers need nothing of them.
        let opened = || self.runs.get(shard).and_then(|run| run.opened.get(place));
        if self.expired.peek().is_some()
            && let Some(opened) = opened()
        {
            // What expired before this packet no longer counts.
            while let Some((_, connection)) = self.expired.next_if(|(at, _)| *at <= opened.time) {
                self.ipvs.release(&connection);
                self.counts.refresh(self.ipvs, connection.server.unwrap_or(u32::MAX));
            }
        }
        let candidates = self.counts.candidates.get(end)?;
        if service.looks_at_packets
            && let Some(opened) = opened()
            && let Some(shard) = self.ipvs.shards_mut().0.get(shard)
            && let Some(entry) = shard.entry(opened.slot)
        {
            let (source, source_port) = (shard.client(opened.slot, entry), entry.client_port);
            let flow = FlowKey { source, source_port, ..service.flow };
            return self.ipvs.choose_among(candidates, service.number, &flow, opened.time, self.draws);
        }
        self.ipvs.choose_among(candidates, service.number, &service.flow, Nanos(0), self.draws)
    }

    /// Lets all that expired end, writes what was chosen into the connections, and sets their timers. None of those is due before
    /// the run's end.
    pub fn finish(self) {
        let Scheduling { ipvs, context, runs, expired, .. } = self;
        for (_, connection) in expired {
            ipvs.release(&connection);
        }
        bind(ipvs, context, runs);
        ipvs.set_timers(runs.iter().flat_map(|run| run.timers.iter().map(|(_, look, id)| (*look, *id))));
    }
}

/// The schedulers' view of each service in lane, kept up to date instead of made anew for each connection.
struct Counts<'a> {
    ways: &'a Ways,
    candidates: Vec<Vec<Candidate>>,
    /// Some scheduler looks at them.
    are_needed: bool,
}

impl Counts<'_> {
    #[inline]
    fn refresh(&mut self, ipvs: &Ipvs, server: u32) {
        if !self.are_needed {
            return;
        }
        let Some((end, place)) = self.ways.place_of(server) else { return };
        let (Some(candidate), Some(server)) = (
            self.candidates.get_mut(usize::from(end)).and_then(|list| list.get_mut(usize::from(place))),
            ipvs.services.servers.get(server as usize),
        ) else {
            return;
        };
        candidate.active = server.active;
        candidate.inactive = server.inactive();
    }
}

/// Writes what was chosen into the connections.
fn bind(ipvs: &mut Ipvs, context: &Context<'_>, runs: &mut [ShardRun]) {
    let (shards, bindings) = ipvs.shards_mut();
    context.hands.pairs(shards, runs, |_, shard, run| {
        for opened in run.opened.chunks(TOGETHER) {
            let mut fingerprints = [None; TOGETHER];
            for (opened, fingerprint) in opened.iter().zip(&mut fingerprints) {
                let outcome = context.found.get(opened.place as usize);
                if let (Some(entry), Some(outcome)) = (shard.at(opened.slot), outcome) {
                    entry.binding = Word(outcome.load(Ordering::Relaxed)).binding();
                }
                if context.ways.service(opened.end).is_some_and(|service| service.nat) {
                    *fingerprint = shard.seek_server(opened.slot, bindings);
                }
            }
            for (opened, fingerprint) in opened.iter().zip(fingerprints) {
                if let Some(fingerprint) = fingerprint {
                    shard.index_server(opened.slot, fingerprint, bindings);
                }
            }
        }
    });
}
