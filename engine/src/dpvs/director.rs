//! The director: its tables, commands, and the passing of time.

use super::access::AccessLists;
use super::connection::{Connection, ConnectionId, Connections, FlowKey};
use super::doubt::Doubts;
use super::link::{Link, Sent};
use super::local_address::MAXIMUM_ATTEMPTS;
use super::port_pool::{LocalPort, PORTS_PER_POOL, PortPools};
use super::service::Services;
use super::state::{State, flag};
use super::syn_proxy::{Cookies, segment};
use super::wire::{Packet, tcp};
use crate::config::{
    Address, AddressScope, Command, DirectorConfig, DpvsSettings, ForwardingMethod, InterfaceId, MarkRule, Network, Protocol,
    ProxyProtocol, ScheduledCommand, SchedulerKind, ServerKey, ServiceKey,
};
use crate::director::{Arrival, ConfigError};
use crate::draws::{Draw, Draws};
use crate::listing::{ClientAddressCounts, ConnectionView, LocalAddressView, ServerView, ServiceView};
use crate::observe::Observations;
use crate::output::{DrawnKind, Output};
use crate::time::Nanos;
use crate::verdict::{DropReason, Names, Verdict};
use foldhash::HashMap;
use std::net::{IpAddr, SocketAddr};

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
    pools: HashMap<IpAddr, PortPools>,
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

    fn with_service<T>(&mut self, key: &ServiceKey, change: impl FnOnce(&mut super::service::Service) -> T) -> Result<T, String> {
        let number = self.services.find(key).ok_or_else(|| format!("there is no service {key}"))?;
        self.services.service_mut(number).map(change).ok_or_else(|| format!("there is no service {key}"))
    }

    fn add_address(&mut self, interface: InterfaceId, address: Address, out: &mut Output) {
        let added = self.link.add_address(interface, address);
        if let (true, IpAddr::V6(address)) = (added, address.address) {
            self.link.detect_duplicate(interface, address, self.now, out);
        }
    }

    /// Makes the connection for a packet of a client to a service: real server, local address, local port.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn new_connection(&mut self, service: u32, key: &FlowKey) -> Result<Box<Connection>, DropReason> {
        let client = key.source;
        let server = self.schedule_bound(service, key)?;
        let (method, server_key) = match self.services.server(server) {
            Some(server) => (server.settings.method, server.key),
            None => return Err(DropReason::NoServer),
        };
        let port = if server_key.port == 0 { key.destination.port() } else { server_key.port };
        let real = SocketAddr::new(server_key.address, port);
        let mut connection = self.blank_connection(service, server, method, key.protocol);
        (connection.client, connection.service_end) = (client, key.destination);
        (connection.local, connection.real) = (client, real);
        if method == ForwardingMethod::FullNat {
            match self.take_local_port(service, real, connection.number) {
                Ok((address, port)) => {
                    connection.local = SocketAddr::new(address, port.port);
                    connection.port = Some((address, port));
                }
                Err(reason) => {
                    self.services.unbind(server, false);
                    return Err(reason);
                }
            }
            if key.protocol == Protocol::UDP {
                let proxy = self.services.service(service).map(|service| service.settings.dpvs.proxy_protocol);
                connection.proxy_pending = proxy.is_some_and(|proxy| proxy != ProxyProtocol::Disable);
                let carries = self.settings.uoa_max_trail > 0 && !connection.proxy_pending;
                connection.uoa_sent = carries.then_some(0);
            }
        }
        Ok(connection)
    }

    /// Makes the connection for the first packet of an inside host that a SNAT service matches.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn new_outward_connection(&mut self, service: u32, key: &FlowKey) -> Result<Box<Connection>, DropReason> {
        let server = self.schedule_bound(service, key)?;
        let (method, address) = match self.services.server(server) {
            Some(server) => (server.settings.method, server.key.address),
            None => return Err(DropReason::NoServer),
        };
        let mut connection = self.blank_connection(service, server, method, key.protocol);
        (connection.client, connection.local, connection.real) = (key.destination, key.destination, key.source);
        let port = match key.protocol {
            // The identifier of an echo request stays.
            Protocol::ICMP | Protocol::ICMPV6 => key.source.port(),
            _ => {
                let Some(port) = self.pools_of(address).take(key.destination) else {
                    self.services.unbind(server, false);
                    return Err(DropReason::NoLocalPort);
                };
                connection.port = Some((address, port));
                port.port
            }
        };
        connection.service_end = SocketAddr::new(address, port);
        Ok(connection)
    }

    fn schedule_bound(&mut self, service: u32, key: &FlowKey) -> Result<u32, DropReason> {
        self.doubt_expired(|expired| expired.service == service);
        let observed = self
            .observations
            .server(key.protocol, key.source, self.now)
            .and_then(|address| self.services.server_at(service, address));
        let chosen = observed.or_else(|| self.services.schedule(service, key.source.ip(), self.now));
        let server = chosen.ok_or(DropReason::NoServer)?;
        if !self.services.bind(server) {
            return Err(DropReason::NoServer);
        }
        Ok(server)
    }

    fn blank_connection(&mut self, service: u32, server: u32, method: ForwardingMethod, protocol: Protocol) -> Box<Connection> {
        let settings = self.services.service(service).map(|service| &service.settings);
        let unset = SocketAddr::new(IpAddr::from([0; 4]), 0);
        let connection = Connection {
            number: self.created,
            protocol,
            method,
            service,
            server,
            client: unset,
            service_end: unset,
            local: unset,
            real: unset,
            state: State::initial(protocol),
            active: false,
            expires: self.now + Nanos::from_secs(u64::from(self.settings.timeouts.conn_init)),
            timer_starts: 0,
            timeout: settings.and_then(|settings| settings.dpvs.connection_timeout),
            port: None,
            one_packet: protocol == Protocol::UDP && settings.is_some_and(|settings| settings.one_packet),
            client_start: None,
            inserted: 0,
            trigger: 0,
            server_next: 0,
            server_acknowledged: 0,
            client_path: None,
            server_path: None,
            uoa_sent: None,
            proxy_pending: false,
            handshake: None,
        };
        self.created += 1;
        if let Some(service) = self.services.service_mut(service) {
            service.counters.connections += 1;
        }
        if let Some(server) = self.services.server_mut(server) {
            server.counters.connections += 1;
        }
        Box::new(connection)
    }

    fn pools_of(&mut self, address: IpAddr) -> &mut PortPools {
        let count = self.settings.pool_hash_size;
        self.pools.entry(address).or_insert_with(|| PortPools::new(count))
    }

    /// The next local address of a service that has a port free for this real server, and the port.
    fn take_local_port(&mut self, service: u32, real: SocketAddr, number: u64) -> Result<(IpAddr, LocalPort), DropReason> {
        let Some(entry) = self.services.service(service) else { return Err(DropReason::NoLocalAddress) };
        let in_turn = matches!(entry.settings.scheduler, SchedulerKind::Rr | SchedulerKind::Wrr);
        let attempts = entry.locals.len().min(MAXIMUM_ATTEMPTS);
        let mut result = DropReason::NoLocalAddress;
        for _ in 0..attempts {
            let double = in_turn && self.draws.value(Draw::DoubleStep(number)) != 0;
            if in_turn {
                self.doubt(Draw::DoubleStep(number), 1);
            }
            let locals = self.services.service_mut(service).map(|service| &mut service.locals);
            let Some(local) = locals.and_then(|locals| locals.advance(if double { 2 } else { 1 })) else { break };
            let address = local.address;
            if address.is_ipv4() != real.is_ipv4() {
                continue;
            }
            let port = self.pools_of(address).take(real);
            let locals = self.services.service_mut(service).map(|service| &mut service.locals);
            let Some(local) = locals.and_then(|locals| locals.get_mut(address)) else { break };
            if let Some(port) = port {
                local.connections += 1;
                return Ok((address, port));
            }
            local.exhausted += 1;
            result = DropReason::NoLocalPort;
        }
        Err(result)
    }

    /// Starts a connection's timer anew, with the time of its state.
    pub(super) fn refresh(&mut self, connection: &mut Connection) {
        let seconds = connection.state.seconds(&self.settings.timeouts, connection.timeout);
        connection.timer_starts += 1;
        let jitter = Nanos(self.draws.value(connection.jitter()));
        connection.expires = self.now + Nanos::from_secs(u64::from(seconds)) + jitter;
    }

    /// Counts a connection as active or inactive by its state.
    pub(super) fn count_state(&mut self, connection: &mut Connection) {
        let active = connection.state.is_active();
        if active != connection.active {
            connection.active = active;
            self.services.set_active(connection.server, active);
        }
    }

    /// Gives back what a connection holds.
    pub(super) fn release(&mut self, connection: &Connection) {
        self.services.unbind(connection.server, connection.active);
        let Some((address, port)) = connection.port else { return };
        self.pools_of(address).give_back(port);
        if let Some(service) = self.services.service_mut(connection.service)
            && let Some(local) = service.locals.get_mut(address)
        {
            local.connections = local.connections.saturating_sub(1);
        }
    }

    /// A connection's time is over.
    fn expire(&mut self, id: ConnectionId, mut connection: Box<Connection>, out: &mut Output) {
        if self.retry_opening(&mut connection, out) {
            self.connections.reschedule(id, &connection);
            self.connections.put_back(id, connection);
            return;
        }
        let translated = !connection.is_one_way();
        if connection.protocol == Protocol::TCP && translated && connection.state == State::Established {
            self.reset_both(&connection, out);
        }
        self.connections.forget(id, &connection);
        self.release(&connection);
        self.note_expired(&connection);
    }

    /// The RSTs of an established connection that expires: to the real server, then to the client.
    fn reset_both(&mut self, connection: &Connection, out: &mut Output) {
        let origin = self.link.origin(InterfaceId(0), self.now);
        let numbers = (connection.server_acknowledged, 0);
        let to_server = segment((connection.local, connection.real), origin, numbers, flag::RST, 0, &[]);
        let ends = (connection.service_end, connection.client);
        let mut sequence = connection.server_next;
        let difference = connection.handshake.as_ref().and_then(|handshake| handshake.difference());
        if let Some((_, difference)) = difference {
            sequence = sequence.wrapping_add(difference);
        }
        let offset = if connection.is_fullnat() {
            (self.draws.value(Draw::SequenceOffset(connection.number)) as u32).wrapping_add(connection.inserted)
        } else {
            0
        };
        let mut to_client = segment(ends, origin, (sequence, 0_u32.wrapping_sub(offset)), flag::RST, 0, &[]);
        if connection.is_fullnat() {
            to_client.mark(tcp::ACKNOWLEDGEMENT, Draw::SequenceOffset(connection.number), DrawnKind::Minus);
        }
        if let Some((attempt, _)) = difference {
            to_client.mark(tcp::SEQUENCE, Draw::SynCookie(attempt), DrawnKind::Plus);
        }
        for (mut packet, path) in [(to_server, connection.server_path), (to_client, connection.client_path)] {
            packet.finish();
            self.link.leave_identification(&mut packet, &self.draws);
            self.send_built(packet, path, out);
        }
    }

    /// Sends a packet that the director built: by a connection's fast path, else as it is routed.
    fn send_built(&mut self, packet: Packet, path: Option<super::connection::Path>, out: &mut Output) {
        match path {
            Some(path) => self.link.emit(&packet, path.interface, path.peer, path.own, self.now, out),
            None => {
                if let Some(way) = self.link.route(packet.destination()) {
                    let _: Sent = self.link.send(packet, &way, self.now, out);
                }
            }
        }
    }

    /// Takes real servers as they were observed, instead of scheduling.
    pub fn observe(&mut self, observations: Observations) {
        self.observations = observations;
    }

    /// Services with their real servers; those that were deleted are left out. SNAT services come last.
    pub fn services(&self) -> Vec<ServiceView> {
        let (matches, addresses): (Vec<_>, Vec<_>) =
            self.services.iter().partition(|service| matches!(service.key, ServiceKey::Match(_)));
        let view = |service: &super::service::Service| ServiceView {
            number: service.number,
            key: service.key.clone(),
            settings: service.settings.clone(),
            counters: service.counters,
            servers: service.servers.iter().filter_map(|number| self.server_view(service, *number)).collect(),
            local_addresses: service.locals.iter().map(|local| self.local_view(local)).collect(),
        };
        addresses.into_iter().chain(matches.into_iter().rev()).map(view).collect()
    }

    fn server_view(&self, service: &super::service::Service, number: u32) -> Option<ServerView> {
        let server = self.services.server(number)?;
        Some(ServerView {
            number,
            key: server.key,
            settings: server.settings,
            active: server.active,
            inactive: server.inactive,
            persistent: self.services.templates(service, number, self.now),
            counters: server.counters,
        })
    }

    fn local_view(&self, local: &super::local_address::LocalAddress) -> LocalAddressView {
        LocalAddressView {
            address: local.address,
            connections: local.connections,
            ports_in_use: self.pools.get(&local.address).map_or(0, PortPools::fullest),
            ports: PORTS_PER_POOL,
            exhausted: local.exhausted,
        }
    }

    /// How the clients' addresses reached the real servers, by the number of the service.
    pub fn client_addresses(&self) -> Vec<(u32, ClientAddressCounts)> {
        self.services.iter().map(|service| (service.number, service.client_addresses)).collect()
    }

    /// The connection table, ordered by protocol, client and service.
    pub fn connections(&self, now: Nanos) -> Vec<ConnectionView> {
        let view = |connection: &Connection| ConnectionView {
            protocol: connection.protocol,
            client: connection.client,
            service: connection.service_end,
            destination: connection.real,
            local: (!connection.is_one_way()).then_some(connection.local),
            state: connection.state.name(),
            expires: connection.expires - now,
            persistence_data: None,
        };
        let mut views: Vec<ConnectionView> = self.connections.iter().map(view).collect();
        views.sort_by_key(|view| (view.protocol, view.client, view.service));
        views
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
