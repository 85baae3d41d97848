//! Snapshot folders: the outputs of standard tools on a live director (design section 5).

use super::builder::Builder;
use super::iproute::{add_vlan, default_scope, vlan_protocol};
use super::problem::{Place, Problem};
use super::words::{Line, parse_number, parse_prefix};
use lvscheck_engine::config::{
    Address, AddressScope, Command, MacAddr, NeighbourEntry, Network, Route, RouteKind, TimeoutSettings, VlanProtocol, VlanTag,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The files of a snapshot that are read; others are ignored with a note.
pub const FILES: &[&str] = &[
    "ipvsadm.rules",
    "ipvsadm-timeout.txt",
    "ip-addr.json",
    "ip-route.json",
    "ip6-route.json",
    "ip-neigh.json",
    "sysctl.txt",
    "uname.txt",
    "setup.sh",
    "lvs.toml",
    "keepalived.conf",
    "ipvsadm.txt",
];

/// One entry of `ip -j addr`; iproute2 fills lists with empty objects, so every field may be absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LinkEntry {
    ifname: Option<String>,
    link: Option<String>,
    flags: Vec<String>,
    mtu: Option<u32>,
    address: Option<String>,
    addr_info: Vec<AddressEntry>,
    linkinfo: Option<LinkInfo>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LinkInfo {
    info_kind: Option<String>,
    info_data: Option<InfoData>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InfoData {
    id: Option<u32>,
    protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AddressEntry {
    local: Option<String>,
    prefixlen: Option<u8>,
    scope: Option<String>,
    secondary: bool,
}

/// One entry of `ip -j route`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RouteEntry {
    #[serde(rename = "type")]
    kind: Option<String>,
    dst: Option<String>,
    gateway: Option<String>,
    via: Option<Via>,
    dev: Option<String>,
    prefsrc: Option<String>,
    metric: Option<u32>,
    mtu: Option<u32>,
    metrics: Vec<Metrics>,
    nexthops: Vec<NextHop>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Via {
    host: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metrics {
    mtu: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NextHop {
    gateway: Option<String>,
    via: Option<Via>,
    dev: Option<String>,
}

/// One entry of `ip -j neigh`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NeighbourRow {
    dst: Option<String>,
    dev: Option<String>,
    lladdr: Option<String>,
    state: Vec<String>,
}

/// A JSON list; an empty file is an empty list.
fn list<T: DeserializeOwned>(file: &str, text: &str) -> Result<Vec<T>, Problem> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(text).map_err(|error| {
        let row = text.lines().nth(error.line().saturating_sub(1)).unwrap_or("");
        let place =
            Place { file: file.to_owned(), line: error.line(), column: error.column().max(1), length: 1, text: row.to_owned() };
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or("");
        Problem::new(format!("no output of `ip -j`: {message}")).at(place)
    })
}

fn wrong(file: &str, what: &str, text: &str) -> Problem {
    Problem::new(format!("`{text}` is no {what}")).in_file(file)
}

fn read_address(file: &str, text: &str) -> Result<IpAddr, Problem> {
    text.parse().map_err(|_| wrong(file, "IP address", text))
}

/// `ip -j addr`: links, their MACs, MTUs and addresses.
///
/// # Errors
/// Text that is no such output.
pub fn addresses(builder: &mut Builder, file: &str, text: &str) -> Result<(), Problem> {
    let entries: Vec<LinkEntry> = list(file, text)?;
    let mut above = Vec::new();
    for entry in entries {
        // `eth0@if5` is how a terminal shows a link with a peer.
        let Some(name) = entry.ifname.as_deref().map(|name| name.split('@').next().unwrap_or(name)) else { continue };
        let loopback = entry.flags.iter().any(|flag| flag == "LOOPBACK");
        // Tunnel links have an IP address where others have a MAC; they send no Ethernet frames.
        let mac: MacAddr = entry.address.as_deref().and_then(|text| text.parse().ok()).unwrap_or(MacAddr::ZERO);
        let id = builder.add_interface(name, Some(mac), Some(entry.mtu.unwrap_or(1500)));
        let id = id.ok_or_else(|| Problem::new("too many interfaces").in_file(file))?;
        if let Some(interface) = builder.config.interfaces.get_mut(usize::from(id.0)) {
            interface.loopback = loopback;
            interface.up = entry.flags.is_empty() || entry.flags.iter().any(|flag| flag == "UP");
            interface.addresses.clear();
        }
        for row in &entry.addr_info {
            let Some(local) = &row.local else { continue };
            let address = read_address(file, local)?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let scope = match row.scope.as_deref() {
                Some("global" | "site") => AddressScope::Global,
                Some("link") => AddressScope::Link,
                Some("host") => AddressScope::Host,
                _ => default_scope(address),
            };
            let prefix_len = row.prefixlen.unwrap_or(longest).min(longest);
            builder.add_address(id, Address { address, prefix_len, scope, secondary: row.secondary, sapool: false });
        }
        if let Some(parent) = &entry.link {
            above.push((name.to_owned(), parent.clone(), entry.linkinfo));
        }
    }
    for (name, parent, info) in above {
        vlan_of(builder, &name, &parent, info);
    }
    Ok(())
}

/// A link above another: `ip -d -j addr` tells what it is.
fn vlan_of(builder: &mut Builder, name: &str, parent: &str, info: Option<LinkInfo>) {
    let Some(parent_id) = builder.config.interface(parent) else { return };
    let told = info.as_ref().and_then(|info| info.info_kind.as_deref());
    let data = info.as_ref().and_then(|info| info.info_data.as_ref());
    let tag = match (told, data) {
        (Some("vlan"), Some(InfoData { id: Some(id @ 1..=4094), protocol })) => {
            let protocol = protocol.as_deref().and_then(vlan_protocol).unwrap_or(VlanProtocol::Dot1Q);
            Some(VlanTag { parent: parent_id, id: *id as u16, protocol })
        }
        (Some(_), _) => None,
        (None, _) => None,
    };
    if let Some(tag) = tag {
        add_vlan(builder, name, tag, None, None);
    }
}

/// Links above others of which neither the output nor lvs.toml, which has had its say, tells what they are: the name may
/// (`eth0.100`).
///
/// # Errors
/// Text that is no such output.
pub fn unexplained_links(builder: &mut Builder, file: &str, text: &str) -> Result<(), Problem> {
    let entries: Vec<LinkEntry> = list(file, text)?;
    for entry in entries {
        let (Some(name), Some(parent), None) = (entry.ifname, entry.link, entry.linkinfo) else { continue };
        let (Some(id), Some(parent_id)) = (builder.config.interface(&name), builder.config.interface(&parent)) else { continue };
        if builder.config.interfaces.get(usize::from(id.0)).is_some_and(|interface| interface.vlan.is_some()) {
            continue;
        }
        let vlan = name.strip_prefix(&parent).and_then(|rest| rest.strip_prefix('.')).and_then(parse_number);
        if let Some(vlan) = vlan.filter(|vlan| (1..=4094).contains(vlan)) {
            builder.assumed.push(format!("{name} is VLAN {vlan} (802.1Q) of {parent}, as its name says"));
            add_vlan(builder, &name, VlanTag { parent: parent_id, id: vlan as u16, protocol: VlanProtocol::Dot1Q }, None, None);
        } else {
            builder.warnings.push(
                Problem::new(format!("{name} lies above {parent}, and nothing says how"))
                    .in_file(file)
                    .help("collect with `ip -d -j addr`, or add a [[vlan]] table to lvs.toml"),
            );
        }
    }
    Ok(())
}

/// `ip -j route`, or with `ipv6` `ip -6 -j route`.
///
/// # Errors
/// Text that is no such output.
pub fn routes(builder: &mut Builder, file: &str, text: &str, ipv6: bool) -> Result<(), Problem> {
    let entries: Vec<RouteEntry> = list(file, text)?;
    for entry in entries {
        let Some(dst) = entry.dst.as_deref() else { continue };
        let kind = match entry.kind.as_deref() {
            None | Some("unicast") => RouteKind::Unicast,
            Some("local") => RouteKind::Local,
            Some("blackhole") => RouteKind::Blackhole,
            Some("unreachable") => RouteKind::Unreachable,
            Some("prohibit") => RouteKind::Prohibit,
            Some(other) => {
                if !matches!(other, "broadcast" | "multicast" | "anycast") {
                    builder.warnings.push(Problem::new(format!("route to {dst}: kind `{other}` is not replayed")).in_file(file));
                }
                continue;
            }
        };
        let destination = if dst == "default" {
            Network::new(if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }, 0)
        } else {
            let (address, length) =
                parse_prefix(dst).map_err(|reason| Problem::new(format!("`{dst}` {reason}")).in_file(file))?;
            Network::new(address, length)
        };
        let hop = entry.nexthops.into_iter().next();
        if let Some(hop) = &hop {
            let towards = hop.gateway.as_deref().or(hop.dev.as_deref()).unwrap_or("?");
            builder.warnings.push(
                Problem::new(format!("route to {dst} has several next hops; all packets take the first, {towards}"))
                    .in_file(file),
            );
        }
        let hop = hop.unwrap_or_default();
        let gateway = entry.gateway.or(entry.via.and_then(|via| via.host)).or(hop.gateway).or(hop.via.and_then(|via| via.host));
        let gateway = gateway.map(|text| read_address(file, &text)).transpose()?;
        let dev = entry.dev.or(hop.dev);
        let interface = match dev {
            Some(name) => {
                Some(builder.add_interface(&name, None, None).ok_or_else(|| Problem::new("too many interfaces").in_file(file))?)
            }
            None => None,
        };
        let source = entry.prefsrc.map(|text| read_address(file, &text)).transpose()?;
        let mtu = entry.mtu.or(entry.metrics.into_iter().find_map(|metrics| metrics.mtu));
        builder.add_route(Route { destination, gateway, interface, source, mtu, metric: entry.metric.unwrap_or(0), kind });
    }
    Ok(())
}

/// `ip -j neigh`.
///
/// # Errors
/// Text that is no such output.
pub fn neighbours(builder: &mut Builder, file: &str, text: &str) -> Result<(), Problem> {
    let rows: Vec<NeighbourRow> = list(file, text)?;
    for row in rows {
        let (Some(dst), Some(dev), Some(mac)) = (row.dst, row.dev, row.lladdr) else { continue };
        if row.state.iter().any(|state| matches!(state.as_str(), "FAILED" | "INCOMPLETE")) {
            continue;
        }
        let permanent = row.state.iter().any(|state| matches!(state.as_str(), "PERMANENT" | "NOARP"));
        // A tunnel's neighbours have no MAC address.
        let Ok(mac) = mac.parse() else { continue };
        let address = read_address(file, &dst)?;
        let interface =
            builder.add_interface(&dev, None, None).ok_or_else(|| Problem::new("too many interfaces").in_file(file))?;
        builder.add_neighbour(NeighbourEntry { address, mac, interface, permanent });
    }
    Ok(())
}

/// `sysctl -a`, or the lines of it that matter. It is a state, so the switches that writing would spread over all
/// interfaces come first, whatever their place in the file.
///
/// # Errors
/// A value of the wrong kind.
pub fn sysctls(builder: &mut Builder, file: &str, text: &str) -> Result<(), Problem> {
    const SPREADING: &[&str] = &["net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding"];
    for first in [true, false] {
        for line in Line::all(file, text) {
            let code = line.code.trim();
            if code.is_empty() || code.starts_with('#') || code.starts_with("sysctl:") {
                continue;
            }
            let Some((name, value)) = code.split_once('=') else {
                return Err(line.problem_here("this line is no `NAME = VALUE`").help("collect with `sysctl -a`"));
            };
            let name = name.trim();
            if SPREADING.contains(&name) == first {
                builder.config.sysctls.set(name, value).map_err(|error| line.problem_here(error.to_string()))?;
            }
        }
    }
    Ok(())
}

/// `ipvsadm -l --timeout`.
///
/// # Errors
/// Text that is no such output.
pub fn timeouts(builder: &mut Builder, file: &str, text: &str) -> Result<(), Problem> {
    for line in Line::all(file, text) {
        let Some(rest) = line.code.trim().strip_prefix("Timeout (tcp tcpfin udp):") else {
            if line.code.trim().is_empty() {
                continue;
            }
            return Err(line
                .problem_here("expected `Timeout (tcp tcpfin udp): 900 120 300`")
                .help("collect with `ipvsadm -l --timeout`"));
        };
        let numbers: Vec<Option<u32>> = rest.split_whitespace().map(parse_number).collect();
        let [Some(tcp), Some(tcp_fin), Some(udp)] = numbers.as_slice() else {
            return Err(line.problem_here("expected three numbers of seconds after `Timeout (tcp tcpfin udp):`"));
        };
        let settings = TimeoutSettings { tcp: Some(*tcp), tcp_fin: Some(*tcp_fin), udp: Some(*udp) };
        builder.config.commands.push(Command::SetTimeouts(settings));
        builder.places.push(Some(line.whole()));
    }
    Ok(())
}
