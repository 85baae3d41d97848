//! ICMP errors about a connection: the quoted packet is translated along with the packet that quotes it
//! (reference/linux-ipvs.md sections 6.7 and 7.2). The quoted transport checksum is left alone.

use super::nat::{End, set_address};
use crate::packet::{Headers, Ipv4, Ipv6, icmp, put16};
use std::net::IpAddr;

/// Translates an ICMP error under NAT, in place. `end` is the outer end that changes: the destination of an error from
/// outside, which goes to the real server; the source of one from inside. The opposite end of the quoted packet changes
/// with it. `port` is set when the quoted protocol has ports and they are there.
///
/// False, and nothing of use was done: it is no ICMP error that quotes an IP packet.
pub fn translate(packet: &mut [u8], headers: &Headers, end: End, address: IpAddr, port: u16) -> bool {
    let at = headers.transport_at;
    let stop = headers.total_len.min(packet.len());
    let quoted_at = at + icmp::HEADER_LEN;
    if stop < quoted_at {
        return false;
    }
    let Ok(quoted) = Headers::of(&packet[quoted_at..stop]) else { return false };
    if quoted.source.is_ipv4() != address.is_ipv4() || headers.source.is_ipv4() != address.is_ipv4() {
        return false;
    }
    set_address(packet, end, address);
    let opposite = match end {
        End::Source => End::Destination,
        End::Destination => End::Source,
    };
    {
        let inside = &mut packet[quoted_at..stop];
        set_address(inside, opposite, address);
        let ports = &mut inside[quoted.transport_at.min(stop - quoted_at)..];
        if matches!(quoted.protocol, 6 | 17 | 132) && !quoted.is_later_fragment() && ports.len() >= 4 {
            put16(ports, if opposite == End::Source { 0 } else { 2 }, port);
        }
        if address.is_ipv4()
            && let Ok(mut view) = Ipv4::new_checked(inside)
        {
            view.fill_checksum();
        }
    }
    fill_checksums(packet, at, stop);
    true
}

/// Computes the ICMP checksum and, for IPv4, the header checksum of a packet whose ICMP message stands at those bytes.
pub fn fill_checksums(packet: &mut [u8], at: usize, stop: usize) {
    if let Ok(view) = Ipv6::new_checked(&*packet) {
        let (source, destination) = (view.source(), view.destination());
        icmp::fill_checksum_v6(&mut packet[at..stop], source, destination);
        return;
    }
    icmp::fill_checksum(&mut packet[at..stop]);
    if let Ok(mut view) = Ipv4::new_checked(packet) {
        view.fill_checksum();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packet::ipv4::Ipv4Fields;

    fn fields(source: [u8; 4], destination: [u8; 4], protocol: u8, len: usize) -> Ipv4Fields {
        Ipv4Fields {
            tos: 0,
            total_len: len as u16,
            id: 1,
            dont_fragment: false,
            ttl: 64,
            protocol,
            source: source.into(),
            destination: destination.into(),
        }
    }

    #[test]
    fn error_from_a_real_server() {
        let (client, vip, rip) = ([203, 0, 113, 5], [200, 200, 200, 1], [10, 0, 0, 11]);
        let mut quoted = fields(client, rip, 17, 28).header().to_vec();
        quoted.extend_from_slice(&[0x9c, 0x40, 0x1f, 0x90, 0, 8, 0xab, 0xcd]);
        let mut message = Vec::new();
        icmp::write(&mut message, 3, 3, 0, &quoted);
        icmp::fill_checksum(&mut message);
        let mut packet = fields(rip, client, 1, 20 + message.len()).header().to_vec();
        packet.extend_from_slice(&message);
        let headers = Headers::of(&packet).unwrap();
        assert!(translate(&mut packet, &headers, End::Source, vip.into(), 53));
        let headers = Headers::of(&packet).unwrap();
        assert_eq!(headers.source, IpAddr::from(vip));
        let view = icmp::Icmp::new_checked(headers.transport(&packet)).unwrap();
        assert!(view.checksum_is_right());
        let inside = Ipv4::new_checked(view.payload()).unwrap();
        assert!(inside.checksum_is_right());
        assert_eq!((inside.source(), inside.destination()), (client.into(), vip.into()));
        assert_eq!(inside.payload(), [0x9c, 0x40, 0, 53, 0, 8, 0xab, 0xcd], "the quoted checksum stays");
    }
}
