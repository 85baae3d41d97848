//! Takes a frame apart into fields, as far as its bytes go. Every byte of the frame belongs to a field.
//!
//! Parsing never fails: what is cut, malformed or unknown is `data`. Headers nest up to [`MAX_DEPTH`].

use super::fields::{Field, Name, Place};
use std::net::IpAddr;
use std::ops::Range;

#[path = "dissect_network.rs"]
mod network;
#[path = "dissect_transport.rs"]
mod transport;

/// How many packets may be nested in one another; deeper ones are `data`.
pub const MAX_DEPTH: u8 = 8;

/// The parts of a frame.
#[derive(Clone, Debug, Default)]
pub struct Dissection {
    /// Its fields, in order of offset.
    pub fields: Vec<Field>,
    /// Its Internet checksums.
    pub sums: Vec<Sum>,
    /// Its IP packets, outermost first.
    pub packets: Vec<Packet>,
    counts: Vec<(&'static str, u8)>,
}

/// An Internet checksum in a frame and what it covers, as byte offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Where the checksum stands.
    pub at: usize,
    /// The bytes that it covers, itself among them.
    pub covers: Range<usize>,
    /// The addresses of the IP header, if it covers them too (pseudo header).
    pub pseudo: Range<usize>,
}

/// An IP packet of a frame: what identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its place.
    pub place: Place,
    /// Where its header starts.
    pub start: usize,
    /// Its addresses.
    pub source: IpAddr,
    /// Its addresses.
    pub destination: IpAddr,
    /// The protocol it carries, after IPv6 extension headers.
    pub protocol: u8,
    /// The IPv4 identification, or that of an IPv6 fragment header.
    pub id: Option<u32>,
    /// The transport's ports, source first.
    pub ports: Option<(u16, u16)>,
    /// What tells segments of one flow apart: the header without ports, checksum and options (TCP: sequence, acknowledgment,
    /// flags; ICMP: type, code, identifier and sequence).
    pub state: Range<usize>,
    /// The payload of the transport, or of IP where the transport is unknown.
    pub payload: Range<usize>,
}

impl Dissection {
    /// Takes a frame apart.
    pub fn of(frame: &[u8]) -> Dissection {
        let mut dissection = Dissection::default();
        dissection.read(frame);
        dissection
    }

    /// Takes a frame apart, reusing the memory.
    pub fn read(&mut self, frame: &[u8]) {
        self.fields.clear();
        self.sums.clear();
        self.packets.clear();
        self.counts.clear();
        let frame = &frame[..frame.len().min(u32::MAX as usize)];
        Walk { frame, out: self, place: Place::Outer, layer: 1, depth: 0 }.ethernet();
    }

    /// The packet that the frame is about: the innermost that is not quoted by an ICMP error.
    pub fn innermost(&self) -> Option<&Packet> {
        self.packets.iter().rev().find(|packet| matches!(packet.place, Place::Outer | Place::Inner))
    }

    /// Offsets of the checksums that cover this byte.
    pub fn sums_over(&self, offset: usize) -> impl Iterator<Item = &Sum> {
        self.sums.iter().filter(move |sum| sum.at != offset && (sum.covers.contains(&offset) || sum.pseudo.contains(&offset)))
    }
}

struct Walk<'a> {
    frame: &'a [u8],
    out: &'a mut Dissection,
    place: Place,
    layer: u8,
    depth: u8,
}

impl Walk<'_> {
    /// Counts a header of that protocol; the fields that follow are its.
    fn begin(&mut self, protocol: &'static str) {
        self.layer = match self.out.counts.iter_mut().find(|(name, _)| *name == protocol) {
            Some((_, count)) => {
                *count = count.saturating_add(1);
                *count
            }
            None => {
                self.out.counts.push((protocol, 1));
                1
            }
        };
    }

    fn field(&mut self, name: Name, start: usize, len: usize) {
        self.bits(name, start, len, 0);
    }

    fn bits(&mut self, name: Name, start: usize, len: usize, mask: u64) {
        if len == 0 || start + len > self.frame.len() {
            return;
        }
        self.out.fields.push(Field { name, place: self.place, layer: self.layer, start: start as u32, len: len as u32, mask });
    }

    /// What is left without further meaning.
    fn data(&mut self, name: Name, range: Range<usize>) {
        if range.start < range.end {
            self.field(name, range.start, range.end - range.start);
        }
    }

    fn byte(&self, at: usize) -> u8 {
        self.frame.get(at).copied().unwrap_or(0)
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.byte(at), self.byte(at + 1)])
    }

    fn ethernet(&mut self) {
        let end = self.frame.len();
        if end < 14 {
            self.data(Name::Data, 0..end);
            return;
        }
        self.begin("eth");
        self.field(Name::EthDestination, 0, 6);
        self.field(Name::EthSource, 6, 6);
        let mut kind = self.word(12);
        self.field(if kind < 0x600 { Name::EthLength } else { Name::EthType }, 12, 2);
        let mut at = 14;
        while matches!(kind, 0x8100 | 0x88a8) && at + 4 <= end {
            let [priority, dei, id] = if kind == 0x8100 {
                self.begin("vlan");
                [Name::VlanPriority, Name::VlanDei, Name::VlanId]
            } else {
                self.begin("ieee8021ad");
                [Name::ProviderPriority, Name::ProviderDei, Name::ProviderId]
            };
            self.bits(priority, at, 1, 0xe0);
            self.bits(dei, at, 1, 0x10);
            self.bits(id, at, 2, 0x0fff);
            self.field(Name::VlanType, at + 2, 2);
            kind = self.word(at + 2);
            at += 4;
        }
        let used = self.ethertype(kind, at, end);
        // Short frames are padded to 60 bytes on the wire; more than that is no padding.
        self.layer = 1;
        self.place = Place::Outer;
        self.data(if end <= 60 { Name::EthPadding } else { Name::EthTrailer }, used..end);
    }

    /// What an Ethernet type or a GRE protocol says stands here. Returns where it ends.
    fn ethertype(&mut self, kind: u16, start: usize, end: usize) -> usize {
        match kind {
            0x0800 => self.ipv4(start, end),
            0x86dd => self.ipv6(start, end),
            0x0806 => self.arp(start, end),
            _ => {
                self.data(Name::Data, start..end);
                end
            }
        }
    }

    fn arp(&mut self, start: usize, end: usize) -> usize {
        if end - start < 8 {
            self.data(Name::Data, start..end);
            return end;
        }
        self.begin("arp");
        self.field(Name::ArpHardwareType, start, 2);
        self.field(Name::ArpProtocolType, start + 2, 2);
        self.field(Name::ArpHardwareSize, start + 4, 1);
        self.field(Name::ArpProtocolSize, start + 5, 1);
        self.field(Name::ArpOpcode, start + 6, 2);
        // Only Ethernet with IPv4 has fields of known size.
        if end - start < 28 || self.byte(start + 4) != 6 || self.byte(start + 5) != 4 {
            self.data(Name::Data, start + 8..end);
            return end;
        }
        self.field(Name::ArpSourceMac, start + 8, 6);
        self.field(Name::ArpSourceIpv4, start + 14, 4);
        self.field(Name::ArpTargetMac, start + 18, 6);
        self.field(Name::ArpTargetIpv4, start + 24, 4);
        start + 28
    }

    /// A packet inside another: of a tunnel, or quoted. Returns where it ends.
    fn nested(&mut self, place: Place, kind: u16, start: usize, end: usize) -> usize {
        if self.depth >= MAX_DEPTH {
            self.data(Name::Data, start..end);
            return end;
        }
        let outside = (self.place, self.layer);
        self.place = place;
        self.depth += 1;
        let used = self.ethertype(kind, start, end);
        self.depth -= 1;
        // What follows the inner packet's own length is still inside.
        self.data(Name::Data, used..end);
        (self.place, self.layer) = outside;
        end
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// SYN of 198.51.100.1:42000 to 200.200.200.1:80 in an IPIP tunnel from 10.0.0.1 to 10.0.0.13.
    fn tunnelled() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 2, 13, 2, 0, 0, 0, 1, 1, 8, 0];
        frame.extend([0x45, 0, 0, 60, 0, 0, 0x40, 0, 63, 4, 0x27, 0xb0, 10, 0, 0, 1, 10, 0, 0, 13]);
        frame.extend([0x45, 0, 0, 40, 0x10, 1, 0x40, 0, 63, 6, 0, 0, 198, 51, 100, 1, 200, 200, 200, 1]);
        frame.extend([0xa4, 0x10, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn a_tunnel_has_outer_and_inner_fields() {
        let frame = tunnelled();
        let dissection = Dissection::of(&frame);
        let shown: Vec<_> = dissection
            .fields
            .iter()
            .filter(|field| ["ip.ttl", "ip.dst", "tcp.dstport", "tcp.flags.syn"].contains(&field.name.text()))
            .map(|field| format!("{field}#{} = {}", field.layer, field.value(&frame)))
            .collect();
        assert_eq!(
            shown,
            [
                "ip.ttl#1 = 63",
                "ip.dst#1 = 10.0.0.13",
                "inner ip.ttl#2 = 63",
                "inner ip.dst#2 = 200.200.200.1",
                "inner tcp.dstport#1 = 80",
                "inner tcp.flags.syn#1 = 1"
            ]
        );
        assert_eq!(dissection.innermost().unwrap().ports, Some((42000, 80)));
    }

    proptest! {
        #[test]
        fn every_byte_belongs_to_a_field_whatever_the_frame_holds(
            seed in prop::collection::vec(any::<u8>(), 0..200),
            flips in prop::collection::vec((0..74usize, any::<u8>()), 0..6),
            cut in 0..75usize,
            random in any::<bool>(),
        ) {
            let mut frame = if random { seed } else { tunnelled() };
            for (at, value) in flips {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            if !random {
                frame.truncate(cut);
            }
            let dissection = Dissection::of(&frame);
            let mut covered = vec![0u8; frame.len()];
            for field in &dissection.fields {
                let range = field.start as usize..(field.start + field.len) as usize;
                let mask = if field.mask == 0 { u64::MAX } else { field.mask };
                let len = range.len();
                for (position, byte) in covered[range].iter_mut().enumerate() {
                    *byte |= if len > 8 { 0xff } else { (mask >> (8 * (len - 1 - position))) as u8 };
                }
            }
            prop_assert!(covered.iter().all(|bits| *bits == 0xff), "{covered:02x?} {frame:02x?}");
        }
    }
}
