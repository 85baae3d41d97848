//! Virtual services and their real servers, and how a new connection finds its server
//! (reference/dpvs-fullnat.md sections 1.1 and 14).

use super::local_address::LocalAddresses;
use super::schedule::{Candidate, Scheduler, scheduler};
use crate::config::{Protocol, ServerKey, ServerSettings, ServiceKey, ServiceSettings};
use crate::listing::{ClientAddressCounts, Counters};
use crate::time::Nanos;
use foldhash::HashMap;
use std::net::{IpAddr, SocketAddr};

/// A virtual service. It stays in the table when it is deleted: its connections live on.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) number: u32,
    pub(super) key: ServiceKey,
    pub(super) settings: ServiceSettings,
    /// Its real servers, the newest first.
    pub(super) servers: Vec<u32>,
    pub(super) locals: LocalAddresses,
    pub(super) counters: Counters,
    pub(super) client_addresses: ClientAddressCounts,
    pub(super) deleted: bool,
    scheduler: Box<dyn Scheduler>,
    /// Persistence: by the client's network.
    templates: HashMap<IpAddr, Template>,
}

/// A persistence template: clients of a network keep their real server.
#[derive(Clone, Debug)]
struct Template {
    server: u32,
    expires: Nanos,
}

/// A real server of one service.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) number: u32,
    pub(super) key: ServerKey,
    pub(super) settings: ServerSettings,
    pub(super) active: u32,
    pub(super) inactive: u32,
    pub(super) counters: Counters,
    /// It reached its upper threshold and has not sunk below the lower one yet.
    pub(super) overloaded: bool,
    /// `ipvsadm -d` removed it.
    pub(super) deleted: bool,
}

/// A command that the table can't carry out.
pub(super) type Refused = String;

/// All services and real servers, also those that were deleted; numbers index them.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    services: Vec<Service>,
    servers: Vec<Server>,
    by_address: HashMap<(Protocol, SocketAddr), u32>,
    others: Vec<u32>,
    /// Room for those whom a scheduler may choose.
    candidates: Vec<Candidate>,
}

impl Services {
    /// A service by its number.
    pub(super) fn service(&self, number: u32) -> Option<&Service> {
        self.services.get(number as usize)
    }

    /// A service by its number, to change it.
    pub(super) fn service_mut(&mut self, number: u32) -> Option<&mut Service> {
        self.services.get_mut(number as usize)
    }

    /// A server by its number.
    pub(super) fn server(&self, number: u32) -> Option<&Server> {
        self.servers.get(number as usize)
    }

    /// A server by its number, to change it.
    pub(super) fn server_mut(&mut self, number: u32) -> Option<&mut Server> {
        self.servers.get_mut(number as usize)
    }

    /// How many servers there ever were: their numbers are smaller.
    pub(super) fn servers_ever(&self) -> usize {
        self.servers.len()
    }

    /// The services that exist, in the order in which they were added.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|service| !service.deleted)
    }

    /// The service at exactly this address, port and protocol.
    pub(super) fn at(&self, protocol: Protocol, end: SocketAddr) -> Option<&Service> {
        self.service(*self.by_address.get(&(protocol, end))?)
    }

    /// Services that are no address: marks and match rules, the newest first.
    pub(super) fn others(&self) -> impl Iterator<Item = &Service> {
        self.others.iter().filter_map(|number| self.service(*number))
    }

    /// The number of the service with that key.
    pub(super) fn find(&self, key: &ServiceKey) -> Option<u32> {
        match key {
            ServiceKey::Address { protocol, address, port } => {
                self.by_address.get(&(*protocol, SocketAddr::new(*address, *port))).copied()
            }
            other => self.others().find(|service| service.key == *other).map(|service| service.number),
        }
    }

    fn existing(&self, key: &ServiceKey) -> Result<u32, Refused> {
        self.find(key).ok_or_else(|| format!("there is no service {key}"))
    }

    /// `ipvsadm -A`
    pub(super) fn add_service(&mut self, key: ServiceKey, settings: ServiceSettings) -> Result<(), Refused> {
        if self.find(&key).is_some() {
            return Err(format!("the service {key} exists already"));
        }
        let scheduler = known_scheduler(&settings)?;
        let number = self.services.len() as u32;
        match &key {
            ServiceKey::Address { protocol, address, port } => {
                self.by_address.insert((*protocol, SocketAddr::new(*address, *port)), number);
            }
            _ => self.others.insert(0, number),
        }
        self.services.push(Service {
            number,
            key,
            settings,
            servers: Vec::new(),
            locals: LocalAddresses::default(),
            counters: Counters::default(),
            client_addresses: ClientAddressCounts::default(),
            deleted: false,
            scheduler,
            templates: HashMap::default(),
        });
        Ok(())
    }

    /// `ipvsadm -E`
    pub(super) fn edit_service(&mut self, key: &ServiceKey, settings: ServiceSettings) -> Result<(), Refused> {
        let number = self.existing(key)?;
        let scheduler = known_scheduler(&settings)?;
        if let Some(service) = self.service_mut(number) {
            if service.settings.scheduler != settings.scheduler {
                service.scheduler = scheduler;
            }
            service.settings = settings;
        }
        self.servers_changed(number);
        Ok(())
    }

    /// `ipvsadm -D`
    pub(super) fn delete_service(&mut self, key: &ServiceKey) -> Result<(), Refused> {
        let number = self.existing(key)?;
        self.by_address.retain(|_, other| *other != number);
        self.others.retain(|other| *other != number);
        let Some(service) = self.services.get_mut(number as usize) else { return Ok(()) };
        service.deleted = true;
        for server in std::mem::take(&mut service.servers) {
            if let Some(server) = self.servers.get_mut(server as usize) {
                server.deleted = true;
            }
        }
        Ok(())
    }

    /// `ipvsadm -C`
    pub(super) fn clear(&mut self) {
        let keys: Vec<ServiceKey> = self.iter().map(|service| service.key.clone()).collect();
        for key in keys {
            // The service exists, so it can be deleted.
            let _ = self.delete_service(&key);
        }
    }

    fn find_server(&self, service: u32, key: &ServerKey) -> Option<u32> {
        let servers = &self.service(service)?.servers;
        servers.iter().copied().find(|number| self.server(*number).is_some_and(|server| server.key == *key))
    }

    /// `ipvsadm -a`
    pub(super) fn add_server(&mut self, service: &ServiceKey, key: ServerKey, settings: ServerSettings) -> Result<(), Refused> {
        let number = self.existing(service)?;
        if self.find_server(number, &key).is_some() {
            return Err(format!("the service {service} has the real server {key} already"));
        }
        let server = self.servers.len() as u32;
        self.servers.push(Server {
            number: server,
            key,
            settings,
            active: 0,
            inactive: 0,
            counters: Counters::default(),
            overloaded: false,
            deleted: false,
        });
        if let Some(service) = self.service_mut(number) {
            service.servers.insert(0, server);
        }
        self.servers_changed(number);
        Ok(())
    }

    fn existing_server(&self, service: &ServiceKey, key: &ServerKey) -> Result<(u32, u32), Refused> {
        let number = self.existing(service)?;
        let server = self.find_server(number, key);
        server.map(|server| (number, server)).ok_or_else(|| format!("the service {service} has no real server {key}"))
    }

    /// `ipvsadm -e`
    pub(super) fn edit_server(&mut self, service: &ServiceKey, key: &ServerKey, settings: ServerSettings) -> Result<(), Refused> {
        let (number, server) = self.existing_server(service, key)?;
        if let Some(server) = self.server_mut(server) {
            let before = server.settings.upper_threshold;
            if settings.upper_threshold == 0 || settings.upper_threshold > before {
                server.overloaded = false;
            }
            server.settings = settings;
        }
        self.servers_changed(number);
        Ok(())
    }

    /// `ipvsadm -d`
    pub(super) fn delete_server(&mut self, service: &ServiceKey, key: &ServerKey) -> Result<(), Refused> {
        let (number, server) = self.existing_server(service, key)?;
        if let Some(server) = self.server_mut(server) {
            server.deleted = true;
        }
        if let Some(service) = self.service_mut(number) {
            service.servers.retain(|other| *other != server);
        }
        self.servers_changed(number);
        Ok(())
    }

    /// `ipvsadm -Z`
    pub(super) fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), Refused> {
        let only = key.map(|key| self.existing(key)).transpose()?;
        for service in self.services.iter_mut().filter(|service| only.is_none_or(|only| only == service.number)) {
            service.counters = Counters::default();
            for server in &service.servers {
                if let Some(server) = self.servers.get_mut(*server as usize) {
                    server.counters = Counters::default();
                }
            }
        }
        Ok(())
    }

    fn candidates(&self, service: &Service) -> impl Iterator<Item = Candidate> {
        let servers = service.servers.iter().filter_map(|number| self.server(*number));
        let candidate = |server: &Server| Candidate {
            address: server.key.address,
            port: server.key.port,
            weight: server.settings.weight,
            overloaded: server.overloaded,
            active: server.active,
            inactive: server.inactive,
        };
        servers.map(candidate)
    }

    fn servers_changed(&mut self, number: u32) {
        let Some(service) = self.service(number) else { return };
        let candidates: Vec<Candidate> = self.candidates(service).collect();
        if let Some(service) = self.service_mut(number) {
            service.scheduler.servers_changed(&candidates);
        }
    }

    /// The service's server with that address.
    pub(super) fn server_at(&self, service: u32, address: IpAddr) -> Option<u32> {
        let servers = &self.service(service)?.servers;
        servers.iter().copied().find(|number| self.server(*number).is_some_and(|server| server.key.address == address))
    }

    /// Chooses a server for a new connection, by the client's template or by the scheduler.
    pub(super) fn schedule(&mut self, number: u32, client: IpAddr, now: Nanos) -> Option<u32> {
        let service = self.service(number)?;
        let persistence = service.settings.persistence;
        let network = persistence.map(|persistence| persistence.client_network(client).address);
        let template = network.and_then(|network| service.templates.get(&network));
        let kept = template
            .filter(|template| template.expires > now)
            .and_then(|template| self.server(template.server))
            .filter(|server| !server.deleted && server.settings.weight > 0)
            .map(|server| server.number);
        let chosen = match kept {
            Some(server) => server,
            None => {
                let mut candidates = std::mem::take(&mut self.candidates);
                candidates.clear();
                candidates.extend(self.candidates(self.service(number)?));
                let chosen = self.service_mut(number).and_then(|service| service.choose(&candidates, client));
                self.candidates = candidates;
                chosen?
            }
        };
        if let (Some(persistence), Some(network), Some(service)) = (persistence, network, self.service_mut(number)) {
            let expires = now + Nanos::from_secs(u64::from(persistence.timeout));
            service.templates.insert(network, Template { server: chosen, expires });
        }
        Some(chosen)
    }

    /// Counts a new connection at a server; false, and the server is avoided from then on, when it has as many as it may.
    pub(super) fn bind(&mut self, server: u32) -> bool {
        let Some(server) = self.server_mut(server) else { return false };
        let limit = server.settings.upper_threshold;
        if limit > 0 && server.active + server.inactive >= limit {
            server.overloaded = true;
            return false;
        }
        server.inactive += 1;
        true
    }

    /// Counts a connection that became active, or inactive again.
    pub(super) fn set_active(&mut self, server: u32, active: bool) {
        let Some(server) = self.server_mut(server) else { return };
        let (from, to) =
            if active { (&mut server.inactive, &mut server.active) } else { (&mut server.active, &mut server.inactive) };
        *from = from.saturating_sub(1);
        *to += 1;
    }

    /// Counts a connection that ended.
    pub(super) fn unbind(&mut self, server: u32, active: bool) {
        let Some(server) = self.server_mut(server) else { return };
        let count = if active { &mut server.active } else { &mut server.inactive };
        *count = count.saturating_sub(1);
        let connections = server.active + server.inactive;
        let ServerSettings { upper_threshold: upper, lower_threshold: lower, .. } = server.settings;
        let relieved = if lower > 0 { connections < lower } else { connections * 4 < upper * 3 };
        if relieved || upper == 0 {
            server.overloaded = false;
        }
    }

    /// How many templates of a service point to a server.
    pub(super) fn templates(&self, service: &Service, server: u32, now: Nanos) -> u32 {
        service.templates.values().filter(|template| template.server == server && template.expires > now).count() as u32
    }
}

fn known_scheduler(settings: &ServiceSettings) -> Result<Box<dyn Scheduler>, Refused> {
    let kind = settings.scheduler;
    scheduler(kind).ok_or_else(|| format!("DPVS has no scheduler {}; it has rr, wrr, wlc, conhash, mh and fo", kind.name()))
}

impl Service {
    fn choose(&mut self, candidates: &[Candidate], client: IpAddr) -> Option<u32> {
        let index = self.scheduler.choose(candidates, client)?;
        self.servers.get(index).copied()
    }

    /// Counts a packet, with its IP length.
    pub(super) fn count(counters: &mut Counters, inwards: bool, length: usize) {
        if inwards {
            counters.in_packets += 1;
            counters.in_bytes += length as u64;
        } else {
            counters.out_packets += 1;
            counters.out_bytes += length as u64;
        }
    }
}
