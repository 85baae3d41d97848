//! From a frame to a routed packet (reference/linux-ipvs.md sections 1.2 and 10.5).

use super::options::{self, OptionProblem};
use super::packet::Packet;
use super::{Director, Output};
use crate::config::{InterfaceId, MacAddr};
use crate::director::Arrival;
use crate::link::reassembly::Reassembly;
use crate::link::route::{Way, is_group};
use crate::packet::arp::Arp;
use crate::packet::ethernet::{self, Ethernet, ether_type};
use crate::packet::icmp::{self, Icmp};
use crate::packet::ndisc::NeighbourMessage;
use crate::packet::{Ipv4, Ipv6, checksum, ipv6};
use crate::time::Nanos;
use crate::verdict::{DropReason, Refusal, Verdict};
use std::net::IpAddr;

/// Which reassembly a fragment meets; see [`crate::link::reassembly::DatagramKey::place`].
pub(super) mod place {
    pub const LOCAL: u8 = 0;
    pub const FORWARD: u8 = 1;
    pub const IPV6: u8 = 2;
}

const fn dropped(reason: DropReason) -> Verdict {
    Verdict::Dropped(reason)
}

impl Director {
    pub(super) fn receive_frame(&mut self, arrival: Arrival<'_>, out: &mut Output) -> Verdict {
        let Ok(frame) = Ethernet::new_checked(arrival.frame) else { return dropped(DropReason::LinkTruncated) };
        let device = self.host.interface(arrival.interface);
        // A link takes frames of its MTU with one VLAN tag to spare.
        let longest = device.mtu as usize + ethernet::HEADER_LEN + 4;
        if !self.receive_offload && arrival.wire_len as usize > longest {
            return dropped(DropReason::LongerThanLink);
        }
        let on = match self.host.links.of_tagged(arrival.interface, frame.tags()) {
            Ok(on) => on,
            Err(reason) => return dropped(reason),
        };
        let interface = self.host.interface(on);
        if !interface.up || !self.host.interface(arrival.interface).up {
            return dropped(DropReason::InterfaceDown);
        }
        let to = frame.destination();
        let to_us = to == interface.mac;
        if !to_us && !to.is_group() {
            return dropped(DropReason::NotForUs);
        }
        let missing = (arrival.wire_len as usize).saturating_sub(arrival.frame.len());
        match frame.ether_type() {
            ether_type::IPV4 => self.receive_v4(out, arrival.time, on, to_us, frame.payload(), missing),
            ether_type::IPV6 => self.receive_v6(out, arrival.time, on, to, frame.payload(), missing),
            ether_type::ARP => match Arp::parse(frame.payload()) {
                Ok(message) => self.host.receive_arp(out, arrival.time, on, to_us, &message),
                Err(_) => dropped(DropReason::ArpIgnored),
            },
            _ => dropped(DropReason::UnknownEtherType),
        }
    }

    fn receive_v4(
        &mut self,
        out: &mut Output,
        time: Nanos,
        on: InterfaceId,
        to_us: bool,
        payload: &[u8],
        missing: usize,
    ) -> Verdict {
        let Ok(view) = Ipv4::new_checked(payload) else { return dropped(DropReason::BadIpHeader) };
        if !view.checksum_is_right() {
            return dropped(DropReason::BadIpChecksum);
        }
        let total_len = view.total_len();
        if total_len < view.header_len() {
            return dropped(DropReason::BadIpHeader);
        }
        if total_len > payload.len() + missing {
            return dropped(DropReason::IpTruncated);
        }
        let held = total_len.min(payload.len());
        let Ok(mut packet) = Packet::arrived(payload[..held].to_vec(), (total_len - held) as u32, on, to_us, time) else {
            return dropped(DropReason::BadIpHeader);
        };
        let (source, destination) = (view.source(), view.destination());
        if destination.octets()[0] == 0 || destination.is_loopback() && !self.host.links.get(on).settings.route_localnet {
            return dropped(DropReason::MartianDestination);
        }
        if let Err(reason) = self.host.check_source(on, source) {
            return dropped(reason);
        }
        let way = self.host.routes.lookup(destination.into());
        packet.local = way == Way::Local;
        if view.header_len() > crate::packet::ipv4::HEADER_LEN
            && let Err(verdict) = self.take_options(out, &mut packet, on)
        {
            return verdict;
        }
        packet.mark = self.mark_of(&packet);
        match way {
            Way::Local => self.deliver_v4(out, packet),
            Way::Group => dropped(DropReason::GroupAddress),
            _ if !self.host.links.get(on).settings.forwarding => dropped(DropReason::ForwardingOff),
            way => self.forward(out, packet, way),
        }
    }

    /// The receive path fills record route and timestamp in and refuses what is malformed or source routed.
    fn take_options(&mut self, out: &mut Output, packet: &mut Packet, on: InterfaceId) -> Result<(), Verdict> {
        let own = if packet.local { Some(packet.headers.destination) } else { self.host.source_towards(packet.headers.source) };
        let own = match own {
            Some(IpAddr::V4(v4)) => v4,
            _ => std::net::Ipv4Addr::UNSPECIFIED,
        };
        let end = packet.headers.transport_at;
        let clock = self.next_timestamp();
        let host = &self.host;
        let outcome = options::take(&mut packet.bytes[crate::packet::ipv4::HEADER_LEN..end], own, clock.1, |address| {
            host.is_local(address.into())
        });
        match outcome {
            Ok(taken) => {
                if let Some(at) = taken.clock_at {
                    packet.drawn.push(clock.0.at(crate::packet::ipv4::HEADER_LEN + at));
                }
                if taken.source_route && !self.host.links.get(on).settings.accept_source_route {
                    return Err(dropped(DropReason::SourceRoute));
                }
                packet.recorded = taken.own_at.map(|at| at.map(|at| (crate::packet::ipv4::HEADER_LEN + at) as u16));
                packet.options_changed = taken.changed;
                Ok(())
            }
            Err(OptionProblem { pointer }) => {
                self.send_error_v4(out, packet, icmp::v4::PARAMETER_PROBLEM, 0, u32::from(pointer) << 24);
                Err(Verdict::Refused(Refusal::ParameterProblem))
            }
        }
    }

    fn receive_v6(
        &mut self,
        out: &mut Output,
        time: Nanos,
        on: InterfaceId,
        to: MacAddr,
        payload: &[u8],
        missing: usize,
    ) -> Verdict {
        if self.host.links.get(on).settings.disable_ipv6 {
            return dropped(DropReason::UnknownEtherType);
        }
        let Ok(view) = Ipv6::new_checked(payload) else { return dropped(DropReason::BadIpHeader) };
        let total_len = view.total_len();
        if total_len > payload.len() + missing {
            return dropped(DropReason::IpTruncated);
        }
        let (source, destination) = (view.source(), view.destination());
        if source.is_multicast() || source.is_loopback() {
            return dropped(DropReason::MartianSource);
        }
        if destination.is_loopback() || destination.is_unspecified() {
            return dropped(DropReason::MartianDestination);
        }
        let held = total_len.min(payload.len());
        let to_us = to == self.host.interface(on).mac;
        let Ok(mut packet) = Packet::arrived(payload[..held].to_vec(), (total_len - held) as u32, on, to_us, time) else {
            return dropped(DropReason::BadIpHeader);
        };
        if let Err(verdict) = self.take_hop_by_hop(out, &packet) {
            return verdict;
        }
        if packet.headers.fragment.is_some() && self.gathers_ipv6 {
            match self.gather_v6(packet) {
                Ok(whole) => packet = whole,
                Err(verdict) => return verdict,
            }
        }
        if packet.headers.protocol == 58
            && let Some(verdict) = self.receive_nd(out, &packet, on)
        {
            return verdict;
        }
        let way = self.host.routes.lookup(destination.into());
        packet.local = way == Way::Local;
        packet.mark = self.mark_of(&packet);
        match way {
            Way::Local => self.deliver_v6(out, packet),
            Way::Group => dropped(DropReason::GroupAddress),
            _ if !self.host.links.get(on).settings.ipv6_forwarding => dropped(DropReason::ForwardingOff),
            _ if crate::link::source::is_link_local(destination) || source.is_unspecified() => dropped(DropReason::NoRoute),
            way => self.forward(out, packet, way),
        }
    }

    /// Puts an IPv6 datagram together before all hooks (netfilter's reassembly).
    pub(super) fn gather_v6(&mut self, packet: Packet) -> Result<Packet, Verdict> {
        let Some(found) = ipv6::walk(&packet.bytes).and_then(|chain| chain.fragment) else { return Ok(packet) };
        if packet.is_cut() {
            return Err(dropped(DropReason::FragmentRefused));
        }
        let arrival = packet.arrival.unwrap_or_default();
        let lifetime = Nanos::from_secs(60);
        match self.host.fragments.add_v6(packet.time, lifetime, place::IPV6, arrival, &packet.bytes, found) {
            Reassembly::Whole(whole) => {
                let headers = packet.headers;
                let mut joined = Packet { bytes: whole.packet, longest: whole.longest, parts: whole.parts, headers, ..packet };
                joined.reread();
                Ok(joined)
            }
            Reassembly::Waits => Err(Verdict::WaitsForFragments),
            Reassembly::Overlap => Err(dropped(DropReason::FragmentOverlap)),
            Reassembly::Refused => Err(dropped(DropReason::FragmentRefused)),
        }
    }

    /// Neighbour discovery, if it is any.
    fn receive_nd(&mut self, out: &mut Output, packet: &Packet, on: InterfaceId) -> Option<Verdict> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = packet.addresses() else { return None };
        let transport = packet.transport();
        let kind = Icmp::new_checked(transport).ok()?.kind();
        if !matches!(kind, icmp::v6::NEIGHBOUR_SOLICITATION | icmp::v6::NEIGHBOUR_ADVERTISEMENT) {
            return None;
        }
        if !is_group(destination.into()) && !self.host.is_local(destination.into()) {
            return None;
        }
        let sum = checksum::pseudo_header_v6(source, destination, 58, transport.len()).bytes(transport);
        if !checksum::is_right(sum) {
            return Some(dropped(DropReason::BadIcmpChecksum));
        }
        let Ok(message) = NeighbourMessage::parse(transport) else { return Some(dropped(DropReason::Unanswered)) };
        if packet.headers.ttl != 255 {
            return Some(dropped(DropReason::Unanswered));
        }
        Some(self.host.receive_nd(out, packet.time, on, (source, destination), &message))
    }
}
