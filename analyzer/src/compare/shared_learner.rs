//! Learns draws from frames that many threads compare at once.
//!
//! Under FULLNAT every segment shows its connection's draw. Those are numbered without gaps, so they stand in a table that
//! threads share without waiting; the few others are learned one after another.

use super::draws::{EqualPair, Learner, kind, read, shift, take_over};
use lvscheck_engine::draws::Draw;
use lvscheck_engine::output::{DrawnField, EmittedFrame};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

/// Connections of a block of the table.
const BLOCK: usize = 65_536;
/// Blocks: more connections than that are learned like the other draws.
const BLOCKS: usize = 4096;

/// Packets whose frames are compared at the same time are not this many apart.
const APART: u64 = 1 << 17;

/// What was learned so far.
#[derive(Debug)]
pub struct SharedLearner {
    /// By the number of a connection: one more than how far the golden's sequence offset is from the engine's; 0 before one is
    /// seen.
    offsets: Vec<OnceLock<Box<[AtomicU64]>>>,
    others: Mutex<Learner>,
}

impl SharedLearner {
    /// Nothing learned yet; drawn source ports must lie in this range.
    pub fn new(local_ports: RangeInclusive<u16>) -> SharedLearner {
        let offsets = (0..BLOCKS).map(|_| OnceLock::new()).collect();
        SharedLearner { offsets, others: Mutex::new(Learner::new(local_ports)) }
    }

    /// Learns from two frames that are equal but for their draws; whether these draws have had one value so far, and one that
    /// they may have.
    pub fn see(&self, expected: &[u8], actual: &[u8], drawn: &[DrawnField]) -> bool {
        drawn
            .iter()
            .all(|field| self.see_offset(expected, actual, field).unwrap_or_else(|| self.see_other(expected, actual, field)))
    }

    /// Gives a frame the expected one's draws and returns it, if that makes it equal and they agree with those before.
    pub fn take_over(&self, expected: &[u8], frame: &EmittedFrame<'_>) -> Option<Vec<u8>> {
        let mut bytes = frame.bytes.to_vec();
        take_over(expected, &mut bytes, frame.drawn);
        (bytes == expected && self.see(expected, frame.bytes, frame.drawn)).then_some(bytes)
    }

    /// Whether a sequence offset is what it was; none if the field holds something else.
    fn see_offset(&self, expected: &[u8], actual: &[u8], field: &DrawnField) -> Option<bool> {
        let Draw::SequenceOffset(number) = field.draw else { return None };
        let number = usize::try_from(number).ok()?;
        let shift = shift(field, read_word(expected, field)?, read_word(actual, field)?).checked_add(1)?;
        let block = self.offsets.get(number / BLOCK)?.get_or_init(|| (0..BLOCK).map(|_| AtomicU64::new(0)).collect());
        let place = block.get(number % BLOCK)?;
        // Nearly always it is known, and a look is cheaper than an exchange.
        if place.load(Ordering::Relaxed) == shift {
            return Some(true);
        }
        let before = place.compare_exchange(0, shift, Ordering::Relaxed, Ordering::Relaxed);
        Some(before.map_or_else(|known| known == shift, |_| true))
    }

    fn see_other(&self, expected: &[u8], actual: &[u8], field: &DrawnField) -> bool {
        self.others.lock().is_ok_and(|mut learner| {
            learner.see(EqualPair { expected, actual, drawn: std::slice::from_ref(field), ..EqualPair::default() });
            if let Some(latest) = field.draw.of_packet() {
                let same_kind = |draw: &Draw| std::mem::discriminant(draw) == std::mem::discriminant(&field.draw);
                learner.forget(|draw, number, _| same_kind(draw) && number.saturating_add(APART) < latest);
            }
            learner.agrees()
        })
    }

    /// How many draws were learned, by kind.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = self.others.lock().map(|learner| learner.counts()).unwrap_or_default();
        let blocks = self.offsets.iter().filter_map(OnceLock::get);
        let offsets = blocks.flatten().filter(|shift| shift.load(Ordering::Relaxed) > 0).count() as u64;
        if offsets > 0 {
            *counts.entry(kind(&Draw::SequenceOffset(0))).or_insert(0) += offsets;
        }
        counts
    }
}

/// The value of a drawn field, as [`read`] reads it: one of four bytes at once.
#[inline]
fn read_word(frame: &[u8], field: &DrawnField) -> Option<u64> {
    if (field.len, field.bits) != (4, 32) {
        return read(frame, field);
    }
    let word = frame.get(usize::from(field.offset)..)?.first_chunk()?;
    Some(u32::from_be_bytes(*word).into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn learned_together(draw: impl Fn(u16) -> Draw + Sync) -> BTreeMap<&'static str, u64> {
        let own = 40000u16.to_be_bytes();
        let learner = SharedLearner::new(32768..=60999);
        let see = |number: u16, golden: u16| learner.see(&golden.to_be_bytes(), &own, &[DrawnField::value(draw(number), 0, 2)]);
        let all = std::thread::scope(|scope| {
            let threads = [(); 2].map(|()| scope.spawn(|| (0..1000).all(|number| see(number, 33000 + number))));
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(all, [true, true]);
        let counts = learner.counts();
        assert!(!see(7, 33008), "it was another value before");
        counts
    }

    #[test]
    fn what_threads_learn_together_must_agree() {
        // The last ones stand beyond the table.
        let last = (BLOCKS * BLOCK) as u64;
        let offsets = learned_together(|number| Draw::SequenceOffset(last - 500 + u64::from(number)));
        assert_eq!(offsets.into_iter().collect::<Vec<_>>(), [("TCP sequence offset", 1000)]);
        let ids = learned_together(|number| Draw::Ipv4Id(u64::from(number)));
        assert_eq!(ids.into_iter().collect::<Vec<_>>(), [("IP ID", 1000)]);
    }

    #[test]
    fn draws_of_packets_that_left_long_ago_are_forgotten() {
        let learner = SharedLearner::new(32768..=60999);
        let see = |number: u64, value: u16| {
            learner.see(&value.to_be_bytes(), &[0, 0], &[DrawnField::value(Draw::Ipv4Id(number), 0, 2)])
        };
        let many = 1_000_000;
        assert!((0..many).all(|number| see(number, number as u16)));
        assert!(learner.others.lock().unwrap().known() < 500_000);
        assert_eq!(learner.counts().into_iter().collect::<Vec<_>>(), [("IP ID", many)]);
        assert!(!see(many - 1, 7), "the last ones are known");
    }

    #[test]
    fn a_source_port_outside_the_local_range_is_refused() {
        let address = std::net::IpAddr::from([10, 0, 0, 1]);
        let draw = Draw::GueSourcePort { source: address, destination: address, ports: (1, 80), protocol: 6, flow_label: 0 };
        let learner = SharedLearner::new(32768..=60999);
        assert!(!learner.see(&[0, 80], &[0x9c, 0x40], &[DrawnField::value(draw, 0, 2)]));
    }
}
