//! Where a frame of a capture stands: which of the director's links it arrived on, or that it is no input at all.

use lvscheck_engine::DirectorConfig;
use lvscheck_engine::config::{Interface, InterfaceId, MacAddr};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The place of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It arrived at the director on this link.
    Arrived(InterfaceId),
    /// The director sent it, on this link where that is known.
    Sent(InterfaceId),
    /// It went between other hosts.
    Elsewhere,
}

/// Finds the place of frames.
#[derive(Clone, Debug)]
pub struct Places {
    interfaces: Vec<Interface>,
    /// For each interface of the capture, the director's that it names.
    named: Vec<Option<InterfaceId>>,
}

impl Places {
    /// For a director and the names of the capture's interfaces, in the order of their numbers. A name is a pcapng interface's
    /// or a file's stem; `director-eth1` names `eth1` too.
    pub fn new<'a>(config: &DirectorConfig, names: impl IntoIterator<Item = Option<&'a str>>) -> Places {
        let named = names
            .into_iter()
            .map(|name| {
                let name = name?;
                config.interface(name).or_else(|| {
                    let ends_so = |interface: &Interface| {
                        name.strip_suffix(interface.name.as_str()).is_some_and(|head| head.ends_with(['-', '_', '.']))
                    };
                    let index = config.interfaces.iter().position(ends_so)?;
                    Some(InterfaceId(index as u16))
                })
            })
            .collect();
        Places { interfaces: config.interfaces.clone(), named }
    }

    /// The place of a frame that the capture's interface of that number holds.
    pub fn of(&self, capture_interface: u32, frame: &[u8]) -> Place {
        let named = self.named.get(capture_interface as usize).copied().flatten();
        let mac = |at: usize| frame.get(at..at + 6).and_then(|bytes| bytes.try_into().ok()).map(MacAddr);
        let (Some(destination), Some(source)) = (mac(0), mac(6)) else {
            return named.map_or(Place::Elsewhere, Place::Arrived);
        };
        if let Some(own) = self.by_mac(source) {
            return Place::Sent(named.unwrap_or(own));
        }
        if let Some(named) = named {
            return Place::Arrived(named);
        }
        if destination.is_group() {
            return Place::Arrived(self.by_target(frame).unwrap_or_default());
        }
        self.by_mac(destination).map_or(Place::Elsewhere, Place::Arrived)
    }

    /// The interface with that MAC; of a trunk and its VLAN interfaces the trunk.
    fn by_mac(&self, mac: MacAddr) -> Option<InterfaceId> {
        if mac == MacAddr::ZERO {
            return None;
        }
        let with_mac = |interface: &Interface| !interface.loopback && interface.mac == mac;
        let index = self
            .interfaces
            .iter()
            .position(|interface| with_mac(interface) && interface.vlan.is_none())
            .or_else(|| self.interfaces.iter().position(with_mac))?;
        Some(InterfaceId(index as u16))
    }

    /// For a broadcast or multicast frame: the link whose subnet its target or sender lies in, else the first.
    fn by_target(&self, frame: &[u8]) -> Option<InterfaceId> {
        let addresses = asked_addresses(frame);
        let holds = |interface: &Interface| {
            !interface.loopback
                && interface.addresses.iter().any(|own| {
                    let network = lvscheck_engine::config::Network::new(own.address, own.prefix_len);
                    addresses.iter().flatten().any(|address| network.contains(*address))
                })
        };
        let index = self.interfaces.iter().position(holds).or_else(|| self.interfaces.iter().position(|i| !i.loopback))?;
        Some(InterfaceId(index as u16))
    }
}

/// Who asks and who is asked in ARP, or the addresses of an IP packet.
fn asked_addresses(frame: &[u8]) -> [Option<IpAddr>; 2] {
    let mut at = 14;
    let mut ether_type = frame.get(12..14);
    while matches!(ether_type, Some([0x81, 0x00] | [0x88, 0xa8])) {
        ether_type = frame.get(at + 2..at + 4);
        at += 4;
    }
    let v4 = |from: usize| {
        let octets: [u8; 4] = frame.get(from..from + 4)?.try_into().ok()?;
        Some(IpAddr::from(Ipv4Addr::from(octets)))
    };
    let v6 = |from: usize| {
        let octets: [u8; 16] = frame.get(from..from + 16)?.try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(octets)))
    };
    match ether_type {
        Some([0x08, 0x06]) => [v4(at + 24), v4(at + 14)],
        Some([0x08, 0x00]) => [v4(at + 16), v4(at + 12)],
        // Neighbour solicitations name their target in the message.
        Some([0x86, 0xdd]) if frame.get(at + 6) == Some(&58) => [v6(at + 48), v6(at + 8)],
        Some([0x86, 0xdd]) => [v6(at + 24), v6(at + 8)],
        _ => [None, None],
    }
}
