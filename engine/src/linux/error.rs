//! ICMP errors of the director (reference/linux-ipvs.md section 10.2), with their rate limits.

use super::options;
use super::packet::Packet;
use super::transmit::is_error;
use super::{Director, Output};
use crate::link::route::{Way, is_group};
use crate::output::DrawnField;
use crate::packet::ipv4::{self, Ipv4Fields};
use crate::packet::ipv6::Ipv6Fields;
use crate::packet::{icmp, ipv6};
use crate::rewrite::icmp::fill_checksums;
use crate::time::Nanos;
use std::net::IpAddr;

impl Director {
    /// Sends an ICMP error about a packet to its source; true if it left. `rest` is the word behind the checksum.
    pub(super) fn send_error_v4(&mut self, out: &mut Output, about: &Packet, kind: u8, code: u8, rest: u32) -> bool {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = about.addresses() else { return false };
        if !about.to_us || is_group(destination.into()) || about.headers.is_later_fragment() || is_group(source.into()) {
            return false;
        }
        if about.headers.protocol == 1 && (is_error(about) || about.transport().first().is_none_or(|inner| *inner > 18)) {
            return false;
        }
        // An error about a packet of one of the director's own addresses does not leave, but IPVS may send it on.
        let hop = match self.host.routes.lookup_own(source.into()) {
            Way::Out(hop) => Some(hop),
            Way::Local => None,
            _ => return false,
        };
        let inbound = about.arrival.filter(|_| self.host.sysctls.icmp_errors_use_inbound_ifaddr);
        let own = match (hop, inbound) {
            _ if about.local => Some(destination),
            (_, Some(on)) => self.host.select_v4(on, None),
            (None, None) => Some(source),
            (Some(hop), None) => match self.host.source_on(&hop, source.into()) {
                Some(IpAddr::V4(own)) => Some(own),
                _ => None,
            },
        };
        let Some(own) = own else { return false };
        let unlimited = kind == icmp::v4::UNREACHABLE && code == icmp::v4::FRAGMENTATION_NEEDED
            || kind == icmp::v4::REDIRECT
            || self.host.sysctls.icmp_ratemask & 1u32.checked_shl(u32::from(kind)).unwrap_or(0) == 0;
        let interval = Nanos::from_millis(u64::from(self.host.sysctls.icmp_ratelimit));
        if !unlimited && hop.is_some() && !self.peers.allow(source.into(), interval, about.time) {
            return false;
        }
        let clock = self.next_timestamp();
        let echo = options::echo(&about.bytes[ipv4::HEADER_LEN..about.headers.transport_at], own, clock.1);
        let options = &echo.options;
        let mtu = hop.map_or(576, |hop| self.mtu_of(&hop, source.into(), about.time).min(576));
        let room = mtu.saturating_sub(ipv4::HEADER_LEN + options.len() + icmp::HEADER_LEN);
        let (quoted, missing) = quote(about, room);
        let (id, field) = self.next_ipv4_id();
        let header_len = ipv4::HEADER_LEN + options.len();
        let fields = Ipv4Fields {
            tos: 0xc0 | about.headers.tos & 0x1e,
            total_len: (header_len + icmp::HEADER_LEN + quoted.len() + missing) as u16,
            id,
            dont_fragment: false,
            ttl: self.host.sysctls.ip_default_ttl,
            protocol: 1,
            source: own,
            destination: source,
        };
        let mut bytes = fields.header().to_vec();
        bytes[0] = 0x40 | (header_len / 4) as u8;
        bytes.extend_from_slice(options);
        icmp::write(&mut bytes, kind, code, rest, quoted);
        let end = bytes.len();
        fill_checksums(&mut bytes, header_len, end);
        let Ok(mut packet) = Packet::made(bytes, about.time) else { return false };
        packet.drawn.push(field);
        packet.drawn.extend(echo.clock_at.map(|at| clock.0.at(ipv4::HEADER_LEN + at)));
        packet.drawn.extend(echo.echoed(&about.drawn));
        // The quoted header's checksum is older than the times in it; the message's is not.
        let quoted_at = header_len + icmp::HEADER_LEN;
        let in_header = |field: &&DrawnField| about.options_changed && usize::from(field.offset) < about.headers.transport_at;
        packet.drawn.extend(
            about
                .drawn
                .iter()
                .filter(in_header)
                .map(|field| DrawnField { checksums: [(header_len + 2) as u16, 0], ..field.behind(quoted_at) }),
        );
        packet.cut = missing as u32;
        self.local_out(out, packet)
    }

    /// Sends an ICMPv6 error about a packet to its source; true if it left.
    pub(super) fn send_error_v6(&mut self, out: &mut Output, about: &Packet, kind: u8, code: u8, rest: u32) -> bool {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = about.addresses() else { return false };
        let to_group = !about.to_us || destination.is_multicast();
        if to_group && kind != icmp::v6::PACKET_TOO_BIG || source.is_multicast() || source.is_unspecified() {
            return false;
        }
        if about.headers.protocol == 58 && !about.headers.is_later_fragment() && is_error(about) {
            return false;
        }
        let Way::Out(hop) = self.way_back(source.into(), about.arrival) else { return false };
        // An address of an interface; one that only a local route makes the director's (a transparent service) is not.
        let own = if self.host.links.iter().any(|(_, link)| link.has_address(destination.into())) {
            Some(destination)
        } else {
            match self.host.source_on(&hop, source.into()) {
                Some(IpAddr::V6(own)) => Some(own),
                _ => None,
            }
        };
        let Some(own) = own else { return false };
        // The wider the route's network, the more hosts share the limit: half as long for each 32 bits.
        let shared_bits = 128 - u32::from(self.host.routes.prefix_len_towards(source.into()).min(128));
        let interval = Nanos::from_millis(u64::from(self.host.sysctls.icmpv6_ratelimit) >> (shared_bits / 32));
        if kind != icmp::v6::PACKET_TOO_BIG && !self.peers.allow(source.into(), interval, about.time) {
            return false;
        }
        let (quoted, missing) = quote(about, 1280 - ipv6::HEADER_LEN - icmp::HEADER_LEN);
        let (flow_label, field) = self.next_flow_label();
        let fields = Ipv6Fields {
            traffic_class: 0,
            flow_label,
            payload_len: (icmp::HEADER_LEN + quoted.len() + missing) as u16,
            next_header: 58,
            hop_limit: self.host.links.get(hop.interface).settings.ipv6_hop_limit,
            source: own,
            destination: source,
        };
        let mut bytes = Vec::new();
        fields.write(&mut bytes);
        icmp::write(&mut bytes, kind, code, rest, quoted);
        let end = bytes.len();
        fill_checksums(&mut bytes, ipv6::HEADER_LEN, end);
        let Ok(mut packet) = Packet::made(bytes, about.time) else { return false };
        packet.drawn.push(field);
        packet.cut = missing as u32;
        self.local_out_on(out, packet, about.arrival)
    }
}

/// What an error quotes of a packet, and how much more it would quote if the capture held it.
fn quote(about: &Packet, room: usize) -> (&[u8], usize) {
    let wanted = (about.bytes.len() + about.cut as usize).min(room);
    let held = &about.bytes[..about.bytes.len().min(wanted)];
    (held, wanted - held.len())
}
