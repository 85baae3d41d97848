//! The director: its tables, commands, and the passing of time.

use super::access::AccessLists;
use super::doubt::Doubts;
use super::link::Link;
use super::port_pool::PortPools;
use super::service::{Service, Services};
use super::syn_proxy::Cookies;
use super::table::Connections;
use crate::config::{
    Address, AddressScope, Command, DirectorConfig, DpvsSettings, InterfaceId, MarkRule, Network, ScheduledCommand, ServerKey,
    ServiceKey,
};
use crate::director::{Arrival, ConfigError, Version};
use crate::draws::Draws;
use crate::observe::Observations;
use crate::output::Output;
use crate::time::Nanos;
use crate::verdict::{Names, Verdict};
use foldhash::HashMap;
use std::net::IpAddr;

/// A DPVS director with one worker.
#[derive(Clone, Debug)]
pub struct Director {
    pub(super) settings: DpvsSettings,
    pub(super) draws: Draws,
    pub(super) observations: Observations,
    pub(super) link: Link,
    pub(super) services: Services,
    pub(super) access: AccessLists,
    pub(super) connections: Connections,
    pub(super) cookies: Cookies,
    pub(super) marks: Vec<MarkRule>,
    /// Connections made so far.
    pub(super) created: u64,
    /// The time of what happens now.
    pub(super) now: Nanos,
    pub(super) pools: HashMap<IpAddr, PortPools>,
    changes: Vec<ScheduledCommand>,
    changes_done: usize,
    /// The time of the first call.
    start: Option<Nanos>,
    pub(super) doubts: Option<Doubts>,
}

impl Director {
    /// A director as described, at rest.
    ///
    /// # Errors
    /// A command that DPVS refuses, such as a real server for a service that does not exist.
    pub fn new(config: &DirectorConfig, draws: Draws) -> Result<Director, ConfigError> {
        let settings = config.dpvs.clone();
        let mut link = Link::new(&config.interfaces, &config.routes, &config.neighbours);
        link.set_limits(settings.unres_queue_length, Nanos::from_secs(u64::from(settings.timeouts.neighbour)));
        let mut director = Director {
            settings,
            draws,
            link,
            services: Services::default(),
            observations: Observations::default(),
            access: AccessLists::default(),
            connections: Connections::default(),
            cookies: Cookies::default(),
            marks: config.marks.clone(),
            created: 0,
            now: Nanos(0),
            pools: HashMap::default(),
            changes: config.changes.clone(),
            changes_done: 0,
            start: None,
            doubts: None,
        };
        // What is sent during the set-up is sent before the capture begins.
        let mut unseen = Output::default();
        for (index, command) in config.commands.iter().enumerate() {
            let error = |message| ConfigError { message, command: Some(index) };
            director.run(command, &mut unseen).map_err(error)?;
            unseen.clear();
        }
        Ok(director)
    }

    /// Takes real servers as they were observed, instead of scheduling.
    pub fn observe(&mut self, observations: Observations) {
        self.observations = observations;
    }

    /// Takes one frame in; timers and scheduled changes that are due before it come first.
    pub fn receive(&mut self, arrival: Arrival<'_>, out: &mut Output) -> Verdict {
        self.start.get_or_insert(arrival.time);
        self.forget_doubts();
        self.pass_time(arrival.time, out);
        self.now = self.now.max(arrival.time);
        self.take_frame(arrival, out)
    }

    /// Lets time pass: timers and scheduled changes up to and including `now`. If it is the first call, the director is
    /// seen from its set-up on, and sends what it sends for its new IPv6 addresses.
    pub fn advance(&mut self, now: Nanos, out: &mut Output) {
        if self.start.is_none() {
            self.start = Some(now);
            self.now = now;
            self.link.late = true;
            for (interface, address) in self.link.ipv6_addresses() {
                self.link.detect_duplicate(interface, address, now, out);
            }
            self.link.late = false;
        }
        self.forget_doubts();
        self.pass_time(now, out);
        self.now = self.now.max(now);
    }

    /// Whether time passes yet.
    pub(super) fn has_begun(&self) -> bool {
        self.start.is_some()
    }

    /// Changes whenever anything but connections and counters may have changed.
    pub(crate) fn version(&self) -> Version {
        (self.changes_done, self.link.learned, 0)
    }

    /// When the next scheduled change is due.
    pub(crate) fn next_due(&self) -> Nanos {
        let next = self.changes.get(self.changes_done).zip(self.start);
        next.map_or(Nanos::NEVER, |(change, start)| start + change.after)
    }

    fn pass_time(&mut self, now: Nanos, out: &mut Output) {
        let start = self.start.unwrap_or(now);
        loop {
            let change = self.changes.get(self.changes_done).map(|change| start + change.after);
            let timer = self.connections.next_timer();
            let change_first = change.is_some_and(|change| timer.is_none_or(|timer| change <= timer));
            self.link.late = true;
            if let Some(due) = change.filter(|due| change_first && *due <= now) {
                self.now = due;
                let command = self.changes[self.changes_done].command.clone();
                self.changes_done += 1;
                // As on a live director: a command that is refused changes nothing.
                let _ = self.run(&command, out);
            } else if let Some((due, id, connection)) = self.connections.take_expired(now.min(change.unwrap_or(now))) {
                self.now = due;
                self.expire(id, connection, out);
            } else if change.is_none_or(|change| change > now) {
                break;
            }
        }
        self.link.late = false;
    }

    /// Carries a command out.
    fn run(&mut self, command: &Command, out: &mut Output) -> Result<(), String> {
        match command {
            Command::AddService { service, settings } => self.services.add_service(service.clone(), settings.clone()),
            Command::EditService { service, settings } => self.services.edit_service(service, settings.clone()),
            Command::DeleteService { service } => self.services.delete_service(service),
            Command::AddServer { service, server, settings } => self.services.add_server(service, *server, *settings),
            Command::EditServer { service, server, settings } => self.services.edit_server(service, server, *settings),
            Command::DeleteServer { service, server } => self.services.delete_server(service, server),
            Command::Clear => {
                self.services.clear();
                Ok(())
            }
            Command::Zero { service } => self.services.zero(service.as_ref()),
            Command::SetTimeouts(timeouts) => {
                let own = &mut self.settings.timeouts;
                own.established = timeouts.tcp.unwrap_or(own.established);
                own.fin_wait = timeouts.tcp_fin.unwrap_or(own.fin_wait);
                own.udp_normal = timeouts.udp.unwrap_or(own.udp_normal);
                Ok(())
            }
            Command::AddAddress { interface, address } => {
                self.add_address(*interface, *address, out);
                Ok(())
            }
            Command::DeleteAddress { interface, address } => {
                self.link.delete_address(*interface, *address);
                Ok(())
            }
            Command::AddLocalAddress { service, address, interface } => {
                self.with_service(service, |service| service.locals.add(*address))?;
                self.add_address(*interface, host_address(*address), out);
                Ok(())
            }
            Command::DeleteLocalAddress { service, address, interface } => {
                self.with_service(service, |service| service.locals.remove(*address))?;
                self.link.delete_address(*interface, *address);
                Ok(())
            }
            Command::AddToList { list, service, client } => {
                self.access.add(*list, service, *client);
                Ok(())
            }
            Command::RemoveFromList { list, service, client } => {
                self.access.remove(*list, service, *client);
                Ok(())
            }
            Command::SetLink { interface, up } => {
                if let Some(port) = self.link.interface_mut(*interface) {
                    port.up = *up;
                }
                Ok(())
            }
            Command::SetMtu { interface, mtu } => {
                if let Some(port) = self.link.interface_mut(*interface) {
                    port.mtu = *mtu;
                }
                Ok(())
            }
            Command::AddRoute(route) => {
                self.link.add_route(route.clone());
                Ok(())
            }
            Command::DeleteRoute(route) => {
                self.link.delete_route(route);
                Ok(())
            }
            Command::AddNeighbour { address, mac, interface } => {
                self.link.set_neighbour(*interface, *address, *mac);
                Ok(())
            }
            Command::DeleteNeighbour { address, interface } => {
                self.link.delete_neighbour(*interface, *address);
                Ok(())
            }
            Command::Sysctl { name, .. } => Err(format!("DPVS has no kernel settings, so {name} can't be set")),
            Command::Ping { .. } | Command::Arping { .. } => Err("DPVS has neither ping nor arping".to_owned()),
        }
    }

    fn with_service<T>(&mut self, key: &ServiceKey, change: impl FnOnce(&mut Service) -> T) -> Result<T, String> {
        let number = self.services.find(key).ok_or_else(|| format!("there is no service {key}"))?;
        self.services.service_mut(number).map(change).ok_or_else(|| format!("there is no service {key}"))
    }

    fn add_address(&mut self, interface: InterfaceId, address: Address, out: &mut Output) {
        let added = self.link.add_address(interface, address);
        if let (true, IpAddr::V6(address)) = (added, address.address) {
            self.link.detect_duplicate(interface, address, self.now, out);
        }
    }
}

impl Names for Director {
    fn service(&self, number: u32) -> Option<&ServiceKey> {
        self.services.service(number).map(|service| &service.key)
    }

    fn server(&self, number: u32) -> Option<&ServerKey> {
        self.services.server(number).map(|server| &server.key)
    }
}

/// An address for itself alone, with its ports free for connections.
fn host_address(address: IpAddr) -> Address {
    Address {
        address,
        prefix_len: Network::host(address).prefix_len,
        scope: AddressScope::Global,
        secondary: false,
        sapool: true,
    }
}
