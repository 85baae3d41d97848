//! The report as one HTML page with plots drawn by hand in SVG: no script, nothing loaded from elsewhere.

use super::measure::{LINE_RATES, Series, Stage};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const BAR: f64 = 18.0;
const GAP: f64 = 10.0;
const LABELS: f64 = 260.0;
/// One colour a stage; they differ in brightness too, for readers who don't see colours.
const COLOURS: [&str; 6] = ["#4e79a7", "#a0cbe8", "#f28e2b", "#59a14f", "#b07aa1", "#9c755f"];

/// The whole page.
pub fn render(series: &[Series]) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "lvscheck throughput" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "lvscheck throughput" }
                p { "Medians of the warm runs, wall time, from the file to the result. A frame takes 20 bytes more on the wire than it has." }
                h2 { "Packets a second against line rate" }
                (rates(series))
                h2 { "Where the time goes" }
                (stages(series))
                h2 { "Numbers" }
                (table(series))
            }
        }
    };
    page.into_string()
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{padding:.25rem .5rem;text-align:right;border-bottom:1px solid #ddd}\
th:first-child,td:first-child{text-align:left}svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#222}\
@media (prefers-color-scheme:dark){body{background:#181818;color:#ddd}svg text{fill:#ddd}th,td{border-color:#444}}";

fn label(row: &Series) -> String {
    let careful = if row.fast { "" } else { ", careful path" };
    format!(
        "{}, {} {}, {} thread{}{careful}",
        row.traffic,
        row.mode,
        row.task,
        row.threads,
        if row.threads == 1 { "" } else { "s" }
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn open(out: &mut String, rows: usize, title: &str) -> f64 {
    let height = rows as f64 * (BAR + GAP) + 40.0;
    let _ = write!(out, r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}">"#, escaped(title));
    height
}

/// Bars of packets a second, with a mark where each link of [`LINE_RATES`] is full of these frames.
fn rates(series: &[Series]) -> Markup {
    let mut out = String::new();
    let height = open(&mut out, series.len(), "Packets a second of each measurement, with line rates");
    let most = series.iter().map(|row| row.packets_per_second().max(row.line_packets(10e9))).fold(1.0, f64::max);
    let scale = (WIDTH - LABELS - 90.0) / most;
    for (number, row) in series.iter().enumerate() {
        let y = number as f64 * (BAR + GAP) + 5.0;
        let rate = row.packets_per_second();
        let bar = rate * scale;
        let _ = write!(
            out,
            r#"<text x="0" y="{ty:.1}">{label}</text><rect x="{LABELS}" y="{y:.1}" width="{bar:.1}" height="{BAR}" fill="{colour}"/><text x="{tx:.1}" y="{ty:.1}">{mpps:.2} Mpps</text>"#,
            ty = y + BAR - 4.0,
            label = escaped(&label(row)),
            colour = COLOURS[0],
            tx = LABELS + bar + 6.0,
            mpps = rate / 1e6,
        );
        for (name, bits) in LINE_RATES {
            let x = LABELS + row.line_packets(bits) * scale;
            if x <= WIDTH - 80.0 {
                let _ = write!(
                    out,
                    r##"<line x1="{x:.1}" x2="{x:.1}" y1="{from:.1}" y2="{to:.1}" stroke="#d62728" stroke-width="2"><title>{name}: {mpps:.2} Mpps</title></line>"##,
                    from = y - 3.0,
                    to = y + BAR + 3.0,
                    mpps = row.line_packets(bits) / 1e6,
                );
            }
        }
    }
    let _ = write!(
        out,
        r#"<text x="{LABELS}" y="{:.1}">red marks: line rate of 10, 25, 40 and 100 GbE for these frames</text></svg>"#,
        height - 10.0
    );
    PreEscaped(out)
}

/// Stacked bars of nanoseconds a packet by stage.
fn stages(series: &[Series]) -> Markup {
    let mut out = String::new();
    let height = open(&mut out, series.len(), "Nanoseconds a packet by stage");
    let total = |row: &Series| Stage::ALL.iter().map(|stage| row.stage_nanos(*stage)).sum::<f64>();
    let most = series.iter().map(total).fold(1.0, f64::max);
    let scale = (WIDTH - LABELS - 90.0) / most;
    for (number, row) in series.iter().enumerate() {
        let y = number as f64 * (BAR + GAP) + 5.0;
        let mut x = LABELS;
        let _ = write!(out, r#"<text x="0" y="{:.1}">{}</text>"#, y + BAR - 4.0, escaped(&label(row)));
        for (stage, colour) in Stage::ALL.iter().zip(COLOURS) {
            let nanos = row.stage_nanos(*stage);
            let _ = write!(
                out,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{BAR}" fill="{colour}"><title>{}: {nanos:.1} ns</title></rect>"#,
                nanos * scale,
                stage.name(),
            );
            x += nanos * scale;
        }
        let _ = write!(out, r#"<text x="{:.1}" y="{:.1}">{:.1} ns</text>"#, x + 6.0, y + BAR - 4.0, total(row));
    }
    for (number, (stage, colour)) in Stage::ALL.iter().zip(COLOURS).enumerate() {
        let x = LABELS + number as f64 * 95.0;
        let _ = write!(
            out,
            r#"<rect x="{x}" y="{:.1}" width="12" height="12" fill="{colour}"/><text x="{:.1}" y="{:.1}">{}</text>"#,
            height - 21.0,
            x + 17.0,
            height - 10.0,
            stage.name(),
        );
    }
    out.push_str("</svg>");
    PreEscaped(out)
}

fn table(series: &[Series]) -> Markup {
    html! {
        table {
            thead { tr {
                @for head in ["traffic", "mode", "task", "threads", "packets", "Mpps", "Gbit/s", "ns/packet", "min", "max", "cold ms"] { th { (head) } }
                @for (name, _) in LINE_RATES { th { (name) } }
                th { "serial packets" }
                th { "path" }
            } }
            tbody {
                @for row in series {
                    @let nanos = row.nanos_per_packet();
                    tr {
                        td { (row.traffic) }
                        td { (row.mode) }
                        td { (row.task) }
                        td { (row.threads) }
                        td { (row.packets) }
                        td { (format!("{:.2}", row.packets_per_second() / 1e6)) }
                        td { (format!("{:.2}", row.bits_per_second() / 1e9)) }
                        td { (format!("{:.1}", nanos.median)) }
                        td { (format!("{:.1}", nanos.min)) }
                        td { (format!("{:.1}", nanos.max)) }
                        td { (format!("{:.0}", row.cold.elapsed.as_secs_f64() * 1e3)) }
                        @for (_, bits) in LINE_RATES { td { (format!("{:.0} %", row.line_share(bits) * 100.0)) } }
                        td { (row.serial_packets) }
                        td { (if row.fast { "fast" } else { "careful" }) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::tests::series;
    use super::*;

    #[test]
    fn the_page_stands_alone_and_shows_every_row() {
        let mut odd = series(1, 64, &[50, 40]);
        odd.traffic = "<b>&\"".to_owned();
        let page = render(&[series(2, 1518, &[90, 40, 50, 60]), odd]);
        assert_eq!(page.matches("<svg").count(), 2);
        assert_eq!(page.matches("<tr>").count(), 3);
        assert!(!page.contains("<b>&"), "names are escaped");
        assert!(!page.contains("http") && !page.contains("<script"), "nothing is loaded from elsewhere");
    }
}
