//! `ip addr|route|neigh|link`, and DPVS's `dpip addr|route|neigh`.

use super::builder::{Builder, When};
use super::options::unknown_value;
use super::problem::Problem;
use super::words::{Line, Word};
use lvscheck_engine::config::{
    Address, AddressScope, Command, InterfaceId, MacAddr, Network, Route, RouteKind, VlanProtocol, VlanTag,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads one command; `arguments` are the words after `ip` or `dpip`.
///
/// # Errors
/// What ip(8) would refuse, and what can't be replayed.
pub fn command(
    builder: &mut Builder,
    line: &Line<'_>,
    name: &Word<'_>,
    arguments: &[Word<'_>],
    when: When,
) -> Result<(), Problem> {
    let mut ipv6 = false;
    let mut rest = arguments;
    while let [option, more @ ..] = rest
        && option.text.starts_with('-')
    {
        match &*option.text {
            "-6" => ipv6 = true,
            "-4" | "-o" | "-d" | "-s" | "-j" | "-p" | "-br" | "-c" => {}
            "-f" | "-family" => {
                ipv6 = more.first().is_some_and(|family| family.text == "inet6");
                rest = more.get(1..).unwrap_or(&[]);
                continue;
            }
            _ => return Err(line.problem(option, format!("option `{}` of {} is not carried out here", option.text, name.text))),
        }
        rest = more;
    }
    let [object, rest @ ..] = rest else {
        return Err(line
            .problem(name, format!("`{}` alone does nothing", name.text))
            .help("write addr, route, neigh or link next"));
    };
    // `ip addr` alone lists.
    let Some((verb, words)) = rest.split_first() else { return Ok(()) };
    let mut cursor = Cursor { line, words, at: 0, last: verb };
    let kind = match object.text.len() {
        0 => "",
        len => ["address", "addr", "route", "neighbour", "neighbor", "neigh", "link"]
            .into_iter()
            .find(|known| known.get(..len) == Some(&*object.text))
            .unwrap_or(""),
    };
    if matches!(&*verb.text, "show" | "list" | "ls" | "s" | "l" | "get") {
        return Ok(());
    }
    let adding = match &*verb.text {
        "add" | "a" | "replace" | "append" | "change" | "set" => true,
        "del" | "delete" | "d" => false,
        _ => {
            return Err(unknown_value(
                line,
                verb,
                &format!("command of `{} {}`", name.text, object.text),
                &["add", "replace", "del", "set", "show"],
            ));
        }
    };
    let commands = match kind {
        "address" | "addr" => vec![address(builder, &mut cursor, adding)?],
        "route" => vec![route(builder, &mut cursor, adding, ipv6)?],
        "neighbour" | "neighbor" | "neigh" => vec![neighbour(builder, &mut cursor, adding)?],
        "link" if name.text != "dpip" => link(builder, &mut cursor, verb, when)?,
        _ => {
            let known: &[&str] =
                if name.text == "dpip" { &["addr", "route", "neigh"] } else { &["addr", "route", "neigh", "link"] };
            return Err(unknown_value(line, object, &format!("object of `{}`", name.text), known));
        }
    };
    for command in commands {
        builder.take(command, when, Some(line.whole()));
    }
    Ok(())
}

struct Cursor<'l, 'a> {
    line: &'l Line<'l>,
    words: &'l [Word<'a>],
    at: usize,
    last: &'l Word<'a>,
}

impl<'l, 'a> Cursor<'l, 'a> {
    fn next(&mut self) -> Option<&'l Word<'a>> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        self.last = word;
        Some(word)
    }

    fn need(&mut self, what: &str) -> Result<&'l Word<'a>, Problem> {
        let last = self.last;
        self.next().ok_or_else(|| self.line.problem(last, format!("expected {what} after `{}`", last.text)))
    }

    fn unknown(&self, word: &Word<'_>) -> Problem {
        self.line.problem(word, format!("unexpected word `{}`", word.text))
    }
}

fn address(builder: &mut Builder, cursor: &mut Cursor<'_, '_>, adding: bool) -> Result<Command, Problem> {
    let line = cursor.line;
    let mut value = None;
    let mut interface = None;
    let mut scope = None;
    let mut sapool = false;
    while let Some(word) = cursor.next() {
        match &*word.text {
            "dev" => interface = Some(builder.interface(line, cursor.need("an interface")?)?),
            "scope" => {
                let word = cursor.need("a scope")?;
                scope = Some(match &*word.text {
                    "global" => AddressScope::Global,
                    "link" => AddressScope::Link,
                    "host" => AddressScope::Host,
                    _ => return Err(unknown_value(line, word, "scope", &["global", "link", "host"])),
                });
            }
            "label" | "brd" | "broadcast" | "valid_lft" | "preferred_lft" | "metric" => drop(cursor.need("a value")?),
            "nodad" | "noprefixroute" | "home" | "mngtmpaddr" => {}
            "sapool" => sapool = true,
            "local" => value = Some(line.prefix(cursor.need("an address")?)?),
            _ if value.is_none() => value = Some(line.prefix(word)?),
            _ => return Err(cursor.unknown(word)),
        }
    }
    let Some((address, prefix_len)) = value else { return Err(line.problem(cursor.last, "an address is missing")) };
    let Some(interface) = interface else { return Err(line.problem(cursor.last, "`dev INTERFACE` is missing")) };
    if !adding {
        return Ok(Command::DeleteAddress { interface, address });
    }
    let scope = scope.unwrap_or_else(|| default_scope(address));
    Ok(Command::AddAddress { interface, address: Address { address, prefix_len, scope, secondary: false, sapool } })
}

/// The scope that ip(8) and the kernel give an address.
pub fn default_scope(address: IpAddr) -> AddressScope {
    match address {
        _ if address.is_loopback() => AddressScope::Host,
        IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80 => AddressScope::Link,
        _ => AddressScope::Global,
    }
}

/// The interface in whose subnet an address lies.
pub fn interface_towards(builder: &Builder, address: IpAddr) -> Option<InterfaceId> {
    let position = builder.config.interfaces.iter().position(|interface| {
        !interface.loopback
            && interface.addresses.iter().any(|known| Network::new(known.address, known.prefix_len).contains(address))
    })?;
    u16::try_from(position).ok().map(InterfaceId)
}

fn route(builder: &mut Builder, cursor: &mut Cursor<'_, '_>, adding: bool, ipv6: bool) -> Result<Command, Problem> {
    let line = cursor.line;
    let mut kind = RouteKind::Unicast;
    let mut destination = None;
    let mut default = false;
    let mut gateway = None;
    let mut interface = None;
    let mut source = None;
    let mut mtu = None;
    let mut metric = None;
    while let Some(word) = cursor.next() {
        match &*word.text {
            "unicast" => {}
            "local" if destination.is_none() => kind = RouteKind::Local,
            "blackhole" => kind = RouteKind::Blackhole,
            "unreachable" => kind = RouteKind::Unreachable,
            "prohibit" => kind = RouteKind::Prohibit,
            "default" => default = true,
            "to" => {}
            "via" => {
                let mut word = cursor.need("a gateway")?;
                if matches!(&*word.text, "inet" | "inet6") {
                    word = cursor.need("a gateway")?;
                }
                gateway = Some(line.address(word)?);
            }
            "dev" => interface = Some(builder.interface(line, cursor.need("an interface")?)?),
            "src" => source = Some(line.address(cursor.need("an address")?)?),
            "mtu" => {
                let mut word = cursor.need("a number")?;
                if word.text == "lock" {
                    word = cursor.need("a number")?;
                }
                mtu = Some(line.number(word, "MTU", 68..=65535)?);
            }
            "metric" | "priority" | "preference" => {
                metric = Some(line.number(cursor.need("a number")?, "metric", 0..=u32::MAX)?);
            }
            "scope" | "proto" | "protocol" | "pref" | "advmss" | "hoplimit" => drop(cursor.need("a value")?),
            "onlink" => {}
            "table" => {
                let word = cursor.need("a table")?;
                if !matches!(&*word.text, "main" | "local" | "254" | "255") {
                    return Err(line.problem(word, format!("routing table `{}`: policy routing is not replayed", word.text)));
                }
            }
            "nexthop" => {
                return Err(line
                    .problem(word, "routes with several next hops are not replayed")
                    .help("write the next hop that is used"));
            }
            _ if destination.is_none() && !default => destination = Some((line.prefix(word)?, word)),
            _ => return Err(cursor.unknown(word)),
        }
    }
    let destination = match destination {
        Some(((address, prefix_len), _)) => Network::new(address, prefix_len),
        None if default => {
            let ipv6 = ipv6 || gateway.is_some_and(|gateway| gateway.is_ipv6());
            Network::new(if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }, 0)
        }
        None => return Err(line.problem(cursor.last, "a route needs a destination, such as 10.0.0.0/24 or default")),
    };
    if interface.is_none()
        && let Some(gateway) = gateway
    {
        interface = interface_towards(builder, gateway);
    }
    if adding && interface.is_none() && kind == RouteKind::Unicast {
        return Err(line
            .problem(cursor.last, "no interface for this route")
            .help("add `dev INTERFACE`, or first the address whose subnet holds the gateway"));
    }
    // IPv6 routes have metric 1024 unless told otherwise.
    let metric = metric.unwrap_or(if destination.address.is_ipv6() { 1024 } else { 0 });
    let route = Route { destination, gateway, interface, source, mtu, metric, kind };
    Ok(if adding { Command::AddRoute(route) } else { Command::DeleteRoute(route) })
}

fn neighbour(builder: &mut Builder, cursor: &mut Cursor<'_, '_>, adding: bool) -> Result<Command, Problem> {
    let line = cursor.line;
    let mut address = None;
    let mut mac = None;
    let mut interface = None;
    while let Some(word) = cursor.next() {
        match &*word.text {
            "lladdr" => {
                let word = cursor.need("a MAC address")?;
                mac = Some(line.mac(word)?);
            }
            "dev" => interface = Some(builder.interface(line, cursor.need("an interface")?)?),
            "nud" => drop(cursor.need("a state")?),
            "to" => {}
            _ if address.is_none() => address = Some(line.address(word)?),
            _ => return Err(cursor.unknown(word)),
        }
    }
    let Some(address) = address else { return Err(line.problem(cursor.last, "an address is missing")) };
    let Some(interface) = interface else { return Err(line.problem(cursor.last, "`dev INTERFACE` is missing")) };
    match (adding, mac) {
        (true, Some(mac)) => Ok(Command::AddNeighbour { address, mac, interface }),
        (true, None) => Err(line.problem(cursor.last, "`lladdr MAC` is missing")),
        (false, _) => Ok(Command::DeleteNeighbour { address, interface }),
    }
}

fn link(builder: &mut Builder, cursor: &mut Cursor<'_, '_>, verb: &Word<'_>, when: When) -> Result<Vec<Command>, Problem> {
    let line = cursor.line;
    match &*verb.text {
        "set" => link_set(builder, cursor, when),
        "add" | "a" => {
            if when != When::Setup {
                return Err(line
                    .problem(verb, "links can't be added while traffic runs")
                    .help("describe the link from the start, and use `ip link set IF up` here"));
            }
            link_add(builder, cursor)?;
            Ok(Vec::new())
        }
        _ => Err(unknown_value(line, verb, "command of `ip link`", &["set", "add", "show"])),
    }
}

fn link_set(builder: &mut Builder, cursor: &mut Cursor<'_, '_>, when: When) -> Result<Vec<Command>, Problem> {
    let line = cursor.line;
    let mut name = cursor.need("an interface")?;
    if name.text == "dev" {
        name = cursor.need("an interface")?;
    }
    let interface = builder.interface(line, name)?;
    let mut commands = Vec::new();
    while let Some(word) = cursor.next() {
        match &*word.text {
            "up" => commands.push(Command::SetLink { interface, up: true }),
            "down" => commands.push(Command::SetLink { interface, up: false }),
            "mtu" => {
                let mtu = line.number(cursor.need("a number")?, "MTU", 68..=65535)?;
                commands.push(Command::SetMtu { interface, mtu });
            }
            "address" if when == When::Setup => {
                let word = cursor.need("a MAC address")?;
                let mac = line.mac(word)?;
                builder.add_interface(&name.text, Some(mac), None);
            }
            "address" => return Err(line.problem(word, "a link's MAC address can't change while traffic runs")),
            "arp" | "multicast" | "promisc" | "txqueuelen" | "qlen" | "alias" => drop(cursor.need("a value")?),
            _ => return Err(cursor.unknown(word)),
        }
    }
    Ok(commands)
}

/// `ip link add link PARENT name NAME type vlan [proto PROTOCOL] id ID`, and dummy links.
fn link_add(builder: &mut Builder, cursor: &mut Cursor<'_, '_>) -> Result<(), Problem> {
    let line = cursor.line;
    let mut parent = None;
    let mut name = None;
    let mut kind = None;
    let mut id = None;
    let mut protocol = VlanProtocol::Dot1Q;
    let mut mtu = None;
    let mut mac = None;
    while let Some(word) = cursor.next() {
        match &*word.text {
            "link" => parent = Some(builder.interface(line, cursor.need("an interface")?)?),
            "name" | "dev" => name = Some(cursor.need("a name")?),
            "type" => kind = Some(cursor.need("a type")?),
            "id" => id = Some(line.number(cursor.need("a number")?, "VLAN ID", 1..=4094)? as u16),
            "proto" | "protocol" => {
                let word = cursor.need("a protocol")?;
                protocol = vlan_protocol(&word.text)
                    .ok_or_else(|| unknown_value(line, word, "VLAN protocol", &["802.1q", "802.1ad"]))?;
            }
            "mtu" => mtu = Some(line.number(cursor.need("a number")?, "MTU", 68..=65535)?),
            "address" => {
                let word = cursor.need("a MAC address")?;
                mac = Some(line.mac(word)?);
            }
            "up" => {}
            _ if name.is_none() => name = Some(word),
            _ => return Err(cursor.unknown(word)),
        }
    }
    let Some(name) = name else { return Err(line.problem(cursor.last, "a link needs a name")) };
    match (kind.map(|kind| &*kind.text), parent, id) {
        (Some("vlan"), Some(parent), Some(id)) => {
            add_vlan(builder, &name.text, VlanTag { parent, id, protocol }, mac, mtu)
                .ok_or_else(|| line.problem(name, "too many interfaces"))?;
        }
        (Some("vlan"), ..) => return Err(line.problem(cursor.last, "a VLAN link needs `link PARENT` and `id NUMBER`")),
        (Some("dummy"), ..) => {
            builder.interface(line, name)?;
        }
        _ => {
            let word = kind.unwrap_or(name);
            return Err(unknown_value(line, word, "link type", &["vlan", "dummy"]));
        }
    }
    Ok(())
}

/// A VLAN interface; its MAC and MTU are its parent's unless told otherwise. None when there are too many interfaces.
pub fn add_vlan(builder: &mut Builder, name: &str, tag: VlanTag, mac: Option<MacAddr>, mtu: Option<u32>) -> Option<InterfaceId> {
    let parent = builder.config.interfaces.get(usize::from(tag.parent.0)).map(|parent| (parent.mac, parent.mtu));
    let known = builder.config.interface(name).is_some();
    let inherited = parent.filter(|_| !known);
    let id = builder.add_interface(name, mac.or(inherited.map(|(mac, _)| mac)), mtu.or(inherited.map(|(_, mtu)| mtu)))?;
    if let Some(interface) = builder.config.interfaces.get_mut(usize::from(id.0)) {
        interface.vlan = Some(tag);
    }
    Some(id)
}

/// A VLAN protocol by the name that ip(8) and lvs.toml use.
pub fn vlan_protocol(text: &str) -> Option<VlanProtocol> {
    match text.to_ascii_lowercase().as_str() {
        "802.1q" => Some(VlanProtocol::Dot1Q),
        "802.1ad" => Some(VlanProtocol::Dot1Ad),
        _ => None,
    }
}
