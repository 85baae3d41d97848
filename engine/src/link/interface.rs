//! Interfaces, and which of them a tagged frame belongs to.

use crate::config::{Interface, InterfaceId, InterfaceSysctls, Sysctls};
use crate::packet::ethernet::{MAX_TAGS, Tag, ether_type};
use crate::verdict::DropReason;
use arrayvec::ArrayVec;
use std::net::IpAddr;

/// An interface with what follows from its description.
#[derive(Clone, Debug)]
pub struct Link {
    /// As described.
    pub interface: Interface,
    /// Its settings, those of `all` taken in.
    pub settings: InterfaceSysctls,
    /// The tags that frames carry when they leave by it, outermost first.
    pub tags: ArrayVec<Tag, MAX_TAGS>,
    /// The interface at the bottom of its VLAN stack: itself if it is no VLAN.
    pub base: InterfaceId,
}

impl Link {
    /// Its addresses of the family of `like`.
    pub fn addresses_like(&self, like: IpAddr) -> impl Iterator<Item = &crate::config::Address> {
        self.interface.addresses.iter().filter(move |address| address.address.is_ipv4() == like.is_ipv4())
    }

    /// Whether it has this address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.interface.addresses.iter().any(|own| own.address == address)
    }
}

/// All interfaces of a host. There is always at least one: a description without any gets an `lo`.
#[derive(Clone, Debug)]
pub struct Links {
    links: Vec<Link>,
}

impl Links {
    /// The interfaces as described.
    pub fn new(interfaces: &[Interface], sysctls: &Sysctls) -> Links {
        let mut links: Vec<Link> = interfaces
            .iter()
            .enumerate()
            .map(|(index, interface)| {
                let (tags, base) = stack(interfaces, index);
                let settings = sysctls.of_interface(&interface.name);
                Link { interface: interface.clone(), settings, tags, base }
            })
            .collect();
        if links.is_empty() {
            let interface = Interface {
                name: "lo".to_owned(),
                mac: crate::config::MacAddr::ZERO,
                mtu: 65536,
                addresses: Vec::new(),
                vlan: None,
                loopback: true,
                up: true,
            };
            let settings = sysctls.of_interface("lo");
            links.push(Link { interface, settings, tags: ArrayVec::new(), base: InterfaceId(0) });
        }
        Links { links }
    }

    /// Takes changed settings over.
    pub fn apply(&mut self, sysctls: &Sysctls) {
        for link in &mut self.links {
            link.settings = sysctls.of_interface(&link.interface.name);
        }
    }

    /// The interface of that number; a number that no interface has is taken as the first one's.
    pub fn get(&self, id: InterfaceId) -> &Link {
        self.links.get(usize::from(id.0)).unwrap_or(&self.links[0])
    }

    /// The interface of that number, to change it.
    pub fn get_mut(&mut self, id: InterfaceId) -> Option<&mut Link> {
        self.links.get_mut(usize::from(id.0))
    }

    /// All of them, in the system's order.
    pub fn iter(&self) -> impl Iterator<Item = (InterfaceId, &Link)> {
        self.links.iter().enumerate().map(|(index, link)| (InterfaceId(index as u16), link))
    }

    /// The interface that a frame belongs to which arrived at `arrival` with these tags. A priority tag (VLAN 0) on a
    /// VLAN that has no interface of its own is as good as none.
    ///
    /// # Errors
    /// No interface has the VLAN.
    pub fn of_tagged(&self, arrival: InterfaceId, tags: &[Tag]) -> Result<InterfaceId, DropReason> {
        let mut at = arrival;
        for tag in tags {
            let child = self.iter().find(|(_, link)| {
                link.interface
                    .vlan
                    .is_some_and(|vlan| vlan.parent == at && vlan.id == tag.id() && vlan.protocol.ether_type() == tag.protocol)
            });
            match child {
                Some((id, _)) => at = id,
                None if tag.id() == 0 && tag.protocol == ether_type::VLAN => {}
                None => return Err(DropReason::UnknownVlan),
            }
        }
        Ok(at)
    }
}

/// The tags of an interface, outermost first, and the interface at the bottom.
fn stack(interfaces: &[Interface], index: usize) -> (ArrayVec<Tag, MAX_TAGS>, InterfaceId) {
    let mut tags = ArrayVec::new();
    let mut at = index;
    while let Some(vlan) = interfaces[at].vlan {
        let parent = usize::from(vlan.parent.0);
        // A parent that does not exist, a loop, or a stack deeper than any real one ends here.
        if parent >= interfaces.len() || parent == at || tags.is_full() {
            break;
        }
        tags.insert(0, Tag { protocol: vlan.protocol.ether_type(), control: vlan.id & 0x0fff });
        at = parent;
    }
    (tags, InterfaceId(at as u16))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{MacAddr, VlanProtocol, VlanTag};

    fn interface(name: &str, vlan: Option<VlanTag>) -> Interface {
        Interface { name: name.into(), mac: MacAddr::ZERO, mtu: 1500, addresses: vec![], vlan, loopback: false, up: true }
    }

    #[test]
    fn nested() {
        let s10 = VlanTag { parent: InterfaceId(0), id: 10, protocol: VlanProtocol::Dot1Ad };
        let c100 = VlanTag { parent: InterfaceId(1), id: 100, protocol: VlanProtocol::Dot1Q };
        let all = [interface("eth0", None), interface("s10", Some(s10)), interface("c100", Some(c100))];
        let links = Links::new(&all, &Sysctls::default());
        let outer = Tag { protocol: 0x88a8, control: 10 };
        let inner = Tag { protocol: 0x8100, control: 0xa000 | 100 };
        assert_eq!(links.of_tagged(InterfaceId(0), &[outer, inner]), Ok(InterfaceId(2)));
        assert_eq!(links.of_tagged(InterfaceId(0), &[inner]), Err(DropReason::UnknownVlan));
        assert_eq!(links.of_tagged(InterfaceId(0), &[Tag { protocol: 0x8100, control: 0xe000 }]), Ok(InterfaceId(0)));
        assert_eq!(links.get(InterfaceId(2)).tags[..], [outer, Tag { protocol: 0x8100, control: 100 }]);
        assert_eq!(links.get(InterfaceId(2)).base, InterfaceId(0));
    }

    #[test]
    fn loops_end() {
        let a = VlanTag { parent: InterfaceId(1), id: 1, protocol: VlanProtocol::Dot1Q };
        let b = VlanTag { parent: InterfaceId(0), id: 2, protocol: VlanProtocol::Dot1Q };
        let links = Links::new(&[interface("a", Some(a)), interface("b", Some(b))], &Sysctls::default());
        assert_eq!(links.get(InterfaceId(0)).tags.len(), MAX_TAGS);
    }
}
