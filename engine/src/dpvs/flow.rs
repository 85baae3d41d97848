//! What packets are told apart by, and what they are looked up by.

use crate::config::Protocol;
use crate::track::Fingerprint;
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
        EndHash::of(self.protocol, self.destination).with(self.source.ip(), self.source.port())
    }
}

/// The destination's part of a fingerprint, which all packets to a service have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndHash(u64);

impl EndHash {
    /// That of a destination.
    #[inline]
    pub(crate) fn of(protocol: Protocol, end: SocketAddr) -> EndHash {
        // Turned, so that it matters which of two ends is the source.
        EndHash(hash(end.ip(), end.port()).rotate_left(32) ^ u64::from(protocol.0))
    }

    /// The fingerprint of packets from this source.
    #[inline]
    pub(crate) fn with(self, address: IpAddr, port: u16) -> Fingerprint {
        Fingerprint((mix(hash(address, port), self.0) >> 32) as u32)
    }
}

#[inline]
fn hash(address: IpAddr, port: u16) -> u64 {
    let seed = 0x2545_f491_4f6c_dd1d ^ u64::from(port);
    match address {
        IpAddr::V4(address) => mix(seed, u64::from(u32::from(address)) << 32),
        IpAddr::V6(address) => mix(mix(seed, (u128::from(address) >> 64) as u64), u128::from(address) as u64),
    }
}

#[inline]
fn mix(sum: u64, word: u64) -> u64 {
    let product = u128::from(sum ^ word) * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}

/// A client's packets to a service in lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// The client.
    pub(crate) client: IpAddr,
    /// Its port.
    pub(crate) port: u16,
    /// The number of the service's protocol and end.
    pub(crate) end: u16,
}
