//! The end of connections: timers, what is given back, the RSTs at expiry (reference/dpvs-fullnat.md section 12).

use super::connection::{Connection, Path, timer_jitter};
use super::director::Director;
use super::service::Services;
use super::state::{State, flag};
use super::syn_proxy::segment;
use super::table::ConnectionId;
use super::wire::{Packet, tcp};
use crate::config::{DpvsTimeouts, InterfaceId, Protocol};
use crate::draws::{Draw, Draws};
use crate::output::{DrawnKind, Output};
use crate::time::Nanos;

/// When the timer ends that a connection of that number starts now, having started it so often.
#[inline]
pub(super) fn timer_end(
    state: State,
    timeout: Option<u32>,
    (number, starts): (u64, u32),
    timeouts: &DpvsTimeouts,
    draws: &Draws,
    now: Nanos,
) -> Nanos {
    let seconds = state.seconds(timeouts, timeout);
    let jitter = Nanos(draws.value(timer_jitter(number, starts)));
    now + Nanos::from_secs(u64::from(seconds)) + jitter
}

impl Connection {
    /// Starts its timer anew, with the time of its state.
    pub(super) fn restart_timer(&mut self, timeouts: &DpvsTimeouts, draws: &Draws, now: Nanos) {
        self.timer_starts += 1;
        self.expires = timer_end(self.state, self.timeout, (self.number, self.timer_starts), timeouts, draws, now);
    }

    /// Counts it as active or inactive by its state.
    pub(super) fn count_state(&mut self, services: &mut Services) {
        let active = self.state.is_active();
        if active != self.active {
            self.active = active;
            services.set_active(self.server, active);
        }
    }
}

impl Director {
    /// Starts a connection's timer anew, with the time of its state.
    pub(super) fn refresh(&mut self, connection: &mut Connection) {
        connection.restart_timer(&self.settings.timeouts, &self.draws, self.now);
    }

    /// Counts a connection as active or inactive by its state.
    pub(super) fn count_state(&mut self, connection: &mut Connection) {
        connection.count_state(&mut self.services);
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
    pub(super) fn expire(&mut self, id: ConnectionId, mut connection: Connection, out: &mut Output) {
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
    fn send_built(&mut self, packet: Packet, path: Option<Path>, out: &mut Output) {
        match path {
            Some(path) => self.link.emit(&packet, path.interface, path.peer, path.own, self.now, out),
            None => {
                if let Some(way) = self.link.route(packet.destination()) {
                    let _ = self.link.send(packet, &way, self.now, out);
                }
            }
        }
    }
}
