//! Time stamps of pcapng interfaces (pcapng specification, options if_tsresol and if_tsoffset).

use lvscheck_engine::Nanos;

/// How an interface counts time: made once an interface, used for every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    unit: Unit,
    /// if_tsoffset, in nanoseconds: to be added.
    offset: i128,
}

/// How units become nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// A power of ten not finer than a nanosecond: how many nanoseconds a unit has.
    Nanoseconds(u64),
    /// A finer power of ten: how many units a nanosecond has. None: more than any count of units reaches.
    Finer(Option<u64>),
    /// A negative power of two of a second.
    Binary(u8),
}

impl Default for Clock {
    /// Microseconds since the epoch.
    fn default() -> Clock {
        Clock::new(None, None)
    }
}

impl Clock {
    /// A clock with these options: if_tsresol (bit 7 clear: a negative power of ten, set: of two; microseconds without it) and
    /// if_tsoffset (seconds).
    pub fn new(resolution: Option<u8>, offset: Option<i64>) -> Clock {
        let resolution = resolution.unwrap_or(6);
        let power = resolution & 0x7f;
        let unit = if resolution & 0x80 != 0 {
            Unit::Binary(power)
        } else if power <= 9 {
            Unit::Nanoseconds(10u64.pow(9 - u32::from(power)))
        } else {
            Unit::Finer(10u64.checked_pow(u32::from(power) - 9))
        };
        Clock { unit, offset: i128::from(offset.unwrap_or(0)) * 1_000_000_000 }
    }

    /// Units as nanoseconds since the epoch, cut to what fits. Exact, rounded down, for every resolution.
    #[inline]
    pub fn nanos(self, units: u64) -> Nanos {
        let nanos = match self.unit {
            Unit::Nanoseconds(each) => match units.checked_mul(each) {
                Some(nanos) if self.offset == 0 => return Nanos(nanos),
                _ => u128::from(units) * u128::from(each),
            },
            Unit::Finer(each) => u128::from(each.map_or(0, |each| units / each)),
            // At most 64 + 30 bits.
            Unit::Binary(power) => (u128::from(units) * 1_000_000_000).checked_shr(power.into()).unwrap_or(0),
        };
        // At most 94 bits, and 94 with a sign: no overflow.
        Nanos((nanos as i128 + self.offset).clamp(0, i128::from(u64::MAX)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resolution() {
        assert_eq!(Clock::new(None, None).nanos(1_500_000), Nanos(1_500_000_000));
        assert_eq!(Clock::new(Some(9), None).nanos(1_500_000_001), Nanos(1_500_000_001));
        assert_eq!(Clock::new(Some(3), None).nanos(1_500), Nanos(1_500_000_000));
        assert_eq!(Clock::new(Some(0), None).nanos(2), Nanos(2_000_000_000));
        assert_eq!(Clock::new(Some(10), None).nanos(9_876_543_210), Nanos(987_654_321));
        assert_eq!(Clock::new(Some(12), None).nanos(1_500_000_000_999), Nanos(1_500_000_000));
        assert_eq!(Clock::new(Some(0x80 | 10), None).nanos(1024 + 512), Nanos(1_500_000_000));
        assert_eq!(Clock::new(Some(0x89), None).nanos(512 * 3 + 256), Nanos(3_500_000_000));
        assert_eq!(Clock::new(Some(0x80), None).nanos(3), Nanos(3_000_000_000));
    }

    #[test]
    fn offsets_have_a_sign() {
        assert_eq!(Clock::new(Some(6), Some(5)).nanos(5_000_000), Nanos(10_000_000_000));
        assert_eq!(Clock::new(Some(6), Some(-3)).nanos(5_000_000), Nanos(2_000_000_000));
        assert_eq!(Clock::new(Some(6), Some(-9)).nanos(5_000_000), Nanos(0));
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        assert_eq!(Clock::new(Some(0), None).nanos(u64::MAX), Nanos(u64::MAX));
        assert_eq!(Clock::new(Some(0), Some(i64::MAX)).nanos(u64::MAX), Nanos(u64::MAX));
        assert_eq!(Clock::new(Some(0), Some(i64::MIN)).nanos(u64::MAX), Nanos(u64::MAX));
        assert_eq!(Clock::new(Some(9), Some(i64::MIN)).nanos(u64::MAX), Nanos(0));
        assert_eq!(Clock::new(Some(0x7f), None).nanos(u64::MAX), Nanos(0));
        assert_eq!(Clock::new(Some(28), None).nanos(u64::MAX), Nanos(1));
        assert_eq!(Clock::new(Some(29), None).nanos(u64::MAX), Nanos(0));
        assert_eq!(Clock::new(Some(0xff), None).nanos(u64::MAX), Nanos(0));
    }
}
