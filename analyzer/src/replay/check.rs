//! What is compared with what.

use super::frames::{Frames, StoredFrame};
use super::known::Known;
use super::load::Loaded;
use super::place::{Place, Places};
use super::work::{Worked, interface_name};
use super::{Request, Source};
use crate::compare::ignore::Ignore;
use crate::compare::{self, Comparison, Frame, Options};
use lvscheck_engine::Nanos;
use lvscheck_engine::config::{DirectorConfig, InterfaceId};
use lvscheck_engine::settle::Trial;

/// How reports call frames of a golden, and those of the replayed capture that the director sent.
pub(super) const GOLDEN: &str = "golden";
pub(super) const SENT: &str = "frame sent by the real director";

/// Compares.
pub struct Check<'a> {
    pub request: &'a Request,
    pub config: &'a DirectorConfig,
    pub loaded: &'a Loaded,
    pub golden: Option<&'a Loaded>,
    pub ignore: Ignore,
}

impl Check<'_> {
    /// What the director emitted with the golden.
    pub fn golden(&self, worked: &Worked) -> Option<Comparison> {
        match (&self.request.golden, self.golden) {
            (Some(Source::Same), _) => Some(self.same(worked)),
            (Some(Source::File(_)), Some(golden)) => {
                let names: Vec<Option<&str>> = golden
                    .interfaces
                    .iter()
                    .map(|name| name.as_deref().filter(|name| self.config.interface(name).is_some()))
                    .collect();
                let expected: Vec<Frame<'_>> = golden
                    .frames
                    .records()
                    .iter()
                    .map(|frame| captured(&golden.frames, frame, names.get(frame.interface as usize).copied().flatten()))
                    .collect();
                Some(self.compare(&expected, &self.emitted(&worked.emitted, |_| true), worked, GOLDEN))
            }
            _ => None,
        }
    }

    /// How well a replay agrees with the golden, and on which draws it hung what it did around the first difference.
    pub fn trial(&self, worked: &Worked) -> Trial {
        let Some(result) = self.golden(worked) else { return Trial::default() };
        let positions = result.findings.iter().filter_map(|finding| {
            let place = |number: u64| (number as usize).saturating_sub(1);
            match (finding.actual.map(place), finding.expected.map(place)) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            }
        });
        let agreed = positions.min().unwrap_or(worked.emitted.len());
        let time = |frames: &Frames| frames.records().get(agreed).map_or(Nanos::NEVER, |frame| frame.time);
        let when = time(&worked.emitted).min(self.golden.map_or(Nanos::NEVER, |golden| time(&golden.frames)));
        let within = |from: Nanos, to: Nanos| -> Vec<_> {
            worked.doubts.iter().filter(|(at, _)| *at > from && *at <= to).map(|(_, doubt)| *doubt).collect()
        };
        Trial {
            agreed,
            differences: result.total() as usize,
            doubts: worked.doubts.iter().take_while(|(at, _)| *at <= when).map(|(_, doubt)| *doubt).collect(),
            later: within(when, when + Nanos::from_secs(1)),
        }
    }

    /// With what the capture shows that the director itself sent. When a real director asks for a neighbour depends on what
    /// it knew before, so requests for neighbours are left out on both sides.
    fn same(&self, worked: &Worked) -> Comparison {
        let places = Places::new(self.config, self.loaded.interfaces.iter().map(Option::as_deref));
        let expected: Vec<Frame<'_>> = worked
            .sent
            .records()
            .iter()
            .filter(|frame| !asks_for_neighbour(worked.sent.bytes(frame)))
            .map(|frame| {
                let bytes = worked.sent.bytes(frame);
                let name = match places.of(frame.interface, bytes) {
                    Place::Sent(InterfaceId(number)) => interface_name(self.config, number.into()),
                    _ => None,
                };
                captured(&worked.sent, frame, name)
            })
            .collect();
        let actual = self.emitted(&worked.emitted, |bytes| !asks_for_neighbour(bytes));
        self.compare(&expected, &actual, worked, SENT)
    }

    /// Answers that the client saw with what the director makes of the frames behind them.
    pub fn replies(&self, worked: &Worked) -> Option<Comparison> {
        if worked.replies_seen.is_empty() {
            return None;
        }
        let expected: Vec<Frame<'_>> =
            worked.replies_seen.records().iter().map(|frame| captured(&worked.replies_seen, frame, None)).collect();
        let made = &worked.replies_made;
        let actual: Vec<Frame<'_>> = made.records().iter().map(|frame| stored(made, frame, None)).collect();
        Some(compare::compare(&expected, &actual, &options_of_replies(self.config, &self.ignore), &()))
    }

    fn compare(&self, expected: &Vec<Frame<'_>>, actual: &Vec<Frame<'_>>, worked: &Worked, label: &str) -> Comparison {
        let cause = |place: usize| worked.causes.get(actual.get(place)?.number.checked_sub(1)? as usize).copied();
        let context = Known { cause, director: &worked.director, config: self.config };
        compare::compare(expected, actual, &options(self.config, &self.ignore, label), &context)
    }

    fn emitted<'f>(&'f self, frames: &'f Frames, keep: impl Fn(&[u8]) -> bool) -> Vec<Frame<'f>> {
        let kept = frames.records().iter().filter(|frame| keep(frames.bytes(frame)));
        kept.map(|frame| stored(frames, frame, Some(self.config))).collect()
    }
}

/// How to compare with expected frames that reports call so.
pub(super) fn options(config: &DirectorConfig, ignore: &Ignore, label: &str) -> Options {
    let (low, high) = config.sysctls.ip_local_port_range;
    Options { ignore: ignore.clone(), local_ports: low..=high, expected_label: label.to_owned(), ..Options::default() }
}

/// How to compare answers that clients saw.
pub(super) fn options_of_replies(config: &DirectorConfig, ignore: &Ignore) -> Options {
    Options { actual_label: "answer".to_owned(), ..options(config, ignore, "captured frame") }
}

/// A frame that the director emitted, whose interface has a name if the director is described.
pub(super) fn stored<'f>(frames: &'f Frames, frame: &StoredFrame, config: Option<&'f DirectorConfig>) -> Frame<'f> {
    Frame {
        number: frame.number,
        time: frame.time,
        interface: config.and_then(|config| interface_name(config, frame.interface)),
        bytes: frames.bytes(frame),
        wire_len: frame.wire_len,
        drawn: frames.drawn(frame),
        late: frame.late,
    }
}

/// A frame of a capture.
pub(super) fn captured<'f>(frames: &'f Frames, frame: &StoredFrame, interface: Option<&'f str>) -> Frame<'f> {
    let (bytes, wire_len) = unpadded(frames.bytes(frame), frame.wire_len);
    Frame { number: frame.number, time: frame.time, interface, bytes, wire_len, drawn: &[], late: false }
}

/// A captured frame and its length on the wire without padding up to Ethernet's smallest frame, which a director never sends
/// itself but a NIC adds.
pub(super) fn unpadded(whole: &[u8], wire_len: u32) -> (&[u8], u32) {
    let bytes = if wire_len == 60 && whole.len() == 60 { without_padding(whole) } else { whole };
    (bytes, wire_len - (whole.len() - bytes.len()) as u32)
}

/// A 60-byte frame without the zeros behind its packet.
fn without_padding(frame: &[u8]) -> &[u8] {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8])) {
        at += 4;
    }
    let word = |from: usize| frame.get(from..from + 2).map_or(0, |pair| usize::from(u16::from_be_bytes([pair[0], pair[1]])));
    let end = match word(at) {
        0x0800 => at + 2 + word(at + 4),
        0x86dd => at + 42 + word(at + 6),
        0x0806 => at + 30,
        _ => frame.len(),
    };
    match frame.get(end..) {
        Some(rest) if end > 14 && rest.iter().all(|byte| *byte == 0) => &frame[..end],
        _ => frame,
    }
}

/// An ARP request or a neighbour solicitation.
pub(super) fn asks_for_neighbour(frame: &[u8]) -> bool {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8])) {
        at += 4;
    }
    match frame.get(at..at + 2) {
        Some([0x08, 0x06]) => frame.get(at + 9) == Some(&1),
        Some([0x86, 0xdd]) => frame.get(at + 8) == Some(&58) && frame.get(at + 42) == Some(&135),
        _ => false,
    }
}
