//! Names and literals of SQL: quoting, and the names we give to what we make. Pure.

use bluegreen_core::{Color, Direction};
use std::fmt;

/// A table (or sequence, or any relation) with its schema, unquoted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Relation {
    /// The schema, as in the catalogue.
    pub schema: String,
    /// The name, as in the catalogue.
    pub name: String,
}

impl Relation {
    /// The relation `name` in `schema`.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            schema: schema.into(),
            name: name.into(),
        }
    }
}

/// Prints the quoted form, ready for SQL.
impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", ident(&self.schema), ident(&self.name))
    }
}

/// Quotes an identifier.
#[must_use]
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a string literal, whatever `standard_conforming_strings` says.
#[must_use]
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// Quotes a value of a `key=value` connection string, where it needs it: these are printed for people.
#[must_use]
pub fn conninfo_value(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Quotes a word of a shell's command, where it needs it.
#[must_use]
pub fn shell(word: &str) -> String {
    if is_plain(word) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Whether it stands for itself, in a shell as in a connection string.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./:,@%+".contains(c))
}

/// The longest name PostgreSQL keeps.
const LONGEST: usize = 63;

/// What the slot, the publication and the subscription of a mirror are called: one name for all three, made of
/// characters that a slot may have.
#[must_use]
pub fn mirror_name(migration: &str, direction: Direction) -> String {
    named(migration, &format!("_to_{}", direction.follower()))
}

/// The application name of our own sessions: they are spared when clients are terminated.
#[must_use]
pub fn application_name(migration: &str) -> String {
    named(migration, "")
}

/// The application name of the sessions of the first copy, which a new try must be able to tell from others.
#[must_use]
pub fn copy_application_name(migration: &str) -> String {
    named(migration, "_copy")
}

/// The application name of the session that holds the fence's table lock.
#[must_use]
pub fn guard_application_name(migration: &str) -> String {
    named(migration, "_guard")
}

fn named(migration: &str, suffix: &str) -> String {
    let plain: String = migration
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' })
        .collect();
    let whole = format!("bluegreen_{plain}{suffix}");
    if plain == migration && whole.len() <= LONGEST {
        return whole;
    }
    // What was replaced or cut off would make two migrations meet in one slot: a digest keeps them apart.
    let digest = format!("_{:08x}", fnv(migration.as_bytes()));
    let room = LONGEST - "bluegreen_".len() - suffix.len() - digest.len();
    let kept: String = plain.chars().take(room).collect();
    format!("bluegreen_{kept}{digest}{suffix}")
}

fn fnv(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// How a side is named in messages.
pub(crate) fn side(color: Color) -> &'static str {
    match color {
        Color::Blue => "blue's database",
        Color::Green => "green's database",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quotes_what_needs_it() {
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\b'"), " E'a\\\\b'''");
        assert_eq!(conninfo_value("p'\\w"), "'p\\'\\\\w'");
        assert_eq!(conninfo_value(""), "''");
        assert_eq!(conninfo_value("db-1.shop:5432"), "db-1.shop:5432");
        assert_eq!(shell("it's $HOME"), "'it'\\''s $HOME'");
        assert_eq!(shell("a=b"), "'a=b'");
        assert_eq!(shell(""), "''");
        assert_eq!(Relation::new("S", "ü x").to_string(), "\"S\".\"ü x\"");
    }

    #[test]
    fn names_stay_short_and_apart() {
        assert_eq!(mirror_name("shop", Direction::BlueToGreen), "bluegreen_shop_to_green");
        let long = "x".repeat(200);
        let names = [
            mirror_name("Shop", Direction::GreenToBlue),
            mirror_name("sh-op", Direction::GreenToBlue),
            mirror_name("sh_op", Direction::GreenToBlue),
            mirror_name(&long, Direction::GreenToBlue),
            mirror_name(&format!("{long}y"), Direction::GreenToBlue),
            copy_application_name("läden"),
        ];
        for (i, name) in names.iter().enumerate() {
            assert!(name.len() <= LONGEST, "{name}");
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
            assert!(!names[..i].contains(name), "{name}");
        }
    }
}
