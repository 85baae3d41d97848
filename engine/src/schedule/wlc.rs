//! Weighted least connections, ipvsadm's default (reference/linux-ipvs.md section 5.4).

use super::{Candidate, Scheduler, Wanted, least_loaded};

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wlc;

impl Scheduler for Wlc {
    fn schedule(&mut self, list: &[Candidate], _: Wanted<'_>) -> Option<usize> {
        least_loaded(list, Candidate::overhead)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_weight_divides_the_load() {
        let mut list = servers(&[1, 2, 3]);
        assert_eq!(choices(&mut Wlc, &list, 1), "C");
        list[0].active = 4;
        list[1].active = 2;
        list[2].active = 1;
        // 4/3, 2/2, 1/1: the earlier of equals.
        assert_eq!(choices(&mut Wlc, &list, 1), "B");
    }
}
