//! What batch needs of a Linux director.

use super::Director;
use crate::director::{ParallelParts, Version};
use crate::time::Nanos;

impl Director {
    /// What batch may work on; none while firewall marks or the FTP helper look at every packet, or before the first one.
    pub(crate) fn parallel_parts(&mut self) -> Option<ParallelParts<'_>> {
        let plain = self.origin.is_some() && self.marks.is_empty() && self.ftp.is_empty();
        plain.then_some(ParallelParts { host: &self.host, ipvs: &mut self.ipvs, draws: &self.draws })
    }

    /// The version of all but connections and counters: which changes were carried out, which neighbours are known, which
    /// path MTUs were learned.
    pub(crate) fn version(&self) -> Version {
        (self.changes.len(), self.host.neighbours.version(), self.host.path_mtus.len())
    }

    /// When something other than a connection's end is due next.
    pub(crate) fn next_due(&self) -> Nanos {
        let Some(origin) = self.origin else { return Nanos(0) };
        let change = self.changes.front().map(|change| origin + change.after);
        let sum = self.sums.front().map(|sum| origin + *sum);
        [change, sum, self.host.neighbours.next_timer(), self.host.fragments.next_timer()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Nanos::NEVER)
    }
}
