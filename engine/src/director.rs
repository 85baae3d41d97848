//! A director: the serial composition, one frame at a time through all parts. This is the library's API, and the
//! reference that the batch composition must equal byte for byte.

use crate::config::{Command, DirectorConfig, InterfaceId, ScheduledCommand, ServerKey, ServiceKey};
use crate::draws::{Doubt, Draws};
use crate::link::Host;
use crate::listing::{ClientAddressCounts, ConnectionView, ServiceView};
use crate::observe::Observations;
use crate::output::Output;
use crate::profile::System;
use crate::time::Nanos;
use crate::track::Ipvs;
use crate::verdict::{Names, Verdict};
use crate::{dpvs, linux};

/// A configuration that can't work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// What can't work, and what to do about it.
    pub message: String,
    /// The index in [`DirectorConfig::commands`] of the command at fault.
    pub command: Option<usize>,
}

/// One frame that arrives.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// When.
    pub time: Nanos,
    /// On which link.
    pub interface: InterfaceId,
    /// The Ethernet frame without FCS, as captured.
    pub frame: &'a [u8],
    /// How many bytes the frame had on the wire; more than `frame` holds when the capture's snap length cut it.
    pub wire_len: u32,
}

/// What batch works on while it takes the place of a director's serial way.
pub(crate) struct ParallelParts<'a> {
    pub host: &'a Host,
    pub ipvs: &'a mut Ipvs,
    pub draws: &'a Draws,
}

/// Changes whenever anything but connections and counters may have changed.
pub(crate) type Version = (usize, u64, usize);

/// A director.
#[derive(Clone, Debug)]
pub struct Director {
    system: SystemDirector,
    /// No address is added while traffic runs: a connection's client could become the director itself, which batch does not
    /// expect.
    batchable: bool,
}

#[derive(Clone, Debug)]
enum SystemDirector {
    Linux(Box<linux::Director>),
    Dpvs(Box<dpvs::Director>),
}

impl Director {
    /// A director as described, at rest.
    ///
    /// # Errors
    /// A command that the director can't carry out.
    pub fn new(config: &DirectorConfig, draws: Draws) -> Result<Director, ConfigError> {
        let system = match config.profile.system {
            System::Linux => SystemDirector::Linux(Box::new(linux::Director::new(config, draws)?)),
            System::Dpvs => SystemDirector::Dpvs(Box::new(dpvs::Director::new(config, draws)?)),
        };
        let adds = |change: &ScheduledCommand| matches!(change.command, Command::AddAddress { .. });
        Ok(Director { system, batchable: !config.changes.iter().any(adds) })
    }

    /// Takes one frame in. Timers and scheduled changes that are due before it come first, at their own times. The frames
    /// that leave are added to `out`; when a link is slow to resolve, some leave in a later call.
    ///
    /// The first call's time is the origin of [`crate::config::ScheduledCommand::after`].
    pub fn receive(&mut self, arrival: Arrival<'_>, out: &mut Output) -> Verdict {
        match &mut self.system {
            SystemDirector::Linux(director) => director.receive(arrival, out),
            SystemDirector::Dpvs(director) => director.receive(arrival, out),
        }
    }

    /// Lets time pass: timers and scheduled changes up to and including `now`.
    pub fn advance(&mut self, now: Nanos, out: &mut Output) {
        match &mut self.system {
            SystemDirector::Linux(director) => director.advance(now, out),
            SystemDirector::Dpvs(director) => director.advance(now, out),
        }
    }

    /// From now on notes on which draws it hangs what the director does. Costs time; only learning from a golden needs it.
    pub fn note_doubts(&mut self) {
        if let SystemDirector::Dpvs(director) = &mut self.system {
            director.note_doubts();
        }
    }

    /// The draws on which it hung what the last call did.
    pub fn doubts(&self) -> &[Doubt] {
        match &self.system {
            SystemDirector::Linux(_) => &[],
            SystemDirector::Dpvs(director) => director.doubts(),
        }
    }

    /// DPVS: how the clients' addresses reached the real servers, by the number of the service.
    pub fn client_addresses(&self) -> Vec<(u32, ClientAddressCounts)> {
        match &self.system {
            SystemDirector::Linux(_) => Vec::new(),
            SystemDirector::Dpvs(director) => director.client_addresses(),
        }
    }

    /// Takes real servers as they were observed, instead of scheduling.
    pub fn observe(&mut self, observations: Observations) {
        match &mut self.system {
            SystemDirector::Linux(director) => director.observe(observations),
            SystemDirector::Dpvs(director) => director.observe(observations),
        }
    }

    /// What batch may work on; none when every packet must go the serial way.
    pub(crate) fn parallel_parts(&mut self) -> Option<ParallelParts<'_>> {
        match &mut self.system {
            SystemDirector::Linux(director) if self.batchable => director.parallel_parts(),
            SystemDirector::Linux(_) => None,
            SystemDirector::Dpvs(_) => None,
        }
    }

    /// The DPVS director, for batch.
    pub(crate) fn dpvs(&mut self) -> Option<&mut dpvs::Director> {
        match &mut self.system {
            SystemDirector::Linux(_) => None,
            SystemDirector::Dpvs(director) => Some(director),
        }
    }

    /// The version of all but connections and counters; none when batch can't tell.
    pub(crate) fn version(&self) -> Option<Version> {
        match &self.system {
            SystemDirector::Linux(director) => Some(director.version()),
            SystemDirector::Dpvs(director) => Some(director.version()),
        }
    }

    /// When something other than a connection's end is due next.
    pub(crate) fn next_due(&self) -> Nanos {
        match &self.system {
            SystemDirector::Linux(director) => director.next_due(),
            SystemDirector::Dpvs(director) => director.next_due(),
        }
    }

    /// Services with their real servers, those that were removed left out, in the order of `ipvsadm -Ln`.
    pub fn services(&self) -> Vec<ServiceView> {
        match &self.system {
            SystemDirector::Linux(director) => director.services(),
            SystemDirector::Dpvs(director) => director.services(),
        }
    }

    /// The connection table, templates included, ordered by protocol, client and service.
    pub fn connections(&self, now: Nanos) -> Vec<ConnectionView> {
        match &self.system {
            SystemDirector::Linux(director) => director.connections(now),
            SystemDirector::Dpvs(director) => director.connections(now),
        }
    }
}

impl Names for Director {
    fn service(&self, number: u32) -> Option<&ServiceKey> {
        match &self.system {
            SystemDirector::Linux(director) => director.service(number),
            SystemDirector::Dpvs(director) => director.service(number),
        }
    }

    fn server(&self, number: u32) -> Option<&ServerKey> {
        match &self.system {
            SystemDirector::Linux(director) => director.server(number),
            SystemDirector::Dpvs(director) => director.server(number),
        }
    }
}
