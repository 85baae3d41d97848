//! Least connections (reference/linux-ipvs.md section 5.3).

use super::{Candidate, Scheduler, Wanted};

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lc;

impl Scheduler for Lc {
    fn schedule(&mut self, list: &[Candidate], _: Wanted<'_>) -> Option<usize> {
        list.iter().enumerate().filter(|(_, c)| c.usable()).min_by_key(|(_, c)| c.overhead()).map(|(place, _)| place)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn an_active_connection_weighs_256() {
        let mut list = servers(&[1, 1, 1]);
        list[0].active = 1;
        list[1].inactive = 255;
        list[2].inactive = 256;
        assert_eq!(choices(&mut Lc, &list, 1), "B");
        list[1].inactive = 256;
        assert_eq!(choices(&mut Lc, &list, 1), "C");
    }
}
