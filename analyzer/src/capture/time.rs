//! Time stamps of pcapng interfaces (pcapng specification, options if_tsresol and if_tsoffset).

use lvscheck_engine::Nanos;

/// How an interface counts time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// if_tsresol: bit 7 clear: negative power of ten; set: of two.
    resolution: u8,
    /// if_tsoffset: seconds to add.
    offset: i64,
}

impl Default for Clock {
    /// Microseconds since the epoch.
    fn default() -> Clock {
        Clock { resolution: 6, offset: 0 }
    }
}

impl Clock {
    /// A clock with these options.
    pub fn new(resolution: Option<u8>, offset: Option<i64>) -> Clock {
        Clock { resolution: resolution.unwrap_or(6), offset: offset.unwrap_or(0) }
    }

    /// Units as nanoseconds since the epoch, cut to what fits. Exact for every resolution: the fraction is computed in 128 bits.
    pub fn nanos(self, units: u64) -> Nanos {
        let power = u32::from(self.resolution & 0x7f);
        let nanos = if self.resolution & 0x80 != 0 {
            // At most 64 + 30 bits.
            (u128::from(units) * 1_000_000_000).checked_shr(power).unwrap_or(0)
        } else if power <= 9 {
            u128::from(units) * 10u128.pow(9 - power)
        } else {
            10u128.checked_pow(power - 9).map_or(0, |divisor| u128::from(units) / divisor)
        };
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX).saturating_add(i128::from(self.offset) * 1_000_000_000);
        Nanos(nanos.clamp(0, i128::from(u64::MAX)) as u64)
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
        assert_eq!(Clock::new(Some(12), None).nanos(1_500_000_000_999), Nanos(1_500_000_000));
        assert_eq!(Clock::new(Some(0x80 | 10), None).nanos(1024 + 512), Nanos(1_500_000_000));
        assert_eq!(Clock::new(Some(0x80), None).nanos(3), Nanos(3_000_000_000));
        assert_eq!(Clock::new(Some(6), Some(-3)).nanos(5_000_000), Nanos(2_000_000_000));
        assert_eq!(Clock::new(Some(6), Some(-9)).nanos(5_000_000), Nanos(0));
        assert_eq!(Clock::new(Some(0), None).nanos(u64::MAX), Nanos(u64::MAX));
        assert_eq!(Clock::new(Some(0x7f), None).nanos(u64::MAX), Nanos(0));
        assert_eq!(Clock::new(Some(0xff), None).nanos(u64::MAX), Nanos(0));
    }
}
