//! Reads off a golden capture which real server each connection got (`--observe`), for balancers whose scheduler is unknown.

use super::dissect::{Dissection, Packet};
use super::fields::Place;
use lvscheck_engine::time::Nanos;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A connection as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// The IP protocol's number.
    pub protocol: u8,
    /// The client.
    pub client: SocketAddr,
    /// The virtual service, where the frame shows it: NAT and FULLNAT write the real server in its place.
    pub service: Option<SocketAddr>,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            6 => "TCP",
            17 => "UDP",
            132 => "SCTP",
            _ => "IP",
        };
        match self.service {
            Some(service) => write!(f, "{protocol} connection {} -> {service}", self.client),
            None => write!(f, "{protocol} connection of {}", self.client),
        }
    }
}

/// A real server as a frame shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObservedServer {
    /// DR: the MAC address that the frame went to.
    Mac([u8; 6]),
    /// Tunnel: the outer destination.
    Tunnel(IpAddr),
    /// NAT and FULLNAT: the destination.
    Address(SocketAddr),
}

impl fmt::Display for ObservedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObservedServer::Mac(mac) => f.write_str(&super::fields::mac(mac)),
            ObservedServer::Tunnel(address) => write!(f, "{address}"),
            ObservedServer::Address(address) => write!(f, "{address}"),
        }
    }
}

/// What is known about addresses beforehand.
pub trait Roles {
    /// Whether a virtual service takes this destination.
    fn is_service(&self, protocol: u8, destination: SocketAddr) -> bool;
    /// Whether this is a real server, by its address.
    fn is_server(&self, address: IpAddr) -> bool;
}

/// Looks at the frames of a golden one after the other.
pub struct Observer<'r> {
    roles: &'r dyn Roles,
    found: BTreeMap<Flow, Vec<(Nanos, ObservedServer)>>,
    dissection: Dissection,
}

impl<'r> Observer<'r> {
    /// No frame seen yet.
    pub fn new(roles: &'r dyn Roles) -> Observer<'r> {
        Observer { roles, found: BTreeMap::new(), dissection: Dissection::default() }
    }

    /// Looks at the next frame.
    pub fn see(&mut self, time: Nanos, frame: &[u8]) {
        self.dissection.read(frame);
        if let Some((flow, server)) = request(frame, &self.dissection, self.roles) {
            let servers = self.found.entry(flow).or_default();
            if servers.last().is_none_or(|(_, last)| *last != server) {
                servers.push((time, server));
            }
        }
    }

    /// The real servers of each connection, in order of time: a new entry whenever the server changes.
    pub fn finish(self) -> BTreeMap<Flow, Vec<(Nanos, ObservedServer)>> {
        self.found
    }
}

/// The connection of a frame that a director sent to a real server, and that server; `None` for other frames.
fn request(frame: &[u8], dissection: &Dissection, roles: &dyn Roles) -> Option<(Flow, ObservedServer)> {
    let outer = dissection.packets.first()?;
    let inner = dissection.innermost()?;
    let (client, destination) = ends(inner)?;
    let flow = Flow { protocol: inner.protocol, client, service: Some(destination) };
    if inner.place == Place::Inner {
        let to_server = roles.is_server(outer.destination) && roles.is_service(inner.protocol, destination);
        return to_server.then_some((flow, ObservedServer::Tunnel(outer.destination)));
    }
    if roles.is_service(inner.protocol, destination) {
        let mac = <[u8; 6]>::try_from(frame.get(..6)?).ok()?;
        return Some((flow, ObservedServer::Mac(mac)));
    }
    if roles.is_server(destination.ip()) {
        let client = option_address(frame, dissection).unwrap_or(client);
        let flow = Flow { protocol: inner.protocol, client, service: None };
        return Some((flow, ObservedServer::Address(destination)));
    }
    None
}

/// Source and destination of a packet with ports.
pub fn ends(packet: &Packet) -> Option<(SocketAddr, SocketAddr)> {
    let (source, destination) = packet.ports?;
    Some((SocketAddr::new(packet.source, source), SocketAddr::new(packet.destination, destination)))
}

/// The client's address that FULLNAT puts into a TCP option (TOA, kind 254: port, then an IPv4 or IPv6 address).
fn option_address(frame: &[u8], dissection: &Dissection) -> Option<SocketAddr> {
    use super::fields::Name;
    let mut fields = dissection.fields.iter().filter(|field| field.place == Place::Outer);
    fields.find(|field| field.name == Name::TcpOptionKind && field.number(frame) == Some(254))?;
    let value = fields.find(|field| field.name == Name::TcpOptionUnknown)?.bytes(frame);
    let port = u16::from_be_bytes([*value.first()?, *value.get(1)?]);
    let address = value.get(2..)?;
    if let Ok(octets) = <[u8; 4]>::try_from(address) {
        return Some(SocketAddr::new(IpAddr::from(octets), port));
    }
    Some(SocketAddr::new(IpAddr::from(<[u8; 16]>::try_from(address).ok()?), port))
}
