//! A connection as the table keeps it. With many connections what a packet costs is the memory that it touches: so what a
//! FULLNAT connection has for itself stands in one line of a processor's cache, and what many of them have in common is kept once.

use super::connection::{Connection, Path};
use super::places::Places;
use super::port_pool::LocalPort;
use super::shared::{NO_VALUE, Shared};
use super::state::State;
use crate::config::{ForwardingMethod, Protocol};
use crate::time::Nanos;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What stands in a slot of the table.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Entry {
    /// [`Connection::number`]; that of no connection when the slot is empty.
    pub(super) number: u64,
    /// [`Connection::expires`]
    pub(super) expires: Nanos,
    /// The client's IPv4 address, the place of its IPv6 address, or that of the whole connection.
    pub(super) client: u32,
    /// [`Connection::timer_starts`]
    pub(super) timer_starts: u32,
    /// [`Connection::trigger`]
    pub(super) trigger: u32,
    /// [`Connection::inserted`]
    pub(super) inserted: u32,
    client_start: u32,
    server_next: u32,
    server_acknowledged: u32,
    /// The client's port.
    pub(super) client_port: u16,
    /// The local port.
    pub(super) local_port: u16,
    /// The number of the local address.
    pub(super) local: u16,
    /// The pool of the local port.
    pool: u16,
    /// The number of its [`Binding`].
    pub(super) binding: u16,
    /// The number of [`Connection::client_path`].
    pub(super) client_path: u16,
    /// The number of [`Connection::server_path`].
    pub(super) server_path: u16,
    /// [`Connection::state`]
    pub(super) state: State,
    /// What else it is.
    pub(super) flags: EntryFlags,
    uoa_sent: u8,
}

const _: () = assert!(size_of::<Entry>() == 64);

bitflags::bitflags! {
    /// What a connection is, besides.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct EntryFlags: u8 {
        /// It is no plain FULLNAT connection: it is kept as a whole beside, and of all else only number and end are here.
        const WHOLE = 1;
        /// [`Connection::active`]
        const ACTIVE = 1 << 1;
        /// [`Connection::client_start`] is known.
        const STARTED = 1 << 2;
        /// [`Connection::proxy_pending`]
        const PROXY_PENDING = 1 << 3;
        /// [`Connection::uoa_sent`] is a number.
        const UOA = 1 << 4;
    }
}

/// What all connections of a service to one of its real servers have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Binding {
    /// [`Connection::service_end`]
    pub(super) service_end: SocketAddr,
    /// [`Connection::real`]
    pub(super) real: SocketAddr,
    /// [`Connection::server`]
    pub(super) server: u32,
    /// [`Connection::service`]
    pub(super) service: u32,
    /// [`Connection::timeout`]
    pub(super) timeout: Option<u32>,
    /// [`Connection::protocol`]
    pub(super) protocol: Protocol,
    /// The number of protocol and service end.
    pub(super) end: u16,
}

/// What entries know by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    /// The ends of services.
    pub(super) ends: Shared<(Protocol, SocketAddr)>,
    /// What connections have in common.
    pub(super) bindings: Shared<Binding>,
    /// Local addresses.
    pub(super) locals: Shared<IpAddr>,
    /// Fast paths.
    pub(super) paths: Shared<Path>,
    /// IPv6 clients.
    clients: Places<Ipv6Addr>,
    /// Connections that are kept as a whole.
    wholes: Places<Connection>,
}

impl Entry {
    /// That of an empty slot.
    pub(super) const EMPTY: Entry = Entry {
        number: Entry::NOBODY,
        expires: Nanos(0),
        client: 0,
        timer_starts: 0,
        trigger: 0,
        inserted: 0,
        client_start: 0,
        server_next: 0,
        server_acknowledged: 0,
        client_port: 0,
        local_port: 0,
        local: NO_VALUE,
        pool: 0,
        binding: NO_VALUE,
        client_path: NO_VALUE,
        server_path: NO_VALUE,
        state: State::None,
        flags: EntryFlags::empty(),
        uoa_sent: 0,
    };

    /// The number of no connection.
    const NOBODY: u64 = u64::MAX;

    /// That of an empty slot, where a connection with this binding and this local address is likely to be put.
    pub(super) fn with(binding: u16, local: u16) -> Entry {
        Entry { binding, local, ..Entry::EMPTY }
    }

    /// Whether a connection stands here.
    #[inline]
    pub(super) fn is_taken(&self) -> bool {
        self.number != Entry::NOBODY
    }

    /// Makes the slot an empty one. What most likely stays as it is when the connection comes back is left.
    pub(super) fn vacate(&mut self) {
        self.number = Entry::NOBODY;
    }

    /// Counted as active at its real server.
    #[inline]
    pub(super) fn is_active(&self) -> bool {
        self.flags.contains(EntryFlags::ACTIVE)
    }
}

impl Binding {
    fn of(connection: &Connection, end: u16) -> Binding {
        let Connection { service_end, real, server, service, timeout, protocol, .. } = *connection;
        Binding { service_end, real, server, service, timeout, protocol, end }
    }
}

impl Beside {
    /// Puts a connection down, most likely where it was before.
    pub(super) fn put(&mut self, connection: Connection, before: &Entry) -> Entry {
        self.entry_of(&connection, before).unwrap_or_else(|| Entry {
            number: connection.number,
            expires: connection.expires,
            flags: EntryFlags::WHOLE,
            client: self.wholes.put(connection),
            ..Entry::EMPTY
        })
    }

    /// The entry of a connection that needs nothing else.
    fn entry_of(&mut self, connection: &Connection, before: &Entry) -> Option<Entry> {
        let (local, port) = connection.port?;
        let plain = connection.method == ForwardingMethod::FullNat
            && connection.handshake.is_none()
            && connection.local == SocketAddr::new(local, port.port)
            && connection.client.is_ipv4() == connection.service_end.is_ipv4();
        if !plain {
            return None;
        }
        let binding = self.binding_of(connection, before.binding)?;
        let local = self.locals.number_near(before.local, local)?;
        let client_path = self.path(connection.client_path, before.client_path)?;
        let server_path = self.path(connection.server_path, before.server_path)?;
        let mut flags = EntryFlags::empty();
        flags.set(EntryFlags::ACTIVE, connection.active);
        flags.set(EntryFlags::STARTED, connection.client_start.is_some());
        flags.set(EntryFlags::PROXY_PENDING, connection.proxy_pending);
        flags.set(EntryFlags::UOA, connection.uoa_sent.is_some());
        Some(Entry {
            number: connection.number,
            expires: connection.expires,
            client: match connection.client.ip() {
                IpAddr::V4(address) => address.into(),
                IpAddr::V6(address) => self.clients.put(address),
            },
            timer_starts: connection.timer_starts,
            trigger: connection.trigger,
            inserted: connection.inserted,
            client_start: connection.client_start.unwrap_or(0),
            server_next: connection.server_next,
            server_acknowledged: connection.server_acknowledged,
            client_port: connection.client.port(),
            local_port: port.port,
            local,
            pool: port.pool,
            binding,
            client_path,
            server_path,
            state: connection.state,
            flags,
            uoa_sent: connection.uoa_sent.unwrap_or(0),
        })
    }

    fn binding_of(&mut self, connection: &Connection, likely: u16) -> Option<u16> {
        if let Some(known) = self.bindings.get(likely)
            && *known == Binding::of(connection, known.end)
        {
            return Some(likely);
        }
        let end = self.ends.number((connection.protocol, connection.service_end))?;
        self.bindings.number(Binding::of(connection, end))
    }

    fn path(&mut self, path: Option<Path>, likely: u16) -> Option<u16> {
        path.map_or(Some(NO_VALUE), |path| self.paths.number_near(likely, path))
    }

    /// The connection of an entry, whole; what it has beside is taken from there.
    pub(super) fn take(&mut self, entry: &Entry) -> Option<Connection> {
        if entry.flags.contains(EntryFlags::WHOLE) {
            return self.wholes.take(entry.client);
        }
        let connection = self.get(entry);
        if self.bindings.get(entry.binding)?.service_end.is_ipv6() {
            self.clients.take(entry.client);
        }
        connection
    }

    /// The connection of an entry, whole.
    pub(super) fn get(&self, entry: &Entry) -> Option<Connection> {
        if entry.flags.contains(EntryFlags::WHOLE) {
            return self.wholes.get(entry.client).cloned();
        }
        let binding = self.bindings.get(entry.binding)?;
        let local = *self.locals.get(entry.local)?;
        let path = |number| self.paths.get(number).copied();
        let has = |flag| entry.flags.contains(flag);
        Some(Connection {
            client: SocketAddr::new(self.client(entry, binding), entry.client_port),
            service_end: binding.service_end,
            local: SocketAddr::new(local, entry.local_port),
            real: binding.real,
            number: entry.number,
            expires: entry.expires,
            handshake: None,
            timeout: binding.timeout,
            timer_starts: entry.timer_starts,
            server: binding.server,
            service: binding.service,
            trigger: entry.trigger,
            inserted: entry.inserted,
            method: ForwardingMethod::FullNat,
            state: entry.state,
            active: entry.is_active(),
            protocol: binding.protocol,
            proxy_pending: has(EntryFlags::PROXY_PENDING),
            uoa_sent: has(EntryFlags::UOA).then_some(entry.uoa_sent),
            client_path: path(entry.client_path),
            server_path: path(entry.server_path),
            client_start: has(EntryFlags::STARTED).then_some(entry.client_start),
            port: Some((local, LocalPort { port: entry.local_port, pool: entry.pool })),
            one_packet: false,
            server_next: entry.server_next,
            server_acknowledged: entry.server_acknowledged,
        })
    }

    /// A connection that is kept as a whole.
    pub(super) fn whole(&self, entry: &Entry) -> Option<&Connection> {
        self.wholes.get(entry.client).filter(|_| entry.flags.contains(EntryFlags::WHOLE))
    }

    /// Whether an entry's client has that address, if it is one of its family.
    #[inline]
    pub(super) fn is_client(&self, entry: &Entry, client: IpAddr) -> bool {
        match client {
            IpAddr::V4(client) => entry.client == u32::from(client),
            IpAddr::V6(client) => self.clients.get(entry.client) == Some(&client),
        }
    }

    /// The address of a client.
    pub(super) fn client(&self, entry: &Entry, binding: &Binding) -> IpAddr {
        match binding.service_end {
            SocketAddr::V4(_) => Ipv4Addr::from(entry.client).into(),
            SocketAddr::V6(_) => self.clients.get(entry.client).copied().unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{InterfaceId, MacAddr};
    use proptest::prelude::*;

    fn end(v6: bool, number: u8) -> SocketAddr {
        let address = if v6 { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)]) } else { [10, 0, 0, number].into() };
        SocketAddr::new(address, 1000 + u16::from(number))
    }

    prop_compose! {
        fn connections()(
            (method, state, protocol) in (
                prop_oneof![5 => Just(ForwardingMethod::FullNat), 1 => Just(ForwardingMethod::Nat), 1 => Just(ForwardingMethod::Dr)],
                prop::sample::select(&[State::SynReceived, State::Established, State::UdpNormal][..]),
                prop::sample::select(&[Protocol::TCP, Protocol::UDP][..]),
            ),
            ends in prop::array::uniform4(0u8..4),
            (v6, real_v6, other_local) in (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1)),
            numbers in prop::array::uniform8(0u32..3),
            paths in prop::array::uniform2(prop::option::of(0u16..3)),
            (uoa_sent, client_start, timeout) in (prop::option::of(0u8..3), prop::option::of(0u32..3), prop::option::of(1u32..3)),
            (active, proxy_pending) in any::<(bool, bool)>(),
        ) -> Connection {
            let local = end(real_v6, ends[2]);
            let path = |path: Option<u16>| path.map(|number| {
                Path { interface: InterfaceId(number), peer: MacAddr([number as u8; 6]), own: MacAddr::ZERO }
            });
            let pool = numbers[7] as u16;
            Connection {
                client: end(v6, ends[0]),
                service_end: end(v6, ends[1]),
                local,
                real: end(real_v6, ends[3]),
                number: numbers[0].into(),
                expires: Nanos(numbers[1].into()),
                handshake: None,
                timeout,
                timer_starts: numbers[2],
                server: numbers[0],
                service: numbers[1],
                trigger: numbers[3],
                inserted: numbers[4],
                method,
                state,
                active,
                protocol,
                proxy_pending,
                uoa_sent,
                client_path: path(paths[0]),
                server_path: path(paths[1]),
                client_start,
                port: Some((end(real_v6, ends[2] ^ u8::from(other_local)).ip(), LocalPort { port: local.port(), pool })),
                one_packet: false,
                server_next: numbers[5],
                server_acknowledged: numbers[6],
            }
        }
    }

    proptest! {
        /// However it is kept, and whatever its place was used for before: a connection comes back as it was put down.
        #[test]
        fn a_connection_comes_back_whole(connections in prop::collection::vec(connections(), 1..20)) {
            let mut beside = Beside::default();
            let mut before = Entry::EMPTY;
            for connection in &connections {
                let wanted = format!("{connection:?}");
                let entry = beside.put(connection.clone(), &before);
                prop_assert_eq!((entry.number, entry.expires), (connection.number, connection.expires));
                prop_assert_eq!(beside.whole(&entry).is_some(), entry.flags.contains(EntryFlags::WHOLE));
                prop_assert_eq!(beside.get(&entry).map(|found| format!("{found:?}")), Some(wanted.clone()));
                prop_assert_eq!(beside.take(&entry).map(|found| format!("{found:?}")), Some(wanted));
                before = entry;
            }
        }
    }
}
