//! Never queue (reference/linux-ipvs.md section 5.6).

use super::sed::delay;
use super::{Candidate, Scheduler, Wanted, least_loaded};

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nq;

impl Scheduler for Nq {
    fn schedule(&mut self, list: &[Candidate], _: Wanted<'_>) -> Option<usize> {
        list.iter().position(|candidate| candidate.usable() && candidate.active == 0).or_else(|| least_loaded(list, delay))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn an_idle_server_wins_at_once() {
        let mut list = servers(&[1, 9]);
        list[0].active = 1;
        assert_eq!(choices(&mut Nq, &list, 1), "A");
        list[1].active = 1;
        assert_eq!(choices(&mut Nq, &list, 1), "B");
    }
}
