//! Setup scripts: the commands as a person types them on the director, one a line, and the `run` strings of lvs.toml.
//! No shell runs: a line that is no such command is an error that names it.

use super::builder::{Builder, When};
use super::problem::{Problem, suggest};
use super::words::{Line, Word};
use super::{firewall, iproute, rules};
use lvscheck_engine::config::{ArpAnnouncement, Command};

/// The commands that a script may hold.
const KNOWN: &[&str] = &["ipvsadm", "ip", "dpip", "sysctl", "echo", "nft", "iptables", "ip6tables", "ping", "arping"];

/// Reads a script that runs before the first frame.
///
/// # Errors
/// The first line that can't be carried out.
pub fn read(builder: &mut Builder, file: &str, text: &str) -> Result<(), Problem> {
    for line in Line::all(file, text) {
        run(builder, &line, When::Setup)?;
    }
    Ok(())
}

/// Reads the commands of one line, which `;` or `&&` may separate.
///
/// # Errors
/// The first command that can't be carried out.
pub fn run(builder: &mut Builder, line: &Line<'_>, when: When) -> Result<(), Problem> {
    let words = line.words()?;
    for command in words.split(|word| word.text == ";" || word.text == "&&") {
        let command = match command {
            [sudo, rest @ ..] if sudo.text == "sudo" => rest,
            all => all,
        };
        if let [name, arguments @ ..] = command {
            one(builder, line, name, arguments, when)?;
        }
    }
    Ok(())
}

fn one(builder: &mut Builder, line: &Line<'_>, name: &Word<'_>, arguments: &[Word<'_>], when: When) -> Result<(), Problem> {
    // A path before the name: /sbin/ipvsadm.
    let program = name.text.rsplit('/').next().unwrap_or(&name.text);
    match program {
        "ipvsadm" => match arguments {
            [] => Ok(()),
            _ => rules::command(builder, line, arguments, when),
        },
        "ip" | "dpip" => iproute::command(builder, line, name, arguments, when),
        "sysctl" => sysctl(builder, line, name, arguments, when),
        "echo" => echo(builder, line, name, arguments, when),
        "nft" | "iptables" | "ip6tables" => firewall::command(builder, line, name, arguments, when),
        "ping" | "ping6" => ping(builder, line, name, arguments, when),
        "arping" => arping(builder, line, name, arguments, when),
        _ => Err(line
            .problem(name, format!("`{}` is no command that can be carried out here", name.text))
            .help(format!("no shell runs; {}", suggest(program, "known commands", KNOWN)))),
    }
}

fn set_sysctl(
    builder: &mut Builder,
    line: &Line<'_>,
    word: &Word<'_>,
    name: &str,
    value: &str,
    when: When,
) -> Result<(), Problem> {
    // A value of the wrong kind is an error at its word, whenever it is set.
    let mut trial = builder.config.sysctls.clone();
    trial.set(name, value).map_err(|error| line.problem(word, error.to_string()))?;
    match when {
        When::Setup => builder.config.sysctls = trial,
        When::After(_) => {
            let command = Command::Sysctl { name: name.replace('/', "."), value: value.to_owned() };
            builder.take(command, when, Some(line.whole()));
        }
    }
    Ok(())
}

fn sysctl(builder: &mut Builder, line: &Line<'_>, name: &Word<'_>, arguments: &[Word<'_>], when: When) -> Result<(), Problem> {
    let mut any = false;
    for word in arguments {
        match &*word.text {
            "-w" | "-q" | "-e" | "-wq" | "-qw" | "--write" | "--quiet" => {}
            option if option.starts_with('-') => {
                return Err(line
                    .problem(word, format!("option `{option}` of sysctl is not carried out here"))
                    .help("write `sysctl -w NAME=VALUE`"));
            }
            setting => {
                let Some((key, value)) = setting.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                    return Err(line
                        .problem(word, format!("`{setting}` is no NAME=VALUE"))
                        .help("write `sysctl -w NAME=VALUE`, without blanks"));
                };
                set_sysctl(builder, line, word, key, value, when)?;
                any = true;
            }
        }
    }
    if any { Ok(()) } else { Err(line.problem(name, "sysctl without NAME=VALUE").help("write `sysctl -w NAME=VALUE`")) }
}

/// `echo VALUE >/proc/sys/NAME`
fn echo(builder: &mut Builder, line: &Line<'_>, name: &Word<'_>, arguments: &[Word<'_>], when: When) -> Result<(), Problem> {
    let usage = || {
        line.problem(name, "only `echo VALUE >/proc/sys/NAME` is carried out here")
            .help("no shell runs; echo serves to set a kernel setting")
    };
    let at = arguments.iter().position(|word| word.text.starts_with('>')).ok_or_else(usage)?;
    let (values, target) = arguments.split_at(at);
    let path = match target {
        [one] => one.text.trim_start_matches('>').to_owned(),
        [arrow, path] if arrow.text.trim_start_matches('>').is_empty() => path.text.to_string(),
        _ => return Err(usage()),
    };
    let Some(setting) = path.strip_prefix("/proc/sys/") else { return Err(usage()) };
    let value: Vec<&str> = values.iter().map(|word| &*word.text).filter(|text| *text != "-n").collect();
    let word = values.first().unwrap_or(name);
    // In a path, slashes separate and a dot belongs to a name (eth0.100).
    set_sysctl(builder, line, word, &setting.replace('/', "."), &value.join(" "), when)
}

/// Options with values, as ping and arping take them: letter after `-`, then the value in the same or the next word.
struct Letters<'l, 'a> {
    line: &'l Line<'l>,
    words: std::slice::Iter<'l, Word<'a>>,
}

impl<'l, 'a> Letters<'l, 'a> {
    fn value(&mut self, option: &'l Word<'a>) -> Result<Word<'a>, Problem> {
        if option.text.len() > 2 {
            return Ok(option.from(2));
        }
        self.words.next().cloned().ok_or_else(|| self.line.problem(option, format!("option `{}` needs a value", option.text)))
    }
}

fn ping(builder: &mut Builder, line: &Line<'_>, name: &Word<'_>, arguments: &[Word<'_>], when: When) -> Result<(), Problem> {
    let mut count = None;
    let mut source = None;
    let mut destination = None;
    let mut letters = Letters { line, words: arguments.iter() };
    while let Some(word) = letters.words.next() {
        match word.text.get(..2) {
            Some("-c") => count = Some(line.number(&letters.value(word)?, "count", 1..=1000)?),
            Some("-W" | "-w" | "-i" | "-t" | "-s") if matches!(word.text.get(..2), Some("-s" | "-t" | "-i")) => {
                return Err(line.problem(word, format!("option `{}` of ping is not carried out here", word.text)));
            }
            Some("-W" | "-w") => drop(letters.value(word)?),
            Some("-I") => {
                let from = letters.value(word)?;
                source = from.text.parse().ok();
                if source.is_none() && builder.config.interface(&from.text).is_none() {
                    return Err(
                        line.problem(&from, format!("`{}` is neither an address nor an interface of the director", from.text))
                    );
                }
            }
            Some("-n" | "-q" | "-4" | "-6" | "-v") => {}
            _ if word.text.starts_with('-') => return Err(line.problem(word, format!("unknown option `{}` of ping", word.text))),
            _ => destination = Some(line.address(word)?),
        }
    }
    let Some(destination) = destination else { return Err(line.problem(name, "ping without a destination")) };
    let Some(count) = count else { return Err(line.problem(name, "ping without `-c COUNT` never ends").help("add -c 1")) };
    builder.take(Command::Ping { source, destination, count }, when, Some(line.whole()));
    Ok(())
}

fn arping(builder: &mut Builder, line: &Line<'_>, name: &Word<'_>, arguments: &[Word<'_>], when: When) -> Result<(), Problem> {
    let mut count = 1;
    let mut kind = None;
    let mut interface = None;
    let mut address = None;
    let mut letters = Letters { line, words: arguments.iter() };
    while let Some(word) = letters.words.next() {
        match word.text.get(..2) {
            Some("-c") => count = line.number(&letters.value(word)?, "count", 1..=1000)?,
            Some("-w") => drop(letters.value(word)?),
            Some("-I") => interface = Some(builder.interface(line, &letters.value(word)?)?),
            Some("-A") => kind = Some(ArpAnnouncement::Reply),
            Some("-U") => kind = Some(ArpAnnouncement::Request),
            Some("-q" | "-b" | "-f") => {}
            _ if word.text.starts_with('-') => {
                return Err(line.problem(word, format!("option `{}` of arping is not carried out here", word.text)));
            }
            _ => address = Some(line.address(word)?),
        }
    }
    let Some(address) = address else { return Err(line.problem(name, "arping without an address")) };
    let Some(interface) = interface else { return Err(line.problem(name, "arping without `-I INTERFACE`")) };
    let Some(kind) = kind else {
        return Err(line
            .problem(name, "arping without -A or -U probes, which is not carried out here")
            .help("-A announces with a reply, -U with a request"));
    };
    builder.take(Command::Arping { kind, interface, address, count }, when, Some(line.whole()));
    Ok(())
}
