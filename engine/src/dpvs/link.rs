//! The ports of the director: addresses, routes, neighbours (ARP and ND), and how packets leave
//! (reference/dpvs-fullnat.md sections 8 and 16).

use super::wire::{Origin, Packet, ipv6_header};
use crate::config::{Address, Interface, InterfaceId, MacAddr, NeighbourEntry, Network, Protocol, Route, RouteKind};
use crate::draws::{Draw, Draws};
use crate::output::{DrawnField, Output};
use crate::time::Nanos;
use crate::verdict::{DropReason, LocalAnswer, Verdict};
use foldhash::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ports, addresses, routes, neighbours.
#[derive(Clone, Debug)]
pub(super) struct Link {
    interfaces: Vec<Interface>,
    routes: Vec<Route>,
    neighbours: HashMap<(InterfaceId, IpAddr), Neighbour>,
    queue_length: usize,
    reachable: Nanos,
    built: u64,
    /// What happens now is a timer's doing.
    pub(super) late: bool,
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// On which port it leaves.
    pub(super) interface: InterfaceId,
    /// Whose MAC address it gets.
    pub(super) next_hop: IpAddr,
    /// The longest packet that it takes, in bytes.
    pub(super) mtu: u32,
    /// The route's preferred source address.
    pub(super) source: Option<IpAddr>,
}

#[derive(Clone, Debug)]
enum Neighbour {
    Known { mac: MacAddr, until: Nanos },
    Asked { until: Nanos, queue: Vec<Packet> },
}

/// What became of a packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It left.
    Left,
    /// It waits for the neighbour's MAC address.
    Waits,
    /// It was dropped.
    Dropped(DropReason),
}

/// How long an unanswered request keeps its queue: 3 s of asking and 2 s of decay.
const UNANSWERED: Nanos = Nanos::from_secs(5);
const ARP: u16 = 0x0806;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

impl Link {
    /// The ports as described. The link-local IPv6 address of each port is added, as DPVS does by itself.
    pub(super) fn new(interfaces: &[Interface], routes: &[Route], neighbours: &[NeighbourEntry]) -> Link {
        let mut link = Link {
            interfaces: interfaces.to_vec(),
            routes: routes.to_vec(),
            neighbours: HashMap::default(),
            queue_length: 128,
            reachable: Nanos::from_secs(60),
            built: 0,
            late: false,
        };
        for entry in neighbours {
            link.set_neighbour(entry.interface, entry.address, entry.mac);
        }
        link
    }

    /// Settings of `neigh { }`.
    pub(super) fn set_limits(&mut self, queue_length: u16, reachable: Nanos) {
        self.queue_length = usize::from(queue_length);
        self.reachable = reachable;
    }

    /// A static neighbour; it never ages.
    pub(super) fn set_neighbour(&mut self, interface: InterfaceId, address: IpAddr, mac: MacAddr) {
        self.neighbours.insert((interface, address), Neighbour::Known { mac, until: Nanos::NEVER });
    }

    /// Forgets a neighbour.
    pub(super) fn delete_neighbour(&mut self, interface: InterfaceId, address: IpAddr) {
        self.neighbours.remove(&(interface, address));
    }

    /// Adds a route; one to the same network by the same way is replaced.
    pub(super) fn add_route(&mut self, route: Route) {
        self.delete_route(&route);
        self.routes.push(route);
    }

    /// Removes the route to a network.
    pub(super) fn delete_route(&mut self, route: &Route) {
        self.routes.retain(|other| other.destination != route.destination || other.gateway != route.gateway);
    }

    /// Adds an address; false if the port has it.
    pub(super) fn add_address(&mut self, interface: InterfaceId, address: Address) -> bool {
        let Some(port) = self.interfaces.get_mut(usize::from(interface.0)) else { return false };
        if port.addresses.iter().any(|other| other.address == address.address) {
            return false;
        }
        port.addresses.push(address);
        true
    }

    /// Removes an address.
    pub(super) fn delete_address(&mut self, interface: InterfaceId, address: IpAddr) {
        if let Some(port) = self.interfaces.get_mut(usize::from(interface.0)) {
            port.addresses.retain(|other| other.address != address);
        }
    }

    /// A port.
    pub(super) fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(usize::from(id.0))
    }

    /// A port, to change it.
    pub(super) fn interface_mut(&mut self, id: InterfaceId) -> Option<&mut Interface> {
        self.interfaces.get_mut(usize::from(id.0))
    }

    /// A port's MAC address.
    pub(super) fn mac(&self, id: InterfaceId) -> MacAddr {
        self.interface(id).map_or(MacAddr::ZERO, |port| port.mac)
    }

    /// A port's MTU.
    pub(super) fn mtu(&self, id: InterfaceId) -> u32 {
        self.interface(id).map_or(1500, |port| port.mtu)
    }

    /// Every IPv6 address that was configured, for which DPVS sends a duplicate address detection.
    pub(super) fn ipv6_addresses(&self) -> Vec<(InterfaceId, Ipv6Addr)> {
        let of_port = |(index, port): (usize, &Interface)| {
            let addresses = port.addresses.iter().filter_map(|address| match address.address {
                IpAddr::V6(address) if !address.is_unicast_link_local() => Some((InterfaceId(index as u16), address)),
                _ => None,
            });
            addresses.collect::<Vec<_>>()
        };
        self.interfaces.iter().enumerate().flat_map(of_port).collect()
    }

    /// Whether an address is the director's own, on any port.
    pub(super) fn is_local(&self, address: IpAddr) -> bool {
        self.interfaces
            .iter()
            .any(|port| port.addresses.iter().any(|own| own.address == address) || address == IpAddr::V6(link_local(port.mac)))
    }

    fn owns(&self, interface: InterfaceId, address: IpAddr) -> bool {
        self.interface(interface).is_some_and(|port| {
            port.addresses.iter().any(|own| own.address == address) || address == IpAddr::V6(link_local(port.mac))
        })
    }

    /// The way to an address: the longest prefix, then the smallest metric; routes that were configured come before those
    /// that addresses imply.
    pub(super) fn route(&self, destination: IpAddr) -> Option<Way> {
        let configured = self.routes.iter().filter(|route| route.kind == RouteKind::Unicast).filter_map(|route| {
            let interface = route.interface?;
            let way = Way {
                interface,
                next_hop: route.gateway.unwrap_or(destination),
                mtu: route.mtu.unwrap_or_else(|| self.mtu(interface)),
                source: route.source,
            };
            Some((route.destination, route.metric, way))
        });
        let implied = self.interfaces.iter().enumerate().flat_map(|(index, port)| {
            port.addresses.iter().map(move |address| {
                let network = Network::new(address.address, address.prefix_len);
                let interface = InterfaceId(index as u16);
                let way = Way { interface, next_hop: destination, mtu: port.mtu, source: Some(address.address) };
                (network, 0, way)
            })
        });
        let mut best: Option<(Network, u32, Way)> = None;
        for candidate in configured.chain(implied).filter(|(network, ..)| network.contains(destination)) {
            let better = best.as_ref().is_none_or(|(network, metric, _)| {
                (candidate.0.prefix_len, std::cmp::Reverse(candidate.1)) > (network.prefix_len, std::cmp::Reverse(*metric))
            });
            if better {
                best = Some(candidate);
            }
        }
        best.map(|(.., way)| way)
    }

    /// An own address to talk to `destination` by a way: one of the destination's subnet, else of the next hop's, else
    /// the first.
    pub(super) fn source_for(&self, way: &Way, destination: IpAddr) -> Option<IpAddr> {
        let addresses = &self.interface(way.interface)?.addresses;
        let near = |peer: IpAddr| {
            addresses.iter().find(|own| Network::new(own.address, own.prefix_len).contains(peer)).map(|own| own.address)
        };
        let first = || addresses.iter().find(|own| own.address.is_ipv4() == destination.is_ipv4()).map(|own| own.address);
        near(destination).or_else(|| near(way.next_hop)).or_else(first)
    }

    /// Gives an IPv4 packet that the director builds its identification, a draw, and says so.
    pub(super) fn identify(&mut self, packets: &mut [Packet], draws: &Draws) {
        let draw = Draw::Ipv4Id(self.built);
        self.built += 1;
        for packet in packets.iter_mut().filter(|packet| packet.is_ipv4()) {
            packet.put(4, &(draws.value(draw) as u16).to_be_bytes());
            packet.finish_ip();
            packet.drawn.push(DrawnField::value(draw, 4, 2).summed_at(10));
        }
    }

    /// The identification of a packet whose field DPVS does not fill in: 0 most of the time, but not always (once in three
    /// in recordings/dpvs-1.10/synproxy), so it is a draw whose rule is 0.
    pub(super) fn leave_identification(&mut self, packet: &mut Packet, draws: &Draws) {
        if packet.is_ipv4() {
            let draw = Draw::Ipv4Id(self.built);
            self.built += 1;
            packet.put(4, &(draws.given(draw).unwrap_or(0) as u16).to_be_bytes());
            packet.finish_ip();
            packet.drawn.push(DrawnField::value(draw, 4, 2).summed_at(10));
        }
    }

    /// Sends a packet by a way: to the next hop's MAC address, or into its queue.
    pub(super) fn send(&mut self, packet: Packet, way: &Way, now: Nanos, out: &mut Output) -> Sent {
        if self.interface(way.interface).is_none_or(|port| !port.up) {
            return Sent::Dropped(DropReason::InterfaceDown);
        }
        let key = (way.interface, way.next_hop);
        match self.neighbours.get_mut(&key) {
            Some(Neighbour::Known { mac, until }) if *until > now => {
                let mac = *mac;
                self.emit(&packet, way.interface, mac, self.mac(way.interface), now, out);
                return Sent::Left;
            }
            Some(Neighbour::Asked { until, queue }) if *until > now => {
                if queue.len() >= self.queue_length {
                    return Sent::Dropped(DropReason::NeighbourQueueFull);
                }
                queue.push(packet);
                return Sent::Waits;
            }
            _ => {}
        }
        self.neighbours.insert(key, Neighbour::Asked { until: now + UNANSWERED, queue: vec![packet] });
        self.ask(way, now, out);
        Sent::Waits
    }

    /// Sends a packet to a MAC address that is known from elsewhere.
    pub(super) fn emit(
        &self,
        packet: &Packet,
        interface: InterfaceId,
        destination: MacAddr,
        source: MacAddr,
        now: Nanos,
        out: &mut Output,
    ) {
        const LINK_HEADER: u16 = 14;
        let ether_type = if packet.is_ipv4() { 0x0800_u16 } else { 0x86dd };
        out.emit(now, interface, |bytes| {
            bytes.extend(destination.0);
            bytes.extend(source.0);
            bytes.extend(ether_type.to_be_bytes());
            bytes.extend(&packet.bytes);
        });
        let mut drawn = packet.drawn.clone();
        drawn.sort_by_key(|field| field.offset);
        for mut field in drawn {
            field.offset += LINK_HEADER;
            for checksum in &mut field.checksums {
                if *checksum != 0 {
                    *checksum += LINK_HEADER;
                }
            }
            out.drawn(field);
        }
        if packet.cut > 0 {
            out.cut(packet.cut);
        }
        if self.late {
            out.late();
        }
    }

    /// Asks who has the next hop, once.
    fn ask(&self, way: &Way, now: Nanos, out: &mut Output) {
        let mac = self.mac(way.interface);
        match way.next_hop {
            IpAddr::V4(target) => {
                let Some(IpAddr::V4(own)) = self.source_for(way, way.next_hop) else { return };
                let frame = arp_frame(MacAddr::BROADCAST, mac, ARP_REQUEST, (mac, own), (MacAddr::ZERO, target));
                out.emit(now, way.interface, |bytes| {
                    bytes.extend(frame);
                    bytes.extend([0; 18]);
                });
            }
            IpAddr::V6(target) => {
                let addresses = self.interface(way.interface).map_or(&[][..], |port| &port.addresses);
                let near = addresses.iter().find(|own| Network::new(own.address, own.prefix_len).contains(way.next_hop));
                let own = match near.map(|own| own.address) {
                    Some(IpAddr::V6(own)) => own,
                    _ => link_local(mac),
                };
                let packet = solicitation(own, target, Some(mac), self.origin(way.interface, now));
                self.emit(&packet, way.interface, group_mac(solicited_node(target)), mac, now, out);
                return;
            }
        }
        if self.late {
            out.late();
        }
    }

    /// Sends the neighbour solicitation of duplicate address detection for a new IPv6 address.
    pub(super) fn detect_duplicate(&self, interface: InterfaceId, address: Ipv6Addr, now: Nanos, out: &mut Output) {
        let packet = solicitation(Ipv6Addr::UNSPECIFIED, address, None, self.origin(interface, now));
        self.emit(&packet, interface, group_mac(solicited_node(address)), self.mac(interface), now, out);
    }

    /// A packet's origin when the director builds it without a cause.
    pub(super) fn origin(&self, interface: InterfaceId, time: Nanos) -> Origin {
        let mac = self.mac(interface);
        Origin { time, interface, source_mac: mac, destination_mac: mac }
    }

    /// Takes an ARP frame in: requests for own addresses are answered, whatever the frame's destination; replies to own
    /// addresses are learned.
    pub(super) fn receive_arp(&mut self, frame: &[u8], origin: &Origin, out: &mut Output) -> Verdict {
        let Some(body) = frame.get(14..42) else { return Verdict::Dropped(DropReason::LinkTruncated) };
        let address = |at: usize| Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]);
        let mac = |at: usize| MacAddr([body[at], body[at + 1], body[at + 2], body[at + 3], body[at + 4], body[at + 5]]);
        let ethernet_ipv4 = body[..6] == [0, 1, 8, 0, 6, 4];
        let (operation, sender_mac, sender, target) = (u16::from_be_bytes([body[6], body[7]]), mac(8), address(14), address(24));
        if !ethernet_ipv4 || !self.owns(origin.interface, target.into()) {
            return Verdict::Dropped(DropReason::ArpIgnored);
        }
        match operation {
            ARP_REQUEST => {
                let own = self.mac(origin.interface);
                let reply = arp_frame(sender_mac, own, ARP_REPLY, (own, target), (sender_mac, sender));
                out.emit(origin.time, origin.interface, |bytes| bytes.extend(reply));
                Verdict::Local(LocalAnswer::ArpReply)
            }
            ARP_REPLY => {
                self.learn(origin.interface, sender.into(), sender_mac, origin.time, out);
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
        let kind = packet.u8(packet.transport);
        if !matches!(kind, NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT) {
            return None;
        }
        let valid = packet.ttl() == 255 && packet.checksum_is_right() && packet.length() >= packet.transport + 24;
        if !valid {
            return Some(Verdict::Dropped(DropReason::BadIcmpChecksum));
        }
        let origin = packet.origin;
        let mut target = [0; 16];
        for (slot, at) in target.iter_mut().zip(packet.transport + 8..) {
            *slot = packet.u8(at);
        }
        let target = Ipv6Addr::from(target);
        let wanted = if kind == NEIGHBOUR_SOLICITATION { 1 } else { 2 };
        let mac = link_layer_option(packet, packet.transport + 24, wanted);
        if kind == NEIGHBOUR_ADVERTISEMENT {
            if let Some(mac) = mac {
                self.learn(origin.interface, target.into(), mac, origin.time, out);
            }
            return Some(Verdict::Local(LocalAnswer::NeighbourLearned));
        }
        if !self.owns(origin.interface, target.into()) {
            return Some(Verdict::Dropped(DropReason::ArpIgnored));
        }
        let IpAddr::V6(asker) = packet.source() else { return None };
        let detection = asker.is_unspecified();
        if let (Some(mac), false) = (mac, detection) {
            self.learn(origin.interface, asker.into(), mac, origin.time, out);
        }
        let (destination, destination_mac, flags) = if detection {
            let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            (everybody, group_mac(everybody), OVERRIDE)
        } else {
            (asker, mac.unwrap_or(origin.source_mac), SOLICITED | OVERRIDE)
        };
        let own = self.mac(origin.interface);
        let mut body = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
        body.extend(target.octets());
        body.extend([2, 1]);
        body.extend(own.0);
        let answer = icmp6(target, destination, &body, origin);
        self.emit(&answer, origin.interface, destination_mac, own, origin.time, out);
        Some(Verdict::Local(LocalAnswer::NeighbourAdvertisement))
    }
}

/// Flags of a neighbour advertisement. DPVS does not set the router flag (recordings/dpvs-1.10/fnat6-icmp).
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

fn link_layer_option(packet: &Packet, start: usize, wanted: u8) -> Option<MacAddr> {
    let mut at = start;
    while at + 8 <= packet.bytes.len() {
        let length = usize::from(packet.u8(at + 1)) * 8;
        if packet.u8(at) == wanted && length == 8 {
            let mut mac = [0; 6];
            for (slot, from) in mac.iter_mut().zip(at + 2..) {
                *slot = packet.u8(from);
            }
            return Some(MacAddr(mac));
        }
        if length == 0 {
            return None;
        }
        at += length;
    }
    None
}

/// A neighbour solicitation; without `mac` it has no source link-layer address option.
fn solicitation(source: Ipv6Addr, target: Ipv6Addr, mac: Option<MacAddr>, origin: Origin) -> Packet {
    let mut body = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    body.extend(target.octets());
    if let Some(mac) = mac {
        body.extend([1, 1]);
        body.extend(mac.0);
    }
    icmp6(source, solicited_node(target), &body, origin)
}

fn icmp6(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8], origin: Origin) -> Packet {
    let mut bytes = ipv6_header(Protocol::ICMPV6, source, destination, body.len(), 0, 255).to_vec();
    bytes.extend(body);
    let mut packet = Packet::build(bytes, Protocol::ICMPV6, 40, origin);
    packet.finish();
    packet
}

fn arp_frame(
    destination: MacAddr,
    source: MacAddr,
    operation: u16,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
) -> [u8; 42] {
    let mut frame = [0; 42];
    let parts: [&[u8]; 9] = [
        &destination.0,
        &source.0,
        &ARP.to_be_bytes(),
        &[0, 1, 8, 0, 6, 4],
        &operation.to_be_bytes(),
        &sender.0.0,
        &sender.1.octets(),
        &target.0.0,
        &target.1.octets(),
    ];
    for (slot, byte) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *slot = *byte;
    }
    frame
}

/// ff02::1:ff00:0/104 with the address's last three bytes (RFC 4291 section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// 33:33 and the group's last four bytes (RFC 2464 section 7).
fn group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// The link-local address that a port has by its MAC address (RFC 4291 appendix A).
fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}
