//! Services and real servers in the form of `ipvsadm -Sn` (reference/linux-ipvs.md section 11.2), in the order in which
//! they were added.

use lvscheck_engine::config::{
    Command, DirectorConfig, Family, ForwardingMethod, HashTarget, Persistence, PersistenceEngine, Protocol, ProxyProtocol,
    SchedulerFlags, SchedulerKind, ServerSettings, ServiceKey, ServiceSettings, Tunnel, TunnelChecksum, TunnelKind,
};
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};

/// The commands that set services up, one a line. What ipvsadm doesn't save (thresholds, DPVS's local addresses) is printed
/// too, because the text is to describe the same director again.
pub fn print_rules(config: &DirectorConfig) -> String {
    let mut text = String::new();
    for command in &config.commands {
        if let Some(line) = print_command(config, command) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

/// One command of ipvsadm without its name; none for the commands of other programs.
pub fn print_command(config: &DirectorConfig, command: &Command) -> Option<String> {
    Some(match command {
        Command::AddService { service, settings } => {
            format!("-A {}{}", print_service(service), print_settings(service, settings))
        }
        Command::EditService { service, settings } => {
            format!("-E {}{}", print_service(service), print_settings(service, settings))
        }
        Command::DeleteService { service } => format!("-D {}", print_service(service)),
        Command::AddServer { service, server, settings } => {
            format!("-a {} -r {server}{}", print_service(service), print_server(settings))
        }
        Command::EditServer { service, server, settings } => {
            format!("-e {} -r {server}{}", print_service(service), print_server(settings))
        }
        Command::DeleteServer { service, server } => format!("-d {} -r {server}", print_service(service)),
        Command::Clear => "-C".to_owned(),
        Command::Zero { service: Some(service) } => format!("-Z {}", print_service(service)),
        Command::Zero { service: None } => "-Z".to_owned(),
        Command::SetTimeouts(timeouts) => {
            let [tcp, fin, udp] = [timeouts.tcp, timeouts.tcp_fin, timeouts.udp].map(Option::unwrap_or_default);
            format!("--set {tcp} {fin} {udp}")
        }
        Command::AddLocalAddress { service, address, interface } => {
            let name = &config.interfaces.get(usize::from(interface.0))?.name;
            format!("-P {} -z {address} -F {name}", print_service(service))
        }
        Command::DeleteLocalAddress { service, address, interface } => {
            let name = &config.interfaces.get(usize::from(interface.0))?.name;
            format!("-Q {} -z {address} -F {name}", print_service(service))
        }
        _ => return None,
    })
}

fn print_service(service: &ServiceKey) -> String {
    match service {
        ServiceKey::Address { protocol, address, port } => {
            let option = match *protocol {
                Protocol::UDP => "-u",
                Protocol::SCTP => "--sctp-service",
                Protocol::ICMP => "-q",
                Protocol::ICMPV6 => "-1",
                _ => "-t",
            };
            format!("{option} {}", SocketAddr::new(*address, *port))
        }
        ServiceKey::Mark { mark, family: Family::Ipv4 } => format!("-f {mark}"),
        ServiceKey::Mark { mark, family: Family::Ipv6 } => format!("-f {mark} -6"),
        ServiceKey::Match(rule) => {
            let mut text = format!("-H proto={}", rule.protocol.to_string().to_lowercase());
            for (key, range) in [("src-range", rule.source), ("dst-range", rule.destination)] {
                if let Some((low, high)) = range {
                    let _ = write!(text, ",{key}={}-{}", low.ip(), high.ip());
                    if (low.port(), high.port()) != (0, 0) {
                        let _ = write!(text, ":{}-{}", low.port(), high.port());
                    }
                }
            }
            for (key, name) in [("iif", &rule.input_interface), ("oif", &rule.output_interface)] {
                if let Some(name) = name {
                    let _ = write!(text, ",{key}={name}");
                }
            }
            text
        }
    }
}

fn print_settings(service: &ServiceKey, settings: &ServiceSettings) -> String {
    let mut text = format!(" -s {}", settings.scheduler.name());
    if let Some(Persistence { timeout, prefix_len }) = settings.persistence {
        let _ = write!(text, " -p {timeout}");
        let ipv6 = match service {
            ServiceKey::Address { address, .. } => address.is_ipv6(),
            ServiceKey::Mark { family, .. } => *family == Family::Ipv6,
            ServiceKey::Match(_) => false,
        };
        if ipv6 && prefix_len != 128 {
            let _ = write!(text, " -M {prefix_len}");
        } else if !ipv6 && prefix_len != 32 {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
            let _ = write!(text, " -M {}", Ipv4Addr::from(mask));
        }
    }
    if settings.persistence_engine == Some(PersistenceEngine::Sip) {
        text.push_str(" --pe sip");
    }
    if settings.one_packet {
        text.push_str(" -o");
    }
    if settings.flags != SchedulerFlags::default() {
        let _ = write!(text, " -b {}", print_flags(settings.scheduler, settings.flags));
    }
    let dpvs = &settings.dpvs;
    if dpvs.hash_target == HashTarget::QuicId {
        text.push_str(" --hash-target qid");
    }
    if dpvs.syn_proxy {
        text.push_str(" -j enable");
    }
    if let Some(seconds) = dpvs.connection_timeout {
        let _ = write!(text, " --conn-timeout {seconds}");
    }
    let proxy = match dpvs.proxy_protocol {
        ProxyProtocol::Disable => None,
        ProxyProtocol::V1 => Some("v1"),
        ProxyProtocol::V2 => Some("v2"),
        ProxyProtocol::V1Insecure => Some("v1-insecure"),
        ProxyProtocol::V2Insecure => Some("v2-insecure"),
    };
    if let Some(name) = proxy {
        let _ = write!(text, " --proxy-protocol={name}");
    }
    if dpvs.expire_quiescent {
        text.push_str(" --expire-quiescent");
    }
    text
}

fn print_flags(scheduler: SchedulerKind, flags: SchedulerFlags) -> String {
    let (fallback, port) = match scheduler {
        SchedulerKind::Sh => ("sh-fallback", "sh-port"),
        SchedulerKind::Mh => ("mh-fallback", "mh-port"),
        _ => ("flag-1", "flag-2"),
    };
    let names = [(flags.fallback, fallback), (flags.port, port), (flags.third, "flag-3")];
    names.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect::<Vec<_>>().join(",")
}

fn print_server(settings: &ServerSettings) -> String {
    let method = match settings.method {
        ForwardingMethod::Nat => "-m",
        ForwardingMethod::Dr => "-g",
        ForwardingMethod::Tunnel(_) => "-i",
        ForwardingMethod::FullNat => "-b",
        ForwardingMethod::Snat => "-J",
    };
    let mut text = format!(" {method} -w {}", settings.weight);
    if settings.upper_threshold != 0 {
        let _ = write!(text, " -x {}", settings.upper_threshold);
    }
    if settings.lower_threshold != 0 {
        let _ = write!(text, " -y {}", settings.lower_threshold);
    }
    if let ForwardingMethod::Tunnel(Tunnel { kind, checksum }) = settings.method {
        match kind {
            TunnelKind::Ipip => return text,
            TunnelKind::Gue { port } => {
                let _ = write!(text, " --tun-type gue --tun-port {port}");
            }
            TunnelKind::Gre => text.push_str(" --tun-type gre"),
        }
        text.push_str(match checksum {
            TunnelChecksum::None => " --tun-nocsum",
            TunnelChecksum::Checksum => " --tun-csum",
            TunnelChecksum::RemoteChecksum => " --tun-remcsum",
        });
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::describe::builder::Builder;
    use crate::describe::rules;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<Command> {
        let mut builder = Builder::default();
        rules::read(&mut builder, "rules", text).unwrap();
        builder.config.commands
    }

    #[test]
    fn what_ipvsadm_saves_is_printed_as_it_was() {
        let text = "-A -t 200.200.200.1:80 -s sh -p 300 -M 255.255.255.0 -b sh-fallback,sh-port\n\
                    -a -t 200.200.200.1:80 -r 10.0.0.11:80 -g -w 1\n\
                    -A -u [2001:db8::1]:53 -s rr -p 60 -M 64 --pe sip -o\n\
                    -a -u [2001:db8::1]:53 -r [2001:db8:a::11]:53 -i -w 2 --tun-type gue --tun-port 6080 --tun-remcsum\n\
                    -A -f 7 -6 -s mh -b mh-port\n\
                    -a -f 7 -6 -r [2001:db8:a::11]:0 -m -w 0\n";
        let mut builder = Builder::default();
        rules::read(&mut builder, "rules", text).unwrap();
        assert_eq!(print_rules(&builder.config), text);
    }

    fn service() -> impl Strategy<Value = String> {
        prop_oneof![
            (any::<[u8; 4]>(), 1..=u16::MAX).prop_map(|(a, port)| format!("-t {}:{port}", Ipv4Addr::from(a))),
            (any::<[u8; 16]>(), 1..=u16::MAX).prop_map(|(a, port)| format!("-u [{}]:{port}", std::net::Ipv6Addr::from(a))),
            (1..=u32::MAX).prop_map(|mark| format!("-f {mark}")),
        ]
    }

    fn settings() -> impl Strategy<Value = String> {
        let scheduler =
            prop::sample::select(vec!["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sed", "nq", "fo", "ovf", "twos"]);
        (scheduler, prop::option::of(1..100_000u32)).prop_map(|(scheduler, persistence)| {
            let persistence = persistence.map(|seconds| format!(" -p {seconds}")).unwrap_or_default();
            format!("-s {scheduler}{persistence}")
        })
    }

    fn method() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("-m".to_owned()),
            Just("-i".to_owned()),
            (1..=u16::MAX).prop_map(|port| format!("-i --tun-type gue --tun-port {port} --tun-csum")),
            Just("-i --tun-type gre --tun-nocsum".to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn printing_and_reading_are_inverse(
            service in service(), settings in settings(), method in method(), weight in 0..=65535u32, upper in 0..1000u32, lower in 0..1000u32
        ) {
            let server = if service.starts_with("-u") { "[2001:db8:a::11]:53" } else { "10.0.0.11:8080" };
            let text = format!("-A {service} {settings}\n-a {service} -r {server} {method} -w {weight} -x {} -y {lower}\n", upper + lower);
            let commands = read(&text);
            let config = DirectorConfig { commands: commands.clone(), ..DirectorConfig::default() };
            prop_assert_eq!(read(&print_rules(&config)), commands);
        }

        #[test]
        fn no_line_makes_the_reader_panic(text in "(-[AEDaedtufrgimspMbwxyo6-]{1,3}|[0-9.:/\\[\\]a-f]{1,12}|[ =,;'\"#]){0,30}") {
            for profile in lvscheck_engine::profile::Profile::ALL {
                let mut builder = Builder::default();
                builder.config.profile = profile.clone();
                let _ = rules::read(&mut builder, "rules", &text);
            }
        }
    }
}
