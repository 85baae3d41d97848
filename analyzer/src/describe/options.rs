//! ipvsadm's options: names, arguments, dialects; and the splitting of a command line into them, as popt does.

use super::problem::{Problem, suggest};
use super::words::{Line, Word};

/// An option of ipvsadm, by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opt {
    AddService,
    EditService,
    DeleteService,
    AddServer,
    EditServer,
    DeleteServer,
    Clear,
    Zero,
    Set,
    Restore,
    Save,
    List,
    Daemon,
    Help,
    AddLocal,
    DeleteLocal,
    AddBlack,
    DeleteBlack,
    AddWhite,
    DeleteWhite,
    ListLists,
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmpv6,
    Mark,
    Ipv6,
    Match,
    Scheduler,
    Persistent,
    Netmask,
    Engine,
    OnePacket,
    Flags,
    RealServer,
    Gatewaying,
    Ipip,
    Masquerading,
    FullNat,
    Snat,
    TunnelType,
    TunnelPort,
    NoChecksum,
    Checksum,
    RemoteChecksum,
    Weight,
    Upper,
    Lower,
    LocalAddress,
    BlackAddress,
    WhiteAddress,
    Interface,
    SynProxy,
    HashTarget,
    ConnTimeout,
    ProxyProtocol,
    ExpireQuiescent,
    Quic,
    DestCheck,
    Show,
    ShowValue,
}

/// Whether an option takes an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// None.
    No,
    /// Always: the rest of the word, after `=`, or the next word.
    Yes,
    /// Only if the next word is no option.
    Maybe,
}

/// Which ipvsadm knows an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Both.
    Both,
    /// Linux's.
    Linux,
    /// DPVS's.
    Dpvs,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    short: Option<char>,
    long: &'static str,
    argument: Argument,
    dialect: Dialect,
    /// What it means.
    pub opt: Opt,
}

const fn spec(short: Option<char>, long: &'static str, argument: Argument, dialect: Dialect, opt: Opt) -> Spec {
    Spec { short, long, argument, dialect, opt }
}

use Argument::{Maybe, No, Yes};
use Dialect::{Both, Dpvs, Linux};

/// Every option (reference/linux-ipvs.md section 11.1, reference/dpvs-fullnat.md section 17).
#[rustfmt::skip]
const OPTIONS: &[Spec] = &[
    spec(Some('A'), "add-service", No, Both, Opt::AddService),
    spec(Some('E'), "edit-service", No, Both, Opt::EditService),
    spec(Some('D'), "delete-service", No, Both, Opt::DeleteService),
    spec(Some('C'), "clear", No, Both, Opt::Clear),
    spec(Some('R'), "restore", No, Both, Opt::Restore),
    spec(Some('S'), "save", No, Both, Opt::Save),
    spec(Some('a'), "add-server", No, Both, Opt::AddServer),
    spec(Some('e'), "edit-server", No, Both, Opt::EditServer),
    spec(Some('d'), "delete-server", No, Both, Opt::DeleteServer),
    spec(Some('L'), "list", No, Both, Opt::List),
    spec(Some('l'), "list", No, Both, Opt::List),
    spec(Some('Z'), "zero", No, Both, Opt::Zero),
    spec(None, "set", No, Both, Opt::Set),
    spec(None, "start-daemon", Yes, Both, Opt::Daemon),
    spec(None, "stop-daemon", Yes, Both, Opt::Daemon),
    spec(Some('h'), "help", No, Both, Opt::Help),
    spec(Some('v'), "version", No, Both, Opt::Help),
    spec(Some('P'), "add-laddr", No, Dpvs, Opt::AddLocal),
    spec(Some('Q'), "del-laddr", No, Dpvs, Opt::DeleteLocal),
    spec(Some('G'), "get-laddr", No, Dpvs, Opt::ListLists),
    spec(Some('U'), "add-blklst", No, Dpvs, Opt::AddBlack),
    spec(Some('V'), "del-blklst", No, Dpvs, Opt::DeleteBlack),
    spec(Some('B'), "get-blklst", No, Dpvs, Opt::ListLists),
    spec(Some('O'), "add-whtlst", No, Dpvs, Opt::AddWhite),
    spec(Some('Y'), "del-whtlst", No, Dpvs, Opt::DeleteWhite),
    spec(Some('W'), "get-whtlst", No, Dpvs, Opt::ListLists),
    spec(Some('t'), "tcp-service", Yes, Both, Opt::Tcp),
    spec(Some('u'), "udp-service", Yes, Both, Opt::Udp),
    spec(None, "sctp-service", Yes, Both, Opt::Sctp),
    spec(Some('q'), "icmp-service", Yes, Dpvs, Opt::Icmp),
    spec(Some('1'), "icmpv6-service", Yes, Dpvs, Opt::Icmpv6),
    spec(Some('f'), "fwmark-service", Yes, Both, Opt::Mark),
    spec(Some('6'), "ipv6", No, Both, Opt::Ipv6),
    spec(Some('H'), "match", Yes, Dpvs, Opt::Match),
    spec(Some('s'), "scheduler", Yes, Both, Opt::Scheduler),
    spec(Some('p'), "persistent", Maybe, Both, Opt::Persistent),
    spec(Some('M'), "netmask", Yes, Both, Opt::Netmask),
    spec(None, "pe", Yes, Linux, Opt::Engine),
    spec(Some('o'), "ops", No, Both, Opt::OnePacket),
    spec(Some('b'), "sched-flags", Yes, Linux, Opt::Flags),
    spec(Some('b'), "fullnat", No, Dpvs, Opt::FullNat),
    spec(Some('J'), "snat", No, Dpvs, Opt::Snat),
    spec(Some('r'), "real-server", Yes, Both, Opt::RealServer),
    spec(Some('g'), "gatewaying", No, Both, Opt::Gatewaying),
    spec(Some('i'), "ipip", No, Both, Opt::Ipip),
    spec(Some('m'), "masquerading", No, Both, Opt::Masquerading),
    spec(None, "tun-type", Yes, Linux, Opt::TunnelType),
    spec(None, "tun-port", Yes, Linux, Opt::TunnelPort),
    spec(None, "tun-nocsum", No, Linux, Opt::NoChecksum),
    spec(None, "tun-csum", No, Linux, Opt::Checksum),
    spec(None, "tun-remcsum", No, Linux, Opt::RemoteChecksum),
    spec(Some('w'), "weight", Yes, Both, Opt::Weight),
    spec(Some('x'), "u-threshold", Yes, Both, Opt::Upper),
    spec(Some('y'), "l-threshold", Yes, Both, Opt::Lower),
    spec(Some('z'), "laddr", Yes, Dpvs, Opt::LocalAddress),
    spec(Some('k'), "blklst", Yes, Dpvs, Opt::BlackAddress),
    spec(Some('2'), "whtlst", Yes, Dpvs, Opt::WhiteAddress),
    spec(Some('F'), "ifname", Yes, Dpvs, Opt::Interface),
    spec(Some('j'), "synproxy", Yes, Dpvs, Opt::SynProxy),
    spec(None, "hash-target", Yes, Dpvs, Opt::HashTarget),
    spec(None, "conn-timeout", Yes, Dpvs, Opt::ConnTimeout),
    spec(None, "proxy-protocol", Yes, Dpvs, Opt::ProxyProtocol),
    spec(None, "expire-quiescent", No, Dpvs, Opt::ExpireQuiescent),
    spec(None, "quic", No, Dpvs, Opt::Quic),
    spec(None, "dest-check", Yes, Dpvs, Opt::DestCheck),
    spec(Some('n'), "numeric", No, Both, Opt::Show),
    spec(Some('c'), "connection", No, Both, Opt::Show),
    spec(None, "timeout", No, Both, Opt::Show),
    spec(None, "daemon", No, Both, Opt::Show),
    spec(None, "stats", No, Both, Opt::Show),
    spec(None, "rate", No, Both, Opt::Show),
    spec(None, "thresholds", No, Both, Opt::Show),
    spec(None, "persistent-conn", No, Both, Opt::Show),
    spec(None, "tun-info", No, Both, Opt::Show),
    spec(None, "exact", No, Both, Opt::Show),
    spec(None, "sort", No, Both, Opt::Show),
    spec(None, "nosort", No, Both, Opt::Show),
    spec(None, "syncid", Yes, Both, Opt::ShowValue),
    spec(None, "sync-maxlen", Yes, Both, Opt::ShowValue),
    spec(None, "mcast-interface", Yes, Both, Opt::ShowValue),
    spec(None, "mcast-group", Yes, Both, Opt::ShowValue),
    spec(None, "mcast-port", Yes, Both, Opt::ShowValue),
    spec(None, "mcast-ttl", Yes, Both, Opt::ShowValue),
];

impl Spec {
    fn spoken(&self, dpvs: bool) -> bool {
        match self.dialect {
            Both => true,
            Linux => !dpvs,
            Dpvs => dpvs,
        }
    }
}

/// An option as given.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    /// Which.
    pub opt: Opt,
    /// The word that named it, for messages.
    pub word: Word<'a>,
    /// Its argument.
    pub value: Option<Word<'a>>,
}

/// A command line, split.
#[derive(Clone, Debug, Default)]
pub struct Split<'a> {
    /// The options in order.
    pub options: Vec<Given<'a>>,
    /// The words that belong to no option.
    pub rest: Vec<Word<'a>>,
}

impl<'a> Split<'a> {
    /// The option, if it was given.
    pub fn get(&self, opt: Opt) -> Option<&Given<'a>> {
        self.options.iter().find(|given| given.opt == opt)
    }
}

/// Splits a command line into options and other words.
///
/// # Errors
/// An unknown option, a missing or superfluous argument, an option given twice.
pub fn split<'a>(line: &Line<'_>, words: &[Word<'a>], dpvs: bool) -> Result<Split<'a>, Problem> {
    let mut split = Split::default();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        // A token `ipvsadm` is ignored wherever it stands, as restoring does.
        if word.text == "ipvsadm" {
            continue;
        }
        if let Some(long) = word.text.strip_prefix("--") {
            let (name, inline) = match long.split_once('=') {
                Some((name, _)) => (name, Some(word.from(name.len() + 3))),
                None => (long, None),
            };
            let spec = by_long(line, word, name, dpvs)?;
            let value = match (spec.argument, inline) {
                (No, None) => None,
                (No, Some(value)) => return Err(line.problem(&value, format!("option `--{name}` takes no argument"))),
                (Yes | Maybe, Some(value)) => Some(value),
                (Yes, None) => Some(words.next().cloned().ok_or_else(|| missing(line, word, &format!("--{name}")))?),
                (Maybe, None) => words.next_if(|next| !next.text.starts_with('-')).cloned(),
            };
            push(line, &mut split, Given { opt: spec.opt, word: word.clone(), value })?;
        } else if word.text.len() > 1 && word.text.starts_with('-') {
            // Several short options may share a word: -gw5.
            let letters: Vec<(usize, char)> = word.text.char_indices().skip(1).collect();
            for (index, &(at, letter)) in letters.iter().enumerate() {
                let spec = by_short(line, word, letter, dpvs)?;
                let rest = letters.get(index + 1).map(|&(next, _)| {
                    let skip = if word.text.get(next..).is_some_and(|rest| rest.starts_with('=')) { next + 1 } else { next };
                    word.from(skip)
                });
                debug_assert!(at > 0);
                let value = match (spec.argument, &rest) {
                    (No, _) => None,
                    (Yes | Maybe, Some(rest)) => Some(rest.clone()),
                    (Yes, None) => Some(words.next().cloned().ok_or_else(|| missing(line, word, &format!("-{letter}")))?),
                    (Maybe, None) => words.next_if(|next| !next.text.starts_with('-')).cloned(),
                };
                let took_rest = spec.argument != No;
                push(line, &mut split, Given { opt: spec.opt, word: word.clone(), value })?;
                if took_rest {
                    break;
                }
            }
        } else {
            split.rest.push(word.clone());
        }
    }
    Ok(split)
}

fn push<'a>(line: &Line<'_>, split: &mut Split<'a>, given: Given<'a>) -> Result<(), Problem> {
    if !matches!(given.opt, Opt::Show | Opt::ShowValue) && split.get(given.opt).is_some() {
        return Err(line.problem(&given.word, format!("option `{}` is given twice", given.word.text)));
    }
    split.options.push(given);
    Ok(())
}

fn missing(line: &Line<'_>, word: &Word<'_>, name: &str) -> Problem {
    line.problem(word, format!("option `{name}` needs an argument"))
}

fn by_long(line: &Line<'_>, word: &Word<'_>, name: &str, dpvs: bool) -> Result<&'static Spec, Problem> {
    if let Some(spec) = OPTIONS.iter().find(|spec| spec.long == name && spec.spoken(dpvs)) {
        return Ok(spec);
    }
    let problem = line.problem(word, format!("unknown option `--{name}` of ipvsadm"));
    if let Some(other) = OPTIONS.iter().find(|spec| spec.long == name) {
        return Err(problem.help(other_dialect(other)));
    }
    let known: Vec<&str> = OPTIONS.iter().filter(|spec| spec.spoken(dpvs)).map(|spec| spec.long).collect();
    Err(match super::problem::nearest(name, known.iter().copied()) {
        Some(near) => problem.help(format!("did you mean `--{near}`?")),
        None => problem.help("ipvsadm(8) lists the options"),
    })
}

fn by_short(line: &Line<'_>, word: &Word<'_>, letter: char, dpvs: bool) -> Result<&'static Spec, Problem> {
    if let Some(spec) = OPTIONS.iter().find(|spec| spec.short == Some(letter) && spec.spoken(dpvs)) {
        return Ok(spec);
    }
    let problem = line.problem(word, format!("unknown option `-{letter}` of ipvsadm"));
    Err(match OPTIONS.iter().find(|spec| spec.short == Some(letter)) {
        Some(other) => problem.help(other_dialect(other)),
        None => problem.help("ipvsadm(8) lists the options"),
    })
}

fn other_dialect(spec: &Spec) -> String {
    match spec.dialect {
        Dpvs => format!(
            "--{} is an option of DPVS's ipvsadm; set `profile = \"dpvs-1.10\"` in lvs.toml, or --profile dpvs-1.10",
            spec.long
        ),
        _ => format!("--{} is an option of Linux's ipvsadm, and DPVS's has no such option", spec.long),
    }
}

/// The unknown-value message of options that take one of a few names.
pub fn unknown_value(line: &Line<'_>, word: &Word<'_>, what: &str, known: &[&str]) -> Problem {
    line.problem(word, format!("unknown {what} `{}`", word.text)).help(suggest(&word.text, "known", known))
}
