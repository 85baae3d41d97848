//! `wrr`: round robin, each as often as its weight says.

use super::{Candidate, Scheduler, common_divisor};
use std::net::IpAddr;

/// Weighted round robin. The cursor goes round the list and one place more, the list's head, where the weight that a
/// server must have sinks by the common divisor.
#[derive(Clone, Debug, Default)]
pub(super) struct WeightedRoundRobin {
    /// Where it stands; the number of servers means the head.
    cursor: usize,
    current_weight: u32,
}

impl Scheduler for WeightedRoundRobin {
    fn servers_changed(&mut self, servers: &[Candidate]) {
        self.cursor = 0;
        if self.current_weight > greatest_weight(servers) {
            self.current_weight = 0;
        }
    }

    fn choose(&mut self, servers: &[Candidate], _client: IpAddr) -> Option<usize> {
        if !servers.iter().any(Candidate::usable) {
            return None;
        }
        let divisor = common_divisor(servers);
        // Ends: some server is usable, and after at most one sinking to zero every weight is enough.
        loop {
            self.cursor += 1;
            if self.cursor > servers.len() {
                self.cursor = 0;
                self.current_weight = match self.current_weight.saturating_sub(divisor) {
                    0 => greatest_weight(servers),
                    weight => weight,
                };
            }
            match servers.get(self.cursor) {
                Some(server) if server.usable() && server.weight >= self.current_weight => return Some(self.cursor),
                _ => {}
            }
        }
    }

    fn boxed(&self) -> Box<dyn Scheduler> {
        Box::new(self.clone())
    }
}

fn greatest_weight(servers: &[Candidate]) -> u32 {
    servers.iter().map(|server| server.weight).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::{candidates, picks};
    use super::*;

    /// recordings/dpvs-1.10/sched-wrr: weights 1, 2, 3.
    #[test]
    fn first_round_ignores_weights() {
        let mut scheduler = WeightedRoundRobin::default();
        let expected = [12, 11, 13, 13, 12, 13, 12, 11, 13, 13, 12, 13, 12, 11];
        assert_eq!(picks(&mut scheduler, &candidates(&[1, 2, 3]), expected.len()), expected);
    }

    #[test]
    fn nobody_usable() {
        let mut scheduler = WeightedRoundRobin::default();
        assert_eq!(scheduler.choose(&candidates(&[0, 0]), IpAddr::from([0; 4])), None);
    }
}
