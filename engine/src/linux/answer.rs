//! What the director's own stack answers: nothing listens there (reference/linux-ipvs.md section 10.1).

use super::options;
use super::packet::Packet;
use super::{Director, Output};
use crate::output::DrawnField;
use crate::packet::icmp::{self, Icmp};
use crate::packet::ipv4::{self, Ipv4Fields};
use crate::packet::ipv6::{self, Ipv6Fields};
use crate::packet::sctp::{self, Sctp};
use crate::packet::tcp::{self, TcpFields, flags};
use crate::packet::{Tcp, Udp, be16, checksum, put16};
use crate::rewrite::icmp::fill_checksums;
use crate::verdict::{DropReason, LocalAnswer, Refusal, Verdict};
use std::net::IpAddr;

const fn dropped(reason: DropReason) -> Verdict {
    Verdict::Dropped(reason)
}

/// A message that goes back.
#[derive(Clone, Copy, Debug)]
struct Answer<'a> {
    protocol: u8,
    tos: u8,
    message: &'a [u8],
    /// Bytes of the message that the capture did not hold.
    missing: usize,
    /// Random fields, offsets counted from the message's start, those of checksums too.
    drawn: &'a [DrawnField],
}

impl Director {
    /// A packet that no hook took.
    pub(super) fn local_stack(&mut self, out: &mut Output, packet: Packet) -> Verdict {
        if !packet.is_v4()
            && let Err(verdict) = self.take_extensions(out, &packet)
        {
            return verdict;
        }
        match packet.headers.protocol {
            1 if packet.is_v4() => self.local_icmp_v4(out, &packet),
            58 if !packet.is_v4() => self.local_icmp_v6(out, &packet),
            6 => self.local_tcp(out, &packet),
            17 => self.local_udp(out, &packet),
            132 => self.local_sctp(out, &packet),
            protocol @ (4 | 41) => self.local_tunnelled(out, &packet, if protocol == 4 { 20 } else { 40 }),
            47 => self.local_gre(out, &packet),
            // IGMP for a host that is no multicast router: read, never answered.
            2 if packet.is_v4() => Verdict::Local(LocalAnswer::Taken),
            ipv6::next_header::NONE if !packet.is_v4() => dropped(DropReason::Unanswered),
            _ => self.unknown_protocol(out, &packet),
        }
    }

    /// IP in IP without a tunnel for it: as with GRE, the protocol is known, but nobody takes it.
    fn local_tunnelled(&mut self, out: &mut Output, packet: &Packet, needed: usize) -> Verdict {
        if packet.transport_len() < needed {
            return dropped(DropReason::TransportTruncated);
        }
        self.refuse_port(out, packet)
    }

    fn unknown_protocol(&mut self, out: &mut Output, packet: &Packet) -> Verdict {
        if !packet.is_v4() {
            let number_at = ipv6::walk(&packet.bytes).map_or(6, |chain| chain.number_at);
            return self.unknown_header(out, packet, number_at);
        }
        let sent = self.send_error_v4(out, packet, icmp::v4::UNREACHABLE, icmp::v4::PROTOCOL_UNREACHABLE, 0);
        if sent { Verdict::Refused(Refusal::ProtocolUnreachable) } else { dropped(DropReason::RateLimited) }
    }

    /// A header that the host does not know; its number stands at that place.
    pub(super) fn unknown_header(&mut self, out: &mut Output, packet: &Packet, number_at: usize) -> Verdict {
        let sent = self.send_error_v6(out, packet, icmp::v6::PARAMETER_PROBLEM, 1, number_at as u32);
        if sent { Verdict::Refused(Refusal::ProtocolUnreachable) } else { dropped(DropReason::RateLimited) }
    }

    /// GRE without a tunnel for it: the protocol is known, but nobody takes it.
    fn local_gre(&mut self, out: &mut Output, packet: &Packet) -> Verdict {
        /// Routing present, and the version.
        const NEVER: u16 = 0x4007;
        let Some(flags) = packet.transport().get(..4).map(|header| be16(header, 0)) else {
            return dropped(DropReason::TransportTruncated);
        };
        if flags & NEVER != 0 {
            return dropped(DropReason::Unanswered);
        }
        self.refuse_port(out, packet)
    }

    /// Whether the transport checksum is right; one that can't be computed because the capture was cut counts as right.
    pub(super) fn transport_checksum_is_right(packet: &Packet, len: usize) -> bool {
        let Some(segment) = packet.transport().get(..len) else { return packet.is_cut() };
        let (source, destination) = packet.addresses();
        let sum = checksum::pseudo_header(source, destination, packet.headers.protocol, len).bytes(segment);
        packet.is_cut() || checksum::is_right(sum)
    }

    fn local_tcp(&mut self, out: &mut Output, packet: &Packet) -> Verdict {
        if !packet.to_us {
            return dropped(DropReason::GroupAddress);
        }
        let len = packet.transport_len();
        let Ok(view) = Tcp::new_checked(packet.transport()) else { return dropped(DropReason::TransportTruncated) };
        if view.header_len() < tcp::HEADER_LEN || len < view.header_len() {
            return dropped(DropReason::TransportTruncated);
        }
        if !Director::transport_checksum_is_right(packet, len) {
            return dropped(DropReason::BadTransportChecksum);
        }
        if view.has(flags::RST) {
            return dropped(DropReason::Unanswered);
        }
        let mut fields = TcpFields {
            source_port: view.destination_port(),
            destination_port: view.source_port(),
            flags: flags::RST,
            ..TcpFields::default()
        };
        if view.has(flags::ACK) {
            fields.sequence = view.acknowledgement();
        } else {
            fields.flags |= flags::ACK;
            let length = (len - view.header_len()) as u32;
            let length = length + u32::from(view.has(flags::SYN)) + u32::from(view.has(flags::FIN));
            fields.acknowledgement = view.sequence().wrapping_add(length);
        }
        let mut segment = fields.header(0);
        let sum = checksum::pseudo_header(packet.headers.destination, packet.headers.source, 6, segment.len());
        let check = sum.bytes(&segment).checksum();
        put16(&mut segment, tcp::CHECKSUM_AT, check);
        // ECN is the connection's business, of which there is none.
        let answer = Answer { protocol: 6, tos: packet.headers.tos & 0xfc, message: &segment, missing: 0, drawn: &[] };
        self.answer_with(out, packet, &answer);
        Verdict::Local(LocalAnswer::Reset)
    }

    /// SCTP without an association (RFC 9260 section 8.4): refused by ABORT, a SHUTDOWN ACK is completed. The kernel's SCTP is
    /// taken to be loaded.
    fn local_sctp(&mut self, out: &mut Output, packet: &Packet) -> Verdict {
        if !packet.to_us {
            return dropped(DropReason::GroupAddress);
        }
        let len = packet.transport_len();
        let Some(bytes) = packet.transport().get(..len) else { return dropped(DropReason::TransportTruncated) };
        let Ok(view) = Sctp::new_checked(bytes) else { return dropped(DropReason::TransportTruncated) };
        if !sctp::checksum_is_right(bytes) {
            return dropped(DropReason::BadTransportChecksum);
        }
        let Some(answer) = sctp::out_of_the_blue(bytes) else { return dropped(DropReason::Unanswered) };
        let mut message = [0; 16];
        put16(&mut message, 0, view.destination_port());
        put16(&mut message, 2, view.source_port());
        message[4..8].copy_from_slice(&answer.tag);
        message[12..].copy_from_slice(&[answer.chunk, answer.flags, 0, 4]);
        sctp::fill_checksum(&mut message);
        // SCTP sets ECT(0) in all that it sends.
        let answer = Answer { protocol: 132, tos: 0x02, message: &message, missing: 0, drawn: &[] };
        self.answer_with(out, packet, &answer);
        Verdict::Local(LocalAnswer::Abort)
    }

    fn local_udp(&mut self, out: &mut Output, packet: &Packet) -> Verdict {
        let Ok(view) = Udp::new_checked(packet.transport()) else { return dropped(DropReason::TransportTruncated) };
        // A jumbogram's length of 0 is for IPv6 alone, and only beyond 65535 bytes.
        if view.length() < 8 || view.length() > packet.transport_len() {
            return dropped(DropReason::TransportTruncated);
        }
        let unsummed = view.checksum() == 0;
        if unsummed && !packet.is_v4() || !unsummed && !Director::transport_checksum_is_right(packet, view.length()) {
            return dropped(DropReason::BadTransportChecksum);
        }
        self.refuse_port(out, packet)
    }

    fn refuse_port(&mut self, out: &mut Output, packet: &Packet) -> Verdict {
        let sent = if packet.is_v4() {
            self.send_error_v4(out, packet, icmp::v4::UNREACHABLE, icmp::v4::PORT_UNREACHABLE, 0)
        } else {
            self.send_error_v6(out, packet, icmp::v6::UNREACHABLE, icmp::v6::PORT_UNREACHABLE, 0)
        };
        if sent { Verdict::Refused(Refusal::PortUnreachable) } else { dropped(DropReason::RateLimited) }
    }

    fn local_icmp_v4(&mut self, out: &mut Output, packet: &Packet) -> Verdict {
        let Ok(view) = Icmp::new_checked(packet.transport()) else { return dropped(DropReason::TransportTruncated) };
        if !packet.is_cut() && !view.checksum_is_right() {
            return dropped(DropReason::BadIcmpChecksum);
        }
        let mut message = packet.transport().to_vec();
        match view.kind() {
            icmp::v4::ECHO if !self.host.sysctls.icmp_echo_ignore_all => {
                // The request's code goes back as it came.
                message[0] = icmp::v4::ECHO_REPLY;
                icmp::fill_checksum(&mut message);
                let missing = packet.transport_len().saturating_sub(message.len());
                let answer = Answer { protocol: 1, tos: packet.headers.tos, message: &message, missing, drawn: &[] };
                self.answer_with(out, packet, &answer);
                Verdict::Local(LocalAnswer::EchoReply)
            }
            icmp::v4::TIMESTAMP if message.len() >= 20 => {
                let (draw, clock) = self.next_timestamp();
                message.truncate(20);
                message[0] = icmp::v4::TIMESTAMP_REPLY;
                message[1] = 0;
                message[12..16].copy_from_slice(&clock.to_be_bytes());
                message[16..20].copy_from_slice(&clock.to_be_bytes());
                icmp::fill_checksum(&mut message);
                let field = |at| DrawnField::value(draw.draw(), at, 4).summed_at(2);
                let drawn = [field(12), field(16)];
                let answer = Answer { protocol: 1, tos: packet.headers.tos, message: &message, missing: 0, drawn: &drawn };
                self.answer_with(out, packet, &answer);
                Verdict::Local(LocalAnswer::TimestampReply)
            }
            _ => Verdict::Local(LocalAnswer::Taken),
        }
    }

    fn local_icmp_v6(&mut self, out: &mut Output, packet: &Packet) -> Verdict {
        let Ok(view) = Icmp::new_checked(packet.transport()) else { return dropped(DropReason::TransportTruncated) };
        if !Director::transport_checksum_is_right(packet, packet.transport_len()) {
            return dropped(DropReason::BadIcmpChecksum);
        }
        if view.kind() != icmp::v6::ECHO {
            return Verdict::Local(LocalAnswer::Taken);
        }
        let mut message = packet.transport().to_vec();
        // The request's code goes back as it came.
        message[0] = icmp::v6::ECHO_REPLY;
        if let (IpAddr::V6(source), IpAddr::V6(destination)) = packet.addresses() {
            icmp::fill_checksum_v6(&mut message, destination, source);
        }
        let missing = packet.transport_len().saturating_sub(message.len());
        let answer = Answer { protocol: 58, tos: packet.headers.tos, message: &message, missing, drawn: &[] };
        self.answer_with(out, packet, &answer);
        Verdict::Local(LocalAnswer::EchoReply)
    }

    /// Sends a message back to a packet's source, from the packet's destination.
    fn answer_with(&mut self, out: &mut Output, to: &Packet, answer: &Answer<'_>) {
        let Answer { protocol, tos, message, missing, drawn } = *answer;
        // RSTs and ABORTs are never fragmented and carry no identification; the kernel's ICMP answers may be.
        let dont_fragment = matches!(protocol, 6 | 132);
        let mut bytes = Vec::with_capacity(message.len() + 60);
        let mut fields = Vec::new();
        match to.addresses() {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                // RSTs and ICMP replies carry the options back, the kernel's SCTP does not.
                let options = if protocol != 132 {
                    let clock = self.next_timestamp();
                    let echo = options::echo(&to.bytes[ipv4::HEADER_LEN..to.headers.transport_at], destination, clock.1);
                    fields.extend(echo.clock_at.map(|at| clock.0.at(ipv4::HEADER_LEN + at)));
                    fields.extend(echo.echoed(&to.drawn));
                    echo.options
                } else {
                    Vec::new()
                };
                let mut id = 0;
                if !dont_fragment {
                    let (drawn_id, field) = self.next_ipv4_id();
                    id = drawn_id;
                    fields.push(field);
                }
                let header_len = ipv4::HEADER_LEN + options.len();
                let header = Ipv4Fields {
                    tos,
                    total_len: (header_len + message.len() + missing) as u16,
                    id,
                    dont_fragment,
                    ttl: self.host.sysctls.ip_default_ttl,
                    protocol,
                    source: destination,
                    destination: source,
                };
                bytes.extend_from_slice(&header.header());
                bytes[0] = 0x40 | (header_len / 4) as u8;
                bytes.extend_from_slice(&options);
                bytes.extend_from_slice(message);
                if let Ok(mut view) = crate::packet::Ipv4::new_checked(&mut bytes[..]) {
                    view.fill_checksum();
                }
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (flow_label, field) = self.next_flow_label();
                fields.push(field);
                let hop_limit = to.arrival.map_or(64, |on| self.host.links.get(on).settings.ipv6_hop_limit);
                let header = Ipv6Fields {
                    traffic_class: tos,
                    flow_label,
                    payload_len: (message.len() + missing) as u16,
                    next_header: protocol,
                    hop_limit,
                    source: destination,
                    destination: source,
                };
                header.write(&mut bytes);
                bytes.extend_from_slice(message);
            }
            _ => return,
        }
        let start = (bytes.len() - message.len()) as u16;
        for field in drawn {
            let mut field = *field;
            field.offset += start;
            field.checksums.iter_mut().filter(|at| **at != 0).for_each(|at| *at += start);
            fields.push(field);
        }
        let Ok(mut packet) = Packet::made(bytes, to.time) else { return };
        packet.cut = missing as u32;
        packet.drawn = fields;
        self.local_out_on(out, packet, to.arrival);
    }

    /// `ping`: one echo request with the 56 bytes of payload that iputils sends.
    pub(super) fn ping(
        &mut self,
        out: &mut Output,
        time: crate::time::Nanos,
        source: Option<IpAddr>,
        destination: IpAddr,
        number: u16,
    ) {
        let Some(source) = source.or_else(|| self.host.source_towards(destination)) else { return };
        let (identifier, value) = self.next_payload();
        let (clock, moment) = self.next_payload();
        let mut payload = [0; 56];
        payload[..8].copy_from_slice(&moment.to_be_bytes());
        payload.iter_mut().enumerate().skip(16).for_each(|(at, byte)| *byte = at as u8);
        let mut message = Vec::new();
        let rest = (value as u32 & 0xffff) << 16 | u32::from(number);
        let mut bytes = Vec::new();
        let mut fields = Vec::new();
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                icmp::write(&mut message, icmp::v4::ECHO, 0, rest, &payload);
                let (id, field) = self.next_ipv4_id();
                fields.push(field);
                let header = Ipv4Fields {
                    tos: 0,
                    total_len: (ipv4::HEADER_LEN + message.len()) as u16,
                    id,
                    dont_fragment: true,
                    ttl: self.host.sysctls.ip_default_ttl,
                    protocol: 1,
                    source,
                    destination,
                };
                header.write(&mut bytes);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                icmp::write(&mut message, icmp::v6::ECHO, 0, rest, &payload);
                let (flow_label, field) = self.next_flow_label();
                fields.push(field);
                let header = Ipv6Fields {
                    traffic_class: 0,
                    flow_label,
                    payload_len: message.len() as u16,
                    next_header: 58,
                    hop_limit: 64,
                    source,
                    destination,
                };
                header.write(&mut bytes);
            }
            _ => return,
        }
        let at = bytes.len();
        bytes.extend_from_slice(&message);
        let end = bytes.len();
        fill_checksums(&mut bytes, at, end);
        fields.push(DrawnField::value(identifier, at + 4, 2).summed_at(at + 2));
        fields.push(DrawnField::value(clock, at + 8, 8).summed_at(at + 2));
        let Ok(mut packet) = Packet::made(bytes, time) else { return };
        packet.drawn = fields;
        self.local_out(out, packet);
    }
}
