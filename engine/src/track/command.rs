//! The ipvsadm commands that change services and real servers.

use super::server::Server;
use super::service::{Service, Services};
use crate::config::{Command, Family, ForwardingMethod, SchedulerKind, ServerKey, ServerSettings, ServiceKey, ServiceSettings};
use crate::listing::Counters;
use crate::schedule::{Candidate, ServiceScheduler};
use crate::time::Nanos;

/// A command that can't be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CommandError {
    #[error("{0} exists already")]
    ServiceExists(Box<ServiceKey>),
    #[error("there is no service {0}; add it first with -A")]
    NoService(Box<ServiceKey>),
    #[error("{service} has a real server {server} already; change it with -e")]
    ServerExists { service: Box<ServiceKey>, server: ServerKey },
    #[error("{service} has no real server {server}; add it first with -a")]
    NoServer { service: Box<ServiceKey>, server: ServerKey },
    #[error("scheduler {0} is not one of Linux IPVS")]
    Scheduler(&'static str),
    #[error("{service}: real server {server} is of the other address family, which only a tunnel can reach")]
    Family { service: Box<ServiceKey>, server: ServerKey },
    #[error("{server}: the lower threshold {lower} is above the upper one {upper}")]
    Thresholds { server: ServerKey, lower: u32, upper: u32 },
    #[error("{0} is a forwarding method of DPVS; Linux IPVS has -g, -m and -i")]
    Method(&'static str),
    #[error("{0}: port 0 needs persistence (-p)")]
    PortZero(Box<ServiceKey>),
    #[error("{0} has a match rule, which only DPVS knows")]
    Match(Box<ServiceKey>),
}

impl Services {
    /// Carries out an ipvsadm command about services and servers. Others are not for here and change nothing.
    ///
    /// # Errors
    /// As ipvsadm would refuse it.
    pub fn apply(&mut self, command: &Command, now: Nanos) -> Result<(), CommandError> {
        match command {
            Command::AddService { service, settings } => {
                check_service(service, settings)?;
                if self.by_key(service).is_some() {
                    return Err(CommandError::ServiceExists(service.clone().into()));
                }
                let scheduler = fresh_scheduler(settings, &[], now);
                let fresh = Service {
                    key: service.clone(),
                    settings: settings.clone(),
                    list: Vec::new(),
                    counters: Counters::default(),
                    summed: Counters::default(),
                    life: 0,
                    exists: true,
                    scheduler,
                };
                self.enter(fresh);
            }
            Command::EditService { service, settings } => {
                check_service(service, settings)?;
                let number = self.known(service)?;
                let entry = &mut self.all[number as usize];
                let old = std::mem::replace(&mut entry.settings, settings.clone());
                if old.scheduler != settings.scheduler {
                    self.rebind(number, settings, now);
                } else {
                    entry.scheduler.as_scheduler().set_flags(settings.flags);
                }
            }
            Command::DeleteService { service } => {
                let number = self.known(service)?;
                self.delete_service(number, now);
            }
            Command::AddServer { service, server, settings } => self.add_server(service, *server, *settings, now)?,
            Command::EditServer { service, server, settings } => {
                check_server(service, server, settings)?;
                let number = self.known(service)?;
                let server = self.known_server(number, server)?;
                self.servers[server as usize].edit(*settings);
                self.notify(number, Change::Updated);
            }
            Command::DeleteServer { service, server } => {
                let number = self.known(service)?;
                let server = self.known_server(number, server)?;
                self.remove_server(number, server, now);
            }
            Command::Clear => {
                for number in 0..self.all.len() as u32 {
                    self.delete_service(number, now);
                }
            }
            Command::Zero { service } => {
                let only = service.as_ref().map(|key| self.known(key)).transpose()?;
                let chosen = only.map_or(0..self.all.len(), |only| only as usize..only as usize + 1);
                chosen.for_each(|number| self.clear_counters(number));
            }
            _ => {}
        }
        Ok(())
    }

    fn known(&self, key: &ServiceKey) -> Result<u32, CommandError> {
        self.by_key(key).ok_or_else(|| CommandError::NoService(key.clone().into()))
    }

    fn known_server(&self, service: u32, key: &ServerKey) -> Result<u32, CommandError> {
        let service = &self.all[service as usize];
        let found = service.list.iter().copied().find(|number| self.servers[*number as usize].key == *key);
        found.ok_or_else(|| CommandError::NoServer { service: service.key.clone().into(), server: *key })
    }

    fn add_server(
        &mut self,
        key: &ServiceKey,
        server: ServerKey,
        settings: ServerSettings,
        now: Nanos,
    ) -> Result<(), CommandError> {
        check_server(key, &server, &settings)?;
        let service = self.known(key)?;
        if self.known_server(service, &server).is_ok() {
            return Err(CommandError::ServerExists { service: key.clone().into(), server });
        }
        // A removed one that is not forgotten yet comes back with its connections.
        let candidates: Vec<usize> = (0..self.servers.len())
            .filter(|number| {
                let old = &self.servers[*number];
                old.service == service && old.key == server && !old.available
            })
            .collect();
        let wheel = self.timer_wheel;
        let scheduler = self.all[service as usize].scheduler.as_scheduler();
        let trashed = candidates
            .into_iter()
            .find(|number| self.servers[*number].is_in_trash(now, wheel) || scheduler.holds(*number as u32));
        let number = match trashed {
            Some(number) => {
                self.resurrect(number, settings);
                number as u32
            }
            None => {
                let mut fresh = Server::new(server, service, settings);
                fresh.service_life = self.all[service as usize].life;
                self.servers.push(fresh);
                (self.servers.len() - 1) as u32
            }
        };
        self.list_address(number);
        self.all[service as usize].list.insert(0, number);
        self.notify(service, Change::Added);
        Ok(())
    }

    fn remove_server(&mut self, service: u32, server: u32, now: Nanos) {
        let list = &mut self.all[service as usize].list;
        let Some(place) = list.iter().position(|number| *number == server) else { return };
        list.remove(place);
        self.retire(server, now);
        self.unlist_address(server);
        self.notify(service, Change::Removed(place, server));
    }

    fn delete_service(&mut self, number: u32, now: Nanos) {
        for server in self.leave(number) {
            self.retire(server, now);
            self.unlist_address(server);
        }
    }

    /// A server leaves its service's list. Sweeps begin with the first one that is remembered.
    fn retire(&mut self, server: u32, now: Nanos) {
        let wheel = self.timer_wheel;
        let since = self.servers.iter().find(|other| other.is_in_trash(now, wheel)).map_or(now, Server::sweeps_since);
        self.servers[server as usize].retire(now, since);
    }

    fn rebind(&mut self, number: u32, settings: &ServiceSettings, now: Nanos) {
        let mut list = Vec::new();
        self.candidates(number, &mut list);
        self.all[number as usize].scheduler = fresh_scheduler(settings, &list, now);
    }

    fn notify(&mut self, number: u32, change: Change) {
        let mut list = Vec::new();
        self.candidates(number, &mut list);
        let scheduler = self.all[number as usize].scheduler.as_scheduler();
        match change {
            Change::Added => scheduler.added(&list),
            Change::Removed(place, server) => scheduler.removed(&list, place, server),
            Change::Updated => scheduler.updated(&list),
        }
    }
}

/// A scheduler as a service gets it; the timers of its caches start now.
fn fresh_scheduler(settings: &ServiceSettings, list: &[Candidate], now: Nanos) -> ServiceScheduler {
    let mut scheduler = ServiceScheduler::new(settings.scheduler, settings.flags);
    scheduler.as_scheduler().init(list);
    scheduler.as_scheduler().advance(now, Nanos::NEVER);
    scheduler
}

enum Change {
    Added,
    Removed(usize, u32),
    Updated,
}

fn check_service(key: &ServiceKey, settings: &ServiceSettings) -> Result<(), CommandError> {
    match key {
        ServiceKey::Match(_) => return Err(CommandError::Match(key.clone().into())),
        ServiceKey::Address { port: 0, .. } if settings.persistence.is_none() => {
            return Err(CommandError::PortZero(key.clone().into()));
        }
        _ => {}
    }
    if settings.scheduler == SchedulerKind::Conhash { Err(CommandError::Scheduler("conhash")) } else { Ok(()) }
}

fn check_server(key: &ServiceKey, server: &ServerKey, settings: &ServerSettings) -> Result<(), CommandError> {
    if matches!(settings.method, ForwardingMethod::FullNat | ForwardingMethod::Snat) {
        return Err(CommandError::Method(settings.method.word()));
    }
    let family = match key {
        ServiceKey::Address { address, .. } => Family::from(*address),
        ServiceKey::Mark { family, .. } => *family,
        ServiceKey::Match(_) => return Err(CommandError::Match(key.clone().into())),
    };
    if family != Family::from(server.address) && !matches!(settings.method, ForwardingMethod::Tunnel(_)) {
        return Err(CommandError::Family { service: key.clone().into(), server: *server });
    }
    let (lower, upper) = (settings.lower_threshold, settings.upper_threshold);
    if lower > upper {
        return Err(CommandError::Thresholds { server: *server, lower, upper });
    }
    Ok(())
}
