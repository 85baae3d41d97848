//! A director while it is being described: what every parser adds to.

use super::problem::{Place, Problem, Warning};
use super::words::{Line, Word};
use lvscheck_engine::config::{
    Address, AddressScope, Command, DirectorConfig, Interface, InterfaceId, LocalNetwork, MacAddr, NeighbourEntry, Network,
    Route, RouteKind, ScheduledCommand,
};
use lvscheck_engine::profile::System;
use lvscheck_engine::time::Nanos;
use std::net::IpAddr;

/// When the command that is being read runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the first frame.
    Setup,
    /// So long after the first frame.
    After(Nanos),
}

/// What nobody has described of an interface.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unknown {
    mac: bool,
    mtu: bool,
}

/// A director while it is being described.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    /// What is known so far.
    pub config: DirectorConfig,
    /// Where each of the configuration's commands was read.
    pub places: Vec<Option<Place>>,
    /// Where each of the configuration's changes was read.
    pub change_places: Vec<Option<Place>>,
    /// What is doubtful.
    pub warnings: Vec<Warning>,
    /// What was assumed, in sentences; what interfaces lack is told by [`Builder::all_assumed`].
    pub assumed: Vec<String>,
    /// For each interface, in the order of the configuration's: what nobody has described yet.
    pub(super) unknown: Vec<Unknown>,
    /// Ethernet addresses of real servers of which no link is described.
    pub server_macs: Vec<(IpAddr, MacAddr)>,
}

impl Builder {
    /// Whether DPVS's dialect of ipvsadm is spoken.
    pub fn is_dpvs(&self) -> bool {
        self.config.profile.system == System::Dpvs
    }

    /// The interface that a word names. One that was never mentioned is made up, and that is noted.
    ///
    /// # Errors
    /// More interfaces than an [`InterfaceId`] can number.
    pub fn interface(&mut self, line: &Line<'_>, name: &Word<'_>) -> Result<InterfaceId, Problem> {
        if let Some(id) = self.config.interface(&name.text) {
            return Ok(id);
        }
        self.add_interface(&name.text, None, None).ok_or_else(|| line.problem(name, "too many interfaces"))
    }

    /// Adds an interface, or completes the one of that name. None when there are too many.
    pub fn add_interface(&mut self, name: &str, mac: Option<MacAddr>, mtu: Option<u32>) -> Option<InterfaceId> {
        if let Some(id) = self.config.interface(name) {
            if let Some(mac) = mac {
                self.set_mac(id, mac);
            }
            if let Some(mtu) = mtu {
                self.set_mtu(id, mtu);
            }
            return Some(id);
        }
        let id = InterfaceId(u16::try_from(self.config.interfaces.len()).ok()?);
        let loopback = name == "lo";
        let assumed_mac = if loopback { MacAddr::ZERO } else { synthetic_mac(0x01, id.0) };
        let assumed_mtu = if loopback { 65536 } else { 1500 };
        self.unknown.resize(self.config.interfaces.len(), Unknown::default());
        self.unknown.push(Unknown { mac: !loopback && mac.is_none(), mtu: !loopback && mtu.is_none() });
        let mut addresses = Vec::new();
        if loopback {
            addresses.push(Address {
                address: IpAddr::from([127, 0, 0, 1]),
                prefix_len: 8,
                scope: AddressScope::Host,
                secondary: false,
                sapool: false,
            });
        }
        self.config.interfaces.push(Interface {
            name: name.to_owned(),
            mac: mac.unwrap_or(assumed_mac),
            mtu: mtu.unwrap_or(assumed_mtu),
            addresses,
            vlan: None,
            loopback,
            up: true,
        });
        Some(id)
    }

    /// Takes a command: what changes links is carried out on the description when it runs before the first frame; all
    /// else is kept, in order.
    pub fn take(&mut self, command: Command, when: When, place: Option<Place>) {
        match when {
            When::After(after) => {
                self.config.changes.push(ScheduledCommand { after, command });
                self.change_places.push(place);
            }
            When::Setup => self.set_up(command, place),
        }
    }

    fn set_up(&mut self, command: Command, place: Option<Place>) {
        match command {
            Command::AddAddress { interface, address } => self.add_address(interface, address),
            Command::DeleteAddress { interface, address } => {
                if let Some(interface) = self.interface_mut(interface) {
                    interface.addresses.retain(|known| known.address != address);
                }
            }
            Command::SetLink { interface, up } => {
                if let Some(interface) = self.interface_mut(interface) {
                    interface.up = up;
                }
            }
            Command::SetMtu { interface, mtu } => self.set_mtu(interface, mtu),
            Command::AddRoute(route) => self.add_route(route),
            Command::DeleteRoute(route) => self.config.routes.retain(|known| !same_route(known, &route)),
            Command::AddNeighbour { address, mac, interface } => {
                self.add_neighbour(NeighbourEntry { address, mac, interface, permanent: true });
            }
            Command::DeleteNeighbour { address, interface } => {
                self.config.neighbours.retain(|known| (known.address, known.interface) != (address, interface));
            }
            Command::Sysctl { name, value } => {
                if let Err(error) = self.config.sysctls.set(&name, &value) {
                    let mut problem = Problem::new(error.to_string());
                    problem.place = place;
                    self.warnings.push(problem);
                }
            }
            // Nobody listens before the first frame.
            Command::Ping { .. } | Command::Arping { .. } => {}
            services => {
                self.config.commands.push(services);
                self.places.push(place);
            }
        }
    }

    fn interface_mut(&mut self, id: InterfaceId) -> Option<&mut Interface> {
        self.config.interfaces.get_mut(usize::from(id.0))
    }

    fn set_mac(&mut self, id: InterfaceId, mac: MacAddr) {
        if let Some(interface) = self.interface_mut(id) {
            interface.mac = mac;
        }
        if let Some(unknown) = self.unknown.get_mut(usize::from(id.0)) {
            unknown.mac = false;
        }
    }

    fn set_mtu(&mut self, id: InterfaceId, mtu: u32) {
        if let Some(interface) = self.interface_mut(id) {
            interface.mtu = mtu;
        }
        if let Some(unknown) = self.unknown.get_mut(usize::from(id.0)) {
            unknown.mtu = false;
        }
    }

    /// What was assumed, in sentences, now that all is read: a script names an interface before it describes it.
    pub fn all_assumed(&self) -> Vec<String> {
        let interfaces = self.config.interfaces.iter().zip(&self.unknown).filter_map(|(interface, unknown)| {
            let Interface { name, mac, mtu, .. } = interface;
            match (unknown.mac, unknown.mtu) {
                (true, true) => Some(format!("interface {name}: MAC {mac}, MTU {mtu} (not described)")),
                (true, false) => Some(format!("interface {name}: MAC {mac} (not described)")),
                (false, true) => Some(format!("interface {name}: MTU {mtu} (not described)")),
                (false, false) => None,
            }
        });
        interfaces.chain(self.assumed.iter().cloned()).collect()
    }

    /// Adds an address; an IPv4 address in the subnet of an earlier one is secondary.
    pub fn add_address(&mut self, interface: InterfaceId, mut address: Address) {
        let Some(interface) = self.interface_mut(interface) else { return };
        if let Some(known) = interface.addresses.iter_mut().find(|known| known.address == address.address) {
            address.secondary = known.secondary;
            *known = address;
            return;
        }
        if address.address.is_ipv4() {
            let subnet = Network::new(address.address, address.prefix_len);
            address.secondary |= interface.addresses.iter().any(|known| {
                !known.secondary
                    && known.prefix_len == address.prefix_len
                    && Network::new(known.address, known.prefix_len) == subnet
            });
        }
        interface.addresses.push(address);
    }

    /// Adds a route; the same route with other details is replaced. Local routes become local networks.
    pub fn add_route(&mut self, route: Route) {
        if route.kind == RouteKind::Local {
            let local = LocalNetwork { network: route.destination };
            if !self.config.local_networks.contains(&local) {
                self.config.local_networks.push(local);
            }
            return;
        }
        self.config.routes.retain(|known| !same_route(known, &route));
        self.config.routes.push(route);
    }

    /// Adds a neighbour, or replaces the one of the same address and link.
    pub fn add_neighbour(&mut self, entry: NeighbourEntry) {
        let same = |known: &&mut NeighbourEntry| (known.address, known.interface) == (entry.address, entry.interface);
        match self.config.neighbours.iter_mut().find(same) {
            Some(known) => *known = entry,
            None => self.config.neighbours.push(entry),
        }
    }
}

/// Routes that can't stand beside each other: same destination and metric, and, for IPv6, the same device.
fn same_route(a: &Route, b: &Route) -> bool {
    let one_per_device = a.destination.address.is_ipv6();
    a.destination == b.destination && a.metric == b.metric && (!one_per_device || a.interface == b.interface)
}

/// A locally administered MAC address for what nobody described: `kind` tells what it stands for, `number` which one.
pub fn synthetic_mac(kind: u8, number: u16) -> MacAddr {
    let [high, low] = number.to_be_bytes();
    // The letters L and V, so that people recognise what was made up and nobody's own addresses are hit.
    MacAddr([0x02, b'L', b'V', kind, high, low])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::describe::read_text;

    #[test]
    fn what_is_described_later_was_not_assumed() {
        let assumed = |script: &str| read_text("setup.sh", script).unwrap().assumed;
        let named = "ip addr add 192.0.2.1/24 dev eth0\n";
        assert_eq!(assumed(named), ["interface eth0: MAC 02:4c:56:01:00:00, MTU 1500 (not described)"]);
        let with_mac = format!("{named}ip link set eth0 address 02:00:00:00:00:01\n");
        assert_eq!(assumed(&with_mac), ["interface eth0: MTU 1500 (not described)"]);
        let with_mtu = format!("{named}ip link set dev eth0 mtu 9000\n");
        assert_eq!(assumed(&with_mtu), ["interface eth0: MAC 02:4c:56:01:00:00 (not described)"]);
        let whole = format!("{with_mac}ip link set eth0 mtu 9000\n");
        assert!(assumed(&whole).is_empty());
    }
}
