//! The way to a real server: route, TTL, MTU, then what the method does (reference/linux-ipvs.md section 6).

use super::packet::{Hooked, Packet};
use super::{Director, Output};
use crate::config::{ForwardingMethod, Tunnel, TunnelKind};
use crate::draws::Draw;
use crate::link::neighbour::Failure;
use crate::link::route::{Hop, Way};
use crate::output::DrawnField;
use crate::packet::{Ipv4, Ipv6, icmp, udp};
use crate::rewrite::nat::{self, Change, End};
use crate::rewrite::{dr, tunnel};
use crate::track::{Connection, ConnectionId};
use crate::verdict::{DropReason, Forwarded, Refusal, Verdict};
use std::net::IpAddr;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// To the director's own stack.
    Local,
    /// Out by that hop, over a way of that MTU.
    Out(Hop, usize),
}

impl Director {
    /// Sends a client's packet to its connection's server.
    pub(super) fn transmit(&mut self, out: &mut Output, packet: &mut Packet, id: ConnectionId, verdict: Forwarded) -> Hooked {
        let Some(connection) = self.ipvs.connection(id) else { return Hooked::Accept };
        if connection.flags.bypass {
            return self.transmit_bypass(out, packet, verdict);
        }
        match connection.method {
            ForwardingMethod::Nat => self.transmit_nat(out, packet, id, &connection, verdict),
            ForwardingMethod::Tunnel(kind) => self.transmit_tunnel(out, packet, kind, &connection, verdict),
            _ => self.transmit_dr(out, packet, &connection, verdict),
        }
    }

    /// Route, TTL and MTU of the way to a server. The packet loses its hop; its IPv4 checksum follows incrementally.
    pub(super) fn exit(
        &mut self,
        out: &mut Output,
        packet: &mut Packet,
        server: IpAddr,
        tunnel: Option<Tunnel>,
        redirect: bool,
    ) -> Result<Exit, Verdict> {
        let hop = match self.host.routes.lookup(server) {
            Way::Local if redirect || packet.local => return Ok(Exit::Local),
            Way::Local => return Err(Verdict::Dropped(DropReason::MappedLoopback)),
            Way::Out(hop) => hop,
            _ => {
                self.send_host_unreachable(out, packet);
                return Err(Verdict::Refused(Refusal::Unreachable));
            }
        };
        if packet.headers.ttl <= 1 {
            if packet.is_v4() {
                self.send_error_v4(out, packet, icmp::v4::TIME_EXCEEDED, 0, 0);
            } else {
                self.send_error_v6(out, packet, icmp::v6::TIME_EXCEEDED, 0, 0);
            }
            return Err(Verdict::Refused(Refusal::TtlExceeded));
        }
        match packet.is_v4() {
            true => {
                if let Ok(mut view) = Ipv4::new_checked(&mut packet.bytes[..]) {
                    view.decrement_ttl();
                }
            }
            false => {
                if let Ok(mut view) = Ipv6::new_checked(&mut packet.bytes[..]) {
                    view.decrement_hop_limit();
                }
            }
        }
        packet.reread();
        let way_mtu = self.mtu_of(&hop, server, packet.time);
        let overhead = tunnel.map_or(0, |tunnel| tunnel::overhead(tunnel, server.is_ipv4()));
        let mtu = way_mtu.saturating_sub(overhead);
        if tunnel.is_some() && mtu < if server.is_ipv4() { 68 } else { 1280 } {
            return Err(Verdict::Dropped(DropReason::TunnelTooSmall));
        }
        self.check_mtu(out, packet, mtu, tunnel.is_some())?;
        Ok(Exit::Out(hop, way_mtu))
    }

    /// The MTU of a way: what ICMP taught, else the route's, else the link's.
    pub(super) fn mtu_of(&self, hop: &Hop, destination: IpAddr, now: crate::time::Nanos) -> usize {
        let own = hop.mtu.unwrap_or(self.host.interface(hop.interface).mtu);
        self.host.path_mtus.get(destination, now).map_or(own, |learned| learned.min(own)) as usize
    }

    /// Refuses a packet that is too long and must not be fragmented (section 6.2).
    fn check_mtu(&mut self, out: &mut Output, packet: &Packet, mtu: usize, tunnel: bool) -> Result<(), Verdict> {
        let refused = Err(Verdict::Refused(Refusal::TooBig));
        if packet.is_v4() {
            let checked = !tunnel || self.host.sysctls.vs.pmtu_disc;
            let about_error = packet.is_icmp() && is_error(packet);
            if checked && packet.headers.dont_fragment && packet.headers.total_len > mtu && !about_error {
                self.send_error_v4(out, packet, icmp::v4::UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED, mtu as u32);
                return refused;
            }
        } else {
            let len = if packet.longest != 0 { packet.longest } else { packet.headers.total_len };
            if len > mtu && !packet.is_icmp() {
                self.send_error_v6(out, packet, icmp::v6::PACKET_TOO_BIG, 0, mtu as u32);
                return refused;
            }
        }
        Ok(())
    }

    fn transmit_dr(&mut self, out: &mut Output, packet: &mut Packet, connection: &Connection, verdict: Forwarded) -> Hooked {
        let server = connection.server_address;
        match self.exit(out, packet, server, None, false) {
            Ok(Exit::Local) => Hooked::AcceptAs(Verdict::DeliveredToLocalServer(verdict)),
            Ok(Exit::Out(hop, mtu)) => self.send_dr(out, packet, hop, server, mtu, verdict),
            Err(verdict) => Hooked::Done(verdict),
        }
    }

    fn send_dr(
        &mut self,
        out: &mut Output,
        packet: &mut Packet,
        hop: Hop,
        server: IpAddr,
        mtu: usize,
        verdict: Forwarded,
    ) -> Hooked {
        restore_hop(packet);
        dr::request(&mut packet.bytes);
        packet.reread();
        let failure = Failure::Report { arrival: packet.arrival };
        Hooked::Done(self.output(out, packet, hop, hop.next(server), mtu, failure).verdict(verdict))
    }

    /// To the packet's own destination (section 6.4).
    fn transmit_bypass(&mut self, out: &mut Output, packet: &mut Packet, verdict: Forwarded) -> Hooked {
        let destination = packet.headers.destination;
        match self.exit(out, packet, destination, None, false) {
            Ok(Exit::Local) => Hooked::Done(Verdict::Dropped(DropReason::NoServer)),
            Ok(Exit::Out(hop, mtu)) => self.send_dr(out, packet, hop, destination, mtu, verdict),
            Err(verdict) => Hooked::Done(verdict),
        }
    }

    fn transmit_nat(
        &mut self,
        out: &mut Output,
        packet: &mut Packet,
        id: ConnectionId,
        connection: &Connection,
        verdict: Forwarded,
    ) -> Hooked {
        let server = connection.server_address;
        if connection.flags.no_client_port && !packet.headers.is_later_fragment() {
            self.ipvs.fill_client_port(id, packet.flow().source_port);
        }
        let exit = match self.exit(out, packet, server, None, true) {
            Ok(exit) => exit,
            Err(verdict) => return Hooked::Done(verdict),
        };
        let loopback = matches!(server, IpAddr::V4(v4) if v4.is_loopback());
        if exit == Exit::Local && loopback && packet.arrival.is_some() {
            return Hooked::Done(Verdict::Dropped(DropReason::MappedLoopback));
        }
        if self.has_ftp_helper(connection)
            && let Err(reason) = self.ftp_request(packet, id, connection)
        {
            return Hooked::Done(Verdict::Dropped(reason));
        }
        let change = Change { end: End::Destination, address: server, port: Some(connection.server_port) };
        let cut = packet.is_cut();
        if !nat::translate(&mut packet.bytes, &packet.headers, change, cut) {
            return Hooked::Done(Verdict::Dropped(DropReason::TransportTruncated));
        }
        packet.reread();
        match exit {
            Exit::Local => Hooked::AcceptAs(Verdict::DeliveredToLocalServer(verdict)),
            Exit::Out(hop, mtu) => {
                let failure = Failure::Report { arrival: packet.arrival };
                Hooked::Done(self.output(out, packet, hop, hop.next(server), mtu, failure).verdict(verdict))
            }
        }
    }

    fn transmit_tunnel(
        &mut self,
        out: &mut Output,
        packet: &mut Packet,
        kind: Tunnel,
        connection: &Connection,
        verdict: Forwarded,
    ) -> Hooked {
        let server = connection.server_address;
        let (hop, mtu) = match self.exit(out, packet, server, Some(kind), false) {
            Ok(Exit::Local) => return Hooked::AcceptAs(Verdict::DeliveredToLocalServer(verdict)),
            Ok(Exit::Out(hop, mtu)) => (hop, mtu),
            Err(verdict) => return Hooked::Done(verdict),
        };
        let Some(source) = self.host.source_on(&hop, server) else {
            return Hooked::Done(Verdict::Dropped(DropReason::NoRoute));
        };
        if let Ok(mut view) = Ipv4::new_checked(&mut packet.bytes[..]) {
            view.fill_checksum();
        }
        let flow = packet.flow();
        let port_draw = Draw::GueSourcePort {
            source: flow.source,
            destination: flow.destination,
            ports: (flow.source_port, flow.destination_port),
            protocol: flow.protocol,
            flow_label: Ipv6::new_checked(&packet.bytes[..]).map_or(0, |view| if packet.is_v4() { 0 } else { view.flow_label() }),
        };
        let mut outer = tunnel::Outer {
            source,
            destination: server,
            id: 0,
            gue_source_port: self.draws.value(port_draw) as u16,
            copy_dont_fragment: self.host.sysctls.vs.pmtu_disc,
        };
        let mut drawn = Vec::new();
        if tunnel::draws_id(&packet.headers, &outer) {
            let (id, field) = self.next_ipv4_id();
            outer.id = id;
            drawn.push(field);
        }
        let mut bytes = Vec::with_capacity(packet.bytes.len() + 80);
        tunnel::encapsulate(&packet.bytes, &packet.headers, kind, &outer, &mut bytes);
        if matches!(kind.kind, TunnelKind::Gue { .. }) {
            let at = if server.is_ipv4() { 20 } else { 40 };
            let field = DrawnField::value(port_draw, at, 2);
            drawn.push(if tunnel::has_checksum(kind) { field.summed_at(at + udp::CHECKSUM_AT) } else { field });
        }
        // An inner header's checksum makes up for its random fields: an outer one does not see them.
        let before = bytes.len() - packet.bytes.len();
        drawn.extend(packet.drawn.iter().map(|field| field.behind(before)));
        let headers = packet.headers;
        let mut sent = Packet { bytes, drawn, headers, ..packet.clone() };
        sent.reread();
        if server.is_ipv4() && !packet.is_v4() {
            // IPv4 does not see how long an inner packet's IPv6 fragments were, only where they were joined.
            sent.longest = 0;
        }
        Hooked::Done(self.output(out, &mut sent, hop, hop.next(server), mtu, Failure::Tunnel).verdict(verdict))
    }
}

/// Whether an ICMP packet is an error about another packet.
pub(super) fn is_error(packet: &Packet) -> bool {
    let kind = packet.transport().first().copied().unwrap_or(0);
    if packet.is_v4() { icmp::v4::is_error(kind) } else { icmp::v6::is_error(kind) }
}

/// `exit` has taken the hop already; [`dr::request`] takes it itself, and from scratch.
fn restore_hop(packet: &mut Packet) {
    let at = if packet.is_v4() { 8 } else { 7 };
    if let Some(ttl) = packet.bytes.get_mut(at) {
        *ttl = ttl.saturating_add(1);
    }
}
