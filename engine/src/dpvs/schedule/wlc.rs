//! `wlc`: the server with the least connections for its weight.

use super::{Candidate, Scheduler};
use std::net::IpAddr;

/// Weighted least connection; an established connection counts 256 times as much as another.
#[derive(Clone, Debug)]
pub(super) struct WeightedLeastConnection;

impl Scheduler for WeightedLeastConnection {
    fn servers_changed(&mut self, _servers: &[Candidate]) {}

    fn choose(&mut self, servers: &[Candidate], _client: IpAddr) -> Option<usize> {
        let overhead = |server: &Candidate| u64::from(server.active) * 256 + u64::from(server.inactive);
        let usable = servers.iter().enumerate().filter(|(_, server)| server.usable());
        // Ties keep the earlier one.
        let best = usable.reduce(|best, other| {
            let better = overhead(best.1) * u64::from(other.1.weight) > overhead(other.1) * u64::from(best.1.weight);
            if better { other } else { best }
        });
        best.map(|(index, _)| index)
    }

    fn boxed(&self) -> Box<dyn Scheduler> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{candidates, picks};
    use super::*;

    #[test]
    fn least_loaded_for_its_weight() {
        let mut servers = candidates(&[1, 2, 4]);
        assert_eq!(picks(&mut WeightedLeastConnection, &servers, 1), [13]);
        servers[0].active = 1;
        servers[1].inactive = 200;
        servers[2].inactive = 60;
        // 256/4 = 64, 200/2 = 100, 60/1 = 60.
        assert_eq!(picks(&mut WeightedLeastConnection, &servers, 1), [11]);
        servers[2].overloaded = true;
        assert_eq!(picks(&mut WeightedLeastConnection, &servers, 1), [13]);
    }
}
