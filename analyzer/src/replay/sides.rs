//! Two sides of a comparison whose frames come one after the other. Memory holds those of a stretch.

use super::cause::Cause;
use super::check::{captured, stored};
use super::decisions::FirstDifference;
use super::frames::Frames;
use super::known::Known;
use super::session::InputFrame;
use crate::compare::stretches::{Stretches, is_enough};
use crate::compare::{Comparison, Frame, Options};
use lvscheck_engine::{Director, DirectorConfig, EmittedFrame, Nanos};

/// The frames of both sides that are not settled yet.
pub(super) struct Sides {
    expected: Frames,
    actual: Frames,
    /// Why the actual ones left.
    causes: Vec<Cause>,
    stretches: Stretches,
    first_difference: Option<FirstDifference>,
}

/// Who has the words for what is found: the director that sent the actual frames, and what describes it.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    pub(super) director: &'a Director,
    pub(super) config: &'a DirectorConfig,
}

impl Sides {
    /// No frames yet.
    pub(super) fn new(options: Options) -> Sides {
        let stretches = Stretches::new(options);
        let (expected, actual, causes) = Default::default();
        Sides { expected, actual, causes, stretches, first_difference: None }
    }

    /// Takes an expected frame, as it was captured.
    pub(super) fn expect(&mut self, frame: InputFrame<'_>) {
        self.expected.push(frame);
    }

    /// Takes an actual frame, with its number.
    pub(super) fn take(&mut self, number: u64, frame: EmittedFrame<'_>, cause: Cause) {
        self.actual.push_emitted(number, frame);
        self.causes.push(cause);
    }

    /// Whether there are frames enough to compare a stretch.
    pub(super) fn is_full(&self) -> bool {
        [&self.expected, &self.actual].iter().any(|side| is_enough(side.len(), side.total_bytes()))
    }

    /// Compares as much as can be of what came, or if that is `all` that comes, all of it. `interface` names those of expected frames.
    /// Without a sender, frames have no interfaces.
    pub(super) fn settle<'n>(&mut self, all: bool, interface: impl Fn(u32) -> Option<&'n str>, sender: Option<Sender<'_>>) {
        let Sides { expected, actual, causes, stretches, .. } = self;
        let ones: Vec<Frame<'_>> =
            expected.records().iter().map(|frame| captured(expected, frame, interface(frame.interface))).collect();
        let others: Vec<Frame<'_>> =
            actual.records().iter().map(|frame| stored(actual, frame, sender.map(|sender| sender.config))).collect();
        let done = match sender {
            Some(Sender { director, config }) => {
                let cause = |actual: usize| causes.get(actual).copied();
                stretches.go_on(&ones, &others, all, &Known { cause, director, config })
            }
            None => stretches.go_on(&ones, &others, all, &()),
        };
        if let (None, Some(agreed)) = (self.first_difference, self.stretches.first_finding()) {
            let time = |frames: &Frames| {
                let frame = frames.records().iter().find(|frame| frame.number == agreed + 1);
                frame.map_or(Nanos::NEVER, |frame| frame.time)
            };
            self.first_difference = Some(FirstDifference { agreed, when: time(&self.expected).min(time(&self.actual)) });
        }
        self.expected.forget(done.0);
        self.actual.forget(done.1);
        self.causes.drain(..done.1);
    }

    /// Where the sides differ first, as far as they were compared.
    pub(super) fn first_difference(&self) -> Option<FirstDifference> {
        self.first_difference
    }

    /// The time of the oldest frame that may not be compared yet; none if no frames wait.
    pub(super) fn oldest(&self) -> Option<Nanos> {
        let sides = [&self.expected, &self.actual];
        sides.iter().filter_map(|side| side.records().first()).map(|frame| frame.time).min()
    }

    /// The result, once all is settled.
    pub(super) fn finish(self) -> Comparison {
        self.stretches.finish()
    }
}
