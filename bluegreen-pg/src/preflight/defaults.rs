//! The servers' own defaults: what a statement of the application's means and may last, what is loaded, and how many may come.
//! What belongs to the database or to a role stands elsewhere.

use super::database::spelled;
use super::{Look, commands, listed};
use crate::connect::plain;
use crate::error::Doing;
use crate::ident::{ident, literal};
use bluegreen_core::{Color, Result};
use std::collections::BTreeMap;

/// What changes the meaning of a statement, what is said of its result, or when it is cut off.
const MEANING: [&str; 25] = [
    "array_nulls",
    "backslash_quote",
    "bytea_output",
    "DateStyle",
    "default_text_search_config",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "IntervalStyle",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "row_security",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "synchronous_commit",
    "TimeZone",
    "timezone_abbreviations",
    "transaction_timeout",
    "transform_null_equals",
    "xmloption",
];

/// How many may come: less of it at green is too little.
const ROOM: [&str; 2] = ["max_connections", "max_prepared_transactions"];

/// What is loaded into every session: more of it at green does no harm.
const LOADED: [&str; 3] = [
    "local_preload_libraries",
    "session_preload_libraries",
    "shared_preload_libraries",
];

/// A setting as a new session without any wishes has it.
#[derive(Debug, Clone, Default)]
struct Setting {
    value: String,
    /// With its unit.
    shown: String,
    source: String,
    boot: String,
}

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    let (blue, green) = (read(look, Color::Blue).await?, read(look, Color::Green).await?);
    meaning(look, &blue, &green);
    room(look, &blue, &green);
    loaded(look, &blue, &green);
    Ok(())
}

/// In a session of its own: ours all override some of them.
async fn read(look: &Look<'_>, color: Color) -> Result<BTreeMap<String, Setting>> {
    let session = plain(&look.context.settings, color).await?;
    let asked: Vec<&str> = MEANING.iter().chain(&ROOM).chain(&LOADED).copied().collect();
    let sql = "SELECT name, setting, current_setting(name), source, coalesce(boot_val, '') FROM pg_settings WHERE name = ANY ($1)";
    let rows = session
        .query(sql, &[&asked])
        .await
        .doing(format!("read the settings of {color}"))?;
    Ok(rows
        .iter()
        .map(|row| {
            let setting = Setting {
                value: row.get(1),
                shown: row.get(2),
                source: row.get(3),
                boot: row.get(4),
            };
            (row.get(0), setting)
        })
        .collect())
}

fn meaning(look: &mut Look<'_>, blue: &BTreeMap<String, Setting>, green: &BTreeMap<String, Setting>) {
    let mut seen = Vec::new();
    let mut mend = Vec::new();
    let dbname = look.dbname(Color::Green);
    for name in MEANING {
        // A version that does not have one does as the default says.
        let (Some(at_green), at_blue) = (green.get(name), blue.get(name)) else {
            continue;
        };
        let at_blue = at_blue.cloned().unwrap_or_else(|| Setting {
            value: at_green.boot.clone(),
            shown: at_green.boot.clone(),
            ..Setting::default()
        });
        // Our role's own, or everybody's, hides what others have; the database's is looked at with the database.
        let hidden = |of: &Setting| matches!(of.source.as_str(), "user" | "database user" | "global");
        // A mirror's database is closed, and opened when it is to write.
        let closed = name == "default_transaction_read_only" && at_green.source == "database";
        if hidden(&at_blue) || hidden(at_green) || at_blue.source == "database" || closed {
            continue;
        }
        let same = match name {
            "lc_numeric" | "lc_time" => spelled(&at_blue.value) == spelled(&at_green.value),
            _ => at_blue.value == at_green.value,
        };
        if !same {
            seen.push(format!(
                "{name} ({} on blue, {} on green)",
                quoted(&at_blue.shown),
                quoted(&at_green.shown)
            ));
            mend.push(format!(
                "ALTER DATABASE {dbname} SET {name} = {};",
                assigned(name, &at_blue.shown)
            ));
        }
    }
    if !seen.is_empty() {
        look.warns(
            "server-defaults",
            format!("the servers differ in {}", listed("default", &seen)),
            "a statement means something else after the cut-over, or is cut off: another time zone is another hour, another search \
             path another table",
            format!("unless they are meant to, at green: {}", commands(mend)),
        );
    }
}

fn quoted(value: &str) -> String {
    literal(value).trim_start().to_owned()
}

/// A value as SET takes it: one whose words are quoted one by one is written as it is shown.
fn assigned(name: &str, shown: &str) -> String {
    match (name, shown) {
        ("search_path", "" | "\"\"") => "''".to_owned(),
        ("search_path", path) => path.to_owned(),
        (_, value) => quoted(value),
    }
}

fn room(look: &mut Look<'_>, blue: &BTreeMap<String, Setting>, green: &BTreeMap<String, Setting>) {
    let number = |of: &BTreeMap<String, Setting>, name: &str| of.get(name)?.value.parse::<i64>().ok();
    let less: Vec<(&str, i64, i64)> = ROOM
        .into_iter()
        .filter_map(|name| Some((name, number(blue, name)?, number(green, name)?)))
        .filter(|(_, blue, green)| green < blue)
        .collect();
    if !less.is_empty() {
        let seen: Vec<String> = less
            .iter()
            .map(|(name, b, g)| format!("{name} ({b} on blue, {g} on green)"))
            .collect();
        let mend = less
            .iter()
            .map(|(name, blue, _)| format!("ALTER SYSTEM SET {name} = {blue};"));
        look.warns(
            "less-room",
            format!("green has less room: {}", seen.join(", ")),
            "who fits into blue could be turned away by green after the cut-over",
            format!("unless so few come, at green: {} -- and restart it", commands(mend)),
        );
    }
}

fn loaded(look: &mut Look<'_>, blue: &BTreeMap<String, Setting>, green: &BTreeMap<String, Setting>) {
    let mut lacking = Vec::new();
    let mut mend = Vec::new();
    for name in LOADED {
        let (Some(at_blue), Some(at_green)) = (blue.get(name), green.get(name)) else {
            continue;
        };
        let (at_blue, mut all) = (libraries(&at_blue.value), libraries(&at_green.value));
        let missing: Vec<String> = at_blue.into_iter().filter(|one| !all.contains(one)).collect();
        if missing.is_empty() {
            continue;
        }
        all.extend(missing.iter().cloned());
        let all: Vec<String> = all.iter().map(|one| ident(one)).collect();
        lacking.extend(missing.iter().map(|one| format!("{one} ({name})")));
        mend.push(format!("ALTER SYSTEM SET {name} = {};", all.join(", ")));
    }
    if !lacking.is_empty() {
        let plural = if lacking.len() == 1 { "library" } else { "libraries" };
        look.warns(
            "preload-libraries",
            format!("green does not load the {plural} {}", lacking.join(", ")),
            "what they do at blue (watching statements, jobs, checks of passwords) is not done at green",
            format!(
                "install their packages on green's machine and, where they are meant, at green: {} -- and restart it",
                commands(mend)
            ),
        );
    }
    // Shown to who may read all settings.
    let unseen: Vec<String> = [(Color::Blue, blue), (Color::Green, green)]
        .into_iter()
        .filter(|(_, settings)| !settings.contains_key("shared_preload_libraries"))
        .map(|(color, _)| color.to_string())
        .collect();
    if !unseen.is_empty() {
        let user = |color: Color| ident(look.context.settings.server(color).conninfo().user());
        let grants: Vec<String> = [Color::Blue, Color::Green]
            .into_iter()
            .filter(|color| unseen.contains(&color.to_string()))
            .map(|color| format!("at {color}: GRANT pg_read_all_settings TO {};", user(color)))
            .collect();
        look.notes(
            "preload-libraries",
            format!(
                "what libraries are loaded into every session is not shown to us at {}",
                unseen.join(" and ")
            ),
            "what a library does at blue could be missing at green, and it is not known",
            grants.join(" "),
        );
    }
}

/// The names in a list, in which each may be quoted.
fn libraries(list: &str) -> Vec<String> {
    list.split(',')
        .map(|one| one.trim().trim_matches('"').to_owned())
        .filter(|one| !one.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_path_is_a_list_of_names_and_the_rest_is_text() {
        assert_eq!(assigned("search_path", "\"\""), "''");
        assert_eq!(assigned("search_path", "\"$user\", public"), "\"$user\", public");
        assert_eq!(assigned("TimeZone", "Europe/Berlin"), "'Europe/Berlin'");
        assert_eq!(assigned("DateStyle", "ISO, MDY"), "'ISO, MDY'");
        assert_eq!(libraries("\"a b\", auto_explain,"), ["a b", "auto_explain"]);
    }
}
