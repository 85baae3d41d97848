//! ICMP errors about connections (reference/linux-ipvs.md sections 1.6, 1.7, 6.7, 6.8 and 7.2).

use super::balance::is_handled;
use super::packet::{Hook, Hooked, Packet};
use super::transmit::Exit;
use super::{Director, Output};
use crate::config::{ForwardingMethod, Tunnel, TunnelKind};
use crate::link::neighbour::Failure;
use crate::link::route::Way;
use crate::packet::icmp::{self, Icmp, v4};
use crate::packet::{FlowKey, Headers, gre, gue};
use crate::rewrite::nat::End;
use crate::rewrite::{icmp as rewrite, tunnel};
use crate::track::{Connection, ConnectionId, Opening, TransportEvent, Unscheduled};
use crate::verdict::{DropReason, Forwarded, Verdict};

/// A packet that an ICMP error quotes.
struct Quoted {
    /// Where it starts in the packet that quotes it.
    at: usize,
    headers: Headers,
    flow: FlowKey,
}

/// Whether IPVS passes errors of this type on.
fn passes(kind: u8, is_v4: bool) -> bool {
    if is_v4 { matches!(kind, v4::UNREACHABLE | v4::SOURCE_QUENCH | v4::TIME_EXCEEDED) } else { icmp::v6::is_error(kind) }
}

/// The packet quoted at that place, if its connection could be found: a handled protocol, its ports there.
fn quoted_at(packet: &Packet, at: usize) -> Option<Quoted> {
    let bytes = packet.bytes.get(at..packet.headers.total_len.min(packet.bytes.len()))?;
    let headers = Headers::of(bytes).ok()?;
    if headers.source.is_ipv4() != packet.is_v4() {
        return None;
    }
    Some(Quoted { at, headers, flow: headers.flow(bytes) })
}

fn has_ports(quoted: &Quoted, packet: &Packet) -> bool {
    let bytes = &packet.bytes[quoted.at..];
    match quoted.headers.protocol {
        50 | 51 => true,
        _ => !quoted.headers.is_later_fragment() && quoted.headers.transport(bytes).len() >= 4,
    }
}

impl Director {
    /// An error that a real server, or a router on its side, sends about an answer's connection.
    pub(super) fn related_from_server(&mut self, packet: &mut Packet) -> Hooked {
        let Ok(message) = Icmp::new_checked(packet.transport()) else {
            return Hooked::Done(Verdict::Dropped(DropReason::TransportTruncated));
        };
        if !passes(message.kind(), packet.is_v4()) {
            return Hooked::Accept;
        }
        let Some(quoted) = quoted_at(packet, packet.headers.transport_at + icmp::HEADER_LEN) else { return Hooked::Accept };
        if !is_handled(quoted.headers.protocol) || !has_ports(&quoted, packet) {
            return Hooked::Accept;
        }
        let Some(id) = self.ipvs.lookup_out(&quoted.flow.reversed()) else { return Hooked::Accept };
        let Some(connection) = self.ipvs.connection(id) else { return Hooked::Accept };
        if connection.is_nat() {
            if !packet.is_v4() && self.profile.nat_icmp6_errors_dropped {
                return Hooked::Done(Verdict::Dropped(DropReason::IcmpUnrelated));
            }
            if packet.is_v4() && !packet.is_cut() && !message.checksum_is_right() {
                return Hooked::Done(Verdict::Dropped(DropReason::BadIcmpChecksum));
            }
            let (address, port) = (connection.virtual_address, connection.virtual_port);
            rewrite::translate(&mut packet.bytes, &packet.headers, End::Source, address, port);
            packet.reread();
        }
        self.ipvs.count_out(id, packet.headers.total_len as u64);
        Hooked::AcceptAs(Verdict::Related(self.verdict_about(id, false)))
    }

    /// An error that a client, or a router on its side, sends about a request's connection; or about one of our tunnels.
    pub(super) fn related_from_client(&mut self, out: &mut Output, packet: &mut Packet, hook: Hook) -> Hooked {
        let Ok(message) = Icmp::new_checked(packet.transport()) else {
            return Hooked::Done(Verdict::Dropped(DropReason::TransportTruncated));
        };
        if !passes(message.kind(), packet.is_v4()) {
            return Hooked::Accept;
        }
        let right = match packet.is_v4() {
            true => packet.is_cut() || message.checksum_is_right(),
            false => Director::transport_checksum_is_right(packet, packet.transport_len()),
        };
        let Some(outer) = quoted_at(packet, packet.headers.transport_at + icmp::HEADER_LEN) else { return Hooked::Accept };
        if packet.is_v4() && packet.local && hook != Hook::Forward && matches!(outer.headers.protocol, 4 | 17 | 47) {
            if let Some((kind, inner_at)) = self.our_tunnel(packet, &outer) {
                return self.tunnel_error(out, packet, &outer, kind, inner_at, right);
            }
            if outer.headers.protocol == 4 {
                return Hooked::Accept;
            }
        }
        if !is_handled(outer.headers.protocol) {
            return Hooked::Accept;
        }
        if !has_ports(&outer, packet) {
            // What is to be scheduled needs ports.
            let wanted = self.host.sysctls.vs.schedule_icmp && !outer.headers.is_later_fragment() && !packet.is_cut();
            return if wanted { Hooked::Done(Verdict::Dropped(DropReason::TransportTruncated)) } else { Hooked::Accept };
        }
        let flow = outer.flow.reversed();
        let (id, new) = match self.ipvs.lookup_in(&flow) {
            Some(id) => (id, false),
            None if !self.host.sysctls.vs.schedule_icmp => return Hooked::Accept,
            None => {
                let opening = Opening {
                    flow,
                    mark: packet.mark,
                    event: TransportEvent::None,
                    from_icmp: true,
                    call_id: None,
                    now: packet.time,
                };
                match self.ipvs.open(opening, &self.draws) {
                    Ok(id) => (id, true),
                    Err(Unscheduled::Accept) => return Hooked::Accept,
                    Err(Unscheduled::DropRate) => return Hooked::Done(Verdict::Dropped(DropReason::DropRate)),
                    Err(_) => return Hooked::Done(Verdict::Dropped(DropReason::NoServer)),
                }
            }
        };
        let Some(connection) = self.ipvs.connection(id) else { return Hooked::Accept };
        let verdict = self.verdict_about(id, new);
        let verified = connection.is_nat() || self.profile.icmp_checksum_always_verified;
        let hooked = if verified && !right {
            Hooked::Done(Verdict::Dropped(DropReason::BadIcmpChecksum))
        } else {
            self.ipvs.count_in(id, packet.headers.total_len as u64);
            self.transmit_related(out, packet, id, &connection, verdict)
        };
        if new {
            self.ipvs.touch(id, packet.time);
        }
        hooked
    }

    fn transmit_related(
        &mut self,
        out: &mut Output,
        packet: &mut Packet,
        id: ConnectionId,
        connection: &Connection,
        verdict: Forwarded,
    ) -> Hooked {
        if connection.method != ForwardingMethod::Nat || connection.flags.bypass {
            return match self.transmit(out, packet, id, verdict) {
                Hooked::Done(Verdict::Forwarded(forwarded)) => Hooked::Done(Verdict::Related(forwarded)),
                other => other,
            };
        }
        let server = connection.server_address;
        let exit = match self.exit(out, packet, server, None, true) {
            Ok(exit) => exit,
            Err(Verdict::Refused(_)) => return Hooked::Done(Verdict::Dropped(DropReason::ErrorAboutError)),
            Err(verdict) => return Hooked::Done(verdict),
        };
        rewrite::translate(&mut packet.bytes, &packet.headers, End::Destination, server, connection.server_port);
        packet.reread();
        match exit {
            Exit::Local => Hooked::AcceptAs(Verdict::Related(verdict)),
            Exit::Out(hop, mtu) => {
                self.output(out, packet, hop, hop.next(server), mtu, Failure::Silent);
                Hooked::Done(Verdict::Related(verdict))
            }
        }
    }

    /// Whether a quoted packet is one of our tunnels' outer packets: its tunnel, and where the inner packet starts.
    fn our_tunnel(&self, packet: &Packet, outer: &Quoted) -> Option<(Tunnel, usize)> {
        if outer.headers.is_later_fragment() {
            return None;
        }
        let server = outer.headers.destination;
        let transport = outer.headers.transport(&packet.bytes[outer.at..]);
        let start = outer.at + outer.headers.transport_at;
        match outer.headers.protocol {
            4 => {
                let tunnel = self.ipvs.find_tunnel(server, TunnelKind::Ipip)?;
                Some((tunnel, start))
            }
            17 => {
                let port = outer.flow.destination_port;
                let tunnel = self.ipvs.find_tunnel(server, TunnelKind::Gue { port })?;
                let (len, protocol) = gue::parse(transport.get(8..)?)?;
                (protocol == 4).then_some((tunnel, start + 8 + len))
            }
            _ => {
                let tunnel = self.ipvs.find_tunnel(server, TunnelKind::Gre)?;
                let (len, kind) = gre::parse(transport)?;
                (kind == 0x0800).then_some((tunnel, start + len))
            }
        }
    }

    /// An error about an outer packet becomes one about the inner packet, from the VIP to the client.
    fn tunnel_error(
        &mut self,
        out: &mut Output,
        packet: &Packet,
        outer: &Quoted,
        kind: Tunnel,
        inner_at: usize,
        right: bool,
    ) -> Hooked {
        let Some(inner) = quoted_at(packet, inner_at) else { return Hooked::Accept };
        if !is_handled(inner.headers.protocol) || !has_ports(&inner, packet) {
            return Hooked::Accept;
        }
        let Some(id) = self.ipvs.lookup_in(&inner.flow) else { return Hooked::Accept };
        if !right {
            return Hooked::Done(Verdict::Dropped(DropReason::BadIcmpChecksum));
        }
        let Ok(message) = Icmp::new_checked(packet.transport()) else { return Hooked::Accept };
        let (error, code) = (message.kind(), message.code());
        let verdict = Hooked::Done(Verdict::Related(self.verdict_about(id, false)));
        let server = outer.headers.destination;
        let mut rest = 0;
        if error == v4::UNREACHABLE && code == v4::FRAGMENTATION_NEEDED {
            let reported = message.rest() & 0xffff;
            let Way::Out(hop) = self.host.routes.lookup(server) else { return verdict };
            let learned = self.host.path_mtus.get(server, packet.time).is_some();
            let before = self.mtu_of(&hop, server, packet.time);
            self.host.path_mtus.learn(server, reported, before as u32, packet.time);
            if !inner.headers.dont_fragment {
                return verdict;
            }
            // The route that IPVS keeps for the server knows of a first path MTU only from its next packet on.
            let known = if learned { self.mtu_of(&hop, server, packet.time) } else { before };
            let overhead = if self.profile.tunnel_pmtu_ignores_encapsulation {
                outer.headers.transport_at
            } else {
                tunnel::overhead(kind, true)
            };
            rest = if known > 68 + overhead { known - overhead } else { known } as u32;
        }
        let stop = packet.headers.total_len.min(packet.bytes.len());
        let bytes = packet.bytes[inner_at..stop].to_vec();
        let arrival = packet.arrival.unwrap_or_default();
        let Ok(mut about) = Packet::arrived(bytes, 0, arrival, true, packet.time) else { return Hooked::Accept };
        about.local = self.host.is_local(about.headers.destination);
        // The error leaves in the server's name: it is counted as if the server had sent what it quotes.
        self.ipvs.count_out(id, about.bytes.len() as u64);
        self.send_error_v4(out, &about, error, code, rest);
        verdict
    }

    /// A tunnel's server can't be reached: the kernel tells itself so, turns that into an error for the client, counts it,
    /// and then has no way to send it.
    pub(super) fn tunnel_unreachable(&mut self, outer: Packet) {
        /// What an ICMP error quotes at most: 576 bytes less its headers.
        const QUOTED: usize = 548;
        let Some(quoted) = quoted_at(&outer, 0) else { return };
        if !outer.is_v4() {
            return;
        }
        let Some((_, inner_at)) = self.our_tunnel(&outer, &quoted) else { return };
        let Some(inner) = quoted_at(&outer, inner_at) else { return };
        if let Some(id) = self.ipvs.lookup_in(&inner.flow) {
            self.ipvs.count_out(id, outer.bytes.len().min(QUOTED).saturating_sub(inner_at) as u64);
        }
    }
}
