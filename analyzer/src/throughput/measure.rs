//! What was measured, and what follows from it: rates, costs, shares of line rate. No clock is read here.

use std::time::Duration;

/// Line rates that reports compare with, in bits per second.
pub const LINE_RATES: [(&str, f64); 4] = [("10 GbE", 10e9), ("25 GbE", 25e9), ("40 GbE", 40e9), ("100 GbE", 100e9)];

/// What Ethernet sends around each frame: preamble and start delimiter (8 bytes), and the gap to the next frame (12).
pub const AROUND_A_FRAME: f64 = 20.0;

/// Frame sizes of RFC 2544 section 9.1 for Ethernet, with FCS.
pub const RFC_2544_SIZES: [u32; 7] = [64, 128, 256, 512, 1024, 1280, 1518];

/// The parts of a replay that are timed apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The capture is read and its records are found.
    Read,
    /// Headers are read and packets are sorted by flow.
    Classify,
    /// Connections are found, opened and moved from state to state.
    Track,
    /// New connections get their real servers, in order.
    Schedule,
    /// Frames are made, and compared or written.
    Rewrite,
    /// Frames that take the serial way.
    Serial,
}

impl Stage {
    /// Every stage, in the order of the work.
    pub const ALL: [Stage; 6] = [Stage::Read, Stage::Classify, Stage::Track, Stage::Schedule, Stage::Rewrite, Stage::Serial];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Classify => "classify",
            Stage::Track => "track",
            Stage::Schedule => "schedule",
            Stage::Rewrite => "rewrite",
            Stage::Serial => "serial",
        }
    }
}

/// One run's times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// From the first byte read to the last result.
    pub elapsed: Duration,
    /// The share of each stage, in the order of [`Stage::ALL`].
    pub stages: [Duration; 6],
}

/// Repeated runs of the same work.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Forwarding mode, as its option names it.
    pub mode: String,
    /// What is done with the frames that come out: `forward` (nothing), `golden` (compared) or `write`.
    pub task: String,
    /// Where the traffic comes from: the capture's name, or what was generated.
    pub traffic: String,
    /// Threads that worked.
    pub threads: usize,
    /// Frames of one run.
    pub packets: u64,
    /// Bytes of these frames on the wire, with FCS, without what is around them.
    pub wire_bytes: u64,
    /// Whether the fast path was taken; the careful one holds the whole capture in memory and handles packets one by one.
    pub fast: bool,
    /// Frames that took the serial way.
    pub serial_packets: u64,
    /// The first run, with all memory fresh and the file as cold as it was.
    pub cold: Run,
    /// The later runs.
    pub warm: Vec<Run>,
}

/// The middle, the best and the worst of repeated measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of some values; zero of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => 0.0,
            count if count % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Spread { median, min: values.first().copied().unwrap_or(0.0), max: values.last().copied().unwrap_or(0.0) }
    }

    /// How far the values lie apart, as a share of the median.
    pub fn width(self) -> f64 {
        if self.median > 0.0 { (self.max - self.min) / self.median } else { 0.0 }
    }
}

impl Series {
    /// Seconds of the warm runs; of the cold one when there is no other.
    pub fn seconds(&self) -> Spread {
        if self.warm.is_empty() {
            Spread::of([self.cold.elapsed.as_secs_f64()])
        } else {
            Spread::of(self.warm.iter().map(|run| run.elapsed.as_secs_f64()))
        }
    }

    /// Packets a second, by the median time.
    pub fn packets_per_second(&self) -> f64 {
        per(self.packets as f64, self.seconds().median)
    }

    /// Bits a second of frames with FCS, by the median time.
    pub fn bits_per_second(&self) -> f64 {
        per(self.wire_bytes as f64 * 8.0, self.seconds().median)
    }

    /// Nanoseconds of wall time a packet.
    pub fn nanos_per_packet(&self) -> Spread {
        let Spread { median, min, max } = self.seconds();
        let each = |seconds| per(seconds * 1e9, self.packets as f64);
        Spread { median: each(median), min: each(min), max: each(max) }
    }

    /// The median nanoseconds a packet of one stage.
    pub fn stage_nanos(&self, stage: Stage) -> f64 {
        let runs = if self.warm.is_empty() { std::slice::from_ref(&self.cold) } else { &self.warm };
        let seconds = Spread::of(runs.iter().map(|run| run.stages[stage as usize].as_secs_f64())).median;
        per(seconds * 1e9, self.packets as f64)
    }

    /// The mean frame on the wire with FCS, in bytes.
    pub fn mean_frame(&self) -> f64 {
        per(self.wire_bytes as f64, self.packets as f64)
    }

    /// Packets a second that a link of that bit rate carries of these frames.
    pub fn line_packets(&self, bits: f64) -> f64 {
        per(bits, (self.mean_frame() + AROUND_A_FRAME) * 8.0)
    }

    /// The rate as a multiple of line rate: 1 and more keeps up.
    pub fn line_share(&self, bits: f64) -> f64 {
        per(self.packets_per_second(), self.line_packets(bits))
    }
}

/// A quotient; zero where nothing was measured.
fn per(amount: f64, of: f64) -> f64 {
    if of > 0.0 { amount / of } else { 0.0 }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn series(threads: usize, size: u64, millis: &[u64]) -> Series {
        let run = |millis: u64| {
            let part = Duration::from_micros(millis * 200);
            Run { elapsed: Duration::from_millis(millis), stages: [part, part, part, part, part, Duration::ZERO] }
        };
        Series {
            mode: "dr".to_owned(),
            task: "golden".to_owned(),
            traffic: format!("{size}-byte frames"),
            threads,
            packets: 1_000_000,
            wire_bytes: 1_000_000 * size,
            fast: true,
            serial_packets: 12,
            cold: run(millis[0]),
            warm: millis[1..].iter().map(|millis| run(*millis)).collect(),
        }
    }

    #[test]
    fn line_rate_of_64_byte_frames_is_the_known_one() {
        let series = series(2, 64, &[90, 40, 50, 60]);
        assert!((series.line_packets(10e9) - 14_880_952.38).abs() < 1.0);
        assert!((series.packets_per_second() - 20e6).abs() < 1.0);
        assert!((series.line_share(10e9) - 1.344).abs() < 1e-9);
        assert!((series.nanos_per_packet().min - 40.0).abs() < 1e-9);
        assert!((series.stage_nanos(Stage::Track) - 10.0).abs() < 1e-9);
        assert!((series.seconds().width() - 0.4).abs() < 1e-9);
    }

    #[test]
    fn the_spread_of_few_values() {
        assert_eq!(Spread::of([]), Spread { median: 0.0, min: 0.0, max: 0.0 });
        assert_eq!(Spread::of([3.0, 1.0]).median.to_bits(), 2.0_f64.to_bits());
    }
}
