//! Findings of a comparison, as data and as text.

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Frames of the expected side.
    pub expected: u64,
    /// Frames of the actual side.
    pub actual: u64,
    /// Frames that are equal, but for random draws and ignored fields, and stand in order.
    pub equal: u64,
    /// Random draws whose values were taken from the golden, by kind.
    pub learned: BTreeMap<&'static str, u64>,
    /// How many findings there are of each kind, those left out of `findings` included.
    pub counts: BTreeMap<FindingKind, u64>,
    /// The findings in order of the frames, as many as were asked for.
    pub findings: Vec<Finding>,
}

impl Comparison {
    /// Of so many frames, all of which are equal; so many draws were learned, by kind.
    pub fn equal(frames: u64, learned: BTreeMap<&'static str, u64>) -> Comparison {
        Comparison { expected: frames, actual: frames, equal: frames, learned, ..Comparison::default() }
    }

    /// Whether both sides agree.
    pub fn conforms(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many findings there are, those left out included.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// What was learned, in words: `24 IP ID, 2 GUE source port`; empty if nothing.
    pub fn learned_words(&self) -> String {
        let words: Vec<String> = self.learned.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        words.join(", ")
    }
}

/// What kind of finding it is. The names in kebab case are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Fields differ.
    Field,
    /// Expected, but not there.
    Missing,
    /// There, but not expected.
    Unexpected,
    /// Another number of equal frames than expected.
    Duplicated,
    /// Equal, but in another place of the order.
    Moved,
    /// Equal, but on another interface.
    Interface,
    /// A connection went to another real server.
    RealServer,
    /// A random value that can't be.
    Draw,
    /// A timer's frame, at quite another time.
    Time,
}

impl FindingKind {
    /// Its stable name.
    pub const fn id(self) -> &'static str {
        match self {
            FindingKind::Field => "field",
            FindingKind::Missing => "missing",
            FindingKind::Unexpected => "unexpected",
            FindingKind::Duplicated => "duplicated",
            FindingKind::Moved => "moved",
            FindingKind::Interface => "interface",
            FindingKind::RealServer => "real-server",
            FindingKind::Draw => "draw",
            FindingKind::Time => "time",
        }
    }
}

/// One way in which the two sides disagree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// The frame's number on the expected side, if it is there.
    pub expected: Option<u64>,
    /// The frame's number on the actual side, if it is there.
    pub actual: Option<u64>,
    /// How many frames it stands for.
    pub frames: u64,
    /// All of it in one line.
    pub message: String,
    /// Why the frame was emitted, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The fields that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldDifference>,
    /// The bytes that differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Excerpt>,
}

/// A field with two values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldDifference {
    /// Its name in Wireshark's filters, with `inner` or `quoted` before it where it stands in such a packet.
    pub field: String,
    /// Where it starts in the frame (of the expected side, if it is there).
    pub offset: usize,
    /// Its expected value; `None`: the field should not be there.
    pub expected: Option<String>,
    /// Its actual value; `None`: the field is not there.
    pub actual: Option<String>,
    /// A checksum that is right for the other values.
    pub follows: bool,
}

impl FieldDifference {
    /// In words: `ip.ttl: expected 63, got 64`.
    pub fn words(&self) -> String {
        let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        format!("{}: expected {}, got {}", self.field, side(&self.expected), side(&self.actual))
    }
}

/// Fields in words, the most telling first: at most four, then how many more; checksums that follow come last.
pub fn summary(fields: &[FieldDifference]) -> String {
    const SHOWN: usize = 4;
    let own: Vec<&FieldDifference> = fields.iter().filter(|field| !field.follows).collect();
    let follows: Vec<&str> = fields.iter().filter(|field| field.follows).map(|field| field.field.as_str()).collect();
    let mut text: String = own.iter().take(SHOWN).map(|field| field.words()).collect::<Vec<_>>().join("; ");
    if own.len() > SHOWN {
        let _ = write!(text, "; and {} more fields", own.len() - SHOWN);
    }
    match follows.as_slice() {
        [] => {}
        [one] => {
            let _ = write!(text, " ({one} follows)");
        }
        [first, others @ ..] => {
            let _ = write!(text, " ({first} and {} more checksums follow)", others.len());
        }
    }
    text
}

/// Rows of 16 bytes of both sides in which bytes differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Excerpt {
    /// The rows, at most [`Excerpt::ROWS`].
    pub rows: Vec<Row>,
    /// How many more rows differ.
    pub more: usize,
}

/// A row of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The offset of its first byte in the frame.
    pub offset: usize,
    /// The expected side's bytes.
    #[serde(serialize_with = "as_hex")]
    pub expected: Vec<u8>,
    /// The actual side's bytes.
    #[serde(serialize_with = "as_hex")]
    pub actual: Vec<u8>,
}

fn as_hex<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    serializer.serialize_str(&text)
}

impl Excerpt {
    /// How many rows are shown.
    pub const ROWS: usize = 4;

    /// The rows in which two frames differ; `None` if they don't.
    pub fn of(expected: &[u8], actual: &[u8]) -> Option<Excerpt> {
        const WIDTH: usize = 16;
        let row = |bytes: &[u8], number: usize| {
            let start = (number * WIDTH).min(bytes.len());
            bytes[start..(start + WIDTH).min(bytes.len())].to_vec()
        };
        let mut rows = Vec::new();
        let mut more = 0;
        for number in 0..expected.len().max(actual.len()).div_ceil(WIDTH) {
            let (one, other) = (row(expected, number), row(actual, number));
            if one == other {
                continue;
            }
            if rows.len() < Excerpt::ROWS {
                rows.push(Row { offset: number * WIDTH, expected: one, actual: other });
            } else {
                more += 1;
            }
        }
        (!rows.is_empty()).then_some(Excerpt { rows, more })
    }
}

/// The look of a rendering.
#[derive(Clone, Copy, Debug, Default)]
pub struct Styles {
    /// The kind of a finding.
    pub kind: Style,
    /// What was expected.
    pub expected: Style,
    /// What was there.
    pub actual: Style,
    /// What matters less.
    pub faint: Style,
}

impl Styles {
    /// With colours. The plain look ([`Styles::default`]) says the same: colours carry nothing alone.
    pub const fn colored() -> Styles {
        Styles {
            kind: AnsiColor::Red.on_default().bold(),
            expected: AnsiColor::Green.on_default(),
            actual: AnsiColor::Red.on_default(),
            faint: Style::new().dimmed(),
        }
    }
}

/// The findings as text, at most `limit` of them, with the bytes where that helps. Empty if there are none.
pub fn render(comparison: &Comparison, limit: usize, styles: &Styles) -> String {
    let mut text = String::new();
    for finding in comparison.findings.iter().take(limit) {
        finding_text(&mut text, finding, styles);
    }
    let shown = comparison.findings.len().min(limit) as u64;
    let hidden = comparison.total() - shown.min(comparison.total());
    if hidden > 0 {
        let kinds: Vec<String> = comparison.counts.iter().map(|(kind, count)| format!("{count} {}", kind.id())).collect();
        let _ = writeln!(text, "and {hidden} more (in all: {})", kinds.join(", "));
    }
    text
}

/// One finding as text. Writing to a String can't fail, so results of `write!` are dropped.
fn finding_text(text: &mut String, finding: &Finding, styles: &Styles) {
    let (kind, faint) = (styles.kind, styles.faint);
    let _ = writeln!(text, "{kind}{}{kind:#}: {}", finding.kind.id(), finding.message);
    if let Some(verdict) = &finding.verdict {
        let _ = writeln!(text, "    {faint}the director says: {verdict}{faint:#}");
    }
    if finding.fields.len() > 4 {
        for field in &finding.fields {
            let follows = if field.follows { " (follows)" } else { "" };
            let _ = writeln!(text, "    {}{follows}", field.words());
        }
    }
    if let Some(excerpt) = &finding.bytes {
        for row in &excerpt.rows {
            bytes_text(text, "expected", row.offset, &row.expected, &row.actual, styles.expected);
            bytes_text(text, "got     ", row.offset, &row.actual, &row.expected, styles.actual);
        }
        if excerpt.more > 0 {
            let _ = writeln!(text, "    {faint}and {} more rows of 16 bytes{faint:#}", excerpt.more);
        }
    }
}

/// A row of bytes, those that differ from the other side in brackets: `45 00[3f]06`.
fn bytes_text(text: &mut String, side: &str, offset: usize, bytes: &[u8], other: &[u8], style: Style) {
    let _ = write!(text, "    {offset:04x}  {side} ");
    let mut open = false;
    for (position, byte) in bytes.iter().enumerate() {
        let differs = other.get(position) != Some(byte);
        text.push_str(match (open, differs) {
            (false, true) => "[",
            (true, false) => "]",
            _ => " ",
        });
        if differs {
            let _ = write!(text, "{style}{byte:02x}{style:#}");
        } else {
            let _ = write!(text, "{byte:02x}");
        }
        open = differs;
    }
    text.push_str(if open { "]\n" } else { "\n" });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn difference(field: &str, expected: Option<&str>, actual: Option<&str>, follows: bool) -> FieldDifference {
        FieldDifference {
            field: field.to_owned(),
            offset: 0,
            expected: expected.map(str::to_owned),
            actual: actual.map(str::to_owned),
            follows,
        }
    }

    #[test]
    fn a_finding_shows_its_bytes() {
        let finding = Finding {
            kind: FindingKind::Field,
            expected: Some(12),
            actual: Some(12),
            frames: 1,
            message: "frame 12 (golden 12): ip.ttl: expected 63, got 64".to_owned(),
            verdict: Some("sent to a real server".to_owned()),
            fields: vec![difference("ip.ttl", Some("63"), Some("64"), false)],
            bytes: Excerpt::of(&[0x45, 0, 63, 6, 1], &[0x45, 0, 64, 6]),
        };
        let mut comparison = Comparison { findings: vec![finding], ..Comparison::default() };
        comparison.counts.insert(FindingKind::Field, 38);
        insta::assert_snapshot!(render(&comparison, 10, &Styles::default()), @r"
        field: frame 12 (golden 12): ip.ttl: expected 63, got 64
            the director says: sent to a real server
            0000  expected  45 00[3f]06[01]
            0000  got       45 00[40]06
        and 37 more (in all: 38 field)
        ");
    }

    #[test]
    fn a_summary_is_short() {
        let fields = [
            difference("ip.ttl", Some("63"), Some("64"), false),
            difference("ip.checksum", Some("0x1"), Some("0x2"), true),
            difference("tcp.options.mss_val", None, Some("1460"), false),
        ];
        assert_eq!(
            summary(&fields),
            "ip.ttl: expected 63, got 64; tcp.options.mss_val: expected none, got 1460 (ip.checksum follows)"
        );
    }
}
