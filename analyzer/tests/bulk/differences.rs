//! Goldens that differ: large captures are compared stretch by stretch, and what is told of them is what the careful way tells.

use super::*;
use lvscheck::compare::Comparison;
use lvscheck::compare::FindingKind::{self, Duplicated, Field, Missing, Moved, RealServer, Unexpected};
use lvscheck::describe;
use lvscheck::replay::{InputFrame, Places, Session, Sink};
use lvscheck_engine::draws::Draw;
use lvscheck_engine::verdict::Verdict;
use lvscheck_engine::{Draws, EmittedFrame};

/// The records of a pcap file.
fn records(capture: &[u8]) -> Vec<Vec<u8>> {
    let mut at = 24;
    let mut records = Vec::new();
    while at < capture.len() {
        let end = end_of_record(capture, at);
        records.push(capture[at..end].to_vec());
        at = end;
    }
    records
}

/// Replays both ways with a golden that was changed; they agree. Returns what was found of each kind.
fn found(folder: &Path, mode: Method, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<(FindingKind, u64)> {
    let [fast, careful] = both(folder, mode, change);
    same(&fast, &careful);
    fast.golden.unwrap().counts.into_iter().collect()
}

/// Replays both ways with a golden that was changed; what they write is the same.
fn both(folder: &Path, mode: Method, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> [Outcome; 2] {
    let golden = std::fs::read(folder.join("golden.pcap")).unwrap();
    let mut changed = records(&golden);
    change(&mut changed);
    std::fs::write(folder.join("changed.pcap"), [&golden[..24], &changed.concat()].concat()).unwrap();
    let [fast, careful] = [true, false].map(|bulk| {
        let written = format!("{bulk}.pcap");
        let mut outcome = replayed(folder, bulk, Some("changed.pcap"), Some(&written)).outcome;
        // Of two copies, either may be the one that is too much.
        let findings = outcome.golden.iter_mut().flat_map(|golden| &mut golden.findings);
        for finding in findings.filter(|finding| finding.kind == Duplicated) {
            (finding.expected, finding.message) = (None, String::new());
        }
        (outcome, std::fs::read(folder.join(&written)).unwrap())
    });
    assert!(fast.1 == careful.1, "{mode:?}: what left is written the same");
    assert!(went_one_by_one(&fast.0), "{mode:?}");
    [fast.0, careful.0]
}

#[test]
fn differences_are_told_the_same_in_stretches() {
    for mode in [Method::Dr, Method::Fullnat] {
        let folder = tempfile::tempdir().unwrap();
        traffic(folder.path(), mode);
        replayed(folder.path(), true, None, Some("golden.pcap"));
        let found = |change: &dyn Fn(&mut Vec<Vec<u8>>)| found(folder.path(), mode, change);
        // In the first stretch, at the end of one, and in the last one.
        let places = [70, 24_000, 32_767, 32_768, 50_000, 66_000];
        // The last byte of the payload, if there is one.
        let changed = |records: &mut Vec<Vec<u8>>| places.iter().for_each(|at| *records[*at].last_mut().unwrap() ^= 0x40);
        assert_eq!(found(&changed), [(Field, 6)], "{mode:?}");
        if mode == Method::Fullnat {
            // Draws are tried there, sixteen replays for each difference.
            continue;
        }
        assert_eq!(found(&|records| places.iter().rev().for_each(|at| drop(records.remove(*at)))), [(Unexpected, 6)], "{mode:?}");
        let twice = |records: &mut Vec<Vec<u8>>| places.iter().for_each(|at| records.insert(*at, records[*at].clone()));
        assert_eq!(found(&twice), [(Duplicated, 6)], "{mode:?}");
        let later = |records: &mut Vec<Vec<u8>>| {
            for at in places {
                let record = records.remove(at);
                records.insert(at + 100, record);
            }
        };
        assert_eq!(found(&later), [(Moved, 6)], "{mode:?}");
    }
}

#[test]
fn sides_may_end_before_each_other() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Nat);
    replayed(folder.path(), true, None, Some("golden.pcap"));
    let [fast, careful] = both(folder.path(), Method::Nat, |records| {
        records.last_mut().unwrap().pop();
    });
    assert!(fast.input.warnings.len() == 1 && !fast.conforms(), "the golden's last record is cut");
    same(&fast, &careful);
    // Copies far apart are not known as such in stretches, so that kinds differ.
    for (kept, more, kind) in [(40_000, 0, Unexpected), (0, 0, Unexpected), (80_000, 60_000, Missing)] {
        let [fast, careful] = both(folder.path(), Method::Nat, |records| {
            records.truncate(kept);
            let other = |record: &Vec<u8>| [&record[..record.len() - 1], &[0x77]].concat();
            let others: Vec<Vec<u8>> = records.iter().take(more).map(other).collect();
            records.extend(others);
        });
        let [fast, careful] = [fast, careful].map(|outcome| outcome.golden.unwrap());
        let numbers = |golden: &Comparison| (golden.expected, golden.actual, golden.equal, golden.total());
        assert_eq!(numbers(&fast), numbers(&careful));
        assert!(fast.counts[&kind] > 30_000, "{:?}", fast.counts);
    }
}

/// Sends the connections of one client in ten to another real server.
fn elsewhere(records: &mut [Vec<u8>]) {
    let servers: Vec<[u8; 6]> = records[..100].iter().map(|record| record[16..22].try_into().unwrap()).collect();
    for record in records.iter_mut().filter(|record| record.len() > 60 && record[16 + 29] % 10 == 0) {
        let other = servers.iter().find(|server| **server != record[16..22]).unwrap();
        record[16..22].copy_from_slice(other);
    }
}

#[test]
fn a_connection_that_went_elsewhere_is_one_finding_in_however_many_stretches() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Dr);
    replayed(folder.path(), true, None, Some("golden.pcap"));
    let counts = found(folder.path(), Method::Dr, |records| elsewhere(records));
    assert_eq!(counts.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [RealServer]);
    assert!(counts[0].1 > 500);
}

#[test]
fn everything_may_differ() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Nat);
    replayed(folder.path(), true, None, Some("golden.pcap"));
    let counts = found(folder.path(), Method::Nat, |records| records.iter_mut().for_each(|record| record[16 + 6] ^= 4));
    assert_eq!(counts.len(), 1);
    assert!(counts[0].0 == Field && counts[0].1 > 60_000);
}

/// Replays a capture both ways by a request; they agree.
fn requested(folder: &Path, capture: &str, golden: Source, observe: bool) -> Outcome {
    let [fast, careful] = [true, false].map(|bulk| {
        let request = Request {
            captures: vec![folder.join(capture)],
            config: Some(folder.join("director")),
            golden: Some(golden.clone()),
            observe,
            bulk,
            ..Request::default()
        };
        replay::run(&request).unwrap().outcome
    });
    same(&fast, &careful);
    assert!(went_one_by_one(&fast));
    fast
}

#[test]
fn what_the_director_sent_is_compared_in_stretches() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Dr);
    replayed(folder.path(), true, None, Some("golden.pcap"));
    let read = |name: &str| records(&std::fs::read(folder.path().join(name)).unwrap());
    let (arrived, sent) = (read("traffic.pcap"), read("golden.pcap"));
    let with = |sent: &[Vec<u8>]| {
        let mut all = [&arrived[..], sent].concat();
        // Those that arrived stand before those that were sent for them.
        all.sort_by_key(|record| {
            [&record[..8]].map(|time| (time[3], time[2], time[1], time[0], time[7], time[6], time[5], time[4]))
        });
        let head = std::fs::read(folder.path().join("traffic.pcap")).unwrap()[..24].to_vec();
        std::fs::write(folder.path().join("all.pcap"), [head, all.concat()].concat()).unwrap();
    };
    with(&sent);
    let outcome = requested(folder.path(), "all.pcap", Source::Same, false);
    assert!(outcome.conforms() && outcome.golden.is_some_and(|golden| golden.equal > 60_000));
    with(&[&sent[..50_000], &sent[50_001..]].concat());
    let outcome = requested(folder.path(), "all.pcap", Source::Same, false);
    assert_eq!(outcome.golden.map(|golden| golden.total()), Some(1));
}

#[test]
fn real_servers_of_large_goldens_are_observed() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Dr);
    replayed(folder.path(), true, None, Some("golden.pcap"));
    let golden = std::fs::read(folder.path().join("golden.pcap")).unwrap();
    let mut changed = records(&golden);
    elsewhere(&mut changed);
    std::fs::write(folder.path().join("changed.pcap"), [&golden[..24], &changed.concat()].concat()).unwrap();
    let outcome = requested(folder.path(), "traffic.pcap", Source::File(folder.path().join("changed.pcap")), true);
    assert!(outcome.conforms(), "{:?}", outcome.golden);
}

/// Writes what leaves.
struct Written(Writer);

impl Sink for Written {
    fn emitted(&mut self, frame: EmittedFrame<'_>, _: Option<u64>, _: Option<Verdict>) {
        self.0.write(frame.time, 0, frame.bytes, frame.bytes.len() as u32, None).unwrap();
    }

    fn reply(&mut self, _: InputFrame<'_>, _: EmittedFrame<'_>) {}

    fn sent(&mut self, _: InputFrame<'_>) {}
}

#[test]
fn draws_that_decide_are_tried_in_stretches() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Fullnat);
    let setup = folder.path().join("director/setup.sh");
    let mut text = std::fs::read_to_string(&setup).unwrap();
    for (last, service) in [(212, "-t"), (213, "-t"), (212, "-u"), (213, "-u")] {
        text.push_str(&format!("ipvsadm --add-laddr -z 10.0.0.{last} {service} 200.200.200.1:80 -F dpdk1\n"));
    }
    std::fs::write(&setup, text).unwrap();
    let config = describe::load(&folder.path().join("director")).unwrap().config;
    // The local address of two connections of thousands advances by two, and so do those behind it.
    let mut draws = Draws::default();
    [3_000, 6_000].into_iter().for_each(|number| draws.learn(Draw::DoubleStep(number), 1));
    let mut session = Session::new(&config, Places::new(&config, [Some("eth0")]), draws, false, false).unwrap();
    let mut written = Written(Writer::create(&folder.path().join("golden.pcap"), &["eth0"]).unwrap());
    let mut reader = Reader::open(&folder.path().join("traffic.pcap")).unwrap();
    let mut records = Vec::new();
    let mut last = Nanos(0);
    while let Some(window) = reader.next_window(&mut records, usize::MAX).unwrap() {
        for frame in window.frames() {
            let lvscheck::capture::Frame { number, time, interface, bytes, wire_len, .. } = frame;
            session.step(InputFrame { number, time, interface, bytes, wire_len }, &mut written);
            last = time;
        }
    }
    session.advance(last, &mut written);
    written.0.finish().unwrap();
    let [fast, careful] = [true, false].map(|bulk| replayed(folder.path(), bulk, Some("golden.pcap"), None).outcome);
    same(&fast, &careful);
    assert!(fast.conforms() && went_one_by_one(&fast));
    assert_eq!(fast.golden.unwrap().learned["decision"], 2);
}
