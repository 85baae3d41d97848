//! `fo`: the usable server with the greatest weight.

use super::{Candidate, Scheduler};
use std::net::IpAddr;

/// Weighted fail over.
#[derive(Clone, Debug)]
pub(super) struct WeightedFailOver;

impl Scheduler for WeightedFailOver {
    fn servers_changed(&mut self, _servers: &[Candidate]) {}

    fn choose(&mut self, servers: &[Candidate], _client: IpAddr) -> Option<usize> {
        let usable = servers.iter().enumerate().filter(|(_, server)| server.usable());
        usable.reduce(|best, other| if other.1.weight > best.1.weight { other } else { best }).map(|(index, _)| index)
    }

    fn boxed(&self) -> Box<dyn Scheduler> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{candidates, picks};
    use super::*;

    /// recordings/dpvs-1.10/sched-fo.
    #[test]
    fn heaviest_first() {
        let mut servers = candidates(&[1, 3, 2]);
        assert_eq!(picks(&mut WeightedFailOver, &servers, 1), [12]);
        servers[1].weight = 0;
        assert_eq!(picks(&mut WeightedFailOver, &servers, 1), [13]);
    }
}
