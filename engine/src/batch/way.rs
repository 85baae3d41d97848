//! Where packets in lane go: for every service and server what a frame needs to leave, worked out once before a run.

use super::lane::{End, Ends, Port};
use crate::config::{ForwardingMethod, InterfaceId, Protocol, SchedulerKind, ServiceKey};
use crate::link::Host;
use crate::link::route::Way;
use crate::packet::ethernet::ether_type;
use crate::time::Nanos;
use crate::track::{Ipvs, Server, Service};
use arrayvec::ArrayVec;
use std::net::IpAddr;

/// The longest link header: Ethernet with a stack of VLAN tags.
pub(super) const LINK_HEADER: usize = 14 + 4 * crate::packet::ethernet::MAX_TAGS;

/// The way to a neighbour whose Ethernet address is known.
#[derive(Clone, Debug)]
pub(super) struct LinkWay {
    /// The link header of frames to it.
    pub header: ArrayVec<u8, LINK_HEADER>,
    /// Where frames stand that leave.
    pub interface: InterfaceId,
    /// The interface that routing chose, VLAN or not.
    pub routed: InterfaceId,
    /// The longest IP packet.
    pub mtu: u32,
}

/// The way to a real server.
#[derive(Clone, Debug)]
pub(super) struct ServerWay {
    /// The link.
    pub link: LinkWay,
    /// NAT: the address and port that the packet gets.
    pub translation: Option<(IpAddr, u16)>,
}

/// A service in lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceWay {
    /// Its number.
    pub number: u32,
    /// All its servers are reached by NAT; else none is.
    pub nat: bool,
    /// The longest IP packet that every one of its servers can get.
    pub shortest_mtu: u32,
}

/// All ways.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways {
    /// By place in [`Ends`].
    services: Vec<Option<ServiceWay>>,
    /// By number.
    servers: Vec<Option<ServerWay>>,
    /// By server number: the place of its service in [`Ends`], and its own in the service's list.
    places: Vec<Option<(u16, u16)>>,
    /// By service number: what answers look like to the client.
    faces: Vec<Option<(IpAddr, u16)>>,
}

/// What batch works with as long as nothing but connections changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub ports: Vec<Port>,
    pub ends: Ends,
    pub ways: Ways,
    pub sloppy: bool,
    /// No state lasts shorter than this: within a run of this length no connection expires that a packet of it has touched.
    pub shortest_timeout: Nanos,
}

impl Plan {
    /// The plan for a director as it is now; none when no packet can take the parallel way.
    pub fn new(host: &Host, ipvs: &Ipvs) -> Option<Plan> {
        let vs = &ipvs.sysctls().vs;
        let plain = ipvs.is_plain()
            && vs.drop_packet != 3
            && !vs.nat_icmp_send
            && !host.neighbours.is_full()
            && !host.links.iter().any(|(_, link)| link.settings.accept_local);
        if !plain {
            return None;
        }
        let rules = ipvs.state_rules();
        let shortest = rules.tcp_timeouts.iter().chain([&rules.udp_timeout]).min().copied().unwrap_or(0);
        let ports = host
            .links
            .iter()
            .map(|(_, link)| Port {
                mac: link.interface.mac,
                mtu: link.interface.mtu,
                open: link.interface.up && !link.interface.loopback && link.tags.is_empty() && !link.settings.disable_ipv6,
            })
            .collect();
        let mut plan =
            Plan { ports, sloppy: vs.sloppy_tcp, shortest_timeout: Nanos::from_secs(shortest.into()), ..Plan::default() };
        plan.ways.servers.resize(ipvs.services.servers.len(), None);
        plan.ways.places.resize(ipvs.services.servers.len(), None);
        plan.ways.faces.resize(ipvs.services.all.len(), None);
        // With an FTP service the choice of service and what happens to packets depend on more than the address.
        if ipvs.services.all.iter().any(|service| service.exists && (service.port() == 21 || service.is_mark())) {
            return None;
        }
        for (number, server) in ipvs.services.servers.iter().enumerate() {
            plan.ways.servers[number] = way_to(host, server);
        }
        let mut services = Vec::new();
        for (number, service) in ipvs.services.all.iter().enumerate() {
            let Some((end, way)) = plan.service(host, ipvs, number as u32, service) else { continue };
            let place = services.len() as u16;
            for (index, server) in service.list.iter().enumerate() {
                plan.ways.places[*server as usize] = Some((place, index as u16));
            }
            plan.ways.faces[number] = way.nat.then_some((end.0, end.1));
            services.push((end, way));
        }
        // Answers come from the servers of NAT services whose answers can be told apart from requests.
        let servers: Vec<End> = services
            .iter()
            .filter(|(_, way)| way.nat)
            .flat_map(|(end, way)| {
                let list = ipvs.services.all.get(way.number as usize).map_or(&[][..], |service| &service.list);
                list.iter().filter_map(|number| plan.ways.server(*number)).map(|way| {
                    let (address, port) = way.translation.unwrap_or((end.0, end.1));
                    (address, port, end.2)
                })
            })
            .collect();
        plan.ends = Ends::new(services.iter().map(|(end, _)| *end), servers);
        plan.ways.services = services.into_iter().map(|(_, way)| Some(way)).collect();
        (plan.ends.services == plan.ways.services.len() && plan.ends.services > 0).then_some(plan)
    }

    /// A service, if its packets can be in lane.
    fn service(&self, host: &Host, ipvs: &Ipvs, number: u32, service: &Service) -> Option<(End, ServiceWay)> {
        let ServiceKey::Address { protocol, address, port } = service.key else { return None };
        let settings = &service.settings;
        let fails = matches!(settings.scheduler, SchedulerKind::None | SchedulerKind::Ovf | SchedulerKind::Conhash);
        if !service.exists
            || port == 0
            || fails
            || settings.persistence.is_some()
            || settings.persistence_engine.is_some()
            || settings.one_packet
            || !matches!(protocol, Protocol::TCP | Protocol::UDP)
            || !matches!(host.routes.lookup(address), Way::Local)
            || service.list.len() > usize::from(u16::MAX)
        {
            return None;
        }
        let mut shortest_mtu = u32::MAX;
        let mut nat = None;
        for number in &service.list {
            let server = ipvs.services.servers.get(*number as usize)?;
            let way = self.ways.server(*number)?;
            let usable = server.available
                && server.settings.weight > 0
                && server.settings.upper_threshold == 0
                && !server.overloaded
                && server.key.address.is_ipv4() == address.is_ipv4();
            let translated = way.translation.is_some();
            if !usable || *nat.get_or_insert(translated) != translated {
                return None;
            }
            shortest_mtu = shortest_mtu.min(way.link.mtu);
        }
        Some(((address, port, protocol.0), ServiceWay { number, nat: nat?, shortest_mtu }))
    }
}

impl Ways {
    /// The service at a place of [`Ends`].
    #[inline]
    pub fn service(&self, place: u16) -> Option<&ServiceWay> {
        self.services.get(usize::from(place))?.as_ref()
    }

    /// The way to a server.
    #[inline]
    pub fn server(&self, number: u32) -> Option<&ServerWay> {
        self.servers.get(number as usize)?.as_ref()
    }

    /// Whether a packet of that length gets to a server.
    #[inline]
    pub fn leads(&self, number: u32, len: u16) -> bool {
        self.server(number).is_some_and(|way| u32::from(len) <= way.link.mtu)
    }

    /// Whether answers of that server for that service are translated in lane.
    #[inline]
    pub fn leads_back(&self, server: u32, service: u32) -> bool {
        self.server(server).is_some_and(|way| way.translation.is_some()) && self.face(service).is_some()
    }

    /// What a service looks like to its clients, if answers in its name are translated.
    #[inline]
    pub fn face(&self, service: u32) -> Option<(IpAddr, u16)> {
        *self.faces.get(service as usize)?
    }

    /// The places of a server's service and of the server in it.
    pub fn place_of(&self, server: u32) -> Option<(u16, u16)> {
        *self.places.get(server as usize)?
    }
}

/// The way to a server; none when it is not there, local, reached by a tunnel, or its neighbour is not known for sure.
fn way_to(host: &Host, server: &Server) -> Option<ServerWay> {
    let address = server.key.address;
    let translation = match server.settings.method {
        ForwardingMethod::Dr => None,
        ForwardingMethod::Nat if server.key.port != 0 => Some((address, server.key.port)),
        _ => return None,
    };
    if !server.available || host.path_mtus.get(address, Nanos(0)).is_some() {
        return None;
    }
    Some(ServerWay { link: link_way(host, address)?, translation })
}

/// The way to any destination that a router would take, if it is known for sure.
pub(super) fn link_way(host: &Host, destination: IpAddr) -> Option<LinkWay> {
    let Way::Out(hop) = host.routes.lookup(destination) else { return None };
    let mac = host.neighbours.known(hop.interface, hop.next(destination))?;
    let link = host.links.get(hop.interface);
    let kind = if destination.is_ipv4() { ether_type::IPV4 } else { ether_type::IPV6 };
    let mut header = Vec::with_capacity(LINK_HEADER);
    let interface = host.write_link_header(&mut header, hop.interface, mac, kind);
    let mtu = hop.mtu.unwrap_or(link.interface.mtu);
    Some(LinkWay { header: header.into_iter().collect(), interface, routed: hop.interface, mtu })
}

/// Whether a packet from that address may come in by that interface, whatever it is and wherever it goes in lane.
pub(super) fn source_is_good(host: &Host, source: IpAddr, on: InterfaceId) -> bool {
    match source {
        IpAddr::V4(v4) => host.check_source(on, v4).is_ok(),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_loopback() && !v6.is_unspecified(),
    }
}

/// The way of an answer back to its client: by another interface than it came from, so that no redirect is due.
pub(super) fn way_back(host: &Host, client: IpAddr, on: InterfaceId) -> Option<LinkWay> {
    let settings = &host.links.get(on).settings;
    let forwards = if client.is_ipv4() { settings.forwarding } else { settings.ipv6_forwarding };
    let learned = host.path_mtus.get(client, Nanos(0)).is_some();
    if !forwards || learned || matches!(client, IpAddr::V6(v6) if crate::link::source::is_link_local(v6)) {
        return None;
    }
    link_way(host, client).filter(|way| way.routed != on)
}
