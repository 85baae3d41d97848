//! Making up what a capture can't tell: links, addresses, routes, neighbours and real servers.

use super::servers::Servers;
use super::{Client, Evidence, Found, Inference, LinkKey};
use crate::describe::builder::{Builder, When, synthetic_mac};
use crate::describe::check::check;
use crate::describe::iproute::{add_vlan, interface_towards};
use crate::describe::{DescribeError, Description, Problem};
use lvscheck_engine::config::{
    Address, AddressScope, Command, Family, ForwardingMethod, InterfaceId, MacAddr, NeighbourEntry, Network, Protocol, Route,
    RouteKind, ServiceKey, ServiceSettings, VlanProtocol, VlanTag,
};
use lvscheck_engine::profile::{Profile, System};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub struct Synthesis {
    pub(super) pass: Inference,
    pub(super) builder: Builder,
    pub(super) method: Option<ForwardingMethod>,
    pub(super) server_macs: Vec<(IpAddr, MacAddr)>,
    /// The interface of each of the pass's links.
    pub(super) interfaces: Vec<Option<InterfaceId>>,
    /// Where the real servers are.
    pub(super) server_interface: Option<InterfaceId>,
    /// Servers that have a MAC of their own already.
    pub(super) next_mac: u16,
}

impl Synthesis {
    pub fn new(mut pass: Inference) -> Synthesis {
        let base = std::mem::take(&mut pass.options.base);
        let server_macs = base.server_macs.clone();
        let mut builder = base.into_builder();
        let method = pass.options.method;
        if let Some(profile) = pass.options.profile {
            builder.config.profile = profile.clone();
        } else if method == Some(ForwardingMethod::FullNat) && builder.config.profile.system != System::Dpvs {
            builder.config.profile = Profile::DPVS_1_10;
            builder.assumed.push("system DPVS 1.10: only DPVS does FULLNAT".to_owned());
        }
        let interfaces = vec![None; pass.links.len()];
        Synthesis { pass, builder, method, server_macs, interfaces, server_interface: None, next_mac: 0x0b }
    }

    pub fn run(mut self) -> Result<Description, DescribeError> {
        if self.pass.found.is_empty() && !self.pass.midstream_found.is_empty() {
            self.pass.found = std::mem::take(&mut self.pass.midstream_found);
        }
        let described = self.builder.config.commands.iter().any(|command| matches!(command, Command::AddService { .. }));
        let services = self.services(described)?;
        let links = self.builder.config.interfaces.iter().any(|interface| !interface.loopback && !interface.addresses.is_empty());
        if !links {
            self.links(&services);
        }
        let servers = self.builder.config.commands.iter().any(|command| matches!(command, Command::AddServer { .. }));
        if !described {
            self.add_services(&services)?;
        } else if !servers {
            self.add_servers_only(&services)?;
        }
        if !links {
            self.describe_servers();
        }
        if described && self.method == Some(ForwardingMethod::FullNat) {
            self.told_local_addresses(&services)?;
        }
        let server_macs = std::mem::take(&mut self.server_macs);
        let mut description = Description::from_builder(self.builder);
        if let Some(method) = self.method
            && (described || servers)
        {
            description.set_method(method);
        }
        let mut builder = description.into_builder();
        check(&mut builder)?;
        description = Description::from_builder(builder);
        description.server_macs = server_macs;
        Ok(description)
    }

    /// Described services become FULLNAT's by `--mode`: those without a local address get those of `--lip`.
    fn told_local_addresses(&mut self, services: &[ServiceKey]) -> Result<(), Problem> {
        for service in services {
            let has = |command: &Command| matches!(command, Command::AddLocalAddress { service: known, .. } if known == service);
            if self.builder.config.commands.iter().any(has) {
                continue;
            }
            if self.pass.options.local_addresses.is_empty() {
                return Err(Problem::new(format!(
                    "FULLNAT needs a local address for {service}, from which the director speaks to the real servers"
                ))
                .help("give one that the real servers reach: --lip 10.0.0.100"));
            }
            for address in self.pass.options.local_addresses.clone() {
                let near = interface_towards(&self.builder, address).or(self.server_interface).or_else(|| self.last_interface());
                let Some(interface) = near else { continue };
                self.builder.take(Command::AddLocalAddress { service: service.clone(), address, interface }, When::Setup, None);
            }
        }
        Ok(())
    }

    /// The services, and a sentence for each that was found.
    fn services(&mut self, described: bool) -> Result<Vec<ServiceKey>, Problem> {
        if described {
            let services = self.builder.config.commands.iter().filter_map(|command| match command {
                Command::AddService { service, .. } => Some(service.clone()),
                _ => None,
            });
            return Ok(services.collect());
        }
        if !self.pass.options.services.is_empty() {
            return Ok(self.pass.options.services.clone());
        }
        if self.pass.found.is_empty() {
            let seen = format!("{} frames, {} of them IP", self.pass.frames, self.pass.ip_frames);
            return Err(Problem::new(format!(
                "no virtual service can be inferred: no TCP connection, UDP flow or SCTP INIT in the capture ({seen})"
            ))
            .help("name the service: --vip 200.200.200.1:80"));
        }
        // A capture of thousands of services is a scan or a backbone; listing the busiest keeps the report readable.
        const LISTED: usize = 20;
        for found in self.pass.found.iter().take(LISTED) {
            self.builder.assumed.push(format!("virtual service {}: {}", found.service, reason(found)));
        }
        if self.pass.found.len() > LISTED {
            self.builder.assumed.push(format!("{} more virtual services in the same way", self.pass.found.len() - LISTED));
        }
        if self.pass.more_services {
            self.builder.assumed.push("further destinations are no services: there are too many".to_owned());
        }
        Ok(self.pass.found.iter().map(|found| found.service.clone()).collect())
    }

    fn interface_name(&self, number: usize) -> String {
        if self.builder.is_dpvs() { format!("dpdk{number}") } else { format!("eth{number}") }
    }

    /// One interface for each MAC that virtual addresses were behind, VLAN interfaces above where frames were tagged, the
    /// virtual addresses on them, clients as neighbours.
    fn links(&mut self, services: &[ServiceKey]) {
        let mtu = self.mtu();
        // Interfaces that rules name (DPVS's -F) but nothing describes are used first.
        let mut spare: Vec<String> = self
            .builder
            .config
            .interfaces
            .iter()
            .filter(|interface| !interface.loopback)
            .map(|interface| interface.name.clone())
            .collect();
        let one_arm = spare.len() == 1;
        spare.reverse();
        for name in &spare {
            let prefix = format!("interface {name}:");
            self.builder.assumed.retain(|sentence| !sentence.starts_with(&prefix));
        }
        let mut names = 0;
        let mut next_name = |this: &Synthesis| loop {
            if let Some(name) = spare.pop() {
                return name;
            }
            let name = this.interface_name(names);
            names += 1;
            if this.builder.config.interface(&name).is_none() {
                return name;
            }
        };
        // Where each virtual address is.
        let mut homes: BTreeMap<IpAddr, BTreeMap<usize, u64>> = BTreeMap::new();
        for found in &self.pass.found {
            if let ServiceKey::Address { address, .. } = found.service {
                let votes = homes.entry(address).or_default();
                for (link, count) in &found.links {
                    *votes.entry(*link).or_default() += count;
                }
            }
        }
        let home = |address: IpAddr| -> Option<usize> {
            let votes = homes.get(&address)?;
            votes.iter().max_by_key(|(link, count)| (**count, std::cmp::Reverse(**link))).map(|(link, _)| *link)
        };
        let addresses = virtual_addresses(services, &self.builder);
        for address in &addresses {
            let link = home(*address);
            let id = match link {
                Some(link) => match self.interfaces.get(link).copied().flatten() {
                    Some(id) => Some(id),
                    None => {
                        let key = self.pass.links.get(link).cloned().unwrap_or_default();
                        let id = self.add_link(&key, mtu, &mut next_name);
                        if let Some(slot) = self.interfaces.get_mut(link) {
                            *slot = id;
                        }
                        id
                    }
                },
                // An address without traffic goes to the first interface.
                None => match self.first_interface() {
                    Some(id) => Some(id),
                    None => {
                        let name = next_name(self);
                        let mac = synthetic_mac(0x01, 0);
                        self.builder.assumed.push(format!(
                            "interface {name}: MAC {mac}, MTU {mtu}; the capture has no frame to a virtual service"
                        ));
                        self.builder.add_interface(&name, Some(mac), Some(mtu))
                    }
                },
            };
            if let Some(id) = id {
                self.add_host_address(id, *address);
            }
        }
        self.clients();
        self.server_interface = if one_arm {
            self.first_interface()
        } else {
            let name = next_name(self);
            let number = self.builder.config.interfaces.len() as u16;
            self.builder.add_interface(&name, Some(synthetic_mac(0x01, number)), Some(mtu))
        };
        if self.pass.largest_tcp > mtu as usize {
            self.builder.config.receive_offload = true;
            self.builder.assumed.push(format!(
                "segmentation offload where the capture was taken: TCP packets of up to {} bytes on a link of MTU {mtu}; they are taken as received",
                self.pass.largest_tcp
            ));
        }
    }

    /// The MTU: what MSS options imply, and large enough for what is no TCP, which no offload merges.
    fn mtu(&self) -> u32 {
        let largest = self.pass.mss_mtu.max(self.pass.largest_other).clamp(1500, 65535);
        largest as u32
    }

    fn first_interface(&self) -> Option<InterfaceId> {
        let interfaces = &self.builder.config.interfaces;
        let index = interfaces.iter().position(|interface| !interface.loopback && !interface.addresses.is_empty());
        let index = index.or_else(|| interfaces.iter().position(|interface| !interface.loopback))?;
        u16::try_from(index).ok().map(InterfaceId)
    }

    fn add_link(&mut self, key: &LinkKey, mtu: u32, next_name: &mut dyn FnMut(&Synthesis) -> String) -> Option<InterfaceId> {
        let known = self.builder.config.interfaces.iter().find(|interface| interface.mac == key.mac && interface.vlan.is_none());
        let name = match known {
            Some(interface) => interface.name.clone(),
            None => {
                let name = next_name(self);
                self.builder.assumed.push(format!("the director is the host with MAC {}, which the virtual services' frames were sent to (interface {name}, MTU {mtu})", key.mac));
                name
            }
        };
        let mut id = self.builder.add_interface(&name, Some(key.mac), Some(mtu))?;
        let mut name = name;
        for (protocol, vlan) in &key.tags {
            name = format!("{name}.{vlan}");
            let protocol =
                if *protocol == VlanProtocol::Dot1Ad.ether_type() { VlanProtocol::Dot1Ad } else { VlanProtocol::Dot1Q };
            if self.builder.config.interface(&name).is_none() {
                self.builder.assumed.push(format!("VLAN interface {name}: the frames carry that tag"));
            }
            id = add_vlan(&mut self.builder, &name, VlanTag { parent: id, id: *vlan, protocol }, Some(key.mac), Some(mtu))?;
        }
        Some(id)
    }

    fn add_host_address(&mut self, interface: InterfaceId, address: IpAddr) {
        let prefix_len = Network::host(address).prefix_len;
        self.builder.add_address(
            interface,
            Address { address, prefix_len, scope: AddressScope::Global, secondary: false, sapool: false },
        );
    }

    fn route(&mut self, destination: Network, gateway: Option<IpAddr>, interface: InterfaceId) {
        let metric = if destination.address.is_ipv6() { 1024 } else { 0 };
        self.builder.add_route(Route {
            destination,
            gateway,
            interface: Some(interface),
            source: None,
            mtu: None,
            metric,
            kind: RouteKind::Unicast,
        });
    }

    /// Clients: a MAC with one address is a host on the link; one with several is a router. The busiest router is the
    /// default gateway.
    fn clients(&mut self) {
        let mut by_mac: BTreeMap<(usize, MacAddr, bool), Vec<IpAddr>> = BTreeMap::new();
        for address in &self.pass.client_order {
            if let Some(Client { link, mac }) = self.pass.clients.get(address) {
                by_mac.entry((*link, *mac, address.is_ipv6())).or_default().push(*address);
            }
        }
        for ipv6 in [false, true] {
            let mut groups: Vec<(InterfaceId, MacAddr, &Vec<IpAddr>)> = by_mac
                .iter()
                .filter(|((_, _, six), _)| *six == ipv6)
                .filter_map(|((link, mac, _), list)| {
                    let interface = self.interfaces.get(*link).copied().flatten().or_else(|| self.first_interface())?;
                    Some((interface, *mac, list))
                })
                .collect();
            groups.sort_by_key(|(interface, mac, list)| (std::cmp::Reverse(list.len()), *interface, *mac));
            let groups: Vec<(InterfaceId, MacAddr, Vec<IpAddr>)> =
                groups.into_iter().map(|(interface, mac, list)| (interface, mac, list.clone())).collect();
            let mut rest = groups.as_slice();
            if let [(interface, mac, list), others @ ..] = rest
                && (list.len() > 1 || self.pass.more_clients)
            {
                let gateway = self.gateway(ipv6);
                self.route(Network::host(gateway), None, *interface);
                let any = if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
                self.route(Network::new(any, 0), Some(gateway), *interface);
                self.neighbour(gateway, *mac, *interface);
                self.builder
                    .assumed
                    .push(format!("default gateway {gateway} at {mac}: {} clients are behind that MAC", list.len()));
                rest = others;
            }
            for (interface, mac, list) in rest {
                for address in list {
                    self.route(Network::host(*address), None, *interface);
                    self.neighbour(*address, *mac, *interface);
                }
            }
            let direct: usize = rest.iter().map(|(_, _, list)| list.len()).sum();
            match rest {
                [] => {}
                [(_, mac, list)] if list.len() == 1 => {
                    if let Some(client) = list.first() {
                        self.builder.assumed.push(format!("client {client} is on the director's link, at {mac}"));
                    }
                }
                _ => self
                    .builder
                    .assumed
                    .push(format!("{direct} clients are on the director's links, each at the MAC that its frames came from")),
            }
        }
    }

    /// An address for a router that showed only its MAC.
    fn gateway(&self, ipv6: bool) -> IpAddr {
        let free = |address: &IpAddr| !self.is_seen(*address);
        if ipv6 {
            let candidates = (0..8u16).map(|n| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xff, n, 0, 0, 0, 0xfe)));
            candidates.into_iter().find(free).unwrap_or(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 0xfe)))
        } else {
            let candidates = [[192, 0, 2, 254], [203, 0, 113, 254], [198, 51, 100, 254], [10, 255, 255, 254]].map(IpAddr::from);
            candidates.into_iter().find(free).unwrap_or(IpAddr::from([192, 0, 2, 254]))
        }
    }

    pub(super) fn is_seen(&self, address: IpAddr) -> bool {
        self.pass.clients.contains_key(&address)
            || self
                .builder
                .config
                .interfaces
                .iter()
                .any(|interface| interface.addresses.iter().any(|known| known.address == address))
    }

    pub(super) fn neighbour(&mut self, address: IpAddr, mac: MacAddr, interface: InterfaceId) {
        self.builder.add_neighbour(NeighbourEntry { address, mac, interface, permanent: true });
    }

    /// Services with their servers, given or made up.
    fn add_services(&mut self, services: &[ServiceKey]) -> Result<(), Problem> {
        let method = self.method.unwrap_or(ForwardingMethod::Dr);
        let scheduler = self.pass.options.scheduler.unwrap_or_default();
        let settings = ServiceSettings { scheduler, ..ServiceSettings::default() };
        let mut served = 0;
        let servers = Servers::new(self, services);
        for service in services {
            let ipv6 = is_ipv6(service);
            let list = servers.of(self, service, method)?;
            if list.is_empty() {
                let family = if ipv6 { "IPv6" } else { "IPv4" };
                self.builder.assumed.push(format!("{service} is left out: no real server has an {family} address"));
                continue;
            }
            served += 1;
            self.builder.take(Command::AddService { service: service.clone(), settings: settings.clone() }, When::Setup, None);
            for (server, settings) in list {
                self.builder.take(Command::AddServer { service: service.clone(), server, settings }, When::Setup, None);
            }
            if method == ForwardingMethod::FullNat {
                self.add_local_addresses(service, &servers)?;
            }
        }
        if served == 0 {
            return Err(Problem::new("no real server has the address family of a virtual service")
                .help("give a --rs of the --vip's family"));
        }
        Ok(())
    }

    /// Described services without any server.
    fn add_servers_only(&mut self, services: &[ServiceKey]) -> Result<(), Problem> {
        let method = self.method.unwrap_or(ForwardingMethod::Dr);
        let servers = Servers::new(self, services);
        for service in services {
            for (server, settings) in servers.of(self, service, method)? {
                self.builder.take(Command::AddServer { service: service.clone(), server, settings }, When::Setup, None);
            }
        }
        Ok(())
    }

    fn add_local_addresses(&mut self, service: &ServiceKey, servers: &Servers) -> Result<(), Problem> {
        let given = self.pass.options.local_addresses.clone();
        let local = if !given.is_empty() {
            given
        } else if !self.pass.options.servers.is_empty() {
            return Err(Problem::new("FULLNAT needs a local address, from which the director speaks to the real servers")
                .help("give one that the real servers reach: --lip 10.0.0.100"));
        } else {
            servers.local_addresses(is_ipv6(service))
        };
        let Some(interface) = self.server_interface.or_else(|| self.last_interface()) else { return Ok(()) };
        for address in local {
            self.builder.take(Command::AddLocalAddress { service: service.clone(), address, interface }, When::Setup, None);
        }
        Ok(())
    }

    fn last_interface(&self) -> Option<InterfaceId> {
        let index = self.builder.config.interfaces.iter().rposition(|interface| !interface.loopback)?;
        u16::try_from(index).ok().map(InterfaceId)
    }
}

pub(super) fn is_ipv6(service: &ServiceKey) -> bool {
    match service {
        ServiceKey::Address { address, .. } => address.is_ipv6(),
        ServiceKey::Mark { family, .. } => *family == Family::Ipv6,
        ServiceKey::Match(_) => false,
    }
}

/// The virtual addresses of services, in order; those of mark services are the hosts that their marks select.
fn virtual_addresses(services: &[ServiceKey], builder: &Builder) -> Vec<IpAddr> {
    let mut seen = std::collections::HashSet::new();
    let direct = services.iter().filter_map(|service| match service {
        ServiceKey::Address { address, .. } => Some(*address),
        _ => None,
    });
    let marked = builder.config.marks.iter().filter_map(|rule| rule.destination);
    let marked = marked.filter(|network| *network == Network::host(network.address)).map(|network| network.address);
    direct.chain(marked).filter(|address| seen.insert(*address)).collect()
}

fn reason(found: &Found) -> String {
    let n = found.openings;
    let plural = if n == 1 { "" } else { "s" };
    match found.evidence {
        Evidence::Syn => format!("destination of {n} SYN{plural}"),
        Evidence::SynAck => format!("source of {n} SYN-ACK{plural}; their SYNs were not captured"),
        Evidence::Datagram => format!("destination of the first datagram of {n} UDP flow{plural}"),
        Evidence::Init => format!("destination of {n} SCTP INIT{plural}"),
        Evidence::Midstream => {
            let protocol = match &found.service {
                ServiceKey::Address { protocol, .. } => *protocol,
                _ => Protocol::TCP,
            };
            format!("the side with the lower port in {n} {protocol} packet{plural}; no connection's start was captured")
        }
    }
}
