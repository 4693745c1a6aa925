//! The words of SQL as `pg_restore` prints it, and what may be asked of a statement made of them. Pure.

use crate::ident::Relation;

/// A statement without its semicolon.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) words: Vec<Word>,
}

/// A piece of a statement, and where it begins and ends in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) kind: WordKind,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WordKind {
    /// An identifier or keyword as written, in lower case.
    Bare(String),
    /// An identifier in quotes, without them.
    Quoted(String),
    Literal,
    Symbol(char),
}

impl Statement {
    /// Whether it has these keywords and symbols at `at`.
    pub(super) fn has(&self, at: usize, expected: &[&str]) -> bool {
        expected.iter().enumerate().all(|(i, e)| {
            self.words.get(at + i).is_some_and(|w| match &w.kind {
                WordKind::Bare(word) => word == e,
                WordKind::Symbol(c) => e.len() == 1 && e.starts_with(*c),
                _ => false,
            })
        })
    }

    /// The first place with these keywords, outside parentheses.
    pub(super) fn find(&self, from: usize, expected: &[&str]) -> Option<usize> {
        let mut depth = 0_i32;
        for at in from..self.words.len() {
            if depth == 0 && self.has(at, expected) {
                return Some(at);
            }
            match self.words[at].kind {
                WordKind::Symbol('(') => depth += 1,
                WordKind::Symbol(')') => depth -= 1,
                _ => {}
            }
        }
        None
    }

    /// The qualified name at `at`, and the place after it.
    pub(super) fn relation(&self, at: usize) -> Option<(Relation, usize)> {
        let schema = self.name(at)?;
        self.has(at + 1, &["."]).then_some(())?;
        Some((Relation::new(schema, self.name(at + 2)?), at + 3))
    }

    /// The identifier at `at`.
    pub(super) fn name(&self, at: usize) -> Option<&str> {
        match &self.words.get(at)?.kind {
            WordKind::Bare(name) | WordKind::Quoted(name) => Some(name),
            _ => None,
        }
    }

    /// The text from the word at `from` to before the word at `to`.
    pub(super) fn between(&self, from: usize, to: usize) -> &str {
        let start = self.words.get(from).map_or(self.text.len(), |w| w.start);
        let end = if to <= from {
            start
        } else {
            self.words.get(to - 1).map_or(self.text.len(), |w| w.end)
        };
        &self.text[start..end]
    }
}

/// What a script is made of.
pub(super) enum Token<'a> {
    Comment(&'a str),
    Word(Word),
}

/// Reads a script word by word.
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Reader<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.at += self.rest().len() - self.rest().trim_start().len();
        let rest = self.rest();
        let first = rest.chars().next()?;
        let start = self.at;
        if rest.starts_with("--") {
            let end = rest.find('\n').unwrap_or(rest.len());
            self.at += end;
            return Some(Token::Comment(&rest[..end]));
        }
        if rest.starts_with("/*") {
            self.at += block_comment(rest);
            return Some(Token::Comment(&self.text[start..self.at]));
        }
        let escapes = rest.starts_with("E'") || rest.starts_with("e'");
        let (kind, length) = if first == '\'' || escapes {
            let skip = usize::from(escapes);
            (WordKind::Literal, skip + quoted(&rest[skip..], '\'', escapes))
        } else if first == '"' {
            let length = quoted(rest, '"', false);
            let inner = rest.get(1..length.saturating_sub(1)).unwrap_or_default();
            (WordKind::Quoted(inner.replace("\"\"", "\"")), length)
        } else if let Some(length) = dollar_quoted(rest) {
            (WordKind::Literal, length)
        } else if first.is_alphabetic() || first == '_' {
            let length = rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
                .unwrap_or(rest.len());
            (WordKind::Bare(rest[..length].to_lowercase()), length)
        } else if first.is_ascii_digit() {
            let length = rest
                .find(|c: char| !(c.is_alphanumeric() || c == '.' || c == '_'))
                .unwrap_or(rest.len());
            (WordKind::Literal, length)
        } else {
            (WordKind::Symbol(first), first.len_utf8())
        };
        self.at += length;
        Some(Token::Word(Word {
            kind,
            start,
            end: self.at,
        }))
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }
}

/// The length of what is in quotes at the beginning, quotes included.
fn quoted(text: &str, quote: char, escapes: bool) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((i, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
            } else {
                return i + 1;
            }
        }
    }
    text.len()
}

fn dollar_quoted(text: &str) -> Option<usize> {
    let tag_end = 2 + text.strip_prefix('$')?.find('$')?;
    let tag = &text[..tag_end];
    let inner = &tag[1..tag_end - 1];
    let plain =
        inner.chars().all(|c| c.is_alphanumeric() || c == '_') && !inner.starts_with(|c: char| c.is_ascii_digit());
    plain.then_some(())?;
    Some(text[tag_end..].find(tag).map_or(text.len(), |i| i + 2 * tag_end))
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}
