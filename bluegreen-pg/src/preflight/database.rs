//! What a database was made with (its encoding, its locale, what sorts), and the commands that make green's anew like blue's.

use super::{Look, texts};
use crate::catalog;
use crate::ident::{ident, literal};
use bluegreen_core::{Color, Result};

/// How a database encodes and sorts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Database {
    pub(super) encoding: String,
    collate: String,
    ctype: String,
    /// What sorts, as the catalogue has it: `c` (the C library), `i` (ICU), `b` (the server itself).
    provider: String,
    /// The locale of what sorts, where it is not the C library.
    locale: String,
    /// ICU's additional rules.
    rules: String,
    /// What the library that sorts says of itself; empty where it has no versions.
    pub(super) version: String,
}

impl Database {
    pub(super) async fn read(look: &Look<'_>, color: Color) -> Result<Self> {
        let session = look.side(color);
        // 14 does not tell it of a database; it is the same for all locales of the C library but C and its kin.
        let version = if catalog::version(session).await? >= 150_000 {
            "pg_database_collation_actual_version(d.oid)"
        } else {
            "CASE WHEN datcollate !~* '^(C|POSIX)$|^C\\.' THEN coalesce((SELECT max(pg_collation_actual_version(oid)) \
             FROM pg_collation WHERE collprovider = 'c'), 'unknown') END"
        };
        // Versions keep the locale of another library under different names, and 14 knows no other library.
        let sql = format!(
            "SELECT pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text, \
             coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'), \
             coalesce(to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale'), to_jsonb(d) ->> 'daticurules', \
             {version}::text FROM pg_database d WHERE datname = current_database()"
        );
        let [encoding, collate, ctype, provider, locale, rules, version] =
            texts::<7>(session, &sql).await?.into_iter().next().unwrap_or_default();
        Ok(Self {
            encoding,
            collate,
            ctype,
            provider,
            locale,
            rules,
            version,
        })
    }

    /// By what it sorts, for people.
    pub(super) fn sorting(&self) -> String {
        match self.provider.as_str() {
            "i" if self.rules.is_empty() => format!("ICU's {}", self.locale),
            "i" => format!("ICU's {} with rules of its own", self.locale),
            "b" => format!("the server's own {}", self.locale),
            _ => format!("{} ({})", self.collate, self.ctype),
        }
    }

    /// Whether both sort by the same rules, however their locale is spelled.
    pub(super) fn sorts_like(&self, other: &Self) -> bool {
        let rules = |of: &Self| match of.provider.as_str() {
            "i" | "b" => [of.provider.clone(), of.locale.clone(), of.rules.clone()],
            _ => [String::new(), spelled(&of.collate), spelled(&of.ctype)],
        };
        rules(self) == rules(other)
    }

    /// The options of a `CREATE DATABASE` that makes another like it, at a server of that version.
    fn options(&self, version: u32) -> String {
        let provider = match self.provider.as_str() {
            "i" => {
                let rules = match self.rules.as_str() {
                    "" => String::new(),
                    rules => format!(" ICU_RULES {}", literal(rules)),
                };
                format!(" LOCALE_PROVIDER icu ICU_LOCALE {}{rules}", literal(&self.locale))
            }
            "b" => format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", literal(&self.locale)),
            // A template's own may be another.
            _ if version >= 150_000 => " LOCALE_PROVIDER libc".to_owned(),
            _ => String::new(),
        };
        format!(
            "TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}{provider}",
            literal(&self.encoding),
            literal(&self.collate),
            literal(&self.ctype)
        )
    }
}

/// How green's database is made anew, like blue's. It says where: both sides' databases usually have one name.
pub(super) async fn anew(look: &Look<'_>, blue: &Database) -> Result<String> {
    if look.ours {
        return Ok(
            "nothing, while green holds this migration's copy; to change it, abort the migration first".to_owned(),
        );
    }
    let dbname = look.dbname(Color::Green);
    let owner = ident(look.context.settings.green.conninfo().user());
    let options = blue.options(catalog::version(look.green).await?);
    Ok(format!(
        "if nobody needs what is there, in another database of green's server: DROP DATABASE {dbname}; \
         CREATE DATABASE {dbname} OWNER {owner} {options};"
    ))
}

/// One spelling of a locale of the C library, which reads `utf8` as `UTF-8`, in any case.
pub(super) fn spelled(locale: &str) -> String {
    if locale == "POSIX" {
        return "C".to_owned();
    }
    let Some((place, rest)) = locale.split_once('.') else {
        return locale.to_owned();
    };
    let (codeset, modifier) = rest.split_at(rest.find('@').unwrap_or(rest.len()));
    let codeset: String = codeset.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{place}.{}{modifier}", codeset.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_has_many_spellings() {
        for (one, other) in [
            ("C.UTF-8", "C.utf8"),
            ("en_US.utf8", "en_US.UTF-8"),
            ("de_DE.ISO-8859-15@euro", "de_DE.iso885915@euro"),
            ("POSIX", "C"),
        ] {
            assert_eq!(spelled(one), spelled(other));
        }
        for (one, other) in [
            ("C", "C.UTF-8"),
            ("en_US.UTF-8", "en_GB.UTF-8"),
            ("de_DE", "de_DE@euro"),
            ("de_DE.UTF-8", "de_DE.UTF-8@euro"),
        ] {
            assert_ne!(spelled(one), spelled(other));
        }
    }

    #[test]
    fn who_sorts_is_named_and_made_again() {
        let of = |provider: &str, locale: &str, rules: &str| Database {
            encoding: "UTF8".into(),
            collate: "C.utf8".into(),
            ctype: "C.utf8".into(),
            provider: provider.into(),
            locale: locale.into(),
            rules: rules.into(),
            version: String::new(),
        };
        let (libc, icu, builtin) = (of("c", "", ""), of("i", "de", ""), of("b", "C.UTF-8", ""));
        assert!(!libc.sorts_like(&icu) && !libc.sorts_like(&builtin) && !icu.sorts_like(&of("i", "de", "&a < b")));
        assert!(libc.sorts_like(&Database {
            collate: "C.UTF-8".into(),
            ..libc.clone()
        }));
        let made = "TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.utf8' LC_CTYPE 'C.utf8'";
        assert_eq!(libc.options(140_000), made);
        assert_eq!(libc.options(150_000), format!("{made} LOCALE_PROVIDER libc"));
        assert_eq!(
            icu.options(150_000),
            format!("{made} LOCALE_PROVIDER icu ICU_LOCALE 'de'")
        );
        let builtin = builtin.options(170_000);
        assert_eq!(
            builtin,
            format!("{made} LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'")
        );
    }
}
