//! `[[service]]` and its servers.

use super::LvsToml;
use super::tables::{ServerTable, ServiceTable, Text, TunnelTable};
use crate::describe::builder::{Builder, When};
use crate::describe::iproute::interface_towards;
use crate::describe::problem::{Place, Problem};
use crate::describe::rules::{DEFAULT_PERSISTENCE, mask_length, scheduler, scheduler_flags};
use crate::describe::words::{Line, Word};
use lvscheck_engine::config::{
    Command, DpvsServiceSettings, Family, ForwardingMethod, HashTarget, InterfaceId, NeighbourEntry, Persistence,
    PersistenceEngine, Protocol, ProxyProtocol, SchedulerFlags, SchedulerKind, ServerKey, ServerSettings, ServiceKey,
    ServiceSettings, Tunnel, TunnelChecksum, TunnelKind,
};

impl LvsToml<'_> {
    pub(super) fn service(&self, builder: &mut Builder, table: &ServiceTable) -> Result<(), Problem> {
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
}
