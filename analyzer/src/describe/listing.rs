//! `ipvsadm -Ln`: the listing for people (reference/linux-ipvs.md section 11.5). It is sorted, so the order in which
//! servers were added is lost; and it doesn't tell tunnels' kinds, unless `--tun-info` was given.

use super::builder::{Builder, When};
use super::problem::Problem;
use super::rules::{DEFAULT_PERSISTENCE, mask_length, scheduler, scheduler_flags};
use super::words::{Line, Word, parse_endpoint, parse_number};
use lvscheck_engine::config::{
    Command, Family, ForwardingMethod, Network, Persistence, PersistenceEngine, Protocol, ServerKey, ServerSettings, ServiceKey,
    ServiceSettings, Tunnel,
};

/// Whether a text is such a listing.
pub fn is_listing(text: &str) -> bool {
    text.lines().take(5).any(|line| line.starts_with("IP Virtual Server version") || line.starts_with("Prot LocalAddress:Port"))
}

/// Reads a listing.
///
/// # Errors
/// A line that is none of a listing.
pub fn read(builder: &mut Builder, file: &str, text: &str) -> Result<(), Problem> {
    let mut service: Option<ServiceKey> = None;
    let mut tunnels = false;
    let mut servers = 0;
    for line in Line::all(file, text) {
        let words = line.words()?;
        let Some(first) = words.first() else { continue };
        match &*first.text {
            "IP" | "Prot" => {}
            "->" if words.get(1).is_some_and(|word| word.text.starts_with("RemoteAddress")) => {}
            "->" => {
                let Some(service) = &service else { return Err(line.problem(first, "a real server before any service")) };
                let (server, settings) = server(&line, &words, service)?;
                tunnels |= matches!(settings.method, ForwardingMethod::Tunnel(_));
                servers += 1;
                builder.take(Command::AddServer { service: service.clone(), server, settings }, When::Setup, Some(line.whole()));
            }
            _ => {
                let (key, settings) = read_service(builder, &line, &words)?;
                builder.take(Command::AddService { service: key.clone(), settings }, When::Setup, Some(line.whole()));
                service = Some(key);
            }
        }
    }
    if servers > 1 {
        builder.warnings.push(
            Problem::new(
                "`ipvsadm -Ln` sorts real servers: the order in which they were added, which schedulers depend on, is lost",
            )
            .in_file(file)
            .help("the rules that made the services, in their order, tell it"),
        );
    }
    if tunnels {
        builder.assumed.push("tunnels are IPIP: `ipvsadm -Ln` does not tell their kind".to_owned());
    }
    Ok(())
}

fn read_service(builder: &mut Builder, line: &Line<'_>, words: &[Word<'_>]) -> Result<(ServiceKey, ServiceSettings), Problem> {
    let expected = || {
        line.problem_here("no line of `ipvsadm -Ln`")
            .help("expected `TCP  ADDRESS:PORT SCHEDULER`, or `  -> ADDRESS:PORT Forward Weight ...`")
    };
    let [protocol, address, rest @ ..] = words else { return Err(expected()) };
    let mut rest = rest.iter().peekable();
    let key = match &*protocol.text {
        "FWM" => {
            let mark = line.number(address, "firewall mark", 1..=u32::MAX)?;
            let ipv6 = rest.next_if(|word| word.text == "IPv6").is_some();
            ServiceKey::Mark { mark, family: if ipv6 { Family::Ipv6 } else { Family::Ipv4 } }
        }
        name => {
            let protocol = match name {
                "TCP" => Protocol::TCP,
                "UDP" => Protocol::UDP,
                "SCTP" => Protocol::SCTP,
                _ => return Err(expected()),
            };
            let (address, port) = parse_endpoint(&address.text)
                .map_err(|reason| line.problem(address, format!("`{}` {reason}", address.text)).help("list with -n"))?;
            ServiceKey::Address { protocol, address, port: port.unwrap_or(0) }
        }
    };
    let host = match &key {
        ServiceKey::Address { address, .. } => Network::host(*address).prefix_len,
        ServiceKey::Mark { family: Family::Ipv6, .. } => 128,
        _ => 32,
    };
    let mut settings = ServiceSettings {
        scheduler: scheduler(line, rest.next().ok_or_else(expected)?, builder.is_dpvs())?,
        ..Default::default()
    };
    while let Some(word) = rest.next() {
        match &*word.text {
            "persistent" => {
                let timeout = rest.next().and_then(|word| parse_number(&word.text)).unwrap_or(DEFAULT_PERSISTENCE);
                settings.persistence = Some(Persistence { timeout, prefix_len: host });
            }
            "mask" => {
                let word = rest.next().ok_or_else(expected)?;
                let length = mask_length(&word.text)
                    .or_else(|| parse_number(&word.text).filter(|length| *length <= 128).map(|length| length as u8));
                let length = length.ok_or_else(|| line.problem(word, format!("`{}` is no netmask", word.text)))?;
                if let Some(persistence) = &mut settings.persistence {
                    persistence.prefix_len = length;
                }
            }
            "pe" => {
                rest.next();
                settings.persistence_engine = Some(PersistenceEngine::Sip);
            }
            "ops" => settings.one_packet = true,
            "conn-timeout" => settings.dpvs.connection_timeout = rest.next().and_then(|word| parse_number(&word.text)),
            flags if flags.trim_matches(['(', ')']).contains('-') => {
                let bare = Word { text: flags.trim_matches(['(', ')']).to_owned().into(), ..word.clone() };
                settings.flags = scheduler_flags(line, &bare, settings.scheduler)?;
            }
            _ => {
                builder.warnings.push(line.problem(word, format!("`{}` is not understood and was ignored", word.text)));
            }
        }
    }
    Ok((key, settings))
}

fn server(line: &Line<'_>, words: &[Word<'_>], service: &ServiceKey) -> Result<(ServerKey, ServerSettings), Problem> {
    let [_, address, forward, weight, ..] = words else {
        return Err(line.problem_here("expected `  -> ADDRESS:PORT Forward Weight ActiveConn InActConn`"));
    };
    let (ip, port) = parse_endpoint(&address.text)
        .map_err(|reason| line.problem(address, format!("`{}` {reason}", address.text)).help("list with -n"))?;
    let method = match &*forward.text {
        "Route" | "Local" => ForwardingMethod::Dr,
        "Masq" => ForwardingMethod::Nat,
        "Tunnel" => ForwardingMethod::Tunnel(Tunnel::default()),
        "FullNat" => ForwardingMethod::FullNat,
        "SNAT" => ForwardingMethod::Snat,
        _ => {
            let known = ["Route", "Masq", "Tunnel", "Local", "FullNat"];
            return Err(super::options::unknown_value(line, forward, "forwarding method", &known));
        }
    };
    let weight = line.number(weight, "weight", 0..=i32::MAX as u32)?;
    let service_port = match service {
        ServiceKey::Address { port, .. } => *port,
        _ => 0,
    };
    let key = ServerKey { address: ip, port: port.unwrap_or(service_port) };
    Ok((key, ServerSettings { method, weight, upper_threshold: 0, lower_threshold: 0 }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::describe::print::print_rules;

    #[test]
    fn a_listing_reads_as_the_rules() {
        let text = "IP Virtual Server version 1.2.1 (size=4096)\n\
                    Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n\
                    TCP  192.168.0.100:80 wlc persistent 300 mask 255.255.255.0\n\
                    \x20 -> 10.0.0.2:8080                Masq    1      0          0         \n\
                    FWM  7 IPv6 sh (sh-port)\n\
                    \x20 -> [2001:db8::2]:0              Route   3      0          0         \n";
        assert!(is_listing(text));
        let mut builder = Builder::default();
        read(&mut builder, "list", text).unwrap();
        assert_eq!(
            print_rules(&builder.config),
            "-A -t 192.168.0.100:80 -s wlc -p 300 -M 255.255.255.0\n-a -t 192.168.0.100:80 -r 10.0.0.2:8080 -m -w 1\n\
             -A -f 7 -6 -s sh -b sh-port\n-a -f 7 -6 -r [2001:db8::2]:0 -g -w 3\n"
        );
    }
}
