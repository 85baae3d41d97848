//! `lvs.toml`: a director by hand, and inside a snapshot folder what no tool's output says.
//!
//! ```toml
//! profile = "linux"                  # linux, linux-5.10, dpvs-1.10
//! receive_offload = false            # true: frames above the link's MTU arrive, as after GRO
//!
//! [[interface]]
//! name = "eth0"
//! mac = "02:00:00:00:01:00"
//! mtu = 1500
//! addresses = ["200.200.200.1/24", "10.0.0.1/24"]
//!
//! [[route]]
//! destination = "default"            # or a network
//! gateway = "200.200.200.254"
//! interface = "eth0"                 # may be left out when the gateway is on a link
//!
//! [[neighbour]]
//! address = "10.0.0.11"
//! mac = "02:00:00:00:02:0b"
//! interface = "eth0"                 # may be left out when the address is on a link
//!
//! [[service]]
//! tcp = "200.200.200.1:80"           # or udp, sctp, or mark = 1 (with family = "ipv6")
//! scheduler = "wrr"                  # wlc
//! persistence = 300                  # seconds; netmask = "255.255.255.0" groups clients
//! method = "dr"                      # of its servers: dr, nat, tunnel, fullnat
//! local_addresses = ["10.0.0.100"]   # FULLNAT
//! [[service.server]]
//! address = "10.0.0.11:80"
//! weight = 3
//! mac = "02:00:00:00:02:0b"          # becomes a neighbour
//! tunnel = { type = "gue", port = 6080, checksum = "none" }
//!
//! [sysctl]
//! "net.ipv4.vs.conn_reuse_mode" = 1
//!
//! [timeouts]
//! tcp = 900
//! tcp_fin = 120
//! udp = 300
//! ```
//!
//! `[[mark]]`, `[[local]]`, `[[vlan]]`, `[[at]]` and `[dpvs]` are those of design section 5.

use super::builder::{Builder, When};
use super::iproute::{add_vlan, default_scope, interface_towards, vlan_protocol};
use super::problem::{Place, Problem, nearest, suggest};
use super::rules::{DEFAULT_PERSISTENCE, mask_length, scheduler, scheduler_flags};
use super::script;
use super::words::{Line, Word, parse_address, parse_endpoint, parse_prefix};
use lvscheck_engine::config::{
    Address, Command, DpvsServiceSettings, Family, ForwardingMethod, HashTarget, InterfaceId, LocalNetwork, MacAddr,
    MacAddrError, MarkRule, NeighbourEntry, Network, Persistence, PersistenceEngine, Protocol, ProxyProtocol, Route, RouteKind,
    SchedulerFlags, SchedulerKind, ServerKey, ServerSettings, ServiceKey, ServiceSettings, TimeoutSettings, Tunnel,
    TunnelChecksum, TunnelKind, UoaMode, VlanProtocol, VlanTag,
};
use lvscheck_engine::profile::Profile;
use lvscheck_engine::time::Nanos;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use toml::Spanned;

type Text = Spanned<String>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tables {
    profile: Option<Text>,
    receive_offload: Option<bool>,
    interface: Vec<InterfaceTable>,
    vlan: Vec<VlanTable>,
    route: Vec<RouteTable>,
    neighbour: Vec<NeighbourTable>,
    mark: Vec<MarkTable>,
    local: Vec<LocalTable>,
    service: Vec<ServiceTable>,
    at: Vec<AtTable>,
    sysctl: BTreeMap<String, Spanned<toml::Value>>,
    timeouts: Option<TimeoutTable>,
    dpvs: Option<DpvsTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InterfaceTable {
    name: String,
    mac: Option<Text>,
    mtu: Option<Spanned<u32>>,
    #[serde(default)]
    addresses: Vec<Text>,
    up: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VlanTable {
    name: String,
    parent: Text,
    id: Spanned<u32>,
    protocol: Option<Text>,
    mac: Option<Text>,
    mtu: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteTable {
    destination: Text,
    gateway: Option<Text>,
    interface: Option<Text>,
    source: Option<Text>,
    mtu: Option<u32>,
    #[serde(default)]
    metric: u32,
    kind: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NeighbourTable {
    address: Text,
    mac: Text,
    interface: Option<Text>,
    #[serde(default = "yes")]
    permanent: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkTable {
    mark: Spanned<u32>,
    destination: Option<Text>,
    protocol: Option<Text>,
    #[serde(default)]
    ports: Vec<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LocalTable {
    network: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AtTable {
    seconds: Spanned<f64>,
    run: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceTable {
    tcp: Option<Text>,
    udp: Option<Text>,
    sctp: Option<Text>,
    mark: Option<Spanned<u32>>,
    family: Option<Text>,
    scheduler: Option<Text>,
    persistence: Option<Spanned<toml::Value>>,
    netmask: Option<Spanned<toml::Value>>,
    flags: Option<Text>,
    #[serde(default)]
    one_packet: bool,
    persistence_engine: Option<Text>,
    method: Option<Text>,
    #[serde(default)]
    local_addresses: Vec<Text>,
    #[serde(default)]
    syn_proxy: bool,
    connection_timeout: Option<u32>,
    proxy_protocol: Option<Text>,
    #[serde(default)]
    expire_quiescent: bool,
    hash_target: Option<Text>,
    #[serde(default)]
    server: Vec<ServerTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerTable {
    address: Text,
    weight: Option<Spanned<u32>>,
    method: Option<Text>,
    mac: Option<Text>,
    #[serde(default)]
    upper_threshold: u32,
    #[serde(default)]
    lower_threshold: u32,
    tunnel: Option<TunnelTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TunnelTable {
    #[serde(rename = "type")]
    kind: Text,
    port: Option<u16>,
    checksum: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TimeoutTable {
    tcp: Option<u32>,
    tcp_fin: Option<u32>,
    udp: Option<u32>,
}

/// dpvs.conf's names; a group's name may stand before a name that is not unique there (`udp_oneway`).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DpvsTable {
    uoa_mode: Option<Text>,
    uoa_max_trail: Option<u8>,
    fast_xmit_close: Option<bool>,
    xmit_ttl: Option<bool>,
    defence_tcp_drop: Option<bool>,
    defence_udp_drop: Option<bool>,
    pool_hash_size: Option<u16>,
    forwarding: Option<bool>,
    unres_queue_length: Option<u16>,
    #[serde(alias = "conn_init_timeout")]
    conn_init: Option<u32>,
    none: Option<u32>,
    established: Option<u32>,
    syn_sent: Option<u32>,
    syn_recv: Option<u32>,
    fin_wait: Option<u32>,
    time_wait: Option<u32>,
    close: Option<u32>,
    close_wait: Option<u32>,
    last_ack: Option<u32>,
    listen: Option<u32>,
    synack: Option<u32>,
    last: Option<u32>,
    #[serde(alias = "oneway")]
    udp_oneway: Option<u32>,
    #[serde(alias = "normal")]
    udp_normal: Option<u32>,
    neighbour_timeout: Option<u32>,
    synproxy: Option<SynProxyTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SynProxyTable {
    mss: Option<u16>,
    ttl: Option<u8>,
    sack: Option<bool>,
    wscale: Option<u8>,
    timestamp: Option<bool>,
    close_client_window: Option<bool>,
    defer_rs_syn: Option<bool>,
    rs_syn_max_retry: Option<u8>,
    ack_storm_thresh: Option<u8>,
    max_ack_saved: Option<u8>,
}

/// A parsed lvs.toml, applied in steps because a snapshot's other files come between them.
#[derive(Debug)]
pub struct LvsToml<'a> {
    file: &'a str,
    text: &'a str,
    tables: Tables,
}

impl<'a> LvsToml<'a> {
    /// Parses the text.
    ///
    /// # Errors
    /// A syntax error, an unknown key, a value of the wrong kind.
    pub fn parse(file: &'a str, text: &'a str) -> Result<LvsToml<'a>, Problem> {
        let tables = toml::from_str(text).map_err(|error| {
            let message = error.message().to_owned();
            let near = misspelt(&message);
            let problem = match error.span() {
                Some(span) => Problem::new(message).at(place(file, text, span)),
                None => Problem::new(message).in_file(file),
            };
            match near {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None => problem,
            }
        })?;
        Ok(LvsToml { file, text, tables })
    }

    fn place<T>(&self, value: &Spanned<T>) -> Place {
        place(self.file, self.text, value.span())
    }

    fn problem<T>(&self, value: &Spanned<T>, message: impl Into<String>) -> Problem {
        Problem::new(message).at(self.place(value))
    }

    fn unknown(&self, value: &Text, what: &str, known: &[&str]) -> Problem {
        self.problem(value, format!("unknown {what} `{}`", value.get_ref())).help(suggest(value.get_ref(), "known", known))
    }

    /// The value as a line of its own, for the parsers of commands and words.
    fn line<'b>(&'b self, value: &'b Text, place: &'b Place) -> (Line<'b>, Word<'b>) {
        // The quote comes before the text.
        let offset = place.column;
        let code = value.get_ref().as_str();
        let word = Word { text: code.into(), column: offset + 1, length: code.chars().count().max(1) };
        (Line { file: self.file, number: place.line, text: &place.text, offset, code }, word)
    }

    /// The profile, if it names one.
    ///
    /// # Errors
    /// An unknown profile.
    pub fn profile(&self) -> Result<Option<&'static Profile>, Problem> {
        let Some(name) = &self.tables.profile else { return Ok(None) };
        let known: Vec<&str> = Profile::ALL.iter().map(|profile| profile.name).collect();
        Profile::by_name(name.get_ref()).map(Some).ok_or_else(|| self.unknown(name, "profile", &known))
    }

    /// Interfaces and VLANs.
    ///
    /// # Errors
    /// A value that can't be.
    pub fn links(&self, builder: &mut Builder) -> Result<(), Problem> {
        if let Some(receive_offload) = self.tables.receive_offload {
            builder.config.receive_offload = receive_offload;
        }
        for table in &self.tables.interface {
            let mac = table.mac.as_ref().map(|mac| self.mac(mac)).transpose()?;
            if let Some(mtu) = table.mtu.as_ref().filter(|mtu| !(68..=65536).contains(mtu.get_ref())) {
                return Err(self.problem(mtu, format!("`{}` is no MTU; expected a number from 68 to 65536", mtu.get_ref())));
            }
            let mtu = table.mtu.as_ref().map(|mtu| *mtu.get_ref());
            let Some(id) = builder.add_interface(&table.name, mac, mtu) else {
                return Err(Problem::new("too many interfaces").in_file(self.file));
            };
            if let (Some(up), Some(interface)) = (table.up, builder.config.interfaces.get_mut(usize::from(id.0))) {
                interface.up = up;
            }
            for text in &table.addresses {
                let (address, prefix_len) = self.prefix(text)?;
                let scope = default_scope(address);
                builder.add_address(id, Address { address, prefix_len, scope, secondary: false, sapool: false });
            }
        }
        for table in &self.tables.vlan {
            let parent = self.interface(builder, &table.parent)?;
            let id = *table.id.get_ref();
            if !(1..=4094).contains(&id) {
                return Err(self.problem(&table.id, format!("`{id}` is no VLAN ID; expected a number from 1 to 4094")));
            }
            let protocol = match &table.protocol {
                Some(name) => {
                    vlan_protocol(name.get_ref()).ok_or_else(|| self.unknown(name, "VLAN protocol", &["802.1q", "802.1ad"]))?
                }
                None => VlanProtocol::Dot1Q,
            };
            let mac = table.mac.as_ref().map(|mac| self.mac(mac)).transpose()?;
            let tag = VlanTag { parent, id: id as u16, protocol };
            if add_vlan(builder, &table.name, tag, mac, table.mtu).is_none() {
                return Err(Problem::new("too many interfaces").in_file(self.file));
            }
        }
        Ok(())
    }

    /// All else.
    ///
    /// # Errors
    /// A value that can't be, or a command that can't be carried out.
    pub fn rest(&self, builder: &mut Builder) -> Result<(), Problem> {
        for table in &self.tables.local {
            let (address, length) = self.prefix(&table.network)?;
            builder.config.local_networks.push(LocalNetwork { network: Network::new(address, length) });
        }
        for table in &self.tables.route {
            self.route(builder, table)?;
        }
        for table in &self.tables.neighbour {
            let address = self.address(&table.address)?;
            let mac = self.mac(&table.mac)?;
            let interface = match &table.interface {
                Some(name) => self.interface(builder, name)?,
                None => self.towards(builder, &table.address, address)?,
            };
            builder.add_neighbour(NeighbourEntry { address, mac, interface, permanent: table.permanent });
        }
        for table in &self.tables.mark {
            if *table.mark.get_ref() == 0 {
                return Err(self.problem(&table.mark, "mark 0 means no mark; expected a number from 1"));
            }
            let destination = match &table.destination {
                Some(text) => Some(self.prefix(text).map(|(address, length)| Network::new(address, length))?),
                None => None,
            };
            let protocol = table.protocol.as_ref().map(|name| self.protocol(name)).transpose()?;
            builder.config.marks.push(MarkRule {
                mark: *table.mark.get_ref(),
                destination,
                protocol,
                ports: table.ports.clone(),
            });
        }
        for (name, value) in &self.tables.sysctl {
            let text = match value.get_ref() {
                toml::Value::String(text) => text.clone(),
                toml::Value::Boolean(on) => u8::from(*on).to_string(),
                toml::Value::Integer(number) => number.to_string(),
                _ => return Err(self.problem(value, "a kernel setting is a number or a string")),
            };
            builder.config.sysctls.set(name, &text).map_err(|error| self.problem(value, error.to_string()))?;
        }
        if let Some(table) = &self.tables.timeouts {
            let settings = TimeoutSettings { tcp: table.tcp, tcp_fin: table.tcp_fin, udp: table.udp };
            builder.take(Command::SetTimeouts(settings), When::Setup, None);
        }
        if let Some(table) = &self.tables.dpvs {
            self.dpvs(builder, table)?;
        }
        for table in &self.tables.service {
            self.service(builder, table)?;
        }
        for table in &self.tables.at {
            let seconds = *table.seconds.get_ref();
            // A million seconds is longer than any capture that a change could fall into, and fits nanoseconds.
            if !(0.0..=1e6).contains(&seconds) {
                return Err(self.problem(&table.seconds, format!("`{seconds}` is no time; expected seconds from 0 to 1000000")));
            }
            let after = Nanos((seconds * 1e9).round() as u64);
            let place = self.place(&table.run);
            let (line, _) = self.line(&table.run, &place);
            script::run(builder, &line, When::After(after))?;
        }
        Ok(())
    }

    fn interface(&self, builder: &Builder, name: &Text) -> Result<InterfaceId, Problem> {
        builder.config.interface(name.get_ref()).ok_or_else(|| {
            let known: Vec<&str> = builder.config.interfaces.iter().map(|interface| interface.name.as_str()).collect();
            self.unknown(name, "interface", &known)
        })
    }

    fn towards(&self, builder: &Builder, text: &Text, address: IpAddr) -> Result<InterfaceId, Problem> {
        interface_towards(builder, address).ok_or_else(|| {
            self.problem(text, format!("{address} is in no subnet of the director's interfaces")).help("name its `interface`")
        })
    }

    fn mac(&self, text: &Text) -> Result<MacAddr, Problem> {
        text.get_ref().parse().map_err(|error: MacAddrError| self.problem(text, error.to_string()))
    }

    fn address(&self, text: &Text) -> Result<IpAddr, Problem> {
        parse_address(text.get_ref()).map_err(|reason| self.problem(text, format!("`{}` {reason}", text.get_ref())))
    }

    fn prefix(&self, text: &Text) -> Result<(IpAddr, u8), Problem> {
        parse_prefix(text.get_ref()).map_err(|reason| self.problem(text, format!("`{}` {reason}", text.get_ref())))
    }

    fn endpoint(&self, text: &Text) -> Result<(IpAddr, Option<u16>), Problem> {
        parse_endpoint(text.get_ref()).map_err(|reason| self.problem(text, format!("`{}` {reason}", text.get_ref())))
    }

    fn protocol(&self, name: &Text) -> Result<Protocol, Problem> {
        match name.get_ref().to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::TCP),
            "udp" => Ok(Protocol::UDP),
            "sctp" => Ok(Protocol::SCTP),
            _ => Err(self.unknown(name, "protocol", &["tcp", "udp", "sctp"])),
        }
    }

    fn route(&self, builder: &mut Builder, table: &RouteTable) -> Result<(), Problem> {
        let gateway = table.gateway.as_ref().map(|text| self.address(text)).transpose()?;
        let destination = if table.destination.get_ref() == "default" {
            let ipv6 = gateway.is_some_and(|gateway| gateway.is_ipv6());
            Network::new(if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }, 0)
        } else {
            let (address, length) = self.prefix(&table.destination)?;
            Network::new(address, length)
        };
        let kind = match table.kind.as_ref().map(|kind| kind.get_ref().as_str()) {
            None | Some("unicast") => RouteKind::Unicast,
            Some("local") => RouteKind::Local,
            Some("blackhole") => RouteKind::Blackhole,
            Some("unreachable") => RouteKind::Unreachable,
            Some("prohibit") => RouteKind::Prohibit,
            Some(_) => {
                let known = ["unicast", "local", "blackhole", "unreachable", "prohibit"];
                return Err(self.unknown(table.kind.as_ref().unwrap_or(&table.destination), "kind of route", &known));
            }
        };
        let interface = match (&table.interface, &table.gateway, gateway) {
            (Some(name), ..) => Some(self.interface(builder, name)?),
            (None, Some(text), Some(gateway)) => Some(self.towards(builder, text, gateway)?),
            _ if kind != RouteKind::Unicast => None,
            _ => return Err(self.problem(&table.destination, "a route needs a gateway or an interface")),
        };
        let source = table.source.as_ref().map(|text| self.address(text)).transpose()?;
        builder.add_route(Route { destination, gateway, interface, source, mtu: table.mtu, metric: table.metric, kind });
        Ok(())
    }

    fn service(&self, builder: &mut Builder, table: &ServiceTable) -> Result<(), Problem> {
        let (key, place) = self.service_key(table)?;
        let settings = self.service_settings(builder, table, &key)?;
        // A service that the other files describe too is overridden, where it stands.
        let known = builder
            .config
            .commands
            .iter()
            .position(|command| matches!(command, Command::AddService { service, .. } if *service == key));
        match known.and_then(|index| builder.config.commands.get_mut(index)) {
            Some(command) => *command = Command::AddService { service: key.clone(), settings },
            None => builder.take(Command::AddService { service: key.clone(), settings }, When::Setup, Some(place.clone())),
        }
        for text in &table.local_addresses {
            let address = self.address(text)?;
            let interface = match interface_towards(builder, address) {
                Some(interface) => interface,
                None => builder
                    .config
                    .interfaces
                    .iter()
                    .position(|interface| !interface.loopback)
                    .and_then(|index| u16::try_from(index).ok())
                    .map(InterfaceId)
                    .ok_or_else(|| {
                        self.problem(text, "a local address needs an interface to be on").help("describe one with [[interface]]")
                    })?,
            };
            let command = Command::AddLocalAddress { service: key.clone(), address, interface };
            builder.take(command, When::Setup, Some(self.place(text)));
        }
        for server in &table.server {
            self.server(builder, table, &key, server)?;
        }
        let own = |command: &Command| matches!(command, Command::AddServer { service, settings, .. } if *service == key && settings.method == ForwardingMethod::FullNat);
        let local = |command: &Command| matches!(command, Command::AddLocalAddress { service, .. } if *service == key);
        if builder.config.commands.iter().any(own) && !builder.config.commands.iter().any(local) {
            return Err(Problem::new(format!("{key} has real servers under FULLNAT and no local address"))
                .at(place)
                .help("add local_addresses = [\"10.0.0.100\"] to the service"));
        }
        Ok(())
    }

    fn service_key(&self, table: &ServiceTable) -> Result<(ServiceKey, Place), Problem> {
        let addresses = [(&table.tcp, Protocol::TCP), (&table.udp, Protocol::UDP), (&table.sctp, Protocol::SCTP)];
        let mut found = addresses.into_iter().filter_map(|(text, protocol)| text.as_ref().map(|text| (text, protocol)));
        match (found.next(), found.next(), &table.mark) {
            (Some((text, protocol)), None, None) => {
                let (address, port) = self.endpoint(text)?;
                let port = port.unwrap_or(0);
                if port == 0 && table.persistence.is_none() {
                    let problem = self.problem(
                        text,
                        format!("`{}` has no port, and only a persistent service can be for every port", text.get_ref()),
                    );
                    return Err(problem.help("write ADDRESS:PORT, or add `persistence`"));
                }
                Ok((ServiceKey::Address { protocol, address, port }, self.place(text)))
            }
            (None, None, Some(mark)) => {
                let family = match table.family.as_ref().map(|family| family.get_ref().as_str()) {
                    None | Some("ipv4") => Family::Ipv4,
                    Some("ipv6") => Family::Ipv6,
                    Some(_) => {
                        return Err(self.unknown(
                            table.family.as_ref().ok_or_else(|| Problem::new("family"))?,
                            "family",
                            &["ipv4", "ipv6"],
                        ));
                    }
                };
                if *mark.get_ref() == 0 {
                    return Err(self.problem(mark, "mark 0 means no mark; expected a number from 1"));
                }
                Ok((ServiceKey::Mark { mark: *mark.get_ref(), family }, self.place(mark)))
            }
            (None, None, None) => Err(Problem::new("a [[service]] needs `tcp`, `udp`, `sctp` or `mark`").in_file(self.file)),
            (Some((text, _)), ..) => Err(self.problem(text, "a [[service]] has only one of `tcp`, `udp`, `sctp` and `mark`")),
            (None, Some(_), _) => {
                Err(Problem::new("a [[service]] has only one of `tcp`, `udp`, `sctp` and `mark`").in_file(self.file))
            }
        }
    }

    fn service_settings(&self, builder: &Builder, table: &ServiceTable, key: &ServiceKey) -> Result<ServiceSettings, Problem> {
        let with_line = |text: &Text, read: &mut dyn FnMut(&Line<'_>, &Word<'_>) -> Result<(), Problem>| {
            let place = self.place(text);
            let (line, word) = self.line(text, &place);
            read(&line, &word)
        };
        let mut kind = SchedulerKind::Wlc;
        if let Some(text) = &table.scheduler {
            with_line(text, &mut |line, word| {
                kind = scheduler(line, word, builder.is_dpvs())?;
                Ok(())
            })?;
        }
        let mut flags = SchedulerFlags::default();
        if let Some(text) = &table.flags {
            with_line(text, &mut |line, word| {
                flags = scheduler_flags(line, word, kind)?;
                Ok(())
            })?;
        }
        let ipv6 = match key {
            ServiceKey::Address { address, .. } => address.is_ipv6(),
            ServiceKey::Mark { family, .. } => *family == Family::Ipv6,
            ServiceKey::Match(_) => false,
        };
        let persistence = match &table.persistence {
            None => None,
            Some(value) => {
                let timeout = match value.get_ref() {
                    toml::Value::Boolean(true) => Some(DEFAULT_PERSISTENCE),
                    toml::Value::Integer(seconds) => {
                        u32::try_from(*seconds).ok().filter(|seconds| (1..=31 * 86_400).contains(seconds))
                    }
                    _ => None,
                };
                let timeout = timeout
                    .ok_or_else(|| self.problem(value, "persistence is a number of seconds from 1 to 2678400, or true"))?;
                Some(Persistence { timeout, prefix_len: self.netmask(table, ipv6)? })
            }
        };
        if persistence.is_none()
            && let Some(mask) = &table.netmask
        {
            return Err(self.problem(mask, "`netmask` needs `persistence`"));
        }
        let persistence_engine = match &table.persistence_engine {
            None => None,
            Some(name) if name.get_ref() == "sip" => Some(PersistenceEngine::Sip),
            Some(name) => return Err(self.unknown(name, "persistence engine", &["sip"])),
        };
        let proxy_protocol = match table.proxy_protocol.as_ref().map(|name| (name, name.get_ref().as_str())) {
            None | Some((_, "disable")) => ProxyProtocol::Disable,
            Some((_, "v1")) => ProxyProtocol::V1,
            Some((_, "v2")) => ProxyProtocol::V2,
            Some((_, "v1-insecure")) => ProxyProtocol::V1Insecure,
            Some((_, "v2-insecure")) => ProxyProtocol::V2Insecure,
            Some((name, _)) => {
                return Err(self.unknown(name, "proxy protocol", &["disable", "v1", "v2", "v1-insecure", "v2-insecure"]));
            }
        };
        let hash_target = match table.hash_target.as_ref().map(|name| (name, name.get_ref().as_str())) {
            None | Some((_, "sip")) => HashTarget::SourceIp,
            Some((_, "qid")) => HashTarget::QuicId,
            Some((name, _)) => return Err(self.unknown(name, "hash target", &["sip", "qid"])),
        };
        let dpvs = DpvsServiceSettings {
            syn_proxy: table.syn_proxy,
            connection_timeout: table.connection_timeout,
            proxy_protocol,
            expire_quiescent: table.expire_quiescent,
            hash_target,
        };
        Ok(ServiceSettings { scheduler: kind, flags, persistence, persistence_engine, one_packet: table.one_packet, dpvs })
    }

    fn netmask(&self, table: &ServiceTable, ipv6: bool) -> Result<u8, Problem> {
        let longest = if ipv6 { 128 } else { 32 };
        let Some(mask) = &table.netmask else { return Ok(longest) };
        let length = match mask.get_ref() {
            toml::Value::Integer(length) => u8::try_from(*length).ok().filter(|length| *length <= longest),
            toml::Value::String(text) if !ipv6 => mask_length(text),
            _ => None,
        };
        length.ok_or_else(|| {
            self.problem(mask, format!("this is no netmask; expected 255.255.255.0 or a prefix length up to {longest}"))
        })
    }

    fn server(&self, builder: &mut Builder, table: &ServiceTable, key: &ServiceKey, server: &ServerTable) -> Result<(), Problem> {
        let (address, port) = self.endpoint(&server.address)?;
        let method = self.method(server.method.as_ref().or(table.method.as_ref()), server.tunnel.as_ref())?;
        let service_port = match key {
            ServiceKey::Address { port, .. } => Some(*port),
            _ => None,
        };
        if let (Some(service_port), Some(port), ForwardingMethod::Dr | ForwardingMethod::Tunnel(_)) = (service_port, port, method)
            && port != service_port
        {
            return Err(self
                .problem(&server.address, format!("another port, {port}, than the service's, {service_port}"))
                .help("direct routing and tunnels do not rewrite packets; use method = \"nat\" or \"fullnat\" to change ports"));
        }
        let server_key = ServerKey { address, port: port.or(service_port).unwrap_or(0) };
        let weight = server.weight.as_ref().map_or(1, |weight| *weight.get_ref());
        if let Some(weight) = server.weight.as_ref().filter(|weight| *weight.get_ref() > i32::MAX as u32) {
            return Err(self.problem(weight, "the weight is above 2147483647"));
        }
        if server.lower_threshold > server.upper_threshold {
            return Err(self.problem(&server.address, "`lower_threshold` is above `upper_threshold`"));
        }
        let settings =
            ServerSettings { method, weight, upper_threshold: server.upper_threshold, lower_threshold: server.lower_threshold };
        if let Some(text) = &server.mac {
            let mac = self.mac(text)?;
            if builder.config.interfaces.is_empty() {
                builder.server_macs.push((address, mac));
            } else {
                let interface = self.towards(builder, &server.address, address)?;
                builder.add_neighbour(NeighbourEntry { address, mac, interface, permanent: true });
            }
        }
        let place = self.place(&server.address);
        let known = builder.config.commands.iter().position(
            |command| matches!(command, Command::AddServer { service, server, .. } if (service, server) == (key, &server_key)),
        );
        let command = Command::AddServer { service: key.clone(), server: server_key, settings };
        match known.and_then(|index| builder.config.commands.get_mut(index)) {
            Some(known) => *known = command,
            None => builder.take(command, When::Setup, Some(place)),
        }
        Ok(())
    }

    fn method(&self, name: Option<&Text>, tunnel: Option<&TunnelTable>) -> Result<ForwardingMethod, Problem> {
        let tunnel_settings = match tunnel {
            Some(table) => Some((self.tunnel(table)?, table)),
            None => None,
        };
        match (name.map(|name| (name, name.get_ref().as_str())), tunnel_settings) {
            (None | Some((_, "tunnel" | "tun")), Some((tunnel, _))) => Ok(ForwardingMethod::Tunnel(tunnel)),
            (Some((_, "tunnel" | "tun")), None) => Ok(ForwardingMethod::Tunnel(Tunnel::default())),
            (_, Some((_, table))) => Err(self.problem(&table.kind, "`tunnel` goes with method = \"tunnel\" only")),
            (None | Some((_, "dr")), None) => Ok(ForwardingMethod::Dr),
            (Some((_, "nat")), None) => Ok(ForwardingMethod::Nat),
            (Some((_, "fullnat")), None) => Ok(ForwardingMethod::FullNat),
            (Some((name, _)), None) => Err(self.unknown(name, "forwarding method", &["dr", "nat", "tunnel", "fullnat"])),
        }
    }

    fn tunnel(&self, table: &TunnelTable) -> Result<Tunnel, Problem> {
        let kind = match (table.kind.get_ref().as_str(), table.port) {
            ("ipip", None) => TunnelKind::Ipip,
            ("gre", None) => TunnelKind::Gre,
            ("gue", Some(port @ 1..)) => TunnelKind::Gue { port },
            ("gue", _) => return Err(self.problem(&table.kind, "a GUE tunnel needs its UDP `port`")),
            ("ipip" | "gre", Some(_)) => return Err(self.problem(&table.kind, "only a GUE tunnel has a `port`")),
            _ => return Err(self.unknown(&table.kind, "tunnel type", &["ipip", "gue", "gre"])),
        };
        let checksum = match table.checksum.as_ref().map(|name| (name, name.get_ref().as_str())) {
            None | Some((_, "none" | "nocsum")) => TunnelChecksum::None,
            Some((_, "csum")) if kind != TunnelKind::Ipip => TunnelChecksum::Checksum,
            Some((_, "remcsum")) if matches!(kind, TunnelKind::Gue { .. }) => TunnelChecksum::RemoteChecksum,
            Some((name, "csum" | "remcsum")) => return Err(self.problem(name, "this kind of tunnel has no such checksum")),
            Some((name, _)) => return Err(self.unknown(name, "checksum", &["none", "csum", "remcsum"])),
        };
        Ok(Tunnel { kind, checksum })
    }

    fn dpvs(&self, builder: &mut Builder, table: &DpvsTable) -> Result<(), Problem> {
        fn put<T: Copy>(to: &mut T, from: Option<T>) {
            if let Some(value) = from {
                *to = value;
            }
        }
        let dpvs = &mut builder.config.dpvs;
        if let Some(mode) = &table.uoa_mode {
            dpvs.uoa_mode = match mode.get_ref().as_str() {
                "opp" => UoaMode::Opp,
                "ipo" => UoaMode::Ipo,
                _ => return Err(self.unknown(mode, "uoa_mode", &["opp", "ipo"])),
            };
        }
        put(&mut dpvs.uoa_max_trail, table.uoa_max_trail);
        put(&mut dpvs.fast_xmit_close, table.fast_xmit_close);
        put(&mut dpvs.xmit_ttl, table.xmit_ttl);
        put(&mut dpvs.defence_tcp_drop, table.defence_tcp_drop);
        put(&mut dpvs.defence_udp_drop, table.defence_udp_drop);
        put(&mut dpvs.pool_hash_size, table.pool_hash_size);
        put(&mut dpvs.forwarding, table.forwarding);
        put(&mut dpvs.unres_queue_length, table.unres_queue_length);
        let timeouts = &mut dpvs.timeouts;
        put(&mut timeouts.conn_init, table.conn_init);
        put(&mut timeouts.none, table.none);
        put(&mut timeouts.established, table.established);
        put(&mut timeouts.syn_sent, table.syn_sent);
        put(&mut timeouts.syn_recv, table.syn_recv);
        put(&mut timeouts.fin_wait, table.fin_wait);
        put(&mut timeouts.time_wait, table.time_wait);
        put(&mut timeouts.close, table.close);
        put(&mut timeouts.close_wait, table.close_wait);
        put(&mut timeouts.last_ack, table.last_ack);
        put(&mut timeouts.listen, table.listen);
        put(&mut timeouts.synack, table.synack);
        put(&mut timeouts.last, table.last);
        put(&mut timeouts.udp_oneway, table.udp_oneway);
        put(&mut timeouts.udp_normal, table.udp_normal);
        put(&mut timeouts.neighbour, table.neighbour_timeout);
        if let Some(table) = &table.synproxy {
            let synproxy = &mut dpvs.synproxy;
            put(&mut synproxy.mss, table.mss);
            put(&mut synproxy.ttl, table.ttl);
            put(&mut synproxy.sack, table.sack);
            put(&mut synproxy.wscale, table.wscale.map(Some));
            put(&mut synproxy.timestamp, table.timestamp);
            put(&mut synproxy.close_client_window, table.close_client_window);
            put(&mut synproxy.defer_rs_syn, table.defer_rs_syn);
            put(&mut synproxy.rs_syn_max_retry, table.rs_syn_max_retry);
            put(&mut synproxy.ack_storm_thresh, table.ack_storm_thresh);
            put(&mut synproxy.max_ack_saved, table.max_ack_saved);
        }
        Ok(())
    }
}

/// Of a message such as "unknown field `a`, expected one of `b`, `c`" the known name nearest to the unknown one.
fn misspelt(message: &str) -> Option<String> {
    let mut names = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    nearest(unknown, names).map(str::to_owned)
}

/// The place of a byte range.
fn place(file: &str, text: &str, span: std::ops::Range<usize>) -> Place {
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let row = text.get(start..).unwrap_or("").lines().next().unwrap_or("");
    let column = before.get(start..).unwrap_or("").chars().count() + 1;
    let length = text.get(span).unwrap_or("").lines().next().unwrap_or("").chars().count().max(1);
    Place { file: file.to_owned(), line, column, length, text: row.to_owned() }
}
