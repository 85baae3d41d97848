//! Answers: `ip_vs_out_hook` (reference/linux-ipvs.md sections 1.3 and 7.1).

use super::balance::{event_of, is_handled};
use super::packet::{Hook, Hooked, Packet};
use super::{Director, Output};
use crate::config::Protocol;
use crate::packet::icmp;
use crate::packet::sctp::chunk;
use crate::packet::tcp::flags;
use crate::packet::udp;
use crate::rewrite::nat::{self, Change, End};
use crate::rewrite::sip;
use crate::track::{ConnectionId, Direction, TransportEvent};
use crate::verdict::{DropReason, Refusal, Verdict};

impl Director {
    /// The out hook.
    pub(super) fn answer_hook(&mut self, out: &mut Output, packet: &mut Packet, hook: Hook) -> Hooked {
        if packet.is_icmp() {
            return self.related_from_server(packet);
        }
        if !is_handled(packet.headers.protocol) {
            return Hooked::Accept;
        }
        let flow = packet.flow();
        if let Some(id) = self.ipvs.lookup_out(&flow) {
            return self.answer(packet, id);
        }
        let protocol = Protocol(flow.protocol);
        if protocol == Protocol::UDP && hook != Hook::LocalIn && !packet.headers.is_later_fragment() {
            let call_id = packet.transport().get(udp::HEADER_LEN..).and_then(sip::call_id);
            if let Some(id) = self.ipvs.open_from_server(&flow, call_id, packet.time) {
                return self.answer(packet, id);
            }
        }
        let has_ports = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        if has_ports && self.host.sysctls.vs.nat_icmp_send && self.ipvs.has_real_service(protocol, flow.source, flow.source_port)
        {
            let ends = match event_of(packet) {
                TransportEvent::Tcp(bits) => bits & flags::RST != 0,
                TransportEvent::Sctp(kind) => kind == chunk::ABORT,
                _ => false,
            };
            if !ends {
                if packet.is_v4() {
                    self.send_error_v4(out, packet, icmp::v4::UNREACHABLE, icmp::v4::PORT_UNREACHABLE, 0);
                } else {
                    self.send_error_v6(out, packet, icmp::v6::UNREACHABLE, icmp::v6::PORT_UNREACHABLE, 0);
                }
                return Hooked::Done(Verdict::Refused(Refusal::NoConnection));
            }
        }
        Hooked::Accept
    }

    fn answer(&mut self, packet: &mut Packet, id: ConnectionId) -> Hooked {
        let Some(connection) = self.ipvs.connection(id) else { return Hooked::Accept };
        let (event, now) = (event_of(packet), packet.time);
        if connection.is_nat() {
            if self.has_ftp_helper(&connection)
                && let Err(reason) = self.ftp_answer(packet, id, &connection)
            {
                return Hooked::Done(Verdict::Dropped(reason));
            }
            let change = Change { end: End::Source, address: connection.virtual_address, port: Some(connection.virtual_port) };
            let cut = packet.is_cut();
            if !nat::translate(&mut packet.bytes, &packet.headers, change, cut) {
                return Hooked::Done(Verdict::Dropped(DropReason::TransportTruncated));
            }
            packet.reread();
        }
        let verdict = Verdict::Returned(self.verdict_about(id, false));
        self.ipvs.count_out(id, packet.headers.total_len as u64);
        self.ipvs.transition(id, Direction::Output, event);
        self.ipvs.touch(id, now);
        Hooked::AcceptAs(verdict)
    }
}
