//! What a DPVS service by match rule takes.

use super::Reader;
use crate::describe::options::unknown_value;
use crate::describe::problem::Problem;
use crate::describe::words::{Word, parse_address, parse_number};
use lvscheck_engine::config::{MatchRule, Protocol};
use std::net::{IpAddr, SocketAddr};

impl<'a> Reader<'_, 'a> {
    /// DPVS's `proto=tcp,src-range=A-B:P-Q,dst-range=A-B:P-Q,iif=IF,oif=IF`.
    pub(super) fn match_rule(&self, word: &Word<'a>) -> Result<MatchRule, Problem> {
        const KEYS: &[&str] = &["proto", "src-range", "dst-range", "iif", "oif"];
        let mut rule =
            MatchRule { protocol: Protocol::TCP, source: None, destination: None, input_interface: None, output_interface: None };
        let mut offset = 0;
        for part in word.text.split(',') {
            let here = Word { text: part.into(), ..word.from(offset) };
            let here = Word { length: part.chars().count().max(1), ..here };
            offset += part.len() + 1;
            let Some((key, value)) = part.split_once('=') else {
                return Err(self
                    .line
                    .problem(&here, format!("`{part}` is no KEY=VALUE"))
                    .help(format!("keys: {}", KEYS.join(", "))));
            };
            let range = || {
                parse_range(value).ok_or_else(|| {
                    self.line.problem(&here, format!("`{value}` is no range")).help("expected ADDRESS-ADDRESS[:PORT-PORT]")
                })
            };
            match key {
                "proto" => {
                    rule.protocol = match value {
                        "tcp" => Protocol::TCP,
                        "udp" => Protocol::UDP,
                        "icmp" => Protocol::ICMP,
                        "icmpv6" | "icmp6" => Protocol::ICMPV6,
                        "sctp" => Protocol::SCTP,
                        _ => return Err(unknown_value(self.line, &here, "protocol", &["tcp", "udp", "icmp", "icmpv6", "sctp"])),
                    }
                }
                "src-range" | "from" => rule.source = Some(range()?),
                "dst-range" | "to" => rule.destination = Some(range()?),
                "iif" => rule.input_interface = Some(value.to_owned()),
                "oif" => rule.output_interface = Some(value.to_owned()),
                _ => return Err(unknown_value(self.line, &here, "key of -H", KEYS)),
            }
        }
        Ok(rule)
    }
}

/// `A-B[:P-Q]`, `A[:P]`, with IPv6 addresses in brackets when ports follow.
fn parse_range(text: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (addresses, ports) = match parse_ip_range(text) {
        Some(addresses) => (addresses, None),
        None => {
            let (addresses, ports) = text.rsplit_once(':')?;
            (parse_ip_range(addresses)?, Some(ports))
        }
    };
    let port = |text: &str| parse_number(text).and_then(|port| u16::try_from(port).ok());
    let (low, high) = match ports {
        None => (0, 0),
        Some(ports) => match ports.split_once('-') {
            Some((low, high)) => (port(low)?, port(high)?),
            None => (port(ports)?, port(ports)?),
        },
    };
    Some((SocketAddr::new(addresses.0, low), SocketAddr::new(addresses.1, high)))
}

fn parse_ip_range(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (parse_address(low).ok()?, parse_address(high).ok()?);
    (low.is_ipv4() == high.is_ipv4() && low <= high).then_some((low, high))
}
