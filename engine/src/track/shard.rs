//! A part of the connection table: entries with two indices, by the client's view and by the real server's.

use super::binding::{Binding, Bindings};
use super::connection::{ConnectionId, Entry, EntryFlags};
use super::index::{Fingerprint, Index};
use super::key::ClientKey;
use super::slab::Slab;
use crate::config::{ForwardingMethod, Protocol};
use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many shards there are: enough for threads to be done at about the same time, and few enough that a window has many packets
/// for each, and that a processor's first cache holds the ends of all their lists while packets are put to them
/// (docs/benchmarks.md). More threads than this follow packets no faster.
pub const SHARDS: usize = 16;

/// Where the shard's number stands in a generation.
const SHARD_SHIFT: u32 = 24;

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

impl Shard {
    /// An empty one with that number.
    pub(super) fn new(number: usize) -> Shard {
        Shard { number: number as u32, ..Shard::default() }
    }

    /// The number of the shard that an entry is in.
    pub(super) fn of(id: ConnectionId) -> usize {
        (id.generation >> SHARD_SHIFT) as usize % SHARDS
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.slab.len() - self.free.len()
    }

    /// All entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = (ConnectionId, &Entry)> {
        self.slab.iter().filter(|(_, entry)| is_used(entry)).map(|(slot, entry)| (self.id_of(slot, entry), entry))
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Entry> {
        self.slab.get(id.slot()).filter(|entry| is_used(entry) && entry.generation == generation_of(id))
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Entry> {
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
    pub(super) fn control(&self, slot: u32, entry: &Entry) -> Option<ConnectionId> {
        let controlled = entry.flags.contains(EntryFlags::CONTROLLED);
        if controlled { self.controls.get(slot as usize).copied().flatten() } else { None }
    }

    pub(super) fn set_control(&mut self, slot: u32, control: ConnectionId) {
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
    pub(super) fn is_clients(&self, slot: u32, entry: &Entry, binding: &Binding, key: &ClientKey) -> bool {
        self.has_client(slot, entry, key.client, key.client_port)
            && binding.virtual_port == key.other_port
            && binding.virtual_address == key.other
            && binding.protocol == Protocol(key.protocol)
    }

    /// Whether a packet from a real server looks for the entry in a slot.
    #[inline]
    pub(super) fn is_servers(&self, slot: u32, entry: &Entry, binding: &Binding, key: &ClientKey) -> bool {
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

    /// The newest entry with that fingerprint that fits, with its age.
    pub(super) fn newest(&self, fingerprint: Fingerprint, fits: impl Fn(u32, &Entry) -> bool) -> Option<(u32, u32)> {
        let entries = self.by_client.all(fingerprint).filter_map(|slot| Some((slot, self.slab.get(slot)?)));
        let fitting = entries.filter(|(slot, entry)| fits(*slot, entry)).map(|(slot, entry)| (slot, entry.born));
        fitting.max_by(|(_, one), (_, other)| age(*one, *other))
    }

    /// Which of two entries that look alike was put in first.
    fn by_age(&self, one: &u32, other: &u32) -> Ordering {
        let born = |slot: u32| self.slab.get(slot).map_or(0, |entry| entry.born);
        age(born(*one), born(*other))
    }

    /// What an entry is born as that counts as the newest from now on.
    #[inline]
    pub(super) fn next_born(&mut self) -> u32 {
        let born = self.born;
        self.born = born.wrapping_add(1);
        born
    }

    /// Puts another entry in the place of one, without indices. It keeps the id.
    pub(super) fn replace(&mut self, id: ConnectionId, client: IpAddr, entry: Entry) {
        if let Some(place) = self.get_mut(id) {
            let generation = place.generation;
            *place = Entry { generation, ..entry };
        }
        self.set_client(id.slot(), client);
    }

    /// Puts an entry into a free slot, without indices.
    #[inline]
    pub(super) fn store(&mut self, client: IpAddr, mut entry: Entry) -> u32 {
        entry.flags.insert(EntryFlags::USED);
        entry.born = self.next_born();
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

    pub(super) fn index(&mut self, slot: u32, bindings: &Bindings) {
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

    pub(super) fn unindex(&mut self, slot: u32, bindings: &Bindings) {
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

    pub(super) fn release(&mut self, slot: u32) {
        if let Some(entry) = self.slab.get_mut(slot) {
            entry.flags.remove(EntryFlags::USED);
            self.free.push(slot);
        }
    }
}

/// Which of two entries that look alike was put in first, by how many were before them.
pub(super) fn age(one: u32, other: u32) -> Ordering {
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
