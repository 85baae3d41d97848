//! Round robin (reference/linux-ipvs.md section 5.1).

use super::{Candidate, Scheduler, Wanted};

/// The server chosen last; none: the head of the list, before its first entry.
#[derive(Clone, Debug, Default)]
pub struct Rr {
    last: Option<u32>,
}

impl Scheduler for Rr {
    fn schedule(&mut self, list: &[Candidate], _: Wanted<'_>) -> Option<usize> {
        let start = self.last.and_then(|last| list.iter().position(|candidate| candidate.number == last)).map_or(0, |at| at + 1);
        let place = (start..list.len()).chain(0..start).find(|place| list[*place].usable())?;
        self.last = Some(list[place].number);
        Some(place)
    }

    fn init(&mut self, _: &[Candidate]) {
        self.last = None;
    }

    fn added(&mut self, _: &[Candidate]) {}

    fn removed(&mut self, list: &[Candidate], place: usize, number: u32) {
        if self.last == Some(number) {
            self.last = place.checked_sub(1).and_then(|before| list.get(before)).map(|candidate| candidate.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_newest_is_first() {
        let mut rr = Rr::default();
        let list = set_up(&mut rr, &[1, 1, 1]);
        assert_eq!(choices(&mut rr, &list, 5), "CBACB");
    }

    #[test]
    fn weight_zero_is_skipped_and_nobody_left_is_refused() {
        let mut rr = Rr::default();
        let list = set_up(&mut rr, &[1, 0, 5]);
        assert_eq!(choices(&mut rr, &list, 4), "CACA");
        let list = set_up(&mut rr, &[0, 0]);
        assert_eq!(choices(&mut rr, &list, 2), "--");
    }

    #[test]
    fn after_a_removal_the_successor_is_next() {
        let mut rr = Rr::default();
        let list = set_up(&mut rr, &[1, 1, 1]);
        assert_eq!(choices(&mut rr, &list, 2), "CB");
        let rest: Vec<Candidate> = list.iter().filter(|candidate| candidate.number != 1).copied().collect();
        rr.removed(&rest, 1, 1);
        assert_eq!(choices(&mut rr, &rest, 2), "AC");
    }
}
