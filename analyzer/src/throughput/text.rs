//! The report as text: a table, then the stages of each row.

use super::measure::{LINE_RATES, Series, Stage};
use std::fmt::{self, Write};

/// Writes the report.
///
/// # Errors
/// The writer's.
pub fn render(series: &[Series], out: &mut dyn Write) -> fmt::Result {
    let traffic = series.iter().map(|row| row.traffic.len()).max().unwrap_or(0).max("traffic".len());
    writeln!(
        out,
        "{:traffic$}  {:7}  {:7}  {:>7}  {:>8}  {:>8}  {:>17}  {:>8}  {}",
        "traffic",
        "mode",
        "task",
        "threads",
        "Mpps",
        "Gbit/s",
        "ns/packet (range)",
        "cold ms",
        LINE_RATES.map(|(name, _)| format!("{name:>8}")).join("  "),
    )?;
    for row in series {
        let nanos = row.nanos_per_packet();
        writeln!(
            out,
            "{:traffic$}  {:7}  {:7}  {:>7}  {:>8.2}  {:>8.2}  {:>17}  {:>8.0}  {}",
            row.traffic,
            row.mode,
            row.task,
            row.threads,
            row.packets_per_second() / 1e6,
            row.bits_per_second() / 1e9,
            format!("{:.1} ({:.1}-{:.1})", nanos.median, nanos.min, nanos.max),
            row.cold.elapsed.as_secs_f64() * 1e3,
            LINE_RATES.map(|(_, bits)| format!("{:>7.0}%", row.line_share(bits) * 100.0)).join("  "),
        )?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "{:traffic$}  {:7}  {:7}  {:>7}  {}  {:>14}",
        "ns/packet by stage",
        "mode",
        "task",
        "threads",
        Stage::ALL.map(|stage| format!("{:>8}", stage.name())).join("  "),
        "serial packets",
    )?;
    for row in series {
        writeln!(
            out,
            "{:traffic$}  {:7}  {:7}  {:>7}  {}  {:>14}",
            row.traffic,
            row.mode,
            row.task,
            row.threads,
            Stage::ALL.map(|stage| format!("{:>8.1}", row.stage_nanos(stage))).join("  "),
            row.serial_packets,
        )?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "Medians of the warm runs, wall time. Percentages are of line rate for these frames (frame + 20 bytes on the wire)."
    )?;
    for row in series.iter().filter(|row| !row.fast) {
        writeln!(
            out,
            "{}, {} {}, {}: careful path, all packets one by one in memory, its comparison or writing counted as serial.",
            row.traffic,
            row.mode,
            row.task,
            if row.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", row.threads) },
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::measure::tests::series;
    use super::*;

    #[test]
    fn a_table_with_rates_and_stages() {
        let mut text = String::new();
        render(&[series(2, 64, &[90, 40, 50, 60]), series(1, 1518, &[90])], &mut text).unwrap_or_default();
        insta::assert_snapshot!(text);
    }
}
