//! The parallel way of a run of packets, up to the choice of servers: every shard of the connection table follows its own
//! packets, then the schedulers are asked in the order of the packets.
//!
//! A run goes as far as every packet is plain. Which one is the first that is not (a SYN for a connection that exists, a
//! segment without connection, an entry that has expired) only shows on the way, so each shard keeps what it needs to go
//! back: the run then ends before that packet in all shards, which the serial director takes.

use super::lane::{Ends, Item, Lane, RST, SYN};
use super::way::Ways;
use crate::config::{Family, Protocol};
use crate::draws::Draws;
use crate::packet::FlowKey;
use crate::schedule::Candidate;
use crate::time::Nanos;
use crate::track::{ClientKey, Connection, ConnectionId, Direction, Ipvs, Shard, StateRules, TransportEvent};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// What became of a packet of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The real server's number.
    pub server: u32,
    /// It opened its connection.
    pub opens: bool,
    /// It came from the server.
    pub answer: bool,
}

/// The packet opened its connection.
const OPENS: u32 = 1 << 31;
/// The server is not known yet: the lower bits name the connection among those that the run opened.
const OPENED: u32 = 1 << 30;
/// The packet is an answer of the server.
const ANSWER: u32 = 1 << 29;
/// Bits of a connection's place in its shard's list.
const PLACE_BITS: u32 = 20;
/// The longest run: no shard can open more connections than have a place.
pub(super) const LONGEST_RUN: usize = 1 << PLACE_BITS;

/// Packets that are looked up together, so that memory answers several questions at once.
const GROUP: usize = 16;

/// What a shard of the table did in a run.
#[derive(Clone, Debug, Default)]
pub(super) struct ShardRun {
    /// Connections that were opened: by which packet (its number in the run), in which slot, when.
    opened: Vec<Opened>,
    /// Changes of active connections, in order.
    active: Vec<(u32, Change)>,
    /// Timers to set: by which packet, when to look, at what.
    timers: Vec<(u32, Nanos, ConnectionId)>,
    /// What it takes to go back.
    journal: Vec<Before>,
}

#[derive(Clone, Copy, Debug)]
struct Opened {
    number: u32,
    slot: u32,
    end: u16,
    time: Nanos,
    server: u32,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Of(u32, i32),
    OfOpened(u32, i32),
}

/// A connection as it was before a packet.
#[derive(Clone, Copy, Debug)]
struct Before {
    number: u32,
    slot: u32,
    in_packets: u32,
    state: u8,
    inactive: bool,
    no_output: bool,
    timeout: Nanos,
    expires: Nanos,
}

/// Where a run stands.
pub(super) struct Stretch<'a> {
    /// The parts' packets.
    pub lanes: &'a [Lane],
    /// The number of each part's first frame in the window.
    pub starts: &'a [usize],
    /// The frames of the run, by their number in the window.
    pub range: Range<usize>,
}

impl Stretch<'_> {
    /// The items of one shard within the run, with their number in the run.
    fn items(&self, shard: usize) -> impl Iterator<Item = (&Lane, &[Item], i64)> {
        self.lanes.iter().zip(self.starts).filter_map(move |(lane, start)| {
            let items = lane.shard(shard);
            let place = |number: usize| items.partition_point(|item| start + (item.number as usize) < number);
            let last = items.last()?;
            let from = if *start >= self.range.start { 0 } else { place(self.range.start) };
            let to = if start + (last.number as usize) < self.range.end { items.len() } else { place(self.range.end) };
            let items = items.get(from..to).filter(|items| !items.is_empty())?;
            Some((lane, items, *start as i64 - self.range.start as i64))
        })
    }
}

/// What shards need to know, the same for all of them.
pub(super) struct Context<'a> {
    /// Services and servers in lane.
    pub ends: &'a Ends,
    /// Where packets go.
    pub ways: &'a Ways,
    /// How states move on.
    pub rules: StateRules,
    /// TCP connections open without SYN.
    pub sloppy: bool,
    /// The place of each packet's outcome.
    pub outcomes: &'a [AtomicU32],
}

/// Follows the packets of a stretch; returns how many frames of it were done.
pub(super) fn track(ipvs: &mut Ipvs, stretch: &Stretch<'_>, context: &Context<'_>, runs: &mut [ShardRun]) -> usize {
    let first_odd = AtomicU32::new(stretch.range.len() as u32);
    let (shards, _) = ipvs.shards_mut();
    shards.par_iter_mut().zip(runs.par_iter_mut()).enumerate().for_each(|(number, (shard, run))| {
        run.clear();
        run.follow(number, shard, stretch, context, &first_odd);
    });
    let done = first_odd.into_inner();
    if (done as usize) < stretch.range.len() {
        shards.par_iter_mut().zip(runs.par_iter_mut()).for_each(|(shard, run)| run.go_back(shard, done));
    }
    done as usize
}

impl ShardRun {
    fn clear(&mut self) {
        self.opened.clear();
        self.active.clear();
        self.timers.clear();
        self.journal.clear();
    }

    fn follow(&mut self, number: usize, shard: &mut Shard, stretch: &Stretch<'_>, context: &Context<'_>, first_odd: &AtomicU32) {
        for (lane, items, offset) in stretch.items(number) {
            for group in items.chunks(GROUP) {
                let mut keys = [None; GROUP];
                for (key, item) in keys.iter_mut().zip(group) {
                    // What is found now stays where it is: a run only adds entries. What is not found is looked for again, for
                    // a packet of the same group may add it.
                    *key = key_of(lane, item, context.ends).map(|key| {
                        let hash = key.hash();
                        let answer = usize::from(item.end) >= context.ends.services;
                        let slot = if answer { shard.find_server(&key, hash) } else { shard.find_client(&key, hash) };
                        (key, hash, slot)
                    });
                }
                for (key, item) in keys.iter().zip(group) {
                    let at = (offset + i64::from(item.number)) as u32;
                    // Another shard may have found an odd packet before this one: what follows is done again anyway.
                    if at >= first_odd.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = key.and_then(|(key, hash, slot)| self.step(shard, (&key, hash, slot), item, at, context));
                    let Some(outcome) = outcome else {
                        first_odd.fetch_min(at, Ordering::Relaxed);
                        return;
                    };
                    if let Some(place) = context.outcomes.get(at as usize) {
                        let shard = if outcome & OPENED != 0 { (number as u32) << PLACE_BITS } else { 0 };
                        place.store(outcome | shard, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Takes one packet; none if it is not plain.
    #[inline]
    fn step(
        &mut self,
        shard: &mut Shard,
        (key, hash, known): (&ClientKey, u64, Option<u32>),
        item: &Item,
        at: u32,
        context: &Context<'_>,
    ) -> Option<u32> {
        let answer = usize::from(item.end) >= context.ends.services;
        let event = if key.protocol == Protocol::TCP.0 { TransportEvent::Tcp(item.flags) } else { TransportEvent::Udp };
        if !answer {
            return self.request(shard, (key, hash, known), item, event, at, context);
        }
        let slot = known?;
        let id = shard.id(slot);
        let connection = shard.at(slot)?;
        let server = connection.server.filter(|server| context.ways.leads_back(*server, connection.service))?;
        if connection.expires <= item.time {
            return None;
        }
        self.remember(connection, slot, at);
        let advance = connection.advance(Direction::Output, event, &context.rules);
        if advance.active != 0 {
            self.active.push((at, Change::Of(server, advance.active)));
        }
        if let Some(look) = connection.restart(item.time) {
            self.timers.push((at, look, id));
        }
        Some(server | ANSWER)
    }

    #[inline]
    fn request(
        &mut self,
        shard: &mut Shard,
        (key, hash, known): (&ClientKey, u64, Option<u32>),
        item: &Item,
        event: TransportEvent,
        at: u32,
        context: &Context<'_>,
    ) -> Option<u32> {
        let end = context.ways.service(item.end)?;
        let (slot, opens) = match known.or_else(|| shard.find_client(key, hash)) {
            Some(slot) => (slot, false),
            None => {
                let may_open = match event {
                    TransportEvent::Tcp(flags) => flags & RST == 0 && (flags & SYN != 0 || context.sloppy),
                    _ => true,
                };
                if !may_open || u32::from(item.len) > end.shortest_mtu || self.opened.len() >= LONGEST_RUN {
                    return None;
                }
                let mut connection = Connection::unbound(key, end.number);
                connection.flags.no_output = !end.nat;
                // Not a server's number yet, but one it has: what states count depends on that.
                connection.server = Some(OPENED | self.opened.len() as u32);
                let slot = shard.add(connection);
                self.opened.push(Opened { number: at, slot, end: item.end, time: item.time, server: 0 });
                (slot, true)
            }
        };
        let id = shard.id(slot);
        let connection = shard.at(slot)?;
        let server = connection.server?;
        let fresh = server & OPENED != 0;
        if !opens {
            let fits = if fresh { u32::from(item.len) <= end.shortest_mtu } else { context.ways.leads(server, item.len) };
            if !fits || event.opens() || connection.expires <= item.time || connection.service != end.number {
                return None;
            }
        }
        self.remember(connection, slot, at);
        let advance = connection.advance(Direction::Input, event, &context.rules);
        connection.in_packets = connection.in_packets.saturating_add(1);
        if advance.active != 0 {
            let change =
                if fresh { Change::OfOpened(server & !OPENED, advance.active) } else { Change::Of(server, advance.active) };
            self.active.push((at, change));
        }
        if let Some(look) = connection.restart(item.time) {
            self.timers.push((at, look, id));
        }
        Some(if opens { OPENS | server } else { server })
    }

    #[inline]
    fn remember(&mut self, connection: &Connection, slot: u32, number: u32) {
        self.journal.push(Before {
            number,
            slot,
            in_packets: connection.in_packets,
            state: connection.state,
            inactive: connection.flags.inactive,
            no_output: connection.flags.no_output,
            timeout: connection.timeout,
            expires: connection.expires,
        });
    }

    /// Takes back what packets from number `done` on did.
    fn go_back(&mut self, shard: &mut Shard, done: u32) {
        while let Some(before) = self.journal.pop_if(|before| before.number >= done) {
            if let Some(connection) = shard.at(before.slot) {
                connection.in_packets = before.in_packets;
                connection.state = before.state;
                connection.flags.inactive = before.inactive;
                connection.flags.no_output = before.no_output;
                connection.timeout = before.timeout;
                connection.expires = before.expires;
            }
        }
        while let Some(opened) = self.opened.pop_if(|opened| opened.number >= done) {
            shard.take_back(opened.slot);
        }
        self.active.truncate(self.active.partition_point(|(number, _)| *number < done));
        self.timers.truncate(self.timers.partition_point(|(number, ..)| *number < done));
    }
}

fn key_of(lane: &Lane, item: &Item, ends: &Ends) -> Option<ClientKey> {
    let (other, other_port, protocol) = *ends.list.get(usize::from(item.end))?;
    let client = lane.client(item, Family::from(other));
    Some(ClientKey { protocol, client, client_port: item.port, other, other_port })
}

/// Something that schedulers see, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    number: u32,
    /// Openings before changes: a packet opens its connection before it changes its state.
    change: bool,
    shard: u8,
    place: u32,
}

/// Gives each connection that the run opened its server, in order, and brings the servers' counts up to the run's last packet,
/// whose time is `until`.
pub(super) fn schedule(ipvs: &mut Ipvs, context: &Context<'_>, draws: &Draws, runs: &mut [ShardRun], until: Nanos) {
    ipvs.set_timers(runs.iter().flat_map(|run| run.timers.iter().map(|(_, look, id)| (*look, *id))));
    let mut events: Vec<Event> = Vec::with_capacity(runs.iter().map(|run| run.opened.len() + run.active.len()).sum());
    for (shard, run) in runs.iter().enumerate() {
        let event = |number, change, place| Event { number, change, shard: shard as u8, place: place as u32 };
        events.extend(run.opened.iter().enumerate().map(|(place, opened)| event(opened.number, false, place)));
        events.extend(run.active.iter().enumerate().map(|(place, (number, _))| event(*number, true, place)));
    }
    events.par_sort_unstable();
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
    let mut counts = Counts { ways: context.ways, candidates };
    for event in events {
        let run = &mut runs[usize::from(event.shard)];
        if event.change {
            let (server, change) = match run.active[event.place as usize].1 {
                Change::Of(server, change) => (server, change),
                Change::OfOpened(place, change) => (run.opened[place as usize].server, change),
            };
            if let Some(entry) = ipvs.services.servers.get_mut(server as usize) {
                entry.active = entry.active.saturating_add_signed(change);
            }
            counts.refresh(ipvs, server);
            continue;
        }
        let opened = run.opened[event.place as usize];
        // What expired before this packet no longer counts.
        while let Some((_, connection)) = expired.next_if(|(at, _)| *at <= opened.time) {
            ipvs.release(&connection);
            counts.refresh(ipvs, connection.server.unwrap_or(u32::MAX));
        }
        if let Some(server) = choose(ipvs, context, draws, &counts, event.shard, opened) {
            run.opened[event.place as usize].server = server;
            let entry = &mut ipvs.services.servers[server as usize];
            entry.total += 1;
            entry.counters.connections += 1;
            let service = entry.service;
            ipvs.services.all[service as usize].counters.connections += 1;
            counts.refresh(ipvs, server);
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
}

impl Counts<'_> {
    fn refresh(&mut self, ipvs: &Ipvs, server: u32) {
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

fn choose(ipvs: &mut Ipvs, context: &Context<'_>, draws: &Draws, counts: &Counts<'_>, shard: u8, opened: Opened) -> Option<u32> {
    let end = context.ways.service(opened.end)?;
    let (shards, _) = ipvs.shards_mut();
    let connection = shards.get_mut(usize::from(shard))?.at(opened.slot)?;
    let flow = FlowKey {
        protocol: connection.protocol.0,
        source: connection.client,
        destination: connection.virtual_address,
        source_port: connection.client_port,
        destination_port: connection.virtual_port,
    };
    ipvs.choose_among(counts.candidates.get(usize::from(opened.end))?, end.number, &flow, opened.time, draws)
}

/// Writes the chosen servers into the connections.
fn bind(ipvs: &mut Ipvs, context: &Context<'_>, runs: &mut [ShardRun]) {
    let (shards, services) = ipvs.shards_mut();
    shards.par_iter_mut().zip(runs.par_iter()).for_each(|(shard, run)| {
        for opened in &run.opened {
            let Some(server) = services.servers.get(opened.server as usize) else { continue };
            let nat = context.ways.service(opened.end).is_some_and(|end| end.nat);
            if let Some(connection) = shard.at(opened.slot) {
                let port = if server.key.port != 0 { server.key.port } else { connection.virtual_port };
                connection.bind(opened.server, server, port);
            }
            if nat {
                shard.index_server(opened.slot);
            }
        }
    });
}

impl Outcome {
    /// From what tracking stored, once servers are chosen.
    #[inline]
    pub fn read(stored: u32, runs: &[ShardRun]) -> Outcome {
        let (opens, answer) = (stored & OPENS != 0, stored & ANSWER != 0);
        if stored & OPENED == 0 {
            return Outcome { server: stored & !(OPENS | ANSWER), opens, answer };
        }
        let shard = (stored >> PLACE_BITS) & 0xff;
        let place = stored & ((1 << PLACE_BITS) - 1);
        let opened = runs.get(shard as usize).and_then(|run| run.opened.get(place as usize));
        Outcome { server: opened.map_or(u32::MAX, |opened| opened.server), opens, answer }
    }
}
