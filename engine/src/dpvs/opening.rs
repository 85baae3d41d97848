//! New connections: real server, local address, local port (reference/dpvs-fullnat.md sections 2 to 4).

use super::connection::Connection;
use super::director::Director;
use super::flow::FlowKey;
use super::local_address::MAXIMUM_ATTEMPTS;
use super::port_pool::{LocalPort, PortPools};
use super::state::State;
use crate::config::{ForwardingMethod, Protocol, ProxyProtocol, SchedulerKind};
use crate::draws::Draw;
use crate::time::Nanos;
use crate::verdict::DropReason;
use std::net::{IpAddr, SocketAddr};

impl Director {
    /// Makes the connection for a packet of a client to a service: real server, local address, local port.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn new_connection(&mut self, service: u32, key: &FlowKey) -> Result<Connection, DropReason> {
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
    pub(super) fn new_outward_connection(&mut self, service: u32, key: &FlowKey) -> Result<Connection, DropReason> {
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

    fn blank_connection(&mut self, service: u32, server: u32, method: ForwardingMethod, protocol: Protocol) -> Connection {
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
        connection
    }

    /// The port pools of a local address.
    pub(super) fn pools_of(&mut self, address: IpAddr) -> &mut PortPools {
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
}
