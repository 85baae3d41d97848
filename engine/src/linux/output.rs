//! Sending: fragmentation, the neighbour, and the director's own packets through LOCAL_OUT
//! (reference/linux-ipvs.md section 6.9).

use super::packet::{Hook, Hooked, Packet};
use super::{Director, Output};
use crate::config::InterfaceId;
use crate::draws::Draw;
use crate::link::fragment::{cut_v4, cut_v6, cuts_v4, cuts_v6, unfragmentable_part};
use crate::link::neighbour::{Failure, Waiting};
use crate::link::resolution::Sent;
use crate::link::route::{Hop, Way};
use crate::link::source::is_link_local;
use crate::output::DrawnField;
use crate::packet::icmp;
use crate::time::Nanos;
use crate::verdict::{DropReason, Forwarded, Refusal, Verdict};
use std::net::IpAddr;

/// How many draws of each kind were made.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrawCounters {
    ipv4_ids: u64,
    flow_labels: u64,
    fragment_ids: u64,
    timestamps: u64,
    payloads: u64,
}

/// A clock value whose place is not known yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockDraw(Draw);

impl ClockDraw {
    /// The field at that offset of the packet; an IPv4 header's checksum covers it.
    pub fn at(self, offset: usize) -> DrawnField {
        DrawnField::value(self.0, offset, 4).summed_at(10)
    }

    /// The draw itself.
    pub fn draw(self) -> Draw {
        self.0
    }
}

/// What became of a packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It left, all of it.
    Left,
    /// It waits for the next hop's address.
    Waits,
    /// It is too long, and its sender was told.
    TooBig,
}

impl Outcome {
    /// As a verdict about a request.
    pub fn verdict(self, forwarded: Forwarded) -> Verdict {
        match self {
            Outcome::Left => Verdict::Forwarded(forwarded),
            Outcome::Waits => Verdict::WaitsForNeighbour(forwarded),
            Outcome::TooBig => Verdict::Refused(Refusal::TooBig),
        }
    }
}

impl Director {
    /// The next identification of an IPv4 packet that the director makes, and the field that holds it.
    pub(super) fn next_ipv4_id(&mut self) -> (u16, DrawnField) {
        let draw = Draw::Ipv4Id(self.drawn.ipv4_ids);
        self.drawn.ipv4_ids += 1;
        (self.draws.value(draw) as u16, DrawnField::value(draw, 4, 2).summed_at(10))
    }

    /// The next flow label of an IPv6 packet that the director makes, and the field that holds it.
    pub(super) fn next_flow_label(&mut self) -> (u32, DrawnField) {
        let draw = Draw::FlowLabel(self.drawn.flow_labels);
        self.drawn.flow_labels += 1;
        (self.draws.value(draw) as u32 & 0x000f_ffff, DrawnField { bits: 20, ..DrawnField::value(draw, 0, 4) })
    }

    /// The next clock value.
    pub(super) fn next_timestamp(&mut self) -> (ClockDraw, u32) {
        let draw = Draw::Timestamp(self.drawn.timestamps);
        self.drawn.timestamps += 1;
        (ClockDraw(draw), self.draws.value(draw) as u32)
    }

    /// The next random payload of ping.
    pub(super) fn next_payload(&mut self) -> (Draw, u64) {
        let draw = Draw::Payload(self.drawn.payloads);
        self.drawn.payloads += 1;
        (draw, self.draws.value(draw))
    }

    /// Sends a packet to a next hop over a way of that MTU, in fragments if it must be.
    pub(super) fn output(
        &mut self,
        out: &mut Output,
        packet: &mut Packet,
        hop: Hop,
        next: IpAddr,
        mtu: usize,
        failure: Failure,
    ) -> Outcome {
        let too_long = packet.headers.total_len > mtu;
        let was_fragmented = packet.longest != 0 && (packet.is_v4() || packet.headers.total_len > packet.longest);
        if !too_long && !was_fragmented {
            let waiting = Waiting {
                packet: std::mem::take(&mut packet.bytes),
                cut: packet.cut,
                drawn: std::mem::take(&mut packet.drawn),
                failure,
            };
            return match self.host.send(out, packet.time, hop.interface, next, waiting) {
                Sent::Left => Outcome::Left,
                Sent::Waits => Outcome::Waits,
            };
        }
        if packet.longest > mtu && (packet.headers.dont_fragment || !packet.is_v4()) {
            if packet.is_v4() {
                self.send_error_v4(out, packet, icmp::v4::UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED, mtu as u32);
            } else {
                self.send_error_v6(out, packet, icmp::v6::PACKET_TOO_BIG, 0, mtu as u32);
            }
            return Outcome::TooBig;
        }
        let limit = match packet.longest {
            0 => mtu,
            longest if packet.is_v4() => longest.min(mtu),
            longest => longest.max(1280).min(mtu.max(1280)),
        };
        // What was not captured is cut along, as zeros, and taken off the pieces again.
        let held = packet.bytes.len();
        packet.bytes.resize(packet.headers.total_len.max(held), 0);
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let mut drawn = std::mem::take(&mut packet.drawn);
        // Fields before this stand in every piece, those behind it in the first one only, moved by the fragment header.
        let common = if packet.is_v4() {
            let cuts = cuts_v4(&packet.bytes, limit, &packet.parts);
            cut_v4(&packet.bytes, &cuts, packet.longest_dont_fragment, |piece| pieces.push(piece.to_vec()));
            packet.headers.transport_at
        } else {
            let draw = Draw::Ipv6FragmentId(self.drawn.fragment_ids);
            self.drawn.fragment_ids += 1;
            // A received fragment has room before it for one tag at most.
            let nested = self.host.links.get(hop.interface).tags.len() > 1;
            let cuts = cuts_v6(&packet.bytes, limit, if nested { &[] } else { &packet.parts });
            cut_v6(&packet.bytes, &cuts, self.draws.value(draw) as u32, |piece| pieces.push(piece.to_vec()));
            let at = unfragmentable_part(&packet.bytes).map_or(40, |(_, at)| at);
            drawn.iter_mut().filter(|field| usize::from(field.offset) >= at).for_each(|field| shift(field, 8));
            drawn.push(DrawnField::value(draw, at + 4, 4));
            at + 8
        };
        let mut outcome = Outcome::Left;
        let mut at = if packet.is_v4() { common } else { common - 8 };
        for (index, mut piece) in pieces.into_iter().enumerate() {
            let body = piece.len() - common;
            let cut = body - held.saturating_sub(at).min(body);
            piece.truncate(piece.len() - cut);
            at += body;
            let kept = |field: &&DrawnField| index == 0 || usize::from(field.offset) < common;
            let drawn = drawn.iter().filter(kept).copied().collect();
            let waiting = Waiting { packet: piece, cut: cut as u32, drawn, failure };
            if self.host.send(out, packet.time, hop.interface, next, waiting) == Sent::Waits {
                outcome = Outcome::Waits;
            }
        }
        outcome
    }

    /// Sends a packet that the director made: LOCAL_OUT hooks, route, output.
    pub(super) fn local_out(&mut self, out: &mut Output, packet: Packet) -> bool {
        self.local_out_on(out, packet, None)
    }

    /// Sends a packet that the director made about one that arrived on that link, or about none.
    pub(super) fn local_out_on(&mut self, out: &mut Output, mut packet: Packet, link: Option<InterfaceId>) -> bool {
        let hop = match self.way_back(packet.headers.destination, link) {
            Way::Out(hop) => Some(hop),
            Way::Local => None,
            _ => return false,
        };
        if self.ipvs.services.any_of(packet.headers.family()) {
            for step in [Director::answer_hook, Director::request_hook] {
                if let Hooked::Done(_) = step(self, out, &mut packet, Hook::LocalOut) {
                    return true;
                }
            }
        }
        // To itself: nothing shows on a wire.
        let Some(hop) = hop else { return false };
        let destination = packet.headers.destination;
        let mtu = self.mtu_of(&hop, destination, packet.time);
        self.output(out, &mut packet, hop, hop.next(destination), mtu, Failure::Silent);
        true
    }

    /// The way to a host of which a packet arrived on that link: a link-local address says nothing without its link.
    pub(super) fn way_back(&self, host: IpAddr, link: Option<InterfaceId>) -> Way {
        match (host, link) {
            (IpAddr::V6(v6), Some(interface)) if is_link_local(v6) && !self.host.is_local(host) => {
                Way::Out(Hop { interface, gateway: None, source: None, mtu: None })
            }
            _ => self.host.routes.lookup_own(host),
        }
    }

    /// The next hop of a waiting packet never answered.
    pub(super) fn neighbour_failed(&mut self, out: &mut Output, time: Nanos, waiting: Waiting) {
        if waiting.failure == Failure::Tunnel {
            if let Ok(outer) = Packet::made(waiting.packet, time) {
                self.tunnel_unreachable(outer);
            }
            return;
        }
        let Failure::Report { arrival: Some(arrival) } = waiting.failure else { return };
        let Ok(mut packet) = Packet::arrived(waiting.packet, waiting.cut, arrival, true, time) else { return };
        packet.local = false;
        self.send_host_unreachable(out, &packet);
    }

    /// Host or address unreachable.
    pub(super) fn send_host_unreachable(&mut self, out: &mut Output, packet: &Packet) {
        if packet.is_v4() {
            self.send_error_v4(out, packet, icmp::v4::UNREACHABLE, icmp::v4::HOST_UNREACHABLE, 0);
        } else {
            self.send_error_v6(out, packet, icmp::v6::UNREACHABLE, icmp::v6::ADDRESS_UNREACHABLE, 0);
        }
    }

    /// As a verdict about routed traffic.
    pub(super) fn routed(outcome: Outcome, as_answer: Option<Verdict>) -> Verdict {
        match outcome {
            Outcome::Left => as_answer.unwrap_or(Verdict::Routed),
            Outcome::Waits => as_answer.unwrap_or(Verdict::Routed),
            Outcome::TooBig => Verdict::Dropped(DropReason::FragmentRefused),
        }
    }
}

/// Moves a field, and the checksums that cover it, towards the end.
fn shift(field: &mut DrawnField, by: u16) {
    field.offset += by;
    field.checksums.iter_mut().filter(|at| **at != 0).for_each(|at| *at += by);
}
