//! Shortest expected delay (reference/linux-ipvs.md section 5.5).

use super::{Candidate, Scheduler, Wanted, least_loaded};

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sed;

/// The delay that one more connection would see, before division by the weight.
pub fn delay(candidate: &Candidate) -> u32 {
    candidate.active.saturating_add(1)
}

impl Scheduler for Sed {
    fn schedule(&mut self, list: &[Candidate], _: Wanted<'_>) -> Option<usize> {
        least_loaded(list, delay)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_new_connection_counts() {
        let mut list = servers(&[1, 3]);
        assert_eq!(choices(&mut Sed, &list, 1), "B");
        list[0].active = 2;
        assert_eq!(choices(&mut Sed, &list, 1), "B");
        list[0].active = 3;
        assert_eq!(choices(&mut Sed, &list, 1), "A");
    }
}
