//! The result of a replay for people: what an operator wants to know first stands first.

use super::{counted, grouped, ipvsadm};
use crate::compare::Comparison;
use crate::compare::report::{self, Styles};
use crate::replay::{Demand, Outcome};
use anstyle::{AnsiColor, Style};
use lvscheck_engine::listing::ServiceView;
use std::fmt::Write;

/// What to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextOptions {
    /// Only what went wrong.
    pub quiet: bool,
    /// The connection table.
    pub connections: bool,
    /// Findings to show at most.
    pub findings: usize,
    /// How the fast way handled packets.
    pub handled: bool,
}

const HEAD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const NOTE: Style = AnsiColor::Yellow.on_default();

/// Renders an outcome. Colours are ANSI sequences; who prints strips them where they don't belong.
pub fn render(outcome: &Outcome, options: TextOptions) -> String {
    let mut text = String::new();
    if !options.quiet {
        capture(&mut text, outcome);
        director(&mut text, outcome);
        services(&mut text, &outcome.services);
        local_addresses(&mut text, &outcome.services);
        client_addresses(&mut text, outcome);
        translations(&mut text, outcome, options);
        frames(&mut text, outcome);
        if options.handled {
            handled(&mut text, outcome);
        }
        if options.connections {
            heading(&mut text, "Connections");
            text.push_str(&indented(&ipvsadm::connections(&outcome.connections)));
        }
    }
    demands(&mut text, &outcome.demands);
    if let Some(replies) = &outcome.replies {
        comparison(&mut text, "Answers, as the client saw them", replies, options);
    }
    if let Some(golden) = &outcome.golden {
        comparison(&mut text, "Golden", golden, options);
    }
    if !options.quiet {
        speed(&mut text, outcome);
    }
    text
}

/// How packets were handled where the fast way was taken.
fn handled(text: &mut String, outcome: &Outcome) {
    let Some(handled) = outcome.handled else { return };
    heading(text, "Fast path");
    let (parallel, serial) = (grouped(handled.parallel), grouped(handled.serial));
    let _ = writeln!(text, "  {parallel} packets in parallel, {serial} one by one");
    let _ =
        writeln!(text, "  {}, {} with packets one by one", counted(handled.windows, "window"), grouped(handled.mixed_windows));
}

fn heading(text: &mut String, title: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(text, "{HEAD}{title}{HEAD:#}");
}

fn indented(block: &str) -> String {
    let mut text = String::new();
    for line in block.lines() {
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

fn capture(text: &mut String, outcome: &Outcome) {
    let input = &outcome.input;
    heading(text, "Capture");
    let seconds = (input.last - input.first).as_secs_f64();
    let _ = writeln!(
        text,
        "  {}: {}, {} bytes, {seconds:.3} s",
        input.files.join(", "),
        counted(input.frames, "frame"),
        grouped(input.bytes)
    );
    for warning in &input.warnings {
        let _ = writeln!(text, "  {NOTE}{warning}{NOTE:#}");
    }
}

fn director(text: &mut String, outcome: &Outcome) {
    let director = &outcome.director;
    heading(text, "Director");
    let _ = writeln!(text, "  {}, mode {}, behaves as {}", director.source, director.mode, director.profile);
    for line in &director.interfaces {
        let _ = writeln!(text, "  {line}");
    }
    if !director.assumed.is_empty() {
        let _ = writeln!(text, "  Nothing is configured for these, so they are assumed:");
        for line in &director.assumed {
            let _ = writeln!(text, "    - {line}");
        }
    }
    for warning in &director.warnings {
        let _ = writeln!(text, "  {NOTE}{warning}{NOTE:#}");
    }
}

fn services(text: &mut String, services: &[ServiceView]) {
    heading(text, "Services");
    let _ = writeln!(
        text,
        "  {:<42} {:<8} {:>6} {:>7} {:>9} {:>9} {:>12} {:>12} {:>7} {:>7}",
        "service / real server", "method", "weight", "conns", "packets>", "<packets", "bytes>", "<bytes", "active", "inact"
    );
    for service in services {
        let counters = &service.counters;
        let name = format!("{} {}", ipvsadm::service_name(&service.key), service.settings.scheduler.name());
        row(text, &name, "", "", counters, "", "");
        for server in &service.servers {
            row(
                text,
                &format!("  -> {}", server.key),
                ipvsadm::method_name(server.settings.method),
                &server.settings.weight.to_string(),
                &server.counters,
                &server.active.to_string(),
                &server.inactive.to_string(),
            );
        }
    }
}

fn row(
    text: &mut String,
    name: &str,
    method: &str,
    weight: &str,
    counters: &lvscheck_engine::listing::Counters,
    active: &str,
    inactive: &str,
) {
    let line = format!(
        "  {name:<42} {method:<8} {weight:>6} {:>7} {:>9} {:>9} {:>12} {:>12} {active:>7} {inactive:>7}",
        counters.connections, counters.in_packets, counters.out_packets, counters.in_bytes, counters.out_bytes
    );
    let _ = writeln!(text, "{}", line.trim_end());
}

fn local_addresses(text: &mut String, services: &[ServiceView]) {
    if services.iter().all(|service| service.local_addresses.is_empty()) {
        return;
    }
    heading(text, "Local addresses");
    for service in services {
        for local in &service.local_addresses {
            let _ = writeln!(
                text,
                "  {:<42} {:<16} {}, {} of {} ports in its fullest pool{}",
                ipvsadm::service_name(&service.key),
                local.address,
                counted(local.connections, "connection"),
                local.ports_in_use,
                local.ports,
                if local.exhausted > 0 {
                    format!(", {} found no port", counted(local.exhausted, "connection"))
                } else {
                    String::new()
                },
            );
        }
    }
}

/// How the clients' addresses reached the real servers behind FULLNAT.
fn client_addresses(text: &mut String, outcome: &Outcome) {
    let named = outcome.client_addresses.iter().filter_map(|(number, counts)| {
        let service = outcome.services.iter().find(|service| service.number == *number)?;
        Some((ipvsadm::service_name(&service.key), counts))
    });
    let mut begun = false;
    for (name, counts) in named {
        let lines = [
            (counts.toa, "segments carry the client's address (TOA)"),
            (counts.toa_after_pruning, "of them had to give up other TCP options for it"),
            (counts.no_option_room, "segments could not: no room among the TCP options"),
            (counts.longer_than_mtu, "segments could not: they would exceed the MTU"),
            (counts.forged, "segments came from the client with a TOA option of its own: forged"),
            (counts.uoa, "datagrams carry the client's address (UOA)"),
            (counts.uoa_ahead, "of them in a datagram of its own, sent ahead"),
            (counts.proxy_headers, "PROXY headers carry the client's address"),
        ];
        if lines.iter().all(|(count, _)| *count == 0) {
            continue;
        }
        if !begun {
            heading(text, "Client addresses");
            begun = true;
        }
        let _ = writeln!(text, "  {name}");
        for (count, words) in lines {
            if count > 0 {
                let _ = writeln!(text, "  {:>10}  {words}", grouped(count));
            }
        }
    }
}

/// Connections that are shown without --verbose.
const TRANSLATIONS: usize = 20;

/// Each FULLNAT connection with its local address and the bytes of its first TOA.
fn translations(text: &mut String, outcome: &Outcome, options: TextOptions) {
    if outcome.translations.is_empty() {
        return;
    }
    heading(text, "FULLNAT connections");
    let _ = writeln!(text, "  {:<24} {:<24} {:<24} {:<24} TOA", "client", "virtual", "local", "destination");
    let most = if options.findings > TRANSLATIONS { usize::MAX } else { TRANSLATIONS };
    for entry in outcome.translations.iter().take(most) {
        let toa = match &entry.toa {
            Some(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
            None => "none".to_owned(),
        };
        let cell = |socket: std::net::SocketAddr| socket.to_string();
        let (client, service) = (cell(entry.client), cell(entry.service));
        let _ = writeln!(text, "  {client:<24} {service:<24} {:<24} {:<24} {toa}", cell(entry.local), cell(entry.server));
    }
    let hidden = outcome.translations.len().saturating_sub(most);
    if hidden > 0 {
        let _ = writeln!(text, "  and {} with --verbose", counted(hidden as u64, "more connection"));
    }
}

fn frames(text: &mut String, outcome: &Outcome) {
    heading(text, "What became of the frames");
    for (_, words, count) in outcome.verdicts.rows() {
        let _ = writeln!(text, "  {:>10}  {words}", grouped(count));
    }
    let roles = &outcome.roles;
    let others = [
        (roles.from_director, "sent by the director itself in this capture"),
        (roles.past_director, "answers that go past the director"),
        (roles.replies, "answers seen at the client, turned back and sent through the director"),
        (roles.unmatched_replies, "answers without their request in this capture"),
        (roles.of_others, "between other hosts, or not to the director's MAC"),
    ];
    for (count, words) in others {
        if count > 0 {
            let _ = writeln!(text, "  {:>10}  {words}", grouped(count));
        }
    }
    for (reason, count) in &roles.unreadable {
        let _ = writeln!(text, "  {:>10}  unreadable: {reason}", grouped(*count));
    }
    let emitted = &outcome.emitted;
    let _ = writeln!(
        text,
        "  The director sent {} ({} bytes): {} for ARP and neighbour discovery, {} ICMP errors.",
        counted(emitted.frames, "frame"),
        grouped(emitted.bytes),
        grouped(emitted.link),
        grouped(emitted.icmp_errors)
    );
}

fn demands(text: &mut String, demands: &[Demand]) {
    if demands.is_empty() {
        return;
    }
    heading(text, "What the mode demands");
    for demand in demands {
        let _ = writeln!(text, "  {NOTE}{}{NOTE:#}: {}", demand.id, demand.message);
        if !demand.frames.is_empty() {
            let numbers: Vec<String> = demand.frames.iter().take(5).map(u64::to_string).collect();
            let more = demand.count.saturating_sub(numbers.len() as u64);
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            let _ = writeln!(text, "    frames {}{rest}", numbers.join(", "));
        }
    }
}

fn comparison(text: &mut String, title: &str, comparison: &Comparison, options: TextOptions) {
    if options.quiet && comparison.conforms() {
        return;
    }
    heading(text, title);
    text.push_str(&indented(&comparison_text(comparison, options.findings)));
}

/// A comparison with its findings, at most so many.
pub fn comparison_text(comparison: &Comparison, findings: usize) -> String {
    let (style, word) = if comparison.conforms() { (GOOD, "conforms") } else { (BAD, "differs") };
    let mut text = format!("{style}{word}{style:#}: {}\n", comparison_summary(comparison));
    text.push_str(&report::render(comparison, findings, &Styles::colored()));
    text
}

/// A comparison in one line.
pub fn comparison_summary(comparison: &Comparison) -> String {
    let mut text = format!("{} of {} equal", grouped(comparison.equal), counted(comparison.expected, "expected frame"));
    if comparison.actual != comparison.expected {
        let _ = write!(text, ", {} there", grouped(comparison.actual));
    }
    if !comparison.conforms() {
        let _ = write!(text, ", {}", counted(comparison.total(), "finding"));
    }
    if !comparison.learned.is_empty() {
        let _ = write!(text, "; random values learned: {}", comparison.learned_words());
    }
    text
}

fn speed(text: &mut String, outcome: &Outcome) {
    let speed = outcome.speed;
    if speed.seconds > 0.0 {
        heading(text, "Speed");
        let _ = writeln!(text, "  {:.3} s, {} frames/s", speed.seconds, grouped(speed.frames_per_second as u64));
    }
}
