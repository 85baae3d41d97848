//! The serial stage of a run: new connections get their servers in the order of their packets, and what expired meanwhile ends
//! in its place between them.

use super::run::{Context, ShardRun};
use super::way::Ways;
use super::word::Word;
use crate::draws::Draws;
use crate::packet::FlowKey;
use crate::schedule::Candidate;
use crate::time::Nanos;
use crate::track::Ipvs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

/// Gives each connection that the run opened its server, in order, and brings the servers' counts up to the run's last packet,
/// whose time is `until`, as far as schedulers look at them. `events` are the numbers of the packets that concern them, by part.
pub(super) fn schedule(
    ipvs: &mut Ipvs,
    context: &Context<'_>,
    draws: &Draws,
    runs: &mut [ShardRun],
    events: &[Vec<u32>],
    until: Nanos,
) {
    ipvs.set_timers(runs.iter().flat_map(|run| run.timers.iter().map(|(_, look, id)| (*look, *id))));
    let mut expired = Vec::new();
    while let Some(entry) = ipvs.expire_next(until) {
        expired.push(entry);
    }
    let mut expired = expired.into_iter().peekable();
    let mut candidates: Vec<Vec<Candidate>> = vec![Vec::new(); context.ends.services];
    for (place, list) in candidates.iter_mut().enumerate() {
        if let Some(end) = context.ways.service(place as u16) {
            ipvs.services.candidates(end.number, list);
        }
    }
    let mut counts = Counts { ways: context.ways, candidates, are_needed: context.counts };
    for number in events.iter().flatten() {
        let Some(outcome) = context.outcomes.get(*number as usize) else { continue };
        let mut word = Word(outcome.load(Ordering::Relaxed));
        let change = word.change();
        if word.kind() == Word::OPENS {
            let Some(service) = context.ways.service(word.end()) else { continue };
            let (shard, place) = word.place();
            // Memory is slow to bring these, one by one as they are needed here: most schedulers need nothing of them.
            let opened = || runs.get(shard).and_then(|run| run.opened.get(place));
            if expired.peek().is_some()
                && let Some(opened) = opened()
            {
                // What expired before this packet no longer counts.
                while let Some((_, connection)) = expired.next_if(|(at, _)| *at <= opened.time) {
                    ipvs.release(&connection);
                    counts.refresh(ipvs, connection.server.unwrap_or(u32::MAX));
                }
            }
            let mut client = None;
            if ipvs.scheduler_looks_at_packets(service.number)
                && let Some(opened) = opened()
            {
                let shard = ipvs.shards_mut().0.get(shard);
                client = shard.and_then(|shard| {
                    let entry = shard.entry(opened.slot)?;
                    Some((shard.client(opened.slot, entry), entry.client_port, opened.time))
                });
            }
            let Some(server) = choose(ipvs, context, draws, &counts, word.end(), client) else { continue };
            word = Word(Word::OPENS | u64::from(context.ways.binding_of(server)));
            outcome.store(word.0, Ordering::Relaxed);
            let entry = &mut ipvs.services.servers[server as usize];
            entry.total += 1;
            entry.counters.connections += 1;
            let service = entry.service;
            ipvs.services.all[service as usize].counters.connections += 1;
            counts.refresh(ipvs, server);
        } else {
            outcome.store(word.counted().0, Ordering::Relaxed);
            word = word.bound(context.outcomes);
        }
        if change != 0
            && let Some(way) = context.ways.binding(word.binding())
            && let Some(entry) = ipvs.services.servers.get_mut(way.server as usize)
        {
            entry.active = entry.active.saturating_add_signed(change);
            counts.refresh(ipvs, way.server);
        }
    }
    for (_, connection) in expired {
        ipvs.release(&connection);
    }
    bind(ipvs, context, runs);
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

/// Asks the scheduler of a service; the client and the time are there if it looks at them.
fn choose(
    ipvs: &mut Ipvs,
    context: &Context<'_>,
    draws: &Draws,
    counts: &Counts<'_>,
    end: u16,
    client: Option<(IpAddr, u16, Nanos)>,
) -> Option<u32> {
    let service = context.ways.service(end)?;
    let (destination, destination_port, protocol) = *context.ends.list.get(usize::from(end))?;
    let nobody = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, Nanos(0));
    let (source, source_port, time) = client.unwrap_or(nobody);
    let flow = FlowKey { protocol, source, destination, source_port, destination_port };
    ipvs.choose_among(counts.candidates.get(usize::from(end))?, service.number, &flow, time, draws)
}

/// Writes what was chosen into the connections.
fn bind(ipvs: &mut Ipvs, context: &Context<'_>, runs: &mut [ShardRun]) {
    let (shards, bindings) = ipvs.shards_mut();
    context.hands.pairs(shards, runs, |_, shard, run| {
        for opened in &run.opened {
            let outcome = context.outcomes.get(opened.number as usize);
            if let (Some(entry), Some(outcome)) = (shard.at(opened.slot), outcome) {
                entry.binding = Word(outcome.load(Ordering::Relaxed)).binding();
            }
            if context.ways.service(opened.end).is_some_and(|service| service.nat) {
                shard.index_server(opened.slot, bindings);
            }
        }
    });
}
