//! The director's tables as `ipvsadm -Ln` prints them (reference/linux-ipvs.md sections 11.5 and 11.6), so that they can be
//! compared with a real director's listing by diff(1).

use lvscheck_engine::config::{ForwardingMethod, Protocol, SchedulerKind, ServiceKey, ServiceSettings};
use lvscheck_engine::listing::{ConnectionView, ServiceView};
use std::fmt::Write;
use std::net::SocketAddr;

/// The first line of a listing of services.
pub const VERSION_LINE: &str = "IP Virtual Server version 1.2.1 (size=4096)\n";

/// `ipvsadm -Ln`.
pub fn list(services: &[ServiceView]) -> String {
    let mut text = String::from(VERSION_LINE);
    text.push_str(
        "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n",
    );
    for service in services {
        let _ =
            writeln!(text, "{} {}{}", service_name(&service.key), service.settings.scheduler.name(), flags(&service.settings));
        for server in &service.servers {
            let method = server.settings.method.word();
            let name = server.key.to_string();
            let weight = server.settings.weight;
            let _ = writeln!(text, "  -> {name:<28} {method:<7} {weight:<6} {:<10} {:<10}", server.active, server.inactive);
        }
    }
    text
}

/// `ipvsadm -Ln --stats --exact`.
pub fn stats(services: &[ServiceView]) -> String {
    let mut text = String::from(VERSION_LINE);
    text.push_str("Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n  -> RemoteAddress:Port\n");
    for service in services {
        let _ = writeln!(text, "{:<33}{}", service_name(&service.key), counters(&service.counters));
        for server in &service.servers {
            let _ = writeln!(text, "  -> {:<28}{}", server.key.to_string(), counters(&server.counters));
        }
    }
    text
}

/// `ipvsadm -Lcn`. A kernel prints the lines in the order of a secret hash; here they are sorted.
pub fn connections(connections: &[ConnectionView]) -> String {
    let mut text =
        String::from("IPVS connection entries\npro expire state       source             virtual            destination\n");
    for connection in connections {
        text.push_str(&connection_line(connection));
        text.push('\n');
    }
    text
}

/// One line of `ipvsadm -Lcn`; a FULLNAT connection's local address follows the virtual one, as DPVS prints it.
pub fn connection_line(connection: &ConnectionView) -> String {
    let seconds = connection.expires.0 / 1_000_000_000;
    let mut line = format!(
        "{:<3} {:02}:{:02}  {:<11} {:<18} {:<18} ",
        protocol_word(connection.protocol),
        seconds / 60,
        seconds % 60,
        connection.state,
        connection.client.to_string(),
        connection.service.to_string(),
    );
    if let Some(local) = connection.local {
        let _ = write!(line, "{:<18} ", local.to_string());
    }
    let _ = write!(line, "{}", connection.destination);
    line
}

/// The name of a service in ipvsadm's first column, such as `TCP  200.200.200.1:80`.
pub fn service_name(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Address { protocol, address, port } => {
            format!("{:<4} {}", protocol_word(*protocol), SocketAddr::new(*address, *port))
        }
        ServiceKey::Mark { mark, family } => {
            let suffix = if *family == lvscheck_engine::config::Family::Ipv6 { " IPv6" } else { "" };
            format!("FWM  {mark}{suffix}")
        }
        ServiceKey::Match(rule) => format!("MATCH {rule}"),
    }
}

fn protocol_word(protocol: Protocol) -> String {
    protocol.to_string()
}

fn counters(counters: &lvscheck_engine::listing::Counters) -> String {
    format!(
        " {:>8} {:>8} {:>8} {:>8} {:>8}",
        counters.connections, counters.in_packets, counters.out_packets, counters.in_bytes, counters.out_bytes
    )
}

fn flags(settings: &ServiceSettings) -> String {
    let mut text = String::new();
    let bits = [settings.flags.fallback, settings.flags.port, settings.flags.third];
    if bits.contains(&true) {
        let names = match settings.scheduler {
            SchedulerKind::Sh => ["sh-fallback", "sh-port", "flag-3"],
            SchedulerKind::Mh => ["mh-fallback", "mh-port", "flag-3"],
            _ => ["flag-1", "flag-2", "flag-3"],
        };
        let set: Vec<&str> = bits.iter().zip(names).filter(|(bit, _)| **bit).map(|(_, name)| name).collect();
        let _ = write!(text, " ({})", set.join(","));
    }
    if let Some(persistence) = settings.persistence {
        let _ = write!(text, " persistent {}", persistence.timeout);
        match persistence.prefix_len {
            32 | 128 => {}
            len @ 0..=31 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                let _ = write!(text, " mask {}", std::net::Ipv4Addr::from(mask));
            }
            len => {
                let _ = write!(text, " mask {len}");
            }
        }
    }
    if settings.persistence_engine.is_some() {
        text.push_str(" pe sip");
    }
    if settings.one_packet {
        text.push_str(" ops");
    }
    text
}

/// The word that people use for a forwarding method: DR, NAT, ...
pub fn method_name(method: ForwardingMethod) -> &'static str {
    match method {
        ForwardingMethod::Nat => "NAT",
        ForwardingMethod::Dr => "DR",
        ForwardingMethod::Tunnel(_) => "tunnel",
        ForwardingMethod::FullNat => "FULLNAT",
        ForwardingMethod::Snat => "SNAT",
    }
}
