//! Packets whose destination is the director: reassembly, the LOCAL_IN hooks, the local stack.

use super::ingress::place;
use super::packet::{Hook, Hooked, Packet};
use super::{Director, Output};
use crate::link::reassembly::{Expired, Reassembly};
use crate::packet::icmp;
use crate::time::Nanos;
use crate::verdict::{DropReason, Verdict};

impl Director {
    /// `ip_local_deliver`: an IPv4 fragment waits for the others of its datagram.
    pub(super) fn deliver_v4(&mut self, out: &mut Output, packet: Packet) -> Verdict {
        match self.gather_v4(packet, place::LOCAL) {
            Ok(packet) => self.deliver(out, packet),
            Err(verdict) => verdict,
        }
    }

    /// `ip6_input`. Without IPv6 services fragments are put together only behind the hooks, which then have nothing to do.
    pub(super) fn deliver_v6(&mut self, out: &mut Output, packet: Packet) -> Verdict {
        if packet.headers.fragment.is_none() {
            return self.deliver(out, packet);
        }
        match self.gather_v6(packet) {
            Ok(packet) => self.deliver(out, packet),
            Err(verdict) => verdict,
        }
    }

    /// Puts an IPv4 datagram together.
    pub(super) fn gather_v4(&mut self, packet: Packet, place: u8) -> Result<Packet, Verdict> {
        if packet.headers.fragment.is_none() {
            return Ok(packet);
        }
        if packet.is_cut() {
            return Err(Verdict::Dropped(DropReason::FragmentRefused));
        }
        let arrival = packet.arrival.unwrap_or_default();
        let lifetime = Nanos::from_secs(u64::from(self.host.sysctls.ipfrag_time));
        match self.host.fragments.add_v4(packet.time, lifetime, place, arrival, &packet.bytes) {
            Reassembly::Whole(whole) => {
                let mut joined =
                    Packet { bytes: whole.packet, longest: whole.longest, longest_dont_fragment: whole.dont_fragment, ..packet };
                joined.reread();
                // The firewall marked the fragments; the first one, which has the ports, counts.
                joined.mark = self.mark_of(&joined);
                Ok(joined)
            }
            Reassembly::Waits => Err(Verdict::WaitsForFragments),
            Reassembly::Overlap => Err(Verdict::Dropped(DropReason::FragmentOverlap)),
            Reassembly::Refused => Err(Verdict::Dropped(DropReason::FragmentRefused)),
        }
    }

    /// A datagram's time is over: its sender is told if the first fragment came.
    pub(super) fn fragments_expired(&mut self, out: &mut Output, expired: Expired) {
        let Some(first) = expired.first else { return };
        let Ok(mut packet) = Packet::arrived(first, 0, expired.arrival, true, expired.time) else { return };
        packet.local = self.host.is_local(packet.headers.destination);
        if packet.is_v4() {
            self.send_error_v4(out, &packet, icmp::v4::TIME_EXCEEDED, 1, 0);
        } else {
            self.send_error_v6(out, &packet, icmp::v6::TIME_EXCEEDED, 1, 0);
        }
    }

    fn deliver(&mut self, out: &mut Output, mut packet: Packet) -> Verdict {
        let mut verdict = None;
        if self.ipvs.services.any_of(packet.headers.family()) {
            for step in [Director::answer_hook, Director::request_hook] {
                match step(self, out, &mut packet, Hook::LocalIn) {
                    Hooked::Accept => {}
                    Hooked::AcceptAs(as_verdict) => verdict = Some(as_verdict),
                    Hooked::Done(done) => return done,
                }
            }
        }
        let answer = self.local_stack(out, packet);
        verdict.unwrap_or(answer)
    }
}
