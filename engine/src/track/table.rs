//! The connection table: entries with two indices, by the client's view and by the real server's.
//!
//! It is split into shards by the client's address and port, which packets of both directions hold: batch works on all shards
//! at once, each by one thread. Nothing that can be observed depends on the shards.

use super::binding::{Binding, Bindings};
use super::connection::{Connection, ConnectionId, Entry, EntryFlags, Flags};
use super::index::{Fingerprint, Index};
use super::slab::Slab;
use crate::config::{ForwardingMethod, Protocol};
use crate::packet::FlowKey;
use foldhash::fast::FixedState;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many shards there are: enough for threads to be done at about the same time, and few enough that a window has many packets
/// for each, and that a processor's first cache holds the ends of all their lists while packets are put to them
/// (docs/benchmarks.md). More threads than this follow packets no faster.
pub const SHARDS: usize = 16;

/// Where the shard's number stands in a generation.
const SHARD_SHIFT: u32 = 24;

/// The table.
#[derive(Clone, Debug)]
pub struct Table {
    shards: Vec<Shard>,
    bindings: Bindings,
    /// How many entries each entry controls, of those that control any.
    controlled: HashMap<ConnectionId, u32, FixedState>,
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
        Table { shards, bindings: Bindings::default(), controlled: HashMap::default(), no_client_port: 0, strayed: 0, bound: 0 }
    }
}

/// A part of the table.
#[derive(Clone, Debug, Default)]
pub struct Shard {
    number: u32,
    slab: Slab<Entry>,
    /// IPv6 clients by slot; as long as is needed.
    wide: Vec<Ipv6Addr>,
    /// What controls entries, by slot; as long as is needed.
    controls: Vec<Option<ConnectionId>>,
    free: Vec<u32>,
    /// By client and virtual address and port; templates too.
    by_client: Index,
    /// NAT entries by client and real server.
    by_server: Index,
    /// How many entries were put in so far whose home this is (mod 2^32).
    born: u32,
    /// Entries were put in whose answers look like another one's: a client port that reached a real server by two virtual
    /// addresses.
    ambiguous: bool,
}

/// The seed is fixed: nothing that can be observed depends on the order of buckets.
const HASHER: FixedState = FixedState::with_seed(0x6c76_7363);

/// What a client's address and port give to hashes: the shard of the table, and a part of every fingerprint. Packets of both
/// directions hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHash(u64);

impl ClientHash {
    /// Of any client.
    #[inline]
    pub fn of(client: IpAddr, client_port: u16) -> ClientHash {
        match client {
            IpAddr::V4(v4) => ClientHash::of_v4(v4.into(), client_port),
            IpAddr::V6(v6) => ClientHash::of_v6(v6.into(), client_port),
        }
    }

    /// Of an IPv4 address.
    #[inline]
    pub fn of_v4(client: u32, client_port: u16) -> ClientHash {
        ClientHash::of_word(client.into(), client_port)
    }

    /// Of an IPv6 address.
    #[inline]
    pub fn of_v6(client: u128, client_port: u16) -> ClientHash {
        ClientHash::of_word(((client >> 64) as u64).rotate_left(31) ^ client as u64, client_port)
    }

    #[inline]
    fn of_word(word: u64, client_port: u16) -> ClientHash {
        let mixed = (word ^ u64::from(client_port) << 44).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ClientHash((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    /// The client's shard.
    #[inline]
    pub fn shard(self) -> u8 {
        (self.0 >> (64 - SHARDS.ilog2())) as u8
    }

    /// With the other end, what a connection is found by in every index.
    #[inline]
    pub fn with(self, other: OtherHash) -> Fingerprint {
        // Bits that the shard does not hold, and that depend on all of the address and the port.
        Fingerprint((self.0 >> 24) as u32 ^ other.0)
    }
}

/// What the other end of a connection gives to its fingerprint: the virtual address or the real server's, port and protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtherHash(u32);

impl OtherHash {
    /// Of that end.
    #[inline]
    pub fn of(address: IpAddr, port: u16, protocol: u8) -> OtherHash {
        OtherHash(HASHER.hash_one((address, port, protocol)) as u32)
    }
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

    /// What it is found by in every index.
    #[inline]
    pub fn fingerprint(&self) -> Fingerprint {
        let other = OtherHash::of(self.other, self.other_port, self.protocol);
        ClientHash::of(self.client, self.client_port).with(other)
    }

    /// The key under which packets of its client find a connection.
    fn of_client(connection: &Connection) -> ClientKey {
        ClientKey {
            protocol: connection.protocol.0,
            client: connection.client,
            client_port: connection.client_port,
            other: connection.virtual_address,
            other_port: connection.virtual_port,
        }
    }
}

impl Shard {
    fn get(&self, id: ConnectionId) -> Option<&Entry> {
        self.slab.get(id.slot()).filter(|entry| is_used(entry) && entry.generation == generation_of(id))
    }

    fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Entry> {
        self.slab.get_mut(id.slot()).filter(|entry| is_used(entry) && entry.generation == generation_of(id))
    }

    /// The entry in a slot that a lookup of this shard gave.
    #[inline]
    pub fn entry(&self, slot: u32) -> Option<&Entry> {
        self.slab.get(slot)
    }

    /// The same, to change.
    #[inline]
    pub fn at(&mut self, slot: u32) -> Option<&mut Entry> {
        self.slab.get_mut(slot)
    }

    /// The id of the entry in a slot.
    #[inline]
    pub fn id(&self, slot: u32) -> ConnectionId {
        self.slab.get(slot).map_or(ConnectionId::new(slot, u32::MAX), |entry| self.id_of(slot, entry))
    }

    fn id_of(&self, slot: u32, entry: &Entry) -> ConnectionId {
        let [low, middle, high] = entry.generation;
        ConnectionId::new(slot, self.number << SHARD_SHIFT | u32::from_le_bytes([low, middle, high, 0]))
    }

    /// The client of the entry in a slot.
    #[inline]
    pub fn client(&self, slot: u32, entry: &Entry) -> IpAddr {
        if entry.flags.contains(EntryFlags::WIDE) {
            self.wide.get(slot as usize).copied().unwrap_or(Ipv6Addr::UNSPECIFIED).into()
        } else {
            Ipv4Addr::from(entry.client).into()
        }
    }

    /// What controls the entry in a slot.
    fn control(&self, slot: u32, entry: &Entry) -> Option<ConnectionId> {
        let controlled = entry.flags.contains(EntryFlags::CONTROLLED);
        if controlled { self.controls.get(slot as usize).copied().flatten() } else { None }
    }

    fn set_control(&mut self, slot: u32, control: ConnectionId) {
        if self.controls.len() <= slot as usize {
            self.controls.resize(slot as usize + 1, None);
        }
        self.controls[slot as usize] = Some(control);
    }

    /// Whether the entry in a slot has that client.
    #[inline]
    pub fn has_client(&self, slot: u32, entry: &Entry, client: IpAddr, client_port: u16) -> bool {
        entry.client_port == client_port && self.client(slot, entry) == client
    }

    /// Whether a packet from a client looks for the entry in a slot, hidden or not.
    #[inline]
    fn is_clients(&self, slot: u32, entry: &Entry, binding: &Binding, key: &ClientKey) -> bool {
        self.has_client(slot, entry, key.client, key.client_port)
            && binding.virtual_port == key.other_port
            && binding.virtual_address == key.other
            && binding.protocol == Protocol(key.protocol)
    }

    /// Whether a packet from a real server looks for the entry in a slot.
    #[inline]
    fn is_servers(&self, slot: u32, entry: &Entry, binding: &Binding, key: &ClientKey) -> bool {
        self.has_client(slot, entry, key.client, key.client_port)
            && binding.server_port == key.other_port
            && binding.server_address == key.other
            && binding.protocol == Protocol(key.protocol)
    }

    fn client_key(&self, slot: u32, entry: &Entry, binding: &Binding) -> ClientKey {
        ClientKey {
            protocol: binding.protocol.0,
            client: self.client(slot, entry),
            client_port: entry.client_port,
            other: binding.virtual_address,
            other_port: binding.virtual_port,
        }
    }

    fn server_key(&self, slot: u32, entry: &Entry, binding: &Binding) -> ClientKey {
        ClientKey { other: binding.server_address, other_port: binding.server_port, ..self.client_key(slot, entry, binding) }
    }

    /// The slot of the first entry with that fingerprint: of a packet from a client, or an answer. It may be another one's; a slot
    /// that does not exist if there is none.
    #[inline]
    pub fn candidate(&self, fingerprint: Fingerprint, answer: bool) -> u32 {
        let index = if answer { &self.by_server } else { &self.by_client };
        index.first(fingerprint).unwrap_or(u32::MAX)
    }

    /// Asks memory for where the search for a candidate begins: it brings many at once about as fast as one.
    #[inline]
    pub fn prefetch_index(&self, fingerprint: Fingerprint, answer: bool) {
        let index = if answer { &self.by_server } else { &self.by_client };
        index.prefetch(fingerprint);
    }

    /// Asks memory for an entry.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        self.slab.prefetch(slot);
    }

    /// The entry of a packet from a client, its port known. `fits` sees those with the fingerprint.
    #[inline]
    pub fn find_client(&self, fingerprint: Fingerprint, fits: impl Fn(u32, &Entry) -> bool) -> Option<u32> {
        self.by_client.find(fingerprint, |slot| self.slab.get(slot).is_some_and(|entry| fits(slot, entry)))
    }

    /// The translated entry of a packet from a real server; the newest one, should there be several.
    #[inline]
    pub fn find_server(&self, fingerprint: Fingerprint, fits: impl Fn(u32, &Entry) -> bool) -> Option<u32> {
        let fits = |slot: u32| self.slab.get(slot).is_some_and(|entry| fits(slot, entry));
        if self.ambiguous {
            return self.by_server.all(fingerprint).filter(|slot| fits(*slot)).max_by(|one, other| self.by_age(one, other));
        }
        self.by_server.find(fingerprint, fits)
    }

    /// Which of two entries that look alike was put in first.
    fn by_age(&self, one: &u32, other: &u32) -> Ordering {
        let born = |slot: u32| self.slab.get(slot).map_or(0, |entry| entry.born);
        age(born(*one), born(*other))
    }

    /// Puts an entry into a free slot, without indices.
    #[inline]
    fn store(&mut self, client: IpAddr, mut entry: Entry) -> u32 {
        entry.flags.insert(EntryFlags::USED);
        entry.born = self.born;
        self.born = self.born.wrapping_add(1);
        let slot = match self.free.pop().and_then(|slot| Some((slot, self.slab.get_mut(slot)?))) {
            Some((slot, place)) => {
                let [low, middle, high] = place.generation;
                let [low, middle, high, _] = (u32::from_le_bytes([low, middle, high, 0]) + 1).to_le_bytes();
                entry.generation = [low, middle, high];
                *place = entry;
                slot
            }
            None => self.slab.push(entry),
        };
        self.set_client(slot, client);
        slot
    }

    #[inline]
    fn set_client(&mut self, slot: u32, client: IpAddr) {
        let Some(entry) = self.slab.get_mut(slot) else { return };
        entry.flags.set(EntryFlags::WIDE, client.is_ipv6());
        match client {
            IpAddr::V4(v4) => entry.client = v4.into(),
            IpAddr::V6(v6) => {
                if self.wide.len() <= slot as usize {
                    self.wide.resize(slot as usize + 1, Ipv6Addr::UNSPECIFIED);
                }
                self.wide[slot as usize] = v6;
            }
        }
    }

    /// Puts an entry in that no other one has the key of, and that is no template; what [`Shard::find_client`] finds.
    #[inline]
    pub fn add(&mut self, fingerprint: Fingerprint, client: IpAddr, entry: Entry) -> u32 {
        let slot = self.store(client, entry);
        self.by_client.insert(fingerprint, slot);
        slot
    }

    fn index(&mut self, slot: u32, bindings: &Bindings) {
        let Some(entry) = self.slab.get(slot) else { return };
        let key = self.client_key(slot, entry, bindings.get(entry.binding));
        self.by_client.insert(key.fingerprint(), slot);
        if let Some(fingerprint) = self.seek_server(slot, bindings) {
            self.index_server(slot, fingerprint, bindings);
        }
    }

    /// By what answers of an entry's server are found, when it became known after the entry was added: none if they are not
    /// translated. Memory is asked for where that belongs.
    pub fn seek_server(&self, slot: u32, bindings: &Bindings) -> Option<Fingerprint> {
        let entry = self.slab.get(slot)?;
        let binding = bindings.get(entry.binding);
        let fingerprint = is_translated(entry, binding).then(|| self.server_key(slot, entry, binding).fingerprint())?;
        self.by_server.prefetch(fingerprint);
        Some(fingerprint)
    }

    /// Indexes an entry by its server, with what [`Shard::seek_server`] said.
    pub fn index_server(&mut self, slot: u32, fingerprint: Fingerprint, bindings: &Bindings) {
        let Some(entry) = self.slab.get(slot) else { return };
        if !self.ambiguous {
            let key = self.server_key(slot, entry, bindings.get(entry.binding));
            let same = |slot: u32, entry: &Entry| self.is_servers(slot, entry, bindings.get(entry.binding), &key);
            self.ambiguous = self.find_server(fingerprint, same).is_some();
        }
        self.by_server.insert(fingerprint, slot);
    }

    fn unindex(&mut self, slot: u32, bindings: &Bindings) {
        let Some(entry) = self.slab.get(slot) else { return };
        let binding = bindings.get(entry.binding);
        self.by_client.remove(self.client_key(slot, entry, binding).fingerprint(), slot);
        if is_translated(entry, binding) {
            self.by_server.remove(self.server_key(slot, entry, binding).fingerprint(), slot);
        }
    }

    /// Takes out what [`Shard::add`] put in under that fingerprint, and nothing else has touched.
    pub fn take_back(&mut self, fingerprint: Fingerprint, slot: u32) {
        self.by_client.remove(fingerprint, slot);
        self.release(slot);
    }

    fn release(&mut self, slot: u32) {
        if let Some(entry) = self.slab.get_mut(slot) {
            entry.flags.remove(EntryFlags::USED);
            self.free.push(slot);
        }
    }
}

/// Which of two entries that look alike was put in first, by how many were before them.
fn age(one: u32, other: u32) -> Ordering {
    // By their difference, so that a wrapped counter does no harm.
    (one.wrapping_sub(other) as i32).cmp(&0)
}

fn is_used(entry: &Entry) -> bool {
    entry.flags.contains(EntryFlags::USED)
}

/// Whether answers find it by its server.
fn is_translated(entry: &Entry, binding: &Binding) -> bool {
    binding.method == ForwardingMethod::Nat && !entry.flags.contains(EntryFlags::TEMPLATE)
}

fn generation_of(id: ConnectionId) -> [u8; 3] {
    let [low, middle, high, _] = id.generation.to_le_bytes();
    [low, middle, high]
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

    /// All shards, to work on each alone, and the bindings of their entries. Only while [`Table::is_plain`], and only with plain
    /// entries.
    pub fn shards_mut(&mut self) -> (&mut [Shard], &Bindings) {
        (&mut self.shards, &self.bindings)
    }

    /// The bindings of all entries.
    pub fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// The number of a binding, for entries that are made in a shard. Those that no entry has may be forgotten when an entry is
    /// put in otherwise.
    pub fn bind(&mut self, binding: Binding) -> u32 {
        self.bindings.number(binding)
    }

    fn shard(&self, id: ConnectionId) -> &Shard {
        &self.shards[(id.generation >> SHARD_SHIFT) as usize % SHARDS]
    }

    fn shard_mut(&mut self, id: ConnectionId) -> &mut Shard {
        &mut self.shards[(id.generation >> SHARD_SHIFT) as usize % SHARDS]
    }

    fn home(&self, client: IpAddr, client_port: u16) -> &Shard {
        &self.shards[usize::from(ClientHash::of(client, client_port).shard())]
    }

    /// The entry, if it still lives.
    pub fn get(&self, id: ConnectionId) -> Option<Connection> {
        self.shard(id).get(id).map(|entry| self.whole(id, entry))
    }

    /// The entry's own part, if it still lives. Addresses, ports and the binding must not be changed here.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Entry> {
        self.shard_mut(id).get_mut(id)
    }

    fn whole(&self, id: ConnectionId, entry: &Entry) -> Connection {
        let client = self.shard(id).client(id.slot(), entry);
        let control = self.shard(id).control(id.slot(), entry);
        Connection::whole(entry, self.bindings.get(entry.binding), client, control)
    }

    /// The entry that controls that one.
    pub fn control_of(&self, id: ConnectionId) -> Option<ConnectionId> {
        let shard = self.shard(id);
        shard.get(id).and_then(|entry| shard.control(id.slot(), entry))
    }

    /// How many entries that one controls.
    pub fn controlled(&self, id: ConnectionId) -> u32 {
        self.controlled.get(&id).copied().unwrap_or(0)
    }

    /// An entry has one more that it controls.
    pub fn control(&mut self, id: ConnectionId) {
        *self.controlled.entry(id).or_default() += 1;
    }

    /// An entry has one less that it controls.
    pub fn uncontrol(&mut self, id: ConnectionId) {
        if let Some(count) = self.controlled.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.controlled.remove(&id);
            }
        }
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (ConnectionId, Connection)> {
        self.shards.iter().flat_map(move |shard| {
            let entries = shard.slab.iter().filter(|(_, entry)| is_used(entry));
            entries.map(move |(slot, entry)| {
                let id = shard.id_of(slot, entry);
                (id, self.whole(id, entry))
            })
        })
    }

    /// The number of a binding; when there are very many, those without entries are forgotten.
    fn binding_number(&mut self, binding: Binding) -> u32 {
        if self.bindings.are_too_many() {
            let entries = self.shards.iter().flat_map(|shard| shard.slab.iter()).filter(|(_, entry)| is_used(entry));
            self.bindings.keep(entries.map(|(_, entry)| entry.binding));
        }
        self.bindings.number(binding)
    }

    /// Puts an entry in. An entry with the same key is hidden from now on: the newer one wins.
    pub fn insert(&mut self, connection: &Connection) -> ConnectionId {
        let binding = self.binding_number(connection.binding());
        let mut entry = connection.entry(binding);
        let Flags { one_packet, by_data, no_client_port, template, .. } = connection.flags;
        if !one_packet
            && !by_data
            && let Some(older) = self.find_same(connection)
            && let Some(older) = self.get_mut(older)
        {
            older.flags.insert(EntryFlags::HIDDEN);
            entry.flags.insert(EntryFlags::COVERS);
        }
        self.no_client_port += u32::from(no_client_port);
        self.bound += u32::from(connection.control.is_some() || template);
        let shard = &mut self.shards[usize::from(ClientHash::of(connection.client, connection.client_port).shard())];
        let slot = shard.store(connection.client, entry);
        if let Some(control) = connection.control {
            shard.set_control(slot, control);
        }
        if !one_packet {
            shard.index(slot, &self.bindings);
        }
        shard.id(slot)
    }

    /// The entry that a new one with the same key hides.
    fn find_same(&self, new: &Connection) -> Option<ConnectionId> {
        let kind = EntryFlags::TEMPLATE | EntryFlags::NO_CLIENT_PORT;
        let mut wanted = EntryFlags::empty();
        wanted.set(EntryFlags::TEMPLATE, new.flags.template);
        wanted.set(EntryFlags::NO_CLIENT_PORT, new.flags.no_client_port);
        self.find_by_client(&ClientKey::of_client(new), |flags, _| flags & kind == wanted)
    }

    /// Looks in the client's shard, then among the strayed. Hidden entries are not found.
    fn find_by_client(&self, key: &ClientKey, fits: impl Fn(EntryFlags, &Binding) -> bool) -> Option<ConnectionId> {
        let fingerprint = key.fingerprint();
        let find = |shard: &Shard| {
            let found = shard.find_client(fingerprint, |slot, entry| {
                let binding = self.bindings.get(entry.binding);
                !entry.flags.contains(EntryFlags::HIDDEN)
                    && shard.is_clients(slot, entry, binding, key)
                    && fits(entry.flags, binding)
            });
            found.map(|slot| shard.id(slot))
        };
        find(self.home(key.client, key.client_port))
            .or_else(|| if self.strayed > 0 { find(self.home(key.client, 0)) } else { None })
    }

    fn find_by_server(&self, key: &ClientKey) -> Option<ConnectionId> {
        let fingerprint = key.fingerprint();
        let find = |shard: &Shard| {
            let fits = |slot, entry: &Entry| shard.is_servers(slot, entry, self.bindings.get(entry.binding), key);
            shard.find_server(fingerprint, fits).map(|slot| shard.id(slot))
        };
        find(self.home(key.client, key.client_port))
            .or_else(|| if self.strayed > 0 { find(self.home(key.client, 0)) } else { None })
    }

    fn unindex(&mut self, id: ConnectionId) {
        self.shards[(id.generation >> SHARD_SHIFT) as usize % SHARDS].unindex(id.slot(), &self.bindings);
    }

    fn index(&mut self, id: ConnectionId) {
        self.shards[(id.generation >> SHARD_SHIFT) as usize % SHARDS].index(id.slot(), &self.bindings);
    }

    /// Takes an entry out.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let removed = self.get(id)?;
        let Flags { one_packet, detached, covers, hidden, no_client_port, template, .. } = removed.flags;
        if !one_packet && !detached {
            self.unindex(id);
        }
        self.strayed -= u32::from(self.has_strayed(id, &removed));
        self.shard_mut(id).release(id.slot());
        if covers && !hidden {
            self.uncover(&removed);
        }
        self.controlled.remove(&id);
        self.no_client_port -= u32::from(no_client_port);
        self.bound -= u32::from(removed.control.is_some() || template);
        Some(removed)
    }

    /// Shows the entry again that a removed one hid.
    fn uncover(&mut self, removed: &Connection) {
        let key = ClientKey::of_client(removed);
        let fingerprint = key.fingerprint();
        let bindings = &self.bindings;
        let same = |shard: &Shard, slot: u32| {
            let Some(entry) = shard.slab.get(slot) else { return false };
            entry.flags.contains(EntryFlags::HIDDEN)
                && entry.flags.contains(EntryFlags::TEMPLATE) == removed.flags.template
                && entry.flags.contains(EntryFlags::NO_CLIENT_PORT) == removed.flags.no_client_port
                && shard.is_clients(slot, entry, bindings.get(entry.binding), &key)
        };
        let homes = [removed.client_port, 0].map(|port| usize::from(ClientHash::of(removed.client, port).shard()));
        let newest = homes.into_iter().filter_map(|number| {
            let shard = &self.shards[number];
            let hidden = shard.by_client.all(fingerprint).filter(|slot| same(shard, *slot));
            let slot = hidden.max_by(|one, other| shard.by_age(one, other))?;
            Some((number, slot, shard.slab.get(slot)?.born))
        });
        if let Some((number, slot, _)) = newest.max_by(|(.., one), (.., other)| age(*one, *other))
            && let Some(entry) = self.shards[number].slab.get_mut(slot)
        {
            entry.flags.remove(EntryFlags::HIDDEN);
            // It may hide older ones that it never met: they were detached when it came.
            entry.flags.insert(EntryFlags::COVERS);
        }
    }

    /// Takes an entry out of the indices; it stays until it is removed or attached again. None if it is detached already.
    pub fn detach(&mut self, id: ConnectionId) -> Option<&mut Entry> {
        let flags = self.shard(id).get(id)?.flags;
        if flags.intersects(EntryFlags::DETACHED | EntryFlags::ONE_PACKET) {
            return None;
        }
        self.unindex(id);
        let entry = self.get_mut(id)?;
        entry.flags.insert(EntryFlags::HIDDEN | EntryFlags::DETACHED);
        entry.flags.remove(EntryFlags::COVERS);
        if flags.contains(EntryFlags::COVERS)
            && !flags.contains(EntryFlags::HIDDEN)
            && let Some(detached) = self.get(id)
        {
            self.uncover(&detached);
        }
        self.get_mut(id)
    }

    /// Puts a detached entry into the indices again; a newer one with the same key still wins.
    pub fn attach(&mut self, id: ConnectionId) {
        let Some(attached) = self.get(id).filter(|connection| connection.flags.detached) else { return };
        let born = self.shard(id).get(id).map_or(0, |entry| entry.born);
        let visible = self.find_same(&attached);
        let mut newer = false;
        if let Some(visible) = visible.and_then(|visible| self.get_mut(visible)) {
            newer = age(visible.born, born).is_gt();
            visible.flags.insert(if newer { EntryFlags::COVERS } else { EntryFlags::HIDDEN });
        }
        if let Some(entry) = self.get_mut(id) {
            entry.flags.set(EntryFlags::HIDDEN, newer);
            if visible.is_some() && !newer {
                entry.flags.insert(EntryFlags::COVERS);
            }
            entry.flags.remove(EntryFlags::DETACHED);
        }
        self.index(id);
    }

    fn has_strayed(&self, id: ConnectionId, connection: &Connection) -> bool {
        self.shard(id).number != u32::from(ClientHash::of(connection.client, connection.client_port).shard())
    }

    /// Changes an entry's addresses or ports; it counts as the newest under its new key. It stays in its shard, and what controls
    /// it stays the same.
    pub fn rekey(&mut self, id: ConnectionId, change: impl FnOnce(&mut Connection)) {
        let Some(old) = self.get(id).filter(|connection| !connection.flags.detached) else { return };
        self.unindex(id);
        if old.flags.covers && !old.flags.hidden {
            self.uncover(&old);
        }
        let mut new = old.clone();
        change(&mut new);
        (new.flags.hidden, new.flags.covers) = (false, false);
        let mut entry = new.entry(self.binding_number(new.binding()));
        entry.flags.insert(EntryFlags::USED);
        if let Some(older) = self.find_same(&new).and_then(|older| self.get_mut(older)) {
            older.flags.insert(EntryFlags::HIDDEN);
            entry.flags.insert(EntryFlags::COVERS);
        }
        // All that look alike have the same home, and are told apart by its count, in whichever shard they are.
        let home = &mut self.shards[usize::from(ClientHash::of(new.client, new.client_port).shard())];
        entry.born = home.born;
        home.born = home.born.wrapping_add(1);
        let shard = self.shard_mut(id);
        if let Some(place) = shard.get_mut(id) {
            entry.generation = place.generation;
            *place = entry;
        }
        shard.set_client(id.slot(), new.client);
        self.index(id);
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
        self.find_by_client(&ClientKey::of(flow, client_port), |flags, _| {
            flags.contains(EntryFlags::NO_CLIENT_PORT) == no_client_port && !flags.contains(EntryFlags::TEMPLATE)
        })
    }

    /// The connection of a packet from a real server (section 3.3, "Out"): by the server's own address under NAT, by the
    /// virtual address otherwise.
    pub fn lookup_out(&self, flow: &FlowKey) -> Option<ConnectionId> {
        let key = ClientKey::of_answer(flow);
        self.find_by_server(&key).or_else(|| {
            self.find_by_client(&key, |flags, binding| {
                !flags.contains(EntryFlags::TEMPLATE) && binding.method != ForwardingMethod::Nat
            })
        })
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
        let kind = EntryFlags::TEMPLATE | EntryFlags::BY_DATA;
        self.find_by_client(&key, |flags, _| flags & kind == EntryFlags::TEMPLATE)
    }
}

#[cfg(test)]
mod tests;
