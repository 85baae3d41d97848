//! Which of its own addresses a host uses as source (reference/linux-ipvs.md section 9.2, RFC 6724 for IPv6).

use super::Host;
use super::route::{Hop, Way};
use crate::config::{AddressScope, InterfaceId, Network};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl Host {
    /// The source address of a packet that the host makes for `destination`; none when nothing leads there or no address
    /// fits.
    pub fn source_towards(&self, destination: IpAddr) -> Option<IpAddr> {
        match self.routes.lookup(destination) {
            Way::Local => Some(destination),
            Way::Out(hop) => self.source_on(&hop, destination),
            _ => None,
        }
    }

    /// The source address on a way out.
    pub fn source_on(&self, hop: &Hop, destination: IpAddr) -> Option<IpAddr> {
        if hop.source.is_some() {
            return hop.source;
        }
        match destination {
            IpAddr::V4(v4) => {
                let near = match hop.gateway {
                    Some(IpAddr::V4(gateway)) => gateway,
                    _ => v4,
                };
                self.select_v4(hop.interface, Some(near)).map(IpAddr::V4)
            }
            IpAddr::V6(v6) => self.select_v6(hop.interface, v6).map(IpAddr::V6),
        }
    }

    /// The first primary address of an interface whose subnet holds `near`, else its first one, else that of any
    /// interface. Addresses of scope host are never chosen.
    pub fn select_v4(&self, interface: InterfaceId, near: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let own = self.links.get(interface);
        let mut first = None;
        for address in own.interface.addresses.iter().filter(|address| !address.secondary && address.scope != AddressScope::Host)
        {
            let IpAddr::V4(v4) = address.address else { continue };
            let matches = near.is_none_or(|near| Network::new(address.address, address.prefix_len).contains(near.into()));
            if matches {
                return Some(v4);
            }
            first = first.or(Some(v4));
        }
        first.or_else(|| {
            self.links.iter().flat_map(|(_, link)| &link.interface.addresses).find_map(|address| match address.address {
                IpAddr::V4(v4) if !address.secondary && address.scope == AddressScope::Global => Some(v4),
                _ => None,
            })
        })
    }

    /// RFC 6724 rules 1, 2, 5 and 8: same address, scope, egress interface, longest common prefix.
    fn select_v6(&self, interface: InterfaceId, destination: Ipv6Addr) -> Option<Ipv6Addr> {
        let local_only = is_link_local(destination) || destination.is_multicast();
        let mut best: Option<(Ipv6Addr, (bool, bool, u32))> = None;
        for (id, link) in self.links.iter() {
            if local_only && id != interface {
                continue;
            }
            for address in &link.interface.addresses {
                let IpAddr::V6(own) = address.address else { continue };
                if own.is_loopback() || is_link_local(own) && id != interface {
                    continue;
                }
                let common = (u128::from(own) ^ u128::from(destination)).leading_zeros();
                let rank = (is_link_local(own) == is_link_local(destination), id == interface, common);
                if best.is_none_or(|(_, old)| rank > old) {
                    best = Some((own, rank));
                }
            }
        }
        best.map(|(address, _)| address)
    }

    /// The link-local address of an interface.
    pub fn link_local(&self, interface: InterfaceId) -> Option<Ipv6Addr> {
        self.links.get(interface).interface.addresses.iter().find_map(|address| match address.address {
            IpAddr::V6(v6) if is_link_local(v6) => Some(v6),
            _ => None,
        })
    }
}

/// fe80::/10.
pub fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}
