//! The same of FULLNAT: directors of DPVS, and answers of real servers to guessed local ports.

use super::*;
use crate::config::{DpvsServiceSettings, DpvsSettings, DpvsTimeouts};
use crate::profile::Profile;

const LOCALS: [&str; 3] = ["10.0.0.200", "10.0.0.201", "10.0.0.202"];
const LOCALS6: [&str; 2] = ["fd00:10::200", "fd00:10::201"];

#[derive(Clone, Debug)]
struct FullNatPlan {
    scheduler: SchedulerKind,
    locals: usize,
    timeout: Option<u32>,
    expire_quiescent: bool,
    persistence: Option<u32>,
    servers: Vec<ServerPlan>,
}

#[derive(Clone, Debug)]
struct Settings {
    /// Of the states, in seconds.
    timeouts: (u32, u32, u32),
    max_trail: u8,
    fast_xmit_close: bool,
    xmit_ttl: bool,
    changes: Vec<(u64, u8, u8)>,
}

fn fullnat_services(odd: u32) -> impl Strategy<Value = Vec<FullNatPlan>> {
    let scheduler = prop::sample::select(
        ["rr", "wrr", "wlc", "conhash", "mh", "fo"].map(|name| SchedulerKind::by_name(name).unwrap()).to_vec(),
    );
    let server = (
        prop_oneof![20 => Just(2u8), odd => 0u8..2],
        prop_oneof![20 => 1u32..4, odd => Just(0)],
        prop_oneof![9 => Just(0u32), 1 => 1u32..4],
        prop_oneof![3 => Just(8080u16), 1 => Just(80), 1 => Just(53)],
        prop_oneof![20 => Just(0u8), odd => Just(2)],
    )
        .prop_map(|(method, weight, upper, port, neighbour)| ServerPlan { method, weight, upper, port, neighbour });
    let one = (
        scheduler,
        prop_oneof![1 => Just(0usize), 20 => 1usize..4],
        prop::option::of(1u32..5),
        any::<bool>(),
        prop_oneof![4 => Just(None), 1 => (1u32..5).prop_map(Some)],
        prop::collection::vec(server, 1..4),
    )
        .prop_map(|(scheduler, locals, timeout, expire_quiescent, persistence, servers)| FullNatPlan {
            scheduler,
            locals,
            timeout,
            expire_quiescent,
            persistence,
            servers,
        });
    prop::collection::vec(one, 1..=usize::from(SERVICES))
}

fn settings(odd: u32) -> impl Strategy<Value = Settings> {
    (
        (1u32..100, 1u32..40, 1u32..5),
        prop_oneof![Just(0u8), 1u8..4],
        prop_oneof![6 => Just(false), 1 => Just(true)],
        any::<bool>(),
        prop::collection::vec((0u64..6_000_000_000, 0u8..10, 0u8..SERVICES), 0..=odd as usize * 3),
    )
        .prop_map(|(timeouts, max_trail, fast_xmit_close, xmit_ttl, changes)| Settings {
            timeouts,
            max_trail,
            fast_xmit_close,
            xmit_ttl,
            changes,
        })
}

fn fullnat_settings(plan: &ServerPlan, weight: u32) -> ServerSettings {
    let method = match plan.method {
        0 => ForwardingMethod::Dr,
        1 => ForwardingMethod::Nat,
        _ => ForwardingMethod::FullNat,
    };
    ServerSettings { method, weight, upper_threshold: plan.upper, lower_threshold: 0 }
}

fn fullnat_key(service: &ServiceKey, place: u8, plan: &ServerPlan) -> ServerKey {
    let ServiceKey::Address { address, port, .. } = service else { unreachable!("every service here has an address") };
    let port = if plan.method == 0 { *port } else { plan.port };
    ServerKey { address: server(address.is_ipv6(), place), port }
}

fn fullnat_director(services: &[FullNatPlan], settings: &Settings) -> DirectorConfig {
    let none = Oddities { timeouts: None, sysctls: vec![], vlan: false, mark: false, changes: vec![], router_known: true };
    let (established, syn_recv, others) = settings.timeouts;
    let timeouts = DpvsTimeouts {
        established,
        syn_recv,
        fin_wait: others,
        time_wait: others,
        close: others,
        close_wait: others,
        last_ack: others,
        udp_oneway: others,
        neighbour: others,
        ..DpvsTimeouts::default()
    };
    let mut config = DirectorConfig {
        profile: Profile::DPVS_1_10,
        dpvs: DpvsSettings {
            uoa_max_trail: settings.max_trail,
            fast_xmit_close: settings.fast_xmit_close,
            xmit_ttl: settings.xmit_ttl,
            timeouts,
            ..DpvsSettings::default()
        },
        ..director(&[], &none)
    };
    let mut set = |command| config.commands.push(command);
    for (number, plan) in services.iter().enumerate() {
        let key = service_key(number as u8);
        let ServiceKey::Address { address, .. } = key else { unreachable!("as above") };
        let locals: Vec<IpAddr> = if address.is_ipv6() { LOCALS6.map(ip).to_vec() } else { LOCALS.map(ip).to_vec() };
        let settings = ServiceSettings {
            scheduler: plan.scheduler,
            persistence: plan.persistence.map(|timeout| Persistence { timeout, prefix_len: 24 }),
            dpvs: DpvsServiceSettings {
                connection_timeout: plan.timeout,
                expire_quiescent: plan.expire_quiescent,
                ..DpvsServiceSettings::default()
            },
            ..ServiceSettings::default()
        };
        set(Command::AddService { service: key.clone(), settings });
        for address in locals.into_iter().take(plan.locals) {
            set(Command::AddLocalAddress { service: key.clone(), address, interface: InterfaceId(1) });
        }
        for (place, plan) in plan.servers.iter().enumerate() {
            let server = fullnat_key(&key, place as u8, plan);
            set(Command::AddServer { service: key.clone(), server, settings: fullnat_settings(plan, plan.weight) });
        }
    }
    let unknown = |number: u8| {
        services.iter().filter_map(|service| service.servers.get(usize::from(number))).any(|plan| plan.neighbour == 2)
    };
    config.neighbours.retain(|entry| !(0..4).any(|number| unknown(number) && entry.address == server(false, number)));
    for (after, what, which) in &settings.changes {
        let service = service_key(*which);
        let Some(plan) = services.get(usize::from(*which)).and_then(|service| service.servers.first()) else { continue };
        let server = fullnat_key(&service, 0, plan);
        let command = match what {
            0 => Command::DeleteServer { service, server },
            1 => Command::EditServer { service, server, settings: fullnat_settings(plan, 0) },
            2 => Command::EditServer { service, server, settings: fullnat_settings(plan, 5) },
            3 => Command::AddServer { service, server, settings: fullnat_settings(plan, 2) },
            4 => Command::DeleteService { service },
            5 => Command::DeleteLocalAddress { service, address: ip(LOCALS[0]), interface: InterfaceId(1) },
            6 => Command::DeleteNeighbour { address: server.address, interface: InterfaceId(1) },
            7 => Command::Zero { service: None },
            8 => Command::AddService { service, settings: ServiceSettings::default() },
            _ => Command::SetMtu { interface: InterfaceId(1), mtu: 600 },
        };
        config.changes.push(ScheduledCommand { after: Nanos(*after), command });
    }
    config.changes.sort_by_key(|change| change.after);
    config
}

/// The frame of a packet, with numbers that sometimes acknowledge a real server's SYN, options, and answers to local ports.
fn fullnat_frame(packet: &Packet) -> (InterfaceId, Vec<u8>, u32) {
    let (on, mut bytes, mut wire) = frame(packet);
    if !matches!(packet.oddity, 0 | 1 | 5 | 8) || bytes.len() < 54 {
        return (on, bytes, wire);
    }
    let v4 = bytes[12..14] == [8, 0];
    let at = if v4 { 34 } else { 54 };
    let tcp = bytes[if v4 { 23 } else { 20 }] == 6;
    if packet.from_server.is_some() {
        let (turn, port) = (usize::from(packet.client), 1025 + packet.payload % 4);
        match (ip(LOCALS[turn % 3]), ip(LOCALS6[turn % 2])) {
            (IpAddr::V4(local), _) if v4 => bytes[30..34].copy_from_slice(&local.octets()),
            (_, IpAddr::V6(local)) => bytes[38..54].copy_from_slice(&local.octets()),
            _ => unreachable!("as they are"),
        }
        bytes[at + 2..at + 4].copy_from_slice(&port.to_be_bytes());
        if packet.payload.is_multiple_of(3) {
            as_neighbour(packet, &mut bytes);
        }
    }
    if tcp && !packet.payload.is_multiple_of(8) {
        bytes[at + 11] = (1 + packet.payload % 8) as u8;
        bytes[at + 13] |= u8::from(packet.payload % 8 == 7);
        let options: &[u8] = match packet.payload % 16 {
            2 | 4 | 5 => &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
            6 => &[254, 8, 1, 2, 10, 0, 0, 1],
            12 => &[2, 4, 5, 180, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 4, 2],
            _ => &[],
        };
        if usize::from(packet.payload) >= options.len() {
            bytes[at + 12] = (5 + options.len() as u8 / 4) << 4;
            bytes[at + 20..at + 20 + options.len()].copy_from_slice(options);
        }
    }
    if tcp && packet.payload % 32 == 8 {
        // All zeros: some checksums come to the two forms of zero.
        bytes[at + 4..at + 8].fill(0xff);
    }
    finish_header(&mut bytes);
    wire = wire.max(bytes.len() as u32);
    (on, bytes, wire)
}

/// It comes from the Ethernet address by which its real server is known.
fn as_neighbour(packet: &Packet, bytes: &mut [u8]) {
    if let Some((number, _)) = packet.from_server {
        bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0x0a, number]);
    }
}

fn finish_header(bytes: &mut [u8]) {
    if bytes[12..14] == [8, 0] {
        bytes[24..26].fill(0);
        let checksum = checksum::internet(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn try_fullnat(odd: u32, least_percent: u64) {
    let cases = (fullnat_services(odd), settings(odd), packets(odd == 0, 400), cuts());
    try_cases(cases, least_percent, |(services, settings, mut packets, cut)| {
        for packet in &mut packets {
            packet.service %= services.len() as u8;
            if odd == 0 {
                packet.from_server = None;
            }
        }
        (run_frames(&fullnat_director(&services, &settings), &packets, cut, fullnat_frame), packets.len())
    });
}

#[test]
fn fullnat_equals_serial_for_odd_directors_and_traffic() {
    try_fullnat(1, 2);
}

#[test]
fn fullnat_equals_serial_for_plain_directors_and_traffic() {
    try_fullnat(0, 8);
}

fn plain(scheduler: &str, locals: usize) -> FullNatPlan {
    let plan = |weight| ServerPlan { method: 2, weight, upper: 0, port: 8080, neighbour: 0 };
    FullNatPlan {
        scheduler: SchedulerKind::by_name(scheduler).unwrap(),
        locals,
        timeout: None,
        expire_quiescent: false,
        persistence: None,
        servers: vec![plan(1), plan(3), plan(2)],
    }
}

fn plain_settings() -> Settings {
    Settings { timeouts: (90, 30, 7), max_trail: 0, fast_xmit_close: false, xmit_ttl: true, changes: vec![] }
}

/// Clients that do what clients do take the parallel way nearly always.
#[test]
fn orderly_fullnat_takes_the_parallel_way() {
    for scheduler in ["rr", "wrr", "wlc", "conhash", "mh"] {
        let config = fullnat_director(&[plain(scheduler, 2)], &plain_settings());
        let mut packets = Vec::new();
        for step in 0..8u8 {
            for port in 0..200u16 {
                for client in 0..3u8 {
                    let flags = [0x02, 0x10, 0x18, 0x18, 0x18, 0x11, 0x10, 0x04][usize::from(step)];
                    let gap = if port == 199 { 400_000_000 } else { 1000 };
                    packets.push(Packet {
                        gap,
                        back_in_time: false,
                        service: 0,
                        client,
                        port: 2000 + port,
                        flags,
                        payload: 8,
                        from_server: None,
                        oddity: 0,
                    });
                }
            }
        }
        let mut least = u64::MAX;
        for (threads, window) in [(1, 5000), (2, 1000), (3, 2500), (8, 700)] {
            let cut = Cut { threads, window, part: 128, shortest_run: 32 };
            least = least.min(run_frames(&config, &packets, cut, fullnat_frame) * 100 / packets.len() as u64);
        }
        assert!(least > 90, "{scheduler}: {least} %");
    }
}

/// A frame of connections that are opened in the order of their clients' ports, of one client to one real server: a client
/// acknowledges as many bytes as it sends.
fn two_way_frame(packet: &Packet) -> (InterfaceId, Vec<u8>, u32) {
    let (on, mut bytes, wire) = frame(packet);
    if let (Some(_), IpAddr::V4(local)) = (packet.from_server, ip(LOCALS[0])) {
        bytes[30..34].copy_from_slice(&local.octets());
        bytes[36..38].copy_from_slice(&(packet.port - 2000 + 1025).to_be_bytes());
        as_neighbour(packet, &mut bytes);
        finish_header(&mut bytes);
    }
    bytes[45] = packet.payload as u8;
    (on, bytes, wire)
}

/// After the handshake, whose last segment carries TOA, packets take the fast path of DPVS, which is parallel here, too.
#[test]
fn established_connections_take_the_parallel_way() {
    for fast_xmit_close in [false, true] {
        let mut service = plain("wlc", 1);
        service.servers.truncate(1);
        let config = fullnat_director(&[service], &Settings { fast_xmit_close, ..plain_settings() });
        let mut packets = Vec::new();
        for (flags, payload, from_server) in
            [(0x02, 0, None), (0x12, 0, Some((0, 8080))), (0x10, 2, None), (0x18, 4, None), (0x18, 6, None), (0x11, 8, None)]
        {
            packets.extend((2000..3000).map(|port| Packet {
                gap: 1000,
                back_in_time: false,
                service: 0,
                client: 0,
                port,
                flags,
                payload,
                from_server,
                oddity: 0,
            }));
        }
        for (threads, window) in [(1, 6000), (2, 1500), (5, 700)] {
            let cut = Cut { threads, window, part: 128, shortest_run: 32 };
            // All but answers, the segments with TOA, and what a detour takes along.
            let parallel = run_frames(&config, &packets, cut, two_way_frame);
            assert!(parallel > 3500, "{parallel} of {}", packets.len());
        }
    }
}

/// More connections than local ports, some of which come back.
#[test]
fn local_ports_run_out_as_they_do_one_by_one() {
    let mut service = plain("rr", 1);
    service.servers.truncate(1);
    let settings = Settings { timeouts: (90, 2, 7), ..plain_settings() };
    let config = fullnat_director(&[service], &settings);
    let packets: Vec<Packet> = (0..90_000u32)
        .map(|number| Packet {
            // The first ones end after a good 70,000.
            gap: 30_000,
            back_in_time: false,
            service: 0,
            client: (number / 60_000) as u8,
            port: (number % 60_000 + 1025) as u16,
            flags: 0x02,
            payload: 0,
            from_server: None,
            oddity: 0,
        })
        .collect();
    let cut = Cut { threads: 2, window: 40_000, part: 3000, shortest_run: 512 };
    assert!(run_frames(&config, &packets, cut, fullnat_frame) > 85_000);
}
