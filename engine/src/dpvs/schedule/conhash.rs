//! `conhash`: consistent hashing of the client's address.

use super::{Candidate, Scheduler, common_divisor};
use md5::{Digest, Md5};
use std::net::IpAddr;

/// A ring of signed keys; each server owns several points of it, as many as its weight says.
#[derive(Clone, Debug, Default)]
pub(super) struct ConsistentHash {
    /// Sorted by key; the index is that of the server in its list.
    ring: Vec<(i64, usize)>,
}

/// Points of a server of the smallest weight.
const POINTS: u32 = 160;

impl Scheduler for ConsistentHash {
    fn servers_changed(&mut self, servers: &[Candidate]) {
        let divisor = common_divisor(servers);
        self.ring.clear();
        for (index, server) in servers.iter().enumerate() {
            // The port is hashed as the number that its two network-order bytes make on a little-endian machine.
            let name = format!("{}{}", server.address, server.port.swap_bytes());
            let points = POINTS.saturating_mul(server.weight / divisor);
            self.ring.extend((0..points).map(|point| (hash(&format!("{name}-{point:03}")), index)));
        }
        self.ring.sort_unstable();
    }

    fn choose(&mut self, servers: &[Candidate], client: IpAddr) -> Option<usize> {
        let key = hash(&client_word(client).to_string());
        let point = self.ring.partition_point(|(other, _)| *other < key);
        let (_, owner) = *self.ring.get(point).or(self.ring.first())?;
        servers.get(owner).filter(|server| server.usable()).map(|_| owner)
    }

    fn boxed(&self) -> Box<dyn Scheduler> {
        Box::new(self.clone())
    }
}

/// The client's address as one little-endian word; of IPv6 the four words are folded.
fn client_word(client: IpAddr) -> u32 {
    match client {
        IpAddr::V4(address) => u32::from_le_bytes(address.octets()),
        IpAddr::V6(address) => {
            let word = |group: &[u8]| group.iter().rev().fold(0, |sum: u32, byte| sum << 8 | u32::from(*byte));
            address.octets().chunks_exact(4).map(word).fold(0, |sum, word| sum ^ word)
        }
    }
}

/// The sum of the words of a text's MD5, then a 64-bit variant of Bob Jenkins' integer hash.
fn hash(text: &str) -> i64 {
    let digest = Md5::digest(text.as_bytes());
    let word = |group: &[u8]| group.iter().rev().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
    let mut a: u64 = digest.chunks_exact(4).map(word).sum();
    a = a.wrapping_add(0x7ed5_5d16).wrapping_add(a << 12);
    a = (a ^ 0xc761_c23c) ^ (a >> 19);
    a = a.wrapping_add(0x1656_67b1).wrapping_add(a << 5);
    a = a.wrapping_add(0xd3a2_646c) ^ (a << 9);
    a = a.wrapping_add(0xfd70_46c5).wrapping_add(a << 3);
    a = (a ^ 0xb55a_4f09) ^ (a >> 16);
    a.wrapping_mul(3_221_225_473) as i64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::candidates;
    use super::*;

    /// recordings/dpvs-1.10/sched-conhash-sip: clients 198.51.100.1 and following.
    #[test]
    fn owners_as_recorded() {
        let servers = candidates(&[1, 1, 1]);
        let mut scheduler = ConsistentHash::default();
        scheduler.servers_changed(&servers);
        let expected = [13, 13, 12, 13, 13, 11, 11, 11, 11, 11, 13, 11, 13, 13];
        for (last, server) in (1..).zip(expected) {
            let chosen = scheduler.choose(&servers, IpAddr::from([198, 51, 100, last])).unwrap();
            assert_eq!(servers[chosen].address, IpAddr::from([10, 0, 0, server]));
        }
    }

    #[test]
    fn an_unusable_owner_means_no_server() {
        let mut servers = candidates(&[1]);
        let mut scheduler = ConsistentHash::default();
        scheduler.servers_changed(&servers);
        let client = IpAddr::from([1, 2, 3, 4]);
        assert_eq!(scheduler.choose(&servers, client), Some(0));
        servers[0].overloaded = true;
        assert_eq!(scheduler.choose(&servers, client), None);
    }
}
