//! What can be wrong with a description, and where: errors and warnings that name file, line, word, and what to do.

use std::fmt;
use std::path::PathBuf;

/// A place in a description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The file, as the user named it.
    pub file: String,
    /// Line number, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters are at fault.
    pub length: usize,
    /// The line itself.
    pub text: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

/// One thing that is wrong or doubtful.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where; none for what has no place, such as a missing argument.
    pub place: Option<Place>,
    /// What is wrong, with the word at fault and what was expected.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Something doubtful that doesn't stop the work.
pub type Warning = Problem;

impl Problem {
    /// A problem without a place.
    pub fn new(message: impl Into<String>) -> Problem {
        Problem { place: None, message: message.into(), help: None }
    }

    /// The same, with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// The same, at a place.
    #[must_use]
    pub fn at(mut self, place: Place) -> Problem {
        self.place = Some(place);
        self
    }

    /// The same about a whole file.
    #[must_use]
    pub fn in_file(self, file: &str) -> Problem {
        self.at(Place { file: file.to_owned(), ..Place::default() })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(place) = self.place.as_ref().filter(|place| place.line > 0 && !place.text.trim().is_empty()) {
            let (text, column) = excerpt(place);
            let number = place.line.to_string();
            let margin = " ".repeat(number.len());
            write!(f, "\n  {number} | {text}\n  {margin} | {}{}", " ".repeat(column), "^".repeat(place.length.clamp(1, 60)))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// The part of a line that is shown, and the column (from 0) of the fault in it. Long lines are cut around the fault;
/// control characters, which a hostile file may hold, are shown as `.`.
fn excerpt(place: &Place) -> (String, usize) {
    const WIDTH: usize = 140;
    let fault = place.column.saturating_sub(1);
    let skip = if fault > WIDTH - 40 { fault - 40 } else { 0 };
    let shown: String = place.text.chars().skip(skip).take(WIDTH).map(|c| if c.is_control() { '.' } else { c }).collect();
    (shown.trim_end().to_owned(), fault - skip)
}

/// Why a description can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescribeError {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says something that can't be.
    #[error("{0}")]
    Wrong(Box<Problem>),
}

impl DescribeError {
    /// The problem, unless a file couldn't be read.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            DescribeError::Wrong(problem) => Some(problem),
            DescribeError::Unreadable { .. } => None,
        }
    }
}

impl From<Problem> for DescribeError {
    fn from(problem: Problem) -> DescribeError {
        DescribeError::Wrong(Box::new(problem))
    }
}

/// The known word nearest to a mistyped one, if it is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    // Among equally near ones the one with the same first letter.
    known
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), !word.starts_with(|c| candidate.starts_with(c)), candidate))
        .filter(|(distance, ..)| *distance <= limit)
        .min()
        .map(|(.., candidate)| candidate)
}

/// `did you mean X? Known: a, b, c`, or without the question when nothing is near.
pub fn suggest(word: &str, kind: &str, known: &[&str]) -> String {
    if known.is_empty() {
        return format!("{kind}: none");
    }
    let list = known.join(", ");
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? {kind}: {list}"),
        None => format!("{kind}: {list}"),
    }
}

/// How many insertions, deletions, changes or swaps of neighbours turn one word into the other (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    // Words longer than any name that we know are not near to one; this bounds the work on hostile input.
    const LONGEST: usize = 64;
    let a: Vec<char> = a.chars().take(LONGEST).collect();
    let b: Vec<char> = b.chars().take(LONGEST).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, &y) in b.iter().enumerate() {
            let mut best = (previous[j] + usize::from(x != y)).min(previous[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut previous, row);
    }
    previous.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_swaps_once() {
        assert_eq!(edit_distance("wrr", "wrr"), 0);
        assert_eq!(edit_distance("wlc", "wcl"), 1);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn nearest_needs_nearness() {
        assert_eq!(nearest("wlcc", ["rr", "wlc", "lc"]), Some("wlc"));
        assert_eq!(nearest("source-hash", ["rr", "wlc", "lc"]), None);
    }

    #[test]
    fn a_long_line_is_cut_around_the_fault() {
        let place = Place { file: "f".into(), line: 1, column: 401, length: 3, text: "x".repeat(400) + "bad" };
        let shown = Problem::new("m").at(place).to_string();
        assert!(shown.lines().all(|line| line.chars().count() < 150), "{shown}");
        let caret = shown.lines().last().unwrap_or_default();
        let line = shown.lines().nth(1).unwrap_or_default();
        assert_eq!(line.find("bad"), caret.find("^^^"));
    }
}
