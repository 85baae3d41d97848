//! Templates: which packets share one, and when it ends.

use super::*;

fn sip() -> Bench {
    let settings = ServiceSettings { persistence_engine: Some(PersistenceEngine::Sip), ..persistent(300, 32) };
    Bench::new(udp_service(5060), settings, ForwardingMethod::Nat, |_| {})
}

#[test]
fn a_sweep_takes_templates_with_their_last_connection() {
    let mut bench = Bench::new(tcp_service(80), persistent(300, 32), ForwardingMethod::Dr, |sysctls| {
        sysctls.vs.expire_nodest_conn = true;
    });
    bench.tcp(40000, SYN).unwrap();
    bench.tcp(40001, SYN).unwrap();
    assert_eq!(bench.counts(), [(0, 0, 0), (2, 0, 1)]);
    bench.run(Command::DeleteServer { service: tcp_service(80), server: server(12, 80) });
    assert!(bench.table().is_empty());
}

#[test]
fn a_template_keeps_a_network_on_its_server() {
    let mut bench = Bench::new(tcp_service(80), persistent(100, 24), ForwardingMethod::Dr, |_| {});
    assert_eq!(bench.tcp(40000, SYN), Ok(12));
    assert_eq!(bench.tcp(40001, SYN), Ok(12));
    let neighbour = FlowKey { source: [203, 0, 113, 77].into(), ..flow(Protocol::TCP, 1, 80) };
    assert_eq!(bench.packet(neighbour, TransportEvent::Tcp(SYN), 0), Ok(12));
    let stranger = FlowKey { source: [203, 0, 114, 5].into(), ..neighbour };
    assert_eq!(bench.packet(stranger, TransportEvent::Tcp(SYN), 0), Ok(11));
    assert_eq!(
        bench.table()[..2],
        [
            "TCP 100 NONE 203.0.113.0:0 200.200.200.1:80 10.0.0.12:80",
            "TCP 60 SYN_RECV 203.0.113.5:40000 200.200.200.1:80 10.0.0.12:80",
        ]
    );
    bench.tcp(40000, ACK).unwrap();
    assert!(bench.table()[0].contains("ASSURED"));
}

#[test]
fn a_template_outlives_its_time_by_minutes_while_connections_last() {
    let mut bench = Bench::new(tcp_service(80), persistent(100, 32), ForwardingMethod::Dr, |_| {});
    bench.tcp(40000, SYN).unwrap();
    bench.tcp(40000, ACK).unwrap();
    bench.wait(99);
    assert!(bench.table()[0].starts_with("TCP 1 ASSURED"));
    bench.wait(1);
    assert!(bench.table()[0].starts_with("TCP 60 ASSURED"));
    // Its own timeout is a minute from now on.
    bench.wait(30);
    bench.tcp(40001, SYN).unwrap();
    assert!(bench.table()[0].starts_with("TCP 60 ASSURED"));
    bench.wait(900);
    bench.wait(60);
    assert!(bench.table().is_empty());
}

#[test]
fn a_template_goes_with_a_connection_that_ends_at_the_same_moment() {
    let mut bench = Bench::new(udp_service(53), persistent(300, 32), ForwardingMethod::Dr, |_| {});
    bench.udp(40000, 53).unwrap();
    assert_eq!(bench.table().len(), 2);
    bench.wait(300);
    assert!(bench.table().is_empty());
    assert_eq!(bench.counts(), [(0, 0, 0), (0, 0, 0)]);
    // A long silence: renewals and ends are worked off in order.
    bench.run(Command::SetTimeouts(TimeoutSettings { udp: Some(1000), ..TimeoutSettings::default() }));
    bench.udp(40000, 53).unwrap();
    bench.wait(100_000);
    assert!(bench.table().is_empty());
}

#[test]
fn template_keys_depend_on_ports_and_marks() {
    // A service on port 0: one template for all ports of a protocol; the client's port is kept.
    let mut bench = Bench::new(tcp_service(0), persistent(300, 32), ForwardingMethod::Nat, |_| {});
    bench.packet(flow(Protocol::TCP, 40000, 443), TransportEvent::Tcp(SYN), 0).unwrap();
    bench.packet(flow(Protocol::TCP, 40000, 8080), TransportEvent::Tcp(SYN), 0).unwrap();
    assert_eq!(
        bench.table(),
        [
            "TCP 300 NONE 203.0.113.5:0 200.200.200.1:0 10.0.0.12:0",
            "TCP 60 SYN_RECV 203.0.113.5:40000 200.200.200.1:443 10.0.0.12:443",
            "TCP 60 SYN_RECV 203.0.113.5:40000 200.200.200.1:8080 10.0.0.12:8080",
        ]
    );
    // A mark: one template for everything; its virtual address is the mark.
    let mark = ServiceKey::Mark { mark: 7, family: Family::Ipv4 };
    let mut bench = Bench::new(mark.clone(), persistent(300, 32), ForwardingMethod::Nat, |_| {});
    bench.packet(flow(Protocol::TCP, 40000, 443), TransportEvent::Tcp(SYN), 7).unwrap();
    bench.packet(flow(Protocol::UDP, 40000, 53), TransportEvent::Udp, 7).unwrap();
    assert_eq!(bench.packet(flow(Protocol::TCP, 40001, 443), TransportEvent::Tcp(SYN), 8), Err(Unscheduled::Accept));
    assert_eq!(
        bench.table(),
        [
            "IP 300 NONE 203.0.113.5:0 0.0.0.7:0 10.0.0.12:0",
            "TCP 60 SYN_RECV 203.0.113.5:40000 200.200.200.1:443 10.0.0.12:443",
            "UDP 300 UDP 203.0.113.5:40000 200.200.200.1:53 10.0.0.12:53",
        ]
    );
    // FTP: the control connection's port is not in the template, and data ports follow it.
    let mut bench = Bench::new(tcp_service(21), persistent(300, 32), ForwardingMethod::Dr, |_| {});
    bench.packet(flow(Protocol::TCP, 40000, 21), TransportEvent::Tcp(SYN), 0).unwrap();
    bench.packet(flow(Protocol::TCP, 40001, 50000), TransportEvent::Tcp(SYN), 0).unwrap();
    assert_eq!(bench.table()[0], "TCP 300 NONE 203.0.113.5:0 200.200.200.1:0 10.0.0.12:0");
    assert_eq!(bench.table().len(), 3);
    assert_eq!(bench.packet(flow(Protocol::TCP, 40002, 80), TransportEvent::Tcp(SYN), 0), Err(Unscheduled::Accept));
}

#[test]
fn a_quiesced_server_keeps_its_persistent_clients_unless_told_otherwise() {
    for (expire, expected) in [(false, 12), (true, 11)] {
        let mut bench = Bench::new(tcp_service(80), persistent(300, 32), ForwardingMethod::Dr, |sysctls| {
            sysctls.vs.expire_quiescent_template = expire;
        });
        assert_eq!(bench.tcp(40000, SYN), Ok(12));
        let quiet = ServerSettings { weight: 0, ..by(ForwardingMethod::Dr) };
        bench.run(Command::EditServer { service: tcp_service(80), server: server(12, 80), settings: quiet });
        assert_eq!(bench.tcp(40001, SYN), Ok(expected));
        let invalid = bench.table().iter().any(|line| line.contains("200.200.200.1:65535 10.0.0.12:65535"));
        assert_eq!(invalid, expire, "such a template is never found again");
    }
}

#[test]
fn sip_calls_stay_on_their_server() {
    let mut bench = sip();
    let now = bench.now;
    let mut open = |port, call_id| {
        let opening = Opening {
            flow: flow(Protocol::UDP, port, 5060),
            mark: 0,
            event: TransportEvent::Udp,
            from_icmp: false,
            call_id,
            now,
        };
        let id = bench.ipvs.open(opening, &bench.draws)?;
        bench.ipvs.transition(id, Direction::Input, TransportEvent::Udp);
        bench.ipvs.touch(id, now);
        Ok(bench.ipvs.connection(id).unwrap().server_address)
    };
    assert_eq!(open(1, None), Err(Unscheduled::NoCallId));
    assert_eq!(open(1, Some(b"a")), Ok([10, 0, 0, 12].into()));
    assert_eq!(open(2, Some(b"b")), Ok([10, 0, 0, 11].into()));
    assert_eq!(open(3, Some(b"a")), Ok([10, 0, 0, 12].into()));
    let data: Vec<_> = bench.ipvs.connection_views(now).into_iter().filter_map(|view| view.persistence_data).collect();
    assert_eq!(data, [b"b", b"a"]);
    bench.wait(1000);
    assert!(bench.ipvs.is_plain(), "templates leave nothing behind");
}

#[test]
fn a_sip_server_may_call_first() {
    let mut bench = sip();
    let call = FlowKey { destination: [10, 0, 0, 11].into(), ..flow(Protocol::UDP, 5060, 5060) }.reversed();
    assert_eq!(bench.ipvs.open_from_server(&call, None, bench.now), None);
    let id = bench.ipvs.open_from_server(&call, Some(b"c"), bench.now).unwrap();
    bench.ipvs.transition(id, Direction::Output, TransportEvent::Udp);
    bench.ipvs.touch(id, bench.now);
    assert_eq!(bench.ipvs.lookup_out(&call), Some(id));
    assert_eq!(
        bench.table(),
        [
            "UDP 300 ASSURED 203.0.113.5:0 200.200.200.1:5060 10.0.0.11:5060",
            "UDP 300 UDP 203.0.113.5:5060 200.200.200.1:5060 10.0.0.11:5060",
        ]
    );
    let stranger = FlowKey { source_port: 5061, ..call };
    assert_eq!(bench.ipvs.open_from_server(&stranger, Some(b"c"), bench.now), None);
}
