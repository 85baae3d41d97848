//! Kernel settings by their own names, as `sysctl -a` prints them.

use std::collections::BTreeMap;

/// What the engine reads of a kernel's settings. Defaults are the kernel's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Sysctls {
    /// net.ipv4.vs.*
    pub vs: VsSysctls,
    /// net.ipv4.conf.NAME.* and net.ipv6.conf.NAME.*, `all` and `default` included.
    pub interfaces: BTreeMap<String, InterfaceSysctls>,
    /// net.ipv4.ip_forward is the same as conf.all.forwarding.
    pub ip_forward: bool,
    /// net.ipv6.conf.all.forwarding
    pub ipv6_forwarding: bool,
    /// net.ipv4.ip_default_ttl
    pub ip_default_ttl: u8,
    /// net.ipv4.icmp_ratelimit, milliseconds between messages to one destination; 0: no limit.
    pub icmp_ratelimit: u32,
    /// net.ipv4.icmp_ratemask, by ICMP type.
    pub icmp_ratemask: u32,
    /// net.ipv6.icmp.ratelimit, milliseconds.
    pub icmpv6_ratelimit: u32,
    /// net.ipv4.icmp_echo_ignore_all
    pub icmp_echo_ignore_all: bool,
    /// net.ipv4.icmp_errors_use_inbound_ifaddr
    pub icmp_errors_use_inbound_ifaddr: bool,
    /// net.ipv4.ipfrag_time, seconds.
    pub ipfrag_time: u32,
    /// net.ipv4.ip_forward_use_pmtu
    pub ip_forward_use_pmtu: bool,
    /// net.ipv4.ip_local_port_range
    pub ip_local_port_range: (u16, u16),
    /// net.ipv4.ip_unprivileged_port_start
    pub ip_unprivileged_port_start: u16,
    /// Every line that was set, the unknown ones too, so that nothing is lost.
    pub raw: BTreeMap<String, String>,
}

impl Default for Sysctls {
    fn default() -> Sysctls {
        Sysctls {
            vs: VsSysctls::default(),
            interfaces: BTreeMap::new(),
            ip_forward: true,
            ipv6_forwarding: true,
            ip_default_ttl: 64,
            icmp_ratelimit: 1000,
            icmp_ratemask: 0x1818,
            icmpv6_ratelimit: 1000,
            icmp_echo_ignore_all: false,
            icmp_errors_use_inbound_ifaddr: false,
            ipfrag_time: 30,
            ip_forward_use_pmtu: false,
            ip_local_port_range: (32768, 60999),
            ip_unprivileged_port_start: 1024,
            raw: BTreeMap::new(),
        }
    }
}

/// net.ipv4.vs.* (Documentation/networking/ipvs-sysctl; reference/linux-ipvs.md section 8).
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "named as the settings are")]
pub struct VsSysctls {
    pub am_droprate: u32,
    pub drop_packet: u32,
    pub drop_entry: u32,
    pub conntrack: bool,
    pub secure_tcp: u32,
    pub snat_reroute: bool,
    pub cache_bypass: bool,
    pub expire_nodest_conn: bool,
    pub sloppy_tcp: bool,
    pub sloppy_sctp: bool,
    pub expire_quiescent_template: bool,
    pub nat_icmp_send: bool,
    pub pmtu_disc: bool,
    pub backup_only: bool,
    pub conn_reuse_mode: u32,
    pub schedule_icmp: bool,
    pub ignore_tunneled: bool,
    /// Seconds.
    pub lblc_expiration: u32,
    /// Seconds.
    pub lblcr_expiration: u32,
}

impl Default for VsSysctls {
    fn default() -> VsSysctls {
        VsSysctls {
            am_droprate: 10,
            drop_packet: 0,
            drop_entry: 0,
            conntrack: false,
            secure_tcp: 0,
            snat_reroute: true,
            cache_bypass: false,
            expire_nodest_conn: false,
            sloppy_tcp: false,
            sloppy_sctp: false,
            expire_quiescent_template: false,
            nat_icmp_send: false,
            pmtu_disc: true,
            backup_only: false,
            conn_reuse_mode: 1,
            schedule_icmp: false,
            ignore_tunneled: false,
            lblc_expiration: 86_400,
            lblcr_expiration: 86_400,
        }
    }
}

/// net.ipv4.conf.NAME.*, net.ipv4.neigh.NAME.* and net.ipv6.conf.NAME.*
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "named as the settings are")]
pub struct InterfaceSysctls {
    pub arp_ignore: u32,
    pub arp_announce: u32,
    pub arp_filter: bool,
    pub arp_accept: u32,
    pub arp_notify: bool,
    pub proxy_arp: bool,
    pub drop_gratuitous_arp: bool,
    pub rp_filter: u32,
    pub accept_local: bool,
    pub route_localnet: bool,
    pub send_redirects: bool,
    pub shared_media: bool,
    pub accept_source_route: bool,
    pub forwarding: bool,
    pub ipv6_forwarding: bool,
    pub ipv6_hop_limit: u8,
    pub disable_ipv6: bool,
    pub mcast_solicit: u32,
    pub ucast_solicit: u32,
    /// Milliseconds.
    pub retrans_time_ms: u32,
    /// Seconds.
    pub delay_first_probe_time: u32,
    /// Bytes of buffer memory that wait for one neighbour.
    pub unres_qlen_bytes: u32,
}

impl Default for InterfaceSysctls {
    fn default() -> InterfaceSysctls {
        InterfaceSysctls {
            arp_ignore: 0,
            arp_announce: 0,
            arp_filter: false,
            arp_accept: 0,
            arp_notify: false,
            proxy_arp: false,
            drop_gratuitous_arp: false,
            rp_filter: 0,
            accept_local: false,
            route_localnet: false,
            send_redirects: true,
            shared_media: true,
            accept_source_route: false,
            forwarding: true,
            ipv6_forwarding: true,
            ipv6_hop_limit: 64,
            disable_ipv6: false,
            mcast_solicit: 3,
            ucast_solicit: 3,
            retrans_time_ms: 1000,
            delay_first_probe_time: 5,
            unres_qlen_bytes: 212_992,
        }
    }
}

/// A value that a setting can't take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is no value for {name}; expected {expected}")]
pub struct SysctlError {
    /// The setting.
    pub name: String,
    /// What was given.
    pub value: String,
    /// What it takes.
    pub expected: &'static str,
}

impl Sysctls {
    /// Sets one by its name, such as `net.ipv4.vs.conn_reuse_mode`; slashes serve as dots too (sysctl.d(5)). Names that
    /// the engine doesn't read are kept in [`Sysctls::raw`] and change nothing.
    ///
    /// # Errors
    /// The value is of the wrong kind.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SysctlError> {
        let name = if name.contains('/') { name.trim_start_matches("/proc/sys/").replace('/', ".") } else { name.to_owned() };
        let value = value.trim();
        self.raw.insert(name.clone(), value.to_owned());
        let number = |expected: &'static str| -> Result<u32, SysctlError> {
            let text = value.split_whitespace().next().unwrap_or("");
            text.parse::<i64>().map(|n| n.clamp(0, i64::from(u32::MAX)) as u32).map_err(|_| SysctlError {
                name: name.clone(),
                value: value.to_owned(),
                expected,
            })
        };
        let integer = || number("a number");
        let switch = || number("0 or 1").map(|n| n != 0);
        let path: Vec<&str> = name.split('.').collect();
        match path.as_slice() {
            ["net", "ipv4", "vs", key] => self.vs.set(key, &integer, &switch)?,
            ["net", family @ ("ipv4" | "ipv6"), "conf" | "neigh", middle @ .., key] if !middle.is_empty() => {
                // A VLAN interface's name holds a dot: eth0.100.
                let interface = middle.join(".");
                if interface == "all" && *key == "forwarding" {
                    let on = switch()?;
                    if *family == "ipv4" {
                        self.ip_forward = on;
                    } else {
                        self.ipv6_forwarding = on;
                    }
                    // The kernel copies the value to every interface.
                    for entry in self.interfaces.values_mut() {
                        if *family == "ipv4" { entry.forwarding = on } else { entry.ipv6_forwarding = on }
                    }
                }
                let (forwarding, ipv6_forwarding) = (self.ip_forward, self.ipv6_forwarding);
                let fresh = || InterfaceSysctls { forwarding, ipv6_forwarding, ..InterfaceSysctls::default() };
                self.interfaces.entry(interface).or_insert_with(fresh).set(family, key, &integer, &switch)?;
            }
            ["net", "ipv4", "ip_forward"] => {
                self.ip_forward = switch()?;
                for entry in self.interfaces.values_mut() {
                    entry.forwarding = self.ip_forward;
                }
            }
            ["net", "ipv4", "ip_default_ttl"] => self.ip_default_ttl = integer()?.min(255) as u8,
            ["net", "ipv4", "icmp_ratelimit"] => self.icmp_ratelimit = integer()?,
            ["net", "ipv4", "icmp_ratemask"] => self.icmp_ratemask = integer()?,
            ["net", "ipv6", "icmp", "ratelimit"] => self.icmpv6_ratelimit = integer()?,
            ["net", "ipv4", "icmp_echo_ignore_all"] => self.icmp_echo_ignore_all = switch()?,
            ["net", "ipv4", "icmp_errors_use_inbound_ifaddr"] => self.icmp_errors_use_inbound_ifaddr = switch()?,
            ["net", "ipv4", "ipfrag_time"] => self.ipfrag_time = integer()?,
            ["net", "ipv4", "ip_forward_use_pmtu"] => self.ip_forward_use_pmtu = switch()?,
            ["net", "ipv4", "ip_unprivileged_port_start"] => self.ip_unprivileged_port_start = integer()?.min(65535) as u16,
            ["net", "ipv4", "ip_local_port_range"] => {
                let mut ends = value.split_whitespace().map(str::parse::<u16>);
                let (Some(Ok(low)), Some(Ok(high))) = (ends.next(), ends.next()) else {
                    return Err(SysctlError { name, value: value.to_owned(), expected: "two port numbers" });
                };
                self.ip_local_port_range = (low, high);
            }
            _ => {}
        }
        Ok(())
    }

    /// The settings of one interface. Most of them are the larger of the interface's and `all`'s.
    pub fn of_interface(&self, name: &str) -> InterfaceSysctls {
        let fallback =
            || InterfaceSysctls { forwarding: self.ip_forward, ipv6_forwarding: self.ipv6_forwarding, ..Default::default() };
        let mut own = self.interfaces.get(name).or_else(|| self.interfaces.get("default")).cloned().unwrap_or_else(fallback);
        if let Some(all) = self.interfaces.get("all") {
            own.arp_ignore = own.arp_ignore.max(all.arp_ignore);
            own.arp_announce = own.arp_announce.max(all.arp_announce);
            own.arp_filter |= all.arp_filter;
            own.arp_notify |= all.arp_notify;
            own.arp_accept = own.arp_accept.max(all.arp_accept);
            own.proxy_arp |= all.proxy_arp;
            own.drop_gratuitous_arp |= all.drop_gratuitous_arp;
            own.rp_filter = own.rp_filter.max(all.rp_filter);
            own.accept_local |= all.accept_local;
            own.route_localnet |= all.route_localnet;
            own.send_redirects |= all.send_redirects;
            own.shared_media |= all.shared_media;
            own.accept_source_route &= all.accept_source_route;
        }
        own
    }
}

impl VsSysctls {
    fn set(
        &mut self,
        key: &str,
        integer: &dyn Fn() -> Result<u32, SysctlError>,
        switch: &dyn Fn() -> Result<bool, SysctlError>,
    ) -> Result<(), SysctlError> {
        match key {
            "am_droprate" => self.am_droprate = integer()?,
            "drop_packet" => self.drop_packet = integer()?,
            "drop_entry" => self.drop_entry = integer()?,
            "conntrack" => self.conntrack = switch()?,
            "secure_tcp" => self.secure_tcp = integer()?,
            "snat_reroute" => self.snat_reroute = switch()?,
            "cache_bypass" => self.cache_bypass = switch()?,
            "expire_nodest_conn" => self.expire_nodest_conn = switch()?,
            "sloppy_tcp" => self.sloppy_tcp = switch()?,
            "sloppy_sctp" => self.sloppy_sctp = switch()?,
            "expire_quiescent_template" => self.expire_quiescent_template = switch()?,
            "nat_icmp_send" => self.nat_icmp_send = switch()?,
            "pmtu_disc" => self.pmtu_disc = switch()?,
            "backup_only" => self.backup_only = switch()?,
            "conn_reuse_mode" => self.conn_reuse_mode = integer()?,
            "schedule_icmp" => self.schedule_icmp = switch()?,
            "ignore_tunneled" => self.ignore_tunneled = switch()?,
            "lblc_expiration" => self.lblc_expiration = integer()?,
            "lblcr_expiration" => self.lblcr_expiration = integer()?,
            _ => {}
        }
        Ok(())
    }
}

impl InterfaceSysctls {
    fn set(
        &mut self,
        family: &str,
        key: &str,
        integer: &dyn Fn() -> Result<u32, SysctlError>,
        switch: &dyn Fn() -> Result<bool, SysctlError>,
    ) -> Result<(), SysctlError> {
        match (family, key) {
            ("ipv4", "arp_ignore") => self.arp_ignore = integer()?,
            ("ipv4", "arp_announce") => self.arp_announce = integer()?,
            ("ipv4", "arp_filter") => self.arp_filter = switch()?,
            ("ipv4", "arp_accept") => self.arp_accept = integer()?,
            ("ipv4", "arp_notify") => self.arp_notify = switch()?,
            ("ipv4", "proxy_arp") => self.proxy_arp = switch()?,
            ("ipv4", "drop_gratuitous_arp") => self.drop_gratuitous_arp = switch()?,
            ("ipv4", "rp_filter") => self.rp_filter = integer()?,
            ("ipv4", "accept_local") => self.accept_local = switch()?,
            ("ipv4", "route_localnet") => self.route_localnet = switch()?,
            ("ipv4", "send_redirects") => self.send_redirects = switch()?,
            ("ipv4", "shared_media") => self.shared_media = switch()?,
            ("ipv4", "accept_source_route") => self.accept_source_route = switch()?,
            ("ipv4", "forwarding") => self.forwarding = switch()?,
            ("ipv6", "forwarding") => self.ipv6_forwarding = switch()?,
            ("ipv6", "hop_limit") => self.ipv6_hop_limit = integer()?.min(255) as u8,
            ("ipv6", "disable_ipv6") => self.disable_ipv6 = switch()?,
            ("ipv4", "mcast_solicit") => self.mcast_solicit = integer()?,
            ("ipv4", "ucast_solicit") => self.ucast_solicit = integer()?,
            ("ipv4", "retrans_time_ms") => self.retrans_time_ms = integer()?,
            ("ipv4", "delay_first_probe_time") => self.delay_first_probe_time = integer()?,
            ("ipv4", "unres_qlen_bytes") => self.unres_qlen_bytes = integer()?,
            _ => {}
        }
        Ok(())
    }
}
