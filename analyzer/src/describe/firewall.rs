//! Firewall marks as people set them for `-f` services: nft and iptables rules that mark by destination, protocol and port.

use super::builder::{Builder, When};
use super::problem::Problem;
use super::words::{Line, Word, parse_number};
use lvscheck_engine::config::{MarkRule, Network, Protocol};

const HELP: &str = "only rules that mark are read: `nft add rule TABLE CHAIN ip daddr ADDRESS tcp dport { 80, 443 } meta mark set 1`, \
    `iptables -t mangle -A PREROUTING -d ADDRESS -p tcp --dport 80 -j MARK --set-mark 1`; or write [[mark]] in lvs.toml";

/// Reads one rule.
///
/// # Errors
/// A rule that does anything but mark.
pub fn command(
    builder: &mut Builder,
    line: &Line<'_>,
    name: &Word<'_>,
    arguments: &[Word<'_>],
    when: When,
) -> Result<(), Problem> {
    if when != When::Setup {
        return Err(line.problem(name, "firewall marks can't change while traffic runs"));
    }
    let texts: Vec<&str> = arguments.iter().map(|word| &*word.text).collect();
    let nft = name.text.ends_with("nft");
    if nft && matches!(texts.as_slice(), ["add" | "create", "table" | "chain", ..]) {
        return Ok(());
    }
    let fault = |index: usize| match arguments.get(index) {
        Some(word) => line.problem(word, format!("`{}` is not understood in a rule", word.text)).help(HELP),
        None => line.problem(name, "the rule ends too early").help(HELP),
    };
    let rule = if nft { nft_rule(&texts) } else { iptables_rule(&texts) };
    builder.config.marks.push(rule.map_err(fault)?);
    Ok(())
}

/// Steps through texts; errors are the index of the text at fault.
struct Texts<'a> {
    texts: &'a [&'a str],
    at: usize,
}

impl<'a> Texts<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let text = self.texts.get(self.at)?;
        self.at += 1;
        Some(text)
    }

    /// The next text, read.
    fn read<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, usize> {
        let at = self.at;
        self.next().and_then(parse).ok_or(at)
    }
}

fn network(text: &str) -> Option<Network> {
    super::words::parse_prefix(text).ok().map(|(address, length)| Network::new(address, length))
}

fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" => Some(Protocol::TCP),
        "udp" => Some(Protocol::UDP),
        "sctp" => Some(Protocol::SCTP),
        _ => None,
    }
}

fn port(text: &str) -> Option<u16> {
    parse_number(text).and_then(|port| u16::try_from(port).ok())
}

/// A mark, perhaps with a full mask: 1, 0x1, 0x1/0xffffffff.
fn mark(text: &str) -> Option<u32> {
    parse_number(text.strip_suffix("/0xffffffff").unwrap_or(text))
}

fn nft_rule(texts: &[&str]) -> Result<MarkRule, usize> {
    let mut rule = MarkRule { mark: 0, destination: None, protocol: None, ports: Vec::new() };
    if !matches!(texts.first(), Some(&("add" | "insert"))) || texts.get(1) != Some(&"rule") {
        return Err(0);
    }
    // Then the family, which may be left out, the table and the chain.
    let family = matches!(texts.get(2), Some(&("ip" | "ip6" | "inet")));
    let mut words = Texts { texts, at: if family { 5 } else { 4 } };
    let mut marked = false;
    while let Some(text) = words.next() {
        let here = words.at - 1;
        match text {
            "ip" | "ip6" if texts.get(words.at) == Some(&"daddr") => {
                words.at += 1;
                rule.destination = Some(words.read(network)?);
            }
            "tcp" | "udp" | "sctp" if texts.get(words.at) == Some(&"dport") => {
                words.at += 1;
                rule.protocol = protocol(text);
                rule.ports = nft_ports(&mut words)?;
            }
            "meta" => match (words.next(), texts.get(words.at)) {
                (Some("l4proto"), _) => rule.protocol = Some(words.read(protocol)?),
                (Some("mark"), Some(&"set")) => {
                    words.at += 1;
                    rule.mark = words.read(mark)?;
                    marked = true;
                }
                _ => return Err(here + 1),
            },
            "counter" => {}
            _ => return Err(here),
        }
    }
    if marked { Ok(rule) } else { Err(texts.len()) }
}

/// `80`, `{80,443}`, `{ 80, 443 }`
fn nft_ports(words: &mut Texts<'_>) -> Result<Vec<u16>, usize> {
    let first = words.at;
    let text = words.next().ok_or(first)?;
    if !text.starts_with('{') {
        return port(text).map(|port| vec![port]).ok_or(first);
    }
    let mut list = text.to_owned();
    while !list.ends_with('}') {
        list.push_str(words.next().ok_or(first)?);
    }
    let inner = list.trim_start_matches('{').trim_end_matches('}');
    inner.split(',').map(str::trim).filter(|text| !text.is_empty()).map(|text| port(text).ok_or(first)).collect()
}

fn iptables_rule(texts: &[&str]) -> Result<MarkRule, usize> {
    let mut rule = MarkRule { mark: 0, destination: None, protocol: None, ports: Vec::new() };
    let mut words = Texts { texts, at: 0 };
    let mut marked = false;
    while let Some(text) = words.next() {
        let here = words.at - 1;
        match text {
            "-t" | "--table" => words.read(|text| (text == "mangle").then_some(()))?,
            "-A" | "-I" | "--append" | "--insert" => words.read(|text| (text == "PREROUTING").then_some(()))?,
            "-d" | "--destination" | "--dst" => rule.destination = Some(words.read(network)?),
            "-p" | "--protocol" => rule.protocol = Some(words.read(protocol)?),
            "-m" | "--match" => words.read(|text| matches!(text, "tcp" | "udp" | "sctp" | "multiport").then_some(()))?,
            "--dport" | "--dports" | "--destination-port" | "--destination-ports" => {
                rule.ports = words.read(|list| list.split(',').map(port).collect::<Option<Vec<u16>>>())?;
            }
            "-j" | "--jump" => words.read(|text| (text == "MARK").then_some(()))?,
            "--set-mark" | "--set-xmark" => {
                rule.mark = words.read(mark)?;
                marked = true;
            }
            _ => return Err(here),
        }
    }
    if marked { Ok(rule) } else { Err(texts.len()) }
}
