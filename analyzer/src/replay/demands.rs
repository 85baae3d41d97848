//! What each forwarding mode demands of a deployment, checked as far as the configuration and the capture show it.

use super::outcome::Demand;
use super::session::InputFrame;
use foldhash::HashSet;
use lvscheck_engine::DirectorConfig;
use lvscheck_engine::config::{Command, ForwardingMethod, MacAddr, ServerKey, ServiceKey, TunnelKind};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::reply;

/// Watches the frames of a capture for signs that a mode's demands are broken.
#[derive(Debug, Default)]
pub struct Watch {
    servers: BTreeMap<IpAddr, ForwardingMethod>,
    virtual_addresses: BTreeSet<IpAddr>,
    director_macs: BTreeSet<MacAddr>,
    /// Of connections to virtual addresses, as far as answers must pass the director: under NAT.
    clients: HashSet<(IpAddr, u16)>,
    judges_answers: bool,
    found: BTreeMap<(&'static str, String), Demand>,
    judges_arp: bool,
    smallest_mtu: u32,
    tunnel_overhead: u32,
}

impl Watch {
    /// For a director. `macs_known`: the capture tells MAC addresses, so whose ARP it is can be judged.
    pub fn new(config: &DirectorConfig, macs_known: bool) -> Watch {
        let mut watch = Watch {
            director_macs: config.interfaces.iter().filter(|i| !i.loopback).map(|i| i.mac).collect(),
            smallest_mtu: config.interfaces.iter().filter(|i| !i.loopback).map(|i| i.mtu).min().unwrap_or(1500),
            ..Watch::default()
        };
        for command in &config.commands {
            match command {
                Command::AddService { service: ServiceKey::Address { address, .. }, .. } => {
                    watch.virtual_addresses.insert(*address);
                }
                Command::AddServer { server: ServerKey { address, .. }, settings, .. } => {
                    watch.servers.insert(*address, settings.method);
                    watch.judges_answers |= settings.method == ForwardingMethod::Nat;
                    // Under NAT and FULLNAT no real server has the VIP.
                    watch.judges_arp |=
                        macs_known && matches!(settings.method, ForwardingMethod::Dr | ForwardingMethod::Tunnel(_));
                    watch.tunnel_overhead = watch.tunnel_overhead.max(overhead(settings.method, *address));
                }
                _ => {}
            }
        }
        watch
    }

    /// Whether [`Watch::look`] could find something in a frame by itself. To see that an answer goes past a director that
    /// translates takes more: its client must be known.
    pub fn concerns(&self, frame: &[u8]) -> bool {
        let is_arp = || self.judges_arp && arp_sender(frame).is_some();
        let is_big = || self.tunnel_overhead > 0 && ip_length(frame).is_some_and(|length| length > self.room());
        let is_request = || reply::flow(frame).is_some_and(|flow| self.virtual_addresses.contains(&flow.destination.0));
        is_arp() || is_big() && is_request()
    }

    /// Whether a frame that long on the wire may hold a packet that does not fit a tunnel.
    pub fn is_big(&self, wire_len: u32) -> bool {
        const ETHERNET: u32 = 14;
        self.tunnel_overhead > 0 && wire_len > self.room() + ETHERNET
    }

    /// How long a packet may be to fit a tunnel.
    fn room(&self) -> u32 {
        self.smallest_mtu.saturating_sub(self.tunnel_overhead)
    }

    /// Looks at a frame, whatever its role.
    pub fn look(&mut self, frame: InputFrame<'_>) {
        self.arp(frame);
        if !self.judges_answers && self.tunnel_overhead == 0 {
            return;
        }
        let Some(flow) = reply::flow(frame.bytes) else { return };
        if self.virtual_addresses.contains(&flow.destination.0) {
            if self.judges_answers {
                self.clients.insert(flow.source);
            }
            self.big_request(frame);
            return;
        }
        let by_nat = self.servers.get(&flow.source.0) == Some(&ForwardingMethod::Nat);
        let to_client = || self.clients.contains(&flow.destination);
        let to_director = || mac(frame.bytes, 0).is_some_and(|mac| self.director_macs.contains(&mac));
        if by_nat && to_client() && !to_director() {
            let (server, client) = (flow.source.0, flow.destination.0);
            let message = format!(
                "an answer reaches client {client} with the real server's address {server} as its source: it did not pass the \
                 director, which would have put the VIP there. The client knows no such connection and resets it. Make the \
                 director the default gateway of {server}"
            );
            self.note("nat-bypass", server.to_string(), frame.number, message);
        }
    }

    fn arp(&mut self, frame: InputFrame<'_>) {
        if !self.judges_arp {
            return;
        }
        let Some((sender_mac, sender)) = arp_sender(frame.bytes) else { return };
        let sender = IpAddr::V4(sender);
        if self.virtual_addresses.contains(&sender) && !self.director_macs.contains(&sender_mac) && sender_mac != MacAddr::ZERO {
            let message = format!(
                "{sender_mac} claims the VIP {sender} by ARP, and it is not the director: a real server with the VIP must not \
                 answer ARP for it nor announce it. Set arp_ignore=1 and arp_announce=2 there, with the VIP on lo"
            );
            self.note("dr-arp-vip", format!("{sender_mac} {sender}"), frame.number, message);
        }
    }

    fn big_request(&mut self, frame: InputFrame<'_>) {
        let room = self.room();
        let length = ip_length(frame.bytes).unwrap_or(0);
        if self.tunnel_overhead > 0 && length > room {
            let message = format!(
                "requests of up to {} bytes do not fit a tunnel: with an outer header of {} bytes there is room for {room}. With DF \
                 they are refused by ICMP fragmentation needed, without it they are fragmented. Lower the MSS at the servers \
                 or raise the MTU of the servers' side",
                self.smallest_mtu, self.tunnel_overhead
            );
            self.note("tunnel-mtu", String::new(), frame.number, message);
        }
    }

    fn note(&mut self, id: &'static str, what: String, frame: u64, message: String) {
        let entry = self.found.entry((id, what)).or_insert_with(|| Demand { id, frames: Vec::new(), count: 0, message });
        entry.count += 1;
        if entry.frames.len() < 5 {
            entry.frames.push(frame);
        }
    }

    /// What was found.
    pub fn finish(self) -> Vec<Demand> {
        self.found.into_values().collect()
    }
}

/// How much a tunnel adds to a packet (reference/linux-ipvs.md section 6.2).
fn overhead(method: ForwardingMethod, server: IpAddr) -> u32 {
    let outer = if server.is_ipv4() { 20 } else { 40 };
    match method {
        ForwardingMethod::Tunnel(tunnel) => {
            outer
                + match tunnel.kind {
                    TunnelKind::Ipip => 0,
                    TunnelKind::Gue { .. } => 12,
                    TunnelKind::Gre if tunnel.checksum == lvscheck_engine::config::TunnelChecksum::None => 4,
                    TunnelKind::Gre => 8,
                }
        }
        _ => 0,
    }
}

fn mac(frame: &[u8], at: usize) -> Option<MacAddr> {
    frame.get(at..at + 6).and_then(|bytes| bytes.try_into().ok()).map(MacAddr)
}

fn network_offset(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = 12;
    loop {
        let ether_type = u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?);
        if !matches!(ether_type, 0x8100 | 0x88a8) {
            return Some((at + 2, ether_type));
        }
        at += 4;
    }
}

fn arp_sender(frame: &[u8]) -> Option<(MacAddr, Ipv4Addr)> {
    let (at, 0x0806) = network_offset(frame)? else { return None };
    let address: [u8; 4] = frame.get(at + 14..at + 18)?.try_into().ok()?;
    Some((mac(frame, at + 8)?, address.into()))
}

fn ip_length(frame: &[u8]) -> Option<u32> {
    let (at, ether_type) = network_offset(frame)?;
    let word = |from: usize| Some(u32::from(u16::from_be_bytes(frame.get(from..from + 2)?.try_into().ok()?)));
    match ether_type {
        0x0800 => word(at + 2),
        0x86dd => Some(word(at + 4)? + 40),
        _ => None,
    }
}
