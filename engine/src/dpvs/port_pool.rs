//! Local ports: each local address owns a few pools, each a queue of ports (reference/dpvs-fullnat.md section 4).
//!
//! A pool is chosen by the real server's address and port, so two real servers of the same pool share one sequence of
//! ports, and two of different pools get the same numbers. A freed port comes back after all others.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// The first port that is ever handed out.
const FIRST_PORT: u16 = 1025;
/// How many ports a pool holds, with one worker.
pub(super) const PORTS_PER_POOL: u32 = u16::MAX as u32 - FIRST_PORT as u32 + 1;

/// A local port that is in use, and where it goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalPort {
    /// The port, host order.
    pub(super) port: u16,
    pub(super) pool: u16,
}

/// The pools of one local address.
#[derive(Clone, Debug)]
pub(super) struct PortPools {
    pools: Vec<Pool>,
}

/// A queue of ports. Those that were never used are a range, so an idle address costs nothing.
#[derive(Clone, Debug, Default)]
struct Pool {
    used_once: u32,
    released: VecDeque<u16>,
    in_use: u32,
}

impl PortPools {
    /// `count` pools, all ports free.
    pub(super) fn new(count: u16) -> PortPools {
        PortPools { pools: vec![Pool::default(); usize::from(count.clamp(1, 128))] }
    }

    /// Takes the port at the head of the peer's queue; none when all are in use.
    pub(super) fn take(&mut self, peer: SocketAddr) -> Option<LocalPort> {
        let index = pool_index(peer, self.pools.len());
        let pool = self.pools.get_mut(index)?;
        let port = if pool.used_once < PORTS_PER_POOL {
            let port = u32::from(FIRST_PORT) + pool.used_once;
            pool.used_once += 1;
            port as u16
        } else {
            pool.released.pop_front()?
        };
        pool.in_use += 1;
        Some(LocalPort { port, pool: index as u16 })
    }

    /// Gives a port back: to the tail of its queue.
    pub(super) fn give_back(&mut self, port: LocalPort) {
        if let Some(pool) = self.pools.get_mut(usize::from(port.pool)) {
            pool.released.push_back(port.port);
            pool.in_use = pool.in_use.saturating_sub(1);
        }
    }

    /// How many ports of the fullest pool are in use.
    pub(super) fn fullest(&self) -> u32 {
        self.pools.iter().map(|pool| pool.in_use).max().unwrap_or(0)
    }
}

/// Which of `count` pools serves a peer.
fn pool_index(peer: SocketAddr, count: usize) -> usize {
    let hash = match peer.ip() {
        IpAddr::V4(address) => (u32::from(address) & 0xffff) + u32::from(peer.port()),
        IpAddr::V6(address) => {
            let mut words = [0; 5];
            words[0] = u32::from(u16::from_le_bytes(peer.port().to_be_bytes()));
            for (word, group) in words[1..].iter_mut().zip(address.octets().chunks_exact(4)) {
                *word = group.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
            }
            hash_words(&words, AF_INET6)
        }
    };
    hash as usize % count.max(1)
}

/// Linux's number of the IPv6 family, which seeds the hash.
const AF_INET6: u32 = 10;

/// Bob Jenkins' `hashword` of lookup3 (public domain), seeded as DPDK does.
fn hash_words(words: &[u32], seed: u32) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add((words.len() as u32) << 2).wrapping_add(seed);
    let [mut a, mut b, mut c] = [start; 3];
    let mut rest = words;
    while let [x, y, z, tail @ ..] = rest
        && !tail.is_empty()
    {
        a = a.wrapping_add(*x);
        b = b.wrapping_add(*y);
        c = c.wrapping_add(*z);
        for (rotate_c, rotate_a, rotate_b) in [(4, 6, 8), (16, 19, 4)] {
            a = a.wrapping_sub(c) ^ c.rotate_left(rotate_c);
            c = c.wrapping_add(b);
            b = b.wrapping_sub(a) ^ a.rotate_left(rotate_a);
            a = a.wrapping_add(c);
            c = c.wrapping_sub(b) ^ b.rotate_left(rotate_b);
            b = b.wrapping_add(a);
        }
        rest = tail;
    }
    let mut last = [0; 3];
    for (slot, word) in last.iter_mut().zip(rest) {
        *slot = *word;
    }
    a = a.wrapping_add(last[0]);
    b = b.wrapping_add(last[1]);
    c = c.wrapping_add(last[2]);
    for rotations in [[14, 11, 25], [16, 4, 14]] {
        c = (c ^ b).wrapping_sub(b.rotate_left(rotations[0]));
        a = (a ^ c).wrapping_sub(c.rotate_left(rotations[1]));
        b = (b ^ a).wrapping_sub(a.rotate_left(rotations[2]));
    }
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// Recorded in recordings/dpvs-1.10/fnat6-port-buckets: twenty real servers, one local address, round robin.
    #[test]
    fn ipv6_pools_are_those_of_the_recording() {
        let server = |index: u16| {
            let port = 8080 + index % 3;
            SocketAddr::new(format!("2001:db8:a::{:x}", 0x64 + index).parse().unwrap(), port)
        };
        let ports: Vec<u16> = {
            let mut pools = PortPools::new(16);
            // Round robin begins at the second newest server and goes on towards the oldest.
            (0..20).map(|turn| pools.take(server((38 - turn) % 20)).unwrap().port).collect()
        };
        assert_eq!(ports, RECORDED);
    }

    const RECORDED: [u16; 20] =
        [1025, 1025, 1025, 1025, 1025, 1025, 1026, 1025, 1025, 1026, 1025, 1027, 1025, 1026, 1027, 1025, 1026, 1028, 1028, 1025];

    #[test]
    fn ipv4_pool_is_the_sum_of_address_and_port() {
        let one: SocketAddr = "10.0.0.11:8080".parse().unwrap();
        let same: SocketAddr = "10.0.0.12:8079".parse().unwrap();
        let other: SocketAddr = "10.0.0.12:8080".parse().unwrap();
        let mut pools = PortPools::new(16);
        let ports: Vec<u16> = [one, same, other, one].map(|peer| pools.take(peer).unwrap().port).to_vec();
        assert_eq!(ports, [1025, 1026, 1025, 1027]);
        assert_eq!(pools.fullest(), 3);
    }

    proptest! {
        /// No port is handed out twice, and freed ones come back last, in the order in which they were freed.
        #[test]
        fn a_pool_is_a_queue(releases in proptest::collection::vec(0usize..1000, 1..50)) {
            let peer: SocketAddr = "10.0.0.1:80".parse().unwrap();
            let mut pools = PortPools::new(1);
            let mut held: Vec<LocalPort> = (0..PORTS_PER_POOL).map(|_| pools.take(peer).unwrap()).collect();
            prop_assert_eq!(pools.take(peer), None);
            prop_assert_eq!(held.iter().map(|held| held.port).collect::<HashSet<_>>().len() as u32, PORTS_PER_POOL);
            let freed: Vec<LocalPort> = releases.iter().map(|index| held.swap_remove(*index)).collect();
            for port in &freed {
                pools.give_back(*port);
            }
            let again: Vec<LocalPort> = freed.iter().map(|_| pools.take(peer).unwrap()).collect();
            prop_assert_eq!(again, freed);
            prop_assert_eq!(pools.take(peer), None);
        }
    }
}
