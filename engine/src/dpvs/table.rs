//! The connection table: each connection is found from both sides (reference/dpvs-fullnat.md section 2).

use super::connection::Connection;
use super::entry::{Beside, Entry};
use super::flow::{Flow, FlowKey};
use super::state::{Direction, State};
use crate::config::Protocol;
use crate::time::Nanos;
use crate::track::{Fingerprint, Index, Slab};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;

/// A place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u32);

impl ConnectionId {
    /// No place: there are fewer.
    pub(crate) const NONE: ConnectionId = ConnectionId(u32::MAX);
}

/// Where a direction of a connection stands in the index.
fn place_of(ConnectionId(id): ConnectionId, direction: Direction) -> u32 {
    id << 1 | u32::from(direction == Direction::Out)
}

fn entry_of(place: u32) -> (ConnectionId, Direction) {
    (ConnectionId(place >> 1), if place & 1 == 0 { Direction::In } else { Direction::Out })
}

/// All connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    entries: Slab<Entry>,
    free: Vec<u32>,
    /// What entries know by number.
    pub(super) beside: Beside,
    /// Slots and directions by what their packets are found by. Of several connections with one key only the last one is in it.
    index: Index,
    /// Connections whose answers nobody looked for yet: of those the index has only clients' packets.
    unanswered: Vec<ConnectionId>,
    /// When to look at a connection again; packets that put its end off leave its entry here as it is.
    timers: BinaryHeap<Reverse<(Nanos, ConnectionId, u64)>>,
}

impl Connections {
    /// The connection of a packet, and which way the packet goes.
    pub(super) fn find(&mut self, key: &FlowKey) -> Option<(ConnectionId, Direction)> {
        self.enter_answers();
        self.find_entered(key, key.fingerprint())
    }

    fn find_entered(&self, key: &FlowKey, fingerprint: Fingerprint) -> Option<(ConnectionId, Direction)> {
        self.index.all(fingerprint).map(entry_of).find(|(id, direction)| self.has_key(*id, *direction, key))
    }

    /// Whether a connection's packets in a direction have that key.
    fn has_key(&self, id: ConnectionId, direction: Direction, key: &FlowKey) -> bool {
        self.key(id, direction).is_some_and(|own| own == *key)
    }

    /// The key of a connection's packets in a direction.
    fn key(&self, id: ConnectionId, direction: Direction) -> Option<FlowKey> {
        let entry = self.entry(id)?;
        if let Some(connection) = self.beside.whole(entry) {
            return Some(connection.key(direction));
        }
        let binding = self.beside.bindings.get(entry.binding)?;
        let protocol = binding.protocol;
        Some(match direction {
            Direction::In => {
                let source = SocketAddr::new(self.beside.client(entry, binding), entry.client_port);
                FlowKey { protocol, source, destination: binding.service_end }
            }
            Direction::Out => {
                let destination = SocketAddr::new(*self.beside.locals.get(entry.local)?, entry.local_port);
                FlowKey { protocol, source: binding.real, destination }
            }
        })
    }

    /// The connection of a client's packet to a service in lane. Such a service has no local address: so it does not matter
    /// that the index may not have all answers.
    #[inline(never)]
    pub(super) fn find_flow(&self, flow: &Flow, fingerprint: Fingerprint) -> Option<(ConnectionId, Direction)> {
        let key = self.flow_key(flow)?;
        self.find_entered(&key, fingerprint)
    }

    /// The key of a flow.
    fn flow_key(&self, flow: &Flow) -> Option<FlowKey> {
        let (protocol, destination) = *self.beside.ends.get(flow.end)?;
        Some(FlowKey { protocol, source: SocketAddr::new(flow.client, flow.port), destination })
    }

    /// Of the first connection that the index has for the fingerprint of a client's packet, the place.
    #[inline]
    pub(super) fn candidate(&self, fingerprint: Fingerprint) -> ConnectionId {
        match self.index.first(fingerprint).map(entry_of) {
            Some((id, Direction::In)) => id,
            _ => ConnectionId::NONE,
        }
    }

    /// Asks memory for a connection.
    #[inline]
    pub(super) fn prefetch(&self, id: ConnectionId) {
        self.entries.prefetch(id.0);
    }

    /// Asks memory for where the search for a key begins.
    #[inline]
    pub(super) fn prefetch_index(&self, key: Fingerprint) {
        self.index.prefetch(key);
    }

    /// Enters a connection.
    pub(super) fn insert(&mut self, connection: Connection) -> ConnectionId {
        self.enter_answers();
        let keys = [Direction::Out, Direction::In].map(|direction| (direction, connection.key(direction)));
        let id = self.put_anew(connection, &Entry::EMPTY);
        for (direction, key) in keys {
            self.enter(id, direction, &key, key.fingerprint());
        }
        id
    }

    /// Enters the connection of a flow in lane, of which a search found none. Its entry is most likely like another.
    pub(super) fn open(&mut self, connection: Connection, fingerprint: Fingerprint, like: &Entry) {
        let id = self.put_anew(connection, like);
        self.index.insert(fingerprint, place_of(id, Direction::In));
        self.unanswered.push(id);
    }

    fn put_anew(&mut self, connection: Connection, like: &Entry) -> ConnectionId {
        let entry = self.beside.put(connection, like);
        let id = self.free.pop().unwrap_or_else(|| self.entries.push(Entry::EMPTY));
        if let Some(place) = self.entries.get_mut(id) {
            *place = entry;
        }
        self.look_at(ConnectionId(id), entry.number, entry.expires);
        ConnectionId(id)
    }

    /// Enters one direction of a connection, in the place of any other with its key.
    fn enter(&mut self, id: ConnectionId, direction: Direction, key: &FlowKey, fingerprint: Fingerprint) {
        if let Some((other, its)) = self.find_entered(key, fingerprint) {
            self.index.remove(fingerprint, place_of(other, its));
        }
        self.index.insert(fingerprint, place_of(id, direction));
    }

    /// Enters answers of all connections of which only clients' packets are entered. As long as the director sees no answers that
    /// never happens; when it sees some, memory is asked for many places at once.
    pub(super) fn enter_answers(&mut self) {
        const GROUP: usize = 64;
        if self.unanswered.is_empty() {
            return;
        }
        let mut unanswered = std::mem::take(&mut self.unanswered);
        for group in unanswered.chunks(GROUP) {
            let key = |id: &ConnectionId| self.key(*id, Direction::Out).map(|key| (*id, key, key.fingerprint()));
            let keys: Vec<(ConnectionId, FlowKey, Fingerprint)> = group.iter().filter_map(key).collect();
            keys.iter().for_each(|(.., fingerprint)| self.prefetch_index(*fingerprint));
            for (id, key, fingerprint) in keys {
                self.enter(id, Direction::Out, &key, fingerprint);
            }
        }
        unanswered.clear();
        self.unanswered = unanswered;
    }

    /// What stands in the place of a connection; none if no connection does.
    #[inline]
    pub(super) fn entry(&self, id: ConnectionId) -> Option<&Entry> {
        self.entries.get(id.0).filter(|entry| entry.is_taken())
    }

    /// The same, to move it on; its end must not come nearer unless somebody [looks at](Connections::look_at) it then.
    #[inline]
    pub(super) fn entry_mut(&mut self, id: ConnectionId) -> Option<&mut Entry> {
        self.entries.get_mut(id.0).filter(|entry| entry.is_taken())
    }

    /// Asks for a look at a connection at that time.
    pub(super) fn look_at(&mut self, id: ConnectionId, number: u64, when: Nanos) {
        self.timers.push(Reverse((when, id, number)));
    }

    /// Takes a connection out of its place for a while, so that it can be worked on; [`Connections::put_back`] ends that.
    pub(super) fn take(&mut self, id: ConnectionId) -> Option<Connection> {
        self.enter_answers();
        let entry = self.entries.get_mut(id.0).filter(|entry| entry.is_taken())?;
        let connection = self.beside.take(entry);
        entry.vacate();
        connection
    }

    /// Puts a connection back that was taken.
    pub(super) fn put_back(&mut self, id: ConnectionId, connection: Connection) {
        if let Some(entry) = self.entries.get_mut(id.0) {
            *entry = self.beside.put(connection, entry);
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

    /// Whether the connection that [`Connections::take_expired`] takes next ends without a word.
    pub(super) fn next_ends_quietly(&mut self, now: Nanos) -> Option<bool> {
        let id = self.next_expired(now)?;
        let entry = self.entry(id)?;
        let (protocol, state) = match self.beside.whole(entry) {
            Some(connection) if connection.handshake.is_some() => return Some(false),
            Some(connection) if connection.is_one_way() => return Some(true),
            Some(connection) => (connection.protocol, connection.state),
            None => (self.beside.bindings.get(entry.binding)?.protocol, entry.state),
        };
        Some(protocol != Protocol::TCP || state != State::Established)
    }

    /// The connection that ends next, by `now`. Timers of those whose end was put off are set anew.
    fn next_expired(&mut self, now: Nanos) -> Option<ConnectionId> {
        loop {
            let &Reverse((due, id, number)) = self.timers.peek().filter(|Reverse((due, ..))| *due <= now)?;
            match self.entry(id).filter(|entry| entry.number == number).map(|entry| entry.expires) {
                Some(expires) if expires <= due => return Some(id),
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
        let id = self.next_expired(now)?;
        let Reverse((due, ..)) = self.timers.pop()?;
        self.take(id).map(|connection| (due, id, connection))
    }

    /// When a connection has to be looked at next.
    #[inline]
    pub(super) fn next_timer(&self) -> Option<Nanos> {
        self.timers.peek().map(|Reverse((due, ..))| *due)
    }

    /// All connections.
    pub(super) fn iter(&self) -> impl Iterator<Item = Connection> {
        self.entries.iter().filter(|(_, entry)| entry.is_taken()).filter_map(|(_, entry)| self.beside.get(entry))
    }
}
