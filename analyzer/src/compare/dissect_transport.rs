//! What IP carries: TCP, UDP, SCTP, ICMP, ICMPv6, and the tunnels IPIP, GRE and GUE.

use super::super::fields::{Name, Place};
use super::network::Carried;
use super::{Sum, Walk};
use std::ops::Range;

impl Walk<'_> {
    pub(super) fn transport(&mut self, carried: Carried) {
        let range = carried.range.clone();
        let len = range.end - range.start;
        match carried.protocol {
            6 if len >= 4 => self.tcp(carried),
            17 if len >= 8 => self.udp(carried),
            132 if len >= 12 => self.sctp(carried),
            1 if len >= 8 => self.icmp(carried),
            58 if len >= 8 => self.icmpv6(carried),
            47 if len >= 4 => self.gre(range),
            4 => {
                self.nested(self.place.inside(), 0x0800, range.start, range.end);
            }
            41 => {
                self.nested(self.place.inside(), 0x86dd, range.start, range.end);
            }
            _ => self.data(Name::Data, range),
        }
    }

    /// Notes what identifies the packet whose transport this is.
    fn identify(&mut self, ports: Option<(u16, u16)>, state: Range<usize>, payload: Range<usize>) {
        if let Some(packet) = self.out.packets.last_mut() {
            packet.ports = ports;
            packet.state = state;
            packet.payload = payload;
        }
    }

    fn sum(&mut self, at: usize, carried: &Carried, pseudo: bool) {
        if at + 2 <= carried.range.end {
            let pseudo = if pseudo { carried.addresses.clone() } else { 0..0 };
            self.out.sums.push(Sum { at, covers: carried.range.clone(), pseudo });
        }
    }

    /// RFC 9293; a quoted header may be cut anywhere after the ports.
    fn tcp(&mut self, carried: Carried) {
        let Range { start, end } = carried.range;
        let ports = Some((self.word(start), self.word(start + 2)));
        self.begin("tcp");
        self.field(Name::TcpSourcePort, start, 2);
        self.field(Name::TcpDestinationPort, start + 2, 2);
        if end - start < 20 {
            let quoted = start + 8 <= end;
            if quoted {
                self.field(Name::TcpSequence, start + 4, 4);
            }
            let rest = if quoted { start + 8 } else { start + 4 };
            self.data(Name::Data, rest..end);
            self.identify(ports, start + 4..rest, rest..end);
            return;
        }
        self.field(Name::TcpSequence, start + 4, 4);
        self.field(Name::TcpAcknowledgment, start + 8, 4);
        self.bits(Name::TcpHeaderLength, start + 12, 1, 0xf0);
        self.bits(Name::TcpReserved, start + 12, 1, 0x0e);
        self.bits(Name::TcpAccurateEcn, start + 12, 1, 0x01);
        for (bit, name) in
            [Name::TcpFin, Name::TcpSyn, Name::TcpReset, Name::TcpPush, Name::TcpAck, Name::TcpUrg, Name::TcpEce, Name::TcpCwr]
                .into_iter()
                .enumerate()
                .rev()
        {
            self.bits(name, start + 13, 1, 1 << bit);
        }
        self.field(Name::TcpWindow, start + 14, 2);
        self.field(Name::TcpChecksum, start + 16, 2);
        self.field(Name::TcpUrgentPointer, start + 18, 2);
        self.sum(start + 16, &carried, true);
        let header = (usize::from(self.byte(start + 12) >> 4) * 4).max(20).min(end - start);
        self.tcp_options(start + 20, start + header);
        self.data(Name::TcpPayload, start + header..end);
        self.identify(ports, start + 4..start + 14, start + header..end);
    }

    fn tcp_options(&mut self, mut at: usize, end: usize) {
        while at < end {
            let kind = self.byte(at);
            if kind == 0 {
                self.data(Name::TcpOptionEnd, at..end);
                return;
            }
            if kind == 1 {
                self.field(Name::TcpOptionNop, at, 1);
                at += 1;
                continue;
            }
            self.field(Name::TcpOptionKind, at, 1);
            let len = usize::from(self.byte(at + 1));
            if len < 2 || at + len > end {
                self.data(Name::TcpOptionUnknown, at + 1..end);
                return;
            }
            self.field(Name::TcpOptionLength, at + 1, 1);
            let value = at + 2..at + len;
            match (kind, value.len()) {
                (2, 2) => self.field(Name::TcpOptionMss, value.start, 2),
                (3, 1) => self.field(Name::TcpOptionWindowScale, value.start, 1),
                (5, blocks) if blocks % 8 == 0 => {
                    for block in value.step_by(8) {
                        self.field(Name::TcpOptionSackLeft, block, 4);
                        self.field(Name::TcpOptionSackRight, block + 4, 4);
                    }
                }
                (8, 8) => {
                    self.field(Name::TcpOptionTimestampValue, value.start, 4);
                    self.field(Name::TcpOptionTimestampEcho, value.start + 4, 4);
                }
                _ => self.data(Name::TcpOptionUnknown, value),
            }
            at += len;
        }
    }

    /// RFC 768.
    fn udp(&mut self, carried: Carried) {
        let Range { start, end } = carried.range;
        let ports = (self.word(start), self.word(start + 2));
        self.begin("udp");
        self.field(Name::UdpSourcePort, start, 2);
        self.field(Name::UdpDestinationPort, start + 2, 2);
        self.field(Name::UdpLength, start + 4, 2);
        self.field(Name::UdpChecksum, start + 6, 2);
        if self.word(start + 6) != 0 {
            self.sum(start + 6, &carried, true);
        }
        self.identify(Some(ports), start + 4..start + 4, start + 8..end);
        match self.gue_payload(start + 8, end) {
            Some((header, kind)) => self.gue(start + 8, header, kind, end),
            None => self.data(Name::UdpPayload, start + 8..end),
        }
    }

    /// Whether a UDP payload is Generic UDP Encapsulation (draft-ietf-intarea-gue) of an IP packet: the length of its header
    /// and the Ethernet type of what it carries. There is no fixed port, so the inner IP header must make sense.
    fn gue_payload(&self, start: usize, end: usize) -> Option<(usize, u16)> {
        // Version 0, no control message.
        if start + 4 > end || self.byte(start) & 0xe0 != 0 {
            return None;
        }
        let header = 4 + usize::from(self.byte(start) & 0x1f) * 4;
        let inner = start + header;
        match self.byte(start + 1) {
            4 if inner + 20 <= end && self.byte(inner) & 0xf0 == 0x40 && self.byte(inner) & 0x0f >= 5 => Some((header, 0x0800)),
            41 if inner + 40 <= end && self.byte(inner) & 0xf0 == 0x60 => Some((header, 0x86dd)),
            // Linux writes 0 for the family that the tunnel itself has.
            0 if inner + 20 <= end && self.byte(inner) == 0x45 && usize::from(self.word(inner + 2)) == end - inner => {
                Some((header, 0x0800))
            }
            0 if inner + 40 <= end
                && self.byte(inner) & 0xf0 == 0x60
                && usize::from(self.word(inner + 4)) + 40 == end - inner =>
            {
                Some((header, 0x86dd))
            }
            _ => None,
        }
    }

    fn gue(&mut self, start: usize, header: usize, kind: u16, end: usize) {
        self.begin("gue");
        self.bits(Name::GueVersion, start, 1, 0xc0);
        self.bits(Name::GueControl, start, 1, 0x20);
        self.bits(Name::GueHeaderLength, start, 1, 0x1f);
        self.field(Name::GueProtocol, start + 1, 1);
        self.field(Name::GueFlags, start + 2, 2);
        self.data(Name::GueExtension, start + 4..start + header);
        self.nested(self.place.inside(), kind, start + header, end);
    }

    /// RFC 9260. Its CRC is not updated with changes, so it is no [`Sum`].
    fn sctp(&mut self, carried: Carried) {
        let Range { start, end } = carried.range;
        let ports = (self.word(start), self.word(start + 2));
        self.begin("sctp");
        self.field(Name::SctpSourcePort, start, 2);
        self.field(Name::SctpDestinationPort, start + 2, 2);
        self.field(Name::SctpVerificationTag, start + 4, 4);
        self.field(Name::SctpChecksum, start + 8, 4);
        self.identify(Some(ports), start + 4..start + 8, start + 12..end);
        let mut at = start + 12;
        while at + 4 <= end {
            let len = usize::from(self.word(at + 2));
            self.field(Name::SctpChunkType, at, 1);
            self.field(Name::SctpChunkFlags, at + 1, 1);
            self.field(Name::SctpChunkLength, at + 2, 2);
            at += 4;
            if len < 4 {
                break;
            }
            let next = end.min(at - 4 + len.next_multiple_of(4));
            self.data(Name::Data, at..next);
            at = next;
        }
        self.data(Name::Data, at..end);
    }

    /// RFC 792, RFC 1191, RFC 4884.
    fn icmp(&mut self, carried: Carried) {
        let Range { start, end } = carried.range;
        let kind = self.byte(start);
        self.begin("icmp");
        self.field(Name::IcmpType, start, 1);
        self.field(Name::IcmpCode, start + 1, 1);
        self.field(Name::IcmpChecksum, start + 2, 2);
        self.sum(start + 2, &carried, false);
        let body = start + 8;
        self.identify(None, start..start + 2, body..end);
        match kind {
            0 | 8 | 13 | 14 => {
                self.field(Name::IcmpIdentifier, start + 4, 2);
                self.field(Name::IcmpSequence, start + 6, 2);
                if let Some(packet) = self.out.packets.last_mut() {
                    packet.state = start..start + 8;
                }
                if kind >= 13 && body + 12 <= end {
                    self.field(Name::IcmpOriginate, body, 4);
                    self.field(Name::IcmpReceive, body + 4, 4);
                    self.field(Name::IcmpTransmit, body + 8, 4);
                    self.data(Name::Data, body + 12..end);
                } else {
                    self.data(Name::Data, body..end);
                }
            }
            3 | 4 | 5 | 11 | 12 => {
                match kind {
                    5 => self.field(Name::IcmpGateway, start + 4, 4),
                    12 => {
                        self.field(Name::IcmpPointer, start + 4, 1);
                        self.field(Name::IcmpLength, start + 5, 1);
                        self.field(Name::IcmpUnused, start + 6, 2);
                    }
                    _ => {
                        self.field(Name::IcmpUnused, start + 4, 1);
                        self.field(Name::IcmpLength, start + 5, 1);
                        // Fragmentation needed.
                        let mtu = kind == 3 && self.byte(start + 1) == 4;
                        self.field(if mtu { Name::IcmpMtu } else { Name::IcmpUnused }, start + 6, 2);
                    }
                }
                self.nested(Place::Quoted, 0x0800, body, end);
            }
            _ => {
                self.field(Name::IcmpUnused, start + 4, 4);
                self.data(Name::Data, body..end);
            }
        }
    }

    /// RFC 4443 and RFC 4861.
    fn icmpv6(&mut self, carried: Carried) {
        let Range { start, end } = carried.range;
        let kind = self.byte(start);
        self.begin("icmpv6");
        self.field(Name::Icmpv6Type, start, 1);
        self.field(Name::Icmpv6Code, start + 1, 1);
        self.field(Name::Icmpv6Checksum, start + 2, 2);
        self.sum(start + 2, &carried, true);
        let body = start + 8;
        let rest = start + 4;
        self.identify(None, start..start + 2, body..end);
        match kind {
            128 | 129 => {
                self.field(Name::Icmpv6Identifier, rest, 2);
                self.field(Name::Icmpv6Sequence, rest + 2, 2);
                if let Some(packet) = self.out.packets.last_mut() {
                    packet.state = start..body;
                }
                self.data(Name::Data, body..end);
            }
            1..=4 => {
                let name = match kind {
                    2 => Name::Icmpv6Mtu,
                    4 => Name::Icmpv6Pointer,
                    _ => Name::Icmpv6Reserved,
                };
                self.field(name, rest, 4);
                self.nested(Place::Quoted, 0x86dd, body, end);
            }
            135 | 136 if body + 16 <= end => {
                if kind == 135 {
                    self.field(Name::Icmpv6Reserved, rest, 4);
                    self.field(Name::Icmpv6SolicitationTarget, body, 16);
                } else {
                    self.bits(Name::Icmpv6AdvertisementRouter, rest, 4, 0x8000_0000);
                    self.bits(Name::Icmpv6AdvertisementSolicited, rest, 4, 0x4000_0000);
                    self.bits(Name::Icmpv6AdvertisementOverride, rest, 4, 0x2000_0000);
                    self.bits(Name::Icmpv6AdvertisementReserved, rest, 4, 0x1fff_ffff);
                    self.field(Name::Icmpv6AdvertisementTarget, body, 16);
                }
                self.neighbour_options(body + 16, end);
            }
            137 if body + 32 <= end => {
                self.field(Name::Icmpv6Reserved, rest, 4);
                self.field(Name::Icmpv6RedirectTarget, body, 16);
                self.field(Name::Icmpv6RedirectDestination, body + 16, 16);
                self.neighbour_options(body + 32, end);
            }
            _ => {
                self.field(Name::Icmpv6Reserved, rest, 4);
                self.data(Name::Data, body..end);
            }
        }
    }

    fn neighbour_options(&mut self, mut at: usize, end: usize) {
        while at + 2 <= end {
            let len = usize::from(self.byte(at + 1)) * 8;
            if len == 0 || at + len > end {
                break;
            }
            self.field(Name::Icmpv6OptionType, at, 1);
            self.field(Name::Icmpv6OptionLength, at + 1, 1);
            if matches!(self.byte(at), 1 | 2) && len == 8 {
                self.field(Name::Icmpv6OptionMac, at + 2, 6);
            } else {
                self.data(Name::Icmpv6Option, at + 2..at + len);
            }
            at += len;
        }
        self.data(Name::Data, at..end);
    }

    /// RFC 2784 and RFC 2890.
    fn gre(&mut self, range: Range<usize>) {
        let Range { start, end } = range.clone();
        self.begin("gre");
        let flags = self.word(start);
        self.bits(Name::GreChecksumFlag, start, 2, 0x8000);
        self.bits(Name::GreRoutingFlag, start, 2, 0x4000);
        self.bits(Name::GreKeyFlag, start, 2, 0x2000);
        self.bits(Name::GreSequenceFlag, start, 2, 0x1000);
        self.bits(Name::GreReservedFlags, start, 2, 0x0ff8);
        self.bits(Name::GreVersion, start, 2, 0x0007);
        self.field(Name::GreProtocol, start + 2, 2);
        let mut at = start + 4;
        if flags & 0x8000 != 0 && at + 4 <= end {
            self.field(Name::GreChecksum, at, 2);
            self.field(Name::GreOffset, at + 2, 2);
            self.out.sums.push(Sum { at, covers: range, pseudo: 0..0 });
            at += 4;
        }
        for (flag, name) in [(0x2000, Name::GreKey), (0x1000, Name::GreSequence)] {
            if flags & flag != 0 && at + 4 <= end {
                self.field(name, at, 4);
                at += 4;
            }
        }
        self.nested(self.place.inside(), self.word(start + 2), at, end);
    }
}
