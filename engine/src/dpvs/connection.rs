//! A connection (reference/dpvs-fullnat.md section 2).

use super::flow::FlowKey;
use super::port_pool::LocalPort;
use super::state::{Direction, State};
use super::syn_proxy::ProxiedHandshake;
use crate::config::{ForwardingMethod, InterfaceId, MacAddr, Protocol};
use crate::draws::Draw;
use crate::time::Nanos;
use std::net::{IpAddr, SocketAddr};

/// A connection, whole: as whoever works on it sees it. The table keeps most of them smaller (entry.rs).
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// The client.
    pub(super) client: SocketAddr,
    /// The address and port that the client talks to.
    pub(super) service_end: SocketAddr,
    /// Which one since the start, from 0: draws are numbered by it.
    pub(super) number: u64,
    /// When it ends without another packet.
    pub(super) expires: Nanos,
    /// A handshake that DPVS made in the client's name.
    pub(super) handshake: Option<Box<ProxiedHandshake>>,
    /// The service's `--conn-timeout`, seconds.
    pub(super) timeout: Option<u32>,
    /// How often its timer was started.
    pub(super) timer_starts: u32,
    /// The number of its real server.
    pub(super) server: u32,
    /// The number of its service.
    pub(super) service: u32,
    /// A client's segment with this acknowledgement number carries the client's address: one past the real server's SYN.
    pub(super) trigger: u32,
    /// What inserted bytes add to the client's sequence numbers, on top of the drawn offset.
    pub(super) inserted: u32,
    /// How its packets reach the real server.
    pub(super) method: ForwardingMethod,
    /// Its state.
    pub(super) state: State,
    /// Counted as active at its real server.
    pub(super) active: bool,
    /// Transport protocol.
    pub(super) protocol: Protocol,
    /// The first datagram has yet to get its PROXY header.
    pub(super) proxy_pending: bool,
    /// Datagrams with UOA that went out; none when the connection carries no UOA (any more).
    pub(super) uoa_sent: Option<u8>,
    /// What the real server sees as its client: the local address and port under FULLNAT, else the client.
    pub(super) local: SocketAddr,
    /// The first frame of the client that may use the fast path.
    pub(super) client_path: Option<Path>,
    /// The first frame of the real server that may use the fast path.
    pub(super) server_path: Option<Path>,
    /// The real server.
    pub(super) real: SocketAddr,
    /// The client's first sequence number; none before the first SYN.
    pub(super) client_start: Option<u32>,
    /// Where its port must go back to: the address that owns it, and the port.
    pub(super) port: Option<(IpAddr, LocalPort)>,
    /// One-packet scheduling: never enters the table.
    pub(super) one_packet: bool,
    /// What the real server will send next, for the RST at expiry.
    pub(super) server_next: u32,
    /// What the real server acknowledged last, for the RST at expiry.
    pub(super) server_acknowledged: u32,
}

/// The draw of the jitter of a connection's timer that was started so often.
#[inline]
pub(super) fn timer_jitter(number: u64, starts: u32) -> Draw {
    const START_BITS: u32 = 20;
    Draw::TimerJitter(number << START_BITS | u64::from(starts) & ((1 << START_BITS) - 1))
}

/// How a frame came, seen by whoever answers it: the answer swaps the two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Path {
    /// Where it arrived.
    pub(super) interface: InterfaceId,
    /// Who sent it.
    pub(super) peer: MacAddr,
    /// To whom.
    pub(super) own: MacAddr,
}

impl Connection {
    /// The draw of the jitter of its timer as it runs now.
    pub(super) fn jitter(&self) -> Draw {
        timer_jitter(self.number, self.timer_starts)
    }

    /// The key of packets in a direction. Of an ICMP flow the client's "port" is the message type.
    pub(super) fn key(&self, direction: Direction) -> FlowKey {
        let protocol = self.protocol;
        match direction {
            Direction::In => FlowKey { protocol, source: self.client, destination: self.service_end },
            Direction::Out => FlowKey { protocol, source: self.real, destination: self.local },
        }
    }

    /// FULLNAT between an IPv6 client and an IPv4 real server.
    pub(super) fn is_nat64(&self) -> bool {
        self.client.is_ipv6() && self.real.is_ipv4()
    }

    /// Direct routing or tunnel: answers pass by unseen.
    pub(super) fn is_one_way(&self) -> bool {
        matches!(self.method, ForwardingMethod::Dr | ForwardingMethod::Tunnel(_))
    }

    /// FULLNAT.
    pub(super) fn is_fullnat(&self) -> bool {
        self.method == ForwardingMethod::FullNat
    }
}
