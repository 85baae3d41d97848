//! Power of two choices (reference/linux-ipvs.md section 5.14). Its two numbers are random draws.

use super::{Candidate, Scheduler, Wanted};
use crate::draws::Draw;

/// Counts its draws.
#[derive(Clone, Copy, Debug, Default)]
pub struct Twos {
    draws: u64,
}

impl Scheduler for Twos {
    fn schedule(&mut self, list: &[Candidate], wanted: Wanted<'_>) -> Option<usize> {
        let total: u64 = list.iter().filter(|c| c.usable()).map(|c| u64::from(c.weight)).sum();
        let mut pick = || {
            let drawn = wanted.draws.value(Draw::Twos(self.draws)) % (total + 1);
            self.draws += 1;
            let mut sum = 0;
            list.iter().enumerate().filter(|(_, c)| c.usable()).find(|(_, candidate)| {
                sum += u64::from(candidate.weight);
                sum >= drawn
            })
        };
        let ((first, a), (second, b)) = (pick()?, pick()?);
        let second_wins = u64::from(b.weight) * a.overhead() > u64::from(a.weight) * b.overhead();
        Some(if second_wins { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn only_usable_servers_are_chosen() {
        let mut twos = Twos::default();
        let list = set_up(&mut twos, &[1, 0, 2]);
        assert!(choices(&mut twos, &list, 50).chars().all(|letter| letter != 'B' && letter != '-'));
        let list = set_up(&mut twos, &[0]);
        assert_eq!(choices(&mut twos, &list, 1), "-");
    }
}
