//! Locality-based least connections (reference/linux-ipvs.md section 5.12): a cache of destination addresses.

use super::{Candidate, Scheduler, Wanted, least_loaded};
use crate::time::Nanos;
use foldhash::fast::FixedState;
use std::collections::HashMap;
use std::net::IpAddr;

/// The cache stores nothing more when it holds this many.
pub const FULL: usize = 24_576;
/// The timer begins to shrink it above this many.
const MANY: usize = 16_384;
/// A shrinking timer drops this many at most.
const MOST_DROPPED: usize = 8_192;
/// What was unused for this long may be dropped early.
pub const IDLE: Nanos = Nanos::from_secs(360);
/// The timer's period.
const PERIOD: Nanos = Nanos::from_secs(60);
/// Every so many periods the expiration is applied.
const FULL_CHECK: u32 = 30;

/// By destination. The seed is fixed, so that two runs forget alike.
pub type Cache<Entry> = HashMap<IpAddr, Entry, FixedState>;

/// The cache.
#[derive(Clone, Debug, Default)]
pub struct Lblc {
    entries: Cache<Entry>,
    timer: CacheTimer,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    server: u32,
    last_use: Nanos,
}

/// The cache's timer, which lblcr shares.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheTimer {
    next: Option<Nanos>,
    counter: u32,
}

/// What a timer tick demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Drop what is older than the expiration.
    Expired,
    /// Drop up to so many idle ones.
    Idle(usize),
}

impl CacheTimer {
    /// The sweeps that are due at `now`, with their times. The first call starts the timer.
    pub fn due(&mut self, now: Nanos, entries: usize) -> Option<(Nanos, Sweep)> {
        let next = *self.next.get_or_insert(now + PERIOD);
        if now < next {
            return None;
        }
        if entries == 0 {
            // Nothing to sweep: skip the idle periods at once.
            let periods = (now - next).0 / PERIOD.0 + 1;
            self.counter = ((u64::from(self.counter) + periods) % u64::from(FULL_CHECK)) as u32;
            self.next = Some(Nanos(next.0 + periods * PERIOD.0));
            return None;
        }
        self.next = Some(next + PERIOD);
        self.counter += 1;
        if self.counter >= FULL_CHECK {
            self.counter = 0;
            return Some((next, Sweep::Expired));
        }
        let goal = if entries <= MANY { 0 } else { ((entries - MANY) * 4 / 3).min(MOST_DROPPED) };
        if goal > 0 {
            // A tick that shrinks does not count towards the full check.
            self.counter -= 1;
        }
        Some((next, Sweep::Idle(goal)))
    }
}

/// A cached server is left when it has more connections than weight while another one has plenty of room.
pub fn busy(list: &[Candidate], candidate: &Candidate) -> bool {
    candidate.active > candidate.weight && list.iter().any(|other| u64::from(other.active) * 2 < u64::from(other.weight))
}

impl Scheduler for Lblc {
    fn schedule(&mut self, list: &[Candidate], wanted: Wanted<'_>) -> Option<usize> {
        if let Some(entry) = self.entries.get_mut(&wanted.destination) {
            entry.last_use = wanted.now;
            // The overload flag of a cached server is not looked at.
            let cached = list.iter().position(|candidate| candidate.number == entry.server);
            if let Some(place) = cached
                && list[place].weight > 0
                && !busy(list, &list[place])
            {
                return Some(place);
            }
        }
        let place = least_loaded(list, Candidate::overhead)?;
        if self.entries.contains_key(&wanted.destination) || self.entries.len() < FULL {
            self.entries.insert(wanted.destination, Entry { server: list[place].number, last_use: wanted.now });
        }
        Some(place)
    }

    fn init(&mut self, _: &[Candidate]) {
        self.entries.clear();
    }

    fn added(&mut self, _: &[Candidate]) {}

    fn removed(&mut self, _: &[Candidate], _: usize, _: u32) {}

    fn holds(&self, number: u32) -> bool {
        self.entries.values().any(|entry| entry.server == number)
    }

    fn advance(&mut self, now: Nanos, expiration: Nanos) {
        while let Some((time, sweep)) = self.timer.due(now, self.entries.len()) {
            match sweep {
                Sweep::Expired => self.entries.retain(|_, entry| time < entry.last_use + expiration),
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
    fn a_destination_keeps_its_server_until_it_is_busy() {
        let mut lblc = Lblc::default();
        let mut list = set_up(&mut lblc, &[1, 1]);
        assert_eq!(choices(&mut lblc, &list, 1), "B");
        list[0].active = 2;
        list[1].active = 1;
        assert_eq!(choices(&mut lblc, &list, 1), "B");
        list[1].active = 0;
        assert_eq!(choices(&mut lblc, &list, 1), "A");
    }

    #[test]
    fn entries_expire_at_the_full_check() {
        let mut lblc = Lblc::default();
        let list = set_up(&mut lblc, &[1]);
        lblc.advance(Nanos(0), Nanos::from_secs(10));
        choices(&mut lblc, &list, 1);
        lblc.advance(Nanos::from_secs(60 * 29), Nanos::from_secs(10));
        assert_eq!(lblc.entries.len(), 1);
        lblc.advance(Nanos::from_secs(60 * 30), Nanos::from_secs(10));
        assert_eq!(lblc.entries.len(), 0);
    }
}
