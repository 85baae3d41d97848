//! Routes: the main table, what addresses imply, and path MTUs.
//!
//! Only the destination decides: IPVS asks for no more (reference/linux-ipvs.md section 6.1), and rules by source or mark
//! are not described by any of the inputs.

use crate::config::{Address, DirectorConfig, InterfaceId, Network, Route, RouteKind};
use crate::time::Nanos;
use foldhash::{HashMap, HashMapExt};
use std::net::{IpAddr, Ipv4Addr};

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The host itself.
    Local,
    /// A broadcast or multicast address.
    Group,
    /// Out by an interface.
    Out(Hop),
    /// Dropped without a word.
    Blackhole,
    /// Answered by host unreachable.
    Unreachable,
    /// Answered by administratively prohibited.
    Prohibited,
    /// No route at all.
    None,
}

/// A way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The interface.
    pub interface: InterfaceId,
    /// The router; none when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The route's preferred source address.
    pub source: Option<IpAddr>,
    /// The route's own MTU.
    pub mtu: Option<u32>,
}

impl Hop {
    /// Whose Ethernet address a frame for `destination` needs.
    pub fn next(&self, destination: IpAddr) -> IpAddr {
        self.gateway.unwrap_or(destination)
    }
}

/// The routes of a host.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Own addresses, with the number of times each was added.
    local: HashMap<IpAddr, usize>,
    /// Networks that are local as a whole: 127/8, `ip route add local`.
    local_networks: Vec<Network>,
    /// Subnet broadcast addresses, each with its link and the address that implies it.
    broadcasts: Vec<(Ipv4Addr, InterfaceId, IpAddr)>,
    /// Longest prefix first, then smallest metric, then order of addition.
    routes: Vec<Route>,
}

impl Routes {
    /// The routes as described, with those that the addresses imply.
    pub fn new(config: &DirectorConfig) -> Routes {
        let mut routes = Routes { local: HashMap::new(), ..Routes::default() };
        routes.local_networks.push(Network::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8));
        routes.local_networks.extend(config.local_networks.iter().map(|local| local.network));
        for route in &config.routes {
            routes.add(route.clone());
        }
        for (index, interface) in config.interfaces.iter().enumerate() {
            if interface.up {
                for address in &interface.addresses {
                    routes.add_address(InterfaceId(index as u16), address);
                }
            }
        }
        routes
    }

    /// Adds a route; one of the same destination, metric and interface is replaced.
    pub fn add(&mut self, route: Route) {
        match route.kind {
            RouteKind::Local if route.destination == Network::host(route.destination.address) => {
                self.local.entry(route.destination.address).or_insert(1);
            }
            RouteKind::Local => self.local_networks.push(route.destination),
            _ => {
                self.routes.retain(|old| {
                    !(old.destination == route.destination && old.metric == route.metric && old.interface == route.interface)
                });
                let rank = |route: &Route| (std::cmp::Reverse(route.destination.prefix_len), route.metric);
                let at = self.routes.partition_point(|old| rank(old) <= rank(&route));
                self.routes.insert(at, route);
            }
        }
    }

    /// Removes the first route with this destination and, if they are given, this gateway, interface and metric.
    pub fn remove(&mut self, route: &Route) {
        if route.kind == RouteKind::Local {
            self.local_networks.retain(|network| *network != route.destination);
            return;
        }
        let found = self.routes.iter().position(|old| {
            old.destination == route.destination
                && (route.gateway.is_none() || old.gateway == route.gateway)
                && (route.interface.is_none() || old.interface == route.interface)
                && (route.metric == 0 || old.metric == route.metric)
        });
        if let Some(index) = found {
            self.routes.remove(index);
        }
    }

    /// Adds what an address implies: itself as local, its subnet on the link, the subnet's broadcast address.
    pub fn add_address(&mut self, interface: InterfaceId, address: &Address) {
        *self.local.entry(address.address).or_insert(0) += 1;
        let network = Network::new(address.address, address.prefix_len);
        if network == Network::host(address.address) || self.local_networks.contains(&network) {
            return;
        }
        if let IpAddr::V4(base) = network.address
            && network.prefix_len < 31
        {
            let broadcast = (u32::from(base) | u32::MAX >> network.prefix_len).into();
            self.broadcasts.push((broadcast, interface, address.address));
        }
        let known =
            self.routes.iter().any(|old| old.destination == network && old.interface == Some(interface) && old.gateway.is_none());
        if !known && !address.secondary {
            self.add(Route {
                destination: network,
                gateway: None,
                interface: Some(interface),
                source: address.address.is_ipv4().then_some(address.address),
                mtu: None,
                metric: if address.address.is_ipv4() { 0 } else { 256 },
                kind: RouteKind::Unicast,
            });
        }
    }

    /// Takes back what an address implied.
    pub fn remove_address(&mut self, interface: InterfaceId, address: &Address) {
        if let Some(count) = self.local.get_mut(&address.address) {
            *count -= 1;
            if *count == 0 {
                self.local.remove(&address.address);
            }
        }
        let network = Network::new(address.address, address.prefix_len);
        self.routes.retain(|old| {
            !(old.destination == network
                && old.interface == Some(interface)
                && old.gateway.is_none()
                && old.source.is_none_or(|source| source == address.address))
        });
        if let IpAddr::V4(base) = network.address
            && network.prefix_len < 31
        {
            let broadcast: Ipv4Addr = (u32::from(base) | u32::MAX >> network.prefix_len).into();
            if let Some(index) = self.broadcasts.iter().position(|old| *old == (broadcast, interface, address.address)) {
                self.broadcasts.remove(index);
            }
        }
    }

    /// Forgets every route by an interface that went down.
    pub fn interface_down(&mut self, interface: InterfaceId) {
        self.routes.retain(|route| route.interface != Some(interface));
    }

    /// Whether the address is the host's own, or in a network that it takes as its own.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains_key(&address) || self.local_networks.iter().any(|network| network.contains(address))
    }

    /// Whether whole networks are local (`ip route add local`), other than 127/8. Source validation is stricter then.
    pub fn has_local_networks(&self) -> bool {
        self.local_networks.len() > 1
    }

    /// Length of the prefix of the route that leads to a destination which is not the host's own; 0 without a route.
    pub fn prefix_len_towards(&self, destination: IpAddr) -> u8 {
        let found = self.routes.iter().find(|route| route.destination.contains(destination));
        found.map_or(0, |route| route.destination.prefix_len)
    }

    /// Whether an address is a subnet's broadcast address.
    pub fn is_broadcast(&self, address: IpAddr) -> bool {
        self.broadcasts.iter().any(|(broadcast, ..)| IpAddr::V4(*broadcast) == address)
    }

    /// The way of a packet that the host itself sends: one to a subnet's broadcast address goes out on the subnet's link.
    pub fn lookup_own(&self, destination: IpAddr) -> Way {
        match self.lookup(destination) {
            Way::Group => {
                let found = self.broadcasts.iter().find(|(broadcast, ..)| IpAddr::V4(*broadcast) == destination);
                found.map_or(Way::Group, |(_, interface, source)| {
                    Way::Out(Hop { interface: *interface, gateway: None, source: Some(*source), mtu: None })
                })
            }
            way => way,
        }
    }

    /// The way to a destination.
    pub fn lookup(&self, destination: IpAddr) -> Way {
        if self.is_local(destination) {
            return Way::Local;
        }
        if is_group(destination) || self.is_broadcast(destination) {
            return Way::Group;
        }
        let Some(route) = self.routes.iter().find(|route| route.destination.contains(destination)) else { return Way::None };
        match (route.kind, route.interface) {
            (RouteKind::Unicast, Some(interface)) => {
                Way::Out(Hop { interface, gateway: route.gateway, source: route.source, mtu: route.mtu })
            }
            (RouteKind::Unicast, None) => Way::None,
            (RouteKind::Local, _) => Way::Local,
            (RouteKind::Blackhole, _) => Way::Blackhole,
            (RouteKind::Unreachable, _) => Way::Unreachable,
            (RouteKind::Prohibit, _) => Way::Prohibited,
        }
    }
}

/// Whether an address is broadcast to all or multicast.
pub fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4 == Ipv4Addr::BROADCAST,
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

/// Path MTUs learned from ICMP, by destination.
#[derive(Clone, Debug, Default)]
pub struct PathMtus {
    learned: HashMap<IpAddr, PathMtu>,
}

#[derive(Clone, Copy, Debug)]
struct PathMtu {
    mtu: u32,
    expires: Nanos,
}

impl PathMtus {
    /// How long a learned value holds (net.ipv4.route.mtu_expires).
    const LIFETIME: Nanos = Nanos::from_secs(600);
    /// The smallest value that is believed (net.ipv4.route.min_pmtu).
    const MIN_V4: u32 = 552;
    /// As many as one kernel bucket structure would hold over all; beyond it the tables of a real router start over too.
    const MAX: usize = 65536;

    /// What was learned about a destination.
    pub fn get(&self, destination: IpAddr, now: Nanos) -> Option<u32> {
        if self.learned.is_empty() {
            return None;
        }
        self.learned.get(&destination).filter(|entry| now < entry.expires).map(|entry| entry.mtu)
    }

    /// How many destinations there are about which something was learned, whether it still holds or not.
    pub fn len(&self) -> usize {
        self.learned.len()
    }

    /// Whether nothing was learned.
    pub fn is_empty(&self) -> bool {
        self.learned.is_empty()
    }

    /// Learns a value that is smaller than the one known (`__ip_rt_update_pmtu`: 1.0 of reference section 6.8).
    pub fn learn(&mut self, destination: IpAddr, mtu: u32, known: u32, now: Nanos) {
        let floor = if destination.is_ipv4() { PathMtus::MIN_V4 } else { 1280 };
        let mtu = mtu.max(floor);
        if mtu > known {
            return;
        }
        if self.learned.len() >= PathMtus::MAX {
            self.learned.clear();
        }
        self.learned.insert(destination, PathMtu { mtu, expires: now + PathMtus::LIFETIME });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{AddressScope, Interface, MacAddr};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(destination: &str, prefix_len: u8, gateway: Option<&str>, interface: u16, metric: u32) -> Route {
        Route {
            destination: Network::new(ip(destination), prefix_len),
            gateway: gateway.map(ip),
            interface: Some(InterfaceId(interface)),
            source: None,
            mtu: None,
            metric,
            kind: RouteKind::Unicast,
        }
    }

    fn routes() -> Routes {
        let address =
            Address { address: ip("10.0.0.1"), prefix_len: 24, scope: AddressScope::Global, secondary: false, sapool: false };
        let interface = Interface {
            name: "eth0".into(),
            mac: MacAddr::ZERO,
            mtu: 1500,
            addresses: vec![address],
            vlan: None,
            loopback: false,
            up: true,
        };
        let config = DirectorConfig {
            interfaces: vec![interface],
            routes: vec![
                route("0.0.0.0", 0, Some("10.0.0.254"), 0, 100),
                route("0.0.0.0", 0, Some("10.0.0.253"), 0, 50),
                route("10.1.0.0", 16, Some("10.0.0.9"), 0, 0),
                route("10.1.2.0", 24, Some("10.0.0.8"), 0, 9),
            ],
            ..DirectorConfig::default()
        };
        Routes::new(&config)
    }

    #[test]
    fn longest_prefix_then_metric() {
        let routes = routes();
        let via = |destination: &str| match routes.lookup(ip(destination)) {
            Way::Out(hop) => hop.next(ip(destination)).to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(via("10.1.2.3"), "10.0.0.8");
        assert_eq!(via("10.1.3.3"), "10.0.0.9");
        assert_eq!(via("8.8.8.8"), "10.0.0.253");
        assert_eq!(via("10.0.0.77"), "10.0.0.77");
        assert_eq!(via("10.0.0.1"), "Local");
        assert_eq!(via("127.1.2.3"), "Local");
        assert_eq!(via("10.0.0.255"), "Group");
        assert_eq!(via("224.0.0.1"), "Group");
        assert_eq!(via("2001:db8::1"), "None");
        let prefix_len = |destination: &str| routes.prefix_len_towards(ip(destination));
        assert_eq!((prefix_len("10.1.2.3"), prefix_len("8.8.8.8"), prefix_len("2001:db8::1")), (24, 0, 0));
    }

    #[test]
    fn address_comes_and_goes() {
        let mut routes = routes();
        let address =
            Address { address: ip("192.0.2.1"), prefix_len: 24, scope: AddressScope::Global, secondary: false, sapool: false };
        routes.add_address(InterfaceId(0), &address);
        assert!(matches!(routes.lookup(ip("192.0.2.5")), Way::Out(Hop { gateway: None, .. })));
        routes.remove_address(InterfaceId(0), &address);
        assert!(!routes.is_local(ip("192.0.2.1")));
        assert!(matches!(routes.lookup(ip("192.0.2.5")), Way::Out(Hop { gateway: Some(_), .. })));
    }

    #[test]
    fn path_mtu_rules() {
        let mut mtus = PathMtus::default();
        mtus.learn(ip("10.0.0.9"), 100, 1500, Nanos(0));
        assert_eq!(mtus.get(ip("10.0.0.9"), Nanos(1)), Some(552));
        mtus.learn(ip("10.0.0.9"), 1400, 552, Nanos(0));
        assert_eq!(mtus.get(ip("10.0.0.9"), Nanos::from_secs(599)), Some(552));
        assert_eq!(mtus.get(ip("10.0.0.9"), Nanos::from_secs(600)), None);
    }
}
