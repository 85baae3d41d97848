//! `mh`: Maglev hashing of the client's address.

use super::{Candidate, Scheduler, common_divisor};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::net::IpAddr;

/// The lookup table: the index of a server for each hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Maglev {
    table: Vec<u16>,
}

/// Entries of the table, a prime.
const TABLE_SIZE: u32 = 4093;
/// Table bits that weights may use up: a weight that needs more is scaled down.
const WEIGHT_BITS: u32 = 6;
const FIRST_KEY: u64 = 2_654_435_761;
const SECOND_KEY: u64 = 2_654_446_892;
/// No server.
const EMPTY: u16 = u16::MAX;

impl Scheduler for Maglev {
    fn servers_changed(&mut self, servers: &[Candidate]) {
        self.table = populate(servers);
    }

    fn choose(&mut self, servers: &[Candidate], client: IpAddr) -> Option<usize> {
        let slot = hash(client, 0, FIRST_KEY) % TABLE_SIZE;
        let index = usize::from(*self.table.get(slot as usize)?);
        servers.get(index).filter(|server| server.usable()).map(|_| index)
    }

    fn boxed(&self) -> Box<dyn Scheduler> {
        Box::new(self.clone())
    }
}

/// Each server has a permutation of the table. They take turns, each placing as many entries as its weight allows, always
/// on its next free slot, until the table is full.
fn populate(servers: &[Candidate]) -> Vec<u16> {
    let divisor = common_divisor(servers);
    let greatest = servers.iter().map(|server| server.weight / divisor).max().unwrap_or(0);
    if greatest == 0 {
        return Vec::new();
    }
    let shift = (u32::BITS - greatest.leading_zeros()).saturating_sub(WEIGHT_BITS);
    struct Permutation {
        server: u16,
        slot: u32,
        skip: u32,
        turns: u32,
    }
    let mut permutations: Vec<Permutation> = servers
        .iter()
        .enumerate()
        .filter(|(_, server)| server.weight > 0)
        .map(|(index, server)| Permutation {
            server: index as u16,
            slot: hash(server.address, server.port, FIRST_KEY) % TABLE_SIZE,
            skip: hash(server.address, server.port, SECOND_KEY) % (TABLE_SIZE - 1) + 1,
            turns: ((server.weight / divisor) >> shift).max(1),
        })
        .collect();
    let mut table = vec![EMPTY; TABLE_SIZE as usize];
    let mut free = table.len();
    // Ends: the table's size is prime, so every permutation reaches every slot.
    loop {
        for permutation in &mut permutations {
            for _ in 0..permutation.turns {
                while table[permutation.slot as usize] != EMPTY {
                    permutation.slot = (permutation.slot + permutation.skip) % TABLE_SIZE;
                }
                table[permutation.slot as usize] = permutation.server;
                free -= 1;
                if free == 0 {
                    return table;
                }
            }
        }
    }
}

/// SipHash-1-3 of the folded address plus port.
fn hash(address: IpAddr, port: u16, key: u64) -> u32 {
    let folded = match address {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    };
    let mut hasher = SipHasher13::new_with_keys(key, key);
    hasher.write(&folded.wrapping_add(u32::from(port)).to_le_bytes());
    hasher.finish() as u32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::candidates;
    use super::*;

    fn chosen(weights: &[u32], client: [u8; 4]) -> IpAddr {
        let servers = candidates(weights);
        let mut scheduler = Maglev::default();
        scheduler.servers_changed(&servers);
        servers[scheduler.choose(&servers, IpAddr::from(client)).unwrap()].address
    }

    /// recordings/dpvs-1.10/sched-mh and sched-mh-w: clients 198.51.100.1 and following.
    #[test]
    fn table_as_recorded() {
        let equal = [12, 13, 12, 13, 12, 13, 12, 12, 11, 11, 13, 13, 13, 12];
        let weighted = [13, 13, 13, 13, 12, 13, 12, 12, 11, 11, 13, 13, 13, 12];
        for (last, (equal, weighted)) in (1..).zip(equal.into_iter().zip(weighted)) {
            assert_eq!(chosen(&[1, 1, 1], [198, 51, 100, last]), IpAddr::from([10, 0, 0, equal]));
            assert_eq!(chosen(&[1, 2, 4], [198, 51, 100, last]), IpAddr::from([10, 0, 0, weighted]));
        }
    }

    /// recordings/dpvs-1.10/sched-mh-order: clients whose server depends on the newest standing first in the list.
    #[test]
    fn newest_server_is_placed_first() {
        let recorded = [([4, 79], 13), ([5, 92], 12), ([6, 236], 13), ([11, 36], 12), ([27, 190], 12), ([30, 253], 13)];
        for ([third, last], server) in recorded {
            assert_eq!(chosen(&[1, 2, 4], [198, 51, third, last]), IpAddr::from([10, 0, 0, server]));
        }
    }

    #[test]
    fn all_weights_zero_or_huge() {
        let mut scheduler = Maglev::default();
        let servers = candidates(&[0, 0]);
        scheduler.servers_changed(&servers);
        assert_eq!(scheduler.choose(&servers, IpAddr::from([1; 4])), None);
        scheduler.servers_changed(&candidates(&[1, 65535]));
        assert_eq!(scheduler.table.len(), 4093);
    }
}
