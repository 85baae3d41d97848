//! Who works: all threads, or this one alone where there is too little to share.

use rayon::Scope;
use rayon::prelude::*;
use std::ops::Range;

/// Who works on a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hands {
    /// This thread.
    pub alone: bool,
}

impl Hands {
    /// Does something with each pair.
    pub fn pairs<A: Send, B: Send>(self, one: &mut [A], other: &mut [B], work: impl Fn(usize, &mut A, &mut B) + Send + Sync) {
        if self.alone {
            one.iter_mut().zip(other).enumerate().for_each(|(number, (one, other))| work(number, one, other));
        } else {
            one.par_iter_mut().zip(other).enumerate().for_each(|(number, (one, other))| work(number, one, other));
        }
    }

    /// Makes something of each number, in order.
    pub fn map<R: Send>(self, numbers: Range<usize>, work: impl Fn(usize) -> R + Send + Sync) -> Vec<R> {
        if self.alone { numbers.map(work).collect() } else { numbers.into_par_iter().map(work).collect() }
    }

    /// Gives tasks away and goes on itself; all are done in the end.
    pub fn tasks<'scope>(self, give: impl FnOnce(Tasks<'_, 'scope>)) {
        if self.alone { give(Tasks(None)) } else { rayon::in_place_scope(|scope| give(Tasks(Some(scope)))) }
    }

    /// Does both.
    pub fn both<A: Send, B: Send>(self, one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B + Send) -> (A, B) {
        if self.alone { (one(), other()) } else { rayon::join(one, other) }
    }
}

/// Tasks for whoever has nothing else to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tasks<'a, 'scope>(Option<&'a Scope<'scope>>);

impl<'scope> Tasks<'_, 'scope> {
    /// One more, which may be done at once.
    pub fn add(self, task: impl FnOnce() + Send + 'scope) {
        match self.0 {
            Some(scope) => scope.spawn(|_| task()),
            None => task(),
        }
    }
}
