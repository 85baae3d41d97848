//! The blocks `virtual_server` and `real_server`, with the groups that they name.

use super::syntax::Node;
use crate::describe::builder::{Builder, When};
use crate::describe::options::unknown_value;
use crate::describe::problem::{Problem, nearest};
use crate::describe::rules::{mask_length, scheduler};
use crate::describe::words::{Line, Word, parse_address, parse_number, parse_prefix};
use lvscheck_engine::config::{
    Command, Family, ForwardingMethod, Network, Persistence, PersistenceEngine, Protocol, ServerKey, ServerSettings, ServiceKey,
    ServiceSettings, Tunnel, TunnelChecksum, TunnelKind,
};
use std::collections::HashMap;
use std::net::IpAddr;

/// keepalived's own default of `persistence_timeout`, in seconds (ipvsadm's is 300).
const DEFAULT_PERSISTENCE: u32 = 360;
/// Addresses that one range may stand for.
const LARGEST_RANGE: u32 = 65_536;

/// Keys of a virtual server that don't change packets while every server is alive.
#[rustfmt::skip]
const SERVER_NEUTRAL: &[&str] = &[
    "delay_loop", "delay_before_retry", "retry", "connect_timeout", "warmup", "alpha", "omega", "quorum", "hysteresis", "quorum_up",
    "quorum_down", "ha_suspend", "inhibit_on_failure", "virtualhost", "smtp_alert", "no_smtp_alert", "snmp_name", "log_all_failures",
    "sorry_server_inhibit", "sorry_server_lvs_method", "nb_get_retry", "notify_up", "notify_down", "nat_mask", "connect_port", "bindto",
    "bind_port", "bind_if", "fwmark",
    "HTTP_GET", "SSL_GET", "TCP_CHECK", "SMTP_CHECK", "DNS_CHECK", "MISC_CHECK", "BFD_CHECK", "UDP_CHECK", "PING_CHECK", "FILE_CHECK",
];
/// Keys of a virtual server that are read.
#[rustfmt::skip]
const SERVICE_READ: &[&str] = &[
    "lvs_sched", "lb_algo", "lvs_method", "lb_kind", "protocol", "ip_family", "persistence_timeout", "persistence_granularity",
    "persistence_engine", "ops", "flag-1", "flag-2", "flag-3", "sh-port", "sh-fallback", "mh-port", "mh-fallback", "weight",
    "real_server", "sorry_server", "laddr_group_name", "syn_proxy", "expire_quiescent_conn", "establish_timeout", "proxy_protocol",
    "hash_target",
];
const SERVER_READ: &[&str] = &["weight", "lvs_method", "lb_kind", "uthreshold", "lthreshold"];

fn warn_unknown(builder: &mut Builder, node: &Node<'_>, read: &[&str], place: &str) {
    let mut problem = node.problem(format!("unknown key `{}` of a {place}; it is ignored", node.key()));
    if let Some(near) = nearest(node.key(), read.iter().chain(SERVER_NEUTRAL).copied()) {
        problem = problem.help(format!("did you mean `{near}`?"));
    }
    builder.warnings.push(problem);
}

pub(super) fn virtual_server(
    builder: &mut Builder,
    node: &Node<'_>,
    groups: &HashMap<&str, &Node<'_>>,
    local_groups: &HashMap<&str, &Node<'_>>,
) -> Result<(), Problem> {
    if node.block.is_none() {
        return Err(node.problem("a virtual server needs a block").help("virtual_server ADDRESS PORT { ... }"));
    }
    let mut settings = ServiceSettings::default();
    let mut method = ForwardingMethod::Nat;
    let mut protocol = Protocol::TCP;
    let mut ipv6_mark = false;
    let mut persistence = None;
    let mut granularity = None;
    let mut weight = 1;
    let mut local_group = None;
    for child in node.children() {
        let line = &child.line;
        match child.key() {
            "lvs_sched" | "lb_algo" => settings.scheduler = scheduler(line, child.need("a scheduler")?, builder.is_dpvs())?,
            "lvs_method" | "lb_kind" => method = read_method(child)?,
            "protocol" => {
                let word = child.need("a protocol")?;
                protocol = match word.text.to_ascii_uppercase().as_str() {
                    "TCP" => Protocol::TCP,
                    "UDP" => Protocol::UDP,
                    "SCTP" => Protocol::SCTP,
                    _ => return Err(unknown_value(line, word, "protocol", &["TCP", "UDP", "SCTP"])),
                };
            }
            "ip_family" => ipv6_mark = child.need("inet or inet6")?.text == "inet6",
            "persistence_timeout" => {
                persistence = Some(match child.value() {
                    Some(word) => line.number(word, "persistence timeout in seconds", 1..=31 * 86_400)?,
                    None => DEFAULT_PERSISTENCE,
                });
            }
            "persistence_granularity" => {
                let word = child.need("a netmask")?;
                let length = mask_length(&word.text).or_else(|| parse_number(&word.text).filter(|n| *n <= 128).map(|n| n as u8));
                granularity = Some(length.ok_or_else(|| line.problem(word, format!("`{}` is no netmask", word.text)))?);
            }
            "persistence_engine" => {
                let word = child.need("an engine")?;
                if word.text != "sip" {
                    return Err(unknown_value(line, word, "persistence engine", &["sip"]));
                }
                settings.persistence_engine = Some(PersistenceEngine::Sip);
            }
            "ops" => settings.one_packet = true,
            "flag-1" | "sh-fallback" | "mh-fallback" => settings.flags.fallback = true,
            "flag-2" | "sh-port" | "mh-port" => settings.flags.port = true,
            "flag-3" => settings.flags.third = true,
            "weight" => weight = line.number(child.need("a number")?, "weight", 0..=65535)?,
            "laddr_group_name" => local_group = child.value(),
            "syn_proxy" => settings.dpvs.syn_proxy = true,
            "expire_quiescent_conn" => settings.dpvs.expire_quiescent = true,
            "establish_timeout" => {
                settings.dpvs.connection_timeout = Some(line.number(child.need("a number")?, "timeout", 1..=31 * 86_400)?);
            }
            "real_server" | "sorry_server" => {}
            key if SERVER_NEUTRAL.contains(&key) || SERVICE_READ.contains(&key) => {}
            _ => warn_unknown(builder, child, SERVICE_READ, "virtual_server"),
        }
    }
    if settings.persistence_engine.is_some() && persistence.is_none() {
        persistence = Some(DEFAULT_PERSISTENCE);
    }
    for (key, place) in service_keys(node, protocol, ipv6_mark, groups)? {
        let ipv6 = match &key {
            ServiceKey::Address { address, .. } => address.is_ipv6(),
            ServiceKey::Mark { family, .. } => *family == Family::Ipv6,
            ServiceKey::Match(_) => false,
        };
        let longest = if ipv6 { 128 } else { 32 };
        settings.persistence =
            persistence.map(|timeout| Persistence { timeout, prefix_len: granularity.unwrap_or(longest).min(longest) });
        if matches!(key, ServiceKey::Address { port: 0, .. }) && settings.persistence.is_none() {
            return Err(node
                .problem("a virtual server for every port needs `persistence_timeout`")
                .help("or write the port after the address"));
        }
        builder.take(Command::AddService { service: key.clone(), settings: settings.clone() }, When::Setup, Some(place));
        if let Some(name) = local_group {
            local_addresses(builder, node, &key, name, local_groups)?;
        }
        let mut any = false;
        for child in node.children().iter().filter(|child| child.key() == "real_server") {
            real_server(builder, child, &key, method, weight)?;
            any = true;
        }
        for child in node.children().iter().filter(|child| child.key() == "sorry_server") {
            if any {
                builder.assumed.push(format!("sorry server of {key}: not in use, as real servers are alive"));
            } else {
                real_server(builder, child, &key, method, 1)?;
            }
        }
    }
    Ok(())
}

/// `lvs_method NAT|DR|TUN [type ipip|gue port N|gre] [nocsum|csum|remcsum]`; DPVS has FNAT and SNAT too.
fn read_method(node: &Node<'_>) -> Result<ForwardingMethod, Problem> {
    let line = &node.line;
    let word = node.need("a forwarding method")?;
    match word.text.to_ascii_uppercase().as_str() {
        "NAT" => return Ok(ForwardingMethod::Nat),
        "DR" => return Ok(ForwardingMethod::Dr),
        "FNAT" => return Ok(ForwardingMethod::FullNat),
        "SNAT" => return Ok(ForwardingMethod::Snat),
        "TUN" => {}
        _ => return Err(unknown_value(line, word, "lvs_method", &["NAT", "DR", "TUN", "FNAT", "SNAT"])),
    }
    let mut tunnel = Tunnel::default();
    let mut words = node.words.iter().skip(2);
    while let Some(word) = words.next() {
        match &*word.text {
            "type" => {}
            "ipip" => tunnel.kind = TunnelKind::Ipip,
            "gre" => tunnel.kind = TunnelKind::Gre,
            "gue" => tunnel.kind = TunnelKind::Gue { port: 0 },
            "port" => {
                let port = words.next().ok_or_else(|| line.problem(word, "`port` needs a number"))?;
                tunnel.kind = TunnelKind::Gue { port: line.number(port, "tunnel port", 1..=65535)? as u16 };
            }
            "nocsum" => tunnel.checksum = TunnelChecksum::None,
            "csum" => tunnel.checksum = TunnelChecksum::Checksum,
            "remcsum" => tunnel.checksum = TunnelChecksum::RemoteChecksum,
            _ => {
                return Err(unknown_value(
                    line,
                    word,
                    "word of lvs_method TUN",
                    &["type", "ipip", "gue", "gre", "port", "nocsum", "csum", "remcsum"],
                ));
            }
        }
    }
    if tunnel.kind == (TunnelKind::Gue { port: 0 }) {
        return Err(node.problem("a GUE tunnel needs its UDP port").help("write lvs_method TUN type gue port 6080"));
    }
    Ok(ForwardingMethod::Tunnel(tunnel))
}

type Keys = Vec<(ServiceKey, crate::describe::Place)>;

fn service_keys(
    node: &Node<'_>,
    protocol: Protocol,
    ipv6_mark: bool,
    groups: &HashMap<&str, &Node<'_>>,
) -> Result<Keys, Problem> {
    let line = &node.line;
    let first = node.need("an address, `fwmark N` or `group NAME`")?;
    let second = node.words.get(2);
    match (&*first.text, second) {
        ("group", Some(name)) => {
            let Some(group) = groups.get(&*name.text) else {
                let known: Vec<&str> = groups.keys().copied().collect();
                let problem = line.problem(name, format!("no virtual_server_group is named `{}`", name.text));
                return Err(match nearest(&name.text, known) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem,
                });
            };
            let mut keys = Vec::new();
            for entry in group.children() {
                let (Some(address), port) = (entry.words.first(), entry.words.get(1)) else { continue };
                keys.extend(entry_keys(&entry.line, address, port, entry.words.get(2), protocol, ipv6_mark)?);
            }
            Ok(keys)
        }
        ("group", None) => Err(line.problem(first, "`group` needs a name")),
        _ => entry_keys(line, first, second, node.words.get(3), protocol, ipv6_mark),
    }
}

/// `ADDRESS [PORT]`, `RANGE [PORT]` or `fwmark N [inet|inet6]`.
fn entry_keys(
    line: &Line<'_>,
    first: &Word<'_>,
    second: Option<&Word<'_>>,
    third: Option<&Word<'_>>,
    protocol: Protocol,
    ipv6_mark: bool,
) -> Result<Keys, Problem> {
    if first.text == "fwmark" {
        let word = second.ok_or_else(|| line.problem(first, "`fwmark` needs a number"))?;
        let mark = line.number(word, "firewall mark", 1..=u32::MAX)?;
        let ipv6 = third.map_or(ipv6_mark, |word| word.text == "inet6");
        return Ok(vec![(ServiceKey::Mark { mark, family: if ipv6 { Family::Ipv6 } else { Family::Ipv4 } }, line.place(word))]);
    }
    let port = match second {
        Some(word) => line.number(word, "port", 0..=65535)? as u16,
        None => 0,
    };
    let addresses = expand_range(&first.text).map_err(|reason| line.problem(first, format!("`{}` {reason}", first.text)))?;
    Ok(addresses.into_iter().map(|address| (ServiceKey::Address { protocol, address, port }, line.place(first))).collect())
}

/// `a.b.c.d`, `a.b.c.d-e`, `a.b.c.d-w.x.y.z`, `a.b.c.d/len`, and the same for IPv6, where the short form is hexadecimal.
fn expand_range(text: &str) -> Result<Vec<IpAddr>, String> {
    let too_many = || format!("stands for more than {LARGEST_RANGE} addresses");
    if text.contains('/') {
        let (address, length) = parse_prefix(text)?;
        let host_bits = Network::host(address).prefix_len - length;
        if host_bits > 16 {
            return Err(too_many());
        }
        let network = Network::new(address, length).address;
        return Ok((0..1u32 << host_bits).map(|offset| plus(network, offset)).collect());
    }
    let Some((low, high)) = text.split_once('-') else { return parse_address(text).map(|address| vec![address]) };
    let low = parse_address(low)?;
    let count = match (low, parse_address(high)) {
        (IpAddr::V4(low), Ok(IpAddr::V4(high))) => u32::from(high).checked_sub(u32::from(low)),
        (IpAddr::V6(low), Ok(IpAddr::V6(high))) => {
            u128::from(high).checked_sub(u128::from(low)).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
        }
        (IpAddr::V4(low), Err(_)) => {
            parse_number(high).filter(|last| *last <= 255).and_then(|last| last.checked_sub(u32::from(low.octets()[3])))
        }
        (IpAddr::V6(low), Err(_)) => u32::from_str_radix(high, 16)
            .ok()
            .filter(|last| *last <= 0xffff)
            .and_then(|last| last.checked_sub(u32::from(low.segments()[7]))),
        _ => None,
    };
    match count {
        Some(count) if count < LARGEST_RANGE => Ok((0..=count).map(|offset| plus(low, offset)).collect()),
        Some(_) => Err(too_many()),
        None => Err("is no range of addresses".to_owned()),
    }
}

fn plus(address: IpAddr, offset: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).wrapping_add(offset).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).wrapping_add(u128::from(offset)).into()),
    }
}

fn local_addresses(
    builder: &mut Builder,
    node: &Node<'_>,
    service: &ServiceKey,
    name: &Word<'_>,
    groups: &HashMap<&str, &Node<'_>>,
) -> Result<(), Problem> {
    let Some(group) = groups.get(&*name.text) else {
        return Err(node.problem(format!("no local_address_group is named `{}`", name.text)));
    };
    for entry in group.children() {
        let (Some(address), Some(dev)) = (entry.words.first(), entry.words.get(1)) else {
            return Err(entry.problem("a local address needs an interface").help("write ADDRESS INTERFACE"));
        };
        let interface = builder.interface(&entry.line, dev)?;
        let list =
            expand_range(&address.text).map_err(|reason| entry.line.problem(address, format!("`{}` {reason}", address.text)))?;
        for local in list {
            let command = Command::AddLocalAddress { service: service.clone(), address: local, interface };
            builder.take(command, When::Setup, Some(entry.line.place(address)));
        }
    }
    Ok(())
}

fn real_server(
    builder: &mut Builder,
    node: &Node<'_>,
    service: &ServiceKey,
    method: ForwardingMethod,
    weight: u32,
) -> Result<(), Problem> {
    let line = &node.line;
    let word = node.need("an address")?;
    let address = line.address(word)?;
    let service_port = match service {
        ServiceKey::Address { port, .. } => *port,
        _ => 0,
    };
    let mut port = match node.words.get(2) {
        Some(word) => line.number(word, "port", 0..=65535)? as u16,
        None => service_port,
    };
    let mut settings = ServerSettings { method, weight, upper_threshold: 0, lower_threshold: 0 };
    for child in node.children() {
        let line = &child.line;
        match child.key() {
            "weight" => settings.weight = line.number(child.need("a number")?, "weight", 0..=65535)?,
            "lvs_method" | "lb_kind" => settings.method = read_method(child)?,
            "uthreshold" => settings.upper_threshold = line.number(child.need("a number")?, "threshold", 0..=u32::MAX)?,
            "lthreshold" => settings.lower_threshold = line.number(child.need("a number")?, "threshold", 0..=u32::MAX)?,
            key if SERVER_NEUTRAL.contains(&key) => {}
            _ => warn_unknown(builder, child, SERVER_READ, "real_server"),
        }
    }
    let keeps_port = matches!(settings.method, ForwardingMethod::Dr | ForwardingMethod::Tunnel(_));
    if keeps_port && port != service_port && matches!(service, ServiceKey::Address { .. }) {
        let word = node.words.get(2).unwrap_or(word);
        builder.warnings.push(
            line.problem(word, format!("port {port} becomes {service_port}, the service's port"))
                .help("direct routing and tunnels do not rewrite packets; use lvs_method NAT to change ports"),
        );
        port = service_port;
    }
    let command = Command::AddServer { service: service.clone(), server: ServerKey { address, port }, settings };
    builder.take(command, When::Setup, Some(line.place(word)));
    Ok(())
}
