//! The ini file: finds the one line that is ours, changes where it points, and leaves every other byte as it was.

mod pairs;
mod replace;

pub(super) use replace::Staged;

use super::Upstream;
use super::error::GateError;
use pairs::{pairs, set, unquote};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How deep PgBouncer itself follows `%include`.
const MAX_INCLUDE: usize = 10;

/// The file that holds the database's line, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ini {
    path: PathBuf,
    text: Vec<u8>,
    /// The connection string, right of the `=`.
    value: Range<usize>,
    database: String,
}

impl Ini {
    /// Reads the file and those it includes until the database's line is found; the last of several counts, as for PgBouncer.
    pub(super) fn read(path: &Path, database: &str) -> Result<Self, GateError> {
        let mut search = Search {
            database,
            section: Vec::new(),
            wildcard: false,
            found: None,
        };
        search.file(path, 0)?;
        search.found.ok_or_else(|| GateError::NoLine {
            path: path.to_owned(),
            database: database.to_owned(),
            why: if search.wildcard {
                "only `*`, and to rewrite that would move every database"
            } else {
                "nor has a file it includes"
            },
        })
    }

    /// The file that holds the line: the one given, or one that it includes. Links are followed.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the line points.
    pub(super) fn upstream(&self) -> Upstream {
        let text = &self.text[self.value.clone()];
        let value = |key: &str| {
            let pair = pairs(text).into_iter().rfind(|pair| pair.key == key.as_bytes());
            pair.map(|pair| unquote(&text[pair.value]))
        };
        Upstream {
            host: value("host").unwrap_or_default(),
            port: value("port").and_then(|port| port.parse().ok()).unwrap_or(5432),
            dbname: value("dbname").unwrap_or_else(|| self.database.clone()),
        }
    }

    /// The whole file with the line pointing elsewhere; none when it points there already.
    pub(super) fn pointed_at(&self, upstream: &Upstream) -> Option<Vec<u8>> {
        let now = self.upstream();
        if now == *upstream {
            return None;
        }
        let mut value = self.text[self.value.clone()].to_vec();
        if now.dbname != upstream.dbname {
            set(&mut value, "dbname", &upstream.dbname);
        }
        if now.port != upstream.port {
            set(&mut value, "port", &upstream.port.to_string());
        }
        if now.host != upstream.host {
            set(&mut value, "host", &upstream.host);
        }
        let mut text = self.text[..self.value.start].to_vec();
        text.extend_from_slice(&value);
        text.extend_from_slice(&self.text[self.value.end..]);
        Some(text)
    }

    pub(super) fn error(&self, action: &'static str, source: io::Error) -> GateError {
        GateError::File {
            path: self.path.clone(),
            action,
            source,
        }
    }
}

struct Search<'a> {
    database: &'a str,
    section: Vec<u8>,
    wildcard: bool,
    found: Option<Ini>,
}

impl Search<'_> {
    fn file(&mut self, path: &Path, depth: usize) -> Result<(), GateError> {
        let error = |source| GateError::File {
            path: path.to_owned(),
            action: "read",
            source,
        };
        // The file itself is replaced later, not the link to it.
        let path = std::fs::canonicalize(path).map_err(error)?;
        let text = std::fs::read(&path).map_err(error)?;
        let mut start = 0;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            self.line(&path, &text, start..start + line.len(), depth)?;
            start += line.len();
        }
        Ok(())
    }

    fn line(&mut self, path: &Path, text: &[u8], line: Range<usize>, depth: usize) -> Result<(), GateError> {
        let trimmed = trim(text, line);
        let content = &text[trimmed.clone()];
        match content.first() {
            None | Some(b'#' | b';') => {}
            Some(b'[') => {
                let end = content.iter().position(|&byte| byte == b']').unwrap_or(content.len());
                self.section = content[1..end].to_vec();
            }
            Some(_) => {
                if let Some(name) = content
                    .strip_prefix(b"%include")
                    .filter(|rest| rest.starts_with(b" ") || rest.starts_with(b"\t"))
                {
                    let name = String::from_utf8_lossy(name.trim_ascii()).into_owned();
                    if depth < MAX_INCLUDE {
                        // PgBouncer takes it relative to where it was started, which is not known here: beside the file is the best guess.
                        let included = path.parent().unwrap_or(Path::new("/")).join(name);
                        self.file(&included, depth + 1)?;
                    }
                } else if self.section == b"databases"
                    && let Some((key, value)) = key_and_value(content)
                {
                    self.wildcard |= key == b"*";
                    if key == self.database.as_bytes() {
                        self.found = Some(Ini {
                            path: path.to_owned(),
                            text: text.to_vec(),
                            value: trimmed.start + value..trimmed.end,
                            database: self.database.to_owned(),
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

fn trim(text: &[u8], mut range: Range<usize>) -> Range<usize> {
    while !range.is_empty() && text[range.start].is_ascii_whitespace() {
        range.start += 1;
    }
    while !range.is_empty() && text[range.end - 1].is_ascii_whitespace() {
        range.end -= 1;
    }
    range
}

/// The key, its quotes gone, and where the value begins.
fn key_and_value(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (key, rest) = match line.first() {
        Some(&quote @ (b'\'' | b'"')) => {
            let end = 1 + line[1..].iter().position(|&byte| byte == quote)?;
            (line[1..end].to_vec(), end + 1)
        }
        _ => {
            let end = line
                .iter()
                .position(|&byte| byte == b'=' || byte.is_ascii_whitespace())?;
            (line[..end].to_vec(), end)
        }
    };
    let equals = rest + line[rest..].iter().position(|byte| !matches!(byte, b' ' | b'\t'))?;
    if line[equals] != b'=' {
        return None;
    }
    let blanks = line[equals + 1..]
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'));
    Some((key, equals + 1 + blanks.count()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn to(host: &str, port: u16, dbname: &str) -> Upstream {
        Upstream::new(host, port, dbname)
    }

    fn rewritten(text: &str, database: &str, upstream: &Upstream) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgbouncer.ini");
        std::fs::write(&path, text).unwrap();
        let ini = Ini::read(&path, database).unwrap();
        let new = ini.pointed_at(upstream).unwrap();
        ini.stage(&new).unwrap().sync().unwrap();
        ini.swap().unwrap();
        ini.sync().unwrap();
        assert_eq!(Ini::read(&path, database).unwrap().upstream(), *upstream);
        assert!(Ini::read(&path, database).unwrap().pointed_at(upstream).is_none());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn changes_nothing_but_the_values_of_the_one_line() {
        let before = "; shop = host=comment\r\n[pgbouncer]\nshop = host=not.a.database\n\n[databases]\n\tother=host=blue port=5432\n\
                      shop  =  pool_size=5   host=blue.example  port = 5432 auth_user='o''ne' ; not a comment\r\n* = host=blue\n";
        let after = rewritten(before, "shop", &to("green.example", 6543, "shop"));
        let expected = before.replace("host=blue.example  port = 5432", "host=green.example  port = 6543");
        assert_eq!(after, expected);
    }

    #[test]
    fn adds_what_the_line_does_not_say() {
        let after = rewritten(
            "[databases]\nshop=\n[pgbouncer]\n",
            "shop",
            &to("green", 5433, "shop_v2"),
        );
        assert_eq!(
            after,
            "[databases]\nshop=dbname=shop_v2 port=5433 host=green\n[pgbouncer]\n"
        );
    }

    #[test]
    fn the_last_of_two_lines_counts_and_quoted_names_are_found() {
        let before = "[databases]\n'my shop' = host=a\n'my shop' = host=b dbname='it''s'";
        let after = rewritten(before, "my shop", &to("c", 5432, "it's"));
        assert_eq!(
            after,
            "[databases]\n'my shop' = host=a\n'my shop' = host=c dbname='it''s'"
        );
    }

    #[test]
    fn follows_includes_and_links_and_keeps_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("main.ini"), "[databases]\n%include real.ini\n").unwrap();
        std::fs::write(at("elsewhere.ini"), b"shop = host=blue\n; caf\xe9\n").unwrap();
        std::fs::set_permissions(at("elsewhere.ini"), PermissionsExt::from_mode(0o604)).unwrap();
        std::os::unix::fs::symlink(at("elsewhere.ini"), at("real.ini")).unwrap();
        let ini = Ini::read(&at("main.ini"), "shop").unwrap();
        let new = ini.pointed_at(&to("green", 5432, "shop")).unwrap();
        ini.stage(&new).unwrap().sync().unwrap();
        ini.swap().unwrap();
        ini.sync().unwrap();
        assert_eq!(
            std::fs::read(at("elsewhere.ini")).unwrap(),
            b"shop = host=green\n; caf\xe9\n"
        );
        assert!(at("real.ini").is_symlink());
        let mode = std::fs::metadata(at("elsewhere.ini")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o604);
    }

    #[test]
    fn no_two_databases_of_a_file_share_what_is_staged_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgbouncer.ini");
        let long = "x".repeat(63);
        let names = ["a.b", "a_b", "a%2eb", "a b", "ä", "Ã¤", &long, &long[1..]];
        let lines: Vec<String> = names.iter().map(|name| format!("'{name}' = host=blue\n")).collect();
        std::fs::write(&path, format!("[databases]\n{}", lines.concat())).unwrap();
        let staged = names.map(|name| {
            let ini = Ini::read(&path, name).unwrap();
            let new = ini.pointed_at(&to("green", 5432, name)).unwrap();
            (ini.stage(&new).unwrap(), ini, new)
        });
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1 + names.len());
        for (_, ini, new) in &staged {
            ini.swap().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), *new);
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_line_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgbouncer.ini");
        std::fs::write(&path, "[databases]\n* = host=blue\n[users]\nshop = pool_mode=session\n").unwrap();
        let error = Ini::read(&path, "shop").unwrap_err().to_string();
        assert!(error.contains("only `*`"), "{error}");
        let error = Ini::read(&folder.path().join("none.ini"), "shop").unwrap_err();
        assert!(matches!(error, GateError::File { action: "read", .. }), "{error}");
    }
}
