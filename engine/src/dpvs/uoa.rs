//! UOA: the client's address in front of a UDP datagram (reference/dpvs-fullnat.md section 10).

use super::toa::address_option;
use super::wire::{Packet, ipv4_header, ipv6_header};
use crate::config::{Protocol, UoaMode};
use std::net::{IpAddr, SocketAddr};

/// Option kind of UOA, as an IP option too.
const KIND: u8 = 0x1f;
/// The IP protocol of the option protocol.
pub(super) const OPTION_PROTOCOL: Protocol = Protocol(248);
const UDP_HEADER: usize = 8;
const LONGEST_IPV4_HEADER: usize = 60;

/// How the client's address travels with a datagram.
#[derive(Debug)]
pub(super) enum Carried {
    /// In the datagram itself.
    Inside,
    /// In an empty datagram that goes first.
    Ahead(Packet),
}

/// Adds UOA to a datagram whose addresses and ports are translated and whose checksums are still to be computed. It
/// computes them. `mtu` is the way's.
pub(super) fn add(packet: &mut Packet, client: SocketAddr, mode: UoaMode, mtu: u32) -> Carried {
    let option = address_option(KIND, client);
    // The IP option exists for IPv4 on both sides only.
    if mode == UoaMode::Ipo && packet.is_ipv4() && client.is_ipv4() {
        return add_ip_option(packet, &option, mtu);
    }
    let header = option_protocol_header(&option, client);
    let fits = packet.length() + header.len() <= mtu as usize;
    let has_extensions = !packet.is_ipv4() && packet.transport != 40;
    if !fits || has_extensions {
        packet.finish();
        return Carried::Ahead(standalone(packet, &header, true));
    }
    packet.finish();
    if packet.is_ipv4() {
        packet.put(packet.transport + 6, &[0, 0]);
    }
    packet.put(if packet.is_ipv4() { 9 } else { 6 }, &[OPTION_PROTOCOL.0]);
    packet.insert(packet.transport, &header);
    packet.finish_ip();
    Carried::Inside
}

fn add_ip_option(packet: &mut Packet, option: &[u8], mtu: u32) -> Carried {
    let fits = packet.length() + option.len() <= mtu as usize && packet.transport + option.len() <= LONGEST_IPV4_HEADER;
    if !fits {
        packet.finish();
        return Carried::Ahead(standalone(packet, option, false));
    }
    packet.insert(20, option);
    packet.transport += option.len();
    packet.put(0, &[0x40 | (packet.transport / 4) as u8]);
    packet.finish();
    Carried::Inside
}

/// Version and inner protocol, length, option.
fn option_protocol_header(option: &[u8], client: SocketAddr) -> Vec<u8> {
    let version = if client.is_ipv4() { 0x10 } else { 0x20 };
    let mut header = vec![version, Protocol::UDP.0, 0, (4 + option.len()) as u8];
    header.extend(option);
    header
}

/// An empty datagram with the addresses, ports, TOS and TTL of the original.
fn standalone(original: &Packet, carrier: &[u8], option_protocol: bool) -> Packet {
    let (source, destination) = original.ends();
    let (tos, ttl) = (original.traffic_class(), original.ttl());
    let payload = carrier.len() + UDP_HEADER;
    let mut bytes = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let protocol = if option_protocol { OPTION_PROTOCOL } else { Protocol::UDP };
            let mut header = ipv4_header(protocol, from, to, 20 + payload, tos, false, ttl);
            if !option_protocol {
                header[0] = 0x40 | ((20 + carrier.len()) / 4) as u8;
            }
            header.to_vec()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let label = original.u32(0) & 0x0fff_ffff;
            ipv6_header(OPTION_PROTOCOL, from, to, payload, label, ttl)
        }
        // A packet has one family.
        _ => Vec::new(),
    };
    bytes.extend(carrier);
    let transport = bytes.len();
    let (from, to) = (source.port().to_be_bytes(), destination.port().to_be_bytes());
    bytes.extend([from[0], from[1], to[0], to[1], 0, UDP_HEADER as u8, 0, 0]);
    let mut packet = Packet::build(bytes, Protocol::UDP, transport, original.origin);
    if source.is_ipv6() {
        packet.finish();
    } else {
        // Over IPv4 it goes without UDP checksum.
        packet.finish_ip();
    }
    packet
}
