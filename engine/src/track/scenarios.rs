//! Tests of [`super::Ipvs`] as a whole: commands, packets and time, without packets' bytes.
#![allow(clippy::unwrap_used)]

mod persistence;

use super::*;
use crate::config::{
    Family, Persistence, SchedulerFlags, SchedulerKind, ServerKey, ServerSettings, ServiceKey, ServiceSettings, TunnelKind,
};
use crate::draws::Draws;
use proptest::prelude::*;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const VIP: [u8; 4] = [200, 200, 200, 1];
const CLIENT: [u8; 4] = [203, 0, 113, 5];

/// A director with one service of two servers, .11 and .12 (the head of the list), and a clock.
struct Bench {
    ipvs: Ipvs,
    now: Nanos,
    draws: Draws,
}

fn tcp_service(port: u16) -> ServiceKey {
    ServiceKey::Address { protocol: Protocol::TCP, address: VIP.into(), port }
}

fn udp_service(port: u16) -> ServiceKey {
    ServiceKey::Address { protocol: Protocol::UDP, address: VIP.into(), port }
}

fn settings(scheduler: SchedulerKind) -> ServiceSettings {
    ServiceSettings { scheduler, ..ServiceSettings::default() }
}

fn persistent(timeout: u32, prefix_len: u8) -> ServiceSettings {
    ServiceSettings { persistence: Some(Persistence { timeout, prefix_len }), ..settings(SchedulerKind::Rr) }
}

fn server(last: u8, port: u16) -> ServerKey {
    ServerKey { address: [10, 0, 0, last].into(), port }
}

fn by(method: ForwardingMethod) -> ServerSettings {
    ServerSettings { method, weight: 1, upper_threshold: 0, lower_threshold: 0 }
}

fn flow(protocol: Protocol, client_port: u16, port: u16) -> FlowKey {
    FlowKey {
        protocol: protocol.0,
        source: CLIENT.into(),
        destination: VIP.into(),
        source_port: client_port,
        destination_port: port,
    }
}

impl Bench {
    fn new(service: ServiceKey, settings: ServiceSettings, method: ForwardingMethod, change: impl FnOnce(&mut Sysctls)) -> Bench {
        let mut sysctls = Sysctls::default();
        change(&mut sysctls);
        let mut bench = Bench { ipvs: Ipvs::new(sysctls), now: Nanos::from_secs(1000), draws: Draws::default() };
        let port = if let ServiceKey::Address { port, .. } = &service { *port } else { 0 };
        bench.run(Command::AddService { service: service.clone(), settings });
        for last in [11, 12] {
            bench.run(Command::AddServer { service: service.clone(), server: server(last, port), settings: by(method) });
        }
        bench
    }

    fn dr() -> Bench {
        Bench::new(tcp_service(80), settings(SchedulerKind::Rr), ForwardingMethod::Dr, |_| {})
    }

    fn nat() -> Bench {
        Bench::new(tcp_service(80), settings(SchedulerKind::Rr), ForwardingMethod::Nat, |_| {})
    }

    fn run(&mut self, command: Command) {
        self.ipvs.apply(&command, self.now).unwrap();
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now + Nanos::from_secs(seconds);
        self.ipvs.expire(self.now);
    }

    /// A packet from the client, as the packet side treats it; the last byte of the server's address.
    fn packet(&mut self, flow: FlowKey, event: TransportEvent, mark: u32) -> Result<u8, Unscheduled> {
        self.ipvs.expire(self.now);
        let mut found = self.ipvs.lookup_in(&flow);
        if let Some(id) = found
            && self.ipvs.reschedules(id, event, self.now)
        {
            found = None;
        }
        if let Some(id) = found {
            match self.ipvs.availability(id, self.now) {
                Availability::Available => {}
                Availability::Drop => return Err(Unscheduled::Drop),
                Availability::Over => found = None,
            }
        }
        let id = match found {
            Some(id) => id,
            None => {
                let opening = Opening { flow, mark, event, from_icmp: false, call_id: None, now: self.now };
                self.ipvs.open(opening, &self.draws)?
            }
        };
        self.ipvs.count_in(id, 40);
        self.ipvs.transition(id, Direction::Input, event);
        let IpAddr::V4(address) = self.ipvs.connection(id).unwrap().server_address else { return Ok(0) };
        self.ipvs.touch(id, self.now);
        Ok(address.octets()[3])
    }

    fn tcp(&mut self, client_port: u16, flags: u8) -> Result<u8, Unscheduled> {
        self.packet(flow(Protocol::TCP, client_port, 80), TransportEvent::Tcp(flags), 0)
    }

    fn udp(&mut self, client_port: u16, port: u16) -> Result<u8, Unscheduled> {
        self.packet(flow(Protocol::UDP, client_port, port), TransportEvent::Udp, 0)
    }

    /// An answer of a NAT server.
    fn answer(&mut self, client_port: u16, last: u8, flags: u8) -> bool {
        let request = flow(Protocol::TCP, client_port, 80);
        let Some(id) = self.ipvs.lookup_out(&FlowKey { destination: [10, 0, 0, last].into(), ..request }.reversed()) else {
            return false;
        };
        self.ipvs.count_out(id, 40);
        self.ipvs.transition(id, Direction::Output, TransportEvent::Tcp(flags));
        self.ipvs.touch(id, self.now);
        true
    }

    /// (active, inactive, persistent) of each server, in order of addresses.
    fn counts(&self) -> Vec<(u32, u32, u32)> {
        let views = self.ipvs.service_views();
        views[0].servers.iter().map(|server| (server.active, server.inactive, server.persistent)).collect()
    }

    /// Lines of the connection table: protocol, seconds left, state, client port, virtual port, last byte of the server.
    fn table(&self) -> Vec<String> {
        let line = |view: ConnectionView| {
            let seconds = view.expires.0 / 1_000_000_000;
            format!("{} {seconds} {} {} {} {}", view.protocol, view.state, view.client, view.service, view.destination)
        };
        self.ipvs.connection_views(self.now).into_iter().map(line).collect()
    }
}

#[test]
fn a_connection_lives_and_ends_under_direct_routing() {
    let mut bench = Bench::dr();
    assert_eq!(bench.tcp(40000, SYN), Ok(12));
    assert_eq!(bench.counts(), [(0, 0, 0), (1, 0, 0)]);
    assert_eq!(bench.table(), ["TCP 60 SYN_RECV 203.0.113.5:40000 200.200.200.1:80 10.0.0.12:80"]);
    assert_eq!(bench.tcp(40000, ACK), Ok(12));
    assert_eq!(bench.tcp(40001, SYN), Ok(11));
    bench.wait(59);
    assert_eq!(bench.tcp(40000, FIN | ACK), Ok(12));
    assert_eq!(bench.counts(), [(1, 0, 0), (0, 1, 0)]);
    bench.wait(1);
    assert_eq!(bench.counts(), [(0, 0, 0), (0, 1, 0)], "SYN_RECV ends after 60 s");
    bench.wait(118);
    assert_eq!(bench.table().len(), 1);
    bench.wait(1);
    assert_eq!(bench.counts(), [(0, 0, 0), (0, 0, 0)], "FIN_WAIT ends after 120 s");
    assert_eq!(bench.tcp(40000, ACK), Err(Unscheduled::Accept));
}

#[test]
fn translated_answers_move_states_and_count() {
    let mut bench = Bench::nat();
    assert_eq!(bench.tcp(40000, SYN), Ok(12));
    assert!(!bench.answer(40000, 11, SYN | ACK));
    assert!(bench.answer(40000, 12, SYN | ACK));
    bench.tcp(40000, ACK).unwrap();
    bench.tcp(40000, FIN | ACK).unwrap();
    assert_eq!(bench.table(), ["TCP 60 CLOSE_WAIT 203.0.113.5:40000 200.200.200.1:80 10.0.0.12:80"]);
    assert!(bench.answer(40000, 12, FIN | ACK));
    assert_eq!(bench.table(), ["TCP 120 TIME_WAIT 203.0.113.5:40000 200.200.200.1:80 10.0.0.12:80"]);
    let counters = bench.ipvs.service_views()[0].counters;
    assert_eq!((counters.connections, counters.in_packets, counters.out_packets, counters.in_bytes), (1, 3, 2, 120));
}

#[test]
fn timers_fire_when_the_wheel_turns() {
    let mut bench = Bench::dr();
    let wheel = TimerWheel { ticks_per_second: 250, phase: Nanos(0) };
    bench.ipvs = bench.ipvs.with_timer_wheel(Some(wheel));
    assert_eq!(bench.tcp(40000, SYN), Ok(12));
    bench.wait(60);
    assert_eq!(bench.table(), ["TCP 0 SYN_RECV 203.0.113.5:40000 200.200.200.1:80 10.0.0.12:80"], "due at 1060");
    bench.now = Nanos::from_millis(518 * 2_048);
    bench.wait(0);
    assert!(bench.table().is_empty(), "1060.864 is the next multiple of 2.048");
    // A server without connections is forgotten at the third sweep, each at such a multiple.
    bench.run(Command::DeleteServer { service: tcp_service(80), server: server(12, 80) });
    let again = |bench: &Bench, at| {
        let mut ipvs = bench.ipvs.clone();
        let command = Command::AddServer { service: tcp_service(80), server: server(12, 80), settings: by(ForwardingMethod::Dr) };
        ipvs.apply(&command, Nanos::from_millis(at)).unwrap();
        ipvs.service_views()[0].servers[1].counters.in_packets
    };
    assert_eq!((again(&bench, 608 * 2_048 - 1), again(&bench, 608 * 2_048)), (1, 0));
}

#[test]
fn a_template_that_lived_on_alone_fires_before_its_older_connection() {
    let mut bench = Bench::new(tcp_service(80), persistent(50, 32), ForwardingMethod::Dr, |_| {});
    let wheel = TimerWheel { ticks_per_second: 250, phase: Nanos(0) };
    bench.ipvs = bench.ipvs.with_timer_wheel(Some(wheel));
    // The template fires at 1050.6, 1112.1 and 1173.5, the connection in FIN_WAIT at 1173.5, too.
    bench.tcp(40000, SYN).unwrap();
    bench.tcp(40000, ACK).unwrap();
    bench.now = Nanos::from_millis(1_052_000);
    bench.tcp(40000, FIN).unwrap();
    bench.now = Nanos::from_millis(573 * 2_048);
    bench.wait(0);
    assert_eq!(bench.table(), ["TCP 60 ASSURED 203.0.113.5:0 200.200.200.1:80 10.0.0.12:80"]);
}

#[test]
fn what_says_that_no_server_takes_a_new_connection_counts_for_the_old_one() {
    let mut bench = Bench::new(tcp_service(80), settings(SchedulerKind::Rr), ForwardingMethod::Nat, |sysctls| {
        sysctls.vs.expire_nodest_conn = true;
    });
    assert_eq!(bench.tcp(40000, SYN), Ok(12));
    for last in [11, 12] {
        let settings = ServerSettings { weight: 0, ..by(ForwardingMethod::Nat) };
        bench.run(Command::EditServer { service: tcp_service(80), server: server(last, 80), settings });
    }
    assert!(matches!(bench.tcp(40000, SYN), Err(Unscheduled::NoServer)));
    assert!(bench.answer(40000, 12, ACK), "the old connection lives until the clock ticks");
    bench.now = bench.now + Nanos::from_millis(4);
    assert_eq!(bench.tcp(40000, ACK), Ok(12), "and what passes in time keeps it");
}

#[test]
fn set_changes_three_timeouts_at_the_next_packet() {
    let mut bench = Bench::dr();
    bench.tcp(40000, SYN).unwrap();
    bench.tcp(40000, ACK).unwrap();
    bench.run(Command::SetTimeouts(TimeoutSettings { tcp: Some(50), tcp_fin: Some(0), udp: None }));
    assert!(bench.table()[0].starts_with("TCP 900 "));
    bench.tcp(40000, ACK).unwrap();
    assert!(bench.table()[0].starts_with("TCP 50 "), "sooner than before");
    bench.tcp(40000, FIN | ACK).unwrap();
    assert!(bench.table()[0].starts_with("TCP 120 "), "0 keeps");
    bench.wait(119);
    bench.tcp(40000, ACK).unwrap();
    bench.wait(119);
    assert_eq!(bench.table().len(), 1);
    bench.wait(1);
    assert!(bench.table().is_empty());
}

#[test]
fn a_port_is_reused_in_time_wait_and_close_only() {
    for (mode, last_flags, reused) in
        [(1, FIN | ACK, false), (2, FIN | ACK, true), (0, FIN | ACK, false), (1, RST, true), (0, RST, false), (1, ACK, false)]
    {
        let mut bench = Bench::new(tcp_service(80), settings(SchedulerKind::Rr), ForwardingMethod::Dr, |sysctls| {
            sysctls.vs.conn_reuse_mode = mode;
        });
        assert_eq!(bench.tcp(40000, SYN), Ok(12));
        bench.tcp(40000, ACK).unwrap();
        bench.tcp(40000, last_flags).unwrap();
        assert_eq!(bench.tcp(40000, SYN), Ok(if reused { 11 } else { 12 }), "mode {mode} flags {last_flags}");
        let counts = bench.counts();
        assert_eq!(counts[1].0 + counts[1].1, 1, "the old connection still counts for a moment");
        bench.now = bench.now + JIFFY;
        bench.ipvs.expire(bench.now);
        assert_eq!(bench.table().len(), 1);
        assert_eq!(bench.tcp(40000, ACK), Ok(if reused { 11 } else { 12 }));
    }
}

#[test]
fn a_quiesced_server_keeps_its_connections() {
    for (nodest, after) in [(false, 12), (true, 11)] {
        let mut bench = Bench::new(tcp_service(80), settings(SchedulerKind::Rr), ForwardingMethod::Dr, |sysctls| {
            sysctls.vs.expire_nodest_conn = nodest;
        });
        assert_eq!(bench.tcp(40000, SYN), Ok(12));
        let quiet = ServerSettings { weight: 0, ..by(ForwardingMethod::Dr) };
        bench.run(Command::EditServer { service: tcp_service(80), server: server(12, 80), settings: quiet });
        assert_eq!(bench.tcp(40000, ACK), Ok(12));
        assert_eq!(bench.tcp(40000, SYN), Ok(after), "expire_nodest_conn schedules a SYN anew");
    }
}

#[test]
fn connections_of_a_removed_server_wait_or_end() {
    let remove = || Command::DeleteServer { service: tcp_service(80), server: server(12, 80) };
    let add = || Command::AddServer { service: tcp_service(80), server: server(12, 80), settings: by(ForwardingMethod::Dr) };
    let mut bench = Bench::dr();
    bench.tcp(40000, SYN).unwrap();
    bench.tcp(40000, ACK).unwrap();
    bench.run(remove());
    assert_eq!(bench.tcp(40000, ACK), Err(Unscheduled::Drop));
    bench.wait(800);
    bench.run(add());
    assert_eq!(bench.tcp(40000, ACK), Ok(12), "it is back");
    assert_eq!(bench.counts(), [(0, 0, 0), (1, 0, 0)]);
    assert_eq!(bench.ipvs.service_views()[0].servers[1].counters.in_packets, 3);

    let mut bench = Bench::new(tcp_service(80), settings(SchedulerKind::Rr), ForwardingMethod::Dr, |sysctls| {
        sysctls.vs.expire_nodest_conn = true;
    });
    bench.tcp(40000, SYN).unwrap();
    bench.run(remove());
    assert!(bench.table().is_empty(), "swept");
    assert_eq!(bench.tcp(40000, ACK), Err(Unscheduled::Accept));
    assert_eq!(bench.tcp(40000, SYN), Ok(11));
}

#[test]
fn a_service_under_an_old_key_counts_anew_and_its_servers_since_the_last_sum() {
    let mut bench = Bench::dr();
    bench.ipvs = bench.ipvs.with_sums(true);
    bench.tcp(40000, SYN).unwrap();
    bench.ipvs.services.sum_counters();
    bench.tcp(40000, ACK).unwrap();
    bench.run(Command::DeleteService { service: tcp_service(80) });
    assert!(!bench.ipvs.services.any_of(Family::Ipv4));
    bench.run(Command::AddService { service: tcp_service(80), settings: settings(SchedulerKind::Rr) });
    bench.run(Command::AddServer { service: tcp_service(80), server: server(12, 80), settings: by(ForwardingMethod::Dr) });
    assert_eq!(bench.counts(), [(1, 0, 0)]);
    let service = &bench.ipvs.service_views()[0];
    let of_server = service.servers[0].counters;
    assert_eq!((service.counters.in_packets, of_server.connections, of_server.in_packets), (0, 0, 1));
    assert_eq!(bench.tcp(40000, ACK), Ok(12), "its connections are still there");
    bench.ipvs.services.sum_counters();
    bench.tcp(40000, ACK).unwrap();
    bench.run(Command::Zero { service: None });
    let service = &bench.ipvs.service_views()[0];
    assert_eq!((service.counters.in_packets, service.servers[0].counters.in_packets), (1, 1));
}

#[test]
fn services_are_found_by_mark_then_address_then_ftp_then_port_0() {
    let mut bench = Bench::dr();
    let mark = ServiceKey::Mark { mark: 3, family: Family::Ipv4 };
    for (service, settings) in [
        (mark, settings(SchedulerKind::Rr)),
        (tcp_service(21), persistent(300, 32)),
        (tcp_service(0), persistent(300, 32)),
        (udp_service(0), persistent(300, 32)),
    ] {
        bench.run(Command::AddService { service, settings });
    }
    let find = |mark, protocol, port| bench.ipvs.find_service(mark, &flow(protocol, 1, port));
    assert_eq!(find(3, Protocol::TCP, 80), Some(1));
    assert_eq!(find(4, Protocol::TCP, 80), Some(0));
    assert_eq!(find(0, Protocol::TCP, 20), Some(2), "FTP data");
    assert_eq!(find(0, Protocol::TCP, 1024), Some(2), "FTP passive data comes before port 0");
    assert_eq!(find(0, Protocol::TCP, 1023), Some(3));
    assert_eq!(find(0, Protocol::UDP, 2000), Some(4));
    assert_eq!(find(0, Protocol::SCTP, 80), None);
}

#[test]
fn what_is_not_scheduled() {
    let mut bench = Bench::dr();
    for flags in [ACK, RST, SYN | RST, FIN] {
        assert_eq!(bench.tcp(40000, flags), Err(Unscheduled::Accept));
    }
    assert_eq!(bench.tcp(20, SYN), Err(Unscheduled::Accept), "active FTP data is never scheduled");
    assert_eq!(bench.tcp(40000, SYN | ACK), Ok(12), "any SYN opens");
    for last in [11, 12] {
        bench.run(Command::DeleteServer { service: tcp_service(80), server: server(last, 80) });
    }
    assert_eq!(bench.tcp(40001, SYN), Err(Unscheduled::NoServer));

    let mut bench = Bench::new(tcp_service(80), settings(SchedulerKind::Rr), ForwardingMethod::Dr, |sysctls| {
        sysctls.vs.sloppy_tcp = true;
        sysctls.vs.drop_packet = 3;
        sysctls.vs.am_droprate = 3;
    });
    let taken: Vec<bool> = (1..=7).map(|port| bench.tcp(port, ACK).is_ok()).collect();
    assert_eq!(taken, [false, true, true, false, true, true, false]);
}

#[test]
fn one_packet_connections_leave_nothing_behind() {
    let settings = ServiceSettings { one_packet: true, ..settings(SchedulerKind::Rr) };
    let mut bench = Bench::new(udp_service(53), settings, ForwardingMethod::Nat, |_| {});
    assert_eq!([bench.udp(40000, 53), bench.udp(40000, 53)], [Ok(12), Ok(11)]);
    assert!(bench.table().is_empty());
    assert_eq!(bench.counts(), [(0, 0, 0), (0, 0, 0)]);
    assert_eq!(bench.ipvs.service_views()[0].counters.connections, 2);
}

#[test]
fn ftp_data_waits_for_the_clients_port() {
    let mut bench = Bench::new(tcp_service(21), settings(SchedulerKind::Rr), ForwardingMethod::Nat, |_| {});
    bench.packet(flow(Protocol::TCP, 40000, 21), TransportEvent::Tcp(SYN), 0).unwrap();
    let control = bench.ipvs.lookup_in(&flow(Protocol::TCP, 40000, 21)).unwrap();
    bench.ipvs.expect_ftp_data(control, SocketAddr::new(CLIENT.into(), 0), 50000, 50000, bench.now);
    assert!(bench.table().iter().any(|line| line.starts_with("TCP 120 LISTEN 203.0.113.5:0 ")));
    let data = flow(Protocol::TCP, 40001, 50000);
    let id = bench.ipvs.lookup_in(&data).unwrap();
    assert!(bench.ipvs.connection(id).unwrap().flags.no_client_port);
    bench.ipvs.fill_client_port(id, 40001);
    assert_eq!(bench.ipvs.lookup_in(&data), Some(id));
    assert_eq!(bench.ipvs.lookup_in(&flow(Protocol::TCP, 40002, 50000)), None);
    let answer = FlowKey { destination: [10, 0, 0, 12].into(), ..data }.reversed();
    assert_eq!(bench.ipvs.lookup_out(&answer), Some(id));
    bench.wait(120);
    assert_eq!(bench.ipvs.lookup_in(&data), None);
    assert!(bench.ipvs.table().is_plain(), "nothing strays any more");
}

#[test]
fn an_entry_hidden_by_a_newer_one_is_found_again() {
    let mut bench = Bench::new(tcp_service(21), settings(SchedulerKind::Rr), ForwardingMethod::Nat, |_| {});
    let control = flow(Protocol::TCP, 40000, 21);
    bench.packet(control, TransportEvent::Tcp(SYN), 0).unwrap();
    let old = bench.ipvs.lookup_in(&control).unwrap();
    bench.ipvs.expect_ftp_data(old, SocketAddr::new(CLIENT.into(), 50001), 20, 20, bench.now);
    // CLOSE, then a SYN: a new connection, but the old one still controls another and stays.
    bench.packet(control, TransportEvent::Tcp(0), 0).unwrap();
    assert_eq!(bench.packet(control, TransportEvent::Tcp(SYN), 0), Ok(11));
    let new = bench.ipvs.lookup_in(&control).unwrap();
    assert_ne!(new, old);
    bench.wait(60);
    assert_eq!(bench.ipvs.lookup_in(&control), Some(old), "the newer one ended");
}

#[test]
fn servers_are_known_by_address_and_port() {
    let mut bench = Bench::nat();
    let known = |bench: &Bench, protocol, port| bench.ipvs.has_real_service(protocol, [10, 0, 0, 11].into(), port);
    assert!(known(&bench, Protocol::TCP, 80));
    assert!(!known(&bench, Protocol::UDP, 80) && !known(&bench, Protocol::TCP, 81));
    bench.run(Command::DeleteServer { service: tcp_service(80), server: server(11, 80) });
    assert!(!known(&bench, Protocol::TCP, 80));
    let tunnel = Tunnel { kind: TunnelKind::Gre, ..Tunnel::default() };
    bench.run(Command::AddServer {
        service: tcp_service(80),
        server: server(13, 80),
        settings: by(ForwardingMethod::Tunnel(tunnel)),
    });
    assert_eq!(bench.ipvs.find_tunnel([10, 0, 0, 13].into(), TunnelKind::Gre), Some(tunnel));
    assert_eq!(bench.ipvs.find_tunnel([10, 0, 0, 13].into(), TunnelKind::Ipip), None);
    bench.run(Command::AddService { service: tcp_service(81), settings: settings(SchedulerKind::Rr) });
    let settings = by(ForwardingMethod::Tunnel(Tunnel::default()));
    bench.run(Command::AddServer { service: tcp_service(81), server: server(13, 81), settings });
    assert_eq!(bench.ipvs.find_tunnel([10, 0, 0, 13].into(), TunnelKind::Gre), None, "the newest one counts");
}

#[test]
fn an_edit_with_the_same_scheduler_keeps_its_cursor() {
    let mut bench = Bench::dr();
    assert_eq!(bench.tcp(1, SYN), Ok(12));
    let flags = SchedulerFlags { port: true, ..SchedulerFlags::default() };
    let same = ServiceSettings { flags, ..settings(SchedulerKind::Rr) };
    bench.run(Command::EditService { service: tcp_service(80), settings: same });
    assert_eq!(bench.tcp(2, SYN), Ok(11));
    assert_eq!(bench.tcp(3, SYN), Ok(12));
    bench.run(Command::EditService { service: tcp_service(80), settings: settings(SchedulerKind::Wrr) });
    bench.run(Command::EditService { service: tcp_service(80), settings: settings(SchedulerKind::Rr) });
    assert_eq!(bench.tcp(4, SYN), Ok(12), "another scheduler starts at the head");
}

#[test]
fn commands_are_refused_as_ipvsadm_refuses_them() {
    let mut bench = Bench::dr();
    let mut error = |command| bench.ipvs.apply(&command, bench.now).unwrap_err().to_string();
    let dr = by(ForwardingMethod::Dr);
    let add = |settings| Command::AddServer { service: tcp_service(80), server: server(13, 80), settings };
    assert_eq!(
        error(Command::AddService { service: tcp_service(80), settings: settings(SchedulerKind::Rr) }),
        "TCP 200.200.200.1:80 exists already"
    );
    assert_eq!(
        error(Command::AddService { service: tcp_service(0), settings: settings(SchedulerKind::Rr) }),
        "TCP 200.200.200.1:0: port 0 needs persistence (-p)"
    );
    assert_eq!(
        error(Command::AddServer { service: tcp_service(81), server: server(11, 81), settings: dr }),
        "there is no service TCP 200.200.200.1:81; add it first with -A"
    );
    assert_eq!(
        error(add(ServerSettings { upper_threshold: 1, lower_threshold: 2, ..dr })),
        "10.0.0.13:80: the lower threshold 2 is above the upper one 1"
    );
    assert_eq!(
        error(Command::DeleteServer { service: tcp_service(80), server: server(13, 80) }),
        "TCP 200.200.200.1:80 has no real server 10.0.0.13:80; add it first with -a"
    );
}

proptest! {
    /// Any mix of packets and pauses: each connection ends exactly when its last packet's state says, and the servers' counts are
    /// those of the connections that live.
    #[test]
    fn connections_end_when_their_state_says(steps in prop::collection::vec((1..6u16, 0..6usize, 0..200_000u64), 1..150)) {
        let mut bench = Bench::dr();
        // Client port: state, end.
        let mut naive: std::collections::BTreeMap<u16, (u8, Nanos)> = std::collections::BTreeMap::new();
        for (port, kind, pause) in steps {
            bench.now = bench.now + Nanos::from_millis(pause);
            let now = bench.now;
            naive.retain(|_, (_, end)| *end > now);
            let flags = [SYN, ACK, FIN | ACK, RST, 0, SYN | ACK][kind];
            let old = naive.get(&port).map(|(state, _)| *state);
            let ended = matches!(old, Some(state) if [tcp::TcpState::TimeWait as u8, tcp::TcpState::Close as u8].contains(&state));
            let from = if flags & SYN != 0 && (ended || old.is_none()) { Some(0) } else { old };
            let result = bench.tcp(port, flags);
            prop_assert_eq!(result.is_ok(), from.is_some());
            if let Some(from) = from {
                let state = tcp::next(from, flags, tcp::Side::InputOnly, false) as u8;
                naive.insert(port, (state, now + Nanos::from_secs(tcp::TIMEOUTS[usize::from(state)].into())));
            }
            // Replaced connections last a moment longer.
            bench.now = now + JIFFY;
            bench.ipvs.expire(bench.now);
            naive.retain(|_, (_, end)| *end > bench.now);
            let seen: Vec<(u16, u8, Nanos)> = {
                let mut seen: Vec<_> = bench.ipvs.table().iter().map(|(_, c)| (c.client_port, c.state, c.expires)).collect();
                seen.sort_unstable();
                seen
            };
            let expected: Vec<(u16, u8, Nanos)> = naive.iter().map(|(port, (state, end))| (*port, *state, *end)).collect();
            prop_assert_eq!(seen, expected);
            let active = naive.values().filter(|(state, _)| tcp::ACTIVE[usize::from(*state)]).count() as u32;
            let counts = bench.counts();
            prop_assert_eq!(counts.iter().map(|count| count.0).sum::<u32>(), active);
            prop_assert_eq!(counts.iter().map(|count| count.0 + count.1).sum::<u32>(), naive.len() as u32);
        }
    }
}

/// Section 1.7: the schedulers see the quoted packet as it is, from the virtual address to the client.
#[test]
fn destination_hashing_of_a_quoted_packet_hashes_the_client() {
    let mut bench = Bench::new(tcp_service(80), settings(SchedulerKind::Dh), ForwardingMethod::Dr, |_| {});
    let mut servers_of = |from_icmp| {
        let mut servers = (0..32).map(|last| {
            let flow = FlowKey { source: [203, 0, 113, last].into(), ..flow(Protocol::TCP, 40000, 80) };
            let event = TransportEvent::Tcp(SYN);
            let opening = Opening { flow, mark: 0, event, from_icmp, call_id: None, now: bench.now };
            let id = bench.ipvs.open(opening, &bench.draws).unwrap();
            bench.ipvs.connection(id).unwrap().server_address
        });
        let first = servers.next();
        servers.all(|server| Some(server) == first)
    };
    assert!(servers_of(false), "one destination");
    assert!(!servers_of(true), "many clients");
}
