//! Learning the draws that no field shows: whether a local address advanced by two, whether a connection still lived.
//!
//! A draw that stands in a field can be read off a golden. One that decides what a director does can only be tried: the
//! director notes its doubts, and where its output leaves the golden, the nearest doubts are turned round one by one. The
//! value stays that carries agreement further. Only draws that the engine itself doubts are ever tried, so nothing else can
//! be learned this way.

use crate::draws::{Doubt, Draws};

/// How many doubts before a difference are tried, and how many behind it.
pub const NEAREST: usize = 8;

/// One replay, compared with the golden.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trial {
    /// How many output frames at the beginning are as the golden has them, apart from fields that hold draws.
    pub agreed: usize,
    /// How many differences there are in all.
    pub differences: usize,
    /// The doubts that arose until the first difference, in order.
    pub doubts: Vec<Doubt>,
    /// Those that arose within a second after it, in order: a connection that is reset too early differs before the packet
    /// that shows that it still lived.
    pub later: Vec<Doubt>,
}

/// Tries doubts until the output agrees with the golden or no doubt helps any more, at most `most` times. A value helps when
/// the output agrees further on: until a wrong draw is put right, what follows it says nothing. `replay` replays
/// with these draws and compares. Returns the draws under which there were the fewest differences, and how many doubts
/// were settled on the way to them.
pub fn settle(draws: Draws, mut replay: impl FnMut(&Draws) -> Trial, most: usize) -> (Draws, usize) {
    let mut current = (replay(&draws), draws, 0);
    let mut best = current.clone();
    while current.0.differences > 0 && current.2 < most {
        let (trial, draws, settled) = &current;
        let nearest = trial.doubts.iter().rev().take(NEAREST).chain(trial.later.iter().take(NEAREST));
        let candidates = nearest.filter(|doubt| draws.given(doubt.draw).is_none());
        let better = candidates.copied().find_map(|doubt| {
            let mut other = draws.clone();
            other.learn(doubt.draw, doubt.alternative);
            let next = replay(&other);
            (next.agreed > trial.agreed).then_some((next, other, settled + 1))
        });
        let Some(better) = better else { break };
        current = better;
        if current.0.differences < best.0.differences {
            best = current.clone();
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::Draw;

    /// A director that emits one frame a draw; the golden has some of them at 1.
    fn replay(golden: &[u64], draws: &Draws) -> Trial {
        let own: Vec<u64> = (0..golden.len() as u64).map(|number| draws.value(Draw::DoubleStep(number))).collect();
        let agreed = own.iter().zip(golden).take_while(|(own, golden)| own == golden).count();
        let differences = own.iter().zip(golden).filter(|(own, golden)| own != golden).count();
        let doubts = (0..=agreed.min(golden.len().saturating_sub(1)) as u64)
            .map(Draw::DoubleStep)
            .filter(|draw| draws.given(*draw).is_none())
            .map(|draw| Doubt { draw, alternative: 1 })
            .collect();
        Trial { agreed, differences, doubts, later: Vec::new() }
    }

    #[test]
    fn doubts_are_settled_one_by_one() {
        let golden = [0, 1, 0, 0, 1, 1, 0];
        let (draws, settled) = settle(Draws::default(), |draws| replay(&golden, draws), 100);
        assert_eq!((replay(&golden, &draws).differences, settled), (0, 3));
    }

    #[test]
    fn what_no_doubt_explains_stays_different() {
        let (draws, settled) = settle(Draws::default(), |draws| replay(&[0, 2, 0], draws), 100);
        assert_eq!((draws.learned(), settled), (0, 0));
    }
}
