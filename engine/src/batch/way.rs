//! Where packets in lane go: for every service and server what a frame needs to leave, worked out once before a run.

use super::lane::{End, Ends, Port};
use crate::config::{ForwardingMethod, InterfaceId, Protocol, SchedulerKind, ServiceKey, Tunnel, TunnelKind};
use crate::link::Host;
use crate::link::route::Way;
use crate::packet::ethernet::ether_type;
use crate::rewrite::edit::{ChangeV4, Translation};
use crate::rewrite::nat;
use crate::rewrite::tunnel::{self, Prefix};
use crate::time::Nanos;
use crate::track::{Binding, Ipvs, Server, Service};
use std::net::{IpAddr, Ipv4Addr};

/// Room for the longest link header: Ethernet with a stack of VLAN tags.
pub(super) const LINK_HEADER: usize = (14 + 4 * crate::packet::ethernet::MAX_TAGS).next_multiple_of(16);

/// A link header. What is copied for every packet is copied fastest at a fixed length, so all of the room is.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkHeader {
    /// It stands at the beginning.
    pub room: [u8; LINK_HEADER],
    /// Its length.
    pub len: usize,
}

impl LinkHeader {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.room[..self.len]
    }
}

/// The way to a neighbour whose Ethernet address is known.
#[derive(Clone, Debug)]
pub(super) struct LinkWay {
    /// The link header of frames to it.
    pub header: LinkHeader,
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
    /// What becomes of packets.
    pub method: Method,
}

/// What becomes of packets on their way to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// Nothing but the link header and the hop.
    Dr,
    /// They get that address and port. Those of IPv4 are translated so, and their answers.
    Nat { address: IpAddr, port: u16, v4: Option<ThereAndBack> },
    /// They go into a tunnel, from that address of ours to that of the server; if what stands before them was made already, with
    /// that.
    Tunnel { tunnel: Tunnel, source: IpAddr, destination: IpAddr, prefix: Option<Prefix> },
}

/// How packets between clients and a real server are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThereAndBack {
    pub request: Translation,
    pub answer: Translation,
}

impl ThereAndBack {
    /// Of a service's address and port, host order, and the real server's.
    fn between(service: (Ipv4Addr, u16), server: (Ipv4Addr, u16)) -> ThereAndBack {
        let to = |end, (address, port)| ChangeV4 { end, address, port };
        let request = Translation::of(service, to(nat::End::Destination, server));
        ThereAndBack { request, answer: Translation::of(server, to(nat::End::Source, service)) }
    }
}

impl ServerWay {
    /// How many bytes a packet gets before it.
    pub fn added(&self) -> u64 {
        let tunnel = match self.method {
            Method::Tunnel { tunnel, destination, .. } => tunnel::overhead(tunnel, destination.is_ipv4()),
            Method::Dr | Method::Nat { .. } => 0,
        };
        (self.link.header.len + tunnel) as u64
    }

    /// The longest packet that gets there.
    fn longest(&self) -> u32 {
        match self.method {
            Method::Tunnel { tunnel, destination, .. } => {
                self.link.mtu.saturating_sub(tunnel::overhead(tunnel, destination.is_ipv4()) as u32)
            }
            Method::Dr | Method::Nat { .. } => self.link.mtu,
        }
    }
}

/// A service in lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceWay {
    /// Its number.
    pub number: u32,
    /// All its servers are reached by NAT; else none is.
    pub nat: bool,
    /// The longest IP packet that every one of its servers can get.
    pub longest: u32,
    /// Its packets must not be fragmented by their own word: some tunnel would draw an identification for them.
    pub dont_fragment: bool,
}

/// What a connection's binding means in lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct BindingWay {
    /// The place of its service in [`Ends`]; [`NOWHERE`] when it is not in lane.
    pub end: u16,
    /// The place of its server in [`Ends`]; [`NOWHERE`] when its answers are not in lane.
    pub answers: u16,
    /// Its server's number.
    pub server: u32,
    /// Its service's number.
    pub service: u32,
    /// The longest IP packet from a client that is in lane.
    pub longest: u32,
    /// Answers are translated.
    pub returns: bool,
}

/// No place in [`Ends`].
const NOWHERE: u16 = u16::MAX;

/// All ways.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways {
    /// By place in [`Ends`].
    services: Vec<ServiceWay>,
    /// By number.
    servers: Vec<Option<ServerWay>>,
    /// By server number: the place of its service in [`Ends`], and its own in the service's list.
    places: Vec<Option<(u16, u16)>>,
    /// By service number: what answers look like to the client.
    faces: Vec<Option<(IpAddr, u16)>>,
    /// By server number: the binding of its connections, in lane.
    bindings_of: Vec<u32>,
    /// By number, as far as they are known; and how often any were forgotten before.
    bindings: Vec<BindingWay>,
    forgotten: u32,
    /// How many bytes every packet gets before it, if it is the same for all.
    pub added: Option<u64>,
    /// All servers are reached by DR.
    pub are_direct: bool,
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
                longest_frame: 14 + link.interface.mtu.max(46) as usize,
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
                if let (IpAddr::V4(own), Some(way)) = (end.0, &mut plan.ways.servers[*server as usize])
                    && let Method::Nat { address: IpAddr::V4(address), port, v4 } = &mut way.method
                {
                    *v4 = Some(ThereAndBack::between((own, end.1), (*address, *port)));
                }
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
                list.iter().filter_map(|number| plan.ways.server(*number)).filter_map(|way| match way.method {
                    Method::Nat { address, port, .. } => Some((address, port, end.2)),
                    Method::Dr | Method::Tunnel { .. } => None,
                })
            })
            .collect();
        plan.ends = Ends::new(services.iter().map(|(end, way)| (*end, way.dont_fragment)), servers);
        plan.ways.added = plan.added(host);
        plan.ways.are_direct = plan.ways.servers.iter().flatten().all(|way| matches!(way.method, Method::Dr));
        plan.ways.services = services.into_iter().map(|(_, way)| way).collect();
        (plan.ends.services == plan.ways.services.len() && plan.ends.services > 0).then_some(plan)
    }

    /// How many bytes every packet in lane gets before it, if it is the same for all.
    fn added(&self, host: &Host) -> Option<u64> {
        let mut added = self.ways.servers.iter().flatten().map(ServerWay::added);
        let first = added.next()?;
        let uniform = added.all(|other| other == first) && host.links.iter().all(|(_, link)| link.tags.is_empty());
        uniform.then_some(first)
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
        let mut longest = u32::MAX;
        let mut nat = None;
        let mut dont_fragment = false;
        for number in &service.list {
            let server = ipvs.services.servers.get(*number as usize)?;
            let way = self.ways.server(*number)?;
            let usable = server.available
                && server.settings.weight > 0
                && server.settings.upper_threshold == 0
                && !server.overloaded
                && server.key.address.is_ipv4() == address.is_ipv4();
            let translated = matches!(way.method, Method::Nat { .. });
            if !usable || *nat.get_or_insert(translated) != translated {
                return None;
            }
            longest = longest.min(way.longest());
            dont_fragment |= matches!(way.method, Method::Tunnel { destination, .. } if destination.is_ipv4());
        }
        // Only then an IPv4 tunnel's identification is no draw (reference/linux-ipvs.md section 6.6b).
        if dont_fragment && !(address.is_ipv4() && ipvs.sysctls().vs.pmtu_disc) {
            return None;
        }
        Some(((address, port, protocol.0), ServiceWay { number, nat: nat?, longest, dont_fragment }))
    }
}

impl Ways {
    /// The service at a place of [`Ends`].
    #[inline]
    pub fn service(&self, place: u16) -> Option<&ServiceWay> {
        self.services.get(usize::from(place))
    }

    /// The numbers of the services.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.services.iter().map(|service| service.number)
    }

    /// The way to a server.
    #[inline]
    pub fn server(&self, number: u32) -> Option<&ServerWay> {
        self.servers.get(number as usize)?.as_ref()
    }

    /// What a binding means, and the way to its server.
    #[inline]
    pub fn server_of(&self, binding: u32) -> Option<(&BindingWay, &ServerWay)> {
        let binding = self.binding(binding)?;
        Some((binding, self.server(binding.server)?))
    }

    /// What a binding means.
    #[inline]
    pub fn binding(&self, number: u32) -> Option<&BindingWay> {
        self.bindings.get(number as usize)
    }

    /// The binding of new connections to a server.
    #[inline]
    pub fn binding_of(&self, server: u32) -> u32 {
        self.bindings_of.get(server as usize).copied().unwrap_or(u32::MAX)
    }

    /// Makes itself acquainted with bindings that came up since.
    pub fn learn(&mut self, ends: &Ends, ipvs: &mut Ipvs) {
        if self.forgotten != ipvs.table().bindings().all().1 || self.bindings_of.is_empty() {
            self.bindings.clear();
            self.bindings_of = vec![u32::MAX; self.servers.len()];
            for (server, place) in self.places.iter().enumerate() {
                let Some((address, port, protocol)) = place.and_then(|(end, _)| ends.list.get(usize::from(end))) else {
                    continue;
                };
                if let Some(binding) = ipvs.bind(Protocol(*protocol), *address, *port, server as u32) {
                    self.bindings_of[server] = binding;
                }
            }
        }
        let (all, forgotten) = ipvs.table().bindings().all();
        self.forgotten = forgotten;
        for binding in all.iter().skip(self.bindings.len()) {
            let way = self.way_of(ends, binding);
            self.bindings.push(way);
        }
    }

    fn way_of(&self, ends: &Ends, binding: &Binding) -> BindingWay {
        let protocol = binding.protocol.0;
        let server = binding.server.unwrap_or(u32::MAX);
        let end = ends
            .place(&(binding.virtual_address, binding.virtual_port, protocol))
            .filter(|end| usize::from(*end) < ends.services);
        let way = self.server(server);
        let nat = matches!(way, Some(ServerWay { method: Method::Nat { .. }, .. }));
        let answers = ends
            .place(&(binding.server_address, binding.server_port, protocol))
            .filter(|place| binding.method == ForwardingMethod::Nat && usize::from(*place) >= ends.services);
        // A connection keeps the method that its server had, and the service whose number it has may be another one by now.
        let service = end.and_then(|end| self.service(end)).filter(|service| service.number == binding.service);
        let as_bound = way.is_some_and(|way| match way.method {
            Method::Dr => binding.method == ForwardingMethod::Dr,
            Method::Nat { address, port, .. } => {
                binding.method == ForwardingMethod::Nat && (address, port) == (binding.server_address, binding.server_port)
            }
            Method::Tunnel { tunnel, .. } => binding.method == ForwardingMethod::Tunnel(tunnel),
        });
        BindingWay {
            end: end.unwrap_or(NOWHERE),
            answers: answers.unwrap_or(NOWHERE),
            server,
            service: binding.service,
            longest: if service.is_some() && as_bound { way.map_or(0, ServerWay::longest) } else { 0 },
            returns: nat && as_bound && self.face(binding.service).is_some(),
        }
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

/// The way to a server; none when it is not there, local, or its neighbour is not known for sure.
fn way_to(host: &Host, server: &Server) -> Option<ServerWay> {
    let address = server.key.address;
    if !server.available || host.path_mtus.get(address, Nanos(0)).is_some() {
        return None;
    }
    let link = link_way(host, address)?;
    let method = match server.settings.method {
        ForwardingMethod::Dr => Method::Dr,
        ForwardingMethod::Nat if server.key.port != 0 => Method::Nat { address, port: server.key.port, v4: None },
        // The source port of GUE is a draw.
        ForwardingMethod::Tunnel(tunnel) if !matches!(tunnel.kind, TunnelKind::Gue { .. }) => {
            let Way::Out(hop) = host.routes.lookup(address) else { return None };
            let source = host.source_on(&hop, address)?;
            let least = if address.is_ipv4() { 68 } else { 1280 };
            if (link.mtu as usize).saturating_sub(tunnel::overhead(tunnel, address.is_ipv4())) < least {
                return None;
            }
            Method::Tunnel { tunnel, source, destination: address, prefix: Prefix::of(tunnel, source, address) }
        }
        _ => return None,
    };
    Some(ServerWay { link, method })
}

/// The way to any destination that a router would take, if it is known for sure.
pub(super) fn link_way(host: &Host, destination: IpAddr) -> Option<LinkWay> {
    let Way::Out(hop) = host.routes.lookup(destination) else { return None };
    let mac = host.neighbours.known(hop.interface, hop.next(destination))?;
    let link = host.links.get(hop.interface);
    let kind = if destination.is_ipv4() { ether_type::IPV4 } else { ether_type::IPV6 };
    let mut written = Vec::with_capacity(LINK_HEADER);
    let interface = host.write_link_header(&mut written, hop.interface, mac, kind);
    let mut header = LinkHeader { room: [0; LINK_HEADER], len: written.len() };
    header.room.get_mut(..written.len())?.copy_from_slice(&written);
    let mtu = hop.mtu.unwrap_or(link.interface.mtu);
    Some(LinkWay { header, interface, routed: hop.interface, mtu })
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
