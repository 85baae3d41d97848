//! What differs between the systems that lvscheck knows: data, never an `if` on a name.

/// A system's behaviour. The next kernel that differs becomes another constant here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name on the command line and in lvs.toml.
    pub name: &'static str,
    /// Which machinery forwards.
    pub system: System,
    /// 5.10: the checksum of an ICMP error from a client is verified under DR and tunnel too (6.1: under NAT only).
    pub icmp_checksum_always_verified: bool,
    /// 5.10 computes another MTU in the first 3/4 about a GRE or GUE tunnel.
    pub tunnel_pmtu_ignores_encapsulation: bool,
    /// 5.10 drops ICMPv6 errors under NAT that 6.1 translates.
    pub nat_icmp6_errors_dropped: bool,
}

/// Which implementation of LVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// IPVS in the Linux kernel.
    Linux,
    /// DPVS, in user space.
    Dpvs,
}

impl Profile {
    /// Linux 6.1, and 6.12 and 7.2, which emit the same.
    pub const LINUX: Profile = Profile {
        name: "linux",
        system: System::Linux,
        icmp_checksum_always_verified: false,
        tunnel_pmtu_ignores_encapsulation: false,
        nat_icmp6_errors_dropped: false,
    };

    /// Linux 5.10.
    pub const LINUX_5_10: Profile = Profile {
        name: "linux-5.10",
        icmp_checksum_always_verified: true,
        tunnel_pmtu_ignores_encapsulation: true,
        nat_icmp6_errors_dropped: true,
        ..Profile::LINUX
    };

    /// DPVS 1.10.2.
    pub const DPVS_1_10: Profile = Profile { name: "dpvs-1.10", system: System::Dpvs, ..Profile::LINUX };

    /// Every profile.
    pub const ALL: [&'static Profile; 3] = [&Profile::LINUX, &Profile::LINUX_5_10, &Profile::DPVS_1_10];

    /// The profile of that name; `linux-6.1`, `linux-6.12` and `linux-7.2` are names of `linux`.
    pub fn by_name(name: &str) -> Option<&'static Profile> {
        match name {
            "linux-6.1" | "linux-6.12" | "linux-7.2" => Some(&Profile::LINUX),
            _ => Profile::ALL.into_iter().find(|profile| profile.name == name),
        }
    }

    /// The profile for what `uname -r` printed, such as `6.1.0-53-amd64`: the newest one that is not newer than it.
    pub fn by_release(release: &str) -> &'static Profile {
        let mut numbers = release.trim().split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), minor) if (major, minor.unwrap_or(0)) < (5, 16) => &Profile::LINUX_5_10,
            _ => &Profile::LINUX,
        }
    }
}

impl Default for Profile {
    fn default() -> Profile {
        Profile::LINUX
    }
}
