//! Redirects: a host whose packet leaves by the link that it came from is told of the better way
//! (reference/linux-ipvs.md section 10.3; RFC 792, RFC 4861 section 8).

use super::packet::Packet;
use super::{Director, Output};
use crate::link::neighbour::Failure;
use crate::link::route::{Hop, Way};
use crate::link::source::is_link_local;
use crate::packet::icmp;
use crate::packet::ndisc::Redirect;
use crate::time::Nanos;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl Director {
    /// Tells the sender of a packet of the better way, if there is one. IPv4 does so after the packet lost its hop, IPv6
    /// before.
    pub(super) fn redirect(&mut self, out: &mut Output, packet: &Packet, hop: &Hop) {
        if packet.arrival != Some(hop.interface) {
            return;
        }
        match packet.addresses() {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.redirect_v4(out, packet, hop, source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.redirect_v6(out, packet, hop, source, destination),
            _ => {}
        }
    }

    fn redirect_v4(&mut self, out: &mut Output, packet: &Packet, hop: &Hop, source: Ipv4Addr, destination: Ipv4Addr) {
        if !self.host.links.get(hop.interface).settings.send_redirects || !self.is_on_link(source.into(), hop) {
            return;
        }
        let IpAddr::V4(gateway) = hop.next(destination.into()) else { return };
        if self.peers.allow_redirect(source.into(), packet.time) {
            self.send_error_v4(out, packet, icmp::v4::REDIRECT, 1, u32::from(gateway));
        }
    }

    /// No setting stops these. The destination's and then the source's share of messages pays for them, a second each.
    fn redirect_v6(&mut self, out: &mut Output, packet: &Packet, hop: &Hop, source: Ipv6Addr, destination: Ipv6Addr) {
        const INTERVAL: Nanos = Nanos::from_secs(1);
        if !self.peers.allow(destination.into(), INTERVAL, packet.time) {
            return;
        }
        let IpAddr::V6(target) = hop.next(destination.into()) else { return };
        let Some(own) = self.host.link_local(hop.interface) else { return };
        // A router is known to hosts by its link-local address only.
        if target != destination && !is_link_local(target) || !self.is_on_link(source.into(), hop) {
            return;
        }
        if !self.peers.allow(source.into(), INTERVAL, packet.time) {
            return;
        }
        let link_address = self.host.neighbours.cached(hop.interface, target.into());
        let missing = packet.cut as usize;
        let redirect = Redirect { target, destination, link_address, packet: &packet.bytes, missing };
        let mut bytes = Vec::new();
        let cut = redirect.write(&mut bytes, own, source);
        let Ok(mut message) = Packet::made(bytes, packet.time) else { return };
        message.cut = cut as u32;
        let mtu = self.host.interface(hop.interface).mtu as usize;
        let back = Hop { gateway: None, ..*hop };
        self.output(out, &mut message, back, source.into(), mtu, Failure::Silent);
    }

    /// Whether a host can be reached on a way's link without a router: only then the advice is of use.
    fn is_on_link(&self, host: IpAddr, hop: &Hop) -> bool {
        matches!(host, IpAddr::V6(v6) if is_link_local(v6))
            || matches!(self.host.routes.lookup(host),
                Way::Out(back) if back.interface == hop.interface && back.gateway.is_none())
    }
}
