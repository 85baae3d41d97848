//! The parallel way of a run of packets, up to the choice of servers: every shard of the connection table follows its own
//! packets. Then schedule.rs asks the schedulers, in the order of the packets.
//!
//! A run goes as far as every packet is plain. Which one is the first that is not (a SYN for a connection that exists, a
//! segment without connection, an entry that has expired) only shows on the way, so each shard keeps what it needs to go
//! back: the run then ends before that packet in all shards, which the serial director takes.

use super::hands::Hands;
use super::lane::{Ends, Facts, Item, Lane, RST, SYN};
use super::way::Ways;
use super::word::{LONGEST_RUN, UNBOUND, Word};
use crate::config::Family;
use crate::time::Nanos;
use crate::track::{
    ClientHash, ConnectionId, Direction, Entry, EntryFlags, Fingerprint, Ipvs, SHARDS, Shard, StateRules, TransportEvent,
};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Segments whose packets are looked up together, so that memory answers many questions at once.
const SEGMENTS: usize = 32;

/// What a shard of the table did in a run.
#[derive(Clone, Debug, Default)]
pub(super) struct ShardRun {
    /// Connections that were opened, in order.
    pub opened: Vec<Opened>,
    /// Timers to set: by which packet, when to look, at what.
    pub timers: Vec<(u32, Nanos, ConnectionId)>,
    /// What it takes to go back.
    journal: Vec<Before>,
    /// Room for what packets look for.
    wanted: Vec<Wanted>,
}

/// A connection that a run opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub time: Nanos,
    /// The number of the packet in the run.
    pub number: u32,
    pub slot: u32,
    fingerprint: Fingerprint,
    /// The place of its service in [`Ends`].
    pub end: u16,
}

/// A connection as it was before a packet.
#[derive(Clone, Copy, Debug)]
struct Before {
    expires: Nanos,
    number: u32,
    slot: u32,
    timeout: u32,
    state: u8,
    flags: EntryFlags,
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

/// What a shard gets of a part.
struct Segment<'a> {
    lane: &'a Lane,
    items: &'a [Item],
    /// The place of the first item among all of the window.
    place: usize,
    /// What makes an item's number in its part its number in the run.
    offset: i64,
}

impl Stretch<'_> {
    /// The parts that the run has frames of.
    fn parts(&self) -> Range<usize> {
        if self.range.is_empty() {
            return 0..0;
        }
        let part_of = |number: usize| self.starts.partition_point(|start| *start <= number).saturating_sub(1);
        part_of(self.range.start)..part_of(self.range.end - 1) + 1
    }

    /// The packets of one shard within the run.
    fn segments(&self, shard: usize) -> impl Iterator<Item = Segment<'_>> {
        self.parts().filter_map(move |part| self.segment(shard, part))
    }

    /// Those that are in one part.
    fn segment(&self, shard: usize, part: usize) -> Option<Segment<'_>> {
        let (lane, start) = (self.lanes.get(part)?, self.starts.get(part)?);
        let own = lane.shard(shard);
        let (from, to) = if *start >= self.range.start && start + lane.frames() <= self.range.end {
            (0, own.len())
        } else {
            let items = lane.items.get(own.clone())?;
            let place = |number: usize| items.partition_point(|item| start + (item.number as usize) < number);
            (place(self.range.start), place(self.range.end))
        };
        let within = own.start + from..own.start + to;
        let place = lane.base + within.start;
        let items = lane.items.get(within).filter(|items| !items.is_empty())?;
        Some(Segment { lane, items, place, offset: *start as i64 - self.range.start as i64 })
    }
}

impl Segment<'_> {
    /// What the connection of an item is found by.
    #[inline]
    fn fingerprint(&self, item: &Item, ends: &Ends) -> Fingerprint {
        let Some(end) = ends.facts(item.end) else { return Fingerprint::default() };
        let client = match end.family {
            Family::Ipv4 => ClientHash::of_v4(item.client, item.port),
            Family::Ipv6 => ClientHash::of(self.lane.client(item, Family::Ipv6), item.port),
        };
        client.with(end.hash)
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
    /// What became of each packet, in the order of the items of all lanes: so a shard writes what lies together.
    pub found: &'a [AtomicU64],
    /// The same in the order of the packets of the run, once it is put so.
    pub outcomes: &'a [AtomicU64],
    /// Who works.
    pub hands: Hands,
}

/// Follows the packets of a stretch; returns how many frames of it were done.
pub(super) fn track(ipvs: &mut Ipvs, stretch: &Stretch<'_>, context: &Context<'_>, runs: &mut [ShardRun]) -> usize {
    let first_odd = AtomicU32::new(stretch.range.len() as u32);
    let (shards, _) = ipvs.shards_mut();
    context.hands.pairs(shards, runs, |number, shard, run| {
        run.clear();
        run.follow(number, shard, stretch, context, &first_odd);
    });
    let done = first_odd.into_inner();
    if (done as usize) < stretch.range.len() {
        context.hands.pairs(shards, runs, |_, shard, run| run.go_back(shard, done));
    }
    done as usize
}

/// Puts what was found into the order of the packets; the first `done` of them count.
pub(super) fn put_in_order(stretch: &Stretch<'_>, context: &Context<'_>, done: usize) {
    let range = stretch.range.start..stretch.range.start + done;
    context.hands.map(stretch.parts(), |part| {
        let (Some(lane), Some(start)) = (stretch.lanes.get(part), stretch.starts.get(part)) else { return };
        let put = |items: &[Item], place: usize| {
            for (item, found) in items.iter().zip(context.found.get(place..).unwrap_or_default()) {
                let number = start + item.number as usize;
                if range.contains(&number)
                    && let Some(outcome) = context.outcomes.get(number - range.start)
                {
                    outcome.store(found.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
        };
        if range.len() >= lane.frames() {
            put(&lane.items, lane.base);
        } else {
            // Of a short run: only its own.
            for segment in (0..SHARDS).filter_map(|shard| stretch.segment(shard, part)) {
                put(segment.items, segment.place);
            }
        }
    });
}

/// What a packet looks for.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    fingerprint: Fingerprint,
    /// The slot of the first entry with that fingerprint: nearly always the right one, if there is one at all.
    candidate: u32,
}

/// A packet of a shard.
#[derive(Clone, Copy)]
struct Packet<'a> {
    item: &'a Item,
    lane: &'a Lane,
    /// In the run.
    number: u32,
}

impl Packet<'_> {
    #[inline]
    fn event(self, end: &Facts) -> TransportEvent {
        if end.tcp { TransportEvent::Tcp(self.item.flags) } else { TransportEvent::Udp }
    }
}

impl ShardRun {
    fn clear(&mut self) {
        self.opened.clear();
        self.timers.clear();
        self.journal.clear();
    }

    #[inline(never)]
    fn follow(&mut self, number: usize, shard: &mut Shard, stretch: &Stretch<'_>, context: &Context<'_>, first_odd: &AtomicU32) {
        let segments: Vec<Segment<'_>> = stretch.segments(number).collect();
        let packets = segments.iter().map(|segment| segment.items.len()).sum();
        self.journal.reserve(packets);
        // Memory is asked first for what is needed of the index, then of the entries, of many packets at a time.
        let mut wanted = std::mem::take(&mut self.wanted);
        for segments in segments.chunks(SEGMENTS) {
            wanted.clear();
            for segment in segments {
                for item in segment.items {
                    let fingerprint = segment.fingerprint(item, context.ends);
                    let answers = context.ends.facts(item.end).is_some_and(|end| end.answers);
                    shard.prefetch_index(fingerprint, answers);
                    wanted.push(Wanted { fingerprint, candidate: u32::from(answers) });
                }
            }
            for wanted in &mut wanted {
                wanted.candidate = shard.candidate(wanted.fingerprint, wanted.candidate != 0);
                shard.prefetch(wanted.candidate);
            }
            let mut rest = &wanted[..];
            for segment in segments {
                let (wanted, others) = rest.split_at(segment.items.len());
                rest = others;
                let found = context.found.get(segment.place..segment.place + segment.items.len()).unwrap_or_default();
                for ((wanted, item), found) in wanted.iter().zip(segment.items).zip(found) {
                    let at = (segment.offset + i64::from(item.number)) as u32;
                    // Another shard may have found an odd packet before this one: what follows is done again anyway.
                    if at >= first_odd.load(Ordering::Relaxed) {
                        self.wanted = Vec::new();
                        return;
                    }
                    let packet = Packet { item, lane: segment.lane, number: at };
                    let Some(word) = self.step(number, shard, wanted, packet, context) else {
                        first_odd.fetch_min(at, Ordering::Relaxed);
                        return;
                    };
                    found.store(word.0, Ordering::Relaxed);
                }
            }
        }
        self.wanted = wanted;
    }

    /// Takes one packet; none if it is not plain.
    #[inline(always)]
    fn step(
        &mut self,
        number: usize,
        shard: &mut Shard,
        wanted: &Wanted,
        packet: Packet<'_>,
        context: &Context<'_>,
    ) -> Option<Word> {
        let item = packet.item;
        let end = context.ends.facts(item.end)?;
        if end.answers {
            return self.answer(shard, wanted.fingerprint, packet, end, context);
        }
        let event = packet.event(end);
        let client = packet.lane.client(item, end.family);
        let fits = |opened: &[Opened], shard: &Shard, slot: u32, entry: &Entry| {
            let place = match entry.binding & UNBOUND {
                0 => context.ways.binding(entry.binding).map(|way| way.end),
                _ => opened.get((entry.binding & !UNBOUND) as usize).map(|opened| opened.end),
            };
            place == Some(item.end) && entry.is_found() && shard.has_client(slot, entry, client, item.port)
        };
        let mut slot = wanted.candidate;
        if !shard.entry(slot).is_some_and(|entry| fits(&self.opened, shard, slot, entry)) {
            // Another one with its fingerprint, or one that a packet of its group added.
            match shard.find_client(wanted.fingerprint, |slot, entry| fits(&self.opened, shard, slot, entry)) {
                Some(found) => slot = found,
                None => return self.open(number, shard, wanted.fingerprint, packet, event, context),
            }
        }
        let entry = shard.entry(slot)?;
        let binding = entry.binding;
        let (longest, word) = if binding & UNBOUND == 0 {
            (context.ways.binding(binding)?.longest, Word(Word::REQUEST | u64::from(binding)))
        } else {
            let word = Word::fresh(self.opened.get((binding & !UNBOUND) as usize)?.number);
            (context.ways.service(item.end)?.longest, word)
        };
        if event.opens() || entry.expires <= item.time || u32::from(item.len) > longest {
            return None;
        }
        Some(word.changing(self.advance(shard, slot, Direction::Input, event, packet, &context.rules)))
    }

    /// Opens a connection; none if the packet does not, or not here.
    #[inline(never)]
    fn open(
        &mut self,
        number: usize,
        shard: &mut Shard,
        fingerprint: Fingerprint,
        Packet { item, lane, number: at }: Packet<'_>,
        event: TransportEvent,
        context: &Context<'_>,
    ) -> Option<Word> {
        let service = context.ways.service(item.end)?;
        let may_open = match event {
            TransportEvent::Tcp(flags) => flags & RST == 0 && (flags & SYN != 0 || context.sloppy),
            _ => true,
        };
        let place = self.opened.len();
        if !may_open || u32::from(item.len) > service.longest || place >= LONGEST_RUN {
            return None;
        }
        let client = lane.client(item, context.ends.facts(item.end)?.family);
        let mut entry = Entry::opening(item.port, UNBOUND | place as u32, service.nat);
        let advance = entry.advance(Direction::Input, event, &context.rules);
        let look = entry.restart(item.time);
        let slot = shard.add(fingerprint, client, entry);
        let (end, time) = (item.end, item.time);
        self.opened.push(Opened { time, number: at, slot, fingerprint, end });
        if let Some(look) = look {
            self.timers.push((at, look, shard.id(slot)));
        }
        Some(Word::opening(number, place, item.end).changing(advance.active))
    }

    #[inline]
    fn answer(
        &mut self,
        shard: &mut Shard,
        fingerprint: Fingerprint,
        packet: Packet<'_>,
        end: &Facts,
        context: &Context<'_>,
    ) -> Option<Word> {
        let client = packet.lane.client(packet.item, end.family);
        let fits = |slot, entry: &Entry| {
            let way = context.ways.binding(entry.binding);
            way.is_some_and(|way| way.answers == packet.item.end) && shard.has_client(slot, entry, client, packet.item.port)
        };
        let slot = shard.find_server(fingerprint, fits)?;
        let entry = shard.entry(slot)?;
        let binding = entry.binding;
        if entry.expires <= packet.item.time || !context.ways.binding(binding)?.returns {
            return None;
        }
        let active = self.advance(shard, slot, Direction::Output, packet.event(end), packet, &context.rules);
        Some(Word(Word::ANSWER | u64::from(binding)).changing(active))
    }

    /// A packet of an entry passes; returns by how much its server's active connections change.
    #[inline(always)]
    fn advance(
        &mut self,
        shard: &mut Shard,
        slot: u32,
        direction: Direction,
        event: TransportEvent,
        packet: Packet<'_>,
        rules: &StateRules,
    ) -> i32 {
        let Some(entry) = shard.at(slot) else { return 0 };
        self.journal.push(Before {
            expires: entry.expires,
            number: packet.number,
            slot,
            timeout: entry.timeout,
            state: entry.state,
            flags: entry.flags,
        });
        let advance = entry.advance(direction, event, rules);
        if let Some(look) = entry.restart(packet.item.time) {
            self.timers.push((packet.number, look, shard.id(slot)));
        }
        advance.active
    }

    /// Takes back what packets from number `done` on did.
    fn go_back(&mut self, shard: &mut Shard, done: u32) {
        while let Some(before) = self.journal.pop_if(|before| before.number >= done) {
            if let Some(entry) = shard.at(before.slot) {
                entry.state = before.state;
                entry.flags = before.flags;
                entry.timeout = before.timeout;
                entry.expires = before.expires;
            }
        }
        while let Some(opened) = self.opened.pop_if(|opened| opened.number >= done) {
            shard.take_back(opened.fingerprint, opened.slot);
        }
        self.timers.truncate(self.timers.partition_point(|(number, ..)| *number < done));
    }
}
