//! Real servers of an inferred director: where they are, which addresses they have, and their MACs.

use super::synthesis::{Synthesis, is_ipv6};
use crate::describe::builder::synthetic_mac;
use crate::describe::{Problem, arguments};
use lvscheck_engine::config::{
    Address, AddressScope, Command, ForwardingMethod, InterfaceId, MacAddr, Network, ServerKey, ServerSettings, ServiceKey,
};
use std::net::{IpAddr, Ipv6Addr};

/// Networks for documentation (RFC 5737, RFC 3849) for made-up real servers; the first that the capture doesn't use.
const SERVER_NETWORKS_V4: [[u8; 3]; 4] = [[198, 51, 100], [203, 0, 113], [192, 0, 2], [10, 255, 254]];
const SERVER_NETWORKS_V6: [u16; 4] = [0xa, 0xb, 0xc, 0xd];

/// The real servers of inferred services.
pub(super) struct Servers {
    made_up_v4: Vec<IpAddr>,
    made_up_v6: Vec<IpAddr>,
    network_v4: Network,
    network_v6: Network,
}

impl Servers {
    pub(super) fn new(synthesis: &mut Synthesis, services: &[ServiceKey]) -> Servers {
        let (network_v4, network_v6) = (synthesis.server_network(false), synthesis.server_network(true));
        let mut servers = Servers { made_up_v4: Vec::new(), made_up_v6: Vec::new(), network_v4, network_v6 };
        if synthesis.pass.options.servers.is_empty() {
            // .11 up; 80 of them stay below the local addresses from .100 on.
            let count = synthesis.pass.options.server_count.clamp(1, 80) as u16;
            servers.made_up_v4 = (0..count).map(|n| in_network(&network_v4, 11 + n)).collect();
            servers.made_up_v6 = (0..count).map(|n| in_network(&network_v6, 11 + n)).collect();
            for ipv6 in [false, true] {
                if services.iter().any(|service| is_ipv6(service) == ipv6) {
                    let list = if ipv6 { &servers.made_up_v6 } else { &servers.made_up_v4 };
                    let names: Vec<String> = list.iter().map(IpAddr::to_string).collect();
                    synthesis.builder.assumed.push(format!(
                        "real servers {}, weight 1 each: made up with their MACs, in a network that the capture doesn't use",
                        names.join(", ")
                    ));
                }
            }
        }
        servers
    }

    /// The servers of a service, in the order in which they are added.
    pub(super) fn of(
        &self,
        synthesis: &Synthesis,
        service: &ServiceKey,
        method: ForwardingMethod,
    ) -> Result<Vec<(ServerKey, ServerSettings)>, Problem> {
        let given = &synthesis.pass.options.servers;
        let ipv6 = is_ipv6(service);
        let plain =
            |weight, upper_threshold, lower_threshold| ServerSettings { method, weight, upper_threshold, lower_threshold };
        if given.is_empty() {
            let port = match service {
                ServiceKey::Address { port, .. } => *port,
                _ => 0,
            };
            let list = if ipv6 { &self.made_up_v6 } else { &self.made_up_v4 };
            return Ok(list.iter().map(|address| (ServerKey { address: *address, port }, plain(1, 0, 0))).collect());
        }
        let any_family = matches!(method, ForwardingMethod::Tunnel(_) | ForwardingMethod::FullNat);
        let mut list = Vec::new();
        for server in given {
            if any_family || server.address.is_ipv6() == ipv6 {
                let port = arguments::server_port(server, service, method)?;
                list.push((
                    ServerKey { address: server.address, port },
                    plain(server.weight, server.upper_threshold, server.lower_threshold),
                ));
            }
        }
        Ok(list)
    }

    pub(super) fn local_addresses(&self, ipv6: bool) -> Vec<IpAddr> {
        let network = if ipv6 { &self.network_v6 } else { &self.network_v4 };
        vec![in_network(network, 100), in_network(network, 101)]
    }
}

/// Host `number` of a network; in IPv6 its decimal digits are written as they are, ::11 for 11.
fn in_network(network: &Network, number: u16) -> IpAddr {
    match network.address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) | u32::from(number & 0xff)).into()),
        IpAddr::V6(v6) => {
            let digits = u128::from_str_radix(&number.to_string(), 16).unwrap_or(u128::from(number));
            IpAddr::V6((u128::from(v6) | digits).into())
        }
    }
}

impl Synthesis {
    /// A network for made-up servers that nothing in the capture uses.
    fn server_network(&self, ipv6: bool) -> Network {
        let used = |network: &Network| {
            self.pass.clients.keys().any(|address| network.contains(*address))
                || self
                    .builder
                    .config
                    .interfaces
                    .iter()
                    .flat_map(|interface| &interface.addresses)
                    .any(|known| network.contains(known.address))
        };
        let v4 = SERVER_NETWORKS_V4.map(|[a, b, c]| Network::new(IpAddr::from([a, b, c, 0]), 24));
        let v6 = SERVER_NETWORKS_V6.map(|n| Network::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 0)), 64));
        let candidates = if ipv6 { v6 } else { v4 };
        let [first, ..] = candidates;
        candidates.into_iter().find(|network| !used(network)).unwrap_or(first)
    }

    /// Puts every real server on a link: address of the director in its network, and its MAC.
    pub(super) fn describe_servers(&mut self) {
        let mut servers: Vec<IpAddr> = self
            .builder
            .config
            .commands
            .iter()
            .filter_map(|command| match command {
                Command::AddServer { server, .. } => Some(server.address),
                _ => None,
            })
            .collect();
        let local: Vec<IpAddr> = self
            .builder
            .config
            .commands
            .iter()
            .filter_map(|command| match command {
                Command::AddLocalAddress { address, .. } => Some(*address),
                _ => None,
            })
            .collect();
        let mut seen = std::collections::HashSet::new();
        servers.retain(|address| seen.insert(*address));
        let made_up = self.pass.options.servers.is_empty();
        for address in &servers {
            if self.is_seen(*address) && !self.pass.clients.contains_key(address) {
                // The director serves it itself.
                continue;
            }
            let network = Network::new(*address, if address.is_ipv4() { 24 } else { 64 });
            let interface = self.interface_of_server(*address, &network);
            let Some(interface) = interface else { continue };
            let inside = self.builder.config.interfaces.get(usize::from(interface.0)).is_some_and(|known| {
                known.addresses.iter().any(|own| own.prefix_len == network.prefix_len && network.contains(own.address))
            });
            if !inside {
                let own = self.own_address(&network, &servers, &local);
                self.builder.add_address(
                    interface,
                    Address {
                        address: own,
                        prefix_len: network.prefix_len,
                        scope: AddressScope::Global,
                        secondary: false,
                        sapool: false,
                    },
                );
                let name = self
                    .builder
                    .config
                    .interfaces
                    .get(usize::from(interface.0))
                    .map_or("", |interface| &interface.name)
                    .to_owned();
                self.builder
                    .assumed
                    .push(format!("the director has {own}/{} on {name}, towards the real servers", network.prefix_len));
            }
            let (mac, how) = self.mac_of_server(*address);
            self.neighbour(*address, mac, interface);
            if !how.is_empty() && !made_up {
                self.builder.assumed.push(format!("real server {address} is at {mac}{how}"));
            }
        }
    }

    fn interface_of_server(&self, address: IpAddr, network: &Network) -> Option<InterfaceId> {
        // Frames of the server that arrived at a virtual address's MAC: one arm.
        let seen = self.pass.servers_seen.get(&address).and_then(|seen| self.interfaces.get(seen.link).copied().flatten());
        // So are servers in the same network as a virtual address.
        let near = || {
            let index = self.builder.config.interfaces.iter().position(|interface| {
                !interface.loopback && interface.addresses.iter().any(|known| network.contains(known.address))
            })?;
            u16::try_from(index).ok().map(InterfaceId)
        };
        seen.or_else(near).or(self.server_interface)
    }

    fn own_address(&self, network: &Network, servers: &[IpAddr], local: &[IpAddr]) -> IpAddr {
        let host = |number: u8| match network.address {
            IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) | u32::from(number)).into()),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) | u128::from(number)).into()),
        };
        let free = |address: &IpAddr| !servers.contains(address) && !local.contains(address) && !self.is_seen(*address);
        std::iter::once(1).chain((2..=254).rev()).map(host).find(free).unwrap_or_else(|| host(1))
    }

    /// A server's MAC: told, or seen in the capture, or made up.
    fn mac_of_server(&mut self, address: IpAddr) -> (MacAddr, &'static str) {
        let told = self.pass.options.servers.iter().find(|server| server.address == address).and_then(|server| server.mac);
        let told = told.or_else(|| self.server_macs.iter().find(|(known, _)| *known == address).map(|(_, mac)| *mac));
        if let Some(mac) = told {
            return (mac, "");
        }
        if let Some(seen) = self.pass.servers_seen.get(&address) {
            return (seen.mac, ", as its frames in the capture");
        }
        let mac = synthetic_mac(0x02, self.next_mac);
        self.next_mac = self.next_mac.saturating_add(1);
        (mac, ", a made-up MAC")
    }
}
