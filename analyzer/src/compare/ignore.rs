//! `--ignore FIELD`: fields that may differ, by Wireshark's names.
//!
//! A name stands for the field in every header of the frame: `ip.ttl` for the outer, the inner and a quoted one. `ip.ttl#2`
//! is the second IP header's alone, as in Wireshark's filters. A name with others below it (`tcp.options`, `ip.flags`, `ip`)
//! stands for all of them, also written `ip.` or `ip.*`. Checksums that cover an ignored field need not be ignored: they are compared as if it were equal.

use super::fields::Name;

/// Fields that may differ.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<(Name, Option<u8>)>,
}

/// A name that is no field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown field `{name}`{}", .nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default())]
pub struct UnknownField {
    /// The name as given.
    pub name: String,
    /// The known name most like it, if any is.
    pub nearest: Option<&'static str>,
}

/// Names under which Wireshark's filters know several fields, or a field that it also shows in another form.
const ALIASES: &[(&str, &[Name])] = &[
    ("eth.addr", &[Name::EthDestination, Name::EthSource]),
    ("ip.addr", &[Name::IpSource, Name::IpDestination]),
    ("ip.src_host", &[Name::IpSource]),
    ("ip.dst_host", &[Name::IpDestination]),
    ("ip.dsfield", &[Name::IpDscp, Name::IpEcn]),
    ("ipv6.addr", &[Name::Ipv6Source, Name::Ipv6Destination]),
    ("ipv6.tclass", &[Name::Ipv6Dscp, Name::Ipv6Ecn]),
    ("tcp.port", &[Name::TcpSourcePort, Name::TcpDestinationPort]),
    ("tcp.seq", &[Name::TcpSequence]),
    ("tcp.ack", &[Name::TcpAcknowledgment]),
    ("tcp.window_size", &[Name::TcpWindow]),
    ("tcp.options.mss", &[Name::TcpOptionMss]),
    ("tcp.options.wscale", &[Name::TcpOptionWindowScale]),
    ("tcp.options.sack", &[Name::TcpOptionSackLeft, Name::TcpOptionSackRight]),
    ("udp.port", &[Name::UdpSourcePort, Name::UdpDestinationPort]),
    ("sctp.port", &[Name::SctpSourcePort, Name::SctpDestinationPort]),
    ("data.data", &[Name::Data]),
    (
        "gre.flags_and_version",
        &[
            Name::GreChecksumFlag,
            Name::GreRoutingFlag,
            Name::GreKeyFlag,
            Name::GreSequenceFlag,
            Name::GreReservedFlags,
            Name::GreVersion,
        ],
    ),
];

impl Ignore {
    /// Reads names.
    ///
    /// # Errors
    /// A name that is no field of a header that is dissected.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Ignore, UnknownField> {
        let mut rules = Vec::new();
        for name in names {
            let given = name.as_ref().trim();
            let (name, layer) = match given.split_once('#') {
                Some((name, number)) => match number.parse::<u8>() {
                    Ok(number) if number > 0 => (name, Some(number)),
                    _ => return Err(UnknownField { name: given.to_owned(), nearest: nearest(name) }),
                },
                None => (given.strip_suffix('*').unwrap_or(given), None),
            };
            let name = name.strip_suffix('.').unwrap_or(name);
            let alias = ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, names)| *names);
            let found: Vec<Name> = match alias {
                Some(names) => names.to_vec(),
                None => Name::ALL.iter().copied().filter(|known| is_below(known.text(), name)).collect(),
            };
            if found.is_empty() {
                return Err(UnknownField { name: given.to_owned(), nearest: nearest(name) });
            }
            rules.extend(found.into_iter().map(|name| (name, layer)));
        }
        Ok(Ignore { rules })
    }

    /// Whether nothing is ignored.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether that field of that header (counted from 1) may differ.
    pub fn has(&self, name: Name, layer: u8) -> bool {
        self.rules.iter().any(|(rule, only)| *rule == name && only.is_none_or(|only| only == layer))
    }
}

/// Whether the name is the prefix itself or stands below it.
fn is_below(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The known name most like this one, if at most a third of it would have to change.
fn nearest(name: &str) -> Option<&'static str> {
    let known = Name::ALL.iter().map(|name| name.text()).chain(ALIASES.iter().map(|(alias, _)| *alias));
    let (distance, best) = known.map(|known| (distance(name, known), known)).min()?;
    (distance <= (name.len() / 3).max(1)).then_some(best)
}

/// Levenshtein's distance.
fn distance(one: &str, other: &str) -> usize {
    let other = other.as_bytes();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, byte) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for column in 0..other.len() {
            let replaced = diagonal + usize::from(byte != other[column]);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_groups_and_layers() {
        let ignore = Ignore::new(["ip.ttl#2", "tcp.options", "eth.addr"]).unwrap();
        assert!(ignore.has(Name::IpTtl, 2) && !ignore.has(Name::IpTtl, 1));
        assert!(ignore.has(Name::TcpOptionMss, 1) && !ignore.has(Name::TcpWindow, 1));
        assert!(ignore.has(Name::EthSource, 1));
        for group in ["ip", "ip.", "ip.*"] {
            let ignore = Ignore::new([group]).unwrap();
            assert!(ignore.has(Name::IpChecksum, 3) && !ignore.has(Name::Ipv6HopLimit, 1));
        }
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let message = |name: &str| Ignore::new([name]).unwrap_err().to_string();
        assert_eq!(message("ip.tll"), "unknown field `ip.tll`; did you mean `ip.ttl`?");
        assert_eq!(message("tcp.sequence"), "unknown field `tcp.sequence`");
        assert_eq!(message("ip.ttl#0"), "unknown field `ip.ttl#0`; did you mean `ip.ttl`?");
        assert_eq!(message("pi.ttl"), "unknown field `pi.ttl`; did you mean `ip.ttl`?");
        assert_eq!(message(""), "unknown field ``");
    }
}
