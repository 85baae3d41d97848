//! The connection table: entries with two indices, by the client's view and by the real server's.
//!
//! It is split into shards by the client's address and port, which packets of both directions hold: batch works on all shards
//! at once, each by one thread. Nothing that can be observed depends on the shards.

use super::binding::{Binding, Bindings};
use super::connection::{Connection, ConnectionId, Entry, EntryFlags, Flags};
use super::key::{ClientHash, ClientKey};
use super::shard::{SHARDS, Shard, age};
use crate::config::{ForwardingMethod, Protocol};
use crate::packet::FlowKey;
use foldhash::fast::FixedState;
use std::collections::HashMap;
use std::net::IpAddr;

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
        let shards = (0..SHARDS).map(Shard::new).collect();
        Table { shards, bindings: Bindings::default(), controlled: HashMap::default(), no_client_port: 0, strayed: 0, bound: 0 }
    }
}

impl Table {
    /// How many entries there are, templates and hidden ones too.
    pub fn len(&self) -> usize {
        self.shards.iter().map(Shard::len).sum()
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
        &self.shards[Shard::of(id)]
    }

    fn shard_mut(&mut self, id: ConnectionId) -> &mut Shard {
        &mut self.shards[Shard::of(id)]
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
        self.shards.iter().flat_map(Shard::entries).map(|(id, entry)| (id, self.whole(id, entry)))
    }

    /// The number of a binding; when there are very many, those without entries are forgotten.
    fn binding_number(&mut self, binding: Binding) -> u32 {
        if self.bindings.are_too_many() {
            self.bindings.keep(self.shards.iter().flat_map(Shard::entries).map(|(_, entry)| entry.binding));
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
        self.shards[Shard::of(id)].unindex(id.slot(), &self.bindings);
    }

    fn index(&mut self, id: ConnectionId) {
        self.shards[Shard::of(id)].index(id.slot(), &self.bindings);
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
        let same = |shard: &Shard, slot: u32, entry: &Entry| {
            entry.flags.contains(EntryFlags::HIDDEN)
                && entry.flags.contains(EntryFlags::TEMPLATE) == removed.flags.template
                && entry.flags.contains(EntryFlags::NO_CLIENT_PORT) == removed.flags.no_client_port
                && shard.is_clients(slot, entry, bindings.get(entry.binding), &key)
        };
        let homes = [removed.client_port, 0].map(|port| usize::from(ClientHash::of(removed.client, port).shard()));
        let newest = homes.into_iter().filter_map(|number| {
            let shard = &self.shards[number];
            let (slot, born) = shard.newest(fingerprint, |slot, entry| same(shard, slot, entry))?;
            Some((number, slot, born))
        });
        if let Some((number, slot, _)) = newest.max_by(|(.., one), (.., other)| age(*one, *other))
            && let Some(entry) = self.shards[number].at(slot)
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
        Shard::of(id) != usize::from(ClientHash::of(connection.client, connection.client_port).shard())
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
        entry.born = home.next_born();
        self.shard_mut(id).replace(id, new.client, entry);
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
