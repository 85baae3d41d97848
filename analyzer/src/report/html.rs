//! The result of a replay as one HTML page that needs nothing else.

use super::text::comparison_summary;
use super::{counted, grouped, ipvsadm};
use crate::compare::Comparison;
use crate::compare::report::{self, Styles};
use crate::replay::Outcome;
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #d8dee4}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
tr.service td{font-weight:600;background:#f6f8fa}pre{background:#f6f8fa;padding:.8rem;overflow:auto}\
.good{color:#1a7f37}.bad{color:#cf222e}";

/// Renders an outcome.
pub fn render(outcome: &Outcome) -> String {
    let input = &outcome.input;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "lvscheck: " (input.files.join(", ")) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "lvscheck replay" }
                p {
                    (input.files.join(", ")) ": " (counted(input.frames, "frame")) ", " (grouped(input.bytes)) " bytes, "
                    (format!("{:.3} s", (input.last - input.first).as_secs_f64()))
                }
                @for warning in &input.warnings { p.bad { (warning) } }
                h2 { "Director" }
                p { (outcome.director.source) ", mode " (outcome.director.mode) ", behaves as " (outcome.director.profile) }
                ul { @for line in &outcome.director.assumed { li { "assumed: " (line) } } }
                ul { @for line in &outcome.director.warnings { li.bad { (line) } } }
                h2 { "Services" }
                (services(outcome))
                h2 { "What became of the frames" }
                table {
                    tr { th.n { "frames" } th { "verdict" } }
                    @for (_, words, count) in outcome.verdicts.rows() {
                        tr { td.n { (grouped(count)) } td { (words) } }
                    }
                }
                @if !outcome.demands.is_empty() {
                    h2 { "What the mode demands" }
                    ul { @for demand in &outcome.demands { li { strong { (demand.id) } ": " (demand.message) } } }
                }
                @if let Some(replies) = &outcome.replies { (comparison("Answers, as the client saw them", replies)) }
                @if let Some(golden) = &outcome.golden { (comparison("Golden", golden)) }
            }
        }
    };
    page.into_string()
}

fn services(outcome: &Outcome) -> Markup {
    html! {
        table {
            tr {
                th { "service / real server" } th { "method" } th.n { "weight" } th.n { "connections" } th.n { "packets in" }
                th.n { "packets out" } th.n { "bytes in" } th.n { "bytes out" } th.n { "active" } th.n { "inactive" }
            }
            @for service in &outcome.services {
                tr.service {
                    td { (ipvsadm::service_name(&service.key)) " " (service.settings.scheduler.name()) } td {} td {}
                    td.n { (service.counters.connections) } td.n { (service.counters.in_packets) }
                    td.n { (service.counters.out_packets) } td.n { (service.counters.in_bytes) }
                    td.n { (service.counters.out_bytes) } td {} td {}
                }
                @for server in &service.servers {
                    tr {
                        td { (server.key) } td { (ipvsadm::method_name(server.settings.method)) } td.n { (server.settings.weight) }
                        td.n { (server.counters.connections) } td.n { (server.counters.in_packets) }
                        td.n { (server.counters.out_packets) } td.n { (server.counters.in_bytes) }
                        td.n { (server.counters.out_bytes) } td.n { (server.active) } td.n { (server.inactive) }
                    }
                }
            }
        }
    }
}

fn comparison(title: &str, comparison: &Comparison) -> Markup {
    html! {
        h2 { (title) }
        p class=(if comparison.conforms() { "good" } else { "bad" }) {
            (if comparison.conforms() { "conforms" } else { "differs" }) ": " (comparison_summary(comparison))
        }
        @if !comparison.conforms() { pre { (report::render(comparison, 100, &Styles::default())) } }
    }
}
