//! The connection table: a slab of entries with two indices, by the client's view and by the real server's.

use super::connection::{Connection, ConnectionId};
use crate::config::Protocol;
use crate::packet::FlowKey;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::net::IpAddr;

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    slab: Vec<Connection>,
    free: Vec<u32>,
    /// By client and virtual address and port; templates too.
    by_client: HashTable<u32>,
    /// NAT entries by client and real server.
    by_server: HashTable<u32>,
    /// Entries whose client port is not known yet, anywhere in the table.
    no_client_port: u32,
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

impl Table {
    /// How many entries there are, templates and hidden ones too.
    pub fn len(&self) -> usize {
        self.slab.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry, if it still lives.
    pub fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.slab.get(id.slot as usize).filter(|connection| connection.used && connection.generation == id.generation)
    }

    /// The entry, if it still lives. Addresses and ports must not be changed here.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slab.get_mut(id.slot as usize).filter(|connection| connection.used && connection.generation == id.generation)
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.slab
            .iter()
            .enumerate()
            .filter(|(_, connection)| connection.used)
            .map(|(slot, connection)| (ConnectionId { slot: slot as u32, generation: connection.generation }, connection))
    }

    /// Puts an entry in. An entry with the same key is hidden from now on: the newer one wins.
    pub fn insert(&mut self, mut connection: Connection) -> ConnectionId {
        connection.used = true;
        if !connection.flags.one_packet
            && !connection.flags.by_data
            && let Some(older) = self.find_client(&connection, connection.flags.template)
        {
            self.slab[older as usize].flags.hidden = true;
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                connection.generation = self.slab[slot as usize].generation.wrapping_add(1);
                self.slab[slot as usize] = connection;
                slot
            }
            None => {
                self.slab.push(connection);
                (self.slab.len() - 1) as u32
            }
        };
        let id = ConnectionId { slot, generation: self.slab[slot as usize].generation };
        if !self.slab[slot as usize].flags.one_packet {
            self.index(slot);
        }
        id
    }

    fn find_client(&self, key: &Connection, template: bool) -> Option<u32> {
        let slab = &self.slab;
        self.by_client
            .find(client_hash(key), |slot| {
                let c = &slab[*slot as usize];
                c.protocol == key.protocol
                    && c.client_port == key.client_port
                    && c.virtual_port == key.virtual_port
                    && c.client == key.client
                    && c.virtual_address == key.virtual_address
                    && c.flags.template == template
                    && c.flags.no_client_port == key.flags.no_client_port
                    && !c.flags.hidden
            })
            .copied()
    }

    fn index(&mut self, slot: u32) {
        let Table { slab, by_client, by_server, no_client_port, .. } = self;
        let connection = &slab[slot as usize];
        by_client.insert_unique(client_hash(connection), slot, |slot| client_hash(&slab[*slot as usize]));
        if connection.is_nat() && !connection.flags.template {
            by_server.insert_unique(server_hash(connection), slot, |slot| server_hash(&slab[*slot as usize]));
        }
        *no_client_port += u32::from(connection.flags.no_client_port);
    }

    fn unindex(&mut self, slot: u32) {
        let connection = &self.slab[slot as usize];
        self.no_client_port -= u32::from(connection.flags.no_client_port);
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

    /// Takes an entry out.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.get(id)?.clone();
        if !connection.flags.one_packet {
            self.unindex(id.slot);
        }
        self.slab[id.slot as usize].used = false;
        self.free.push(id.slot);
        Some(connection)
    }

    /// Changes an entry's addresses or ports.
    pub fn rekey(&mut self, id: ConnectionId, change: impl FnOnce(&mut Connection)) {
        if self.get(id).is_none() {
            return;
        }
        self.unindex(id.slot);
        change(&mut self.slab[id.slot as usize]);
        self.index(id.slot);
    }

    fn id(&self, slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: self.slab[slot as usize].generation }
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
        let hash = hash(flow.protocol, flow.source, client_port, flow.destination, flow.destination_port);
        let slab = &self.slab;
        let slot = self.by_client.find(hash, |slot| {
            let c = &slab[*slot as usize];
            c.client_port == client_port
                && c.virtual_port == flow.destination_port
                && c.client == flow.source
                && c.virtual_address == flow.destination
                && c.protocol == Protocol(flow.protocol)
                && c.flags.no_client_port == no_client_port
                && !c.flags.template
                && !c.flags.hidden
        })?;
        Some(self.id(*slot))
    }

    /// The connection of a packet from a real server (section 3.3, "Out"): by the server's own address under NAT, by the
    /// virtual address otherwise.
    pub fn lookup_out(&self, flow: &FlowKey) -> Option<ConnectionId> {
        let hash = hash(flow.protocol, flow.destination, flow.destination_port, flow.source, flow.source_port);
        let slab = &self.slab;
        let translated = self.by_server.find(hash, |slot| {
            let c = &slab[*slot as usize];
            c.client_port == flow.destination_port
                && c.server_port == flow.source_port
                && c.client == flow.destination
                && c.server_address == flow.source
                && c.protocol == Protocol(flow.protocol)
                && !c.flags.hidden
        });
        let slot = translated.or_else(|| {
            self.by_client.find(hash, |slot| {
                let c = &slab[*slot as usize];
                c.client_port == flow.destination_port
                    && c.virtual_port == flow.source_port
                    && c.client == flow.destination
                    && c.virtual_address == flow.source
                    && c.protocol == Protocol(flow.protocol)
                    && !c.flags.template
                    && !c.flags.hidden
                    && !c.is_nat()
            })
        })?;
        Some(self.id(*slot))
    }

    /// The template with that key.
    pub fn lookup_template(
        &self,
        protocol: Protocol,
        client: IpAddr,
        virtual_address: IpAddr,
        virtual_port: u16,
    ) -> Option<ConnectionId> {
        let slab = &self.slab;
        let slot = self.by_client.find(hash(protocol.0, client, 0, virtual_address, virtual_port), |slot| {
            let c = &slab[*slot as usize];
            c.flags.template
                && !c.flags.by_data
                && !c.flags.hidden
                && c.client_port == 0
                && c.virtual_port == virtual_port
                && c.client == client
                && c.virtual_address == virtual_address
                && c.protocol == protocol
        })?;
        Some(self.id(*slot))
    }
}
