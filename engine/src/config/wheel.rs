//! The clock of a kernel's timers.

use crate::time::Nanos;

/// A kernel's timer wheel (reference/linux-ipvs.md section 0.3): a timer fires at the first tick behind its time that its level of
/// the wheel knows. Which ticks those are, only the kernel knows: it counts them since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerWheel {
    /// Ticks a second, as the kernel was built: 100, 250, 300 or 1000.
    pub ticks_per_second: u32,
    /// How long before time 0 all levels of the wheel ticked together.
    pub phase: Nanos,
}

/// A level has this many times the reach of the one below it, and ticks as much slower: 2^3.
const LEVEL_BITS: u32 = 3;
/// How many ticks from now on the lowest level reaches.
const REACH: u128 = 63;

impl TimerWheel {
    /// When a timer fires that was set to `due`, which was so far away then.
    pub fn fires(&self, due: Nanos, distance: Nanos) -> Nanos {
        let ticks_in = |time: u128| time * u128::from(self.ticks_per_second) / 1_000_000_000;
        let distance = ticks_in(distance.0.into());
        let level = (0..8).find(|level| distance < REACH << (LEVEL_BITS * level)).unwrap_or(8);
        let shift = LEVEL_BITS * level;
        let tick = ((ticks_in(u128::from(due.0) + u128::from(self.phase.0)) >> shift) + 1) << shift;
        let time = (tick * 1_000_000_000).div_ceil(u128::from(self.ticks_per_second.max(1)));
        Nanos(u64::try_from(time).unwrap_or(u64::MAX)) - self.phase
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farther_the_later() {
        let wheel = |phase| TimerWheel { ticks_per_second: 250, phase: Nanos::from_millis(phase) };
        let late = |phase: u64, seconds: u64| {
            let (due, distance) = (Nanos::from_secs(10_000 + seconds), Nanos::from_secs(seconds));
            (wheel(phase).fires(due, distance) - due).0 / 1_000_000
        };
        // 10 002 s are 2 500 500 ticks, of which 8 make one of the second level: 312 562.5.
        assert_eq!((late(0, 2), late(16, 2)), (16, 32));
        assert!((1..=2048).contains(&late(0, 60)) && (1..=2048).contains(&late(0, 120)));
        assert_eq!(Nanos::from_millis(late(0, 60)) + Nanos::from_secs(10_060), Nanos::from_millis(2_048 * 4_913));
        assert_eq!(Nanos::from_millis(late(0, 900)) + Nanos::from_secs(10_900), Nanos::from_millis(16_384 * 666));
        assert_eq!(wheel(0).fires(Nanos::NEVER, Nanos::from_secs(1)), Nanos::NEVER);
    }
}
