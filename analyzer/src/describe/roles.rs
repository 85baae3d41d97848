//! Which frame of a capture is which, by addresses (design section 4).

use lvscheck_engine::config::{Command, DirectorConfig, MacAddr, Network, ServiceKey};
use lvscheck_engine::packet::{Ethernet, Headers, ethernet::ether_type};
use std::net::IpAddr;

/// What a frame is to a director.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// To a virtual IP address: a client's.
    Request,
    /// From a virtual IP address: a reply as the client sees it.
    Reply,
    /// To a real server's or a local address: the director's side of the servers.
    ToServer,
    /// From a real server's address.
    FromServer,
    /// ARP, or IPv6 neighbour discovery.
    Link,
    /// Its source is one of the director's own MAC addresses: what the observed director sent, never input.
    Observed,
    /// Nothing of the above.
    Other,
}

/// What an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Virtual,
    Server,
    Local,
}

/// The addresses of a director, ready for looking up.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    /// Sorted by address.
    addresses: Vec<(IpAddr, Owner)>,
    /// Networks that marks select: virtual addresses too.
    networks: Vec<Network>,
    /// The director's own MAC addresses, sorted.
    own: Vec<MacAddr>,
}

impl Roles {
    /// Collects the addresses of a director: services, real servers and local addresses, also those that come later.
    pub fn new(config: &DirectorConfig) -> Roles {
        let mut roles = Roles::default();
        let changes = config.changes.iter().map(|change| &change.command);
        for command in config.commands.iter().chain(changes) {
            match command {
                Command::AddService { service: ServiceKey::Address { address, .. }, .. } => {
                    roles.addresses.push((*address, Owner::Virtual));
                }
                Command::AddServer { server, .. } => roles.addresses.push((server.address, Owner::Server)),
                Command::AddLocalAddress { address, .. } => roles.addresses.push((*address, Owner::Local)),
                _ => {}
            }
        }
        // An address that is several things is what comes first in the order virtual, server, local.
        roles.addresses.sort_by_key(|(address, owner)| (*address, *owner as u8));
        roles.addresses.dedup_by_key(|(address, _)| *address);
        roles.networks = config.marks.iter().filter_map(|rule| rule.destination).collect();
        roles.own = config.interfaces.iter().map(|interface| interface.mac).filter(|mac| *mac != MacAddr::ZERO).collect();
        roles.own.sort_unstable();
        roles.own.dedup();
        roles
    }

    /// The role of an Ethernet frame.
    pub fn of(&self, frame: &[u8]) -> Role {
        let Ok(ethernet) = Ethernet::new_checked(frame) else { return Role::Other };
        if self.is_own(ethernet.source()) {
            return Role::Observed;
        }
        match ethernet.ether_type() {
            ether_type::ARP => return Role::Link,
            ether_type::IPV4 | ether_type::IPV6 => {}
            _ => return Role::Other,
        }
        let Ok(headers) = Headers::of(ethernet.payload()) else { return Role::Other };
        if headers.protocol == 58 && matches!(headers.transport(ethernet.payload()).first(), Some(133..=137)) {
            return Role::Link;
        }
        self.of_addresses(headers.source, headers.destination)
    }

    /// The role of an IP packet between two addresses.
    pub fn of_addresses(&self, source: IpAddr, destination: IpAddr) -> Role {
        match (self.owner(source), self.owner(destination)) {
            (_, Some(Owner::Virtual)) => Role::Request,
            (Some(Owner::Virtual), _) => Role::Reply,
            (Some(Owner::Server), _) => Role::FromServer,
            (Some(Owner::Local), _) | (_, Some(_)) => Role::ToServer,
            (None, None) => Role::Other,
        }
    }

    /// Whether a MAC address is the director's own.
    pub fn is_own(&self, mac: MacAddr) -> bool {
        self.own.binary_search(&mac).is_ok()
    }

    /// Whether an address is a real server's.
    pub fn is_server(&self, address: IpAddr) -> bool {
        self.owner(address) == Some(Owner::Server)
    }

    /// Whether an address is a virtual one: a service's, or one that a mark selects.
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        self.owner(address) == Some(Owner::Virtual)
    }

    fn owner(&self, address: IpAddr) -> Option<Owner> {
        match self.addresses.binary_search_by_key(&address, |(known, _)| *known) {
            Ok(index) => self.addresses.get(index).map(|(_, owner)| *owner),
            Err(_) => self.networks.iter().any(|network| network.contains(address)).then_some(Owner::Virtual),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::describe::builder::Builder;
    use crate::describe::rules;

    #[test]
    fn addresses_tell_roles() {
        let mut builder = Builder::default();
        rules::read(&mut builder, "rules", "-A -t 200.200.200.1:80\n-a -t 200.200.200.1:80 -r 10.0.0.11:80 -m").unwrap();
        let roles = Roles::new(&builder.config);
        let role = |source: &str, destination: &str| roles.of_addresses(source.parse().unwrap(), destination.parse().unwrap());
        assert_eq!(role("1.2.3.4", "200.200.200.1"), Role::Request);
        assert_eq!(role("200.200.200.1", "1.2.3.4"), Role::Reply);
        assert_eq!(role("10.0.0.11", "1.2.3.4"), Role::FromServer);
        assert_eq!(role("1.2.3.4", "10.0.0.11"), Role::ToServer);
        assert_eq!(role("1.2.3.4", "10.0.0.99"), Role::Other);
    }
}
