//! Descriptions of directors: rules, keepalived.conf, setup scripts, snapshot folders, lvs.toml, or a bare capture. All end
//! in one [`DirectorConfig`] (design section 5).
//!
//! Parsers never panic and never guess silently: what is doubtful becomes a [`Warning`], what is made up stands in
//! [`Description::assumed`], what can't be is a [`DescribeError`] that names the place.

pub mod arguments;
mod builder;
mod check;
mod firewall;
pub mod infer;
mod iproute;
mod keepalived;
mod listing;
mod lvs_toml;
mod options;
mod print;
mod problem;
pub mod roles;
mod rules;
mod script;
mod snapshot;
#[cfg(test)]
mod tests;
mod words;

pub use infer::{InferOptions, Inference, Tally};
pub use print::{print_command, print_rules};
pub use problem::{DescribeError, Place, Problem, Warning};
pub use roles::{Role, Roles};

use builder::Builder;
use lvs_toml::LvsToml;
use lvscheck_engine::config::{Command, DirectorConfig, ForwardingMethod, MacAddr, ServerKey, ServiceKey};
use lvscheck_engine::director::ConfigError;
use lvscheck_engine::profile::Profile;
use std::net::IpAddr;
use std::path::Path;

/// A director, and how much of it was described.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The director.
    pub config: DirectorConfig,
    /// What is doubtful in the description.
    pub warnings: Vec<Warning>,
    /// What no description said and was therefore assumed, in sentences.
    pub assumed: Vec<String>,
    /// Where each of [`DirectorConfig::commands`] stands; none for what no file holds.
    pub places: Vec<Option<Place>>,
    /// Ethernet addresses of real servers of which no link is described (`mac` in lvs.toml without interfaces).
    pub server_macs: Vec<(IpAddr, MacAddr)>,
}

impl Description {
    /// An error of the engine about one of the commands, with the place where the command stands.
    pub fn explain(&self, error: &ConfigError) -> DescribeError {
        let place = error.command.and_then(|index| self.places.get(index)).cloned().flatten();
        Problem { place, message: error.message.clone(), help: None }.into()
    }

    /// Whether any link with an address is described.
    pub fn has_links(&self) -> bool {
        self.config.interfaces.iter().any(|interface| !interface.loopback && !interface.addresses.is_empty())
    }

    /// Whether any virtual service is described.
    pub fn has_services(&self) -> bool {
        self.config.commands.iter().any(|command| matches!(command, Command::AddService { .. }))
    }

    /// Whether any real server is described.
    pub fn has_servers(&self) -> bool {
        self.config.commands.iter().any(|command| matches!(command, Command::AddServer { .. }))
    }

    /// Gives every real server another forwarding method, as `--mode` asks. Under direct routing and tunnels the port
    /// becomes the service's, as ipvsadm would store it.
    pub fn set_method(&mut self, method: ForwardingMethod) {
        let keeps_port = matches!(method, ForwardingMethod::Dr | ForwardingMethod::Tunnel(_));
        let adjust = |service: &ServiceKey, server: &mut ServerKey| {
            if let ServiceKey::Address { port, .. } = service
                && keeps_port
            {
                server.port = *port;
            }
        };
        let same_kind = |known: ForwardingMethod| std::mem::discriminant(&known) == std::mem::discriminant(&method);
        let changes = self.config.changes.iter_mut().map(|change| &mut change.command);
        for command in self.config.commands.iter_mut().chain(changes) {
            match command {
                Command::AddServer { service, server, settings } | Command::EditServer { service, server, settings } => {
                    // A described tunnel keeps its kind under `--mode tunnel`.
                    if !same_kind(settings.method) {
                        settings.method = method;
                    }
                    adjust(service, server);
                }
                Command::DeleteServer { service, server } => adjust(service, server),
                _ => {}
            }
        }
    }

    fn from_builder(builder: Builder) -> Description {
        let assumed = builder.all_assumed();
        let Builder { config, places, warnings, server_macs, .. } = builder;
        Description { config, warnings, assumed, places, server_macs }
    }

    fn into_builder(self) -> Builder {
        let Description { config, warnings, assumed, places, server_macs } = self;
        Builder { config, places, warnings, assumed, server_macs, ..Builder::default() }
    }
}

/// Reads a description: a snapshot folder, or a file of any kind that lvscheck knows.
///
/// # Errors
/// A file that can't be read, or says what can't be.
pub fn load(path: &Path) -> Result<Description, DescribeError> {
    let mut builder = Builder::default();
    if path.is_dir() {
        folder(&mut builder, path)?;
    } else {
        file(&mut builder, path)?;
    }
    Ok(Description::from_builder(builder))
}

fn read(path: &Path) -> Result<String, DescribeError> {
    let bytes = std::fs::read(path).map_err(|source| DescribeError::Unreadable { path: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads a description from memory; the name stands in messages and tells the kind, as that of a file does.
///
/// # Errors
/// The text says what can't be.
pub fn read_text(name: &str, text: &str) -> Result<Description, DescribeError> {
    let mut builder = Builder::default();
    one_text(&mut builder, name, text)?;
    check::check(&mut builder)?;
    Ok(Description::from_builder(builder))
}

/// A file by itself; its name tells lvs.toml and keepalived.conf, its content the others.
fn file(builder: &mut Builder, path: &Path) -> Result<(), DescribeError> {
    let text = read(path)?;
    Ok(one_text(builder, &path.display().to_string(), &text)?)
}

fn one_text(builder: &mut Builder, name: &str, text: &str) -> Result<(), Problem> {
    let base = name.rsplit('/').next().unwrap_or(name);
    if base.ends_with(".toml") {
        let toml = LvsToml::parse(name, text)?;
        if let Some(profile) = toml.profile()? {
            builder.config.profile = profile.clone();
        }
        toml.links(builder)?;
        toml.rest(builder)?;
    } else if base == "keepalived.conf" || keepalived::is_keepalived(text) {
        keepalived::read(builder, name, text)?;
    } else if listing::is_listing(text) {
        listing::read(builder, name, text)?;
    } else {
        speak_dpvs(builder, text);
        let commands = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        if commands.into_iter().all(|line| line.starts_with('-') || line.starts_with("ipvsadm")) {
            rules::read(builder, name, text)?;
        } else {
            script::read(builder, name, text)?;
        }
    }
    Ok(())
}

/// A script can't name its profile, but one with DPVS's own commands is DPVS's.
fn speak_dpvs(builder: &mut Builder, text: &str) {
    let own = |word: &str| matches!(word, "dpip" | "--add-laddr" | "--laddr" | "--blklst" | "--whtlst");
    if text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace).any(own) {
        builder.config.profile = Profile::DPVS_1_10;
        builder.assumed.push("system DPVS 1.10: the commands are DPVS's".to_owned());
    }
}

/// A snapshot folder: links first, then what refers to them, then services; lvs.toml adds and overrides.
fn folder(builder: &mut Builder, path: &Path) -> Result<(), DescribeError> {
    let mut files = Vec::new();
    for file in snapshot::FILES {
        let path = path.join(file);
        if path.exists() {
            files.push((*file, read(&path)?));
        }
    }
    let name = |file: &str| path.join(file).display().to_string();
    let get = |file: &str| files.iter().find(|(known, _)| *known == file).map(|(_, text)| text.as_str());
    snapshot_of(builder, &name, &get)?;
    note_unknown_files(builder, path);
    Ok(())
}

/// Reads a snapshot from memory: pairs of file name and content.
///
/// # Errors
/// A file says what can't be.
pub fn read_snapshot(files: &[(&str, &str)]) -> Result<Description, DescribeError> {
    let mut builder = Builder::default();
    let get = |file: &str| files.iter().find(|(known, _)| *known == file).map(|(_, text)| *text);
    snapshot_of(&mut builder, &str::to_owned, &get)?;
    check::check(&mut builder)?;
    Ok(Description::from_builder(builder))
}

fn snapshot_of<'a>(
    builder: &mut Builder,
    name: &dyn Fn(&str) -> String,
    optional: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<(), Problem> {
    let toml_name = name("lvs.toml");
    let toml_text = optional("lvs.toml");
    let toml = toml_text.map(|text| LvsToml::parse(&toml_name, text)).transpose()?;
    let told = toml.as_ref().map(LvsToml::profile).transpose()?.flatten();
    let release = optional("uname.txt");
    if let Some(profile) = told.or(release.map(Profile::by_release)) {
        builder.config.profile = profile.clone();
    } else if let Some(text) = optional("setup.sh") {
        speak_dpvs(builder, text);
    }
    let addresses = optional("ip-addr.json");
    if let Some(text) = addresses {
        snapshot::addresses(builder, &name("ip-addr.json"), text)?;
    }
    if let Some(toml) = &toml {
        toml.links(builder)?;
    }
    if let Some(text) = addresses {
        snapshot::unexplained_links(builder, &name("ip-addr.json"), text)?;
    }
    for (file, ipv6) in [("ip-route.json", false), ("ip6-route.json", true)] {
        if let Some(text) = optional(file) {
            snapshot::routes(builder, &name(file), text, ipv6)?;
        }
    }
    if let Some(text) = optional("ip-neigh.json") {
        snapshot::neighbours(builder, &name("ip-neigh.json"), text)?;
    }
    if let Some(text) = optional("sysctl.txt") {
        snapshot::sysctls(builder, &name("sysctl.txt"), text)?;
    }
    if let Some(text) = optional("ipvsadm-timeout.txt") {
        snapshot::timeouts(builder, &name("ipvsadm-timeout.txt"), text)?;
    }
    if let Some(text) = optional("ipvsadm.rules") {
        rules::read(builder, &name("ipvsadm.rules"), text)?;
    }
    // One description of the services is enough; the most exact one counts.
    for file in ["ipvsadm.txt", "keepalived.conf"] {
        let Some(text) = optional(file) else { continue };
        if builder.config.commands.iter().any(|command| matches!(command, Command::AddService { .. })) {
            builder
                .warnings
                .push(Problem::new("not read: another file of the folder describes the services").in_file(&name(file)));
        } else if file == "keepalived.conf" {
            keepalived::read(builder, &name(file), text)?;
        } else {
            listing::read(builder, &name(file), text)?;
        }
    }
    if let Some(text) = optional("setup.sh") {
        script::read(builder, &name("setup.sh"), text)?;
    }
    if let Some(toml) = &toml {
        toml.rest(builder)?;
    }
    Ok(())
}

/// A misspelt file name would otherwise go unnoticed. Captures and what a recording leaves beside are no concern.
fn note_unknown_files(builder: &mut Builder, path: &Path) {
    let Ok(entries) = std::fs::read_dir(path) else { return };
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    for name in names {
        let capture = name.contains(".pcap");
        if !capture && !snapshot::FILES.contains(&name.as_str()) && name != "ip-neigh-after.json" {
            let mut problem = Problem::new("this file is not part of a snapshot and was ignored")
                .in_file(&path.join(&name).display().to_string());
            if let Some(near) = problem::nearest(&name, snapshot::FILES.iter().copied()) {
                problem = problem.help(format!("did you mean `{near}`?"));
            }
            builder.warnings.push(problem);
        }
    }
}
