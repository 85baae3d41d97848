//! The report for machines. The format is versioned; fields are added, never renamed, within a version.

use super::measure::{LINE_RATES, Run, Series, Stage};
use serde_json::{Value, json};

/// The report as a JSON value.
pub fn render(series: &[Series]) -> Value {
    json!({ "schema": 1, "kind": "throughput", "series": series.iter().map(one).collect::<Vec<Value>>() })
}

fn one(row: &Series) -> Value {
    let seconds = row.seconds();
    let nanos = row.nanos_per_packet();
    json!({
        "traffic": row.traffic,
        "mode": row.mode,
        "task": row.task,
        "threads": row.threads,
        "packets": row.packets,
        "wire_bytes": row.wire_bytes,
        "path": if row.fast { "fast" } else { "careful" },
        "serial_packets": row.serial_packets,
        "packets_per_second": row.packets_per_second(),
        "bits_per_second": row.bits_per_second(),
        "seconds": { "median": seconds.median, "min": seconds.min, "max": seconds.max },
        "nanoseconds_per_packet": { "median": nanos.median, "min": nanos.min, "max": nanos.max },
        "stages": Stage::ALL.iter().map(|stage| (stage.name().to_owned(), json!(row.stage_nanos(*stage)))).collect::<serde_json::Map<_, _>>(),
        "line_rate": LINE_RATES
            .iter()
            .map(|(name, bits)| json!({
                "link": name,
                "packets_per_second": row.line_packets(*bits),
                "share": row.line_share(*bits),
            }))
            .collect::<Vec<Value>>(),
        "cold": run(&row.cold),
        "warm": row.warm.iter().map(run).collect::<Vec<Value>>(),
    })
}

fn run(run: &Run) -> Value {
    json!({
        "seconds": run.elapsed.as_secs_f64(),
        "stages": Stage::ALL.iter().zip(run.stages).map(|(stage, time)| (stage.name().to_owned(), json!(time.as_secs_f64()))).collect::<serde_json::Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::measure::tests::series;
    use super::*;

    #[test]
    fn the_schema_holds() {
        insta::assert_json_snapshot!(render(&[series(2, 64, &[90, 40, 50, 60])]));
    }
}
