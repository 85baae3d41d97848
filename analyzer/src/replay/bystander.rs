//! Frames of a capture that are no input to the director: what it sent itself, answers that go past it, and those of others.

use super::demands::Watch;
use super::outcome::Roles;
use super::place::{Place, Places};
use super::reply;
use super::session::answers_pass_director;
use crate::capture::{BulkWindow, link};
use crate::describe;
use lvscheck_engine::DirectorConfig;
use lvscheck_engine::config::{Command, ForwardingMethod, ServerKey, ServiceKey};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Tells what they are.
#[derive(Clone, Debug, Default)]
pub struct Bystanders {
    known: describe::Roles,
    /// Real servers whose answers have to pass the director.
    servers: BTreeSet<IpAddr>,
    /// There are services without an address: what belongs to them is told by its connection.
    by_mark: bool,
    /// Answers pass the director, which translates them.
    translates: bool,
}

/// What a window's bystanders are.
#[derive(Debug, Default)]
pub struct Seen {
    /// Counts.
    pub roles: Roles,
    /// Some were sent by the director.
    pub sent: bool,
    /// Part and number of those that demands look at.
    pub concerning: Vec<(usize, usize)>,
    /// What some are depends on connections.
    pub by_connection: bool,
    /// Some come from an interface that was not known when it was told where frames stand.
    pub new_interface: bool,
}

impl Bystanders {
    /// Those of captures of a director's traffic.
    pub fn new(config: &DirectorConfig) -> Bystanders {
        let (known, translates) = (describe::Roles::new(config), answers_pass_director(config));
        let mut bystanders = Bystanders { known, translates, ..Bystanders::default() };
        for command in config.commands.iter().chain(config.changes.iter().map(|change| &change.command)) {
            match command {
                Command::AddService { service: ServiceKey::Mark { .. }, .. } => bystanders.by_mark = true,
                Command::AddServer { server: ServerKey { address, .. }, settings, .. }
                    if matches!(settings.method, ForwardingMethod::Nat | ForwardingMethod::FullNat) =>
                {
                    bystanders.servers.insert(*address);
                }
                _ => {}
            }
        }
        bystanders
    }

    /// Whether some service has no address, so that [`Bystanders::is_answer`] does not know its answers.
    pub fn serves_marks(&self) -> bool {
        self.by_mark
    }

    /// Whether answers pass the director, which translates them.
    pub fn translates(&self) -> bool {
        self.translates
    }

    /// Whether a frame comes from a virtual address as only answers do.
    pub fn is_answer(&self, frame: &[u8]) -> bool {
        reply::flow(frame).is_some_and(|flow| self.known.is_virtual(flow.source.0))
    }

    /// Counts one: whether the director sent it, and whether it answers a client.
    pub fn count(&self, roles: &mut Roles, sent: bool, is_answer: bool) {
        match (sent, is_answer) {
            (true, true) if !self.translates => roles.past_director += 1,
            (true, _) => roles.from_director += 1,
            (false, true) => roles.past_director += 1,
            (false, false) => roles.of_others += 1,
        }
    }

    /// Looks at a window's bystanders, all threads at once. The capture had so many interfaces when it was told where they stand.
    pub fn look(&self, window: &BulkWindow, places: &Places, watch: &Watch, interfaces: usize) -> Seen {
        let look = |part: usize| {
            let mut seen = Seen::default();
            for (number, frame) in window.aside(part).enumerate() {
                let interface = frame.place;
                let flow = reply::flow(frame.bytes);
                let sent = matches!(places.of(interface.into(), frame.bytes), Place::Sent(_));
                self.count(&mut seen.roles, sent, flow.is_some_and(|flow| self.known.is_virtual(flow.source.0)));
                seen.sent |= sent;
                seen.new_interface |= usize::from(interface) >= interfaces;
                // A real server's answer may go past a director that ought to translate it. Addresses that were made up for another
                // link type tell nothing.
                let of_server = flow.is_some_and(|flow| self.servers.contains(&flow.source.0));
                seen.by_connection |= self.by_mark || of_server || link::is_made_up(frame.bytes);
                if watch.concerns(frame.bytes) {
                    seen.concerning.push((part, number));
                }
            }
            seen
        };
        (0..window.parts()).into_par_iter().map(look).reduce(Seen::default, Seen::and)
    }
}

impl Seen {
    fn and(mut self, other: Seen) -> Seen {
        self.roles.add(&other.roles);
        self.sent |= other.sent;
        self.concerning.extend(other.concerning);
        self.by_connection |= other.by_connection;
        self.new_interface |= other.new_interface;
        self
    }
}
