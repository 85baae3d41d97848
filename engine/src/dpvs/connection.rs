//! The connection table: each connection is found from both sides (reference/dpvs-fullnat.md section 2).

use super::port_pool::LocalPort;
use super::state::{Direction, State};
use super::syn_proxy::ProxiedHandshake;
use crate::config::{ForwardingMethod, InterfaceId, MacAddr, Protocol};
use crate::draws::Draw;
use crate::time::Nanos;
use crate::track::{Fingerprint, Index};
use prefetch_index::prefetch_index;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};

/// What a connection is found by: protocol, source and destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    /// Transport protocol.
    pub(crate) protocol: Protocol,
    /// Source of the packet.
    pub(crate) source: SocketAddr,
    /// Its destination.
    pub(crate) destination: SocketAddr,
}

impl FlowKey {
    /// What it is looked up by.
    #[inline]
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let ports = u64::from(self.source.port()) << 32 | u64::from(self.destination.port()) << 16 | u64::from(self.protocol.0);
        let mix = |sum: u64, word: u64| {
            let product = u128::from(sum ^ word) * 0x9e37_79b9_7f4a_7c15;
            product as u64 ^ (product >> 64) as u64
        };
        let address = |sum, address| match address {
            IpAddr::V4(address) => mix(sum, u32::from(address).into()),
            IpAddr::V6(address) => mix(mix(sum, (u128::from(address) >> 64) as u64), u128::from(address) as u64),
        };
        let sum = address(address(mix(0x2545_f491_4f6c_dd1d, ports), self.source.ip()), self.destination.ip());
        Fingerprint((sum >> 32) as u32)
    }
}

/// Where a direction of a connection stands in the index.
fn place_of(ConnectionId(id): ConnectionId, direction: Direction) -> u32 {
    id << 1 | u32::from(direction == Direction::Out)
}

fn entry_of(place: u32) -> (ConnectionId, Direction) {
    (ConnectionId(place >> 1), if place & 1 == 0 { Direction::In } else { Direction::Out })
}

/// A connection. What it is found by stands first, then what every packet of a client needs: together
/// three lines of a processor's cache.
#[derive(Clone, Debug)]
#[repr(C)]
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

/// How a frame came, seen by whoever answers it: the answer swaps the two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        const START_BITS: u32 = 20;
        Draw::TimerJitter(self.number << START_BITS | u64::from(self.timer_starts) & ((1 << START_BITS) - 1))
    }

    /// The key of packets in a direction. Of an ICMP flow the client's "port" is the message type.
    pub(super) fn key(&self, direction: Direction) -> FlowKey {
        let protocol = self.protocol;
        match direction {
            Direction::In => FlowKey { protocol, source: self.client, destination: self.service_end },
            Direction::Out => FlowKey { protocol, source: self.real, destination: self.local },
        }
    }

    /// Whether packets in a direction have that key.
    #[inline]
    pub(super) fn has_key(&self, direction: Direction, key: &FlowKey) -> bool {
        let (source, destination) = match direction {
            Direction::In => (&self.client, &self.service_end),
            Direction::Out => (&self.real, &self.local),
        };
        key.source == *source && key.destination == *destination && key.protocol == self.protocol
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

/// A place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u32);

/// All connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    slots: Vec<Option<Connection>>,
    free: Vec<u32>,
    /// Slots and directions by what their packets are found by. Of several connections with one key only the last one is in it.
    index: Index,
    /// When to look at a connection again; packets that put its end off leave its entry here as it is.
    timers: BinaryHeap<Reverse<(Nanos, ConnectionId, u64)>>,
}

impl Connections {
    /// The connection of a packet, and which way the packet goes.
    pub(super) fn find(&self, key: &FlowKey) -> Option<(ConnectionId, Direction)> {
        self.find_at(key, key.fingerprint())
    }

    /// The same, with the key's fingerprint at hand.
    #[inline]
    pub(super) fn find_at(&self, key: &FlowKey, fingerprint: Fingerprint) -> Option<(ConnectionId, Direction)> {
        let has_key =
            |(id, direction): &(ConnectionId, Direction)| self.peek(*id).is_some_and(|found| found.has_key(*direction, key));
        self.index.all(fingerprint).map(entry_of).find(has_key)
    }

    /// Asks memory for what the first connection with a fingerprint is found by.
    #[inline]
    pub(super) fn prefetch_found(&self, fingerprint: Fingerprint) {
        if let Some((ConnectionId(id), _)) = self.index.all(fingerprint).map(entry_of).next() {
            prefetch_index(&self.slots, id as usize);
        }
    }

    /// Asks memory for where the search for a key begins.
    #[inline]
    pub(super) fn prefetch_index(&self, key: Fingerprint) {
        self.index.prefetch(key);
    }

    /// Enters a connection.
    pub(super) fn insert(&mut self, connection: Connection) -> ConnectionId {
        let id = ConnectionId(self.free.pop().unwrap_or(self.slots.len() as u32));
        let keys = [Direction::Out, Direction::In].map(|direction| (direction, connection.key(direction)));
        self.timers.push(Reverse((connection.expires, id, connection.number)));
        self.put_back(id, connection);
        for (direction, key) in keys {
            if let Some((other, its)) = self.find(&key) {
                self.index.remove(key.fingerprint(), place_of(other, its));
            }
            self.index.insert(key.fingerprint(), place_of(id, direction));
        }
        id
    }

    /// A connection, to change it; its end must not come nearer, or be [rescheduled](Connections::reschedule).
    #[inline]
    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    /// Asks for a look at a connection at that time.
    pub(super) fn look_at(&mut self, id: ConnectionId, number: u64, when: Nanos) {
        self.timers.push(Reverse((when, id, number)));
    }

    /// Takes a connection out of its place for a while, so that it can be worked on; [`Connections::put_back`] ends that.
    pub(super) fn take(&mut self, id: ConnectionId) -> Option<Connection> {
        self.slots.get_mut(id.0 as usize)?.take()
    }

    /// Puts a connection back that was taken.
    pub(super) fn put_back(&mut self, id: ConnectionId, connection: Connection) {
        let at = id.0 as usize;
        if at >= self.slots.len() {
            self.slots.resize(at + 1, None);
        }
        // The earliest look must not lie behind the end.
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some(connection);
        }
    }

    /// Asks for a look at a connection at its end, which may have come nearer.
    pub(super) fn reschedule(&mut self, id: ConnectionId, connection: &Connection) {
        self.look_at(id, connection.number, connection.expires);
    }

    /// Forgets a connection that was taken.
    pub(super) fn forget(&mut self, id: ConnectionId, connection: &Connection) {
        for direction in [Direction::In, Direction::Out] {
            self.index.remove(connection.key(direction).fingerprint(), place_of(id, direction));
        }
        self.free.push(id.0);
    }

    /// A connection, to look at.
    #[inline]
    pub(super) fn peek(&self, id: ConnectionId) -> Option<&Connection> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    /// Looks at what following a connection needs of it, so that memory brings it before it is needed.
    #[inline]
    pub(super) fn touch(&self, id: ConnectionId) -> u64 {
        self.peek(id).map_or(0, |connection| connection.number ^ u64::from(connection.local.port()))
    }

    /// The connection that [`Connections::take_expired`] takes next.
    pub(super) fn peek_expired(&mut self, now: Nanos) -> Option<&Connection> {
        loop {
            let &Reverse((due, id, number)) = self.timers.peek().filter(|Reverse((due, ..))| *due <= now)?;
            let slot = self.slots.get(id.0 as usize).and_then(Option::as_ref);
            match slot.filter(|connection| connection.number == number).map(|connection| connection.expires) {
                Some(expires) if expires <= due => return self.peek(id),
                Some(expires) => {
                    self.timers.pop();
                    self.timers.push(Reverse((expires, id, number)));
                }
                None => {
                    self.timers.pop();
                }
            }
        }
    }

    /// The next connection that ends at or before `now`, taken out of its place, with the time at which it ended.
    pub(super) fn take_expired(&mut self, now: Nanos) -> Option<(Nanos, ConnectionId, Connection)> {
        while let Some(due) = self.next_timer().filter(|due| *due <= now) {
            let Some(Reverse((_, id, number))) = self.timers.pop() else { break };
            let Some(connection) = self.slots.get(id.0 as usize).and_then(Option::as_ref) else { continue };
            if connection.number != number {
                continue;
            }
            if connection.expires > due {
                self.timers.push(Reverse((connection.expires, id, number)));
                continue;
            }
            return self.take(id).map(|connection| (due, id, connection));
        }
        None
    }

    /// When a connection has to be looked at next.
    pub(super) fn next_timer(&self) -> Option<Nanos> {
        self.timers.peek().map(|Reverse((due, ..))| *due)
    }

    /// All connections.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().flatten()
    }
}
