//! Connections, services and real servers: IPVS without packets.
//!
//! [`Ipvs`] is what the packet side asks: which connection is this packet of, which service wants it, which server does a new
//! connection get; and what it tells: this packet passed, so states, timers and counters move on.

mod binding;
mod command;
mod connection;
mod index;
mod key;
mod open;
mod persistence;
#[cfg(test)]
mod scenarios;
pub mod sctp;
mod server;
mod service;
mod shard;
mod slab;
mod table;
pub mod tcp;
mod timer;

pub use binding::{Binding, Bindings};
pub use command::CommandError;
pub use connection::{Advance, Connection, ConnectionId, Direction, Entry, EntryFlags, Flags, StateRules, TransportEvent};
pub use index::{Fingerprint, Index};
pub use key::{ClientHash, ClientKey, OtherHash};
pub use open::{Opening, Unscheduled};
pub use server::Server;
pub use service::{Passed, Service, Services};
pub use shard::{SHARDS, Shard};
pub(crate) use slab::Slab;
pub use table::Table;

use crate::config::{
    Command, ForwardingMethod, PersistenceEngine, Protocol, Sysctls, TimeoutSettings, TimerWheel, Tunnel, TunnelKind,
};
use crate::listing::{ConnectionView, ServiceView};
use crate::observe::Observations;
use crate::packet::FlowKey;
use crate::schedule::Candidate;
use crate::time::Nanos;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use timer::Timers;

/// A fresh connection lives so many seconds until its first state is known.
const NEW_TIMEOUT: u32 = 3;
/// UDP, unless `ipvsadm --set` says otherwise.
const UDP_TIMEOUT: u32 = 300;
/// An entry that still controls others when its time comes lives on so many seconds (section 3.6).
const CONTROL_TIMEOUT: u32 = 60;
/// An entry that is expired "now" goes a moment later: after the packet that caused it. A jiffy at HZ=250.
const JIFFY: Nanos = Nanos::from_millis(4);

/// What to do with a packet of a connection whose server is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// The server is there.
    Available,
    /// Drop the packet.
    Drop,
    /// The connection is over; treat the packet as having none.
    Over,
}

/// IPVS.
#[derive(Clone, Debug)]
pub struct Ipvs {
    /// Services and servers.
    pub services: Services,
    table: Table,
    timers: Timers,
    sysctls: Sysctls,
    tcp_timeouts: [u32; 11],
    udp_timeout: u32,
    /// Entries whose time has come while they control others: whether they live on is settled when no other entry ends at
    /// that moment.
    held: Vec<(Nanos, ConnectionId)>,
    /// Where a timer wheel turns: entries whose timers fire now, the next one last.
    turn: Vec<(Nanos, ConnectionId)>,
    /// Entries that end at the next tick, with that time; only where a timer wheel makes all others later.
    ending: Vec<(Nanos, ConnectionId)>,
    drop_counter: i64,
    /// How many connections were chosen a server by drawing.
    drawn: u64,
    candidates: Vec<Candidate>,
    persistence_data: HashMap<ConnectionId, Vec<u8>>,
    sip_templates: HashMap<persistence::SipKey, ConnectionId>,
    observations: Observations,
}

impl Ipvs {
    /// IPVS without any service.
    pub fn new(sysctls: Sysctls) -> Ipvs {
        Ipvs {
            services: Services::default(),
            table: Table::default(),
            timers: Timers::default(),
            sysctls,
            tcp_timeouts: tcp::TIMEOUTS,
            udp_timeout: UDP_TIMEOUT,
            held: Vec::new(),
            turn: Vec::new(),
            ending: Vec::new(),
            drop_counter: 0,
            drawn: 0,
            candidates: Vec::new(),
            persistence_data: HashMap::new(),
            sip_templates: HashMap::new(),
            observations: Observations::default(),
        }
    }

    /// The same with timers that fire when that wheel turns.
    pub(crate) fn with_timer_wheel(mut self, wheel: Option<TimerWheel>) -> Ipvs {
        self.services.timer_wheel = wheel;
        self
    }

    /// The same with counters of which [`Services::sum_counters`] says what a command clears.
    pub(crate) fn with_sums(mut self, sums: bool) -> Ipvs {
        self.services.sums = sums;
        self
    }

    /// The settings changed.
    pub fn set_sysctls(&mut self, sysctls: &Sysctls) {
        self.sysctls = sysctls.clone();
    }

    /// Takes real servers as they were observed, instead of scheduling.
    pub fn observe(&mut self, observations: Observations) {
        self.observations = observations;
    }

    /// Carries out an ipvsadm command; others change nothing.
    ///
    /// # Errors
    /// As ipvsadm would refuse it.
    pub fn apply(&mut self, command: &Command, now: Nanos) -> Result<(), CommandError> {
        if let Command::SetTimeouts(settings) = command {
            self.set_timeouts(*settings);
        }
        self.services.apply(command, now)?;
        let removes = matches!(command, Command::DeleteServer { .. } | Command::DeleteService { .. } | Command::Clear);
        if removes && self.sysctls.vs.expire_nodest_conn {
            self.sweep_removed(now);
        }
        Ok(())
    }

    fn set_timeouts(&mut self, settings: TimeoutSettings) {
        let keep = |value: Option<u32>, old: u32| value.filter(|seconds| *seconds != 0).unwrap_or(old);
        let (established, fin_wait) = (tcp::TcpState::Established as usize, tcp::TcpState::FinWait as usize);
        self.tcp_timeouts[established] = keep(settings.tcp, self.tcp_timeouts[established]);
        self.tcp_timeouts[fin_wait] = keep(settings.tcp_fin, self.tcp_timeouts[fin_wait]);
        self.udp_timeout = keep(settings.udp, self.udp_timeout);
    }

    /// With expire_nodest_conn the removal of a server ends its connections at once, and their templates with the last of
    /// them (section 3.8).
    fn sweep_removed(&mut self, now: Nanos) {
        let servers = &self.services.servers;
        let is_gone = |connection: &Connection| connection.server.is_some_and(|server| !servers[server as usize].available);
        let entries = self.table.iter().filter(|(id, connection)| self.table.controlled(*id) == 0 && is_gone(connection));
        let gone: Vec<ConnectionId> = entries.map(|(id, _)| id).collect();
        for id in gone {
            let parent = self.table.get(id).and_then(|connection| connection.control);
            self.end(id, now);
            if let Some(parent) = parent
                && self.table.controlled(parent) == 0
            {
                self.end(parent, now);
            }
        }
    }

    /// Takes an entry out before its time.
    fn end(&mut self, id: ConnectionId, now: Nanos) {
        if let Some(connection) = self.table.get_mut(id) {
            connection.expires = now;
        }
        self.remove(id);
    }

    /// The table, to look at.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The connection, if it still lives.
    pub fn connection(&self, id: ConnectionId) -> Option<Connection> {
        self.table.get(id)
    }

    /// The connection of a packet from a client. ESP and AH follow the UDP 500 connection of their addresses.
    pub fn lookup_in(&self, flow: &FlowKey) -> Option<ConnectionId> {
        self.table.lookup_in(&isakmp(flow))
    }

    /// The connection of a packet from a real server.
    pub fn lookup_out(&self, flow: &FlowKey) -> Option<ConnectionId> {
        self.table.lookup_out(&isakmp(flow))
    }

    /// The service for a packet.
    pub fn find_service(&self, mark: u32, flow: &FlowKey) -> Option<u32> {
        let first = self.sysctls.ip_unprivileged_port_start;
        self.services.find(mark, Protocol(flow.protocol), flow.destination, flow.destination_port, first)
    }

    /// Port reuse (section 3.7): whether the packet of a known connection is scheduled anew. The old connection ends then, but
    /// still counts while the new one is scheduled.
    pub fn reschedules(&mut self, id: ConnectionId, event: TransportEvent, now: Nanos) -> bool {
        let Some(connection) = self.table.get(id) else { return false };
        if !event.opens() {
            return false;
        }
        let quiesced = connection.server.is_some_and(|server| self.services.servers[server as usize].settings.weight == 0);
        let mode = self.sysctls.vs.conn_reuse_mode;
        let ended = match event {
            TransportEvent::Tcp(_) => {
                connection.state == tcp::TcpState::TimeWait as u8
                    || connection.state == tcp::TcpState::Close as u8
                    || (mode & 2 != 0 && connection.state == tcp::TcpState::FinWait as u8 && connection.flags.no_output)
            }
            TransportEvent::Sctp(_) => connection.state == sctp::CLOSED,
            TransportEvent::Udp | TransportEvent::None => false,
        };
        let reschedule = (self.sysctls.vs.expire_nodest_conn && quiesced) || (mode != 0 && connection.control.is_none() && ended);
        if reschedule && self.table.controlled(id) == 0 {
            self.expire_now(id, now);
        }
        reschedule
    }

    /// Whether the connection's server is still there (section 3.8).
    pub fn availability(&mut self, id: ConnectionId, now: Nanos) -> Availability {
        let available = self
            .table
            .get(id)
            .and_then(|connection| connection.server)
            .is_none_or(|server| self.services.servers[server as usize].available);
        if available {
            Availability::Available
        } else if self.sysctls.vs.expire_nodest_conn {
            self.expire_now(id, now);
            Availability::Over
        } else {
            Availability::Drop
        }
    }

    /// Ends an entry at the next tick of the clock. Until then packets find it, unless a newer one has its key, such as an error
    /// that says that nothing can take its place. If it controls others then, it lives on.
    pub fn expire_now(&mut self, id: ConnectionId, now: Nanos) {
        if let Some(connection) = self.table.get_mut(id)
            && connection.expires > now + JIFFY
        {
            connection.expires = now + JIFFY;
            self.timers.insert(now + JIFFY, id);
            if self.services.timer_wheel.is_some() {
                self.ending.retain(|(at, _)| *at >= now);
                self.ending.push((now + JIFFY, id));
            }
        }
    }

    /// A packet passed: the protocol's state moves on, and with it the timeout and the server's active count (section 4).
    pub fn transition(&mut self, id: ConnectionId, direction: Direction, event: TransportEvent) {
        let rules = self.state_rules();
        let Some(entry) = self.table.get_mut(id) else { return };
        let Advance { active, assured } = entry.advance(direction, event, &rules);
        let binding = entry.binding;
        if active != 0
            && let Some(server) = self.table.bindings().get(binding).server
        {
            let server = &mut self.services.servers[server as usize];
            server.active = server.active.saturating_add_signed(active);
        }
        if assured {
            self.assure(self.table.control_of(id));
        }
    }

    /// The settings in force.
    pub(crate) fn sysctls(&self) -> &Sysctls {
        &self.sysctls
    }

    /// Whether what happens in one shard of the table concerns no other.
    pub(crate) fn is_plain(&self) -> bool {
        self.table.is_plain() && self.persistence_data.is_empty() && self.sip_templates.is_empty() && self.observations.is_empty()
    }

    /// The shards, and the bindings of their entries. Only while [`Ipvs::is_plain`].
    pub(crate) fn shards_mut(&mut self) -> (&mut [Shard], &Bindings) {
        self.table.shards_mut()
    }

    /// The number of the binding of connections of a service to one of its servers, `port` being the service's.
    pub(crate) fn bind(&mut self, protocol: Protocol, address: IpAddr, port: u16, server: u32) -> Option<u32> {
        let entry = self.services.servers.get(server as usize)?;
        let key = ClientKey { protocol: protocol.0, client: address, client_port: 0, other: address, other_port: port };
        let mut connection = Connection::unbound(&key, entry.service);
        connection.bind(server, entry, if entry.key.port != 0 { entry.key.port } else { port });
        Some(self.table.bind(connection.binding()))
    }

    /// Looks at connections at those times.
    pub(crate) fn set_timers(&mut self, timers: impl IntoIterator<Item = (Nanos, ConnectionId)>) {
        self.timers.extend(timers);
    }

    /// How states follow each other now.
    pub(crate) fn state_rules(&self) -> StateRules {
        let secure = self.sysctls.vs.secure_tcp >= 2;
        StateRules { tcp_timeouts: self.tcp_timeouts, udp_timeout: self.udp_timeout, secure }
    }

    fn assure(&mut self, template: Option<ConnectionId>) {
        if let Some(template) = template.and_then(|template| self.table.get_mut(template))
            && template.flags.contains(EntryFlags::TEMPLATE)
        {
            template.state = 1;
        }
    }

    /// Restarts an entry's timer; a one-packet entry ends here.
    pub fn touch(&mut self, id: ConnectionId, now: Nanos) {
        let Some(connection) = self.table.get_mut(id) else { return };
        if connection.flags.contains(EntryFlags::ONE_PACKET) {
            self.remove(id);
            return;
        }
        if connection.flags.contains(EntryFlags::HIDDEN) {
            return;
        }
        if let Some(look) = connection.restart(now) {
            self.timers.insert(look, id);
        }
    }

    /// Counts a packet from the client. Only servers that are still listed count (section 1.4 step 11).
    pub fn count_in(&mut self, id: ConnectionId, bytes: u64) {
        let Some(connection) = self.table.get(id) else { return };
        let (server, service) = (connection.server, connection.service);
        if let Some(server) = server.map(|server| &mut self.services.servers[server as usize])
            && server.available
        {
            let service = &mut self.services.all[service as usize].counters;
            for counters in [&mut server.counters, service] {
                counters.in_packets += 1;
                counters.in_bytes += bytes;
            }
        }
    }

    /// Counts a packet from the real server.
    pub fn count_out(&mut self, id: ConnectionId, bytes: u64) {
        let Some(connection) = self.table.get(id) else { return };
        let (server, service) = (connection.server, connection.service);
        if let Some(server) = server.map(|server| &mut self.services.servers[server as usize])
            && server.available
        {
            let service = &mut self.services.all[service as usize].counters;
            for counters in [&mut server.counters, service] {
                counters.out_packets += 1;
                counters.out_bytes += bytes;
            }
        }
    }

    /// No connection expires before this.
    pub fn next_timer(&self) -> Nanos {
        self.timers.next()
    }

    /// Ends what has expired by `now`, in order of time.
    pub fn expire(&mut self, now: Nanos) {
        while let Some((_, connection)) = self.expire_next(now) {
            self.release(&connection);
        }
    }

    /// Takes the next entry out that has expired by `now`, with its time. Its server and its controlling entry are not told:
    /// that is [`Ipvs::release`].
    pub(crate) fn expire_next(&mut self, now: Nanos) -> Option<(Nanos, Connection)> {
        if self.services.timer_wheel.is_some() {
            return self.turn_next(now);
        }
        loop {
            // While some are held back, only those of the same moment are looked at.
            let until = self.held.first().map_or(now, |(at, _)| *at);
            let Some((at, id)) = self.timers.pop(until) else {
                let free = self.held.iter().position(|(_, id)| self.table.controlled(*id) == 0);
                match free.map(|place| self.held.remove(place)) {
                    Some((at, id)) => match self.take(id) {
                        Some(connection) => return Some((at, Connection { expires: at, ..connection })),
                        None => continue,
                    },
                    None if self.held.is_empty() => return None,
                    None => {
                        self.renew_held();
                        continue;
                    }
                }
            };
            let Some(connection) = self.table.get(id) else { continue };
            let due = connection.expires;
            if due > at {
                // It was refreshed since: look again when its time comes. An earlier timer may be in there already.
                self.timers.insert(due, id);
            } else if self.table.controlled(id) > 0 {
                // What it controls may end at the same moment.
                self.held.push((at, id));
            } else if let Some(connection) = self.take(id) {
                return Some((at, connection));
            }
        }
    }

    /// When an entry's timer fires: in time, or when the wheel turns.
    fn due(&self, id: ConnectionId, connection: &Connection) -> Nanos {
        let Some(wheel) = self.services.timer_wheel else { return connection.expires };
        if self.ending.contains(&(connection.expires, id)) {
            return connection.expires;
        }
        wheel.fires(connection.expires, Nanos::from_secs(connection.timeout.into()))
    }

    /// Entries whose time has come while they control others live on for a minute, again and again (section 3.6).
    fn renew_held(&mut self) {
        for (at, id) in std::mem::take(&mut self.held) {
            self.renew(id, at);
        }
    }

    fn renew(&mut self, id: ConnectionId, at: Nanos) {
        self.table.attach(id);
        if let Some(connection) = self.table.get_mut(id) {
            connection.timeout = CONTROL_TIMEOUT;
            connection.expires = at + Nanos::from_secs(CONTROL_TIMEOUT.into());
            self.timers.insert(connection.expires, id);
        }
    }

    /// [`Ipvs::expire_next`] by a timer wheel: of the timers of one tick, the one that was set last fires first. One that is set
    /// anew within its tick keeps its place, and so a template has the place from before its connections, unless it lived on alone.
    fn turn_next(&mut self, now: Nanos) -> Option<(Nanos, Connection)> {
        loop {
            while let Some((at, id)) = self.turn.pop() {
                let Some(connection) = self.table.get(id) else { continue };
                let due = self.due(id, &connection);
                if due > at {
                    self.timers.insert(due, id);
                } else if self.table.controlled(id) > 0 {
                    self.renew(id, at);
                } else if let Some(connection) = self.take(id) {
                    return Some((at, Connection { expires: at, ..connection }));
                }
            }
            let first = self.timers.pop(now)?;
            self.turn.push(first);
            while let Some(other) = self.timers.pop(first.0) {
                self.turn.push(other);
            }
            let table = &self.table;
            self.turn.sort_by_key(|(_, id)| {
                table.get(*id).map(|connection| match connection.flags.template && connection.timeout != CONTROL_TIMEOUT {
                    true => Nanos(0),
                    false => connection.expires - Nanos::from_secs(connection.timeout.into()),
                })
            });
        }
    }

    /// Takes an entry out: its server and its controlling entry are told.
    fn remove(&mut self, id: ConnectionId) {
        if let Some(connection) = self.take(id) {
            self.release(&connection);
        }
    }

    fn take(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.table.remove(id)?;
        if let Some(call_id) = self.persistence_data.remove(&id) {
            let key = persistence::SipKey::of(&connection, call_id);
            if self.sip_templates.get(&key) == Some(&id) {
                self.sip_templates.remove(&key);
            }
        }
        Some(connection)
    }

    /// Tells its server and its controlling entry that an entry is gone.
    pub(crate) fn release(&mut self, connection: &Connection) {
        if let Some(parent) = connection.control {
            self.table.uncontrol(parent);
        }
        if let Some(server) = connection.server {
            let Connection { flags, expires, timeout, .. } = *connection;
            // By a wheel it ended as late as it should already.
            let late = self.services.timer_wheel.map_or_else(|| server::lateness(timeout), |_| Nanos(0));
            self.services.servers[server as usize].unbind(flags.template, !flags.inactive, expires + late);
        }
    }

    /// Whether any NAT server has that address, port and protocol (section 1.3 step 10); mark services serve every protocol.
    pub fn has_real_service(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        self.services.real_service(protocol, address, port).is_some()
    }

    /// The tunnel to that server, if one of that kind leads there (section 1.7). Of several servers with that address and, for
    /// GUE, that port, the newest one says which kind it is.
    pub fn find_tunnel(&self, address: IpAddr, kind: TunnelKind) -> Option<Tunnel> {
        let port_of = |kind| if let TunnelKind::Gue { port } = kind { port } else { 0 };
        let here = self.services.servers.iter().rev().filter(|server| server.available && server.key.address == address);
        let found = here.filter_map(|server| match server.settings.method {
            ForwardingMethod::Tunnel(tunnel) if port_of(tunnel.kind) == port_of(kind) => Some(tunnel),
            _ => None,
        });
        found.take(1).find(|tunnel| tunnel.kind == kind)
    }

    /// Whether any service reads SIP: then datagrams from its servers may open connections (section 7.4).
    pub fn has_sip(&self) -> bool {
        self.services
            .all
            .iter()
            .any(|service| service.exists && service.settings.persistence_engine == Some(PersistenceEngine::Sip))
    }

    /// Services and servers, as `ipvsadm -Ln` orders them.
    pub fn service_views(&self) -> Vec<ServiceView> {
        self.services.views()
    }

    /// Connections and templates, in order of protocol, client and service.
    pub fn connection_views(&self, now: Nanos) -> Vec<ConnectionView> {
        let mut views: Vec<ConnectionView> = self
            .table
            .iter()
            .filter(|(_, connection)| !connection.flags.one_packet)
            .map(|(id, connection)| ConnectionView {
                protocol: connection.protocol,
                client: SocketAddr::new(connection.client, connection.client_port),
                service: SocketAddr::new(connection.virtual_address, connection.virtual_port),
                destination: connection.destination(),
                local: None,
                state: state_name(&connection),
                expires: connection.expires - now,
                persistence_data: self.persistence_data.get(&id).cloned(),
            })
            .collect();
        views.sort_by_key(|view| (view.protocol, view.client, view.service, view.destination));
        views
    }
}

/// A state under /proc's name.
fn state_name(connection: &Connection) -> &'static str {
    let index = usize::from(connection.state);
    match connection.protocol {
        _ if connection.flags.template => ["NONE", "ASSURED"].get(index).copied().unwrap_or("NONE"),
        Protocol::TCP => tcp::NAMES.get(index).copied().unwrap_or("NONE"),
        Protocol::SCTP => sctp::NAMES.get(index).copied().unwrap_or("NONE"),
        Protocol::UDP => "UDP",
        _ => "NONE",
    }
}

/// ESP and AH are looked up as the ISAKMP flow of their addresses (section 3.3).
fn isakmp(flow: &FlowKey) -> FlowKey {
    match Protocol(flow.protocol) {
        Protocol::ESP | Protocol::AH => FlowKey { protocol: Protocol::UDP.0, source_port: 500, destination_port: 500, ..*flow },
        _ => *flow,
    }
}
