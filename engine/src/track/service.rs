//! Virtual services: their table, and which of them a packet is for.

use super::server::Server;
use crate::config::{Family, Protocol, ServerSettings, ServiceKey, ServiceSettings, TimerWheel};
use crate::listing::{self, Counters, ServerView, ServiceView};
use crate::schedule::{Candidate, ServiceScheduler};
use foldhash::fast::FixedState;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;

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
    /// What had passed when counters were summed up last.
    pub(super) summed: Counters,
    /// How often a service of its key was made before it.
    pub(super) life: u32,
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

/// What passed a server since it was counted last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Packets from clients.
    pub in_packets: u64,
    /// Their bytes, as IP total lengths.
    pub in_bytes: u64,
    /// Packets from the server.
    pub out_packets: u64,
    /// Their bytes.
    pub out_bytes: u64,
    /// By how much its active connections changed.
    pub active: i32,
}

/// All services and servers. Both are named by numbers that stay theirs for the director's life.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// Services by number, removed ones too.
    pub all: Vec<Service>,
    /// Servers by number, removed ones too.
    pub servers: Vec<Server>,
    /// Numbers of services, removed ones too.
    numbers: HashMap<ServiceKey, u32, FixedState>,
    /// How many services exist: IPv4, IPv6.
    existing: [u32; 2],
    /// Whether counters are summed up now and then.
    pub(super) sums: bool,
    /// When timers fire; none: in time.
    pub(super) timer_wheel: Option<TimerWheel>,
    /// Numbers of listed servers.
    addresses: HashMap<(IpAddr, u16), Vec<u32>, FixedState>,
}

impl Services {
    /// The service with that key.
    pub fn by_key(&self, key: &ServiceKey) -> Option<u32> {
        self.numbers.get(key).copied().filter(|number| self.all.get(*number as usize).is_some_and(|service| service.exists))
    }

    /// Whether any service exists; IPVS is out of the way otherwise.
    pub fn any(&self) -> bool {
        self.existing != [0, 0]
    }

    /// Whether any service of that family exists: the hooks of the family do.
    pub fn any_of(&self, family: Family) -> bool {
        self.existing[family as usize] > 0
    }

    /// Adds a service. One that comes back gets its old number, so that its removed servers are found again.
    pub(super) fn enter(&mut self, service: Service) {
        self.existing[service.family() as usize] += 1;
        match self.numbers.get(&service.key) {
            Some(number) => {
                let old = &mut self.all[*number as usize];
                *old = Service { life: old.life + 1, ..service };
            }
            None => {
                self.numbers.insert(service.key.clone(), self.all.len() as u32);
                self.all.push(service);
            }
        }
    }

    /// Takes a service out, if it exists; returns the servers that it had.
    pub(super) fn leave(&mut self, number: u32) -> Vec<u32> {
        let service = &mut self.all[number as usize];
        if std::mem::take(&mut service.exists) {
            self.existing[service.family() as usize] -= 1;
        }
        std::mem::take(&mut service.list)
    }

    /// A server is in its service's list now.
    pub(super) fn list_address(&mut self, server: u32) {
        let key = self.servers[server as usize].key;
        self.addresses.entry((key.address, key.port)).or_default().push(server);
    }

    /// A server is no longer in its service's list.
    pub(super) fn unlist_address(&mut self, server: u32) {
        let key = self.servers[server as usize].key;
        if let Some(list) = self.addresses.get_mut(&(key.address, key.port)) {
            list.retain(|number| *number != server);
        }
    }

    /// The NAT server with that address, port and protocol, the newest of several; mark services serve every protocol.
    pub fn real_service(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<u32> {
        let list = self.addresses.get(&(address, port))?;
        list.iter().rev().copied().find(|number| {
            let server = &self.servers[*number as usize];
            let service = &self.all[server.service as usize];
            let protocol_fits = match &service.key {
                ServiceKey::Address { protocol: own, .. } => *own == protocol,
                ServiceKey::Mark { .. } | ServiceKey::Match(_) => true,
            };
            protocol_fits && server.settings.method == crate::config::ForwardingMethod::Nat
        })
    }

    /// The service for a packet (section 2): by mark, by address and port, by the FTP rule, by port 0.
    pub fn find(&self, mark: u32, protocol: Protocol, address: IpAddr, port: u16, first_unprivileged: u16) -> Option<u32> {
        if !self.any() {
            return None;
        }
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

    /// Counts what passed, by server number, on servers and their services.
    pub fn count(&mut self, passed: &[Passed]) {
        for (server, passed) in self.servers.iter_mut().zip(passed) {
            server.active = server.active.saturating_add_signed(passed.active);
            if !server.available {
                continue;
            }
            let service = self.all.get_mut(server.service as usize).map(|service| &mut service.counters);
            for counters in [Some(&mut server.counters), service].into_iter().flatten() {
                counters.in_packets += passed.in_packets;
                counters.in_bytes += passed.in_bytes;
                counters.out_packets += passed.out_packets;
                counters.out_bytes += passed.out_bytes;
            }
        }
    }

    /// Counters are summed up.
    pub fn sum_counters(&mut self) {
        for service in self.all.iter_mut().filter(|service| service.exists) {
            service.summed = service.counters;
        }
        for server in self.servers.iter_mut().filter(|server| server.available) {
            server.summed = server.counters;
        }
    }

    /// The counters of a service and its servers start anew.
    pub(super) fn clear_counters(&mut self, number: usize) {
        let sums = self.sums;
        let Some(service) = self.all.get_mut(number) else { return };
        clear(&mut service.counters, &mut service.summed, sums);
        for server in &service.list {
            let server = &mut self.servers[*server as usize];
            clear(&mut server.counters, &mut server.summed, sums);
        }
    }

    /// A removed server is listed again, with the connections that it still has and, unless its service was made anew in between,
    /// with all that it counted.
    pub(super) fn resurrect(&mut self, server: usize, settings: ServerSettings) {
        let server = &mut self.servers[server];
        server.resurrect(settings);
        let life = self.all[server.service as usize].life;
        if std::mem::replace(&mut server.service_life, life) != life {
            clear(&mut server.counters, &mut server.summed, self.sums);
        }
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
                listing::sort(&mut servers, &|a, b| {
                    listing::compare_addresses(a.key.address, b.key.address).then(a.key.port.cmp(&b.key.port))
                });
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
        listing::sort(&mut views, &|a, b| compare_services(&a.key, &b.key));
        views
    }
}

/// Clears what was summed up, or all.
fn clear(counters: &mut Counters, summed: &mut Counters, sums: bool) {
    *counters = if sums { counters.since(summed) } else { Counters::default() };
    *summed = Counters::default();
}

/// Which of two services ipvsadm lists first: those by address, by family, protocol, address and port, then those by mark.
fn compare_services(a: &ServiceKey, b: &ServiceKey) -> Ordering {
    let rank = |key: &ServiceKey| match key {
        ServiceKey::Address { address, protocol, .. } => (0, address.is_ipv6(), *protocol),
        ServiceKey::Mark { mark, family } => (*mark, *family == Family::Ipv6, Protocol::ANY),
        ServiceKey::Match(_) => (u32::MAX, false, Protocol::ANY),
    };
    rank(a).cmp(&rank(b)).then_with(|| match (a, b) {
        (ServiceKey::Address { address: a, port: a_port, .. }, ServiceKey::Address { address: b, port: b_port, .. }) => {
            listing::compare_addresses(*a, *b).then(a_port.cmp(b_port))
        }
        _ => Ordering::Equal,
    })
}
