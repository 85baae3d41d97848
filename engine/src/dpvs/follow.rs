//! The parallel composition's way through this director: clients' packets of FULLNAT services about which nothing but their
//! connection is in question (see [`crate::batch`]).
//!
//! Finding connections only reads the table, so many threads do it at once. Following them is done in the order of the packets,
//! with the serial director's own code: what opens, moves on and ends a connection is the same in both compositions. What is left,
//! making the frames, needs no director at all.

use super::connection::Path;
use super::director::Director;
use super::entry::{Binding, Entry, EntryFlags};
use super::expiry::timer_end;
use super::flow::{EndHash, Flow, FlowKey};
use super::link::{Neighbour, Way};
use super::service::Service;
use super::shared::NO_VALUE;
use super::state::{Direction, flag};
use super::table::ConnectionId;
use crate::config::{ForwardingMethod, InterfaceId, MacAddr, Protocol, ProxyProtocol, ServiceKey};
use crate::draws::Draw;
use crate::output::Output;
use crate::time::Nanos;
use crate::track::Fingerprint;
use crate::verdict::DropReason;
use std::net::{IpAddr, SocketAddr};

/// Where packets go while nothing but connections changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways {
    /// Services all of whose packets may be in lane.
    pub services: Vec<ServiceEnd>,
    /// By number: the way to a real server of such a service.
    servers: Vec<Option<ServerWay>>,
    /// The ways of connections by the number of what they have in common.
    bindings: Vec<BindingWay>,
    /// Local addresses by number.
    locals: Vec<IpAddr>,
    /// Until then all neighbours are known.
    pub until: Nanos,
    /// Routed packets lose one of their TTL.
    pub takes_ttl: bool,
}

/// Where packets of a service in lane go to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceEnd {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address and port.
    pub address: SocketAddr,
    /// The number of both.
    number: u16,
    hash: EndHash,
    /// The service's number.
    service: u32,
    /// The smallest MTU of the ways to its servers.
    mtu: u32,
}

impl ServiceEnd {
    /// The flow of packets from a client.
    #[inline]
    pub fn flow(&self, client: IpAddr, port: u16) -> Flow {
        Flow { client, port, end: self.number }
    }

    /// What the connection of a flow is looked up by.
    #[inline]
    pub fn fingerprint(&self, flow: &Flow) -> Fingerprint {
        self.hash.with(flow.client, flow.port)
    }
}

/// The way to a real server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerWay {
    /// The service's number.
    pub service: u32,
    /// Where packets go.
    pub real: SocketAddr,
    /// On which port they leave.
    pub interface: InterfaceId,
    /// The Ethernet addresses of frames to it: destination, source.
    pub macs: (MacAddr, MacAddr),
    /// The number of the fast path of a connection whose real server answers by this way.
    path: u16,
    /// The number of what connections by this way have in common.
    binding: u16,
    mtu: u32,
}

/// A service in lane, and the ways to its servers; they have no numbers yet.
struct ServiceWays {
    end: ServiceEnd,
    /// By the server's number.
    servers: Vec<(u32, ServerWay)>,
    /// Until then all neighbours are known.
    until: Nanos,
}

/// The way of connections that have the same in common.
#[derive(Clone, Copy, Debug)]
struct BindingWay {
    protocol: Protocol,
    /// The number of their service's end.
    end: u16,
    /// As [`ServerWay::path`].
    path: u16,
    server: u32,
    /// The longest packet that may be in lane.
    longest: u32,
    timeout: Option<u32>,
}

impl BindingWay {
    fn of(binding: &Binding, ways: &Ways) -> BindingWay {
        let Binding { protocol, end, server, service, timeout, .. } = *binding;
        let way = ways.server(server).filter(|way| way.service == service);
        let (path, longest) = way.map_or((NO_VALUE, 0), |way| (way.path, way.mtu));
        BindingWay { protocol, end, path, server, longest, timeout }
    }

    /// Whether all that a packet does to its connection is to move it on, and it leaves to where its server's way leads. The
    /// connection's real server and its service's address say what its real end is.
    #[inline]
    fn moves_on(&self, entry: &Entry, request: &Request, acknowledgement: u32) -> bool {
        const ODD: EntryFlags = EntryFlags::WHOLE.union(EntryFlags::PROXY_PENDING).union(EntryFlags::UOA);
        // One that carries the client's address.
        let triggers = acknowledgement == entry.trigger && request.flags & flag::RST == 0 && self.protocol == Protocol::TCP;
        request.flags & flag::SYN == 0
            && !triggers
            && !entry.flags.intersects(ODD)
            && (entry.server_path == NO_VALUE || entry.server_path == self.path)
            && u32::from(request.length) <= self.longest
    }
}

impl Ways {
    /// The way to a server.
    #[inline]
    pub fn server(&self, number: u32) -> Option<&ServerWay> {
        self.servers.get(number as usize)?.as_ref()
    }

    /// The local address of a number.
    #[inline]
    pub fn local(&self, number: u16) -> Option<IpAddr> {
        self.locals.get(usize::from(number)).copied()
    }

    /// As many as servers ever were.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }
}

/// A client's packet in lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// When it arrived.
    pub time: Nanos,
    /// TCP flags.
    pub flags: u8,
    /// Length of the IP packet.
    pub length: u16,
}

/// What else is needed of a packet whose connection was not found beforehand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// Where it arrived.
    pub interface: InterfaceId,
    /// Its Ethernet source and destination.
    pub macs: (MacAddr, MacAddr),
    /// TCP: its sequence number.
    pub sequence: u32,
    /// TCP: what it acknowledges.
    pub acknowledgement: u32,
}

/// What was found for a packet while nobody changed the table: in a word, which threads hand each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found(pub u64);

impl Found {
    const SOME: u64 = 1 << 63;
    const PLAIN: u64 = 1 << 62;

    /// There is none; it was looked for by this.
    #[inline]
    pub fn none(Fingerprint(fingerprint): Fingerprint) -> Found {
        Found(u64::from(fingerprint))
    }

    #[inline]
    fn connection(ConnectionId(id): ConnectionId, plain: bool) -> Found {
        Found(Found::SOME | if plain { Found::PLAIN } else { 0 } | u64::from(id))
    }

    /// The connection, if there is one.
    #[inline]
    pub fn id(self) -> Option<ConnectionId> {
        (self.0 & Found::SOME != 0).then_some(ConnectionId(self.0 as u32))
    }

    /// What it was looked for by, if there is none.
    #[inline]
    pub fn fingerprint(self) -> Fingerprint {
        Fingerprint(self.0 as u32)
    }

    /// All that the packet does is to move its connection on.
    #[inline]
    fn is_plain(self) -> bool {
        self.0 & Found::PLAIN != 0
    }
}

/// What becomes of a packet: all that it takes to make its frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// It leaves.
    Leaves(Leaves),
    /// It finds no server or no port.
    Dropped(DropReason),
}

/// How a packet leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaves {
    /// The connection's number: the draw's.
    pub connection: u64,
    /// What its sequence number is moved by.
    pub offset: u32,
    /// The real server.
    pub server: u32,
    /// The number of the local address.
    pub local: u16,
    /// The local port.
    pub port: u16,
    /// It opened its connection.
    pub new: bool,
    /// By the fast path: its TTL stays.
    pub fast: bool,
}

impl Director {
    /// Whether nothing but a packet's connection could be in question.
    pub(crate) fn is_plain(&self) -> bool {
        self.has_begun()
            && self.doubts.is_none()
            && self.observations.is_empty()
            && self.access.is_empty()
            && self.marks.is_empty()
    }

    /// Ports by number: Ethernet address, MTU, and whether they are up.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (MacAddr, u32, bool)> {
        self.link.interfaces().map(|port| (port.mac, port.mtu, port.up && port.vlan.is_none()))
    }

    /// Where packets go as the director is now; none when no service can be in lane.
    pub(crate) fn ways(&mut self) -> Option<Ways> {
        // From now on other addresses may be local ones.
        self.connections.enter_answers();
        let mut ways = Ways { until: Nanos::NEVER, takes_ttl: self.settings.xmit_ttl, ..Ways::default() };
        ways.servers.resize(self.services.servers_ever(), None);
        let locals = self.services.iter().flat_map(|service| service.locals.iter());
        let locals: Vec<IpAddr> = locals.map(|local| local.address).collect();
        let found: Vec<_> = self.services.iter().filter_map(|service| self.ways_of(service)).collect();
        let beside = &mut self.connections.beside;
        for ServiceWays { end, servers, until } in found {
            ways.until = ways.until.min(until);
            let mut numbered = servers.into_iter().map(|(server, way)| {
                let (peer, own) = way.macs;
                let path = beside.paths.number(Path { interface: way.interface, peer, own })?;
                let binding = beside.bindings.number(Binding {
                    service_end: end.address,
                    real: way.real,
                    server,
                    service: end.service,
                    timeout: self.services.service(end.service)?.settings.dpvs.connection_timeout,
                    protocol: end.protocol,
                    end: beside.ends.number((end.protocol, end.address))?,
                })?;
                *ways.servers.get_mut(server as usize)? = Some(ServerWay { path, binding, ..way });
                Some(())
            });
            let all_numbered = numbered.all(|numbered| numbered.is_some());
            // What a connection of the lane is found by from its server's side must not be some client's side of another.
            if all_numbered
                && !locals.contains(&end.address.ip())
                && let Some(number) = beside.ends.number((end.protocol, end.address))
            {
                ways.services.push(ServiceEnd { number, ..end });
            }
        }
        let all_numbered = locals.iter().all(|local| beside.locals.number(*local).is_some());
        ways.locals = beside.locals.all().to_vec();
        ways.bindings = beside.bindings.all().iter().map(|binding| BindingWay::of(binding, &ways)).collect();
        (all_numbered && !ways.services.is_empty()).then_some(ways)
    }

    /// The ways to a service's servers and until when they are known, if its packets may be in lane.
    fn ways_of(&self, service: &Service) -> Option<ServiceWays> {
        let ServiceKey::Address { protocol, address, port } = service.key else { return None };
        let settings = &service.settings;
        let odd = !matches!(protocol, Protocol::TCP | Protocol::UDP)
            || settings.one_packet
            || settings.dpvs.syn_proxy
            || settings.dpvs.proxy_protocol != ProxyProtocol::Disable
            || service.servers.is_empty();
        if odd {
            return None;
        }
        let mut until = Nanos::NEVER;
        let mut servers = Vec::with_capacity(service.servers.len());
        for number in &service.servers {
            let server = self.services.server(*number)?;
            let key = server.key;
            let plain = server.settings.method == ForwardingMethod::FullNat
                && server.settings.weight > 0
                && key.address.is_ipv4() == address.is_ipv4();
            let way = self.link.route(key.address).filter(|_| plain)?;
            let (mac, known) = self.neighbour(&way)?;
            until = until.min(known);
            let real = SocketAddr::new(key.address, if key.port == 0 { port } else { key.port });
            let macs = (mac, self.link.mac(way.interface));
            let (service, interface) = (service.number, way.interface);
            servers
                .push((*number, ServerWay { service, real, interface, macs, path: NO_VALUE, binding: NO_VALUE, mtu: way.mtu }));
        }
        let (address, service) = (SocketAddr::new(address, port), service.number);
        let hash = EndHash::of(protocol, address);
        let mtu = servers.iter().map(|(_, way)| way.mtu).min()?;
        Some(ServiceWays { end: ServiceEnd { protocol, address, number: NO_VALUE, hash, service, mtu }, servers, until })
    }

    /// Whom a way leads to, and until when that is known.
    fn neighbour(&self, way: &Way) -> Option<(MacAddr, Nanos)> {
        self.link.interface(way.interface).filter(|port| port.up)?;
        match self.link.neighbours.get(&(way.interface, way.next_hop)) {
            Some(Neighbour::Known { mac, until }) => Some((*mac, *until)),
            _ => None,
        }
    }

    /// Asks memory for where the search for a connection begins.
    #[inline]
    pub(crate) fn prefetch_index(&self, fingerprint: Fingerprint) {
        self.connections.prefetch_index(fingerprint);
    }

    /// The connection that a search most likely finds, if it finds any.
    #[inline]
    pub(crate) fn candidate(&self, fingerprint: Fingerprint) -> ConnectionId {
        self.connections.candidate(fingerprint)
    }

    /// Asks memory for a connection.
    #[inline]
    pub(crate) fn prefetch(&self, id: ConnectionId) {
        self.connections.prefetch(id);
    }

    /// What there is for a client's packet as the table is now. All but states, counts and timers stays as it is, while packets
    /// are followed, until the connection ends: so it is said here already whether they are all that the packet changes.
    #[inline]
    pub(crate) fn find(
        &self,
        ways: &Ways,
        flow: &Flow,
        request: &Request,
        (fingerprint, candidate): (Fingerprint, ConnectionId),
        acknowledgement: u32,
    ) -> Found {
        if let Some(entry) = self.connections.entry(candidate)
            && let Some(way) = ways.bindings.get(usize::from(entry.binding))
            && entry.client_port == flow.port
            && way.end == flow.end
            && self.connections.beside.is_client(entry, flow.client)
        {
            return Found::connection(candidate, way.moves_on(entry, request, acknowledgement));
        }
        match self.connections.find_flow(flow, fingerprint) {
            Some((id, Direction::In)) => Found::connection(id, self.moves_on(ways, id, request, acknowledgement)),
            _ => Found::none(fingerprint),
        }
    }

    /// Whether a packet only moves a connection on.
    fn moves_on(&self, ways: &Ways, id: ConnectionId, request: &Request, acknowledgement: u32) -> bool {
        let entry = self.connections.entry(id);
        let way = entry.and_then(|entry| ways.bindings.get(usize::from(entry.binding)));
        entry.zip(way).is_some_and(|(entry, way)| way.moves_on(entry, request, acknowledgement))
    }

    /// How many connections were made so far: those that a run opens have this number or a greater one.
    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    /// Takes a packet that comes next; none if it is not plain: then nothing has happened but what happens in the serial
    /// composition before it, too. `found` was found when `known` connections had been made.
    #[inline]
    pub(crate) fn follow<'a>(
        &mut self,
        ways: &Ways,
        request: &Request,
        (found, known): (Found, u64),
        flow: impl FnOnce() -> Option<(&'a ServiceEnd, Flow)>,
        opening: impl FnOnce() -> Option<Opening>,
    ) -> Option<Outcome> {
        if request.time < self.now || !self.pass_quiet_time(request.time) {
            return None;
        }
        self.now = request.time;
        // A place may have got another connection since.
        let stays = |id: &ConnectionId| self.connections.entry(*id).is_some_and(|entry| entry.number < known);
        match found.id().filter(stays) {
            Some(id) if found.is_plain() => self.move_on(ways, id, request, opening),
            Some(_) => None,
            None => self.follow_unknown(ways, request, flow()?, &opening()?),
        }
    }

    /// A packet whose connection was not there when it was looked for.
    #[inline(never)]
    fn follow_unknown(
        &mut self,
        ways: &Ways,
        request: &Request,
        (end, flow): (&ServiceEnd, Flow),
        opening: &Opening,
    ) -> Option<Outcome> {
        match self.connections.find_flow(&flow, end.fingerprint(&flow)) {
            Some((id, Direction::In)) => {
                let plain = self.moves_on(ways, id, request, opening.acknowledgement);
                if plain { self.move_on(ways, id, request, || Some(*opening)) } else { None }
            }
            Some((_, Direction::Out)) => None,
            None => self.follow_opening(ways, request, (end, flow), opening),
        }
    }

    /// A packet that only moves its connection on.
    #[inline]
    fn move_on(
        &mut self,
        ways: &Ways,
        id: ConnectionId,
        request: &Request,
        opening: impl FnOnce() -> Option<Opening>,
    ) -> Option<Outcome> {
        let Director { connections, services, settings, draws, now, .. } = self;
        let entry = connections.entry_mut(id)?;
        let binding = ways.bindings.get(usize::from(entry.binding))?;
        entry.state = entry.state.after_request(binding.protocol, request.flags);
        let active = entry.state.is_active();
        if active != entry.is_active() {
            entry.flags.set(EntryFlags::ACTIVE, active);
            services.set_active(binding.server, active);
        }
        let before = entry.expires;
        entry.timer_starts += 1;
        let starts = (entry.number, entry.timer_starts);
        entry.expires = timer_end(entry.state, binding.timeout, starts, &settings.timeouts, draws, *now);
        let (number, expires) = (entry.number, entry.expires);
        let has_fast_path = !settings.fast_xmit_close;
        let drawn = draws.value(Draw::SequenceOffset(number)) as u32;
        let leaves = Leaves {
            connection: number,
            offset: drawn.wrapping_add(entry.inserted),
            server: binding.server,
            local: entry.local,
            port: entry.local_port,
            new: false,
            fast: has_fast_path && entry.server_path != NO_VALUE,
        };
        let lacks_path = has_fast_path && entry.client_path == NO_VALUE;
        if expires < before {
            connections.look_at(id, number, expires);
        }
        if lacks_path {
            self.learn_client_path(id, opening());
        }
        Some(Outcome::Leaves(leaves))
    }

    /// The client's first frame after those that may not use the fast path.
    #[cold]
    fn learn_client_path(&mut self, id: ConnectionId, opening: Option<Opening>) {
        if let Some(mut connection) = self.connections.take(id) {
            connection.client_path = opening.map(|opening| opening.path());
            self.connections.put_back(id, connection);
        }
    }

    /// A packet that has no connection.
    fn follow_opening(
        &mut self,
        ways: &Ways,
        request: &Request,
        (end, flow): (&ServiceEnd, Flow),
        opening: &Opening,
    ) -> Option<Outcome> {
        const ALL: u8 = flag::SYN | flag::ACK | flag::FIN | flag::RST;
        let tcp = end.protocol == Protocol::TCP;
        // A datagram opens a connection here only where it carries no UOA.
        let opens = if tcp { request.flags & ALL == flag::SYN } else { self.settings.uoa_max_trail == 0 };
        if !opens || u32::from(request.length) > end.mtu {
            return None;
        }
        let source = SocketAddr::new(flow.client, flow.port);
        let key = FlowKey { protocol: end.protocol, source, destination: end.address };
        let mut connection = match self.new_connection(end.service, &key) {
            Ok(connection) => connection,
            Err(reason) => return Some(Outcome::Dropped(reason)),
        };
        connection.state = connection.state.after_request(key.protocol, request.flags);
        self.count_state(&mut connection);
        self.refresh(&mut connection);
        connection.client_start = tcp.then_some(opening.sequence);
        connection.client_path = (!self.settings.fast_xmit_close).then(|| opening.path());
        let drawn = self.draws.value(Draw::SequenceOffset(connection.number)) as u32;
        let local = self.connections.beside.locals.number(connection.local.ip())?;
        let binding = ways.server(connection.server).map_or(NO_VALUE, |way| way.binding);
        let leaves = Leaves {
            connection: connection.number,
            offset: drawn.wrapping_add(connection.inserted),
            server: connection.server,
            local,
            port: connection.local.port(),
            new: true,
            fast: false,
        };
        self.connections.open(connection, end.fingerprint(&flow), &Entry::with(binding, local));
        Some(Outcome::Leaves(leaves))
    }

    /// Lets time pass as far as only connections end that do so without a word; whether that is all of it.
    #[inline]
    fn pass_quiet_time(&mut self, now: Nanos) -> bool {
        self.connections.next_timer().is_none_or(|due| due > now) || self.end_quietly(now)
    }

    #[inline(never)]
    fn end_quietly(&mut self, now: Nanos) -> bool {
        let mut nothing = Output::default();
        while let Some(quietly) = self.connections.next_ends_quietly(now) {
            if !quietly {
                return false;
            }
            let Some((due, id, connection)) = self.connections.take_expired(now) else { break };
            self.now = due;
            self.expire(id, connection, &mut nothing);
        }
        true
    }

    /// Counts what passed the servers on its way in: packets and bytes by server number; and TOA that clients forged.
    pub(crate) fn count(&mut self, ways: &Ways, passed: &[Passed]) {
        for (number, passed) in (0..).zip(passed).filter(|(_, passed)| passed.packets > 0) {
            let Some(way) = ways.server(number) else { continue };
            if let Some(server) = self.services.server_mut(number) {
                server.counters.in_packets += passed.packets;
                server.counters.in_bytes += passed.bytes;
            }
            if let Some(service) = self.services.service_mut(way.service) {
                service.counters.in_packets += passed.packets;
                service.counters.in_bytes += passed.bytes;
                service.client_addresses.forged += passed.forged;
            }
        }
    }
}

impl Opening {
    fn path(&self) -> Path {
        let (peer, own) = self.macs;
        Path { interface: self.interface, peer, own }
    }
}

/// What passed a server from clients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passed {
    /// Packets.
    pub packets: u64,
    /// Their bytes, as IP lengths.
    pub bytes: u64,
    /// Segments with a TOA of the client's own.
    pub forged: u64,
}
