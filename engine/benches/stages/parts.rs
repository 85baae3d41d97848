//! The parts of the engine by themselves, on one packet at a time: headers, connections, schedulers, methods, checksums.

use super::traffic;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use lvscheck_engine::config::{
    ForwardingMethod, Protocol, SchedulerFlags, SchedulerKind, Sysctls, Tunnel, TunnelChecksum, TunnelKind,
};
use lvscheck_engine::packet::checksum::{self, Sum};
use lvscheck_engine::packet::tcp::flags;
use lvscheck_engine::packet::{Ethernet, FlowKey, Headers};
use lvscheck_engine::rewrite::nat::{Change, End};
use lvscheck_engine::rewrite::tunnel::Outer;
use lvscheck_engine::rewrite::{dr, hop, hop_of_right, nat, tunnel};
use lvscheck_engine::schedule::{Candidate, ServiceScheduler, Wanted};
use lvscheck_engine::track::{Direction, Ipvs, Opening, TransportEvent};
use lvscheck_engine::{Draws, Nanos};
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

/// IP packets of the smallest and the largest Ethernet frame.
const LENGTHS: [usize; 2] = [46, 1500];
const DATA: u8 = flags::PSH | flags::ACK;

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(150)).measurement_time(Duration::from_millis(450));
    group.throughput(Throughput::Elements(1));
    group
}

fn classify(criterion: &mut Criterion) {
    let mut group = group(criterion, "classify");
    let frames = traffic::frames(1, 1, 60);
    let ipv6 = FlowKey { source: [0x20; 16].into(), destination: [0x21; 16].into(), ..traffic::flow(0) };
    let ipv6 = traffic::packet(ipv6, DATA, 66);
    group.bench_function("Ethernet, IPv4, flow", |bencher| {
        bencher.iter(|| {
            let ethernet = Ethernet::new_checked(black_box(&frames[0])).ok()?;
            Headers::of(ethernet.payload()).ok().map(|headers| headers.flow(ethernet.payload()))
        });
    });
    group.bench_function("IPv6, flow", |bencher| {
        bencher.iter(|| Headers::of(black_box(&ipv6)).map(|headers| headers.flow(&ipv6)));
    });
    group.finish();
}

/// IPVS with one service, and so many connections.
fn ipvs(method: ForwardingMethod, connections: usize) -> Ipvs {
    let mut ipvs = Ipvs::new(Sysctls::default());
    for command in traffic::service(SchedulerKind::Rr, method) {
        ipvs.apply(&command, Nanos(0)).expect("the command is right");
    }
    open(&mut ipvs, connections);
    ipvs
}

fn open(ipvs: &mut Ipvs, connections: usize) {
    let draws = Draws::default();
    let event = TransportEvent::Tcp(flags::SYN);
    for number in 0..connections {
        let flow = traffic::flow(number);
        let opening = Opening { flow, mark: 0, event, from_icmp: false, call_id: None, now: Nanos(0) };
        let id = ipvs.open(opening, &draws).expect("a server is there");
        ipvs.transition(id, Direction::Input, event);
        ipvs.touch(id, Nanos(0));
    }
}

fn track(criterion: &mut Criterion) {
    let mut group = group(criterion, "track");
    for connections in [1_000, 100_000] {
        let mut ipvs = ipvs(ForwardingMethod::Nat, connections);
        // A stride without a common divisor visits every connection, far from the one before.
        let mut number = 0;
        let mut next = move || {
            number = (number + 7_919) % connections;
            traffic::flow(number)
        };
        group.bench_function(BenchmarkId::new("look up a request", connections), |bencher| {
            bencher.iter(|| ipvs.lookup_in(&next()));
        });
        let answers: Vec<FlowKey> = (0..connections)
            .filter_map(|number| ipvs.connection(ipvs.lookup_in(&traffic::flow(number))?))
            .map(|connection| FlowKey {
                protocol: 6,
                source: connection.server_address,
                destination: connection.client,
                source_port: connection.server_port,
                destination_port: connection.client_port,
            })
            .collect();
        group.bench_function(BenchmarkId::new("look up an answer", connections), |bencher| {
            let mut number = 0;
            bencher.iter(|| {
                number = (number + 7_919) % answers.len();
                ipvs.lookup_out(&answers[number])
            });
        });
        group.bench_function(BenchmarkId::new("look up, count, move state on, restart timer", connections), |bencher| {
            bencher.iter(|| {
                let id = ipvs.lookup_in(&next())?;
                ipvs.count_in(id, 46);
                ipvs.transition(id, Direction::Input, TransportEvent::Tcp(DATA));
                ipvs.touch(id, Nanos(1));
                Some(id)
            });
        });
    }
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("open 10000 connections", |bencher| {
        let empty = ipvs(ForwardingMethod::Nat, 0);
        bencher.iter_batched_ref(|| empty.clone(), |ipvs| open(ipvs, 10_000), BatchSize::PerIteration);
    });
    group.finish();
}

fn schedule(criterion: &mut Criterion) {
    let mut group = group(criterion, "schedule among 16");
    let list: Vec<Candidate> = (0..16)
        .map(|number| Candidate {
            number,
            address: traffic::server(number as u8),
            port: 80,
            weight: 1 + number % 3,
            last_weight: 1 + number % 3,
            active: number * 7 % 5,
            inactive: number,
            overloaded: false,
            available: true,
        })
        .collect();
    let draws = Draws::default();
    for (name, kind) in SchedulerKind::NAMES {
        // conhash is DPVS's own; none never schedules.
        if matches!(kind, SchedulerKind::Conhash | SchedulerKind::None) {
            continue;
        }
        let mut scheduler = ServiceScheduler::new(kind, SchedulerFlags::default());
        scheduler.as_scheduler().init(&list);
        let mut number = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                number += 1;
                let flow = traffic::flow(number % 10_000);
                let wanted = Wanted {
                    client: flow.source,
                    client_port: flow.source_port,
                    destination: flow.destination,
                    protocol: Protocol::TCP,
                    now: Nanos(number as u64),
                    expiration: Nanos::from_secs(86_400),
                    drawn: number as u64,
                    draws: &draws,
                };
                scheduler.as_scheduler().schedule(black_box(&list), wanted)
            });
        });
    }
    group.finish();
}

/// Each method on a fresh copy of a packet: the director rewrites what it has just copied behind a new link header.
fn rewrite(criterion: &mut Criterion) {
    let mut group = group(criterion, "rewrite");
    for len in LENGTHS {
        let packet = traffic::packet(traffic::flow(0), DATA, len);
        let headers = Headers::of(&packet).expect("the packet is whole");
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: len as u64 });
        let mut in_place = |name: &str, change: &dyn Fn(&mut [u8])| {
            let mut copy = packet.clone();
            group.bench_function(BenchmarkId::new(name, len), |bencher| {
                bencher.iter(|| {
                    copy.copy_from_slice(black_box(&packet));
                    change(black_box(&mut copy));
                    black_box(&copy);
                });
            });
        };
        let change = Change { end: End::Destination, address: traffic::server(0), port: Some(8080) };
        in_place("copy alone", &|_| {});
        in_place("dr", &dr::request);
        in_place("dr, checksum known to be right", &hop_of_right);
        in_place("nat", &|packet| {
            nat::translate(packet, &headers, change, false);
            hop(packet);
        });
        in_place("nat, checksums known to be right", &|packet| {
            nat::translate_right(packet, change);
            hop_of_right(packet);
        });
        let gue = TunnelKind::Gue { port: 6080 };
        for (name, kind, checksum, over) in [
            ("ipip", TunnelKind::Ipip, TunnelChecksum::None, "10.0.0.1"),
            ("ipip over IPv6", TunnelKind::Ipip, TunnelChecksum::None, "fd00:10::1"),
            ("gue", gue, TunnelChecksum::None, "10.0.0.1"),
            ("gue with checksum", gue, TunnelChecksum::Checksum, "10.0.0.1"),
            ("gre", TunnelKind::Gre, TunnelChecksum::None, "10.0.0.1"),
            ("gre with checksum", TunnelKind::Gre, TunnelChecksum::Checksum, "10.0.0.1"),
        ] {
            let source: IpAddr = over.parse().expect("it is an address");
            let outer = Outer { source, destination: source, id: 7, gue_source_port: 40_000, copy_dont_fragment: true };
            let mut out = Vec::with_capacity(len + 100);
            group.bench_function(BenchmarkId::new(format!("tunnel {name}"), len), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    tunnel::encapsulate(black_box(&packet), &headers, Tunnel { kind, checksum }, &outer, &mut out);
                    black_box(&out);
                });
            });
        }
    }
    group.finish();
}

/// What changes incrementally (RFC 1624), and what it would cost to sum all up again.
fn checksums(criterion: &mut Criterion) {
    let mut group = group(criterion, "checksum");
    let new = traffic::server(0);
    group.bench_function("incremental: address and port", |bencher| {
        bencher.iter(|| {
            Sum::of_field(black_box(0x1234)).replace_address(traffic::VIP.into(), new).replace_word(80, 8080).checksum()
        });
    });
    group.bench_function("incremental: TTL", |bencher| bencher.iter(|| checksum::after_ttl_decrement(black_box(0x1234))));
    for len in [20, 46, 1480] {
        let bytes = vec![0x5a; len];
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: len as u64 });
        group.bench_function(BenchmarkId::new("from scratch", len), |bencher| {
            bencher.iter(|| checksum::internet(black_box(&bytes)));
        });
        group.bench_function(BenchmarkId::new("sctp (CRC32c)", len), |bencher| {
            bencher.iter(|| checksum::sctp(&[black_box(&bytes)]));
        });
    }
    group.finish();
}

/// Runs these benchmarks.
pub fn all(criterion: &mut Criterion) {
    classify(criterion);
    track(criterion);
    schedule(criterion);
    rewrite(criterion);
    checksums(criterion);
}
