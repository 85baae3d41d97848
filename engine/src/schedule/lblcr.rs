//! Locality-based least connections with replication (reference/linux-ipvs.md section 5.13): a set of servers a destination.

use super::lblc::{Cache, CacheTimer, FULL, IDLE, Sweep, busy};
use super::{Candidate, Scheduler, Wanted, least_loaded};
use crate::time::Nanos;

/// The cache.
#[derive(Clone, Debug, Default)]
pub struct Lblcr {
    entries: Cache<Entry>,
    timer: CacheTimer,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Numbers of servers, the newest member first.
    set: Vec<u32>,
    last_use: Nanos,
    last_change: Nanos,
}

/// Members of the set, in its order, with their places in the list.
fn members<'a>(set: &'a [u32], list: &'a [Candidate]) -> impl Iterator<Item = (usize, &'a Candidate)> {
    set.iter().filter_map(|number| list.iter().enumerate().find(|(_, candidate)| candidate.number == *number))
}

fn heavier(a: &Candidate, b: &Candidate) -> bool {
    u64::from(a.overhead()) * u64::from(b.weight) > u64::from(b.overhead()) * u64::from(a.weight)
}

fn least(set: &[u32], list: &[Candidate]) -> Option<usize> {
    let mut best: Option<(usize, &Candidate)> = None;
    for (place, candidate) in members(set, list).filter(|(_, candidate)| !candidate.overloaded) {
        let wins = match best {
            None => candidate.weight > 0,
            Some((_, best)) => heavier(best, candidate),
        };
        if wins {
            best = Some((place, candidate));
        }
    }
    best.map(|(place, _)| place)
}

fn most(set: &[u32], list: &[Candidate]) -> Option<u32> {
    let mut worst: Option<&Candidate> = None;
    for (_, candidate) in members(set, list).filter(|(_, candidate)| candidate.weight > 0) {
        if worst.is_none_or(|worst| heavier(candidate, worst)) {
            worst = Some(candidate);
        }
    }
    worst.map(|candidate| candidate.number)
}

impl Scheduler for Lblcr {
    fn schedule(&mut self, list: &[Candidate], wanted: Wanted<'_>) -> Option<usize> {
        if let Some(entry) = self.entries.get_mut(&wanted.destination) {
            entry.last_use = wanted.now;
            let cached = least(&entry.set, list);
            if entry.set.len() > 1 && wanted.now > entry.last_change + wanted.expiration {
                if let Some(worst) = most(&entry.set, list) {
                    entry.set.retain(|number| *number != worst);
                }
                entry.last_change = wanted.now;
            }
            if let Some(place) = cached
                && !busy(list, &list[place])
            {
                return Some(place);
            }
        }
        let place = least_loaded(list, Candidate::overhead)?;
        let number = list[place].number;
        let room = self.entries.len() < FULL;
        match self.entries.get_mut(&wanted.destination) {
            Some(entry) if entry.set.contains(&number) => {}
            Some(entry) => {
                entry.set.insert(0, number);
                entry.last_change = wanted.now;
            }
            None if room => {
                let entry = Entry { set: vec![number], last_use: wanted.now, last_change: wanted.now };
                self.entries.insert(wanted.destination, entry);
            }
            None => {}
        }
        Some(place)
    }

    fn init(&mut self, _: &[Candidate]) {
        self.entries.clear();
    }

    fn added(&mut self, _: &[Candidate]) {}

    fn removed(&mut self, _: &[Candidate], _: usize, _: u32) {}

    fn holds(&self, number: u32) -> bool {
        self.entries.values().any(|entry| entry.set.contains(&number))
    }

    fn advance(&mut self, now: Nanos, expiration: Nanos) {
        while let Some((time, sweep)) = self.timer.due(now, self.entries.len()) {
            match sweep {
                Sweep::Expired => self.entries.retain(|_, entry| entry.last_use + expiration > time),
                Sweep::Idle(0) => {}
                Sweep::Idle(goal) => {
                    let mut dropped = 0;
                    self.entries.retain(|_, entry| {
                        let drop = dropped < goal && time >= entry.last_use + IDLE;
                        dropped += usize::from(drop);
                        !drop
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn a_busy_set_grows() {
        let mut lblcr = Lblcr::default();
        let mut list = set_up(&mut lblcr, &[1, 1]);
        assert_eq!(choices(&mut lblcr, &list, 1), "B");
        list[0].active = 2;
        assert_eq!(choices(&mut lblcr, &list, 1), "A");
        list[0].active = 0;
        list[1].active = 1;
        // Both are members now: the least loaded of them.
        assert_eq!(choices(&mut lblcr, &list, 1), "B");
    }
}
