//! Requests: `ip_vs_in_hook` (reference/linux-ipvs.md sections 1.4 and 1.5).

use super::packet::{Hook, Hooked, Packet};
use super::{Director, Output};
use crate::config::{Protocol, ServiceKey};
use crate::link::route::is_group;
use crate::packet::sctp::Sctp;
use crate::packet::{Tcp, icmp};
use crate::rewrite::sip;
use crate::track::{Availability, ConnectionId, Direction, Opening, TransportEvent, Unscheduled};
use crate::verdict::{DropReason, Forwarded, Refusal, Verdict};

/// Protocols that IPVS handles.
pub(super) fn is_handled(protocol: u8) -> bool {
    matches!(Protocol(protocol), Protocol::TCP | Protocol::UDP | Protocol::SCTP | Protocol::AH | Protocol::ESP)
}

/// What a packet means to its protocol's state machine.
pub(super) fn event_of(packet: &Packet) -> TransportEvent {
    let transport = packet.transport();
    match packet.headers.protocol {
        _ if packet.headers.is_later_fragment() => TransportEvent::None,
        6 => Tcp::new_checked(transport).map_or(TransportEvent::None, |view| TransportEvent::Tcp(view.flags())),
        17 => TransportEvent::Udp,
        132 => Sctp::new_checked(transport)
            .ok()
            .and_then(|view| view.deciding_chunk())
            .map_or(TransportEvent::None, TransportEvent::Sctp),
        _ => TransportEvent::None,
    }
}

impl Director {
    /// The in hook.
    pub(super) fn request_hook(&mut self, out: &mut Output, packet: &mut Packet, hook: Hook) -> Hooked {
        if !packet.to_us && hook != Hook::LocalOut {
            return Hooked::Accept;
        }
        if packet.is_icmp() {
            return self.related_from_client(out, packet, hook);
        }
        if !is_handled(packet.headers.protocol) {
            return Hooked::Accept;
        }
        let ports = matches!(packet.headers.protocol, 6 | 17 | 132);
        if ports && packet.transport_len() < if packet.headers.protocol == 17 { 8 } else { 4 } {
            return Hooked::Done(Verdict::Dropped(DropReason::TransportTruncated));
        }
        let (flow, event, now) = (packet.flow(), event_of(packet), packet.time);
        let mut known = self.ipvs.lookup_in(&flow);
        if let Some(id) = known
            && self.ipvs.reschedules(id, event, now)
        {
            known = None;
        }
        if let Some(id) = known {
            match self.ipvs.availability(id, now) {
                Availability::Available => {}
                Availability::Drop => return Hooked::Done(Verdict::Dropped(DropReason::ServerRemoved)),
                Availability::Over => known = None,
            }
        }
        let (id, new) = match known {
            Some(id) => (id, false),
            None => match self.schedule(out, packet, event) {
                Ok(id) => (id, true),
                Err(hooked) => return hooked,
            },
        };
        let verdict = self.verdict_about(id, new);
        self.ipvs.count_in(id, packet.headers.total_len as u64);
        self.ipvs.transition(id, Direction::Input, event);
        let hooked = self.transmit(out, packet, id, verdict);
        self.ipvs.touch(id, now);
        hooked
    }

    /// Which service and server a connection is of.
    pub(super) fn verdict_about(&self, id: ConnectionId, new: bool) -> Forwarded {
        let found = self.ipvs.connection(id);
        Forwarded {
            service: found.as_ref().map_or(0, |connection| connection.service),
            server: found.and_then(|connection| connection.server).unwrap_or(u32::MAX),
            new,
        }
    }

    /// Tries to open a connection for a packet that has none.
    fn schedule(&mut self, out: &mut Output, packet: &Packet, event: TransportEvent) -> Result<ConnectionId, Hooked> {
        let done = |reason| Err(Hooked::Done(Verdict::Dropped(reason)));
        if packet.headers.is_later_fragment() {
            return Err(Hooked::Accept);
        }
        let needed = match packet.headers.protocol {
            6 => 20,
            17 => 8,
            132 => 16,
            _ => return Err(Hooked::Accept),
        };
        if packet.transport_len() < needed {
            return done(DropReason::TransportTruncated);
        }
        let flow = packet.flow();
        let call_id = match packet.headers.protocol {
            17 => packet.transport().get(8..).and_then(sip::call_id),
            _ => None,
        };
        let opening = Opening { flow, mark: packet.mark, event, from_icmp: false, call_id, now: packet.time };
        match self.ipvs.open(opening, &self.draws) {
            Ok(id) => Ok(id),
            Err(Unscheduled::Accept) => Err(Hooked::Accept),
            Err(Unscheduled::Drop) => done(DropReason::NoServer),
            Err(Unscheduled::DropRate) => done(DropReason::DropRate),
            Err(Unscheduled::NoCallId) => done(DropReason::NoCallId),
            Err(Unscheduled::NoServer) => {
                if let Some(service) = self.bypass_service(packet) {
                    return Ok(self.ipvs.connect_bypass(&flow, service));
                }
                if packet.is_v4() {
                    self.send_error_v4(out, packet, icmp::v4::UNREACHABLE, icmp::v4::PORT_UNREACHABLE, 0);
                } else {
                    self.send_error_v6(out, packet, icmp::v6::UNREACHABLE, icmp::v6::PORT_UNREACHABLE, 0);
                }
                Err(Hooked::Done(Verdict::Refused(Refusal::NoServer)))
            }
        }
    }

    /// cache_bypass: the mark service whose packets go on to their own destination when it has no server.
    fn bypass_service(&self, packet: &Packet) -> Option<u32> {
        let destination = packet.headers.destination;
        // Nothing asks whether an IPv6 destination is the director's own; what goes there is dropped on its way.
        let elsewhere = !packet.is_v4() || !self.host.is_local(destination);
        if !self.host.sysctls.vs.cache_bypass || is_group(destination) || !elsewhere {
            return None;
        }
        let service = self.ipvs.find_service(packet.mark, &packet.flow())?;
        let key = &self.ipvs.services.all.get(service as usize)?.key;
        matches!(key, ServiceKey::Mark { .. }).then_some(service)
    }
}
