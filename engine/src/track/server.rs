//! Real servers: counts of connections, thresholds, and what is left of removed ones.

use crate::config::{ServerKey, ServerSettings, TimerWheel};
use crate::listing::Counters;
use crate::time::Nanos;

/// Removed servers are looked at a minute after the first of them went, and then again and again
/// (reference/linux-ipvs.md section 0.2).
const SWEEP_TIMER: Nanos = Nanos::from_secs(60);
/// Timers of a minute fire at the next multiple of 2.048 s where a second has 250 ticks (section 0.3): the first one half of that
/// late on average,
const FIRST_SWEEP: Nanos = Nanos::from_millis(61_024);
/// and a renewed one always after as long.
const SWEEP_PERIOD: Nanos = Nanos::from_millis(61_440);
/// One that is found unused is forgotten when two minutes have passed since: at the second look after that.
const SWEEPS_UNUSED: u64 = 2;

/// How late a timer of so many seconds is on average: half a step of the level of the timer wheel that it is in, at HZ=250
/// (reference/linux-ipvs.md section 0.3). Where in a step a director is depends on when it was switched on.
pub(super) fn lateness(seconds: u32) -> Nanos {
    let jiffies = u64::from(seconds) * 250;
    let mut step = 1;
    while step * 64 <= jiffies {
        step *= 8;
    }
    Nanos::from_millis(step * 4 / 2)
}

/// A real server of one service. It outlives its removal as long as connections name it.
#[derive(Clone, Debug)]
pub struct Server {
    /// Address and port.
    pub key: ServerKey,
    /// Its service.
    pub service: u32,
    /// Settings as they are now.
    pub settings: ServerSettings,
    /// The last weight that was not 0, or the one it was added with.
    pub last_weight: u32,
    /// Active connections.
    pub active: u32,
    /// Connections in all, templates not counted.
    pub total: u32,
    /// Templates.
    pub persistent: u32,
    /// At its upper threshold.
    pub overloaded: bool,
    /// In its service's list.
    pub available: bool,
    /// What passed.
    pub counters: Counters,
    /// What had passed when counters were summed up last.
    pub(super) summed: Counters,
    /// Which life of its service it is listed in.
    pub(super) service_life: u32,
    /// When it was removed, or its last entry after that.
    unused_since: Nanos,
    /// When the sweeps began that it was removed under.
    sweeps_since: Nanos,
}

impl Server {
    /// A server as it is added.
    pub(super) fn new(key: ServerKey, service: u32, settings: ServerSettings) -> Server {
        Server {
            key,
            service,
            settings,
            last_weight: settings.weight,
            active: 0,
            total: 0,
            persistent: 0,
            overloaded: false,
            available: true,
            counters: Counters::default(),
            summed: Counters::default(),
            service_life: 0,
            unused_since: Nanos(0),
            sweeps_since: Nanos(0),
        }
    }

    /// Inactive connections.
    pub fn inactive(&self) -> u32 {
        self.total.saturating_sub(self.active)
    }

    /// A connection or template is bound (classic rules of section 2.2).
    pub(super) fn bind(&mut self, template: bool) {
        if template {
            self.persistent += 1;
        } else {
            self.total += 1;
        }
        let limit = self.settings.upper_threshold;
        if limit != 0 && self.total >= limit {
            self.overloaded = true;
        }
    }

    /// One goes, at that time.
    pub(super) fn unbind(&mut self, template: bool, active: bool, at: Nanos) {
        if template {
            self.persistent = self.persistent.saturating_sub(1);
        } else {
            self.total = self.total.saturating_sub(1);
            self.active = self.active.saturating_sub(u32::from(active));
        }
        self.unused_since = self.unused_since.max(at);
        let (upper, lower) = (u64::from(self.settings.upper_threshold), u64::from(self.settings.lower_threshold));
        let total = u64::from(self.total);
        let again = if lower != 0 { total < lower } else { upper == 0 || total * 4 < upper * 3 };
        if again {
            self.overloaded = false;
        }
    }

    pub(super) fn edit(&mut self, settings: ServerSettings) {
        let raised = settings.upper_threshold == 0 || settings.upper_threshold > self.settings.upper_threshold;
        if raised {
            self.overloaded = false;
        }
        if settings.weight != 0 {
            self.last_weight = settings.weight;
        }
        self.settings = settings;
    }

    /// It leaves its service's list. `sweeps_since` is when the first of those that are remembered now was removed.
    pub(super) fn retire(&mut self, now: Nanos, sweeps_since: Nanos) {
        self.available = false;
        self.unused_since = now;
        self.sweeps_since = sweeps_since;
    }

    /// Whether it was removed and is still remembered.
    pub(super) fn is_in_trash(&self, now: Nanos, wheel: Option<TimerWheel>) -> bool {
        let used = self.total != 0 || self.persistent != 0;
        !self.available && (used || now < self.forgotten_at(wheel))
    }

    /// Since when sweeps run, for one that was removed.
    pub(super) fn sweeps_since(&self) -> Nanos {
        self.sweeps_since
    }

    /// When a sweep forgets it, if nothing uses it any more.
    fn forgotten_at(&self, wheel: Option<TimerWheel>) -> Nanos {
        let (first, period) = match wheel {
            None => (self.sweeps_since + FIRST_SWEEP, SWEEP_PERIOD),
            Some(wheel) => {
                let first = wheel.fires(self.sweeps_since + SWEEP_TIMER, SWEEP_TIMER);
                (first, wheel.fires(first + SWEEP_TIMER, SWEEP_TIMER) - first)
            }
        };
        let later = self.unused_since - first;
        first + Nanos(period.0.saturating_mul(later.0.div_ceil(period.0.max(1)) + SWEEPS_UNUSED))
    }

    /// It is added again.
    pub(super) fn resurrect(&mut self, settings: ServerSettings) {
        self.available = true;
        self.edit(settings);
        self.last_weight = settings.weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ForwardingMethod;

    fn server(upper_threshold: u32, lower_threshold: u32) -> Server {
        let key = ServerKey { address: [10, 0, 0, 11].into(), port: 80 };
        Server::new(key, 0, ServerSettings { method: ForwardingMethod::Dr, weight: 1, upper_threshold, lower_threshold })
    }

    #[test]
    fn full_at_the_upper_threshold_until_three_quarters() {
        let mut server = server(4, 0);
        let full: Vec<bool> = (0..4)
            .map(|_| {
                server.bind(false);
                server.overloaded
            })
            .collect();
        assert_eq!(full, [false, false, false, true]);
        let full: Vec<bool> = (0..2)
            .map(|_| {
                server.unbind(false, false, Nanos(1));
                server.overloaded
            })
            .collect();
        assert_eq!(full, [true, false], "3 of 4 is not below three quarters, 2 is");
    }

    #[test]
    fn a_lower_threshold_must_be_undercut() {
        let mut server = server(4, 2);
        (0..4).for_each(|_| server.bind(false));
        let full: Vec<bool> = (0..3)
            .map(|_| {
                server.unbind(false, false, Nanos(1));
                server.overloaded
            })
            .collect();
        assert_eq!(full, [true, true, false]);
    }

    #[test]
    fn templates_do_not_count_but_look() {
        let mut server = server(1, 0);
        server.bind(true);
        assert!(!server.overloaded);
        server.bind(false);
        assert!(server.overloaded);
        server.edit(ServerSettings { upper_threshold: 2, ..server.settings });
        assert!(!server.overloaded, "a raised threshold clears");
        server.edit(ServerSettings { upper_threshold: 1, ..server.settings });
        assert!(!server.overloaded, "a lowered one does not set");
        server.bind(true);
        assert!(server.overloaded, "but the next entry does, a template, too");
    }

    #[test]
    fn the_trash_keeps_what_has_connections() {
        let mut server = server(0, 0);
        server.bind(false);
        server.retire(Nanos::from_secs(10), Nanos::from_secs(10));
        assert!(server.is_in_trash(Nanos::from_secs(10_000), None));
        server.unbind(false, false, Nanos::from_secs(9_900));
        assert!(server.is_in_trash(Nanos::from_secs(10_000), None));
        assert!(!server.is_in_trash(Nanos::from_secs(10_090), None));
    }

    #[test]
    fn sweeps_run_from_the_first_removal_on() {
        let seconds = |text: f64| Nanos((text * 1e9) as u64);
        let mut server = server(0, 0);
        server.bind(false);
        server.retire(seconds(433.89), seconds(433.32));
        server.unbind(false, false, seconds(733.86));
        assert!(server.is_in_trash(seconds(862.9), None), "found unused at the fifth sweep, 740.1");
        assert!(!server.is_in_trash(seconds(863.1), None), "forgotten at the seventh");
        server.retire(seconds(1000.0), seconds(1000.0));
        assert!(server.is_in_trash(seconds(1183.8), None), "found unused at 1061, for a minute at 1122.5");
        assert!(!server.is_in_trash(seconds(1184.0), None));
    }

    #[test]
    fn timers_are_late_by_half_a_step_of_the_wheel() {
        let late = [0, 10, 60, 120, 300, 900].map(|seconds| lateness(seconds).0 / 1_000_000);
        assert_eq!(late, [2, 128, 1024, 1024, 8192, 8192]);
    }

    #[test]
    fn the_last_weight_outlives_weight_zero() {
        let mut server = server(0, 0);
        server.edit(ServerSettings { weight: 7, ..server.settings });
        server.edit(ServerSettings { weight: 0, ..server.settings });
        assert_eq!((server.settings.weight, server.last_weight), (0, 7));
    }
}
