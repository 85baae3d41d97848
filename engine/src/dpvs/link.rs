//! The ports of the director: addresses, routes, neighbours (ARP and ND), and how packets leave
//! (reference/dpvs-fullnat.md sections 8 and 16).

use super::wire::{Origin, Packet};
use crate::config::{Address, Interface, InterfaceId, MacAddr, NeighbourEntry, Network, Route, RouteKind};
use crate::draws::{Draw, Draws};
use crate::output::{DrawnField, Output};
use crate::time::Nanos;
use crate::verdict::DropReason;
use foldhash::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Ports, addresses, routes, neighbours.
#[derive(Clone, Debug)]
pub(super) struct Link {
    interfaces: Vec<Interface>,
    routes: Vec<Route>,
    pub(super) neighbours: HashMap<(InterfaceId, IpAddr), Neighbour>,
    queue_length: usize,
    pub(super) reachable: Nanos,
    built: u64,
    /// What happens now is a timer's doing.
    pub(super) late: bool,
    /// How often what is known of neighbours changed.
    pub(super) learned: u64,
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

/// What is known of a neighbour.
#[derive(Clone, Debug)]
pub(super) enum Neighbour {
    /// Its MAC address, until then; static ones never age.
    Known { mac: MacAddr, until: Nanos },
    /// It was asked for; packets wait for its answer until then.
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
            learned: 0,
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

    /// All ports, by number.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter()
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

    /// Whether an address is one of a port's own.
    pub(super) fn owns(&self, interface: InterfaceId, address: IpAddr) -> bool {
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
        self.learned += 1;
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

    /// A packet's origin when the director builds it without a cause.
    pub(super) fn origin(&self, interface: InterfaceId, time: Nanos) -> Origin {
        let mac = self.mac(interface);
        Origin { time, interface, source_mac: mac, destination_mac: mac }
    }
}

/// The link-local address that a port has by its MAC address (RFC 4291 appendix A).
pub(super) fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}
