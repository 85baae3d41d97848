//! Who works: all threads, or this one alone where there is too little to share.

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

    /// Does both.
    pub fn both<A: Send, B: Send>(self, one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B + Send) -> (A, B) {
        if self.alone { (one(), other()) } else { rayon::join(one, other) }
    }
}
