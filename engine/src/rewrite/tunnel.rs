//! Tunnels (`ipvsadm -i`): IP in IP, GUE, GRE, over either family (reference/linux-ipvs.md section 6.6b,
//! reference/linux-findings.md section 3).

use super::edit::First;
use crate::config::{Tunnel, TunnelChecksum, TunnelKind};
use crate::packet::ethernet::ether_type;
use crate::packet::ipv4::Ipv4Fields;
use crate::packet::ipv6::Ipv6Fields;
use crate::packet::{Headers, be16, checksum, gre, gue, ipv4, ipv6, put16, udp};
use std::net::IpAddr;

/// What the outer header needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The director's address on the way to the real server.
    pub source: IpAddr,
    /// The real server.
    pub destination: IpAddr,
    /// Identification, used when the outer header is IPv4 without "don't fragment".
    pub id: u16,
    /// UDP source port of GUE.
    pub gue_source_port: u16,
    /// net.ipv4.vs.pmtu_disc: an IPv4 packet's "don't fragment" is copied.
    pub copy_dont_fragment: bool,
}

/// Bytes that a tunnel puts before a packet.
pub const fn overhead(tunnel: Tunnel, over_ipv4: bool) -> usize {
    let ip = if over_ipv4 { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
    ip + match tunnel.kind {
        TunnelKind::Ipip => 0,
        TunnelKind::Gue { .. } => udp::HEADER_LEN + gue::HEADER_LEN,
        TunnelKind::Gre => gre::header_len(has_checksum(tunnel)),
    }
}

/// Whether the tunnel header carries a checksum, which in GUE covers the source port too. GUE's remote checksum option is never added to a packet from a wire; what
/// remains of it is the UDP checksum.
pub const fn has_checksum(tunnel: Tunnel) -> bool {
    !matches!(tunnel.checksum, TunnelChecksum::None)
}

/// Whether the outer header is IPv4 with an identification that the kernel draws.
pub fn draws_id(headers: &Headers, outer: &Outer) -> bool {
    outer.source.is_ipv4() && !copies_dont_fragment(headers, outer)
}

fn copies_dont_fragment(inner: &Headers, outer: &Outer) -> bool {
    outer.copy_dont_fragment && inner.source.is_ipv4() && inner.dont_fragment
}

/// Type of service of the outer header: congestion experienced becomes capable of it, the tunnel starts anew (RFC 3168 section
/// 9.1.1).
const fn outer_tos(tos: u8) -> u8 {
    if tos & 3 == 3 { tos & !1 } else { tos }
}

/// The protocol of what follows the outer header.
fn outer_protocol(inner: &Headers, tunnel: Tunnel) -> u8 {
    match tunnel.kind {
        TunnelKind::Ipip if inner.source.is_ipv4() => 4,
        TunnelKind::Ipip => 41,
        TunnelKind::Gue { .. } => 17,
        TunnelKind::Gre => 47,
    }
}

/// The outer header over IPv4 of a packet that has lost its hop; none over IPv6.
pub fn outer_ipv4(headers: &Headers, tunnel: Tunnel, outer: &Outer) -> Option<Ipv4Fields> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (outer.source, outer.destination) else { return None };
    let dont_fragment = copies_dont_fragment(headers, outer);
    let total_len = (overhead(tunnel, true) + headers.total_len) as u16;
    let (tos, protocol) = (outer_tos(headers.tos), outer_protocol(headers, tunnel));
    let id = if dont_fragment { 0 } else { outer.id };
    Some(Ipv4Fields { tos, total_len, id, dont_fragment, ttl: headers.ttl, protocol, source, destination })
}

/// What a tunnel over IPv4 puts before packets of IPv4 that say not to fragment them, if they are copied that: made once, for
/// only a little of it differs from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    bytes: [u8; Prefix::ROOM],
    len: usize,
    /// The outer header's checksum while type of service, length and TTL are 0.
    check: u16,
}

impl Prefix {
    /// The longest one.
    pub const ROOM: usize = ipv4::HEADER_LEN + gre::header_len(false);

    /// That of a tunnel; none if its headers depend on more of a packet.
    pub fn of(tunnel: Tunnel, source: IpAddr, destination: IpAddr) -> Option<Prefix> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { return None };
        let mut gre = Vec::new();
        let protocol = match tunnel.kind {
            TunnelKind::Ipip => 4,
            TunnelKind::Gre if !has_checksum(tunnel) => {
                gre::write(&mut gre, false, ether_type::IPV4);
                47
            }
            TunnelKind::Gre | TunnelKind::Gue { .. } => return None,
        };
        let fields = Ipv4Fields { tos: 0, total_len: 0, id: 0, dont_fragment: true, ttl: 0, protocol, source, destination };
        let header = fields.header();
        let mut bytes = [0; Prefix::ROOM];
        bytes.iter_mut().zip(header.iter().chain(&gre)).for_each(|(place, byte)| *place = *byte);
        Some(Prefix { bytes, len: header.len() + gre.len(), check: be16(&header, 10) })
    }

    /// How many bytes it has.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What stands before a packet that begins so; its hop is not taken yet. Only the first [`Prefix::len`] bytes count.
    #[inline]
    pub fn before(&self, packet: &First) -> [u8; Prefix::ROOM] {
        let tos = outer_tos(packet[1]);
        let total_len = u16::from_be_bytes([packet[2], packet[3]]).wrapping_add(self.len as u16);
        let ttl = packet[8].saturating_sub(1);
        let sum = checksum::Sum::of_field(self.check).word(tos.into()).word(total_len).word(u16::from(ttl) << 8);
        let mut bytes = self.bytes;
        bytes[1] = tos;
        bytes[2..4].copy_from_slice(&total_len.to_be_bytes());
        bytes[8] = ttl;
        bytes[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
        bytes
    }
}

/// Appends the packet in its tunnel. `inner` has lost its hop already, and `headers` are its own. Checksums over a packet
/// whose end was not captured cover what is there.
pub fn encapsulate(inner: &[u8], headers: &Headers, tunnel: Tunnel, outer: &Outer, out: &mut Vec<u8>) {
    match (outer_ipv4(headers, tunnel, outer), outer.source, outer.destination) {
        (Some(fields), ..) => fields.write(out),
        (None, IpAddr::V6(source), IpAddr::V6(destination)) => {
            let fields = Ipv6Fields {
                traffic_class: outer_tos(headers.tos),
                flow_label: 0,
                payload_len: (overhead(tunnel, false) - ipv6::HEADER_LEN + headers.total_len) as u16,
                next_header: outer_protocol(headers, tunnel),
                hop_limit: headers.ttl,
                source,
                destination,
            };
            fields.write(out);
        }
        // A director has no source of one family towards a destination of the other.
        _ => return,
    }
    let inner_protocol = if headers.source.is_ipv4() { 4 } else { 41 };
    let start = out.len();
    match tunnel.kind {
        TunnelKind::Ipip => out.extend_from_slice(inner),
        TunnelKind::Gue { port } => {
            let length = headers.total_len + udp::HEADER_LEN + gue::HEADER_LEN;
            out.extend_from_slice(&udp::header(outer.gue_source_port, port, length as u16));
            out.extend_from_slice(&gue::header(inner_protocol));
            out.extend_from_slice(inner);
            if has_checksum(tunnel) {
                let pseudo = checksum::pseudo_header(outer.source, outer.destination, 17, length);
                let check = pseudo.bytes(&out[start..]).udp_checksum();
                put16(&mut out[start..], udp::CHECKSUM_AT, check);
            }
        }
        TunnelKind::Gre => {
            let kind = if headers.source.is_ipv4() { ether_type::IPV4 } else { ether_type::IPV6 };
            gre::write(out, has_checksum(tunnel), kind);
            out.extend_from_slice(inner);
            gre::fill_checksum(&mut out[start..]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packet::Ipv4;
    use proptest::prelude::*;

    fn inner(v4: bool, tos: u8, dont_fragment: bool, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        if v4 {
            let fields = Ipv4Fields {
                tos,
                total_len: (20 + body.len()) as u16,
                id: 7,
                dont_fragment,
                ttl: 63,
                protocol: 17,
                source: [203, 0, 113, 5].into(),
                destination: [200, 200, 200, 1].into(),
            };
            fields.write(&mut bytes);
        } else {
            let fields = Ipv6Fields {
                traffic_class: tos,
                flow_label: 9,
                payload_len: body.len() as u16,
                next_header: 17,
                hop_limit: 63,
                source: "2001:db8::5".parse().unwrap(),
                destination: "2001:db8:200::1".parse().unwrap(),
            };
            fields.write(&mut bytes);
        }
        bytes.extend_from_slice(body);
        bytes
    }

    fn outer(v4: bool) -> Outer {
        let (source, destination) = if v4 { ("10.0.0.1", "10.0.0.11") } else { ("2001:db8:10::1", "2001:db8:10::11") };
        Outer {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            id: 0x4242,
            gue_source_port: 40000,
            copy_dont_fragment: true,
        }
    }

    #[test]
    fn congestion_experienced_and_dont_fragment() {
        let packet = inner(true, 0xff, true, &[0; 8]);
        let mut sent = Vec::new();
        let headers = Headers::of(&packet).unwrap();
        encapsulate(&packet, &headers, Tunnel::default(), &outer(true), &mut sent);
        let view = Ipv4::new_checked(&sent[..]).unwrap();
        assert_eq!((view.tos(), view.id(), view.dont_fragment(), view.ttl(), view.protocol()), (0xfe, 0, true, 63, 4));
        let free = Outer { copy_dont_fragment: false, ..outer(true) };
        sent.clear();
        encapsulate(&packet, &headers, Tunnel::default(), &free, &mut sent);
        let view = Ipv4::new_checked(&sent[..]).unwrap();
        assert_eq!((view.id(), view.dont_fragment()), (0x4242, false));
    }

    proptest! {
        #[test]
        fn a_prefix_is_what_stands_before_a_packet(tos: u8, len in 40u16.., ttl in 1u8.., gre: bool, source: [u8; 4], destination: [u8; 4]) {
            let tunnel = Tunnel { kind: if gre { TunnelKind::Gre } else { TunnelKind::Ipip }, ..Tunnel::default() };
            let mut packet = inner(true, tos, true, &[0; 20]);
            packet[2..4].copy_from_slice(&len.to_be_bytes());
            packet[8] = ttl;
            let prefix = Prefix::of(tunnel, source.into(), destination.into()).unwrap();
            let before = prefix.before(packet.first_chunk().unwrap());
            packet[8] -= 1;
            // The packet need not be there to say how long it is.
            let headers = Headers { tos, total_len: len.into(), ttl: ttl - 1, ..Headers::of(&inner(true, tos, true, &[0; 20])).unwrap() };
            let mut sent = Vec::new();
            let outer = Outer { source: source.into(), destination: destination.into(), ..outer(true) };
            encapsulate(&packet, &headers, tunnel, &outer, &mut sent);
            if usize::from(len) + prefix.len() <= usize::from(u16::MAX) {
                prop_assert_eq!(&before[..prefix.len()], &sent[..sent.len() - packet.len()]);
            }
        }

        #[test]
        fn emitted_packets_parse(v4: bool, over_v4: bool, kind in 0usize..3, check: bool,
            body in proptest::collection::vec(any::<u8>(), 8..200)) {
            let kind = [TunnelKind::Ipip, TunnelKind::Gue { port: 6080 }, TunnelKind::Gre][kind];
            let checksum = if check { TunnelChecksum::Checksum } else { TunnelChecksum::None };
            let tunnel = Tunnel { kind, checksum };
            let packet = inner(v4, 0, false, &body);
            let mut sent = Vec::new();
            let inner_headers = Headers::of(&packet).unwrap();
            encapsulate(&packet, &inner_headers, tunnel, &outer(over_v4), &mut sent);
            prop_assert_eq!(sent.len(), packet.len() + overhead(tunnel, over_v4));
            prop_assert!(sent.ends_with(&packet));
            let headers = Headers::of(&sent).unwrap();
            prop_assert_eq!(headers.total_len, sent.len());
            let transport = headers.transport(&sent);
            match kind {
                TunnelKind::Ipip => prop_assert_eq!(headers.protocol, if v4 { 4 } else { 41 }),
                TunnelKind::Gue { .. } => {
                    prop_assert_eq!(gue::parse(&transport[8..]), Some((4, if v4 { 4 } else { 41 })));
                    let sum = checksum::pseudo_header(headers.source, headers.destination, 17, transport.len());
                    prop_assert_eq!(checksum::is_right(sum.bytes(transport)), check);
                }
                TunnelKind::Gre => {
                    let expected = (gre::header_len(check), if v4 { 0x0800 } else { 0x86dd });
                    prop_assert_eq!(gre::parse(transport), Some(expected));
                }
            }
        }
    }
}
