//! ipvsadm command lines: as `ipvsadm -Sn` prints them, as people type them, and in DPVS's dialect
//! (reference/linux-ipvs.md section 11, reference/dpvs-fullnat.md section 17).

use super::builder::{Builder, When};
use super::options::{Given, Opt, Split, split, unknown_value};
use super::problem::Problem;
use super::words::{Line, NUMERIC, Word, parse_address, parse_endpoint, parse_number};
use lvscheck_engine::config::{
    AddressList, Command, DpvsServiceSettings, Family, ForwardingMethod, HashTarget, MatchRule, Persistence, PersistenceEngine,
    Protocol, ProxyProtocol, SchedulerFlags, SchedulerKind, ServerKey, ServerSettings, ServiceKey, ServiceSettings,
    TimeoutSettings, Tunnel, TunnelChecksum, TunnelKind,
};
use std::net::{IpAddr, SocketAddr};

/// ipvsadm's own default of `-p`, in seconds.
pub const DEFAULT_PERSISTENCE: u32 = 300;
/// The longest persistence that ipvsadm takes: 31 days.
const LONGEST_PERSISTENCE: u32 = 31 * 86_400;

/// Reads a file of rules, one command a line.
///
/// # Errors
/// The first line that ipvsadm would refuse.
pub fn read(builder: &mut Builder, file: &str, text: &str) -> Result<(), Problem> {
    for line in Line::all(file, text) {
        let words = line.words()?;
        command(builder, &line, &words, When::Setup)?;
    }
    Ok(())
}

/// Reads one command, without or with a leading `ipvsadm`.
///
/// # Errors
/// What ipvsadm would refuse.
pub fn command(builder: &mut Builder, line: &Line<'_>, words: &[Word<'_>], when: When) -> Result<(), Problem> {
    if words.iter().all(|word| word.text == "ipvsadm") {
        return Ok(());
    }
    let dpvs = builder.is_dpvs();
    let split = split(line, words, dpvs)?;
    let reader = Reader { line, split: &split, dpvs };
    if let Some(command) = reader.command(builder)? {
        builder.take(command, when, Some(line.whole()));
    }
    Ok(())
}

/// The options that say what to do.
const COMMANDS: &[Opt] = &[
    Opt::AddService,
    Opt::EditService,
    Opt::DeleteService,
    Opt::AddServer,
    Opt::EditServer,
    Opt::DeleteServer,
    Opt::Clear,
    Opt::Zero,
    Opt::Set,
    Opt::Restore,
    Opt::Save,
    Opt::List,
    Opt::Daemon,
    Opt::Help,
    Opt::AddLocal,
    Opt::DeleteLocal,
    Opt::AddBlack,
    Opt::DeleteBlack,
    Opt::AddWhite,
    Opt::DeleteWhite,
    Opt::ListLists,
];
const SERVICES: &[Opt] = &[Opt::Tcp, Opt::Udp, Opt::Sctp, Opt::Icmp, Opt::Icmpv6, Opt::Mark, Opt::Match];
const SERVICE_SETTINGS: &[Opt] = &[
    Opt::Scheduler,
    Opt::Persistent,
    Opt::Netmask,
    Opt::Engine,
    Opt::OnePacket,
    Opt::Flags,
    Opt::SynProxy,
    Opt::HashTarget,
    Opt::ConnTimeout,
    Opt::ProxyProtocol,
    Opt::ExpireQuiescent,
    Opt::Quic,
    Opt::DestCheck,
];
const SERVER_SETTINGS: &[Opt] = &[
    Opt::Gatewaying,
    Opt::Ipip,
    Opt::Masquerading,
    Opt::FullNat,
    Opt::Snat,
    Opt::TunnelType,
    Opt::TunnelPort,
    Opt::NoChecksum,
    Opt::Checksum,
    Opt::RemoteChecksum,
    Opt::Weight,
    Opt::Upper,
    Opt::Lower,
];
const METHODS: &[Opt] = &[Opt::Gatewaying, Opt::Ipip, Opt::Masquerading, Opt::FullNat, Opt::Snat];

struct Reader<'l, 'a> {
    line: &'l Line<'l>,
    split: &'l Split<'a>,
    dpvs: bool,
}

impl<'a> Reader<'_, 'a> {
    fn command(&self, builder: &mut Builder) -> Result<Option<Command>, Problem> {
        let given: Vec<&Given<'a>> = self.split.options.iter().filter(|given| COMMANDS.contains(&given.opt)).collect();
        let command = match given.as_slice() {
            [] => {
                return Err(self.line.problem_here("no command of ipvsadm on this line").help(
                    "the first option says what to do: -A adds a service, -a adds a real server, -E and -e edit, -D and -d delete",
                ));
            }
            [one] => *one,
            [first, second, ..] => {
                let message = format!("`{}` and `{}` are both commands; a line holds one", first.word.text, second.word.text);
                return Err(self.line.problem(&second.word, message));
            }
        };
        if command.opt != Opt::Set
            && let Some(word) = self.split.rest.first()
        {
            return Err(self
                .line
                .problem(word, format!("unexpected word `{}`", word.text))
                .help("each value follows its option"));
        }
        if self.split.options.first().is_some_and(|first| first.opt != command.opt) {
            builder.warnings.push(
                self.line
                    .problem(&command.word, format!("ipvsadm wants the command `{}` to be the first option", command.word.text))
                    .help("it is taken as if it stood first"),
            );
        }
        let service = |allowed: &[&[Opt]]| -> Result<ServiceKey, Problem> {
            self.only(command, allowed)?;
            self.service(command)
        };
        Ok(Some(match command.opt {
            Opt::AddService | Opt::EditService => {
                let service = service(&[SERVICES, &[Opt::Ipv6], SERVICE_SETTINGS])?;
                let settings = self.service_settings(builder, &service)?;
                if command.opt == Opt::AddService {
                    Command::AddService { service, settings }
                } else {
                    Command::EditService { service, settings }
                }
            }
            Opt::DeleteService => Command::DeleteService { service: service(&[SERVICES, &[Opt::Ipv6]])? },
            Opt::AddServer | Opt::EditServer => {
                let service = service(&[SERVICES, &[Opt::Ipv6, Opt::RealServer], SERVER_SETTINGS])?;
                let settings = self.server_settings()?;
                let server = self.server(builder, command, &service, Some(settings.method))?;
                if command.opt == Opt::AddServer {
                    Command::AddServer { service, server, settings }
                } else {
                    Command::EditServer { service, server, settings }
                }
            }
            Opt::DeleteServer => {
                let service = service(&[SERVICES, &[Opt::Ipv6, Opt::RealServer]])?;
                let server = self.server(builder, command, &service, None)?;
                Command::DeleteServer { service, server }
            }
            Opt::Clear => {
                self.only(command, &[])?;
                Command::Clear
            }
            Opt::Zero => {
                self.only(command, &[SERVICES, &[Opt::Ipv6]])?;
                let any = self.split.options.iter().any(|given| SERVICES.contains(&given.opt));
                Command::Zero { service: if any { Some(self.service(command)?) } else { None } }
            }
            Opt::Set => {
                self.only(command, &[])?;
                Command::SetTimeouts(self.timeouts(command)?)
            }
            Opt::AddLocal | Opt::DeleteLocal => {
                let service = service(&[SERVICES, &[Opt::Ipv6, Opt::LocalAddress, Opt::Interface]])?;
                let address = self.line.address(self.value(command, Opt::LocalAddress, "-z with the local address")?)?;
                let interface = builder.interface(self.line, self.value(command, Opt::Interface, "-F with the interface")?)?;
                if command.opt == Opt::AddLocal {
                    Command::AddLocalAddress { service, address, interface }
                } else {
                    Command::DeleteLocalAddress { service, address, interface }
                }
            }
            Opt::AddBlack | Opt::DeleteBlack => {
                let service = service(&[SERVICES, &[Opt::Ipv6, Opt::BlackAddress]])?;
                let client = self.line.address(self.value(command, Opt::BlackAddress, "-k with the client's address")?)?;
                self.list(command.opt == Opt::AddBlack, AddressList::Black, service, client)
            }
            Opt::AddWhite | Opt::DeleteWhite => {
                let service = service(&[SERVICES, &[Opt::Ipv6, Opt::WhiteAddress]])?;
                let client = self.line.address(self.value(command, Opt::WhiteAddress, "-2 with the client's address")?)?;
                self.list(command.opt == Opt::AddWhite, AddressList::White, service, client)
            }
            Opt::Restore => {
                return Err(self
                    .line
                    .problem(&command.word, "`ipvsadm -R` reads its rules from standard input, which is not here")
                    .help("put the rules themselves in this place"));
            }
            Opt::Daemon => {
                let message = "connection synchronisation is not replayed; this line has no effect";
                builder.warnings.push(self.line.problem(&command.word, message));
                return Ok(None);
            }
            // What only prints changes nothing.
            _ => return Ok(None),
        }))
    }

    fn list(&self, add: bool, list: AddressList, service: ServiceKey, client: IpAddr) -> Command {
        if add { Command::AddToList { list, service, client } } else { Command::RemoveFromList { list, service, client } }
    }

    /// Refuses options that the command doesn't take.
    fn only(&self, command: &Given<'a>, allowed: &[&[Opt]]) -> Result<(), Problem> {
        for given in &self.split.options {
            let fits = given.opt == command.opt
                || matches!(given.opt, Opt::Show)
                || allowed.iter().any(|group| group.contains(&given.opt));
            if !fits {
                let message = format!("option `{}` does not go with the command `{}`", given.word.text, command.word.text);
                return Err(self.line.problem(&given.word, message));
            }
        }
        Ok(())
    }

    fn value(&self, command: &Given<'a>, opt: Opt, what: &str) -> Result<&Word<'a>, Problem> {
        let value = self.split.get(opt).and_then(|given| given.value.as_ref());
        value.ok_or_else(|| self.line.problem(&command.word, format!("`{}` needs {what}", command.word.text)))
    }

    fn service(&self, command: &Given<'a>) -> Result<ServiceKey, Problem> {
        let mut given = self.split.options.iter().filter(|given| SERVICES.contains(&given.opt));
        let Some(first) = given.next() else {
            let known = if self.dpvs { "-t, -u, --sctp-service, -q, -1, -f or -H" } else { "-t, -u, --sctp-service or -f" };
            return Err(self.line.problem(&command.word, format!("`{}` needs a service: {known}", command.word.text)));
        };
        if let Some(second) = given.next() {
            return Err(self.line.problem(&second.word, format!("a second service, `{}`; a line names one", second.word.text)));
        }
        let Some(value) = &first.value else { return Err(self.line.problem(&first.word, "a service needs a value")) };
        let six = self.split.get(Opt::Ipv6);
        if let Some(six) = six
            && (first.opt != Opt::Mark || six.word.column < first.word.column)
        {
            return Err(self
                .line
                .problem(&six.word, "`-6` follows `-f MARK` only")
                .help("the address of -t and -u tells the family"));
        }
        let protocol = match first.opt {
            Opt::Mark => {
                let mark = self.line.number(value, "firewall mark", 1..=u32::MAX)?;
                return Ok(ServiceKey::Mark { mark, family: if six.is_some() { Family::Ipv6 } else { Family::Ipv4 } });
            }
            Opt::Match => return self.match_rule(value).map(ServiceKey::Match),
            Opt::Udp => Protocol::UDP,
            Opt::Sctp => Protocol::SCTP,
            Opt::Icmp => Protocol::ICMP,
            Opt::Icmpv6 => Protocol::ICMPV6,
            _ => Protocol::TCP,
        };
        let (address, port) = self.endpoint(value)?;
        let port = port.unwrap_or(0);
        let any_port = matches!(protocol, Protocol::ICMP | Protocol::ICMPV6);
        let new = matches!(command.opt, Opt::AddService | Opt::EditService);
        if port == 0 && new && !any_port && self.split.get(Opt::Persistent).is_none() {
            return Err(self
                .line
                .problem(value, format!("`{}` has no port, and only a persistent service can be for every port", value.text))
                .help("write ADDRESS:PORT, or add -p"));
        }
        Ok(ServiceKey::Address { protocol, address, port })
    }

    fn endpoint(&self, word: &Word<'a>) -> Result<(IpAddr, Option<u16>), Problem> {
        parse_endpoint(&word.text).map_err(|reason| self.line.problem(word, format!("`{}` {reason}", word.text)).help(NUMERIC))
    }

    fn server(
        &self,
        builder: &mut Builder,
        command: &Given<'a>,
        service: &ServiceKey,
        method: Option<ForwardingMethod>,
    ) -> Result<ServerKey, Problem> {
        let word = self.value(command, Opt::RealServer, "a real server: -r ADDRESS[:PORT]")?;
        let (address, port) = self.endpoint(word)?;
        let (service_port, service_family) = match service {
            ServiceKey::Address { address, port, .. } => (*port, Some(Family::from(*address))),
            ServiceKey::Mark { family, .. } => (0, Some(*family)),
            ServiceKey::Match(_) => (0, None),
        };
        let tunnel = matches!(method, Some(ForwardingMethod::Tunnel(_)));
        if method.is_some() && !tunnel && !self.dpvs && service_family.is_some_and(|family| family != Family::from(address)) {
            return Err(self
                .line
                .problem(word, format!("the real server {address} is of another address family than its service"))
                .help("only a tunnel (-i) reaches a real server of the other family"));
        }
        let mut port = port.unwrap_or(service_port);
        let forced = matches!(service, ServiceKey::Address { .. })
            && matches!(method, Some(ForwardingMethod::Dr | ForwardingMethod::Tunnel(_)));
        if forced && port != service_port {
            builder
                .warnings
                .push(self.line.problem(word, format!("port {port} becomes {service_port}, the service's port")).help(
                "ipvsadm silently stores the service's port for -g and -i, which do not rewrite packets; use -m to change ports",
            ));
            port = service_port;
        }
        Ok(ServerKey { address, port })
    }

    fn server_settings(&self) -> Result<ServerSettings, Problem> {
        let number = |opt: Opt, what: &str, default: u32, highest: u32| -> Result<u32, Problem> {
            match self.split.get(opt).and_then(|given| given.value.as_ref()) {
                Some(word) => self.line.number(word, what, 0..=highest),
                None => Ok(default),
            }
        };
        let weight = number(Opt::Weight, "weight", 1, i32::MAX as u32)?;
        let upper_threshold = number(Opt::Upper, "upper threshold", 0, u32::MAX)?;
        let lower_threshold = number(Opt::Lower, "lower threshold", 0, u32::MAX)?;
        if lower_threshold > upper_threshold
            && let Some(given) = self.split.get(Opt::Lower)
        {
            let message = format!("the lower threshold {lower_threshold} is above the upper one, {upper_threshold}");
            return Err(self.line.problem(&given.word, message).help("-y is at most -x"));
        }
        Ok(ServerSettings { method: self.method()?, weight, upper_threshold, lower_threshold })
    }

    fn method(&self) -> Result<ForwardingMethod, Problem> {
        let mut given = self.split.options.iter().filter(|given| METHODS.contains(&given.opt));
        let first = given.next();
        if let Some(second) = given.next() {
            return Err(self
                .line
                .problem(&second.word, format!("a second forwarding method, `{}`; a real server has one", second.word.text)));
        }
        let tunnel = self.tunnel()?;
        match (first.map(|given| given.opt), tunnel) {
            (Some(Opt::Ipip), tunnel) => Ok(ForwardingMethod::Tunnel(tunnel.map(|(tunnel, _)| tunnel).unwrap_or_default())),
            (_, Some((_, word))) => Err(self.line.problem(&word, format!("option `{}` goes with -i only", word.text))),
            (Some(Opt::Masquerading), None) => Ok(ForwardingMethod::Nat),
            (Some(Opt::FullNat), None) => Ok(ForwardingMethod::FullNat),
            (Some(Opt::Snat), None) => Ok(ForwardingMethod::Snat),
            _ => Ok(ForwardingMethod::Dr),
        }
    }

    /// The tunnel's options, with the first of them for messages; none when none is given.
    fn tunnel(&self) -> Result<Option<(Tunnel, Word<'a>)>, Problem> {
        const ALL: &[Opt] = &[Opt::TunnelType, Opt::TunnelPort, Opt::NoChecksum, Opt::Checksum, Opt::RemoteChecksum];
        let given: Vec<&Given<'a>> = self.split.options.iter().filter(|given| ALL.contains(&given.opt)).collect();
        let Some(first) = given.first() else { return Ok(None) };
        let checksums: Vec<&&Given<'a>> =
            given.iter().filter(|given| !matches!(given.opt, Opt::TunnelType | Opt::TunnelPort)).collect();
        if let [_, second, ..] = checksums.as_slice() {
            return Err(self.line.problem(&second.word, "the checksum options exclude each other"));
        }
        let checksum = match checksums.first().map(|given| given.opt) {
            Some(Opt::Checksum) => TunnelChecksum::Checksum,
            Some(Opt::RemoteChecksum) => TunnelChecksum::RemoteChecksum,
            _ => TunnelChecksum::None,
        };
        let port = self.split.get(Opt::TunnelPort);
        let kind_word = self.split.get(Opt::TunnelType).and_then(|given| given.value.as_ref());
        let kind = match (kind_word.map(|word| &*word.text).unwrap_or("ipip"), port) {
            ("gue", Some(Given { value: Some(word), .. })) => {
                TunnelKind::Gue { port: self.line.number(word, "tunnel port", 1..=65535)? as u16 }
            }
            ("gue", _) => {
                return Err(self.line.problem(&first.word, "a GUE tunnel needs its UDP port").help("add --tun-port 6080"));
            }
            ("ipip" | "gre", Some(port)) => {
                return Err(self
                    .line
                    .problem(&port.word, "only a GUE tunnel has a port")
                    .help("add --tun-type gue, or leave --tun-port out"));
            }
            ("ipip", None) => TunnelKind::Ipip,
            ("gre", None) => TunnelKind::Gre,
            _ => {
                let word = kind_word.unwrap_or(&first.word);
                return Err(unknown_value(self.line, word, "tunnel type", &["ipip", "gue", "gre"]));
            }
        };
        if let Some(given) = checksums.first() {
            let possible = match given.opt {
                Opt::RemoteChecksum => matches!(kind, TunnelKind::Gue { .. }),
                _ => kind != TunnelKind::Ipip,
            };
            if !possible {
                let kinds = if given.opt == Opt::RemoteChecksum { "GUE" } else { "GUE and GRE" };
                return Err(self.line.problem(&given.word, format!("`{}` is for {kinds} tunnels only", given.word.text)));
            }
        }
        Ok(Some((Tunnel { kind, checksum }, first.word.clone())))
    }

    fn service_settings(&self, builder: &mut Builder, service: &ServiceKey) -> Result<ServiceSettings, Problem> {
        let scheduler = match self.split.get(Opt::Scheduler).and_then(|given| given.value.as_ref()) {
            Some(word) => scheduler(self.line, word, self.dpvs)?,
            None => SchedulerKind::Wlc,
        };
        let persistence = self.persistence(service)?;
        let persistence_engine = match self.split.get(Opt::Engine).and_then(|given| given.value.as_ref()) {
            Some(word) if word.text == "sip" => Some(PersistenceEngine::Sip),
            Some(word) => return Err(unknown_value(self.line, word, "persistence engine", &["sip"])),
            None => None,
        };
        let one_packet = match self.split.get(Opt::OnePacket) {
            Some(given) => {
                let possible = match service {
                    ServiceKey::Address { protocol, .. } => *protocol == Protocol::UDP,
                    ServiceKey::Mark { .. } | ServiceKey::Match(_) => true,
                };
                if !possible {
                    return Err(self
                        .line
                        .problem(&given.word, "one-packet scheduling is for UDP and firewall-mark services only"));
                }
                true
            }
            None => false,
        };
        let flags = match self.split.get(Opt::Flags).and_then(|given| given.value.as_ref()) {
            Some(word) => scheduler_flags(self.line, word, scheduler)?,
            None => SchedulerFlags::default(),
        };
        let dpvs = self.dpvs_settings(builder)?;
        Ok(ServiceSettings { scheduler, flags, persistence, persistence_engine, one_packet, dpvs })
    }

    fn persistence(&self, service: &ServiceKey) -> Result<Option<Persistence>, Problem> {
        let netmask = self.split.get(Opt::Netmask);
        let Some(given) = self.split.get(Opt::Persistent) else {
            return match netmask {
                Some(netmask) => {
                    Err(self.line.problem(&netmask.word, "`-M` needs `-p`: the mask groups the clients of persistent services"))
                }
                None => Ok(None),
            };
        };
        let timeout = match &given.value {
            Some(word) => self.line.number(word, "persistence timeout in seconds", 1..=LONGEST_PERSISTENCE)?,
            None => DEFAULT_PERSISTENCE,
        };
        let ipv4 = match service {
            ServiceKey::Address { address, .. } => address.is_ipv4(),
            ServiceKey::Mark { family, .. } => *family == Family::Ipv4,
            ServiceKey::Match(_) => true,
        };
        let prefix_len = match netmask.and_then(|given| given.value.as_ref()) {
            Some(word) if ipv4 => mask_length(&word.text).ok_or_else(|| {
                self.line
                    .problem(word, format!("`{}` is no netmask", word.text))
                    .help("expected a mask without holes, such as 255.255.255.0")
            })?,
            Some(word) => self.line.number(word, "prefix length", 1..=128)? as u8,
            None if ipv4 => 32,
            None => 128,
        };
        Ok(Some(Persistence { timeout, prefix_len }))
    }

    fn dpvs_settings(&self, builder: &mut Builder) -> Result<DpvsServiceSettings, Problem> {
        let value = |opt: Opt| self.split.get(opt).and_then(|given| given.value.as_ref());
        for opt in [Opt::Quic, Opt::DestCheck] {
            if let Some(given) = self.split.get(opt) {
                builder.warnings.push(self.line.problem(&given.word, format!("`{}` is not replayed", given.word.text)));
            }
        }
        let syn_proxy = match value(Opt::SynProxy) {
            Some(word) => match &*word.text {
                "enable" => true,
                "disable" => false,
                _ => return Err(unknown_value(self.line, word, "value of -j", &["enable", "disable"])),
            },
            None => false,
        };
        let connection_timeout = match value(Opt::ConnTimeout) {
            Some(word) => Some(self.line.number(word, "timeout in seconds", 1..=LONGEST_PERSISTENCE)?),
            None => None,
        };
        let proxy_protocol = match value(Opt::ProxyProtocol) {
            Some(word) => match &*word.text {
                "disable" => ProxyProtocol::Disable,
                "v1" => ProxyProtocol::V1,
                "v2" => ProxyProtocol::V2,
                "v1-insecure" => ProxyProtocol::V1Insecure,
                "v2-insecure" => ProxyProtocol::V2Insecure,
                _ => {
                    let known = ["disable", "v1", "v2", "v1-insecure", "v2-insecure"];
                    return Err(unknown_value(self.line, word, "proxy protocol", &known));
                }
            },
            None => ProxyProtocol::Disable,
        };
        let hash_target = match value(Opt::HashTarget) {
            Some(word) => match &*word.text {
                "sip" => HashTarget::SourceIp,
                "qid" => HashTarget::QuicId,
                _ => return Err(unknown_value(self.line, word, "hash target", &["sip", "qid"])),
            },
            None => HashTarget::SourceIp,
        };
        let expire_quiescent = self.split.get(Opt::ExpireQuiescent).is_some();
        Ok(DpvsServiceSettings { syn_proxy, connection_timeout, proxy_protocol, expire_quiescent, hash_target })
    }

    fn timeouts(&self, command: &Given<'a>) -> Result<TimeoutSettings, Problem> {
        let [tcp, tcp_fin, udp] = self.split.rest.as_slice() else {
            return Err(self
                .line
                .problem(&command.word, "`--set` needs three numbers of seconds: TCP, TCP after FIN, UDP")
                .help("0 keeps a value"));
        };
        // The kernel refuses more than fits its timers (INT_MAX / HZ); 31 days is ipvsadm's bound for persistence.
        let seconds = |word: &Word<'a>| -> Result<Option<u32>, Problem> {
            let number = self.line.number(word, "timeout in seconds", 0..=i32::MAX as u32 / 1000)?;
            Ok((number != 0).then_some(number))
        };
        Ok(TimeoutSettings { tcp: seconds(tcp)?, tcp_fin: seconds(tcp_fin)?, udp: seconds(udp)? })
    }

    /// DPVS's `proto=tcp,src-range=A-B:P-Q,dst-range=A-B:P-Q,iif=IF,oif=IF`.
    fn match_rule(&self, word: &Word<'a>) -> Result<MatchRule, Problem> {
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

/// A scheduler by its name.
///
/// # Errors
/// No scheduler of this system has that name; the message suggests the nearest.
pub fn scheduler(line: &Line<'_>, word: &Word<'_>, dpvs: bool) -> Result<SchedulerKind, Problem> {
    let known = scheduler_names(dpvs);
    match SchedulerKind::by_name(&word.text) {
        Some(kind) if known.contains(&&*word.text) => Ok(kind),
        Some(_) => {
            let system = if dpvs { "DPVS" } else { "Linux" };
            Err(line
                .problem(word, format!("{system} has no scheduler `{}`", word.text))
                .help(format!("schedulers: {}", known.join(", "))))
        }
        None => Err(line.problem(word, format!("unknown scheduler `{}`", word.text)).help(super::problem::suggest(
            &word.text,
            "schedulers",
            &known,
        ))),
    }
}

/// The schedulers that a system has.
pub fn scheduler_names(dpvs: bool) -> Vec<&'static str> {
    const DPVS: [&str; 6] = ["rr", "wrr", "wlc", "conhash", "fo", "mh"];
    if dpvs {
        return DPVS.to_vec();
    }
    SchedulerKind::NAMES.iter().map(|(name, _)| *name).filter(|name| *name != "conhash").collect()
}

/// `-b`'s list of flags.
///
/// # Errors
/// An unknown flag, or another scheduler's.
pub fn scheduler_flags(line: &Line<'_>, word: &Word<'_>, scheduler: SchedulerKind) -> Result<SchedulerFlags, Problem> {
    const KNOWN: &[&str] = &["flag-1", "flag-2", "flag-3", "sh-fallback", "sh-port", "mh-fallback", "mh-port"];
    let mut flags = SchedulerFlags::default();
    let mut offset = 0;
    for name in word.text.split(',') {
        let mut here = word.from(offset);
        here.length = name.chars().count().max(1);
        here.text = name.to_owned().into();
        offset += name.len() + 1;
        if let Some((owner @ ("sh" | "mh"), _)) = name.split_once('-')
            && owner != scheduler.name()
        {
            let message = format!("flag `{name}` is for scheduler {owner}, and the service has {}", scheduler.name());
            return Err(line.problem(&here, message));
        }
        match name {
            "flag-1" | "sh-fallback" | "mh-fallback" => flags.fallback = true,
            "flag-2" | "sh-port" | "mh-port" => flags.port = true,
            "flag-3" => flags.third = true,
            _ => return Err(unknown_value(line, &here, "scheduler flag", KNOWN)),
        }
    }
    Ok(flags)
}

/// How many leading ones a dotted IPv4 mask has; none when it has holes or is no mask.
pub fn mask_length(text: &str) -> Option<u8> {
    let IpAddr::V4(mask) = parse_address(text).ok()? else { return None };
    let bits = u32::from(mask);
    let length = bits.leading_ones();
    (bits.checked_shl(length).unwrap_or(0) == 0).then_some(length as u8)
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
