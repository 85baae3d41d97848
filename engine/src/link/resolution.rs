//! Address resolution: asking for neighbours, answering those who ask, announcing addresses (RFC 826, RFC 4861;
//! reference/linux-ipvs.md section 9, reference/linux-findings.md sections 9 and 10).

use super::neighbour::{Failure, Resolution, Waiting};
use super::route::Way;
use super::{Host, route};
use crate::config::{AddressScope, ArpAnnouncement, InterfaceId, MacAddr, Network};
use crate::output::Output;
use crate::packet::arp::{self, Arp};
use crate::packet::ethernet::ether_type;
use crate::packet::ndisc::{self, NeighbourMessage};
use crate::packet::{Ipv4, Ipv6};
use crate::time::Nanos;
use crate::verdict::{DropReason, LocalAnswer, Verdict};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How long an entry can't be overwritten by another owner's claim (net.ipv4.neigh.default.locktime).
const LOCK_TIME: Nanos = Nanos::from_secs(1);

/// Whether a packet left or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It left.
    Left,
    /// It waits for its next hop's address.
    Waits,
}

impl Host {
    /// Sends a packet to a next hop, or keeps it until the next hop's address is known.
    pub fn send(&mut self, out: &mut Output, time: Nanos, by: InterfaceId, next: IpAddr, packet: Waiting) -> Sent {
        if !self.links.get(by).interface.up {
            return Sent::Left;
        }
        if next.is_ipv4() && self.routes.is_broadcast(next) {
            self.emit_packet(out, time, by, MacAddr::BROADCAST, &packet);
            return Sent::Left;
        }
        match self.neighbours.resolve(time, self.links.get(by), (by, next), packet) {
            Resolution::Send(mac, packet) => {
                self.emit_packet(out, time, by, mac, &packet);
                Sent::Left
            }
            Resolution::Queued { ask } => {
                if ask {
                    self.ask(out, time, by, next, None);
                }
                Sent::Waits
            }
        }
    }

    /// Emits a packet in a frame to that address.
    pub fn emit_packet(&self, out: &mut Output, time: Nanos, by: InterfaceId, to: MacAddr, packet: &Waiting) {
        let kind = if packet.packet.first().is_some_and(|first| first >> 4 == 6) { ether_type::IPV6 } else { ether_type::IPV4 };
        let link = self.links.get(by);
        out.emit(time, link.base, |bytes| {
            self.write_link_header(bytes, by, to, kind);
            bytes.extend_from_slice(&packet.packet);
        });
        let shift = self.link_header_len(by) as u16;
        for field in &packet.drawn {
            let mut field = *field;
            field.offset += shift;
            for checksum in &mut field.checksums {
                *checksum += if *checksum != 0 { shift } else { 0 };
            }
            out.drawn(field);
        }
        if packet.cut != 0 {
            out.cut(packet.cut);
        }
    }

    /// Asks for a next hop's address: by broadcast, or the known owner.
    pub fn ask(&self, out: &mut Output, time: Nanos, by: InterfaceId, target: IpAddr, known: Option<MacAddr>) {
        let waiting = self.neighbours.newest_waiting(by, target).map(|waiting| &waiting.packet[..]);
        let mac = self.interface(by).mac;
        match target {
            IpAddr::V4(target) => {
                let message = Arp {
                    operation: arp::REQUEST,
                    sender_mac: mac,
                    sender: self.arp_sender(by, target, waiting),
                    target_mac: MacAddr::ZERO,
                    target,
                };
                self.emit_arp(out, time, by, known.unwrap_or(MacAddr::BROADCAST), &message);
            }
            IpAddr::V6(target) => {
                let from_packet = waiting.and_then(|packet| Ipv6::new_checked(packet).ok()).map(|view| view.source());
                let own = from_packet.filter(|source| self.links.get(by).has_address(IpAddr::V6(*source)));
                let Some(source) = own.or_else(|| self.link_local(by)) else { return };
                let message = NeighbourMessage { advertisement: false, flags: 0, target, link_address: Some(mac) };
                let (to, destination) = match known {
                    Some(mac) => (mac, target),
                    None => {
                        let group = ndisc::solicited_node(target);
                        (ndisc::multicast_mac(group), group)
                    }
                };
                self.emit_nd(out, time, by, to, (source, destination), &message);
            }
        }
    }

    /// Which address a request is sent from (arp_announce).
    fn arp_sender(&self, by: InterfaceId, target: Ipv4Addr, waiting: Option<&[u8]>) -> Ipv4Addr {
        let link = self.links.get(by);
        let source = waiting.and_then(|packet| Ipv4::new_checked(packet).ok()).map(|view| view.source());
        let source = source.filter(|source| self.is_local((*source).into()));
        let allowed = source.filter(|source| match link.settings.arp_announce {
            0 => true,
            1 => link.addresses_like(IpAddr::V4(target)).any(|address| {
                let subnet = Network::new(address.address, address.prefix_len);
                subnet.contains(IpAddr::V4(target)) && subnet.contains(IpAddr::V4(*source))
            }),
            _ => false,
        });
        allowed.or_else(|| self.select_v4(by, Some(target))).unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// Sends what waited for an address that is known now.
    fn flush(
        &mut self,
        out: &mut Output,
        time: Nanos,
        by: InterfaceId,
        next: IpAddr,
        waiting: impl IntoIterator<Item = Waiting>,
    ) {
        for packet in waiting {
            self.send(out, time, by, next, packet);
        }
    }

    /// Takes an ARP message in. `unicast`: the frame was sent to our own address, not to all.
    pub fn receive_arp(&mut self, out: &mut Output, time: Nanos, on: InterfaceId, unicast: bool, message: &Arp) -> Verdict {
        let ignored = Verdict::Dropped(DropReason::ArpIgnored);
        let settings = self.links.get(on).settings.clone();
        let (sender, target) = (message.sender, message.target);
        if !matches!(message.operation, arp::REQUEST | arp::REPLY)
            || target.is_multicast()
            || target.is_loopback() && !settings.route_localnet
            || sender == target && settings.drop_gratuitous_arp
        {
            return ignored;
        }
        let request = message.operation == arp::REQUEST;
        let reply = Arp {
            operation: arp::REPLY,
            sender_mac: self.interface(on).mac,
            sender: target,
            target_mac: message.sender_mac,
            target: sender,
        };
        if request && sender.is_unspecified() {
            if self.is_local(target.into()) && self.arp_answers(on, sender, target) {
                self.emit_arp(out, time, on, message.sender_mac, &reply);
                return Verdict::Local(LocalAnswer::ArpReply);
            }
            return ignored;
        }
        if request && self.check_source(on, sender).is_ok() {
            match self.routes.lookup(target.into()) {
                Way::Local => {
                    if !self.arp_answers(on, sender, target) {
                        return ignored;
                    }
                    let waiting = self.neighbours.learn(time, (on, sender.into()), message.sender_mac, false, true);
                    self.flush(out, time, on, sender.into(), waiting);
                    self.emit_arp(out, time, on, message.sender_mac, &reply);
                    return Verdict::Local(LocalAnswer::ArpReply);
                }
                Way::Out(hop) if settings.forwarding && settings.proxy_arp && hop.interface != on => {
                    let waiting = self.neighbours.learn(time, (on, sender.into()), message.sender_mac, false, true);
                    self.flush(out, time, on, sender.into(), waiting);
                    self.emit_arp(out, time, on, message.sender_mac, &reply);
                    return Verdict::Local(LocalAnswer::ArpReply);
                }
                _ => {}
            }
        }
        self.learn_from_arp(out, time, on, unicast, message)
    }

    fn learn_from_arp(&mut self, out: &mut Output, time: Nanos, on: InterfaceId, unicast: bool, message: &Arp) -> Verdict {
        let (sender, target) = (IpAddr::V4(message.sender), message.target);
        let reply = message.operation == arp::REPLY;
        let accept = match self.links.get(on).settings.arp_accept {
            0 => false,
            2 => self
                .links
                .get(on)
                .addresses_like(sender)
                .any(|address| Network::new(address.address, address.prefix_len).contains(sender)),
            _ => true,
        };
        let known = self.neighbours.updated(on, sender);
        let unicast_sender = matches!(self.routes.lookup(sender), Way::Out(_));
        let gratuitous = message.sender == target && (!reply || message.target_mac == message.sender_mac) && unicast_sender;
        let create = accept && (gratuitous || reply && unicast_sender);
        if known.is_none() && !create {
            return Verdict::Dropped(DropReason::ArpIgnored);
        }
        let replace = gratuitous || known.is_none_or(|updated| time > updated + LOCK_TIME);
        let waiting = self.neighbours.learn(time, (on, sender), message.sender_mac, reply && unicast, replace);
        self.flush(out, time, on, sender, waiting);
        Verdict::Local(LocalAnswer::NeighbourLearned)
    }

    /// Whether arp_ignore and arp_filter let a request be answered.
    fn arp_answers(&self, on: InterfaceId, sender: Ipv4Addr, target: Ipv4Addr) -> bool {
        let link = self.links.get(on);
        let of_target =
            |link: &super::Link| link.interface.addresses.iter().find(|own| own.address == IpAddr::V4(target)).copied();
        let answers = match link.settings.arp_ignore {
            1 => of_target(link).is_some(),
            // A subnet of the link holds both, be it of another address of the link; who has no address yet is in all.
            2 => {
                let near = |own: &crate::config::Address| {
                    let subnet = Network::new(own.address, own.prefix_len);
                    subnet.contains(IpAddr::V4(target)) && subnet.contains(IpAddr::V4(sender))
                };
                let addresses = &link.interface.addresses;
                of_target(link).is_some() && (sender.is_unspecified() || addresses.iter().any(near))
            }
            3 => {
                let scope = self.links.iter().find_map(|(_, link)| of_target(link)).map(|own| own.scope);
                scope.is_some_and(|scope| scope != AddressScope::Host)
            }
            8 => false,
            _ => true,
        };
        let filtered =
            link.settings.arp_filter && !matches!(self.routes.lookup(sender.into()), Way::Out(hop) if hop.interface == on);
        answers && !filtered
    }

    /// Source validation of an IPv4 packet or ARP request (reference/linux-ipvs.md section 10.5).
    ///
    /// # Errors
    /// The source can't be, or the way back leads elsewhere and rp_filter minds.
    pub fn check_source(&self, on: InterfaceId, source: Ipv4Addr) -> Result<(), DropReason> {
        let settings = &self.links.get(on).settings;
        if route::is_group(source.into()) || source.octets()[0] == 0 || source.is_loopback() && !settings.route_localnet {
            return Err(DropReason::MartianSource);
        }
        // Without rp_filter and local networks the kernel looks the source up among its addresses only.
        let thorough = settings.rp_filter != 0 || self.routes.has_local_networks();
        match self.routes.lookup(source.into()) {
            Way::Local if !settings.accept_local => Err(DropReason::MartianSource),
            Way::Group if thorough => Err(DropReason::MartianSource),
            Way::Out(hop) if settings.rp_filter == 1 && hop.interface != on => Err(DropReason::ReversePath),
            Way::None | Way::Blackhole | Way::Unreachable | Way::Prohibited if settings.rp_filter != 0 => {
                Err(DropReason::ReversePath)
            }
            _ => Ok(()),
        }
    }

    /// Takes a neighbour solicitation or advertisement in. `message` starts with the ICMPv6 header; its checksum and the
    /// hop limit of 255 were checked.
    pub fn receive_nd(
        &mut self,
        out: &mut Output,
        time: Nanos,
        on: InterfaceId,
        (source, destination): (Ipv6Addr, Ipv6Addr),
        message: &NeighbourMessage,
    ) -> Verdict {
        let ignored = Verdict::Dropped(DropReason::Unanswered);
        if message.target.is_multicast() {
            return ignored;
        }
        if message.advertisement {
            return self.receive_advertisement(out, time, on, destination, message);
        }
        let probe = source.is_unspecified();
        let to_group = destination.is_multicast();
        if probe && (destination != ndisc::solicited_node(message.target) || message.link_address.is_some()) {
            return ignored;
        }
        if !self.links.get(on).has_address(IpAddr::V6(message.target)) {
            return ignored;
        }
        let router = if self.links.get(on).settings.ipv6_forwarding { ndisc::ROUTER } else { 0 };
        let own = self.interface(on).mac;
        if probe {
            let answer = NeighbourMessage {
                advertisement: true,
                flags: router | ndisc::OVERRIDE,
                target: message.target,
                link_address: Some(own),
            };
            let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            self.emit_nd(out, time, on, ndisc::multicast_mac(all), (message.target, all), &answer);
            return Verdict::Local(LocalAnswer::NeighbourAdvertisement);
        }
        if let Some(mac) = message.link_address {
            let waiting = self.neighbours.learn(time, (on, source.into()), mac, false, true);
            self.flush(out, time, on, source.into(), waiting);
        } else if to_group && !self.neighbours.has(on, source.into()) {
            return ignored;
        }
        // A solicitation by unicast comes from one who knows the address: the answer neither repeats nor overrides it.
        let flags = router | ndisc::SOLICITED | if to_group { ndisc::OVERRIDE } else { 0 };
        let answer =
            NeighbourMessage { advertisement: true, flags, target: message.target, link_address: to_group.then_some(own) };
        let mut packet = Vec::new();
        answer.write(&mut packet, message.target, source);
        let waiting = Waiting { packet, cut: 0, drawn: Vec::new(), failure: Failure::Silent };
        self.send(out, time, on, source.into(), waiting);
        Verdict::Local(LocalAnswer::NeighbourAdvertisement)
    }

    fn receive_advertisement(
        &mut self,
        out: &mut Output,
        time: Nanos,
        on: InterfaceId,
        destination: Ipv6Addr,
        message: &NeighbourMessage,
    ) -> Verdict {
        let ignored = Verdict::Dropped(DropReason::Unanswered);
        let target = IpAddr::V6(message.target);
        let solicited = message.flags & ndisc::SOLICITED != 0;
        if destination.is_multicast() && solicited || !self.neighbours.has(on, target) {
            return ignored;
        }
        // Who did not answer when it was asked is not believed unasked: the next packet asks again.
        if self.neighbours.has_failed(on, target) {
            return ignored;
        }
        let Some(mac) = message.link_address.or_else(|| self.neighbours.cached(on, target)) else { return ignored };
        let replace = message.flags & ndisc::OVERRIDE != 0;
        let waiting = self.neighbours.learn(time, (on, target), mac, solicited, replace);
        self.flush(out, time, on, target, waiting);
        Verdict::Local(LocalAnswer::NeighbourLearned)
    }

    /// Announces an address as arping(8) `-A` and `-U` do, once.
    pub fn announce(&self, out: &mut Output, time: Nanos, by: InterfaceId, address: Ipv4Addr, kind: ArpAnnouncement) {
        let mac = self.interface(by).mac;
        let (operation, target_mac) = match kind {
            ArpAnnouncement::Reply => (arp::REPLY, mac),
            ArpAnnouncement::Request => (arp::REQUEST, MacAddr::BROADCAST),
        };
        let message = Arp { operation, sender_mac: mac, sender: address, target_mac, target: address };
        self.emit_arp(out, time, by, MacAddr::BROADCAST, &message);
    }

    /// Announces every IPv4 address of an interface that came up, if arp_notify says so.
    pub fn notify_peers(&self, out: &mut Output, time: Nanos, by: InterfaceId) {
        let link = self.links.get(by);
        if !link.settings.arp_notify {
            return;
        }
        for address in &link.interface.addresses {
            if let IpAddr::V4(v4) = address.address {
                let message = Arp {
                    operation: arp::REQUEST,
                    sender_mac: link.interface.mac,
                    sender: v4,
                    target_mac: MacAddr::ZERO,
                    target: v4,
                };
                self.emit_arp(out, time, by, MacAddr::BROADCAST, &message);
            }
        }
    }
}
