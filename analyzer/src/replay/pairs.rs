//! Frames compared pair by pair: for whoever knows which frame is which, and only asks whether all are equal.

use crate::compare::align::LATE_TIME;
use crate::compare::difference::Judge;
use crate::compare::ignore::Ignore;
use crate::compare::shared_learner::SharedLearner;
use crate::compare::{Comparison, Frame};
use lvscheck_engine::Nanos;
use std::ops::RangeInclusive;

/// Compares each pair as an alignment compares frames at the same place.
pub(super) struct Pairs<'a> {
    judge: Judge<'a>,
    learner: SharedLearner,
    seen: u64,
    differs: bool,
}

impl<'a> Pairs<'a> {
    /// Lets those fields differ. Ports that the director draws lie in that range.
    pub(super) fn new(ignore: &'a Ignore, local_ports: RangeInclusive<u16>) -> Pairs<'a> {
        Pairs { judge: Judge::new(ignore), learner: SharedLearner::new(local_ports), seen: 0, differs: false }
    }

    /// Compares the next two.
    pub(super) fn compare(&mut self, expected: &Frame<'_>, actual: &Frame<'_>) {
        self.seen += 1;
        let equal = self.judge.same_interface(expected, actual) && self.judge.equal(expected, actual);
        let learned = || self.learner.see(expected.bytes, actual.bytes, actual.drawn);
        let in_time = || !actual.late || Nanos(expected.time.0.abs_diff(actual.time.0)) <= LATE_TIME;
        self.differs |= !(equal && learned() && in_time());
    }

    /// Whether some pair so far is not equal, or a draw has two values.
    pub(super) fn differ(&self) -> bool {
        self.differs
    }

    /// The result if all are equal.
    pub(super) fn comparison(&self) -> Comparison {
        Comparison::equal(self.seen, self.learner.counts())
    }

    /// Whether there was no pair.
    pub(super) fn is_empty(&self) -> bool {
        self.seen == 0
    }
}
