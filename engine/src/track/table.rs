//! The connection table: entries with two indices, by the client's view and by the real server's.
//!
//! It is split into shards by the client's address and port, which packets of both directions hold: batch works on all shards
//! at once, each by one thread, and a shard fits into a core's own cache. Nothing that can be observed depends on the shards.

use super::connection::{Connection, ConnectionId};
use crate::config::Protocol;
use crate::packet::FlowKey;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::net::IpAddr;

/// How many shards there are. A million connections make shards of about half a megabyte.
pub const SHARDS: usize = 256;

/// Where the shard's number stands in a generation.
const SHARD_SHIFT: u32 = 24;

/// The table.
#[derive(Clone, Debug)]
pub struct Table {
    shards: Vec<Shard>,
    /// Entries whose client port is not known yet, anywhere in the table.
    no_client_port: u32,
    /// Entries whose client port was not known when they were put in: they stay in the shard of client port 0.
    strayed: u32,
    /// Entries that another one controls, and templates.
    bound: u32,
}

impl Default for Table {
    fn default() -> Table {
        let shards = (0..SHARDS).map(|number| Shard { number: number as u32, ..Shard::default() }).collect();
        Table { shards, no_client_port: 0, strayed: 0, bound: 0 }
    }
}

/// A part of the table.
#[derive(Clone, Debug, Default)]
pub struct Shard {
    number: u32,
    slab: Vec<Connection>,
    free: Vec<u32>,
    /// By client and virtual address and port; templates too.
    by_client: HashTable<u32>,
    /// NAT entries by client and real server.
    by_server: HashTable<u32>,
    /// How many entries were put in so far (mod 2^32).
    born: u32,
    /// Entries were put in whose answers look like another one's: a client port that reached a real server by two virtual
    /// addresses.
    ambiguous: bool,
}

/// The seed is fixed: nothing that can be observed depends on the order of buckets.
const HASHER: FixedState = FixedState::with_seed(0x6c76_7363);

fn hash(protocol: u8, client: IpAddr, client_port: u16, other: IpAddr, other_port: u16) -> u64 {
    let ports = u32::from(client_port) << 16 | u32::from(other_port);
    match (client, other) {
        (IpAddr::V4(client), IpAddr::V4(other)) => {
            HASHER.hash_one((u64::from(u32::from(client)) << 32 | u64::from(u32::from(other)), ports, protocol))
        }
        _ => HASHER.hash_one((client, other, ports, protocol)),
    }
}

fn client_hash(c: &Connection) -> u64 {
    hash(c.protocol.0, c.client, c.client_port, c.virtual_address, c.virtual_port)
}

fn server_hash(c: &Connection) -> u64 {
    hash(c.protocol.0, c.client, c.client_port, c.server_address, c.server_port)
}

/// The shard of a client.
#[inline]
pub fn shard_of(client: IpAddr, client_port: u16) -> u8 {
    let word = match client {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => {
            let wide = u128::from(v6);
            ((wide >> 64) as u64).rotate_left(31) ^ wide as u64
        }
    };
    let mixed = (word ^ u64::from(client_port) << 44).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8
}

/// What a packet from a client looks for.
#[derive(Clone, Copy, Debug)]
pub struct ClientKey {
    /// Protocol number.
    pub protocol: u8,
    /// The client.
    pub client: IpAddr,
    /// Its port.
    pub client_port: u16,
    /// The virtual address, or the real server's.
    pub other: IpAddr,
    /// Its port.
    pub other_port: u16,
}

impl ClientKey {
    /// The key of a packet from a client, under that client port.
    pub fn of(flow: &FlowKey, client_port: u16) -> ClientKey {
        ClientKey {
            protocol: flow.protocol,
            client: flow.source,
            client_port,
            other: flow.destination,
            other_port: flow.destination_port,
        }
    }

    /// The key of a packet from a real server.
    pub fn of_answer(flow: &FlowKey) -> ClientKey {
        ClientKey {
            protocol: flow.protocol,
            client: flow.destination,
            client_port: flow.destination_port,
            other: flow.source,
            other_port: flow.source_port,
        }
    }

    /// Its hash in every index.
    #[inline]
    pub fn hash(&self) -> u64 {
        hash(self.protocol, self.client, self.client_port, self.other, self.other_port)
    }

    #[inline]
    fn is_clients(&self, c: &Connection) -> bool {
        c.client_port == self.client_port
            && c.virtual_port == self.other_port
            && c.client == self.client
            && c.virtual_address == self.other
            && c.protocol == Protocol(self.protocol)
            && !c.flags.hidden
    }

    #[inline]
    fn is_servers(&self, c: &Connection) -> bool {
        c.client_port == self.client_port
            && c.server_port == self.other_port
            && c.client == self.client
            && c.server_address == self.other
            && c.protocol == Protocol(self.protocol)
    }
}

impl Connection {
    fn client_key(&self) -> ClientKey {
        ClientKey {
            protocol: self.protocol.0,
            client: self.client,
            client_port: self.client_port,
            other: self.virtual_address,
            other_port: self.virtual_port,
        }
    }

    fn server_key(&self) -> ClientKey {
        ClientKey { other: self.server_address, other_port: self.server_port, ..self.client_key() }
    }
}

impl Shard {
    fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.slab.get(id.slot() as usize).filter(|connection| connection.used && connection.generation == id.generation)
    }

    fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slab.get_mut(id.slot() as usize).filter(|connection| connection.used && connection.generation == id.generation)
    }

    /// The entry in a slot that a lookup of this shard gave.
    #[inline]
    pub fn at(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slab.get_mut(slot as usize)
    }

    /// The id of the entry in a slot.
    #[inline]
    pub fn id(&self, slot: u32) -> ConnectionId {
        let generation = self.slab.get(slot as usize).map_or(u32::MAX, |connection| connection.generation);
        ConnectionId::new(slot, generation)
    }

    /// The entry of a packet from a client, its port known.
    #[inline]
    pub fn find_client(&self, key: &ClientKey, hash: u64) -> Option<u32> {
        let find = |slot: &u32| {
            let c = &self.slab[*slot as usize];
            key.is_clients(c) && !c.flags.no_client_port && !c.flags.template
        };
        self.by_client.find(hash, find).copied()
    }

    /// The translated entry of a packet from a real server; the newest one, should there be several.
    #[inline]
    pub fn find_server(&self, key: &ClientKey, hash: u64) -> Option<u32> {
        let fits = |slot: &u32| key.is_servers(&self.slab[*slot as usize]);
        if self.ambiguous {
            let found = self.by_server.iter_hash(hash).copied().filter(fits);
            return found.max_by_key(|slot| self.age_order(*slot));
        }
        self.by_server.find(hash, fits).copied()
    }

    /// Grows with the time at which the entry in a slot was put in.
    fn age_order(&self, slot: u32) -> u32 {
        // Relative to the next one, so that a wrapped counter does no harm.
        self.slab.get(slot as usize).map_or(0, |connection| connection.born.wrapping_sub(self.born))
    }

    /// Puts an entry into a free slot, without indices.
    fn store(&mut self, mut connection: Connection) -> u32 {
        connection.used = true;
        connection.born = self.born;
        self.born = self.born.wrapping_add(1);
        match self.free.pop() {
            Some(slot) => {
                let generation = self.slab[slot as usize].generation.wrapping_add(1) & ((1 << SHARD_SHIFT) - 1);
                connection.generation = self.number << SHARD_SHIFT | generation;
                self.slab[slot as usize] = connection;
                slot
            }
            None => {
                connection.generation = self.number << SHARD_SHIFT;
                if self.slab.len() == self.slab.capacity() {
                    // By a quarter, not by half: with millions of entries the difference is what memory allows.
                    self.slab.reserve_exact(self.slab.len() / 4 + 16);
                }
                self.slab.push(connection);
                (self.slab.len() - 1) as u32
            }
        }
    }

    /// Puts an entry in that no other one has the key of, and that is no template; what [`Shard::find_client`] finds.
    pub fn add(&mut self, connection: Connection) -> u32 {
        let slot = self.store(connection);
        self.index(slot);
        slot
    }

    fn index(&mut self, slot: u32) {
        let Shard { slab, by_client, .. } = self;
        by_client.insert_unique(client_hash(&slab[slot as usize]), slot, |slot| client_hash(&slab[*slot as usize]));
        self.index_server(slot);
    }

    /// Indexes an entry by its server, when it became known after the entry was added.
    pub fn index_server(&mut self, slot: u32) {
        let Shard { slab, by_server, ambiguous, .. } = self;
        let connection = &slab[slot as usize];
        if connection.is_nat() && !connection.flags.template {
            let hash = server_hash(connection);
            if !*ambiguous {
                let key = connection.server_key();
                *ambiguous = by_server.find(hash, |slot| key.is_servers(&slab[*slot as usize])).is_some();
            }
            by_server.insert_unique(hash, slot, |slot| server_hash(&slab[*slot as usize]));
        }
    }

    fn unindex(&mut self, slot: u32) {
        let connection = &self.slab[slot as usize];
        if let Ok(entry) = self.by_client.find_entry(client_hash(connection), |other| *other == slot) {
            entry.remove();
        }
        if connection.is_nat()
            && !connection.flags.template
            && let Ok(entry) = self.by_server.find_entry(server_hash(connection), |other| *other == slot)
        {
            entry.remove();
        }
    }

    /// Takes out what [`Shard::add`] put in.
    pub fn take_back(&mut self, slot: u32) {
        if self.slab.get(slot as usize).is_some_and(|connection| connection.used) {
            self.unindex(slot);
            self.release(slot);
        }
    }

    fn release(&mut self, slot: u32) {
        self.slab[slot as usize].used = false;
        self.free.push(slot);
    }
}

impl Table {
    /// How many entries there are, templates and hidden ones too.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.slab.len() - shard.free.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every entry stands for itself: no templates, none that another one controls, none without a client port.
    /// Then what happens in one shard concerns no other.
    pub fn is_plain(&self) -> bool {
        self.no_client_port == 0 && self.strayed == 0 && self.bound == 0
    }

    /// All shards, to work on each alone. Only while [`Table::is_plain`], and only with plain entries.
    pub fn shards_mut(&mut self) -> &mut [Shard] {
        &mut self.shards
    }

    fn shard(&self, id: ConnectionId) -> &Shard {
        &self.shards[(id.generation >> SHARD_SHIFT) as usize % SHARDS]
    }

    fn shard_mut(&mut self, id: ConnectionId) -> &mut Shard {
        &mut self.shards[(id.generation >> SHARD_SHIFT) as usize % SHARDS]
    }

    fn home(&self, client: IpAddr, client_port: u16) -> &Shard {
        &self.shards[usize::from(shard_of(client, client_port))]
    }

    /// The entry, if it still lives.
    pub fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.shard(id).get(id)
    }

    /// The entry, if it still lives. Addresses and ports must not be changed here.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.shard_mut(id).get_mut(id)
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.shards.iter().flat_map(|shard| {
            shard
                .slab
                .iter()
                .enumerate()
                .filter(|(_, connection)| connection.used)
                .map(|(slot, connection)| (ConnectionId::new(slot as u32, connection.generation), connection))
        })
    }

    /// Puts an entry in. An entry with the same key is hidden from now on: the newer one wins.
    pub fn insert(&mut self, mut connection: Connection) -> ConnectionId {
        if !connection.flags.one_packet
            && !connection.flags.by_data
            && let Some(older) = self.find_same(&connection)
            && let Some(older) = self.get_mut(older)
        {
            older.flags.hidden = true;
            connection.flags.covers = true;
        }
        self.no_client_port += u32::from(connection.flags.no_client_port);
        self.bound += u32::from(connection.control.is_some() || connection.flags.template);
        let one_packet = connection.flags.one_packet;
        let shard = &mut self.shards[usize::from(shard_of(connection.client, connection.client_port))];
        let slot = shard.store(connection);
        if !one_packet {
            shard.index(slot);
        }
        shard.id(slot)
    }

    /// The entry that a new one with the same key hides.
    fn find_same(&self, new: &Connection) -> Option<ConnectionId> {
        self.find_by_client(&new.client_key(), |c| {
            c.flags.template == new.flags.template && c.flags.no_client_port == new.flags.no_client_port
        })
    }

    /// Looks in the client's shard, then among the strayed.
    fn find_by_client(&self, key: &ClientKey, fits: impl Fn(&Connection) -> bool) -> Option<ConnectionId> {
        let hash = key.hash();
        let find = |shard: &Shard| {
            let fits = |slot: &u32| {
                let c = &shard.slab[*slot as usize];
                key.is_clients(c) && fits(c)
            };
            shard.by_client.find(hash, fits).map(|slot| shard.id(*slot))
        };
        find(self.home(key.client, key.client_port))
            .or_else(|| if self.strayed > 0 { find(self.home(key.client, 0)) } else { None })
    }

    fn find_by_server(&self, key: &ClientKey) -> Option<ConnectionId> {
        let hash = key.hash();
        let find = |shard: &Shard| shard.find_server(key, hash).map(|slot| shard.id(slot));
        find(self.home(key.client, key.client_port))
            .or_else(|| if self.strayed > 0 { find(self.home(key.client, 0)) } else { None })
    }

    /// Takes an entry out.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let shard = self.shard_mut(id);
        let connection = shard.get(id)?.clone();
        if !connection.flags.one_packet && !connection.flags.detached {
            shard.unindex(id.slot());
        }
        shard.release(id.slot());
        if connection.flags.covers && !connection.flags.hidden {
            self.uncover(&connection);
        }
        self.no_client_port -= u32::from(connection.flags.no_client_port);
        self.bound -= u32::from(connection.control.is_some() || connection.flags.template);
        self.strayed -= u32::from(self.has_strayed(id, &connection));
        Some(connection)
    }

    /// Shows the entry again that a removed one hid.
    fn uncover(&mut self, removed: &Connection) {
        let same = |c: &Connection| {
            c.flags.hidden
                && (c.flags.template, c.flags.no_client_port) == (removed.flags.template, removed.flags.no_client_port)
                && (c.protocol, c.client_port, c.virtual_port) == (removed.protocol, removed.client_port, removed.virtual_port)
                && (c.client, c.virtual_address) == (removed.client, removed.virtual_address)
        };
        let hash = client_hash(removed);
        for port in [removed.client_port, 0] {
            let shard = &mut self.shards[usize::from(shard_of(removed.client, port))];
            let found = shard.by_client.iter_hash(hash).copied().filter(|slot| same(&shard.slab[*slot as usize]));
            if let Some(slot) = found.max_by_key(|slot| shard.age_order(*slot)) {
                shard.slab[slot as usize].flags.hidden = false;
                return;
            }
        }
    }

    /// Takes an entry out of the indices; it stays until it is removed or attached again. None if it is detached already.
    pub fn detach(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let shard = self.shard_mut(id);
        let flags = shard.get(id)?.flags;
        if flags.detached || flags.one_packet {
            return None;
        }
        shard.unindex(id.slot());
        let connection = shard.get_mut(id)?;
        connection.flags.hidden = true;
        connection.flags.detached = true;
        connection.flags.covers = false;
        let detached = connection.clone();
        if flags.covers && !flags.hidden {
            self.uncover(&detached);
        }
        self.get_mut(id)
    }

    /// Puts a detached entry into the indices again; a newer one with the same key still wins.
    pub fn attach(&mut self, id: ConnectionId) {
        let Some(connection) = self.get(id).filter(|connection| connection.flags.detached) else { return };
        let born = connection.born;
        let visible = self.find_same(connection);
        let mut newer = false;
        if let Some(visible) = visible.and_then(|visible| self.get_mut(visible)) {
            newer = visible.born.wrapping_sub(born) < u32::MAX / 2;
            if newer { visible.flags.covers = true } else { visible.flags.hidden = true }
        }
        let shard = self.shard_mut(id);
        if let Some(connection) = shard.get_mut(id) {
            connection.flags.hidden = newer;
            connection.flags.covers |= visible.is_some() && !newer;
            connection.flags.detached = false;
        }
        shard.index(id.slot());
    }

    fn has_strayed(&self, id: ConnectionId, connection: &Connection) -> bool {
        self.shard(id).number != u32::from(shard_of(connection.client, connection.client_port))
    }

    /// Changes an entry's addresses or ports; it counts as the newest under its new key. It stays in its shard.
    pub fn rekey(&mut self, id: ConnectionId, change: impl FnOnce(&mut Connection)) {
        let Some(old) = self.get(id).filter(|connection| !connection.flags.detached).cloned() else { return };
        self.shard_mut(id).unindex(id.slot());
        if old.flags.covers && !old.flags.hidden {
            self.uncover(&old);
        }
        let shard = self.shard_mut(id);
        let born = shard.born;
        shard.born = born.wrapping_add(1);
        let Some(connection) = shard.get_mut(id) else { return };
        change(connection);
        connection.born = born;
        connection.flags.hidden = false;
        connection.flags.covers = false;
        let new = connection.clone();
        if let Some(older) = self.find_same(&new).and_then(|older| self.get_mut(older)) {
            older.flags.hidden = true;
            if let Some(connection) = self.get_mut(id) {
                connection.flags.covers = true;
            }
        }
        self.shard_mut(id).index(id.slot());
        let strayed = |connection| u32::from(self.has_strayed(id, connection));
        let (before, after) = (strayed(&old), strayed(&new));
        self.strayed = self.strayed - before + after;
        self.no_client_port -= u32::from(old.flags.no_client_port);
        self.no_client_port += u32::from(new.flags.no_client_port);
    }

    /// The connection of a packet from a client (reference/linux-ipvs.md section 3.3, "In").
    pub fn lookup_in(&self, flow: &FlowKey) -> Option<ConnectionId> {
        let exact = self.find_in(flow, flow.source_port, flow.source_port == 0);
        if exact.is_none() && self.no_client_port > 0 && flow.source_port != 0 {
            return self.find_in(flow, 0, true);
        }
        exact
    }

    fn find_in(&self, flow: &FlowKey, client_port: u16, no_client_port: bool) -> Option<ConnectionId> {
        self.find_by_client(&ClientKey::of(flow, client_port), |c| c.flags.no_client_port == no_client_port && !c.flags.template)
    }

    /// The connection of a packet from a real server (section 3.3, "Out"): by the server's own address under NAT, by the
    /// virtual address otherwise.
    pub fn lookup_out(&self, flow: &FlowKey) -> Option<ConnectionId> {
        let key = ClientKey::of_answer(flow);
        self.find_by_server(&key).or_else(|| self.find_by_client(&key, |c| !c.flags.template && !c.is_nat()))
    }

    /// The template with that key.
    pub fn lookup_template(
        &self,
        protocol: Protocol,
        client: IpAddr,
        virtual_address: IpAddr,
        virtual_port: u16,
    ) -> Option<ConnectionId> {
        let key = ClientKey { protocol: protocol.0, client, client_port: 0, other: virtual_address, other_port: virtual_port };
        self.find_by_client(&key, |c| c.flags.template && !c.flags.by_data)
    }
}

#[cfg(test)]
mod tests;
