//! Connections that went to another real server than expected: one finding each, with everything that follows from it.

use super::align::Found;
use super::dissect::{Dissection, Packet};
use super::draws::Pair;
use super::fields::{Name, Place, mac};
use super::observe::{Flow, ObservedServer, ends};
use super::report::{FieldDifference, Finding, FindingKind};
use super::{Context, Frame, Frames, Options};
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use std::net::{IpAddr, SocketAddr};

/// Fields of a frame that depend on the real server, in the outermost headers.
const SERVER_FIELDS: &[&str] = &[
    "frame.interface_name",
    "eth.dst",
    "eth.src",
    "vlan.id",
    "ieee8021ad.id",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "tcp.dstport",
    "udp.dstport",
    "sctp.dstport",
    "sctp.checksum",
];

/// One frame of a connection that went elsewhere.
#[derive(Clone, Copy, Debug)]
struct Stray {
    /// Its position among what was found.
    found: usize,
    pair: Pair,
    expected: ObservedServer,
    actual: ObservedServer,
}

/// Connections that are known to have gone to another real server.
#[derive(Debug, Default)]
pub struct Redirected {
    /// By protocol and client.
    known: HashMap<(u8, SocketAddr), Redirection>,
}

#[derive(Debug)]
struct Redirection {
    flow: Flow,
    /// Its frames, and what follows from where they went.
    frames: u64,
    /// The number of the first actual one.
    first: u64,
    /// What its finding says, if that is told.
    words: Option<Words>,
}

/// What a finding says around the number of frames.
#[derive(Debug)]
struct Words {
    went: String,
    since: String,
}

impl Words {
    fn with(&self, frames: u64) -> String {
        format!("{}: {frames} {} {}", self.went, if frames == 1 { "frame" } else { "frames" }, self.since)
    }
}

impl Redirected {
    fn get_mut(&mut self, flow: &Flow) -> Option<&mut Redirection> {
        self.known.get_mut(&(flow.protocol, flow.client)).filter(|known| known.flow == *flow)
    }

    fn has(&self, flow: &Flow) -> bool {
        self.known.get(&(flow.protocol, flow.client)).is_some_and(|known| known.flow == *flow)
    }

    /// Puts the frames into findings that came after them.
    pub fn complete(&self, findings: &mut [Finding]) {
        let told = self.known.values().filter_map(|known| Some((known.first, (known.frames, known.words.as_ref()?))));
        let told: HashMap<u64, (u64, &Words)> = told.collect();
        for finding in findings.iter_mut().filter(|finding| finding.kind == FindingKind::RealServer) {
            if let Some((frames, words)) = finding.actual.and_then(|actual| told.get(&actual)) {
                finding.frames = *frames;
                finding.message = words.with(*frames);
            }
        }
    }
}

/// Takes out of `found` what comes from connections that went to another real server, and returns one finding for each that was
/// not known, with the expected position at which it starts.
pub(super) fn group(
    (expected, actual): (&dyn Frames, &dyn Frames),
    found: &mut Vec<Found>,
    mut details: impl FnMut(Pair) -> Vec<FieldDifference>,
    options: &Options,
    context: &dyn Context,
    redirected: &mut Redirected,
) -> Vec<(usize, Finding)> {
    let mut connections: Vec<(Flow, Vec<Stray>)> = Vec::new();
    let mut known: HashMap<Flow, usize> = HashMap::new();
    // Fragments without ports, by what they share with those of their connection that have some.
    let mut portless: HashMap<(ObservedServer, ObservedServer, Option<IpAddr>), Vec<Stray>> = HashMap::new();
    for (position, found) in found.iter().enumerate() {
        let Found::Differs(pair) = *found else { continue };
        let Some((flow, from, to)) = stray(expected.frame(pair.0).bytes, actual.frame(pair.1).bytes, || details(pair)) else {
            continue;
        };
        let stray = Stray { found: position, pair, expected: from, actual: to };
        match flow {
            Some(flow) => {
                let number = *known.entry(flow).or_insert_with(|| {
                    connections.push((flow, Vec::new()));
                    connections.len() - 1
                });
                connections[number].1.push(stray);
            }
            None => {
                let client = source(expected.frame(pair.0).bytes);
                portless.entry((from, to, client)).or_default().push(stray);
            }
        }
    }
    confirm(expected, &mut connections, redirected);
    let mut gone = vec![false; found.len()];
    for (_, strays) in &mut connections {
        let first = strays[0];
        let client = source(expected.frame(first.pair.0).bytes);
        strays.extend(portless.remove(&(first.expected, first.actual, client)).unwrap_or_default());
        for stray in strays {
            gone[stray.found] = true;
        }
    }
    let followers = followers((expected, actual), found, &connections, redirected, &mut gone);
    let findings = connections
        .iter()
        .zip(followers)
        .filter_map(|((flow, strays), followers)| {
            let frames = (strays.len() + followers) as u64;
            if let Some(known) = redirected.get_mut(flow) {
                known.frames += frames;
                return None;
            }
            let first = strays[0];
            let seen = context.connection(first.pair.1).unwrap_or(*flow);
            let name = |server: ObservedServer| match server {
                ObservedServer::Mac(mac) => match context.owner(mac) {
                    Some(owner) => format!("{owner} ({server})"),
                    None => server.to_string(),
                },
                _ => server.to_string(),
            };
            let (expected, actual) = (expected.frame(first.pair.0).number, actual.frame(first.pair.1).number);
            let words = Words {
                went: format!("{seen} went to {}, expected {}", name(first.actual), name(first.expected)),
                since: format!("from {} {actual} ({} {expected}) on", options.actual_label, options.expected_label),
            };
            let finding = Finding {
                kind: FindingKind::RealServer,
                expected: Some(expected),
                actual: Some(actual),
                frames,
                message: words.with(frames),
                verdict: context.verdict(first.pair.1),
                fields: details(first.pair),
                bytes: None,
            };
            let words = (options.limit > 0).then_some(words);
            redirected.known.insert((flow.protocol, flow.client), Redirection { flow: *flow, frames, first: actual, words });
            Some((first.pair.0, finding))
        })
        .collect();
    let mut position = 0;
    found.retain(|_| {
        position += 1;
        !gone[position - 1]
    });
    findings
}

/// Whether two frames differ only in what depends on the real server: the connection (`None` without ports) and both servers.
fn stray(
    expected: &[u8],
    actual: &[u8],
    fields: impl FnOnce() -> Vec<FieldDifference>,
) -> Option<(Option<Flow>, ObservedServer, ObservedServer)> {
    let one = Dissection::of(expected);
    let other = Dissection::of(actual);
    let (outer, inner) = (one.packets.first()?, one.innermost()?);
    let (other_outer, other_inner) = (other.packets.first()?, other.innermost()?);
    let port = |packet: &Packet| packet.ports.map(|(_, port)| port);
    // Most frames that differ went to the right server: these need no list of their fields.
    if expected.get(..6) == actual.get(..6) && outer.destination == other_outer.destination && port(inner) == port(other_inner) {
        return None;
    }
    let fields = fields();
    let own = fields.iter().filter(|field| !field.follows);
    if !own.clone().all(|field| SERVER_FIELDS.contains(&field.field.as_str())) {
        return None;
    }
    let differs = |names: &[&str]| own.clone().any(|field| names.contains(&field.field.as_str()));
    let tunnelled = inner.place == Place::Inner;
    let translated = !tunnelled && differs(&["ip.dst", "ipv6.dst", "tcp.dstport", "udp.dstport", "sctp.dstport"]);
    let flow = ends(inner).map(|(client, destination)| Flow {
        protocol: inner.protocol,
        client,
        service: (!translated).then_some(destination),
    });
    if tunnelled && outer.destination != other_outer.destination {
        return Some((flow, ObservedServer::Tunnel(outer.destination), ObservedServer::Tunnel(other_outer.destination)));
    }
    if translated {
        let address = |packet: &Packet| {
            let port = packet.ports.map_or(0, |(_, port)| port);
            ObservedServer::Address(SocketAddr::new(packet.destination, port))
        };
        return Some((flow, address(inner), address(other_inner)));
    }
    if differs(&["ip.src", "ipv6.src", "ip.dst", "ipv6.dst"]) || !differs(&["eth.dst"]) {
        return None;
    }
    let mac = |frame: &[u8]| Some(ObservedServer::Mac(<[u8; 6]>::try_from(frame.get(..6)?).ok()?));
    Some((flow, mac(expected)?, mac(actual)?))
}

/// Keeps the connections that went elsewhere for sure. A single frame with another destination may as well be a changed
/// address: it counts if the expected destination is a real server of other frames, and no frame of its connection went right.
fn confirm(expected: &dyn Frames, connections: &mut Vec<(Flow, Vec<Stray>)>, redirected: &Redirected) {
    let mut single: HashMap<Flow, usize> = HashMap::new();
    for (flow, strays) in connections.iter() {
        if strays.len() == 1 && !redirected.has(flow) {
            single.insert(*flow, 0);
        }
    }
    if single.is_empty() {
        return;
    }
    let servers: HashMap<ObservedServer, usize> = connections
        .iter()
        .filter_map(|(_, strays)| if let [stray] = strays.as_slice() { Some((stray.expected, stray.pair.0)) } else { None })
        .collect();
    let mut seen: HashSet<ObservedServer> = HashSet::new();
    let mut dissection = Dissection::default();
    for index in 0..expected.len() {
        let bytes = expected.frame(index).bytes;
        dissection.read(bytes);
        let (Some(outer), Some(inner)) = (dissection.packets.first(), dissection.innermost()) else { continue };
        let Some((client, destination)) = ends(inner) else { continue };
        let of_frame = [
            <[u8; 6]>::try_from(bytes.get(..6).unwrap_or_default()).ok().map(ObservedServer::Mac),
            Some(ObservedServer::Tunnel(outer.destination)),
            Some(ObservedServer::Address(destination)),
        ];
        for server in of_frame.into_iter().flatten() {
            if servers.get(&server).is_some_and(|first| *first != index) {
                seen.insert(server);
            }
        }
        for service in [Some(destination), None] {
            if let Some(frames) = single.get_mut(&Flow { protocol: inner.protocol, client, service }) {
                *frames += 1;
            }
        }
    }
    connections.retain(|(flow, strays)| match (strays.as_slice(), single.get(flow)) {
        ([stray], Some(frames)) => *frames <= 1 && seen.contains(&stray.expected),
        _ => true,
    });
}

/// Counts for each connection the other findings about its client's port: what the other server, or the director for want of a
/// connection, did differently.
fn followers(
    (expected, actual): (&dyn Frames, &dyn Frames),
    found: &[Found],
    connections: &[(Flow, Vec<Stray>)],
    redirected: &mut Redirected,
    gone: &mut [bool],
) -> Vec<usize> {
    let mut counts = vec![0; connections.len()];
    let clients: HashMap<(u8, SocketAddr), usize> =
        connections.iter().enumerate().map(|(number, (flow, _))| ((flow.protocol, flow.client), number)).collect();
    if clients.is_empty() && redirected.known.is_empty() {
        return counts;
    }
    for (position, found) in found.iter().enumerate() {
        let bytes = match found {
            _ if gone[position] => continue,
            Found::Differs(pair) | Found::Moved(pair) | Found::Interface(pair) => expected.frame(pair.0).bytes,
            Found::Missing(index) => expected.frame(*index).bytes,
            Found::Unexpected(index) => actual.frame(*index).bytes,
        };
        let dissection = Dissection::of(bytes);
        let Some(packet) = dissection.innermost() else { continue };
        let Some((source, destination)) = ends(packet) else { continue };
        for client in [(packet.protocol, source), (packet.protocol, destination)] {
            if let Some(number) = clients.get(&client) {
                counts[*number] += 1;
            } else if let Some(known) = redirected.known.get_mut(&client) {
                known.frames += 1;
            } else {
                continue;
            }
            gone[position] = true;
            break;
        }
    }
    counts
}

fn source(frame: &[u8]) -> Option<IpAddr> {
    Some(Dissection::of(frame).innermost()?.source)
}

/// A frame in a few words: `TCP 198.51.100.1:40000 -> 10.0.0.12:80 [S.], 60 bytes`.
pub fn frame_words(frame: &Frame<'_>) -> String {
    let bytes = frame.bytes;
    let dissection = Dissection::of(bytes);
    let number = |name: Name| dissection.fields.iter().find(|field| field.name == name)?.number(bytes);
    let value = |name: Name| {
        dissection.fields.iter().find(|field| field.name == name).map(|field| field.value(bytes)).unwrap_or_default()
    };
    let Some(packet) = dissection.innermost() else {
        return match number(Name::ArpOpcode) {
            Some(1) => {
                format!("ARP who has {}, tell {}", value(Name::ArpTargetIpv4), value(Name::ArpSourceIpv4))
            }
            Some(2) => format!("ARP {} is at {}", value(Name::ArpSourceIpv4), value(Name::ArpSourceMac)),
            _ => format!("{} bytes to {}", bytes.len(), mac(bytes.get(..6).unwrap_or_default())),
        };
    };
    let mut words = match (packet.protocol, ends(packet)) {
        (6, Some((source, destination))) => format!("TCP {source} -> {destination}{}", flags(bytes, packet)),
        (17, Some((source, destination))) => format!("UDP {source} -> {destination}"),
        (132, Some((source, destination))) => format!("SCTP {source} -> {destination}"),
        (1, _) => format!(
            "ICMP type {} code {} {} -> {}",
            value(Name::IcmpType),
            value(Name::IcmpCode),
            packet.source,
            packet.destination
        ),
        (58, _) => format!(
            "ICMPv6 type {} code {} {} -> {}",
            value(Name::Icmpv6Type),
            value(Name::Icmpv6Code),
            packet.source,
            packet.destination
        ),
        (protocol, _) => format!("IP protocol {protocol} {} -> {}", packet.source, packet.destination),
    };
    if packet.place == Place::Inner
        && let Some(outer) = dissection.packets.first()
    {
        words.push_str(&format!(" in a tunnel to {}", outer.destination));
    }
    format!("{words}, {} bytes", frame.wire_len.max(bytes.len() as u32))
}

/// The flags of a TCP segment as tcpdump writes them.
fn flags(frame: &[u8], packet: &Packet) -> String {
    let Some(bits) = frame.get(packet.state.clone()).and_then(|state| state.get(9)) else { return String::new() };
    let set: String = [(0x02, 'S'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (0x20, 'U'), (0x10, '.')]
        .into_iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, letter)| letter)
        .collect();
    format!(" [{set}]")
}
