//! Packets that are routed on: `ip_forward` with its hooks (reference/linux-ipvs.md sections 1.2, 10.3, 10.4, 10.6).

use super::ingress::place;
use super::packet::{Hook, Hooked, Packet};
use super::{Director, Output};
use crate::link::neighbour::Failure;
use crate::link::route::{Hop, Way};
use crate::link::source::is_link_local;
use crate::packet::{Ipv4, Ipv6, icmp};
use crate::verdict::{DropReason, Refusal, Verdict};
use std::net::IpAddr;

impl Director {
    /// Routes a packet on.
    pub(super) fn forward(&mut self, out: &mut Output, mut packet: Packet, way: Way) -> Verdict {
        if !packet.to_us {
            return Verdict::Dropped(DropReason::GroupAddress);
        }
        let hop = match way {
            Way::Out(hop) => hop,
            Way::Unreachable | Way::Prohibited | Way::None => return self.refuse_route(out, &packet, way),
            _ => return Verdict::Dropped(DropReason::NoRoute),
        };
        if packet.headers.ttl <= 1 {
            if packet.is_v4() {
                self.send_error_v4(out, &packet, icmp::v4::TIME_EXCEEDED, 0, 0);
            } else {
                self.send_error_v6(out, &packet, icmp::v6::TIME_EXCEEDED, 0, 0);
            }
            return Verdict::Refused(Refusal::TtlExceeded);
        }
        let destination = packet.headers.destination;
        if !packet.is_v4() {
            self.redirect(out, &packet, &hop);
            // The scope of a link ends at the link (RFC 4443 section 3.1).
            let beyond = matches!(packet.headers.source, IpAddr::V6(source) if is_link_local(source));
            if beyond && packet.arrival != Some(hop.interface) {
                self.send_error_v6(out, &packet, icmp::v6::UNREACHABLE, icmp::v6::BEYOND_SCOPE, 0);
                return Verdict::Dropped(DropReason::NoRoute);
            }
        }
        // Routed traffic is held to the route's or the link's MTU, not to what ICMP taught.
        let mtu = if self.host.sysctls.ip_forward_use_pmtu {
            self.mtu_of(&hop, destination, packet.time)
        } else {
            hop.mtu.unwrap_or(self.host.interface(hop.interface).mtu) as usize
        };
        let too_long = match packet.longest {
            0 => packet.headers.total_len > mtu,
            longest => packet.headers.total_len > mtu && longest > mtu,
        };
        if too_long && packet.headers.dont_fragment {
            if packet.is_v4() {
                self.send_error_v4(out, &packet, icmp::v4::UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED, mtu as u32);
            } else {
                self.send_error_v6(out, &packet, icmp::v6::PACKET_TOO_BIG, 0, mtu as u32);
            }
            return Verdict::Refused(Refusal::TooBig);
        }
        if let Ok(mut view) = Ipv4::new_checked(&mut packet.bytes[..]) {
            view.decrement_ttl();
        } else if let Ok(mut view) = Ipv6::new_checked(&mut packet.bytes[..]) {
            view.decrement_hop_limit();
        }
        packet.reread();
        if packet.is_v4() {
            self.redirect(out, &packet, &hop);
        }
        let mut verdict = None;
        if self.ipvs.services.any_of(packet.headers.family()) {
            if packet.headers.fragment.is_some() && packet.is_v4() && self.gathers_forwarded(&packet) {
                match self.gather_v4(packet, place::FORWARD) {
                    Ok(whole) => packet = whole,
                    Err(verdict) => return verdict,
                }
            }
            if packet.is_icmp()
                && let Hooked::Done(done) = self.related_from_client(out, &mut packet, Hook::Forward)
            {
                return done;
            }
            match self.answer_hook(out, &mut packet, Hook::Forward) {
                Hooked::Accept => {}
                Hooked::AcceptAs(as_verdict) => verdict = Some(as_verdict),
                Hooked::Done(done) => return done,
            }
        }
        self.complete_options(&mut packet, &hop);
        // What was joined here leaves in fragments again; those that said "don't fragment" are refused then, however long.
        if packet.is_v4() && packet.longest != 0 && packet.headers.dont_fragment {
            self.send_error_v4(out, &packet, icmp::v4::UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED, mtu as u32);
            return Verdict::Refused(Refusal::TooBig);
        }
        let failure = Failure::Report { arrival: packet.arrival };
        let outcome = self.output(out, &mut packet, hop, hop.next(destination), mtu, failure);
        Director::routed(outcome, verdict)
    }

    /// A routed packet's options record the address that it leaves from.
    fn complete_options(&self, packet: &mut Packet, hop: &Hop) {
        if !packet.options_changed || !packet.is_v4() {
            return;
        }
        if let Some(IpAddr::V4(own)) = self.host.source_on(hop, packet.headers.destination) {
            for at in packet.recorded.into_iter().flatten().map(usize::from) {
                if let Some(slot) = packet.bytes.get_mut(at..at + 4) {
                    slot.copy_from_slice(&own.octets());
                }
            }
        }
        if let Ok(mut view) = Ipv4::new_checked(&mut packet.bytes[..]) {
            view.fill_checksum();
        }
    }

    /// Every fragmented packet of a protocol that IPVS handles is put together on its way through, related to IPVS or not;
    /// ICMP too, to see what it quotes.
    fn gathers_forwarded(&self, packet: &Packet) -> bool {
        matches!(packet.headers.protocol, 1 | 6 | 17 | 132)
    }

    fn refuse_route(&mut self, out: &mut Output, packet: &Packet, way: Way) -> Verdict {
        let (v4, v6) = match way {
            Way::Prohibited => (icmp::v4::PROHIBITED, icmp::v6::PROHIBITED),
            Way::Unreachable => (icmp::v4::HOST_UNREACHABLE, icmp::v6::ADDRESS_UNREACHABLE),
            _ => (icmp::v4::NET_UNREACHABLE, icmp::v6::NO_ROUTE),
        };
        let sent = if packet.is_v4() {
            self.peers.allow_unroutable(packet.headers.source, packet.time)
                && self.send_error_v4(out, packet, icmp::v4::UNREACHABLE, v4, 0)
        } else {
            self.send_error_v6(out, packet, icmp::v6::UNREACHABLE, v6, 0)
        };
        if sent { Verdict::Refused(Refusal::Unreachable) } else { Verdict::Dropped(DropReason::NoRoute) }
    }
}
