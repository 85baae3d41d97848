//! Destination hashing (reference/linux-ipvs.md section 5.9).

use super::hash::{fold, hash_8};
use super::{Candidate, Scheduler, Wanted};

/// 256 buckets, each the number of a server; filled when the list changes, not when a weight does.
#[derive(Clone, Debug, Default)]
pub struct Dh {
    buckets: Vec<u32>,
}

impl Scheduler for Dh {
    fn schedule(&mut self, list: &[Candidate], wanted: Wanted<'_>) -> Option<usize> {
        let number = *self.buckets.get(usize::from(hash_8(fold(wanted.destination))))?;
        list.iter().position(|candidate| candidate.number == number && candidate.usable())
    }

    fn init(&mut self, list: &[Candidate]) {
        self.buckets.clear();
        self.buckets.extend(list.iter().map(|candidate| candidate.number).cycle().take(256));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::draws::Draws;

    #[test]
    fn one_server_for_a_destination_and_weight_zero_refuses() {
        let mut dh = Dh::default();
        let mut list = set_up(&mut dh, &[1, 1, 1]);
        let draws = Draws::default();
        let wanted = Wanted { destination: [203, 0, 113, 5].into(), ..client([1, 2, 3, 4], 5, &draws) };
        // Bucket 185 of C B A C B A ...: 185 % 3 = 2.
        assert_eq!(dh.schedule(&list, wanted), Some(2));
        list[2].weight = 0;
        dh.updated(&list);
        assert_eq!(dh.schedule(&list, wanted), None);
    }
}
