//! Mixes: weighted choices such as `tcp:8,udp:2` or `64:7,594:4,1518:1`, drawn by hash so that any packet can be made alone.

use std::fmt::Display;
use std::str::FromStr;

/// Mixes 64 bits so that each input bit moves every output bit (the finaliser of SplitMix64). All that looks random in
/// generated traffic comes from here: the same seed gives the same bytes on every machine and with any number of threads.
pub(super) fn scramble(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A text that is no mix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`: {reason}")]
pub struct MixError {
    /// The part at fault.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Values with weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix<T> {
    /// Each value with the sum of the weights up to and including its own.
    entries: Vec<(T, u64)>,
}

impl<T: Copy> Mix<T> {
    /// One value, always.
    pub fn only(value: T) -> Mix<T> {
        Mix { entries: vec![(value, 1)] }
    }

    /// The values without weights, in the order given.
    pub fn values(&self) -> impl Iterator<Item = T> {
        self.entries.iter().map(|(value, _)| *value)
    }

    /// The value that a hash selects.
    pub(super) fn pick(&self, hash: u64) -> T {
        let (last, total) = self.entries[self.entries.len() - 1]; // The parser and `only` never leave it empty.
        if self.entries.len() == 1 {
            return last;
        }
        // The high half times the total, shifted down: uniform without a division.
        let ticket = ((hash >> 32) * total) >> 32;
        self.entries.iter().find(|(_, up_to)| ticket < *up_to).map_or(last, |(value, _)| *value)
    }

    /// The mean of a number of each value, by weight.
    pub fn mean(&self, number: impl Fn(T) -> f64) -> f64 {
        let mut before = 0;
        let mut sum = 0.0;
        for (value, up_to) in &self.entries {
            sum += number(*value) * (up_to - before) as f64;
            before = *up_to;
        }
        sum / before as f64
    }
}

impl<T> FromStr for Mix<T>
where
    T: FromStr + Copy,
    T::Err: Display,
{
    type Err = MixError;

    /// `VALUE[:WEIGHT],...`; a weight left out is 1. Weights are whole numbers from 1 to 65,535.
    fn from_str(text: &str) -> Result<Mix<T>, MixError> {
        let mut entries = Vec::new();
        let mut total = 0;
        for part in text.split(',') {
            let error = |reason: String| MixError { text: part.to_owned(), reason };
            let (value, weight) = match part.split_once(':') {
                Some((value, weight)) => {
                    (value, weight.parse::<u16>().map_err(|_| error("a weight is a number from 1 to 65535".to_owned()))?)
                }
                None => (part, 1),
            };
            if weight == 0 {
                return Err(error("a weight of 0 never happens; leave the value out".to_owned()));
            }
            let value = value.trim().parse().map_err(|reason| error(format!("{reason}")))?;
            total += u64::from(weight);
            entries.push((value, total));
        }
        Ok(Mix { entries })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_mix_is_drawn_in_its_shares() {
        let mix: Mix<u32> = "64:7,594:4,1518:1".parse().unwrap();
        let mut counts = [0; 3];
        for number in 0..120_000 {
            match mix.pick(scramble(number)) {
                64 => counts[0] += 1,
                594 => counts[1] += 1,
                _ => counts[2] += 1,
            }
        }
        assert!((69_000..71_000).contains(&counts[0]), "{counts:?}");
        assert!((39_000..41_000).contains(&counts[1]), "{counts:?}");
        assert!((9_500..10_500).contains(&counts[2]), "{counts:?}");
        assert!((mix.mean(f64::from) - (64.0 * 7.0 + 594.0 * 4.0 + 1518.0) / 12.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_no_mix_is_refused_with_the_part_at_fault() {
        for text in ["", "64:0", "64:x", "64,", "a:1", "64:70000"] {
            assert!(text.parse::<Mix<u32>>().is_err(), "{text}");
        }
        assert_eq!("64,a:1".parse::<Mix<u32>>().unwrap_err().text, "a:1");
    }
}
