//! Lines cut into words that remember where they stood, for parsers whose errors point at a word.

use super::problem::{Place, Problem};
use lvscheck_engine::config::{MacAddr, MacAddrError};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A line of a description.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The file's name.
    pub file: &'a str,
    /// Line number, from 1.
    pub number: usize,
    /// The whole line, for messages.
    pub text: &'a str,
    /// Characters of `text` before `code`.
    pub offset: usize,
    /// The part to read; all of the line, but for a command inside lvs.toml.
    pub code: &'a str,
}

/// A word of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// The word without quotes.
    pub text: Cow<'a, str>,
    /// Its column in characters, from 1.
    pub column: usize,
    /// Its length in characters, quotes included.
    pub length: usize,
}

impl<'a> Line<'a> {
    /// All lines of a file.
    pub fn all(file: &'a str, text: &'a str) -> impl Iterator<Item = Line<'a>> {
        text.lines().enumerate().map(move |(index, text)| Line { file, number: index + 1, text, offset: 0, code: text })
    }

    /// Where a word stands.
    pub fn place(&self, word: &Word<'_>) -> Place {
        Place {
            file: self.file.to_owned(),
            line: self.number,
            column: word.column,
            length: word.length,
            text: self.text.to_owned(),
        }
    }

    /// The whole line.
    pub fn whole(&self) -> Place {
        let indent = self.code.chars().take_while(|c| c.is_whitespace()).count();
        let length = self.code.trim().chars().count();
        Place {
            file: self.file.to_owned(),
            line: self.number,
            column: self.offset + indent + 1,
            length,
            text: self.text.to_owned(),
        }
    }

    /// A problem with a word.
    pub fn problem(&self, word: &Word<'_>, message: impl Into<String>) -> Problem {
        Problem::new(message).at(self.place(word))
    }

    /// A problem with the line.
    pub fn problem_here(&self, message: impl Into<String>) -> Problem {
        Problem::new(message).at(self.whole())
    }

    /// The line's words. Blanks separate; quotes join; `#` at the start of a word begins a comment; `;` and `&&` are
    /// words of their own.
    ///
    /// # Errors
    /// A quote that is never closed.
    pub fn words(&self) -> Result<Vec<Word<'a>>, Problem> {
        let mut words = Vec::new();
        let mut chars = self.code.char_indices().enumerate().map(|(column, (at, c))| (column, at, c)).peekable();
        while let Some(&(column, start, first)) = chars.peek() {
            if first.is_whitespace() {
                chars.next();
                continue;
            }
            if first == '#' {
                break;
            }
            let mut quoted: Option<String> = None;
            let mut end = start;
            let mut last_column = column;
            while let Some(&(here, at, c)) = chars.peek() {
                if c.is_whitespace() || (c == ';' && at > start) {
                    break;
                }
                chars.next();
                last_column = here;
                if c == '"' || c == '\'' {
                    let text = quoted.get_or_insert_with(|| self.code.get(start..at).unwrap_or("").to_owned());
                    loop {
                        match chars.next() {
                            Some((_, _, inner)) if inner == c => break,
                            Some((_, _, inner)) => text.push(inner),
                            None => {
                                let open = Word { text: Cow::Borrowed(""), column: self.offset + here + 1, length: 1 };
                                return Err(self.problem(&open, "this quote is never closed"));
                            }
                        }
                    }
                    last_column = chars.peek().map_or(self.code.chars().count(), |(next, _, _)| *next).saturating_sub(1);
                } else if let Some(text) = &mut quoted {
                    text.push(c);
                }
                end = at + c.len_utf8();
                if c == ';' {
                    break;
                }
            }
            let text = quoted.map_or_else(|| Cow::Borrowed(self.code.get(start..end).unwrap_or("")), Cow::Owned);
            words.push(Word { text, column: self.offset + column + 1, length: last_column + 1 - column });
        }
        Ok(words)
    }

    /// The word as a number in a range.
    ///
    /// # Errors
    /// It is none; the message says what was expected.
    pub fn number(&self, word: &Word<'_>, what: &str, range: std::ops::RangeInclusive<u32>) -> Result<u32, Problem> {
        parse_number(&word.text).filter(|number| range.contains(number)).ok_or_else(|| {
            self.problem(
                word,
                format!("`{}` is no {what}; expected a number from {} to {}", word.text, range.start(), range.end()),
            )
        })
    }

    /// The word as an IP address.
    ///
    /// # Errors
    /// It is none.
    pub fn address(&self, word: &Word<'_>) -> Result<IpAddr, Problem> {
        parse_address(&word.text).map_err(|reason| self.problem(word, format!("`{}` {reason}", word.text)).help(NUMERIC))
    }

    /// The word as an Ethernet address.
    ///
    /// # Errors
    /// It is none.
    pub fn mac(&self, word: &Word<'_>) -> Result<MacAddr, Problem> {
        word.text.parse().map_err(|error: MacAddrError| self.problem(word, error.to_string()))
    }

    /// The word as `address/length`; a bare address is a host.
    ///
    /// # Errors
    /// It is neither.
    pub fn prefix(&self, word: &Word<'_>) -> Result<(IpAddr, u8), Problem> {
        parse_prefix(&word.text).map_err(|reason| self.problem(word, format!("`{}` {reason}", word.text)))
    }
}

/// Advice for names where addresses belong.
pub const NUMERIC: &str = "names are not looked up; `ipvsadm -Sn` and `ipvsadm -Ln` print numbers";

impl<'a> Word<'a> {
    /// The part of this word from a byte offset, as a word.
    pub fn from(&self, offset: usize) -> Word<'a> {
        let skipped = self.text.get(..offset).map_or(0, |text| text.chars().count());
        let text = match &self.text {
            Cow::Borrowed(text) => Cow::Borrowed(text.get(offset..).unwrap_or("")),
            Cow::Owned(text) => Cow::Owned(text.get(offset..).unwrap_or("").to_owned()),
        };
        Word { length: text.chars().count().max(1), text, column: self.column + skipped }
    }
}

/// A decimal number, or a hexadecimal one after 0x.
pub fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hexadecimal) if hexadecimal.chars().all(|c| c.is_ascii_hexdigit()) => u32::from_str_radix(hexadecimal, 16).ok(),
        _ if text.chars().all(|c| c.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// An IP address, with or without brackets. The error completes a sentence that begins with the word.
pub fn parse_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address);
    }
    Err(if bare.chars().all(|c| c.is_ascii_digit() || c == '.') && bare.contains('.') {
        "is no IPv4 address; expected four numbers from 0 to 255".to_owned()
    } else {
        "is no IP address".to_owned()
    })
}

/// `address/length`, or an address alone. The error completes a sentence that begins with the word.
pub fn parse_prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address = parse_address(address)?;
    let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
    match length {
        None => Ok((address, longest)),
        Some(length) => match parse_number(length) {
            Some(number) if number <= u32::from(longest) => Ok((address, number as u8)),
            _ => Err(format!("has no prefix length from 0 to {longest} after `/`")),
        },
    }
}

/// `address`, `address:port` or `[address]:port`. The error completes a sentence that begins with the word.
pub fn parse_endpoint(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let port_of = |port: &str| {
        parse_number(port)
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| format!("has port `{port}`; expected a number from 0 to 65535"))
    };
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return Err("lacks the closing `]`".to_owned()) };
        let address: Ipv6Addr = address.parse().map_err(|_| "holds no IPv6 address in its brackets".to_owned())?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((address.into(), Some(port_of(port)?))),
            None if after.is_empty() => Ok((address.into(), None)),
            None => Err("has text after `]`; expected `]:port`".to_owned()),
        };
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok((address.into(), None));
    }
    let (address, port) = match text.rsplit_once(':') {
        Some((address, port)) => (address, Some(port)),
        None => (text, None),
    };
    if address.contains(':') {
        return Err("is no address; an IPv6 address with a port is written [address]:port".to_owned());
    }
    let address: Ipv4Addr = match parse_address(address) {
        Ok(IpAddr::V4(address)) => address,
        Ok(IpAddr::V6(_)) => return Err("is no address; an IPv6 address with a port is written [address]:port".to_owned()),
        Err(reason) => return Err(reason),
    };
    Ok((address.into(), port.map(port_of).transpose()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(code: &str) -> Vec<(String, usize)> {
        let line = Line { file: "f", number: 1, text: code, offset: 0, code };
        line.words().unwrap().into_iter().map(|word| (word.text.into_owned(), word.column)).collect()
    }

    #[test]
    fn words_know_their_columns() {
        assert_eq!(words("  ab  c;d # e"), [("ab".into(), 3), ("c".into(), 7), (";".into(), 8), ("d".into(), 9)]);
        assert_eq!(words("a=\"b c\" d"), [("a=b c".into(), 1), ("d".into(), 9)]);
        assert!(words("# all comment").is_empty());
    }

    #[test]
    fn an_open_quote_is_an_error() {
        let line = Line { file: "f", number: 1, text: "a 'b", offset: 0, code: "a 'b" };
        assert_eq!(line.words().unwrap_err().place.unwrap().column, 3);
    }

    #[test]
    fn endpoints() {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(parse_endpoint("10.0.0.1:80"), Ok((address, Some(80))));
        assert_eq!(parse_endpoint("10.0.0.1"), Ok((address, None)));
        assert_eq!(parse_endpoint("[2001:db8::1]:80"), Ok(("2001:db8::1".parse().unwrap(), Some(80))));
        assert_eq!(parse_endpoint("2001:db8::1"), Ok(("2001:db8::1".parse().unwrap(), None)));
        for wrong in ["", ":", "10.0.0.256:80", "10.0.0.1:65536", "[::1", "[::1]80", "host:80", "1:2:3:80", "[10.0.0.1]:80"] {
            assert!(parse_endpoint(wrong).is_err(), "{wrong}");
        }
    }
}
