//! The parallel way of clients' packets to FULLNAT services of DPVS.
//!
//! ```text
//! classify   every part of the window by itself     rules.rs             which packets are plain
//! find       every part of a chunk by itself        Director::find       which connection
//! follow     in the order of the packets            Director::follow     states, timers, servers, local ports
//! rewrite    every part of a chunk by itself        here                 the frames that leave
//! ```
//!
//! Unlike Linux's connections, which shards follow at once, these are followed one by one, by the code of the serial
//! composition, while the frames of those before them are made: so whatever happens in between (connections that end, ports that come back, servers that are chosen) happens
//! in the serial order, and a run that ends early has nothing to take back. What costs most, headers, searches and frames, is
//! done in parallel before and after.

use super::Stage;
use super::frames::{Emitted, Frames, Leaving, Sink};
use super::hands::Hands;
use super::lane::{Ends, Item, Lane, Port};
use super::run::TOGETHER;
use crate::config::{Family, MacAddr, Protocol};
use crate::director::Arrival;
use crate::dpvs::follow::{Found, Leaves, Opening, Outcome, Passed, Request, ServerWay, ServiceEnd, Ways};
use crate::dpvs::{ConnectionId, Director, Flow, erase_timestamp, is_forged};
use crate::draws::Draw;
use crate::output::{DrawnField, DrawnKind, EmittedFrame};
use crate::packet::checksum::Sum;
use crate::track::Fingerprint;
use crate::verdict::{Forwarded, Verdict};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Offsets of the TCP header, and its length without options and at most.
const SEQUENCE: usize = 4;
const ACKNOWLEDGEMENT: usize = 8;
const TCP_CHECKSUM: usize = 16;
const TCP: usize = 20;
const LONGEST_TCP: usize = 60;
const UDP_CHECKSUM: usize = 6;
const UDP: usize = 8;
/// Room for rewritten headers.
const HEAD: usize = ETHERNET + IPV6 + LONGEST_TCP;

/// How many packets are found, and followed, before their frames are made.
const CHUNK: usize = 16_384;

/// What a packet looks for.
#[derive(Clone, Copy)]
struct Wanted {
    fingerprint: Fingerprint,
    /// The first connection with that fingerprint: nearly always the right one, if there is one at all.
    candidate: ConnectionId,
}

impl Wanted {
    const NOTHING: Wanted = Wanted { fingerprint: Fingerprint(0), candidate: ConnectionId::NONE };
}

/// What batch works with as long as nothing but connections changes.
#[derive(Debug)]
pub(super) struct Plan {
    pub ports: Vec<Port>,
    pub ends: Ends,
    pub ways: Ways,
    /// What became of the packets of a chunk, and of the one before it.
    outcomes: (Vec<Outcome>, Vec<Outcome>),
}

impl Plan {
    /// The plan for a director as it is now; none when no packet can take the parallel way.
    pub fn new(director: &mut Director) -> Option<Plan> {
        let ways = director.ways()?;
        let ports = director
            .ports()
            .map(|(mac, mtu, open)| Port { mac, mtu, longest_frame: ETHERNET + mtu.max(46) as usize, open })
            .collect();
        let services = ways.services.iter().map(|end| ((end.address.ip(), end.address.port(), end.protocol.0), false));
        let ends = Ends::new(services, []);
        Some(Plan { ports, ends, ways, outcomes: Default::default() })
    }
}

/// Where a run stands in its window.
pub(super) struct Stretch<'a, F> {
    pub frames: &'a F,
    /// The parts' packets, in order.
    pub lanes: &'a [Lane],
    /// The number of each part's first frame in the window.
    pub starts: &'a [usize],
    /// The frames of the run, by their number in the window. All are in lane.
    pub range: Range<usize>,
    /// For each packet in lane of the window: what was found for it.
    pub found: &'a [AtomicU64],
    /// Who works.
    pub hands: Hands,
}

impl<F: Frames> Stretch<'_, F> {
    /// Those of its frames that are in that range.
    fn part(&self, range: Range<usize>) -> Self {
        Stretch { range, ..*self }
    }

    /// The parts that the run has frames of.
    fn parts(&self) -> Range<usize> {
        if self.range.is_empty() {
            return 0..0;
        }
        let part_of = |number: usize| self.starts.partition_point(|start| *start <= number).saturating_sub(1);
        part_of(self.range.start)..part_of(self.range.end - 1) + 1
    }

    /// The frames of a part that are in the run, by their number in the part.
    fn numbers(&self, part: usize) -> Range<usize> {
        let (start, len) = (self.starts[part], self.frames.part_len(part));
        self.range.start.saturating_sub(start).min(len)..(self.range.end - start).min(len)
    }

    /// The packets of a part that are in the run, and what was found for them.
    fn packets(&self, part: usize) -> (&Lane, &[Item], &[AtomicU64]) {
        let (lane, numbers) = (&self.lanes[part], self.numbers(part));
        let (items, _) = lane.shard(0);
        let place = |number: usize| items.partition_point(|item| (item.number as usize) < number);
        let (from, to) = (place(numbers.start), place(numbers.end));
        (lane, &items[from..to], self.found.get(lane.base + from..lane.base + to).unwrap_or_default())
    }

    /// Finds the connections that packets have as the table is now. Memory is asked for what is needed some packets before.
    fn find(&self, director: &Director, plan: &Plan) {
        self.hands.map(self.parts(), |part| {
            let (lane, items, found) = self.packets(part);
            let (mut asked, mut sought) = (items.iter(), [Wanted::NOTHING; TOGETHER]);
            let mut ask = || {
                let mut wanted = [Wanted::NOTHING; TOGETHER];
                for (wanted, item) in wanted.iter_mut().zip(asked.by_ref()) {
                    if let Some((end, flow)) = flow(plan, lane, item) {
                        wanted.fingerprint = end.fingerprint(&flow);
                    }
                    director.prefetch_index(wanted.fingerprint);
                }
                wanted
            };
            let seek = |wanted: &mut [Wanted; TOGETHER]| {
                wanted.iter_mut().for_each(|wanted| wanted.candidate = director.candidate(wanted.fingerprint));
                wanted.iter().for_each(|wanted| director.prefetch(wanted.candidate));
            };
            let arrivals = self.frames.arrivals(part, self.numbers(part));
            let mut frames = arrivals.map(|arrival| arrival.map_or(&[][..], |arrival| arrival.frame));
            let mut next = ask();
            seek(&mut next);
            let mut last = ask();
            for (items, found) in items.chunks(TOGETHER).zip(found.chunks(TOGETHER)) {
                std::mem::swap(&mut sought, &mut next);
                next = std::mem::replace(&mut last, ask());
                seek(&mut next);
                for (((item, found), frame), wanted) in items.iter().zip(found).zip(&mut frames).zip(&sought) {
                    let find = |(end, flow): (&ServiceEnd, Flow)| {
                        let wanted = (wanted.fingerprint, wanted.candidate);
                        director.find(&plan.ways, &flow, &request(item), wanted, acknowledged(frame, end))
                    };
                    found.store(flow(plan, lane, item).map_or(Found::none(wanted.fingerprint), find).0, Ordering::Relaxed);
                }
            }
        });
    }

    /// Follows the packets up to the first one that is not plain; returns what each part makes.
    fn follow(&self, director: &mut Director, plan: &Plan, known: u64, outcomes: &mut Vec<Outcome>) -> Vec<Emitted> {
        let mut made = Vec::new();
        for part in self.parts() {
            let mut emitted = Emitted::default();
            let (lane, items, found) = self.packets(part);
            let words = || found.iter().map(|found| Found(found.load(Ordering::Relaxed)));
            let ask = |director: &Director, found: Found| match found.id() {
                Some(id) => director.prefetch(id),
                None => director.prefetch_index(found.fingerprint()),
            };
            let mut asked = words();
            asked.by_ref().take(TOGETHER).for_each(|found| ask(director, found));
            for (turn, (item, found)) in items.iter().zip(words()).enumerate() {
                if turn % TOGETHER == 0 {
                    asked.by_ref().take(TOGETHER).for_each(|found| ask(director, found));
                }
                let flow = || flow(plan, lane, item);
                let opening = || self.frames.arrival(part, item.number as usize).as_ref().and_then(opening);
                let Some(outcome) = director.follow(&plan.ways, &request(item), (found, known), flow, opening) else {
                    made.push(emitted);
                    return made;
                };
                if let Outcome::Leaves(_) = outcome {
                    emitted.frames += 1;
                    emitted.bytes += ETHERNET as u64 + u64::from(item.len);
                }
                outcomes.push(outcome);
            }
            made.push(emitted);
        }
        made
    }

    /// Makes the frames of packets that were followed; `before` is what was made before each part.
    fn rewrite<S: Sink>(&self, ways: &Ways, outcomes: &[Outcome], before: &[Emitted], sink: &S) -> Vec<(S::Piece, Vec<Passed>)> {
        let parts = self.parts();
        self.hands.map(0..parts.len().min(before.len()), |index| {
            let part = parts.start + index;
            let mut piece = sink.piece(before[index]);
            let mut passed = vec![Passed::default(); ways.servers()];
            let mut head = [0; HEAD];
            let numbers = self.numbers(part);
            let first = self.starts[part] + numbers.start - self.range.start;
            let outcomes = outcomes.get(first..first + numbers.len()).unwrap_or_default();
            let arrivals = self.frames.arrivals(part, numbers.clone());
            for ((number, arrival), outcome) in numbers.zip(arrivals).zip(outcomes) {
                let Some(arrival) = arrival else { continue };
                let verdict = match outcome {
                    Outcome::Leaves(leaves) => emit(sink, &mut piece, ways, &arrival, leaves, (&mut head, &mut passed)),
                    Outcome::Dropped(reason) => Some(Verdict::Dropped(*reason)),
                };
                if let Some(verdict) = verdict {
                    sink.verdict(&mut piece, part, number, verdict);
                }
            }
            sink.finish(&mut piece);
            (piece, passed)
        })
    }
}

/// Takes the parallel way; returns how many frames it took.
pub(super) fn run<F: Frames, S: Sink>(
    director: &mut Director,
    plan: &mut Plan,
    stretch: &Stretch<'_, F>,
    sink: &mut S,
    emitted: &mut Emitted,
    stage: &mut dyn FnMut(Stage),
) -> usize {
    let (mut followed, mut outcomes) = std::mem::take(&mut plan.outcomes);
    followed.clear();
    let mut before = Vec::new();
    let mut at = stretch.range.start;
    // While one chunk is followed the frames of the one before it are made.
    let mut last = stretch.part(at..at);
    loop {
        let next = stretch.part(at..stretch.range.end.min(at + CHUNK));
        outcomes.clear();
        stage(Stage::Track);
        next.find(director, plan);
        let known = director.created();
        stage(Stage::Schedule);
        let shared: &S = sink;
        let ways = &plan.ways;
        let follow = || next.follow(director, plan, known, &mut outcomes);
        let (made, pieces) = stretch.hands.both(follow, || last.rewrite(ways, &followed, &before, shared));
        for (piece, passed) in pieces {
            sink.collect(piece);
            director.count(ways, &passed);
        }
        before.clear();
        for made in made {
            before.push(*emitted);
            emitted.frames += made.frames;
            emitted.bytes += made.bytes;
        }
        std::mem::swap(&mut followed, &mut outcomes);
        last = stretch.part(at..at + followed.len());
        at = last.range.end;
        if at < next.range.end || at == stretch.range.end {
            break;
        }
    }
    stage(Stage::Rewrite);
    let pieces = last.rewrite(&plan.ways, &followed, &before, &*sink);
    for (piece, passed) in pieces {
        sink.collect(piece);
        director.count(&plan.ways, &passed);
    }
    plan.outcomes = (followed, outcomes);
    at - stretch.range.start
}

/// The flow of a packet, and the service that it goes to.
#[inline]
fn flow<'a>(plan: &'a Plan, lane: &Lane, item: &Item) -> Option<(&'a ServiceEnd, Flow)> {
    let end = plan.ways.services.get(usize::from(item.end))?;
    Some((end, end.flow(lane.client(item, Family::from(end.address.ip())), item.port)))
}

#[inline]
fn request(item: &Item) -> Request {
    Request { time: item.time, flags: item.flags, length: item.len }
}

/// What a frame to a service acknowledges, if it is TCP.
#[inline]
fn acknowledged(frame: &[u8], end: &ServiceEnd) -> u32 {
    let ip = if end.address.is_ipv4() { IPV4 } else { IPV6 };
    double(frame, ETHERNET + ip + ACKNOWLEDGEMENT)
}

/// Four bytes as a number.
#[inline]
fn double(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// What a connection keeps of its first packets.
fn opening(arrival: &Arrival<'_>) -> Option<Opening> {
    let header = arrival.frame.first_chunk::<ETHERNET>()?;
    let mac = |at: usize| MacAddr([header[at], header[at + 1], header[at + 2], header[at + 3], header[at + 4], header[at + 5]]);
    let ip = if header[12..14] == [8, 0] { IPV4 } else { IPV6 };
    let number = |at: usize| double(arrival.frame, ETHERNET + ip + at);
    let (sequence, acknowledgement) = (number(SEQUENCE), number(ACKNOWLEDGEMENT));
    Some(Opening { interface: arrival.interface, macs: (mac(6), mac(0)), sequence, acknowledgement })
}

/// Makes the frame of a packet in lane and gives it to the sink.
#[inline]
fn emit<S: Sink>(
    sink: &S,
    piece: &mut S::Piece,
    ways: &Ways,
    arrival: &Arrival<'_>,
    leaves: &Leaves,
    (head, passed): (&mut [u8; HEAD], &mut [Passed]),
) -> Option<Verdict> {
    let way = ways.server(leaves.server)?;
    let change = Change { way, local: ways.local(leaves.local)?, leaves, takes_ttl: ways.takes_ttl && !leaves.fast };
    let made = rewrite(head, arrival.frame, &change)?;
    let passed = passed.get_mut(leaves.server as usize)?;
    passed.packets += 1;
    passed.bytes += made.length as u64;
    passed.forged += u64::from(made.forged);
    let field = made.drawn.map(|at| {
        let draw = Draw::SequenceOffset(leaves.connection);
        DrawnField { kind: DrawnKind::Plus, ..DrawnField::value(draw, at + SEQUENCE, 4) }.summed_at(at + TCP_CHECKSUM)
    });
    let frame =
        EmittedFrame { time: arrival.time, interface: way.interface, bytes: &[], drawn: field.as_slice(), late: false, cut: 0 };
    let tail = arrival.frame.get(made.head..ETHERNET + made.length)?;
    sink.frame(piece, Leaving::new(head.get(..made.head)?, tail, frame));
    Some(Verdict::Forwarded(Forwarded { service: way.service, server: leaves.server, new: leaves.new }))
}

/// What happens to a frame.
struct Change<'a> {
    way: &'a ServerWay,
    local: IpAddr,
    leaves: &'a Leaves,
    takes_ttl: bool,
}

/// What was made of a frame.
struct Made {
    /// How many bytes its headers have, link header included.
    head: usize,
    /// Length of the IP packet.
    length: usize,
    /// Where the TCP header stands, whose sequence number holds a draw.
    drawn: Option<usize>,
    /// Its client put a TOA in.
    forged: bool,
}

/// Which headers a frame in lane has.
#[derive(Clone, Copy)]
struct Headers {
    /// IPv4, else IPv6.
    v4: bool,
    /// TCP, else UDP.
    tcp: bool,
    /// Length of the transport header.
    transport: usize,
    /// Length of the IP packet.
    length: usize,
}

impl Headers {
    #[inline]
    fn of(frame: &[u8]) -> Option<Headers> {
        let header = frame.first_chunk::<{ ETHERNET + IPV4 }>()?;
        let word = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
        let v4 = word(12) == 0x0800;
        let (ip, length, protocol) = if v4 { (IPV4, word(16), header[23]) } else { (IPV6, IPV6 + word(18), header[20]) };
        let tcp = Protocol(protocol) == Protocol::TCP;
        let transport = if tcp { usize::from(frame.get(ETHERNET + ip + 12)? >> 4) * 4 } else { UDP };
        Some(Headers { v4, tcp, transport, length })
    }
}

/// Rewrites the headers of a frame in lane. Those of the usual ones have lengths that are known here: copies and sums of them
/// are a few moves.
#[inline]
fn rewrite(head: &mut [u8; HEAD], frame: &[u8], change: &Change<'_>) -> Option<Made> {
    match Headers::of(frame)? {
        Headers { v4: true, tcp: true, transport: TCP, length } => {
            rewrite_headers(head, frame, change, Headers { v4: true, tcp: true, transport: TCP, length })
        }
        headers => rewrite_others(head, frame, change, headers),
    }
}

#[inline(never)]
fn rewrite_others(head: &mut [u8; HEAD], frame: &[u8], change: &Change<'_>, headers: Headers) -> Option<Made> {
    rewrite_headers(head, frame, change, headers)
}

#[inline(always)]
fn rewrite_headers(head: &mut [u8; HEAD], frame: &[u8], change: &Change<'_>, headers: Headers) -> Option<Made> {
    let Change { way, local, leaves, takes_ttl } = *change;
    let Headers { v4, tcp, transport, length } = headers;
    let ip = if v4 { IPV4 } else { IPV6 };
    let at = ETHERNET + ip;
    let end = at + transport;
    let packet_end = ETHERNET + length;
    let payload = frame.get(end..packet_end)?;
    let protocol = if tcp { Protocol::TCP } else { Protocol::UDP };
    let head = head.get_mut(..end)?;
    head.copy_from_slice(frame.get(..end)?);
    head[..6].copy_from_slice(&way.macs.0.0);
    head[6..12].copy_from_slice(&way.macs.1.0);
    let hop = ETHERNET + if v4 { 8 } else { 7 };
    let hops = frame[hop] - u8::from(takes_ttl && frame[hop] > 0);
    head[hop] = hops;
    // Checksums are computed afresh, as DPVS does: a wrong one becomes right. Nothing is summed that was just written to the head, if
    // it can be helped: a load of bytes that were written in smaller pieces waits for all of them.
    let addresses = match (local, way.real.ip()) {
        (IpAddr::V4(local), IpAddr::V4(real)) if v4 => {
            head[26..30].copy_from_slice(&local.octets());
            head[30..34].copy_from_slice(&real.octets());
            let addresses = Sum::new().double(local.into()).double(real.into());
            let changed = addresses.word(u16::from_be_bytes([hops, protocol.0]));
            let checksum = changed.header_and(&frame[ETHERNET..hop], &[]).checksum();
            head[24..26].copy_from_slice(&checksum.to_be_bytes());
            addresses
        }
        (IpAddr::V6(local), IpAddr::V6(real)) if !v4 => {
            head[22..38].copy_from_slice(&local.octets());
            head[38..54].copy_from_slice(&real.octets());
            Sum::new().address(local.into()).address(real.into())
        }
        _ => return None,
    };
    let ports = u32::from(leaves.port) << 16 | u32::from(way.real.port());
    head[at..at + 4].copy_from_slice(&ports.to_be_bytes());
    let sum = addresses.word(u16::from(protocol.0)).double((length - ip) as u32).double(ports);
    let mut forged = false;
    if tcp {
        let sequence = double(frame, at + SEQUENCE).wrapping_add(leaves.offset);
        head[at + SEQUENCE..at + ACKNOWLEDGEMENT].copy_from_slice(&sequence.to_be_bytes());
        let (before, behind) = (&frame[at + ACKNOWLEDGEMENT..at + TCP_CHECKSUM], at + TCP_CHECKSUM + 2);
        let sum = sum.double(sequence);
        let sum = if transport > TCP {
            let options = &mut head[at + TCP..];
            if leaves.new {
                erase_timestamp(options);
            }
            forged = is_forged(options);
            sum.header_and(before, payload).bytes(&head[behind..])
        } else {
            sum.header_and(before, &frame[behind..packet_end])
        };
        head[at + TCP_CHECKSUM..behind].copy_from_slice(&sum.checksum().to_be_bytes());
    } else {
        let sum = sum.header_and(&frame[at + 4..at + UDP_CHECKSUM], payload);
        head[at + UDP_CHECKSUM..end].copy_from_slice(&sum.udp_checksum().to_be_bytes());
    }
    Some(Made { head: end, length, drawn: tcp.then_some(at), forged })
}
