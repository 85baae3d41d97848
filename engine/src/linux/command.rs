//! Changes while traffic runs: what an operator types on the director.

use super::{Director, Output, is_ipvsadm};
use crate::config::{Address, Command, InterfaceId, Network};
use crate::time::Nanos;
use std::net::IpAddr;

impl Director {
    /// Carries a command out.
    ///
    /// # Errors
    /// Why the tool would refuse it.
    pub(super) fn carry_out(&mut self, command: &Command, now: Nanos, out: &mut Output) -> Result<(), String> {
        if is_ipvsadm(command) {
            self.ipvs.apply(command, now).map_err(|error| error.to_string())?;
            self.gathers_ipv6 |= self.ipvs.services.any_of(crate::config::Family::Ipv6)
                || matches!(command, Command::AddServer { server, .. } if server.address.is_ipv6());
            return Ok(());
        }
        match command {
            Command::AddAddress { interface, address } => self.add_address(*interface, *address),
            Command::DeleteAddress { interface, address } => self.delete_address(*interface, *address),
            Command::SetLink { interface, up } => self.set_link(*interface, *up, now, out),
            Command::SetMtu { interface, mtu } => {
                if let Some(link) = self.host.links.get_mut(*interface) {
                    link.interface.mtu = *mtu;
                }
            }
            Command::AddRoute(route) => self.host.routes.add(route.clone()),
            Command::DeleteRoute(route) => self.host.routes.remove(route),
            Command::AddNeighbour { address, mac, interface } => self.host.neighbours.set(*interface, *address, *mac, true),
            Command::DeleteNeighbour { address, interface } => self.host.neighbours.remove(*interface, *address),
            Command::Sysctl { name, value } => {
                self.host.sysctls.set(name, value).map_err(|error| error.to_string())?;
                self.host.settings_changed();
                self.ipvs.set_sysctls(&self.host.sysctls);
            }
            Command::Ping { source, destination, count } => {
                for number in 1..=*count {
                    self.ping(out, now + Nanos::from_secs(u64::from(number) - 1), *source, *destination, number as u16);
                }
            }
            Command::Arping { kind, interface, address, count } => {
                if let IpAddr::V4(address) = address {
                    for number in 0..*count {
                        self.host.announce(out, now + Nanos::from_secs(u64::from(number)), *interface, *address, *kind);
                    }
                }
            }
            _ => return Err("only DPVS knows this command".to_owned()),
        }
        Ok(())
    }

    fn add_address(&mut self, interface: InterfaceId, mut address: Address) {
        let Some(link) = self.host.links.get_mut(interface) else { return };
        let subnet = Network::new(address.address, address.prefix_len);
        let same_subnet = |own: &Address| {
            own.prefix_len == address.prefix_len && Network::new(own.address, own.prefix_len) == subnet && !own.secondary
        };
        if link.has_address(address.address) {
            return;
        }
        address.secondary |= address.address.is_ipv4() && link.interface.addresses.iter().any(same_subnet);
        link.interface.addresses.push(address);
        if link.interface.up {
            self.host.routes.add_address(interface, &address);
        }
    }

    fn delete_address(&mut self, interface: InterfaceId, address: IpAddr) {
        let Some(link) = self.host.links.get_mut(interface) else { return };
        let Some(index) = link.interface.addresses.iter().position(|own| own.address == address) else { return };
        let gone = link.interface.addresses.remove(index);
        if link.interface.up {
            self.host.routes.remove_address(interface, &gone);
        }
    }

    /// A link that goes down loses its routes and neighbours; one that comes up gets back those that its addresses imply.
    fn set_link(&mut self, interface: InterfaceId, up: bool, now: Nanos, out: &mut Output) {
        let Some(link) = self.host.links.get_mut(interface) else { return };
        if std::mem::replace(&mut link.interface.up, up) == up {
            return;
        }
        let addresses = link.interface.addresses.clone();
        for address in &addresses {
            if up {
                self.host.routes.add_address(interface, address);
            } else {
                self.host.routes.remove_address(interface, address);
            }
        }
        if up {
            self.host.notify_peers(out, now, interface);
        } else {
            self.host.routes.interface_down(interface);
            self.host.neighbours.interface_down(interface);
        }
    }
}
