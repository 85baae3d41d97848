//! Weighted failover (reference/linux-ipvs.md section 5.7).

use super::{Candidate, Scheduler, Wanted};

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fo;

/// The highest weight, the first of equals.
pub fn heaviest<'a>(candidates: impl Iterator<Item = (usize, &'a Candidate)>) -> Option<usize> {
    let mut best: Option<(usize, u32)> = None;
    for (place, candidate) in candidates {
        if best.is_none_or(|(_, weight)| candidate.weight > weight) {
            best = Some((place, candidate.weight));
        }
    }
    best.map(|(place, _)| place)
}

impl Scheduler for Fo {
    fn schedule(&mut self, list: &[Candidate], _: Wanted<'_>) -> Option<usize> {
        heaviest(list.iter().enumerate().filter(|(_, candidate)| candidate.usable()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn all_go_to_the_heaviest() {
        let mut list = servers(&[2, 5, 5]);
        assert_eq!(choices(&mut Fo, &list, 2), "CC");
        list[0].overloaded = true;
        assert_eq!(choices(&mut Fo, &list, 1), "B");
    }
}
