//! NAT, SNAT and FULLNAT: the way of a packet through its connection, in both directions
//! (reference/dpvs-fullnat.md sections 5, 6, 8, 9 and 10).

use super::connection::{Connection, Path};
use super::director::Director;
use super::link::{Sent, Way};
use super::nat64;
use super::proxy_protocol::{self, Change};
use super::state::flag;
use super::toa;
use super::uoa::{self, Carried};
use super::wire::{Packet, tcp};
use crate::config::{ForwardingMethod, Protocol, ProxyProtocol};
use crate::draws::Draw;
use crate::output::{DrawnKind, Output};
use crate::verdict::{DropReason, Forwarded, Refusal, Verdict};

/// How much of the MSS that a real server offers is kept back, so that TOA has room.
const MSS_RESERVE_IPV4: u16 = 8;
const MSS_RESERVE_IPV6: u16 = 20;
const MSS_KIND: u8 = 2;
const MSS_LENGTH: usize = 4;

/// By which of its two ways a packet leaves.
enum Exit {
    /// To the MAC addresses of the connection's first frames: no route, no neighbour, no MTU, no TTL.
    Fast(Path),
    /// As any packet is routed.
    Routed(Way),
}

impl Exit {
    fn mtu(&self, director: &Director) -> u32 {
        match self {
            Exit::Fast(path) => director.link.mtu(path.interface),
            Exit::Routed(way) => way.mtu,
        }
    }
}

impl Director {
    /// A client's packet, to the real server.
    pub(super) fn translate_in(
        &mut self,
        connection: &mut Connection,
        mut packet: Packet,
        new: bool,
        out: &mut Output,
    ) -> Verdict {
        let forwarded = Forwarded { service: connection.service, server: connection.server, new };
        let mut fast = None;
        if self.may_use_fast_path(connection) {
            connection.client_path.get_or_insert(path_of(&packet));
            fast = connection.server_path;
        }
        let exit = match fast {
            Some(path) => Exit::Fast(path),
            None => {
                let Some(way) = self.link.route(connection.real.ip()) else { return Verdict::Dropped(DropReason::NoRoute) };
                if let Some(verdict) = self.routed_checks(&mut packet, &way, connection.is_nat64(), out) {
                    return verdict;
                }
                Exit::Routed(way)
            }
        };
        if connection.is_nat64() && !nat64::to_ipv4(&mut packet, connection.local.ip(), connection.real.ip()) {
            return Verdict::Dropped(DropReason::Unanswered);
        }
        let mtu = exit.mtu(self);
        let ahead = match (connection.protocol, connection.method) {
            (Protocol::TCP, ForwardingMethod::FullNat) => self.tcp_in(connection, &mut packet, mtu),
            (Protocol::UDP, ForwardingMethod::FullNat) => self.udp_in(connection, &mut packet, mtu),
            (Protocol::ICMP | Protocol::ICMPV6, _) => {
                packet.set_destination(connection.real.ip());
                packet.finish();
                None
            }
            _ => {
                packet.set_ends(connection.local, connection.real);
                packet.finish();
                None
            }
        };
        if let Some(ahead) = ahead {
            let mut ahead = [ahead];
            // A PROXY header keeps the identification of the segment that it belongs to.
            if ahead[0].protocol == Protocol::UDP {
                self.link.identify(&mut ahead, &self.draws);
            }
            let [ahead] = ahead;
            self.leave(ahead, &exit, out);
        }
        verdict_of(self.leave(packet, &exit, out), Verdict::Forwarded(forwarded), forwarded)
    }

    /// A real server's packet, to the client. Under SNAT the client is the outside host.
    pub(super) fn translate_out(
        &mut self,
        connection: &mut Connection,
        mut packet: Packet,
        new: bool,
        out: &mut Output,
    ) -> Verdict {
        let forwarded = Forwarded { service: connection.service, server: connection.server, new };
        let mut fast = None;
        if self.may_use_fast_path(connection) {
            connection.server_path.get_or_insert(path_of(&packet));
            fast = connection.client_path;
        }
        let exit = match fast {
            Some(path) => Exit::Fast(path),
            None => {
                let Some(way) = self.link.route(connection.client.ip()) else {
                    return Verdict::Dropped(DropReason::NoRoute);
                };
                if let Some(verdict) = self.routed_checks(&mut packet, &way, false, out) {
                    return verdict;
                }
                Exit::Routed(way)
            }
        };
        if connection.is_nat64() && !nat64::to_ipv6(&mut packet, connection.service_end.ip(), connection.client.ip()) {
            return Verdict::Dropped(DropReason::Unanswered);
        }
        match connection.protocol {
            Protocol::ICMP | Protocol::ICMPV6 => packet.set_source(connection.service_end.ip()),
            protocol => {
                packet.set_ends(connection.service_end, connection.client);
                if protocol == Protocol::TCP && connection.is_fullnat() {
                    self.tcp_out(connection, &mut packet);
                }
            }
        }
        packet.finish();
        let verdict = if connection.method == ForwardingMethod::Snat {
            Verdict::Forwarded(forwarded)
        } else {
            Verdict::Returned(forwarded)
        };
        verdict_of(self.leave(packet, &exit, out), verdict, forwarded)
    }

    /// FULLNAT and NAT have a fast path, unless dpvs.conf or an unfinished UOA keeps the connection off it; NAT64 has none.
    fn may_use_fast_path(&self, connection: &Connection) -> bool {
        matches!(connection.method, ForwardingMethod::FullNat | ForwardingMethod::Nat)
            && !self.settings.fast_xmit_close
            && !connection.is_nat64()
            && connection.uoa_sent.is_none()
            && !connection.proxy_pending
    }

    /// TTL and length of a routed packet. Some: an ICMP error was sent instead.
    fn routed_checks(&mut self, packet: &mut Packet, way: &Way, nat64: bool, out: &mut Output) -> Option<Verdict> {
        if self.settings.xmit_ttl {
            if packet.ttl() <= 1 {
                self.send_time_exceeded(packet, out);
                return Some(Verdict::Refused(Refusal::TtlExceeded));
            }
            packet.set_ttl(packet.ttl() - 1);
        }
        let length = packet.length() - if nat64 { nat64::HEADER_DIFFERENCE.min(packet.length()) } else { 0 };
        if length > way.mtu as usize && packet.dont_fragment() {
            self.send_too_big(packet, way.mtu, out);
            return Some(Verdict::Refused(Refusal::TooBig));
        }
        None
    }

    /// Lets a packet leave; on the routed path it is cut into fragments where it is too long.
    fn leave(&mut self, packet: Packet, exit: &Exit, out: &mut Output) -> Sent {
        match exit {
            Exit::Fast(path) => {
                self.link.emit(&packet, path.interface, path.peer, path.own, self.now, out);
                Sent::Left
            }
            Exit::Routed(way) => self.send_fragmented(packet, way, out),
        }
    }

    /// Sends a packet, in fragments if it is IPv4 and longer than the way's MTU.
    pub(super) fn send_fragmented(&mut self, packet: Packet, way: &Way, out: &mut Output) -> Sent {
        if !packet.is_ipv4() || packet.length() <= way.mtu as usize {
            return self.link.send(packet, way, self.now, out);
        }
        let mut result = Sent::Left;
        for fragment in fragments(&packet, way.mtu as usize) {
            result = self.link.send(fragment, way, self.now, out);
        }
        result
    }

    /// FULLNAT, TCP, towards the real server. A segment that must go first is returned.
    fn tcp_in(&mut self, connection: &mut Connection, packet: &mut Packet, mtu: u32) -> Option<Packet> {
        let flags = packet.tcp_flags();
        let at = packet.transport;
        let sequence = packet.u32(at + tcp::SEQUENCE);
        let acknowledgement = packet.u32(at + tcp::ACKNOWLEDGEMENT);
        let opens = flags & (flag::SYN | flag::ACK) == flag::SYN;
        if opens {
            let (start, end) = (at + tcp::HEADER, at + packet.tcp_header_len());
            let end = end.min(packet.bytes.len());
            if let Some(options) = packet.bytes.get_mut(start..end) {
                toa::erase_timestamp(options);
            }
            connection.client_start.get_or_insert(sequence);
        }
        if toa::is_forged(packet.tcp_options())
            && let Some(service) = self.services.service_mut(connection.service)
        {
            service.client_addresses.forged += 1;
        }
        packet.set_ends(connection.local, connection.real);
        let inserted = connection.inserted;
        let mut ahead = None;
        if acknowledgement == connection.trigger && flags & (flag::SYN | flag::RST) == 0 {
            match self.proxy_setting(connection) {
                ProxyProtocol::Disable => self.add_toa(connection, packet, mtu),
                setting => ahead = self.add_proxy_header(connection, packet, setting, sequence, mtu),
            }
        }
        let added = if ahead.is_some() { connection.inserted } else { inserted };
        let offset = self.draws.value(Draw::SequenceOffset(connection.number)) as u32;
        for (packet, added) in [(Some(&mut *packet), added), (ahead.as_mut(), inserted)] {
            let Some(packet) = packet else { continue };
            let sequence = sequence.wrapping_add(offset).wrapping_add(added);
            packet.put(packet.transport + tcp::SEQUENCE, &sequence.to_be_bytes());
            packet.mark(tcp::SEQUENCE, Draw::SequenceOffset(connection.number), DrawnKind::Plus);
            self.shift_acknowledged(connection, packet);
            packet.finish();
        }
        ahead
    }

    /// SYN proxy: the client knows the cookie as the server's first sequence number.
    fn shift_acknowledged(&self, connection: &Connection, packet: &mut Packet) {
        let Some((attempt, difference)) = connection.handshake.as_ref().and_then(|handshake| handshake.difference()) else {
            return;
        };
        shift(packet, Some(tcp::ACKNOWLEDGEMENT), 0_u32.wrapping_sub(difference), Draw::SynCookie(attempt), DrawnKind::Minus);
    }

    /// The PROXY setting of a connection's service, as long as the service exists.
    fn proxy_setting(&self, connection: &Connection) -> ProxyProtocol {
        self.services.service(connection.service).map_or(ProxyProtocol::Disable, |service| service.settings.dpvs.proxy_protocol)
    }

    /// Puts TOA in, if need be at the cost of other options.
    fn add_toa(&mut self, connection: &Connection, packet: &mut Packet, mtu: u32) {
        let option = toa::address_option(toa::KIND, connection.client);
        let too_long = |packet: &Packet| packet.length() + option.len() > mtu as usize;
        let no_room = |packet: &Packet| toa::MAXIMUM_OPTIONS - packet.tcp_options().len() < option.len();
        let was_too_long = too_long(packet);
        let mut fits = !was_too_long && !no_room(packet);
        let mut pruned_some = false;
        let options = packet.transport + tcp::HEADER;
        if !fits && let Some(pruned) = toa::prune(packet.tcp_options(), option.len()) {
            let before = packet.tcp_options().len();
            let freed = before - pruned.len();
            pruned_some = true;
            packet.put(options, &pruned);
            packet.remove(options + pruned.len(), freed);
            set_options_len(packet, pruned.len());
            fits = freed >= option.len() && !too_long(packet) && !no_room(packet);
        }
        if fits {
            let length = packet.tcp_options().len() + option.len();
            packet.insert(options, &option);
            set_options_len(packet, length);
        }
        let Some(service) = self.services.service_mut(connection.service) else { return };
        let counts = &mut service.client_addresses;
        match (fits, was_too_long) {
            (true, _) => {
                counts.toa += 1;
                counts.toa_after_pruning += u64::from(pruned_some);
            }
            (false, true) => counts.longer_than_mtu += 1,
            (false, false) => counts.no_option_room += 1,
        }
    }

    /// Puts the PROXY header in front of the first payload; if both don't fit, it goes ahead in a segment of its own.
    fn add_proxy_header(
        &mut self,
        connection: &mut Connection,
        packet: &mut Packet,
        setting: ProxyProtocol,
        sequence: u32,
        mtu: u32,
    ) -> Option<Packet> {
        let first = connection.client_start?.wrapping_sub(connection.inserted).wrapping_add(1);
        if packet.tcp_payload_len() == 0 || sequence != first {
            return None;
        }
        let payload_at = packet.transport + packet.tcp_header_len();
        let payload = packet.bytes.get(payload_at..).unwrap_or(&[]);
        let change = proxy_protocol::change(setting, Protocol::TCP, payload, connection.client, connection.service_end);
        let Change::Insert { strip, header } = change else { return None };
        let too_long = packet.length() + header.len() > mtu as usize + strip;
        packet.remove(payload_at, strip);
        connection.inserted = connection.inserted.wrapping_add(header.len() as u32).wrapping_sub(strip as u32);
        if let Some(service) = self.services.service_mut(connection.service) {
            service.client_addresses.proxy_headers += 1;
        }
        if !too_long {
            packet.insert(payload_at, &header);
            return None;
        }
        let mut ahead = packet.clone();
        let options = packet.tcp_options().len();
        ahead.truncate(payload_at);
        ahead.remove(packet.transport + tcp::HEADER, options);
        set_options_len(&mut ahead, 0);
        ahead.insert(packet.transport + tcp::HEADER, &header);
        ahead.put(packet.transport + tcp::FLAGS, &[flag::ACK | packet.tcp_flags() & flag::PSH]);
        if ahead.is_ipv4() {
            ahead.put(6, &[0, 0]);
        }
        Some(ahead)
    }

    /// FULLNAT, TCP, towards the client; addresses and ports are done.
    fn tcp_out(&self, connection: &mut Connection, packet: &mut Packet) {
        let flags = packet.tcp_flags();
        let at = packet.transport;
        let sequence = packet.u32(at + tcp::SEQUENCE);
        if flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK {
            let reserve = if connection.client.is_ipv4() { MSS_RESERVE_IPV4 } else { MSS_RESERVE_IPV6 };
            if let Some(value) = toa::value_of(packet.tcp_options(), MSS_KIND, MSS_LENGTH) {
                let value = at + tcp::HEADER + value;
                packet.put(value, &packet.u16(value).wrapping_sub(reserve).to_be_bytes());
            }
            connection.trigger = sequence.wrapping_add(1);
        }
        let offset = self.draws.value(Draw::SequenceOffset(connection.number)) as u32;
        let back = 0_u32.wrapping_sub(offset).wrapping_sub(connection.inserted);
        shift(packet, Some(tcp::ACKNOWLEDGEMENT), back, Draw::SequenceOffset(connection.number), DrawnKind::Minus);
        let Some(handshake) = &connection.handshake else { return };
        if let Some((attempt, difference)) = handshake.difference() {
            packet.put(at + tcp::SEQUENCE, &sequence.wrapping_add(difference).to_be_bytes());
            packet.mark(tcp::SEQUENCE, Draw::SynCookie(attempt), DrawnKind::Plus);
        }
        let window = handshake.window_for_client(packet.u16(at + tcp::WINDOW));
        packet.put(at + tcp::WINDOW, &window.to_be_bytes());
    }

    /// FULLNAT, UDP, towards the real server. A datagram that must go first is returned.
    fn udp_in(&mut self, connection: &mut Connection, packet: &mut Packet, mtu: u32) -> Option<Packet> {
        packet.set_ends(connection.local, connection.real);
        let setting = self.proxy_setting(connection);
        if connection.proxy_pending {
            connection.proxy_pending = false;
            let at = packet.transport + 8;
            let payload = packet.bytes.get(at..).unwrap_or(&[]);
            let change = proxy_protocol::change(setting, Protocol::UDP, payload, connection.client, connection.service_end);
            if let Change::Insert { strip, header } = change {
                packet.remove(at, strip);
                packet.insert(at, &header);
                let length = (packet.length() - packet.transport) as u16;
                packet.put(packet.transport + 4, &length.to_be_bytes());
                if let Some(service) = self.services.service_mut(connection.service) {
                    service.client_addresses.proxy_headers += 1;
                }
            }
        }
        let Some(sent) = connection.uoa_sent else {
            packet.finish();
            return None;
        };
        connection.uoa_sent = Some(sent + 1).filter(|sent| *sent < self.settings.uoa_max_trail);
        let carried = uoa::add(packet, connection.client, self.settings.uoa_mode, mtu);
        if let Some(service) = self.services.service_mut(connection.service) {
            service.client_addresses.uoa += 1;
            service.client_addresses.uoa_ahead += u64::from(matches!(carried, Carried::Ahead(_)));
        }
        match carried {
            Carried::Inside => None,
            Carried::Ahead(ahead) => Some(ahead),
        }
    }
}

/// Adds to a field of the TCP header and to every SACK edge, and marks them as drawn.
fn shift(packet: &mut Packet, field: Option<usize>, by: u32, draw: Draw, kind: DrawnKind) {
    let edges = toa::sack_edges(packet.tcp_options());
    let fields = field.into_iter().chain(edges.into_iter().map(|edge| tcp::HEADER + edge));
    for field in fields {
        let at = packet.transport + field;
        packet.put(at, &packet.u32(at).wrapping_add(by).to_be_bytes());
        packet.mark(field, draw, kind);
    }
}

/// Sets the data offset for that many bytes of options.
fn set_options_len(packet: &mut Packet, options: usize) {
    let at = packet.transport + tcp::DATA_OFFSET;
    let words = ((tcp::HEADER + options) / 4) as u8;
    packet.put(at, &[words << 4 | packet.u8(at) & 0xf]);
}

fn path_of(packet: &Packet) -> Path {
    let origin = packet.origin;
    Path { interface: origin.interface, peer: origin.source_mac, own: origin.destination_mac }
}

fn verdict_of(sent: Sent, left: Verdict, forwarded: Forwarded) -> Verdict {
    match sent {
        Sent::Left => left,
        Sent::Waits => Verdict::WaitsForNeighbour(forwarded),
        Sent::Dropped(reason) => Verdict::Dropped(reason),
    }
}

/// The fragments of an IPv4 packet: the header with its options is repeated whole, DF and the reserved bit are cleared.
fn fragments(packet: &Packet, mtu: usize) -> Vec<Packet> {
    const MORE: u16 = 0x2000;
    let header = usize::from(packet.u8(0) & 0xf) * 4;
    let room = mtu.saturating_sub(header) / 8 * 8;
    if room == 0 || packet.bytes.len() < header {
        return Vec::new();
    }
    let payload = packet.length() - header;
    (0..payload)
        .step_by(room)
        .map(|start| {
            let end = (start + room).min(payload);
            let held = |offset: usize| (header + offset).min(packet.bytes.len());
            let mut fragment = packet.clone();
            fragment.bytes.truncate(header);
            fragment.bytes.extend(&packet.bytes[held(start)..held(end)]);
            fragment.cut = ((end - start) - (held(end) - held(start))) as u32;
            let more = if end < payload { MORE } else { 0 };
            fragment.put(2, &((header + end - start) as u16).to_be_bytes());
            fragment.put(6, &((start / 8) as u16 | more).to_be_bytes());
            fragment.finish_ip();
            // Fields of the repeated IP header are in all fragments, those of the transport header in the first.
            fragment.drawn.retain(|field| start == 0 || usize::from(field.offset) < header);
            fragment
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{InterfaceId, MacAddr};
    use crate::dpvs::wire::{Origin, ipv4_header};
    use crate::time::Nanos;
    use proptest::prelude::*;

    proptest! {
        /// Fragments hold every byte once, in order, and no fragment is longer than the MTU.
        #[test]
        fn fragments_are_whole(payload in 1usize..4000, mtu in 28usize..1500) {
            let origin = Origin { time: Nanos(0), interface: InterfaceId(0), source_mac: MacAddr::ZERO, destination_mac: MacAddr::ZERO };
            let header = ipv4_header(Protocol::UDP, [1, 2, 3, 4].into(), [5, 6, 7, 8].into(), 20 + payload, 0, false, 64);
            let body: Vec<u8> = (0..payload).map(|index| index as u8).collect();
            let packet = Packet::build([&header[..], &body].concat(), Protocol::UDP, 20, origin);
            let parts = fragments(&packet, mtu);
            let joined: Vec<u8> = parts.iter().flat_map(|part| part.bytes[20..].to_vec()).collect();
            prop_assert_eq!(joined, body);
            prop_assert!(parts.iter().all(|part| part.bytes.len() <= mtu && part.length() == usize::from(part.u16(2))));
            let last = parts.last().unwrap();
            prop_assert!(parts.iter().rev().skip(1).all(|part| part.u8(6) & 0x20 != 0) && last.u8(6) & 0x20 == 0);
        }
    }
}
