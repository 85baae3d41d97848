//! Source hashing (reference/linux-ipvs.md section 5.10).

use super::hash::{fold, hash_8};
use super::{Candidate, Scheduler, Wanted};
use crate::config::{Protocol, SchedulerFlags};

/// 256 buckets, filled from the list, each server weight times in a row; weight 0 takes one bucket.
#[derive(Clone, Debug, Default)]
pub struct Sh {
    flags: SchedulerFlags,
    buckets: Vec<u32>,
}

impl Sh {
    /// With sh-fallback and sh-port as given.
    pub fn new(flags: SchedulerFlags) -> Sh {
        Sh { flags, buckets: Vec::new() }
    }

    fn usable(&self, list: &[Candidate], bucket: u8) -> Option<usize> {
        let number = *self.buckets.get(usize::from(bucket))?;
        list.iter().position(|candidate| candidate.number == number && candidate.usable())
    }
}

/// The port that takes part in a hash: only with the scheduler's port flag.
pub fn hashed_port(flags: SchedulerFlags, wanted: &Wanted<'_>) -> u32 {
    let with_ports = matches!(wanted.protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
    if flags.port && with_ports { u32::from(wanted.client_port) } else { 0 }
}

impl Scheduler for Sh {
    fn schedule(&mut self, list: &[Candidate], wanted: Wanted<'_>) -> Option<usize> {
        let hash = hash_8(hashed_port(self.flags, &wanted).wrapping_add(fold(wanted.client)));
        if let Some(place) = self.usable(list, hash) {
            return Some(place);
        }
        if !self.flags.fallback || !list.iter().any(Candidate::usable) {
            return None;
        }
        (0..=255u8).find_map(|round| self.usable(list, round.wrapping_add(hash).wrapping_add(hash)))
    }

    fn init(&mut self, list: &[Candidate]) {
        self.buckets.clear();
        if list.is_empty() {
            return;
        }
        let turns = list.iter().cycle().flat_map(|c| std::iter::repeat_n(c.number, c.weight.clamp(1, 256) as usize));
        self.buckets.extend(turns.take(256));
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
    use super::super::testing::*;
    use super::*;
    use crate::draws::Draws;

    #[test]
    fn vectors_of_the_reference() {
        let mut sh = Sh::default();
        let list = set_up(&mut sh, &[3, 2, 1]);
        let draws = Draws::default();
        let mut of = |address| sh.schedule(&list, client(address, 1, &draws)).map(|place| list[place].number);
        assert_eq!(of([203, 0, 113, 5]), Some(0));
        assert_eq!(of([203, 0, 113, 6]), Some(1));
        assert_eq!(of([198, 51, 100, 7]), Some(0));
        assert_eq!(of([10, 1, 2, 3]), Some(1));
    }

    #[test]
    fn weight_zero_refuses_unless_there_is_a_fallback() {
        let mut sh = Sh::default();
        let list = set_up(&mut sh, &[0, 1]);
        let draws = Draws::default();
        // Bucket 185 is A's.
        assert_eq!(sh.schedule(&list, client([203, 0, 113, 5], 1, &draws)), None);
        let mut sh = Sh::new(SchedulerFlags { fallback: true, ..SchedulerFlags::default() });
        let list = set_up(&mut sh, &[0, 1]);
        assert_eq!(sh.schedule(&list, client([203, 0, 113, 5], 1, &draws)), Some(0));
    }
}
