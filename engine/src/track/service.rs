//! Virtual services and real servers: their table, thresholds, counters, and the commands that change them.

use crate::config::{
    Command, Family, ForwardingMethod, Protocol, SchedulerKind, ServerKey, ServerSettings, ServiceKey, ServiceSettings,
};
use crate::listing::{Counters, ServerView, ServiceView};
use crate::schedule::{Candidate, ServiceScheduler};
use crate::time::Nanos;
use std::net::IpAddr;

/// A removed server that nobody uses is forgotten after this long (reference/linux-ipvs.md section 0.2).
const TRASH_PERIOD: Nanos = Nanos::from_secs(120);

/// A real server of one service. It outlives its removal as long as connections name it.
#[derive(Clone, Debug)]
pub struct Server {
    /// Address and port.
    pub key: ServerKey,
    /// Its service.
    pub service: u32,
    /// Settings as they are now.
    pub settings: ServerSettings,
    /// The last weight that was not 0, or the one it was added with.
    pub last_weight: u32,
    /// Active connections.
    pub active: u32,
    /// Connections in all, templates not counted.
    pub total: u32,
    /// Templates.
    pub persistent: u32,
    /// At its upper threshold.
    pub overloaded: bool,
    /// In its service's list.
    pub available: bool,
    /// What passed.
    pub counters: Counters,
    removed_at: Nanos,
}

impl Server {
    /// Inactive connections.
    pub fn inactive(&self) -> u32 {
        self.total.saturating_sub(self.active)
    }

    /// A connection or template was bound (classic rules of section 2.2).
    pub(super) fn bound(&mut self) {
        let limit = self.settings.upper_threshold;
        if limit != 0 && self.total >= limit {
            self.overloaded = true;
        }
    }

    /// One went.
    pub(super) fn unbound(&mut self) {
        let (upper, lower) = (u64::from(self.settings.upper_threshold), u64::from(self.settings.lower_threshold));
        let total = u64::from(self.total);
        let again = if lower != 0 { total < lower } else { upper == 0 || total * 4 < upper * 3 };
        if again {
            self.overloaded = false;
        }
    }

    fn edit(&mut self, settings: ServerSettings) {
        let raised = settings.upper_threshold == 0 || settings.upper_threshold > self.settings.upper_threshold;
        if raised {
            self.overloaded = false;
        }
        if settings.weight != 0 {
            self.last_weight = settings.weight;
        }
        self.settings = settings;
    }
}

/// A virtual service.
#[derive(Clone, Debug)]
pub struct Service {
    /// What identifies it.
    pub key: ServiceKey,
    /// Its settings.
    pub settings: ServiceSettings,
    /// Its servers' numbers, the newest first.
    pub list: Vec<u32>,
    /// What passed.
    pub counters: Counters,
    /// Whether it still exists.
    pub exists: bool,
    pub(super) scheduler: ServiceScheduler,
}

impl Service {
    /// Its address family.
    pub fn family(&self) -> Family {
        match &self.key {
            ServiceKey::Address { address, .. } => Family::from(*address),
            ServiceKey::Mark { family, .. } => *family,
            ServiceKey::Match(_) => Family::Ipv4,
        }
    }

    /// Its port; 0 for marks.
    pub fn port(&self) -> u16 {
        match &self.key {
            ServiceKey::Address { port, .. } => *port,
            ServiceKey::Mark { .. } | ServiceKey::Match(_) => 0,
        }
    }

    /// Whether it is a mark service.
    pub fn is_mark(&self) -> bool {
        matches!(self.key, ServiceKey::Mark { .. })
    }
}

/// A command that can't be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CommandError {
    #[error("{0} exists already")]
    ServiceExists(ServiceKey),
    #[error("there is no service {0}; add it first with -A")]
    NoService(ServiceKey),
    #[error("{service} has a real server {server} already; change it with -e")]
    ServerExists { service: ServiceKey, server: ServerKey },
    #[error("{service} has no real server {server}; add it first with -a")]
    NoServer { service: ServiceKey, server: ServerKey },
    #[error("scheduler {0} is not one of Linux IPVS")]
    Scheduler(&'static str),
    #[error("{service}: real server {server} is of the other address family, which only a tunnel can reach")]
    Family { service: ServiceKey, server: ServerKey },
    #[error("{server}: the lower threshold {lower} is above the upper one {upper}")]
    Thresholds { server: ServerKey, lower: u32, upper: u32 },
    #[error("{0} is a forwarding method of DPVS; Linux IPVS has -g, -m and -i")]
    Method(&'static str),
    #[error("{0}: port 0 needs persistence (-p)")]
    PortZero(ServiceKey),
    #[error("{0} has a match rule, which only DPVS knows")]
    Match(ServiceKey),
}

/// All services and servers. Both are named by numbers that stay theirs for the director's life.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// Services by number, removed ones too.
    pub all: Vec<Service>,
    /// Servers by number, removed ones too.
    pub servers: Vec<Server>,
}

impl Services {
    /// The service with that key.
    pub fn by_key(&self, key: &ServiceKey) -> Option<u32> {
        self.all.iter().position(|service| service.exists && service.key == *key).map(|number| number as u32)
    }

    /// Whether any service exists; IPVS is out of the way otherwise.
    pub fn any(&self) -> bool {
        self.all.iter().any(|service| service.exists)
    }

    /// Whether any service of that family exists: the hooks of the family do.
    pub fn any_of(&self, family: Family) -> bool {
        self.all.iter().any(|service| service.exists && service.family() == family)
    }

    /// The service for a packet (section 2): by mark, by address and port, by the FTP rule, by port 0.
    pub fn find(&self, mark: u32, protocol: Protocol, address: IpAddr, port: u16, first_unprivileged: u16) -> Option<u32> {
        if mark != 0
            && let Some(number) = self.by_key(&ServiceKey::Mark { mark, family: Family::from(address) })
        {
            return Some(number);
        }
        let at = |port| self.by_key(&ServiceKey::Address { protocol, address, port });
        at(port)
            .or_else(|| {
                let data = protocol == Protocol::TCP && (port == 20 || port >= first_unprivileged);
                if data { at(21) } else { None }
            })
            .or_else(|| at(0))
    }

    /// The candidates of a service, in list order.
    pub fn candidates(&self, service: u32, into: &mut Vec<Candidate>) {
        into.clear();
        let Some(service) = self.all.get(service as usize) else { return };
        into.extend(service.list.iter().map(|number| {
            let server = &self.servers[*number as usize];
            Candidate {
                number: *number,
                address: server.key.address,
                port: server.key.port,
                weight: server.settings.weight,
                last_weight: server.last_weight,
                active: server.active,
                inactive: server.inactive(),
                overloaded: server.overloaded,
                available: server.available,
            }
        }));
    }

    /// Carries out an ipvsadm command about services and servers. Others are not for here and change nothing.
    ///
    /// # Errors
    /// As ipvsadm would refuse it.
    pub fn apply(&mut self, command: &Command, now: Nanos) -> Result<(), CommandError> {
        match command {
            Command::AddService { service, settings } => {
                check_service(service, settings)?;
                if self.by_key(service).is_some() {
                    return Err(CommandError::ServiceExists(service.clone()));
                }
                let scheduler = fresh_scheduler(settings, &[], now);
                // A service that comes back gets its old number, so that its removed servers are found again.
                let old = self.all.iter().position(|old| old.key == *service);
                let fresh = Service {
                    key: service.clone(),
                    settings: settings.clone(),
                    list: Vec::new(),
                    counters: Counters::default(),
                    exists: true,
                    scheduler,
                };
                match old {
                    Some(number) => self.all[number] = fresh,
                    None => self.all.push(fresh),
                }
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
                for (number, service) in self.all.iter_mut().enumerate() {
                    if only.is_none_or(|only| only as usize == number) {
                        service.counters = Counters::default();
                        for server in &service.list {
                            self.servers[*server as usize].counters = Counters::default();
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn known(&self, key: &ServiceKey) -> Result<u32, CommandError> {
        self.by_key(key).ok_or_else(|| CommandError::NoService(key.clone()))
    }

    fn known_server(&self, service: u32, key: &ServerKey) -> Result<u32, CommandError> {
        let service = &self.all[service as usize];
        let found = service.list.iter().copied().find(|number| self.servers[*number as usize].key == *key);
        found.ok_or_else(|| CommandError::NoServer { service: service.key.clone(), server: *key })
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
            return Err(CommandError::ServerExists { service: key.clone(), server });
        }
        // A removed one that is not forgotten yet comes back with its connections.
        let trashed = self.servers.iter().position(|old| {
            let idle = old.total == 0 && old.persistent == 0;
            !old.available && old.service == service && old.key == server && !(idle && now > old.removed_at + TRASH_PERIOD)
        });
        let number = match trashed {
            Some(number) => {
                let old = &mut self.servers[number];
                old.available = true;
                old.edit(settings);
                old.last_weight = settings.weight;
                number as u32
            }
            None => {
                self.servers.push(Server {
                    key: server,
                    service,
                    settings,
                    last_weight: settings.weight,
                    active: 0,
                    total: 0,
                    persistent: 0,
                    overloaded: false,
                    available: true,
                    counters: Counters::default(),
                    removed_at: Nanos(0),
                });
                (self.servers.len() - 1) as u32
            }
        };
        self.all[service as usize].list.insert(0, number);
        self.notify(service, Change::Added);
        Ok(())
    }

    fn remove_server(&mut self, service: u32, server: u32, now: Nanos) {
        let list = &mut self.all[service as usize].list;
        let Some(place) = list.iter().position(|number| *number == server) else { return };
        list.remove(place);
        let removed = &mut self.servers[server as usize];
        removed.available = false;
        removed.removed_at = now;
        self.notify(service, Change::Removed(place, server));
    }

    fn delete_service(&mut self, number: u32, now: Nanos) {
        let service = &mut self.all[number as usize];
        service.exists = false;
        for server in std::mem::take(&mut service.list) {
            let server = &mut self.servers[server as usize];
            server.available = false;
            server.removed_at = now;
        }
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

    /// Services and servers in the order in which `ipvsadm -Ln` prints them: address services by family, protocol, address and
    /// port, then marks; servers by address and port.
    pub fn views(&self) -> Vec<ServiceView> {
        let mut views: Vec<ServiceView> = self
            .all
            .iter()
            .enumerate()
            .filter(|(_, service)| service.exists)
            .map(|(number, service)| {
                let mut servers: Vec<ServerView> = service
                    .list
                    .iter()
                    .map(|number| {
                        let server = &self.servers[*number as usize];
                        ServerView {
                            number: *number,
                            key: server.key,
                            settings: server.settings,
                            active: server.active,
                            inactive: server.inactive(),
                            persistent: server.persistent,
                            counters: server.counters,
                        }
                    })
                    .collect();
                servers.sort_by_key(|server| server.key);
                ServiceView {
                    number: number as u32,
                    key: service.key.clone(),
                    settings: service.settings.clone(),
                    counters: service.counters,
                    servers,
                    local_addresses: Vec::new(),
                }
            })
            .collect();
        views.sort_by_key(|view| match &view.key {
            ServiceKey::Address { protocol, address, port } => (0, Some((!address.is_ipv4(), *protocol, *address, *port))),
            ServiceKey::Mark { mark, .. } => (*mark, None),
            ServiceKey::Match(_) => (u32::MAX, None),
        });
        views
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
        ServiceKey::Match(_) => return Err(CommandError::Match(key.clone())),
        ServiceKey::Address { port: 0, .. } if settings.persistence.is_none() => return Err(CommandError::PortZero(key.clone())),
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
        ServiceKey::Match(_) => return Err(CommandError::Match(key.clone())),
    };
    if family != Family::from(server.address) && !matches!(settings.method, ForwardingMethod::Tunnel(_)) {
        return Err(CommandError::Family { service: key.clone(), server: *server });
    }
    let (lower, upper) = (settings.lower_threshold, settings.upper_threshold);
    if lower > upper {
        return Err(CommandError::Thresholds { server: *server, lower, upper });
    }
    Ok(())
}
