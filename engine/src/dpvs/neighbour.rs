//! ARP and neighbour discovery: what the director asks, answers and learns (reference/dpvs-fullnat.md section 16).

use super::link::{Link, Neighbour, Way, link_local};
use super::wire::{Origin, Packet};
use crate::config::{InterfaceId, MacAddr, Network, Protocol};
use crate::output::Output;
use crate::packet::arp::{self, Arp};
use crate::packet::icmp::v6::{NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION};
use crate::packet::ndisc::{NeighbourMessage, OVERRIDE, SOLICITED, multicast_mac, solicited_node};
use crate::time::Nanos;
use crate::verdict::{DropReason, LocalAnswer, Verdict};
use std::net::{IpAddr, Ipv6Addr};

const ARP: [u8; 2] = [0x08, 0x06];
/// ARP requests are padded to the shortest Ethernet frame; replies are not.
const REQUEST_PADDING: usize = 18;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

impl Link {
    /// Asks who has the next hop, once.
    pub(super) fn ask(&self, way: &Way, now: Nanos, out: &mut Output) {
        let mac = self.mac(way.interface);
        match way.next_hop {
            IpAddr::V4(target) => {
                let Some(IpAddr::V4(sender)) = self.source_for(way, way.next_hop) else { return };
                let target_mac = MacAddr::ZERO;
                let request = Arp { operation: arp::REQUEST, sender_mac: mac, sender, target_mac, target };
                self.emit_arp(&request, MacAddr::BROADCAST, way.interface, now, REQUEST_PADDING, out);
            }
            IpAddr::V6(target) => {
                let addresses = self.interface(way.interface).map_or(&[][..], |port| &port.addresses);
                let near = addresses.iter().find(|own| Network::new(own.address, own.prefix_len).contains(way.next_hop));
                let source = match near.map(|own| own.address) {
                    Some(IpAddr::V6(own)) => own,
                    _ => link_local(mac),
                };
                let question = NeighbourMessage { advertisement: false, flags: 0, target, link_address: Some(mac) };
                let group = solicited_node(target);
                self.emit_message(&question, source, (group, multicast_mac(group)), way.interface, now, out);
            }
        }
    }

    /// Sends the neighbour solicitation of duplicate address detection for a new IPv6 address.
    pub(super) fn detect_duplicate(&self, interface: InterfaceId, target: Ipv6Addr, now: Nanos, out: &mut Output) {
        let question = NeighbourMessage { advertisement: false, flags: 0, target, link_address: None };
        let group = solicited_node(target);
        self.emit_message(&question, Ipv6Addr::UNSPECIFIED, (group, multicast_mac(group)), interface, now, out);
    }

    fn emit_arp(
        &self,
        message: &Arp,
        destination: MacAddr,
        interface: InterfaceId,
        now: Nanos,
        padding: usize,
        out: &mut Output,
    ) {
        out.emit(now, interface, |bytes| {
            bytes.extend(destination.0);
            bytes.extend(message.sender_mac.0);
            bytes.extend(ARP);
            message.write(bytes);
            bytes.resize(bytes.len() + padding, 0);
        });
        if self.late {
            out.late();
        }
    }

    fn emit_message(
        &self,
        message: &NeighbourMessage,
        source: Ipv6Addr,
        (destination, destination_mac): (Ipv6Addr, MacAddr),
        interface: InterfaceId,
        now: Nanos,
        out: &mut Output,
    ) {
        let mut bytes = Vec::new();
        message.write(&mut bytes, source, destination);
        let packet = Packet::build(bytes, Protocol::ICMPV6, 40, self.origin(interface, now));
        self.emit(&packet, interface, destination_mac, self.mac(interface), now, out);
    }

    /// Takes an ARP frame in: requests for own addresses are answered, whatever the frame's destination; replies to own
    /// addresses are learned.
    pub(super) fn receive_arp(&mut self, frame: &[u8], origin: &Origin, out: &mut Output) -> Verdict {
        let Ok(message) = Arp::parse(frame.get(14..).unwrap_or(&[])) else {
            return Verdict::Dropped(DropReason::ArpIgnored);
        };
        if !self.owns(origin.interface, message.target.into()) {
            return Verdict::Dropped(DropReason::ArpIgnored);
        }
        match message.operation {
            arp::REQUEST => {
                let reply = Arp {
                    operation: arp::REPLY,
                    sender_mac: self.mac(origin.interface),
                    sender: message.target,
                    target_mac: message.sender_mac,
                    target: message.sender,
                };
                self.emit_arp(&reply, message.sender_mac, origin.interface, origin.time, 0, out);
                Verdict::Local(LocalAnswer::ArpReply)
            }
            arp::REPLY => {
                self.learn(origin.interface, message.sender.into(), message.sender_mac, origin.time, out);
                Verdict::Local(LocalAnswer::NeighbourLearned)
            }
            _ => Verdict::Dropped(DropReason::ArpIgnored),
        }
    }

    /// A neighbour said where it is: what waited for it leaves.
    fn learn(&mut self, interface: InterfaceId, address: IpAddr, mac: MacAddr, now: Nanos, out: &mut Output) {
        let key = (interface, address);
        if let Some(Neighbour::Known { until: Nanos::NEVER, .. }) = self.neighbours.get(&key) {
            return;
        }
        self.learned += 1;
        let before = self.neighbours.insert(key, Neighbour::Known { mac, until: now + self.reachable });
        if let Some(Neighbour::Asked { until, queue }) = before
            && until > now
        {
            let own = self.mac(interface);
            for packet in &queue {
                self.emit(packet, interface, mac, own, now, out);
            }
        }
    }

    /// Takes neighbour discovery in (RFC 4861); none for other ICMPv6.
    pub(super) fn receive_discovery(&mut self, packet: &Packet, out: &mut Output) -> Option<Verdict> {
        if !matches!(packet.u8(packet.transport), NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT) {
            return None;
        }
        if packet.ttl() != 255 || !packet.checksum_is_right() {
            return Some(Verdict::Dropped(DropReason::BadIcmpChecksum));
        }
        let body = packet.bytes.get(packet.transport..).unwrap_or(&[]);
        let Ok(message) = NeighbourMessage::parse(body) else {
            return Some(Verdict::Dropped(DropReason::TransportTruncated));
        };
        let origin = packet.origin;
        if message.advertisement {
            if let Some(mac) = message.link_address {
                self.learn(origin.interface, message.target.into(), mac, origin.time, out);
            }
            return Some(Verdict::Local(LocalAnswer::NeighbourLearned));
        }
        if !self.owns(origin.interface, message.target.into()) {
            return Some(Verdict::Dropped(DropReason::ArpIgnored));
        }
        let IpAddr::V6(asker) = packet.source() else { return None };
        let detection = asker.is_unspecified();
        if let (Some(mac), false) = (message.link_address, detection) {
            self.learn(origin.interface, asker.into(), mac, origin.time, out);
        }
        // DPVS does not set the router flag (recordings/dpvs-1.10/fnat6-icmp).
        let (to, flags) = if detection {
            ((ALL_NODES, multicast_mac(ALL_NODES)), OVERRIDE)
        } else {
            ((asker, message.link_address.unwrap_or(origin.source_mac)), SOLICITED | OVERRIDE)
        };
        let link_address = Some(self.mac(origin.interface));
        let answer = NeighbourMessage { advertisement: true, flags, target: message.target, link_address };
        self.emit_message(&answer, message.target, to, origin.interface, origin.time, out);
        Some(Verdict::Local(LocalAnswer::NeighbourAdvertisement))
    }
}
