//! How fast captures are read, written and replayed, end to end but for the process itself: `ci/throughput` measures that
//! beside other programs. Files lie in a temporary folder.

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use lvscheck::capture::{BulkReader, BulkWindow, Container, Input, Reader, Writer};
use lvscheck::generate::{self, GenerateArgs, Method};
use lvscheck::replay::{self, Request, Source};
use lvscheck_engine::Nanos;
use rayon::ThreadPoolBuilder;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

const FLOWS: u64 = 20_000;
const PACKETS: u64 = 200_000;
/// Bytes that a replay reads at a time.
const WINDOW: usize = 32 << 20;

const METHODS: [(&str, Method); 3] = [("dr", Method::Dr), ("nat", Method::Nat), ("tunnel", Method::Tunnel)];

/// A director that serves the traffic, and the traffic, the same for each.
fn traffic(folder: &Path, name: &str, mode: Method) -> PathBuf {
    let capture = folder.join("traffic.pcap");
    let args = GenerateArgs {
        flows: FLOWS,
        packets: Some(PACKETS),
        director: Some(folder.join(name)),
        mode,
        ..GenerateArgs::new(&capture)
    };
    generate::run(&args).expect("the traffic can be made");
    capture
}

fn replays(criterion: &mut Criterion, folder: &Path) {
    let mut group = criterion.benchmark_group("replay");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500));
    for (name, mode) in METHODS {
        let capture = traffic(folder, name, mode);
        let bytes = std::fs::metadata(&capture).expect("it was just made").len();
        group.throughput(Throughput::ElementsAndBytes { elements: PACKETS, bytes });
        let (golden, written) = (folder.join(format!("{name}.pcap")), folder.join("written.pcap"));
        let request = Request { captures: vec![capture], config: Some(folder.join(name)), bulk: true, ..Request::default() };
        let with_write = Request { write: Some(golden.clone()), ..request.clone() };
        replay::run(&with_write).expect("the traffic can be replayed");
        let tasks = [
            ("--golden", Request { golden: Some(Source::File(golden)), ..request.clone() }),
            ("-w", Request { write: Some(written), ..request }),
        ];
        for (task, request) in &tasks {
            for threads in [1, 2] {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
                group.bench_function(BenchmarkId::new(format!("{task}, threads {threads}"), name), |bencher| {
                    bencher.iter(|| {
                        let replayed = pool.install(|| replay::run(request)).expect("it was replayed before");
                        assert!(replayed.outcome.conforms());
                    });
                });
            }
        }
    }
    group.finish();
}

/// A capture of the same frames in another container.
fn convert(capture: &Path, to: &Path, container: Container) {
    let mut writer = Writer::create_as(to, container, &["eth0"]).expect("the folder can be written");
    let mut reader = Reader::open(capture).expect("it was just made");
    let mut records = Vec::new();
    while let Some(window) = reader.next_window(&mut records, WINDOW).expect("it is whole") {
        for frame in window.frames() {
            writer.write(frame.time, 0, frame.bytes, frame.wire_len, None).expect("the folder can be written");
        }
    }
    writer.finish().expect("the folder can be written");
}

fn captures(criterion: &mut Criterion, folder: &Path) {
    let capture = traffic(folder, "dr", Method::Dr);
    let pcapng = folder.join("traffic.pcapng");
    convert(&capture, &pcapng, Container::PcapNg);
    let mut group = criterion.benchmark_group("capture");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    for (name, file) in [("pcap", &capture), ("pcapng", &pcapng)] {
        let bytes = std::fs::metadata(file).expect("it was just made").len();
        group.throughput(Throughput::ElementsAndBytes { elements: PACKETS, bytes });
        group.bench_function(BenchmarkId::new("Reader", name), |bencher| {
            let mut records = Vec::new();
            bencher.iter(|| {
                let mut reader = Reader::open(file).expect("it is there");
                let mut frames = 0;
                while let Some(window) = reader.next_window(&mut records, WINDOW).expect("it is whole") {
                    frames += window.frames().map(black_box).count() as u64;
                }
                assert_eq!(frames, PACKETS);
            });
        });
        group.bench_function(BenchmarkId::new("BulkReader", name), |bencher| {
            let input = Input::new(file).expect("it is there");
            let mut window = BulkWindow::default();
            bencher.iter(|| {
                let mut reader = BulkReader::open(&input).expect("it is there");
                let mut frames = 0;
                while reader.next_window(&mut window, WINDOW, &|_, _| Some(0)).expect("it is whole") {
                    frames += black_box(&window).len() as u64;
                }
                assert_eq!(frames, PACKETS);
            });
        });
    }
    let frame = [0x5a; 60];
    let (elements, written) = (PACKETS, folder.join("written"));
    for (name, container) in [("pcap", Container::Pcap), ("pcapng", Container::PcapNg)] {
        group.throughput(Throughput::ElementsAndBytes { elements, bytes: PACKETS * frame.len() as u64 });
        group.bench_function(BenchmarkId::new("Writer", name), |bencher| {
            bencher.iter(|| {
                let mut writer = Writer::create_as(&written, container, &["eth0"]).expect("the folder can be written");
                for number in 0..PACKETS {
                    writer.write(Nanos(number), 0, &frame, 64, None).expect("the folder can be written");
                }
                writer.finish().expect("the folder can be written");
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let folder = tempfile::tempdir().expect("there is a temporary folder");
    captures(&mut criterion, folder.path());
    replays(&mut criterion, folder.path());
    criterion.final_summary();
}
