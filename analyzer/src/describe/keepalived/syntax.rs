//! The syntax of keepalived.conf: statements, blocks, definitions.

use crate::describe::builder::Builder;
use crate::describe::problem::Problem;
use crate::describe::words::{Line, Word};
use std::collections::HashMap;

/// Blocks nest four deep in practice.
const DEEPEST: usize = 16;

/// A statement: its words, and the block behind it.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) line: Line<'a>,
    pub(super) words: Vec<Word<'a>>,
    pub(super) block: Option<Vec<Node<'a>>>,
}

impl<'a> Node<'a> {
    pub(super) fn key(&self) -> &str {
        self.words.first().map_or("", |word| &word.text)
    }

    pub(super) fn value(&self) -> Option<&Word<'a>> {
        self.words.get(1)
    }

    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        match self.words.first() {
            Some(word) => self.line.problem(word, message),
            None => self.line.problem_here(message),
        }
    }

    pub(super) fn need(&self, what: &str) -> Result<&Word<'a>, Problem> {
        self.value().ok_or_else(|| self.problem(format!("`{}` needs {what}", self.key())))
    }

    pub(super) fn children(&self) -> &[Node<'a>] {
        self.block.as_deref().unwrap_or(&[])
    }
}

struct Open<'a> {
    node: Node<'a>,
    brace: (Line<'a>, Word<'a>),
}

/// Cuts the text into statements and blocks.
pub(super) fn parse<'a>(builder: &mut Builder, file: &'a str, text: &'a str) -> Result<Vec<Node<'a>>, Problem> {
    let mut definitions: HashMap<String, String> = HashMap::new();
    let mut top: Vec<Node<'a>> = Vec::new();
    let mut stack: Vec<Open<'a>> = Vec::new();
    for line in Line::all(file, text) {
        // `!` begins a comment too.
        let code = line.code.split('!').next().unwrap_or("");
        let line = Line { code, ..line };
        let mut words = split_braces(line.words()?);
        if let Some((name, value)) = words.first().and_then(|word| definition(&word.text)) {
            definitions.insert(name, value);
            continue;
        }
        if words.first().is_some_and(|word| word.text.starts_with('@') && word.text.len() > 1) {
            builder.warnings.push(
                line.problem_here("this line is for certain hosts only, and was ignored")
                    .help("remove the @ condition to have it read"),
            );
            // Braces of a conditional line would not match.
            words.retain(|word| matches!(&*word.text, "{" | "}"));
        }
        for word in &mut words {
            substitute(word, &definitions);
        }
        let mut statement: Vec<Word<'a>> = Vec::new();
        for word in words {
            match &*word.text {
                "{" => {
                    let node = if statement.is_empty() {
                        // The brace stands on a line of its own.
                        let list = stack.last_mut().map_or(&mut top, |open| open.node.block.get_or_insert_default());
                        match list.pop() {
                            Some(node) if node.block.is_none() => node,
                            _ => return Err(line.problem(&word, "`{` without a name before it")),
                        }
                    } else {
                        Node { line, words: std::mem::take(&mut statement), block: None }
                    };
                    if stack.len() >= DEEPEST {
                        return Err(line.problem(&word, "blocks are nested too deeply"));
                    }
                    stack.push(Open { node: Node { block: Some(Vec::new()), ..node }, brace: (line, word) });
                }
                "}" => {
                    flush(&mut top, &mut stack, line, &mut statement);
                    match stack.pop() {
                        Some(open) => {
                            stack.last_mut().map_or(&mut top, |open| open.node.block.get_or_insert_default()).push(open.node);
                        }
                        None => {
                            return Err(line
                                .problem(&word, "`}` without a `{` before it")
                                .help("remove it, or look for a brace that is closed too early above"));
                        }
                    }
                }
                _ => statement.push(word),
            }
        }
        flush(&mut top, &mut stack, line, &mut statement);
    }
    match stack.last() {
        Some(Open { node, brace: (line, word) }) => {
            Err(line.problem(word, format!("this `{{` of `{}` is never closed", node.key())).help("add `}` where the block ends"))
        }
        None => Ok(top),
    }
}

fn flush<'a>(top: &mut Vec<Node<'a>>, stack: &mut [Open<'a>], line: Line<'a>, statement: &mut Vec<Word<'a>>) {
    if !statement.is_empty() {
        let node = Node { line, words: std::mem::take(statement), block: None };
        stack.last_mut().map_or(top, |open| open.node.block.get_or_insert_default()).push(node);
    }
}

/// Braces that touch a word are words of their own: `real_server 10.0.0.11 80{`. Those of `${NAME}` belong to the name.
fn split_braces<'a>(words: Vec<Word<'a>>) -> Vec<Word<'a>> {
    let mut out = Vec::with_capacity(words.len());
    for word in words {
        let mut start = 0;
        let mut inside = false;
        let text = word.text.clone();
        let mut previous = ' ';
        for (at, c) in text.char_indices() {
            match c {
                '{' if previous == '$' => inside = true,
                '}' if inside => inside = false,
                '{' | '}' => {
                    if at > start {
                        out.push(part(&word, start, at));
                    }
                    out.push(part(&word, at, at + 1));
                    start = at + 1;
                }
                _ => {}
            }
            previous = c;
        }
        if start < text.len() {
            out.push(part(&word, start, text.len()));
        }
    }
    out
}

fn part<'a>(word: &Word<'a>, start: usize, end: usize) -> Word<'a> {
    let text = word.text.get(start..end).unwrap_or("").to_owned();
    Word { length: text.chars().count().max(1), text: text.into(), ..word.from(start) }
}

/// `$NAME=value`
fn definition(text: &str) -> Option<(String, String)> {
    let (name, value) = text.strip_prefix('$')?.split_once('=')?;
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    plain.then(|| (name.to_owned(), value.to_owned()))
}

/// Replaces a word that is `$NAME` or `${NAME}`.
fn substitute(word: &mut Word<'_>, definitions: &HashMap<String, String>) {
    let Some(name) = word.text.strip_prefix('$') else { return };
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    if let Some(value) = definitions.get(name) {
        word.text = value.clone().into();
    }
}
