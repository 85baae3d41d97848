//! Draws that decide what a director does, kept while a golden is compared stretch by stretch: those near its first difference can
//! be tried.

use lvscheck_engine::Nanos;
use lvscheck_engine::draws::Doubt;
use lvscheck_engine::settle::{NEAREST, Trial};
use std::collections::VecDeque;

/// How long after the first difference doubts still matter.
pub(super) const LATER: Nanos = Nanos::from_secs(1);

/// Where what left differs from the golden first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FirstDifference {
    /// So many frames agree before it.
    pub(super) agreed: u64,
    /// When the first of both sides' frames there came.
    pub(super) when: Nanos,
}

/// The doubts that may be near the first difference.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubts {
    /// In order of time; of those before what is compared already only the last ones.
    list: VecDeque<(Nanos, Doubt)>,
}

impl Doubts {
    /// The director hung on these what it did at a moment.
    pub(super) fn note(&mut self, at: Nanos, doubts: &[Doubt]) {
        self.list.extend(doubts.iter().map(|doubt| (at, *doubt)));
    }

    /// Whatever differs first does so after that moment, or at `first`.
    pub(super) fn forget_before(&mut self, agrees: Nanos, first: Option<FirstDifference>) {
        let from = first.map_or(agrees, |first| first.when);
        let before = self.list.partition_point(|(at, _)| *at <= from);
        self.list.drain(..before.saturating_sub(NEAREST));
        if let Some(first) = first {
            self.list.truncate(self.list.partition_point(|(at, _)| *at <= first.when).saturating_add(NEAREST));
        }
    }

    /// How well a replay agrees with the golden, from which it differs so often.
    pub(super) fn trial(self, first: FirstDifference, differences: u64) -> Trial {
        let FirstDifference { agreed, when } = first;
        let (doubts, later): (Vec<_>, Vec<_>) = self.list.into_iter().partition(|(at, _)| *at <= when);
        let list = |doubts: Vec<(Nanos, Doubt)>, until: Nanos| {
            doubts.into_iter().filter(|(at, _)| *at <= until).map(|(_, doubt)| doubt).collect()
        };
        let (doubts, later) = (list(doubts, when), list(later, when + LATER));
        Trial { agreed: agreed as usize, differences: differences as usize, doubts, later }
    }
}
