//! The command line, as it is typed.

use crate::generate::GenerateArgs;
use crate::throughput::Task;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Replay captured traffic through LVS forwarding modes, offline, and check the result against golden captures.
#[derive(Debug, Parser)]
#[command(
    name = "lvscheck",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit status: 0 conforms; 1 differs; 2 wrong use, configuration or I/O; 3 input that is no capture;\n\
                  4 nothing to check (no packet of any service); 5 golden missing."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// How to print the result.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, env = "LVSCHECK_FORMAT")]
    pub format: Format,
    /// Colours in text; NO_COLOR is honoured too.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Work with this many threads; all cores when not given. `throughput` takes several, such as `1,2,4`, and measures with
    /// each; with 1 and all when not given.
    #[arg(long, global = true, value_name = "N", value_delimiter = ',')]
    pub threads: Vec<usize>,
    /// Print only what went wrong: nothing when all is well. What a program reads, such as a JSON document, is whole all
    /// the same.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print more: each frame's verdict, each finding.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Formats of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one versioned JSON document.
    Json,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replay captures through a director and show what it sends.
    Replay(Box<ReplayArgs>),
    /// Run every golden case below a folder.
    Test(TestArgs),
    /// Compare two captures frame by frame.
    Diff(DiffArgs),
    /// Make client traffic to order.
    Generate(Box<GenerateArgs>),
    /// Measure how fast captures are replayed, by stage, against line rates.
    Throughput(ThroughputArgs),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

/// `lvscheck replay`.
#[derive(Args, Clone, Debug, Default)]
pub struct ReplayArgs {
    /// Captures: pcap or pcapng, plain or gzip, zstd, lz4; `-` is standard input. Several are merged by time.
    #[arg(required = true, value_name = "CAPTURE")]
    pub captures: Vec<PathBuf>,
    /// Forwarding mode. `rules` takes each real server's method from the configuration, and is the default with one.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// The director: a snapshot folder, `ipvsadm -Sn` rules, keepalived.conf, a setup script or lvs.toml.
    #[arg(short, long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Write what the director emits: nanosecond pcap, or pcapng with verdicts as comments when the name ends so.
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Compare what the director emits with this capture; `same`: with the frames that a capture taken on the director
    /// shows it sent.
    #[arg(long, value_name = "FILE")]
    pub golden: Option<PathBuf>,
    /// Take each connection's real server from the golden, and check all else.
    #[arg(long, requires = "golden")]
    pub observe: bool,
    /// Mask a field in the comparison, by Wireshark's name, such as `ip.id`. May be repeated.
    #[arg(long, value_name = "FIELD", requires = "golden")]
    pub ignore: Vec<String>,
    /// A virtual service: `200.200.200.1:80`, `udp:200.200.200.1:53`. May be repeated.
    #[arg(long, value_name = "SERVICE")]
    pub vip: Vec<String>,
    /// A real server of the service before it: `10.0.0.11:8080,weight=3,mac=02:00:00:00:00:0b`. May be repeated.
    #[arg(long, value_name = "SERVER", requires = "vip")]
    pub rs: Vec<String>,
    /// Scheduler of the services given by --vip, or inferred.
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<String>,
    /// FULLNAT: a local address. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    pub lip: Vec<String>,
    /// Behave as this system: linux, linux-5.10, dpvs-1.10.
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Print the connection table at the end, as `ipvsadm -Lcn` does.
    #[arg(long)]
    pub connections: bool,
    /// How long the director lives on after the last frame, so that timers can fire.
    #[arg(long, value_name = "SECONDS")]
    pub linger: Option<f64>,
    /// Also write the result as one HTML page.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}

/// Forwarding modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Direct routing: only MAC addresses change.
    Dr,
    /// Network address translation (masquerading).
    Nat,
    /// FULLNAT, as DPVS does it.
    Fullnat,
    /// IP in IP tunnel.
    Tunnel,
    /// As the rules say.
    Rules,
}

/// `lvscheck test`.
#[derive(Args, Clone, Debug)]
pub struct TestArgs {
    /// The folder with the cases, at any depth: each a folder with case.toml.
    #[arg(default_value = "golden")]
    pub folder: PathBuf,
    /// Only cases whose name holds this text. May be repeated.
    #[arg(long, value_name = "TEXT")]
    pub filter: Vec<String>,
    /// Also write the result as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Show what changed in each differing case and accept it as the new golden.
    #[arg(long)]
    pub bless: bool,
    /// With --bless: accept without asking.
    #[arg(long, requires = "bless")]
    pub yes: bool,
    /// Make a new case from this capture, in FOLDER/NAME.
    #[arg(long, value_name = "CAPTURE", conflicts_with_all = ["filter", "bless", "junit"])]
    pub new: Option<PathBuf>,
    /// With --new: the director of the new case.
    #[arg(short, long, value_name = "PATH", requires = "new")]
    pub config: Option<PathBuf>,
    /// With --new: the case's name; the capture's when not given.
    #[arg(long, value_name = "NAME", requires = "new")]
    pub name: Option<String>,
    /// With --new: the forwarding mode, without a director.
    #[arg(long, value_enum, requires = "new")]
    pub mode: Option<Mode>,
}

/// `lvscheck diff`.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// The capture with the expected frames.
    pub expected: PathBuf,
    /// The capture with the frames to check.
    pub actual: PathBuf,
    /// Mask a field, by Wireshark's name, such as `ip.id`. May be repeated.
    #[arg(long, value_name = "FIELD")]
    pub ignore: Vec<String>,
}

/// `lvscheck throughput`.
#[derive(Args, Clone, Debug)]
pub struct ThroughputArgs {
    /// Captures to measure with, each by itself; UDP traffic of the sizes of RFC 2544 is generated when none is given.
    #[arg(value_name = "CAPTURE")]
    pub captures: Vec<PathBuf>,
    /// Forwarding modes to measure [default: dr,nat,fullnat,tunnel; with -c as the rules say].
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODES")]
    pub mode: Vec<Mode>,
    /// The director, as for `replay`; inferred from each capture when not given, which a pass of its own does.
    #[arg(short, long, value_name = "PATH", requires = "captures")]
    pub config: Option<PathBuf>,
    /// What to do with the frames that leave: nothing, compare them with a golden, write them.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "TASKS", default_value = "forward")]
    pub task: Vec<Task>,
    /// Runs of each measurement. The first is the cold one, the others are warm.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,
    /// Sizes of generated frames, in bytes with FCS [default: 64,128,256,512,1024,1280,1518].
    #[arg(long, value_name = "SIZES", value_delimiter = ',', conflicts_with = "captures", value_parser = clap::value_parser!(u32).range(64..=1518))]
    pub size: Vec<u32>,
    /// Generated packets of each size.
    #[arg(long, value_name = "N", default_value_t = 200_000, conflicts_with = "captures", value_parser = clap::value_parser!(u64).range(1..))]
    pub packets: u64,
    /// Connections of these packets [default: a tenth of the packets].
    #[arg(long, value_name = "N", conflicts_with = "captures", value_parser = clap::value_parser!(u64).range(1..))]
    pub flows: Option<u64>,
    /// Also write the result as one HTML page, with plots.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}
