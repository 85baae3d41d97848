//! The director's tables as plain data, for whoever prints them (`ipvsadm -Ln`, `--stats`, `-Lcn`).

use crate::config::{Protocol, ServerKey, ServerSettings, ServiceKey, ServiceSettings};
use crate::time::Nanos;
use std::net::{IpAddr, SocketAddr};

/// Packets and bytes; bytes are IP total lengths, as IPVS counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets towards real servers.
    pub in_packets: u64,
    /// Packets from real servers.
    pub out_packets: u64,
    /// Bytes towards real servers.
    pub in_bytes: u64,
    /// Bytes from real servers.
    pub out_bytes: u64,
}

/// A service with its real servers, in list order (the newest real server first).
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceView {
    /// Its number, as verdicts name it.
    pub number: u32,
    /// What identifies it.
    pub key: ServiceKey,
    /// Its settings.
    pub settings: ServiceSettings,
    /// What passed.
    pub counters: Counters,
    /// Its real servers.
    pub servers: Vec<ServerView>,
    /// DPVS: its local addresses, each with the ports in use and the connections it serves.
    pub local_addresses: Vec<LocalAddressView>,
}

/// A real server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerView {
    /// Its number, as verdicts name it.
    pub number: u32,
    /// What identifies it.
    pub key: ServerKey,
    /// Its settings.
    pub settings: ServerSettings,
    /// Active connections.
    pub active: u32,
    /// Inactive connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// What passed.
    pub counters: Counters,
}

/// A local address of a DPVS service.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalAddressView {
    /// The address.
    pub address: IpAddr,
    /// Connections that use it.
    pub connections: u64,
    /// Ports in use in its fullest pool.
    pub ports_in_use: u32,
    /// Ports that a pool holds in all.
    pub ports: u32,
    /// Connections that found no port.
    pub exhausted: u64,
}

/// A line of `ipvsadm -Lcn`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionView {
    /// Its protocol; [`Protocol::ANY`] for templates of mark services.
    pub protocol: Protocol,
    /// Client address (masked in a template) and port.
    pub client: SocketAddr,
    /// Virtual address and port; the mark as an address in templates of mark services.
    pub service: SocketAddr,
    /// Real server and port.
    pub destination: SocketAddr,
    /// FULLNAT: the local address and port.
    pub local: Option<SocketAddr>,
    /// Its state under the name that /proc shows.
    pub state: &'static str,
    /// How long it would live from now without another packet.
    pub expires: Nanos,
    /// The persistence engine's data, such as a Call-ID.
    pub persistence_data: Option<Vec<u8>>,
}

/// DPVS: how often the clients' addresses reached the real servers of a service, and how often they could not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientAddressCounts {
    /// Segments that carry TOA.
    pub toa: u64,
    /// Of them, those whose other options had to give way.
    pub toa_after_pruning: u64,
    /// Segments that should carry TOA and left without, for want of option room.
    pub no_option_room: u64,
    /// Segments that should carry TOA and left without, because they would have become longer than the MTU.
    pub longer_than_mtu: u64,
    /// Segments of clients that held a TOA option of the client's own making.
    pub forged: u64,
    /// Datagrams that carry UOA.
    pub uoa: u64,
    /// UOA that went ahead in a datagram of its own, because the datagram had no room.
    pub uoa_ahead: u64,
    /// PROXY headers that were put in front of payload.
    pub proxy_headers: u64,
}
