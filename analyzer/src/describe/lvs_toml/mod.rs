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

mod dpvs;
mod service;
mod tables;

use super::builder::{Builder, When};
use super::iproute::{add_vlan, default_scope, interface_towards, vlan_protocol};
use super::problem::{Place, Problem, nearest, suggest};
use super::script;
use super::words::{Line, Word, parse_address, parse_endpoint, parse_prefix};
use lvscheck_engine::config::{
    Address, Command, InterfaceId, LocalNetwork, MacAddr, MacAddrError, MarkRule, NeighbourEntry, Network, Protocol, Route,
    RouteKind, TimeoutSettings, VlanProtocol, VlanTag,
};
use lvscheck_engine::profile::Profile;
use lvscheck_engine::time::Nanos;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tables::{RouteTable, Tables, Text};
use toml::Spanned;

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
