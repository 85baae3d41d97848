//! A packet under way: its bytes from the IP header on, what its headers say, and what must be done to it when bytes come
//! or go. Contract: [`Packet::parse`] checks every length once; accessors return zero beyond the end and never panic.

use crate::config::{InterfaceId, MacAddr, Protocol};
use crate::draws::Draw;
use crate::output::{DrawnField, DrawnKind};
use crate::packet::checksum::{self, Sum, internet, is_right, pseudo_header};
use crate::packet::ipv4::Ipv4Fields;
use crate::packet::ipv6::Ipv6Fields;
use crate::time::Nanos;
use crate::verdict::DropReason;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where a frame came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// When it arrived.
    pub(super) time: Nanos,
    /// Where.
    pub(super) interface: InterfaceId,
    /// Its Ethernet source.
    pub(super) source_mac: MacAddr,
    /// Its Ethernet destination.
    pub(super) destination_mac: MacAddr,
}

/// A packet under way.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    /// From the IP header on, without link padding; what a short snap length left.
    pub(super) bytes: Vec<u8>,
    /// Where it came from.
    pub(super) origin: Origin,
    /// The transport protocol, behind extension headers.
    pub(super) protocol: Protocol,
    /// Where the transport header begins.
    pub(super) transport: usize,
    /// Fields that hold draws; offsets from the IP header.
    pub(super) drawn: Vec<DrawnField>,
    /// Bytes at the end that the capture does not hold.
    pub(super) cut: u32,
    /// Their part of the transport checksum, as if they began at an even offset of it.
    cut_sum: u16,
}

/// Offsets of the TCP header.
pub(super) mod tcp {
    pub(in crate::dpvs) const SEQUENCE: usize = 4;
    pub(in crate::dpvs) const ACKNOWLEDGEMENT: usize = 8;
    pub(in crate::dpvs) const DATA_OFFSET: usize = 12;
    pub(in crate::dpvs) const FLAGS: usize = 13;
    pub(in crate::dpvs) const WINDOW: usize = 14;
    pub(in crate::dpvs) const HEADER: usize = 20;
}

impl Packet {
    /// Reads the packet in `bytes`. `cut` is how many bytes the capture left off behind them.
    ///
    /// # Errors
    /// Why the receive path of DPVS drops it (reference/dpvs-fullnat.md section 1, point 2).
    pub(super) fn parse(bytes: &[u8], cut: u32, origin: Origin) -> Result<Packet, DropReason> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Packet::parse_ipv4(bytes, cut, origin),
            Some(6) => Packet::parse_ipv6(bytes, cut, origin),
            _ => Err(DropReason::BadIpHeader),
        }
    }

    fn parse_ipv4(bytes: &[u8], cut: u32, origin: Origin) -> Result<Packet, DropReason> {
        let header = usize::from(bytes[0] & 0xf) * 4;
        if header < 20 || bytes.len() < header {
            return Err(DropReason::BadIpHeader);
        }
        if !is_right(Sum::new().bytes(&bytes[..header])) {
            return Err(DropReason::BadIpChecksum);
        }
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        if length < header {
            return Err(DropReason::BadIpHeader);
        }
        let protocol = Protocol(bytes[9]);
        Packet::of_length(bytes, length, cut, origin, protocol, header)
    }

    fn parse_ipv6(bytes: &[u8], cut: u32, origin: Origin) -> Result<Packet, DropReason> {
        if bytes.len() < 40 {
            return Err(DropReason::BadIpHeader);
        }
        let length = 40 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        let (mut next, mut at) = (bytes[6], 40);
        // Hop-by-hop, routing, destination options, fragment, authentication (RFC 8200 section 4, RFC 4302).
        while matches!(next, 0 | 43 | 44 | 51 | 60) {
            let Some([following, size]) = bytes.get(at..at + 2).and_then(|pair| <[u8; 2]>::try_from(pair).ok()) else {
                return Err(DropReason::BadIpHeader);
            };
            let step = match next {
                44 => {
                    let field = bytes.get(at + 2..at + 4).map_or(0, |field| u16::from_be_bytes([field[0], field[1]]));
                    if field & 0xfff8 != 0 {
                        return Err(DropReason::FragmentRefused);
                    }
                    8
                }
                51 => (usize::from(size) + 2) * 4,
                _ => (usize::from(size) + 1) * 8,
            };
            at += step;
            if at > bytes.len() {
                return Err(DropReason::BadIpHeader);
            }
            next = following;
        }
        Packet::of_length(bytes, length, cut, origin, Protocol(next), at)
    }

    fn of_length(
        bytes: &[u8],
        length: usize,
        cut: u32,
        origin: Origin,
        protocol: Protocol,
        transport: usize,
    ) -> Result<Packet, DropReason> {
        if length > bytes.len() + cut as usize {
            return Err(DropReason::IpTruncated);
        }
        if length < transport {
            return Err(DropReason::BadIpHeader);
        }
        let held = &bytes[..length.min(bytes.len())];
        let mut packet = Packet {
            bytes: held.to_vec(),
            origin,
            protocol,
            transport,
            drawn: Vec::new(),
            cut: (length - held.len()) as u32,
            cut_sum: 0,
        };
        if packet.cut > 0 && packet.checksum_offset().is_some_and(|at| packet.u16(at) != 0) {
            // What is missing must bring the sum to all ones.
            packet.cut_sum = packet.transport_sum().checksum();
        }
        Ok(packet)
    }

    /// A packet that the director builds itself.
    pub(super) fn build(bytes: Vec<u8>, protocol: Protocol, transport: usize, origin: Origin) -> Packet {
        Packet { bytes, origin, protocol, transport, drawn: Vec::new(), cut: 0, cut_sum: 0 }
    }

    /// Whether it is IPv4.
    pub(super) fn is_ipv4(&self) -> bool {
        self.bytes.first().is_some_and(|byte| byte >> 4 == 4)
    }

    /// Its length by its IP header, in bytes, cut bytes included.
    pub(super) fn length(&self) -> usize {
        self.bytes.len() + self.cut as usize
    }

    /// A byte; zero beyond the end.
    pub(super) fn u8(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// Two bytes as a number.
    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.u8(at), self.u8(at + 1)])
    }

    /// Four bytes as a number.
    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    /// Writes bytes; what lies beyond the end is left out.
    pub(super) fn put(&mut self, at: usize, value: &[u8]) {
        for (slot, byte) in self.bytes.iter_mut().skip(at).zip(value) {
            *slot = *byte;
        }
    }

    /// Its IP source.
    pub(super) fn source(&self) -> IpAddr {
        if self.is_ipv4() { self.address4(12) } else { self.address6(8) }
    }

    /// Its IP destination.
    pub(super) fn destination(&self) -> IpAddr {
        if self.is_ipv4() { self.address4(16) } else { self.address6(24) }
    }

    fn address4(&self, at: usize) -> IpAddr {
        Ipv4Addr::from(self.u32(at)).into()
    }

    fn address6(&self, at: usize) -> IpAddr {
        let mut octets = [0; 16];
        for (slot, byte) in octets.iter_mut().zip(self.bytes.iter().skip(at)) {
            *slot = *byte;
        }
        Ipv6Addr::from(octets).into()
    }

    /// Sets both addresses; they must be of the packet's family.
    pub(super) fn set_addresses(&mut self, source: IpAddr, destination: IpAddr) {
        self.set_source(source);
        self.set_destination(destination);
    }

    /// Sets the IP source.
    pub(super) fn set_source(&mut self, address: IpAddr) {
        self.put_address(if self.is_ipv4() { 12 } else { 8 }, address);
    }

    /// Sets the IP destination.
    pub(super) fn set_destination(&mut self, address: IpAddr) {
        self.put_address(if self.is_ipv4() { 16 } else { 24 }, address);
    }

    /// Writes an address at an offset.
    pub(super) fn put_address(&mut self, at: usize, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.put(at, &address.octets()),
            IpAddr::V6(address) => self.put(at, &address.octets()),
        }
    }

    /// Source and destination with ports.
    pub(super) fn ends(&self) -> (SocketAddr, SocketAddr) {
        let (from, to) = (self.u16(self.transport), self.u16(self.transport + 2));
        (SocketAddr::new(self.source(), from), SocketAddr::new(self.destination(), to))
    }

    /// Sets addresses and ports.
    pub(super) fn set_ends(&mut self, source: SocketAddr, destination: SocketAddr) {
        self.set_addresses(source.ip(), destination.ip());
        self.put(self.transport, &source.port().to_be_bytes());
        self.put(self.transport + 2, &destination.port().to_be_bytes());
    }

    /// Hop limit or TTL.
    pub(super) fn ttl(&self) -> u8 {
        self.u8(if self.is_ipv4() { 8 } else { 7 })
    }

    /// Sets hop limit or TTL.
    pub(super) fn set_ttl(&mut self, ttl: u8) {
        self.put(if self.is_ipv4() { 8 } else { 7 }, &[ttl]);
    }

    /// TOS or traffic class.
    pub(super) fn traffic_class(&self) -> u8 {
        if self.is_ipv4() { self.u8(1) } else { (self.u16(0) >> 4) as u8 }
    }

    /// IPv4: don't fragment. IPv6 packets never may be fragmented on the way.
    pub(super) fn dont_fragment(&self) -> bool {
        !self.is_ipv4() || self.u8(6) & 0x40 != 0
    }

    /// IPv4: a first or later fragment.
    pub(super) fn is_ipv4_fragment(&self) -> bool {
        self.is_ipv4() && self.u16(6) & 0x3fff != 0
    }

    /// TCP: the flag byte.
    pub(super) fn tcp_flags(&self) -> u8 {
        self.u8(self.transport + tcp::FLAGS)
    }

    /// TCP: the header's length in bytes, at least 20.
    pub(super) fn tcp_header_len(&self) -> usize {
        (usize::from(self.u8(self.transport + tcp::DATA_OFFSET) >> 4) * 4).max(tcp::HEADER)
    }

    /// TCP: the options, as far as they are there.
    pub(super) fn tcp_options(&self) -> &[u8] {
        let end = (self.transport + self.tcp_header_len()).min(self.bytes.len());
        self.bytes.get(self.transport + tcp::HEADER..end).unwrap_or(&[])
    }

    /// TCP: bytes of payload.
    pub(super) fn tcp_payload_len(&self) -> usize {
        self.length().saturating_sub(self.transport + self.tcp_header_len())
    }

    /// Puts bytes in at an offset, and keeps the IP length right. The IP header's checksum is left to [`Packet::finish`].
    pub(super) fn insert(&mut self, at: usize, bytes: &[u8]) {
        let at = at.min(self.bytes.len());
        self.bytes.splice(at..at, bytes.iter().copied());
        self.length_changed(bytes.len() % 2 == 1 && at >= self.transport);
    }

    /// Takes bytes out, and keeps the IP length right.
    pub(super) fn remove(&mut self, at: usize, count: usize) {
        let end = (at + count).min(self.bytes.len());
        let at = at.min(end);
        self.bytes.drain(at..end);
        self.length_changed((end - at) % 2 == 1 && at >= self.transport);
    }

    /// Cuts everything off from an offset on; then nothing is missing from the capture either.
    pub(super) fn truncate(&mut self, at: usize) {
        self.bytes.truncate(at);
        (self.cut, self.cut_sum) = (0, 0);
        self.length_changed(false);
    }

    fn length_changed(&mut self, odd: bool) {
        if odd {
            self.cut_sum = self.cut_sum.swap_bytes();
        }
        let length = self.length();
        if self.is_ipv4() {
            self.put(2, &(length as u16).to_be_bytes());
        } else {
            self.put(4, &(length.saturating_sub(40) as u16).to_be_bytes());
        }
    }

    /// Where the transport checksum stands, for protocols that have one over a pseudo header, and ICMP.
    pub(super) fn checksum_offset(&self) -> Option<usize> {
        let at = self.transport
            + match self.protocol {
                Protocol::TCP => 16,
                Protocol::UDP => 6,
                Protocol::ICMP | Protocol::ICMPV6 => 2,
                _ => return None,
            };
        (at + 2 <= self.bytes.len()).then_some(at)
    }

    /// The sum of the pseudo header and everything from the transport header on.
    fn transport_sum(&self) -> Sum {
        let body = self.bytes.get(self.transport..).unwrap_or(&[]);
        let length = self.length() - self.transport.min(self.length());
        let pseudo = match self.protocol {
            Protocol::ICMP => Sum::new(),
            protocol => pseudo_header(self.source(), self.destination(), protocol.0, length),
        };
        pseudo.bytes(body).word(self.cut_sum)
    }

    /// Whether the transport checksum is right; for a cut packet that can't be told and counts as right.
    pub(super) fn checksum_is_right(&self) -> bool {
        self.cut > 0 || is_right(self.transport_sum())
    }

    /// Computes the transport checksum afresh (TCP, UDP, ICMP; the CRC of SCTP), and the IPv4 header's.
    pub(super) fn finish(&mut self) {
        if let Some(at) = self.checksum_offset() {
            self.put(at, &[0, 0]);
            let sum = self.transport_sum();
            let checksum = if self.protocol == Protocol::UDP { sum.udp_checksum() } else { sum.checksum() };
            self.put(at, &checksum.to_be_bytes());
        } else if self.protocol == Protocol::SCTP
            && self.cut == 0
            && let Some(crc) = self.sctp_crc()
        {
            self.put(self.transport + 8, &crc);
        }
        self.finish_ip();
    }

    /// Computes the IPv4 header's checksum afresh.
    pub(super) fn finish_ip(&mut self) {
        if self.is_ipv4() {
            finish_ipv4_header(&mut self.bytes);
        }
    }

    /// The CRC32c that an SCTP packet must have (RFC 9260 appendix A), in wire order.
    pub(super) fn sctp_crc(&self) -> Option<[u8; 4]> {
        let body = self.bytes.get(self.transport..)?;
        let (head, tail) = (body.get(..8)?, body.get(12..)?);
        Some(checksum::sctp(&[head, &[0; 4], tail]))
    }

    /// Says that four bytes, at an offset from the transport header, are a known number plus or minus a draw.
    pub(super) fn mark(&mut self, at: usize, draw: Draw, kind: DrawnKind) {
        let at = self.transport + at;
        let mut field = DrawnField { kind, ..DrawnField::value(draw, at, 4) };
        if let Some(checksum) = self.checksum_offset() {
            field = field.summed_at(checksum);
        }
        self.drawn.push(field);
    }
}

/// Computes the checksum of the IPv4 header at the start of `bytes` afresh; nothing if no whole header stands there.
pub(super) fn finish_ipv4_header(bytes: &mut [u8]) {
    let header = bytes.first().map_or(0, |byte| usize::from(byte & 0xf) * 4);
    if header < 20 || bytes.len() < header {
        return;
    }
    bytes[10..12].fill(0);
    let checksum = internet(&bytes[..header]);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// An IPv4 header without options.
pub(super) fn ipv4_header(
    protocol: Protocol,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    length: usize,
    tos: u8,
    dont_fragment: bool,
    ttl: u8,
) -> [u8; 20] {
    let total_len = length as u16;
    Ipv4Fields { tos, total_len, id: 0, dont_fragment, ttl, protocol: protocol.0, source, destination }.header()
}

/// An IPv6 header; `label` is traffic class and flow label, 28 bits.
pub(super) fn ipv6_header(
    protocol: Protocol,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    payload: usize,
    label: u32,
    hop_limit: u8,
) -> Vec<u8> {
    let mut header = Vec::with_capacity(40);
    let fields = Ipv6Fields {
        traffic_class: (label >> 20) as u8,
        flow_label: label & 0x000f_ffff,
        payload_len: payload as u16,
        next_header: protocol.0,
        hop_limit,
        source,
        destination,
    };
    fields.write(&mut header);
    header
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn origin() -> Origin {
        Origin { time: Nanos(0), interface: InterfaceId(0), source_mac: MacAddr::ZERO, destination_mac: MacAddr::ZERO }
    }

    /// A segment of `payload` bytes with a right checksum.
    fn segment(payload: &[u8], four: bool) -> Packet {
        let body = 20 + payload.len();
        let mut bytes = if four {
            ipv4_header(Protocol::TCP, Ipv4Addr::new(1, 2, 3, 4), Ipv4Addr::new(5, 6, 7, 8), 20 + body, 0, true, 64).to_vec()
        } else {
            ipv6_header(Protocol::TCP, Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, body, 0, 64)
        };
        let transport = bytes.len();
        bytes.extend([0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0x50, 0x10, 0, 9, 0, 0, 0, 0]);
        bytes.extend(payload);
        let mut packet = Packet::build(bytes, Protocol::TCP, transport, origin());
        packet.finish();
        packet
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), version in any::<bool>(), cut in 0u32..50) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = if version { 0x45 } else { 0x60 };
            }
            finish_ipv4_header(&mut bytes);
            if let Ok(mut packet) = Packet::parse(&bytes, cut, origin()) {
                packet.set_ends("1.2.3.4:5".parse().unwrap(), "6.7.8.9:10".parse().unwrap());
                packet.insert(packet.transport, &[1, 2, 3]);
                packet.remove(packet.transport + 10, 100);
                packet.finish();
            }
        }

        /// A packet that a snap length cut gets the same checksum as the whole one.
        #[test]
        fn cut_packets_get_the_right_checksum(payload in proptest::collection::vec(any::<u8>(), 1..60), keep in 0usize..60, four in any::<bool>(), extra in proptest::collection::vec(any::<u8>(), 0..5)) {
            let whole = segment(&payload, four);
            let keep = (whole.transport + 20 + keep).min(whole.bytes.len());
            let cut = (whole.bytes.len() - keep) as u32;
            let change = |packet: &Packet, cut| {
                let mut packet = Packet::parse(&packet.bytes[..packet.bytes.len() - cut as usize], cut, origin()).unwrap();
                packet.set_ends(packet.ends().1, packet.ends().0);
                packet.insert(packet.transport + 20, &extra);
                packet.finish();
                packet
            };
            let (expected, got) = (change(&whole, 0), change(&whole, cut));
            prop_assert!(expected.checksum_is_right());
            prop_assert_eq!(&expected.bytes[..got.bytes.len()], &got.bytes[..]);
            prop_assert_eq!(expected.length(), got.length());
        }
    }
}
