//! A frame's way in: link layer, receive checks, access lists, connection, or the director's own stack
//! (reference/dpvs-fullnat.md section 1).

use super::connection::Connection;
use super::director::Director;
use super::flow::FlowKey;
use super::icmp::is_translated_error;
use super::service::Service;
use super::state::{Direction, flag};
use super::wire::{Origin, Packet, tcp};
use crate::config::{ForwardingMethod, MacAddr, MarkRule, MatchRule, Protocol, ServiceKey};
use crate::director::Arrival;
use crate::output::Output;
use crate::verdict::{DropReason, Verdict};
use std::net::{IpAddr, SocketAddr};

const LINK_HEADER: usize = 14;

impl Director {
    /// A frame that arrives now.
    pub(super) fn take_frame(&mut self, arrival: Arrival<'_>, out: &mut Output) -> Verdict {
        let frame = arrival.frame;
        let Some(header) = frame.get(..LINK_HEADER) else { return Verdict::Dropped(DropReason::LinkTruncated) };
        let mac =
            |at: usize| MacAddr([header[at], header[at + 1], header[at + 2], header[at + 3], header[at + 4], header[at + 5]]);
        let origin = Origin { time: self.now, interface: arrival.interface, source_mac: mac(6), destination_mac: mac(0) };
        if self.link.interface(arrival.interface).is_some_and(|port| !port.up) {
            return Verdict::Dropped(DropReason::InterfaceDown);
        }
        match u16::from_be_bytes([header[12], header[13]]) {
            0x0806 => self.link.receive_arp(frame, &origin, out),
            0x0800 | 0x86dd => self.take_packet(arrival, origin, out),
            0x8100 | 0x88a8 => Verdict::Dropped(DropReason::UnknownVlan),
            _ => Verdict::Dropped(DropReason::UnknownEtherType),
        }
    }

    fn take_packet(&mut self, arrival: Arrival<'_>, origin: Origin, out: &mut Output) -> Verdict {
        let own = origin.destination_mac == self.link.mac(origin.interface);
        if !own && !origin.destination_mac.is_group() {
            return Verdict::Dropped(DropReason::NotForUs);
        }
        let bytes = arrival.frame.get(LINK_HEADER..).unwrap_or(&[]);
        let cut = (arrival.wire_len as usize).saturating_sub(arrival.frame.len()) as u32;
        let packet = match Packet::parse(bytes, cut, origin) {
            Ok(packet) => packet,
            Err(reason) => return Verdict::Dropped(reason),
        };
        if packet.protocol == Protocol::ICMPV6
            && !packet.is_ipv4()
            && let Some(verdict) = self.link.receive_discovery(&packet, out)
        {
            return verdict;
        }
        if !own {
            return Verdict::Dropped(DropReason::GroupAddress);
        }
        if packet.is_ipv4_fragment() {
            return Verdict::Dropped(DropReason::FragmentRefused);
        }
        match self.serve(packet, out) {
            Ok(verdict) => verdict,
            Err(packet) => self.deliver(packet, out),
        }
    }

    /// What no service takes: own addresses answer echo requests, the rest is dropped, or routed where that is switched on.
    fn deliver(&mut self, mut packet: Packet, out: &mut Output) -> Verdict {
        let destination = packet.destination();
        if !self.link.is_local(destination) {
            if !self.settings.forwarding || !packet.is_ipv4() {
                return Verdict::Dropped(DropReason::ForwardingOff);
            }
            let Some(way) = self.link.route(destination) else { return Verdict::Dropped(DropReason::NoRoute) };
            if packet.ttl() <= 1 {
                self.send_time_exceeded(&packet, out);
                return Verdict::Refused(crate::verdict::Refusal::TtlExceeded);
            }
            packet.set_ttl(packet.ttl() - 1);
            packet.finish_ip();
            self.send_fragmented(packet, &way, out);
            return Verdict::Routed;
        }
        match packet.protocol {
            Protocol::ICMP | Protocol::ICMPV6 => self.local_icmp(&packet, out),
            Protocol::GRE | Protocol::IPIP if packet.is_ipv4() => self.refuse_tunnelled(&packet, out),
            _ => Verdict::Dropped(DropReason::Unanswered),
        }
    }

    /// IPVS: the packet's connection, or a new one. The packet comes back when no service takes it.
    fn serve(&mut self, packet: Packet, out: &mut Output) -> Result<Verdict, Packet> {
        if is_translated_error(&packet) {
            return Ok(self.related_error(packet, out));
        }
        let key = match flow_key(&packet) {
            Ok(Some(key)) => key,
            Ok(None) => return Err(packet),
            Err(reason) => return Ok(Verdict::Dropped(reason)),
        };
        if !self.access.admits(key.protocol, key.destination, key.source.ip()) {
            return Ok(Verdict::Dropped(DropReason::AccessList));
        }
        if packet.protocol == Protocol::SCTP
            && packet.cut == 0
            && packet.sctp_crc().is_none_or(|crc| packet.bytes.get(packet.transport + 8..packet.transport + 12) != Some(&crc))
        {
            return Ok(Verdict::Dropped(DropReason::BadTransportChecksum));
        }
        if packet.protocol == Protocol::TCP && is_opening(packet.tcp_flags()) && self.has_syn_proxy(&key) {
            return Ok(self.answer_syn(packet, out));
        }
        match self.connections.find(&key) {
            Some((id, direction)) => match self.connections.take(id) {
                Some(connection) if connection.is_one_way() && direction == Direction::Out => {
                    self.connections.put_back(id, connection);
                    Err(packet)
                }
                Some(connection) => Ok(self.continue_connection(id, connection, direction, packet, out)),
                None => Err(packet),
            },
            None => {
                self.doubt_expired(|expired| expired.keys.contains(&key));
                self.open_connection(packet, &key, out)
            }
        }
    }

    fn has_syn_proxy(&self, key: &FlowKey) -> bool {
        let service = self.services.at(Protocol::TCP, key.destination);
        service.is_some_and(|service| service.settings.dpvs.syn_proxy && self.has_weight(service))
    }

    fn has_weight(&self, service: &Service) -> bool {
        service.servers.iter().any(|server| self.services.server(*server).is_some_and(|server| server.settings.weight > 0))
    }

    fn continue_connection(
        &mut self,
        id: super::table::ConnectionId,
        mut connection: Connection,
        direction: Direction,
        mut packet: Packet,
        out: &mut Output,
    ) -> Verdict {
        if self.is_quiescent(&connection) {
            self.connections.forget(id, &connection);
            self.release(&connection);
            return Verdict::Dropped(DropReason::ServerRemoved);
        }
        if direction == Direction::In
            && let Some(verdict) = self.reopen(&mut connection, &packet, out)
        {
            self.connections.reschedule(id, &connection);
            self.connections.put_back(id, connection);
            return verdict;
        }
        if connection.handshake.is_some()
            && let Some(verdict) = self.during_handshake(id, &mut connection, direction, &mut packet, out)
        {
            self.connections.put_back(id, connection);
            return verdict;
        }
        let before = connection.expires;
        let verdict = self.pass(&mut connection, direction, packet, false, out);
        if connection.expires < before {
            self.connections.reschedule(id, &connection);
        }
        self.connections.put_back(id, connection);
        verdict
    }

    /// `--expire-quiescent`, and persistence, which DPVS mistakes for it: a connection ends with its real server.
    fn is_quiescent(&self, connection: &Connection) -> bool {
        let gone = self.services.server(connection.server).is_none_or(|server| server.deleted || server.settings.weight == 0);
        let service = self.services.service(connection.service);
        gone && service.is_some_and(|service| service.settings.dpvs.expire_quiescent || service.settings.persistence.is_some())
    }

    /// State first, then the way out: the state changes even when the packet can't leave.
    fn pass(
        &mut self,
        connection: &mut Connection,
        direction: Direction,
        packet: Packet,
        new: bool,
        out: &mut Output,
    ) -> Verdict {
        let flags = packet.tcp_flags();
        connection.state = match connection.protocol {
            Protocol::TCP => connection.state.after_segment(direction, flags, connection.is_one_way()),
            Protocol::UDP => connection.state.after_datagram(direction),
            Protocol::SCTP => connection.state.after_chunk(packet.u8(packet.transport + 12)),
            _ => connection.state,
        };
        if direction == Direction::Out && connection.protocol == Protocol::TCP {
            remember_server(connection, &packet);
        }
        self.count_state(connection);
        self.refresh(connection);
        let inwards = direction == Direction::In;
        if let Some(service) = self.services.service_mut(connection.service) {
            Service::count(&mut service.counters, inwards, packet.length());
        }
        if let Some(server) = self.services.server_mut(connection.server) {
            Service::count(&mut server.counters, inwards, packet.length());
        }
        match (connection.method, direction) {
            (ForwardingMethod::Dr, _) => self.route_directly(connection, packet, new, out),
            (ForwardingMethod::Tunnel(_), _) => self.tunnel(connection, packet, new, out),
            (_, Direction::In) => self.translate_in(connection, packet, new, out),
            (_, Direction::Out) => self.translate_out(connection, packet, new, out),
        }
    }

    /// A packet without connection: some open one, an ACK to a TCP service is answered by RST.
    fn open_connection(&mut self, packet: Packet, key: &FlowKey, out: &mut Output) -> Result<Verdict, Packet> {
        let flags = packet.tcp_flags();
        if packet.protocol == Protocol::TCP && !is_opening(flags) {
            const ALL: u8 = flag::ACK | flag::SYN | flag::FIN | flag::RST;
            if flags & ALL == flag::ACK && self.services.at(Protocol::TCP, key.destination).is_some() {
                return Ok(self.answer_ack(packet, out));
            }
            return self.undefended(packet);
        }
        let Some((service, outward)) = self.find_service(&packet, key) else { return self.undefended(packet) };
        let (made, direction) = if outward {
            (self.new_outward_connection(service, key), Direction::Out)
        } else {
            (self.new_connection(service, key), Direction::In)
        };
        let mut connection = match made {
            Ok(connection) => connection,
            Err(reason) => return Ok(Verdict::Dropped(reason)),
        };
        let verdict = self.pass(&mut connection, direction, packet, true, out);
        if connection.one_packet {
            self.release(&connection);
        } else {
            self.connections.insert(connection);
        }
        Ok(verdict)
    }

    /// `defence_tcp_drop` and `defence_udp_drop`: what IPVS does not take is dropped here.
    fn undefended(&self, packet: Packet) -> Result<Verdict, Packet> {
        let defended = match packet.protocol {
            Protocol::TCP => self.settings.defence_tcp_drop,
            Protocol::UDP => self.settings.defence_udp_drop,
            _ => false,
        };
        if defended { Ok(Verdict::Dropped(DropReason::Defence)) } else { Err(packet) }
    }

    /// The service for a packet: by mark, by address, by match rule; and whether it is an inside host's packet (SNAT).
    fn find_service(&self, packet: &Packet, key: &FlowKey) -> Option<(u32, bool)> {
        if let Some(rule) = self.marks.iter().find(|rule| mark_applies(rule, key)) {
            let is_marked = |service: &&Service| matches!(service.key, ServiceKey::Mark { mark, family } if mark == rule.mark && family == key.destination.ip().into());
            if let Some(service) = self.services.others().find(is_marked) {
                return Some((service.number, false));
            }
        }
        if let Some(service) = self.services.at(key.protocol, key.destination) {
            return Some((service.number, false));
        }
        if self.link.is_local(key.destination.ip()) {
            return None;
        }
        let matching = |service: &&Service| match &service.key {
            ServiceKey::Match(rule) => self.rule_matches(rule, packet, key),
            _ => false,
        };
        self.services.others().find(matching).map(|service| (service.number, true))
    }

    fn rule_matches(&self, rule: &MatchRule, packet: &Packet, key: &FlowKey) -> bool {
        let protocol = match key.protocol {
            Protocol::ICMPV6 if rule.protocol == Protocol::ICMP => Protocol::ICMP,
            protocol => protocol,
        };
        let named = |id| self.link.interface(id).map(|port| port.name.as_str());
        let leaves = || named(self.link.route(key.destination.ip())?.interface);
        rule.protocol == protocol
            && rule.source.is_none_or(|range| in_range(range, key.source))
            && rule.destination.is_none_or(|range| in_range(range, key.destination))
            && rule.input_interface.as_deref().is_none_or(|name| named(packet.origin.interface) == Some(name))
            && rule.output_interface.as_deref().is_none_or(|name| leaves() == Some(name))
    }
}

/// Whether an end lies in a range of addresses and ports; ports 0 to 0 mean any.
fn in_range((low, high): (SocketAddr, SocketAddr), end: SocketAddr) -> bool {
    let address: IpAddr = end.ip();
    let any_port = low.port() == 0 && high.port() == 0;
    address.is_ipv4() == low.is_ipv4()
        && (low.ip()..=high.ip()).contains(&address)
        && (any_port || (low.port()..=high.port()).contains(&end.port()))
}

fn mark_applies(rule: &MarkRule, key: &FlowKey) -> bool {
    rule.destination.is_none_or(|network| network.contains(key.destination.ip()))
        && rule.protocol.is_none_or(|protocol| protocol == key.protocol)
        && (rule.ports.is_empty() || rule.ports.contains(&key.destination.port()))
}

/// A SYN with none of ACK, FIN, RST.
fn is_opening(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK | flag::FIN | flag::RST) == flag::SYN
}

/// What the packet's connection is found by. None: a protocol or message that IPVS does not look at.
fn flow_key(packet: &Packet) -> Result<Option<FlowKey>, DropReason> {
    const ECHO: [(Protocol, u8, u8); 2] = [(Protocol::ICMP, 8, 0), (Protocol::ICMPV6, 128, 129)];
    let header = match packet.protocol {
        Protocol::TCP => tcp::HEADER,
        Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6 => 8,
        Protocol::SCTP => 12,
        _ => return Ok(None),
    };
    if packet.bytes.len() < packet.transport + header {
        return Err(DropReason::TransportTruncated);
    }
    let (source, destination) = packet.ends();
    let protocol = packet.protocol;
    if !matches!(protocol, Protocol::ICMP | Protocol::ICMPV6) {
        return Ok(Some(FlowKey { protocol, source, destination }));
    }
    // The identifier stands for the asker's port, the message type for that of whoever answers.
    let Some((_, request, reply)) = ECHO.into_iter().find(|(of, ..)| *of == protocol) else { return Ok(None) };
    let identifier = packet.u16(packet.transport + 4);
    let kind = packet.u8(packet.transport);
    let (from, to) = match kind {
        kind if kind == request => (identifier, u16::from(request)),
        kind if kind == reply => (u16::from(request), identifier),
        _ => return Ok(None),
    };
    let end = |end: SocketAddr, port| SocketAddr::new(end.ip(), port);
    Ok(Some(FlowKey { protocol, source: end(source, from), destination: end(destination, to) }))
}

/// What the RST at expiry needs to know of the real server's segments.
fn remember_server(connection: &mut Connection, packet: &Packet) {
    const IPV6_EXCESS: u32 = 40;
    let at = packet.transport;
    let sequence = packet.u32(at + tcp::SEQUENCE);
    connection.server_acknowledged = packet.u32(at + tcp::ACKNOWLEDGEMENT);
    connection.server_next = if packet.tcp_flags() & flag::SYN != 0 {
        sequence.wrapping_add(1)
    } else {
        // DPVS takes the IPv6 header for payload (recordings/dpvs-1.10/expire-rst).
        let excess = if connection.client.is_ipv6() { IPV6_EXCESS } else { 0 };
        sequence.wrapping_add(packet.tcp_payload_len() as u32).wrapping_add(excess)
    };
}
