//! Links, addresses, routes, neighbours and firewall marks.

use super::service::Protocol;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An Ethernet address, in wire order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// 00:00:00:00:00:00.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// The group bit (IEEE 802): broadcast and multicast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text that is no Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no MAC address; expected six hexadecimal bytes such as 02:00:00:00:00:0b")]
pub struct MacAddrError(pub String);

impl FromStr for MacAddr {
    type Err = MacAddrError;
    fn from_str(text: &str) -> Result<MacAddr, MacAddrError> {
        let error = || MacAddrError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len())).ok_or_else(error)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() { Err(error()) } else { Ok(MacAddr(bytes)) }
    }
}

/// An interface of the director: an index into [`super::DirectorConfig::interfaces`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(pub u16);

/// A network interface.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    /// Its addresses, in the order in which they were added.
    pub addresses: Vec<Address>,
    /// For a VLAN interface: where it hangs.
    pub vlan: Option<VlanTag>,
    /// `lo`.
    pub loopback: bool,
    /// Administratively up.
    pub up: bool,
}

/// Where a VLAN interface hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// The interface below.
    pub parent: InterfaceId,
    /// VLAN ID, 1 to 4094.
    pub id: u16,
    /// Which tag.
    pub protocol: VlanProtocol,
}

/// The two kinds of VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlanProtocol {
    /// 802.1Q, EtherType 0x8100.
    Dot1Q,
    /// 802.1ad, EtherType 0x88a8.
    Dot1Ad,
}

impl VlanProtocol {
    /// The tag's EtherType.
    pub const fn ether_type(self) -> u16 {
        match self {
            VlanProtocol::Dot1Q => 0x8100,
            VlanProtocol::Dot1Ad => 0x88a8,
        }
    }
}

/// An address of an interface, with its subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Prefix length of its subnet.
    pub prefix_len: u8,
    /// How far it is valid.
    pub scope: AddressScope,
    /// Another address of the same subnet came first (IPv4 only); never chosen as source.
    pub secondary: bool,
    /// DPVS: the address serves as a local address (`sapool`).
    pub sapool: bool,
}

/// rtnetlink(7) scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressScope {
    /// Valid everywhere.
    #[default]
    Global,
    /// Valid on the link.
    Link,
    /// Valid on the host.
    Host,
}

/// A network: an address and a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its address; bits behind the prefix are zero.
    pub address: IpAddr,
    /// How many leading bits count.
    pub prefix_len: u8,
}

impl Network {
    /// The network that an address with this prefix length lies in. The length is cut to the family's.
    pub fn new(address: IpAddr, prefix_len: u8) -> Network {
        match address {
            IpAddr::V4(v4) => {
                let len = prefix_len.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                Network { address: IpAddr::V4((u32::from(v4) & mask).into()), prefix_len: len }
            }
            IpAddr::V6(v6) => {
                let len = prefix_len.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                Network { address: IpAddr::V6((u128::from(v6) & mask).into()), prefix_len: len }
            }
        }
    }

    /// Just one address.
    pub fn host(address: IpAddr) -> Network {
        Network::new(address, if address.is_ipv4() { 32 } else { 128 })
    }

    /// Whether the address lies in it; false for the other family.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Network::new(address, self.prefix_len).address == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which destinations it is for; a default route has prefix length 0.
    pub destination: Network,
    /// The next hop; none when the destinations are on the link.
    pub gateway: Option<IpAddr>,
    /// The interface; none for unreachable kinds.
    pub interface: Option<InterfaceId>,
    /// Preferred source address (`src`, `prefsrc`).
    pub source: Option<IpAddr>,
    /// The route's own MTU.
    pub mtu: Option<u32>,
    /// Smaller wins among equal prefixes.
    pub metric: u32,
    /// What it does.
    pub kind: RouteKind,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it on.
    #[default]
    Unicast,
    /// Delivers it here.
    Local,
    /// Drops it silently.
    Blackhole,
    /// Answers host unreachable.
    Unreachable,
    /// Answers administratively prohibited.
    Prohibit,
}

/// A network whose addresses are all local, as `ip route add local NETWORK dev lo` makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalNetwork {
    /// The network.
    pub network: Network,
}

/// A neighbour (ARP or ND) entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourEntry {
    /// Its IP address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// On which link.
    pub interface: InterfaceId,
    /// Never ages (PERMANENT, NOARP, DPVS static).
    pub permanent: bool,
}

/// Sets a firewall mark, as `nft ... meta mark set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkRule {
    /// The mark to set.
    pub mark: u32,
    /// Only packets to this network; none: any.
    pub destination: Option<Network>,
    /// Only this protocol; none: any.
    pub protocol: Option<Protocol>,
    /// Only these destination ports; empty: any.
    pub ports: Vec<u16>,
}
