//! A director on the command line: `--vip`, `--rs`, `--scheduler`, `--lip`, with the method of `--mode`.

use super::problem::{DescribeError, Problem, suggest};
use super::rules::scheduler_names;
use super::words::{NUMERIC, parse_endpoint, parse_number};
use lvscheck_engine::config::{ForwardingMethod, MacAddr, Protocol, SchedulerKind, ServiceKey};
use std::net::IpAddr;

/// `--rs ADDRESS[:PORT][,weight=N][,mac=MAC][,upper=N][,lower=N]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerArgument {
    /// As typed, for messages.
    pub text: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; none: the service's.
    pub port: Option<u16>,
    /// Its weight, 1 unless told.
    pub weight: u32,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// `ipvsadm -x`
    pub upper_threshold: u32,
    /// `ipvsadm -y`
    pub lower_threshold: u32,
}

/// Reads `--vip [tcp:|udp:|sctp:]ADDRESS:PORT`; the protocol may also follow: `ADDRESS:PORT/udp`.
///
/// # Errors
/// What was expected, and what to type.
pub fn parse_vip(text: &str) -> Result<ServiceKey, DescribeError> {
    let usage = "write --vip 200.200.200.1:80, --vip udp:200.200.200.1:53, --vip tcp:[2001:db8::1]:80";
    let (protocol, endpoint) = match text.split_once(':') {
        Some((name @ ("tcp" | "udp" | "sctp"), rest)) => (name, rest),
        _ => match text.rsplit_once('/') {
            Some((rest, name)) => (name, rest),
            None => ("tcp", text),
        },
    };
    let protocol = match protocol {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        other => {
            let problem = Problem::new(format!("--vip {text}: unknown protocol `{other}`"));
            return Err(problem.help(suggest(other, "protocols", &["tcp", "udp", "sctp"])).into());
        }
    };
    let (address, port) =
        parse_endpoint(endpoint).map_err(|reason| Problem::new(format!("--vip {text}: `{endpoint}` {reason}")).help(usage))?;
    match port {
        Some(port @ 1..) => Ok(ServiceKey::Address { protocol, address, port }),
        _ => Err(Problem::new(format!("--vip {text}: a virtual service needs a port")).help(usage).into()),
    }
}

/// Reads `--rs`.
///
/// # Errors
/// What was expected, and what to type.
pub fn parse_server(text: &str) -> Result<ServerArgument, DescribeError> {
    const KEYS: &[&str] = &["weight", "mac", "upper", "lower"];
    let mut parts = text.split(',');
    let endpoint = parts.next().unwrap_or("");
    let (address, port) = parse_endpoint(endpoint).map_err(|reason| {
        Problem::new(format!("--rs {text}: `{endpoint}` {reason}")).help(format!("write --rs 10.0.0.11:8080,weight=3; {NUMERIC}"))
    })?;
    let mut server =
        ServerArgument { text: text.to_owned(), address, port, weight: 1, mac: None, upper_threshold: 0, lower_threshold: 0 };
    for part in parts {
        let Some((key, value)) = part.split_once('=') else {
            return Err(Problem::new(format!("--rs {text}: `{part}` is no KEY=VALUE"))
                .help(format!("keys: {}", KEYS.join(", ")))
                .into());
        };
        let number = || {
            parse_number(value)
                .filter(|number| *number <= i32::MAX as u32)
                .ok_or_else(|| Problem::new(format!("--rs {text}: `{value}` is no number from 0 to 2147483647")))
        };
        match key {
            "weight" => server.weight = number()?,
            "upper" => server.upper_threshold = number()?,
            "lower" => server.lower_threshold = number()?,
            "mac" => server.mac = Some(value.parse().map_err(|error| Problem::new(format!("--rs {text}: {error}")))?),
            _ => {
                return Err(Problem::new(format!("--rs {text}: unknown key `{key}`")).help(suggest(key, "keys", KEYS)).into());
            }
        }
    }
    if server.lower_threshold > server.upper_threshold {
        return Err(Problem::new(format!("--rs {text}: `lower` is above `upper`")).into());
    }
    Ok(server)
}

/// Reads `--scheduler`; `dpvs` when FULLNAT or a DPVS profile asks for DPVS's.
///
/// # Errors
/// An unknown scheduler; the message lists them.
pub fn parse_scheduler(text: &str, dpvs: bool) -> Result<SchedulerKind, DescribeError> {
    let known = scheduler_names(dpvs);
    match SchedulerKind::by_name(text).filter(|_| known.contains(&text)) {
        Some(kind) => Ok(kind),
        None => {
            Err(Problem::new(format!("--scheduler: unknown scheduler `{text}`")).help(suggest(text, "schedulers", &known)).into())
        }
    }
}

/// The port that a real server of `--rs` gets in a service.
///
/// # Errors
/// Another port than the service's under a method that does not rewrite packets.
pub fn server_port(server: &ServerArgument, service: &ServiceKey, method: ForwardingMethod) -> Result<u16, Problem> {
    let service_port = match service {
        ServiceKey::Address { port, .. } => *port,
        _ => 0,
    };
    let port = server.port.unwrap_or(service_port);
    let keeps_port = matches!(method, ForwardingMethod::Dr | ForwardingMethod::Tunnel(_));
    if keeps_port && port != service_port && matches!(service, ServiceKey::Address { .. }) {
        let name = if method == ForwardingMethod::Dr { "direct routing" } else { "a tunnel" };
        return Err(Problem::new(format!("--rs {}: port {port} differs from the service's, {service_port}", server.text))
            .help(format!("{name} does not rewrite packets; leave the port out, or use --mode nat or --mode fullnat")));
    }
    Ok(port)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn services() {
        let key = |protocol, address: &str, port| ServiceKey::Address { protocol, address: address.parse().unwrap(), port };
        assert_eq!(parse_vip("200.200.200.1:80").unwrap(), key(Protocol::TCP, "200.200.200.1", 80));
        assert_eq!(parse_vip("udp:200.200.200.1:53").unwrap(), key(Protocol::UDP, "200.200.200.1", 53));
        assert_eq!(parse_vip("200.200.200.1:53/udp").unwrap(), key(Protocol::UDP, "200.200.200.1", 53));
        assert_eq!(parse_vip("tcp:[2001:db8::1]:80").unwrap(), key(Protocol::TCP, "2001:db8::1", 80));
        assert_eq!(parse_vip("[2001:db8::1]:80").unwrap(), key(Protocol::TCP, "2001:db8::1", 80));
        for wrong in ["", "200.200.200.1", "200.200.200.1:0", "icmp:1.2.3.4:5", "1.2.3.4:5/tpc"] {
            assert!(parse_vip(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn servers() {
        let server = parse_server("10.0.0.11:8080,weight=3,mac=02:00:00:00:00:0b").unwrap();
        assert_eq!((server.port, server.weight, server.mac), (Some(8080), 3, Some(MacAddr([2, 0, 0, 0, 0, 0x0b]))));
        assert_eq!(parse_server("[2001:db8::b]:80").unwrap().address, "2001:db8::b".parse::<IpAddr>().unwrap());
        for wrong in
            ["", "10.0.0.11,weigth=3", "10.0.0.11,weight", "10.0.0.11,weight=-1", "10.0.0.11,mac=zz", "10.0.0.11,lower=2"]
        {
            assert!(parse_server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_must_agree_where_packets_stay_as_they_are() {
        let service = parse_vip("200.200.200.1:80").unwrap();
        let server = parse_server("10.0.0.11:8080").unwrap();
        assert!(server_port(&server, &service, ForwardingMethod::Dr).is_err());
        assert_eq!(server_port(&server, &service, ForwardingMethod::Nat), Ok(8080));
        assert_eq!(server_port(&parse_server("10.0.0.11").unwrap(), &service, ForwardingMethod::Dr), Ok(80));
    }
}
