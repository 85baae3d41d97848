//! Timers of many connections: refreshing one is a store into the connection, nothing here. A connection is looked at when
//! the time comes that it had when it was last put in here; when it was refreshed since, it is put in again.

use super::connection::ConnectionId;
use crate::time::Nanos;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// 2^28 ns, about a quarter of a second: entries within one bucket are put in order only when their time has come.
const BUCKET_BITS: u32 = 28;

/// An entry of a bucket: how far behind its start, in ns. There is one for each connection, so it is small.
type InBucket = (u32, ConnectionId);

const _: () = assert!(size_of::<InBucket>() == 12);

/// A time's bucket, and how far behind its start it is.
fn split(at: Nanos) -> (u64, u32) {
    (at.0 >> BUCKET_BITS, (at.0 & ((1 << BUCKET_BITS) - 1)) as u32)
}

/// When to look at which connection.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    later: BTreeMap<u64, Vec<InBucket>>,
    soon: BinaryHeap<Reverse<(Nanos, ConnectionId)>>,
    /// Buckets before this one are in `soon`.
    first_later: u64,
}

impl Timers {
    /// Looks at the connection at that time.
    pub fn insert(&mut self, at: Nanos, id: ConnectionId) {
        let (bucket, behind) = split(at);
        if bucket < self.first_later {
            self.soon.push(Reverse((at, id)));
        } else {
            self.later.entry(bucket).or_default().push((behind, id));
        }
    }

    /// Looks at many connections; fast when neighbours in the list have about the same time.
    pub fn extend(&mut self, timers: impl IntoIterator<Item = (Nanos, ConnectionId)>) {
        let mut run: Option<(u64, Vec<InBucket>)> = None;
        for (at, id) in timers {
            let (bucket, behind) = split(at);
            if bucket < self.first_later {
                self.soon.push(Reverse((at, id)));
                continue;
            }
            match &mut run {
                Some((current, entries)) if *current == bucket => entries.push((behind, id)),
                _ => {
                    let entries = self.later.remove(&bucket).unwrap_or_default();
                    if let Some((bucket, entries)) = run.replace((bucket, entries)) {
                        self.later.insert(bucket, entries);
                    }
                    if let Some((_, entries)) = &mut run {
                        entries.push((behind, id));
                    }
                }
            }
        }
        if let Some((bucket, entries)) = run {
            self.later.insert(bucket, entries);
        }
    }

    /// No timer is due before this; it may be earlier than the first one.
    pub fn next(&self) -> Nanos {
        let soon = self.soon.peek().map_or(Nanos::NEVER, |Reverse((at, _))| *at);
        let later = self.later.keys().next().map_or(Nanos::NEVER, |bucket| Nanos(bucket << BUCKET_BITS));
        soon.min(later)
    }

    /// Takes the next timer that is due at `now`, in order of time.
    pub fn pop(&mut self, now: Nanos) -> Option<(Nanos, ConnectionId)> {
        loop {
            let due = self.soon.peek().filter(|Reverse((at, _))| *at <= now).map(|Reverse((at, _))| at.0 >> BUCKET_BITS);
            let next_bucket = self.later.keys().next().copied().filter(|bucket| bucket << BUCKET_BITS <= now.0);
            match (due, next_bucket) {
                (Some(at), Some(bucket)) if bucket <= at => self.open(bucket),
                (Some(_), _) => return self.soon.pop().map(|Reverse(entry)| entry),
                (None, Some(bucket)) => self.open(bucket),
                (None, None) => return None,
            }
        }
    }

    fn open(&mut self, bucket: u64) {
        self.first_later = bucket + 1;
        let entries = self.later.remove(&bucket).into_iter().flatten();
        self.soon.extend(entries.map(|(behind, id)| Reverse((Nanos(bucket << BUCKET_BITS | u64::from(behind)), id))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn timers_come_in_order(mut times in prop::collection::vec(0..5_000_000_000u64, 1..200), step in 1..3_000_000_000u64) {
            let mut timers = Timers::default();
            let entry = |(slot, at): (usize, &u64)| (Nanos(*at), ConnectionId::new(slot as u32, 0));
            let (one_by_one, together) = times.split_at(times.len() / 2);
            for (at, id) in one_by_one.iter().enumerate().map(entry) {
                timers.insert(at, id);
            }
            timers.extend(together.iter().enumerate().map(entry));
            times.sort_unstable();
            let mut seen = Vec::new();
            let mut now = 0;
            while seen.len() < times.len() {
                now += step;
                prop_assert!(timers.next().0 <= *times.get(seen.len()).unwrap_or(&u64::MAX));
                while let Some((at, _)) = timers.pop(Nanos(now)) {
                    prop_assert!(at.0 <= now);
                    seen.push(at.0);
                }
            }
            prop_assert_eq!(seen, times);
        }
    }
}
