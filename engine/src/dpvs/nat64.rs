//! NAT64: IPv6 on the client's side, IPv4 on the real server's (reference/dpvs-fullnat.md section 15).

use super::wire::{Packet, ipv4_header, ipv6_header};
use std::net::IpAddr;

/// How much shorter an IPv4 header is.
pub(super) const HEADER_DIFFERENCE: usize = 20;

/// Puts an IPv4 header in the place of the IPv6 header: TOS 0, identification 0, DF, TTL from the hop limit. False, and
/// nothing is done, when the packet has extension headers.
pub(super) fn to_ipv4(packet: &mut Packet, source: IpAddr, destination: IpAddr) -> bool {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { return false };
    if packet.is_ipv4() || packet.transport != 40 {
        return false;
    }
    let length = packet.length() - HEADER_DIFFERENCE;
    let header = ipv4_header(packet.protocol, source, destination, length, 0, true, packet.ttl());
    replace_header(packet, &header);
    true
}

/// Puts an IPv6 header in the place of the IPv4 header, options included: traffic class and flow label 0, hop limit from
/// the TTL.
pub(super) fn to_ipv6(packet: &mut Packet, source: IpAddr, destination: IpAddr) -> bool {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) else { return false };
    if !packet.is_ipv4() {
        return false;
    }
    let payload = packet.length() - packet.transport;
    let header = ipv6_header(packet.protocol, source, destination, payload, 0, packet.ttl());
    replace_header(packet, &header);
    true
}

fn replace_header(packet: &mut Packet, header: &[u8]) {
    let end = packet.transport.min(packet.bytes.len());
    packet.bytes.splice(..end, header.iter().copied());
    packet.transport = header.len();
}
