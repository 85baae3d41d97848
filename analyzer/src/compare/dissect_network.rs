//! IPv4 and IPv6 headers.

use super::super::fields::Name;
use super::{Packet, Sum, Walk};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// Where the transport of a packet stands.
pub(super) struct Carried {
    /// The protocol's number.
    pub protocol: u8,
    /// Its bytes.
    pub range: Range<usize>,
    /// The addresses in the IP header, for the pseudo header.
    pub addresses: Range<usize>,
}

impl Walk<'_> {
    /// RFC 791. Returns where the packet ends.
    pub(super) fn ipv4(&mut self, start: usize, end: usize) -> usize {
        if end - start < 20 {
            self.data(Name::Data, start..end);
            return end;
        }
        self.begin("ip");
        self.bits(Name::IpVersion, start, 1, 0xf0);
        self.bits(Name::IpHeaderLength, start, 1, 0x0f);
        self.bits(Name::IpDscp, start + 1, 1, 0xfc);
        self.bits(Name::IpEcn, start + 1, 1, 0x03);
        self.field(Name::IpLength, start + 2, 2);
        self.field(Name::IpId, start + 4, 2);
        self.bits(Name::IpReservedFlag, start + 6, 1, 0x80);
        self.bits(Name::IpDontFragment, start + 6, 1, 0x40);
        self.bits(Name::IpMoreFragments, start + 6, 1, 0x20);
        self.bits(Name::IpFragmentOffset, start + 6, 2, 0x1fff);
        self.field(Name::IpTtl, start + 8, 1);
        self.field(Name::IpProtocol, start + 9, 1);
        self.field(Name::IpChecksum, start + 10, 2);
        self.field(Name::IpSource, start + 12, 4);
        self.field(Name::IpDestination, start + 16, 4);
        let header = (usize::from(self.byte(start) & 0x0f) * 4).max(20).min(end - start);
        let total = usize::from(self.word(start + 2));
        let packet_end = if total >= header { end.min(start + total) } else { end };
        self.ipv4_options(start + 20, start + header);
        self.out.sums.push(Sum { at: start + 10, covers: start..start + header, pseudo: 0..0 });
        let protocol = self.byte(start + 9);
        self.out.packets.push(Packet {
            place: self.place,
            start,
            source: IpAddr::V4(self.ipv4_address(start + 12)),
            destination: IpAddr::V4(self.ipv4_address(start + 16)),
            protocol,
            id: Some(u32::from(self.word(start + 4))),
            ports: None,
            state: 0..0,
            payload: start + header..packet_end,
        });
        let carried = Carried { protocol, range: start + header..packet_end, addresses: start + 12..start + 20 };
        if self.word(start + 6) & 0x1fff != 0 {
            self.data(Name::Data, carried.range);
        } else {
            self.transport(carried);
        }
        packet_end
    }

    fn ipv4_options(&mut self, mut at: usize, end: usize) {
        while at < end {
            let kind = self.byte(at);
            let len = usize::from(self.byte(at + 1));
            if kind == 0 {
                self.field(Name::IpOptionPadding, at, end - at);
                return;
            }
            self.field(Name::IpOptionType, at, 1);
            if kind == 1 {
                at += 1;
                continue;
            }
            if len < 2 || at + len > end {
                self.data(Name::IpOptionData, at + 1..end);
                return;
            }
            self.field(Name::IpOptionLength, at + 1, 1);
            // Record route, timestamp, loose and strict source route have a pointer.
            let pointer = usize::from(matches!(kind, 7 | 68 | 131 | 137) && len > 2);
            self.data(Name::IpOptionPointer, at + 2..at + 2 + pointer);
            self.data(Name::IpOptionData, at + 2 + pointer..at + len);
            at += len;
        }
    }

    /// RFC 8200. Returns where the packet ends.
    pub(super) fn ipv6(&mut self, start: usize, end: usize) -> usize {
        if end - start < 40 {
            self.data(Name::Data, start..end);
            return end;
        }
        self.begin("ipv6");
        self.bits(Name::Ipv6Version, start, 1, 0xf0);
        self.bits(Name::Ipv6Dscp, start, 2, 0x0fc0);
        self.bits(Name::Ipv6Ecn, start, 2, 0x0030);
        self.bits(Name::Ipv6Flow, start, 4, 0x000f_ffff);
        self.field(Name::Ipv6PayloadLength, start + 4, 2);
        self.field(Name::Ipv6Next, start + 6, 1);
        self.field(Name::Ipv6HopLimit, start + 7, 1);
        self.field(Name::Ipv6Source, start + 8, 16);
        self.field(Name::Ipv6Destination, start + 24, 16);
        let packet_end = end.min(start + 40 + usize::from(self.word(start + 4)));
        let index = self.out.packets.len();
        self.out.packets.push(Packet {
            place: self.place,
            start,
            source: IpAddr::V6(self.ipv6_address(start + 8)),
            destination: IpAddr::V6(self.ipv6_address(start + 24)),
            protocol: self.byte(start + 6),
            id: None,
            ports: None,
            state: 0..0,
            payload: start + 40..packet_end,
        });
        let (protocol, at, fragment) = self.ipv6_extensions(self.byte(start + 6), start + 40, packet_end);
        if let Some(packet) = self.out.packets.get_mut(index) {
            packet.protocol = protocol;
            packet.payload = at..packet_end;
            packet.id = fragment.map(|(id, _)| id);
        }
        let carried = Carried { protocol, range: at..packet_end, addresses: start + 8..start + 40 };
        if fragment.is_some_and(|(_, offset)| offset != 0) {
            self.data(Name::Data, carried.range);
        } else {
            self.transport(carried);
        }
        packet_end
    }

    /// The chain of extension headers: the protocol behind it, where that starts, and the fragment header's identification and offset.
    fn ipv6_extensions(&mut self, mut next: u8, mut at: usize, end: usize) -> (u8, usize, Option<(u32, u16)>) {
        let mut fragment = None;
        while at + 8 <= end {
            let len = (usize::from(self.byte(at + 1)) + 1) * 8;
            match next {
                44 => {
                    self.field(Name::Ipv6FragmentNext, at, 1);
                    self.field(Name::Ipv6FragmentReserved, at + 1, 1);
                    self.bits(Name::Ipv6FragmentOffset, at + 2, 2, 0xfff8);
                    self.bits(Name::Ipv6FragmentReservedBits, at + 2, 2, 0x0006);
                    self.bits(Name::Ipv6FragmentMore, at + 2, 2, 0x0001);
                    self.field(Name::Ipv6FragmentId, at + 4, 4);
                    let id = u32::from(self.word(at + 4)) << 16 | u32::from(self.word(at + 6));
                    fragment = Some((id, self.word(at + 2) >> 3));
                    next = self.byte(at);
                    at += 8;
                    if fragment.is_some_and(|(_, offset)| offset != 0) {
                        break;
                    }
                    continue;
                }
                0 | 60 if at + len <= end => {
                    let [following, length] = if next == 0 {
                        [Name::Ipv6HopOptionsNext, Name::Ipv6HopOptionsLength]
                    } else {
                        [Name::Ipv6DestinationOptionsNext, Name::Ipv6DestinationOptionsLength]
                    };
                    self.field(following, at, 1);
                    self.field(length, at + 1, 1);
                    self.data(Name::Ipv6Options, at + 2..at + len);
                }
                43 if at + len <= end => {
                    self.field(Name::Ipv6RoutingNext, at, 1);
                    self.field(Name::Ipv6RoutingLength, at + 1, 1);
                    self.field(Name::Ipv6RoutingType, at + 2, 1);
                    self.field(Name::Ipv6RoutingLeft, at + 3, 1);
                    self.data(Name::Ipv6RoutingData, at + 4..at + len);
                }
                _ => break,
            }
            next = self.byte(at);
            at += len;
        }
        (next, at, fragment)
    }

    fn ipv4_address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::from([self.byte(at), self.byte(at + 1), self.byte(at + 2), self.byte(at + 3)])
    }

    fn ipv6_address(&self, at: usize) -> Ipv6Addr {
        let mut octets = [0; 16];
        for (position, octet) in octets.iter_mut().enumerate() {
            *octet = self.byte(at + position);
        }
        Ipv6Addr::from(octets)
    }
}
