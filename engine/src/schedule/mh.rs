//! Maglev hashing (reference/linux-ipvs.md section 5.11). The keys are constants, so every boot of every machine chooses alike.

use super::hash::fold;
use super::sh::hashed_port;
use super::{Candidate, Scheduler, Wanted, gcd};
use crate::config::SchedulerFlags;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// The table's size: a prime (CONFIG_IP_VS_MH_TAB_INDEX=12).
pub const TABLE_SIZE: usize = 4093;

/// Shares of the table are cut to this many bits.
const SHARE_BITS: u32 = 6;

const FIRST_KEY: u64 = 2_654_435_761;
const SECOND_KEY: u64 = 2_654_446_892;
const EMPTY: u32 = u32::MAX;

/// SipHash-1-3 over the four little-endian bytes of a number, cut to 32 bits: the kernel's hsiphash of a word on 64-bit machines.
fn hash(key: u64, value: u32) -> u32 {
    let mut hasher = SipHasher13::new_with_keys(key, key);
    hasher.write(&value.to_le_bytes());
    hasher.finish() as u32
}

/// Which slot a client falls in; `offset` is 0 but for retries.
pub fn slot(address: std::net::IpAddr, port: u32, offset: u32) -> usize {
    hash(FIRST_KEY, offset.wrapping_add(port).wrapping_add(fold(address))) as usize % TABLE_SIZE
}

/// A server's permutation of the slots: where it begins and how far it steps.
fn permutation(address: std::net::IpAddr, port: u16) -> (usize, usize) {
    let value = u32::from(port).wrapping_add(fold(address));
    let skip = hash(SECOND_KEY, value) as usize % (TABLE_SIZE - 1) + 1;
    (hash(FIRST_KEY, value) as usize % TABLE_SIZE, skip)
}

/// Fills a table: (address, port, weight) of each server in list order; each slot is a place in that list. None with no
/// weight at all.
pub fn table(servers: &[(std::net::IpAddr, u16, u32)]) -> Option<Vec<u32>> {
    let divisor = servers.iter().fold(0, |divisor, (_, _, weight)| gcd(*weight, divisor));
    if divisor == 0 || servers.len() > TABLE_SIZE {
        return None;
    }
    let highest = servers.iter().map(|(_, _, weight)| weight / divisor).max().unwrap_or(0);
    let shift = (u32::BITS - highest.leading_zeros()).saturating_sub(SHARE_BITS);
    let mut cursors: Vec<(usize, usize, u32)> = servers
        .iter()
        .map(|(address, port, weight)| {
            let (start, skip) = permutation(*address, *port);
            let turns = (weight / divisor) >> shift;
            (start, skip, if *weight > 0 { turns.max(1) } else { 0 })
        })
        .collect();
    let mut table = vec![EMPTY; TABLE_SIZE];
    let mut left = TABLE_SIZE;
    loop {
        for (place, (at, skip, turns)) in cursors.iter_mut().enumerate() {
            for _ in 0..*turns {
                while table[*at] != EMPTY {
                    *at = (*at + *skip) % TABLE_SIZE;
                }
                table[*at] = place as u32;
                left -= 1;
                if left == 0 {
                    return Some(table);
                }
            }
        }
    }
}

/// The table holds numbers of servers; it is filled by the last weights that were not zero.
#[derive(Clone, Debug, Default)]
pub struct Mh {
    flags: SchedulerFlags,
    table: Vec<u32>,
}

impl Mh {
    /// With mh-fallback and mh-port as given.
    pub fn new(flags: SchedulerFlags) -> Mh {
        Mh { flags, table: Vec::new() }
    }
}

impl Scheduler for Mh {
    fn schedule(&mut self, list: &[Candidate], wanted: Wanted<'_>) -> Option<usize> {
        let port = hashed_port(self.flags, &wanted);
        let at = |slot: usize| {
            let number = *self.table.get(slot)?;
            list.iter().position(|candidate| candidate.number == number && candidate.usable())
        };
        let first = slot(wanted.client, port, 0);
        if let Some(place) = at(first) {
            return Some(place);
        }
        if !self.flags.fallback || self.table.is_empty() || !list.iter().any(Candidate::usable) {
            return None;
        }
        (0..TABLE_SIZE).find_map(|round| at(slot(wanted.client, port, ((round + first) % TABLE_SIZE) as u32)))
    }

    fn init(&mut self, list: &[Candidate]) {
        let servers: Vec<_> = list.iter().map(|candidate| (candidate.address, candidate.port, candidate.last_weight)).collect();
        if servers.len() > TABLE_SIZE {
            // More servers than slots: the kernel refuses, and the old table stays.
            return;
        }
        let places = table(&servers).unwrap_or_default();
        self.table = places.into_iter().map(|place| list[place as usize].number).collect();
    }

    fn updated(&mut self, list: &[Candidate]) {
        self.init(list);
    }

    fn set_flags(&mut self, flags: SchedulerFlags) {
        self.flags = flags;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::*;
    use super::*;

    #[test]
    fn vectors_of_the_reference() {
        assert_eq!(hash(FIRST_KEY, 80 + fold([10, 0, 0, 1].into())), 0x439c_0cbe);
        assert_eq!(permutation([10, 0, 0, 1].into(), 80), (3167, 700));
        assert_eq!(permutation([10, 0, 0, 3].into(), 80), (1631, 3453));
        assert_eq!(slot([203, 0, 113, 5].into(), 0, 0), 3219);
        assert_eq!(slot([198, 51, 100, 7].into(), 0, 0), 924);
    }

    #[test]
    fn tables_of_the_reference() {
        let list = servers(&[1, 1, 1]);
        let mut mh = Mh::default();
        mh.init(&list);
        let letters: String = mh.table[..16].iter().map(|number| char::from(b'A' + *number as u8)).collect();
        assert_eq!(letters, "ABBCCABCCAABBAAC");
        let count = |number| mh.table.iter().filter(|slot| **slot == number).count();
        assert_eq!([count(2), count(1), count(0)], [1365, 1364, 1364]);
        let list = servers(&[1, 2, 3]);
        mh.init(&list);
        let letters: String = mh.table[..16].iter().map(|number| char::from(b'A' + *number as u8)).collect();
        assert_eq!(letters, "CBBCCCBCCAABBBAC");
    }
}
