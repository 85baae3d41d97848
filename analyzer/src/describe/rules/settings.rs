//! Options of services and real servers.

use super::{DEFAULT_PERSISTENCE, METHODS, Reader, mask_length, scheduler, scheduler_flags};
use crate::describe::builder::Builder;
use crate::describe::options::{Given, Opt, unknown_value};
use crate::describe::problem::Problem;
use crate::describe::words::Word;
use lvscheck_engine::config::{
    DpvsServiceSettings, Family, ForwardingMethod, HashTarget, Persistence, PersistenceEngine, Protocol, ProxyProtocol,
    SchedulerFlags, SchedulerKind, ServerSettings, ServiceKey, ServiceSettings, Tunnel, TunnelChecksum, TunnelKind,
};

/// The longest persistence that ipvsadm takes: 31 days.
const LONGEST_PERSISTENCE: u32 = 31 * 86_400;

impl<'a> Reader<'_, 'a> {
    pub(super) fn server_settings(&self) -> Result<ServerSettings, Problem> {
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

    pub(super) fn service_settings(&self, builder: &mut Builder, service: &ServiceKey) -> Result<ServiceSettings, Problem> {
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
}
