//! The parallel composition's way through this director: clients' packets of FULLNAT services about which nothing but their
//! connection is in question (see [`crate::batch`]).
//!
//! Finding connections only reads the table, so many threads do it at once. Following them is done in the order of the packets,
//! with the serial director's own code: what opens, moves on and ends a connection is the same in both compositions. What is left,
//! making the frames, needs no director at all.

use super::connection::{Connection, ConnectionId, FlowKey, Path};
use super::director::Director;
use super::link::{Neighbour, Way};
use super::service::{Service, Services};
use super::state::{Direction, State, flag};
use crate::config::{DpvsSettings, ForwardingMethod, InterfaceId, MacAddr, Protocol, ProxyProtocol, ServiceKey};
use crate::draws::{Draw, Draws};
use crate::output::Output;
use crate::time::Nanos;
use crate::track::Fingerprint;
use crate::verdict::DropReason;
use std::net::{IpAddr, SocketAddr};

/// Where packets go while nothing but connections changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways {
    /// Services all of whose packets may be in lane: their protocols and ends.
    pub services: Vec<(Protocol, SocketAddr)>,
    /// By number: the way to a real server of such a service.
    servers: Vec<Option<ServerWay>>,
    /// Until then all neighbours are known.
    pub until: Nanos,
    /// Routed packets lose one of their TTL.
    pub takes_ttl: bool,
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
    mtu: u32,
}

impl Ways {
    /// The way to a server.
    pub fn server(&self, number: u32) -> Option<&ServerWay> {
        self.servers.get(number as usize)?.as_ref()
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
    /// TCP: what it acknowledges.
    pub acknowledgement: u32,
    /// Length of the IP packet.
    pub length: u16,
}

/// What else is needed of the first packets of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// Where it arrived.
    pub interface: InterfaceId,
    /// Its Ethernet source and destination.
    pub macs: (MacAddr, MacAddr),
    /// TCP: its sequence number.
    pub sequence: u32,
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
    /// What its sequence number is moved by, and the connection's number: the draw's.
    pub offset: u32,
    pub connection: u64,
    /// The real server.
    pub server: u32,
    /// The local address and port.
    pub local: SocketAddr,
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
    pub(crate) fn ways(&self) -> Option<Ways> {
        let mut ways = Ways { until: Nanos::NEVER, takes_ttl: self.settings.xmit_ttl, ..Ways::default() };
        ways.servers.resize(self.services.servers_ever(), None);
        for service in self.services.iter() {
            let Some((end, found, until)) = self.ways_of(service) else { continue };
            ways.services.push(end);
            ways.until = ways.until.min(until);
            for (number, way) in found {
                if let Some(place) = ways.servers.get_mut(number as usize) {
                    *place = Some(way);
                }
            }
        }
        // What a connection of the lane is found by from its server's side must not be some client's side of another.
        let is_local =
            |address: IpAddr| self.services.iter().any(|service| service.locals.iter().any(|own| own.address == address));
        ways.services.retain(|(_, end)| !is_local(end.ip()));
        (!ways.services.is_empty()).then_some(ways)
    }

    /// The ways to a service's servers and until when they are known, if its packets may be in lane.
    #[expect(clippy::type_complexity, reason = "its only caller takes it apart at once")]
    fn ways_of(&self, service: &Service) -> Option<((Protocol, SocketAddr), Vec<(u32, ServerWay)>, Nanos)> {
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
        let mut found = Vec::with_capacity(service.servers.len());
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
            found.push((*number, ServerWay { service: service.number, real, interface: way.interface, macs, mtu: way.mtu }));
        }
        Some(((protocol, SocketAddr::new(address, port)), found, until))
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
    pub(crate) fn prefetch_index(&self, key: Fingerprint) {
        self.connections.prefetch_index(key);
    }

    /// Asks memory for the connection that a search most likely finds.
    #[inline]
    pub(crate) fn prefetch_found(&self, key: Fingerprint) {
        self.connections.prefetch_found(key);
    }

    /// The connection of a client's packet as the table is now, if it has one.
    #[inline]
    pub(crate) fn find(&self, key: &FlowKey, fingerprint: Fingerprint) -> Option<ConnectionId> {
        self.connections.find_at(key, fingerprint).filter(|(_, direction)| *direction == Direction::In).map(|(id, _)| id)
    }

    /// How many connections were made so far: those that a run opens have this number or a greater one.
    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    /// Looks at where a connection stands, so that memory brings it before it is needed.
    #[inline]
    pub(crate) fn touch(&self, id: ConnectionId) -> u64 {
        self.connections.touch(id)
    }

    /// Takes a packet that comes next; none if it is not plain: then nothing has happened but what happens in the serial
    /// composition before it, too. `found` is its connection as the table was when `known` connections had been made.
    pub(crate) fn follow(
        &mut self,
        ways: &Ways,
        request: &Request,
        (found, known): (Option<ConnectionId>, u64),
        key: impl FnOnce() -> Option<FlowKey>,
        opening: impl FnOnce() -> Option<Opening>,
    ) -> Option<Outcome> {
        if request.time < self.now || !self.pass_quiet_time(request.time) {
            return None;
        }
        self.now = request.time;
        // A place may have got another connection since.
        let stays = |id: &ConnectionId| self.connections.peek(*id).is_some_and(|connection| connection.number < known);
        let id = match found.filter(stays) {
            Some(id) => id,
            None => {
                let key = key()?;
                match self.connections.find(&key) {
                    Some((id, Direction::In)) => id,
                    Some((_, Direction::Out)) => return None,
                    None => return self.follow_opening(ways, request, &key, opening),
                }
            }
        };
        let connection = self.connections.peek(id)?;
        let way = ways.server(connection.server)?;
        if !is_plain(connection, way, request) {
            return None;
        }
        let Director { connections, services, settings, draws, now, .. } = self;
        let connection = connections.get_mut(id)?;
        let before = connection.expires;
        connection.follow(request, services, settings, draws, *now);
        let (number, expires) = (connection.number, connection.expires);
        let leaves = connection.leaves(settings, draws, false, opening);
        if expires < before {
            connections.look_at(id, number, expires);
        }
        Some(Outcome::Leaves(leaves))
    }

    /// A packet that has no connection.
    fn follow_opening(
        &mut self,
        ways: &Ways,
        request: &Request,
        key: &FlowKey,
        opening: impl FnOnce() -> Option<Opening>,
    ) -> Option<Outcome> {
        const ALL: u8 = flag::SYN | flag::ACK | flag::FIN | flag::RST;
        let tcp = key.protocol == Protocol::TCP;
        let service = self.services.at(key.protocol, key.destination)?;
        let shortest = service.servers.iter().map(|server| ways.server(*server).map_or(0, |way| way.mtu)).min()?;
        // A datagram opens a connection here only where it carries no UOA.
        let opens = if tcp { request.flags & ALL == flag::SYN } else { self.settings.uoa_max_trail == 0 };
        if !opens || u32::from(request.length) > shortest {
            return None;
        }
        let service = service.number;
        let mut connection = match self.new_connection(service, key) {
            Ok(connection) => connection,
            Err(reason) => return Some(Outcome::Dropped(reason)),
        };
        connection.follow(request, &mut self.services, &self.settings, &self.draws, self.now);
        let opening = opening();
        if tcp {
            connection.client_start = opening.map(|opening| opening.sequence);
        }
        let leaves = connection.leaves(&self.settings, &self.draws, true, || opening);
        self.connections.insert(connection);
        Some(Outcome::Leaves(leaves))
    }

    /// Lets time pass as far as only connections end that do so without a word; whether that is all of it.
    fn pass_quiet_time(&mut self, now: Nanos) -> bool {
        let mut nothing = Output::default();
        while let Some(next) = self.connections.peek_expired(now) {
            let resets = next.protocol == Protocol::TCP && !next.is_one_way() && next.state == State::Established;
            if resets || next.handshake.is_some() {
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

impl Connection {
    /// State, counts and timer after a client's packet. What passed is counted where frames are made.
    #[inline]
    fn follow(&mut self, request: &Request, services: &mut Services, settings: &DpvsSettings, draws: &Draws, now: Nanos) {
        self.state = match self.protocol {
            Protocol::TCP => self.state.after_segment(Direction::In, request.flags, false),
            _ => self.state.after_datagram(Direction::In),
        };
        self.count_state(services);
        self.restart_timer(&settings.timeouts, draws, now);
    }

    /// How a client's packet leaves.
    #[inline]
    fn leaves(&mut self, settings: &DpvsSettings, draws: &Draws, new: bool, opening: impl FnOnce() -> Option<Opening>) -> Leaves {
        let has_fast_path = !settings.fast_xmit_close;
        if has_fast_path && self.client_path.is_none() {
            self.client_path = opening().map(|Opening { interface, macs: (peer, own), .. }| Path { interface, peer, own });
        }
        let drawn = draws.value(Draw::SequenceOffset(self.number)) as u32;
        Leaves {
            offset: drawn.wrapping_add(self.inserted),
            connection: self.number,
            server: self.server,
            local: self.local,
            new,
            fast: has_fast_path && self.server_path.is_some(),
        }
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

/// Whether all that a packet does to its connection is to move it on, and it leaves to where its server's way leads. The
/// connection's real server and its service's address say what its real end is.
fn is_plain(connection: &Connection, way: &ServerWay, request: &Request) -> bool {
    let opens = request.flags & flag::SYN != 0;
    // One that carries the client's address.
    let triggers = request.acknowledgement == connection.trigger && request.flags & (flag::SYN | flag::RST) == 0;
    let there = Path { interface: way.interface, peer: way.macs.0, own: way.macs.1 };
    let odd = opens || connection.protocol == Protocol::TCP && triggers;
    !odd && way.service == connection.service
        && connection.is_fullnat()
        && connection.handshake.is_none()
        && connection.uoa_sent.is_none()
        && !connection.proxy_pending
        && connection.server_path.is_none_or(|path| path == there)
        && u32::from(request.length) <= way.mtu
}
