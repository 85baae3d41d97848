//! Batch equals serial: random directors, random traffic with oddities, any number of threads, any size of windows.
#![allow(clippy::unwrap_used)]

mod fullnat;
mod world;

use super::*;
use crate::config::{
    Address, AddressScope, Command, DirectorConfig, ForwardingMethod, Interface, InterfaceId, MacAddr, MarkRule, NeighbourEntry,
    Network, Persistence, Protocol, Route, RouteKind, ScheduledCommand, SchedulerFlags, SchedulerKind, ServerKey, ServerSettings,
    ServiceKey, ServiceSettings, TimeoutSettings, Tunnel, VlanProtocol, VlanTag,
};
use crate::director::Arrival;
use crate::draws::Draws;
use crate::output::DrawnField;
use crate::packet::checksum;
use crate::verdict::Verdict;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use world::*;

const FRONT: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
const BACK: MacAddr = MacAddr([2, 0, 0, 0, 2, 0]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

/// All that a sink can see, in order.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Frame { time: Nanos, interface: InterfaceId, bytes: Vec<u8>, drawn: Vec<DrawnField>, late: bool, cut: u32 },
    Verdict(usize, Verdict),
}

#[derive(Default)]
struct Collected {
    part: usize,
    seen: Vec<Seen>,
    emitted: Emitted,
}

impl Sink for Collected {
    type Piece = (Emitted, Vec<Seen>);

    fn piece(&self, before: Emitted) -> Self::Piece {
        (before, Vec::new())
    }

    fn frame(&self, piece: &mut Self::Piece, leaving: Leaving<'_>) {
        let frame = leaving.frame;
        piece.1.push(Seen::Frame {
            time: frame.time,
            interface: frame.interface,
            bytes: leaving.to_vec(),
            drawn: frame.drawn.to_vec(),
            late: frame.late,
            cut: frame.cut,
        });
    }

    fn verdict(&self, piece: &mut Self::Piece, part: usize, number: usize, verdict: Verdict) {
        piece.1.push(Seen::Verdict(part * self.part + number, verdict));
    }

    fn collect(&mut self, (before, seen): Self::Piece) {
        assert_eq!(before, self.emitted, "what was announced is what came");
        for seen in &seen {
            if let Seen::Frame { bytes, .. } = seen {
                self.emitted.frames += 1;
                self.emitted.bytes += bytes.len() as u64;
            }
        }
        self.seen.extend(seen);
    }
}

fn one_by_one(config: &DirectorConfig, arrivals: &[Arrival<'_>]) -> (Vec<Seen>, Director) {
    let mut director = Director::new(config, Draws::default()).unwrap();
    let mut seen = Vec::new();
    let mut out = Output::default();
    for (number, arrival) in arrivals.iter().enumerate() {
        out.clear();
        let verdict = director.receive(*arrival, &mut out);
        seen.extend(out.frames().map(|frame| Seen::Frame {
            time: frame.time,
            interface: frame.interface,
            bytes: frame.bytes.to_vec(),
            drawn: frame.drawn.to_vec(),
            late: frame.late,
            cut: frame.cut,
        }));
        seen.push(Seen::Verdict(number, verdict));
    }
    (seen, director)
}

static POOLS: LazyLock<Vec<rayon::ThreadPool>> =
    LazyLock::new(|| (1..=8).map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()).collect());

/// How a window is cut and worked on.
#[derive(Clone, Copy, Debug)]
struct Cut {
    threads: usize,
    window: usize,
    part: usize,
    shortest_run: usize,
}

/// Compares both ways; returns how many packets took the parallel one.
fn compare(config: &DirectorConfig, arrivals: &[Arrival<'_>], cut: Cut) -> u64 {
    let (expected, mut serial) = one_by_one(config, arrivals);
    // One thread goes the way of short runs.
    let worth_sharing = if cut.threads == 1 { usize::MAX } else { 0 };
    let mut batch = Batch::new(Director::new(config, Draws::default()).unwrap()).with_runs_of(cut.shortest_run, worth_sharing);
    let mut found = Vec::new();
    POOLS[cut.threads - 1].install(|| {
        for (window, arrivals) in arrivals.chunks(cut.window).enumerate() {
            let mut sink = Collected { part: cut.part, ..Collected::default() };
            let emitted = batch.process(&Slice::new(arrivals, cut.part), &mut sink, &mut |_| {});
            assert_eq!(emitted, sink.emitted);
            found.extend(sink.seen.into_iter().map(|seen| match seen {
                Seen::Verdict(number, verdict) => Seen::Verdict(window * cut.window + number, verdict),
                frame => frame,
            }));
        }
    });
    for (number, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert_eq!(expected, found, "event {number}");
    }
    assert_eq!(expected.len(), found.len());
    let now = arrivals.last().map_or(Nanos(0), |arrival| arrival.time);
    let mut out = Output::default();
    for later in [0, 1, 70, 1000] {
        let now = now + Nanos::from_secs(later);
        serial.advance(now, &mut out);
        batch.director_mut().advance(now, &mut out);
        assert_eq!(serial.client_addresses(), batch.director().client_addresses(), "client addresses {later} s later");
        assert_eq!(serial.services(), batch.director().services(), "services {later} s later");
        assert_eq!(serial.connections(now), batch.director().connections(now), "connections {later} s later");
    }
    assert_eq!(batch.handled().serial + batch.handled().parallel, arrivals.len() as u64);
    batch.handled().parallel
}

/// What makes a packet's frame: where it arrives, its bytes, its length on the wire.
type Framing = fn(&Packet) -> (InterfaceId, Vec<u8>, u32);

fn run_case(config: &DirectorConfig, packets: &[Packet], cut: Cut) -> u64 {
    run_frames(config, packets, cut, frame)
}

fn run_frames(config: &DirectorConfig, packets: &[Packet], cut: Cut, framing: Framing) -> u64 {
    let mut time = 1_700_000_000_000_000_000u64;
    let frames: Vec<(u64, InterfaceId, Vec<u8>, u32)> = packets
        .iter()
        .map(|packet| {
            time = if packet.back_in_time { time - packet.gap.min(3_000_000_000) } else { time + packet.gap };
            let (on, bytes, wire) = framing(packet);
            (time, on, bytes, wire)
        })
        .collect();
    let arrivals: Vec<Arrival<'_>> = frames
        .iter()
        .map(|(time, interface, bytes, wire)| Arrival {
            time: Nanos(*time),
            interface: *interface,
            frame: bytes,
            wire_len: *wire,
        })
        .collect();
    compare(config, &arrivals, cut)
}

fn cuts() -> impl Strategy<Value = Cut> {
    (1usize..=8, prop_oneof![1usize..4, 1usize..400], prop_oneof![1usize..4, 1usize..100], prop_oneof![1usize..3, 1usize..40])
        .prop_map(|(threads, window, part, shortest_run)| Cut { threads, window, part, shortest_run })
}

/// How many packets of the cases so far took the parallel way, of how many: a test of batch that never leaves the serial way
/// would hold for any batch.
#[derive(Default)]
struct Share {
    parallel: AtomicU64,
    all: AtomicU64,
}

impl Share {
    fn add(&self, parallel: u64, all: usize) {
        self.parallel.fetch_add(parallel, Ordering::Relaxed);
        self.all.fetch_add(all as u64, Ordering::Relaxed);
    }

    fn percent(&self) -> u64 {
        100 * self.parallel.load(Ordering::Relaxed) / self.all.load(Ordering::Relaxed).max(1)
    }
}

/// How many cases each property is tried with.
const CASES: u32 = 1500;

/// Tries many cases. Each gives how many packets took the parallel way, and how many there were; at least that share must take it.
fn try_cases<C: Strategy>(cases: C, least_percent: u64, case: impl Fn(C::Value) -> (u64, usize)) {
    let share = Share::default();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(CASES));
    let result = runner.run(&cases, |values| {
        let (parallel, all) = case(values);
        share.add(parallel, all);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(share.percent() >= least_percent, "only {} % took the parallel way", share.percent());
}

/// A client's port that reaches one real server by two services, of which the second one is opened in the run of the answer.
#[test]
fn an_answer_belongs_to_the_newer_of_two_connections_that_look_alike() {
    let service = |port| ServicePlan {
        scheduler: SchedulerKind::Rr,
        flags: SchedulerFlags::default(),
        persistence: None,
        one_packet: false,
        servers: vec![ServerPlan { method: 1, weight: 1, upper: 0, port, neighbour: 0 }],
    };
    let odd = Oddities { timeouts: None, sysctls: vec![], vlan: false, mark: false, changes: vec![], router_known: true };
    let packet = |service, flags, from_server| {
        let (gap, back_in_time, client, port, payload, oddity) = (0, false, 1, 1028, 0, 0);
        Packet { gap, back_in_time, service, client, port, flags, payload, from_server, oddity }
    };
    let packets = [packet(2, 2, None), packet(0, 2, None), packet(2, 18, Some((0, 80)))];
    let config = director(&[service(80), service(8080), service(80)], &odd);
    run_case(&config, &packets, Cut { threads: 1, window: 3, part: 1, shortest_run: 1 });
}

fn try_linux(plain_director: bool, plain_traffic: bool, least_percent: u64) {
    let cases = (services(plain_director), oddities(plain_director), packets(plain_traffic, 400), cuts());
    try_cases(cases, least_percent, |(services, odd, mut packets, cut)| {
        if plain_traffic {
            // Only to services that there are.
            packets.iter_mut().for_each(|packet| packet.service %= services.len() as u8);
        }
        (run_case(&director(&services, &odd), &packets, cut), packets.len())
    });
}

#[test]
fn batch_equals_serial_for_odd_directors_and_traffic() {
    try_linux(false, false, 0);
}

#[test]
fn batch_equals_serial_for_plain_directors_and_odd_traffic() {
    try_linux(true, false, 2);
}

#[test]
fn batch_equals_serial_for_plain_directors_and_plain_traffic() {
    try_linux(true, true, 8);
}

/// Clients that do what clients do, with every scheduler that counts or remembers, take the parallel way nearly always.
#[test]
fn orderly_traffic_takes_the_parallel_way() {
    for (method, scheduler) in [(0, "wlc"), (0, "rr"), (1, "lc"), (1, "wrr"), (0, "sh"), (0, "mh"), (1, "twos"), (0, "lblcr")] {
        let plan = |weight| ServerPlan { method, weight, upper: 0, port: 8080, neighbour: 0 };
        let service = ServicePlan {
            scheduler: SchedulerKind::by_name(scheduler).unwrap(),
            flags: SchedulerFlags::default(),
            persistence: None,
            one_packet: false,
            servers: vec![plan(1), plan(3), plan(2)],
        };
        let odd = Oddities { timeouts: None, sysctls: vec![], vlan: false, mark: false, changes: vec![], router_known: true };
        let config = director(&[service], &odd);
        let mut packets = Vec::new();
        for step in 0..8u8 {
            for port in 0..200u16 {
                for client in 0..3u8 {
                    let flags = [0x02, 0x10, 0x18, 0x18, 0x18, 0x11, 0x10, 0x04][usize::from(step)];
                    let from_server = (method == 1 && step == 3).then_some((port as u8 % 3, 8080));
                    let gap = if port == 199 { 400_000_000 } else { 1000 };
                    packets.push(Packet {
                        gap,
                        back_in_time: false,
                        service: 0,
                        client,
                        port: 2000 + port,
                        flags,
                        payload: 6,
                        from_server: from_server.filter(|_| port < 3),
                        oddity: 0,
                    });
                }
            }
        }
        let mut least = u64::MAX;
        for (threads, window) in [(1, 5000), (2, 1000), (3, 2500), (8, 700)] {
            let cut = Cut { threads, window, part: 128, shortest_run: 32 };
            least = least.min(run_case(&config, &packets, cut) * 100 / packets.len() as u64);
        }
        assert!(least > 80, "{scheduler}: {least} %");
    }
}
