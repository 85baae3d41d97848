//! ICMP: errors about a connection, errors that the director sends, echo replies
//! (reference/dpvs-fullnat.md sections 8 and 11).

use super::connection::Connection;
use super::director::Director;
use super::flow::FlowKey;
use super::link::{Sent, Way};
use super::state::Direction;
use super::wire::{Packet, finish_ipv4_header, ipv4_header, ipv6_header, tcp};
use crate::config::{ForwardingMethod, Protocol};
use crate::draws::Draw;
use crate::output::{DrawnKind, Output};
use crate::verdict::{DropReason, Forwarded, LocalAnswer, Verdict};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const ICMP_HEADER: usize = 8;
const UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const TIME_EXCEEDED: u8 = 11;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO6_REQUEST: u8 = 128;
const ECHO6_REPLY: u8 = 129;
const FRAGMENTATION_NEEDED: u8 = 4;
const PORT_UNREACHABLE: u8 = 3;
const UNREACHABLE6: u8 = 1;
const TOO_BIG6: u8 = 2;
const TIME_EXCEEDED6: u8 = 3;
/// The longest ICMP error that DPVS makes, as IP length.
const LONGEST_ERROR: usize = 576;
const LONGEST_ERROR6: usize = 1280;

/// The packet that an ICMP error quotes.
struct Quoted {
    /// Where its IP header begins.
    ip: usize,
    /// Where its transport header begins.
    transport: usize,
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
}

/// Whether it is an ICMP error that DPVS looks up: other types end locally.
pub(super) fn is_translated_error(packet: &Packet) -> bool {
    let kind = packet.u8(packet.transport);
    match packet.protocol {
        Protocol::ICMP => packet.is_ipv4() && matches!(kind, UNREACHABLE | SOURCE_QUENCH | TIME_EXCEEDED),
        Protocol::ICMPV6 => !packet.is_ipv4() && matches!(kind, UNREACHABLE6 | TOO_BIG6 | TIME_EXCEEDED6),
        _ => false,
    }
}

impl Quoted {
    /// The quoted packet; none when its transport header is not whole (all 20 bytes of TCP) or of another protocol.
    fn of(packet: &Packet) -> Option<Quoted> {
        let ip = packet.transport + ICMP_HEADER;
        let quote = packet.bytes.get(ip..)?;
        let inner = Packet::build(quote.to_vec(), Protocol::ANY, 0, packet.origin);
        let (protocol, header) = if packet.is_ipv4() {
            let header = usize::from(inner.u8(0) & 0xf) * 4;
            if inner.u8(0) >> 4 != 4 || header < 20 || quote.len() < header || inner.u16(6) & 0x1fff != 0 {
                return None;
            }
            (Protocol(inner.u8(9)), header)
        } else {
            if inner.u8(0) >> 4 != 6 || quote.len() < 40 {
                return None;
            }
            (Protocol(inner.u8(6)), 40)
        };
        let needed = match protocol {
            Protocol::TCP => tcp::HEADER,
            Protocol::UDP => 8,
            Protocol::SCTP => 12,
            _ => return None,
        };
        if quote.len() < header + needed {
            return None;
        }
        let end = |address: IpAddr, at: usize| SocketAddr::new(address, inner.u16(header + at));
        Some(Quoted {
            ip,
            transport: ip + header,
            protocol,
            source: end(inner.source(), 0),
            destination: end(inner.destination(), 2),
        })
    }

    /// Sets the quoted packet's addresses and ports. Its transport checksum is left as it is, hence wrong.
    fn set_ends(&self, packet: &mut Packet, source: SocketAddr, destination: SocketAddr) {
        let (from, to) = if packet.is_ipv4() { (12, 16) } else { (8, 24) };
        packet.put_address(self.ip + from, source.ip());
        packet.put_address(self.ip + to, destination.ip());
        packet.put(self.transport, &source.port().to_be_bytes());
        packet.put(self.transport + 2, &destination.port().to_be_bytes());
        if packet.is_ipv4()
            && let Some(header) = packet.bytes.get_mut(self.ip..)
        {
            finish_ipv4_header(header);
        }
    }
}

impl Director {
    /// An ICMP error: if it is about a connection, it goes to the connection's other end.
    pub(super) fn related_error(&mut self, packet: Packet, out: &mut Output) -> Verdict {
        if !packet.checksum_is_right() {
            return Verdict::Dropped(DropReason::BadIcmpChecksum);
        }
        let Some(quoted) = Quoted::of(&packet) else { return Verdict::Dropped(DropReason::IcmpUnrelated) };
        // What was quoted went the other way.
        let key = FlowKey { protocol: quoted.protocol, source: quoted.destination, destination: quoted.source };
        if !self.access.admits(quoted.protocol, key.destination, key.source.ip()) {
            return Verdict::Dropped(DropReason::AccessList);
        }
        let found = self.connections.find(&key);
        let Some((id, direction)) = found else { return Verdict::Dropped(DropReason::IcmpUnrelated) };
        let Some(connection) = self.connections.take(id) else { return Verdict::Dropped(DropReason::IcmpUnrelated) };
        let verdict = match connection.method {
            ForwardingMethod::Dr => self.route_directly(&connection, packet, false, out),
            ForwardingMethod::Tunnel(_) => self.tunnel(&connection, packet, false, out),
            _ if connection.is_nat64() => self.mistake_for_ipv6(&packet, out),
            _ => self.translate_error(&connection, direction, packet, &quoted, out),
        };
        self.connections.put_back(id, connection);
        match verdict {
            Verdict::Forwarded(forwarded) => Verdict::Related(forwarded),
            other => other,
        }
    }

    fn translate_error(
        &mut self,
        connection: &Connection,
        direction: Direction,
        mut packet: Packet,
        quoted: &Quoted,
        out: &mut Output,
    ) -> Verdict {
        let fullnat = connection.is_fullnat();
        let sequence = quoted.transport + tcp::SEQUENCE;
        let tcp = connection.protocol == Protocol::TCP && fullnat;
        let destination = match direction {
            Direction::Out => {
                packet.set_source(connection.service_end.ip());
                quoted.set_ends(&mut packet, connection.client, connection.service_end);
                if tcp {
                    let offset = self.draws.value(Draw::SequenceOffset(connection.number)) as u32;
                    let value = packet.u32(sequence).wrapping_sub(offset).wrapping_sub(connection.inserted);
                    packet.put(sequence, &value.to_be_bytes());
                    packet.mark(sequence - packet.transport, Draw::SequenceOffset(connection.number), DrawnKind::Minus);
                }
                connection.client.ip()
            }
            Direction::In => {
                if fullnat {
                    packet.set_source(connection.local.ip());
                }
                quoted.set_ends(&mut packet, connection.real, connection.local);
                if tcp && let Some((attempt, difference)) = connection.handshake.as_ref().and_then(|it| it.difference()) {
                    let value = packet.u32(sequence).wrapping_sub(difference);
                    packet.put(sequence, &value.to_be_bytes());
                    packet.mark(sequence - packet.transport, Draw::SynCookie(attempt), DrawnKind::Minus);
                }
                connection.real.ip()
            }
        };
        packet.set_destination(destination);
        packet.finish();
        let Some(way) = self.link.route(destination) else { return Verdict::Dropped(DropReason::NoRoute) };
        let forwarded = Forwarded { service: connection.service, server: connection.server, new: false };
        match self.send_fragmented(packet, &way, out) {
            Sent::Left => Verdict::Related(forwarded),
            Sent::Waits => Verdict::WaitsForNeighbour(forwarded),
            Sent::Dropped(reason) => Verdict::Dropped(reason),
        }
    }

    /// DPVS takes an IPv4 error about a NAT64 connection for an IPv6 packet, and asks for the neighbour that stands where
    /// an IPv6 destination would (recordings/dpvs-1.10/nat64).
    fn mistake_for_ipv6(&mut self, packet: &Packet, out: &mut Output) -> Verdict {
        let unrelated = Verdict::Dropped(DropReason::IcmpUnrelated);
        if !packet.is_ipv4() || packet.bytes.len() < 40 {
            return unrelated;
        }
        let mut octets = [0; 16];
        for (slot, at) in octets.iter_mut().zip(24..) {
            *slot = packet.u8(at);
        }
        let next_hop = IpAddr::from(octets);
        if let Some(way) = self.link.route(next_hop) {
            self.link.send(packet.clone(), &Way { next_hop, ..way }, self.now, out);
        }
        unrelated
    }

    /// "Fragmentation needed" or "packet too big", to the packet's source.
    pub(super) fn send_too_big(&mut self, packet: &Packet, mtu: u32, out: &mut Output) {
        if packet.is_ipv4() {
            self.send_error(&packet.bytes, packet.source(), UNREACHABLE, FRAGMENTATION_NEEDED, mtu, packet, out);
        } else {
            self.send_error6(packet, TOO_BIG6, mtu, out);
        }
    }

    /// "Time exceeded", to the packet's source.
    pub(super) fn send_time_exceeded(&mut self, packet: &Packet, out: &mut Output) {
        if packet.is_ipv4() {
            self.send_error(&packet.bytes, packet.source(), TIME_EXCEEDED, 0, 0, packet, out);
        } else {
            self.send_error6(packet, TIME_EXCEEDED6, 0, out);
        }
    }

    /// What DPVS's tunnel module answers to GRE and IPIP of no tunnel of its own: port unreachable about what stands
    /// behind the outer header, taken for an IPv4 header whatever it is (recordings/dpvs-1.10/no-conn).
    pub(super) fn refuse_tunnelled(&mut self, packet: &Packet, out: &mut Output) -> Verdict {
        let body = packet.bytes.get(packet.transport..).unwrap_or(&[]);
        let Some(source) = body.get(12..16).and_then(|octets| <[u8; 4]>::try_from(octets).ok()) else {
            return Verdict::Dropped(DropReason::TransportTruncated);
        };
        self.send_error(body, IpAddr::from(source), UNREACHABLE, PORT_UNREACHABLE, 0, packet, out);
        Verdict::Refused(crate::verdict::Refusal::PortUnreachable)
    }

    #[expect(clippy::too_many_arguments, reason = "each is a field of the message")]
    fn send_error(&mut self, about: &[u8], destination: IpAddr, kind: u8, code: u8, rest: u32, cause: &Packet, out: &mut Output) {
        let fragment = about.get(6..8).is_some_and(|field| (field[0] & 0x1f) | field[1] != 0);
        let Some(way) = self.link.route(destination).filter(|_| !fragment) else { return };
        let (Some(IpAddr::V4(source)), IpAddr::V4(to)) = (self.link.source_for(&way, destination), destination) else {
            return;
        };
        if to.is_multicast() || to == Ipv4Addr::BROADCAST {
            return;
        }
        let tos = about.get(1).map_or(0, |tos| tos & 0x1e) | 0xc0;
        let quote = &about[..about.len().min(LONGEST_ERROR - 20 - ICMP_HEADER)];
        let length = 20 + ICMP_HEADER + quote.len();
        let mut bytes = ipv4_header(Protocol::ICMP, source, to, length, tos, false, 64).to_vec();
        bytes.extend([kind, code, 0, 0]);
        bytes.extend(rest.to_be_bytes());
        bytes.extend(quote);
        let mut packets = [Packet::build(bytes, Protocol::ICMP, 20, cause.origin)];
        packets[0].finish();
        self.link.identify(&mut packets, &self.draws);
        let [packet] = packets;
        self.link.send(packet, &way, self.now, out);
    }

    fn send_error6(&mut self, about: &Packet, kind: u8, rest: u32, out: &mut Output) {
        let IpAddr::V6(destination) = about.source() else { return };
        let Some(way) = self.link.route(destination.into()) else { return };
        let Some(IpAddr::V6(source)) = self.link.source_for(&way, destination.into()) else { return };
        let quote = &about.bytes[..about.bytes.len().min(LONGEST_ERROR6 - 40 - ICMP_HEADER)];
        let header = ipv6_header(Protocol::ICMPV6, source, destination, ICMP_HEADER + quote.len(), 0, 64);
        let mut bytes = header;
        bytes.extend([kind, 0, 0, 0]);
        bytes.extend(rest.to_be_bytes());
        bytes.extend(quote);
        let mut packet = Packet::build(bytes, Protocol::ICMPV6, 40, about.origin);
        packet.finish();
        self.link.send(packet, &way, self.now, out);
    }

    /// An ICMP message to an own address: echo requests are answered, everything else is taken silently.
    pub(super) fn local_icmp(&mut self, packet: &Packet, out: &mut Output) -> Verdict {
        let taken = Verdict::Local(LocalAnswer::Taken);
        if !packet.checksum_is_right() {
            return Verdict::Dropped(DropReason::BadIcmpChecksum);
        }
        let at = packet.transport;
        let reply = match (packet.protocol, packet.u8(at)) {
            (Protocol::ICMP, ECHO_REQUEST) => ECHO_REPLY,
            (Protocol::ICMPV6, ECHO6_REQUEST) => ECHO6_REPLY,
            _ => return taken,
        };
        let (asker, own) = (packet.source(), packet.destination());
        let Some(way) = self.link.route(asker) else { return Verdict::Dropped(DropReason::NoRoute) };
        let body = packet.bytes.get(at..).unwrap_or(&[]);
        let length = packet.length() - at;
        let mut bytes = match (own, asker) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ipv4_header(Protocol::ICMP, from, to, 20 + length, packet.traffic_class(), false, 64).to_vec()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_header(Protocol::ICMPV6, from, to, length, 0, 64),
            _ => return taken,
        };
        let header = bytes.len();
        bytes.extend(body);
        let mut answer = packet.clone();
        answer.bytes = bytes;
        answer.transport = header;
        answer.put(header, &[reply]);
        answer.finish();
        let mut answers = [answer];
        self.link.identify(&mut answers, &self.draws);
        let [answer] = answers;
        match self.send_fragmented(answer, &way, out) {
            Sent::Dropped(reason) => Verdict::Dropped(reason),
            _ => Verdict::Local(LocalAnswer::EchoReply),
        }
    }
}
