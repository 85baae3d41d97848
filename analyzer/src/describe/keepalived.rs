//! keepalived.conf: virtual servers and their real servers (reference/linux-ipvs.md section 11.7). Checks are not run: every
//! real server is taken as alive. What is not about LVS is skipped; unknown keys of a virtual server are warned about.

use super::builder::{Builder, When};
use super::iproute::default_scope;
use super::options::unknown_value;
use super::problem::{Problem, nearest};
use super::rules::{mask_length, scheduler};
use super::words::{Line, Word, parse_address, parse_number, parse_prefix};
use lvscheck_engine::config::{
    Address, Command, Family, ForwardingMethod, Network, Persistence, PersistenceEngine, Protocol, ServerKey, ServerSettings,
    ServiceKey, ServiceSettings, Tunnel, TunnelChecksum, TunnelKind,
};
use std::collections::HashMap;
use std::net::IpAddr;

/// keepalived's own default of `persistence_timeout`, in seconds (ipvsadm's is 300).
const DEFAULT_PERSISTENCE: u32 = 360;
/// Blocks nest four deep in practice.
const DEEPEST: usize = 16;
/// Addresses that one range may stand for.
const LARGEST_RANGE: u32 = 65_536;

/// Whether a text looks like keepalived.conf.
pub fn is_keepalived(text: &str) -> bool {
    const BLOCKS: &[&str] = &["virtual_server", "virtual_server_group", "global_defs", "vrrp_instance", "local_address_group"];
    text.lines().filter_map(|line| line.split_whitespace().next()).any(|word| BLOCKS.contains(&word))
}

/// A statement: its words, and the block behind it.
#[derive(Debug)]
struct Node<'a> {
    line: Line<'a>,
    words: Vec<Word<'a>>,
    block: Option<Vec<Node<'a>>>,
}

impl<'a> Node<'a> {
    fn key(&self) -> &str {
        self.words.first().map_or("", |word| &word.text)
    }

    fn value(&self) -> Option<&Word<'a>> {
        self.words.get(1)
    }

    fn problem(&self, message: impl Into<String>) -> Problem {
        match self.words.first() {
            Some(word) => self.line.problem(word, message),
            None => self.line.problem_here(message),
        }
    }

    fn need(&self, what: &str) -> Result<&Word<'a>, Problem> {
        self.value().ok_or_else(|| self.problem(format!("`{}` needs {what}", self.key())))
    }

    fn children(&self) -> &[Node<'a>] {
        self.block.as_deref().unwrap_or(&[])
    }
}

/// Reads a keepalived.conf.
///
/// # Errors
/// Braces that don't match, and values that keepalived would refuse.
pub fn read(builder: &mut Builder, file: &str, text: &str) -> Result<(), Problem> {
    let nodes = parse(builder, file, text)?;
    let mut groups: HashMap<&str, &Node<'_>> = HashMap::new();
    let mut local_groups: HashMap<&str, &Node<'_>> = HashMap::new();
    for node in &nodes {
        if let Some(name) = node.value() {
            match node.key() {
                "virtual_server_group" => drop(groups.insert(&name.text, node)),
                "local_address_group" => drop(local_groups.insert(&name.text, node)),
                _ => {}
            }
        }
    }
    let mut any = false;
    for node in &nodes {
        match node.key() {
            "virtual_server" => {
                any = true;
                virtual_server(builder, node, &groups, &local_groups)?;
            }
            "vrrp_instance" => vrrp(builder, node),
            "include" => {
                builder.warnings.push(node.problem("included files are not read").help("put their text in place of this line"));
            }
            _ => {}
        }
    }
    if any {
        builder.assumed.push("every real server passes keepalived's checks".to_owned());
    }
    Ok(())
}

struct Open<'a> {
    node: Node<'a>,
    brace: (Line<'a>, Word<'a>),
}

/// Cuts the text into statements and blocks.
fn parse<'a>(builder: &mut Builder, file: &'a str, text: &'a str) -> Result<Vec<Node<'a>>, Problem> {
    let mut definitions: HashMap<String, String> = HashMap::new();
    let mut top: Vec<Node<'a>> = Vec::new();
    let mut stack: Vec<Open<'a>> = Vec::new();
    for line in Line::all(file, text) {
        // `!` begins a comment too.
        let code = line.code.split('!').next().unwrap_or("");
        let line = Line { code, ..line };
        let mut words = split_braces(line.words()?);
        if let Some((name, value)) = words.first().and_then(|word| definition(&word.text)) {
            definitions.insert(name, value);
            continue;
        }
        if words.first().is_some_and(|word| word.text.starts_with('@') && word.text.len() > 1) {
            builder.warnings.push(
                line.problem_here("this line is for certain hosts only, and was ignored")
                    .help("remove the @ condition to have it read"),
            );
            // Braces of a conditional line would not match.
            words.retain(|word| matches!(&*word.text, "{" | "}"));
        }
        for word in &mut words {
            substitute(word, &definitions);
        }
        let mut statement: Vec<Word<'a>> = Vec::new();
        for word in words {
            match &*word.text {
                "{" => {
                    let node = if statement.is_empty() {
                        // The brace stands on a line of its own.
                        let list = stack.last_mut().map_or(&mut top, |open| open.node.block.get_or_insert_default());
                        match list.pop() {
                            Some(node) if node.block.is_none() => node,
                            _ => return Err(line.problem(&word, "`{` without a name before it")),
                        }
                    } else {
                        Node { line, words: std::mem::take(&mut statement), block: None }
                    };
                    if stack.len() >= DEEPEST {
                        return Err(line.problem(&word, "blocks are nested too deeply"));
                    }
                    stack.push(Open { node: Node { block: Some(Vec::new()), ..node }, brace: (line, word) });
                }
                "}" => {
                    flush(&mut top, &mut stack, line, &mut statement);
                    match stack.pop() {
                        Some(open) => {
                            stack.last_mut().map_or(&mut top, |open| open.node.block.get_or_insert_default()).push(open.node);
                        }
                        None => {
                            return Err(line
                                .problem(&word, "`}` without a `{` before it")
                                .help("remove it, or look for a brace that is closed too early above"));
                        }
                    }
                }
                _ => statement.push(word),
            }
        }
        flush(&mut top, &mut stack, line, &mut statement);
    }
    match stack.last() {
        Some(Open { node, brace: (line, word) }) => {
            Err(line.problem(word, format!("this `{{` of `{}` is never closed", node.key())).help("add `}` where the block ends"))
        }
        None => Ok(top),
    }
}

fn flush<'a>(top: &mut Vec<Node<'a>>, stack: &mut [Open<'a>], line: Line<'a>, statement: &mut Vec<Word<'a>>) {
    if !statement.is_empty() {
        let node = Node { line, words: std::mem::take(statement), block: None };
        stack.last_mut().map_or(top, |open| open.node.block.get_or_insert_default()).push(node);
    }
}

/// Braces that touch a word are words of their own: `real_server 10.0.0.11 80{`. Those of `${NAME}` belong to the name.
fn split_braces<'a>(words: Vec<Word<'a>>) -> Vec<Word<'a>> {
    let mut out = Vec::with_capacity(words.len());
    for word in words {
        let mut start = 0;
        let mut inside = false;
        let text = word.text.clone();
        let mut previous = ' ';
        for (at, c) in text.char_indices() {
            match c {
                '{' if previous == '$' => inside = true,
                '}' if inside => inside = false,
                '{' | '}' => {
                    if at > start {
                        out.push(part(&word, start, at));
                    }
                    out.push(part(&word, at, at + 1));
                    start = at + 1;
                }
                _ => {}
            }
            previous = c;
        }
        if start < text.len() {
            out.push(part(&word, start, text.len()));
        }
    }
    out
}

fn part<'a>(word: &Word<'a>, start: usize, end: usize) -> Word<'a> {
    let text = word.text.get(start..end).unwrap_or("").to_owned();
    Word { length: text.chars().count().max(1), text: text.into(), ..word.from(start) }
}

/// `$NAME=value`
fn definition(text: &str) -> Option<(String, String)> {
    let (name, value) = text.strip_prefix('$')?.split_once('=')?;
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    plain.then(|| (name.to_owned(), value.to_owned()))
}

/// Replaces a word that is `$NAME` or `${NAME}`.
fn substitute(word: &mut Word<'_>, definitions: &HashMap<String, String>) {
    let Some(name) = word.text.strip_prefix('$') else { return };
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    if let Some(value) = definitions.get(name) {
        word.text = value.clone().into();
    }
}

/// The virtual addresses of a VRRP instance, where its interface is described.
fn vrrp(builder: &mut Builder, node: &Node<'_>) {
    let default = node.children().iter().find(|child| child.key() == "interface").and_then(Node::value);
    let lists = node.children().iter().filter(|child| matches!(child.key(), "virtual_ipaddress" | "virtual_ipaddress_excluded"));
    for entry in lists.flat_map(Node::children) {
        let Ok((address, prefix_len)) = parse_prefix(entry.key()) else { continue };
        let dev = entry.words.iter().position(|word| word.text == "dev").and_then(|at| entry.words.get(at + 1)).or(default);
        if let Some(id) = dev.and_then(|name| builder.config.interface(&name.text)) {
            let scope = default_scope(address);
            builder.add_address(id, Address { address, prefix_len, scope, secondary: false, sapool: false });
        }
    }
}

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

fn virtual_server(
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

type Keys = Vec<(ServiceKey, super::Place)>;

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::describe::print::print_rules;

    fn rules(text: &str) -> (String, Builder) {
        let mut builder = Builder::default();
        read(&mut builder, "keepalived.conf", text).unwrap();
        (print_rules(&builder.config), builder)
    }

    #[test]
    fn defaults_are_keepaliveds() {
        let (rules, builder) = rules(
            "! comment\nglobal_defs { router_id x }\nvrrp_instance V { interface eth0\n virtual_ipaddress { 1.2.3.4 } }\n\
             virtual_server 200.200.200.1 80\n{\n  delay_loop 6\n  persistence_timeout\n  real_server 10.0.0.11 8080 {\n TCP_CHECK {\n connect_timeout 3\n }\n }\n\
             real_server 10.0.0.12 8080 { weight 3 }\n}\n",
        );
        assert_eq!(
            rules,
            "-A -t 200.200.200.1:80 -s wlc -p 360\n-a -t 200.200.200.1:80 -r 10.0.0.11:8080 -m -w 1\n\
             -a -t 200.200.200.1:80 -r 10.0.0.12:8080 -m -w 3\n"
        );
        assert!(builder.warnings.is_empty(), "{:?}", builder.warnings);
    }

    #[test]
    fn groups_ranges_and_parameters() {
        let (rules, _) = rules(
            "$PORT=443\nvirtual_server_group web { 200.200.200.1-2 $PORT\n fwmark 7 inet6 }\n\
             virtual_server group web { lvs_sched rr\n lvs_method TUN type gue port 6080 csum\n real_server 2001:db8::11 ${PORT} { } }\n",
        );
        assert_eq!(
            rules,
            "-A -t 200.200.200.1:443 -s rr\n-a -t 200.200.200.1:443 -r [2001:db8::11]:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum\n\
             -A -t 200.200.200.2:443 -s rr\n-a -t 200.200.200.2:443 -r [2001:db8::11]:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum\n\
             -A -f 7 -6 -s rr\n-a -f 7 -6 -r [2001:db8::11]:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum\n"
        );
    }

    #[test]
    fn unknown_keys_are_warned_about() {
        let (_, builder) = rules("virtual_server 1.2.3.4 80 { lb_alog rr }");
        let warning = builder.warnings.first().unwrap();
        assert_eq!(warning.help.as_deref(), Some("did you mean `lb_algo`?"));
    }
}
