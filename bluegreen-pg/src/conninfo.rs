//! Connection strings in both of libpq's forms, read into parameters and written again. No network here.

use crate::error::fault;
use crate::ident::conninfo_value;
use bluegreen_core::{Kind, Result};
use std::collections::BTreeMap;
use std::fmt;

/// A parsed connection string. `Debug` and `Display` never show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo {
    params: BTreeMap<String, String>,
    password: Option<String>,
}

/// What we understand. Anything else is refused by name, so that a typing error is not silently another server.
const KNOWN: &[&str] = &[
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssencmode",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "options",
    "passfile",
    "port",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Whether two names differ by one letter that is missing, too many or another.
fn nearly(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() {
        (one, other)
    } else {
        (other, one)
    };
    let (short, long) = (short.as_bytes(), long.as_bytes());
    let same = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    let rest = |skip: usize| short.get(same + skip..).unwrap_or_default() == long.get(same + 1..).unwrap_or_default();
    match long.len() - short.len() {
        0 => same < short.len() && rest(1),
        1 => rest(0),
        _ => false,
    }
}

impl Conninfo {
    /// Reads `postgresql://user@host:5432/db?sslmode=require` or `host=.. user=.. dbname=..`.
    ///
    /// # Errors
    /// `InvalidInput` that names the parameter, never its value.
    pub fn parse(text: &str) -> Result<Self> {
        let mut all = if let Some(rest) = text
            .strip_prefix("postgresql://")
            .or_else(|| text.strip_prefix("postgres://"))
        {
            parse_url(rest)?
        } else {
            parse_pairs(text)?
        };
        let password = all.remove("password").filter(|p| !p.is_empty());
        if let Some(unknown) = all.keys().find(|k| !KNOWN.contains(&k.as_str())) {
            // Not repeated: it may be the second half of a password that wants quotes.
            let why = match KNOWN.iter().find(|known| nearly(known, unknown)) {
                Some(known) => format!("it has a parameter that it does not know: is {known:?} meant?"),
                None => format!(
                    "it has a parameter that it does not know (a value with spaces wants quotes, one in a URL %20 and %26): \
                     expected {}",
                    KNOWN.join(", ")
                ),
            };
            return Err(wrong(&why));
        }
        if !all.contains_key("user") {
            return Err(wrong("it names no user: add user=.. (or user@ in the URL)"));
        }
        if !all.contains_key("host") && !all.contains_key("hostaddr") {
            return Err(wrong(
                "it names no host: add host=.. (a name, an address or a socket's folder)",
            ));
        }
        let ports = all.get("port").map_or("", String::as_str).split(',');
        if ports
            .filter(|p| !p.is_empty())
            .any(|p| !matches!(p.parse::<u16>(), Ok(1..)))
        {
            return Err(wrong("its port is no number from 1 to 65535"));
        }
        Ok(Self { params: all, password })
    }

    /// The parameter, if given.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.params.get(key).map(String::as_str)
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &str {
        self.get("user").unwrap_or_default()
    }

    /// The database: the user's name when none is given, as in libpq.
    #[must_use]
    pub fn dbname(&self) -> &str {
        self.get("dbname")
            .filter(|d| !d.is_empty())
            .unwrap_or_else(|| self.user())
    }

    /// The first host.
    #[must_use]
    pub fn host(&self) -> &str {
        let hosts = self.get("host").or_else(|| self.get("hostaddr")).unwrap_or_default();
        hosts.split(',').next().unwrap_or_default()
    }

    /// The first port.
    #[must_use]
    pub fn port(&self) -> u16 {
        let ports = self.get("port").unwrap_or_default();
        ports.split(',').next().and_then(|p| p.parse().ok()).unwrap_or(5432)
    }

    /// Where it leads, always in the same form: every host with its port, and the database. No user, no password.
    pub(crate) fn place(&self) -> String {
        let list = |key| self.get(key).filter(|v| !v.is_empty()).map(|v: &str| v.split(','));
        // As in libpq: an address is gone to, whatever name stands beside it; one port is every host's.
        let hosts = list("hostaddr").or_else(|| list("host"));
        let ports: Vec<&str> = list("port").map(Iterator::collect).unwrap_or_default();
        let at = |(nth, host): (usize, &str)| {
            let port = ports.get(nth).or_else(|| ports.first()).filter(|p| !p.is_empty());
            let port = port.and_then(|p| p.parse().ok()).unwrap_or(5432_u16);
            match host {
                host if host.starts_with('/') => format!("{host}:{port}"),
                host if host.contains(':') => format!("[{}]:{port}", host.to_ascii_lowercase()),
                host => format!("{}:{port}", host.trim_end_matches('.').to_ascii_lowercase()),
            }
        };
        let all: Vec<String> = hosts.into_iter().flatten().enumerate().map(at).collect();
        format!("{}/{}", all.join(","), self.dbname())
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    pub(crate) fn set_password(&mut self, password: impl Into<String>) {
        self.password = Some(password.into());
    }

    /// Looks the password up in `passfile`, else in the file libpq would take, when none was given.
    pub(crate) fn read_passfile(&mut self) -> Result<()> {
        if self.password.is_some() {
            return Ok(());
        }
        let explicit = self.get("passfile").map(str::to_owned);
        let default = || {
            std::env::var("PGPASSFILE")
                .ok()
                .or_else(|| std::env::var("HOME").ok().map(|home| format!("{home}/.pgpass")))
        };
        let Some(path) = explicit.clone().or_else(default) else {
            return Ok(());
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                self.password = passfile_entry(&text, self.host(), self.port(), self.dbname(), self.user());
                Ok(())
            }
            Err(e) if explicit.is_none() && e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(wrong(&format!("cannot read the passfile {path}: {e}"))),
        }
    }

    /// The `key=value` form for libpq programs, without the password (that goes by environment).
    #[must_use]
    pub fn without_password(&self) -> String {
        let pairs: Vec<String> = self
            .params
            .iter()
            .map(|(k, v)| format!("{k}={}", conninfo_value(v)))
            .collect();
        pairs.join(" ")
    }

    /// The same without `options` too, for a program that gets ours by environment.
    pub(crate) fn without_password_and_options(&self) -> String {
        let mut plain = self.clone();
        plain.params.remove("options");
        plain.params.remove("application_name");
        plain.without_password()
    }

    /// For `CREATE SUBSCRIPTION .. CONNECTION`. The walsender gets the subscription's own name: by another it would not be known
    /// as ours, and could be that of a synchronous standby.
    pub(crate) fn for_subscription(&self) -> String {
        let mut plain = self.clone();
        plain.params.remove("application_name");
        plain.params.remove("fallback_application_name");
        plain.with_password()
    }

    /// The `key=value` form with the password.
    fn with_password(&self) -> String {
        let mut text = self.without_password();
        if let Some(password) = &self.password {
            text.push_str(" password=");
            text.push_str(&conninfo_value(password));
        }
        text
    }

    /// `text` with every occurrence of the password blotted out.
    pub(crate) fn redact(&self, text: &str) -> String {
        match &self.password {
            Some(password) => text.replace(password.as_str(), "***"),
            None => text.to_owned(),
        }
    }
}

impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}/{}", self.user(), self.host(), self.port(), self.dbname())
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conninfo({self})")
    }
}

fn wrong(message: &str) -> bluegreen_core::Error {
    fault(Kind::InvalidInput, "read the connection string", message)
}

fn parse_pairs(text: &str) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(all);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            // The word itself may be half of an unquoted password: it is not repeated.
            return Err(wrong(
                "a word has no \"=\" after it; it must be a postgresql:// URL or key=value pairs, values with spaces in quotes",
            ));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return Err(wrong(&format!("the value of {key:?} has no closing quote"))),
                None => break,
            }
        }
        all.insert(key, value);
    }
}

fn parse_url(rest: &str) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    // As libpq reads it: a "?" before the "@" is the password's.
    let at = rest[..rest.find('/').unwrap_or(rest.len())].rfind('@');
    let (who, rest) = at.map_or(("", rest), |at| (&rest[..at], &rest[at + 1..]));
    let (main, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, path) = main.split_once('/').unwrap_or((main, ""));
    let (user, password) = who.split_once(':').unwrap_or((who, ""));
    let mut put = |key: &str, value: String| {
        if !value.is_empty() {
            all.insert(key.to_owned(), value);
        }
    };
    put("user", percent(user)?);
    put("password", percent(password)?);
    put("dbname", percent(path)?);
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',').filter(|h| !h.is_empty()) {
        let (name, port) = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
            Some((v6, port)) => (v6, port.strip_prefix(':').unwrap_or("")),
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(percent(name)?);
        ports.push(port.to_owned());
    }
    put("host", names.join(","));
    if ports.iter().any(|p| !p.is_empty()) {
        put("port", ports.join(","));
    }
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| wrong("a parameter after \"?\" has no \"=\""))?;
        let (key, value) = (percent(key)?, percent(value)?);
        if key == "ssl" && value == "true" {
            all.insert("sslmode".into(), "require".into());
        } else {
            all.insert(key, value);
        }
    }
    Ok(all)
}

fn percent(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let hex = [rest.next(), rest.next()];
        let digit = |b: Option<u8>| {
            b.and_then(|b| char::from(b).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        match (digit(hex[0]), digit(hex[1])) {
            (Some(high), Some(low)) => bytes.push(high * 16 + low),
            _ => return Err(wrong("a \"%\" in the URL is not followed by two hexadecimal digits")),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong("the URL is not UTF-8 once decoded"))
}

fn passfile_entry(text: &str, host: &str, port: u16, dbname: &str, user: &str) -> Option<String> {
    let port = port.to_string();
    let host = if host.starts_with('/') { "localhost" } else { host };
    text.lines().filter(|l| !l.starts_with('#')).find_map(|line| {
        let mut fields = vec![String::new()];
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => fields.last_mut()?.extend(chars.next()),
                ':' if fields.len() < 5 => fields.push(String::new()),
                c => fields.last_mut()?.push(c),
            }
        }
        let fits = |field: &str, value: &str| field == "*" || field == value;
        let [h, p, d, u, password] = fields.as_slice() else {
            return None;
        };
        (fits(h, host) && fits(p, &port) && fits(d, dbname) && fits(u, user)).then(|| password.clone())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_both_forms() {
        let url = Conninfo::parse("postgres://u%40x:p%3Aw@h1:5433,h2/d%20b?sslmode=require").unwrap();
        assert_eq!(
            (url.user(), url.dbname(), url.host(), url.port()),
            ("u@x", "d b", "h1", 5433)
        );
        assert_eq!(url.password(), Some("p:w"));
        assert_eq!(url.get("port"), Some("5433,"));
        let pairs = Conninfo::parse("host = '/var/run' user=u password='a \\'b' dbname=d").unwrap();
        assert_eq!((pairs.host(), pairs.password()), ("/var/run", Some("a 'b")));
        assert_eq!(Conninfo::parse(&pairs.with_password()).unwrap(), pairs);
        let named = Conninfo::parse("host=h user=u password=p application_name=standby").unwrap();
        assert_eq!(named.for_subscription(), "host=h user=u password=p");
        let odd = Conninfo::parse("postgres://u:p?x=1@y@h/d?sslmode=disable").unwrap();
        assert_eq!(
            (odd.password(), odd.host(), odd.get("sslmode")),
            (Some("p?x=1@y"), "h", Some("disable"))
        );
        let v6 = Conninfo::parse("postgresql://u@[::1]:6000").unwrap();
        assert_eq!((v6.host(), v6.port(), v6.dbname()), ("::1", 6000, "u"));
    }

    #[test]
    fn what_it_does_not_know_is_not_repeated() {
        for text in [
            "host=h user=u password=first s3cret=x",
            "postgres://u:aa/s3cret?s3cretmore=x@h/d",
        ] {
            let e = Conninfo::parse(text).unwrap_err().to_string();
            assert!(!e.contains("s3cret"), "{e}");
        }
        for typo in ["sslmod", "sslmodee", "sslmpde"] {
            let e = Conninfo::parse(&format!("host=h user=u {typo}=require"))
                .unwrap_err()
                .to_string();
            assert!(e.contains("\"sslmode\" meant"), "{e}");
        }
    }

    #[test]
    fn the_same_place_reads_the_same_and_shows_no_password() {
        for (text, place) in [
            ("postgres://u:s3cret@DB.example./shop", "db.example:5432/shop"),
            (
                "host=db.example port=5432 user=other dbname=shop sslmode=require",
                "db.example:5432/shop",
            ),
            ("postgres://u:s3cret@h1:5433,h2/shop", "h1:5433,h2:5432/shop"),
            ("host=h1,h2 port=6000 user=shop", "h1:6000,h2:6000/shop"),
            ("host=name hostaddr=10.0.0.1 user=shop", "10.0.0.1:5432/shop"),
            ("postgres://u@[::1]:6000/shop", "[::1]:6000/shop"),
            ("host=/var/run/PG user=shop", "/var/run/PG:5432/shop"),
        ] {
            assert_eq!(Conninfo::parse(text).unwrap().place(), place);
        }
    }

    #[test]
    fn a_port_that_is_none_is_not_another_one() {
        for text in [
            "postgres://u@h:64320000/d",
            "host=h user=u port=x",
            "host=a,b user=u port=5432,0",
        ] {
            let said = Conninfo::parse(text).unwrap_err().to_string();
            assert!(said.contains("port"), "{text}: {said}");
        }
    }

    #[test]
    fn never_shows_the_password() {
        let url = Conninfo::parse("postgres://u:geheim@h/d").unwrap();
        assert!(!format!("{url:?} {url} {}", url.without_password()).contains("geheim"));
        assert_eq!(url.redact("password geheim"), "password ***");
        for bad in [
            "host=h user=u pass word",
            "postgres://u:geheim@h/d?foo=geheim",
            "user=u password=geheim",
            "postgres://u:gehe%zzim@h",
        ] {
            let said = format!("{:?}", Conninfo::parse(bad).unwrap_err());
            assert!(!said.contains("geheim") && !said.contains("word\""), "{said}");
        }
    }

    #[test]
    fn takes_the_first_line_of_the_passfile_that_fits() {
        let file = "# comment\nother:*:*:*:no\nh:5432:d:u:a\\:b:c\n*:*:*:*:late";
        assert_eq!(passfile_entry(file, "h", 5432, "d", "u").as_deref(), Some("a:b:c"));
        assert_eq!(passfile_entry(file, "h", 5432, "d", "v").as_deref(), Some("late"));
    }
}
