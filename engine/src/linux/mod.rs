//! The Linux director: one frame at a time through link, hooks and rewriting, in the kernel's order
//! (reference/linux-ipvs.md sections 1, 6, 7, 9 and 10).
//!
//! | file | what happens there |
//! | --- | --- |
//! | `ingress` | frame to packet: link header, IP sanity, routing, options |
//! | `input` | packets to the director itself: reassembly, hooks, local stack |
//! | `forward` | packets that are routed on: TTL, MTU, hooks |
//! | `redirect` | telling hosts of a better way |
//! | `balance` | requests: connection or scheduling, transmission |
//! | `reply` | answers of real servers |
//! | `related` | ICMP errors about connections, from both sides |
//! | `transmit` | the way to a real server: route, TTL, MTU, method |
//! | `output` | fragmentation and sending, the director's own packets |
//! | `error` | ICMP errors of the director |
//! | `peer` | how often a host is told something: rate limits |
//! | `answer` | what the director's own stack answers |
//! | `options` | IPv4 options |
//! | `extension` | IPv6 extension headers, as the host reads them |
//! | `command` | changes while traffic runs |
//! | `ftp` | the FTP helper |

mod answer;
mod balance;
mod command;
mod error;
mod extension;
mod forward;
mod ftp;
mod ingress;
mod input;
mod options;
mod output;
mod packet;
mod parallel;
mod peer;
mod redirect;
mod related;
mod reply;
#[cfg(test)]
mod tests;
mod transmit;

use crate::config::{Command, DirectorConfig, MarkRule, ScheduledCommand, ServerKey, ServiceKey};
use crate::director::{Arrival, ConfigError};
use crate::draws::Draws;
use crate::link::Host;
use crate::link::neighbour::TimerEvent;
use crate::listing::{ConnectionView, ServiceView};
use crate::output::Output;
use crate::profile::Profile;
use crate::time::Nanos;
use crate::track::{ConnectionId, Ipvs};
use crate::verdict::{Names, Verdict};
use packet::Packet;
use std::collections::{HashMap, VecDeque};

/// A Linux director.
#[derive(Clone, Debug)]
pub struct Director {
    host: Host,
    ipvs: Ipvs,
    profile: Profile,
    draws: Draws,
    marks: Vec<MarkRule>,
    changes: VecDeque<ScheduledCommand>,
    /// When counters are summed up that a change may clear, after the first frame.
    sums: VecDeque<Nanos>,
    origin: Option<Nanos>,
    receive_offload: bool,
    peers: peer::Peers,
    drawn: output::DrawCounters,
    ftp: HashMap<ConnectionId, ftp::Control>,
    /// IPv6 fragments are put together before all hooks once an IPv6 service was added (reference section 1.2).
    gathers_ipv6: bool,
}

impl Director {
    /// A director as described, at rest.
    ///
    /// # Errors
    /// A command that ipvsadm would refuse.
    pub fn new(config: &DirectorConfig, draws: Draws) -> Result<Director, ConfigError> {
        let mut director = Director {
            host: Host::new(config),
            ipvs: Ipvs::new(config.sysctls.clone())
                .with_timer_wheel(config.timer_wheel)
                .with_sums(config.counters_summed.is_some()),
            profile: config.profile.clone(),
            draws,
            marks: config.marks.clone(),
            changes: config.changes.iter().cloned().collect(),
            sums: sums_before_changes(config),
            origin: None,
            receive_offload: config.receive_offload,
            peers: peer::Peers::default(),
            drawn: output::DrawCounters::default(),
            ftp: HashMap::new(),
            gathers_ipv6: false,
        };
        let mut unseen = Output::default();
        for (index, command) in config.commands.iter().enumerate() {
            director
                .carry_out(command, Nanos(0), &mut unseen)
                .map_err(|message| ConfigError { message, command: Some(index) })?;
        }
        Ok(director)
    }

    /// Takes one frame in; see [`crate::Director::receive`].
    pub fn receive(&mut self, arrival: Arrival<'_>, out: &mut Output) -> Verdict {
        self.advance(arrival.time, out);
        self.receive_frame(arrival, out)
    }

    /// Lets time pass; see [`crate::Director::advance`].
    pub fn advance(&mut self, now: Nanos, out: &mut Output) {
        let origin = *self.origin.get_or_insert(now);
        loop {
            let change = self.changes.front().map(|change| origin + change.after);
            let sum = self.sums.front().map(|sum| origin + *sum);
            let next = [change, sum, self.host.neighbours.next_timer(), self.host.fragments.next_timer()];
            let Some(time) = next.into_iter().flatten().min().filter(|time| *time <= now) else { break };
            self.ipvs.expire(time);
            if sum == Some(time) {
                self.sums.pop_front();
                self.ipvs.services.sum_counters();
                continue;
            }
            if change == Some(time) {
                if let Some(change) = self.changes.pop_front() {
                    // What ipvsadm refuses while traffic runs changes nothing, as on a real director.
                    let _ = self.carry_out(&change.command, time, out);
                }
                continue;
            }
            let first = out.len();
            if self.host.neighbours.next_timer() == Some(time) {
                self.neighbour_timer(time, out);
            } else if let Some(expired) = self.host.fragments.fire(time) {
                self.fragments_expired(out, expired);
            }
            out.late_from(first);
        }
        self.ipvs.expire(now);
    }

    fn neighbour_timer(&mut self, now: Nanos, out: &mut Output) {
        match self.host.neighbours.fire(now) {
            Some(TimerEvent::Ask { time, interface, address, known }) => {
                self.host.ask(out, time, interface, address, known);
            }
            Some(TimerEvent::Failed { time, interface, address, waiting }) => {
                for packet in waiting {
                    self.neighbour_failed(out, time, packet);
                    // Telling a sender may ask for the same neighbour again: the other packets are gone then, untold.
                    if !self.host.neighbours.has_failed(interface, address) {
                        self.host.neighbours.purge(interface, address);
                        break;
                    }
                }
            }
            None => {}
        }
    }

    /// Takes real servers as they were observed; see [`crate::Director::observe`].
    pub fn observe(&mut self, observations: crate::observe::Observations) {
        self.ipvs.observe(observations);
    }

    /// Services with their real servers.
    pub fn services(&self) -> Vec<ServiceView> {
        self.ipvs.service_views()
    }

    /// The connection table.
    pub fn connections(&self, now: Nanos) -> Vec<ConnectionView> {
        self.ipvs.connection_views(now)
    }

    /// The mark that the firewall sets on a packet.
    fn mark_of(&self, packet: &Packet) -> u32 {
        let fits = |rule: &&MarkRule| {
            let headers = &packet.headers;
            rule.destination.is_none_or(|network| network.contains(headers.destination))
                && rule.protocol.is_none_or(|protocol| protocol.0 == headers.protocol)
                && (rule.ports.is_empty() || rule.ports.contains(&headers.flow(&packet.bytes).destination_port))
        };
        self.marks.iter().rev().find(fits).map_or(0, |rule| rule.mark)
    }
}

impl Names for Director {
    fn service(&self, number: u32) -> Option<&ServiceKey> {
        self.ipvs.services.all.get(number as usize).map(|service| &service.key)
    }

    fn server(&self, number: u32) -> Option<&ServerKey> {
        self.ipvs.services.servers.get(number as usize).map(|server| &server.key)
    }
}

/// The last time before each change that clears counters, or takes a server whose counters may be cleared later, at which they are
/// summed up.
fn sums_before_changes(config: &DirectorConfig) -> VecDeque<Nanos> {
    let Some(first) = config.counters_summed else { return VecDeque::new() };
    let clears = |command: &Command| {
        use Command::{Clear, DeleteServer, DeleteService, Zero};
        matches!(command, Zero { .. } | DeleteServer { .. } | DeleteService { .. } | Clear)
    };
    let period = DirectorConfig::COUNTERS_PERIOD.0;
    let changes = config.changes.iter().filter(|change| clears(&change.command) && change.after >= first);
    let mut sums: VecDeque<Nanos> = changes.map(|change| change.after - Nanos((change.after - first).0 % period)).collect();
    sums.make_contiguous().sort_unstable();
    sums
}

/// Whether the command belongs to ipvsadm.
fn is_ipvsadm(command: &Command) -> bool {
    matches!(
        command,
        Command::AddService { .. }
            | Command::EditService { .. }
            | Command::DeleteService { .. }
            | Command::AddServer { .. }
            | Command::EditServer { .. }
            | Command::DeleteServer { .. }
            | Command::Clear
            | Command::Zero { .. }
            | Command::SetTimeouts(_)
    )
}
