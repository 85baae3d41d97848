//! A director at work on windows of frames: each stage of the batch composition on one thread, the whole of it on one and
//! two, and beside it the serial composition, one frame at a time.

use super::traffic;
use criterion::{BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput};
use lvscheck_engine::batch::{Batch, Emitted, Leaving, Sink, Slice, Stage};
use lvscheck_engine::config::{ForwardingMethod, Tunnel, TunnelChecksum, TunnelKind};
use lvscheck_engine::{Arrival, Director, Draws, Output, Verdict};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::hint::black_box;
use std::time::{Duration, Instant};

const FLOWS: usize = 5_000;
const PACKETS: usize = 50_000;
/// A frame of 64 bytes with FCS.
const LEN: usize = 60;
/// Frames that one thread takes at a time, as in a replay.
const PART: usize = 8_192;

const METHODS: [(&str, ForwardingMethod); 5] = [
    ("dr", ForwardingMethod::Dr),
    ("nat", ForwardingMethod::Nat),
    ("ipip", ForwardingMethod::Tunnel(Tunnel { kind: TunnelKind::Ipip, checksum: TunnelChecksum::None })),
    ("gue", ForwardingMethod::Tunnel(Tunnel { kind: TunnelKind::Gue { port: 6080 }, checksum: TunnelChecksum::None })),
    ("gre", ForwardingMethod::Tunnel(Tunnel { kind: TunnelKind::Gre, checksum: TunnelChecksum::None })),
];

/// Takes what leaves and does nothing with it.
struct Discard;

impl Sink for Discard {
    type Piece = ();

    fn piece(&self, _: Emitted) {}

    fn frame(&self, (): &mut (), leaving: Leaving<'_>) {
        black_box((leaving.head, leaving.tail));
    }

    fn verdict(&self, (): &mut (), _part: usize, _number: usize, verdict: Verdict) {
        black_box(verdict);
    }

    fn collect(&mut self, (): ()) {}
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started")
}

fn director(method: ForwardingMethod) -> Director {
    Director::new(&traffic::director(method), Draws::default()).expect("the director's commands are right")
}

/// How long a fresh director is busy with one stage on one window.
fn time_of(wanted: Stage, director: &Director, arrivals: &[Arrival<'_>], pool: &ThreadPool) -> Duration {
    let mut batch = Batch::new(director.clone());
    let mut total = Duration::ZERO;
    let mut now = (Stage::Done, Instant::now());
    pool.install(|| {
        batch.process(&Slice::new(arrivals, PART), &mut Discard, &mut |next| {
            let (stage, since) = std::mem::replace(&mut now, (next, Instant::now()));
            if stage == wanted {
                total += since.elapsed();
            }
        });
    });
    total
}

fn stages(criterion: &mut Criterion) {
    let pool = pool(1);
    let mut group = criterion.benchmark_group("batch stage");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200));
    let mixed = traffic::frames(FLOWS, PACKETS, LEN);
    let openings = traffic::frames(PACKETS, PACKETS, LEN);
    group.throughput(Throughput::Elements(PACKETS as u64));
    let mut stage = |name: &str, stage, id: &str, method, frames: &[Vec<u8>]| {
        let (arrivals, director) = (traffic::arrivals(frames), director(method));
        group.bench_function(BenchmarkId::new(name, id), |bencher| {
            bencher.iter_custom(|runs| (0..runs).map(|_| time_of(stage, &director, &arrivals, &pool)).sum());
        });
    };
    stage("classify", Stage::Classify, "any method", ForwardingMethod::Dr, &mixed);
    stage("track", Stage::Track, "dr", ForwardingMethod::Dr, &mixed);
    stage("track", Stage::Track, "nat", ForwardingMethod::Nat, &mixed);
    stage("schedule", Stage::Schedule, "rr, openings only", ForwardingMethod::Dr, &openings);
    // GUE's source port is a draw, so its packets take the serial way.
    for (name, method) in METHODS.into_iter().filter(|(name, _)| *name != "gue") {
        stage("rewrite", Stage::Rewrite, name, method, &mixed);
    }
    group.finish();
}

fn whole(criterion: &mut Criterion) {
    let frames = traffic::frames(FLOWS, PACKETS, LEN);
    let arrivals = traffic::arrivals(&frames);
    let mut group = criterion.benchmark_group("director");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    group.throughput(Throughput::ElementsAndBytes { elements: PACKETS as u64, bytes: (PACKETS * LEN) as u64 });
    for (name, method) in METHODS {
        let director = director(method);
        group.bench_function(BenchmarkId::new("serial", name), |bencher| {
            let mut out = Output::default();
            bencher.iter_batched_ref(
                || director.clone(),
                |director| {
                    for arrival in &arrivals {
                        out.clear();
                        black_box(director.receive(*arrival, &mut out));
                    }
                },
                BatchSize::PerIteration,
            );
        });
        for threads in [1, 2] {
            let pool = pool(threads);
            group.bench_function(BenchmarkId::new(format!("batch, threads {threads}"), name), |bencher| {
                bencher.iter_batched_ref(
                    || Batch::new(director.clone()),
                    |batch| pool.install(|| batch.process(&Slice::new(&arrivals, PART), &mut Discard, &mut |_| {})),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

/// Runs these benchmarks.
pub fn all(criterion: &mut Criterion) {
    stages(criterion);
    whole(criterion);
}
