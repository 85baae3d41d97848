//! A connection entry.

use crate::config::{Family, ForwardingMethod, Protocol};
use crate::time::Nanos;
use std::net::{IpAddr, SocketAddr};

/// A connection's place in the table. An old one never names a newer connection: the generation differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// What an entry is, besides its addresses (reference/linux-ipvs.md section 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// A persistence template, not a connection.
    pub template: bool,
    /// Counts as inactive on its server.
    pub inactive: bool,
    /// No answer was ever seen: the INPUT_ONLY tables are in force.
    pub no_output: bool,
    /// The client's port is not known yet (FTP data).
    pub no_client_port: bool,
    /// One-packet scheduling: never in the table's index, gone after its packet.
    pub one_packet: bool,
    /// A newer entry with the same key hides it.
    pub hidden: bool,
    /// A template that its persistence engine's data tells from others with the same addresses.
    pub by_data: bool,
    /// To the packet's own destination, without a server (cache_bypass).
    pub bypass: bool,
}

/// A connection, or a persistence template.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Transport protocol; any for templates of mark services.
    pub protocol: Protocol,
    /// Protocol state, by the protocol's own numbers.
    pub state: u8,
    /// Flags.
    pub flags: Flags,
    /// Client port, host order.
    pub client_port: u16,
    /// Virtual port, host order.
    pub virtual_port: u16,
    /// Real server's port, host order.
    pub server_port: u16,
    /// Client address; masked in a template.
    pub client: IpAddr,
    /// Virtual address; the mark in templates of mark services.
    pub virtual_address: IpAddr,
    /// Real server's address.
    pub server_address: IpAddr,
    /// How packets reach the server.
    pub method: ForwardingMethod,
    /// The service's number; its own for life, even when the service goes.
    pub service: u32,
    /// The real server's number; none for bypass.
    pub server: Option<u32>,
    /// The entry that controls this one: a template, or an FTP control connection.
    pub control: Option<ConnectionId>,
    /// How many entries this one controls.
    pub controlled: u32,
    /// How long it lives after a packet.
    pub timeout: Nanos,
    /// When it ends without another packet.
    pub expires: Nanos,
    /// Packets from the client.
    pub in_packets: u32,
    pub(super) generation: u32,
    pub(super) used: bool,
}

impl Connection {
    /// The family of the client's side.
    pub fn family(&self) -> Family {
        Family::from(self.client)
    }

    /// Where packets go.
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.server_address, self.server_port)
    }

    /// Whether answers pass the director and are translated.
    pub fn is_nat(&self) -> bool {
        self.method == ForwardingMethod::Nat
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Input,
    /// From the real server.
    Output,
}

/// What a packet means to its protocol's state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportEvent {
    /// TCP flags as in the header (FIN 1, SYN 2, RST 4, ACK 16).
    Tcp(u8),
    /// The type of the SCTP chunk that decides.
    Sctp(u8),
    /// A UDP datagram.
    Udp,
    /// The header is too short, or the protocol has no states: no transition.
    None,
}

impl TransportEvent {
    /// Whether the packet would open a connection: a SYN, an INIT.
    pub fn opens(self) -> bool {
        match self {
            TransportEvent::Tcp(flags) => flags & 0x02 != 0,
            TransportEvent::Sctp(chunk) => chunk == 1,
            TransportEvent::Udp | TransportEvent::None => false,
        }
    }
}
