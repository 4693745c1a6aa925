//! Settings of the database and of roles: `ALTER DATABASE .. SET` and `ALTER ROLE .. SET`. No dump of a database carries them.

use super::{Look, commands, listed, texts};
use crate::ident::{ident, literal};
use bluegreen_core::{Color, Result};
use std::collections::BTreeSet;

/// Settings that the server keeps as a list of quoted names.
const LISTS: [&str; 4] = [
    "search_path",
    "session_preload_libraries",
    "local_preload_libraries",
    "temp_tablespaces",
];

/// Those that blue has and green lacks, of the database, of everybody, and of these roles.
pub(super) async fn check(look: &mut Look<'_>, roles: &BTreeSet<&str>) -> Result<()> {
    // Whether it binds a role is `fence.rs`'s to say: a writer's own would be no help to green.
    let sql = "SELECT coalesce(r.rolname, '')::text, (s.setdatabase <> 0)::text, split_part(c.setting, '=', 1), \
         substr(c.setting, strpos(c.setting, '=') + 1) \
         FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting) LEFT JOIN pg_roles r ON r.oid = s.setrole \
         WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) \
         AND c.setting NOT LIKE 'default_transaction_read_only=%' ORDER BY 1, 2, 3";
    let read = |all: Vec<[String; 4]>| all.into_iter().map(Setting::of);
    let green: BTreeSet<Setting> = read(texts::<4>(look.green, sql).await?).collect();
    let lacking: Vec<Setting> = read(texts::<4>(look.blue, sql).await?)
        .filter(|set| !green.contains(set) && (set.role.is_empty() || roles.contains(set.role.as_str())))
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let dbname = look.dbname(Color::Green);
    let seen: Vec<String> = lacking.iter().map(|set| set.seen(&dbname)).collect();
    look.warns(
        "database-settings",
        format!("set on blue and not, or not so, on green: {}", listed("setting", &seen)),
        "they are the database's or a role's own and no dump of a schema has them: a search_path or a time zone that is missing \
         changes what the application's statements mean",
        format!("at green: {}", commands(lacking.iter().map(|set| set.mend(&dbname)))),
    );
    Ok(())
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Setting {
    /// Empty for everybody.
    role: String,
    of_database: bool,
    name: String,
    /// As the catalogue has it.
    value: String,
}

impl Setting {
    fn of([role, of_database, name, value]: [String; 4]) -> Self {
        Self {
            of_database: of_database == "true",
            role,
            name,
            value,
        }
    }

    fn seen(&self, dbname: &str) -> String {
        let whose = match (self.role.as_str(), self.of_database) {
            ("", true) => format!("database {dbname}"),
            ("", false) => "all roles".to_owned(),
            (role, true) => format!("role {} in database {dbname}", ident(role)),
            (role, false) => format!("role {}", ident(role)),
        };
        let value = if self.is_list() {
            self.value.clone()
        } else {
            literal(&self.value).trim_start().to_owned()
        };
        format!("{} = {value} ({whose})", self.name)
    }

    fn mend(&self, dbname: &str) -> String {
        let whose = match (self.role.as_str(), self.of_database) {
            ("", true) => format!("DATABASE {dbname}"),
            ("", false) => "ROLE ALL".to_owned(),
            (role, true) => format!("ROLE {} IN DATABASE {dbname}", ident(role)),
            (role, false) => format!("ROLE {}", ident(role)),
        };
        format!("ALTER {whose} SET {} = {};", self.name, self.sql_value())
    }

    fn is_list(&self) -> bool {
        LISTS.contains(&self.name.as_str())
    }

    /// As `SET` takes it. In a list each name is a literal of its own, as `pg_dump` has it: an empty one is no identifier.
    fn sql_value(&self) -> String {
        if self.is_list() {
            let literals: Vec<String> = elements(&self.value).iter().map(|name| literal(name)).collect();
            literals.join(", ")
        } else {
            literal(&self.value)
        }
    }
}

/// The names of a list, without their quotes.
fn elements(list: &str) -> Vec<String> {
    let (mut names, mut name, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => name.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(std::mem::take(&mut name)),
            c if !quoted && c.is_whitespace() => {}
            c => name.push(c),
        }
    }
    names.push(name);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_set_name_by_name() {
        for (kept, names) in [
            ("\"\"", vec![""]),
            ("", vec![""]),
            ("public", vec!["public"]),
            (
                "\"$user\", public, \"Odd, \"\"one\"",
                vec!["$user", "public", "Odd, \"one"],
            ),
        ] {
            assert_eq!(elements(kept), names);
        }
        let set = |name: &str, value: &str| Setting::of(["".into(), "false".into(), name.into(), value.into()]);
        assert_eq!(
            set("search_path", "\"\"").mend("d"),
            "ALTER ROLE ALL SET search_path = '';"
        );
        assert_eq!(
            set("DateStyle", "ISO, MDY").mend("d"),
            "ALTER ROLE ALL SET DateStyle = 'ISO, MDY';"
        );
    }
}
