//! Overflow (reference/linux-ipvs.md section 5.8).

use super::fo::heaviest;
use super::{Candidate, Scheduler, Wanted};

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ovf;

impl Scheduler for Ovf {
    fn schedule(&mut self, list: &[Candidate], _: Wanted<'_>) -> Option<usize> {
        heaviest(list.iter().enumerate().filter(|(_, candidate)| candidate.usable() && candidate.active <= candidate.weight))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn one_more_than_the_weight_fits() {
        let mut list = servers(&[1, 2]);
        assert_eq!(choices(&mut Ovf, &list, 1), "B");
        list[0].active = 2;
        assert_eq!(choices(&mut Ovf, &list, 1), "B");
        list[0].active = 3;
        assert_eq!(choices(&mut Ovf, &list, 1), "A");
        list[1].active = 2;
        assert_eq!(choices(&mut Ovf, &list, 1), "-");
    }
}
