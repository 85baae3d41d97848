//! The stateless end of the parallel way: frames are made from packets and the choice of servers.

use super::frames::{Emitted, Leaving, Sink};
use super::lane::{Ends, Lane};
use super::run::Outcome;
use super::way::{LinkWay, Ways, way_back};
use crate::config::{Family, InterfaceId};
use crate::director::Arrival;
use crate::link::Host;
use crate::output::EmittedFrame;
use crate::packet::Headers;
use crate::rewrite::nat::{self, Change, End};
use crate::rewrite::{dr, hop};
use crate::track::{Passed, Services};
use crate::verdict::{Forwarded, Verdict};
use std::net::IpAddr;
use std::ops::Range;

const ETHERNET: usize = 14;
/// Room for rewritten headers: link header with tags, IPv6, TCP without options.
const HEAD: usize = super::way::LINK_HEADER + 40 + 20;

/// What emitting needs to know.
pub(super) struct Emitter<'a> {
    pub host: &'a Host,
    pub services: &'a Services,
    pub ways: &'a Ways,
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
        let at = super::lane::kept_at(client) % self.kept.len();
        let kept = self.kept.get_mut(at)?;
        if kept.as_ref().is_none_or(|(known, interface, _)| (*known, *interface) != (client, on)) {
            *kept = Some((client, on, way_back(host, client, on)?));
        }
        kept.as_ref().map(|(.., way)| way)
    }
}

impl Emitter<'_> {
    /// Makes the frame of a packet in lane and gives it to the sink. `server` took it, `new`: it opened its connection.
    #[expect(clippy::too_many_arguments, reason = "once a packet; a struct would be built for nothing")]
    #[inline]
    pub fn emit<S: Sink>(
        &self,
        sink: &S,
        piece: &mut S::Piece,
        (part, number): (usize, usize),
        arrival: &Arrival<'_>,
        Outcome { server, opens: new, answer }: Outcome,
        passed: &mut [Passed],
        back: &mut WaysBack,
    ) {
        let frame = arrival.frame;
        let service = self.services.servers.get(server as usize).map_or(u32::MAX, |entry| entry.service);
        let forwarded = Forwarded { service, server, new };
        let Some(way) = self.ways.server(server) else { return };
        let v4 = frame.get(12..14) == Some(&[8, 0]);
        let ip = if v4 { 20 } else { 40 };
        let Some(len) = length(frame, v4) else { return };
        let Some(packet) = frame.get(ETHERNET..ETHERNET + len) else { return };
        let counters = passed.get_mut(server as usize);
        let mut head = [0; HEAD];
        let Some(translated) = way.translation else {
            // Direct routing: nothing behind the IP header changes.
            let used = begin(&mut head, &way.link, packet, ip);
            dr::request(&mut head[used - ip..used]);
            if let Some(counters) = counters {
                counters.in_packets += 1;
                counters.in_bytes += len as u64;
            }
            give(sink, piece, arrival, way.link.interface, &head[..used], &packet[ip..]);
            sink.verdict(piece, part, number, Verdict::Forwarded(forwarded));
            return;
        };
        let transport = ip + if packet.get(if v4 { 9 } else { 6 }) == Some(&6) { 20 } else { 8 };
        let Ok(mut headers) = Headers::of(packet) else { return };
        let (link, change) = if answer {
            let Some((address, port)) = self.ways.face(service) else { return };
            let Some(link) = back.get(self.host, headers.destination, arrival.interface) else { return };
            (link, Change { end: End::Source, address, port: Some(port) })
        } else {
            (&way.link, Change { end: End::Destination, address: translated.0, port: Some(translated.1) })
        };
        let used = begin(&mut head, link, packet, transport);
        let start = used - transport;
        hop(&mut head[start..used]);
        headers.ttl = headers.ttl.saturating_sub(1);
        nat::translate(&mut head[start..used], &headers, change, false);
        if let Some(counters) = counters {
            let (packets, bytes) = if answer {
                (&mut counters.out_packets, &mut counters.out_bytes)
            } else {
                (&mut counters.in_packets, &mut counters.in_bytes)
            };
            *packets += 1;
            *bytes += len as u64;
        }
        give(sink, piece, arrival, link.interface, &head[..used], &packet[transport..]);
        sink.verdict(piece, part, number, if answer { Verdict::Returned(forwarded) } else { Verdict::Forwarded(forwarded) });
    }

    /// How much the packets of a part within a range make, before they are made.
    pub fn measure(&self, lane: &Lane, ends: &Ends, numbers: &Range<usize>, outcome: impl Fn(u32) -> Outcome) -> Emitted {
        let mut emitted = Emitted::default();
        let mut back = WaysBack::new();
        let uniform = self.host.links.iter().all(|(_, link)| link.tags.is_empty());
        for item in lane.items.iter().filter(|item| numbers.contains(&(item.number as usize))) {
            emitted.frames += 1;
            emitted.bytes += u64::from(item.len);
            emitted.bytes += if uniform {
                ETHERNET as u64
            } else {
                let outcome = outcome(item.number);
                let link = if outcome.answer {
                    let family = ends.list.get(usize::from(item.end)).map_or(Family::Ipv4, |end| Family::from(end.0));
                    back.get(self.host, lane.client(item, family), item.interface)
                } else {
                    self.ways.server(outcome.server).map(|way| &way.link)
                };
                link.map_or(0, |link| link.header.len() as u64)
            };
        }
        emitted
    }
}

/// Length of the IP packet in a frame in lane.
#[inline]
fn length(frame: &[u8], v4: bool) -> Option<usize> {
    let at = if v4 { 16 } else { 18 };
    let word = frame.get(at..at + 2)?;
    Some(usize::from(u16::from_be_bytes([word[0], word[1]])) + if v4 { 0 } else { 40 })
}

/// Puts the link header and the first bytes of the packet into `head`; returns how many bytes that is.
#[inline]
fn begin(head: &mut [u8; HEAD], link: &LinkWay, packet: &[u8], len: usize) -> usize {
    let start = link.header.len();
    head[..start].copy_from_slice(&link.header);
    head[start..start + len].copy_from_slice(&packet[..len]);
    start + len
}

#[inline]
fn give<S: Sink>(sink: &S, piece: &mut S::Piece, arrival: &Arrival<'_>, interface: InterfaceId, head: &[u8], tail: &[u8]) {
    let frame = EmittedFrame { time: arrival.time, interface, bytes: &[], drawn: &[], late: false, cut: 0 };
    sink.frame(piece, Leaving { head, tail, frame });
}
