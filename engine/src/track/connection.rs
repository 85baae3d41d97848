//! A connection entry.

use super::binding::Binding;
use super::key::ClientKey;
use super::server::Server;
use super::tcp::Side;
use super::{NEW_TIMEOUT, sctp, tcp};
use crate::config::{Family, ForwardingMethod, Protocol};
use crate::time::Nanos;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;

/// A connection's place in the table. An old one never names a newer connection: the generation differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The slot plus one, so that an `Option` of an id is no larger than an id.
    place: NonZeroU32,
    pub(super) generation: u32,
}

impl ConnectionId {
    pub(super) fn new(slot: u32, generation: u32) -> ConnectionId {
        ConnectionId { place: NonZeroU32::MIN.saturating_add(slot), generation }
    }

    pub(super) fn slot(self) -> u32 {
        self.place.get() - 1
    }
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
    /// No packet finds it: a newer entry has the same key, or it ends in a moment.
    pub hidden: bool,
    /// It hides an older entry with the same key.
    pub covers: bool,
    /// It ends in a moment, and is in no index any more.
    pub detached: bool,
    /// A template that its persistence engine's data tells from others with the same addresses.
    pub by_data: bool,
    /// To the packet's own destination, without a server (cache_bypass).
    pub bypass: bool,
}

/// A connection, or a persistence template, whole: as it is put into the table, and as whoever asks sees it.
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
    /// Seconds that it lives after a packet.
    pub timeout: u32,
    /// When it ends without another packet.
    pub expires: Nanos,
}

bitflags::bitflags! {
    /// [`Flags`] and more, as the table keeps them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EntryFlags: u16 {
        /// [`Flags::template`]
        const TEMPLATE = 1;
        /// [`Flags::inactive`]
        const INACTIVE = 1 << 1;
        /// [`Flags::no_output`]
        const NO_OUTPUT = 1 << 2;
        /// [`Flags::no_client_port`]
        const NO_CLIENT_PORT = 1 << 3;
        /// [`Flags::one_packet`]
        const ONE_PACKET = 1 << 4;
        /// [`Flags::hidden`]
        const HIDDEN = 1 << 5;
        /// [`Flags::covers`]
        const COVERS = 1 << 6;
        /// [`Flags::detached`]
        const DETACHED = 1 << 7;
        /// [`Flags::by_data`]
        const BY_DATA = 1 << 8;
        /// [`Flags::bypass`]
        const BYPASS = 1 << 9;
        /// Another entry controls it; the table knows which.
        const CONTROLLED = 1 << 10;
        /// Its client's address is an IPv6 one; its shard knows which.
        const WIDE = 1 << 11;
        /// Its slot is in use.
        const USED = 1 << 12;
    }
}

impl EntryFlags {
    fn of(flags: Flags) -> EntryFlags {
        let Flags { template, inactive, no_output, no_client_port, one_packet, hidden, covers, detached, by_data, bypass } =
            flags;
        let all = [template, inactive, no_output, no_client_port, one_packet, hidden, covers, detached, by_data, bypass];
        EntryFlags::from_bits_truncate(all.iter().enumerate().map(|(bit, set)| u16::from(*set) << bit).sum())
    }

    fn flags(self) -> Flags {
        Flags {
            template: self.contains(EntryFlags::TEMPLATE),
            inactive: self.contains(EntryFlags::INACTIVE),
            no_output: self.contains(EntryFlags::NO_OUTPUT),
            no_client_port: self.contains(EntryFlags::NO_CLIENT_PORT),
            one_packet: self.contains(EntryFlags::ONE_PACKET),
            hidden: self.contains(EntryFlags::HIDDEN),
            covers: self.contains(EntryFlags::COVERS),
            detached: self.contains(EntryFlags::DETACHED),
            by_data: self.contains(EntryFlags::BY_DATA),
            bypass: self.contains(EntryFlags::BYPASS),
        }
    }
}

/// What the table keeps of a connection: all that is its own, and nearly always there. The rest is its [`Binding`], and with the
/// table. It fills half a line of a processor's cache, because with many connections that is what a packet costs.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct Entry {
    /// When it ends without another packet.
    pub expires: Nanos,
    /// The client's IPv4 address, masked in a template; 0 if it is an IPv6 address.
    pub(super) client: u32,
    /// The number of its binding.
    pub binding: u32,
    /// Seconds that it lives after a packet.
    pub timeout: u32,
    /// Grows with each entry whose home is the same shard.
    pub(super) born: u32,
    /// Client port, host order.
    pub client_port: u16,
    /// Flags.
    pub flags: EntryFlags,
    /// Protocol state, by the protocol's own numbers.
    pub state: u8,
    /// How often its slot was used before (mod 2^24, the least significant byte first).
    pub(super) generation: [u8; 3],
}

const _: () = assert!(size_of::<Entry>() == 32);

/// How states follow each other, and how long they last.
#[derive(Clone, Copy, Debug)]
pub struct StateRules {
    /// Seconds of each TCP state.
    pub tcp_timeouts: [u32; 11],
    /// Seconds of UDP.
    pub udp_timeout: u32,
    /// secure_tcp's tables are in force.
    pub secure: bool,
}

/// What a packet changed in a connection, for those who count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// By how much the server's active connections change.
    pub active: i32,
    /// Its template, if it has one, is assured now.
    pub assured: bool,
}

impl Connection {
    /// A connection that no server has yet.
    pub fn unbound(key: &ClientKey, service: u32) -> Connection {
        Connection {
            protocol: Protocol(key.protocol),
            state: 0,
            flags: Flags { inactive: true, no_output: true, ..Flags::default() },
            client_port: key.client_port,
            virtual_port: key.other_port,
            server_port: 0,
            client: key.client,
            virtual_address: key.other,
            server_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            method: ForwardingMethod::Dr,
            service,
            server: None,
            control: None,
            timeout: NEW_TIMEOUT,
            expires: Nanos::NEVER,
        }
    }

    /// Gives it its server. `port` is where packets go when it isn't the server's own.
    pub fn bind(&mut self, number: u32, server: &Server, port: u16) {
        self.server = Some(number);
        self.server_address = server.key.address;
        self.server_port = port;
        self.method = server.settings.method;
    }

    /// What it shares with others.
    pub fn binding(&self) -> Binding {
        Binding {
            protocol: self.protocol,
            method: self.method,
            virtual_port: self.virtual_port,
            server_port: self.server_port,
            service: self.service,
            server: self.server,
            virtual_address: self.virtual_address,
            server_address: self.server_address,
        }
    }

    /// What is its own, with the number of its binding; but for the client's address, which the shard puts in.
    pub(super) fn entry(&self, binding: u32) -> Entry {
        let mut flags = EntryFlags::of(self.flags);
        flags.set(EntryFlags::CONTROLLED, self.control.is_some());
        let Connection { client_port, state, timeout, expires, .. } = *self;
        Entry { expires, client: 0, binding, timeout, born: 0, client_port, flags, state, generation: [0; 3] }
    }

    /// The whole of an entry with its binding, its client's address and what controls it.
    pub(super) fn whole(entry: &Entry, binding: &Binding, client: IpAddr, control: Option<ConnectionId>) -> Connection {
        Connection {
            protocol: binding.protocol,
            state: entry.state,
            flags: entry.flags.flags(),
            client_port: entry.client_port,
            virtual_port: binding.virtual_port,
            server_port: binding.server_port,
            client,
            virtual_address: binding.virtual_address,
            server_address: binding.server_address,
            method: binding.method,
            service: binding.service,
            server: binding.server,
            control,
            timeout: entry.timeout,
            expires: entry.expires,
        }
    }

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

impl Entry {
    /// A connection that is being opened; its binding is known once it has a server. The client's address is put in by its shard.
    pub fn opening(client_port: u16, binding: u32, nat: bool) -> Entry {
        let mut flags = EntryFlags::INACTIVE;
        flags.set(EntryFlags::NO_OUTPUT, !nat);
        let (expires, timeout) = (Nanos::NEVER, NEW_TIMEOUT);
        Entry { expires, client: 0, binding, timeout, born: 0, client_port, flags, state: 0, generation: [0; 3] }
    }

    /// Whether packets of clients find it: not a template, not hidden, its client's port known.
    #[inline]
    pub fn is_found(&self) -> bool {
        !self.flags.intersects(EntryFlags::HIDDEN.union(EntryFlags::NO_CLIENT_PORT).union(EntryFlags::TEMPLATE))
    }

    /// Whether it has that client of IPv4.
    #[inline]
    pub fn is_of_v4(&self, client: u32, client_port: u16) -> bool {
        self.client == client && self.client_port == client_port && !self.flags.contains(EntryFlags::WIDE)
    }

    /// A packet passed: the protocol's state moves on, and with it the timeout (section 4).
    #[inline(always)]
    pub fn advance(&mut self, direction: Direction, event: TransportEvent, rules: &StateRules) -> Advance {
        let old = self.state;
        let mut side = match direction {
            Direction::Input => Side::Input,
            Direction::Output => Side::Output,
        };
        if matches!(event, TransportEvent::Tcp(_) | TransportEvent::Sctp(_)) && self.flags.contains(EntryFlags::NO_OUTPUT) {
            if direction == Direction::Output { self.flags.remove(EntryFlags::NO_OUTPUT) } else { side = Side::InputOnly }
        }
        let (new, timeout, active, established) = match event {
            TransportEvent::Tcp(flags) => {
                let new = tcp::next(old, flags, side, rules.secure);
                let index = new as usize;
                (new as u8, rules.tcp_timeouts[index], tcp::ACTIVE[index], new == tcp::TcpState::Established)
            }
            TransportEvent::Sctp(chunk) => {
                let new = sctp::next(old, chunk, side);
                (new, sctp::TIMEOUTS[usize::from(new)], new == sctp::ESTABLISHED, new == sctp::ESTABLISHED)
            }
            TransportEvent::Udp => {
                self.timeout = rules.udp_timeout;
                return Advance { active: 0, assured: direction == Direction::Output };
            }
            TransportEvent::None => return Advance::default(),
        };
        let mut change = 0;
        // Past all servers nobody counts.
        if new != old && !self.flags.contains(EntryFlags::BYPASS) && self.flags.contains(EntryFlags::INACTIVE) == active {
            self.flags.set(EntryFlags::INACTIVE, !active);
            change = if active { 1 } else { -1 };
        }
        self.state = new;
        self.timeout = timeout;
        Advance { active: change, assured: new != old && established }
    }

    /// Restarts the timer; returns when to look at it, if nobody would look in time otherwise.
    #[inline]
    pub fn restart(&mut self, now: Nanos) -> Option<Nanos> {
        let due = now + Nanos::from_secs(self.timeout.into());
        let look = self.expires == Nanos::NEVER || due < self.expires;
        self.expires = due;
        look.then_some(due)
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
    #[inline]
    pub fn opens(self) -> bool {
        match self {
            TransportEvent::Tcp(flags) => flags & 0x02 != 0,
            TransportEvent::Sctp(chunk) => chunk == 1,
            TransportEvent::Udp | TransportEvent::None => false,
        }
    }
}
