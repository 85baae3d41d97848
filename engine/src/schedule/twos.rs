//! Power of two choices (reference/linux-ipvs.md section 5.14). Its two numbers are random draws.

use super::{Candidate, Scheduler, Wanted};
use crate::draws::Draw;

/// Has no state: the director counts its draws.
#[derive(Clone, Copy, Debug, Default)]
pub struct Twos;

impl Scheduler for Twos {
    fn schedule(&mut self, list: &[Candidate], wanted: Wanted<'_>) -> Option<usize> {
        let total: u64 = list.iter().filter(|c| c.usable()).map(|c| u64::from(c.weight)).sum();
        let pick = |number: u64| {
            let drawn = wanted.draws.value(Draw::Twos(number)) % (total + 1);
            let mut sum = 0;
            list.iter().enumerate().filter(|(_, c)| c.usable()).find(|(_, candidate)| {
                sum += u64::from(candidate.weight);
                sum >= drawn
            })
        };
        let ((first, a), (second, b)) = (pick(2 * wanted.drawn)?, pick(2 * wanted.drawn + 1)?);
        // The kernel multiplies in 32 bits.
        let second_wins = b.weight.wrapping_mul(a.overhead()) > a.weight.wrapping_mul(b.overhead());
        Some(if second_wins { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::*;
    use super::*;
    use crate::draws::Draws;

    #[test]
    fn only_usable_servers_are_chosen() {
        let list = servers(&[1, 0, 2]);
        let draws = Draws::default();
        for drawn in 0..100 {
            let wanted = Wanted { drawn, ..client([203, 0, 113, 5], 1, &draws) };
            assert_ne!(list[Twos.schedule(&list, wanted).unwrap()].number, 1);
        }
        assert_eq!(choices(&mut Twos, &servers(&[0]), 1), "-");
    }

    #[test]
    fn the_less_loaded_of_two_draws_wins() {
        let mut list = servers(&[1, 1]);
        let mut draws = Draws::default();
        // Cumulated weights of the list B, A are 1 and 2: 0 and 1 draw B, 2 draws A.
        draws.learn(Draw::Twos(6), 0);
        draws.learn(Draw::Twos(7), 2);
        let wanted = Wanted { drawn: 3, ..client([203, 0, 113, 5], 1, &draws) };
        assert_eq!(Twos.schedule(&list, wanted), Some(0));
        list[0].active = 1;
        assert_eq!(Twos.schedule(&list, wanted), Some(1));
    }
}
