//! NAT (`ipvsadm -m`): one end of the packet gets another address and port, checksums are updated (reference/linux-ipvs.md
//! sections 6.6a and 7.1).

use crate::packet::checksum::{self, Sum};
use crate::packet::{Headers, Ipv4, Ipv6, be16, put16, sctp, tcp, udp};
use std::net::IpAddr;

/// Which end of a packet is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The source: answers, which leave as from the VIP.
    Source,
    /// The destination: requests, which go to the real server.
    Destination,
}

/// A translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which end.
    pub end: End,
    /// Its new address.
    pub address: IpAddr,
    /// Its new port; none keeps it.
    pub port: Option<u16>,
}

/// Translates a packet in place. `cut`: its end was not captured, so that no checksum can be computed over all of it.
///
/// The transport checksum is updated incrementally, so a wrong one stays wrong by the same amount; UDP without checksum
/// gets one; SCTP's is computed anew only when the port changes.
///
/// False, and nothing changed: the transport header is shorter than NAT needs.
pub fn translate(packet: &mut [u8], headers: &Headers, change: Change, cut: bool) -> bool {
    let at = headers.transport_at;
    let end = headers.total_len.min(packet.len()).max(at.min(packet.len()));
    let has_transport = !headers.is_later_fragment();
    if has_transport {
        let needed = match headers.protocol {
            6 => tcp::HEADER_LEN,
            17 => udp::HEADER_LEN,
            132 => sctp::HEADER_LEN,
            _ => 0,
        };
        if headers.total_len < at + needed || !cut && end < at + needed {
            return false;
        }
    }
    let old = match change.end {
        End::Source => headers.source,
        End::Destination => headers.destination,
    };
    if old.is_ipv4() != change.address.is_ipv4() {
        return false;
    }
    set_address(packet, change.end, change.address);
    if has_transport && end > at {
        let whole = if cut { None } else { Some(headers.total_len - at) };
        let pseudo = match change.end {
            End::Source => (change.address, headers.destination),
            End::Destination => (headers.source, change.address),
        };
        translate_transport(&mut packet[at..end], headers.protocol, old, change, pseudo, whole);
    }
    if change.address.is_ipv4()
        && let Ok(mut view) = Ipv4::new_checked(packet)
    {
        view.fill_checksum();
    }
    true
}

/// The address at one end of a packet.
pub fn address_of(packet: &[u8], end: End) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => {
            let at = if end == End::Source { 12 } else { 16 };
            let octets: [u8; 4] = *packet.get(at..)?.first_chunk()?;
            Some(octets.into())
        }
        _ => {
            let at = if end == End::Source { 8 } else { 24 };
            let octets: [u8; 16] = *packet.get(at..)?.first_chunk()?;
            Some(octets.into())
        }
    }
}

/// What [`translate`] does to the headers of a TCP segment or a UDP datagram that is whole, whose IP header has no options and
/// no extension and a right checksum, and, if UDP, which has a checksum: without reading all of the headers again.
#[inline]
pub fn translate_right(packet: &mut [u8], change: Change) {
    let Some(old) = address_of(packet, change.end) else { return };
    let at = if old.is_ipv4() { 20 } else { 40 };
    let udp = packet.get(if old.is_ipv4() { 9 } else { 6 }) == Some(&17);
    let port_at = if change.end == End::Source { at } else { at + 2 };
    let checksum_at = at + if udp { udp::CHECKSUM_AT } else { tcp::CHECKSUM_AT };
    if old.is_ipv4() != change.address.is_ipv4() || packet.len() < checksum_at + 2 {
        return;
    }
    match (change.address, change.end) {
        (IpAddr::V4(v4), End::Source) => packet[12..16].copy_from_slice(&v4.octets()),
        (IpAddr::V4(v4), End::Destination) => packet[16..20].copy_from_slice(&v4.octets()),
        (IpAddr::V6(v6), End::Source) => packet[8..24].copy_from_slice(&v6.octets()),
        (IpAddr::V6(v6), End::Destination) => packet[24..40].copy_from_slice(&v6.octets()),
    }
    if old.is_ipv4() {
        let check = Sum::of_field(be16(packet, 10)).replace_address(old, change.address).checksum();
        // Computed from scratch a checksum is never all ones.
        put16(packet, 10, if check == 0xffff { 0 } else { check });
    }
    let old_port = be16(packet, port_at);
    let new_port = change.port.unwrap_or(old_port);
    put16(packet, port_at, new_port);
    let sum = Sum::of_field(be16(packet, checksum_at)).replace_address(old, change.address).replace_word(old_port, new_port);
    put16(packet, checksum_at, if udp { sum.udp_checksum() } else { sum.checksum() });
}

/// Sets an address in the IP header; the header checksum is the caller's.
pub(super) fn set_address(packet: &mut [u8], end: End, address: IpAddr) {
    match (address, end) {
        (IpAddr::V4(v4), _) => {
            if let Ok(mut view) = Ipv4::new_checked(packet) {
                match end {
                    End::Source => view.set_source(v4),
                    End::Destination => view.set_destination(v4),
                }
            }
        }
        (IpAddr::V6(v6), _) => {
            if let Ok(mut view) = Ipv6::new_checked(packet) {
                match end {
                    End::Source => view.set_source(v6),
                    End::Destination => view.set_destination(v6),
                }
            }
        }
    }
}

/// Ports and checksum. `whole` is the length of the segment when all of it is there.
fn translate_transport(
    segment: &mut [u8],
    protocol: u8,
    old_address: IpAddr,
    change: Change,
    pseudo: (IpAddr, IpAddr),
    whole: Option<usize>,
) {
    let checksum_at = match protocol {
        6 => tcp::CHECKSUM_AT,
        17 => udp::CHECKSUM_AT,
        132 => sctp::CHECKSUM_AT,
        _ => return,
    };
    let port_at = match change.end {
        End::Source => 0,
        End::Destination => 2,
    };
    if segment.len() < 4 {
        return;
    }
    let old_port = be16(segment, port_at);
    let new_port = change.port.unwrap_or(old_port);
    put16(segment, port_at, new_port);
    if protocol == 132 {
        if new_port != old_port && whole.is_some() {
            sctp::fill_checksum(segment);
        }
        return;
    }
    if segment.len() < checksum_at + 2 {
        return;
    }
    let old = be16(segment, checksum_at);
    if protocol == 17 && old == 0 {
        if let Some(len) = whole {
            let sum = checksum::pseudo_header(pseudo.0, pseudo.1, protocol, len).bytes(segment);
            put16(segment, checksum_at, sum.udp_checksum());
        }
        return;
    }
    let sum = Sum::of_field(old).replace_address(old_address, change.address).replace_word(old_port, new_port);
    let new = if protocol == 17 { sum.udp_checksum() } else { sum.checksum() };
    put16(segment, checksum_at, new);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packet::ipv4::Ipv4Fields;
    use crate::packet::ipv6::Ipv6Fields;
    use proptest::prelude::*;

    const CLIENT: [u8; 4] = [203, 0, 113, 5];
    const VIP: [u8; 4] = [200, 200, 200, 1];
    const RIP: [u8; 4] = [10, 0, 0, 11];

    fn packet(protocol: u8, body: &[u8], checksummed: bool) -> Vec<u8> {
        let mut segment = vec![0x9c, 0x40, 0, 80];
        segment.extend_from_slice(match protocol {
            6 => &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 2, 0, 0, 0, 0, 0][..],
            17 => &[0, 0, 0, 0],
            _ => &[0, 0, 0, 9, 0, 0, 0, 0, 1, 0, 0, 4],
        });
        segment.extend_from_slice(body);
        let len = segment.len();
        if protocol == 17 {
            put16(&mut segment, 4, len as u16);
        }
        if checksummed && protocol != 132 {
            let at = if protocol == 6 { 16 } else { 6 };
            let sum = checksum::pseudo_header(IpAddr::from(CLIENT), IpAddr::from(VIP), protocol, len).bytes(&segment);
            put16(&mut segment, at, if protocol == 17 { sum.udp_checksum() } else { sum.checksum() });
        } else if checksummed {
            sctp::fill_checksum(&mut segment);
        }
        let fields = Ipv4Fields {
            tos: 0,
            total_len: (20 + len) as u16,
            id: 7,
            dont_fragment: true,
            ttl: 64,
            protocol,
            source: CLIENT.into(),
            destination: VIP.into(),
        };
        let mut bytes = fields.header().to_vec();
        bytes.extend_from_slice(&segment);
        bytes
    }

    fn to_server(packet: &mut [u8]) -> bool {
        let headers = Headers::of(packet).unwrap();
        let change = Change { end: End::Destination, address: RIP.into(), port: Some(8080) };
        translate(packet, &headers, change, false)
    }

    fn checksum_sum(packet: &[u8]) -> Sum {
        let headers = Headers::of(packet).unwrap();
        let segment = headers.transport(packet);
        checksum::pseudo_header(headers.source, headers.destination, headers.protocol, segment.len()).bytes(segment)
    }

    #[test]
    fn udp_without_checksum_gets_one() {
        let mut bytes = packet(17, b"query", false);
        assert!(to_server(&mut bytes));
        assert_ne!(be16(&bytes, 26), 0);
        assert!(checksum::is_right(checksum_sum(&bytes)));
    }

    #[test]
    fn sctp_checksum_only_with_port() {
        let mut bytes = packet(132, &[], false);
        let headers = Headers::of(&bytes).unwrap();
        let same = Change { end: End::Destination, address: RIP.into(), port: Some(80) };
        assert!(translate(&mut bytes, &headers, same, false));
        assert_eq!(bytes[28..32], [0; 4], "a wrong checksum stays wrong when the port stays");
        assert!(to_server(&mut bytes));
        assert_ne!(bytes[28..32], [0; 4]);
    }

    #[test]
    fn short_transport_header_is_refused() {
        let mut bytes = packet(6, &[], true);
        bytes.truncate(39);
        put16(&mut bytes, 2, 39);
        let before = bytes.clone();
        assert!(!to_server(&mut bytes));
        assert_eq!(bytes, before);
    }

    #[test]
    fn cut_packet_is_rewritten_as_far_as_it_goes() {
        let mut bytes = packet(6, &[0; 100], true);
        bytes.truncate(30);
        let headers = Headers::of(&bytes).unwrap();
        let change = Change { end: End::Destination, address: RIP.into(), port: Some(8080) };
        assert!(translate(&mut bytes, &headers, change, true));
        assert_eq!(be16(&bytes, 22), 8080);
    }

    #[test]
    fn ipv6_behind_extension_headers() {
        let source: std::net::Ipv6Addr = "2001:db8::5".parse().unwrap();
        let vip: std::net::Ipv6Addr = "2001:db8:200::1".parse().unwrap();
        let mut segment = vec![0x9c, 0x40, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
        let sum = checksum::pseudo_header(source.into(), vip.into(), 17, 12).bytes(&segment);
        put16(&mut segment, 6, sum.udp_checksum());
        let fields = Ipv6Fields {
            traffic_class: 0,
            flow_label: 0,
            payload_len: 20,
            next_header: 0,
            hop_limit: 64,
            source,
            destination: vip,
        };
        let mut bytes = Vec::new();
        fields.write(&mut bytes);
        bytes.extend_from_slice(&[17, 0, 1, 4, 0, 0, 0, 0]);
        bytes.extend_from_slice(&segment);
        let headers = Headers::of(&bytes).unwrap();
        let change = Change { end: End::Destination, address: "2001:db8:10::11".parse().unwrap(), port: Some(5353) };
        assert!(translate(&mut bytes, &headers, change, false));
        assert!(checksum::is_right(checksum_sum(&bytes)));
    }

    proptest! {
        #[test]
        fn checksum_stays_right_and_answer_undoes_request(body in proptest::collection::vec(any::<u8>(), 0..64),
            protocol in prop_oneof![Just(6u8), Just(17), Just(132)]) {
            let before = packet(protocol, &body, true);
            let mut bytes = before.clone();
            prop_assert!(to_server(&mut bytes));
            if protocol != 132 {
                prop_assert!(checksum::is_right(checksum_sum(&bytes)));
            }
            prop_assert!(Ipv4::new_checked(&bytes[..]).unwrap().checksum_is_right());
            let headers = Headers::of(&bytes).unwrap();
            let back = Change { end: End::Destination, address: VIP.into(), port: Some(80) };
            prop_assert!(translate(&mut bytes, &headers, back, false));
            let mut expected = before;
            Ipv4::new_checked(&mut expected[..]).unwrap().fill_checksum();
            prop_assert_eq!(bytes, expected);
        }

        #[test]
        fn right_packets_are_translated_the_same_without_reading_all(body in proptest::collection::vec(any::<u8>(), 0..64),
            udp in any::<bool>(), address in any::<u32>(), port in any::<u16>(), source in any::<bool>()) {
            let protocol = if udp { 17 } else { 6 };
            let mut read = packet(protocol, &body, true);
            Ipv4::new_checked(&mut read[..]).unwrap().fill_checksum();
            let mut unread = read.clone();
            let headers = Headers::of(&read).unwrap();
            let end = if source { End::Source } else { End::Destination };
            let change = Change { end, address: std::net::Ipv4Addr::from(address).into(), port: Some(port) };
            prop_assert!(translate(&mut read, &headers, change, false));
            translate_right(&mut unread, change);
            prop_assert_eq!(read, unread);
        }

        #[test]
        fn wrong_checksum_stays_wrong_by_the_same(error in 1u16..0xffff) {
            let mut right = packet(6, b"x", true);
            let mut wrong = right.clone();
            put16(&mut wrong, 36, checksum::update(be16(&right, 36), 0, error));
            to_server(&mut right);
            to_server(&mut wrong);
            prop_assert_eq!(be16(&wrong, 36), checksum::update(be16(&right, 36), 0, error));
        }
    }
}
