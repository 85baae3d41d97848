//! Settings of dpvs.conf that change packets. Defaults are those of DPVS's sample configuration, with which the recordings
//! were made (reference/dpvs-fullnat.md, recordings/README.md).

/// `[dpvs]` of lvs.toml.
#[derive(Clone, Debug, PartialEq)]
pub struct DpvsSettings {
    /// How UOA travels.
    pub uoa_mode: UoaMode,
    /// How many datagrams of a connection carry UOA; 0: none.
    pub uoa_max_trail: u8,
    /// Switches the fast path off.
    pub fast_xmit_close: bool,
    /// Decrements and checks the TTL on the routed path.
    pub xmit_ttl: bool,
    /// Drops what TCP traffic IPVS does not take.
    pub defence_tcp_drop: bool,
    /// Drops what UDP traffic IPVS does not take.
    pub defence_udp_drop: bool,
    /// Pools of local ports for each local address.
    pub pool_hash_size: u16,
    /// `ipv4_defs forwarding`.
    pub forwarding: bool,
    /// Packets that wait for one neighbour.
    pub unres_queue_length: u16,
    /// Connection timeouts.
    pub timeouts: DpvsTimeouts,
    /// SYN proxy.
    pub synproxy: SynProxySettings,
}

impl Default for DpvsSettings {
    fn default() -> DpvsSettings {
        DpvsSettings {
            uoa_mode: UoaMode::Opp,
            uoa_max_trail: 3,
            fast_xmit_close: false,
            xmit_ttl: false,
            defence_tcp_drop: false,
            defence_udp_drop: false,
            pool_hash_size: 16,
            forwarding: false,
            unres_queue_length: 128,
            timeouts: DpvsTimeouts::default(),
            synproxy: SynProxySettings::default(),
        }
    }
}

/// The two carriers of the UDP option of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UoaMode {
    /// An option protocol between IP and UDP.
    Opp,
    /// An IP option.
    Ipo,
}

/// Timeouts in seconds, under dpvs.conf's names.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the state is the name")]
pub struct DpvsTimeouts {
    pub conn_init: u32,
    pub none: u32,
    pub established: u32,
    pub syn_sent: u32,
    pub syn_recv: u32,
    pub fin_wait: u32,
    pub time_wait: u32,
    pub close: u32,
    pub close_wait: u32,
    pub last_ack: u32,
    pub listen: u32,
    pub synack: u32,
    pub last: u32,
    pub udp_oneway: u32,
    pub udp_normal: u32,
    pub neighbour: u32,
}

impl Default for DpvsTimeouts {
    fn default() -> DpvsTimeouts {
        DpvsTimeouts {
            conn_init: 3,
            none: 2,
            established: 90,
            syn_sent: 3,
            syn_recv: 30,
            fin_wait: 7,
            time_wait: 7,
            close: 3,
            close_wait: 7,
            last_ack: 7,
            listen: 120,
            synack: 30,
            last: 2,
            udp_oneway: 60,
            udp_normal: 300,
            neighbour: 60,
        }
    }
}

/// `synproxy { }` of dpvs.conf.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "named as in dpvs.conf")]
pub struct SynProxySettings {
    pub mss: u16,
    pub ttl: u8,
    pub sack: bool,
    pub wscale: Option<u8>,
    pub timestamp: bool,
    pub close_client_window: bool,
    pub defer_rs_syn: bool,
    pub rs_syn_max_retry: u8,
    pub ack_storm_thresh: u8,
    pub max_ack_saved: u8,
}

impl Default for SynProxySettings {
    fn default() -> SynProxySettings {
        SynProxySettings {
            mss: 1452,
            ttl: 63,
            sack: true,
            wscale: None,
            timestamp: false,
            close_client_window: true,
            defer_rs_syn: false,
            rs_syn_max_retry: 3,
            ack_storm_thresh: 10,
            max_ack_saved: 3,
        }
    }
}
