//! What entries of the table are looked up by: keys, and what they give to hashes.

use super::connection::Connection;
use super::index::Fingerprint;
use super::shard::SHARDS;
use crate::packet::FlowKey;
use foldhash::fast::FixedState;
use std::hash::BuildHasher;
use std::net::IpAddr;

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
    pub(super) fn of_client(connection: &Connection) -> ClientKey {
        ClientKey {
            protocol: connection.protocol.0,
            client: connection.client,
            client_port: connection.client_port,
            other: connection.virtual_address,
            other_port: connection.virtual_port,
        }
    }
}
