//! Direct routing and tunnels (reference/dpvs-fullnat.md section 15).

use super::connection::Connection;
use super::director::Director;
use super::link::Sent;
use super::wire::{Packet, ipv4_header, ipv6_header};
use crate::config::Protocol;
use crate::output::Output;
use crate::verdict::{DropReason, Forwarded, Refusal, Verdict};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl Director {
    /// Direct routing: only the MAC addresses change. A packet that is too long and may be fragmented goes out as it is.
    /// The real server's own address is the neighbour, whatever its route says.
    pub(super) fn route_directly(&mut self, connection: &Connection, packet: Packet, new: bool, out: &mut Output) -> Verdict {
        let Some(mut way) = self.link.route(connection.real.ip()) else { return Verdict::Dropped(DropReason::NoRoute) };
        way.next_hop = connection.real.ip();
        if packet.length() > way.mtu as usize && packet.dont_fragment() {
            self.send_too_big(&packet, way.mtu, out);
            return Verdict::Refused(Refusal::TooBig);
        }
        let sent = self.link.send(packet, &way, self.now, out);
        verdict(sent, connection, new)
    }

    /// A tunnel: IPv4 in IPv4, IPv6 in IPv6, or IPv6 in IPv4.
    pub(super) fn tunnel(&mut self, connection: &Connection, mut packet: Packet, new: bool, out: &mut Output) -> Verdict {
        let Some(way) = self.link.route(connection.real.ip()) else { return Verdict::Dropped(DropReason::NoRoute) };
        let outer = if connection.real.is_ipv4() { 20 } else { 40 };
        if packet.length() + outer > way.mtu as usize && packet.dont_fragment() {
            self.send_too_big(&packet, way.mtu.saturating_sub(outer as u32), out);
            return Verdict::Refused(Refusal::TooBig);
        }
        let (length, ttl, inner_ipv4) = (packet.length(), packet.ttl(), packet.is_ipv4());
        let protocol = if inner_ipv4 { Protocol::IPIP } else { Protocol::IPV6 };
        let header = match connection.real.ip() {
            IpAddr::V4(destination) => {
                let source = match way.source {
                    Some(IpAddr::V4(source)) => source,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                let tos = if inner_ipv4 { packet.traffic_class() } else { 0 };
                ipv4_header(protocol, source, destination, 20 + length, tos, packet.dont_fragment(), ttl).to_vec()
            }
            IpAddr::V6(destination) if !inner_ipv4 => {
                let source = match way.source {
                    Some(IpAddr::V6(source)) => source,
                    _ => Ipv6Addr::UNSPECIFIED,
                };
                ipv6_header(protocol, source, destination, length, packet.u32(0) & 0x0fff_ffff, ttl)
            }
            // DPVS has no IPv4 in IPv6.
            IpAddr::V6(_) => return Verdict::Dropped(DropReason::Unanswered),
        };
        packet.bytes.splice(..0, header);
        packet.protocol = protocol;
        packet.transport = outer;
        let mut packets = [packet];
        self.link.identify(&mut packets, &self.draws);
        let [packet] = packets;
        let sent = self.send_fragmented(packet, &way, out);
        verdict(sent, connection, new)
    }
}

fn verdict(sent: Sent, connection: &Connection, new: bool) -> Verdict {
    let forwarded = Forwarded { service: connection.service, server: connection.server, new };
    match sent {
        Sent::Left => Verdict::Forwarded(forwarded),
        Sent::Waits => Verdict::WaitsForNeighbour(forwarded),
        Sent::Dropped(reason) => Verdict::Dropped(reason),
    }
}
