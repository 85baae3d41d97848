//! The link layer and the routing of a Linux host: interfaces with VLAN stacks, routes, neighbours, fragments.
//! Serial state that control frames change and that every packet asks.
//!
//! Nothing here knows of services or connections.

pub mod fragment;
pub mod interface;
pub mod neighbour;
pub mod reassembly;
pub mod resolution;
pub mod route;
pub mod source;

use crate::config::{DirectorConfig, Interface, InterfaceId, MacAddr, Sysctls};
use crate::output::Output;
use crate::packet::ethernet::{self, ether_type};
use crate::packet::{arp::Arp, ndisc};
use crate::time::Nanos;

pub use interface::{Link, Links};
pub use neighbour::{Neighbours, Waiting};
pub use reassembly::Fragments;
pub use route::{PathMtus, Routes};
use std::net::{IpAddr, Ipv6Addr};

/// A host's link layer.
#[derive(Clone, Debug)]
pub struct Host {
    /// Kernel settings. After a change call [`Host::settings_changed`].
    pub sysctls: Sysctls,
    /// Interfaces.
    pub links: Links,
    /// Routes of both families.
    pub routes: Routes,
    /// ARP and ND entries.
    pub neighbours: Neighbours,
    /// Datagrams in parts.
    pub fragments: Fragments,
    /// Path MTUs that ICMP taught.
    pub path_mtus: PathMtus,
}

impl Host {
    /// A host as described, at rest.
    pub fn new(config: &DirectorConfig) -> Host {
        let links = Links::new(&config.interfaces, &config.sysctls);
        let routes = Routes::new(config);
        let mut neighbours = Neighbours::default();
        neighbours.wheel = config.timer_wheel;
        let mut fragments = Fragments::default();
        fragments.wheel = config.timer_wheel;
        for entry in &config.neighbours {
            neighbours.set(entry.interface, entry.address, entry.mac, entry.permanent);
        }
        Host { sysctls: config.sysctls.clone(), links, routes, neighbours, fragments, path_mtus: PathMtus::default() }
    }

    /// Takes changed settings over.
    pub fn settings_changed(&mut self) {
        self.links.apply(&self.sysctls);
    }

    /// The interface as described.
    pub fn interface(&self, id: InterfaceId) -> &Interface {
        &self.links.get(id).interface
    }

    /// Appends the Ethernet header of a frame that leaves by an interface, VLAN tags included, and says on which physical
    /// interface the frame stands.
    pub fn write_link_header(&self, out: &mut Vec<u8>, by: InterfaceId, to: MacAddr, ether_type: u16) -> InterfaceId {
        let link = self.links.get(by);
        ethernet::write(out, to, link.interface.mac, &link.tags, ether_type);
        link.base
    }

    /// Length of the Ethernet header of frames that leave by an interface.
    pub fn link_header_len(&self, by: InterfaceId) -> usize {
        ethernet::HEADER_LEN + 4 * self.links.get(by).tags.len()
    }

    /// Emits an ARP message.
    pub fn emit_arp(&self, out: &mut Output, time: Nanos, by: InterfaceId, to: MacAddr, message: &Arp) {
        out.emit(time, self.links.get(by).base, |bytes| {
            self.write_link_header(bytes, by, to, ether_type::ARP);
            message.write(bytes);
        });
    }

    /// Emits a neighbour solicitation or advertisement.
    pub fn emit_nd(
        &self,
        out: &mut Output,
        time: Nanos,
        by: InterfaceId,
        to: MacAddr,
        addresses: (Ipv6Addr, Ipv6Addr),
        message: &ndisc::NeighbourMessage,
    ) {
        out.emit(time, self.links.get(by).base, |bytes| {
            self.write_link_header(bytes, by, to, ether_type::IPV6);
            message.write(bytes, addresses.0, addresses.1);
        });
    }

    /// Whether the address is one of the host's own, or in a network that it takes as its own.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.routes.is_local(address)
    }
}
