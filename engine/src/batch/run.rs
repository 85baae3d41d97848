//! The parallel way of a run of packets, up to the choice of servers: every shard of the connection table follows its own
//! packets. Then schedule.rs asks the schedulers, in the order of the packets.
//!
//! A run goes as far as every packet is plain. Which one is the first that is not (a SYN for a connection that exists, a
//! segment without connection, an entry that has expired) only shows on the way, so each shard keeps what it needs to go
//! back: the run then ends before that packet in all shards, which the serial director takes.

use super::hands::Hands;
use super::lane::{Ends, Facts, Item, Lane};
use super::rules::{RST, SYN};
use super::way::Ways;
use super::word::{LONGEST_RUN, UNBOUND, Word};
use crate::config::Family;
use crate::time::Nanos;
use crate::track::{ConnectionId, Direction, Entry, EntryFlags, Fingerprint, Ipvs, Shard, StateRules, TransportEvent};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Memory is asked for what is needed of the index for so many packets at a time, then for their connections, and then they are
/// followed, while memory is asked for those behind them. A processor forgets questions if it is asked too many at once; one by one
/// each would wait until the page is found that it is about, of which a processor looks for several at a time.
pub(super) const TOGETHER: usize = 16;

/// What a shard of the table did in a run.
#[derive(Clone, Debug, Default)]
pub(super) struct ShardRun {
    /// Connections that were opened, in order.
    pub opened: Vec<Opened>,
    /// Other packets that changed how many active connections their server has, if schedulers look at that: their numbers in the
    /// run and their places in [`Context::found`].
    changed: Vec<(u32, u32)>,
    /// Timers to set: by which packet, when to look, at what.
    pub timers: Vec<(u32, Nanos, ConnectionId)>,
    /// What it takes to go back.
    journal: Vec<Before>,
}

/// A connection that a run opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub time: Nanos,
    /// The number of the packet in the run.
    number: u32,
    /// Its place in [`Context::found`].
    pub place: u32,
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
    pub fn parts(&self) -> Range<usize> {
        if self.range.is_empty() {
            return 0..0;
        }
        let part_of = |number: usize| self.starts.partition_point(|start| *start <= number).saturating_sub(1);
        part_of(self.range.start)..part_of(self.range.end - 1) + 1
    }

    /// Which of a part's frames are in the run.
    pub fn frames(&self, part: usize) -> Range<usize> {
        let start = self.starts.get(part).copied().unwrap_or(0);
        let len = self.lanes.get(part).map_or(0, Lane::frames);
        let in_part = |number: usize| number.saturating_sub(start).min(len);
        in_part(self.range.start)..in_part(self.range.end)
    }

    /// Which numbers in the run a part's packets have.
    fn numbers(&self, part: usize) -> Range<u32> {
        let (start, frames) = (self.starts.get(part).copied().unwrap_or(0), self.frames(part));
        let in_run = |number: usize| (start + number).saturating_sub(self.range.start) as u32;
        in_run(frames.start)..in_run(frames.end)
    }

    /// The packets of one shard within the run.
    fn segments(&self, shard: usize) -> impl Iterator<Item = Segment<'_>> {
        self.parts().filter_map(move |part| self.segment(shard, part))
    }

    /// Those that are in one part.
    fn segment(&self, shard: usize, part: usize) -> Option<Segment<'_>> {
        let (lane, start) = (self.lanes.get(part)?, self.starts.get(part)?);
        let (own, before) = lane.shard(shard);
        let (from, to) = if *start >= self.range.start && start + lane.frames() <= self.range.end {
            (0, own.len())
        } else {
            let place = |number: usize| own.partition_point(|item| start + (item.number as usize) < number);
            (place(self.range.start), place(self.range.end))
        };
        let place = lane.base + before + from;
        let items = own.get(from..to).filter(|items| !items.is_empty())?;
        Some(Segment { lane, items, place, offset: *start as i64 - self.range.start as i64 })
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
    /// Some scheduler looks at how many connections servers have.
    pub counts: bool,
    /// What became of each packet, in the order of the items of all lanes: so a shard writes what lies together.
    pub found: &'a [AtomicU64],
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

/// Which packets of each part of a stretch concern schedulers, once all of it was followed: their places in [`Context::found`], in
/// the order of the packets.
pub(super) fn events(stretch: &Stretch<'_>, context: &Context<'_>, runs: &[ShardRun]) -> Vec<Vec<u32>> {
    context.hands.map(stretch.parts(), |part| {
        let numbers = stretch.numbers(part);
        // Each in the place of its number; then what is between them goes.
        let mut events = vec![u32::MAX; numbers.len()];
        for (number, place) in runs.iter().flat_map(|run| run.events(&numbers)) {
            if let Some(event) = events.get_mut((number - numbers.start) as usize) {
                *event = place;
            }
        }
        events.retain(|event| *event != u32::MAX);
        events
    })
}

/// Where the packet of a client goes.
struct Way {
    /// The longest IP packet that may.
    longest: u32,
    word: Word,
}

/// A packet of a shard.
#[derive(Clone, Copy)]
struct Packet<'a> {
    item: &'a Item,
    lane: &'a Lane,
    /// In the run.
    number: u32,
    /// In [`Context::found`].
    place: u32,
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
        self.changed.clear();
        self.timers.clear();
        self.journal.clear();
    }

    #[inline(never)]
    fn follow(&mut self, number: usize, shard: &mut Shard, stretch: &Stretch<'_>, context: &Context<'_>, first_odd: &AtomicU32) {
        let segments: Vec<Segment<'_>> = stretch.segments(number).collect();
        let packets = segments.iter().map(|segment| segment.items.len()).sum();
        self.journal.reserve(packets);
        let items = || segments.iter().flat_map(|segment| segment.items);
        let (mut asked, mut sought) = (items(), items());
        let mut ask = |shard: &Shard| {
            asked.by_ref().take(TOGETHER).for_each(|item| shard.prefetch_index(item.fingerprint, item.answers));
        };
        // Of each packet the slot of the first entry with its fingerprint: nearly always the right one, if there is one at all.
        let mut seek = |shard: &Shard| {
            let mut candidates = [u32::MAX; TOGETHER];
            for (candidate, item) in candidates.iter_mut().zip(sought.by_ref()) {
                *candidate = shard.candidate(item.fingerprint, item.answers);
            }
            candidates.iter().for_each(|candidate| shard.prefetch(*candidate));
            candidates
        };
        ask(shard);
        ask(shard);
        let mut next = seek(shard);
        let mut candidates = next;
        let mut turn = 0;
        for segment in &segments {
            let found = context.found.get(segment.place..segment.place + segment.items.len()).unwrap_or_default();
            for ((item, found), place) in segment.items.iter().zip(found).zip(segment.place as u32..) {
                if turn % TOGETHER == 0 {
                    // Another shard may have found an odd packet before this one: what follows is done again anyway.
                    if (segment.offset + i64::from(item.number)) as u32 >= first_odd.load(Ordering::Relaxed) {
                        return;
                    }
                    ask(shard);
                    candidates = std::mem::replace(&mut next, seek(shard));
                }
                let candidate = candidates[turn % TOGETHER];
                turn += 1;
                let at = (segment.offset + i64::from(item.number)) as u32;
                let packet = Packet { item, lane: segment.lane, number: at, place };
                let Some(word) = self.step(number, shard, candidate, packet, context) else {
                    first_odd.fetch_min(at, Ordering::Relaxed);
                    return;
                };
                if context.counts && word.changes() && word.kind() != Word::OPENS {
                    self.changed.push((at, place));
                }
                found.store(word.0, Ordering::Relaxed);
            }
        }
    }

    /// Takes one packet; none if it is not plain.
    #[inline(always)]
    fn step(
        &mut self,
        number: usize,
        shard: &mut Shard,
        candidate: u32,
        packet: Packet<'_>,
        context: &Context<'_>,
    ) -> Option<Word> {
        let end = context.ends.facts(packet.item.end)?;
        if packet.item.answers {
            return self.answer(shard, Packet { ..packet }, end, context);
        }
        match self.way_of(shard, candidate, packet, end, context) {
            Some(way) => self.pass(shard, candidate, way, packet, end, context),
            // A copy: what is given to a function must lie in memory, and seldom one is called.
            None => self.seek(number, shard, Packet { ..packet }, end, context),
        }
    }

    /// Takes a packet of a client whose connection is not the first one with its fingerprint, or was opened after it was sought, or
    /// is not there yet.
    #[inline(never)]
    fn seek(&mut self, number: usize, shard: &mut Shard, packet: Packet<'_>, end: &Facts, context: &Context<'_>) -> Option<Word> {
        let fits = |slot: u32, _: &Entry| self.way_of(shard, slot, packet, end, context).is_some();
        let Some(slot) = shard.find_client(packet.item.fingerprint, fits) else {
            return self.open(number, shard, packet, end, context);
        };
        let way = self.way_of(shard, slot, packet, end, context)?;
        self.pass(shard, slot, way, packet, end, context)
    }

    /// Takes a packet of a client whose connection is in that slot and goes that way.
    #[inline(always)]
    fn pass(
        &mut self,
        shard: &mut Shard,
        slot: u32,
        way: Way,
        packet: Packet<'_>,
        end: &Facts,
        context: &Context<'_>,
    ) -> Option<Word> {
        let item = packet.item;
        let entry = shard.at(slot)?;
        let event = packet.event(end);
        if event.opens() || entry.expires <= item.time || u32::from(item.len) > way.longest {
            return None;
        }
        let (active, look) = self.advance(entry, slot, Direction::Input, event, packet, &context.rules);
        if let Some(look) = look {
            self.timers.push((packet.number, look, shard.id(slot)));
        }
        Some(way.word.changing(active))
    }

    /// Where the packet of a client goes, if the entry in a slot is its connection.
    #[inline(always)]
    fn way_of(&self, shard: &Shard, slot: u32, packet: Packet<'_>, end: &Facts, context: &Context<'_>) -> Option<Way> {
        let item = packet.item;
        let entry = shard.entry(slot)?;
        let is_clients = match end.family {
            Family::Ipv4 => entry.is_of_v4(item.client, item.port),
            Family::Ipv6 => shard.has_client(slot, entry, packet.lane.client(item, end.family), item.port),
        };
        if !is_clients || !entry.is_found() {
            return None;
        }
        if entry.binding & UNBOUND == 0 {
            let way = context.ways.binding(entry.binding).filter(|way| way.end == item.end)?;
            return Some(Way { longest: way.longest, word: Word(Word::REQUEST | u64::from(entry.binding)) });
        }
        let opened = self.opened.get((entry.binding & !UNBOUND) as usize).filter(|opened| opened.end == item.end)?;
        Some(Way { longest: context.ways.service(item.end)?.longest, word: Word::fresh(opened.place) })
    }

    /// Opens a connection; none if the packet does not, or not here.
    #[inline]
    fn open(&mut self, number: usize, shard: &mut Shard, packet: Packet<'_>, end: &Facts, context: &Context<'_>) -> Option<Word> {
        let Packet { item, lane, number: at, place: in_found } = packet;
        let event = packet.event(end);
        let service = context.ways.service(item.end)?;
        let may_open = match event {
            TransportEvent::Tcp(flags) => flags & RST == 0 && (flags & SYN != 0 || context.sloppy),
            _ => true,
        };
        let place = self.opened.len();
        if !may_open || u32::from(item.len) > service.longest || place >= LONGEST_RUN {
            return None;
        }
        let client = lane.client(item, end.family);
        let mut entry = Entry::opening(item.port, UNBOUND | place as u32, service.nat);
        let advance = entry.advance(Direction::Input, event, &context.rules);
        let look = entry.restart(item.time);
        let (fingerprint, end, time) = (item.fingerprint, item.end, item.time);
        let slot = shard.add(fingerprint, client, entry);
        self.opened.push(Opened { time, number: at, place: in_found, slot, fingerprint, end });
        if let Some(look) = look {
            self.timers.push((at, look, shard.id(slot)));
        }
        Some(Word::opening(number, place, item.end).changing(advance.active))
    }

    #[inline(never)]
    fn answer(&mut self, shard: &mut Shard, packet: Packet<'_>, end: &Facts, context: &Context<'_>) -> Option<Word> {
        let item = packet.item;
        let client = packet.lane.client(item, end.family);
        let fits = |slot, entry: &Entry| {
            let way = context.ways.binding(entry.binding);
            way.is_some_and(|way| way.answers == item.end) && shard.has_client(slot, entry, client, item.port)
        };
        // Answers of connections that this run opened are not known yet, and one of those may be the newer of two that look alike.
        let is_clients = |slot| shard.entry(slot).is_some_and(|entry| shard.has_client(slot, entry, client, item.port));
        if end.shared && self.opened.iter().any(|opened| is_clients(opened.slot)) {
            return None;
        }
        let slot = shard.find_server(item.fingerprint, fits)?;
        let entry = shard.at(slot)?;
        let binding = entry.binding;
        if entry.expires <= item.time || !context.ways.binding(binding)?.returns {
            return None;
        }
        let (active, look) = self.advance(entry, slot, Direction::Output, packet.event(end), packet, &context.rules);
        if let Some(look) = look {
            self.timers.push((packet.number, look, shard.id(slot)));
        }
        Some(Word(Word::ANSWER | u64::from(binding)).changing(active))
    }

    /// A packet of the entry in a slot passes; returns by how much its server's active connections change, and when to look at
    /// the entry, if nobody would look in time otherwise.
    #[inline(always)]
    fn advance(
        &mut self,
        entry: &mut Entry,
        slot: u32,
        direction: Direction,
        event: TransportEvent,
        packet: Packet<'_>,
        rules: &StateRules,
    ) -> (i32, Option<Nanos>) {
        self.journal.push(Before {
            expires: entry.expires,
            number: packet.number,
            slot,
            timeout: entry.timeout,
            state: entry.state,
            flags: entry.flags,
        });
        let advance = entry.advance(direction, event, rules);
        (advance.active, entry.restart(packet.item.time))
    }

    /// Which packets concern schedulers, of those that have such a number in the run: their numbers and their places in
    /// [`Context::found`].
    fn events(&self, numbers: &Range<u32>) -> impl Iterator<Item = (u32, u32)> {
        let opened = within(&self.opened, numbers, |opened| opened.number).iter().map(|opened| (opened.number, opened.place));
        opened.chain(within(&self.changed, numbers, |(number, _)| *number).iter().copied())
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
        self.changed.truncate(self.changed.partition_point(|(number, _)| *number < done));
        self.timers.truncate(self.timers.partition_point(|(number, ..)| *number < done));
    }
}

/// What has a number of those, of a list in their order.
fn within<'a, T>(list: &'a [T], numbers: &Range<u32>, number: impl Fn(&T) -> u32) -> &'a [T] {
    let place = |limit| list.partition_point(|one| number(one) < limit);
    list.get(place(numbers.start)..place(numbers.end)).unwrap_or_default()
}
