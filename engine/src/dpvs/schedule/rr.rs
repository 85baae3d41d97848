//! `rr`: one after the other.

use super::{Candidate, Scheduler};
use std::net::IpAddr;

/// Round robin. Its cursor stands on the server that was taken last, or on the first after a change.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundRobin {
    cursor: usize,
}

impl Scheduler for RoundRobin {
    fn servers_changed(&mut self, _servers: &[Candidate]) {
        self.cursor = 0;
    }

    fn choose(&mut self, servers: &[Candidate], _client: IpAddr) -> Option<usize> {
        let count = servers.len();
        let next = (1..=count).map(|step| (self.cursor + step) % count).find(|index| servers[*index].usable())?;
        self.cursor = next;
        Some(next)
    }

    fn boxed(&self) -> Box<dyn Scheduler> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{candidates, picks};
    use super::*;

    /// recordings/dpvs-1.10/sched-rr.
    #[test]
    fn starts_at_the_second_newest() {
        let mut scheduler = RoundRobin::default();
        let mut servers = candidates(&[1, 1, 1]);
        assert_eq!(picks(&mut scheduler, &servers, 6), [12, 11, 13, 12, 11, 13]);
        servers[1].weight = 0;
        scheduler.servers_changed(&servers);
        assert_eq!(picks(&mut scheduler, &servers, 4), [11, 13, 11, 13]);
        assert_eq!(scheduler.choose(&[], IpAddr::from([0; 4])), None);
    }
}
