//! The two container formats, read from a slice that may end anywhere: pcap (pcap-parser reads the header, records are walked
//! here, at the speed of memory) and pcapng (pcap-parser reads section and interface blocks; packet blocks, which it makes
//! costly, and time stamps, which it gets wrong, are read here).

use super::error::Fault;
use super::time::Clock;
use lvscheck_engine::Nanos;
use pcap_parser::pcapng::{parse_block_be, parse_block_le};
use pcap_parser::{Block, parse_pcap_header};

/// A record is never longer; what claims to be is damage. (libpcap's own limit.)
pub const MAX_RECORD: usize = 262_144 + 65_536;

/// The largest pcapng block that is not a packet.
const MAX_BLOCK: usize = 16 << 20;

/// The most interfaces that a capture may describe, over all its sections: descriptions stay in memory, unlike frames.
const MAX_INTERFACES: usize = 65_536;

/// The longest interface name that is kept, in bytes.
const MAX_NAME: usize = 255;

/// A frame found in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was captured.
    pub time: Nanos,
    /// Which of the capture's interfaces.
    pub interface: u32,
    /// Where its bytes begin in the buffer.
    pub start: usize,
    /// How many bytes were captured.
    pub len: u32,
    /// How long it was on the wire.
    pub wire_len: u32,
}

impl Record {
    /// Its bytes in the buffer that it was found in; nothing in another, shorter one.
    #[inline]
    pub fn of<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        buffer.get(self.start..).and_then(|rest| rest.get(..self.len as usize)).unwrap_or_default()
    }
}

/// The header of a pcap record as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// When: seconds in the upper half, what fraction the file counts in the lower. In this order the same as in order of time.
    pub stamp: u64,
    /// How many bytes follow.
    pub len: u32,
    /// How long the frame was on the wire.
    pub wire_len: u32,
}

/// An interface of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureInterface {
    /// if_name.
    pub name: Option<String>,
    /// The link type (tcpdump.org's list).
    pub link_type: u16,
    clock: Clock,
    /// Bytes of frame check sequence at the end of each frame.
    fcs_len: u32,
    snap_len: u32,
}

impl CaptureInterface {
    /// Whether frames end with a frame check sequence.
    pub fn has_fcs(&self) -> bool {
        self.fcs_len != 0
    }
}

/// What the next bytes of a capture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A frame, and how many bytes it takes.
    Frame(Record, usize),
    /// Something else, and how many bytes it takes.
    Skip(usize),
    /// More bytes are needed: this many in all.
    More(usize),
    /// Nonsense.
    Damage(Fault),
}

/// What kind of file it is.
#[derive(Clone, Debug)]
pub enum Format {
    /// pcap.
    Pcap(PcapFormat),
    /// pcapng.
    PcapNg(PcapNgFormat),
}

/// What pcap's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcapFormat {
    big_endian: bool,
    nanoseconds: bool,
    header_len: usize,
    /// Length of the frame check sequence at the end of each frame.
    fcs_len: u32,
}

/// The state of a pcapng section.
#[derive(Clone, Copy, Debug, Default)]
pub struct PcapNgFormat {
    big_endian: bool,
    /// The section's first interface in the whole capture's list.
    first_interface: usize,
    /// When the last frame was captured: simple packets, which have no time, take it.
    last: Nanos,
}

/// A section header block's type: the same in both byte orders, and pcapng's magic.
const SECTION: u32 = 0x0a0d_0d0a;

/// The bytes that tell a format: enough for pcap's header.
pub const HEAD: usize = 24;

/// Finds the format. `head` holds the first [`HEAD`] bytes, or all there are.
///
/// # Errors
/// What it looks like instead.
pub fn detect(head: &[u8], interfaces: &mut Vec<CaptureInterface>) -> Result<(Format, usize), &'static str> {
    if head.starts_with(&SECTION.to_be_bytes()) {
        return Ok((Format::PcapNg(PcapNgFormat::default()), 0));
    }
    let magic = head.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    if let Some(0xa1b2_c3d4 | 0xd4c3_b2a1 | 0xa1b2_3c4d | 0x4d3c_b2a1 | 0xa1b2_cd34 | 0x34cd_b2a1) = magic {
        let (_, header) = parse_pcap_header(head).map_err(|_| "a pcap header that is cut")?;
        let big_endian = header.is_bigendian();
        let raw = head[20..24].try_into().map_err(|_| "a pcap header that is cut")?;
        let network = if big_endian { u32::from_be_bytes(raw) } else { u32::from_le_bytes(raw) };
        // The upper bits say whether frames carry a frame check sequence (pcap-linktype(7)).
        let fcs_len = if network & 0x0400_0000 != 0 { (network >> 28) * 2 } else { 0 };
        interfaces.push(CaptureInterface {
            name: None,
            link_type: (network & 0xffff) as u16,
            clock: Clock::default(),
            fcs_len,
            snap_len: header.snaplen,
        });
        let format = PcapFormat {
            big_endian,
            nanoseconds: header.is_nanosecond_precision(),
            header_len: if header.is_modified_format() { 24 } else { 16 },
            fcs_len,
        };
        return Ok((Format::Pcap(format), HEAD));
    }
    Err(looks_like(head))
}

/// What people name by mistake.
fn looks_like(head: &[u8]) -> &'static str {
    match head {
        [0x7f, b'E', b'L', b'F', ..] => "a program",
        [b'P', b'K', 3 | 5, 4 | 6, ..] => "a zip archive; unpack it first",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "an xz file; unpack it first",
        [b'B', b'Z', b'h', ..] => "a bzip2 file; unpack it first",
        [b'7', b'z', 0xbc, 0xaf, ..] => "a 7z archive; unpack it first",
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x04, 0x22, 0x4d, 0x18, ..] => {
            "something compressed more than twice; unpack it first"
        }
        [b'X', b'C', b'P', 0, ..] => "a NetXRay capture; convert it with editcap",
        [b'G', b'M', b'B', b'U', ..] | [b'R', b'T', b'S', b'S', ..] => "a Network Monitor capture; convert it with editcap",
        [b'T', b'R', b'S', b'N', ..] => "a Sniffer capture; convert it with editcap",
        [b's', b'n', b'o', b'o', b'p', ..] => "a snoop capture; convert it with editcap",
        [b'%', b'P', b'D', b'F', ..] => "a PDF document",
        [0xa1, 0xb2, ..] | [_, _, 0xb2, 0xa1, ..] => "a damaged pcap header",
        bytes if bytes.iter().all(|byte| *byte == 0) => "nothing but zeros",
        bytes if is_text(bytes) => "text",
        _ => "unknown binary data",
    }
}

/// Whether it is UTF-8 without control characters; a last character may be cut.
fn is_text(bytes: &[u8]) -> bool {
    let whole = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or("\0"),
        Err(_) => return false,
    };
    whole.chars().all(|letter| !letter.is_control() || letter.is_ascii_whitespace())
}

fn u32_at(buffer: &[u8], at: usize, big_endian: bool) -> Option<u32> {
    let bytes = buffer.get(at..at + 4)?.try_into().ok()?;
    Some(if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
}

fn u16_at(buffer: &[u8], at: usize, big_endian: bool) -> Option<u16> {
    let bytes = buffer.get(at..at + 2)?.try_into().ok()?;
    Some(if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
}

fn without_fcs(len: u32, wire_len: u32, fcs_len: u32) -> (u32, u32) {
    let wire = wire_len.saturating_sub(fcs_len);
    (len.min(wire), wire)
}

impl PcapFormat {
    /// The same with constants in place of what nearly all files have alike, so that the compiler leaves out what those don't need;
    /// none if this file differs.
    #[inline(always)]
    pub fn usual(self) -> Option<PcapFormat> {
        let PcapFormat { nanoseconds, .. } = self;
        let usual = PcapFormat { big_endian: false, nanoseconds, header_len: 16, fcs_len: 0 };
        (self == usual).then_some(usual)
    }

    /// Length of the header before each frame.
    pub fn record_head(&self) -> usize {
        self.header_len
    }

    /// The header of a record.
    #[inline]
    pub fn head(&self, record: &[u8]) -> Option<RecordHead> {
        // Two words of two fields each.
        let (words, _) = record.first_chunk::<16>()?.as_chunks::<8>();
        let [stamp, lengths] = [0, 1].map(|word| {
            if self.big_endian { u64::from_be_bytes(words[word]) } else { u64::from_le_bytes(words[word]).rotate_left(32) }
        });
        Some(RecordHead { stamp, len: (lengths >> 32) as u32, wire_len: lengths as u32 })
    }

    /// The time of a record.
    #[inline]
    pub fn time(&self, head: &RecordHead) -> Nanos {
        let (seconds, fraction) = (head.stamp >> 32, head.stamp & 0xffff_ffff);
        Nanos(seconds * 1_000_000_000 + if self.nanoseconds { fraction } else { fraction * 1000 })
    }

    /// Reads what stands at `at`.
    #[inline(always)]
    pub fn step(&self, buffer: &[u8], at: usize) -> Step {
        // The modified format's header is longer, but begins the same.
        let whole = buffer.len().saturating_sub(at) >= self.header_len;
        let Some(head) = buffer.get(at..).and_then(|rest| self.head(rest)).filter(|_| whole) else {
            return Step::More(self.header_len);
        };
        let RecordHead { len, wire_len, .. } = head;
        if len as usize > MAX_RECORD {
            return Step::Damage(Fault::RecordLength(len));
        }
        let size = self.header_len + len as usize;
        if buffer.len() - at < size {
            return Step::More(size);
        }
        let time = self.time(&head);
        let (len, wire_len) = without_fcs(len, wire_len.max(len), self.fcs_len);
        Step::Frame(Record { time, interface: 0, start: at + self.header_len, len, wire_len }, size)
    }
}

impl PcapNgFormat {
    /// Reads the block that stands at `at`.
    pub fn step(&mut self, buffer: &[u8], at: usize, interfaces: &mut Vec<CaptureInterface>) -> Step {
        let Some(head) = buffer.get(at..at + 12) else { return Step::More(12) };
        if head.starts_with(&SECTION.to_be_bytes()) {
            match head[8..12] {
                [0x1a, 0x2b, 0x3c, 0x4d] => self.big_endian = true,
                [0x4d, 0x3c, 0x2b, 0x1a] => self.big_endian = false,
                _ => return Step::Damage(Fault::ByteOrder),
            }
        }
        let kind = u32_at(head, 0, self.big_endian).unwrap_or(0);
        let size = u32_at(head, 4, self.big_endian).unwrap_or(0) as usize;
        let packet = matches!(kind, 2 | 3 | 6);
        if size < 12 || !size.is_multiple_of(4) || size > if packet { MAX_RECORD + 65_536 } else { MAX_BLOCK } {
            return Step::Damage(Fault::BlockLength(size as u32));
        }
        let Some(block) = buffer.get(at..at + size) else { return Step::More(size) };
        if u32_at(block, size - 4, self.big_endian) != Some(size as u32) {
            return Step::Damage(Fault::BlockLengths);
        }
        let step = match kind {
            SECTION => match u16_at(block, 12, self.big_endian) {
                Some(1) => {
                    self.first_interface = interfaces.len();
                    Step::Skip(size)
                }
                Some(version) => Step::Damage(Fault::Version(version)),
                None => Step::Damage(Fault::BlockLength(size as u32)),
            },
            1 if interfaces.len() >= MAX_INTERFACES => Step::Damage(Fault::Interfaces),
            1 => match self.interface(block) {
                Some(interface) => {
                    interfaces.push(interface);
                    Step::Skip(size)
                }
                None => Step::Damage(Fault::InterfaceDescription),
            },
            2 | 6 => self.packet(kind, block, at, interfaces),
            3 => self.simple_packet(block, at, interfaces),
            _ => Step::Skip(size),
        };
        if let Step::Frame(record, _) = step {
            self.last = record.time;
        }
        step
    }

    fn interface(&self, block: &[u8]) -> Option<CaptureInterface> {
        let parsed = if self.big_endian { parse_block_be(block) } else { parse_block_le(block) };
        let Ok((_, Block::InterfaceDescription(interface))) = parsed else { return None };
        // pcap-parser reads if_tsoffset as little-endian always, so the raw option is read here.
        let offset = interface.options.iter().find(|option| option.code.0 == 14).and_then(|option| {
            let bytes: [u8; 8] = option.value.get(..8)?.try_into().ok()?;
            Some(if self.big_endian { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) })
        });
        let resolution =
            interface.options.iter().find(|option| option.code.0 == 9).and_then(|option| option.value.first().copied());
        let fcs_len =
            interface.options.iter().find(|option| option.code.0 == 13).and_then(|option| option.value.first().copied());
        // The specification says bits and gives 4 as its example, so both are met in files: 32 and 4 are the same.
        let fcs_len = match fcs_len.unwrap_or(0) {
            bytes @ 0..=8 => bytes,
            bits => bits / 8,
        };
        Some(CaptureInterface {
            name: interface
                .if_name()
                .and_then(Result::ok)
                .map(|name| {
                    let name = name.trim_end_matches('\0');
                    name.char_indices()
                        .take_while(|(at, letter)| at + letter.len_utf8() <= MAX_NAME)
                        .map(|(_, letter)| letter)
                        .collect::<String>()
                })
                .filter(|name| !name.is_empty()),
            link_type: u16_at(block, 8, self.big_endian)?,
            clock: Clock::new(resolution, offset),
            fcs_len: fcs_len.into(),
            snap_len: interface.snaplen,
        })
    }

    /// Enhanced packet block, and the obsolete packet block, whose interface number has 16 bits.
    fn packet(&self, kind: u32, block: &[u8], at: usize, interfaces: &[CaptureInterface]) -> Step {
        let field = |from| u32_at(block, from, self.big_endian);
        let number = if kind == 6 { field(8) } else { u16_at(block, 8, self.big_endian).map(u32::from) };
        let (Some(number), Some(high), Some(low), Some(len), Some(wire_len)) =
            (number, field(12), field(16), field(20), field(24))
        else {
            return Step::Damage(Fault::PacketBlock);
        };
        let index = self.first_interface.saturating_add(number as usize);
        let Some(interface) = interfaces.get(index) else {
            return Step::Damage(Fault::NoInterface(number));
        };
        if len as usize > block.len().saturating_sub(32).min(MAX_RECORD) {
            return Step::Damage(Fault::PacketLength { len, block: block.len() as u32 });
        }
        let time = interface.clock.nanos(u64::from(high) << 32 | u64::from(low));
        let (len, wire_len) = without_fcs(len, wire_len.max(len), interface.fcs_len);
        Step::Frame(Record { time, interface: index as u32, start: at + 28, len, wire_len }, block.len())
    }

    /// A simple packet block: no time of its own, so the last frame's, that time never runs back; the section's first
    /// interface, and that interface's snap length.
    fn simple_packet(&self, block: &[u8], at: usize, interfaces: &[CaptureInterface]) -> Step {
        let (Some(wire_len), Some(interface)) = (u32_at(block, 8, self.big_endian), interfaces.get(self.first_interface)) else {
            return Step::Damage(Fault::NoInterface(0));
        };
        let snap = if interface.snap_len == 0 { u32::MAX } else { interface.snap_len };
        let len = wire_len.min(snap);
        if len as usize > block.len().saturating_sub(16).min(MAX_RECORD) {
            return Step::Damage(Fault::PacketLength { len, block: block.len() as u32 });
        }
        let (len, wire_len) = without_fcs(len, wire_len, interface.fcs_len);
        Step::Frame(
            Record { time: self.last, interface: self.first_interface as u32, start: at + 12, len, wire_len },
            block.len(),
        )
    }
}
