//! The stateless end of the parallel way: frames are made from packets and the choice of servers.

use super::frames::{Emitted, Frames, Leaving, Sink};
use super::lane::{Header, Lane};
use super::way::{BindingWay, LINK_HEADER, LinkWay, Method, ServerWay, Ways, way_back};
use super::word::Outcome;
use crate::config::{InterfaceId, TunnelKind};
use crate::director::Arrival;
use crate::link::Host;
use crate::output::EmittedFrame;
use crate::packet::Headers;
use crate::rewrite::edit::Edit;
use crate::rewrite::hop_of_right;
use crate::rewrite::nat::{self, Change, End};
use crate::rewrite::tunnel::{self, Outer};
use crate::time::Nanos;
use crate::track::Passed;
use crate::verdict::{Forwarded, Verdict};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

const ETHERNET: usize = 14;
/// Room for rewritten headers: link header with tags, IPv6, TCP without options.
const HEAD: usize = LINK_HEADER + 40 + 20;

/// What emitting needs to know.
pub(super) struct Emitter<'a> {
    pub host: &'a Host,
    pub ways: &'a Ways,
    /// net.ipv4.vs.pmtu_disc.
    pub copy_dont_fragment: bool,
    /// How many servers there are.
    pub servers: usize,
}

/// What one thread needs while it emits.
#[derive(Debug)]
pub(super) struct Passing {
    /// What passed each server.
    pub passed: Vec<Passed>,
    back: WaysBack,
    /// The headers of the frame that is made.
    head: [u8; HEAD],
    inner: Vec<u8>,
    tunnelled: Vec<u8>,
}

impl Passing {
    /// For so many servers.
    pub fn new(servers: usize) -> Passing {
        let passed = vec![Passed::default(); servers];
        Passing { passed, back: WaysBack::new(), head: [0; HEAD], inner: Vec::new(), tunnelled: Vec::new() }
    }
}

/// Ways back to clients that were worked out last.
#[derive(Debug)]
pub(super) struct WaysBack {
    kept: Vec<Option<(IpAddr, InterfaceId, LinkWay)>>,
}

impl WaysBack {
    pub fn new() -> WaysBack {
        WaysBack { kept: Vec::new() }
    }

    fn get(&mut self, host: &Host, client: IpAddr, on: InterfaceId) -> Option<&LinkWay> {
        self.kept.resize(256, None);
        let at = super::rules::kept_at(word_of(client)) % self.kept.len();
        let kept = self.kept.get_mut(at)?;
        if kept.as_ref().is_none_or(|(known, interface, _)| (*known, *interface) != (client, on)) {
            *kept = Some((client, on, way_back(host, client, on)?));
        }
        kept.as_ref().map(|(.., way)| way)
    }
}

fn word_of(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64 ^ u128::from(v6) as u64,
    }
}

/// Packets of a part whose frames are to be made.
pub(super) struct Part<'a, F> {
    pub frames: &'a F,
    /// Of the part.
    pub number: usize,
    /// Of the packets in it.
    pub numbers: Range<usize>,
    pub lane: &'a Lane,
    /// What became of packets, by their place.
    pub found: &'a [AtomicU64],
}

impl<'a, F: Frames> Part<'a, F> {
    /// The packet with that number.
    fn arrival(&self, number: usize) -> Option<Arrival<'a>> {
        self.frames.arrival(self.number, number)
    }

    /// The last packet.
    pub fn last(&self) -> Option<Arrival<'a>> {
        self.arrival(self.numbers.end.checked_sub(1)?)
    }

    /// What became of the packet with that place.
    #[inline(always)]
    fn outcome(&self, place: usize) -> Option<Outcome> {
        Some(Outcome::read(self.found.get(place)?.load(Ordering::Relaxed), self.found))
    }
}

impl Emitter<'_> {
    /// Makes the frames of a part; returns the finished piece, and what passed each server.
    pub fn make<F: Frames, S: Sink>(&self, sink: &S, mut piece: S::Piece, part: &Part<'_, F>) -> (S::Piece, Vec<Passed>) {
        let mut passing = Passing::new(self.servers);
        if self.ways.are_direct {
            self.emit_all::<F, S, true>(sink, &mut piece, part, &mut passing);
        } else {
            self.emit_all::<F, S, false>(sink, &mut piece, part, &mut passing);
        }
        sink.finish(&mut piece);
        (piece, passing.passed)
    }

    #[inline(never)]
    fn emit_all<F: Frames, S: Sink, const DIRECT: bool>(
        &self,
        sink: &S,
        piece: &mut S::Piece,
        part: &Part<'_, F>,
        passing: &mut Passing,
    ) {
        let arrivals = part.frames.arrivals(part.number, part.numbers.clone());
        for ((number, arrival), place) in part.numbers.clone().zip(arrivals).zip(part.lane.places(&part.numbers)) {
            if let (Some(arrival), Some(outcome)) = (arrival, part.outcome(place)) {
                self.emit::<S, DIRECT>(sink, piece, (part.number, number), &arrival, outcome, passing);
            }
        }
    }

    /// Makes the frame of a packet in lane and gives it to the sink. DIRECT: all servers are reached by DR.
    #[inline(always)]
    fn emit<S: Sink, const DIRECT: bool>(
        &self,
        sink: &S,
        piece: &mut S::Piece,
        (part, number): (usize, usize),
        arrival: &Arrival<'_>,
        Outcome { binding, opens, answer, word }: Outcome,
        passing: &mut Passing,
    ) {
        let (frame, answer) = (arrival.frame, answer && !DIRECT);
        let Some((&BindingWay { server, service, .. }, way)) = self.ways.server_of(binding) else { return };
        let forwarded = Forwarded { service, server, new: opens };
        // Every frame in lane has so many bytes, and its packet all of its own.
        let Some(header) = frame.first_chunk() else { return };
        let v4 = header[12..14] == [8, 0];
        let len = if v4 { word_at(header, 16) } else { word_at(header, 18) + 40 };
        let Some(packet) = frame.get(ETHERNET..ETHERNET + len) else { return };
        if let Some(passed) = passing.passed.get_mut(server as usize) {
            let (packets, bytes) = if answer {
                (&mut passed.out_packets, &mut passed.out_bytes)
            } else {
                (&mut passed.in_packets, &mut passed.in_bytes)
            };
            *packets += 1;
            *bytes += len as u64;
            // Seldom: most packets need no store for it.
            if word.changes() {
                passed.active += word.change();
            }
        }
        let verdict = if answer { Verdict::Returned(forwarded) } else { Verdict::Forwarded(forwarded) };
        let answers = answer.then_some((service, arrival.interface));
        let place = (part, number);
        let Some(first) = packet.first_chunk().filter(|_| v4) else {
            return self.emit_other(sink, piece, place, arrival.time, (frame, len), (way, answers, verdict), passing);
        };
        // How a packet of IPv4 leaves, if nothing but its first bytes is changed: what stands before it, what is changed in it, and
        // where it leaves. Each method for itself, so that a processor has all that it needs at hand.
        let leaves = |piece: &mut S::Piece, head: &[u8], edit: Edit, interface: InterfaceId| {
            let frame = EmittedFrame { time: arrival.time, interface, bytes: &[], drawn: &[], late: false, cut: 0 };
            leave(sink, piece, place, Leaving { head, tail: packet, edit: Some(edit), frame }, verdict);
        };
        match &way.method {
            Method::Dr => leaves(piece, way.link.header.bytes(), Edit::hop(first), way.link.interface),
            Method::Nat { v4: Some(translations), .. } if !DIRECT => {
                let (link, translation) = if answer {
                    let client = Ipv4Addr::new(first[16], first[17], first[18], first[19]);
                    let Some(link) = passing.back.get(self.host, client.into(), arrival.interface) else { return };
                    (link, &translations.answer)
                } else {
                    (&way.link, &translations.request)
                };
                let edit = Edit::translate(first, first[9] == 17, translation);
                leaves(piece, link.header.bytes(), edit, link.interface);
            }
            Method::Tunnel { prefix: Some(prefix), .. } if !DIRECT && self.copy_dont_fragment && first[6] & 0x40 != 0 => {
                let start = way.link.header.len;
                let head = &mut passing.head;
                head[..LINK_HEADER].copy_from_slice(&way.link.header.room);
                if let Some(room) = head.get_mut(start..).and_then(<[u8]>::first_chunk_mut) {
                    *room = prefix.before(first);
                }
                let head = head.get(..start + prefix.len()).unwrap_or_default();
                leaves(piece, head, Edit::hop(first), way.link.interface);
            }
            Method::Nat { .. } | Method::Tunnel { .. } => {
                self.emit_other(sink, piece, place, arrival.time, (frame, len), (way, answers, verdict), passing);
            }
        }
    }

    /// The same for packets that are not that: of IPv6, very short, into other tunnels. `answers` is the service whose server
    /// answers, and where.
    #[expect(clippy::too_many_arguments, reason = "what was found out already")]
    #[inline(never)]
    fn emit_other<S: Sink>(
        &self,
        sink: &S,
        piece: &mut S::Piece,
        place: (usize, usize),
        time: Nanos,
        (frame, len): (&[u8], usize),
        (way, answers, verdict): (&ServerWay, Option<(u32, InterfaceId)>, Verdict),
        passing: &mut Passing,
    ) {
        let Some(packet) = frame.get(ETHERNET..ETHERNET + len) else { return };
        let Passing { back, head, inner, tunnelled, .. } = passing;
        let v4 = frame.get(12..14) == Some(&[8, 0]);
        let ip = if v4 { 20 } else { 40 };
        let (head, tail, interface) = match way.method {
            Method::Dr => {
                // Nothing behind the IP header changes.
                let used = begin(head, &way.link, frame, ip);
                hop_of_right(&mut head[used - ip..used]);
                (&head[..used], &packet[ip..], way.link.interface)
            }
            Method::Nat { address, port, .. } => {
                let transport = ip + if packet.get(if v4 { 9 } else { 6 }) == Some(&6) { 20 } else { 8 };
                let Some((link, end, address, port)) = self.translation(&way.link, (address, port), packet, answers, back) else {
                    return;
                };
                let change = Change { end, address, port: Some(port) };
                let used = begin(head, link, frame, transport);
                let packet_head = &mut head[used - transport..used];
                hop_of_right(packet_head);
                nat::translate_right(packet_head, change);
                (&head[..used], &packet[transport..], link.interface)
            }
            Method::Tunnel { tunnel, source, destination, .. } => {
                let Ok(mut headers) = Headers::of(packet) else { return };
                headers.ttl = headers.ttl.saturating_sub(1);
                // Only a checksum over all of it needs more of the inner packet than its header.
                let summed = tunnel.kind != TunnelKind::Ipip && tunnel::has_checksum(tunnel);
                let (start, rest) = packet.split_at(if summed { len } else { ip });
                inner.clear();
                inner.extend_from_slice(start);
                hop_of_right(inner);
                tunnelled.clear();
                tunnelled.extend_from_slice(way.link.header.bytes());
                tunnel::encapsulate(inner, &headers, tunnel, &self.outer(source, destination), tunnelled);
                (&tunnelled[..], rest, way.link.interface)
            }
        };
        let frame = EmittedFrame { time, interface, bytes: &[], drawn: &[], late: false, cut: 0 };
        leave(sink, piece, place, Leaving::new(head, tail, frame), verdict);
    }

    /// By which way a packet leaves that NAT translates, and which end of it gets which address and port: the real server's, or of
    /// an answer, whose service and place of arrival are given then, the service's.
    fn translation<'w>(
        &self,
        link: &'w LinkWay,
        (address, port): (IpAddr, u16),
        packet: &[u8],
        answers: Option<(u32, InterfaceId)>,
        back: &'w mut WaysBack,
    ) -> Option<(&'w LinkWay, End, IpAddr, u16)> {
        let Some((service, on)) = answers else { return Some((link, End::Destination, address, port)) };
        let (address, port) = self.ways.face(service)?;
        let client = nat::address_of(packet, End::Destination)?;
        Some((back.get(self.host, client, on)?, End::Source, address, port))
    }

    /// What a tunnel's outer header holds, besides what the packet says.
    fn outer(&self, source: IpAddr, destination: IpAddr) -> Outer {
        let copy_dont_fragment = self.copy_dont_fragment;
        Outer { source, destination, id: 0, gue_source_port: 0, copy_dont_fragment }
    }

    /// How much the packets of a part make, before they are made.
    pub fn measure<F: Frames>(&self, part: &Part<'_, F>) -> Emitted {
        let Part { lane, numbers, .. } = part;
        if let Some(added) = self.ways.added
            && lane.len == numbers.len()
        {
            let frames = numbers.len() as u64;
            return Emitted { frames, bytes: lane.bytes + frames * added };
        }
        let mut emitted = Emitted::default();
        let mut back = WaysBack::new();
        for (place, item) in (lane.base..).zip(lane.all()).filter(|(_, item)| numbers.contains(&(item.number as usize))) {
            emitted.frames += 1;
            emitted.bytes += u64::from(item.len);
            emitted.bytes += self.ways.added.unwrap_or_else(|| {
                let Some(outcome) = part.outcome(place) else { return 0 };
                if !outcome.answer {
                    return self.ways.server_of(outcome.binding).map_or(0, |(_, way)| way.added());
                }
                let link = part.arrival(item.number as usize).and_then(|arrival| {
                    let client = Headers::of(arrival.frame.get(ETHERNET..)?).ok()?.destination;
                    back.get(self.host, client, arrival.interface)
                });
                link.map_or(0, |link| link.header.len as u64)
            });
        }
        emitted
    }
}

/// A frame leaves for the packet of that part with that number.
#[inline(always)]
fn leave<S: Sink>(sink: &S, piece: &mut S::Piece, (part, number): (usize, usize), leaving: Leaving<'_>, verdict: Verdict) {
    sink.frame(piece, leaving);
    sink.verdict(piece, part, number, verdict);
}

/// Two bytes as a number.
#[inline(always)]
fn word_at(header: &Header, at: usize) -> usize {
    usize::from(u16::from_be_bytes([header[at], header[at + 1]]))
}

/// Puts the link header and the first bytes of the frame's packet into `head`; returns how many bytes that is.
#[inline]
fn begin(head: &mut [u8; HEAD], link: &LinkWay, frame: &[u8], len: usize) -> usize {
    // Every frame in lane has so many bytes. Fixed lengths are a few moves instead of calls.
    const FIRST: usize = 40;
    let start = link.header.len;
    head[..LINK_HEADER].copy_from_slice(&link.header.room);
    if let (Some(room), Some(first)) = (head[start..].first_chunk_mut::<FIRST>(), frame[ETHERNET..].first_chunk::<FIRST>()) {
        *room = *first;
    }
    if len > FIRST {
        head[start + FIRST..start + len].copy_from_slice(&frame[ETHERNET + FIRST..ETHERNET + len]);
    }
    start + len
}
