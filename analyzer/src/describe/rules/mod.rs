//! ipvsadm command lines: as `ipvsadm -Sn` prints them, as people type them, and in DPVS's dialect
//! (reference/linux-ipvs.md section 11, reference/dpvs-fullnat.md section 17).

mod matching;
mod scheduler;
mod settings;

pub use scheduler::{scheduler, scheduler_flags, scheduler_names};

use super::builder::{Builder, When};
use super::options::{Given, Opt, Split, split};
use super::problem::Problem;
use super::words::{Line, NUMERIC, Word, parse_address, parse_endpoint};
use lvscheck_engine::config::{AddressList, Command, Family, ForwardingMethod, Protocol, ServerKey, ServiceKey, TimeoutSettings};
use std::net::IpAddr;

/// ipvsadm's own default of `-p`, in seconds.
pub const DEFAULT_PERSISTENCE: u32 = 300;

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
}

/// How many leading ones a dotted IPv4 mask has; none when it has holes or is no mask.
pub fn mask_length(text: &str) -> Option<u8> {
    let IpAddr::V4(mask) = parse_address(text).ok()? else { return None };
    let bits = u32::from(mask);
    let length = bits.leading_ones();
    (bits.checked_shl(length).unwrap_or(0) == 0).then_some(length as u8)
}
