//! A director from a bare capture (design sections 4 and 5): the destinations of openings are the virtual services, the
//! host that owned their MAC becomes the director, real servers are made up. Everything made up is said.
//!
//! Memory is bounded: each table has a limit, beyond which new entries are only counted.

mod opening;
mod servers;
mod synthesis;

use super::arguments::ServerArgument;
use super::roles::Roles;
use super::{DescribeError, Description};
use lvscheck_engine::config::{Command, ForwardingMethod, MacAddr, Network, Protocol, SchedulerKind, ServiceKey};
use lvscheck_engine::packet::{Ethernet, FlowKey, Headers};
use lvscheck_engine::profile::Profile;
use opening::{Evidence, opening, read};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// What is told besides the capture.
#[derive(Clone, Debug)]
pub struct InferOptions {
    /// What files described; its services, servers and links are kept, and only what is missing is inferred.
    pub base: Description,
    /// `--vip`: the virtual services; empty: from the capture.
    pub services: Vec<ServiceKey>,
    /// `--rs`: the real servers of each service; empty: made up.
    pub servers: Vec<ServerArgument>,
    /// `--lip`: FULLNAT's local addresses.
    pub local_addresses: Vec<IpAddr>,
    /// `--mode`; none: the described servers' own, or direct routing.
    pub method: Option<ForwardingMethod>,
    /// `--scheduler`; none: ipvsadm's default, wlc.
    pub scheduler: Option<SchedulerKind>,
    /// How many real servers to make up.
    pub server_count: usize,
    /// `--profile`; none: the base's, or DPVS's for FULLNAT.
    pub profile: Option<&'static Profile>,
}

impl Default for InferOptions {
    fn default() -> InferOptions {
        InferOptions {
            base: Description::default(),
            services: Vec::new(),
            servers: Vec::new(),
            local_addresses: Vec::new(),
            method: None,
            scheduler: None,
            server_count: 3,
            profile: None,
        }
    }
}

/// Services that are kept; a scan of a whole network holds more.
const MOST_SERVICES: usize = 10_000;
/// Clients that are kept by address; others are reached by the default route.
const MOST_CLIENTS: usize = 65_536;
/// UDP flows that are told apart.
const MOST_FLOWS: usize = 2_000_000;
/// Links that are told apart.
const MOST_LINKS: usize = 64;

/// A link as a capture shows it: the MAC that frames were sent to, and the tags that they carried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LinkKey {
    mac: MacAddr,
    /// EtherType and VLAN ID, outermost first.
    tags: Vec<(u16, u16)>,
}

#[derive(Clone, Debug)]
struct Found {
    service: ServiceKey,
    evidence: Evidence,
    openings: u64,
    /// How often a link's MAC stood for it.
    links: Vec<(usize, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Client {
    link: usize,
    mac: MacAddr,
}

/// What can be counted of frames in any order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    frames: u64,
    ip_frames: u64,
    largest_tcp: usize,
    largest_other: usize,
    mss_mtu: usize,
}

/// The first pass over a capture.
#[derive(Clone, Debug)]
pub struct Inference {
    options: InferOptions,
    /// Addresses of the described services and servers, and the director's own MACs.
    roles: Roles,
    /// Services are told, and only frames of their addresses are looked at.
    told: bool,
    told_addresses: Vec<IpAddr>,
    links: Vec<LinkKey>,
    found: Vec<Found>,
    index: HashMap<(u8, IpAddr, u16), usize>,
    midstream: HashMap<(IpAddr, u16), usize>,
    midstream_found: Vec<Found>,
    clients: HashMap<IpAddr, Client>,
    /// Clients in the order of their appearance, so that the result does not depend on hashing.
    client_order: Vec<IpAddr>,
    more_clients: bool,
    more_services: bool,
    servers_seen: HashMap<IpAddr, Client>,
    udp_flows: HashSet<FlowKey>,
    frames: u64,
    ip_frames: u64,
    largest_tcp: usize,
    largest_other: usize,
    /// The MTU that the largest MSS option implies.
    mss_mtu: usize,
}

impl Inference {
    /// A pass that knows what is told.
    pub fn new(options: InferOptions) -> Inference {
        let roles = Roles::new(&options.base.config);
        let described = options.base.config.commands.iter().filter_map(|command| match command {
            Command::AddService { service, .. } => Some(service),
            _ => None,
        });
        let mut told_addresses: Vec<IpAddr> = described
            .chain(&options.services)
            .filter_map(|service| match service {
                ServiceKey::Address { address, .. } => Some(*address),
                _ => None,
            })
            .collect();
        let hosts = options
            .base
            .config
            .marks
            .iter()
            .filter_map(|rule| rule.destination)
            .filter(|network| *network == Network::host(network.address));
        told_addresses.extend(hosts.map(|network| network.address));
        told_addresses.sort_unstable();
        told_addresses.dedup();
        let told = options.base.has_services() || !options.services.is_empty();
        Inference {
            options,
            roles,
            told,
            told_addresses,
            links: Vec::new(),
            found: Vec::new(),
            index: HashMap::new(),
            midstream: HashMap::new(),
            midstream_found: Vec::new(),
            clients: HashMap::new(),
            client_order: Vec::new(),
            more_clients: false,
            more_services: false,
            servers_seen: HashMap::new(),
            udp_flows: HashSet::new(),
            frames: 0,
            ip_frames: 0,
            largest_tcp: 0,
            largest_other: 0,
            mss_mtu: 0,
        }
    }

    /// Whether the base describes so much that no frame needs to be observed. [`Inference::finish`] is due all the same: it
    /// applies `--mode`.
    pub fn is_needless(&self) -> bool {
        let base = &self.options.base;
        base.has_links() && base.has_services() && base.has_servers()
    }

    /// Looks at one Ethernet frame; `wire_len` is its length before the capture cut it.
    pub fn observe(&mut self, frame: &[u8], wire_len: u32) {
        let mut tally = Tally::default();
        if self.concerns(frame, wire_len, &mut tally) {
            self.note(frame);
        }
        self.add(&tally);
    }

    /// Counts a frame in, and says whether it tells anything that is not known yet: then it must be noted, in its order. What
    /// concerns nobody now does so later neither, so many frames may be asked about at once.
    pub fn concerns(&self, frame: &[u8], wire_len: u32, tally: &mut Tally) -> bool {
        tally.frames += 1;
        let Some((ethernet, packet, headers)) = read(frame) else { return false };
        if self.roles.is_own(ethernet.source()) {
            return false;
        }
        tally.ip_frames += 1;
        let length = (wire_len as usize).saturating_sub(ethernet.payload_at()).max(headers.total_len);
        if headers.protocol == Protocol::TCP.0 {
            tally.largest_tcp = tally.largest_tcp.max(length);
        } else if wire_len as usize >= headers.total_len + ethernet.payload_at() {
            tally.largest_other = tally.largest_other.max(headers.total_len);
        }
        if headers.is_later_fragment() {
            return false;
        }
        if self.told {
            self.concerns_told(packet, &headers, tally)
        } else {
            self.concerns_free(&ethernet, packet, &headers, tally)
        }
    }

    fn concerns_told(&self, packet: &[u8], headers: &Headers, tally: &mut Tally) -> bool {
        let is_server = self.is_server(headers.source) && !self.servers_seen.contains_key(&headers.source);
        if self.told_addresses.binary_search(&headers.destination).is_ok() {
            let opens = opening(headers, packet, &mut tally.mss_mtu).is_some();
            return is_server
                || opens
                || !self.knows_service(&headers.flow(packet))
                || !self.clients.contains_key(&headers.source);
        }
        if self.told_addresses.binary_search(&headers.source).is_ok() {
            opening(headers, packet, &mut tally.mss_mtu);
            return is_server || !self.clients.contains_key(&headers.destination);
        }
        is_server
    }

    fn concerns_free(&self, ethernet: &Ethernet<'_>, packet: &[u8], headers: &Headers, tally: &mut Tally) -> bool {
        if !is_unicast(headers.destination) || !is_unicast(headers.source) || ethernet.destination().is_group() {
            return false;
        }
        match opening(headers, packet, &mut tally.mss_mtu) {
            Some(Evidence::SynAck) => !self.knows_service(&headers.flow(packet).reversed()),
            Some(Evidence::Datagram) => {
                let flow = headers.flow(packet);
                !self.udp_flows.contains(&flow) && !self.udp_flows.contains(&flow.reversed())
            }
            Some(_) => true,
            None => headers.protocol == Protocol::TCP.0 && self.found.is_empty(),
        }
    }

    fn is_server(&self, address: IpAddr) -> bool {
        self.options.servers.iter().any(|server| server.address == address) || self.roles.is_server(address)
    }

    fn knows_service(&self, flow: &FlowKey) -> bool {
        self.index.contains_key(&(flow.protocol, flow.destination, flow.destination_port))
    }

    /// Adds what was counted.
    pub fn add(&mut self, tally: &Tally) {
        self.frames += tally.frames;
        self.ip_frames += tally.ip_frames;
        self.largest_tcp = self.largest_tcp.max(tally.largest_tcp);
        self.largest_other = self.largest_other.max(tally.largest_other);
        self.mss_mtu = self.mss_mtu.max(tally.mss_mtu);
    }

    /// Notes a frame that concerns us, after those before it.
    pub fn note(&mut self, frame: &[u8]) {
        let Some((ethernet, packet, headers)) = read(frame) else { return };
        if self.told {
            self.observe_told(&ethernet, packet, &headers);
        } else {
            self.observe_freely(&ethernet, packet, &headers);
        }
    }

    fn observe_told(&mut self, ethernet: &Ethernet<'_>, packet: &[u8], headers: &Headers) {
        if self.told_addresses.binary_search(&headers.destination).is_ok() {
            let flow = headers.flow(packet);
            if let Some(evidence) = opening(headers, packet, &mut self.mss_mtu) {
                self.service(evidence, flow, ethernet, ethernet.destination());
            } else if !self.index.contains_key(&(flow.protocol, flow.destination, flow.destination_port)) {
                self.service(Evidence::Midstream, flow, ethernet, ethernet.destination());
            }
            self.client(headers.source, ethernet.source(), ethernet, ethernet.destination());
        } else if self.told_addresses.binary_search(&headers.source).is_ok() {
            // One-way captures show the director's MAC as the source of replies only.
            let flow = headers.flow(packet).reversed();
            opening(headers, packet, &mut self.mss_mtu);
            if !self.clients.contains_key(&headers.destination) {
                self.service(Evidence::SynAck, flow, ethernet, ethernet.source());
                self.client(headers.destination, ethernet.destination(), ethernet, ethernet.source());
            }
        }
        if self.is_server(headers.source) && !self.servers_seen.contains_key(&headers.source) {
            let link = self.link(ethernet, ethernet.destination());
            if let Some(link) = link {
                self.servers_seen.insert(headers.source, Client { link, mac: ethernet.source() });
            }
        }
    }

    fn observe_freely(&mut self, ethernet: &Ethernet<'_>, packet: &[u8], headers: &Headers) {
        if !is_unicast(headers.destination) || !is_unicast(headers.source) || ethernet.destination().is_group() {
            return;
        }
        match opening(headers, packet, &mut self.mss_mtu) {
            Some(Evidence::SynAck) => {
                let flow = headers.flow(packet).reversed();
                // Only of use when the SYN was not captured.
                if !self.index.contains_key(&(flow.protocol, flow.destination, flow.destination_port)) {
                    self.service(Evidence::SynAck, flow, ethernet, ethernet.source());
                    self.client(flow.source, ethernet.destination(), ethernet, ethernet.source());
                }
            }
            Some(Evidence::Datagram) => {
                let flow = headers.flow(packet);
                if self.udp_flows.contains(&flow) || self.udp_flows.contains(&flow.reversed()) {
                    return;
                }
                if self.udp_flows.len() < MOST_FLOWS {
                    self.udp_flows.insert(flow);
                } else if !self.index.contains_key(&(flow.protocol, flow.destination, flow.destination_port)) {
                    return;
                }
                self.service(Evidence::Datagram, flow, ethernet, ethernet.destination());
                self.client(flow.source, ethernet.source(), ethernet, ethernet.destination());
            }
            Some(evidence) => {
                let flow = headers.flow(packet);
                self.service(evidence, flow, ethernet, ethernet.destination());
                self.client(flow.source, ethernet.source(), ethernet, ethernet.destination());
            }
            None if headers.protocol == Protocol::TCP.0 && self.found.is_empty() => {
                self.midstream(ethernet, headers.flow(packet));
            }
            None => {}
        }
    }

    /// A TCP segment of a connection whose start was not captured: the server is the side with the well-known, else the
    /// lower port.
    fn midstream(&mut self, ethernet: &Ethernet<'_>, flow: FlowKey) {
        if flow.source_port == 0 || flow.destination_port == 0 || flow.source_port == flow.destination_port {
            return;
        }
        let towards = flow.destination_port < flow.source_port;
        let (flow, owner, other) = if towards {
            (flow, ethernet.destination(), ethernet.source())
        } else {
            (flow.reversed(), ethernet.source(), ethernet.destination())
        };
        let known = self.midstream.len();
        let index = *self.midstream.entry((flow.destination, flow.destination_port)).or_insert(known);
        if index == self.midstream_found.len() {
            if index >= MOST_SERVICES {
                self.midstream.remove(&(flow.destination, flow.destination_port));
                return;
            }
            let service = ServiceKey::Address { protocol: Protocol::TCP, address: flow.destination, port: flow.destination_port };
            self.midstream_found.push(Found { service, evidence: Evidence::Midstream, openings: 0, links: Vec::new() });
        }
        let link = self.link(ethernet, owner);
        if let (Some(found), Some(link)) = (self.midstream_found.get_mut(index), link) {
            found.openings += 1;
            count(&mut found.links, link);
        }
        self.client(flow.source, other, ethernet, owner);
    }

    /// Notes that a flow opened a service, at the link whose director side is `owner`.
    fn service(&mut self, evidence: Evidence, flow: FlowKey, ethernet: &Ethernet<'_>, owner: MacAddr) {
        let key = (flow.protocol, flow.destination, flow.destination_port);
        let index = match self.index.get(&key) {
            Some(index) => *index,
            None if self.found.len() >= MOST_SERVICES => {
                self.more_services = true;
                return;
            }
            None => {
                let service = ServiceKey::Address {
                    protocol: Protocol(flow.protocol),
                    address: flow.destination,
                    port: flow.destination_port,
                };
                self.index.insert(key, self.found.len());
                self.found.push(Found { service, evidence, openings: 0, links: Vec::new() });
                self.found.len() - 1
            }
        };
        // What the director forwarded is no request of a client: a capture on it holds both.
        let by_director = |(link, _): &(usize, u64)| self.links.get(*link).is_some_and(|link| link.mac == ethernet.source());
        if evidence != Evidence::SynAck && self.found.get(index).is_some_and(|found| found.links.iter().any(by_director)) {
            return;
        }
        let link = if owner.is_group() { None } else { self.link(ethernet, owner) };
        if let Some(found) = self.found.get_mut(index) {
            found.openings += 1;
            found.evidence = found.evidence.min(evidence);
            if let Some(link) = link {
                count(&mut found.links, link);
            }
        }
    }

    fn client(&mut self, address: IpAddr, mac: MacAddr, ethernet: &Ethernet<'_>, owner: MacAddr) {
        if self.clients.contains_key(&address) || mac.is_group() || owner.is_group() {
            return;
        }
        if self.clients.len() >= MOST_CLIENTS {
            self.more_clients = true;
            return;
        }
        if let Some(link) = self.link(ethernet, owner) {
            self.clients.insert(address, Client { link, mac });
            self.client_order.push(address);
        }
    }

    fn link(&mut self, ethernet: &Ethernet<'_>, owner: MacAddr) -> Option<usize> {
        let same = |known: &LinkKey| {
            known.mac == owner
                && known.tags.len() == ethernet.tags().len()
                && known.tags.iter().zip(ethernet.tags()).all(|(known, tag)| *known == (tag.protocol, tag.id()))
        };
        if let Some(index) = self.links.iter().position(same) {
            return Some(index);
        }
        if self.links.len() >= MOST_LINKS {
            return None;
        }
        let tags = ethernet.tags().iter().map(|tag| (tag.protocol, tag.id())).collect();
        self.links.push(LinkKey { mac: owner, tags });
        Some(self.links.len() - 1)
    }

    /// The director, with all that had to be made up.
    ///
    /// # Errors
    /// The capture holds no flow that could be a service's, or the real servers can't serve any.
    pub fn finish(self) -> Result<Description, DescribeError> {
        synthesis::Synthesis::new(self).run()
    }
}

fn count(links: &mut Vec<(usize, u64)>, link: usize) {
    match links.iter_mut().find(|(known, _)| *known == link) {
        Some((_, count)) => *count += 1,
        None => links.push((link, 1)),
    }
}

/// An address that one host can have on a link: no multicast, broadcast, loopback, unspecified or IPv6 link-local one.
fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_multicast() || v4.is_broadcast() || v4.is_loopback() || v4.is_unspecified()),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_loopback() || v6.is_unspecified() || v6.segments()[0] & 0xffc0 == 0xfe80),
    }
}

#[cfg(test)]
mod tests;
