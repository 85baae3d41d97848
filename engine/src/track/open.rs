//! How connections come to be: scheduled for a packet (reference/linux-ipvs.md section 1.5), by the FTP helper, past all servers.

use super::connection::{Connection, ConnectionId, Flags, TransportEvent};
use super::key::ClientKey;
use super::service::Service;
use super::{Ipvs, NEW_TIMEOUT, tcp};
use crate::config::{Protocol, SchedulerKind, ServiceKey};
use crate::draws::Draws;
use crate::packet::FlowKey;
use crate::schedule::{Candidate, Wanted};
use crate::time::Nanos;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// FTP data entries wait so many seconds in LISTEN.
const LISTEN_TIMEOUT: u32 = 120;

/// FTP's control port.
pub(super) const FTP: u16 = 21;
/// FTP's data port: a client with it is never scheduled.
const FTP_DATA: u16 = 20;

/// Why no connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unscheduled {
    /// The packet goes on to the local stack.
    Accept,
    /// No server can take it.
    NoServer,
    /// Dropped silently.
    Drop,
    /// Dropped by drop_packet.
    DropRate,
    /// A persistence engine needs a Call-ID and there is none.
    NoCallId,
}

/// A packet that may open a connection.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// Its flow, client to virtual address.
    pub flow: FlowKey,
    /// Its firewall mark.
    pub mark: u32,
    /// What its transport header says.
    pub event: TransportEvent,
    /// It is quoted in an ICMP error (schedule_icmp).
    pub from_icmp: bool,
    /// The Call-ID of a SIP message.
    pub call_id: Option<&'a [u8]>,
    /// When.
    pub now: Nanos,
}

impl Ipvs {
    /// Tries to make a connection for a packet that has none (section 1.5).
    ///
    /// # Errors
    /// No connection, and why.
    pub fn open(&mut self, opening: Opening<'_>, draws: &Draws) -> Result<ConnectionId, Unscheduled> {
        let vs = &self.sysctls.vs;
        if !opening.from_icmp {
            match opening.event {
                TransportEvent::Tcp(flags) => {
                    let syn = flags & 0x02 != 0;
                    if flags & 0x04 != 0 || !(syn || vs.sloppy_tcp) {
                        return Err(Unscheduled::Accept);
                    }
                }
                TransportEvent::Sctp(chunk) => {
                    if chunk == 6 || !(chunk == 1 || vs.sloppy_sctp) {
                        return Err(Unscheduled::Accept);
                    }
                }
                TransportEvent::Udp => {}
                TransportEvent::None => return Err(Unscheduled::Accept),
            }
        }
        let Some(service) = self.find_service(opening.mark, &opening.flow) else { return Err(Unscheduled::Accept) };
        if vs.drop_packet == 3 && vs.am_droprate != 0 {
            self.drop_counter -= 1;
            if self.drop_counter <= 0 {
                self.drop_counter = i64::from(vs.am_droprate);
                return Err(Unscheduled::DropRate);
            }
        }
        if opening.flow.source_port == FTP_DATA {
            return Err(Unscheduled::Accept);
        }
        let result = if self.services.all[service as usize].settings.persistence.is_some() {
            self.open_persistent(service, opening, draws)
        } else {
            self.open_plain(service, opening, draws)
        };
        result.map_err(|why| match why {
            Unscheduled::NoServer => self.nobody(service, &opening),
            other => other,
        })
    }

    /// What follows when no server was found (section 1.5 step 6), cache_bypass aside, which the packet side decides.
    fn nobody(&self, service: u32, opening: &Opening<'_>) -> Unscheduled {
        if self.services.all[service as usize].port() == FTP && opening.flow.destination_port != FTP {
            Unscheduled::Accept
        } else if opening.from_icmp {
            Unscheduled::Drop
        } else {
            Unscheduled::NoServer
        }
    }

    fn open_plain(&mut self, service: u32, opening: Opening<'_>, draws: &Draws) -> Result<ConnectionId, Unscheduled> {
        let Service { key, settings, .. } = &self.services.all[service as usize];
        let flow = opening.flow;
        if let ServiceKey::Address { port, .. } = key
            && *port != flow.destination_port
        {
            return Err(Unscheduled::NoServer);
        }
        let one_packet = settings.one_packet && flow.protocol == Protocol::UDP.0;
        let server = self.choose(service, &opening, draws).ok_or(Unscheduled::NoServer)?;
        let port = self.services.servers[server as usize].key.port;
        let server_port = if port != 0 { port } else { flow.destination_port };
        Ok(self.connect(service, server, &flow, server_port, one_packet, None))
    }

    /// Asks the service's scheduler. A packet that an ICMP error quotes goes the other way: the schedulers that look at the
    /// destination find the client there.
    pub(super) fn choose(&mut self, service: u32, opening: &Opening<'_>, draws: &Draws) -> Option<u32> {
        let Opening { flow, now, .. } = opening;
        if !self.observations.is_empty()
            && let Some(server) = self.observed(service, flow, *now)
        {
            return Some(server);
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        self.services.candidates(service, &mut candidates);
        let destination = if opening.from_icmp { flow.source } else { flow.destination };
        let chosen = self.choose_towards(&candidates, service, flow, destination, *now, draws);
        self.candidates = candidates;
        chosen
    }

    /// Asks the service's scheduler, with its candidates as they are now.
    pub(crate) fn choose_among(
        &mut self,
        candidates: &[Candidate],
        service: u32,
        flow: &FlowKey,
        now: Nanos,
        draws: &Draws,
    ) -> Option<u32> {
        self.choose_towards(candidates, service, flow, flow.destination, now, draws)
    }

    fn choose_towards(
        &mut self,
        candidates: &[Candidate],
        service: u32,
        flow: &FlowKey,
        destination: IpAddr,
        now: Nanos,
        draws: &Draws,
    ) -> Option<u32> {
        let vs = &self.sysctls.vs;
        let entry = &mut self.services.all[service as usize];
        let expiration = match entry.settings.scheduler {
            SchedulerKind::Lblc => Nanos::from_secs(vs.lblc_expiration.into()),
            _ => Nanos::from_secs(vs.lblcr_expiration.into()),
        };
        let wanted = Wanted {
            client: flow.source,
            client_port: flow.source_port,
            destination,
            protocol: Protocol(flow.protocol),
            now,
            expiration,
            drawn: self.drawn,
            draws,
        };
        self.drawn += u64::from(entry.scheduler.draws());
        let remembers = entry.scheduler.remembers();
        let scheduler = entry.scheduler.as_scheduler();
        if remembers {
            scheduler.advance(now, expiration);
        }
        scheduler.schedule(candidates, wanted).map(|place| candidates[place].number)
    }

    /// Whether the choice of a server depends on more of the packet than that it opens a connection.
    pub(crate) fn scheduler_looks_at_packets(&self, service: u32) -> bool {
        self.services.all.get(service as usize).is_none_or(|service| service.scheduler.looks_at_packets())
    }

    /// Whether the choice of a server depends on how many connections they have.
    pub(crate) fn scheduler_looks_at_counts(&self, service: u32) -> bool {
        self.services.all.get(service as usize).is_none_or(|service| service.scheduler.looks_at_counts())
    }

    /// The server that the client's connection was observed to go to, when the service has it.
    fn observed(&self, service: u32, flow: &FlowKey, now: Nanos) -> Option<u32> {
        let client = SocketAddr::new(flow.source, flow.source_port);
        let address = self.observations.server(Protocol(flow.protocol), client, now)?;
        let list = &self.services.all[service as usize].list;
        list.iter().copied().find(|number| self.services.servers[*number as usize].key.address == address)
    }

    /// Makes a connection and counts it.
    pub(super) fn connect(
        &mut self,
        service: u32,
        server: u32,
        flow: &FlowKey,
        server_port: u16,
        one_packet: bool,
        control: Option<ConnectionId>,
    ) -> ConnectionId {
        let entry = &self.services.servers[server as usize];
        let mut connection = Connection::unbound(&ClientKey::of(flow, flow.source_port), service);
        connection.bind(server, entry, server_port);
        connection.flags.no_output = !connection.is_nat();
        connection.flags.one_packet = one_packet;
        connection.control = control;
        let id = self.insert(&connection);
        self.services.servers[server as usize].counters.connections += 1;
        self.services.all[service as usize].counters.connections += 1;
        id
    }

    /// Puts an entry in and binds it to its server and its controlling entry.
    pub(super) fn insert(&mut self, connection: &Connection) -> ConnectionId {
        let id = self.table.insert(connection);
        if let Some(server) = connection.server {
            self.services.servers[server as usize].bind(connection.flags.template);
        }
        if let Some(parent) = connection.control.filter(|control| self.table.get(*control).is_some()) {
            self.table.control(parent);
        }
        id
    }

    /// A connection to the packet's own destination, for a mark service without any usable server (cache_bypass).
    pub fn connect_bypass(&mut self, flow: &FlowKey, service: u32) -> ConnectionId {
        let mut connection = Connection::unbound(&ClientKey::of(flow, flow.source_port), service);
        connection.flags.bypass = true;
        // That answers go another way is a server's property, and there is no server: the tables for both sides hold.
        connection.flags.no_output = false;
        if flow.destination.is_ipv6() {
            connection.server_address = Ipv6Addr::UNSPECIFIED.into();
        }
        self.insert(&connection)
    }

    /// The FTP helper's data connection (section 7.6): client and server ports as the control connection announced them. With
    /// client port 0 the client's port is taken from its first packet. A connection that is there already is kept.
    pub fn expect_ftp_data(
        &mut self,
        control: ConnectionId,
        client: SocketAddr,
        virtual_port: u16,
        server_port: u16,
        now: Nanos,
    ) {
        let Some(parent) = self.table.get(control) else { return };
        let flow = FlowKey {
            protocol: parent.protocol.0,
            source: client.ip(),
            destination: parent.virtual_address,
            source_port: client.port(),
            destination_port: virtual_port,
        };
        let id = match self.table.lookup_in(&flow) {
            Some(id) => id,
            None => {
                let connection = Connection {
                    state: 0,
                    flags: Flags { inactive: true, no_client_port: client.port() == 0, ..Flags::default() },
                    client_port: client.port(),
                    client: client.ip(),
                    virtual_port,
                    server_port,
                    control: Some(control),
                    timeout: NEW_TIMEOUT,
                    expires: Nanos::NEVER,
                    ..parent
                };
                self.insert(&connection)
            }
        };
        if let Some(connection) = self.table.get_mut(id) {
            connection.state = tcp::TcpState::Listen as u8;
            connection.timeout = LISTEN_TIMEOUT;
        }
        self.touch(id, now);
    }

    /// The client's port of an entry that waited for it.
    pub fn fill_client_port(&mut self, id: ConnectionId, port: u16) {
        if self.table.get(id).is_some_and(|connection| connection.flags.no_client_port) {
            self.table.rekey(id, |connection| {
                connection.client_port = port;
                connection.flags.no_client_port = false;
            });
        }
    }
}
