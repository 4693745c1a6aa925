//! Synchronous standbys: a mirror's walsender can be one by its name, and then the writer's commits wait for the follower. No name
//! keeps it from being one where every standby may be (`*`); elsewhere its own name does.

use super::{Look, names, texts};
use crate::ident::{ident, literal, mirror_name};
use bluegreen_core::{Color, Direction, Result};

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    for color in [Color::Blue, Color::Green] {
        side(look, color).await?;
    }
    Ok(())
}

/// Servers that stream the whole of this one's log, and that could be waited for.
const STANDBYS: &str = "SELECT DISTINCT application_name FROM pg_stat_replication WHERE state IN ('catchup', 'streaming') \
     AND pid NOT IN (SELECT active_pid FROM pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL) \
     AND application_name NOT IN ('pg_basebackup', 'pg_receivewal') ORDER BY 1";

async fn side(look: &mut Look<'_>, color: Color) -> Result<()> {
    let setting = names(
        look.side(color),
        "SELECT current_setting('synchronous_standby_names')",
        &[],
    )
    .await?;
    let setting = setting.into_iter().next().unwrap_or_default();
    let Some(waits) = Waits::read(&setting) else {
        return Ok(());
    };
    let ours = mirror_name(&look.context.settings.name, Direction::to(color.other()));
    if waits.takes(&ours) {
        let standbys = names(look.side(color), STANDBYS, &[]).await?;
        let named = waits.without(&ours, &standbys);
        let first = if named.names.is_empty() {
            "connect the standby that is meant and look again; or, where none is, "
        } else {
            ""
        };
        look.blocks(
            "synchronous-mirror",
            format!("synchronous_standby_names of {color} is {setting:?}: the mirror's walsender, {ours}, is such a standby"),
            match color {
                Color::Blue => {
                    "blue's commits would wait for green, or count a mirror as the standby that keeps them when blue is lost"
                }
                Color::Green => {
                    "green's commits would wait for blue, in the pause and for as long as the way back is held, or count it as the \
                     standby that keeps them"
                }
            },
            format!(
                "{first}at {color}: ALTER SYSTEM SET synchronous_standby_names = {}; SELECT pg_reload_conf();",
                literal(&named.to_string())
            ),
        );
        return Ok(());
    }
    // Who may not see it is told so by another finding.
    let there = "SELECT count(*) FILTER (WHERE sync_state IS NULL OR sync_state IN ('sync', 'quorum'))::text FROM pg_stat_replication";
    let there = texts::<1>(look.side(color), there).await?;
    let there: usize = there.first().and_then(|[count]| count.parse().ok()).unwrap_or(0);
    if there < waits.count {
        look.blocks(
            "synchronous-standby-missing",
            format!(
                "synchronous_standby_names of {color} is {setting:?}: {} must confirm a commit, and {there} can",
                waits.count
            ),
            "every commit waits for them, so do the copy's and the cut-over's, without an end",
            format!(
                "connect them, or where they are meant no more, at {color}: ALTER SYSTEM SET synchronous_standby_names = ''; \
                 SELECT pg_reload_conf();"
            ),
        );
    }
    Ok(())
}

/// What `synchronous_standby_names` says.
#[derive(Debug, PartialEq, Eq)]
struct Waits {
    any: bool,
    count: usize,
    names: Vec<String>,
}

impl Waits {
    /// None where nobody is waited for.
    fn read(setting: &str) -> Option<Self> {
        let words = words(setting);
        let is = |nth: usize, what: &str| {
            words
                .get(nth)
                .is_some_and(|(word, quoted)| !quoted && word.eq_ignore_ascii_case(what))
        };
        let open = (0..words.len()).find(|nth| is(*nth, "("));
        let count = open.and_then(|open| words[..open].last()?.0.parse().ok()).unwrap_or(1);
        let from = open.map_or(0, |open| open + 1);
        let names: Vec<String> = (from..words.len())
            .filter(|nth| !is(*nth, ",") && !is(*nth, ")"))
            .map(|nth| words[nth].0.clone())
            .collect();
        (!names.is_empty()).then(|| Self {
            any: open.is_some() && is(0, "any"),
            count,
            names,
        })
    }

    /// Whether a walsender of that name is one of them. As the server compares, which knows `"*"` in quotes too.
    fn takes(&self, name: &str) -> bool {
        self.names
            .iter()
            .any(|one| one == "*" || one.eq_ignore_ascii_case(name))
    }

    /// The same without that name, and with those who are there where it was everybody.
    fn without(&self, ours: &str, there: &[String]) -> Self {
        let mut names: Vec<String> = Vec::new();
        for one in &self.names {
            let meant = if one == "*" { there } else { std::slice::from_ref(one) };
            for name in meant {
                if !name.eq_ignore_ascii_case(ours) && !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                    names.push(name.clone());
                }
            }
        }
        Self {
            any: self.any,
            count: self.count.min(names.len()),
            names,
        }
    }
}

/// As the setting has it.
impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.names.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = self.names.iter().map(|name| ident(name)).collect();
        let method = if self.any { "ANY" } else { "FIRST" };
        write!(f, "{method} {} ({})", self.count, names.join(", "))
    }
}

/// Words, names (and whether they stood in quotes), and marks.
fn words(setting: &str) -> Vec<(String, bool)> {
    let mut words: Vec<(String, bool)> = Vec::new();
    let mut chars = setting.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '"' => {
                let mut name = String::new();
                while let Some(c) = chars.next() {
                    if c == '"' && chars.next_if_eq(&'"').is_none() {
                        break;
                    }
                    name.push(c);
                }
                words.push((name, true));
            }
            '(' | ')' | ',' => words.push((c.into(), false)),
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !"(),\"".contains(*c)) {
                    word.push(c);
                }
                words.push((word, false));
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn waits(setting: &str) -> Waits {
        Waits::read(setting).unwrap()
    }

    #[test]
    fn every_form_of_the_setting_is_read() {
        assert_eq!(Waits::read("  "), None);
        for (setting, any, count, names) in [
            ("*", false, 1, vec!["*"]),
            ("\"*\"", false, 1, vec!["*"]),
            ("s1, \"S \"\"2\"\"\"", false, 1, vec!["s1", "S \"2\""]),
            ("2 (s1,s2 , s3)", false, 2, vec!["s1", "s2", "s3"]),
            ("first 3(a, b, c)", false, 3, vec!["a", "b", "c"]),
            ("ANY 1 (any, \"(\")", true, 1, vec!["any", "("]),
            ("any", false, 1, vec!["any"]),
        ] {
            let names = names.into_iter().map(str::to_owned).collect();
            assert_eq!(waits(setting), Waits { any, count, names }, "{setting}");
        }
    }

    #[test]
    fn everybody_is_ours_too_and_names_are_of_any_case() {
        assert!(waits("FIRST 1 (s1, *)").takes("bluegreen_shop_to_green"));
        assert!(waits("BlueGreen_Shop_To_Green").takes("bluegreen_shop_to_green"));
        assert!(!waits("s1, bluegreen_shop_to_blue").takes("bluegreen_shop_to_green"));
    }

    #[test]
    fn what_is_left_are_the_standbys_that_are_meant() {
        let left = |setting: &str, there: &[&str]| {
            let there: Vec<String> = there.iter().map(ToString::to_string).collect();
            waits(setting).without("ours", &there).to_string()
        };
        assert_eq!(left("*", &["a", "Ours", "b\"c"]), "FIRST 1 (\"a\", \"b\"\"c\")");
        assert_eq!(left("ANY 2 (s1, ours)", &[]), "ANY 1 (\"s1\")");
        assert_eq!(left("2 (s1, *)", &["S1", "s2"]), "FIRST 2 (\"s1\", \"s2\")");
        assert_eq!(left("*", &[]), "");
    }
}
