//! What the director remembers about each host that it sends ICMP to, so as not to flood it (reference/linux-ipvs.md
//! sections 10.2, 10.3 and 10.6). One memory serves all limits of a host, so that they act on each other.

use crate::time::Nanos;
use foldhash::HashMap;
use std::net::IpAddr;

/// The memory, one entry a host.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    peers: HashMap<IpAddr, Peer>,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Time saved up, to spend on messages.
    tokens: Nanos,
    last: Nanos,
    /// Unheeded IPv4 redirects.
    redirects: u32,
}

impl Peers {
    /// So many messages can be saved up.
    const BURST: u64 = 6;
    /// The kernel forgets peers as well when there are too many (net.ipv4.inet_peer_threshold).
    const MAX: usize = 65536 + 128;
    /// A host of which nothing was heard for so long is as good as new.
    const FORGOTTEN: Nanos = Nanos::from_secs(60);
    /// net.ipv4.route.redirect_number: after that many unheeded ones the director falls silent.
    const REDIRECT_NUMBER: u32 = 9;
    /// net.ipv4.route.redirect_load.
    const REDIRECT_LOAD: Nanos = Nanos::from_millis(20);
    /// net.ipv4.route.redirect_silence.
    const REDIRECT_SILENCE: Nanos = Nanos::from_millis(20_480);
    /// net.ipv4.route.error_cost, and error_burst in multiples of it.
    const UNROUTABLE_COST: Nanos = Nanos::from_secs(1);
    const UNROUTABLE_BURST: u64 = 5;

    /// Whether a message may go to that host: one an interval, and a burst saved up. An interval of 0 limits nothing, but
    /// uses up what was saved.
    pub fn allow(&mut self, host: IpAddr, interval: Nanos, now: Nanos) -> bool {
        self.spend(host, interval, Peers::BURST, now)
    }

    /// Whether that host may be told now that nothing leads where its packet wanted to go.
    pub fn allow_unroutable(&mut self, host: IpAddr, now: Nanos) -> bool {
        self.spend(host, Peers::UNROUTABLE_COST, Peers::UNROUTABLE_BURST, now)
    }

    fn spend(&mut self, host: IpAddr, cost: Nanos, burst: u64, now: Nanos) -> bool {
        let peer = self.peer(host, now);
        let saved = Nanos(peer.tokens.0.saturating_add((now - peer.last).0));
        peer.tokens = saved.min(Nanos(cost.0.saturating_mul(burst)));
        peer.last = now;
        if peer.tokens < cost {
            return false;
        }
        peer.tokens = peer.tokens - cost;
        true
    }

    /// Whether an IPv4 redirect may go to that host now.
    pub fn allow_redirect(&mut self, host: IpAddr, now: Nanos) -> bool {
        let peer = self.peer(host, now);
        if now > peer.last + Peers::REDIRECT_SILENCE {
            peer.tokens = Nanos(0);
            peer.redirects = 0;
        }
        if peer.redirects >= Peers::REDIRECT_NUMBER {
            peer.last = now;
            return false;
        }
        let due = peer.last + Nanos(Peers::REDIRECT_LOAD.0 << peer.redirects);
        if peer.redirects != 0 && now <= due {
            return false;
        }
        peer.last = now;
        peer.redirects += 1;
        true
    }

    fn peer(&mut self, host: IpAddr, now: Nanos) -> &mut Peer {
        if self.peers.len() >= Peers::MAX && !self.peers.contains_key(&host) {
            self.peers.retain(|_, peer| now < peer.last + Peers::FORGOTTEN);
            if self.peers.len() >= Peers::MAX {
                self.peers.clear();
            }
        }
        // A new host has saved up all that it can.
        self.peers.entry(host).or_insert(Peer { tokens: Nanos(u64::MAX), last: now, redirects: 0 })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn six_at_once_then_one_a_second() {
        let mut peers = Peers::default();
        let client: IpAddr = "203.0.113.5".parse().unwrap();
        let second = Nanos::from_secs(1);
        let allowed = (0..20).filter(|_| peers.allow(client, second, Nanos(0))).count();
        assert_eq!(allowed, 6);
        assert!(!peers.allow(client, second, Nanos::from_millis(900)));
        assert!(peers.allow(client, second, Nanos::from_millis(1000)));
        assert!(!peers.allow(client, second, Nanos::from_millis(1900)));
        let other: IpAddr = "203.0.113.6".parse().unwrap();
        assert!(peers.allow(other, second, Nanos(0)));
    }

    #[test]
    fn an_unlimited_message_uses_up_what_was_saved() {
        let mut peers = Peers::default();
        let host: IpAddr = "2001:db8::5".parse().unwrap();
        assert!(peers.allow(host, Nanos(0), Nanos(0)));
        assert!(!peers.allow(host, Nanos::from_secs(1), Nanos::from_millis(999)));
        assert!(peers.allow(host, Nanos::from_secs(1), Nanos::from_millis(1000)));
    }

    #[test]
    fn redirects_grow_rare_and_end() {
        let mut peers = Peers::default();
        let host: IpAddr = "10.0.0.11".parse().unwrap();
        let told = (0..20_000).filter(|at| peers.allow_redirect(host, Nanos::from_millis(*at))).collect::<Vec<_>>();
        assert_eq!(told[..4], [0, 41, 122, 283]);
        assert_eq!(told.len(), 9);
        assert!(!peers.allow_redirect(host, Nanos::from_millis(40_000)), "every unheeded packet starts the silence anew");
        assert!(peers.allow_redirect(host, Nanos::from_millis(60_481)));
    }

    #[test]
    fn nothing_leads_there_five_times() {
        let mut peers = Peers::default();
        let host: IpAddr = "203.0.113.5".parse().unwrap();
        assert_eq!((0..9).filter(|_| peers.allow_unroutable(host, Nanos(0))).count(), 5);
    }
}
